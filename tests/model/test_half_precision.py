"""Proves that a half-precision model accepts the processor's float32, with the same predictions as from its own type."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from mult_hf import MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("pixels", FLOATS)
@pytest.mark.parametrize("weights", FLOATS)
def test_pixels_of_any_float_type_are_cast_to_that_of_the_weights(tiny_model, weights, pixels):
    model = tiny_model(tasks=["depth"]).to(weights)
    values = torch.randn(1, 3, 64, 70, generator=torch.Generator().manual_seed(0)).to(pixels)
    with torch.no_grad():
        prediction = model(values).predictions["depth"]
        torch.testing.assert_close(prediction, model(values.to(weights)).predictions["depth"])
    assert prediction.isfinite().all()


def test_integer_pixels_are_still_refused(tiny_model):
    with pytest.raises(ValueError, match=r"pixel_values is torch.uint8; expected normalised floats"):
        tiny_model(tasks=["depth"]).half()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize("flag", ["bf16_full_eval", "fp16_full_eval"])
def test_trainer_evaluates_in_half_precision(tiny_model, tmp_path, flag):
    processor = MulTImageProcessor(size={"height": 64, "width": 64}, tasks=[{"name": "depth", "encoding": {"dtype": "float32"}}])
    rows = [{"image": Image.new("RGB", (64, 64), "red"), "depth": np.full((64, 64), 2.0, np.float32)}]
    losses = []
    for flags in ({}, {flag: True}):
        arguments = TrainingArguments(tmp_path, remove_unused_columns=False, report_to="none", use_cpu=True, disable_tqdm=True, **flags)
        model = tiny_model(tasks=["depth"])
        trainer = Trainer(model=model, args=arguments, eval_dataset=rows, data_collator=MultiTaskCollator(processor))
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # three digits, through some dozen layers
