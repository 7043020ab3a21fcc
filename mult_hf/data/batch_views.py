"""Random views of a whole batch, made on the training device instead of in the data loader: those of `RandomAugmentation`.

A CPU core takes longer to make a view than a GPU takes to train on it, so the GPU waits. With these views, the loader only decodes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mult_hf.model.entry_fields import refusal
from mult_hf.model.normalisation import Normalisation
from mult_hf.model.resizing import from_means
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .augmentations import RandomAugmentation, View, check_computed_targets
from .collator import SEEDS, SIZES
from .geometric import BEYOND_IMAGE
from .photometric import rotate_hue

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the grey that contrast and saturation refer to, as in torchvision."""


@dataclass(frozen=True)
class BatchViews:
    """Makes a random view of each image of a batch, together with its label maps.

    A seed gives the same view as `views` in the loader, up to rounding, with three exceptions: noise and the choice of views whose
    targets are computed use other random numbers; and where a zoom below 1 blurs an image that is smaller than the batch, border pixels
    are repeated, not reflected.

    Args:
        views: ranges of the changes.
        mean: mean per channel that the finished views are normalised with.
        std: standard deviation per channel that the finished views are normalised with.
        targets_of_views: tasks whose targets are computed from the views, see [`TargetsOfViews`][mult_hf.data.view_targets.TargetsOfViews].
        share: share of the views whose targets are computed, in (0, 1]; in the other views they are unknown.
        scale: factor of the finished views, which are in [0, 1], before they are normalised; one number, or one per channel.

    Raises:
        ValueError: if the image alone does not define a task, `share` is not in (0, 1], or `views` compresses images, which a device
            cannot.
    """

    views: RandomAugmentation
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    targets_of_views: Sequence[str] = ()
    share: float = 1.0
    scale: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        check_computed_targets(self.targets_of_views, _image_targets() if self.targets_of_views else (), self.share)
        if self.views.jpeg:
            raise ValueError(f"jpeg is {self.views.jpeg}; a device cannot compress views: set it to 0, or make the views in the loader")

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Draw the views.

        Args:
            batch: the result of [`without_views`][mult_hf.data.collator.MultiTaskCollator.without_views], on the device.

        Returns:
            `dict`: normalised `pixel_values` (batch, 3, height, width) and `labels` by task, at the size of `views`, or at that of the
                batch if `views` has none.

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
        parameters = _Parameters.of(drawn, images)
        windows = _Windows.of(parameters, images.new_tensor(sizes, dtype=torch.float64), images.shape[-2:], self.views.size)
        if self.views.zoom[0] < 1:
            images = _blurred(images, [math.sqrt(max(view.zoom**-2 - 1, 0)) / 2 for view in drawn])
        images = torch.where(windows.inside, windows.bilinear(images), _per_channel(BEYOND_IMAGE, images))
        images = self._with_noise(_blurred(_coloured(images, parameters), [view.blur for view in drawn]), parameters, seeds[0])
        resampled = {task: windows.resampled(values, tasks[task]) for task, values in labels.items()}
        maps = {task: _rotated_and_zoomed(values, tasks[task], parameters) for task, values in resampled.items()}
        for task in set(self.targets_of_views) & set(maps):
            maps[task] = _computed(task, images, maps[task], torch.tensor(computed))
        return {"pixel_values": Normalisation(self.scale, self.mean, self.std)(images), "labels": maps}

    def _with_noise(self, images: Tensor, parameters: "_Parameters", seed: int) -> Tensor:
        if not self.views.noise:
            return images
        generator = torch.Generator(images.device).manual_seed(seed)
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        return torch.where(parameters.noise > 0, (images + parameters.noise.to(images.dtype) * noise).clamp(0, 1), images)


@dataclass(frozen=True)
class _Parameters:
    """The parameters of all views, (batch, 1, 1, 1) float64 each; see `View`."""

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
    def of(cls, drawn: Sequence[View], images: Tensor) -> "_Parameters":
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
    def of(cls, parameters: _Parameters, sizes: Tensor, batch_size: Sequence[int], window: Sequence[int] | None) -> "_Windows":
        """Compute positions as `geometric.rotate_zoom_crop` does, in float64 too.

        Args:
            parameters: of the views.
            sizes: (batch, 2) float64, heights and widths of the originals.
            batch_size: height and width of the batch, whose images have the originals in their top left corners.
            window: height and width of the windows; those of the batch by default.
        """
        height, width = window or batch_size
        heights, widths = (sizes[:, axis].view(-1, 1, 1) for axis in (0, 1))
        zoom, left, top = (each[..., 0] for each in (parameters.zoom, parameters.left, parameters.top))
        angle = torch.deg2rad(parameters.degrees[..., 0])
        pixels = [torch.arange(length, device=sizes.device, dtype=torch.float64) + 0.5 for length in (width, height)]
        right = (pixels[0].view(1, 1, -1) + left) / zoom - widths / 2
        down = (pixels[1].view(1, -1, 1) + top) / zoom - heights / 2
        x = widths / 2 + torch.cos(angle) * right - torch.sin(angle) * down
        y = heights / 2 + torch.sin(angle) * right + torch.cos(angle) * down
        inside = ((x >= 0) & (x < widths) & (y >= 0) & (y < heights))[:, None]
        flip = parameters.flip[..., 0] > 0
        columns = torch.minimum(x.floor().clamp(min=0), widths - 1)
        columns = torch.where(flip, widths - 1 - columns, columns)
        rows = torch.minimum(y.floor().clamp(min=0), heights - 1)
        # Positions beyond an original move to the centres of its outermost pixels, because what surrounds it in the batch is padding.
        x = torch.where(flip, widths - x, x)
        x, y = (torch.minimum(each.clamp(min=0.5), limit - 0.5) for each, limit in ((x, widths), (y, heights)))
        grid = torch.stack([2 * x / batch_size[1] - 1, 2 * y / batch_size[0] - 1], -1).float()
        return cls(grid, (rows * batch_size[1] + columns).long().flatten(1), inside, parameters.flip)

    def nearest(self, values: Tensor, beyond: float) -> Tensor:
        """Copy the nearest pixels of (batch, channels, height, width)."""
        source = self.source[:, None].expand(-1, values.shape[1], -1)
        copied = values.flatten(-2).gather(-1, source).unflatten(-1, tuple(self.inside.shape[-2:]))
        return torch.where(self.inside, copied, beyond)

    def bilinear(self, values: Tensor) -> Tensor:
        """Interpolate (batch, channels, height, width) between the four nearest pixels."""
        return functional.grid_sample(values, self.grid.to(values.dtype), padding_mode="border", align_corners=False)

    def resampled(self, values: Tensor, spec: TaskSpec) -> Tensor:
        """A task's maps in the windows, mirrored where the view is, without mixing known and unknown pixels."""
        if spec.is_classification:
            return self.nearest(values[:, None], IGNORE_INDEX)[:, 0]
        if -1 in spec.flip_signs:
            values = torch.where(self.flip > 0, values * _per_channel(spec.flip_signs, values), values)
        if spec.resample == "nearest":
            return self.nearest(values, math.nan)
        known = values.isfinite().all(1, keepdim=True)
        sums = self.bilinear(torch.cat([torch.where(known, values, 0), known.to(values.dtype)], 1))
        means = from_means(sums[:, :-1] / sums[:, -1:], spec, channel_axis=1)
        return torch.where(self.nearest(known, 0).bool(), means, math.nan)


def _rotated_and_zoomed(values: Tensor, spec: TaskSpec, parameters: _Parameters) -> Tensor:
    """Apply rotation and zoom to the values of a task, as its spec declares."""
    if spec.zoom_exponent:
        values = values * (parameters.zoom**spec.zoom_exponent).to(values.dtype)
    if spec.rotated_channels:
        angle = torch.deg2rad(parameters.degrees[:, 0])
        cosine, sine = torch.cos(angle).to(values.dtype), torch.sin(angle).to(values.dtype)
        right, up = (values[:, channel] for channel in spec.rotated_channels)
        rotated = list(values.unbind(1))
        rotated[spec.rotated_channels[0]] = cosine * right - sine * up
        rotated[spec.rotated_channels[1]] = sine * right + cosine * up
        values = torch.stack(rotated, 1)
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
    """The functions by task, imported here because they need the extra `data`; other runs do not."""
    from .image_targets import IMAGE_TARGETS

    return IMAGE_TARGETS


def _coloured(images: Tensor, parameters: _Parameters) -> Tensor:
    """Change colours like `photometric.colour_jitter`, `white_balance` and `tone_curve`."""
    luma = _per_channel(LUMA, images)
    dtype = images.dtype
    images = (images * parameters.brightness.to(dtype)).clamp(0, 1)
    means = (images * luma).sum(1, keepdim=True).mean((-2, -1), keepdim=True)
    images = torch.lerp(means, images, parameters.contrast.to(dtype)).clamp(0, 1)
    images = torch.lerp((images * luma).sum(1, keepdim=True), images, parameters.saturation.to(dtype)).clamp(0, 1)
    images = rotate_hue(images, parameters.hue.to(dtype))
    factors = torch.cat([parameters.red, torch.ones_like(parameters.red), parameters.blue], 1).to(dtype)
    return (images * factors).clamp(0, 1).pow(parameters.gamma.to(dtype))


def _blurred(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur each image with its own sigma in pixels, like `photometric.gaussian_blur`; 0 leaves an image unchanged."""
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


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(1, -1, 1, 1)


__all__ = ["BatchViews"]
