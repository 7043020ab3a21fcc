"""Prediction inputs: images and videos from files, folders and patterns, or rows of a data set, read one at a time.

Every image has a name that is unique within a run and does not depend on which other files exist, so that later runs find its
predictions. For files, it is the path below the inputs' common folder, with suffix (`a/x.jpg` and `a/x.png` are two images); for
videos, the path and the frame's number (`clip.mp4/000012`); for rows, the row's number and `id`.

An unreadable input becomes a [`FailedInput`] with its reason and does not affect the others.
"""

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from mult_hf.model.entry_fields import refusal
from mult_hf.model.images import read_image

from .videos import VideoError, count_frames, decode_video, upright

if TYPE_CHECKING:
    from datasets import Dataset

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
))
HEIF_SUFFIXES = frozenset((".heic", ".heif"))
VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"))
# fmt: on


class SourceRecord(NamedTuple):
    """The source of an image, for detecting another image under the same name.

    Args:
        digest: digest of the contents of the image's file, video or row.
        stamp: size and times of the file; equal stamps mean equal contents. Empty if there is no file.
    """

    digest: str
    stamp: str = ""


class InputImage(NamedTuple):
    """An image that has not been read yet.

    Args:
        name: name of its predictions, as a relative path.
        read: returns the upright RGB image, or raises.
        digest: returns the digest of the contents, or raises.
        stamp: returns the stamp, or raises.
        focal_length: of the image in its own pixels, or None where only the image itself may state it.
    """

    name: str
    read: Callable[[], Image.Image]
    digest: Callable[[], str]
    stamp: Callable[[], str] = str  # empty
    focal_length: float | None = None

    def record(self) -> SourceRecord:
        """The record of the source; call it before reading, so that a file that changes meanwhile does not match it."""
        stamp = self.stamp()
        return SourceRecord(self.digest(), stamp)


class FailedInput(NamedTuple):
    """An input without predictions, and the reason."""

    name: str
    reason: str

    @classmethod
    def from_error(cls, name: str, error: BaseException) -> "FailedInput":
        """Create one whose reason is the error's message, or its class if the message is empty."""
        return cls(name, str(error) or type(error).__name__)


class SkippedInput(NamedTuple):
    """An image whose predictions exist already."""

    name: str


class Source(Protocol):
    """Images in a fixed order, with an estimate of their number."""

    def __iter__(self) -> Iterator[InputImage | FailedInput]: ...

    def __len__(self) -> int: ...


class DivisibleSource(Source, Protocol):
    """A source whose parts are predicted in different processes."""

    def parts(self) -> Sequence[Any]:
        """Bytes or integers that stand for the parts."""

    def part(self, parts: Sequence[Any]) -> "DivisibleSource":
        """A source of these parts only; without any, it is small enough to be sent to every process."""

    def is_image(self, part: Any) -> bool:
        """Whether a part is one image, and not a video."""


# --- files --------------------------------------------------------------------------------------------------------------------


class FoundFiles(NamedTuple):
    """Files to predict.

    Args:
        root: the inputs' common folder.
        paths: paths of images, videos and folders that cannot be searched, sorted, without duplicates.
        ignored: number of other files in folders, by suffix.
    """

    root: Path
    paths: list[Path]
    ignored: Counter[str]


def find_files(inputs: Sequence[str], leave_out: Path) -> FoundFiles:
    """Find images and videos.

    Args:
        inputs: files, folders (searched recursively), and patterns with `*`, `?`, `[]` and `**`. A file given by its own path is
            used whatever its suffix. Hidden files are left out.
        leave_out: folder to leave out of the search, because predictions are written there.

    Returns:
        [`FoundFiles`].

    Raises:
        ValueError: if an input does not exist, or there is no image or video.
    """
    roots: list[Path] = []
    paths: dict[Path, None] = {}  # a set in order
    ignored: Counter[str] = Counter()
    for text in inputs:
        root, named = _matches(text)
        roots.append(root)
        for path in named:
            inside = _walk(path, Path(os.path.abspath(leave_out))) if path.is_dir() else [path]
            for file in inside:
                if path.is_dir() and file.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not file.is_dir():
                    ignored[file.suffix.lower()] += 1
                else:
                    paths[file] = None
    if not paths:
        others = f"ignored by suffix: {dict(ignored)}" if ignored else "it is empty" if len(inputs) == 1 else "they are empty"
        raise refusal(f"there is no image or video in {', '.join(inputs)}; {others}")
    return FoundFiles(Path(os.path.commonpath(roots)), sorted(paths), ignored)


def _matches(text: str) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files and folders of one input."""
    path = Path(os.path.abspath(Path(text).expanduser()))
    if os.path.exists(path):  # first, because file names may contain the characters of a pattern
        return (path if path.is_dir() else path.parent), [path]
    fixed = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
    matches = _below(fixed, path.relative_to(fixed).parts) if glob.has_magic(text) else []
    if not matches:
        raise ValueError(f"{text} does not exist; give images, videos, folders, or patterns such as 'images/**/*.jpg'")
    return fixed, matches


def _below(fixed: Path, pattern: tuple[str, ...]) -> list[Path]:
    """Files and folders below a folder that match a pattern, sorted.

    As in the search of a folder, `**` does not follow links to folders: with a link to a folder above, `glob.glob` finds each image 40
    times, and with two such links it does not end. Hidden files are left out, unless the pattern names them.
    """
    if pattern[-1] == "**":  # whose meaning depends on Python's version: here, all of these folders
        return _below(fixed, pattern[:-1]) if len(pattern) > 1 else [fixed]
    parts = [part if part == "**" else re.sub(r"\*{2,}", "*", part) for part in pattern]
    found = fixed.glob("/".join(parts))
    if any(part.startswith(".") for part in parts):
        return sorted(found)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(fixed).parts))


def _walk(folder: Path, leave_out: Path) -> Iterator[Path]:
    """The files below a folder, and the folders that cannot be searched."""
    closed: list[OSError] = []
    for directory, below, files in os.walk(folder, onerror=closed.append):
        below[:] = [name for name in below if not name.startswith(".") and Path(directory, name) != leave_out]
        yield from (Path(directory, name) for name in files if not name.startswith("."))
    yield from (Path(error.filename) for error in closed)


class FileSource:
    """The images and frames of files.

    Args:
        found: the files.
        frame_step: for videos, predict only frames whose number is a multiple of this.
    """

    def __init__(self, found: FoundFiles, frame_step: int = 1) -> None:
        self.found, self.frame_step = found, frame_step

    def __iter__(self) -> Iterator[InputImage | FailedInput]:
        for path in self.found.paths:
            name = path.relative_to(self.found.root).as_posix()
            if path.is_dir():
                yield FailedInput(name, f"{path} cannot be searched; make it readable, or leave it out")
            elif path.exists() and not path.is_file():  # reading a pipe waits for its writer, and some devices never end
                yield FailedInput(name, f"{path} is a pipe, socket or device; give a regular file")
            elif path.suffix.lower() in VIDEO_SUFFIXES:
                yield from video_frames(path, name, self.frame_step)
            else:
                yield InputImage(name, partial(_read_file, path), partial(_digest_of_file, path), partial(_stamp_of_file, path))

    def parts(self) -> list[bytes]:
        """The paths, as bytes, because names need not be text."""
        return [os.fsencode(path) for path in self.found.paths]

    def part(self, parts: Sequence[bytes]) -> "FileSource":
        """The images and frames of these files."""
        return FileSource(FoundFiles(self.found.root, [Path(os.fsdecode(path)) for path in parts], Counter()), self.frame_step)

    def is_image(self, part: bytes) -> bool:
        """Whether this file is not a video."""
        return Path(os.fsdecode(part)).suffix.lower() not in VIDEO_SUFFIXES

    def __len__(self) -> int:
        videos = [path for path in self.found.paths if path.suffix.lower() in VIDEO_SUFFIXES]
        return len(self.found.paths) - len(videos) + sum(count_frames(path) // self.frame_step for path in videos if path.is_file())


def _read_file(path: Path) -> Image.Image:
    if path.suffix.lower() in HEIF_SUFFIXES:
        _register_heif()
    return cast("Image.Image", read_image(path))  # which returns arrays for arrays only


def _stamp_of_file(path: Path) -> str:
    """Size and times in nanoseconds, including the inode's change time, which copying a file does not preserve."""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _digest_of_file(path: Path) -> str:
    return _digest_of_version(path, _stamp_of_file(path))


@lru_cache(maxsize=1)  # all frames of a video share it
def _digest_of_version(path: Path, stamp: str) -> str:
    """Digest of the file's contents at this stamp."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            hashed.update(block)
    return hashed.hexdigest()


def _register_heif() -> None:
    """Let Pillow open HEIC files, if the plug-in is installed."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ImportError(f"reading HEIC needs pillow-heif ({error}); install it with: pip install pillow-heif") from error
    pillow_heif.register_heif_opener()


def video_frames(path: Path, name: str, frame_step: int = 1) -> Iterator[InputImage | FailedInput]:
    """Frames of a video in order of time. The part after a broken place, or the whole video without PyAV, is one [`FailedInput`].

    Args:
        path: path of the video.
        name: name of the video's predictions, to which the frame's number is appended.
        frame_step: return only frames whose number is a multiple of this.
    """
    try:
        for number, frame in enumerate(decode_video(path)):
            if number % frame_step == 0:
                source = partial(_digest_of_file, path), partial(_stamp_of_file, path)
                yield InputImage(f"{name}/{number:06d}", partial(upright, frame), *source)
    except (ImportError, VideoError) as error:
        yield FailedInput.from_error(name, error)


# --- data sets ----------------------------------------------------------------------------------------------------------------


class RowSource:
    """The images of a data set.

    Args:
        dataset: data set with a column `image`, and optionally `id` and `focal_length`.
        numbers: numbers of the rows; all by default.

    Raises:
        ValueError: if there is no column `image`.
    """

    def __init__(self, dataset: "Dataset", numbers: Sequence[int] | None = None) -> None:
        from mult_hf.data.image_column import Image as ImageFeature
        from mult_hf.data.schema import FOCAL_LENGTH

        if "image" not in dataset.column_names:
            raise refusal(f"the data set has columns {dataset.column_names}; the images must be in a column called 'image'")
        self.dataset = dataset.select_columns([name for name in ("image", "id", FOCAL_LENGTH) if name in dataset.column_names])
        self.images = self.dataset.select_columns("image").cast_column("image", ImageFeature())
        self.encoded = self.images.cast_column("image", ImageFeature(decode=False))
        self.facts = self.dataset.remove_columns("image")
        self.focal_length_column = FOCAL_LENGTH
        self.numbers = range(len(dataset)) if numbers is None else numbers

    def __iter__(self) -> Iterator[InputImage | FailedInput]:
        for number in self.numbers:
            facts = self.facts[number] if self.facts.column_names else {}
            identity, focal_length = facts.get("id"), facts.get(self.focal_length_column)
            suffix = "" if identity is None else "-" + re.sub(r"[^\w.-]+", "_", str(identity))
            digest = partial(self._digest, number, focal_length)
            yield InputImage(f"{number:06d}{suffix}", partial(self._read, number), digest, focal_length=focal_length)

    def _read(self, number: int) -> Image.Image:
        return cast("Image.Image", read_image(self.images[number]["image"], name=f"row {number}"))

    def _digest(self, number: int, focal_length: float | None) -> str:
        """Digest of the encoded image and its focal length, on both of which predictions depend."""
        digest = self._digest_of_image(number)
        return digest if focal_length is None else hashlib.sha256(f"{digest} {focal_length!r}".encode()).hexdigest()

    def _digest_of_image(self, number: int) -> str:
        """Digest of the encoded image, or of its path if it has neither bytes nor a local file (a URL, for example)."""
        cell = self.encoded[number]["image"] or {"bytes": b"", "path": None}
        if cell["bytes"] is None and os.path.isfile(cell["path"]):
            return _digest_of_file(Path(cell["path"]))
        return hashlib.sha256(cell["path"].encode() if cell["bytes"] is None else cell["bytes"]).hexdigest()

    def parts(self) -> Sequence[int]:
        """The numbers of the rows."""
        return self.numbers

    def part(self, parts: Sequence[int]) -> "RowSource":
        """The images of these rows."""
        return RowSource(self.dataset, parts)

    def is_image(self, part: int) -> bool:
        """True for every row."""
        return True

    def __len__(self) -> int:
        return len(self.numbers)


# --- sharing ------------------------------------------------------------------------------------------------------------------


class ImageStream(IterableDataset):
    """One process's share of the images, read and prepared, for a `DataLoader` with `batch_size=None` and any number of workers.

    Args:
        source: all images; must be the same in every process.
        prepare: reads an image and converts it for the consumer.
        is_finished: returns whether an image's predictions exist; such images are not read.
        process: index of this process.
        processes: number of processes.
    """

    def __init__(
        self,
        source: Source,
        prepare: Callable[[InputImage], Any],
        is_finished: Callable[[InputImage], bool],
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.source, self.prepare, self.is_finished = source, prepare, is_finished
        self.process, self.processes = process, processes

    def __iter__(self) -> Iterator[Any]:
        """Prepared images, [`SkippedInput`] and [`FailedInput`]."""
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        share, shares = self.process * workers + number, self.processes * workers
        for position, image in enumerate(self.source):
            if position % shares == share:
                yield self._outcome(image)

    def _outcome(self, image: InputImage | FailedInput) -> Any:
        if isinstance(image, FailedInput):
            return image
        try:
            if self.is_finished(image):
                return SkippedInput(image.name)
            return self.prepare(image)
        except Exception as error:  # decoders may raise any error on invalid bytes, and one input must not end the run
            return FailedInput.from_error(image.name, error)


def by_size(items: Iterable[Any], batch_size: int) -> Iterator[list[Any]]:
    """Group items into batches with `pixel_values` of one shape; at most two batches' worth of items are held at a time.

    Args:
        items: items with an attribute `pixel_values`, (3, height, width).
        batch_size: size of a full batch. Batches are smaller if too many sizes are waiting, and at the end.
    """
    waiting: dict[tuple[int, ...], list[Any]] = {}
    for item in items:
        waiting.setdefault(tuple(item.pixel_values.shape), []).append(item)
        fullest = max(waiting, key=lambda shape: len(waiting[shape]))
        if len(waiting[fullest]) == batch_size or sum(map(len, waiting.values())) == 2 * batch_size:
            yield waiting.pop(fullest)
    yield from waiting.values()


__all__ = [
    "DivisibleSource",
    "FailedInput",
    "FileSource",
    "SkippedInput",
    "FoundFiles",
    "ImageStream",
    "InputImage",
    "RowSource",
    "Source",
    "SourceRecord",
    "by_size",
    "find_files",
    "video_frames",
]
