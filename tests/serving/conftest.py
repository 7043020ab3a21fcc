"""A service with a very small model in this process, and its client."""

import asyncio
from functools import partial

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mult_hf import MulTImageProcessor
from mult_hf.inference.predictor import predict
from mult_hf.serving.app import PredictionService, ServiceSettings
from mult_hf.serving.batching import predict_together

TASKS = ["segmentation", "depth", "normals", {"name": "curvature", "kind": "regression", "channels": 2}]  # the last has no PNG form


@pytest.fixture
def network(tiny_model):
    return tiny_model(tasks=TASKS)


@pytest.fixture
def processor(network):
    return MulTImageProcessor(size={"height": 40, "width": 40}, tasks=network.config.tasks)


@pytest.fixture
def serve(network, processor):
    """Make a service; keywords are settings, and `model`, `healthy` and `processor` replace what it calls."""

    async def answer(query):
        together = partial(predict_together, lambda pixels, tasks: predict(network, pixels, tasks=tasks), [query])
        (prediction,) = await asyncio.to_thread(together)
        return prediction

    def make(model=answer, healthy=True, processor=processor, **settings):
        async def is_healthy():
            return healthy

        return PredictionService(processor, network.config.task_specs, ServiceSettings("tiny", **settings), model, is_healthy)

    return make


@pytest.fixture
def client(serve):
    return TestClient(serve().application())


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    return Image.fromarray(pixels)
