"""How many inputs the properties are tried on: some hundreds with a fixed seed, or 20,000 random ones with MULT_HF_PROFILE=nightly."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
from support.models import TINY_SWIN

# A slow machine must not fail a property, and the files that a case finds are replaced by it.
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", max_examples=8, derandomize=True, database=None, deadline=None, suppress_health_check=SLOW)
settings.register_profile("nightly", max_examples=280, print_blob=True, deadline=None, suppress_health_check=SLOW)
settings.load_profile("nightly" if os.environ.get("MULT_HF_PROFILE") == "nightly" else "ci")


@pytest.fixture(scope="module")
def model():
    """A model of two kinds of blocks and three kinds of tasks, every parameter away from its initial value."""
    torch.manual_seed(0)
    config = MulTConfig(backbone_config=dict(TINY_SWIN), tasks=["segmentation", "depth", "normals"], reference_task="depth")
    model = MulTForMultiTaskDensePrediction(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    """The model and its processor as files."""
    from mult_hf import MulTImageProcessor

    directory = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(directory)
    MulTImageProcessor(size={"height": 32, "width": 32}, tasks=model.config.tasks).save_pretrained(directory)
    return directory
