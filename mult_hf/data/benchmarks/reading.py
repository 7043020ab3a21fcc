"""What the readers of downloaded data sets share: careful reads, a report of what is broken, derivations and conversion.

A reader yields samples of the schema (docs/data.md) one at a time and never holds more than one: `image`, one column a task
with the map AS STORED, and `id`. The task entries of the reader say how the maps decode.
"""

import io
import json
import logging
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from PIL import Image

try:
    from datasets import Features, IterableDataset, Value
    from datasets import Image as ImageFeature
    from datasets.arrow_writer import ParquetWriter
except ImportError as error:
    raise ImportError(f'the readers need the datasets library ({error}); install it with: pip install "mult-hf[data]"') from error

from mult_hf.data.derive import EDGES_GAIN, KEYPOINTS_GAIN, edges2d, heat_map, keypoints2d, normals_from_depth, reshading
from mult_hf.data.schema import CARD_KEY, card_configs
from mult_hf.model.tasks import TaskSpec, resolve_tasks

logger = logging.getLogger(__name__)

SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
"""Names of splits that users and data sets write, and what they are called here."""

ON_ERROR = ("raise", "skip")

ROWS_IN_MEMORY = 32
"""Samples that a conversion holds before it writes them as a row group."""

NORMALS_8BIT: dict[str, Any] = {"dtype": "uint8", "scale": 1 / 127, "offset": -1.0, "unknown": [127]}
"""Encoding of normals that a reader writes itself, in the package's own axes: (127, 127, 127) is no vector, so not known."""

RESHADING_16BIT: dict[str, Any] = {"dtype": "uint16", "scale": 1 / 65534, "unknown": [65535]}
"""Encoding of derived reshading, which is not known where the geometry is not."""


class ReadError(ValueError):
    """A file that cannot be what the data set says it is.

    Args:
        kind: short name that reports count by: `"missing file"`, `"broken file"`, `"wrong bit depth"`, `"wrong content"`.
        path: of the file.
        message: what came and what is expected.
    """

    def __init__(self, kind: str, path: str | Path, message: str) -> None:
        super().__init__(kind, str(path), message)  # plain arguments, so that it survives the way out of a worker process
        self.kind = kind
        self.summary = f"{path}: {message}"

    def __str__(self) -> str:
        return f'{self.summary}; on_error="skip" reads on and counts such files'


@dataclass
class ReadReport:
    """What one pass over a data set met.

    Args:
        samples: yielded.
        problems: how often each kind of problem came.
        examples: the first problems, path by path.
    """

    samples: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, error: ReadError, kept: int = 20) -> None:
        """Count a problem; the first `kept` are kept in words."""
        self.problems[error.kind] += 1
        if len(self.examples) < kept:
            self.examples.append(error.summary)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.problems.most_common()) or "no problems"
        return "\n  ".join([f"{self.samples} samples, {counts}", *self.examples])


def read_picture(path: Path, dtype: str) -> Image.Image:
    """Open a picture, read it to its end, and make sure of its bit depth.

    Args:
        path: of the file.
        dtype: numpy name of what it must hold, `"uint8"` or `"uint16"`.

    Returns:
        `PIL.Image.Image`: fully read; it knows its file, so that a conversion copies the file's own bytes.

    Raises:
        ReadError: if the file is missing, broken, or of another bit depth.
    """
    if not path.is_file():
        raise ReadError("missing file", path, f"is not there, expected a {dtype} picture")
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        message = f"cannot be read to its end ({error}; {path.stat().st_size} bytes); download it again"
        raise ReadError("broken file", path, message) from None
    came = "uint16" if picture.mode.startswith("I") else "float32" if picture.mode == "F" else "uint8"  # 16-bit PNG: "I;16" or "I"
    if came != dtype:
        raise ReadError(
            "wrong bit depth", path, f"is {came} (mode {picture.mode}), expected {dtype}; a tool that opened 16 bits as 8 spoils the values"
        )
    return picture


def read_array(path: Path, axes: int) -> np.ndarray:
    """Load an `.npy` file of a given number of axes; a last or first axis of length 1 more is dropped.

    Raises:
        ReadError: if the file is missing, broken, or of another shape.
    """
    if not path.is_file():
        raise ReadError("missing file", path, "is not there, expected a numpy array")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ReadError("broken file", path, f"cannot be read ({error}; {path.stat().st_size} bytes); download it again") from None
    if array.ndim == axes + 1 and 1 in (array.shape[0], array.shape[-1]):
        array = array.squeeze(-1 if array.shape[-1] == 1 else 0)
    if array.ndim != axes:
        raise ReadError("wrong content", path, f"has shape {array.shape}, expected {axes} axes")
    return array


def as_picture(stored: np.ndarray) -> Image.Image:
    """Make the picture that stores a map.

    Args:
        stored: (height, width), (1, height, width) or (3, height, width), uint8, uint16 or float32.
    """
    if stored.ndim == 3:
        stored = stored[0] if len(stored) == 1 else np.moveaxis(stored, 0, -1)
    picture = Image.fromarray(np.ascontiguousarray(stored))
    if stored.dtype != np.uint16:
        return picture
    # `datasets` stores 16-bit pictures as raw TIFF unless they come from a PNG, which is a third of the size.
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Image.open(buffer)


def load_splits(name: str) -> dict[str, Any]:
    """The official splits of a benchmark: a JSON file in `mult_hf/data/benchmarks/splits/` that also names its source."""
    return json.loads(resources.files(__package__).joinpath("splits", f"{name}.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Camera:
    """Pinhole camera of a data set that has only one: focal length and principal point in pixels from the top left corner."""

    focal: float
    principal_point: tuple[float, float] | None = None


# Task -> (maps it follows from, function of these and the camera). `image` is (height, width, 3) uint8, `depth` (height,
# width) metres, `normals` (3, height, width); a result has the shape of the task's target.
DERIVATIONS: dict[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]] = {
    "edges2d": (("image",), lambda image, camera: heat_map(edges2d(image), EDGES_GAIN)[None]),
    "keypoints2d": (("image",), lambda image, camera: heat_map(keypoints2d(image), KEYPOINTS_GAIN)[None]),
    "normals": (("depth",), lambda depth, camera: normals_from_depth(depth[0], camera.focal, camera.principal_point)),
    "reshading": (
        ("depth", "normals"),
        lambda depth, normals, camera: reshading(depth[0], normals, camera.focal, camera.principal_point)[None],
    ),
}
"""Tasks that follow from others, for sets that lack them; definitions and sources are in [`mult_hf.data.derive`]."""


class BenchmarkReader(ABC):
    """A downloaded data set as samples of the schema, read lazily.

    Args:
        root: where the download lies.
        split: `"train"`, `"validation"` (or `"val"`) or `"test"`, by the official lists.
        tasks: columns to read, in this order. `None`: all that are stored or follow from what is stored.
        on_error: `"raise"` stops at the first missing, broken or wrong file and names it; `"skip"` leaves such a cell empty (a
            sample without its image is left out), counts it, and reports at the end in the log and in `report`.

    Attributes:
        report: [`ReadReport`] of the last pass in this process.

    Raises:
        ValueError: on an unknown split, task or `on_error`, or if nothing of the split is there.
    """

    name: ClassVar[str]
    entries: ClassVar[list[dict[str, Any]]]
    camera: ClassVar[Camera | None] = None

    def __init__(self, root: str | Path, split: str = "train", tasks: Sequence[str] | None = None, on_error: str = "raise") -> None:
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise ValueError(f"{self.root} does not exist; download {self.name} and give its directory")
        if split not in SPLIT_NAMES:
            raise ValueError(f"split {split!r} is not known; allowed: {', '.join(SPLIT_NAMES)}")
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error is {on_error!r}; allowed: {', '.join(ON_ERROR)}")
        self.split, self.on_error, self.report = SPLIT_NAMES[split], on_error, ReadReport()
        self.specs: dict[str, TaskSpec] = resolve_tasks(self.entries)
        self.shards: list[Hashable] = self.find_shards()
        self.tasks = self._selected(tasks)

    @abstractmethod
    def find_shards(self) -> list[Hashable]:
        """Pieces of the split that loader workers share out and conversion writes one file of each, such as buildings."""

    @abstractmethod
    def samples(self, shard: Hashable) -> Iterator[Hashable]:
        """Keys of a piece's samples; a key's text is the sample's `id`."""

    @abstractmethod
    def stored(self, column: str) -> bool:
        """Whether the download has this column (`"image"` or a task) for any sample of the split."""

    @abstractmethod
    def read(self, sample: Hashable, column: str) -> Image.Image | None:
        """The stored picture of a column, `None` if the set says that the sample has none.

        Raises:
            ReadError: if the file is missing, broken or wrong.
        """

    def task_entries(self) -> list[dict[str, Any]]:
        """The `mult_tasks` record of what this reader yields: entries for [`TaskSpec.from_dict`]."""
        by_name = {entry["name"]: entry for entry in self.entries}
        return [by_name[task] for task in self.tasks]

    def features(self) -> Features:
        """Columns of the data set: `id`, `image` and the tasks."""
        return Features({"id": Value("string"), "image": ImageFeature(), **{task: ImageFeature() for task in self.tasks}})

    def to_iterable_dataset(self) -> IterableDataset:
        """A `datasets.IterableDataset` whose shards are the pieces of the split, so that loader workers share them."""
        return IterableDataset.from_generator(_generate, gen_kwargs={"reader": self, "shards": self.shards}, features=self.features())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.generate(self.shards)

    def generate(self, shards: Sequence[Hashable]) -> Iterator[dict[str, Any]]:
        """Samples of some pieces: `id`, `image` and per task a PIL picture of the stored map or `None`.

        Raises:
            ReadError: at a missing, broken or wrong file unless `on_error` is `"skip"`.
        """
        self.report = ReadReport()
        for shard in shards:
            for sample in self.samples(shard):
                cells = {column: self._cell_or_none(sample, column) for column in ("image",)}
                if cells["image"] is None:
                    continue
                cells |= {task: self._cell_or_none(sample, task) for task in self.tasks}
                self.report.samples += 1
                yield {"id": str(sample), **cells}
        if self.report.problems:
            logger.warning("%s %s: %s", self.name, self.split, self.report)

    def cell(self, sample: Hashable, column: str) -> Image.Image | None:
        """The stored map of a column, read or derived."""
        if self.stored(column):
            return self.read(sample, column)
        inputs, function = DERIVATIONS[column]
        maps = [self._decoded(sample, name) for name in inputs]
        return None if any(item is None for item in maps) else as_picture(self.specs[column].encode(function(*maps, self.camera)))

    def _decoded(self, sample: Hashable, column: str) -> np.ndarray | None:
        picture = self.cell(sample, column)
        if picture is None or column == "image":
            return None if picture is None else np.asarray(picture)
        return self.specs[column].decode(np.asarray(picture))

    def _cell_or_none(self, sample: Hashable, column: str) -> Image.Image | None:
        try:
            return self.cell(sample, column)
        except ReadError as error:
            if self.on_error == "raise":
                raise
            self.report.add(error)
            return None

    def _derivable(self, column: str) -> bool:
        if self.stored(column):
            return True
        inputs, _ = DERIVATIONS.get(column, ((), None))
        needs_camera = any(name != "image" for name in inputs)
        return bool(inputs) and (self.camera is not None or not needs_camera) and all(map(self._derivable, inputs))

    def _selected(self, tasks: Sequence[str] | None) -> list[str]:
        there = [task for task in self.specs if self._derivable(task)]
        lacking = [task for task in tasks or () if task not in there]
        if lacking:
            raise ValueError(
                f"{self.root} has no {', '.join(lacking)}, and it does not follow from what is there; "
                f"stored: {', '.join(filter(self.stored, there)) or 'nothing'}; derived: "
                f"{', '.join(task for task in there if not self.stored(task)) or 'nothing'}"
            )
        return there if tasks is None else list(tasks)


def _generate(reader: BenchmarkReader, shards: list[Hashable]) -> Iterator[dict[str, Any]]:
    """A plain function for `datasets`, which splits the list `shards` among workers."""
    yield from reader.generate(shards)


def convert(reader: BenchmarkReader, output_dir: str | Path) -> Path:
    """Write a reader's split as parquet with a card, so that `datasets.load_dataset(output_dir)` gives it back.

    One file a piece of the split, written beside its final name and then moved, so that an interrupted run leaves no half
    file and goes on where it stopped. Pictures that the reader did not change keep their own bytes. The card lists all
    splits that the directory has.

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
        unfinished = path.with_suffix(".part")
        _write_parquet(reader, shard, unfinished)
        os.replace(unfinished, path)
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
        api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=directory, ignore_patterns="*.part")
