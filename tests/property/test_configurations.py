"""Proves that a configuration makes a model that is the same after saving, or is refused."""

import contextlib
import json

import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
from support.refusals import refusal
from support.strategies import cases, configurations, spoilt


@cases(0.5)
@given(configurations(), st.integers(32, 50), st.integers(32, 50))
def test_a_configuration_makes_a_model_that_is_the_same_after_saving(tmp_path, keywords, height, width):
    torch.manual_seed(0)
    config = MulTConfig(**keywords)
    assert MulTConfig.from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()
    model = MulTForMultiTaskDensePrediction(config).eval()
    model.save_pretrained(tmp_path)
    loaded = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path)
    pixel_values = torch.randn(1, 3, height, width)
    with torch.no_grad():
        before, after = (each(pixel_values).predictions for each in (model, loaded))
    assert list(before) == list(after) == list(config.task_specs)
    for task, maps in before.items():
        assert maps.shape == (1, config.task_specs[task].channels, height, width)
        assert maps.isfinite().all()
        torch.testing.assert_close(after[task], maps)


@cases(2)
@given(spoilt(configurations()))
def test_a_spoilt_configuration_is_refused_or_makes_a_model(keywords):
    def build():
        MulTForMultiTaskDensePrediction(MulTConfig(**keywords))

    with contextlib.suppress(StrictDataclassError):  # wraps what validators raise; its text about wrong types is the library's
        refusal(build)
