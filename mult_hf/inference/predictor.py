"""Predictions of a model, optionally averaged over mirrored and rescaled views (test-time augmentation)."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from mult_hf.model.tasks import TaskSpec

Predictor = Callable[[Tensor], Mapping[str, Tensor]]
"""Normalised `pixel_values` (batch, 3, height, width) -> per task (batch, channels, height, width) in the model's own output space
(logits for classes): what `post_process` of the image processor takes, at any size."""


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Views of an image whose predictions are averaged.

    Args:
        flip: whether every view is predicted mirrored, too.
        scales: factors that the image's sides are multiplied by, one view each.

    Raises:
        ValueError: if there is no scale, or one that is not a finite number above 0.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    __test__: ClassVar[bool] = False  # pytest would take a class of this name for tests

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
    """Predictions of a model, averaged over views if an augmentation is given.

    Class probabilities, vectors and values are averaged, not logits; mean vectors get unit length again. Predictions of
    a mirrored view are mirrored back with the task's own flip signs, and those of a rescaled view are divided by
    `scale ** zoom_exponent`, the inverse of what magnifying a training image does to its target.

    Args:
        model: a [`MulTForMultiTaskDensePrediction`] in evaluation mode, also as Accelerate wrapped it.
        pixel_values: normalised images, (batch, 3, height, width).
        augmentation: the views; the image as it is by default.
        tasks: names of the tasks to compute; all by default.

    Returns:
        per task (batch, channels, height, width) at the images' size, as from the model; log-probabilities in place of logits
        if views were averaged.

    Raises:
        ValueError: if the model is in training mode, or a view is too small for it.
    """
    if model.training:
        raise ValueError("the model is in training mode, which drops paths at random; call model.eval() before measuring it")
    if augmentation is None:
        return dict(model(pixel_values=pixel_values, tasks=tasks).predictions)
    specs = extract_model_from_parallel(model, keep_torch_compile=False).config.task_specs
    size = tuple(pixel_values.shape[-2:])
    views = augmentation.views
    totals: dict[str, Tensor] = {}
    for scale, mirrored in views:
        seen = _view(pixel_values, scale, mirrored)
        for task, prediction in model(pixel_values=seen, tasks=tasks).predictions.items():
            addend = to_average(_undo_view(prediction.float(), specs[task], size, mirrored), specs[task])
            totals[task] = totals[task] + addend if task in totals else addend
    return {task: from_average(total / len(views), specs[task]) for task, total in totals.items()}


def _view(pixel_values: Tensor, scale: float, mirrored: bool) -> Tensor:
    height, width = pixel_values.shape[-2:]
    size = (round(height * scale), round(width * scale))
    if size != (height, width):
        pixel_values = F.interpolate(pixel_values, size=size, mode="bilinear", align_corners=False, antialias=True)
    return pixel_values.flip(-1) if mirrored else pixel_values


def _undo_view(prediction: Tensor, spec: TaskSpec, size: tuple[int, int], mirrored: bool) -> Tensor:
    """A view's (batch, channels, height, width) prediction as one of the image itself, at its size."""
    seen = prediction.shape[-2:]
    if mirrored:
        prediction = prediction.flip(-1) * prediction.new_tensor(spec.flip_signs).view(-1, 1, 1)
    if tuple(seen) == size:
        return prediction
    zoom = math.sqrt(seen[0] * seen[1] / (size[0] * size[1]))  # whole pixels make it differ a little from the scale asked for
    return F.interpolate(prediction, size=size, mode="bilinear", align_corners=False) / zoom**spec.zoom_exponent


def to_average(prediction: Tensor, spec: TaskSpec) -> Tensor:
    """A (batch, channels, height, width) prediction in the space where means are taken: probabilities of classes, all else as it is."""
    return prediction.softmax(dim=1) if spec.is_classification else prediction


# How a mean is brought back into the range of the task's head, by activation.
_RENEWED: dict[str, Callable[[Tensor], Tensor]] = {"unit_vector": lambda vectors: F.normalize(vectors, dim=1)}


def from_average(average: Tensor, spec: TaskSpec) -> Tensor:
    """A mean of what [`to_average`] gives as a prediction again: log-probabilities in place of logits, vectors of unit length."""
    if spec.is_classification:
        return average.clamp(min=torch.finfo(average.dtype).tiny).log()  # a finite logarithm, so that it can be interpolated
    return _RENEWED.get(spec.activation, lambda values: values)(average)
