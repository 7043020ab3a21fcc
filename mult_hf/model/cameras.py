"""Focal lengths of images, and values of a canonical camera.

An image does not show its focal length: a small room through a wide lens looks like a large one through a long lens. A network that is
trained on several cameras therefore learns values of one canonical camera, as in Metric3D (arXiv 2307.10984, section 3.2, the method
that transforms labels): depth times canonical over true focal length, both in pixels of the network's input. The true focal length
converts its predictions to metres. A task's `zoom_exponent` defines how its values change with the focal length.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple

from PIL import ExifTags, Image

from .entry_fields import refusal
from .tasks import TaskSpec

FULL_FRAME_DIAGONAL = math.hypot(36, 24)
"""Diagonal in millimetres of the film that EXIF's `FocalLengthIn35mmFilm` refers to."""

ASSUMED_FIELD_OF_VIEW = 60.0
"""Degrees along the longer side of an image whose focal length is not known."""

LEAST_EQUIVALENT, MOST_EQUIVALENT = 3.0, 3000.0
"""35 mm equivalents in millimetres that lenses have: of a fisheye, and of a camera behind a telescope. EXIF may state anything."""

LEAST_PIXELS, MOST_PIXELS = 0.01, 100_000_000
"""Focal lengths in pixels beyond which a depth is no number that float32 can hold in any useful way."""

GIVEN, FROM_FILE, ASSUMED = "given", "EXIF", "assumed"

Size = tuple[int, int]
"""Height and width in pixels."""


class FocalLength(NamedTuple):
    """The focal length of an image.

    Args:
        pixels: in pixels of the image.
        source: `"given"` by the caller, `"EXIF"` for the one that the file states, or `"assumed"`.
    """

    pixels: float
    source: str

    def film_equivalent(self, size: Sequence[int]) -> float:
        """The 35 mm equivalent in millimetres, for an image of this (height, width)."""
        return self.pixels / math.hypot(*size) * FULL_FRAME_DIAGONAL

    def resized(self, size: Sequence[int], new_size: Sequence[int]) -> "FocalLength":
        """The focal length of the image at another size; where the aspect ratio changes, the geometric mean of both directions."""
        return self._replace(pixels=self.pixels * math.sqrt(math.prod(new_size) / math.prod(size)))


def find_focal_length(image: Any, size: Size, given: Any = None, field_of_view: float | None = None) -> FocalLength:
    """The focal length of an image: the given one, else the one in its file, else an assumed one.

    Args:
        image: a PIL image, whose EXIF is read; other images have none.
        size: height and width of the image.
        given: focal length in pixels, or None.
        field_of_view: degrees along the longer side of an image whose focal length is not known; [`ASSUMED_FIELD_OF_VIEW`] by default.

    Raises:
        ValueError: if the given one is not a number from 0.01 to 100,000,000.
    """
    if given is not None:
        return FocalLength(check_focal_length(given), GIVEN)
    stated = exif_focal_length(image)
    if stated is not None:
        return FocalLength(stated, FROM_FILE)
    angle = math.radians(ASSUMED_FIELD_OF_VIEW if field_of_view is None else field_of_view)
    return FocalLength(max(size) / 2 / math.tan(angle / 2), ASSUMED)


def exif_focal_length(image: Any) -> float | None:
    """Focal length in pixels from the 35 mm equivalent in an image's EXIF, or None if it states none.

    The equivalent refers to the diagonal (CIPA DC-008, annex G). It is wrong for an image that was cropped afterwards.
    """
    millimetres = film_equivalent(image)
    return None if millimetres is None else millimetres / FULL_FRAME_DIAGONAL * math.hypot(*image.size)


def film_equivalent(image: Any) -> float | None:
    """The 35 mm equivalent of the focal length in an image's EXIF, in millimetres, or None if it states none that a lens can have."""
    if not isinstance(image, Image.Image):
        return None
    try:
        millimetres = float(image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
    except (TypeError, ValueError, ArithmeticError, OSError, SyntaxError):  # broken EXIF; 0 means unknown
        return None
    return millimetres if LEAST_EQUIVALENT <= millimetres <= MOST_EQUIVALENT else None


def with_film_equivalent(image: Image.Image, millimetres: float | None) -> Image.Image:
    """A new image, after the 35 mm equivalent of its file was added to it if it has no EXIF.

    Pillow's conversions keep EXIF data of JPEG files, but lose those of TIFF files and of images that are made from new pixels.

    Args:
        image: an image in memory, which is changed.
        millimetres: from [`film_equivalent`] of the image that it was made from.
    """
    if millimetres is not None and "exif" not in image.info:
        image.info["exif"] = film_exif(millimetres)
    return image


def film_exif(millimetres: float) -> bytes:
    """EXIF data that state the 35 mm equivalent of a focal length, and nothing else."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = millimetres
    return exif.tobytes()


def check_focal_length(value: Any, what: str = "focal_length") -> float:
    """A focal length in pixels as a float.

    Raises:
        ValueError: if it is not a number from 0.01 ([`LEAST_PIXELS`]) to 100,000,000 ([`MOST_PIXELS`]).
    """
    try:
        pixels = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:  # a whole number beyond any float
        pixels = math.inf
    if not LEAST_PIXELS <= pixels <= MOST_PIXELS:
        raise refusal(f"{what} is {value!r}; give a number of pixels from {LEAST_PIXELS} to {MOST_PIXELS:,}, or None where it is not known")
    return pixels


def checked_field_of_view(degrees: Any, canonical: Any) -> float | None:
    """The field of view that a processor assumes: the given one, or with a canonical camera [`ASSUMED_FIELD_OF_VIEW`].

    A processor saves it, in case the default changes.

    Args:
        degrees: the given one, or None.
        canonical: focal length of the canonical camera, or None.

    Raises:
        ValueError: if one of them is invalid.
    """
    if canonical is not None:
        check_focal_length(canonical, "canonical_focal_length")
    if degrees is None:
        return None if canonical is None else ASSUMED_FIELD_OF_VIEW
    if not isinstance(degrees, Real) or isinstance(degrees, bool) or not 0 < float(degrees) < 180:
        raise refusal(f"assumed_field_of_view is {degrees!r}; give degrees between 0 and 180")
    return float(degrees)


CORRECT_STORED = "correct the wrong one of the two in its config.json and preprocessor_config.json, or save both again"
"""Advice for a model and a processor of one directory that are of different cameras."""


def check_same_camera(model: float | None, processor: float | None, specs: Iterable[TaskSpec], advice: str | None = None) -> None:
    """Refuse a processor that would read a model's values as those of another camera.

    Args:
        model: `canonical_focal_length` of the model's configuration; None where it does not say.
        processor: that of the image processor; None for one without a canonical camera.
        specs: entries of the tasks to compute; the camera has no effect if none has a `zoom_exponent`.
        advice: what to do, in place of loading or building a fitting processor.

    Raises:
        ValueError: if the model says one, and the processor has none or another.
    """
    dependent = [spec.name for spec in specs if spec.zoom_exponent]
    if model is not None and processor != model and dependent:
        own = "none" if processor is None else f"{processor:g}"
        raise refusal(
            f"canonical_focal_length is {model:g} for the model and {own} for the processor, so {', '.join(dependent)} would have the "
            "wrong scale; " + (advice or f"load the model's own processor, or build one with canonical_focal_length={model:g}")
        )


def listed_focal_lengths(given: Any, count: int) -> list[float | None]:
    """One focal length per image.

    Args:
        given: None, one number for every image, or one number or None per image.
        count: number of images.

    Raises:
        ValueError: if the number of values differs from the number of images, or one is not a number from 0.01 to 100,000,000.
    """
    values = given.tolist() if hasattr(given, "tolist") else given  # arrays and tensors
    each = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values] * count
    if len(each) != count:
        raise ValueError(f"focal_length has {len(each)} values for {count} images; give one per image, None where it is not known")
    return [None if value is None else check_focal_length(value) for value in each]


def without_camera_limits(spec: TaskSpec) -> TaskSpec:
    """An entry for values of the canonical camera: without `value_range` where the camera changes values, because it limits true ones."""
    return replace(spec, value_range=None) if spec.zoom_exponent else spec


def canonical_factor(spec: TaskSpec, focal_length: float, canonical: float | None) -> float:
    """Factor from true values to those of the canonical camera; divide predictions by it.

    Args:
        spec: the task's entry. Depth, with the `zoom_exponent` -1, gets canonical / true focal length.
        focal_length: in pixels of the network's input.
        canonical: focal length of the canonical camera in the same pixels; None for a model without one.
    """
    return 1.0 if canonical is None else (focal_length / canonical) ** spec.zoom_exponent


__all__ = [
    "ASSUMED_FIELD_OF_VIEW",
    "FocalLength",
    "canonical_factor",
    "check_focal_length",
    "CORRECT_STORED",
    "check_same_camera",
    "checked_field_of_view",
    "exif_focal_length",
    "film_equivalent",
    "film_exif",
    "find_focal_length",
    "listed_focal_lengths",
    "with_film_equivalent",
    "without_camera_limits",
]
