"""Error message for a killed data worker."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

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


__all__ = ["naming_killed_workers"]
