"""Where output files lie: in a directory, or in a folder of an object store, through fsspec."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

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
def uploaded(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and then store the file as one object, which is complete or absent.

    Args:
        path: as from [`location`] of a URL.
    """
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


__all__ = ["location", "remove_folder", "uploaded"]
