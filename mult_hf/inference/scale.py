"""The size at which a model sees images: that of its training images, which its processor makes, or another one."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

FAR_OFF = 1.2
"""Factor between the scales of an image's view and of the training images beyond which predictions get much worse. Training magnifies
images by up to 1.15 by default; at 1.25 the shipped model's error of depth is larger by a third (docs/prediction.md)."""

MOST_ZOOM = 3.0
"""Magnification of a tile against the view of the whole image beyond which its detail is no gain (likewise)."""


class ViewSize(NamedTuple):
    """The size at which a model sees an image.

    Args:
        height: in pixels.
        width: in pixels.
        keeps_aspect: whether images keep their aspect ratio; height and width then are both their shorter side.
    """

    height: int
    width: int
    keeps_aspect: bool = False

    @classmethod
    def of_processor(cls, size: Mapping[str, Any]) -> "ViewSize":
        """The `size` of an image processor.

        Raises:
            ValueError: if it names other sides than height and width, or the shortest edge.
        """
        sides = {side: size.get(side) for side in ("height", "width", "shortest_edge")}
        if sides["shortest_edge"]:
            return cls(sides["shortest_edge"], sides["shortest_edge"], keeps_aspect=True)
        if sides["height"] and sides["width"]:
            return cls(sides["height"], sides["width"])
        raise ValueError(f"the processor has the size {dict(size)}; expected height and width, or shortest_edge")

    @property
    def of_tile(self) -> tuple[int, int]:
        """(height, width) at which every tile is seen."""
        return self.height, self.width

    def of_image(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which an image of this (height, width) is seen whole."""
        if not self.keeps_aspect:
            return self.height, self.width
        factor = self.height / min(size)
        return round(size[0] * factor), round(size[1] * factor)


def off_scale(seen: tuple[int, int], trained: tuple[int, int]) -> str | None:
    """How far the size at which an image is seen is from that of the training images, if it is far.

    Args:
        seen: (height, width) in pixels.
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
