"""A reader's split as parquet with a card, on disk or on the Hub."""

import re
import tempfile
from collections.abc import Hashable
from pathlib import Path

from datasets.arrow_writer import ParquetWriter
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from mult_hf.data.files import UNFINISHED, whole_file
from mult_hf.data.schema import CARD_KEY, card_configs

from .errors import ReadReport
from .reader import BenchmarkReader

ROWS_IN_MEMORY = 32
"""Samples that a conversion holds before it writes them as a row group."""


def convert(reader: BenchmarkReader, output_dir: str | Path) -> Path:
    """Write a reader's split as parquet with a card, so that `datasets.load_dataset(output_dir)` gives it back.

    One file per piece of the split; an interrupted run leaves no half file and goes on where it stopped. Images that the reader
    did not change keep their own bytes. The card lists all splits that the directory has.

    Args:
        reader: what to write.
        output_dir: made if it is not there.

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
        raise ValueError(f"{foreign[0]} is of another conversion than {paths[0].name}; remove it or write to another directory")
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
    """Stream a piece into a file; `IterableDataset.to_parquet` would collect all its rows in memory first."""
    features = reader.features()
    with ParquetWriter(features=features, path=str(path), writer_batch_size=ROWS_IN_MEMORY, embed_local_files=True) as writer:
        for sample in reader.generate([shard]):
            writer.write(features.encode_example(sample))
        writer.finalize()


def _write_card(reader: BenchmarkReader, card_path: Path) -> None:
    splits = {re.match(r"[a-z]+", path.name)[0] for path in card_path.parent.glob("data/*.parquet")}
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in ("train", "validation", "test") if split in splits]
    data = DatasetCardData(
        pretty_name=reader.name,
        configs=card_configs(card_path.parent, files),
        **{CARD_KEY: reader.task_entries()},
    )
    text = "Converted with `mult_hf.data`; the header above says how each map is stored. The licence is that of the original.\n"
    DatasetCard(f"---\n{data.to_yaml()}\n---\n\n# {reader.name}\n\n{text}").save(card_path)


def push(reader: BenchmarkReader, repo_id: str, output_dir: str | Path | None = None) -> None:
    """Convert a reader's split and upload it as a private data set; make it public yourself where its licence lets you.

    Args:
        reader: what to upload.
        repo_id: of the data set on the Hub, made if it is not there.
        output_dir: keeps the converted files; a temporary directory by default.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = convert(reader, output_dir or temporary)
        api = HfApi()
        api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=directory, ignore_patterns=f"*{UNFINISHED}")
