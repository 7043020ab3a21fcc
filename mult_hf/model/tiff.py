"""TIFF files that Pillow does not read, or reads wrongly."""

import struct
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF file; the last two are those of BigTIFF."""

UNREADABLE = "a TIFF that Pillow cannot read, such as one of 16-bit or 64-bit floats, or of floats in several channels"

BROKEN = (
    *(OSError, HTTPException, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""Errors of Pillow for broken data, and of connections and broken URLs."""


def is_tiff(source: Any) -> bool:
    """Whether a file starts like a TIFF."""
    try:
        if isinstance(source, (str, Path)):
            with Path(source).expanduser().open("rb") as file:
                return file.read(4) in _TIFF
        source.seek(0)
        return source.read(4) in _TIFF
    except BROKEN:
        return False


def load_pixels(image: Image.Image) -> None:
    """Read an image's pixels now, if they were not read before. Where Pillow reads the pixels of a TIFF file wrongly, this does not.

    Raises:
        ValueError: if the file is of a kind that Pillow reads wrongly; see [`misread`].
        BROKEN: as Pillow's own function.
    """
    if reason := misread(image):
        raise ValueError(reason)
    name = getattr(image, "filename", "")
    if image.format != "TIFF" or not name:
        image.load()
        return
    # Pillow would map an uncompressed file into memory with the sides of the upright image, before it turns the pixels.
    image.filename = ""  # type: ignore[attr-defined]
    try:
        image.load()
    finally:
        image.filename = name  # type: ignore[attr-defined]


def misread(image: Image.Image) -> str | None:
    """Why the pixels of a TIFF file would be wrong: Pillow ignores that the channels of an uncompressed one of 16 bits are in planes."""
    tags = getattr(image, "tag_v2", None) or {}
    planes = tags.get(ExifTags.Base.PlanarConfiguration) == 2 and tags.get(ExifTags.Base.Compression, 1) == 1
    if (
        planes
        and tags.get(ExifTags.Base.SamplesPerPixel, 1) > 1
        and tags.get(ExifTags.Base.BitsPerSample, (8,)) not in ((8,) * 3, (8,) * 4, (8,))
    ):
        return "it is a TIFF of 16 bits with its channels in separate planes, which Pillow mixes up; store it with interleaved channels"
    return None


def negative(image: Image.Image) -> str | None:
    """Why a TIFF file of 16 bits would be read as its negative. For maps, whose numbers are as they are stored, this has no effect."""
    if image.mode.startswith("I") and (getattr(image, "tag_v2", None) or {}).get(ExifTags.Base.PhotometricInterpretation) == 0:
        return "it is a TIFF of 16 bits in which 0 is white (MinIsWhite), which Pillow reads as its negative; store it with 0 as black"
    return None


__all__ = ["BROKEN", "UNREADABLE", "is_tiff", "load_pixels", "misread", "negative"]
