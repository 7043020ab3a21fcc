"""A very small model for tests of the pipeline, and the comparison of its results."""

import torch

from mult_hf import MULT_TASKS, MulTConfig, MulTForMultiTaskDensePrediction
from support.models import TINY_SWIN

CURVATURE = {"name": "principal_curvature", "kind": "regression", "channels": 2, "colormap": "vectors", "value_range": [-4, 4]}
TASKS = [*MULT_TASKS, CURVATURE]
NAMES = [*MULT_TASKS, "principal_curvature"]
INPUT_SIZE = {"height": 64, "width": 96}


def make_model(**kwargs):
    """A very small model with changed parameters, so that predictions depend on the image."""
    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=TASKS, **kwargs))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def assert_same(result, wanted, tolerance=1e-5):
    """Check that maps are equal; at least 99.9 % of class ids, because rounding may change a few pixels."""
    assert list(result) == list(wanted)
    for task, maps in wanted.items():
        one, other = result[task]["prediction"], maps["prediction"]
        assert one.shape == other.shape, task
        if other.dtype == torch.int64:
            assert (one == other).float().mean() > 0.999, task
        else:
            torch.testing.assert_close(one, other, atol=tolerance, rtol=0, msg=lambda text, task=task: f"{task}: {text}")


def assert_different(result, other):
    """Check the premise of every comparison: another image has another prediction."""
    assert (result["normals"]["prediction"].mean((1, 2)) - other["normals"]["prediction"].mean((1, 2))).abs().max() > 1e-3
