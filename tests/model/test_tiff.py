"""Proves that TIFF files have the same pixels however they are opened, and that those which Pillow reads wrongly are refused."""

import io
import struct

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image, ImageOps

from mult_hf.data.check.cells import stored_array
from mult_hf.data.check.findings import TaskFindings
from mult_hf.data.image_column import Image as ImageColumn
from mult_hf.data.image_column import as_image_columns
from mult_hf.data.schema import load_rows
from mult_hf.model.alignment import upright_size
from mult_hf.model.images import label_array, read_image

MODES = ["L", "I;16", "P", "RGB", "RGBA", "CMYK"]


def picture(mode):
    """64 x 96 pixels that differ."""
    values = np.arange(64 * 96).reshape(64, 96)
    if mode == "I;16":
        return Image.fromarray((values * 10).astype(np.uint16))
    return Image.fromarray(np.stack([values % 251, values % 241, values // 64], axis=-1).astype(np.uint8)).convert(mode)


def save_turned(path, mode, tag):
    """An uncompressed file, which Pillow maps into memory if it is opened by its path."""
    exif = Image.Exif()
    exif[0x0112] = tag
    picture(mode).save(path, exif=exif)


def upright(pixels, tag):
    """What a file with this tag shows (TIFF 6.0, "Orientation")."""
    turned = np.swapaxes(pixels, 0, 1) if tag in (5, 6, 7, 8) else pixels
    turned = turned[::-1] if tag in (3, 4, 7, 8) else turned
    return turned[:, ::-1] if tag in (2, 3, 6, 7) else turned


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("mode", MODES)
def test_a_tiff_opened_by_its_path_is_that_of_its_bytes(tmp_path, mode, tag):
    save_turned(tmp_path / "image.tif", mode, tag)
    expected = np.asarray(read_image((tmp_path / "image.tif").read_bytes()))
    assert expected.shape == ((96, 64, 3) if tag in (5, 6, 7, 8) else (64, 96, 3))
    assert np.array_equal(expected, upright(np.asarray(read_image(picture(mode))), tag))
    for opened in (str(tmp_path / "image.tif"), Image.open(tmp_path / "image.tif")):
        assert upright_size(opened) == expected.shape[:2]
        assert np.array_equal(np.asarray(read_image(opened)), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_rows_have_the_upright_pixels_of_a_tiff_file(tmp_path, mode):
    save_turned(tmp_path / "image.tif", mode, 6)
    rows = Dataset.from_dict({"image": [str(tmp_path / "image.tif")]}, features=Features({"image": ImageFeature()}))
    found = as_image_columns(rows)[0]["image"]
    assert np.array_equal(np.asarray(read_image(found)), np.asarray(read_image((tmp_path / "image.tif").read_bytes())))


def test_a_folder_of_tiff_files_is_loaded_with_their_upright_pixels(tmp_path):
    save_turned(tmp_path / "image.tif", "L", 8)
    row = load_rows(tmp_path)["train"][0]
    assert row["image"].size == (64, 96)
    assert np.array_equal(np.asarray(read_image(row["image"])), np.asarray(read_image((tmp_path / "image.tif").read_bytes())))


def white_as_zero(path):
    """A file of 16 bits in which 0 is white: the value of its tag 262 is 0."""
    picture("I;16").save(path)
    entry = struct.pack("<HHIH", 262, 3, 1, 1)
    assert path.read_bytes().count(entry) == 1
    path.write_bytes(path.read_bytes().replace(entry, struct.pack("<HHIH", 262, 3, 1, 0)))


def in_planes(path):
    """A file of 16 bits per channel whose channels follow each other."""
    planes = [np.full((4, 6), 1000 * number, "<u2").tobytes() for number in (1, 2, 3)]
    start = 8 + 2 + 10 * 12 + 4
    bits, offsets, sizes = start, start + 6, start + 6 + 12
    data = sizes + 12
    entries = [(256, 3, 1, 6), (257, 3, 1, 4), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, offsets)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 3, sizes), (284, 3, 1, 2)]
    header = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    lists = struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", *(data + 48 * n for n in range(3))) + struct.pack("<3I", 48, 48, 48)
    path.write_bytes(header + lists + b"".join(planes))


@pytest.mark.parametrize(("write", "cause"), [(white_as_zero, "0 is white .MinIsWhite."), (in_planes, "channels in separate planes")])
def test_a_tiff_of_16_bits_that_pillow_reads_wrongly_is_refused(tmp_path, write, cause):
    write(tmp_path / "image.tif")
    with pytest.raises(ValueError, match=f"image.tif cannot be read: it is a TIFF of 16 bits .*{cause}.*; store it with"):
        read_image(tmp_path / "image.tif")


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_negative_is_refused_in_rows_as_well_and_its_numbers_can_be_read(tmp_path, orientation):
    """Turning an image makes another one, which has no tags."""
    content = io.BytesIO()
    picture("I;16").save(content, "TIFF", tiffinfo={262: 0, 274: orientation})
    rows = Dataset.from_dict({"image": [{"bytes": content.getvalue(), "path": None}]}, features=Features({"image": ImageColumn()}))
    image = rows[0]["image"]
    with pytest.raises(ValueError, match=r"0 is white \(MinIsWhite\)"):
        read_image(image)
    assert sorted(np.asarray(image).ravel()) == sorted(np.asarray(picture("I;16")).ravel()), "as a map, it has the stored numbers"
    inverted = ImageOps.invert(image.convert("I").point(lambda value: value * (1 / 257) + 0).convert("L"))
    assert np.asarray(read_image(inverted)).max() > 0, "the user has corrected it"


def doubles(path, magic):
    """A file of one channel of 64-bit floats."""
    order = "<" if magic.startswith(b"II") else ">"
    data = 8 + 2 + 9 * 12 + 4
    entries = [(256, 4, 6), (257, 4, 4), (258, 3, 64), (259, 3, 1), (262, 3, 1), (273, 4, data), (278, 4, 4), (279, 4, 192), (339, 3, 3)]
    words = [
        struct.pack(f"{order}HHI", tag, kind, 1)
        + struct.pack(f"{order}{'HH' if kind == 3 else 'I'}", *((value, 0) if kind == 3 else (value,)))
        for tag, kind, value in entries
    ]
    path.write_bytes(magic + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(words) + bytes(4) + bytes(192))


@pytest.mark.parametrize("magic", [b"II*\0", b"MM\0*"])
@pytest.mark.parametrize("form", ["path", "bytes"])
def test_a_tiff_of_a_kind_that_pillow_lacks_is_not_just_called_broken(tmp_path, magic, form):
    doubles(tmp_path / "image.tif", magic)
    with pytest.raises(ValueError, match=r"broken or none of JPEG.*, or a TIFF that Pillow cannot read, such as one of 16-bit"):
        read_image(tmp_path / "image.tif" if form == "path" else (tmp_path / "image.tif").read_bytes())


def test_check_says_so_too(tmp_path):
    doubles(tmp_path / "map.tif", b"II*\0")
    content = (tmp_path / "map.tif").read_bytes()
    for cell in ({"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "map.tif")}):
        findings = TaskFindings()
        assert stored_array(cell, "row 0", findings) is None
        (problem,) = findings.problems
        assert "cannot be opened as an image: it is broken, or a TIFF that Pillow cannot read" in problem


def test_the_numbers_of_a_map_are_as_they_are_stored_whatever_is_white(tmp_path):
    white_as_zero(tmp_path / "map.tif")
    assert np.array_equal(label_array(Image.open(tmp_path / "map.tif")), np.asarray(picture("I;16")))


def test_a_map_of_32_unsigned_bits_is_read_where_pillow_makes_it_signed():
    from mult_hf.model.label_encoding import LabelEncoding

    encoding = LabelEncoding(dtype="uint32", scale=0.001, unknown=(0,))
    found = encoding.decode(np.array([[0, 5000]], np.int32))
    np.testing.assert_allclose(found, [[[np.nan, 5.0]]])
    with pytest.raises(ValueError, match="the stored map is int32 with values from -1 to 2, but this encoding reads uint32"):
        encoding.decode(np.array([[-1, 2]], np.int32))
