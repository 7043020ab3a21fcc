"""Proves that saved models load with the same numbers, with and without heads, by Auto classes, and with tasks that are not registered."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
)

from mult_hf import MULT_TASKS, MulTConfig, MulTForMultiTaskDensePrediction, MulTModel
from support.batches import CURVATURE, pixels
from support.forked import run_script


def test_a_saved_model_predicts_the_same_after_loading(tiny_model, tmp_path):
    model = tiny_model(block_attention=["encoder+skip", "reference"], reference_task="depth")
    model.save_pretrained(tmp_path)
    loaded, info = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert {key: len(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")} == {
        "missing_keys": 0, "unexpected_keys": 0, "mismatched_keys": 0,
    }  # fmt: skip
    expected = {**model.config.to_dict(), "_name_or_path": str(tmp_path)}
    expected["backbone_config"]["dtype"] = "float32"  # set by transformers when it loads
    assert loaded.config.to_dict() == expected
    for task, prediction in model(pixels()).predictions.items():
        assert torch.equal(prediction, loaded(pixels()).predictions[task])


def test_auto_classes_load_the_model(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MulTConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is MulTForMultiTaskDensePrediction


def test_the_model_without_heads_loads_from_the_model_with_heads(tiny_model, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    features = MulTModel.from_pretrained(tmp_path)(pixels()).task_features
    torch.testing.assert_close(model.heads.tasks["depth"](features["depth"], (64, 64), (64, 64)), model(pixels()).predictions["depth"])


def test_weights_are_initialised_after_loading_on_the_meta_device(tiny_config, tmp_path):
    """from_pretrained leaves non-persistent buffers uninitialised."""
    MulTForMultiTaskDensePrediction(tiny_config()).save_pretrained(tmp_path)
    loaded = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path)
    bias = loaded.mult.decoder.stages[0].blocks[0].attention.tasks["depth"].position_bias
    assert torch.equal(bias.index, bias.make_index())


WITH_AN_UNKNOWN_TASK = """
import sys, torch, mult_hf
assert "principal_curvature" not in mult_hf.registered_tasks()
model = mult_hf.MulTForMultiTaskDensePrediction.from_pretrained(sys.argv[1])
image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
print(model(image).predictions["principal_curvature"].double().sum().item())
"""


def test_a_checkpoint_loads_with_a_task_that_is_not_registered(tiny_config, tmp_path):
    """A new task needs only one entry to be predicted, trained, saved and loaded by a process that has not registered it."""
    model = MulTForMultiTaskDensePrediction(tiny_config(tasks=[*MULT_TASKS, CURVATURE])).eval()
    labels = {"principal_curvature": torch.rand(2, 2, 64, 64)}
    assert list(model(pixels(), labels=labels).task_losses) == ["principal_curvature"]
    model.save_pretrained(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(WITH_AN_UNKNOWN_TASK)
    printed, status = run_script(script, tmp_path, output=tmp_path / "output.txt")
    assert status == 0, printed
    expected = model(pixels()).predictions["principal_curvature"].double().sum().item()
    assert float(printed.splitlines()[-1]) == pytest.approx(expected, abs=1e-3)


def test_auto_model_has_heads_and_the_model_without_heads_loads_its_checkpoint(tiny_model, tmp_path):
    model = tiny_model(tasks=["depth"])
    model.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is MulTForMultiTaskDensePrediction
    features = MulTModel.from_pretrained(tmp_path)(pixels()).task_features["depth"]
    torch.testing.assert_close(features, model.mult(pixels()).task_features["depth"])


def test_loading_with_fewer_tasks_than_the_reference_needs_is_refused(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="reference_task 'normals' is not one of the tasks"):
        MulTForMultiTaskDensePrediction.from_pretrained(tmp_path, tasks=["depth"])


def test_a_state_dict_with_names_of_a_saved_file_is_loaded_and_checked(tiny_model, tmp_path):
    """When Trainer resumes, it reads the file itself; in files written by plain transformers, Swin's weights have other names."""
    model = tiny_model(tasks=["depth"])
    model.save_pretrained(tmp_path, save_original_format=True)
    saved = load_file(tmp_path / "model.safetensors")
    assert not saved.keys() <= model.state_dict().keys(), "premise: the names differ"
    fresh = MulTForMultiTaskDensePrediction(model.config)
    fresh.load_state_dict(saved)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in fresh.state_dict().items())
    lost = "heads.tasks.depth.projection.bias"
    del saved[lost]
    missing, unexpected = fresh.load_state_dict({**saved, "smell": torch.zeros(1)}, strict=False)
    assert (missing, unexpected) == ([lost], ["smell"])
