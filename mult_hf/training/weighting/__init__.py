"""Task weighting: how the losses of several tasks are balanced while training, by name (docs/weighting.md).

Every method starts from the fixed weights of the task entries ([`TaskSpec.weight`]), which compensate for units, and multiplies them
by factors that are 1 at the first step (gradient methods: by factors of their own from the first step on).
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from mult_hf.model.tasks import TaskSpec

from .base import TaskWeighting
from .gradients import GradientWeighting
from .losses import DynamicWeightAveraging, GradNormWeighting, UncertaintyWeighting

# torchjd has more. Left out on purpose: what keeps a state that it cannot save (NashMTL, GradVac, ExcessMTL, PCD), what depends on
# the scale of gradients (FairGrad), what needs several batches per step (MoDo, SDMGrad), what no Gramian determines (GradDrop, ConFIG,
# TrimmedMean), what is made against faulty workers (Krum) or for continual learning (DualProj), and baselines.
WEIGHTINGS: dict[str, Callable[..., TaskWeighting]] = {
    "fixed": TaskWeighting,
    "uncertainty": UncertaintyWeighting,
    "dwa": DynamicWeightAveraging,
    "gradnorm": GradNormWeighting,
    "pcgrad": partial(GradientWeighting, weighting="PCGradWeighting"),
    "cagrad": partial(GradientWeighting, weighting="CAGradWeighting", c=0.4),  # the authors' for NYUv2
    "upgrad": partial(GradientWeighting, weighting="UPGradWeighting"),
    "mgda": partial(GradientWeighting, weighting="MGDAWeighting"),
    "imtl_g": partial(GradientWeighting, weighting="IMTLGWeighting"),
    "aligned_mtl": partial(GradientWeighting, weighting="AlignedMTLWeighting", scale_mode="min"),
}
"""Task weightings by name, called with (name, specs, model, **options)."""


def weighting_options(name: str) -> dict[str, Any]:
    """The options of a task weighting, with their defaults.

    Raises:
        ValueError: on an unknown name.
    """
    if name not in WEIGHTINGS:
        raise ValueError(f"task weighting {name!r} is unknown; allowed: {', '.join(WEIGHTINGS)}")
    parameters = inspect.signature(WEIGHTINGS[name]).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "weighting"}
    return options | {key: value for key, value in getattr(WEIGHTINGS[name], "keywords", {}).items() if key != "weighting"}


def make_weighting(name: str, specs: Mapping[str, TaskSpec], model: nn.Module, **options: Any) -> TaskWeighting:
    """Build a task weighting by its name.

    Args:
        name: a key of [`WEIGHTINGS`].
        specs: the task entries of the model, for their names and fixed weights.
        model: the network that is trained.
        options: see [`weighting_options`] and docs/weighting.md.

    Raises:
        ValueError: on an unknown name or option.
        ImportError: if a gradient method is asked for and torchjd is not installed.
    """
    allowed = weighting_options(name)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"task weighting {name!r} has no options {unknown}; allowed: {', '.join(allowed) or 'none'}")
    return WEIGHTINGS[name](name, specs, model, **options)


__all__ = [
    "WEIGHTINGS",
    "DynamicWeightAveraging",
    "GradNormWeighting",
    "GradientWeighting",
    "TaskWeighting",
    "UncertaintyWeighting",
    "make_weighting",
    "weighting_options",
]
