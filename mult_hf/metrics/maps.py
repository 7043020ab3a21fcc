"""The maps of one image as the statistics take them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mult_hf.model.images import refuse_masked
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.tensors import check_dense

from .statistics import image_map


def matching_maps(prediction: Any, target: Any, spec: TaskSpec) -> tuple[Tensor, Tensor]:
    """A prediction and its target as tensors of one shape on one device: the prediction's, or the CPU in place of one without float64.

    Args:
        prediction: tensor or array of one image, (height, width) or (channels, height, width).
        target: the same.
        spec: the task's entry.

    Raises:
        ValueError: if one is no such map, or the shapes differ; the message names the task.
    """
    prediction, target = _as_tensor(prediction, spec, "prediction"), _as_tensor(target, spec, "target")
    device = torch.device("cpu") if prediction.device.type == "mps" else prediction.device
    prediction, target = image_map(prediction.to(device), spec, "prediction"), image_map(target.to(device), spec, "target")
    if prediction.shape != target.shape:
        raise ValueError(f"{spec.name}: prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}; they must be equal")
    return prediction, target


def _as_tensor(values: Any, spec: TaskSpec, role: str) -> Tensor:
    """A map as a tensor; arrays of any byte order and width, and class ids of any integer type, such as uint16, as int64."""
    refuse_masked(values, spec.name, "NaN, or 255 for classes, where it is unknown")
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        wide = values.dtype.kind == "f" and values.dtype.itemsize > 8  # which torch does not have
        same = np.float64 if wide else values.dtype.newbyteorder("=")
        values = values.astype(np.int64 if spec.is_classification and values.dtype.kind != "f" else same)
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{spec.name}: {role} is a {type(values).__name__}, not a tensor or an array of numbers ({error})") from error
    check_dense(tensor, f"{spec.name}: {role}")
    return tensor if tensor.is_floating_point() or tensor.dtype == torch.bool or not spec.is_classification else tensor.long()


__all__ = ["matching_maps"]
