"""Proves that a command that is told to stop removes its temporary files."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mult_hf.cli.signals import exiting_on_sigterm

ROOT = Path(__file__).resolve().parents[2]

SERVING = """
import tempfile, time
from mult_hf.cli.signals import exiting_on_sigterm

with exiting_on_sigterm(), tempfile.TemporaryDirectory() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_command_may_run_in_another_thread():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(enter_and_leave).result()


def enter_and_leave():
    with exiting_on_sigterm():
        pass


def test_sigterm_removes_temporary_folders():
    with subprocess.Popen([sys.executable, "-c", SERVING], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir(), "premise"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    assert not folder.exists()
