"""Check that a model is complete: with missing, untrained or non-finite weights it would predict maps that look plausible."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

_ROUNDING = 1e-5
"""Relative error of many multiplications in float32."""

SAMPLES = 64
"""Values per weight that are kept, to detect whether training has changed it."""

BASE = "mult."
"""What names of weights start with in a model with heads, and not in the model without."""

WRAPPERS = ("module", "_orig_mod")
"""What `DataParallel` and `torch.compile` add to names of weights."""

KEPT = ("_fresh_weights", "_new_weights")
"""Attributes of a model: initial values of weights with which it may not predict, and of those with which only this object may."""

LOCATION = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision", "subfolder")
"""Options of `from_pretrained` that say where a checkpoint lies."""


def untrained_in(checkpoint: Any, **options: Any) -> list[str] | None:
    """What a checkpoint's own configuration lists as untrained, which a configuration from elsewhere does not know.

    Args:
        checkpoint: directory or Hub id.
        options: those of `from_pretrained`.

    Returns:
        Names of weights; `None` if the checkpoint has no configuration.
    """
    if not checkpoint:
        return None
    try:
        values, _ = PreTrainedConfig.get_config_dict(checkpoint, **{name: options[name] for name in LOCATION if name in options})
    except OSError:
        return None
    return values.get("untrained_weights") or []


def remember_fresh_weights(model: nn.Module, names: Iterable[str], *, may_predict: bool = False) -> None:
    """Record which weights are new, and a few of their initial values; see [`check_weights`].

    Args:
        model: the model.
        names: names of its weights, those of a model with heads or of the one without.
        may_predict: whether this object may predict all the same, because whoever made the weights knows; copies that are saved may not.
    """
    weights = model.state_dict(keep_vars=True)
    fresh = {}
    for name in sorted(names):
        own = next((own for own in (name, BASE + name, name.removeprefix(BASE)) if own in weights), None)
        if own is not None:
            sample = _sample(weights[own])
            fresh[own] = None if sample is None else sample.clone()
    kept = KEPT[may_predict]
    _keep(model, kept, vars(model).get(kept, {}) | fresh)


def _keep(model: nn.Module, kept: str, samples: dict[str, Tensor | None]) -> None:
    """Set what a model remembers, and the model without heads inside it."""
    setattr(model, kept, samples)
    base = getattr(model, BASE.removesuffix("."), None)
    if isinstance(base, nn.Module):
        setattr(base, kept, {name.removeprefix(BASE): each for name, each in samples.items() if name.startswith(BASE)})


def forget_task(model: nn.Module, task: str) -> None:
    """Remember nothing of a task, which was removed."""
    for kept in KEPT:
        _keep(model, kept, {name: sample for name, sample in vars(model).get(kept, {}).items() if task_of_weight(name) != task})


def remember_new_task(model: nn.Module, names: Iterable[str], task: str, copied_from: str | None) -> None:
    """Record which weights of a task that was added are new: all, or those that no trained task has in the same shape.

    Args:
        model: the model.
        names: names of the task's weights.
        task: the task.
        copied_from: the task that its weights were copied from, if any.
    """
    weights, fresh, new = model.state_dict(keep_vars=True), set(fresh_weights(model, new=True)), []
    for name in names:
        source = name.replace(f"tasks.{task}.", f"tasks.{copied_from}.")
        if copied_from is None or source not in weights or source in fresh or weights[source].shape != weights[name].shape:
            new.append(name)
    remember_fresh_weights(model, new, may_predict=True)


def copy_fresh_weights(source: nn.Module, target: nn.Module) -> None:
    """Let a model with the weights of another one know which of them are new."""
    own = target.state_dict(keep_vars=True)
    for kept in KEPT:
        _keep(target, kept, {name: sample for name, sample in vars(source).get(kept, {}).items() if name in own})


def fresh_weights(model: nn.Module, weights: Mapping[str, Tensor] | None = None, *, new: bool = False) -> list[str]:
    """Names of the remembered weights of tasks of which no remembered weight has changed since.

    Args:
        model: the model.
        weights: its weights, if they are at hand, because those of a sharded model are not in its modules.
        new: whether those that may predict count, too.
    """
    remembered = vars(model).get("_fresh_weights", {}) | (vars(model).get("_new_weights", {}) if new else {})
    if not remembered:
        return []
    found = model.state_dict(keep_vars=True) if weights is None else weights  # a wrapper may have moved some, or a task was removed
    found = {_without_wrapper(name): value for name, value in found.items()}
    by_task: dict[str, list[str]] = defaultdict(list)
    for name in remembered:
        if name in found:
            by_task[task_of_weight(name)].append(name)
    return [name for names in by_task.values() if all(_is_same(found[each], remembered[each]) for each in names) for name in names]


@contextmanager
def listing_fresh_weights(model: Any, weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """While its configuration is saved, let it list the weights that no training has changed; arguments as for [`fresh_weights`]."""
    before, model.config.untrained_weights = model.config.untrained_weights, fresh_weights(model, weights, new=True) or None
    try:
        yield
    finally:
        model.config.untrained_weights = before


def check_weights(model: nn.Module, *, to_train: bool = False) -> None:
    """Refuse to predict with an incomplete model: one with weights that its checkpoint lacked and that were not trained since, or with
    weights that are not finite.

    A task counts as trained as soon as any of its new weights has changed.

    Args:
        model: the model, optionally wrapped by PEFT or Accelerate.
        to_train: whether weights may be untrained.

    Raises:
        ValueError: naming some of the weights and what to do.
    """
    name = getattr(model, "name_or_path", "") or type(model).__name__
    fresh = [] if to_train else list(dict.fromkeys(weight for module in model.modules() for weight in fresh_weights(module)))
    fresh = [weight for weight in fresh if BASE + weight not in fresh]  # counted by the model with heads
    if fresh:
        raise ValueError(
            f"{name} cannot predict: its checkpoint lacks {len(fresh)} trained weights, such as {_examples(fresh)}, which are random; load "
            f"a checkpoint that has them, remove their tasks by remove_task(), or train them"
        )
    broken = [weight for weight, value in model.state_dict().items() if not _is_finite(value)]
    if broken:
        raise ValueError(
            f"{name} cannot predict: {len(broken)} of its weights have values that are not finite ({_examples(broken)}); load an earlier "
            f"checkpoint"
        )


def task_of_weight(name: str) -> str:
    """The task that a weight belongs to; empty for those of the encoder."""
    _, _, rest = f".{name}".partition(".tasks.")
    return rest.partition(".")[0]


def without_task(name: str) -> str:
    """A weight's name without that of its task, which may be called like any part of the network."""
    parts = name.split(".")
    return ".".join(part for before, part in zip(["", *parts], parts) if before != "tasks")


def _without_wrapper(name: str) -> str:
    parts = name.split(".")
    return ".".join(part for before, part in zip(["", *parts], parts) if part not in WRAPPERS or before == "tasks")  # a task's name


def _is_same(weight: Tensor, sample: Tensor | None) -> bool:
    """Whether a weight is as it was remembered. A weight without values here, such as one on the disk, has not been trained here."""
    now = _sample(weight)
    if now is None or sample is None:
        return now is None
    now, then = now.cpu(), sample.cpu()
    # A cast to half precision, and back, does not count as training.
    if any(torch.equal(now, then.to(dtype).to(now.dtype)) for dtype in (then.dtype, now.dtype, torch.float16, torch.bfloat16)):
        return True
    if now.shape != then.shape or not then.any():
        return False
    now, then = now.double(), then.double()
    decayed = then * (now @ then / (then @ then))  # weight decay alone, as of a task without any label, is no training either
    return bool(now @ then > 0 and (now - decayed).abs().max() <= _ROUNDING * now.abs().max())


def _sample(weight: Tensor) -> Tensor | None:
    """A few values of a weight, or `None` if it has none here."""
    if weight.is_meta or weight.numel() == 0:
        return None
    whole: Tensor = cast(Any, weight).full_tensor() if hasattr(weight, "full_tensor") else weight  # of a sharded one
    return whole.detach().flatten()[:: max(1, whole.numel() // SAMPLES)][:SAMPLES]


def _is_finite(value: Tensor) -> bool:
    return value.is_meta or not value.is_floating_point() or bool(value.isfinite().all())


def _examples(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


__all__ = [
    "check_weights",
    "copy_fresh_weights",
    "forget_task",
    "fresh_weights",
    "listing_fresh_weights",
    "remember_fresh_weights",
    "remember_new_task",
    "task_of_weight",
    "untrained_in",
    "without_task",
]
