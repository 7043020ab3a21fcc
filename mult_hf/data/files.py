"""Files that are either complete or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished"
"""Suffix of a file that is still being written."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name and rename it once it is complete and on disk.

    Args:
        path: final name; an existing file of that name is replaced.

    Yields:
        `Path`: hidden file to write to, in the same directory. It is removed if the block raises.

    Examples:
        >>> with whole_file("README.md") as unfinished:  # doctest: +SKIP
        ...     unfinished.write_text("# Rooms")
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:  # otherwise a power failure can leave an empty file under the final name
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(directory: Path) -> None:
    """Remove partial files that a killed run left in a directory."""
    for leftover in directory.glob(f".*{UNFINISHED}"):
        leftover.unlink()
