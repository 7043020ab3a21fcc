"""Rescaled views of an image, which test-time augmentation averages."""

from types import SimpleNamespace

import torch
from torch import nn

from mult_hf import TaskSpec
from mult_hf.inference.predictor import TestTimeAugmentation, predict


class Repeats(nn.Module):
    """A model whose prediction is the first channel of what it sees."""

    config = SimpleNamespace(task_specs={"grey": TaskSpec(name="grey", kind="regression", channels=1)})

    def forward(self, pixel_values, tasks=None):
        """As MulT: predictions by task."""
        return SimpleNamespace(predictions={"grey": pixel_values[:, :1]})


def test_a_view_that_shrinks_the_image_is_smoothed_against_aliasing():
    """Stripes of three pixels, 0, 0 and 1, are too fine for a third of the size, where each pixel sees their mean."""
    stripes = torch.zeros(1, 3, 48, 48)
    stripes[..., 2::3] = 1
    seen = predict(Repeats().eval(), stripes, TestTimeAugmentation(scales=(1 / 3,)))["grey"]
    torch.testing.assert_close(seen[..., 8:-8], torch.full((1, 1, 48, 32), 1 / 3), rtol=0, atol=0.02)
