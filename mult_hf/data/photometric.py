"""Random changes of an image alone: colours, blur and noise. Labels stay as they are."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as image_functional


def colour_jitter(
    pixel_values: Tensor, *, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> Tensor:
    """Change the colours of an image, in the order of the arguments, as `torchvision.transforms.v2.ColorJitter` does.

    Args:
        pixel_values: (3, height, width) float in [0, 1].
        brightness: factor; 1 changes nothing, 0 makes black.
        contrast: factor of the distance to the mean grey; 1 changes nothing.
        saturation: factor of the distance to the pixel's own grey; 1 changes nothing, 0 makes grey.
        hue: share of the colour circle to turn by, in [-0.5, 0.5]; 0 changes nothing.

    Returns:
        `Tensor`: (3, height, width) in [0, 1].
    """
    jittered = image_functional.adjust_brightness(pixel_values, brightness)
    jittered = image_functional.adjust_contrast(jittered, contrast)
    jittered = image_functional.adjust_saturation(jittered, saturation)
    return image_functional.adjust_hue(jittered, hue) if hue else jittered  # by far the slowest of the four


def gaussian_blur(pixel_values: Tensor, sigma: float) -> Tensor:
    """Blur an image.

    Args:
        pixel_values: (3, height, width) float.
        sigma: in pixels; 0 changes nothing.

    Returns:
        `Tensor`: (3, height, width).
    """
    if sigma == 0:
        return pixel_values
    # Reflecting at the border needs a kernel that reaches less far than the image.
    reach = min(math.ceil(3 * sigma), min(pixel_values.shape[-2:]) - 1)
    return image_functional.gaussian_blur(pixel_values, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])


def gaussian_noise(pixel_values: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Add independent normal noise to every value and clip to [0, 1].

    torchvision's own function takes no generator and could not be repeated.

    Args:
        pixel_values: (3, height, width) float in [0, 1].
        std: standard deviation in the same unit; 0 changes nothing.
        generator: source of randomness; torch's global one when left out.

    Returns:
        `Tensor`: (3, height, width) in [0, 1].
    """
    if std == 0:
        return pixel_values
    noise = torch.randn(pixel_values.shape, generator=generator, dtype=pixel_values.dtype)
    return (pixel_values + std * noise).clamp(0, 1)
