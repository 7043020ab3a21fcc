"""Predict images of any size in overlapping tiles with blended seams."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mult_hf.model.tasks import TaskSpec

from .predictor import Predictor, from_average, to_average

OVERLAP = 0.25
"""Smallest overlap of neighbouring tiles, as a share of a tile's side."""

MIN_TILE = 32
"""Smallest side of a tile, in pixels: the encoder's largest stride."""


def tiled(predictor: Predictor, specs: Mapping[str, TaskSpec], tile: int, batch_size: int = 1) -> Predictor:
    """Create a predictor that processes images tile by tile.

    Where tiles overlap, their predictions are averaged as over views: class probabilities instead of logits, and mean vectors are
    normalised. A tile's weight falls linearly from its middle to its edges, so that differences between two tiles are spread over
    the whole overlap. Where tiles agree, the mean equals their value exactly.

    Args:
        predictor: called with tiles; it may be on another device than the images.
        specs: entries of the tasks that it predicts.
        tile: side of a tile in pixels. A smaller image is a single tile.
        batch_size: tiles per image and call of the predictor.

    Returns:
        A [`Predictor`] for images of any size, with results on their device; log-probabilities in place of logits.

    Raises:
        ValueError: if the tile is too small for the model.
    """
    if tile < MIN_TILE:
        raise ValueError(f"tile is {tile} pixels; it must be at least {MIN_TILE}, the encoder's largest stride")

    def predict(pixel_values: Tensor) -> dict[str, Tensor]:
        means: dict[str, Tensor] = {}
        for task, addend, window, share in _weighted(predictor, pixel_values, tile, batch_size):
            if task not in means:
                means[task] = addend.new_zeros(*addend.shape[:2], *pixel_values.shape[-2:])
            means[task][window].lerp_(to_average(addend.float(), specs[task]), share)
        return {task: from_average(mean, specs[task]) for task, mean in means.items()}

    return predict


def _weighted(predictor: Predictor, pixel_values: Tensor, tile: int, batch_size: int) -> Iterator[tuple[str, Tensor, tuple, Tensor]]:
    """Task, prediction, window and share of each tile. The share is its weight divided by the sum over all tiles so far, per pixel.

    Blending one tile after another by this share gives their weighted mean without a final division, which would round.
    """
    height, width = pixel_values.shape[-2:]
    total = pixel_values.new_zeros(height, width, dtype=torch.float32)
    weight = _hat(min(tile, height), pixel_values)[:, None] * _hat(min(tile, width), pixel_values)
    windows = [
        (..., slice(top, top + tile), slice(left, left + tile)) for top in tile_starts(height, tile) for left in tile_starts(width, tile)
    ]
    for start in range(0, len(windows), batch_size):
        some = windows[start : start + batch_size]
        predictions = predictor(torch.cat([pixel_values[window] for window in some]))  # (tiles * images, 3, tile, tile)
        parts = {task: prediction.to(total.device).chunk(len(some)) for task, prediction in predictions.items()}
        for number, window in enumerate(some):
            total[window] += weight
            for task, addends in parts.items():
                yield task, addends[number], window, weight / total[window]


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


__all__ = ["OVERLAP", "tile_starts", "tiled"]
