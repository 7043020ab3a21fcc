"""Worker processes that are killed, or whose parent is."""

import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, cast

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


@contextmanager
def worker_pool(num_proc: int, initialize: Callable[..., Any] | None = None, *args: Any) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that end when the block ends. If an error leaves the block, they stop in the middle of their work; if this
    process is killed, they stop, too.

    A pool of the standard library would first finish what its workers have begun, which may take minutes, and keep writing meanwhile. The
    workers of a killed process would wait for work for ever.

    Args:
        num_proc: number of processes. They are not forked: a fork copies the locks of threads, which many libraries start.
        initialize: called with `args` in each process before its first task.
        args: of `initialize`.

    Raises:
        ChildProcessError: an `OSError`, if a worker ended early.
    """
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    try:
        with ProcessPoolExecutor(num_proc, context, _start_worker, (watched, initialize, *args)) as pool:
            try:
                yield pool
            except BaseException:
                held.close()  # which ends the workers, so that the pool has nothing to wait for
                # But for the rest of a result that a worker was sending, as long as this process could write it, too.
                cast(Any, pool)._result_queue._writer.close()
                raise
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process was killed, as the system does where memory runs out, or could not start, as the lines above would say; "
            f"lower --num_proc, and run the command again ({error})"
        ) from error
    finally:
        held.close()
        watched.close()


def _start_worker(watched: Connection, initialize: Callable[..., Any] | None, *args: Any) -> None:
    parent = multiprocessing.parent_process()
    sentinels = [watched] if parent is None else [watched, parent.sentinel]
    threading.Thread(target=_end_with, args=(sentinels,), daemon=True).start()
    if initialize is not None:
        initialize(*args)


def _end_with(sentinels: list[Any]) -> None:
    connection.wait(sentinels)
    os._exit(1)


__all__ = ["naming_killed_workers", "worker_pool"]
