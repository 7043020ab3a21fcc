"""Proves that a pool's workers end with the block that started them, and with its process, however these end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mult_hf.data.workers import worker_pool

ROOT = Path(__file__).resolve().parents[2]

POOL = """
import os, time

from mult_hf.data.workers import worker_pool

if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_workers_are_initialised_and_work_until_the_end_of_the_block():
    with worker_pool(2, os.putenv, "SAID", "yes") as pool:
        worker = pool.submit(os.getpid).result()
        assert list(pool.map(len, ["a", "bc"])) == [1, 2]
    assert not is_running(worker)


def test_a_worker_ends_with_the_error_that_leaves_the_block_and_not_with_its_task():
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:  # noqa: PT012 # an interruption comes anywhere in the block
        worker = pool.submit(os.getpid).result()
        pool.submit(time.sleep, 3600)
        waiting = pool.submit(time.sleep, 3600)
        raise KeyboardInterrupt
    assert not is_running(worker)
    assert waiting.done()
    assert time.monotonic() - started < 1800, "it did not wait for a task"


def large_result():
    return bytes(200_000_000)


@pytest.mark.slow
def test_an_error_while_a_worker_sends_a_result_ends_the_block():
    """The pool would wait for the rest of the result, which no process sends."""
    script = "import sys, time; sys.path.insert(0, 'tests/data'); import test_workers; test_workers.leave_while_sending()"
    subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=600, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    )


def leave_while_sending():
    for wait in (0.0, 0.1, 0.2, 0.4):
        try:
            with worker_pool(1) as pool:
                pool.submit(len, "").result()
                pool.submit(large_result)
                time.sleep(wait)
                raise KeyError
        except KeyError:
            pass


def test_a_killed_worker_is_an_error_with_advice():
    message = r"a worker process was killed, .*, or could not start, .*; lower --num_proc, and run the command again"
    with pytest.raises(ChildProcessError, match=message), worker_pool(1) as pool:
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()


@pytest.mark.slow
def test_a_worker_ends_with_a_killed_parent(tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=settings) as parent:
        worker = int(parent.stdout.readline())
        assert is_running(worker), "premise"
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while is_running(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(worker)
