"""The size of a model's input: the size of its training images, to which its processor resizes, or another one."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import SizeDict

from mult_hf.model.processor_fields import check_aspect

FAR_OFF = 1.2
"""Largest factor between an image's scale and that of the training images at which predictions are still good. Training magnifies images
by up to 1.15 by default; at 1.25 the shipped model's depth error is larger by a third (docs/prediction.md)."""

MOST_ZOOM = 3.0
"""Largest magnification of a tile, relative to the whole image's view, at which its detail improves predictions (docs/prediction.md)."""


class ViewSize(NamedTuple):
    """The size to which images are resized for a model.

    Args:
        height: in pixels.
        width: in pixels.
        keeps_aspect: whether images keep their aspect ratio; height and width are then both the length of the shorter side.
    """

    height: int
    width: int
    keeps_aspect: bool = False

    @classmethod
    def of_processor(cls, size: Mapping[str, Any]) -> "ViewSize":
        """Read the `size` of an image processor.

        Raises:
            ValueError: if it has neither height and width nor the shortest edge.
        """
        sides = {side: size.get(side) for side in ("height", "width", "shortest_edge")}
        if sides["shortest_edge"]:
            return cls(sides["shortest_edge"], sides["shortest_edge"], keeps_aspect=True)
        if sides["height"] and sides["width"]:
            return cls(sides["height"], sides["width"])
        raise ValueError(f"the processor has the size {dict(size)}; expected height and width, or shortest_edge")

    def to_json(self) -> list[int] | dict[str, int]:
        """The size as a card states it: height and width, or the shortest edge."""
        return {"shortest_edge": self.height} if self.keeps_aspect else [self.height, self.width]

    @property
    def of_tile(self) -> tuple[int, int]:
        """(height, width) to which every tile is resized."""
        return self.height, self.width

    def of_image(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) to which a whole image of this (height, width) is resized, as by the processor.

        Raises:
            ValueError: if the image is so long and narrow that it would become far larger than others.
        """
        if not self.keeps_aspect:
            return self.height, self.width
        check_aspect(size, SizeDict(shortest_edge=self.height), "the image")
        height, width = get_size_with_aspect_ratio(size, self.height)
        return height, width


def off_scale(seen: tuple[int, int], trained: tuple[int, int]) -> str | None:
    """Describe how far the scale of the model's input is from that of the training images; None if it is close.

    Args:
        seen: (height, width) of the input in pixels.
        trained: (height, width) of the training images.
    """
    factor = math.sqrt(seen[0] * seen[1] / (trained[0] * trained[1]))
    if 1 / FAR_OFF <= factor <= FAR_OFF:
        return None
    return (
        f"objects appear {factor:.2g} times as large as in the training images ({seen[0]} x {seen[1]} pixels, trained on {trained[0]} x "
        f"{trained[1]})"
    )


__all__ = ["FAR_OFF", "MOST_ZOOM", "ViewSize", "off_scale"]
