"""Parameter groups for AdamW and the schedule of the learning rate."""

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction

# Parts of names of parameters of two or more dimensions that are no weights of a layer: positions, and the scales of Swin V2's attention.
_NOT_DECAYED = ("position_bias", "position_embeddings", "pos_embed", "logit_scale")


def parameter_groups(
    model: MulTForMultiTaskDensePrediction, *, learning_rate: float, weight_decay: float, encoder_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an AdamW: norms, biases, relative position biases and position embeddings are not decayed (as Swin is trained).

    Args:
        model: whose parameters are grouped; frozen ones are left out.
        learning_rate: of decoders and heads.
        weight_decay: of weight matrices.
        encoder_factor: the encoder's learning rate over that of the rest.

    Returns:
        One group for each of encoder and rest, decayed and not, as far as it has parameters.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decayed = parameter.ndim > 1 and not any(part in name for part in _NOT_DECAYED)
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


def learning_rate_schedule(optimizer: Optimizer, kind: str, *, steps: int, warmup_steps: int, power: float) -> LRScheduler:
    """The course of the learning rate; it grows in the warm-up, and is the optimizer's own after it.

    Args:
        optimizer: whose learning rates are scaled.
        kind: name of one of transformers' schedules.
        steps: of the whole run.
        warmup_steps: of these, at most half of all.
        power: exponent of the polynomial schedule, which ends at 0; others have none.
    """
    extra = {"power": power, "lr_end": 0.0} if kind == "polynomial" else None
    warmup = min(warmup_steps, steps // 2)
    return get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=steps, scheduler_specific_kwargs=extra)


__all__ = ["learning_rate_schedule", "parameter_groups"]
