"""Proves that PEFT's adapters train, save and load with MulT models, on any encoder."""

import pytest
import torch

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
from support.batches import assert_same_predictions, labels_for, pixels
from support.models import BACKBONES, SMALL_RESNET


def test_adapters_train_behind_checkpointed_frozen_layers(tiny_model):
    peft = pytest.importorskip("peft")
    model = tiny_model(tasks=["depth", "normals"]).train()
    model.gradient_checkpointing_enable()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted(pixel_values=pixels(), labels=labels_for(model)).loss.backward()
    adapters = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("backbone" in name for name in adapters), "premise: the encoder has adapters too"
    assert all(p.grad is not None for p in adapters.values())


def test_adapters_train_save_and_load(tiny_model, tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny_model(tasks=["depth", "normals"])
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    expected = adapted(pixel_values=pixels()).predictions
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(tasks=["depth", "normals"]), tmp_path)
    assert_same_predictions(loaded(pixel_values=pixels()).predictions, expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_adapters_train_behind_checkpointed_layers_of_any_encoder(name):
    peft = pytest.importorskip("peft")
    if name == "timm":
        pytest.importorskip("timm")
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=BACKBONES[name], tasks=["depth"], decoder_window_size=4)).train()
    if name != "timm":  # whose encoder has no layers that transformers can checkpoint
        model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    embedded = []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: embedded.append(output))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted(pixel_values=pixels(), labels=labels_for(model)).loss.backward()
    (output,) = embedded
    assert output.requires_grad
    assert [n for n, p in adapted.named_parameters() if p.requires_grad and p.grad is None] == []


def test_all_heads_are_trained_in_full_together_with_adapters(tiny_model, tmp_path):
    """PEFT refuses `modules_to_save` on a dictionary of modules, so the heads are a module of their own."""
    peft = pytest.importorskip("peft")
    model = tiny_model(tasks=["depth", "normals"])
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["heads"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
    changed = adapted(pixel_values=pixels()).predictions
    assert not torch.allclose(changed["depth"], tiny_model(tasks=["depth", "normals"])(pixels()).predictions["depth"])
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(tasks=["depth", "normals"]), tmp_path)
    assert_same_predictions(loaded(pixel_values=pixels()).predictions, changed)


def test_adapters_predict_the_same_after_loading_whenever_the_encoder_was_frozen(tiny_model, tmp_path):
    """Adapters do not save the running statistics of batch normalisation, so training must not change them."""
    peft = pytest.importorskip("peft")
    settings = {"backbone_config": dict(SMALL_RESNET), "tasks": ["depth"]}
    adapted = peft.get_peft_model(
        tiny_model(**settings).train(), peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["heads"])
    )
    optimizer = torch.optim.SGD([parameter for parameter in adapted.parameters() if parameter.requires_grad], lr=0.1)
    for _ in range(3):
        adapted(pixel_values=10 * pixels() + 3, labels={"depth": torch.rand(2, 1, 64, 64)}).loss.backward()
        optimizer.step()
    trained = adapted.eval()(pixel_values=pixels()).predictions
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(**settings), tmp_path).eval()
    assert_same_predictions(loaded(pixel_values=pixels()).predictions, trained)


def test_a_task_is_added_before_a_library_wraps_the_heads(tiny_model):
    """The refused model is as it was."""
    peft = pytest.importorskip("peft")
    model = tiny_model(tasks=["depth"])
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["heads"]))
    with pytest.raises(ValueError, match=r"that is not MulT's .*; add the task before the model is wrapped"):
        adapted.add_task("normals")
    assert model.task_names == ["depth"]
    assert not [name for name, _ in model.named_parameters() if "normals" in name]


@pytest.mark.parametrize("saved", ["heads", "heads.tasks.depth", "projection"])
def test_heads_that_adapters_train_follow_the_configuration(tiny_model, saved):
    peft = pytest.importorskip("peft")
    model = tiny_model(tasks=["depth", "normals"]).eval()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[saved])).eval()
    before = adapted(pixel_values=pixels()).predictions["depth"]
    model.config.tasks = [{**entry, "value_range": [0, 2]} if entry["name"] == "depth" else entry for entry in model.config.tasks]
    torch.testing.assert_close(adapted(pixel_values=pixels()).predictions["depth"], before / 5)
