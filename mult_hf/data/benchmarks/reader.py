"""Base class of the readers: a download as samples of the schema, including maps derived from the stored ones.

A reader yields samples of the schema (docs/data.md) and holds only one at a time: `image`, one column per task with the map in
its stored form, and `id`. The reader's task entries describe how to decode the maps.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mult_hf.model.entry_fields import refusal

try:
    from datasets import Features, IterableDataset, Value
    from datasets import Image as ImageFeature
except ImportError as error:
    raise ImportError(f'the readers need the datasets library ({error}); install it with: pip install "mult-hf[data]"') from error

from mult_hf.data.derive import EDGES_GAIN, KEYPOINTS_GAIN, edges2d, heat_map, keypoints2d, normals_from_depth, reshading
from mult_hf.model.tasks import TaskSpec, resolve_tasks

from .errors import ReadError, ReadReport
from .files import as_image

logger = logging.getLogger(__name__)

SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
"""Accepted names of splits, and the name used here for each."""

ON_ERROR = ("raise", "skip")

NORMALS_8BIT: dict[str, Any] = {"dtype": "uint8", "scale": 1 / 127, "offset": -1.0, "unknown": [127]}
"""Encoding of normals that a reader writes itself, in the package's own axes: (127, 127, 127) is the zero vector and means unknown."""

RESHADING_16BIT: dict[str, Any] = {"dtype": "uint16", "scale": 1 / 65534, "unknown": [65535]}
"""Encoding of derived reshading, which is unknown where the geometry is unknown."""


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera shared by a whole data set: focal length and principal point in pixels from the top left corner."""

    focal: float
    principal_point: tuple[float, float] | None = None


# Task -> (source maps, function of these and the camera's intrinsics). `image` is (height, width, 3) uint8, `depth` (1, height,
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
"""Tasks that can be derived from others if a data set lacks them; see [`mult_hf.data.derive`] for definitions and sources."""


class BenchmarkReader(ABC):
    """A downloaded data set as samples of the schema, read lazily.

    Args:
        root: directory of the download.
        split: `"train"`, `"validation"` (or `"val"`) or `"test"`, by the official lists.
        tasks: columns to read, in this order. `None`: all that are stored or can be derived.
        on_error: `"raise"` stops at the first missing, broken or wrong file and names it; `"skip"` leaves such a cell empty (a
            sample without its image is left out), counts it, and reports the counts in the log and in `report`.

    Attributes:
        report: [`ReadReport`] of the last pass in this process.

    Raises:
        ValueError: if the split, a task or `on_error` is unknown, or the download has no files of the split.
    """

    # The keys of shards and samples are of any hashable type, one per reader.
    name: ClassVar[str]
    entries: ClassVar[list[dict[str, Any]]]
    camera: ClassVar[Intrinsics | None] = None

    def __init__(self, root: str | Path, split: str = "train", tasks: Sequence[str] | None = None, on_error: str = "raise") -> None:
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise ValueError(f"{self.root} does not exist; download {self.name} and give its directory")
        if split not in SPLIT_NAMES:
            raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLIT_NAMES)}")
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error is {on_error!r}; allowed: {', '.join(ON_ERROR)}")
        self.split, self.on_error, self.report = SPLIT_NAMES[split], on_error, ReadReport()
        self.specs: dict[str, TaskSpec] = resolve_tasks(self.entries)
        self.shards: list[Any] = self.find_shards()
        self.tasks = self._selected(tasks)

    @abstractmethod
    def find_shards(self) -> list[Any]:
        """Shards of the split, such as buildings, which loader workers divide."""

    @abstractmethod
    def samples(self, shard: Any) -> Iterator[Any]:
        """Keys of a shard's samples; `str` of a key is the sample's `id`."""

    @abstractmethod
    def stored(self, column: str) -> bool:
        """Whether the download has this column (`"image"` or a task) for any sample of the split."""

    @abstractmethod
    def read(self, sample: Any, column: str) -> Image.Image | None:
        """The stored image of a column, or `None` if the data set has none for this sample.

        Raises:
            ReadError: if the file is missing, broken or wrong.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the values of samples beside the download itself, as JSON values."""
        sources = self._sources(self.tasks) - {"image", *self.tasks}
        return {"stored": [column for column in (*self.tasks, *sorted(sources)) if self.stored(column)]}

    def _sources(self, columns: Iterable[str]) -> set[str]:
        """What columns that are not stored are derived from, directly or by other derived ones."""
        found: set[str] = set()
        for column in columns:
            if not self.stored(column):
                found |= {*DERIVATIONS[column][0]} | self._sources(DERIVATIONS[column][0])
        return found

    def task_entries(self) -> list[dict[str, Any]]:
        """The `mult_tasks` record for this reader's output: entries for [`TaskSpec.from_dict`]."""
        by_name = {entry["name"]: entry for entry in self.entries}
        return [by_name[task] for task in self.tasks]

    def features(self) -> Features:
        """Columns of the data set: `id`, `image` and the tasks."""
        return Features({"id": Value("string"), "image": ImageFeature(), **{task: ImageFeature() for task in self.tasks}})

    def to_iterable_dataset(self) -> IterableDataset:
        """A `datasets.IterableDataset` with the shards of the split, which loader workers divide among themselves."""
        return IterableDataset.from_generator(_generate, gen_kwargs={"reader": self, "shards": self.shards}, features=self.features())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.generate(self.shards)

    def generate(self, shards: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """Samples of the given shards: `id`, `image`, and per task a PIL image of the stored map, or `None`.

        Raises:
            ReadError: at a missing, broken or wrong file unless `on_error` is `"skip"`.
        """
        yield from self.generate_samples(sample for shard in shards for sample in self.samples(shard))

    def generate_samples(self, samples: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """Samples with the given keys, as for [`generate`][BenchmarkReader.generate]."""
        self.report = ReadReport()
        for sample in samples:
            cells = {column: self._cell_or_none(sample, column) for column in ("image",)}
            if cells["image"] is None:
                continue
            cells |= {task: self._cell_or_none(sample, task) for task in self.tasks}
            self.report.samples += 1
            yield {"id": str(sample), **cells}
        if self.report.problems:
            logger.warning("%s %s: %s", self.name, self.split, self.report)

    def cell(self, sample: Any, column: str) -> Image.Image | None:
        """The stored map of a column, read or derived."""
        if self.stored(column):
            return self.read(sample, column)
        inputs, function = DERIVATIONS[column]
        maps = [self._decoded(sample, name) for name in inputs]
        return None if any(item is None for item in maps) else as_image(self.specs[column].encode(function(*maps, self.camera)))

    def _decoded(self, sample: Any, column: str) -> np.ndarray | None:
        image = self.cell(sample, column)
        if image is None or column == "image":
            return None if image is None else np.asarray(image)
        return self.specs[column].decode(np.asarray(image))

    def _cell_or_none(self, sample: Any, column: str) -> Image.Image | None:
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
            raise refusal(
                f"{self.root} has no {', '.join(lacking)}, which cannot be derived from its other maps; "
                f"stored: {', '.join(filter(self.stored, there)) or 'nothing'}; derived: "
                f"{', '.join(task for task in there if not self.stored(task)) or 'nothing'}"
            )
        return there if tasks is None else list(tasks)


def _generate(reader: BenchmarkReader, shards: list[Any]) -> Iterator[dict[str, Any]]:
    """Module-level function for `datasets`, which splits the list `shards` among workers."""
    yield from reader.generate(shards)
