"""Convert a reader's split to Parquet files with a card, on disk or on the Hub."""

import re
import tempfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from datasets.arrow_writer import ParquetWriter
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from mult_hf.data.files import UNFINISHED, whole_file
from mult_hf.data.schema import CARD_KEY, card_configs

from .errors import ReadReport
from .reader import BenchmarkReader

ROWS_IN_MEMORY = 32
"""Samples per Parquet row group; a conversion holds this many in memory."""


def convert(reader: BenchmarkReader, output_dir: str | Path) -> Path:
    """Write a reader's split as Parquet files with a card, so that `datasets.load_dataset(output_dir)` can load it.

    Each shard of the split becomes one file. An interrupted run leaves no partial file; the next run continues where it stopped.
    Images that the reader did not change are copied byte for byte. The card lists all splits in the directory.

    Args:
        reader: reader of the split to write.
        output_dir: created if it does not exist.

    Returns:
        `Path`: the directory.

    Raises:
        ValueError: if the directory has a card with other task entries, or files of the split from another conversion.
    """
    output_dir = Path(output_dir)
    card_path = output_dir / "README.md"
    if card_path.is_file() and DatasetCard.load(card_path).data.to_dict().get(CARD_KEY) != reader.task_entries():
        raise ValueError(f"{card_path} lists other task entries than {reader.tasks} of {reader.name}; write to another directory")
    (output_dir / "data").mkdir(parents=True, exist_ok=True)
    paths = [output_dir / "data" / f"{reader.split}-{n:05d}-of-{len(reader.shards):05d}.parquet" for n in range(len(reader.shards))]
    foreign = sorted(set(output_dir.glob(f"data/{reader.split}-*.parquet")) - set(paths))
    if foreign:
        raise ValueError(f"{foreign[0]} is from another conversion than {paths[0].name}; remove it or write to another directory")
    total = ReadReport()
    for path, shard in zip(paths, reader.shards):
        if path.exists():
            continue
        with whole_file(path) as unfinished:
            _write_parquet(reader, shard, unfinished)
        total.samples += reader.report.samples
        total.problems.update(reader.report.problems)
        total.examples += reader.report.examples
    reader.report = total
    _write_card(reader, card_path)
    return output_dir


def _write_parquet(reader: BenchmarkReader, shard: Hashable, path: Path) -> None:
    """Stream a shard into a file; `IterableDataset.to_parquet` would collect all its rows in memory first."""
    features = reader.features()
    with ParquetWriter(features=features, path=str(path), writer_batch_size=ROWS_IN_MEMORY, embed_local_files=True) as writer:
        for sample in reader.generate([shard]):
            writer.write(features.encode_example(sample))
        writer.finalize()


def _write_card(reader: BenchmarkReader, card_path: Path) -> None:
    matches = (re.match(r"[a-z]+", path.name) for path in card_path.parent.glob("data/*.parquet"))
    splits = {match[0] for match in matches if match}
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in ("train", "validation", "test") if split in splits]
    tasks: dict[str, Any] = {CARD_KEY: reader.task_entries()}
    data = DatasetCardData(pretty_name=reader.name, configs=card_configs(card_path.parent, files), **tasks)
    text = "Converted with `mult_hf.data`. The header above describes how each map is stored. The licence of the original applies.\n"
    DatasetCard(f"---\n{data.to_yaml()}\n---\n\n# {reader.name}\n\n{text}").save(card_path)


def push(reader: BenchmarkReader, repo_id: str, output_dir: str | Path | None = None) -> None:
    """Convert a reader's split and upload it as a private data set; make it public yourself if its licence allows it.

    Args:
        reader: reader of the split to upload.
        repo_id: id of the data set on the Hub; created if it does not exist.
        output_dir: directory that keeps the converted files; a temporary directory by default.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = convert(reader, output_dir or temporary)
        api = HfApi()
        api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=directory, ignore_patterns=f"*{UNFINISHED}")
