"""Check that a model is complete: with missing or non-finite weights it would predict maps that look plausible."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

SAMPLES = 64
"""Values per weight that are kept, to detect whether training has changed it."""


def remember_fresh_weights(model: nn.Module, names: Iterable[str]) -> None:
    """Record which weights a checkpoint lacked, and a few of their initial values; see [`check_weights`].

    Args:
        model: the loaded model.
        names: names of the weights that were initialised instead.
    """
    weights = model.state_dict(keep_vars=True)
    cast(Any, model)._fresh_weights = {name: _sample(weights[name]).clone() for name in sorted(names) if name in weights}


def check_weights(model: nn.Module) -> None:
    """Refuse to predict with an incomplete model: one with weights that its checkpoint lacked and that were not trained since, or with
    weights that are not finite.

    Args:
        model: the model, optionally wrapped by PEFT or Accelerate.

    Raises:
        ValueError: naming some of the weights and what to do.
    """
    name = getattr(model, "name_or_path", "") or type(model).__name__
    fresh = [weight for module in model.modules() for weight in _still_fresh(module)]
    if fresh:
        raise ValueError(
            f"{name} cannot predict: its checkpoint lacks {len(fresh)} weights, which are random ({_examples(fresh)}); load a checkpoint "
            f"that has them, leave their tasks out, or train them"
        )
    broken = [weight for weight, value in model.state_dict().items() if not _is_finite(value)]
    if broken:
        raise ValueError(
            f"{name} cannot predict: {len(broken)} of its weights have values that are not finite ({_examples(broken)}); load an earlier "
            f"checkpoint"
        )


def _still_fresh(module: nn.Module) -> list[str]:
    remembered = getattr(module, "_fresh_weights", None)
    if not remembered:
        return []
    weights = module.state_dict(keep_vars=True)  # a wrapper may have moved some, or a task was removed
    return [name for name, sample in remembered.items() if name in weights and _equals(weights[name], sample)]


def _equals(weight: Tensor, sample: Tensor) -> bool:
    if weight.is_meta or weight.numel() == 0:
        return False
    now = _sample(weight)
    return torch.equal(now.cpu(), sample.to("cpu", now.dtype))  # a cast to half precision does not count as training


def _sample(weight: Tensor) -> Tensor:
    return weight.detach().flatten()[:: max(1, weight.numel() // SAMPLES)][:SAMPLES]


def _is_finite(value: Tensor) -> bool:
    return value.is_meta or not value.is_floating_point() or bool(value.isfinite().all())


def _examples(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


__all__ = ["check_weights", "remember_fresh_weights"]
