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
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from functools import partial
from mimetypes import guess_type
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.arrow_writer import ParquetWriter
from datasets.data_files import FILES_TO_IGNORE
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, DatasetCardData, HfApi
from huggingface_hub.errors import HfHubHTTPError
from pyarrow.parquet import ParquetFile
from yaml import YAMLError

from mult_hf.data.files import make_folder, unfinished_path, whole_file
from mult_hf.data.hub import create_repository, explaining_failed_uploads
from mult_hf.data.schema import CARD_KEY, card_configs, card_header
from mult_hf.data.workers import worker_pool
from mult_hf.model.entry_fields import refusal

from .errors import ReadError, ReadReport
from .reader import SPLIT_NAMES, BenchmarkReader

ROWS_IN_MEMORY = 32
"""Samples per Parquet row group; a conversion holds this many in memory per process."""

FILE_MEGABYTES = 500
"""Size of a file: few enough files for a hundred million images, and small enough to divide among many readers."""

DATA_SUFFIXES = (".arrow", ".csv", ".json", ".jsonl", ".lance", ".parquet", ".tar", ".tsv", ".txt", ".xml", ".zip", ".gz", ".h5", ".hdf5")
"""Endings of files at the root of a data set that hold rows if its card lists no files. In folders, every file is taken for rows."""

TEXTS = ("LICENSE", "NOTICE", "CITATION")
"""Names of files that hold no rows, whatever their ending."""

ATTEMPTS = 5
"""Tries to commit to a data set on the Hub while others do so, too."""

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
        ValueError: if the directory has a card with other task entries, or that cannot be read, or files of the split from another
            conversion.
        ChildProcessError: if one of several processes was killed.
    """
    output_dir = Path(output_dir)
    card_path = output_dir / "README.md"
    if card_path.is_file() and card_header(card_path).get(CARD_KEY) != reader.task_entries():
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
    if files and found is not None and (found.samples, found.shuffle, found.contents) == (len(keys), shuffle, contents):
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
    try:
        with worker_pool(min(num_proc, len(missing))) as pool:
            yield from pool.map(write, missing.items())
    except BaseException:
        for path in missing:  # of workers that were ended while they wrote
            unfinished_path(path).unlink(missing_ok=True)
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


@dataclass(frozen=True)
class _DataSetOnHub:
    """A data set on the Hub, as of one commit.

    Args:
        commit: id of the commit.
        files: names of its files.
        card: text of its card; None if there is none.
        splits: the splits of conversions that the card lists.
    """

    commit: str
    files: list[str]
    card: str | None
    splits: frozenset[str]


def _data_set_on_hub(api: HfApi, repo_id: str, reader: BenchmarkReader) -> _DataSetOnHub:
    """Look at a data set, and check that a split of the reader can be added to it.

    Raises:
        ValueError: if it cannot.
    """
    commit = str(api.repo_info(repo_id, repo_type="dataset").sha)
    files = api.list_repo_files(repo_id, repo_type="dataset", revision=commit)
    card, header = None, {}
    if "README.md" in files:
        path = api.hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=commit)
        card = Path(path).read_text(encoding="utf-8-sig")
        try:
            header = DatasetCard(card).data.to_dict()
        except (ValueError, TypeError, AttributeError, YAMLError) as error:
            raise refusal(f"the card of {repo_id} cannot be read: {error}; repair it, or upload to another data set") from error
    if header.get(CARD_KEY, reader.task_entries()) != reader.task_entries():
        raise refusal(f"the card of {repo_id} lists other task entries than {reader.tasks} of {reader.name}; upload to another data set")
    listed = _listed_files(header.get("configs") or [])
    splits = frozenset(split for split in SPLIT_NAMES.values() if _files_of(split) in listed)
    # Without a list of files, the Hub finds them by itself, until a card lists some.
    if len(listed) > len(splits) or (not listed and _hold_rows(files)):
        raise refusal(
            f"{repo_id} has files that `mult-hf convert` did not upload, and its card would lose them; upload to another data set"
        )
    return _DataSetOnHub(commit, files, card, splits)


def _listed_files(configs: Any) -> list[Any]:
    """What the `configs` of a card list, with an entry for everything that is not of a conversion."""
    if not isinstance(configs, list):
        return [configs]
    listed: list[Any] = [] if len(configs) < 2 else [configs]  # a conversion has one configuration
    for config in configs:
        files = config.get("data_files") if isinstance(config, dict) else None
        listed += files if isinstance(files, list) else [files]
    return listed


def _hold_rows(files: Iterable[str]) -> bool:
    """Whether some of the files on the Hub are rows, as far as names tell. One picture or recording at the root is that of the card."""
    paths = [PurePosixPath(name) for name in files]
    paths = [path for path in paths if path.name not in FILES_TO_IGNORE and path.name[0] != "." and path.stem.upper() not in TEXTS]
    media = [path for path in paths if (guess_type(path.name)[0] or "").startswith(("image/", "audio/", "video/"))]
    return len(media) > 1 or any(len(path.parts) > 1 or path.name.lower().endswith(DATA_SUFFIXES) for path in paths)


def push(reader: BenchmarkReader, repo_id: str, output_dir: str | Path | None = None, **options: Any) -> None:
    """Convert a reader's split and upload it as a private data set; make it public yourself if its licence allows it.

    Splits that the data set on the Hub has already stay, and so does the text of its card; files of an earlier upload of the same split are
    removed. All this is one commit, so that a split is there as a whole or not at all.

    Args:
        reader: reader of the split to upload.
        repo_id: id of the data set on the Hub; created if it does not exist.
        output_dir: directory that keeps the converted files; a temporary directory by default.
        options: keywords of [`convert`].

    Raises:
        ValueError: before the conversion, if the data set on the Hub is public, has other task entries, or files of another kind; and as
            [`convert`].
        PermissionError: before the conversion, if the token may not write to it.
        ConnectionError: if the upload fails; the data set is then as it was.
    """
    api = HfApi()
    repo_id = create_repository(repo_id, repo_type="dataset", private=True)
    _data_set_on_hub(api, repo_id, reader)
    with tempfile.TemporaryDirectory() as temporary:
        directory = convert(reader, output_dir or temporary, **options)
        kept = "--output_dir keeps the converted files" if output_dir is None else f"the converted files are in {output_dir}"
        with explaining_failed_uploads(repo_id, f"{kept}; run the same command again"):
            _upload(api, repo_id, reader, directory)


def _upload(api: HfApi, repo_id: str, reader: BenchmarkReader, directory: Path) -> None:
    """Upload the files of a split, and commit them together with the card."""
    paths = sorted(directory.glob(_files_of(reader.split)["path"]))
    added = [CommitOperationAdd(path.relative_to(directory).as_posix(), path) for path in paths]
    api.preupload_lfs_files(repo_id, added, repo_type="dataset")  # hours, in which others may change the data set
    for attempt in range(1, ATTEMPTS + 1):
        there = _data_set_on_hub(api, repo_id, reader)
        names = {each.path_in_repo for each in added}
        removed = [
            CommitOperationDelete(name) for name in there.files if fnmatch(name, _files_of(reader.split)["path"]) and name not in names
        ]
        card = DatasetCard((directory / "README.md").read_text(encoding="utf-8") if there.card is None else there.card)
        card.data[CARD_KEY] = reader.task_entries()
        card.data["configs"] = _configs(directory, there.splits | {reader.split})
        changes: list[CommitOperationAdd | CommitOperationDelete] = [*added, *removed]
        changes.append(CommitOperationAdd("README.md", str(card).encode()))
        message = f"Upload the split {reader.split} of {reader.name}"
        try:
            api.create_commit(repo_id, changes, commit_message=message, repo_type="dataset", parent_commit=there.commit)
            return
        except HfHubHTTPError as error:  # of another commit since
            if error.response.status_code not in (409, 412) or attempt == ATTEMPTS:
                raise
