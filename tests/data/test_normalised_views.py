"""Proves that views are normalised as the processor normalises images, in the loader and on a device, whatever its settings."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mult_hf import MulTImageProcessor, MulTImageProcessorPil
from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.batch_views import BatchViews
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.model.normalisation import Normalisation
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.loop import views_on_device

SIZE = {"height": 16, "width": 24}
STILL = dict.fromkeys(("flip", "degrees", "brightness", "contrast", "saturation", "hue"), 0.0)
SETTINGS = {
    "ImageNet's mean of [0, 1]": {},
    "[-1, 1]": {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
    "a mean of 0 to 255": {"rescale_factor": 1.0, "image_mean": [123.0, 116.0, 103.0], "image_std": [58.0, 57.0, 57.5]},
    "[0, 2] without a mean": {"rescale_factor": 2 / 255, "do_normalize": False},
    "0 to 255": {"do_rescale": False, "do_normalize": False},
}
# A view is sampled at positions in float32, which are off by about 1e-5 pixels; the pixels of noise differ by up to 1.
ROUNDING = 1e-4


def still(processor):
    return RandomAugmentation(tasks=processor.task_specs, zoom=(1.0, 1.0), **STILL)


def on_device(processor, rows):
    normalisation = Normalisation.of(processor)
    views = BatchViews(still(processor), normalisation.mean, normalisation.std, scale=normalisation.scale)
    return views(MultiTaskCollator(processor).without_views(rows))


PATHS = {"loader": lambda processor, rows: MultiTaskCollator(processor, still(processor))(rows), "device": on_device}


def assert_equal_pixels(processor, rows, path):
    expected, found = MultiTaskCollator(processor).collate_for_evaluation(rows)[0], path(processor, rows)["pixel_values"]
    normalisation = Normalisation.of(processor)
    step = np.max(normalisation.scale) / np.min(normalisation.std)
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING * step, check_dtype=False)


def rows_of(*images):
    return [{"image": image, "augmentation_seed": number} for number, image in enumerate(images)]


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("processor_class", [MulTImageProcessor, MulTImageProcessorPil])
def test_views_without_changes_are_the_pixels_of_evaluation(processor_class, settings, path):
    processor = processor_class(size=SIZE, tasks=["depth"], **settings)
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    images = [Image.fromarray(noise), *(Image.new("RGB", (24, 16), colour) for colour in ("white", "black", (255, 0, 7)))]
    assert_equal_pixels(processor, rows_of(*images), path)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@given(
    factor=st.floats(1e-3, 2.0),
    mean=st.lists(st.floats(-10, 200), min_size=3, max_size=3),
    std=st.lists(st.floats(0.1, 100), min_size=3, max_size=3),
    grey=st.integers(0, 255),
)
def test_views_of_any_normalisation_are_the_pixels_of_evaluation(path, factor, mean, std, grey):
    processor = MulTImageProcessor(size=SIZE, tasks=["depth"], rescale_factor=factor, image_mean=mean, image_std=std)
    assert_equal_pixels(processor, rows_of(Image.new("RGB", (24, 16), (grey, 255 - grey, 255))), path)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_training_makes_views_on_a_device_with_the_processors_normalisation(settings, tmp_path):
    processor = MulTImageProcessor(size=SIZE, tasks=["depth"], **settings)
    views = views_on_device(TrainingArguments(output_dir=tmp_path, views_on_device=True, jpeg=0.0), processor)
    assert Normalisation(views.scale, views.mean, views.std) == Normalisation.of(processor)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_images_of_8_bits_are_refused_where_evaluation_refuses_them(path):
    """Without rescaling, a mean of values in [0, 1] would be taken from values up to 255."""
    processor = MulTImageProcessor(size=SIZE, tasks=["depth"], do_rescale=False)
    image = np.random.default_rng(0).random((16, 24, 3), np.float32)
    assert_equal_pixels(processor, rows_of(image), path)
    for collate in (path, lambda processor, rows: MultiTaskCollator(processor)(rows)):
        with pytest.raises(ValueError, match="do_rescale is False, and image 0 is no array or tensor of floats"):
            collate(processor, rows_of(Image.new("RGB", (24, 16))))


def test_images_that_stay_in_0_to_1_are_viewed_in_the_loader_alone():
    processor = MulTImageProcessor(size=SIZE, tasks=["depth"], do_rescale=False, do_normalize=False)
    rows = rows_of(np.random.default_rng(0).random((16, 24, 3), np.float32))
    pixels = MultiTaskCollator(processor, still(processor))(rows)["pixel_values"]
    torch.testing.assert_close(pixels, MultiTaskCollator(processor).collate_for_evaluation(rows)[0], rtol=0, atol=ROUNDING)
    with pytest.raises(ValueError, match="make the views in the loader, or set do_rescale=True"):
        MultiTaskCollator(processor).without_views(rows)


def test_normalisation_returns_a_new_tensor():
    pixels = torch.rand(2, 3, 4, 5)
    before = pixels.clone()
    scaled = Normalisation([1.0, 2.0, 3.0], [0.1, 0.2, 0.3], [1.0, 2.0, 4.0])(pixels)
    assert torch.equal(pixels, before)
    torch.testing.assert_close(scaled[:, 2], (3 * pixels[:, 2] - 0.3) / 4)
    assert Normalisation.of(SimpleNamespace(rescale_factor=[1.0, 2.0], do_rescale=True, do_normalize=False)).scale == [255.0, 510.0]
