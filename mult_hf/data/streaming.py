"""Data sets that are read on demand: from URLs, from WebDataset archives, and from Parquet files larger than the free disk space.

A directory, Hub id or URL is opened by the builders of `datasets`, which read Parquet files and WebDataset archives (`.tar`) through
fsspec. The result is a `datasets.IterableDataset` with the columns of the schema ([`mult_hf.data.schema`]).
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mult_hf.model.entry_fields import refusal

from .schema import card_header, is_url, refuse_ignored_files, with_columns_of_tasks, with_full_path
from .stores import checksum, naming_store

try:
    import fsspec
    from datasets import Dataset, DatasetBuilder, IterableDataset, config, load_dataset_builder
    from datasets.data_files import DataFilesDict, get_data_patterns
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    from .image_column import as_image_columns
except ImportError as error:
    raise ImportError(f'reading data sets needs the datasets library ({error}); install it with: pip install "mult-hf[train]"') from error

ARCHIVE = ".tar"
"""Suffix of WebDataset archives. The files of a sample share a name: `000017.image.jpg`, `000017.depth.png`."""

FORMATS = {".parquet": "parquet", ARCHIVE: "webdataset"}
"""Suffix of a file -> its builder in `datasets`."""

MAX_FILES_TO_SPLIT = 256
"""Up to this many Parquet files are split into their row groups, for better shuffling; this reads the footer of each file."""

_TAIL_BYTES = 2**14


@dataclass(frozen=True)
class Stream:
    """Rows that are read in the order of their files.

    Args:
        rows: rows with the columns of the schema.
        contents: number of files and a digest of their names, sizes and checksums, for detecting changes without reading the rows.
    """

    rows: IterableDataset
    contents: str


def open_stream(name_or_path: str | Path, split: str) -> Stream:
    """Open a split of a data set without storing it.

    Args:
        name_or_path: local directory, Hub id, or URL of a directory (`s3://...`, `hf://datasets/...`).
        split: name of the split.

    Raises:
        ValueError: if it cannot be opened, or has no such split.
    """
    name = str(name_or_path)
    try:
        with naming_store(name):
            builder = _builder_of_url(name) if is_url(name) else load_dataset_builder(with_full_path(name))
            files: Mapping[str, Sequence[str]] = builder.config.data_files or {}
            if split not in files:
                raise refusal(f"{name} has no split {split!r}; it has {', '.join(map(str, files)) or 'no files'}")
            rows = builder.as_streaming_dataset(split)
    except (OSError, ImportError, FileNotFoundError) as error:  # ImportError: fsspec's drivers, such as s3fs
        raise ValueError(f"{name} cannot be streamed: {error}") from error
    refuse_ignored_files(Path(name), rows)
    rows = as_image_columns(with_columns_of_tasks(rows))
    if len(files[split]) <= MAX_FILES_TO_SPLIT:
        rows = rows.reshard()
    return Stream(rows, describe_files(files[split]))


def _builder_of_url(url: str) -> DatasetBuilder:
    """The builder of a directory behind a URL, by the card's `configs` or the names of its files."""
    url = url.rstrip("/")
    listed = (card_header(f"{url}/README.md").get("configs") or [{}])[0].get("data_files")
    if isinstance(listed, list):
        patterns = {str(entry["split"]): _absolute(url, entry["path"]) for entry in listed}
    else:
        patterns = {str(name): [*found] for name, found in get_data_patterns(url).items()}
    files = DataFilesDict.from_patterns(patterns, base_path=url)
    suffixes = {Path(path).suffix for paths in files.values() for path in paths} & set(FORMATS)
    if len(suffixes) != 1:
        raise refusal(f"{url} has files of {len(suffixes)} formats {sorted(suffixes)}; expected Parquet files or .tar archives")
    suffix = suffixes.pop()
    kept = {name: [path for path in paths if path.endswith(suffix)] for name, paths in files.items()}
    return load_dataset_builder(FORMATS[suffix], data_files={name: paths for name, paths in kept.items() if paths})


def _absolute(url: str, paths: str | list[str]) -> list[str]:
    return [f"{url}/{path}" for path in ([paths] if isinstance(paths, str) else paths)]


def describe_files(paths: Sequence[str]) -> str:
    """Number of files, and a digest of their names, sizes and checksums.

    A file system without checksums contributes the last 16 KiB of a file instead, which hold the offsets of a Parquet file's pages.
    """
    common = os.path.commonpath([path.rpartition("/")[0] for path in paths])
    hashed = hashlib.blake2b(digest_size=8)
    for path in paths:
        system, inner = fsspec.url_to_fs(path)
        facts = system.info(inner)
        contents = checksum(facts)
        if contents is None:
            size = facts["size"] or 0
            contents = hashlib.blake2b(system.cat_file(inner, start=max(0, size - _TAIL_BYTES), end=size), digest_size=8).hexdigest()
        hashed.update(f"{path[len(common) :]} {facts['size']} {contents}\n".encode())
    return f"{len(paths)} files, {hashed.hexdigest()}"


def streams_by_default(name_or_path: str | Path) -> bool:
    """Whether a data set must be read on demand: a URL, WebDataset archives, or more data than fit into the free disk space.

    Parquet files are otherwise copied to the cache of `datasets` once, so that rows can be read in any order.
    """
    name = str(name_or_path)
    if is_url(name):
        return True
    paths = dict(_sizes(Path(name))) if Path(name).is_dir() else _hub_sizes(name)
    if any(path.endswith(ARCHIVE) for path in paths):
        return True
    copies = 1 if Path(name).is_dir() else 2  # from the Hub: the files, and their copy in Arrow's format
    return copies * sum(paths.values()) > shutil.disk_usage(_existing(Path(config.HF_DATASETS_CACHE))).free


def _sizes(directory: Path) -> Iterator[tuple[str, int]]:
    for path in directory.rglob("*"):
        if path.suffix in FORMATS and path.is_file():
            yield str(path), path.stat().st_size


def _hub_sizes(repo_id: str) -> dict[str, int]:
    """Sizes of a repository's files; none if the Hub cannot be reached."""
    try:
        found = HfApi().dataset_info(repo_id, files_metadata=True).siblings or []
    except (OSError, ValueError, HTTPError):  # offline, no such repository, or not a valid id: loading reports it
        return {}
    return {each.rfilename: each.size or 0 for each in found if Path(each.rfilename).suffix in FORMATS}


def _existing(directory: Path) -> Path:
    """The directory, or its first parent that exists."""
    return next(path for path in (directory, *directory.parents) if path.exists())


def first_rows(rows: IterableDataset, count: int) -> Dataset:
    """Read rows into memory, with encoded images: the same number from each of several shards.

    Args:
        rows: rows with known features.
        count: number of rows; fewer if there are fewer.
    """
    shards = min(rows.num_shards, count, 16)
    share = -(-count // max(shards, 1))
    undecoded = rows.decode(False)
    spread = [rows.num_shards * number // shards for number in range(shards)]
    found: list[dict[str, Any]] = []
    whole: list[int] = []  # shards that may have more rows
    for shard in spread:
        taken = [*undecoded.shard(rows.num_shards, shard).take(min(share, count - len(found)))]
        found += taken
        whole += [shard] * (len(taken) == share)
    for shard in whole:  # others had fewer rows than their share
        found += undecoded.shard(rows.num_shards, shard).skip(share).take(count - len(found))
    if len(found) < count and shards < rows.num_shards:  # the shards that were chosen are small
        found = [*undecoded.take(count)]
    return Dataset.from_list(found, features=rows.features)


__all__ = ["Stream", "describe_files", "first_rows", "open_stream", "streams_by_default"]
