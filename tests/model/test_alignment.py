"""Proves that misaligned maps are refused with both sizes and the cause, and that other sizes with the same aspect ratio are accepted."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mult_hf import MulTImageProcessor, MulTImageProcessorPil
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.model.alignment import check_aligned, map_size, misalignment, orientation, same_aspect, upright_size

SIDES = np.random.default_rng(0).integers(8, 2000, (500, 2)).tolist()


def image_of(height, width, exif_orientation=None):
    """An opened image file, as written by a camera."""
    exif = Image.Exif()
    if exif_orientation:
        exif[0x0112] = exif_orientation
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "JPEG", exif=exif)
    return Image.open(buffer)


def turned_file(directory, suffix, exif_orientation, image):
    """The path of an image file with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = exif_orientation
    image.save(directory / f"turned.{suffix}", exif=exif)
    return directory / f"turned.{suffix}"


def depth_of(height, width):
    return Image.fromarray(np.full((height, width), 512, np.uint16))


def test_resizing_keeps_the_aspect_ratio_by_this_definition():
    for height, width in SIDES:
        for scale in (0.1, 0.3, 0.77, 1.0, 2.2):
            assert same_aspect((max(1, round(height * scale)), max(1, round(width * scale))), (height, width)), (height, width, scale)


def test_a_transposed_map_has_another_aspect_ratio_unless_it_is_square():
    for height, width in [*SIDES, [480, 640], [100, 101], [64, 64], [1999, 2000]]:
        assert same_aspect((width, height), (height, width)) == (height == width), (height, width)


@pytest.mark.parametrize("height_width", [(24, 32), (48, 64), (12, 16), (240, 320)])
def test_maps_of_the_same_aspect_ratio_are_accepted_at_any_size(height_width):
    assert misalignment(depth_of(*height_width), image_of(48, 64)) is None


REFUSED = {
    "transposed": (depth_of(64, 48), image_of(48, 64), r"64 x 48 pixels, its image 48 x 64: turned by 90 degrees \(transposed\)"),
    "cropped": (depth_of(48, 48), image_of(48, 64), r"48 x 48 pixels, its image 48 x 64: another aspect ratio"),
    "array, transposed": (np.ones((64, 48), np.uint16), np.zeros((48, 64, 3), np.uint8), "turned by 90 degrees"),
    "channels first, cropped": (np.ones((3, 48, 40), np.uint8), torch.zeros(3, 48, 64, dtype=torch.uint8), "48 x 40 pixels"),
    "image turned by its EXIF tag": (depth_of(48, 64), image_of(48, 64, 6), r"its image 64 x 48: turned .*orientation is 6, and the map"),
    "square image turned by its EXIF tag": (depth_of(48, 48), image_of(48, 48, 8), "EXIF orientation 8 .* does not show whether"),
    "image upside down by its EXIF tag": (depth_of(48, 64), image_of(48, 64, 3), "EXIF orientation 3 .* does not show whether"),
    "mirrored image by its EXIF tag": (depth_of(48, 64), image_of(48, 64, 2), "EXIF orientation 2 .* does not show whether"),
    "a pixel in place of a map": (depth_of(1, 1), image_of(64, 200), "the map has 1 x 1 pixels, its image 64 x 200: too coarse"),
    "map with an EXIF tag": (image_of(64, 48, 6), image_of(64, 48), "the map has EXIF orientation 6, which is not applied"),
}


@pytest.mark.parametrize(("stored", "image", "message"), REFUSED.values(), ids=REFUSED)
def test_a_misaligned_map_is_refused_with_the_cause(stored, image, message):
    with pytest.raises(ValueError, match=f"normals of row 3: .*{message}"):
        check_aligned({"depth": None, "normals": stored}, image, "row 3")


@pytest.mark.parametrize("shape", [(8, 48, 64), (48, 64, 8)])
def test_a_map_of_many_channels_is_accepted_with_its_channels_first_or_last(shape):
    """Which of the two it is, the task's entry decides when the map is decoded."""
    assert misalignment(np.zeros(shape, np.float32), image_of(96, 128)) is None
    reason = misalignment(np.zeros(shape, np.float32), image_of(96, 96))
    assert "another aspect ratio" in reason


def test_a_coarse_map_is_accepted():
    assert misalignment(depth_of(8, 25), image_of(64, 200)) is None


def test_a_map_of_the_upright_image_is_accepted():
    assert misalignment(depth_of(64, 48), image_of(48, 64, 6)) is None
    assert upright_size(image_of(48, 64, 6)) == (64, 48)


def test_sizes_are_read_from_files_arrays_and_tensors(tmp_path):
    image_of(48, 64, 6).save(tmp_path / "image.jpg", exif=image_of(48, 64, 6).getexif())
    assert orientation(tmp_path / "image.jpg") == 6
    assert upright_size(str(tmp_path / "image.jpg")) == (64, 48)
    assert upright_size(torch.zeros(3, 48, 64, dtype=torch.uint8)) == (48, 64)
    assert map_size(np.zeros((48, 64, 3))) == map_size(np.zeros((3, 48, 64))) == map_size(np.zeros((48, 64))) == (48, 64)


@pytest.mark.parametrize("collate", ["__call__", "collate_for_evaluation"])
@pytest.mark.parametrize("name", ["transposed", "image turned by its EXIF tag", "square image turned by its EXIF tag"])
def test_the_collator_refuses_such_a_row_by_number(collate, name):
    collator = MultiTaskCollator(MulTImageProcessor(size={"height": 32, "width": 32}, tasks=["depth", "segmentation"]))
    stored, image, message = REFUSED[name]
    sound = {"image": image_of(48, 64), "depth": depth_of(24, 32)}
    getattr(collator, collate)([sound])
    with pytest.raises(ValueError, match=f"depth of row 1 of the batch: .*{message}"):
        getattr(collator, collate)([sound, {"image": image, "depth": stored}])


# The image processors, on which training, evaluation and the user's own code rely.

processors = pytest.mark.parametrize("processor_class", [MulTImageProcessor, MulTImageProcessorPil])


@processors
@pytest.mark.parametrize("side", [{"height": 64, "width": 64}, {"shortest_edge": 48}])
def test_processors_refuse_a_misaligned_map(processor_class, side):
    processor = processor_class(size=side, tasks=["depth"])
    for image, stored in (
        (image_of(96, 128), depth_of(128, 96)),
        (image_of(96, 128), depth_of(96, 96)),
        (image_of(96, 128), np.full((1, 128, 96), 512, np.uint16)),
        (np.zeros((3, 96, 128), np.uint8), np.full((128, 96), 512, np.uint16)),
        (torch.zeros(96, 128, 3, dtype=torch.uint8), torch.full((128, 96, 1), 512, dtype=torch.int32)),
        (image_of(96, 128, 6), depth_of(96, 128)),
        (image_of(96, 96, 8), depth_of(96, 96)),
        (image_of(96, 128, 3), depth_of(96, 128)),
    ):
        with pytest.raises(ValueError, match="label map 0 of the batch: depth: the "):
            processor(image, label_maps={"depth": stored}, return_tensors="pt")


@processors
def test_processors_accept_maps_of_another_size_and_upright_maps_of_turned_images(processor_class):
    processor = processor_class(size={"height": 64, "width": 64}, tasks=["depth"])
    for image, stored in ((image_of(96, 128), depth_of(48, 64)), (image_of(96, 128, 6), depth_of(128, 96))):
        assert (processor(image, label_maps={"depth": stored}, return_tensors="pt")["labels"]["depth"] == 1).all()


@processors
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation_is_read_from_a_file_in_any_form(processor_class, suffix, tmp_path):
    """Pillow applies and forgets that of a TIFF file when it reads the pixels."""
    path = turned_file(tmp_path, suffix, 6, Image.new("RGB", (60, 30)))
    processor = processor_class(size={"height": 48, "width": 48}, tasks=["depth"])
    for image in (path, str(path), path.read_bytes(), path.open("rb"), {"bytes": path.read_bytes()}, Image.open(path)):
        with pytest.raises(ValueError, match=r"turned by 90 degrees \(the image's EXIF orientation is 6"):
            processor(image, label_maps={"depth": depth_of(30, 60)})


@processors
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_a_map_of_a_file_upside_down_is_refused_in_every_format(processor_class, suffix, tmp_path):
    """Its size does not show whether it was turned with the image."""
    path = turned_file(tmp_path, suffix, 3, Image.new("RGB", (60, 30)))
    processor = processor_class(size={"height": 48, "width": 48}, tasks=["depth"])
    for image in (path, path.read_bytes(), Image.open(path)):
        with pytest.raises(ValueError, match=r"EXIF orientation 3 .* does not show whether"):
            processor(image, label_maps={"depth": depth_of(30, 60)})


@processors
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_map_with_an_exif_orientation_is_refused_in_every_format(processor_class, suffix, tmp_path):
    path = turned_file(tmp_path, suffix, 3, depth_of(30, 60))
    processor = processor_class(size={"height": 48, "width": 48}, tasks=["depth"])
    with pytest.raises(ValueError, match="the map has EXIF orientation 3"):
        processor(Image.new("RGB", (60, 30)), label_maps={"depth": Image.open(path)})


@processors
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_a_broken_file_with_labels_is_refused_as_one_without_them(processor_class, suffix, tmp_path):
    path = tmp_path / f"broken.{suffix}"
    exif = Image.Exif()
    exif[274] = 6
    Image.effect_noise((60, 30), 50).convert("RGB").save(path, exif=exif)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    processor = processor_class(size={"height": 48, "width": 48}, tasks=["depth"])
    for labels in ({}, {"label_maps": {"depth": depth_of(60, 30)}}):
        with pytest.raises(ValueError, match=f"broken.{suffix}"):
            processor(path, **labels)


NO_MAPS = ["map.png", b"PNG", {"bytes": b"", "path": None}, 3.0, np.ones(1200, np.uint16), np.ones((1, 1, 30, 40), np.uint16)]


@pytest.mark.parametrize("collate", ["__call__", "collate_for_evaluation"])
@pytest.mark.parametrize("stored", [*NO_MAPS, np.ones((0, 0), np.uint16), torch.ones(0, 40)], ids=lambda stored: str(stored)[:20])
def test_a_value_that_is_no_map_is_refused_with_its_task_and_row(collate, stored):
    """A cell that was not decoded, for example."""
    collator = MultiTaskCollator(MulTImageProcessor(size={"height": 32, "width": 32}, tasks=["depth"]))
    reasons = r"(a label map is a PIL image, an array or|a stored map has shape \(|the map has 0 x \d+ pixels, .*: it is empty)"
    with pytest.raises(ValueError, match=f"depth of row 0 of the batch: {reasons}"):
        getattr(collator, collate)([{"image": image_of(30, 40), "depth": stored}])


@processors
def test_processors_refuse_a_map_without_pixels(processor_class):
    processor = processor_class(size={"height": 32, "width": 32}, tasks=["depth"])
    with pytest.raises(ValueError, match="depth: the map has 0 x 40 pixels, its image 30 x 40: it is empty"):
        processor(image_of(30, 40), label_maps={"depth": np.ones((0, 40), np.uint16)})
