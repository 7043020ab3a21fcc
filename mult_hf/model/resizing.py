"""Bilinear resizing of predictions to the size of an image, in strips of rows.

A strip stays in the processor's cache until it is finished, and no full-size copy of all channels is made. Values equal those of
`F.interpolate(..., mode="bilinear", align_corners=False)` up to rounding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .activations import activation_of
from .tasks import IGNORE_INDEX, TaskSpec

STRIP_VALUES = 2**17
"""Values in a strip, at most, on a CPU: half a MiB of float32. On a GPU all rows are one strip, because each call costs time there."""

STRIPS_OF_A_BAND = 16
"""Strips whose old rows are resized to the new width at a time, on a CPU."""

_FEW_VALUES = 2**22
"""Number of resized logits up to which the classes of all pixels are found at once."""

_LARGEST_LOGIT = 1e30
"""Logits beyond this are interpolated as this."""

_MANY_ROWS = 4
"""Rows per old row from which on classes are found for all rows between two old ones at a time."""

_FEW_TO_COMPARE = 2**16
"""Number of values below which one call of torch is faster than one per class."""


def from_means(means: Tensor, spec: TaskSpec, channel_axis: int) -> Tensor:
    """Turn means of a task's maps, as of resizing, back to what its activation gives: unit vectors again have length 1."""
    return F.normalize(means, dim=channel_axis) if activation_of(spec).gives_unit_vectors else means


def bounded_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """A size of the same aspect ratio whose longer side is at most `max_side`; unchanged if it already is, or without a limit."""
    if max_side is None or max(size) <= max_side:
        return size
    height, width = (max(1, round(side * max_side / max(size))) for side in size)
    return height, width


class Axis(NamedTuple):
    """Where the pixels of a resized axis come from: each lies between two old pixels.

    Args:
        first: index of the old pixel before it, (new length,) int64.
        second: index of the one after it.
        weight: of the second one, in [0, 1].
        nearest: index of the nearest old pixel.
    """

    first: Tensor
    second: Tensor
    weight: Tensor
    nearest: Tensor

    @classmethod
    def resized(cls, old: int, new: int, device: torch.device) -> "Axis":
        """The pixels of an axis of `old` pixels that is resized to `new`."""
        position = (torch.arange(new, device=device, dtype=torch.float32) + 0.5) * (old / new)  # in old pixels, from the axis's edge
        nearest = position.long().clamp(max=old - 1)
        centre = (position - 0.5).clamp(min=0)
        first = centre.long().clamp(max=old - 1)
        return cls(first, (first + 1).clamp(max=old - 1), centre - first, nearest)


class Strip(NamedTuple):
    """Some rows of resized maps.

    Args:
        rows: their place in the resized maps.
        values: (channels, rows, width).
        wide: old rows resized to this width by the nearest pixel, (channels, some old rows, width).
        nearest_rows: row of `wide` nearest to each row of the strip.
    """

    rows: slice
    values: Tensor
    wide: Tensor
    nearest_rows: Tensor

    @property
    def nearest(self) -> Tensor:
        """The old pixels nearest to these, (channels, rows, width)."""
        return self.wide[:, self.nearest_rows]


def strips(maps: Tensor, size: tuple[int, int]) -> Iterator[Strip]:
    """Resize maps strip by strip.

    Args:
        maps: (channels, height, width), floating.
        size: new height and width.

    Yields:
        [`Strip`]: from the top to the bottom; views of `maps` if these have the size already.
    """
    height, width = size
    step = max(1, STRIP_VALUES // (len(maps) * width)) if maps.device.type == "cpu" else height
    rows, columns = (Axis.resized(old, new, maps.device) for old, new in zip(maps.shape[-2:], size))
    is_resized = tuple(maps.shape[-2:]) != (height, width)
    if not is_resized:
        yield from (Strip(some, maps[:, some], maps, rows.nearest[some]) for some in _slices(0, height, step))
        return
    several = step * STRIPS_OF_A_BAND if maps.device.type == "cpu" else height
    for band in _slices(0, height, several):  # because all old rows at the new width may need much memory
        top, bottom = int(rows.first[band.start]), int(rows.second[band.stop - 1]) + 1
        wide, nearest = _across(maps[:, top:bottom], columns), maps[:, top:bottom, columns.nearest]
        for some in _slices(band.start, band.stop, step):
            values = torch.lerp(wide[:, rows.first[some] - top], wide[:, rows.second[some] - top], rows.weight[some, None])
            yield Strip(some, values, nearest, rows.nearest[some] - top)


def class_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of the largest resized logit at each pixel.

    A weighted mean keeps the order of two logits that have the same order at all four neighbours. So a pixel between four neighbours
    of one class has this class, and only the others, along boundaries, are interpolated. Where two logits are equal up to rounding,
    either class may be returned.

    Args:
        logits: (classes, height, width), float32, at most 255 classes.
        size: new height and width.

    Returns:
        `Tensor`: size, int64; 255 where a logit is NaN.
    """
    if tuple(logits.shape[-2:]) == tuple(size):
        return classes_of(logits)
    logits = _bounded(logits.float())
    if len(logits) * size[0] * size[1] <= _FEW_VALUES or logits.device.type != "cpu":
        return classes_of(F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0])
    rows, columns = (Axis.resized(old, new, logits.device) for old, new in zip(logits.shape[-2:], size))
    coarse = classes_of(logits)
    below, beside = _next(coarse, -2), _next(coarse, -1)
    is_mixed = (coarse != below) | (coarse != beside) | (coarse != _next(beside, -2))
    classes = coarse[rows.first][:, columns.first]
    refine = _refine_rows if size[0] >= _MANY_ROWS * len(coarse) else _refine_pixels
    refine(classes, logits, is_mixed, rows, columns)
    return classes


def _bounded(logits: Tensor) -> Tensor:
    """Bound infinite logits, as of classes that are ruled out, of which a mean may be NaN. On a CPU others, which may be large, are not
    copied; elsewhere the question would wait for the device.
    """
    if logits.device.type == "cpu" and bool(torch.stack(logits.aminmax()).abs().amax() <= _LARGEST_LOGIT):
        return logits
    return logits.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


def _refine_pixels(classes: Tensor, logits: Tensor, is_mixed: Tensor, rows: Axis, columns: Axis) -> None:
    """Interpolate the logits of the pixels between old pixels of several classes, pixel by pixel."""
    width = logits.shape[-1]
    pixels = logits.flatten(1)
    for band in _slices(0, len(classes), max(1, STRIP_VALUES * STRIPS_OF_A_BAND // (len(logits) * classes.shape[1]))):
        y, x = is_mixed[rows.first[band]][:, columns.first].nonzero(as_tuple=True)
        upper, lower = rows.first[band][y] * width, rows.second[band][y] * width
        left, right, weight = columns.first[x], columns.second[x], columns.weight[x]
        above, below = (
            torch.lerp(pixels.index_select(1, row + left), pixels.index_select(1, row + right), weight) for row in (upper, lower)
        )
        classes[band][y, x] = _index_of_largest(torch.lerp(above, below, rows.weight[band][y]))


def _refine_rows(classes: Tensor, logits: Tensor, is_mixed: Tensor, rows: Axis, columns: Axis) -> None:
    """The same for all rows between two old ones at a time, of which the old ones are resized once; faster if there are many."""
    for some in _rows_between_the_same_neighbours(rows):
        above, below = int(rows.first[some.start]), int(rows.second[some.start])
        mixed = is_mixed[above, columns.first].nonzero().squeeze(1)
        upper, lower = (_across(logits[:, row], columns, mixed)[:, None] for row in (above, below))  # (classes, 1, mixed)
        values = torch.lerp(upper, lower, rows.weight[some, None])
        classes[some].index_copy_(1, mixed, _index_of_largest(values))  # (classes, rows, mixed) -> (rows, mixed)


def classes_of(logits: Tensor) -> Tensor:
    """Class ids (height, width) of logits (classes, height, width); 255 where a logit is NaN, which the first class would win."""
    best, classes = logits.max(dim=0)
    return classes.masked_fill_(best.isnan(), IGNORE_INDEX)


def _next(values: Tensor, axis: int) -> Tensor:
    """The values of the next positions along an axis; the last one is its own."""
    return torch.cat([values.narrow(axis, 1, values.shape[axis] - 1), values.narrow(axis, -1, 1)], dim=axis)


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))


def _across(maps: Tensor, columns: Axis, some: Tensor | slice = slice(None)) -> Tensor:
    """Resize the last axis, or compute some of its new positions."""
    return torch.lerp(maps[..., columns.first[some]], maps[..., columns.second[some]], columns.weight[some])


def _rows_between_the_same_neighbours(rows: Axis) -> Iterator[slice]:
    """Runs of resized rows that lie between the same two old ones."""
    _, counts = rows.first.unique_consecutive(return_counts=True)
    stop = 0
    for count in counts.tolist():
        start, stop = stop, stop + count
        yield slice(start, stop)


def _index_of_largest(values: Tensor) -> Tensor:
    """Like `classes_of`, for (classes, ...) values; several times faster on a CPU than `max` over the first axis of many values."""
    if values.numel() < _FEW_TO_COMPARE:
        return classes_of(values)
    largest, index = values[0], torch.zeros(values.shape[1:], dtype=torch.uint8)
    for number in range(1, len(values)):
        index.masked_fill_(values[number] > largest, number)
        largest = torch.maximum(largest, values[number])  # NaN if either is
    return index.masked_fill_(largest.isnan(), IGNORE_INDEX).long()


__all__ = ["Axis", "Strip", "bounded_size", "class_map", "classes_of", "from_means", "strips"]
