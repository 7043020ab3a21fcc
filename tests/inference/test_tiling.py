"""Proves that tiled predictions equal those of the whole image where tiles agree, and are blended smoothly where they differ."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from mult_hf import MulTImageProcessor, TaskSpec
from mult_hf.inference.predictor import predict
from mult_hf.inference.scale import ViewSize
from mult_hf.inference.tiling import Layout, align, tile_starts, tiled
from mult_hf.model.agreement import to_average

SPECS = {
    "classes": TaskSpec(name="classes", kind="classification", channels=2),
    "distance": TaskSpec(name="distance", kind="regression", channels=1),
    "direction": TaskSpec(name="direction", kind="regression", channels=3, activation="unit_vector"),
}


def pointwise(pixel_values):
    """A predictor that uses each pixel independently."""
    return {
        "classes": pixel_values[:, :2],
        "distance": pixel_values.exp().sum(dim=1, keepdim=True),
        "direction": F.normalize(pixel_values, dim=1),
    }


def by_brightness(dark, bright):
    """A predictor of `dark` everywhere in tiles whose first pixel is black, else of `bright`."""

    def predictor(pixel_values):
        is_bright = (pixel_values[:, :1, :1, :1] > 0).expand(-1, 1, *pixel_values.shape[-2:])
        return {task: torch.where(is_bright, *(torch.tensor(each[task]).view(1, -1, 1, 1) for each in (bright, dark))) for task in dark}

    return predictor


def two_tiles(overlap):
    """An image that tiles of 32 pixels see as one dark tile and one bright one with this many columns in common."""
    image = torch.zeros(1, 3, 32, 64 - overlap)
    image[..., 32 - overlap :] = 1.0
    return image


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (100, 75), (64, 200), (20, 150), (10, 10), (47, 31)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_pixelwise_predictor_gives_the_same_result_in_tiles(size, batch_size):
    """Numbers to the last bit; probabilities and unit vectors to the rounding of their logarithm and length."""
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    whole, tiles = pointwise(images), tiled(pointwise, SPECS, 32, batch_size=batch_size)(images)
    assert torch.equal(tiles["distance"], whole["distance"])
    torch.testing.assert_close(tiles["classes"], whole["classes"].log_softmax(dim=1))
    torch.testing.assert_close(tiles["direction"], whole["direction"])


def test_the_weights_of_the_tiles_at_a_pixel_have_the_sum_one():
    """A constant is unchanged: 0.1 is not a binary fraction, so any sum other than one would show."""
    constant = torch.tensor(0.1)
    tiles = tiled(lambda images: {"distance": constant.expand(len(images), 1, *images.shape[-2:])}, SPECS, 40)
    assert torch.equal(tiles(torch.zeros(1, 3, 123, 77))["distance"], constant.expand(1, 1, 123, 77))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 56, 57, 100, 999])
def test_tiles_cover_the_side_and_overlap_by_a_quarter_at_least(length):
    starts = tile_starts(length, 32)
    assert starts[0] == 0
    assert starts[-1] + 32 == max(length, 32)
    assert all(8 <= first + 32 - second < 32 for first, second in pairwise(starts))


def test_the_weight_moves_evenly_from_one_tile_to_the_next():
    """In an overlap of 8 columns the tiles weigh 8, 7, ... 1 and 1, 2, ... 8: the second one has 1/9, 2/9, ... 8/9."""
    assert tile_starts(56, 32) == [0, 24], "the premise: two tiles with 8 columns in common"
    blended = tiled(by_brightness({"distance": [0.0]}, {"distance": [1.0]}), SPECS, 32)(two_tiles(overlap=8))["distance"]
    expected = torch.cat([torch.zeros(24), torch.arange(1, 9) / 9, torch.ones(24)])
    torch.testing.assert_close(blended, expected.expand(1, 1, 32, 56))


def test_tiles_are_blended_in_each_tasks_own_space():
    """In the middle of 9 columns both tiles weigh 5. Probabilities .6 and .1 give .35, not what the mean of their logits gives
    (.29); vectors (0, 1, 0) and (0, 0, 1) give a vector of length 1 between them.
    """
    dark = {"classes": [math.log(0.6), math.log(0.4)], "direction": [0.0, 1.0, 0.0]}
    bright = {"classes": [math.log(0.1), math.log(0.9)], "direction": [0.0, 0.0, 1.0]}
    blended = tiled(by_brightness(dark, bright), SPECS, 32)(two_tiles(overlap=9))
    torch.testing.assert_close(blended["classes"][0, :, 0, 27].exp(), torch.tensor([0.35, 0.65]))
    torch.testing.assert_close(blended["direction"][0, :, 0, 27], torch.tensor([0.0, 0.5**0.5, 0.5**0.5]))


def test_the_predictor_gets_at_most_a_batch_of_tiles_of_one_size():
    seen = []

    def predictor(tiles):
        seen.append(tuple(tiles.shape))
        return {"distance": tiles[:, :1]}

    tiled(predictor, SPECS, 32, batch_size=4)(torch.zeros(1, 3, 56, 80))
    assert seen == [(4, 3, 32, 32), (2, 3, 32, 32)]
    seen.clear()
    tiled(predictor, SPECS, 64)(torch.zeros(1, 3, 40, 90))
    assert seen == [(1, 3, 40, 64)] * 2, "a side that is shorter than a tile is not cut"


VIEW = ViewSize(32, 32)
"""At which a model of these tests sees images and tiles."""


def test_every_view_has_the_models_size_and_an_image_no_larger_than_a_tile_has_one():
    seen = []

    def predictor(views):
        seen.append(tuple(views.shape))
        return {"distance": views[:, :1]}

    predict_tiles = tiled(predictor, SPECS, 64, VIEW, batch_size=4)
    assert predict_tiles(torch.zeros(2, 3, 100, 150))["distance"].shape == (2, 1, 50, 75), "blended at the scale of the tiles' views"
    assert seen == [(2, 3, 32, 32), (8, 3, 32, 32), (4, 3, 32, 32)], "the whole image, then six tiles of each"
    seen.clear()
    assert predict_tiles(torch.zeros(1, 3, 64, 50))["distance"].shape == (1, 1, 32, 32)
    assert seen == [(1, 3, 32, 32)]


@pytest.mark.parametrize(
    ("size", "tile", "view", "blended", "blended_tile"),
    [
        ((512, 512), 256, ViewSize(128, 128), (256, 256), (128, 128)),
        ((3000, 4000), 1000, ViewSize(128, 128), (384, 512), (128, 128)),
        ((200, 600), 256, ViewSize(128, 128), (128, 300), (128, 128)),
        ((512, 512), 64, ViewSize(128, 128), (512, 512), (64, 64)),
        ((512, 512), 256, None, (512, 512), (256, 256)),
    ],
    ids=["half the scale", "an eighth", "another scale across", "magnified tiles", "at the image's scale"],
)
def test_tiles_are_blended_at_the_scale_of_their_views_but_not_above_the_images(size, tile, view, blended, blended_tile):
    layout = Layout.of_image(size, tile, view)
    assert (layout.blended, layout.blended_tile) == (blended, blended_tile)
    covered = torch.zeros(blended)
    for window in layout.windows():
        covered[window] += 1
        assert tuple(covered[window].shape) == blended_tile
    assert covered.min() >= 1


@pytest.mark.parametrize(
    ("size", "view", "tile", "zoom"),
    [
        ((512, 512), ViewSize(128, 128), (256, 256), 2.0),
        ((400, 600), ViewSize(128, 128), (256, 256), (400 * 600) ** 0.5 / 256),
        ((200, 600), ViewSize(128, 128), (200, 256), (600 / 256) ** 0.5),
        ((512, 512), ViewSize(96, 128), (192, 256), (512 * 512 / (192 * 256)) ** 0.5),
        ((400, 600), ViewSize(100, 100, keeps_aspect=True), (256, 256), 400 / 256),
    ],
)
def test_a_tile_has_the_requested_number_of_image_pixels_and_a_known_zoom(size, view, tile, zoom):
    layout = Layout.of_image(size, 256, view)
    assert (layout.tile, layout.seen) == (tile, (view.height, view.width))
    assert layout.zoom == pytest.approx(zoom)
    assert layout.cells == tuple(
        round(side * part / length / 4) for side, part, length in zip(view.of_image(size), tile, size, strict=True)
    )
    assert not layout.is_whole_image


def test_a_tile_without_additional_detail_changes_nothing():
    """A slope has the same means at every scale; away from its ends, where they are cut off, 0.02 of 4 is the interpolation's."""
    slope = torch.linspace(-2, 2, 128).expand(1, 3, 128, 128)
    tiles = tiled(pointwise, SPECS, 64, VIEW)(slope)
    assert tiles["distance"].shape == (1, 1, 64, 64), "premise: half the image's scale"
    wanted = F.avg_pool2d(slope[:, :1], 2) + math.log(3)
    torch.testing.assert_close(tiles["distance"].log()[..., 4:-4], wanted[..., 4:-4], atol=0.02, rtol=0)


STRIPES = (torch.arange(64) // 2 % 2 - 0.5).expand(1, 1, 64, 64)
"""Two columns of -1/2 and two of 1/2 in turn: any four of them have the mean 0."""


@pytest.mark.parametrize(
    ("zoom_exponent", "expected"), [(0.0, 5 + STRIPES), (-1.0, 5 * (1 + STRIPES / 3))], ids=["by an addend", "by a factor"]
)
def test_a_tile_takes_its_level_from_the_whole_image_and_its_detail_from_itself(zoom_exponent, expected):
    """The tile says 3 with stripes, the whole image 5. Distances get a factor: at twice the distance an object is as many times deeper."""
    spec = TaskSpec(name="value", kind="regression", channels=1, zoom_exponent=zoom_exponent)
    torch.testing.assert_close(align(3 + STRIPES, torch.full((1, 1, 64, 64), 5.0), spec, (4, 16)), expected)


def test_values_that_are_not_above_0_get_an_addend_whatever_their_zoom_exponent():
    spec = TaskSpec(name="value", kind="regression", channels=1, zoom_exponent=-1.0)
    torch.testing.assert_close(align(STRIPES, torch.full((1, 1, 64, 64), 5.0), spec, (8, 8)), 5 + STRIPES)


def test_aligned_probabilities_are_probabilities():
    generator = torch.Generator().manual_seed(0)
    fine, coarse = (torch.randn(2, 3, 40, 30, generator=generator).mul(4).softmax(dim=1) for _ in range(2))
    spec = replace(SPECS["classes"], channels=3)
    aligned = align(fine, coarse, spec, (5, 3))
    assert aligned.min() > 0
    torch.testing.assert_close(aligned.sum(dim=1), torch.ones(2, 40, 30))
    torch.testing.assert_close(align(coarse, coarse, spec, (5, 3)), coarse)


def test_a_tile_that_no_model_takes_is_refused():
    with pytest.raises(ValueError, match="tile is 31 pixels; it must be at least 32"):
        tiled(pointwise, SPECS, 31)


def test_a_tile_that_would_be_too_narrow_for_the_views_is_refused():
    view = ViewSize(32, 1024)
    with pytest.raises(ValueError, match="tile is 63 pixels; for views of 32 x 1024 it must be at least 64, or it would be too narrow"):
        tiled(lambda _: {}, {}, 63, view)
    specs = MulTImageProcessor(tasks=["edges2d"]).task_specs
    found = tiled(lambda views: {"edges2d": views[:, :1]}, specs, 64, view)(torch.ones(1, 3, 40, 100))
    torch.testing.assert_close(found["edges2d"], torch.ones_like(found["edges2d"]))


@pytest.mark.slow
def test_an_image_of_1000_by_1500_pixels_has_no_visible_seam(tiny_model):
    """The largest step between neighbours at a tile's edge is no larger than elsewhere in the image, for every task.

    `pytest -s tests/inference/test_tiling.py -k seam` prints these steps and the mean difference from the whole image's prediction.
    """
    model = tiny_model()
    coarse = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(coarse, size=(1000, 1500), mode="bicubic") * 4 - 2
    with torch.no_grad():
        whole = predict(model, image)
        tiles = tiled(partial(predict, model), model.config.task_specs, 256, batch_size=4)(image)
    print()
    for task, spec in model.config.task_specs.items():
        ours, theirs = (to_average(each[task], spec)[0] for each in (tiles, whole))  # (channels, height, width)
        at_edges, elsewhere = largest_steps(ours, 256)
        difference = (ours - theirs).abs().mean()
        print(f"{task}: {at_edges:.2e} at edges of tiles, {elsewhere:.2e} elsewhere; {difference:.2e} from the whole image's")
        assert 0 < at_edges <= elsewhere
        assert difference < theirs.std(), "it is a prediction of the same image"


def largest_steps(values, tile):
    """(where a tile begins or ends, elsewhere): the largest difference between neighbours in (channels, height, width) values."""
    at_edges, elsewhere = [], []
    for axis in (1, 2):
        length = values.shape[axis]
        starts = tile_starts(length, tile)
        edges = {*starts[1:], *(start + tile for start in starts[:-1])}
        steps = values.diff(dim=axis).abs().amax(dim=(0, 3 - axis))  # one a position along the axis
        is_edge = torch.tensor([position + 1 in edges for position in range(length - 1)])
        at_edges.append(steps[is_edge].max())
        elsewhere.append(steps[~is_edge].max())
    return max(at_edges), max(elsewhere)


@pytest.mark.parametrize(
    ("side", "is_larger", "canonical_depth"),
    [(32, True, 2.0), (160, False, 8.0)],  # below the size of the model's view, 8 m become 8 * 160 / 96 = 13.3, beyond the range of 10 m
)
def test_metres_of_a_canonical_camera_are_the_same_with_tiles(side, is_larger, canonical_depth):
    """The blended maps have another size than the model's view of the whole image, and so another focal length in pixels."""
    processor = MulTImageProcessor(size={"shortest_edge": side}, tasks=["depth"], canonical_focal_length=24.0 * side / 32)
    specs, view, images = processor.task_specs, ViewSize.of_processor(processor.size), torch.randn(1, 3, 96, 128)

    def some_depth(pixel_values):
        return {"depth": torch.full((len(pixel_values), 1, *pixel_values.shape[-2:]), canonical_depth)}

    whole = some_depth(torch.empty(1, 3, *view.of_image((96, 128))))
    tiles = tiled(some_depth, specs, 48, view, canonical_camera=True)(images)
    assert (tiles["depth"].shape[-1] > whole["depth"].shape[-1]) == is_larger, "premise: they have another size"
    in_metres = [
        processor.post_process(maps, target_sizes=[(96, 128)], focal_length=80.0)[0]["depth"]["prediction"] for maps in (whole, tiles)
    ]
    assert in_metres[0].max() < 10, "premise: within the range"
    torch.testing.assert_close(in_metres[1], in_metres[0], rtol=0.02, atol=0)  # sizes are whole pixels
