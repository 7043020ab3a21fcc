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


def camera_settings(degrees: float | None, model: str, processor: MulTProcessingMixin, specs: Iterable[TaskSpec]) -> dict[str, Any]:
    """Settings of the processor for the flag; none if it is left out.

    Args:
        degrees: value of the flag.
        model: directory or Hub id of the model.
        processor: the model's.
        specs: entries of the tasks that will be predicted.

    Raises:
        ValueError: if the flag has no effect.
    """
    if degrees is None:
        return {}
    if processor.canonical_focal_length is None:
        raise ValueError(
            f"--field_of_view is {degrees:g}, but {model} has no canonical camera: it predicts the same for every focal length; remove it"
        )
    specs = list(specs)
    if not any(spec.zoom_exponent for spec in specs):
        names = ", ".join(spec.name for spec in specs)
        raise ValueError(f"--field_of_view is {degrees:g}, but the focal length has no effect on {names}; remove it")
    return {"assumed_field_of_view": degrees}


__all__ = ["camera_settings", "check_field_of_view", "field_of_view_flag"]
