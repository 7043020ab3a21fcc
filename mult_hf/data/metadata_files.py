"""What is wrong with the files of a local data set that `datasets` cannot read, or leaves out."""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

FILE_NAME = "metadata.jsonl"

_METADATA = ("metadata.csv", "metadata.parquet", FILE_NAME)
"""Files that list the images of a folder."""

KINDS = {"imagefolder": "the images of a folder", "parquet": "Parquet files", "webdataset": "archives"}
"""By the builder of `datasets`, the files that it reads."""

_MAY_LIE_BESIDE = {("webdataset", "imagefolder")}
"""Kinds of a file and of the data: a folder of images may lie beside the archive that it was taken from."""

_WORDS = "train|training|validation|valid|dev|val|test|testing|eval|evaluation"
_SPLIT = re.compile(rf"(?:^|[-._ 0-9/])(?:{_WORDS})(?=$|[-._ 0-9/])")
"""Paths that `datasets` assigns to a split."""

_START = 1 << 16
"""Bytes of a metadata file in which its keys must occur."""

_UNKNOWN_SPLIT = re.compile(r"""Unknown split ["'](?P<split>[^"']*)["']\. Should be one of \[(?P<splits>.*)\]\.?""")


def metadata_mistake(directory: Path) -> str | None:
    """The first mistake in the metadata files of a local data set, or `None`.

    Args:
        directory: of the data set.

    Returns:
        The file, the line, and what to do: for an empty file, a line that is not a JSON object, or files with values of different keys.
    """
    known: dict[Path, set[str]] = {}
    for path in sorted(directory.glob(f"**/{FILE_NAME}")):
        if any(part.startswith(".") for part in path.relative_to(directory).parts):
            continue
        try:
            lines = [*_objects(path)]
        except (OSError, ValueError) as error:
            return str(error)
        if not lines:
            return f"{path} has no lines; write one per sample, or delete its folder"
        known[path] = {key for line in lines for key, value in line.items() if value is not None}
    everywhere = set().union(*known.values())
    for path, own in known.items():
        if lacking := sorted(everywhere - own):
            other = next(each for each, keys in known.items() if lacking[0] in keys)
            return (
                f"{path} has no value of {', '.join(lacking)}, and {other} has; the files of a folder need the same keys, each with "
                "a value in one line at least: correct them, or store all splits as Parquet (docs/data.md#parquet-files)"
            )
    return None


def ignored_files(directory: Path, reader: str | None) -> str | None:
    """Files of a local data set that `datasets` leaves out without a word, and what to do, or `None`.

    Files that belong to no split, and those below another card, are no part of the data set.

    Args:
        directory: of the data set.
        reader: name of the builder with which `datasets` read it; one reads one kind of file.
    """
    if reader not in KINDS or not directory.is_dir():
        return None
    of_data = {path.relative_to(directory): kind for path in files_of(directory) if (kind := _kind(path))}
    in_splits = [name for name in of_data if _SPLIT.search(name.as_posix())] or [*of_data]
    ignored = next((name for name in in_splits if of_data[name] != reader and (of_data[name], reader) not in _MAY_LIE_BESIDE), None)
    if ignored is None:
        return None
    return (
        f"{directory} has {KINDS[reader]} and {ignored}, and datasets reads one kind of file per directory, here {KINDS[reader]}: move "
        f"{ignored} to a directory of its own, with a card, or list the files of each split under `configs` in the card"
    )


def misplaced_images(directory: Path, columns: Sequence[str]) -> str | None:
    """The metadata file of a folder whose images `datasets` (5.2) reads as the maps of a task, and what to do, or `None`.

    Images under the key `file_name` get into the first column of images, and `image` stays empty, unless it is that column.

    Args:
        directory: of the data set, whose card does not list its files.
        columns: the columns of images in their order.
    """
    if not columns or columns[0] == "image":
        return None
    listing = [path.relative_to(directory) for path in files_of(directory) if path.name in _METADATA]
    for path in [name for name in listing if _SPLIT.search(name.as_posix())] or listing:
        if "file_name" in (keys := _keys(directory / path)):
            remedy = "remove one of both keys" if "image_file_name" in keys else "call the key image_file_name"
            return (
                f"{path} of {directory} has the key file_name, whose images datasets reads as the column {columns[0]!r}, because it comes "
                f"first; {remedy}"
            )
    return None


def _keys(path: Path) -> set[str]:
    """The keys of a metadata file, as far as its start shows them; none of a file that cannot be read."""
    if path.suffix == ".parquet":
        from pyarrow import ArrowInvalid, parquet  # which comes with `datasets`

        try:
            return {*parquet.read_schema(path).names}
        except (OSError, ArrowInvalid):
            return set()
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = [line for line in file.readlines(_START) if line.strip()]
    if path.suffix == ".csv":
        return {name.strip('" ') for name in lines[0].strip().split(",")} if lines else set()
    keys: set[str] = set()
    for line in lines:
        with suppress(ValueError, RecursionError):
            keys.update(json.loads(line))
    return keys


def files_of(directory: Path) -> Iterator[Path]:
    """The files of a data set in order; without hidden ones, and without directories that have a card of their own."""
    for folder, folders, names in os.walk(directory):
        if Path(folder) != directory and "README.md" in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _kind(path: Path) -> str | None:
    """Name of the builder of `datasets` that reads a file, or `None` for files without images."""
    if path.name in _METADATA:
        with path.open("rb") as file:
            names_files = b"file_name" in file.read(_START) or path.suffix == ".parquet"
        return "imagefolder" if names_files else None
    if path.suffix == ".parquet":
        return "parquet" if _has_images(path) else None
    return "webdataset" if path.suffix == ".tar" else None


def _has_images(path: Path) -> bool:
    from pyarrow import ArrowInvalid, parquet  # which comes with `datasets`

    try:
        return "image" in parquet.read_schema(path).names
    except (OSError, ArrowInvalid):  # which reading it reports
        return True


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # a mark at the start is no mistake
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}; save it as UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):  # other line breaks may stand in a value
        if line.strip():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}, is not JSON: {error}; write one object per line") from error
            if not isinstance(found, dict):
                raise ValueError(f"{path}, line {number}, is a JSON {type(found).__name__}; write one object per line")
            yield found


def explain_load_error(directory: Path, error: Exception, remedy: str = "") -> str:
    """What `datasets` could not load, with the mistake in a metadata file that causes it, if there is one, and what to do.

    Args:
        directory: of a local data set, or the name of another one.
        error: of `datasets`.
        remedy: what to do if the mistake is not found.
    """
    unknown = _UNKNOWN_SPLIT.fullmatch(str(error))
    if unknown:
        split, splits = unknown["split"], [name.strip("' ") for name in unknown["splits"].split(",")]
        is_folder = any((directory / name).is_dir() for name in splits)
        hint = " (a folder without images is no split)" if is_folder else ""
        parts = f"'{splits[0]}[:90%]' and '{splits[0]}[90%:]' (to train: --train_split and --validation_split)"
        return f'Unknown split "{split}"{hint}; the data set has {", ".join(splits)}: give one of them, or parts of one, such as {parts}'
    cause = error.__cause__ or error
    if not remedy and isinstance(cause, (tarfile.TarError, EOFError)):
        remedy = "; make or download its files again"
    return metadata_mistake(directory) or f"{cause}{remedy}"


__all__ = ["explain_load_error", "files_of", "ignored_files", "metadata_mistake", "misplaced_images"]
