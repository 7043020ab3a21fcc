"""Panels: an image and its maps side by side, with a key to the colours below each map."""

from collections.abc import Mapping

from PIL import Image
from torch import Tensor

from mult_hf.model.tasks import TaskSpec
from mult_hf.model.visualization import color_key, color_limits, colorize, direction_key, panel

PANEL_CELL = 240
"""Width of an image in a panel, in pixels."""

MAX_PANEL_ASPECT = 4
"""Highest ratio of height to width in a panel; taller images are squeezed to it."""


def panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which a panel shows an image of this (height, width): at most [`MAX_PANEL_ASPECT`] times as high as wide."""
    height = min(round(PANEL_CELL * size[0] / size[1]), MAX_PANEL_ASPECT * PANEL_CELL)
    return max(1, height), PANEL_CELL


def compose_panel(image: Image.Image, maps: Mapping[str, Image.Image], keys: Mapping[str, Image.Image | None]) -> Image.Image:
    """The image and its maps in a row, with a key to the colours below each map."""
    height, width = panel_size((image.height, image.width))
    row = [image.resize((width, height), Image.Resampling.BILINEAR), *maps.values()]
    return panel([row], ["image", *maps], keys=[None, *keys.values()], cell=PANEL_CELL)


def panel_cell(prediction: Tensor, spec: TaskSpec) -> tuple[Image.Image, Image.Image | None]:
    """A map in colours and its key; of a map larger than the panel, only every n-th row and column is used.

    Args:
        prediction: as from `post_process`, on the CPU.
        spec: the task's entry.
    """
    size = (prediction.shape[-2], prediction.shape[-1])
    rows, columns = (max(1, side // (2 * cell)) for side, cell in zip(size, panel_size(size)))
    values = prediction[..., ::rows, ::columns].numpy()
    limits = color_limits(values)
    return colorize(values, spec, limits), color_key(spec, values, limits, width=PANEL_CELL) or direction_key(spec)


__all__ = ["compose_panel", "panel_cell", "panel_size"]
