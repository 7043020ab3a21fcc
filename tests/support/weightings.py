"""Small models, batches and losses for tests of task weightings."""

import torch
from torch import nn

from mult_hf import TaskSpec
from mult_hf.training.weighting import make_weighting

TASKS = ("depth", "normals", "edges2d")


def specs_of(**weights):
    """Task entries with these fixed weights."""
    return {task: TaskSpec(name=task, kind="regression", channels=1, weight=weight) for task, weight in weights.items()}


def losses_of(features, **values):
    """Losses of the given values, of which each has the gradient (value, 0, ...) at the features (1,)."""
    return {task: value * features.sum() for task, value in values.items()}


def weighting_of(name, fixed, **options):
    return make_weighting(name, specs_of(**fixed), nn.Linear(1, 1), **options)


def batch_of(size=4, seed=1, tasks=TASKS):
    """Images of 32 x 64 pixels and labels that are known everywhere."""
    generator = torch.Generator().manual_seed(seed)
    channels = {"depth": 1, "normals": 3, "edges2d": 1}
    labels = {task: torch.rand(size, channels[task], 32, 64, generator=generator) for task in tasks}
    return {"pixel_values": torch.randn(size, 3, 32, 64, generator=generator), "labels": labels}


def backward(weighting, model, batch, accelerator, shares=None):
    """One micro-batch, as a training loop has it."""
    outputs = model(**batch, output_hidden_states=weighting.reads_features)
    return weighting.backward(outputs.task_losses, outputs.hidden_states or (), accelerator, shares)


def gradients_of(model):
    """Name -> gradient; a parameter without one has zeros."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def one_step(weighting, model, batch, accelerator):
    """The gradients of one batch alone."""
    model.zero_grad()
    backward(weighting, model, batch, accelerator)
    return gradients_of(model)
