"""NYU Depth v2 (Silberman et al., ECCV 2012): 795 training and 654 test images of 480 x 640, Kinect depth, 40 classes.

Three protocols are in use, and their results are not comparable:

- **NYUD_MT** (480 x 640, 40 classes, boundaries), used by PAD-Net, MTI-Net, ATRC, InvPT and TaskPrompter. Supported.
- **The labelled .mat** from the data set's own page (894 raw classes, mapped to 40). Supported.
- **288 x 384, 13 classes, -1 unknown** (MTAN, https://github.com/lorenmt/mtan). Not supported: its maps were resized before
  publication.

Files of NYUD_MT as in https://github.com/facebookresearch/astmt (`fblib/dataloaders/nyud.py`) and its successors: `images/*.jpg`,
`segmentation/*.png` (0 none, 1 to 40), `depth/*.npy` (metres, 0 unknown), `normals/*.npy` (zero vector unknown), `edge/*.npy`,
`gt_sets/train.txt` and `gt_sets/val.txt`. The .mat: https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html.

`mult-hf convert nyuv2 ROOT_OR_MAT --split test` reads a whole split and reports problems.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mult_hf.model.entry_fields import refusal

from .errors import ReadError
from .files import as_image, load_splits, read_array, read_image_file
from .reader import NORMALS_8BIT, RESHADING_16BIT, BenchmarkReader, Intrinsics

CLASS_NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter", "blinds",
    "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books", "refrigerator",
    "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp",
    "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip
"""The 40 classes of Gupta et al. (CVPR 2013), in the order of their ids, from 1."""

TASKS: list[dict[str, Any]] = [
    {"name": "segmentation", "class_names": list(CLASS_NAMES), "encoding": {"dtype": "uint8", "offset": -1.0, "unknown": [0]}},
    {"name": "depth", "encoding": {"dtype": "float32", "unknown": [0.0]}},
    {"name": "normals", "encoding": NORMALS_8BIT},
    {
        "name": "boundaries",
        "kind": "regression",
        "channels": 1,
        "activation": "sigmoid",
        "loss": "balanced_binary_cross_entropy",
        "unit": "[0, 1]",
        "value_range": [0.0, 1.0],
        "encoding": {"dtype": "float32"},
        "colormap": "gray",
        "description": "Borders between labelled regions; scored as odsF with maxDist 0.011 in the literature.",
    },
    {"name": "keypoints2d"},
    {"name": "edges2d"},
    {"name": "reshading", "encoding": RESHADING_16BIT},
]
"""Task entries of NYUv2 in both layouts. Keypoints, edges and reshading are derived; for the .mat, normals are derived too."""

# Intrinsics of the colour camera in the data set's toolbox (camera_params.m): fx 518.858, fy 519.470, and the centre
# (325.582, 253.736) in MATLAB's coordinates, where the first pixel's centre is 1; here it is 0.5.
_CAMERA = Intrinsics(focal=(518.858 + 519.470) / 2, principal_point=(325.082, 253.236))

_PIECE = 100
"""Samples per shard: the unit that a loader worker reads."""


class NYUDMTReader(BenchmarkReader):
    """NYUv2 in the NYUD_MT layout as samples of the schema.

    Args:
        root: directory with `images`, `segmentation`, `depth`, `normals`, `edge` and `gt_sets`.
        split: `"train"` (795), or `"validation"`, `"val"` or `"test"`, which all mean the 654 test images of `gt_sets/val.txt`.
        tasks: see [`BenchmarkReader`].
        on_error: see [`BenchmarkReader`].
        normals_signs: factors that convert the stored normals to x right, y up, z towards the viewer. The layout's axes are
            undocumented. The default assumes x right, y down, z towards the viewer, which
            https://github.com/alexsax/2D-3D-Semantics/issues/13 describes as NYU's colouring. Look at the checker's sheet:
            floors must point up.
    """

    name: ClassVar[str] = "NYUv2 (NYUD_MT)"
    entries: ClassVar[list[dict[str, Any]]] = TASKS
    camera: ClassVar[Intrinsics | None] = _CAMERA

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        tasks: Sequence[str] | None = None,
        on_error: str = "raise",
        normals_signs: Sequence[float] = (1.0, -1.0, 1.0),
    ) -> None:
        self.normals_signs = tuple(normals_signs)
        super().__init__(root, split, tasks, on_error)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the values of samples, see [`BenchmarkReader`]."""
        return {**super().settings, "normals_signs": [float(sign) for sign in self.normals_signs]}

    def find_shards(self) -> list[tuple[str, ...]]:
        """Names of the split's images, divided into shards.

        Raises:
            ValueError: if the list of the split is missing or empty.
        """
        path = self.root / "gt_sets" / ("train.txt" if self.split == "train" else "val.txt")
        if not path.is_file():
            raise ValueError(f"{path} does not exist, so {self.root} is not in the NYUD_MT layout; give a directory with gt_sets")
        names = path.read_text().split()
        if not names:
            raise ValueError(f"{path} is empty, expected one image name per line; download it again")
        return [tuple(names[start : start + _PIECE]) for start in range(0, len(names), _PIECE)]

    def samples(self, shard: tuple[str, ...]) -> Iterator[str]:
        """Names of the images in a shard."""
        yield from shard

    def stored(self, column: str) -> bool:
        """Whether the column's folder exists."""
        return column in _NYUD_MT and (self.root / _NYUD_MT[column]).is_dir()

    def read(self, sample: str, column: str) -> Image.Image:
        """The image of a sample; see [`BenchmarkReader.read`]."""
        path = self.root / _NYUD_MT[column] / sample
        if column == "image":
            image = read_image_file(path.with_suffix(".jpg"), "uint8")
            return image if image.mode == "RGB" else image.convert("RGB")
        if self.specs[column].is_classification:
            return read_image_file(path.with_suffix(".png"), "uint8")
        path = path.with_suffix(".npy")
        if self.specs[column].channels == 3:  # vectors are stored as 8-bit images
            return as_image(self.specs[column].encode(_unit_normals(path, self.normals_signs)))
        return as_image(read_array(path, axes=2).astype(np.float32))


_NYUD_MT = {"image": "images", "segmentation": "segmentation", "depth": "depth", "normals": "normals", "boundaries": "edge"}


def _unit_normals(path: Path, signs: Sequence[float]) -> np.ndarray:
    """Normals (3, height, width) in the package's axes, NaN where the file has no vector."""
    vectors = read_array(path, axes=3).astype(np.float32)
    vectors = np.moveaxis(vectors, -1, 0) if vectors.shape[-1] == 3 else vectors
    if len(vectors) != 3:
        raise ReadError("wrong content", path, f"has shape {vectors.shape}, expected (height, width, 3)")
    length = np.linalg.norm(vectors, axis=0)
    known = length > 0.01
    if known.any() and np.abs(length[known] - 1).max() > 0.1:
        raise ReadError("wrong content", path, f"holds vectors of length {length[known].max():.3g}, expected 1, or 0 where unknown")
    return np.where(known, vectors / np.where(known, length, 1) * np.reshape(signs, (3, 1, 1)), np.nan)


class NYULabeledReader(BenchmarkReader):
    """NYUv2's labelled .mat (HDF5) as samples of the schema.

    Depth is the field `depths`. The authors filled in pixels that the Kinect did not measure, so derived normals and reshading
    are smooth there. Raw classes are mapped to 40 as in classMapping40.mat.

    Args:
        root: the file, or its directory.
        split: `"train"` (795), or `"validation"`, `"val"` or `"test"`, which all mean the 654 test images.
        tasks: see [`BenchmarkReader`].
        on_error: see [`BenchmarkReader`].
    """

    name: ClassVar[str] = "NYUv2 (labelled .mat)"
    entries: ClassVar[list[dict[str, Any]]] = [entry for entry in TASKS if entry["name"] != "boundaries"]
    camera: ClassVar[Intrinsics | None] = _CAMERA
    file_name: ClassVar[str] = "nyu_depth_v2_labeled.mat"

    def __init__(self, root: str | Path, split: str = "train", tasks: Sequence[str] | None = None, on_error: str = "raise") -> None:
        self._file = None
        record = load_splits("nyuv2")
        self._test = set(record["test"])
        self._class_of = np.full(record["raw_classes"] + 1, len(CLASS_NAMES), np.uint8)
        self._class_of[0] = 0
        for class_id, raw_ids in record["raw_ids_of_class"].items():
            self._class_of[raw_ids] = int(class_id)
        super().__init__(root, split, tasks, on_error)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the open file, which cannot be sent to a worker process."""
        return {**self.__dict__, "_file": None}

    @property
    def path(self) -> Path:
        """Path of the .mat file."""
        return self.root / self.file_name if self.root.is_dir() else self.root

    @property
    def file(self) -> Any:
        """The open HDF5 file, with transposed arrays: (images, 3, width, height), (images, width, height).

        Raises:
            ValueError: if the file is missing, not HDF5, or lacks a field.
        """
        if self._file is None:
            self._file = _open_labeled(self.path)
        return self._file

    def find_shards(self) -> list[tuple[int, ...]]:
        """Numbers of the split's images, counted from 1 as in the official list, divided into shards."""
        images = len(self.file["images"])
        numbers = [n for n in range(1, images + 1) if (n in self._test) != (self.split == "train")]
        if not numbers:
            raise ValueError(f"{self.path} holds {images} images, none of split {self.split!r}; download the full file of 1449 images")
        return [tuple(numbers[start : start + _PIECE]) for start in range(0, len(numbers), _PIECE)]

    def samples(self, shard: tuple[int, ...]) -> Iterator[int]:
        """Numbers of the images in a shard."""
        yield from shard

    def stored(self, column: str) -> bool:
        """Whether the .mat has the column."""
        return column in _LABELED

    def read(self, sample: int, column: str) -> Image.Image:
        """The image of a sample; see [`BenchmarkReader.read`]."""
        field = _LABELED[column]
        try:
            values = self.file[field][sample - 1].T  # MATLAB's axes are in reverse order
        except OSError as error:
            raise ReadError("broken file", self.path, f"{field} of image {sample} cannot be read ({error}); download it again") from None
        if field == "labels":
            if values.max() >= len(self._class_of):
                raise ReadError("wrong content", self.path, f"image {sample} has raw class {values.max()}, expected at most 894")
            values = self._class_of[values]
        return Image.fromarray(np.ascontiguousarray(values))


_LABELED = {"image": "images", "segmentation": "labels", "depth": "depths"}


def _open_labeled(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f'the labelled .mat of NYUv2 needs h5py ({error}); install it with: pip install "mult-hf[nyuv2]"') from error
    if not path.is_file():
        raise ValueError(f"{path} does not exist; download {NYULabeledReader.file_name} (2.8 GB) from the page of NYU Depth v2")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a complete HDF5 file ({error}; {path.stat().st_size} bytes); download it again") from None
    lacking = [field for field in _LABELED.values() if field not in file]
    if lacking:
        raise refusal(f"{path} lacks {', '.join(lacking)}; it has {', '.join(file)}. Is it {NYULabeledReader.file_name}?")
    return file


def open_nyuv2(
    root: str | Path,
    split: str = "train",
    tasks: Sequence[str] | None = None,
    on_error: str = "raise",
    normals_signs: Sequence[float] = (1.0, -1.0, 1.0),
) -> BenchmarkReader:
    """Open NYUv2 as samples of the schema, in whichever of the two layouts is at `root`.

    Args:
        root: the labelled .mat, a directory with it, or a directory in the NYUD_MT layout.
        split: see [`NYUDMTReader`].
        tasks: see [`BenchmarkReader`].
        on_error: see [`BenchmarkReader`].
        normals_signs: see [`NYUDMTReader`]; not used for the .mat, whose normals are derived.
    """
    path = Path(root).expanduser()
    if path.is_file() or (path / NYULabeledReader.file_name).is_file():
        return NYULabeledReader(path, split, tasks, on_error)
    return NYUDMTReader(path, split, tasks, on_error, normals_signs)
