"""Proves that the size of a whole image's view is the one to which its processor resizes it."""

import numpy as np
import pytest

from mult_hf import MulTImageProcessor
from mult_hf.inference.scale import ViewSize


@pytest.mark.parametrize("size", [{"shortest_edge": 64}, {"height": 48, "width": 64}])
@pytest.mark.parametrize("image", [(96, 241), (241, 96), (480, 641), (64, 64), (50, 70)])
def test_a_view_has_the_size_of_the_processors_pixel_values(size, image):
    processor = MulTImageProcessor(size=size)
    pixel_values = processor(np.zeros((*image, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert ViewSize.of_processor(processor.size).of_image(image) == tuple(pixel_values.shape[-2:])


def test_a_strip_that_would_become_huge_is_refused_as_by_the_processor():
    size = {"shortest_edge": 64}
    for read in (ViewSize.of_processor(size).of_image, lambda image: MulTImageProcessor(size=size)(np.zeros((*image, 3), np.uint8))):
        with pytest.raises(ValueError, match="has 2 x 2000 pixels, and its shorter side is resized to 64: the longer one may be at most"):
            read((2, 2000))
