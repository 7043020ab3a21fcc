"""Parquet files of a rendered data set. Each is complete or absent, and records the settings it was rendered with.

An interrupted rendering continues with the first missing file, because rows depend only on the settings.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load
from yaml import YAMLError

from mult_hf.data.files import whole_file
from mult_hf.model.entry_fields import refusal

try:
    import pyarrow
    import pyarrow.parquet
    from datasets import Features
except ImportError as error:
    raise ImportError(f'writing a data set needs the datasets library ({error}); install it with: pip install "mult-hf[data]"') from error

SETTINGS_KEY = b"mult_hf_settings"
"""Key of a file's metadata that contains its settings as JSON."""

ROWS_PER_GROUP = 100


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]], features: Features, settings: Mapping[str, Any]) -> None:
    """Write one file.

    Args:
        path: final name.
        rows: rows as `datasets` stores them, with images as cells of bytes.
        features: features of the data set.
        settings: all settings that the rows depend on.
    """
    table = pyarrow.Table.from_pylist(list(rows), schema=features.arrow_schema)
    table = table.replace_schema_metadata({**table.schema.metadata, SETTINGS_KEY: json.dumps(dict(settings)).encode()})
    # Cells are compressed images: a dictionary, or statistics of the lowest and highest value, would only repeat whole files.
    options = {"row_group_size": ROWS_PER_GROUP, "use_dictionary": False, "write_statistics": False}
    with whole_file(path) as unfinished:
        pyarrow.parquet.write_table(table, unfinished, **options)


def shard_settings(path: Path) -> dict[str, Any] | None:
    """The settings that a file was rendered with, or `None` if another program wrote it.

    Raises:
        ValueError: if the file is broken.
    """
    try:
        stored = (pyarrow.parquet.read_schema(path).metadata or {}).get(SETTINGS_KEY)
    except pyarrow.ArrowException as error:
        raise ValueError(
            f"{path} is broken or no Parquet file ({error}); choose an empty directory, or delete the file, if this command wrote it, to "
            "render it again"
        ) from None
    return None if stored is None else json.loads(stored)


def check_existing_card(directory: Path, pretty_name: str) -> None:
    """Refuse to replace a README.md that is not the card of such a data set.

    Args:
        directory: directory of the data set.
        pretty_name: that of the data set's card.

    Raises:
        ValueError: naming the file.
    """
    card = directory / "README.md"
    if card.is_file() and _pretty_name(card) != pretty_name:
        raise ValueError(f"{card} is not the card of a data set of this command, and would be replaced; choose an empty directory")


def check_existing_shards(directory: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to mix data with different settings.

    Args:
        directory: directory of the data set, with Parquet files in it or in its folder `data`.
        settings: settings of the rendering to continue.

    Raises:
        ValueError: if a file is broken, or has other settings or none; the message names the file and the differences.
    """
    wanted = json.loads(json.dumps(dict(settings)))  # tuples become lists, as in the file
    for path in sorted(filter(Path.is_file, [*directory.glob("*.parquet"), *directory.glob("data/*.parquet")])):
        found = shard_settings(path)
        if found is None:
            raise ValueError(f"{path} was not written by this command; choose an empty directory")
        differing = [f"{name} {found.get(name)!r} instead of {wanted[name]!r}" for name in wanted if found.get(name) != wanted[name]]
        if differing:
            raise refusal(f"{path} was rendered with {', '.join(differing)}; use the file's settings, or choose an empty directory")


def _pretty_name(card: Path) -> str | None:
    """The name in the header of a card; None for any other text."""
    try:
        return (metadata_load(card) or {}).get("pretty_name")
    except (ValueError, YAMLError):  # a header that is no dictionary, or not YAML
        return None


def count_rows(path: Path) -> int:
    """Number of rows in a file."""
    return pyarrow.parquet.read_metadata(path).num_rows
