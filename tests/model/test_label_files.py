"""Proves that files whose pixels are not a task's values are refused as label maps: palettes, and files of several pages."""

import io

import numpy as np
import pytest
from PIL import Image

from mult_hf import MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.model.processor_labels import decode_map
from mult_hf.model.tasks import resolve_tasks

EDGES = {"name": "edges2d", "encoding": {"dtype": "uint8", "scale": 1 / 255}}
THINGS = {"name": "things", "kind": "classification", "channels": 4}
SIZE = (24, 32)


def with_palette(numbers, palette):
    """An image of palette numbers, of which the first ones have the given colours."""
    image = Image.fromarray(np.resize(np.array(numbers, np.uint8), SIZE))
    image.putpalette(np.array(palette, np.uint8).tobytes())
    return image


def greys(*levels):
    return [(level,) * 3 for level in levels]


def pages(image, suffix, left_out=0):
    """An opened file of two pages, without its last bytes."""
    file = io.BytesIO()
    image.save(file, suffix, save_all=True, append_images=[image])
    return Image.open(io.BytesIO(file.getvalue()[: len(file.getvalue()) - left_out]))


NO_MAPS = {
    "numbers of a palette as edges": (EDGES, with_palette([0, 1], greys(0, 255)), "has a palette, so its pixels are numbers of colours"),
    "numbers of colours as edges": (EDGES, with_palette([0, 1], [(0, 0, 0), (255, 0, 0)]), "has a palette, so its pixels are numbers"),
    "greys that are ids": (
        *(THINGS, with_palette([0, 1, 2, 3], greys(0, 2, 3, 255))),
        "a palette of greys, in which number 1 is grey 2: either may be the class; store the ids as 8-bit grey",
    ),
    "two pages": (EDGES, pages(Image.new("L", SIZE[::-1]), "TIFF"), "has 2 frames or pages; store the one that is the map"),
    "a page that is cut off": (
        EDGES,
        pages(Image.new("L", SIZE[::-1]), "TIFF", 900),
        "the file is broken|has 2 frames",
    ),  # Pillow fails once
}


@pytest.mark.parametrize("name", NO_MAPS)
def test_a_file_whose_pixels_are_not_the_values_is_refused_in_every_way_it_is_read(name):
    entry, stored, reason = NO_MAPS[name]
    (spec,) = resolve_tasks([entry]).values()
    processor = MulTImageProcessor(size={"height": 24, "width": 32}, tasks=[entry])
    image = Image.new("RGB", SIZE[::-1])
    with pytest.raises(ValueError, match=reason):
        decode_map(stored, spec)
    with pytest.raises(ValueError, match=f"label map 0 .*{entry['name']}: .*{reason}"):
        processor(image, label_maps={spec.name: stored})
    for collate in (MultiTaskCollator(processor), MultiTaskCollator(processor).collate_for_evaluation):
        with pytest.raises(ValueError, match=reason):
            collate([{"image": image, spec.name: stored}])


MAPS = {
    "ids with colours": (THINGS, with_palette([0, 1, 2, 3], [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]), [0, 1, 2, 3]),
    "ids shown black and white": (THINGS, with_palette([0, 1], greys(0, 255)), [0, 1]),
    "ids shown white and black": (THINGS, with_palette([0, 1], greys(255, 0)), [0, 1]),
    "ids of which one is shown grey": (THINGS, with_palette([0, 3], [*greys(0), (9, 0, 0), (0, 9, 0), *greys(2)]), [0, 3]),
    "ids shown as greys that are no classes": (THINGS, with_palette([0, 1, 2, 3], greys(0, 80, 160, 240)), [0, 1, 2, 3]),
    "ids that are their greys": (THINGS, with_palette([0, 1, 2, 3], greys(*range(256))), [0, 1, 2, 3]),
    "values that are their greys": (EDGES, with_palette([0, 51, 255], greys(*range(256))), [0.0, 0.2, 1.0]),
}


@pytest.mark.parametrize("name", MAPS)
def test_palettes_that_only_show_the_values_are_allowed(name):
    entry, stored, expected = MAPS[name]
    (spec,) = resolve_tasks([entry]).values()
    np.testing.assert_allclose(np.unique(decode_map(stored, spec)), expected, atol=1e-6)
    np.testing.assert_allclose(np.unique(decode_map(np.asarray(stored), spec)), expected, atol=1e-6)
