"""Proves that an output directory is locked while a run is alive, and free after it has ended."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mult_hf.inference.directory_lock import HOLDER_FILE, LOCK_FILE, exclusive_run

ROOT = Path(__file__).resolve().parents[2]
# Runs the module's file, because importing the whole package takes seconds.
HOLD = """
import runpy, sys
from pathlib import Path
exclusive_run = runpy.run_path(sys.argv[2])["exclusive_run"]
with exclusive_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that locks the directory until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path), str(ROOT / "mult_hf/inference/directory_lock.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def refused(directory):
    with pytest.raises(ValueError, match=rf"another run is writing to {re.escape(str(directory))}: ") as error, exclusive_run(directory):
        raise AssertionError("two runs held one directory")
    return str(error.value)


@pytest.mark.slow
def test_a_second_run_is_refused_with_the_process_and_the_start_of_the_first(holder, tmp_path):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    started = json.loads((tmp_path / HOLDER_FILE).read_text())["started"]
    message = refused(tmp_path)
    assert f"process {holder.pid} on " in message
    assert f"started {started}" in message
    assert "wait until it ends, stop it, or give another --output_dir" in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    refused(tmp_path)


@pytest.mark.slow
def test_the_end_of_a_run_releases_its_directory(holder, tmp_path):
    holder.communicate("")
    with exclusive_run(tmp_path):
        assert json.loads((tmp_path / HOLDER_FILE).read_text())["process"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_run_holds_no_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / HOLDER_FILE).exists(), "premise: it could not clean up"
    with exclusive_run(tmp_path):
        assert str(os.getpid()) in refused(tmp_path)


def test_files_of_a_run_before_a_reboot_hold_no_lock(tmp_path):
    """Files alone lock nothing, even if another process now has the same id."""
    (tmp_path / LOCK_FILE).touch()
    (tmp_path / HOLDER_FILE).write_text(json.dumps({"process": os.getpid(), "host": "here", "started": "then", "command": "x"}))
    with exclusive_run(tmp_path):
        pass


def test_a_folder_that_cannot_be_created_is_refused_with_the_reason(tmp_path):
    (tmp_path / "file").touch()
    run = exclusive_run(tmp_path / "file/predictions")
    with pytest.raises(NotADirectoryError, match=r"the folder .*file/predictions cannot be created: Not a directory; give another"), run:
        raise AssertionError("it began")


def test_an_error_releases_the_directory(tmp_path):
    with pytest.raises(KeyboardInterrupt), exclusive_run(tmp_path):
        raise KeyboardInterrupt
    with exclusive_run(tmp_path):
        pass


@pytest.mark.parametrize("contents", ["", "{", "[]", '{"process": 1}'])
def test_a_broken_description_of_the_holder_does_not_hide_the_refusal(tmp_path, contents):
    with exclusive_run(tmp_path):
        (tmp_path / HOLDER_FILE).write_text(contents)
        assert "a process that has not written its id yet" in refused(tmp_path)


def test_only_the_main_process_of_a_run_takes_the_lock(tmp_path):
    with exclusive_run(tmp_path), exclusive_run(tmp_path, main_process=False):
        refused(tmp_path)
    with exclusive_run(tmp_path / "new", main_process=False):
        assert not (tmp_path / "new").exists()
