"""Images and labels for a model, and the comparison of its predictions."""

import torch

from mult_hf import TaskSpec

CURVATURE = TaskSpec(name="principal_curvature", kind="regression", channels=2, loss="l1", unit="1/m", colormap="vectors")
"""A task that is not registered."""


def pixels(batch=2, height=64, width=64):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def labels_for(model, batch=2, height=64, width=64):
    """Labels of every task, all known."""
    generator = torch.Generator().manual_seed(2)
    labels = {}
    for task, spec in model.config.task_specs.items():
        if spec.is_classification:
            labels[task] = torch.randint(0, spec.channels, (batch, height, width), generator=generator)
        else:
            labels[task] = torch.rand(batch, spec.channels, height, width, generator=generator)
    return labels


def assert_same_predictions(one, other, atol=1e-5):
    assert one.keys() == other.keys()
    for task in one:
        torch.testing.assert_close(one[task], other[task], rtol=1e-4, atol=atol, msg=lambda text, task=task: f"{task}: {text}")
