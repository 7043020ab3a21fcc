"""Proves that images and maps are prepared alike alone and in a batch, and that post-processing undoes preprocessing."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mult_hf import MulTImageProcessor
from support.refusals import refusal
from support.strategies import JUNK, SIZES, cases, pil_images, targets, task_specs

RGB = st.lists(pil_images(("RGB", "L", "RGBA")), min_size=1, max_size=4)
# From 2 pixels: torch 2.14 fails to resize bytes to a single pixel, which no model takes.
OUTPUT_SIDES = st.integers(2, 40)
OUTPUT_SIZES = st.builds(lambda height, width: {"height": height, "width": width}, OUTPUT_SIDES, OUTPUT_SIDES)
PROCESSOR = MulTImageProcessor(tasks=["depth"])


@given(RGB, OUTPUT_SIZES)
def test_an_image_in_a_batch_has_the_same_pixels_as_alone(images, size):
    together = PROCESSOR(images, size=size, return_tensors="pt")["pixel_values"]
    assert together.shape == (len(images), 3, size["height"], size["width"])
    for number, image in enumerate(images):
        alone = PROCESSOR(image, size=size, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(together[number], alone, atol=2e-2, rtol=0)  # a grey level is 1 / 255 / 0.225


@given(RGB, OUTPUT_SIDES)
def test_a_side_is_never_rounded_to_nothing(images, edge):
    for image in images:
        pixels = PROCESSOR(image, size={"shortest_edge": edge}, return_tensors="pt")["pixel_values"]
        assert min(pixels.shape[-2:]) == edge


SPEC_AND_TARGET = task_specs.flatmap(lambda spec: st.tuples(st.just(spec), targets(spec)))


@cases(3)
@given(SPEC_AND_TARGET, st.integers(1, 3))
def test_post_processing_gives_back_the_map_that_went_in(pair, zoom):
    """A prediction that equals the prepared target becomes the stored map again, at the stored size."""
    spec, target = pair
    if refusal(lambda: spec.encode(target)):
        return
    height, width = size = target.shape[-2:]
    zoom = zoom if spec.is_classification or spec.resample == "nearest" else 1
    stored = spec.encode(target)
    image = Image.new("RGB", (width, height))
    if refusal(lambda: spec.decode(np.moveaxis(stored, 0, -1))):
        return  # an array of as many rows as channels
    processor = MulTImageProcessor(size={"height": zoom * height, "width": zoom * width}, tasks=[spec])
    labels = processor(image, label_maps={spec.name: np.moveaxis(stored, 0, -1)}, return_tensors="pt")["labels"][spec.name]
    if spec.is_classification:
        known = labels != 255
        prediction = torch.nn.functional.one_hot(torch.where(known, labels, 0), spec.channels).movedim(-1, 1).float()
    else:
        prediction = labels.nan_to_num(0.0)
    (maps,) = processor.post_process({spec.name: prediction}, [size])
    found = maps[spec.name]["prediction"].numpy()
    expected = spec.decode(stored, channels_last=False)
    known = expected != 255 if spec.is_classification else np.isfinite(expected)
    if not spec.is_classification and spec.value_range is not None:
        expected = np.clip(expected, *spec.value_range)  # what rounding in storage carried over the edge
    np.testing.assert_allclose(found.reshape(expected.shape)[known], expected[known], rtol=1e-5, atol=1e-4)


@cases(3)
@given(pil_images(("RGB",)), SIZES, st.sampled_from([None, 1, 3, 6]))
def test_a_map_is_accepted_if_and_only_if_it_is_aligned_with_its_image(image, map_size, map_orientation):
    """Any size of the same aspect ratio; never one that is turned, by EXIF or transposed."""
    turned = image.getexif().get(274, 1)
    image_height, image_width = (image.width, image.height) if turned in (5, 6, 7, 8) else (image.height, image.width)
    stored = Image.fromarray(np.full(map_size, 512, np.uint16))
    if map_orientation:
        stored.getexif()[274] = map_orientation
    message = refusal(lambda: PROCESSOR(image, label_maps={"depth": stored}, size={"height": 8, "width": 8}))
    same_aspect = abs(map_size[0] * image_width - map_size[1] * image_height) < image_height + image_width
    if turned == 1 and map_orientation in (None, 1):
        assert bool(message) == (not same_aspect)
    elif not message:
        assert same_aspect
        assert map_orientation in (None, 1)


PREDICTIONS = {
    "segmentation": torch.zeros(2, 17, 6, 5), "depth": torch.ones(2, 1, 6, 5), "normals": torch.ones(2, 3, 6, 5)
}  # fmt: skip


@cases(3)
@given(st.one_of(JUNK, st.lists(st.tuples(st.integers(-2, 20), st.integers(-2, 20)), max_size=3), st.lists(JUNK, min_size=2, max_size=2)))
def test_any_target_sizes_are_refused_or_give_maps_of_these_sizes(sizes):
    processor = MulTImageProcessor(tasks=["segmentation", "depth", "normals"])
    if sizes is None or refusal(lambda: processor.post_process(PREDICTIONS, sizes)):
        return
    for maps, (height, width) in zip(processor.post_process(PREDICTIONS, sizes), sizes, strict=True):
        assert all(each["prediction"].shape[-2:] == (height, width) for each in maps.values())


@given(st.sampled_from(["outputs", "empty", "rank", "channels", "unknown"]), st.integers(0, 5))
def test_outputs_that_are_no_predictions_of_the_tasks_are_refused(kind, rank):
    processor = MulTImageProcessor(tasks=["depth"])
    outputs = {
        "outputs": None, "empty": {}, "rank": {"depth": torch.zeros((2,) * rank)}, "channels": {"depth": torch.zeros(1, 2, 4, 4)},
        "unknown": {"height": torch.zeros(1, 1, 4, 4)},
    }[kind]  # fmt: skip
    if kind != "rank" or rank != 4:
        assert refusal(lambda: processor.post_process(outputs))
