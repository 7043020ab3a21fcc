"""Where output files lie: in a directory, or in a folder of an object store, through fsspec."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from mult_hf.data.files import whole_file
from mult_hf.data.schema import is_url


def location(folder: str | Path, *parts: str) -> Path:
    """A path below a folder.

    It is made from the URL at each use, because connections of a store cannot be used by a forked process.

    Args:
        folder: path or URL of the folder.
        parts: names below it, with `/` between folders.

    Returns:
        `Path`: for a URL, a `upath.UPath`, which has the methods of a path.

    Raises:
        ImportError: if `folder` is a URL and universal_pathlib, or the package of the store, is not installed.
    """
    if not is_url(folder):
        return Path(folder, *parts)
    try:
        from upath import UPath
    except ImportError as error:
        message = f'writing to {folder} needs a further package ({error}); install it with: pip install "mult-hf[store]"'
        raise ImportError(message) from error
    return cast(Path, UPath(str(folder)).joinpath(*parts))


@contextmanager
def whole_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; the file replaces `path` once it is complete, and on disk or in its object store.

    Args:
        path: as from [`location`]; its folder is made if it does not exist.

    Raises:
        IsADirectoryError: if `path` is a folder.
    """
    if not is_url(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with (_uploaded if is_url(path) else whole_file)(path) as unfinished:
        yield unfinished


@contextmanager
def _uploaded(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and then store the file as one object, which is complete or absent."""
    with tempfile.TemporaryDirectory() as folder:
        unfinished = Path(folder, path.name)
        yield unfinished
        place = cast(Any, path)
        place.fs.put_file(str(unfinished), place.path)


def remove_folder(folder: Path) -> None:
    """Remove a folder with its files, if it exists.

    Args:
        folder: as from [`location`].
    """
    if is_url(folder):
        place = cast(Any, folder)
        if place.exists():
            place.fs.rm(place.path, recursive=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


__all__ = ["location", "remove_folder", "whole_output"]
