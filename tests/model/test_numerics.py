"""Proves that attention functions, precision, checkpointing, compilation and export do not change predictions and gradients."""

import pytest
import torch

from support.batches import assert_same_predictions, labels_for, pixels
from support.models import FLAT_SWIN, SHALLOW_SWIN


@pytest.mark.parametrize("block_attention", [["self", "encoder"], ["encoder+skip", "reference+skip"]])
def test_sdpa_and_eager_attention_agree(tiny_model, block_attention):
    model = tiny_model(block_attention=block_attention)
    assert model.config._attn_implementation == "sdpa", "premise: sdpa is the default"
    fused = model(pixels(2, 52, 75)).predictions
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert_same_predictions(model(pixels(2, 52, 75)).predictions, fused)


def test_attention_dropout_drops_weights_only_in_training(tiny_model):
    model = tiny_model(tasks=["depth"], attention_probs_dropout_prob=0.5)
    first, second = (model(pixels(), output_attentions=True) for _ in range(2))
    assert_same_predictions(first.predictions, second.predictions)
    torch.testing.assert_close(first.attentions[-1].sum(dim=-1), torch.ones_like(first.attentions[-1][..., 0]))
    dropped = model.train()(pixels(), output_attentions=True).attentions[-1]
    assert 0.4 < (dropped == 0).float().mean() < 0.6, "half of the weights, within what thousands of draws allow"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_full_and_its_loss_is_finite(tiny_model, dtype):
    model = tiny_model()
    full = model(pixels(), labels=labels_for(model))
    model.to(dtype)
    half = model(pixels().to(dtype), labels=labels_for(model))
    assert half.predictions["depth"].dtype == torch.float32, "bf16 depth would come in steps of 3 cm"
    assert half.loss.dtype == torch.float32
    assert half.loss.item() == pytest.approx(full.loss.item(), rel=0.02)


def test_gradient_checkpointing_gives_the_same_gradients(tiny_model):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.mult.decoder.stages[0].blocks[0].gradient_checkpointing, "premise: decoder blocks take part"
        model(pixels(), labels=labels_for(model)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_reentrant_checkpointing_is_refused_because_it_would_train_nothing(tiny_model):
    with pytest.raises(ValueError, match=r"with \{'use_reentrant': True\} loses"):
        tiny_model().gradient_checkpointing_enable({"use_reentrant": True})


@pytest.mark.nightly  # tests/model/test_compiled_sizes.py compares those of one task
def test_compiling_the_full_graph_gives_the_same_predictions(tiny_model):
    model = tiny_model(backbone_config=SHALLOW_SWIN, tasks=["depth", "segmentation"])
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(pixels())
    assert_same_predictions(compiled.predictions, model(pixels()).predictions)


@pytest.mark.nightly  # tests/training/test_loop.py compares a training step
@pytest.mark.slow
@pytest.mark.parametrize("encoder", [FLAT_SWIN, SHALLOW_SWIN], ids=["flat", "shallow"])
def test_compiling_the_full_training_graph_gives_the_same_gradients(tiny_model, encoder):
    model = tiny_model(backbone_config=encoder, tasks=["depth", "normals", "segmentation"])  # in evaluation mode: nothing random
    labels = labels_for(model)
    losses, gradients = [], []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        outputs = run(pixels(), labels=labels)
        outputs.loss.backward()
        losses.append(outputs.loss)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*losses)
    assert all(gradient is not None for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():  # because sums are taken in another order
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=lambda message, name=name: f"{name}: {message}")


@pytest.mark.slow
def test_torch_export_gives_the_same_numbers(tiny_model):
    model = tiny_model(backbone_config=SHALLOW_SWIN, tasks=["depth", "normals"])
    with torch.no_grad():
        program = torch.export.export(model, (pixels(),), strict=False)
        assert_same_predictions(program.module()(pixels()).predictions, model(pixels()).predictions)
