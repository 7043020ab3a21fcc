"""Reader for a download of Taskonomy (Zamir et al., CVPR 2018).

Folders and encodings: https://github.com/StanfordVL/taskonomy/tree/master/data, bit depths also
https://github.com/EPFL-VILAB/omnidata/tree/main/omnidata_tools/dataset. Supported layouts, the last two from the Omnidata tools:

    {root}/{folder}/{building}/point_{P}_view_{V}_domain_{domain}.png
    {root}/{building}_{folder}/{folder}/point_{P}_view_{V}_domain_{domain}.png
    {root}/{building}/{folder}/...    and    {root}/{folder}/taskonomy/{building}/...

`mult-hf convert taskonomy ROOT --split train --subset tiny` reads a whole split and reports problems.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
from PIL import Image

from mult_hf.data.derive import EDGES_GAIN, KEYPOINTS_GAIN

from .errors import ReadError
from .files import as_image, load_splits, read_image_file
from .reader import BenchmarkReader, logger

SUBSETS = ("tiny", "medium", "full", "fullplus")

FOLDERS = {
    "image": "rgb",
    "segmentation": "segment_semantic",
    "depth": "depth_zbuffer",
    "depth_euclidean": "depth_euclidean",
    "normals": "normal",
    "keypoints2d": "keypoints2d",
    "edges2d": "edge_texture",
    "edge_occlusion": "edge_occlusion",
    "reshading": "reshading",
    "principal_curvature": "principal_curvature",
}
"""Column -> folder of the download."""

_DOMAINS = {"segment_semantic": ("segmentsemantic", "segment_semantic")}  # elsewhere the domain is the folder's name
_LAYOUTS = ("{folder}/{building}", "{building}_{folder}/{folder}", "{building}/{folder}", "{folder}/{component}/{building}")
_RGB_NAME = re.compile(r"point_(\d+)_view_(\d+)_domain_rgb\.png")

_MISSING_DEPTH = 65535
_NO_NORMAL = 127

# The heat maps are stored as response * 65535 (create_edge_2d_images.py and create_keypoints_2d_images.py of the Omnidata
# annotator). They are multiplied by the gains of `mult_hf.data.derive` and clamped at 1, so that they mean the same in all data
# sets; for edges that is the usual clamp at 0.25 (`clamp_to` in the Omnidata task_configs.py).
_GAINS = {"edges2d": EDGES_GAIN, "keypoints2d": KEYPOINTS_GAIN}

_DEPTH = {"dtype": "uint16", "scale": 1 / 512, "unknown": [_MISSING_DEPTH, 0], "maximum": 8192}  # beyond 16 m it is noise

TASKS: list[dict[str, Any]] = [
    {"name": "segmentation"},
    {"name": "depth", "value_range": [0.0, 16.0], "encoding": _DEPTH},
    {
        "name": "depth_euclidean",
        "kind": "regression",
        "channels": 1,
        "activation": "sigmoid",
        "loss": "rotate_l1",
        "metrics": ["rmse", "abs_rel", "delta1"],
        "unit": "m",
        "value_range": [0.0, 16.0],
        "encoding": _DEPTH,
        "zoom_exponent": -1.0,
        "colormap": "turbo",
        "description": "Distance from the camera's centre in metres.",
    },
    {
        # x right, y down, z into the scene, centred at 127. Holes in the mesh are grey (127 or 128).
        "name": "normals",
        "encoding": {
            "dtype": "uint8",
            "scale": [1 / 127.5, -1 / 127.5, -1 / 127.5],
            "offset": [-127 / 127.5, 127 / 127.5, 127 / 127.5],
            "unknown": [_NO_NORMAL, 128],
        },
    },
    {"name": "keypoints2d", "encoding": {"dtype": "uint16", "scale": KEYPOINTS_GAIN / 65535}},
    {"name": "edges2d", "encoding": {"dtype": "uint16", "scale": EDGES_GAIN / 65535}},
    {
        "name": "edge_occlusion",
        "kind": "regression",
        "channels": 1,
        "unit": "[0, 1]",
        "value_range": [0.0, 1.0],
        "encoding": {"dtype": "uint16", "scale": 1 / 65535, "unknown": [65535]},
        "resample": "bilinear",
        "colormap": "gray",
        "description": "Magnitude of depth edges.",
    },
    {"name": "reshading", "encoding": {"dtype": "uint16", "scale": 1 / 255, "unknown": [65535]}},
    {
        "name": "principal_curvature",
        "kind": "regression",
        "channels": 2,
        "unit": "128 grey levels",
        "value_range": [-1.0, 1.0],
        "encoding": {"dtype": "uint8", "scale": 1 / 128, "offset": -127 / 128, "unknown": [255], "channels": [0, 1]},
        "colormap": "vectors",
        "description": "The two principal curvatures, as stored around 127.",
    },
]
"""Task entries of Taskonomy, the `mult_tasks` record."""


class ViewKey(NamedTuple):
    """Key of a sample: the building and `point_{P}_view_{V}`."""

    building: str
    stem: str

    def __str__(self) -> str:
        return f"{self.building}/{self.stem}"


class _HoleMark(NamedTuple):
    """How a map of the geometry is stored so that holes in the scan are unknown in it."""

    value: int
    """Stored in holes; an `unknown` value of the task's encoding."""
    highest: int | None = None
    """Largest value that is kept, if `value` may occur in the files as a measurement."""
    dtype: str | None = None
    """Type of the stored map, if the files' own has no value to spare."""


_DEPTH_COLUMNS = ("depth", "depth_euclidean")  # the first one that a view has shows the holes

# What files hold in a hole is not documented. The training code of Taskonomy and of the Omnidata tools leaves these pixels out in all
# maps of the geometry (`depth_mask` in the former's configurations, `mask_valid` in the latter).
_HOLE_MARKS = {
    "normals": _HoleMark(_NO_NORMAL),
    "edge_occlusion": _HoleMark(65535, highest=65534),
    "reshading": _HoleMark(65535, dtype="uint16"),
    "principal_curvature": _HoleMark(255, highest=254),
}


class TaskonomyReader(BenchmarkReader):
    """Taskonomy as samples of the schema.

    Args:
        root: directory of the download, in one of the layouts above. Missing buildings are left out with a warning.
        split: by the official lists, see `mult_hf/data/benchmarks/splits/taskonomy.json`.
        tasks: see [`BenchmarkReader`]; `depth` is the z-buffer.
        on_error: see [`BenchmarkReader`].
        subset: `"tiny"` (25, 5, 5 buildings), `"medium"`, `"full"` or `"fullplus"`.
        without: buildings to leave out; users often drop wiconisco from tiny's validation split because of its bad viewpoints.
    """

    name: ClassVar[str] = "Taskonomy"
    entries: ClassVar[list[dict[str, Any]]] = TASKS
    component: ClassVar[str] = "taskonomy"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        tasks: Sequence[str] | None = None,
        on_error: str = "raise",
        subset: str = "tiny",
        without: Sequence[str] = (),
    ) -> None:
        self.subset, self.without = subset, tuple(without)
        super().__init__(root, split, tasks, on_error)

    def find_shards(self) -> list[str]:
        """Buildings of the split that have an `rgb` folder.

        Raises:
            ValueError: if the subset is unknown, or no building of the split was downloaded.
        """
        subsets = {name: lists for name, lists in load_splits(self.component).items() if name != "source"}
        if self.subset not in subsets:
            raise ValueError(f"unknown subset {self.subset!r}; {self.name} has {', '.join(subsets)}")
        wanted = [building for building in subsets[self.subset][self.split] if building not in self.without]
        found = [building for building in wanted if self._folder(building, "image") is not None]
        if not found:
            raise ValueError(
                f"none of the {len(wanted)} buildings of {self.subset}/{self.split} ({', '.join(wanted[:3])}, ...) has an rgb folder "
                f"below {self.root}; expected for example {self.root / 'rgb' / wanted[0] if wanted else self.root}"
            )
        if len(found) < len(wanted):
            lacking = [building for building in wanted if building not in found]
            logger.warning("%s: %d of %d are not below %s: %s", self.name, len(lacking), len(wanted), self.root, ", ".join(lacking))
        return found

    def samples(self, shard: str) -> Iterator[ViewKey]:
        """Views of a building in order of point and view."""
        folder = cast(Path, self._folder(shard, "image"))  # `find_shards` lists buildings that have it
        names = (_RGB_NAME.fullmatch(path.name) for path in folder.iterdir())
        for point, view in sorted((int(match[1]), int(match[2])) for match in names if match):
            yield ViewKey(shard, f"point_{point}_view_{view}")

    def stored(self, column: str) -> bool:
        """Whether any building of the split has the column's folder."""
        return column in FOLDERS and any(self._folder(building, column) is not None for building in self.shards)

    @property
    def settings(self) -> dict[str, Any]:
        """See [`BenchmarkReader`]; depth maps decide what is unknown in other maps, so the buildings that have them are counted."""
        if not _HOLE_MARKS.keys() & set(self.tasks):
            return super().settings
        with_depth = {column: sum(self._folder(building, column) is not None for building in self.shards) for column in _DEPTH_COLUMNS}
        return {**super().settings, "buildings_with_depth": with_depth}

    def read(self, sample: ViewKey, column: str) -> Image.Image:
        """The image of a view; see [`BenchmarkReader.read`]."""
        image = read_image_file(self.path(sample, column), self._file_dtype(column))
        if column == "image":
            return image if image.mode == "RGB" else image.convert("RGB")
        if column in _GAINS:
            return as_image(np.minimum(np.asarray(image), int(65535 / _GAINS[column])).astype(np.uint16))
        return self._with_marked_holes(sample, image, _HOLE_MARKS[column]) if column in _HOLE_MARKS else image

    def path(self, sample: ViewKey, column: str) -> Path:
        """Path of a view's image; if it is missing, its path in the first layout."""
        folder = FOLDERS[column]
        directory = self._folder(sample.building, column) or self.root / folder / sample.building
        paths = [directory / f"{sample.stem}_domain_{domain}.png" for domain in _DOMAINS.get(folder, (folder,))]
        return next((path for path in paths if path.is_file()), paths[0])

    def _file_dtype(self, column: str) -> str:
        eight_bits = column == "image" or (column in _HOLE_MARKS and _HOLE_MARKS[column].dtype is not None)
        return "uint8" if eight_bits else self.specs[column].encoding.dtype

    def _with_marked_holes(self, sample: ViewKey, image: Image.Image, mark: _HoleMark) -> Image.Image:
        """Mark a map of the geometry as unknown where the scan has holes: where a depth map of the view is missing.

        Raises:
            ReadError: if the depth map is broken, or of another size.
        """
        stored = np.asarray(image)
        if mark.dtype is not None:
            stored = stored.reshape(*stored.shape[:2], -1)[..., 0].astype(mark.dtype)
        marked = np.array(stored) if mark.highest is None else np.minimum(stored, mark.highest).astype(stored.dtype)
        marked[self._holes(sample, image.size)] = mark.value
        if mark.dtype is None and np.array_equal(marked, stored):
            return image  # a conversion copies the bytes of its file
        return as_image(marked if marked.ndim == 2 else np.moveaxis(marked, -1, 0))

    def _holes(self, sample: ViewKey, size: tuple[int, int]) -> np.ndarray:
        """Where the scan of a view has holes, (height, width) bool; nowhere if no depth map was downloaded."""
        path = next((path for name in _DEPTH_COLUMNS if (path := self.path(sample, name)).is_file()), None)
        if path is None:
            return np.zeros(size[::-1], bool)
        depth = read_image_file(path, "uint16")
        if depth.size != size:
            came, others = (f"{width} x {height} pixels" for width, height in (depth.size, size))
            raise ReadError("wrong content", path, f"is {came}, but other maps of the view are {others}")
        return np.asarray(depth) == _MISSING_DEPTH

    def _folder(self, building: str, column: str) -> Path | None:
        folders = (self.root / layout.format(folder=FOLDERS[column], building=building, component=self.component) for layout in _LAYOUTS)
        return next((folder for folder in folders if folder.is_dir()), None)
