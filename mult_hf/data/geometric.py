"""Changes of viewpoint: the image and all its label maps change together.

A sample is a dict, before normalisation and batching:

- `pixel_values`: (3, height, width) float in [0, 1];
- `labels`: one map per task, (channels, height, width) float with NaN where unknown, or (height, width) int64 class ids with 255
  where unknown;
- `focal` (optional): focal length in pixels;
- `principal_point` (optional): (x, y) in pixels. The top left corner of the image is (0, 0), and the centre of its first pixel
  is (0.5, 0.5). Defaults to the image's centre.

Other keys pass through. Every function returns a new sample and does not modify its input. Each task's [`TaskSpec`] declares how
its values change: `horizontal_flip_signs`, `rotated_channels`, `zoom_exponent`, `resample`.

The changes correspond to changes of camera and scene. A flip mirrors the scene. A rotation about the principal point rolls the
camera. A zoom multiplies the focal length and divides depth by the same factor: it shrinks the whole scene. This does not change
the directions of surfaces, so image, depth, normals and intrinsics stay consistent. Maps derived from the image or from light
(edges, keypoints, reshading) move with the pixels and keep their values.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mult_hf.model.resizing import from_means
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .photometric import gaussian_blur

BEYOND_IMAGE = (0.485, 0.456, 0.406)
"""Colour beyond the image: the mean of ImageNet, which is 0 after the usual normalisation."""

Sample = dict[str, Any]


def horizontal_flip(sample: Sample, tasks: Mapping[str, TaskSpec]) -> Sample:
    """Mirror a sample left to right; applying it twice restores the sample.

    Args:
        sample: as described in `mult_hf.data.geometric`.
        tasks: specs by name; must include every task in `sample["labels"]`.

    Returns:
        `dict`: the mirrored sample; each channel is multiplied by the task's flip sign.

    Raises:
        ValueError: if the sample's maps do not match its image or the tasks.
    """
    _check_sample(sample, tasks)
    labels = {}
    for name, values in sample["labels"].items():
        mirrored = values.flip(-1)
        signs = tasks[name].flip_signs
        labels[name] = mirrored * _per_channel(signs, mirrored) if -1 in signs else mirrored
    flipped = {**sample, "pixel_values": sample["pixel_values"].flip(-1), "labels": labels}
    if sample.get("principal_point") is not None:
        x, y = sample["principal_point"]
        flipped["principal_point"] = (sample["pixel_values"].shape[-1] - x, y)
    return flipped


def rotate_zoom_crop(
    sample: Sample,
    tasks: Mapping[str, TaskSpec],
    size: tuple[int, int],
    *,
    degrees: float = 0.0,
    zoom: float = 1.0,
    corner: tuple[float, float] = (0.0, 0.0),
) -> Sample:
    """Rotate a sample about its principal point, magnify it, and cut out a window, all in one resampling step.

    Known and unknown pixels are never mixed. A pixel is known if the nearest pixel of the original is known. Its value is that
    pixel's (`resample="nearest"`) or the weighted mean of the known ones among the four neighbours (`"bilinear"`). Beyond the
    image, labels are unknown and the colour is `BEYOND_IMAGE`.

    Args:
        sample: as described in `mult_hf.data.geometric`.
        tasks: specs by name; must include every task in `sample["labels"]`.
        size: (height, width) of the window in pixels.
        degrees: angle by which the image rotates, counter-clockwise.
        zoom: magnification, above 0; 2 shows everything twice as large. Depth is divided by it, the focal length multiplied.
        corner: (left, top) of the window in the magnified image, in pixels; may lie outside it.

    Returns:
        `dict`: the new sample; if it has a focal length, it also has a `principal_point`.

    Raises:
        ValueError: if the sample's maps do not match its image or the tasks, or size or zoom is not positive.
    """
    _check_sample(sample, tasks)
    if zoom <= 0 or min(size) < 1:
        raise ValueError(f"zoom {zoom} and window size {tuple(size)} must be positive")
    height, width = sample["pixel_values"].shape[-2:]
    given = sample.get("principal_point")
    centre = given if given is not None else (width / 2, height / 2)
    lookup = _Lookup.of_window((height, width), size, degrees, zoom, corner, centre)
    image = sample["pixel_values"]
    if zoom < 1:  # it gets smaller: blurred first against aliasing
        image = gaussian_blur(image, math.sqrt(zoom**-2 - 1) / 2)
    image, labels = _resampled(image, sample["labels"], tasks, lookup)
    labels = {name: _turn_and_zoom_values(values, tasks[name], degrees, zoom) for name, values in labels.items()}
    changed = {**sample, "pixel_values": image, "labels": labels}
    if sample.get("focal") is not None:
        changed["focal"] = sample["focal"] * zoom
    if given is not None or "focal" in changed:  # the window may be centred elsewhere
        changed["principal_point"] = (centre[0] * zoom - corner[0], centre[1] * zoom - corner[1])
    return changed


@dataclass(frozen=True)
class _Lookup:
    """Where in the original image each pixel of a window comes from; computed once for all maps.

    Args:
        grid: (1, height, width, 2) positions in the convention of `grid_sample`: the borders of the original are -1 and 1.
        source: (height * width,) index of the nearest pixel of the original, int64, counted row by row.
        inside: (height, width) bool, whether the position lies in the original.
        all_inside: whether every position lies in the original, as for most windows; then no mask is needed.
    """

    grid: Tensor
    source: Tensor
    inside: Tensor
    all_inside: bool

    @classmethod
    def of_window(
        cls,
        original: tuple[int, int],
        window: tuple[int, int],
        degrees: float,
        zoom: float,
        corner: tuple[float, float],
        centre: tuple[float, float],
    ) -> "_Lookup":
        """Compute where the centre of each pixel of the window was before rotation, magnification and cropping."""
        right = ((torch.arange(window[1], dtype=torch.float64) + 0.5 + corner[0]) / zoom - centre[0])[None, :]
        down = ((torch.arange(window[0], dtype=torch.float64) + 0.5 + corner[1]) / zoom - centre[1])[:, None]
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        x = centre[0] + cosine * right - sine * down  # (height, width); y points down, hence the signs
        y = centre[1] + sine * right + cosine * down
        height, width = original
        rows, columns = y.floor().long().clamp(0, height - 1), x.floor().long().clamp(0, width - 1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return cls(
            grid=torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1)[None].float(),
            source=(rows * width + columns).flatten(),
            inside=inside,
            all_inside=bool(inside.all()),
        )

    def nearest(self, values: Tensor, beyond: float) -> Tensor:
        """Copy the nearest pixels: (..., original height, width) -> (..., height, width)."""
        copied = values.flatten(-2).index_select(-1, self.source)  # faster than indexing with rows and columns
        return self.masked(copied.unflatten(-1, self.inside.shape), beyond)

    def bilinear(self, values: Tensor) -> Tensor:
        """Mean of the four pixels around: (channels, original height, width) -> (channels, height, width)."""
        return functional.grid_sample(values[None], self.grid.to(values.dtype), padding_mode="border", align_corners=False)[0]

    def masked(self, values: Tensor, beyond: float | Tensor) -> Tensor:
        """The values (..., height, width) of the window, replaced by `beyond` outside the original."""
        return values if self.all_inside else torch.where(self.inside, values, beyond)


def _resampled(
    image: Tensor, labels: Mapping[str, Tensor], tasks: Mapping[str, TaskSpec], lookup: _Lookup
) -> tuple[Tensor, dict[str, Tensor]]:
    """Resample an image and its label maps with a lookup, without mixing known and unknown pixels."""
    known = {name: values.isfinite().all(dim=0, keepdim=True) for name, values in labels.items() if _is_bilinear(tasks[name])}
    partly = {name: each for name, each in known.items() if not each.all()}  # (1, height, width) bool each
    # One call for all maps, because most of its time goes into positions and weights.
    planes = [image]
    for name in known:
        planes += [torch.where(partly[name], labels[name], 0), partly[name].to(image.dtype)] if name in partly else [labels[name]]
    sampled = lookup.bilinear(torch.cat(planes)).split([len(each) for each in planes])
    means = (mean.to(each.dtype) for mean, each in zip(sampled, planes))
    image = lookup.masked(next(means), _per_channel(BEYOND_IMAGE, image))
    resampled = {}
    for name, values in labels.items():
        spec = tasks[name]
        if name not in known:
            resampled[name] = lookup.nearest(values, IGNORE_INDEX if spec.is_classification else math.nan)
        elif name not in partly:
            resampled[name] = lookup.masked(from_means(next(means), spec, channel_axis=0), math.nan)
        else:  # the mean over the known ones among the four pixels
            mean = from_means(next(means) / next(means), spec, channel_axis=0)
            resampled[name] = torch.where(lookup.nearest(partly[name], 0).bool(), mean, math.nan)
    return image, resampled


def _is_bilinear(spec: TaskSpec) -> bool:
    return not spec.is_classification and spec.resample == "bilinear"


def _turn_and_zoom_values(values: Tensor, spec: TaskSpec, degrees: float, zoom: float) -> Tensor:
    """Apply a rotation and a zoom to the values of a task, as its spec declares."""
    if spec.zoom_exponent:
        values = values * zoom**spec.zoom_exponent
    if spec.rotated_channels and degrees:
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        right, up = (values[channel] for channel in spec.rotated_channels)
        turned = list(values)
        turned[spec.rotated_channels[0]] = cosine * right - sine * up
        turned[spec.rotated_channels[1]] = sine * right + cosine * up
        values = torch.stack(turned)
    return values


def _per_channel(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """One number per channel, shaped to broadcast over (channels, height, width)."""
    return torch.tensor(numbers, dtype=like.dtype).view(-1, 1, 1)


def _check_sample(sample: Sample, tasks: Mapping[str, TaskSpec]) -> None:
    """Reject a sample whose maps do not align with its image."""
    image = sample["pixel_values"]
    if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
        raise ValueError(f"pixel_values are {image.dtype} of shape {tuple(image.shape)}; expected float (3, height, width) in [0, 1]")
    for name, values in sample["labels"].items():
        if name not in tasks:
            raise ValueError(f"the sample has a map of task {name!r}, but tasks has no spec of it; it has {', '.join(tasks)}")
        expected = image.shape[-2:] if tasks[name].is_classification else (tasks[name].channels, *image.shape[-2:])
        if values.shape != torch.Size(expected):
            raise ValueError(f"the map of {name!r} has shape {tuple(values.shape)}; its image and task require {tuple(expected)}")
        few = tasks[name].is_classification and values.dtype in (torch.int8, torch.bool)  # of which 255 is none
        if values.is_floating_point() == tasks[name].is_classification or few:
            wanted = "class ids as int64" if tasks[name].is_classification else "float"
            raise ValueError(f"the map of {name!r} is {values.dtype}; a {tasks[name].kind} needs {wanted}")
