"""How the pixels of an image become a network's input: they are rescaled, and normalised per colour."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """What turns pixels in [0, 1] into the `pixel_values` of an image processor: `(pixels * scale - mean) / std`.

    Args:
        scale: factor from [0, 1], or one per colour.
        mean: of the scaled pixels, per colour.
        std: standard deviation of the scaled pixels, per colour.
    """

    scale: float | Sequence[float] = 1.0
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)

    @classmethod
    def of(cls, processor: Any, images: Sequence[Any] | None = None) -> "Normalisation":
        """That of an image processor.

        Args:
            processor: a MulT image processor.
            images: those to normalise, which matter with `do_rescale=False` alone; by default images of 8 bits, or those in [0, 1] that
                such a processor normalises.

        Raises:
            ValueError: if the processor would refuse these images, see [`rescaling`].
        """
        factor, normalises = processor.rescale_factor, bool(processor.do_normalize)
        if not processor.do_rescale:
            found = rescaling(images, normalises) if images is not None else {"rescale_factor": 1 / 255} if normalises else {}
            factor = found.get("rescale_factor", 1.0)
        scale = [255 * each for each in factor] if isinstance(factor, (list, tuple)) else 255 * factor
        return cls(scale, processor.image_mean, processor.image_std) if normalises else cls(scale)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise pixels.

        Args:
            pixels: (..., 3, height, width) in [0, 1].

        Returns:
            `Tensor`: a new one of the same shape and type.
        """
        scale, mean, std = (
            torch.as_tensor(values, dtype=pixels.dtype, device=pixels.device) for values in (self.scale, self.mean, self.std)
        )
        return (pixels * scale.view(-1, 1, 1)).sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


def rescaling(images: Sequence[Any], do_normalize: bool) -> dict[str, Any]:
    """What `do_rescale=False` means: images are read as 8 bits, and those that came in [0, 1] go back there.

    Args:
        images: as they came; only arrays and tensors of floats can be in [0, 1].
        do_normalize: whether they are normalised.

    Returns:
        Keywords of an image processor, or none for images that keep 0 to 255.

    Raises:
        ValueError: if other images would be normalised, or only some images are in [0, 1].
    """
    in_0_to_1 = [_is_in_0_to_1(image) for image in images]
    if all(in_0_to_1):
        return {"do_rescale": True, "rescale_factor": 1 / 255}
    if any(in_0_to_1) or do_normalize:
        number = in_0_to_1.index(False)
        raise ValueError(
            f"do_rescale is False, and image {number} is no array or tensor of floats in [0, 1]: its mean and standard deviation would "
            f"be taken from values up to 255; leave do_rescale True, or pass do_normalize=False for all images of the batch"
        )
    return {}


def _is_in_0_to_1(image: Any) -> bool:
    """Whether an image is an array or tensor of floats that `read_image` reads as in [0, 1]."""
    floating = image.is_floating_point() if isinstance(image, Tensor) else isinstance(image, np.ndarray) and image.dtype.kind == "f"
    return floating and bool(math.prod(image.shape) and image.max() <= 1)


__all__ = ["Normalisation", "rescaling"]
