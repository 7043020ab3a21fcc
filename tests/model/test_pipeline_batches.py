"""Proves that the pipeline accepts images of several sizes in one batch, for any size of its processor."""

import numpy as np
import pytest
import torch
from PIL import Image

from mult_hf import MulTImageProcessor, MultiTaskVisionPipeline

SIZES = [(64, 48), (40, 60), (64, 48), (33, 90), (40, 60)]  # two of the sizes occur twice, not next to each other


@pytest.fixture
def images():
    return [Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)) for number, size in enumerate(SIZES)]


@pytest.fixture
def predict(tiny_model):
    """Make a pipeline whose processor has these settings."""
    model = tiny_model(tasks=["segmentation", "depth"])
    return lambda **settings: MultiTaskVisionPipeline(model, MulTImageProcessor(tasks=model.config.tasks, **settings))


@pytest.mark.parametrize("settings", [{"size": {"shortest_edge": 40}}, {"do_resize": False}], ids=["aspect ratio kept", "own sizes"])
@pytest.mark.parametrize("batch_size", [2, 4, 5, 8])
def test_images_of_several_sizes_in_a_batch_give_the_same_results_as_single_images(predict, images, settings, batch_size):
    """Within float32's rounding, which depends on the other images of a batch."""
    pipeline = predict(**settings)
    alone = [pipeline(image) for image in images]
    batched = pipeline(images, batch_size=batch_size)
    assert [result["depth"]["prediction"].shape for result in batched] == SIZES
    for result, wanted in zip(batched, alone, strict=True):
        torch.testing.assert_close(result["depth"]["prediction"], wanted["depth"]["prediction"], rtol=0, atol=1e-4)
        assert (result["segmentation"]["prediction"] == wanted["segmentation"]["prediction"]).float().mean() > 0.99
        assert result["depth"]["image"].size == wanted["depth"]["image"].size


def test_images_of_one_size_need_one_call_of_the_model(predict, images):
    pipeline, sizes = predict(do_resize=False), []
    pipeline.model.register_forward_pre_hook(lambda model, args: sizes.append(tuple(args[0].shape)))
    pipeline(images, batch_size=5)
    assert sizes == [(2, 3, 64, 48), (2, 3, 40, 60), (1, 3, 33, 90)]


def test_maps_of_a_batch_from_a_generator_have_the_requested_size(predict, images):
    pipeline = predict(size={"shortest_edge": 40})
    results = list(pipeline((image for image in images), batch_size=3, target_size=(np.int64(20), np.int32(30)), tasks=["depth"]))
    assert [tuple(result["depth"]["prediction"].shape) for result in results] == [(20, 30)] * len(SIZES)
    assert [list(result) for result in results] == [["depth"]] * len(SIZES)


def test_the_error_for_a_too_small_image_in_a_batch_states_its_size(predict, images):
    with pytest.raises(ValueError, match="pixel_values are 20 x 31 pixels; both sides must be at least 32"):
        predict(do_resize=False)([*images, Image.new("RGB", (31, 20))], batch_size=6)
