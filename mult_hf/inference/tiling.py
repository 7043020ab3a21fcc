"""Predict large images in overlapping tiles, each resized to the model's input size and aligned with a prediction of the whole image."""

import math
from collections.abc import Iterator, Mapping
from types import EllipsisType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mult_hf.model.agreement import to_average
from mult_hf.model.tasks import TaskSpec

from .predictor import Predictor, from_average
from .scale import ViewSize

OVERLAP = 0.25
"""Smallest overlap of neighbouring tiles, as a share of a tile's side."""

MIN_TILE = 32
"""Smallest side of a tile, in pixels: the encoder's largest stride."""

MIN_SHORTER_SIDE = 2
"""Smallest shorter side of a tile, in pixels: neighbours share one of them."""

CELL = 4
"""Side of the cells in which a tile's mean is replaced by the whole image's, in pixels of the model's input for the whole image. It is the
step of the decoders' finest stage: the prediction of the whole image has no finer detail."""

_TINY = 1e-6
"""Smallest probability after alignment."""


def tiled(
    predictor: Predictor,
    specs: Mapping[str, TaskSpec],
    tile: int,
    view: ViewSize | None = None,
    batch_size: int = 1,
    *,
    canonical_camera: bool = False,
    show_progress: bool = False,
) -> Predictor:
    """Make a predictor that processes large images tile by tile.

    A tile is `tile` pixels of the image long on its longer side, and is resized to the size that the model was trained on. Its objects
    appear larger than in the whole image, and their surroundings are missing. So the whole image is predicted first, at the model's
    size. Each tile is then aligned with that prediction (see [`align`]) and adds detail.

    A prediction has no finer detail than the model's view of a tile. So tiles are blended at the scale of their views
    ([`Layout.blended`]), and the result has to be resized to the image, like any prediction.

    Where tiles overlap, their predictions are averaged as over views: class probabilities instead of logits, and mean vectors are
    normalised. A tile's weight falls linearly from its middle to its edges, so that differences between two tiles are spread over
    the whole overlap. Where tiles agree, the mean equals their value exactly.

    Args:
        predictor: called with views of the whole image and of tiles; it may be on another device than the images.
        specs: the entries of the tasks that it predicts.
        tile: longer side of a tile in the image's pixels. An image that is no larger is predicted whole.
        view: size to which the whole image and the tiles are resized; `None` keeps the size of tiles and does not align them.
        batch_size: tiles of each image per call of the predictor.
        canonical_camera: whether distances are those of one camera at the size of the prediction, as of a processor with a
            `canonical_focal_length`. The blended maps are then those of that camera at their own size.
        show_progress: whether to show a progress bar of each image's tiles.

    Returns:
        a [`Predictor`] for images of any size, on their device; it returns log-probabilities in place of logits if there are several tiles.

    Raises:
        ValueError: if the tile is too small for the model.
    """
    if tile < MIN_TILE:
        raise ValueError(f"tile is {tile} pixels; it must be at least {MIN_TILE}, the encoder's largest stride")
    if view is not None and (least := math.ceil(MIN_SHORTER_SIDE * max(view.of_tile) / min(view.of_tile))) > tile:
        height, width = view.of_tile
        raise ValueError(f"tile is {tile} pixels; for views of {height} x {width} it must be at least {least}, or it would be too narrow")

    def predict(pixel_values: Tensor) -> Mapping[str, Tensor]:
        height, width = pixel_values.shape[-2:]
        layout = Layout.of_image((height, width), tile, view)
        coarse = {} if view is None else predictor(resized(pixel_values, view.of_image((height, width))))
        coarse = {task: prediction.to(pixel_values.device) for task, prediction in coarse.items()}
        if layout.is_whole_image and coarse:
            return coarse
        coarse = {task: to_average(prediction.float(), specs[task]) for task, prediction in coarse.items()}
        means: dict[str, Tensor] = {}
        bar = tqdm(total=len(layout.windows()), desc="tiles", unit="tile", leave=False, disable=not show_progress)
        for views, windows in _batches(resized(pixel_values, layout.blended), layout, batch_size):
            for task, predictions in predictor(views).items():
                _blend(means, task, predictions.to(pixel_values.device), windows, coarse.get(task), layout, specs[task])
            bar.update(len(windows))
        bar.close()
        magnification = math.sqrt(math.prod(layout.blended) / math.prod(layout.whole)) if canonical_camera and coarse else 1.0
        # One task after another and in place, because these maps may be large.
        return {task: from_average(means.pop(task).mul_(magnification ** specs[task].zoom_exponent), specs[task]) for task in list(means)}

    return predict


def _blend(
    means: dict[str, Tensor],
    task: str,
    predictions: Tensor,
    windows: list[tuple[Any, Tensor]],
    coarse: Tensor | None,
    layout: "Layout",
    spec: TaskSpec,
) -> None:
    """Add the predictions of some tiles, (tiles * images, channels, height, width), to a task's mean."""
    for prediction, (window, share) in zip(predictions.chunk(len(windows)), windows):
        addend = _to_blend(prediction.float(), layout, spec)
        if coarse is not None:
            addend = align(addend, _part(coarse, window, layout.blended), spec, layout.cells)
        if task not in means:
            means[task] = addend.new_zeros(*addend.shape[:2], *layout.blended)
        means[task][window].lerp_(addend, share)


class Layout(NamedTuple):
    """Tiles of an image.

    Args:
        size: (height, width) of the image in pixels.
        tile: (height, width) of a tile in the image's pixels.
        seen: (height, width) to which a tile is resized for the model.
        whole: (height, width) to which the whole image is resized.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    seen: tuple[int, int]
    whole: tuple[int, int]

    @classmethod
    def of_image(cls, size: tuple[int, int], tile: int, view: ViewSize | None) -> "Layout":
        """The tiles of an image: `tile` pixels along the longer side, or as many as the image has."""
        if view is None:
            side = (min(tile, size[0]), min(tile, size[1]))
            return cls(size, side, side, size)
        seen, whole = view.of_tile, view.of_image(size)
        height, width = (min(length, round(tile * side / max(seen))) for length, side in zip(size, seen))
        return cls(size, (height, width), whole if (height, width) == size else seen, whole)

    @property
    def is_whole_image(self) -> bool:
        """Whether there is only one tile."""
        return self.tile == self.size

    @property
    def blended(self) -> tuple[int, int]:
        """(height, width) of the blended maps: the image at the scale at which the model sees tiles, but no larger than it is."""
        height, width = (min(length, round(length * seen / side)) for length, seen, side in zip(self.size, self.seen, self.tile))
        return height, width

    @property
    def blended_tile(self) -> tuple[int, int]:
        """(height, width) of a tile in the blended maps."""
        height, width = (min(seen, side) for seen, side in zip(self.seen, self.tile))
        return height, width

    @property
    def zoom(self) -> float:
        """Magnification of a tile relative to the whole image's view."""
        return math.sqrt(math.prod(self.seen) * math.prod(self.size) / (math.prod(self.tile) * math.prod(self.whole)))

    @property
    def cells(self) -> tuple[int, int]:
        """Number of cells in a tile, down and across; each has [`CELL`] pixels per side in the view of the whole image."""
        rows, columns = (max(1, round(side / length * seen / CELL)) for side, length, seen in zip(self.tile, self.size, self.whole))
        return rows, columns

    def windows(self) -> list[tuple[EllipsisType, slice, slice]]:
        """Index of each tile in the blended maps, row by row."""
        height, width = self.blended_tile
        rows, columns = (tile_starts(length, side) for length, side in zip(self.blended, (height, width)))
        return [(..., slice(top, top + height), slice(left, left + width)) for top in rows for left in columns]


def align(fine: Tensor, coarse: Tensor, spec: TaskSpec, cells: tuple[int, int]) -> Tensor:
    """Give a tile's prediction the local means of the whole image's.

    The overall level of a tile's prediction is less reliable than its detail, because its scale differs from that of the training
    images and its surroundings are missing. So its means over cells (interpolated in between) are replaced by those of the whole image's
    prediction: by a factor for values that change with the zoom, such as distances, and by an offset for all others.

    Args:
        fine: prediction of the tile, (batch, channels, height, width), in the space of `to_average`.
        coarse: prediction of the whole image at the same pixels.
        spec: the task's entry.
        cells: number of cells, down and across.

    Returns:
        `Tensor`: like `fine`; probabilities sum to 1.
    """
    wanted, found = _local_means(coarse, cells), _local_means(fine, cells)
    if spec.is_classification:
        return F.normalize((fine + wanted - found).clamp(min=_TINY), p=1, dim=1)
    if spec.zoom_exponent and bool((wanted > 0).all() and (found > 0).all()):
        return fine * (wanted / found)
    return fine + wanted - found


def _local_means(values: Tensor, cells: tuple[int, int]) -> Tensor:
    return F.interpolate(F.adaptive_avg_pool2d(values, cells), size=values.shape[-2:], mode="bilinear", align_corners=False)


def _batches(images: Tensor, layout: Layout, batch_size: int) -> Iterator[tuple[Tensor, list[tuple[Any, Tensor]]]]:
    """Views of some tiles, (tiles * images, 3, height, width), with each tile's window and its share of the mean at its pixels.

    The images have the size of the blended maps.

    The share is the tile's weight divided by the weights of all tiles so far. Blending one tile after another by this share gives their
    weighted mean without a final division, which would round.
    """
    total = images.new_zeros(layout.blended, dtype=torch.float32)
    height, width = layout.blended_tile
    weight = _hat(height, images)[:, None] * _hat(width, images)
    windows = layout.windows()
    for start in range(0, len(windows), batch_size):
        some = []
        for window in windows[start : start + batch_size]:
            total[window] += weight
            some.append((window, weight / total[window]))
        yield torch.cat([resized(images[window], layout.seen) for window, _ in some]), some


def resized(pixel_values: Tensor, size: tuple[int, int]) -> Tensor:
    """(batch, channels, height, width) images at another size, smoothed if they get smaller."""
    if tuple(pixel_values.shape[-2:]) == tuple(size):
        return pixel_values
    return F.interpolate(pixel_values, size=size, mode="bilinear", align_corners=False, antialias=True)


def _to_blend(prediction: Tensor, layout: Layout, spec: TaskSpec) -> Tensor:
    """A tile's prediction at the scale of the blended maps, in the space of `to_average`."""
    if layout.seen != layout.blended_tile:
        prediction = F.interpolate(prediction, size=layout.blended_tile, mode="bilinear", align_corners=False)
    return to_average(prediction, spec) / layout.zoom**spec.zoom_exponent


def _part(whole: Tensor, window: tuple[Any, slice, slice], size: tuple[int, int]) -> Tensor:
    """A window of (batch, channels, ...) `whole` enlarged to `size`, without enlarging the rest of it."""
    rows, columns = (
        (torch.arange(each.start, each.stop, device=whole.device) + 0.5) * (2 / length) - 1 for each, length in zip(window[1:], size)
    )
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)  # (height, width, 2) in [-1, 1]
    return F.grid_sample(whole, grid.expand(len(whole), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False)


def tile_starts(length: int, tile: int) -> list[int]:
    """First pixels of tiles along one side, evenly spaced, so that they cover it and overlap by at least [`OVERLAP`]."""
    if length <= tile:
        return [0]
    overlap = math.ceil(OVERLAP * tile)
    count = math.ceil((length - overlap) / (tile - overlap))
    return torch.linspace(0, length - tile, count, dtype=torch.float64).round().int().tolist()


def _hat(side: int, like: Tensor) -> Tensor:
    """Weights that rise from 1 to the middle and fall back to 1; where two tiles overlap, their weights have a constant sum."""
    rising = torch.arange(1, side + 1, device=like.device, dtype=torch.float32)
    return torch.minimum(rising, rising.flip(0))


__all__ = ["CELL", "OVERLAP", "Layout", "align", "resized", "tile_starts", "tiled"]
