"""Proves that messages of libraries through the logger of all programs neither show nor double those of others."""

import subprocess
import sys

SCRIPT = """
import logging
from mult_hf.inference.errors import quiet_root_logger

own = logging.getLogger("own")
own.addHandler(logging.StreamHandler())
with quiet_root_logger():
    logging.warning("advice")
own.warning("once")
"""


def test_what_a_library_logs_for_all_programs_is_dropped_and_sets_nothing_up():
    """In a process of its own, because pytest sets the logger of all programs up."""
    printed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stderr
    assert printed.splitlines()[-1] == "once"
    assert printed.count("once") == 1
    assert "advice" not in printed
