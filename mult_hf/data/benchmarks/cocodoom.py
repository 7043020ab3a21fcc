"""CocoDoom (Mahendran et al., arXiv 1610.02431): recordings of Doom at 320 x 200 with depth and object maps.

Files and splits: https://github.com/vlfeat/researchdoom, the recording engine: https://github.com/vlfeat/researchdoom-chocolate.

    {root}/run{R}/map{MM}/{rgb,depth,objects}/{tic:06d}.png
    {root}/{run,map}-{train,val,test}.json  and  {root}/{run,map}-full-{train,val,test}.json      (MS COCO)

The smaller archive has the images and the JSON only: its segmentation is drawn from the polygons, and all other pixels are
unknown. `mult-hf convert cocodoom ROOT --split val --by map` reads a whole split and reports problems.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .errors import ReadError
from .files import load_splits, read_image_file
from .reader import NORMALS_8BIT, RESHADING_16BIT, BenchmarkReader, Intrinsics

METRES_PER_MAP_UNIT = 1 / 32
"""Doom has no metres. With 32 map units per metre, the player (56 units) is 1.75 m tall."""

_FIRST_SURFACE = 2**23
SURFACES = ("sky", "floor or ceiling", "wall")
"""What the ids 2^23, 2^23 + 1 and 2^23 + 2 of object maps mean (`rdmObjectId` in the engine's research.h)."""

THINGS: tuple[str, ...] = tuple(load_splits("cocodoom")["things"])
"""The engine's 137 types of things, in the order of the annotations' `category_id` (from 0)."""

CLASS_NAMES = SURFACES + THINGS

TASKS: list[dict[str, Any]] = [
    {"name": "segmentation", "class_names": list(CLASS_NAMES), "encoding": {"dtype": "uint8", "offset": -1.0, "unknown": [0]}},
    {
        # 1/64 map unit; the sky has the largest possible depth, and 0 means that nothing was drawn.
        "name": "depth",
        "value_range": [0.0, 32.0],
        "encoding": {"dtype": "uint16", "scale": METRES_PER_MAP_UNIT / 64, "unknown": [65535, 0]},
    },
    {"name": "normals", "encoding": NORMALS_8BIT},
    {"name": "keypoints2d"},
    {"name": "edges2d"},
    {"name": "reshading", "encoding": RESHADING_16BIT},
]
"""Task entries of CocoDoom. Normals and reshading are derived from depth, keypoints and edges from the image."""

_FILE_NAME = re.compile(r"run(\d+)/map(\d+)/rgb/(\d+)\.png")


class FrameKey(NamedTuple):
    """Key of a sample: run, map and tic, and the COCO id that its annotations refer to."""

    run: int
    map: int
    tic: int
    image_id: int

    def __str__(self) -> str:
        return f"run{self.run}/map{self.map:02d}/{self.tic:06d}"


_FINER = 9
"""Pixels of the canvas for polygons per pixel of the image; odd, so that one of them is in the middle. Pillow also fills the outline of a
polygon, so a middle within a ninth of a pixel of a slanted side may count as inside."""

_FILES = {"image": ("rgb", "uint8"), "depth": ("depth", "uint16")}
"""Columns that are stored as separate files: folder and type of the stored values."""


class CocoDoomReader(BenchmarkReader):
    """CocoDoom as samples of the schema.

    The COCO file of the split is read once (annotations only); images are read one frame at a time.

    Args:
        root: directory with `run1`, `run2`, `run3` and the JSON files.
        split: `"train"`, `"validation"` (or `"val"`) or `"test"`.
        tasks: see [`BenchmarkReader`].
        on_error: see [`BenchmarkReader`].
        by: `"run"` (runs 1, 2, 3 are train, validation, test) or `"map"` ((map - 1) mod 4 = 0 and 1, 2, 3).
        subset: `"standard"` (every 5th frame of the training split, every 20th of the others) or `"full"`.
    """

    name: ClassVar[str] = "CocoDoom"
    entries: ClassVar[list[dict[str, Any]]] = TASKS
    # Field of view 90 degrees, corrected by 1.0007; optical centre at pixel W / 2 + 1, counted from 1 as in MATLAB: rdmGetWarp.m.
    camera: ClassVar[Intrinsics | None] = Intrinsics(focal=160 / 1.0007, principal_point=(160.5, 100.5))

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        tasks: Sequence[str] | None = None,
        on_error: str = "raise",
        by: str = "run",
        subset: str = "standard",
    ) -> None:
        if by not in ("run", "map"):
            raise ValueError(f"by is {by!r}; CocoDoom is split by 'run' or by 'map'")
        if subset not in ("standard", "full"):
            raise ValueError(f"subset is {subset!r}; allowed: standard, full")
        self.by, self.subset = by, subset
        self._frames: dict[tuple[int, int], list[FrameKey]] = defaultdict(list)
        self._annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
        super().__init__(root, split, tasks, on_error)

    @property
    def annotation_path(self) -> Path:
        """The COCO file of the split."""
        full = "full-" if self.subset == "full" else ""
        return self.root / f"{self.by}-{full}{'val' if self.split == 'validation' else self.split}.json"

    @property
    def settings(self) -> dict[str, Any]:
        """See [`BenchmarkReader`]; classes come from object maps where the full archive has them."""
        if all(task in _FILES or not self.stored(task) for task in self.tasks):
            return super().settings
        return {**super().settings, "levels_with_objects": sum((self._folder(*shard) / "objects").is_dir() for shard in self.shards)}

    def find_shards(self) -> list[tuple[int, int]]:
        """Pairs of run and map with frames in the split's COCO file.

        Raises:
            ValueError: if the file is missing, is broken, or lists frames of another split.
        """
        path = self.annotation_path
        if not path.is_file():
            raise ValueError(f"{path} does not exist; both archives of CocoDoom contain it, and it lists the frames of the split")
        try:
            record = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is broken ({error}; {path.stat().st_size} bytes); download it again") from None
        official = load_splits("cocodoom")[self.by][self.split]
        for entry in record["images"]:
            frame = _frame_of(path, entry)
            if frame.run not in official["runs"] or frame.map not in official["maps"]:
                raise ValueError(f"{path} lists {frame}, which is not in {self.split} when split by {self.by}; download it again")
            self._frames[frame.run, frame.map].append(frame)
        for annotation in record["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        if not self._frames:
            raise ValueError(f"{path} lists no images; download it again")
        return sorted(self._frames)

    def samples(self, shard: tuple[int, int]) -> Iterator[FrameKey]:
        """Frames of one map in one run, in order of time."""
        yield from sorted(self._frames[shard])

    def stored(self, column: str) -> bool:
        """Whether the archive has the column; both archives have segmentation, as object maps or as polygons."""
        folder = {"image": "rgb", "segmentation": "rgb", "depth": "depth"}.get(column)
        return folder is not None and any((self._folder(*shard) / folder).is_dir() for shard in self.shards)

    def read(self, sample: FrameKey, column: str) -> Image.Image:
        """The image of a frame; see [`BenchmarkReader.read`]."""
        folder, file_name = self._folder(sample.run, sample.map), f"{sample.tic:06d}.png"
        if column in _FILES:
            name, dtype = _FILES[column]
            image = read_image_file(folder / name / file_name, dtype)
            return image.convert("RGB") if image.mode == "P" else image  # RGB images are stored with palettes
        if (folder / "objects").is_dir():
            return self._from_objects(sample, folder / "objects" / file_name)
        return self._from_polygons(sample, folder / "rgb" / file_name)

    def _folder(self, run: int, level: int) -> Path:
        return self.root / f"run{run}" / f"map{level:02d}"

    def _from_objects(self, sample: FrameKey, path: Path) -> Image.Image:
        """Classes from an object map, whose 24-bit ids are red + 256 green + 65536 blue (rdmGetFrame.m)."""
        image = np.asarray(read_image_file(path, "uint8"))
        if image.ndim != 3:
            raise ReadError("wrong content", path, f"has shape {image.shape}, expected (height, width, 3): ids have 24 bits")
        ids, where = np.unique(image[..., :3].astype(np.int64) @ np.array([1, 2**8, 2**16]), return_inverse=True)
        stored_of = {_FIRST_SURFACE + number: number + 1 for number in range(len(SURFACES))}
        for annotation in self._annotations[sample.image_id]:
            # An annotation's id is image_id * 10^6 + the thing's own id, of which the map holds the lower 23 bits.
            stored_of[(annotation["id"] - sample.image_id * 10**6) % _FIRST_SURFACE] = self._stored_class(annotation)
        return Image.fromarray(np.array([stored_of.get(int(i), 0) for i in ids], np.uint8)[where].reshape(image.shape[:2]))

    def _from_polygons(self, sample: FrameKey, rgb_path: Path) -> Image.Image:
        """Classes of things by the COCO polygon that the middle of each pixel lies in; integer coordinates are corners of pixels."""
        width, height = read_image_file(rgb_path, "uint8").size
        finer = Image.new("L", (width * _FINER, height * _FINER), 0)
        draw = ImageDraw.Draw(finer)
        for annotation in self._annotations[sample.image_id]:
            for polygon in annotation["segmentation"]:
                corners = np.asarray(polygon, np.float64).reshape(-1, 2) * _FINER - 0.5
                if len(corners) > 1:
                    draw.polygon([tuple(corner) for corner in corners.tolist()], fill=self._stored_class(annotation))
        return Image.fromarray(np.asarray(finer)[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER])

    def _stored_class(self, annotation: dict[str, Any]) -> int:
        category = annotation["category_id"]
        if not 0 <= category < len(THINGS):
            number, last = annotation["id"], len(THINGS) - 1
            raise ReadError("wrong content", self.annotation_path, f"annotation {number} has category {category}, expected 0 to {last}")
        return len(SURFACES) + category + 1


def _frame_of(path: Path, entry: dict[str, Any]) -> FrameKey:
    match = _FILE_NAME.search(entry["file_name"])
    if match is None:
        raise ValueError(f"{path} lists the image {entry['file_name']!r}, expected run1/map01/rgb/000001.png")
    return FrameKey(int(match[1]), int(match[2]), int(match[3]), entry["id"])
