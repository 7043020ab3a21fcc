"""The flag for images whose focal length is not known."""

from collections.abc import Iterable
from typing import Any

from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.tasks import TaskSpec

from .arguments import flag


def field_of_view_flag(known: str) -> Any:
    """The flag `--field_of_view`.

    Args:
        known: where focal lengths are known from.
    """
    return flag(
        None, f"degrees along the longer side of images whose focal length is {known}, for depth in metres; by default the model's own"
    )


def check_field_of_view(degrees: float | None) -> None:
    """Refuse an impossible angle.

    Raises:
        ValueError: naming the flag.
    """
    if degrees is not None and not 0 < degrees < 180:
        raise ValueError(f"--field_of_view is {degrees:g}; give degrees above 0 and below 180")


def check_effect(degrees: float | None, model: str, processor: MulTProcessingMixin, specs: Iterable[TaskSpec]) -> None:
    """Refuse the flag where it has no effect.

    Args:
        degrees: value of the flag, or None if it is left out.
        model: directory or Hub id of the model.
        processor: the model's.
        specs: entries of the tasks that will be predicted.

    Raises:
        ValueError: naming the model, or the tasks.
    """
    if degrees is None:
        return
    if processor.canonical_focal_length is None:
        raise ValueError(
            f"--field_of_view is {degrees:g}, but {model} has no canonical camera: it predicts the same for every focal length; remove it"
        )
    specs = list(specs)
    if not any(map(processor.depends_on_focal_length, specs)):
        names = ", ".join(spec.name for spec in specs)
        raise ValueError(f"--field_of_view is {degrees:g}, but the focal length has no effect on {names}; remove it")


__all__ = ["check_effect", "check_field_of_view", "field_of_view_flag"]
