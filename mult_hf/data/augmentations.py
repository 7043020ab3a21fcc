"""Random views of a sample: geometric changes of the image and its labels, then colour changes of the image."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from mult_hf.model.tasks import TaskSpec

from .geometric import Sample, horizontal_flip, rotate_zoom_crop
from .photometric import colour_jitter, gaussian_blur, gaussian_noise, jpeg_compressed, tone_curve, white_balance

JPEG_QUALITIES = (30, 90)
"""Lowest and highest quality of the views that are compressed."""


@dataclass(frozen=True, kw_only=True)
class View:
    """The parameters of a view of a sample; see [`RandomAugmentation`] for their ranges.

    Args:
        flip: whether the sample is mirrored first.
        zoom: magnification.
        degrees: angle of rotation, counter-clockwise.
        corner: (left, top) of the window in the magnified image, in pixels.
        brightness: factor.
        contrast: factor.
        saturation: factor.
        hue: rotation on the colour circle, as a share of a full turn.
        red: factor of the first channel.
        blue: factor of the last channel.
        gamma: exponent of the tone curve.
        blur: sigma in pixels.
        noise: standard deviation, where 1 is the range of the image.
        quality: JPEG quality; None if the view is not compressed.
    """

    flip: bool
    zoom: float
    degrees: float
    corner: tuple[int, int]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    red: float
    blue: float
    gamma: float
    blur: float
    noise: float
    quality: int | None


@dataclass(frozen=True, kw_only=True)
class RandomAugmentation:
    """A random view of each sample: flip, rotation, zoom and crop, then colours, blur and noise of the image.

    The defaults give plausible photographs of the same scene. If the model will be tested on a new domain, raise `blur` and `noise`.

    Args:
        tasks: specs by name, of every task in the samples.
        size: (height, width) of the result in pixels; defaults to the sample's own size.
        flip: probability of a horizontal flip.
        zoom: lowest and highest magnification, sampled uniformly on a logarithmic scale. Below 1, the window may extend beyond
            the image, where all labels are unknown.
        degrees: largest angle of rotation in either direction.
        brightness: factors are sampled from 1 - brightness to 1 + brightness.
        contrast: as for `brightness`.
        saturation: as for `brightness`.
        hue: the rotation on the colour circle is sampled from -hue to hue, as a share of a full turn.
        blur: highest sigma in pixels; half of the images stay sharp, the others get 0 to `blur`.
        noise: highest standard deviation, where 1 is the range of the image; half of the images stay clean, the others get 0 to `noise`.
        white_balance: factors of red and of blue are sampled from 1 / (1 + white_balance) to 1 + white_balance, on a logarithmic scale.
        gamma: exponents of the tone curve are sampled from 1 / (1 + gamma) to 1 + gamma, on a logarithmic scale.
        jpeg: probability of JPEG compression, with a quality in [`JPEG_QUALITIES`].

    Raises:
        ValueError: if a range is invalid.

    Examples:
        >>> from mult_hf.model.tasks import registered_tasks
        >>> augmentation = RandomAugmentation(tasks=registered_tasks(), size=(96, 96))
        >>> sample = {"pixel_values": torch.rand(3, 128, 128), "labels": {"depth": torch.rand(1, 128, 128)}}
        >>> augmentation(sample, torch.Generator().manual_seed(0))["labels"]["depth"].shape
        torch.Size([1, 96, 96])
    """

    tasks: Mapping[str, TaskSpec]
    size: tuple[int, int] | None = None
    flip: float = 0.5
    zoom: tuple[float, float] = (1.0, 1.5)
    degrees: float = 5.0
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.02
    blur: float = 0.0
    noise: float = 0.0
    white_balance: float = 0.0
    gamma: float = 0.0
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1] < math.inf:
            raise ValueError(f"zoom {self.zoom} is not a range of positive factors such as (1.0, 1.5)")
        shares = dict.fromkeys(("flip", "brightness", "contrast", "saturation", "jpeg"), 1)
        unlimited = dict.fromkeys(("blur", "noise", "white_balance", "gamma"), math.inf)
        limits = {**shares, "degrees": 180, "hue": 0.5, **unlimited}
        for name, highest in limits.items():
            if not (0 <= getattr(self, name) <= highest and math.isfinite(getattr(self, name))):
                allowed = "a finite number of at least 0" if highest == math.inf else f"between 0 and {highest}"
                raise ValueError(f"{name} {getattr(self, name)} is not {allowed}")

    def __call__(self, sample: Sample, generator: torch.Generator | None = None) -> Sample:
        """Draw a random view.

        Args:
            sample: as described in `mult_hf.data.geometric`.
            generator: source of randomness; the same state gives the same view. Defaults to torch's global generator, which a
                `DataLoader` seeds for each worker.

        Returns:
            `dict`: a new sample; the given one is not modified.

        Raises:
            ValueError: if the sample's maps do not match its image or the tasks.
        """
        view = self.draw(sample["pixel_values"].shape[-2:], generator)
        if view.flip:
            sample = horizontal_flip(sample, self.tasks)
        size = self.size or tuple(sample["pixel_values"].shape[-2:])
        sample = rotate_zoom_crop(sample, self.tasks, size, degrees=view.degrees, zoom=view.zoom, corner=view.corner)
        pixel_values = colour_jitter(
            sample["pixel_values"], brightness=view.brightness, contrast=view.contrast, saturation=view.saturation, hue=view.hue
        )
        pixel_values = tone_curve(white_balance(pixel_values, view.red, view.blue), view.gamma)
        pixel_values = gaussian_noise(gaussian_blur(pixel_values, view.blur), view.noise, generator)
        if view.quality is not None:
            pixel_values = jpeg_compressed(pixel_values, view.quality)
        return {**sample, "pixel_values": pixel_values}

    def draw(self, original: Sequence[int], generator: torch.Generator | None = None) -> View:
        """Draw the parameters of a view.

        Args:
            original: (height, width) of the sample in pixels.
            generator: source of randomness, as for a call.
        """
        # All parameters are drawn at once, so that disabling one change does not alter the others for the same seed.
        flip, zoom, turn, left, top, brightness, contrast, saturation, hue, blur, noise = torch.rand(11, generator=generator).tolist()
        red = blue = tone = quality = 0.5
        compression = 1.0
        if self.white_balance or self.gamma or self.jpeg:  # these draw further numbers
            red, blue, tone, compression, quality = torch.rand(5, generator=generator).tolist()
        height, width = self.size or original
        lowest, highest = self.zoom
        factor = lowest * (highest / lowest) ** zoom
        worst, best = JPEG_QUALITIES
        return View(
            flip=flip < self.flip,
            zoom=factor,
            degrees=self.degrees * (2 * turn - 1),
            # Whole pixels, so that values are copied, not interpolated, when there is no zoom or rotation.
            corner=(round(left * (factor * original[1] - width)), round(top * (factor * original[0] - height))),
            brightness=1 + self.brightness * (2 * brightness - 1),
            contrast=1 + self.contrast * (2 * contrast - 1),
            saturation=1 + self.saturation * (2 * saturation - 1),
            hue=self.hue * (2 * hue - 1),
            red=_factor(self.white_balance, red),
            blue=_factor(self.white_balance, blue),
            gamma=_factor(self.gamma, tone),
            blur=self.blur * max(0.0, 2 * blur - 1),
            noise=self.noise * max(0.0, 2 * noise - 1),
            quality=round(worst + quality * (best - worst)) if compression < self.jpeg else None,
        )


def check_computed_targets(tasks: Sequence[str], computable: Collection[str], share: float) -> None:
    """Check the tasks whose targets are computed from views, and the share of these views.

    Args:
        tasks: names of the tasks.
        computable: names of the tasks that the image alone defines.
        share: share of the views.

    Raises:
        ValueError: if the image alone does not define a task, or the share is not in (0, 1].
    """
    if wrong := sorted(set(tasks) - set(computable)):
        raise ValueError(f"the image alone does not define {wrong}; choose from: {', '.join(computable)}")
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be above 0 and at most 1")


def _factor(spread: float, drawn: float) -> float:
    """A factor from 1 / (1 + spread) to 1 + spread for a number in [0, 1)."""
    return (1 + spread) ** (2 * drawn - 1)
