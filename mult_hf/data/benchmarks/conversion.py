"""Convert a reader's split to Parquet files with a card, on disk or on the Hub.

The samples of a split are divided evenly among files of about the same size. Which samples a file holds is recorded before the first one
is written, so several processes can write them in any order, and an interrupted conversion continues with those that are missing.
"""

import hashlib
import json
import math
import random
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from datasets.arrow_writer import ParquetWriter
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from pyarrow.parquet import ParquetFile
from yaml import YAMLError

from mult_hf.data.files import make_folder, whole_file
from mult_hf.data.hub import create_repository, explaining_failed_uploads
from mult_hf.data.schema import CARD_KEY, card_configs
from mult_hf.data.workers import start_worker
from mult_hf.model.entry_fields import refusal

from .errors import ReadError, ReadReport
from .reader import SPLIT_NAMES, BenchmarkReader

ROWS_IN_MEMORY = 32
"""Samples per Parquet row group; a conversion holds this many in memory per process."""

FILE_MEGABYTES = 500
"""Size of a file: few enough files for a hundred million images, and small enough to divide among many readers."""

NO_DATA = ("README.md", ".gitattributes", "LICENSE")
"""Files on the Hub beside those that are uploaded, in a data set without a list of its files."""

PROBED_SAMPLES = 16
"""Samples whose size decides how many fit a file."""


@dataclass(frozen=True)
class ConversionPlan:
    """Which samples each file of a split holds.

    Args:
        samples: number of samples of the split in the download.
        files: number of files; each holds an equal share of the samples, up to one.
        shuffle: whether the samples are written in random order.
        contents: digest of what decides the contents: data set, samples, task entries, settings of the reader.
    """

    samples: int
    files: int
    shuffle: bool
    contents: str = ""

    def share(self, file: int) -> slice:
        """Samples of a file, counted in the order of the conversion."""
        return slice(file * self.samples // self.files, (file + 1) * self.samples // self.files)


def convert(
    reader: BenchmarkReader,
    output_dir: str | Path,
    *,
    megabytes: float = FILE_MEGABYTES,
    num_proc: int = 1,
    shuffle: bool = False,
) -> Path:
    """Write a reader's split as Parquet files with a card, so that `datasets.load_dataset(output_dir)` can load it.

    An interrupted run leaves no partial file; the next run continues where it stopped. Images that the reader did not change are copied
    byte for byte. The card lists all splits in the directory. Files with cells that could not be read (`on_error="skip"`) are written again
    by a reader with `on_error="raise"`, and otherwise reported again.

    Args:
        reader: reader of the split to write.
        output_dir: created if it does not exist.
        megabytes: approximate size of a file, in units of 1,000,000 bytes.
        num_proc: processes that write files.
        shuffle: write the samples in random order, always the same one, so that neighbours in a file come from different places.

    Returns:
        `Path`: the directory.

    Raises:
        ValueError: if the directory has a card with other task entries, or files of the split from another conversion.
    """
    output_dir = Path(output_dir)
    card_path = output_dir / "README.md"
    if card_path.is_file() and DatasetCard.load(card_path).data.to_dict().get(CARD_KEY) != reader.task_entries():
        raise ValueError(f"{card_path} lists other task entries than {reader.tasks} of {reader.name}; write to another directory")
    make_folder(output_dir / "data")
    keys = [sample for shard in reader.shards for sample in reader.samples(shard)]
    plan = _plan(reader, keys, output_dir / "data", megabytes, shuffle)
    if plan.shuffle:
        random.Random(0).shuffle(keys)
    names = [f"{reader.split}-{number:05d}-of-{plan.files:05d}.parquet" for number in range(plan.files)]
    shares = {output_dir / "data" / name: keys[plan.share(number)] for number, name in enumerate(names)}
    earlier = {path: _problems(path) for path in shares if path.exists()}
    again = [path for path, problems in earlier.items() if problems is not None and reader.on_error == "raise"]
    missing = {path: share for path, share in shares.items() if path not in earlier or path in again}
    total = ReadReport()
    for path, problems in earlier.items():
        if path not in again:
            total.merge(replace(problems or ReadReport(), samples=ParquetFile(path).metadata.num_rows))
    for report in _write_files(reader, missing, num_proc):
        total.merge(report)
    reader.report = total
    _write_card(reader, card_path)
    return output_dir


def _plan(reader: BenchmarkReader, keys: Sequence[Any], directory: Path, megabytes: float, shuffle: bool) -> ConversionPlan:
    """The plan of an interrupted conversion, or a new one.

    Raises:
        ValueError: if there are files of another conversion.
    """
    record = directory / f".{reader.split}.json"
    found = ConversionPlan(**json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else None
    files = sorted(directory.glob(f"{reader.split}-*.parquet"))
    contents = _contents(reader, keys)
    if found is not None and (found.samples, found.shuffle, found.contents) == (len(keys), shuffle, contents):
        return found
    if files and found is not None and (found.samples, found.shuffle) == (len(keys), shuffle):
        differs = "of other samples, task entries or stored columns, or with other settings than"
        if not found.contents:
            differs = "by an earlier version, which did not record samples and settings; those of this one are"
        raise refusal(
            f"{files[0]} is from another conversion, {differs} {reader.settings}; remove the files of {reader.split!r} or write to another "
            "directory"
        )
    if files:
        was = "an unknown number of samples" if found is None else f"{found.samples} samples{', shuffled' * found.shuffle}"
        raise refusal(
            f"{files[0]} is from another conversion, of {was}, than this one of {len(keys)} samples{', shuffled' * shuffle}; remove the "
            f"files of {reader.split!r} or write to another directory"
        )
    files_needed = math.ceil(len(keys) * _bytes_per_sample(reader, keys) / (megabytes * 1e6))
    plan = ConversionPlan(len(keys), max(1, min(files_needed, len(keys))), shuffle, contents)
    with whole_file(record) as unfinished:
        unfinished.write_text(json.dumps(asdict(plan)), encoding="utf-8")
    return plan


def _contents(reader: BenchmarkReader, keys: Sequence[Any]) -> str:
    """A digest of what decides which rows a conversion writes."""
    hashed = hashlib.sha256(json.dumps([reader.name, reader.task_entries(), reader.settings], sort_keys=True).encode())
    for key in keys:
        hashed.update(f"{key}\n".encode())
    return hashed.hexdigest()[:16]


def _problems(path: Path) -> ReadReport | None:
    """What could not be read when a file was written, without its number of samples; None if everything could."""
    record = _record_of_problems(path)
    if not record.is_file():
        return None
    found = json.loads(record.read_text(encoding="utf-8"))
    return ReadReport(problems=Counter(found["problems"]), examples=found["examples"])


def _record_of_problems(path: Path) -> Path:
    return path.with_name(f".{path.stem}.json")


def _bytes_per_sample(reader: BenchmarkReader, keys: Sequence[Any]) -> float:
    """Mean size of some samples, evenly spread; broken ones are left out here, and reported when they are written."""
    features, sizes = reader.features(), []
    for place in range(min(PROBED_SAMPLES, len(keys))):
        with suppress(ReadError):
            for sample in reader.generate_samples([keys[place * len(keys) // PROBED_SAMPLES if len(keys) > PROBED_SAMPLES else place]]):
                cells = features.encode_example(sample).values()
                sizes.append(sum(_cell_bytes(cell) for cell in cells if isinstance(cell, dict)))
    return sum(sizes) / len(sizes) if sizes else 0.0


def _cell_bytes(cell: dict[str, Any]) -> int:
    return len(cell["bytes"]) if cell["bytes"] is not None else Path(cell["path"]).stat().st_size


def _write_files(reader: BenchmarkReader, missing: dict[Path, list[Any]], num_proc: int) -> Iterator[ReadReport]:
    """Write files in this process or in several; yields the report of each."""
    write = partial(_write_file, reader)
    if num_proc == 1 or len(missing) < 2:
        yield from map(write, missing.items())
        return
    # Not forked: a fork copies the locks of threads, which the libraries of images and Parquet start.
    with ProcessPoolExecutor(min(num_proc, len(missing)), mp_context=get_context("spawn"), initializer=start_worker) as pool:
        try:
            yield from pool.map(write, missing.items())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_file(reader: BenchmarkReader, content: tuple[Path, list[Any]]) -> ReadReport:
    """Stream samples into a file; `IterableDataset.to_parquet` would collect all its rows in memory first."""
    path, keys = content
    features, record = reader.features(), _record_of_problems(path)
    with (
        whole_file(path) as unfinished,
        ParquetWriter(features=features, path=str(unfinished), writer_batch_size=ROWS_IN_MEMORY, embed_local_files=True) as writer,
    ):
        for sample in reader.generate_samples(keys):
            writer.write(features.encode_example(sample))
        writer.finalize()
        if reader.report.problems:  # before the file gets its name, so that no problem is forgotten
            with whole_file(record) as unfinished_record:
                text = json.dumps({"problems": reader.report.problems, "examples": reader.report.examples})
                unfinished_record.write_text(text, encoding="utf-8")
    if not reader.report.problems:  # after it has its name: until then the file with the gaps is there
        record.unlink(missing_ok=True)
    return reader.report


def _write_card(reader: BenchmarkReader, card_path: Path) -> None:
    tasks: dict[str, Any] = {CARD_KEY: reader.task_entries()}
    configs = _configs(card_path.parent, _splits(path.name for path in card_path.parent.glob("data/*.parquet")))
    data = DatasetCardData(pretty_name=reader.name, configs=configs, **tasks)
    text = "Converted with `mult_hf.data`. The header above describes how each map is stored. The licence of the original applies.\n"
    with whole_file(card_path) as unfinished:  # a card that breaks off would make the finished files those of another conversion
        DatasetCard(f"---\n{data.to_yaml()}\n---\n\n# {reader.name}\n\n{text}").save(unfinished)


def _splits(names: Iterable[str]) -> set[str]:
    """The splits of Parquet files, by their names."""
    return {match[0] for match in (re.match(r"[a-z]+", name) for name in names) if match}


def _configs(directory: Path, splits: Collection[str]) -> list[dict[str, Any]]:
    """The card's `configs` for these splits; `directory` has the files, or those that were uploaded last."""
    return card_configs(directory, [_files_of(split) for split in dict.fromkeys(SPLIT_NAMES.values()) if split in splits])


def _files_of(split: str) -> dict[str, str]:
    return {"split": split, "path": f"data/{split}-*.parquet"}


def _card_on_hub(api: HfApi, repo_id: str, reader: BenchmarkReader) -> tuple[DatasetCard | None, set[str]]:
    """The card of a data set and the splits that it lists; None and nothing if there is no card.

    Raises:
        ValueError: if a split of the reader cannot be added to it.
    """
    files = api.list_repo_files(repo_id, repo_type="dataset")
    if "README.md" not in files:
        return None, set()
    text = Path(api.hf_hub_download(repo_id, "README.md", repo_type="dataset")).read_text(encoding="utf-8-sig")
    try:
        card = DatasetCard(text)
        header = card.data.to_dict()
    except (ValueError, YAMLError) as error:
        raise refusal(f"the card of {repo_id} cannot be read: {error}; repair it, or upload to another data set") from error
    if header.get(CARD_KEY, reader.task_entries()) != reader.task_entries():
        raise refusal(f"the card of {repo_id} lists other task entries than {reader.tasks} of {reader.name}; upload to another data set")
    configs = header.get("configs") or []
    found = [files for config in configs for files in (config["data_files"] if isinstance(config.get("data_files"), list) else [None])]
    splits = {split for split in SPLIT_NAMES.values() if _files_of(split) in found}
    if len(configs) > 1 or len(found) > len(splits) or (not configs and any(name not in NO_DATA for name in files)):
        raise refusal(
            f"{repo_id} has files that `mult-hf convert` did not upload, and its card would lose them; upload to another data set"
        )
    return card, splits


def push(reader: BenchmarkReader, repo_id: str, output_dir: str | Path | None = None, **options: Any) -> None:
    """Convert a reader's split and upload it as a private data set; make it public yourself if its licence allows it.

    Splits that the data set on the Hub has already stay, and so does the text of its card. The card is changed last, so that a new split is
    not listed before all its files are there; files of an earlier upload of the same split are removed.

    Args:
        reader: reader of the split to upload.
        repo_id: id of the data set on the Hub; created if it does not exist.
        output_dir: directory that keeps the converted files; a temporary directory by default.
        options: keywords of [`convert`].

    Raises:
        ValueError: before the conversion, if the data set on the Hub is public, has other task entries, or files of another kind; and as
            [`convert`].
        PermissionError: before the conversion, if the token may not write to it.
        ConnectionError: if the upload fails; a split that was not there before is then not listed.
    """
    api = HfApi()
    repo_id = create_repository(repo_id, repo_type="dataset", private=True)
    card, listed = _card_on_hub(api, repo_id, reader)
    with tempfile.TemporaryDirectory() as temporary:
        directory = convert(reader, output_dir or temporary, **options)
        files = f"{reader.split}-*.parquet"
        kept = "--output_dir keeps the converted files" if output_dir is None else f"the converted files are in {output_dir}"
        with explaining_failed_uploads(repo_id, f"{kept}; run the same command again"):
            api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=directory / "data",
                path_in_repo="data",
                allow_patterns=files,
                delete_patterns=files,
            )
            card = card or DatasetCard.load(directory / "README.md")
            card.data[CARD_KEY] = reader.task_entries()
            card.data["configs"] = _configs(directory, listed | {reader.split})
            text = str(card).encode()
            api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id=repo_id, repo_type="dataset")
