"""Worker processes that are killed, or whose parent is."""

import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

_KILLED = re.compile(r"DataLoader worker \(pid")


@contextmanager
def naming_killed_workers(advice: str) -> Iterator[None]:
    """Replace torch's error about a killed worker, which may be raised anywhere in the block, by one that states what to do.

    Can also be used as a decorator.

    Args:
        advice: how to continue.

    Raises:
        ChildProcessError: an `OSError`, if a worker of a `DataLoader` was killed in the block.
    """
    try:
        yield
    except RuntimeError as error:
        if not _KILLED.search(str(error)):
            raise
        first_line = str(error).splitlines()[0]
        raise ChildProcessError(
            f"a process that reads data was killed, as the system does where memory runs out; lower --num_workers or --batch_size, and "
            f"{advice} ({first_line})"
        ) from error


def start_worker(initialize: Callable[..., Any] | None = None, *args: Any) -> None:
    """Initializer of a pool's worker: it ends with the process that started it, even if that one is killed.

    The pool's workers would otherwise wait for work for ever, and keep their memory.

    Args:
        initialize: called with `args`, if the pool needs more.
        args: of `initialize`.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if initialize is not None:
        initialize(*args)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


__all__ = ["naming_killed_workers", "start_worker"]
