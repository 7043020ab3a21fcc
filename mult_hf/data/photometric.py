"""Changes of colours, blur and noise: they affect the image only, not its labels."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as image_functional


def colour_jitter(
    pixel_values: Tensor, *, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> Tensor:
    """Change the colours of an image like `torchvision.transforms.v2.ColorJitter`, in the order of the arguments.

    Args:
        pixel_values: (3, height, width) float in [0, 1].
        brightness: factor; 1 has no effect, 0 gives black.
        contrast: factor of the distance to the mean grey; 1 has no effect.
        saturation: factor of the distance to the pixel's own grey; 1 has no effect, 0 gives grey.
        hue: rotation on the colour circle as a share of a full turn, in [-0.5, 0.5]; 0 has no effect.

    Returns:
        `Tensor`: (3, height, width) in [0, 1].
    """
    jittered = image_functional.adjust_brightness(pixel_values, brightness)
    jittered = image_functional.adjust_contrast(jittered, contrast)
    jittered = image_functional.adjust_saturation(jittered, saturation)
    return rotate_hue(jittered, hue) if hue else jittered


def rotate_hue(pixel_values: Tensor, hue: float | Tensor) -> Tensor:
    """`torchvision.transforms.v2.functional.adjust_hue` in a third of its passes over the image, without its detour over HSV.

    Each channel falls from the highest value of its pixel by the pixel's range, as far as its distance on the colour circle demands.

    Args:
        pixel_values: (..., 3, height, width) float in [0, 1].
        hue: rotation as a share of a full turn, a number or (..., 1, 1, 1).

    Returns:
        `Tensor`: like `pixel_values`.
    """
    red, green, blue = pixel_values.unbind(-3)
    lowest, highest = torch.aminmax(pixel_values, dim=-3)
    spread = highest - lowest
    divisor = torch.where(spread > 0, spread, 1)
    from_blue = torch.where(highest == green, (blue - red).div_(divisor).add_(2), (red - green).div_(divisor).add_(4))
    sixths = torch.where(highest == red, (green - blue).div_(divisor), from_blue)  # (..., height, width), position on the circle
    channels = pixel_values.new_tensor([5, 3, 1]).view(3, 1, 1) + 6 * hue
    distance = (sixths.unsqueeze(-3) + channels).remainder_(6)
    share = torch.minimum(distance, 4 - distance).clamp_(0, 1)  # (..., 3, height, width)
    return highest.unsqueeze(-3) - share.mul_(spread.unsqueeze(-3))


def gaussian_blur(pixel_values: Tensor, sigma: float) -> Tensor:
    """Blur an image.

    Args:
        pixel_values: (3, height, width) float.
        sigma: standard deviation in pixels; 0 has no effect.

    Returns:
        `Tensor`: (3, height, width).
    """
    if sigma == 0:
        return pixel_values
    # Reflection at the border needs a kernel that is smaller than the image.
    reach = min(math.ceil(3 * sigma), min(pixel_values.shape[-2:]) - 1)
    return image_functional.gaussian_blur(pixel_values, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])


def gaussian_noise(pixel_values: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Add independent normal noise to every value and clip to [0, 1].

    torchvision's own function takes no generator, so its noise would not be reproducible.

    Args:
        pixel_values: (3, height, width) float in [0, 1].
        std: standard deviation in the same unit; 0 has no effect.
        generator: source of randomness; torch's global one by default.

    Returns:
        `Tensor`: (3, height, width) in [0, 1].
    """
    if std == 0:
        return pixel_values
    noise = torch.randn(pixel_values.shape, generator=generator, dtype=pixel_values.dtype)
    return (pixel_values + std * noise).clamp(0, 1)


def white_balance(pixel_values: Tensor, red: float = 1.0, blue: float = 1.0) -> Tensor:
    """Scale red and blue, as under light of another colour temperature.

    Args:
        pixel_values: (3, height, width) float in [0, 1].
        red: factor of the first channel; 1 has no effect.
        blue: factor of the last channel.

    Returns:
        `Tensor`: (3, height, width) in [0, 1]; channels that become too bright are clipped, as on a sensor.
    """
    if red == blue == 1:
        return pixel_values
    return (pixel_values * pixel_values.new_tensor([red, 1.0, blue]).view(3, 1, 1)).clamp(0, 1)


def tone_curve(pixel_values: Tensor, exponent: float) -> Tensor:
    """Raise values to a power: an exponent above 1 darkens, one below 1 brightens; black and white do not change.

    Args:
        pixel_values: (3, height, width) float in [0, 1].
        exponent: above 0; 1 has no effect.

    Returns:
        `Tensor`: (3, height, width) in [0, 1].
    """
    return pixel_values if exponent == 1 else pixel_values.pow(exponent)


def jpeg_compressed(pixel_values: Tensor, quality: int) -> Tensor:
    """Compress an image as JPEG and decode it again.

    Args:
        pixel_values: (3, height, width) float in [0, 1].
        quality: from 1 to 100.

    Returns:
        `Tensor`: (3, height, width) float32 in [0, 1].
    """
    stored = image_functional.to_dtype(pixel_values, torch.uint8, scale=True)
    return image_functional.to_dtype(image_functional.jpeg(stored, quality), torch.float32, scale=True)
