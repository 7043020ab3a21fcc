"""Compute a model's predictions, optionally averaged over mirrored and rescaled views (test-time augmentation)."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from mult_hf.model.agreement import mirrored_back, to_average
from mult_hf.model.resizing import from_means
from mult_hf.model.tasks import TaskSpec

Predictor = Callable[[Tensor], Mapping[str, Tensor]]
"""Normalised `pixel_values` (batch, 3, height, width) -> per task (batch, channels, height, width) in the model's own output space
(logits for classes): the input of the image processor's `post_process`, at any size."""


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Views of an image whose predictions are averaged.

    Args:
        flip: whether to add a mirrored copy of every view.
        scales: factors of the image's sides, one view per factor.

    Raises:
        ValueError: if there is no scale, or one is not a finite number above 0.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    __test__: ClassVar[bool] = False  # otherwise pytest would collect a class of this name

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales are {self.scales}; give at least one number above 0, such as (0.75, 1.0, 1.25)")

    @property
    def views(self) -> list[tuple[float, bool]]:
        """(scale, whether mirrored) of each view."""
        return [(scale, mirrored) for scale in self.scales for mirrored in ((False, True) if self.flip else (False,))]


@torch.no_grad()
def predict(
    model: nn.Module, pixel_values: Tensor, augmentation: TestTimeAugmentation | None = None, tasks: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Compute a model's predictions, averaged over views if an augmentation is given.

    Class probabilities (not logits), vectors and values are averaged; mean vectors are normalised to unit length. Predictions of a
    mirrored view are mirrored back with the task's flip signs. Predictions of a rescaled view are divided by
    `scale ** zoom_exponent`, which inverts the effect of magnification on the target.

    Args:
        model: a [`MulTForMultiTaskDensePrediction`] in evaluation mode, possibly wrapped by Accelerate.
        pixel_values: normalised images, (batch, 3, height, width).
        augmentation: the views; only the unchanged image by default.
        tasks: names of the tasks to compute; all by default.

    Returns:
        Per task (batch, channels, height, width) at the images' size, as from the model; log-probabilities in place of logits
        if views were averaged.

    Raises:
        ValueError: if the model is in training mode, or a view is too small for it.
    """
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode, which drops paths at random; call model.eval() first")
    if augmentation is None:
        return dict(model(pixel_values=pixel_values, tasks=tasks).predictions)
    specs = extract_model_from_parallel(model, keep_torch_compile=False).config.task_specs
    height, width = pixel_values.shape[-2:]
    views = augmentation.views
    totals: dict[str, Tensor] = {}
    for scale, mirrored in views:
        seen = _view(pixel_values, scale, mirrored)
        for task, prediction in model(pixel_values=seen, tasks=tasks).predictions.items():
            addend = to_average(_undo_view(prediction.float(), specs[task], (height, width), mirrored), specs[task])
            totals[task] = totals[task] + addend if task in totals else addend
    return {task: from_average(total / len(views), specs[task]) for task, total in totals.items()}


def _view(pixel_values: Tensor, scale: float, mirrored: bool) -> Tensor:
    height, width = pixel_values.shape[-2:]
    size = (round(height * scale), round(width * scale))
    if size != (height, width):
        pixel_values = F.interpolate(pixel_values, size=size, mode="bilinear", align_corners=False, antialias=True)
    return pixel_values.flip(-1) if mirrored else pixel_values


def _undo_view(prediction: Tensor, spec: TaskSpec, size: tuple[int, int], mirrored: bool) -> Tensor:
    """Map a view's prediction (batch, channels, height, width) back to the original image and its size."""
    seen = prediction.shape[-2:]
    if mirrored:
        prediction = mirrored_back(prediction, spec)
    if tuple(seen) == size:
        return prediction
    zoom = math.sqrt(seen[0] * seen[1] / (size[0] * size[1]))  # rounding to whole pixels changes the requested scale slightly
    return F.interpolate(prediction, size=size, mode="bilinear", align_corners=False) / zoom**spec.zoom_exponent


def from_average(average: Tensor, spec: TaskSpec) -> Tensor:
    """Convert a mean of results of [`to_average`] back to a prediction: log-probabilities for classes, vectors of unit length.

    The mean, which may be large, is overwritten.
    """
    if spec.is_classification:
        return average.clamp_(min=torch.finfo(average.dtype).tiny).log_()  # a finite logarithm, so that it can be interpolated
    return from_means(average, spec, channel_axis=1)
