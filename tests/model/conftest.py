"""Fixtures of several test files: image processors of both backends, images, a saved model with its processor, and its pipeline."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from transformers import pipeline

from mult_hf import MulTImageProcessor, MulTImageProcessorPil
from support.pipelines import INPUT_SIZE, TASKS, make_model


@pytest.fixture(params=[MulTImageProcessor, MulTImageProcessorPil], ids=["torchvision", "pil"])
def processor_class(request):
    return request.param


@pytest.fixture(scope="module")
def rgb():
    """A small colour image (6, 9, 3) with black and white pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    return pixels


@pytest.fixture(scope="module")
def image():
    """A photograph of 213 x 320 pixels."""
    return Image.fromarray(np.ascontiguousarray(load_sample_image("china.jpg")[::2, ::2]))


@pytest.fixture(scope="module")
def flower():
    """Another one, of 120 x 160."""
    return Image.fromarray(load_sample_image("flower.jpg")).resize((160, 120))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model and a processor, each saved by its own `save_pretrained`, as after a training run."""
    path = tmp_path_factory.mktemp("saved") / "checkpoint"
    make_model().save_pretrained(path)
    MulTImageProcessor(size=INPUT_SIZE, tasks=TASKS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def predict(directory):
    return pipeline("multitask-vision", model=str(directory))


@pytest.fixture(scope="module")
def wanted(predict, image):
    return predict(image)
