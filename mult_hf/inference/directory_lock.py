"""Lock an output directory for one run; a second run is rejected until the first has ended."""

import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mult_hf.data.files import make_folder, whole_file
from mult_hf.data.schema import is_url

LOCK_FILE = ".run.lock"
"""The file that the operating system locks. It remains after a run, but its existence alone locks nothing."""

HOLDER_FILE = ".run.json"
"""Describes the run that holds the lock. This is a separate file, because opening a lock file may empty it."""


@contextmanager
def exclusive_run(directory: str | Path, *, main_process: bool = True) -> Iterator[None]:
    """Lock an output directory for the duration of a `with` block.

    The operating system releases the lock however the process ends, so no lock remains after `kill -9` or a reboot.

    Args:
        directory: created if it does not exist. A URL is not locked: object stores have no locks, and their files are complete in any case.
        main_process: whether this process takes the lock for its run; in the run's other processes this has no effect.

    Raises:
        ValueError: if another run holds the lock; the directory is left unchanged. Also if it is a file.
        OSError: if it cannot be created.
    """
    if not main_process or is_url(directory):
        yield
        return
    directory = Path(directory)
    make_folder(directory)
    lock = FileLock(directory / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another run is writing to {directory}: {_holder(directory)}; wait until it ends, stop it, or give another --output_dir"
        ) from None
    try:
        _write_holder(directory)
        yield
    finally:
        (directory / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _write_holder(directory: Path) -> None:
    """Record which run holds the lock. This is only used in messages, so a full disk must not stop the run here."""
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {"process": os.getpid(), "host": platform.node(), "started": started, "command": shlex.join(sys.argv)}
    with contextlib.suppress(OSError), whole_file(directory / HOLDER_FILE) as unfinished:
        unfinished.write_text(json.dumps(holder), encoding="utf-8")


def _holder(directory: Path) -> str:
    try:
        holder = json.loads((directory / HOLDER_FILE).read_text(encoding="utf-8"))
        return f"process {holder['process']} on {holder['host']}, started {holder['started']} ({str(holder['command'])[:100]})"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not written its id yet"


__all__ = ["HOLDER_FILE", "LOCK_FILE", "exclusive_run"]
