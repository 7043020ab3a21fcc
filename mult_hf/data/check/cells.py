"""The cells of a data set, undecoded, so that a broken one is reported and does not stop the check."""

import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from datasets import Image as ImageFeature
from datasets.utils.file_utils import is_local_path, xopen
from PIL import Image, ImageOps, UnidentifiedImageError

from mult_hf.model.alignment import UPRIGHT, orientation
from mult_hf.model.images import readable_formats
from mult_hf.model.tiff import BROKEN, UNREADABLE, is_tiff, load_pixels

from .findings import TaskFindings


def undecoded(dataset: Dataset | IterableDataset) -> Iterator[dict[str, Any]]:
    """Rows with undecoded images, so that a broken one is reported and does not stop the check."""
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, ImageFeature):
            dataset = dataset.cast_column(column, ImageFeature(decode=False))
    return iter(dataset)


def readable(rows: Iterator[dict[str, Any]], split: str) -> Iterator[dict[str, Any]]:
    """The rows of a split.

    Raises:
        ValueError: if a file breaks off between two of them.
    """
    number = 0
    try:
        for row in rows:
            yield row
            number += 1
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system: no file, no permission, no connection
            raise
        before = f"{number} row{'' if number == 1 else 's'}"
        raise ValueError(f"split {split} cannot be read after {before}: {error}; make or download its files again") from error


def stored_array(cell: Any, where: str, findings: TaskFindings) -> np.ndarray | None:
    """The array of a cell, or `None` if it is empty or unreadable; the latter is reported."""
    if cell is None:
        return None
    findings.found += 1
    if isinstance(cell, str):
        findings.wrong(
            "the cell is text, not an image; in a metadata.jsonl, a key that ends in _file_name reads the file", f"{where} ({cell})"
        )
        return None
    try:
        stored = _image_array(cell) if is_file(cell) else np.asarray(cell)
    except FileNotFoundError:
        findings.found -= 1
        findings.wrong("the file does not exist", f"{where}{file_of(cell)}")
        return None
    except UnidentifiedImageError:  # its own message contains a memory address
        source = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
        kind = f": it is broken, or {UNREADABLE}" if is_tiff(source) else ""
        findings.wrong(f"cannot be opened as an image{kind}", f"{where}{file_of(cell)}")
        return None
    except BROKEN as error:
        findings.wrong(f"cannot be read completely: {error}", f"{where}{file_of(cell)}")
        return None
    if stored.dtype.kind not in "buif" or stored.ndim not in (2, 3) or not stored.size:
        findings.wrong(f"the cell is no image, but {kind_of(cell)}; store images with the type `datasets.Image`", where)
        return None
    findings.dtypes.add(str(stored.dtype))
    return stored


def is_file(cell: Any) -> bool:
    """Whether a cell is an undecoded image of `datasets`."""
    return isinstance(cell, Mapping) and {"bytes", "path"} <= cell.keys()


def kind_of(cell: Any) -> str:
    """What a cell holds: type and shape of an array, or the name of another type."""
    array = np.asarray(cell)
    return f"{array.dtype} of shape {array.shape}" if array.dtype.kind in "buif" else type(cell).__name__


def _image_array(cell: Mapping[str, Any]) -> np.ndarray:
    with opened(cell) as file:
        turned = orientation(file)  # before the pixels are read, because Pillow turns a TIFF file then
        load_pixels(file)
        return np.asarray(ImageOps.exif_transpose(file) if turned != UPRIGHT else file)


def opened(cell: Any) -> Any:
    """The image file of a cell, opened with its metadata; an array is returned unchanged."""
    if not isinstance(cell, Mapping):
        return cell
    path, contents = cell["path"], cell["bytes"]
    if contents is None and not is_local_path(path or ""):
        with xopen(path, "rb") as file:
            contents = file.read()
    return Image.open(path if contents is None else io.BytesIO(contents), formats=readable_formats())


def file_of(cell: Any) -> str:
    """The path of a cell's file in brackets, or nothing if it has none."""
    path = cell.get("path") if isinstance(cell, Mapping) else None
    return f" ({path})" if path else ""
