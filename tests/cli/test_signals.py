"""Proves that a command that is told to stop removes its temporary files."""

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SERVING = """
import tempfile, time
from mult_hf.cli.signals import exiting_on_sigterm

with exiting_on_sigterm(), tempfile.TemporaryDirectory() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_sigterm_removes_temporary_folders():
    with subprocess.Popen([sys.executable, "-c", SERVING], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir(), "premise"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    assert not folder.exists()
