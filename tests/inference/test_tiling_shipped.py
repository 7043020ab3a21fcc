"""Proves with the shipped model and a real image that tiles give what the whole image gives, sharper, whatever their size, and no seams.

`pytest -s tests/inference/test_tiling_shipped.py` prints what is measured.
"""

from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from PIL import Image

from mult_hf import ROOMS_TINY_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.inference import tiling
from mult_hf.inference.predictor import predict
from mult_hf.inference.scale import ViewSize
from mult_hf.inference.tiling import Layout, resized, tile_starts, tiled

IMAGE = Path(__file__).resolve().parents[2] / "docs/images/living-room.jpg"
SIDE = 512
TILES = (340, 256, 200)


@pytest.fixture(scope="module")
def maps_by_tile():
    """Finished maps of the image by the tiles' side; 0 is the whole image at the model's size."""
    model = MulTForMultiTaskDensePrediction.from_pretrained(ROOMS_TINY_CHECKPOINT).eval()
    view = ViewSize.of_processor(MulTImageProcessor.from_pretrained(ROOMS_TINY_CHECKPOINT).size)
    processor = MulTImageProcessor.from_pretrained(ROOMS_TINY_CHECKPOINT, do_resize=False)
    pixels = processor(Image.open(IMAGE), return_tensors="pt")["pixel_values"]
    assert (tuple(pixels.shape[-2:]), view) == ((SIDE, SIDE), (128, 128, False)), "premise"

    def finished(predictions):
        (maps,) = processor.post_process(predictions, [(SIDE, SIDE)])
        return {task: each["prediction"] for task, each in maps.items()}

    def tiles(side, view=view):
        return finished(tiled(partial(predict, model), model.config.task_specs, side, view, batch_size=4)(pixels))

    found = {0: finished(predict(model, resized(pixels, view.of_tile))), **{side: tiles(side) for side in TILES}}
    found["at the image's scale"] = tiles(256, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "_hat", lambda side, like: torch.ones(side))
        found["not blended"] = tiles(200)
    return found


def differences(maps, others):
    """Share of pixels of another class, mean relative difference of depth, and mean angle between normals in degrees."""
    classes = (maps["segmentation"] != others["segmentation"]).float().mean().item()
    depth = ((maps["depth"] - others["depth"]).abs() / others["depth"]).mean().item()
    angles = (maps["normals"] * others["normals"]).sum(dim=0).clamp(-1, 1).acos().rad2deg().mean().item()
    return classes, depth, angles


def assert_below(found, bounds):
    print(" ".join(f"{each:.4f}" for each in found))
    assert all(each < bound for each, bound in zip(found, bounds, strict=True)), (found, bounds)


@pytest.mark.slow
@pytest.mark.parametrize("side", TILES)
def test_tiles_agree_with_the_whole_image(maps_by_tile, side):
    """Where boundaries get sharper, classes change at the pixels along them: a tenth at most. Depth and normals keep the whole
    image's local means, so they differ by their detail only. Tiles at the image's own scale differ several times as much.
    """
    assert_below(differences(maps_by_tile[side], maps_by_tile[0]), (0.1, 0.03, 5.0))
    classes, depth, angles = differences(maps_by_tile["at the image's scale"], maps_by_tile[0])
    assert classes > 0.3, "premise: it matters"
    assert depth > 0.1, "premise"
    assert angles > 20, "premise"


@pytest.mark.parametrize(("side", "other"), [*combinations(TILES, 2)])
def test_the_size_of_tiles_does_not_matter(maps_by_tile, side, other):
    """Each differs from the whole image by its detail, so two of them differ at most by the sum."""
    assert_below(differences(maps_by_tile[side], maps_by_tile[other]), (0.15, 0.04, 7.0))


def edge_contrast(values, side):
    """The mean step at edges of tiles, relative to the median step at the 16 positions around each of them; 1 where there is no seam."""
    contrasts = []
    starts = tile_starts(SIDE, side)
    for axis in (-1, -2):
        steps = values.float().diff(dim=axis).abs().movedim(axis, -1).flatten(0, -2).mean(dim=0)  # (positions,)
        for edge in {*starts[1:], *(start + side for start in starts[:-1])}:
            around = torch.cat([steps[edge - 9 : edge - 1], steps[edge : edge + 8]])
            contrasts.append(steps[edge - 1] / around.median())
    return torch.stack(contrasts).mean().item()


@pytest.mark.parametrize("task", ["depth", "normals", "keypoints2d", "edges2d", "reshading"])
def test_no_edge_of_a_tile_shows(maps_by_tile, task):
    """At its edge a tile of 200 pixels that overlaps by 50 or more weighs at most 1/51: a fiftieth of what it says differently.

    The largest of steps that are equal on average is some percent above their median, hence 1.15. Tiles of equal weight show.
    """
    blended, plain = (edge_contrast(maps_by_tile[key][task], 200) for key in (200, "not blended"))
    print(f"{task}: {blended:.3f}; not blended {plain:.3f}")
    assert blended < 1.15
    assert plain > blended


def test_tiles_of_the_test_have_the_scale_of_the_training_images():
    layout = Layout.of_image((SIDE, SIDE), 256, ViewSize(128, 128))
    assert (layout.seen, layout.zoom, layout.cells) == ((128, 128), 2.0, (16, 16))
