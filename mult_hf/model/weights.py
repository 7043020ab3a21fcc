"""Check that a model is complete: with missing or non-finite weights it would predict maps that look plausible."""

from collections.abc import Iterable, Mapping
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


def fresh_weights(model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> list[str]:
    """Names of the remembered weights that no training has changed since.

    Args:
        model: the model.
        weights: its weights, if they are at hand, because those of a sharded model are not in its modules.
    """
    remembered = getattr(model, "_fresh_weights", None)
    if not remembered:
        return []
    if weights is None:
        weights = model.state_dict(keep_vars=True)  # a wrapper may have moved some, or a task was removed
    return [name for name, sample in remembered.items() if name in weights and _equals(weights[name], sample)]


def check_weights(model: nn.Module, *, to_train: bool = False) -> None:
    """Refuse to predict with an incomplete model: one with weights that its checkpoint lacked and that were not trained since, or with
    weights that are not finite.

    Args:
        model: the model, optionally wrapped by PEFT or Accelerate.
        to_train: whether weights may be untrained.

    Raises:
        ValueError: naming some of the weights and what to do.
    """
    name = getattr(model, "name_or_path", "") or type(model).__name__
    fresh = [weight for module in model.modules() for weight in fresh_weights(module)]
    if fresh and not to_train:
        raise ValueError(
            f"{name} cannot predict: its checkpoint lacks {len(fresh)} trained weights; they are random ({_examples(fresh)}); load a "
            f"checkpoint that has them, leave their tasks out, or train them"
        )
    broken = [weight for weight, value in model.state_dict().items() if not _is_finite(value)]
    if broken:
        raise ValueError(
            f"{name} cannot predict: {len(broken)} of its weights have values that are not finite ({_examples(broken)}); load an earlier "
            f"checkpoint"
        )


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


__all__ = ["check_weights", "fresh_weights", "remember_fresh_weights"]
