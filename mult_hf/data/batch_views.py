"""Random views of a whole batch at once, on the device that trains: those of `RandomAugmentation`, without a loader's processes.

A processor needs longer to make one view than a GPU to train on it, so that a GPU waits. With these views, the loader only decodes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .augmentations import RandomAugmentation, View
from .collator import SEEDS, SIZES
from .geometric import BEYOND_IMAGE
from .photometric import rotate_hue

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the grey of contrast and saturation, as in torchvision."""


@dataclass(frozen=True)
class BatchViews:
    """Makes a random view of each image of a batch, together with its label maps.

    The same seed gives the same view as `views`, up to rounding; only noise and the choice of computed targets draw other numbers.

    Args:
        views: ranges of the changes.
        mean: of the normalisation of the finished views.
        std: of the normalisation of the finished views.
        targets_of_views: tasks whose targets are computed from the views, see [`TargetsOfViews`][mult_hf.data.view_targets.TargetsOfViews].
        share: share of the views whose targets are computed; they are unknown in the others.

    Raises:
        ValueError: if the image does not define a task, the share is not between 0 and 1, or `views` compresses images, which is not
            possible on a device.
    """

    views: RandomAugmentation
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    targets_of_views: Sequence[str] = ()
    share: float = 1.0

    def __post_init__(self) -> None:
        wrong = sorted(set(self.targets_of_views) - set(_image_targets())) if self.targets_of_views else []
        if wrong:
            raise ValueError(f"the image alone does not define {wrong}; choose from: {', '.join(_image_targets())}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it must be above 0 and at most 1")
        if self.views.jpeg:
            raise ValueError(f"jpeg is {self.views.jpeg}; a device cannot compress views: set it to 0, or make the views in the loader")

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Draw the views.

        Args:
            batch: what [`without_views`][mult_hf.data.collator.MultiTaskCollator.without_views] returns, on the device.

        Returns:
            `dict`: `pixel_values`, normalised, and `labels`, of the size of `views`.

        Raises:
            ValueError: if a map belongs to no task of `views`.
        """
        images, labels, tasks = batch["pixel_values"], batch["labels"], self.views.tasks
        unlisted = sorted(set(labels) - set(tasks))
        if unlisted:
            raise refusal(f"the batch has maps of {unlisted}, but the views have no spec of them; they have {', '.join(tasks)}")
        sizes, seeds = batch[SIZES].tolist(), batch[SEEDS].tolist()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = [self.views.draw(size, generator) for size, generator in zip(sizes, generators, strict=True)]
        computed = [self.share == 1 or torch.rand((), generator=generator).item() < self.share for generator in generators]
        numbers = _Numbers.of(drawn, images)
        windows = _Windows.of(numbers, images.new_tensor(sizes, dtype=torch.float64), images.shape[-2:], self.views.size)
        if self.views.zoom[0] < 1:
            images = _blurred(images, [math.sqrt(max(view.zoom**-2 - 1, 0)) / 2 for view in drawn])
        images = torch.where(windows.inside, windows.bilinear(images), _per_channel(BEYOND_IMAGE, images))
        images = self._with_noise(_blurred(_coloured(images, numbers), [view.blur for view in drawn]), numbers, seeds[0])
        maps = {task: _turned_and_zoomed(windows.resampled(values, tasks[task]), tasks[task], numbers) for task, values in labels.items()}
        for task in set(self.targets_of_views) & set(maps):
            maps[task] = _computed(task, images, maps[task], torch.tensor(computed))
        return {"pixel_values": (images - _per_channel(self.mean, images)) / _per_channel(self.std, images), "labels": maps}

    def _with_noise(self, images: Tensor, numbers: "_Numbers", seed: int) -> Tensor:
        if not self.views.noise:
            return images
        generator = torch.Generator(images.device).manual_seed(seed)
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        return torch.where(numbers.noise > 0, (images + numbers.noise.to(images.dtype) * noise).clamp(0, 1), images)


@dataclass(frozen=True)
class _Numbers:
    """The numbers of all views, (batch, 1, 1, 1) each, in the images' type; see `View`."""

    flip: Tensor
    zoom: Tensor
    degrees: Tensor
    left: Tensor
    top: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    red: Tensor
    blue: Tensor
    gamma: Tensor
    noise: Tensor

    @classmethod
    def of(cls, drawn: Sequence[View], images: Tensor) -> "_Numbers":
        corners = {"left": [view.corner[0] for view in drawn], "top": [view.corner[1] for view in drawn]}
        names = [each.name for each in fields(cls)]
        columns = [corners.get(name) or [getattr(view, name) for view in drawn] for name in names]
        table = torch.tensor(columns, dtype=torch.float64).to(images.device)  # one copy to the device
        return cls(*(row.view(-1, 1, 1, 1) for row in table))


@dataclass(frozen=True)
class _Windows:
    """Where in the originals each pixel of the windows comes from.

    Args:
        grid: (batch, height, width, 2) positions in the convention of `grid_sample`.
        source: (batch, height * width) int64 index of the nearest pixel, counted row by row.
        inside: (batch, 1, height, width) bool, whether the position is in the original.
        flip: (batch, 1, 1, 1), above 0 where the original is mirrored.
    """

    grid: Tensor
    source: Tensor
    inside: Tensor
    flip: Tensor

    @classmethod
    def of(cls, numbers: _Numbers, sizes: Tensor, batch_size: Sequence[int], window: Sequence[int] | None) -> "_Windows":
        """Compute positions as `geometric.rotate_zoom_crop` does, in the same float64.

        Args:
            numbers: of the views.
            sizes: (batch, 2) float64, heights and widths of the originals.
            batch_size: height and width of the batch, which has the originals in its top left corners.
            window: height and width of the windows; those of the batch by default.
        """
        height, width = window or batch_size
        heights, widths = (sizes[:, axis].view(-1, 1, 1) for axis in (0, 1))
        zoom, left, top, angle = (each[..., 0] for each in (numbers.zoom, numbers.left, numbers.top, torch.deg2rad(numbers.degrees)))
        pixels = [torch.arange(length, device=sizes.device, dtype=torch.float64) + 0.5 for length in (width, height)]
        right = (pixels[0].view(1, 1, -1) + left) / zoom - widths / 2
        down = (pixels[1].view(1, -1, 1) + top) / zoom - heights / 2
        x = widths / 2 + torch.cos(angle) * right - torch.sin(angle) * down
        y = heights / 2 + torch.sin(angle) * right + torch.cos(angle) * down
        inside = ((x >= 0) & (x < widths) & (y >= 0) & (y < heights))[:, None]
        flip = numbers.flip[..., 0] > 0
        columns = torch.minimum(x.floor().clamp(min=0), widths - 1)
        columns = torch.where(flip, widths - 1 - columns, columns)
        rows = torch.minimum(y.floor().clamp(min=0), heights - 1)
        # Positions beyond an original move to the centres of its outermost pixels, since its surroundings are another's or empty.
        x = torch.where(flip, widths - x, x)
        x, y = (torch.minimum(each.clamp(min=0.5), limit - 0.5) for each, limit in ((x, widths), (y, heights)))
        grid = torch.stack([2 * x / batch_size[1] - 1, 2 * y / batch_size[0] - 1], -1).float()
        return cls(grid, (rows * batch_size[1] + columns).long().flatten(1), inside, numbers.flip)

    def nearest(self, values: Tensor, beyond: float) -> Tensor:
        """Copy the nearest pixels of (batch, channels, height, width)."""
        source = self.source[:, None].expand(-1, values.shape[1], -1)
        copied = values.flatten(-2).gather(-1, source).unflatten(-1, tuple(self.inside.shape[-2:]))
        return torch.where(self.inside, copied, beyond)

    def bilinear(self, values: Tensor) -> Tensor:
        """Means of the four pixels around, of (batch, channels, height, width)."""
        return functional.grid_sample(values, self.grid.to(values.dtype), padding_mode="border", align_corners=False)

    def resampled(self, values: Tensor, spec: TaskSpec) -> Tensor:
        """A task's maps in the windows, mirrored where the view is, without mixing known and unknown pixels."""
        if spec.is_classification:
            return self.nearest(values[:, None], IGNORE_INDEX)[:, 0]
        if spec.horizontal_flip_signs:
            values = torch.where(self.flip > 0, values * _per_channel(spec.horizontal_flip_signs, values), values)
        if spec.resample == "nearest":
            return self.nearest(values, math.nan)
        known = values.isfinite().all(1, keepdim=True)
        sums = self.bilinear(torch.cat([torch.where(known, values, 0), known.to(values.dtype)], 1))
        means = sums[:, :-1] / sums[:, -1:]
        if spec.activation == "unit_vector":
            means = functional.normalize(means, dim=1)
        return torch.where(self.nearest(known, 0).bool(), means, math.nan)


def _turned_and_zoomed(values: Tensor, spec: TaskSpec, numbers: _Numbers) -> Tensor:
    """Apply rotation and zoom to the values of a task, as its spec declares."""
    if spec.zoom_exponent:
        values = values * (numbers.zoom**spec.zoom_exponent).to(values.dtype)
    if spec.rotated_channels:
        angle = torch.deg2rad(numbers.degrees[:, 0])
        cosine, sine = torch.cos(angle).to(values.dtype), torch.sin(angle).to(values.dtype)
        right, up = (values[:, channel] for channel in spec.rotated_channels)
        turned = list(values.unbind(1))
        turned[spec.rotated_channels[0]] = cosine * right - sine * up
        turned[spec.rotated_channels[1]] = sine * right + cosine * up
        values = torch.stack(turned, 1)
    return values


def _computed(task: str, images: Tensor, stored: Tensor, computed: Tensor) -> Tensor:
    """Targets of the views for which they are computed; unknown pixels stay unknown where the stored map has known ones."""
    chosen = computed.nonzero()[:, 0].to(images.device)
    target = torch.full_like(stored, math.nan)
    if len(chosen):
        target[chosen] = _image_targets()[task](images[chosen]).to(stored.dtype)
    known = stored.isfinite()
    return torch.where(known | ~known.flatten(1).any(1).view(-1, 1, 1, 1), target, math.nan)


def _image_targets() -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Imported when they are needed, because they need the extra `data`."""
    from .image_targets import IMAGE_TARGETS

    return IMAGE_TARGETS


def _coloured(images: Tensor, numbers: _Numbers) -> Tensor:
    """Change colours like `photometric.colour_jitter`, `white_balance` and `tone_curve`."""
    luma = _per_channel(LUMA, images)
    dtype = images.dtype
    images = (images * numbers.brightness.to(dtype)).clamp(0, 1)
    means = (images * luma).sum(1, keepdim=True).mean((-2, -1), keepdim=True)
    images = torch.lerp(means, images, numbers.contrast.to(dtype)).clamp(0, 1)
    images = torch.lerp((images * luma).sum(1, keepdim=True), images, numbers.saturation.to(dtype)).clamp(0, 1)
    images = rotate_hue(images, numbers.hue.to(dtype))
    factors = torch.cat([numbers.red, torch.ones_like(numbers.red), numbers.blue], 1).to(dtype)
    return (images * factors).clamp(0, 1).pow(numbers.gamma.to(dtype))


def _blurred(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur each image by its own sigma in pixels, as `photometric.gaussian_blur`; those with 0 stay as they are."""
    chosen = [index for index, sigma in enumerate(sigmas) if sigma > 0]
    if not chosen:
        return images
    reaches = [min(math.ceil(3 * sigmas[index]), min(images.shape[-2:]) - 1) for index in chosen]
    reach = max(reaches)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    spread = torch.tensor([sigmas[index] for index in chosen])[:, None]
    kernels = torch.exp(-((offsets / spread) ** 2) / 2) * (offsets.abs() <= torch.tensor(reaches)[:, None])
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(images)
    where = torch.tensor(chosen, device=images.device)
    part = functional.pad(images[where], (reach,) * 4, mode="reflect")
    count, channels, height, width = part.shape
    weights = kernels.repeat_interleave(channels, 0)[:, None]  # (count * channels, 1, length)
    rows = functional.conv2d(part.reshape(1, count * channels, height, width), weights[:, :, None], groups=count * channels)
    both = functional.conv2d(rows, weights[..., None], groups=count * channels)
    return images.index_copy(0, where, both.view(count, channels, *images.shape[-2:]))


def _per_channel(numbers: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(numbers).view(1, -1, 1, 1)


__all__ = ["BatchViews"]
