"""Fingerprint of the rows of a run, by which a resumed run recognizes that its data changed."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, Image

_ROWS_AT_ONCE = 64


def describe_data(accelerator: Accelerator, **splits: Dataset) -> dict[str, str]:
    """Number of rows and digest of their contents per split, the same in every process; only the main process reads the rows."""
    found = [{name: f"{len(rows)} rows, {fingerprint(rows)}" for name, rows in splits.items()} if accelerator.is_main_process else None]
    return broadcast_object_list(found)[0]


def fingerprint(rows: Dataset) -> str:
    """16 hexadecimal digits that depend on the names, the order and every value of the rows, not on where they are stored.

    Args:
        rows: read once from beginning to end. Of images that the rows only name, the files are read.
    """
    hashed = hashlib.blake2b(digest_size=8)
    for column in sorted(rows.column_names):
        values = rows.select_columns([column]).with_format("arrow")
        is_image = isinstance(rows.features[column], Image)
        hashed.update(repr((column, str(values.features[column]))).encode())
        for table in values.iter(_ROWS_AT_ONCE):
            if is_image:
                for cell in table[column].to_pylist():
                    _update(hashed, _image_bytes(cell))
            else:
                _update(hashed, _arrow_bytes(table))
    return hashed.hexdigest()


def _update(hashed: Any, contents: bytes) -> None:
    """With the length, so that what is moved from one value to the next does not go unnoticed."""
    hashed.update(len(contents).to_bytes(8, "big"))
    hashed.update(contents)


def _image_bytes(cell: dict[str, Any] | None) -> bytes:
    """An encoded image; of one that has no bytes and no file here, such as a URL, the path."""
    if cell is None:
        return b""
    if cell["bytes"] is not None:
        return cell["bytes"]
    path = Path(cell["path"])
    return path.read_bytes() if path.is_file() else cell["path"].encode()


def _arrow_bytes(table: pa.Table) -> bytes:
    """The values of a table in one chunk, without the metadata of its schema; copied, since a slice has other offsets than a whole."""
    plain = table.replace_schema_metadata(None).take(pa.array(range(len(table)))).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain.schema) as stream:
        stream.write_table(plain)
    return sink.getvalue().to_pybytes()


__all__ = ["describe_data", "fingerprint"]
