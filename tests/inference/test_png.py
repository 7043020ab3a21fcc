"""Proves that other programs read the PNG files of maps, pixel by pixel."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mult_hf.inference import png
from mult_hf.inference.png import png_bytes

COMPRESSORS = ["zlib", "isal.isal_zlib"]
KINDS = {"ids": (np.uint8, ()), "grey": (np.uint16, ()), "rgb": (np.uint8, (3,))}


@pytest.fixture(params=COMPRESSORS)
def compressor(request, monkeypatch):
    """The library that compresses."""
    monkeypatch.setattr(png, "compress", pytest.importorskip(request.param).compress)


@pytest.mark.usefixtures("compressor")
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (64, 48)])
@pytest.mark.parametrize("kind", KINDS)
def test_pillow_reads_the_pixels_that_were_written(kind, size):
    """Noise has every difference between two rows, also those beyond the range of a byte."""
    dtype, channels = KINDS[kind]
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*size, *channels), dtype, endpoint=True)
    with Image.open(io.BytesIO(png_bytes(pixels)), formats=["PNG"]) as image:
        read = np.asarray(image)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)


def test_pixels_that_are_not_contiguous_are_written_as_they_are_seen():
    pixels = np.arange(3 * 8 * 6, dtype=np.uint8).reshape(3, 8, 6)
    seen = np.moveaxis(pixels, 0, -1)[:, ::2]  # (height, width, channels), every second column
    with Image.open(io.BytesIO(png_bytes(seen))) as image:
        np.testing.assert_array_equal(np.asarray(image), seen)


def test_chunks_and_rows_are_those_of_the_specification():
    """By hand: a grey image of two rows and one column, 1 and 258, as 16-bit numbers with the high byte first."""
    content = png_bytes(np.array([[1], [258]], np.uint16))
    assert content.startswith(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBB", 1, 2, 16, 0, 0, 0, 0))
    length = struct.unpack(">I", content[33:37])[0]
    assert content[37:41] == b"IDAT"
    assert zlib.decompress(content[41 : 41 + length]) == bytes([2, 0, 1, 2, 1, 1])  # per row: the filter, then differences
    assert content.endswith(struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND")))


@pytest.mark.usefixtures("compressor")
def test_smooth_maps_take_little_more_space_than_with_pillow():
    rows, columns = np.mgrid[0:200, 0:300]
    maps = {
        np.uint16: 30000 + 20000 * np.sin(rows / 40) * np.cos(columns / 50),
        np.uint8: (rows // 50) * 6 + columns // 60,
    }
    for dtype, values in maps.items():
        pixels, file = values.astype(dtype), io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        assert len(png_bytes(pixels)) < 1.3 * len(file.getvalue())
