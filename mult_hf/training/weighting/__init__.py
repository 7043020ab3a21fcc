"""Task weighting: methods that balance the losses of several tasks during training, by name (docs/weighting.md).

Every method starts from the fixed weights of the task entries ([`TaskSpec.weight`]), which compensate for units, and multiplies them
by factors. These are 1 at the first step, except for gradient methods, which compute factors from the first step on.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from mult_hf.model.entry_fields import integer, number, refusal, text
from mult_hf.model.tasks import TaskSpec

from .base import TaskWeighting
from .gradients import GradientWeighting
from .losses import DynamicWeightAveraging, GradNormWeighting, UncertaintyWeighting
from .shares import label_shares

# torchjd has more methods. Intentionally left out: methods with a state that they cannot save (NashMTL, GradVac, ExcessMTL, PCD), that
# depend on the scale of gradients (FairGrad), need several batches per step (MoDo, SDMGrad), are not determined by the Gramian (GradDrop,
# ConFIG, TrimmedMean), or are meant for faulty workers (Krum) or continual learning (DualProj); and baselines.
WEIGHTINGS: dict[str, Callable[..., TaskWeighting]] = {
    "fixed": TaskWeighting,
    "uncertainty": UncertaintyWeighting,
    "dwa": DynamicWeightAveraging,
    "gradnorm": GradNormWeighting,
    "pcgrad": partial(GradientWeighting, weighting="PCGradWeighting"),
    "cagrad": partial(GradientWeighting, weighting="CAGradWeighting", c=0.4),  # the authors' value for NYUv2
    "upgrad": partial(GradientWeighting, weighting="UPGradWeighting"),
    "mgda": partial(GradientWeighting, weighting="MGDAWeighting"),
    "imtl_g": partial(GradientWeighting, weighting="IMTLGWeighting"),
    "aligned_mtl": partial(GradientWeighting, weighting="AlignedMTLWeighting", scale_mode="min"),
}
"""Task weightings by name, called with (name, specs, model, **options)."""

OF_LOSSES = ("fixed", "uncertainty", "dwa")
"""Those that need no gradient of the encoder."""


def weighting_options(name: str) -> dict[str, Any]:
    """The options of a task weighting, with their defaults.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in WEIGHTINGS:
        raise ValueError(f"unknown task weighting {name!r}; allowed: {', '.join(WEIGHTINGS)}")
    parameters = inspect.signature(WEIGHTINGS[name]).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "weighting"}
    return options | {key: value for key, value in getattr(WEIGHTINGS[name], "keywords", {}).items() if key != "weighting"}


def check_weighting_options(name: str, options: Mapping[str, Any]) -> None:
    """Check names and types of the options of a task weighting.

    Raises:
        ValueError: if the weighting or an option is unknown, or an option is of another type than its default.
    """
    allowed = weighting_options(name)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise refusal(f"task weighting {name!r} has no options {unknown}; allowed: {', '.join(allowed) or 'none'}")
    for option, value in options.items():
        check = {int: integer, float: number, str: text}.get(type(allowed[option]))
        if check is not None:
            check(f"option {option!r} of task weighting {name!r} is", value)


def make_weighting(name: str, specs: Mapping[str, TaskSpec], model: nn.Module, **options: Any) -> TaskWeighting:
    """Build a task weighting by its name.

    Args:
        name: a key of [`WEIGHTINGS`].
        specs: the task entries of the model, for their names and fixed weights.
        model: the network to train.
        options: see [`weighting_options`] and docs/weighting.md.

    Raises:
        ValueError: if the name or an option is unknown.
        ImportError: if a gradient method is chosen and torchjd is not installed.
    """
    check_weighting_options(name, options)
    return WEIGHTINGS[name](name, specs, model, **options)


__all__ = [
    "OF_LOSSES",
    "WEIGHTINGS",
    "DynamicWeightAveraging",
    "GradNormWeighting",
    "GradientWeighting",
    "TaskWeighting",
    "UncertaintyWeighting",
    "check_weighting_options",
    "label_shares",
    "make_weighting",
    "weighting_options",
]
