"""Kill programs as the loss of their machine would."""

import time
from collections.abc import Callable
from contextlib import suppress

import psutil


def sleep_unless(reached: Callable[[], bool], seconds: float) -> None:
    """Sleep for some seconds, but no longer than until `reached()`: a fast machine would end a run before the test kills it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not reached():
        time.sleep(0.01)


def kill_all_of(process):
    """Send SIGKILL to a program and everything that it started, and wait for its end.

    The program's process group is not enough: torchrun starts every worker in a session of its own, and a worker whose launcher is
    killed goes on. Each process is stopped before its children are listed, so that it cannot start further ones.

    Args:
        process: a `subprocess.Popen`.

    Returns:
        The number of processes that were killed.
    """
    found, waiting = [], []
    with suppress(psutil.NoSuchProcess):
        waiting.append(psutil.Process(process.pid))
    while waiting:
        current = waiting.pop()
        with suppress(psutil.NoSuchProcess):
            current.suspend()
            waiting.extend(current.children())
            found.append(current)
    for each in found:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(found, timeout=30)
    return len(found)
