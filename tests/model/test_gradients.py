"""Proves that losses are summed by weight, and that gradients reach every parameter and every returned tensor."""

import pytest
import torch

from mult_hf.model.losses import multi_task_loss
from support.batches import labels_for, pixels


@pytest.mark.parametrize(
    "values", [{"block_attention": ["encoder", "reference+skip"]}, {"decoder_type": "swin_unet"}, {"decoder_type": "mtan"}]
)
def test_gradients_reach_every_returned_tensor(tiny_model, values):
    """Predictions are computed from the returned tensors themselves, not from copies or other views."""
    model = tiny_model(tasks=["depth", "normals"], **values)
    outputs = model(pixels(), labels=labels_for(model), output_attentions=True, output_hidden_states=True)
    streams = [stream for task in outputs.task_hidden_states.values() for stream in task]
    returned = [*(outputs.attentions or ()), *outputs.hidden_states, *streams]
    assert len(outputs.attentions) == (8 if "block_attention" in values else 0), "premise: two shared blocks per stage"
    for tensor in returned:
        tensor.retain_grad()
    outputs.loss.backward()
    assert [number for number, tensor in enumerate(returned) if tensor.grad is None or not tensor.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("block_attention", [["self", "encoder"], ["encoder", "reference"]])
def test_every_parameter_gets_a_gradient(tiny_model, block_attention):
    """Distributed training without find_unused_parameters needs this."""
    model = tiny_model(block_attention=block_attention).train()
    model(pixels(2, 128, 128), labels=labels_for(model, 2, 128, 128)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    # With a single window per stage, shifted blocks shift nothing, but their weights still have an effect.
    zero = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0 and "k_proj.bias" not in name]
    assert zero == [], "a key's bias shifts all scores of a query alike, so its gradient is zero by mathematics"


def test_every_parameter_gets_a_gradient_from_a_batch_with_unknown_tasks(tiny_model):
    model = tiny_model().train()
    labels = labels_for(model)
    labels["depth"][:] = torch.nan
    labels["segmentation"][:] = 255
    outputs = model(pixels(), labels=labels)
    outputs.loss.backward()
    assert outputs.task_losses["depth"] == outputs.task_losses["segmentation"] == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all((p.grad == 0).all() for _, p in model.task_parameters("depth"))


def test_the_loss_is_the_weighted_sum_of_task_losses(tiny_model):
    weights = {"depth": 2.0, "normals": 0.5}
    model = tiny_model(tasks=[{"name": task, "weight": weight} for task, weight in weights.items()])
    outputs = model(pixels(), labels=labels_for(model))
    expected = sum(weights[task] * loss for task, loss in outputs.task_losses.items())
    torch.testing.assert_close(outputs.loss, expected)
    predictions = model(pixels()).predictions
    torch.testing.assert_close(outputs.loss, multi_task_loss(predictions, labels_for(model), model.config.task_specs)[0])


def test_labels_of_some_tasks_give_losses_of_only_these(tiny_model):
    model = tiny_model()
    outputs = model(pixels(), labels={"depth": labels_for(model)["depth"], "normals": None})
    assert list(outputs.task_losses) == ["depth"]


def test_training_lowers_every_loss(tiny_model):
    model = tiny_model(block_attention=["self+skip", "encoder+skip"]).train()
    labels = labels_for(model)
    labels["depth"] = 2 + labels["depth"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(25):
        outputs = model(pixels(), labels=labels)
        first = first or {t: v.item() for t, v in outputs.task_losses.items()}
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert {t: v.item() < first[t] for t, v in outputs.task_losses.items()} == dict.fromkeys(first, True)
