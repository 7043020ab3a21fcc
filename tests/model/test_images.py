"""Proves that images are read by type and format or refused by name, without guessing, starting other programs or waiting too long."""

import base64
import io
import re
import socket
import struct
import sys
import threading
import types
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from PIL import Image, PngImagePlugin

from mult_hf import MulTImageProcessor, MulTImageProcessorPil
from mult_hf.data.image_column import Image as ImageColumn
from mult_hf.model import images
from mult_hf.model.images import FORMATS, open_image, read_image

RED = Image.new("RGB", (8, 6), "red")


def encoded(file_format="PNG", image=RED):
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def test_a_float_file_is_read_by_its_range_and_not_as_16_bits(tmp_path):
    """Pillow opens PFM files under the name of a format whose 16-bit images it widens."""
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    for highest in (1, 255):
        (tmp_path / "grey.pfm").write_bytes(b"Pf\n8 6\n-1.0\n" + (values * highest)[::-1].astype("<f4").tobytes())
        with Image.open(tmp_path / "grey.pfm") as image:
            assert (image.format, image.mode) == ("PPM", "F"), "premise"
        read = np.asarray(read_image(tmp_path / "grey.pfm"))[..., 0]
        np.testing.assert_allclose(read, values * 255, atol=0.51)


# An opacity, and several images in one array.


@pytest.mark.parametrize("factor", [1, 255])
def test_opacity_in_0_to_1_belongs_to_colours_of_either_range(factor):
    """Half of the pixels are transparent, so white."""
    colours = np.full((6, 8, 3), 0.8 * factor, np.float32)
    opacity = np.repeat([[[1.0]], [[0.0]]], 3, axis=0).repeat(8, axis=1).astype(np.float32)
    read = read_image(np.concatenate([colours, opacity], axis=2))
    assert (read[:, :3] == 204).all()
    assert (read[:, 3:] == 255).all()


def test_colours_in_0_to_1_with_an_opacity_up_to_255_are_refused():
    image = np.concatenate([np.full((6, 8, 3), 0.8), np.full((6, 8, 1), 255.0)], axis=2)
    with pytest.raises(ValueError, match=r"image has colours up to 0\.8 and an opacity up to 255; give both in"):
        read_image(image)
    image[..., :3] = 0  # black in either range
    assert (read_image(image) == 0).all()


@pytest.mark.parametrize(("colour", "opacity"), [(1.02, 255.0), (200.0, 1.02), (1.02, 1.0)])
def test_colours_or_an_opacity_a_little_above_1_are_ambiguous(colour, opacity):
    """As after resampling with a cubic filter; read as [0, 255] they would be black, or nearly transparent."""
    image = np.concatenate([np.full((6, 8, 3), colour), np.full((6, 8, 1), opacity)], axis=2)
    with pytest.raises(ValueError, match=r"image has floats up to 1\.02: an image in \[0, 1\] that goes beyond, or a black one"):
        read_image(image)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_the_brightest_image_of_an_array_tells_the_range_of_all(kind):
    """Alone, the second would be black and white."""
    batch = np.zeros((2, 6, 8, 3), np.float32)
    batch[0] = 200
    batch[1, :3] = 1
    for images_ in (
        images.images_of_array(kind(batch)),
        MulTImageProcessor(do_resize=False)(kind(batch), do_normalize=False)["pixel_values"],
    ):
        bright, dark = (np.asarray(each, np.float32) for each in images_)
        assert bright.max() / dark.max() == pytest.approx(200)
    assert [each.max() for each in images.images_of_array(np.asarray(batch / 255))] == pytest.approx([200 / 255, 1 / 255])


# Integers: the type decides.


@pytest.mark.parametrize("brightest", [1, 200, 255, 256, 300, 65535])
def test_a_16_bit_image_is_read_as_16_bits_however_dark(brightest, tmp_path):
    dark = np.full((6, 8), min(brightest, 200), np.uint16)
    dark[0, 0] = brightest
    wanted = np.round(dark / 257).astype(np.uint8)
    for suffix in ("png", "tif"):
        Image.fromarray(dark).save(tmp_path / f"dark.{suffix}")
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / f"dark.{suffix}"))[..., 0], wanted)
    for image in (dark, dark.astype(">u2"), torch.from_numpy(dark)):
        np.testing.assert_array_equal(np.asarray(read_image(image))[0], wanted)


def test_a_dark_16_bit_file_widened_to_int32_by_pillow_is_read_as_16_bits(tmp_path):
    (tmp_path / "dark.pgm").write_bytes(b"P5 8 6 65535\n" + np.full((6, 8), 200, ">u2").tobytes())
    with Image.open(tmp_path / "dark.pgm") as image:
        assert np.asarray(image).dtype == np.int32, "premise"
    assert np.asarray(read_image(tmp_path / "dark.pgm")).max() == 1


def png_of_16_bits(values, transparent):
    """A PNG file of 16 bits per channel, which Pillow does not write, and the colour that it declares to be transparent."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = {b"IHDR": header, b"tRNS": struct.pack(f">{channels}H", *transparent), b"IDAT": zlib.compress(rows), b"IEND": b""}
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_the_transparent_grey_of_a_16_bit_file_is_put_on_white():
    """1000 is transparent, 1001 is not, though both are the grey 4 in 8 bits."""
    content = png_of_16_bits(np.array([[[1000], [1001], [60000]]]), [1000])
    assert np.asarray(read_image(content))[0, :, 0].tolist() == [255, 4, 233]


@pytest.mark.parametrize("colour", [(1000, 2000, 3000), (0, 0, 0), (200, 200, 200)])
def test_a_transparent_colour_of_16_bits_is_refused_because_pillow_reads_8(colour):
    content = png_of_16_bits(np.array([[colour, (51205, 51205, 51205)]]), colour)
    rows = Dataset.from_dict({"image": [{"bytes": content, "path": None}]}, features=Features({"image": ImageColumn()}))
    loaded = open_image(io.BytesIO(content))
    loaded.load()
    for form in (content, base64.b64encode(content).decode(), loaded, rows[0]["image"]):
        with pytest.raises(ValueError, match=r"a PNG of 16 bits with a transparent colour.*; store opacity as a channel"):
            read_image(form)


def test_a_transparent_colour_that_was_taken_away_is_no_reason_to_refuse():
    image = open_image(io.BytesIO(png_of_16_bits(np.array([[(200, 200, 200), (51205, 51205, 51205)]]), (200, 200, 200))))
    image.load()
    del image.info["transparency"]
    assert np.asarray(read_image(image))[0, :, 0].tolist() == [0, 200]


def test_a_transparent_colour_beyond_8_bits_is_refused_even_where_the_caller_has_read_the_pixels():
    image = Image.open(io.BytesIO(png_of_16_bits(np.array([[(1000, 0, 0), (51205, 51205, 51205)]]), (1000, 0, 0))))
    image.load()
    with pytest.raises(ValueError, match="a PNG of 16 bits with a transparent colour"):
        read_image(image)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_integers_that_could_have_8_or_16_bits_are_refused(dtype):
    image = np.full((6, 8), 100, dtype)
    with pytest.raises(ValueError, match=r"image is u?int\d+ with values up to 100: .*convert it to uint8 or uint16"):
        read_image(image, "image")
    assert read_image(image * 0).max() == 0, "black is black in both"
    if np.iinfo(dtype).max > 300:
        assert read_image(image * 3).max() == 1, "300 of 65535"


def test_integers_beyond_16_bits_are_refused():
    for image in (np.full((6, 8), 65536, np.int64), np.full((6, 8), -1, np.int32), np.full((6, 8), 2**64 - 1, np.uint64)):
        with pytest.raises(ValueError, match=r"image has values .*8 or 16 bits"):
            read_image(image, "image")


# Files.


@pytest.mark.parametrize(
    "source",
    [
        lambda path: path,
        lambda path: str(path),
        lambda path: path.read_bytes(),
        lambda path: bytearray(path.read_bytes()),
        lambda path: memoryview(path.read_bytes()),
        lambda path: io.BytesIO(path.read_bytes()),
        lambda path: path.open("rb"),
        lambda path: {"bytes": path.read_bytes(), "path": None},
        lambda path: {"bytes": None, "path": str(path)},
        lambda path: base64.b64encode(path.read_bytes()).decode(),
        lambda path: base64.encodebytes(path.read_bytes()).decode(),
        lambda path: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}",
    ],
    ids=[
        *("path", "text", "bytes", "bytearray", "memoryview", "BytesIO", "open file", "cell of bytes", "cell of a path"),
        *("base64", "base64 in lines", "data URL"),
    ],
)
def test_a_file_can_be_given_in_any_form(source, tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(encoded())
    np.testing.assert_array_equal(np.asarray(read_image(source(path))), np.asarray(RED))


def test_a_folder_is_refused_with_the_command_that_takes_one(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match=r"photos is a folder; give the path of one image \(`mult-hf predict FOLDER` takes folders\)"):
        read_image(tmp_path / "photos")


@pytest.mark.parametrize("path", ["nothing", "no/such/file.png", "YWJj", "abcd" * 2000])
def test_text_that_is_neither_a_path_nor_an_image_in_base64_is_refused_as_a_path(path):
    """The last two are base64, of other things."""
    with pytest.raises(
        ValueError, match=r"does not exist; give the path of an image|cannot be read as an image: .*name too long"
    ) as refusal:
        read_image(path)
    assert len(str(refusal.value)) < 500


def test_a_decompression_bomb_in_base64_is_refused():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match=r"cannot be read as an image: .*1600000000 pixels"):
        read_image(base64.b64encode(content).decode())


@pytest.mark.parametrize("cell", [{"image": "a.png"}, {"bytes": None, "path": None}, {"bytes": 5}])
def test_a_mapping_that_is_not_a_cell_of_datasets_is_refused(cell):
    with pytest.raises(ValueError, match="image is a mapping with"):
        read_image(cell)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "ICO", "TGA"])
def test_common_formats_are_read_whatever_the_file_name(file_format, tmp_path):
    path = tmp_path / "image.dat"
    path.write_bytes(encoded(file_format, RED.resize((16, 16))))
    assert np.abs(np.asarray(read_image(path)).reshape(-1, 3).astype(int) - (255, 0, 0)).max() < 4  # JPEG rounds


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n%%EOF\n", b"%PDF-1.4\n", b"8BPS"]
)
def test_a_file_for_which_pillow_would_start_another_program_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail(f"started {args}"))
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    for source in (path, content, io.BytesIO(content)):
        with pytest.raises(ValueError, match="cannot be read as an image: it is broken or none of JPEG"):
            read_image(source)
    assert not {"EPS", "PDF", "PSD", "WMF"} & set(FORMATS)


@pytest.mark.parametrize("installed", [True, False])
def test_heic_is_recognised_by_its_contents_if_pillow_heif_is_installed(installed, monkeypatch):
    """A stand-in for the plug-in, which registers an opener with Pillow in the same way."""
    plug_in = types.ModuleType("pillow_heif")

    def register_heif_opener():
        Image.register_open("HEIF", lambda file, name: PngImagePlugin.PngImageFile(io.BytesIO(encoded()), name), is_heic)

    def is_heic(start):
        return start[4:12] == b"ftypheic"

    plug_in.register_heif_opener = register_heif_opener
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in if installed else None)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    monkeypatch.setattr(Image, "OPEN", {name: opener for name, opener in Image.OPEN.items() if name != "HEIF"})
    images._register_heif.cache_clear()
    image = b"\0\0\0\x18ftypheic" + b"\0" * 50
    try:
        if installed:
            np.testing.assert_array_equal(np.asarray(read_image(image)), np.asarray(RED))
        else:
            with pytest.raises(ValueError, match=r"none of JPEG, .*; HEIC needs pillow-heif"):
                read_image(image)
    finally:
        images._register_heif.cache_clear()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_decompression_bomb_is_refused_by_name(tmp_path):
    path = tmp_path / "huge.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} cannot be read as an image: .*1600000000 pixels"):
        read_image(path)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "ICO", "JPEG2000", "TGA", "AVIF"])
def test_broken_files_raise_only_value_errors_that_name_the_file(file_format, tmp_path):
    """Files that are cut off anywhere or have changed bytes; Pillow raises a dozen kinds of errors for these."""
    if file_format not in Image.registered_extensions().values():
        pytest.skip(f"this Pillow does not write {file_format}")
    noise = np.random.default_rng(0)
    content = encoded(file_format, Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    path, refusals = tmp_path / "broken", []
    for _ in range(60):
        changed = bytearray(content[: noise.integers(0, len(content) + 1)] if noise.random() < 0.5 else content)
        for place in noise.integers(0, max(1, min(len(changed), 200)), 5) if changed else []:
            changed[place] = noise.integers(256)
        path.write_bytes(changed)
        try:
            read_image(path)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 10, "premise: many of them are broken"
    assert all(str(path) in refusal for refusal in refusals)


# URLs.


@pytest.fixture
def server():
    """Serves bytes without end, a few at a time."""

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            try:
                while not stopped.wait(0.01):
                    self.wfile.write(b"\0" * 1000)
            except OSError:
                pass  # the reader has gone

        def log_message(self, *args):
            pass

    stopped, endless = threading.Event(), HTTPServer(("127.0.0.1", 0), Endless)
    thread = threading.Thread(target=endless.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{endless.server_port}/image.jpg"
    stopped.set()
    endless.shutdown()
    thread.join()
    endless.server_close()


def test_a_download_stops_at_the_time_limit(server):
    with pytest.raises(ValueError, match=r"image.jpg cannot be read as an image: the download took more than 0.2 s"):
        read_image(server, timeout=0.2)


def test_a_download_stops_at_the_size_limit(server, monkeypatch):
    monkeypatch.setattr(images, "MAX_DOWNLOAD_BYTES", 5000)
    with pytest.raises(ValueError, match=r"image.jpg cannot be read as an image: it has more than 5,000 bytes"):
        read_image(server)


@pytest.fixture
def redirecting():
    """A server where `/N` redirects to `/N-1`, `/0` is a red image, and other paths redirect to their query, or to themselves."""

    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            number = self.path.strip("/")
            if number == "0":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(encoded())
                return
            self.send_response(302)
            self.send_header("Location", f"/{int(number) - 1}" if number.isdigit() else self.path.partition("?")[2] or self.path)
            self.end_headers()

        def log_message(self, *args):
            pass

    seen, redirects = [], HTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=redirects.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{redirects.server_port}", seen
    redirects.shutdown()
    thread.join()
    redirects.server_close()


def test_redirects_are_followed_up_to_their_limit(redirecting):
    address, seen = redirecting
    np.testing.assert_array_equal(np.asarray(read_image(f"{address}/{images.MAX_REDIRECTS}")), np.asarray(RED))
    assert len(seen) == images.MAX_REDIRECTS + 1
    seen.clear()
    with pytest.raises(ValueError, match=rf"{address}/6 cannot be read as an image: .*redirects in a circle or more than 5 times"):
        read_image(f"{address}/6")
    assert "/0" not in seen


def test_circular_redirects_are_refused(redirecting):
    address, _ = redirecting
    with pytest.raises(ValueError, match="redirects in a circle"):
        read_image(f"{address}/circle")


@pytest.mark.parametrize("target", ["ftp://127.0.0.1:1/image.jpg", "file:///etc/hostname", "data:image/png;base64,AAAA"])
def test_redirects_to_anything_but_the_web_are_refused(redirecting, target):
    """Each of these is refused by its scheme, not opened."""
    address, _ = redirecting
    with pytest.raises(ValueError, match=r"cannot be read as an image: .*(only http and https are followed|is not allowed)"):
        read_image(f"{address}/away?{target}")


def test_the_time_limit_includes_headers_that_arrive_byte_by_byte():
    """Each byte arrives within the timeout of a socket, but the headers never end."""
    listener, stopped = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not stopped.wait(0.05):
                    connection.sendall(b"x")
            except OSError:
                pass  # the reader has gone

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(ValueError, match=r"cannot be read as an image: the download took more than 0\.3 s"):
            read_image(f"http://127.0.0.1:{listener.getsockname()[1]}/image.jpg", timeout=0.3)
    finally:
        stopped.set()
        thread.join()
        listener.close()


def test_long_urls_are_shortened_in_errors():
    with pytest.raises(ValueError, match="cannot be read as an image") as refusal:
        read_image("data:image/png;base64," + "A" * 100_000)
    assert len(str(refusal.value)) < 500


# Switches of the processor.

processors = pytest.mark.parametrize("processor_class", [MulTImageProcessor, MulTImageProcessorPil])


@processors
@pytest.mark.parametrize("do_normalize", [True, False])
def test_floats_in_0_to_1_are_not_rescaled_twice(processor_class, do_normalize):
    """The values are the same with `do_rescale=False`, which transformers advises for such images."""
    image = np.random.default_rng(0).random((64, 96, 3)).astype(np.float32)
    processor = processor_class(size={"height": 64, "width": 96}, do_normalize=do_normalize)
    usual = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processor(image, do_rescale=False, return_tensors="pt")["pixel_values"], usual)


@processors
def test_values_up_to_255_are_not_normalised_without_rescaling(processor_class):
    processor = processor_class(size={"height": 64, "width": 96}, do_rescale=False)
    for image in (RED, np.full((64, 96, 3), 200, np.uint8), np.full((64, 96, 3), 200, np.float32)):
        with pytest.raises(ValueError, match=r"do_rescale is False, and image 0 is no array or tensor of floats in \[0, 1\]"):
            processor(image)
    assert processor(RED, do_normalize=False, return_tensors="pt")["pixel_values"].max() == 255, "as asked for"
    with pytest.raises(ValueError, match="image 1 is no array"):
        processor([np.zeros((64, 96, 3), np.float32), RED], do_normalize=False)


@processors
def test_do_convert_rgb_false_is_refused(processor_class):
    with pytest.raises(ValueError, match="do_convert_rgb is False, but the model takes RGB"):
        processor_class()(RED, do_convert_rgb=False)


@processors
def test_sizes_may_be_numpy_integers(processor_class, tmp_path):
    height, width = np.array([64, 96])
    processor = processor_class(size={"height": height, "width": width})
    assert processor(RED, return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 96)
    processor.save_pretrained(tmp_path)
    assert processor_class.from_pretrained(tmp_path)(RED, return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 96)
