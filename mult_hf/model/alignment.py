"""Check that a stored map and its image show the same pixels."""

from collections.abc import Mapping
from typing import Any, cast

from PIL import ExifTags, Image
from torch import Tensor

from .images import BROKEN, label_array, open_file, read_image

UPRIGHT = 1
"""EXIF orientation of an upright file."""

APPLIED_ORIENTATION = "applied_exif_orientation"
"""Key in the `info` of a PIL image that was turned upright: the EXIF orientation of its file."""

_APPLIED_BY_PILLOW_HEIF = "original_orientation"
"""The same key of pillow-heif, which turns HEIC files when it opens them."""

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""


COARSEST = 64
"""Pixels of the image per pixel of a map, along a side, beyond which the map is taken for a placeholder."""


def orientation(image: Any) -> int:
    """EXIF orientation of the file of an image or map, 1 to 8, also where it was applied; without a tag, and for arrays, 1.

    Args:
        image: as for `read_image`; only the header of a file is read.
    """
    image = open_file(image)
    if not isinstance(image, Image.Image):
        return UPRIGHT
    applied = [image.info.get(key) for key in (APPLIED_ORIENTATION, _APPLIED_BY_PILLOW_HEIF)]
    return next((each for each in applied if isinstance(each, int) and each in range(1, 9)), _tag(image))


def _tag(image: Image.Image) -> int:
    """The EXIF orientation that has yet to be applied."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except BROKEN:  # of a PNG, Pillow reads the pixels for it; reading the image then names the file
        return UPRIGHT
    return found if found in range(1, 9) else UPRIGHT


def upright_size(image: Any) -> tuple[int, int]:
    """(height, width) of an image once its EXIF orientation is applied, as the processors and `datasets` do.

    Args:
        image: as for `read_image`.
    """
    image = open_file(image)
    if not isinstance(image, Image.Image):
        height, width = cast(Any, read_image(image)).shape[-2:]
        return height, width
    is_applied = image.format == "TIFF"  # Pillow states their size with the orientation applied
    return (image.width, image.height) if _tag(image) in SIDEWAYS and not is_applied else (image.height, image.width)


def map_size(stored: Any) -> tuple[int, int]:
    """(height, width) of a stored map: a PIL image, or an array with channels first or last.

    Raises:
        ValueError: if it is neither, or has another number of axes.
    """
    return _map_sizes(stored)[0]


def _map_sizes(stored: Any) -> list[tuple[int, int]]:
    """What may be (height, width) of a stored map: two sizes if it has more than 4 channels, whose axis only its task's entry tells."""
    if isinstance(stored, Image.Image):
        return [(stored.height, stored.width)]
    shape = tuple(stored.shape) if isinstance(stored, Tensor) else label_array(stored).shape
    if len(shape) not in (2, 3):
        raise ValueError(f"a stored map has shape {shape}; it needs 2 or 3 axes")
    first, last = (shape[0], shape[1]), (shape[-2], shape[-1])
    if len(shape) == 2 or shape[0] <= 4:
        return [last]
    return [first] if shape[-1] <= 4 else [last, first]


def same_aspect(map_size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Whether one (height, width) is the other scaled by a factor, with both sides rounded to whole pixels.

    The sides differ from those of the exactly scaled image by less than a pixel each. So an image that is not square never has the
    same aspect ratio as its transpose.

    Examples:
        >>> same_aspect((121, 160), (480, 640)), same_aspect((480, 640), (640, 480)), same_aspect((101, 100), (100, 101))
        (True, False, False)
    """
    (height, width), (image_height, image_width) = map_size, image_size
    return abs(height * image_width - width * image_height) < image_height + image_width


def misalignment(stored: Any, image: Any) -> str | None:
    """Why a stored map cannot be aligned with its image, or `None` if it can.

    The sizes may differ if the map has the aspect ratio of the upright image. An image with an EXIF orientation is turned upright before
    use, but its map is not, so the map's size must show that it is upright already.

    Args:
        stored: PIL image or array.
        image: as for `read_image`.
    """
    image = open_file(image)
    tag = orientation(stored) if isinstance(stored, Image.Image) else UPRIGHT
    reasons = [misalignment_of_sizes(size, upright_size(image), tag, orientation(image)) for size in _map_sizes(stored)]
    return None if None in reasons else reasons[0]


def misalignment_of_sizes(
    map_size: tuple[int, int], image_size: tuple[int, int], map_orientation: int = UPRIGHT, image_orientation: int = UPRIGHT
) -> str | None:
    """[`misalignment`] from (height, width) of the stored map and of the upright image, and the EXIF orientation of each."""
    (height, width), (image_height, image_width), turned = map_size, image_size, image_orientation
    sizes = f"the map has {height} x {width} pixels, its image {image_height} x {image_width}"
    if 0 in (height, width):
        return f"{sizes}: it is empty; give a map with pixels, or None where there is none"
    if image_height > COARSEST * height or image_width > COARSEST * width:
        return f"{sizes}: too coarse; store at least a pixel per {COARSEST} pixels of each side, or None (null) where there is no map"
    if not same_aspect((height, width), (image_height, image_width)):
        if not same_aspect((width, height), (image_height, image_width)):
            return f"{sizes}: another aspect ratio; crop or pad the map as the image was"
        cause = f"the image's EXIF orientation is {turned}, and the map shows the file's own pixels" if turned in SIDEWAYS else "transposed"
        return f"{sizes}: turned by 90 degrees ({cause}); turn the map to the upright image"
    if map_orientation != UPRIGHT:
        return f"the map has EXIF orientation {map_orientation}, which is not applied to maps; store it upright and without the tag"
    if turned != UPRIGHT and not (turned in SIDEWAYS and not same_aspect((width, height), (image_height, image_width))):
        return (
            f"the image has EXIF orientation {turned} and is turned upright, and a map of {height} x {width} pixels does not show "
            f"whether it is too; store image and map upright and without the tag"
        )
    return None


def check_aligned(maps: Mapping[str, Any], image: Any, where: str = "the sample") -> None:
    """Refuse maps that are not aligned with their image.

    Args:
        maps: stored maps by task, `None` for a missing map.
        image: as for `read_image`.
        where: name of the sample in the message.

    Raises:
        ValueError: naming the task, both sizes and what to do.
    """
    image = open_file(image)
    for task, stored in maps.items():
        try:
            reason = None if stored is None else misalignment(stored, image)
        except ValueError as error:
            reason = str(error)
        if reason:
            raise ValueError(f"{task} of {where}: {reason}")


__all__ = [
    "APPLIED_ORIENTATION",
    "UPRIGHT",
    "check_aligned",
    "map_size",
    "misalignment",
    "misalignment_of_sizes",
    "orientation",
    "same_aspect",
    "upright_size",
]
