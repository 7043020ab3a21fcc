"""Proves that examples/lora.py trains few weights of the shipped model, and that merging keeps its predictions."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from examples import lora
from mult_hf import ROOMS_TINY_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lora")
    lora.main(["--output_dir", str(directory), "--max_steps", "2", "--rows", "4"])
    return directory


@pytest.mark.slow
def test_the_adapter_contains_only_encoder_attention_and_heads(adapted):
    names = list(load_file(adapted / "adapter_model.safetensors"))
    low_rank, whole = [name for name in names if "lora_" in name], [name for name in names if "lora_" not in name]
    assert low_rank
    assert all(".mult.backbone." in name and name.split(".lora_")[0].endswith(("q_proj", "v_proj")) for name in low_rank)
    tasks = MulTForMultiTaskDensePrediction.from_pretrained(ROOMS_TINY_CHECKPOINT).task_names
    assert {task for task in tasks for name in whole if f".{task}.projection." in name} == set(tasks)
    assert not any(".decoder." in name for name in names)


@pytest.mark.slow
def test_the_merged_model_is_an_ordinary_model_that_predicts_like_the_adapter(adapted):
    plain = MulTForMultiTaskDensePrediction.from_pretrained(adapted / "merged").eval()
    shipped = MulTForMultiTaskDensePrediction.from_pretrained(ROOMS_TINY_CHECKPOINT).eval()
    pixel_values = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = shipped(pixel_values).predictions
        with_adapter = PeftModel.from_pretrained(shipped, adapted).eval()(pixel_values).predictions
        merged = plain(pixel_values).predictions
    for task, expected in with_adapter.items():
        torch.testing.assert_close(merged[task], expected, atol=1e-3, rtol=1e-3)  # float32 products in another order
    assert any((before[task] - merged[task]).abs().max() > 1e-2 for task in before), "premise: training changed the predictions"
    assert MulTImageProcessor.from_pretrained(adapted / "merged").task_specs.keys() == before.keys()
