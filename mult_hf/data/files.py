"""Files that are either complete or absent."""

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished"
"""Suffix of a file that is still being written."""

FULL_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))
"""Numbers of write errors that affect all following files, too."""

_OF_WRITING = FULL_DISK | {errno.EFBIG, errno.EIO}

_DAY = 24 * 60 * 60


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk; otherwise a power failure could leave an empty file under its name.

    Only POSIX systems can open directories; elsewhere they are skipped.

    Raises:
        OSError: if the path does not exist, or the disk cannot be written to.
    """
    is_posix = os.name == "posix"
    if path.is_dir() and not is_posix:
        return
    descriptor = os.open(path, os.O_RDONLY if is_posix else os.O_RDWR)  # Windows syncs only files that are open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def did_you_mean(name: str | Path) -> str:
    """A question about the directory beside one that does not exist whose name is similar; empty if there is none."""
    path = Path(name)
    parent = path.parent if path.parent.is_dir() else Path()
    try:
        similar = get_close_matches(path.name, [each.name for each in parent.iterdir() if each.is_dir()], 1)
    except OSError:  # the directory cannot be searched
        return ""
    return f" (did you mean {parent / similar[0]}?)" if similar else ""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name and rename it once it is complete and on disk.

    Args:
        path: final name; an existing file of that name is replaced.

    Yields:
        `Path`: hidden file to write to, in the same directory. It is removed if the block raises.

    Raises:
        IsADirectoryError: if `path` is a directory.
        OSError: if it cannot be written; names the file.

    Examples:
        >>> with whole_file("README.md") as unfinished:  # doctest: +SKIP
        ...     unfinished.write_text("# Rooms")
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but a file must be written there; move the folder away")
    unfinished = unfinished_path(path)
    try:
        yield unfinished
        sync_to_disk(unfinished)
        os.replace(unfinished, path)
    except BaseException as error:  # not after success: another process may already write the same file again
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _OF_WRITING and error.filename is None:  # a write names no file
            error.filename = str(path)
        raise
    sync_to_disk(path.parent)


def unfinished_path(path: Path) -> Path:
    """The hidden file that [`whole_file`] writes to. It remains if the process is killed, and the next one replaces it."""
    # A digest, because the longest allowed name leaves no room for a suffix.
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{name}{UNFINISHED}")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 as [`whole_file`] does: after an interruption or on a full disk, the file of before is there."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def make_folder(directory: Path) -> None:
    """Create a folder for results, and those above it, unless it exists.

    Raises:
        ValueError: if it is a file.
        OSError: if it cannot be created, because one above it is a file, its name is too long, or the file system or its rights refuse it;
            names the folder.
    """
    try:
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"{directory} is a file; give a folder")
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        links = [path for path in (directory, *directory.parents) if os.path.islink(path) and not os.path.exists(path)]
        reason: Any = error.strerror or error
        if directory in links:
            reason = "a link to nothing is there"
        elif links:
            reason = f"{links[0]} is a link to nothing"
        raise type(error)(f"the folder {directory} cannot be created: {reason}; give another") from error


@contextmanager
def temporary_folder(directory: Path) -> Iterator[Path]:
    """A hidden folder in a directory that is removed at the end; those of killed processes are removed once they are a day old.

    Args:
        directory: where the folder's files will be moved, which is only a rename on one disk.

    Yields:
        `Path`: the empty folder.
    """
    for left in directory.glob(f"{UNFINISHED}-*"):
        with suppress(FileNotFoundError):  # another process removes it, too
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=f"{UNFINISHED}-") as folder:
        yield Path(folder)


def remove_unfinished(directory: Path) -> None:
    """Remove partial files that a killed run left in a directory."""
    for leftover in directory.glob(f".*{UNFINISHED}"):
        leftover.unlink()
