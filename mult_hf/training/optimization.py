"""AdamW, its parameter groups, and the learning-rate schedule."""

from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.weights import without_task

# Name parts of parameters with two or more dimensions that are not layer weights: positions, and the attention scales of Swin V2.
_NOT_DECAYED = ("position_bias", "position_embeddings", "pos_embed", "logit_scale")


def parameter_groups(
    model: MulTForMultiTaskDensePrediction, *, learning_rate: float, weight_decay: float, encoder_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: as for Swin, norms, biases, relative position biases and position embeddings are not decayed.

    Args:
        model: the model whose parameters are grouped; frozen ones are left out.
        learning_rate: learning rate of decoders and heads.
        weight_decay: weight decay of weight matrices.
        encoder_factor: the encoder's learning rate relative to that of decoders and heads.

    Returns:
        The non-empty groups: encoder or rest, with or without weight decay.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decayed = parameter.ndim > 1 and not any(part in without_task(name) for part in _NOT_DECAYED)
        if parameter.requires_grad:
            groups.setdefault((decayed, name.startswith("mult.backbone.")), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decayed else 0.0,
            "lr": learning_rate * (encoder_factor if in_encoder else 1.0),
        }
        for (decayed, in_encoder), parameters in groups.items()
    ]


def make_optimizer(groups: list[dict[str, Any]], accelerator: Accelerator) -> torch.optim.AdamW:
    """AdamW, on CPUs in its fused implementation, which takes a quarter of the time there.

    Args:
        groups: parameter groups, see [`parameter_groups`].
        accelerator: the device and the processes of the run. Sharded parameters and loss scaling keep torch's default implementation.
    """
    whole = accelerator.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU)
    return torch.optim.AdamW(groups, fused=True if whole and accelerator.device.type == "cpu" and accelerator.scaler is None else None)


def learning_rate_schedule(optimizer: Optimizer, kind: str, *, steps: int, warmup_steps: int, power: float) -> LRScheduler:
    """Create the learning-rate schedule: a linear warm-up to the optimizer's own rate, then the named schedule.

    Args:
        optimizer: optimizer whose learning rates are scaled.
        kind: name of one of transformers' schedules.
        steps: number of steps of the whole run.
        warmup_steps: length of the warm-up; at most half of all steps.
        power: exponent of the polynomial schedule, which ends at 0; unused by the others.
    """
    extra = {"power": power, "lr_end": 0.0} if kind == "polynomial" else None
    warmup = min(warmup_steps, steps // 2)
    return get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=steps, scheduler_specific_kwargs=extra)


__all__ = ["learning_rate_schedule", "make_optimizer", "parameter_groups"]
