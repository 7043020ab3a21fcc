"""Proves that images show the right colours in the right places: ends of maps, unknown pixels, axes of normals, legends, panels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mult_hf import IGNORE_INDEX, TaskSpec, registered_tasks
from mult_hf.model import visualization
from mult_hf.model.visualization import (
    COLORMAPS,
    UNKNOWN_COLOR,
    attention_image,
    class_palette,
    color_key,
    color_limits,
    colorize,
    direction_key,
    legend,
    mark_pixel,
    matrix_image,
    panel,
    scale_bar,
)

NAN = np.nan
DEPTH, NORMALS, SEGMENTATION = (registered_tasks()[task] for task in ("depth", "normals", "segmentation"))
WHITE = (255, 255, 255)

# Lowest, middle and highest colour as matplotlib 3 has them.
ENDS = {
    "gray": ((0, 0, 0), (128, 128, 128), (255, 255, 255)),
    "viridis": ((68, 1, 84), (33, 145, 140), (253, 231, 37)),
    "magma": ((0, 0, 4), (183, 55, 121), (252, 253, 191)),
    "turbo": ((48, 18, 59), (164, 252, 60), (122, 4, 3)),
}


def colors_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def row(values: list, spec: TaskSpec, limits: tuple[float, float] | None = None) -> list[tuple[int, ...]]:
    """Colours of a map of one row."""
    return [tuple(color) for color in colors_of(colorize(np.array([values], np.float64), spec, limits))[0].tolist()]


def vector_color(*vector: float, spec: TaskSpec = NORMALS) -> tuple[int, ...]:
    return tuple(colors_of(colorize(np.array(vector, np.float64).reshape(-1, 1, 1), spec))[0, 0].tolist())


# Numbers.


@pytest.mark.parametrize("colormap", ENDS)
def test_a_colour_map_has_its_known_end_colours(colormap):
    colors = row([2.0, 3.0, 4.0], replace(DEPTH, colormap=colormap), limits=(2.0, 4.0))
    np.testing.assert_allclose(colors, ENDS[colormap], atol=1)


def test_every_scalar_colour_map_is_tested_here():
    assert set(COLORMAPS) - {"classes", "vectors"} == set(ENDS)


def test_values_between_two_colours_are_interpolated():
    assert row([0.2, 0.6], replace(DEPTH, colormap="gray"), limits=(0, 1)) == [(51,) * 3, (153,) * 3]


def test_values_beyond_the_limits_get_the_colours_of_the_ends():
    gray = replace(DEPTH, colormap="gray")
    assert row([-5.0, 50.0], gray, limits=(0, 1)) == [(0, 0, 0), WHITE]


def test_the_default_limits_leave_out_the_outermost_percent_of_known_values():
    values = np.arange(101.0)[None]  # the 1st percentile is 1, the 99th is 99
    assert color_limits(values) == pytest.approx((1, 99))
    assert color_limits(np.array([[NAN, 3.0, NAN]])) == pytest.approx((3, 3))
    with_outlier = np.concatenate([np.linspace(0, 1, 1000), [1e9]])[None]
    assert color_limits(with_outlier)[1] < 1
    gray = replace(DEPTH, colormap="gray")
    assert row(values[0].tolist(), gray) == row(values[0].tolist(), gray, limits=(1, 99))


def test_the_limits_of_a_large_map_come_from_evenly_spaced_pixels(monkeypatch):
    """A ramp of 200 x 300 pixels: every tenth of them has the percentiles of all within a step of ten columns."""
    ramp = np.tile(np.arange(300.0), (200, 1))
    exact = color_limits(ramp)
    monkeypatch.setattr(visualization, "_LIMIT_PIXELS", 600)
    calls = []
    percentile = np.percentile
    monkeypatch.setattr(np, "percentile", lambda values, shares: calls.append(len(values)) or percentile(values, shares))
    assert color_limits(ramp) == pytest.approx(exact, abs=10)
    assert calls == [20 * 30]


@pytest.mark.parametrize("colormap", ENDS)
def test_a_value_has_the_colour_of_the_nearest_of_255_steps(colormap):
    """So two values that differ by less than half a step have one colour, or two that are next to each other in the map."""
    values = np.linspace(0, 1, 255)
    exact = row(values.tolist(), replace(DEPTH, colormap=colormap), limits=(0, 1))
    shifted = row((values[:-1] + 0.4 / 254).tolist(), replace(DEPTH, colormap=colormap), limits=(0, 1))
    assert shifted == exact[:-1]
    steps = np.abs(np.diff(np.array(exact), axis=0)).max()
    assert steps <= 6, "no banding: of 255 levels"


def test_rows_are_coloured_alike_whether_in_one_strip_or_several(monkeypatch):
    generator = np.random.default_rng(0)
    maps = {spec.name: generator.integers(0, 17, (40, 30)) if spec.is_classification else generator.normal(size=(spec.channels, 40, 30))
            for spec in (DEPTH, NORMALS, SEGMENTATION)}  # fmt: skip
    maps["depth"][0, 7, 9] = maps["normals"][1, 30, 2] = NAN
    at_once = {spec.name: colors_of(colorize(maps[spec.name], spec)) for spec in (DEPTH, NORMALS, SEGMENTATION)}
    monkeypatch.setattr(visualization, "_STRIP_PIXELS", 100)
    for spec in (DEPTH, NORMALS, SEGMENTATION):
        np.testing.assert_array_equal(colors_of(colorize(maps[spec.name], spec)), at_once[spec.name])


def test_a_prediction_can_be_drawn_with_the_limits_of_its_target():
    gray = replace(DEPTH, colormap="gray")
    assert row([0.25, 0.75], gray) == [(0, 0, 0), WHITE]  # premise: its own limits stretch it
    assert row([0.2, 0.8], gray, limits=(0, 1)) == [(51,) * 3, (204,) * 3]


def test_a_constant_map_can_be_drawn():
    assert set(row([2.0, 2.0], replace(DEPTH, colormap="gray"))) == {(0, 0, 0)}


def test_unknown_pixels_have_the_unknown_colour_and_do_not_change_the_others():
    with_unknown, without = row([1.0, NAN, 2.0, np.inf], DEPTH), row([1.0, 2.0], DEPTH)
    assert with_unknown == [without[0], UNKNOWN_COLOR, without[1], UNKNOWN_COLOR]


@pytest.mark.parametrize("spec", registered_tasks().values(), ids=lambda spec: spec.name)
def test_an_unknown_map_has_the_unknown_colour_everywhere(spec):
    image = colorize(spec.unknown_target(4, 5), spec)
    assert image.size == (5, 4)
    assert (colors_of(image) == UNKNOWN_COLOR).all()


@pytest.mark.parametrize("colormap", ENDS)
def test_no_known_number_looks_unknown(colormap):
    image = colors_of(colorize(np.linspace(0, 1, 5001)[None], replace(DEPTH, colormap=colormap), (0, 1)))
    assert np.abs(image - UNKNOWN_COLOR).max(axis=-1).min() > 15


def test_a_vector_in_a_colour_map_of_numbers_is_shown_by_its_length():
    spec = replace(NORMALS, colormap="gray")
    image = colorize(np.array([[3.0, 0.0], [4.0, 0.0], [0.0, 0.0]]).reshape(3, 1, 2), spec, limits=(0, 10))
    assert colors_of(image)[0].tolist() == [[128] * 3, [0] * 3]


# Vectors.


def test_normals_show_right_as_red_up_as_green_and_towards_the_viewer_as_blue():
    assert vector_color(1, 0, 0) == (255, 128, 128)
    assert vector_color(0, 1, 0) == (128, 255, 128)
    assert vector_color(0, 0, 1) == (128, 128, 255)
    assert vector_color(-1, 0, 0) == (0, 128, 128)
    assert vector_color(0, -1, 0) == (128, 0, 128)


def test_vectors_of_two_channels_use_red_and_green_over_their_range():
    curvature = TaskSpec(name="curvature", kind="regression", channels=2, value_range=(-2.0, 2.0), colormap="vectors")
    assert vector_color(2, -2, spec=curvature) == (255, 0, 128)
    assert vector_color(0, 1, spec=curvature) == (128, 191, 128)


def test_a_vector_with_one_unknown_channel_has_the_unknown_colour():
    assert vector_color(0, NAN, 1) == UNKNOWN_COLOR


def test_no_unit_vector_looks_unknown():
    vectors = np.random.default_rng(0).normal(size=(3, 100, 1000))
    image = colors_of(colorize(vectors / np.linalg.norm(vectors, axis=0), NORMALS))
    assert np.abs(image - UNKNOWN_COLOR).max(axis=-1).min() > 15


# Classes.


def test_classes_have_the_colours_of_the_palette_and_255_has_the_unknown_colour():
    image = colors_of(colorize(np.array([[0, 3, 16, IGNORE_INDEX]]), SEGMENTATION))
    palette = class_palette(17)
    assert image[0].tolist() == [palette[0].tolist(), palette[3].tolist(), palette[16].tolist(), list(UNKNOWN_COLOR)]


def test_every_class_has_its_own_colour_and_none_looks_unknown():
    palette = class_palette(254)
    assert palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == 254
    assert np.abs(palette.astype(int) - UNKNOWN_COLOR).max(axis=-1).min() > 15


def test_neighbouring_classes_differ_strongly():
    palette = class_palette(40).astype(int)
    assert np.abs(palette[1:] - palette[:-1]).max(axis=-1).min() > 60


def test_a_class_keeps_its_colour_when_classes_are_added():
    np.testing.assert_array_equal(class_palette(40)[:17], class_palette(17))


# Types of maps.


@pytest.mark.parametrize("spec", registered_tasks().values(), ids=lambda spec: spec.name)
def test_tensors_and_arrays_give_the_same_rgb_image_of_the_maps_size(spec):
    shape = (6, 9) if spec.is_classification else (spec.channels, 6, 9)
    values = np.random.default_rng(0).integers(0, 2, shape) if spec.is_classification else np.random.default_rng(0).random(shape)
    image = colorize(values, spec)
    assert (image.mode, image.size) == ("RGB", (9, 6))
    np.testing.assert_array_equal(colors_of(image), colors_of(colorize(torch.from_numpy(values), spec)))


def test_one_channel_may_have_or_lack_its_axis():
    values = np.random.default_rng(0).random((4, 5))
    np.testing.assert_array_equal(colors_of(colorize(values, DEPTH)), colors_of(colorize(values[None], DEPTH)))


def test_colouring_does_not_modify_the_map():
    values = np.array([[1.0, NAN]])
    colorize(values, DEPTH)
    np.testing.assert_array_equal(values, [[1.0, NAN]])


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4, 4)])
def test_a_map_of_another_number_of_axes_is_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(height, width\) or \(channels, height, width\), got \("):
        colorize(np.zeros(shape), DEPTH)


def test_an_unknown_colour_map_is_refused():
    with pytest.raises(ValueError, match=r"'depth', a regression of 1 channel, has colormap 'jet'; allowed: gray, viridis, magma"):
        colorize(np.zeros((2, 2)), replace(DEPTH, colormap="jet"))


def test_every_registered_task_names_a_colour_map_that_exists():
    assert {spec.colormap for spec in registered_tasks().values()} <= set(COLORMAPS)


# Legends.


def legend_colors(image: Image.Image, row_height: int = 22) -> list[list[int]]:
    """The colour in the middle of each row's box."""
    return colors_of(image)[row_height // 2 :: row_height, row_height // 2].tolist()


def ink(image: Image.Image, number: int, row_height: int = 22) -> np.ndarray:
    """Where a row has text: columns right of its box that are not all white."""
    text = colors_of(image)[number * row_height : (number + 1) * row_height, row_height:]
    return (text.min(axis=-1) < 128).any(axis=0)


def test_a_legend_lists_every_class_in_its_colour_and_in_order():
    image = legend(SEGMENTATION)
    assert image.height == 17 * 22
    assert legend_colors(image) == class_palette(17).tolist()


def test_the_legend_of_a_map_lists_only_its_known_classes():
    image = legend(SEGMENTATION, np.array([[5, 2, 5, IGNORE_INDEX]]))
    assert image.height == 2 * 22
    assert legend_colors(image) == class_palette(17)[[2, 5]].tolist()


def test_a_legends_colours_are_those_of_the_image():
    classes = np.array([[4, 9, 11]])
    assert legend_colors(legend(SEGMENTATION, classes)) == colors_of(colorize(classes, SEGMENTATION))[0].tolist()


def test_each_row_of_a_legend_has_its_name_and_the_longest_fits():
    image = legend(SEGMENTATION)
    assert all(ink(image, number).any() for number in range(17))
    longest = max(range(17), key=lambda number: len(SEGMENTATION.class_names[number]))
    shortest = min(range(17), key=lambda number: len(SEGMENTATION.class_names[number]))
    assert ink(image, longest).nonzero()[0].max() > ink(image, shortest).nonzero()[0].max()
    assert (colors_of(image)[:, -1] == 255).all()  # nothing is cut off at the right


def test_classes_without_names_are_listed_by_number():
    nameless = replace(SEGMENTATION, class_names=())
    numbered = replace(SEGMENTATION, class_names=tuple(f"class {number}" for number in range(17)))
    np.testing.assert_array_equal(colors_of(legend(nameless)), colors_of(legend(numbered)))


def test_the_rows_of_a_legend_have_the_requested_height():
    image = legend(SEGMENTATION, row_height=40)
    assert image.height == 17 * 40
    assert legend_colors(image, 40) == class_palette(17).tolist()


def test_the_legend_of_an_unknown_map_is_an_empty_row():
    image = legend(SEGMENTATION, np.full((2, 2), IGNORE_INDEX))
    assert image.height == 22
    assert (colors_of(image) == 255).all()


def test_a_legend_for_a_regression_is_refused():
    with pytest.raises(ValueError, match=r"'depth' is a regression; only classifications have a legend"):
        legend(DEPTH)


def test_a_scale_bar_shows_the_colours_from_the_lowest_to_the_highest_value_above_both_numbers():
    bar = colors_of(scale_bar(DEPTH, (0.5, 3.25), width=100))
    colors = bar[3:17, 3:97]
    assert (colors == colors[:1]).all(), "each column has one colour"
    assert tuple(colors[0, 0]) == ENDS["turbo"][0]
    assert tuple(colors[0, -1]) == ENDS["turbo"][2]
    ink = (bar[18:].min(axis=-1) < 128).any(axis=0).nonzero()[0]
    assert ink.min() < 20, "the lowest value on the left"
    assert ink.max() > 80, "the highest value and its unit on the right"


@pytest.mark.parametrize(
    ("unit", "is_shown"), [("m", True), ("1/m", True), ("°C", True), ("", False), ("[0, 1]", False), ("m" * 13, False)]
)
def test_the_unit_is_part_of_the_scale_if_it_fits_and_is_no_range(unit, is_shown):
    found, without = (np.asarray(scale_bar(replace(DEPTH, unit=each), (0, 1))) for each in (unit, ""))
    assert np.array_equal(found, without) is not is_shown


@pytest.mark.parametrize("spec", [NORMALS, SEGMENTATION])
def test_classes_and_vectors_have_no_scale(spec):
    with pytest.raises(ValueError, match="those with a scale are gray, viridis, magma, turbo"):
        scale_bar(spec, (0, 1))


def test_the_key_of_a_map_is_a_legend_or_a_scale_and_vectors_have_none():
    classes = np.array([[2, 2], [5, IGNORE_INDEX]])
    assert colors_of(color_key(SEGMENTATION, classes)).tolist() == colors_of(legend(SEGMENTATION, classes, row_height=18)).tolist()
    depth = np.linspace(1, 3, 200).reshape(10, 20)
    assert colors_of(color_key(DEPTH, depth)).tolist() == colors_of(scale_bar(DEPTH, color_limits(depth))).tolist()
    assert colors_of(color_key(DEPTH, depth, (0, 8), width=90)).tolist() == colors_of(scale_bar(DEPTH, (0, 8), width=90)).tolist()
    assert color_key(NORMALS, np.zeros((3, 2, 2))) is None
    grey = replace(SEGMENTATION, colormap="gray")
    assert color_key(grey, classes, (0, 16)).size == scale_bar(grey, (0, 16)).size, "a legend would show colours that the map has not"


def test_the_key_of_vectors_has_each_direction_at_its_place_on_a_ball():
    key = direction_key(NORMALS, diameter=49)  # the ball begins at 16, and its middle is at 40
    for where, normal in {(40, 40): (0, 0, 1), (64, 40): (1, 0, 0), (40, 16): (0, 1, 0), (16, 40): (-1, 0, 0)}.items():
        shown = colorize(np.array(normal, float).reshape(3, 1, 1), NORMALS).getpixel((0, 0))
        np.testing.assert_allclose(key.getpixel(where), shown, atol=40, err_msg="the rim's pixels are not quite at the rim")
    assert key.getpixel((16, 16)) == WHITE, "beside the ball"
    flow = TaskSpec(name="flow", kind="regression", channels=2, value_range=(-8, 8), rotated_channels=(1, 0), colormap="vectors")
    right, up = (direction_key(flow, diameter=49).getpixel(where) for where in ((63, 40), (40, 17)))
    assert np.allclose(right[:2], (128, 255), atol=15), "the second channel points right"
    assert np.allclose(up[:2], (255, 128), atol=15)
    assert [direction_key(spec) for spec in (DEPTH, SEGMENTATION, replace(NORMALS, rotated_channels=()))] == [None] * 3


# Panels. A cell of 40 x 20 pixels, 4 pixels between cells and around them, 20 above for titles.


def plain(color: tuple[int, int, int], width: int = 20, height: int = 10) -> Image.Image:
    return Image.new("RGB", (width, height), color)


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_a_panel_lays_images_out_in_rows_and_columns():
    sheet = panel([[plain(RED), plain(GREEN)], [plain(BLUE), None]], cell=40)
    assert sheet.mode == "RGB"
    assert sheet.size == (4 + 40 + 4 + 40 + 4, 4 + 20 + 4 + 20 + 4)
    expected = np.full((52, 92, 3), 255)
    expected[4:24, 4:44], expected[4:24, 48:88], expected[28:48, 4:44] = RED, GREEN, BLUE  # the last cell stays empty
    np.testing.assert_array_equal(colors_of(sheet), expected)


def test_titles_stand_above_their_columns_and_move_the_images_down():
    without, titled = panel([[plain(RED), plain(GREEN)]], cell=40), panel([[plain(RED), plain(GREEN)]], ["one", "two"], cell=40)
    assert titled.size == (without.width, without.height + 20)
    np.testing.assert_array_equal(colors_of(titled)[20:], colors_of(without))
    columns = (colors_of(titled)[:20].min(axis=-1) < 128).any(axis=0).nonzero()[0]  # of the ink
    for left, right in ((4, 44), (48, 88)):
        inside = columns[(columns >= left) & (columns < right)]
        assert inside.mean() == pytest.approx((left + right) / 2, abs=3)  # centred
    assert set(columns) <= {*range(4, 44), *range(48, 88)}


def test_captions_stand_above_their_rows_and_move_the_images_down():
    rows = [[plain(RED)], [plain(BLUE)]]
    without, captioned = colors_of(panel(rows, cell=40)), colors_of(panel(rows, captions=["ab", "x"], cell=40))
    assert captioned.shape[0] == without.shape[0] + 2 * 18
    np.testing.assert_array_equal(captioned[22:42], without[4:24])
    np.testing.assert_array_equal(captioned[64:84], without[28:48])
    for top in (4, 46):
        assert (captioned[top : top + 18, 4:].min(axis=-1) < 128).any(), "ink"


def test_keys_stand_below_their_columns_and_wide_ones_are_reduced():
    row = [plain(RED), plain(GREEN)]
    without, with_keys = panel([row], cell=40), panel([row], keys=[plain(BLUE, 10, 30), plain(BLUE, 80, 40)], cell=40)
    assert with_keys.size == (without.width, without.height + 30 + 4)
    colors = colors_of(with_keys)
    np.testing.assert_array_equal(colors[: without.height], colors_of(without))
    below = (colors[without.height :] == BLUE).all(axis=-1)
    assert below[:, :44].sum() == 10 * 30
    assert below[:, 44:].sum() == 40 * 20
    np.testing.assert_array_equal(colors_of(panel([row], keys=[None, None], cell=40)), colors_of(without))


def test_more_keys_than_columns_are_refused():
    with pytest.raises(ValueError, match="2 keys for 1 columns"):
        panel([[plain(RED)]], keys=[None, None])


def test_a_wrong_number_of_captions_is_refused():
    with pytest.raises(ValueError, match="2 captions for 1 rows; give one per row"):
        panel([[plain(RED)]], captions=["a", "b"])


def test_a_row_with_fewer_images_leaves_its_last_cells_empty():
    np.testing.assert_array_equal(
        colors_of(panel([[plain(RED), plain(GREEN)], [plain(BLUE)]])), colors_of(panel([[plain(RED), plain(GREEN)], [plain(BLUE), None]]))
    )


def test_enlarging_adds_no_new_colours():
    image = Image.fromarray(np.array([[RED, BLUE]], np.uint8))
    assert {tuple(color) for color in colors_of(panel([[image]], cell=50)).reshape(-1, 3).tolist()} == {RED, BLUE, WHITE}


def test_the_height_of_the_cells_follows_the_first_image():
    assert panel([[None, plain(RED, 30, 60), plain(GREEN)]], cell=40).size == (3 * 44 + 4, 80 + 8)


def test_grey_images_are_shown_too():
    sheet = panel([[Image.new("L", (20, 10), 100)]], cell=40)
    assert colors_of(sheet)[10, 10].tolist() == [100] * 3


@pytest.mark.parametrize("rows", [[], [[]], [[None, None]]])
def test_a_panel_without_an_image_is_refused(rows):
    with pytest.raises(ValueError, match=r"no image in its \d rows; give at least one"):
        panel(rows)


def test_a_panel_of_images_in_place_of_rows_is_refused():
    with pytest.raises(ValueError, match=r"hold images, and not lists of images; for a single row, give \[images\]"):
        panel([Image.new("RGB", (8, 8))] * 2)


# Attention and matrices.


def test_the_largest_weight_is_brightest_and_weight_0_is_dark():
    weights = np.zeros((2, 4))
    weights[0, 3] = 0.2
    image = colors_of(attention_image(plain(WHITE, 80, 40), weights, pixel=(1, 0)))
    brightest, darkest = (0.35 * 255 + 0.65 * np.array(ENDS["magma"][end]) for end in (2, 0))
    np.testing.assert_allclose(image[5, 70], brightest, atol=1)
    np.testing.assert_allclose(image[5, 30], darkest, atol=1)


def test_weights_are_drawn_relative_to_the_largest_one():
    images = [colors_of(attention_image(plain(WHITE, 60, 20), np.array([[1.0, 0.5, 0]]) * largest, (0, 2))) for largest in (1, 1e-3)]
    np.testing.assert_array_equal(*images)
    np.testing.assert_allclose(images[0][10, 30], 0.35 * 255 + 0.65 * np.array(ENDS["magma"][1]), atol=1)


def test_a_ring_is_drawn_around_the_pixel_and_nowhere_else():
    marked = colors_of(mark_pixel(plain(WHITE, 100, 50), pixel=(0, 3), size=(2, 4)))
    rows, columns = (marked != 255).any(axis=-1).nonzero()
    assert (rows.min() + rows.max()) / 2 == pytest.approx(12.5, abs=1), "the middle of the first of two rows"
    assert (columns.min() + columns.max()) / 2 == pytest.approx(87.5, abs=1), "the middle of the last of four columns"
    assert np.ptp(rows) < 10


@pytest.mark.parametrize("weights", [np.zeros((2, 2, 2)), np.array([[-0.1, 1]]), np.array([[NAN, 1]])])
def test_invalid_attention_weights_are_refused(weights):
    with pytest.raises(ValueError, match=r"expected \(height, width\), at least 0"):
        attention_image(plain(WHITE), weights, (0, 0))


def test_a_pixel_outside_cannot_be_marked():
    with pytest.raises(ValueError, match=r"pixel is \(2, 0\); there are 2 rows and 4 columns"):
        attention_image(plain(WHITE), np.ones((2, 4)), (2, 0))


def test_a_matrix_shows_minus_one_blue_zero_white_one_red_and_nan_as_unknown():
    values = np.array([[1, 0, -1], [0, 1, NAN], [-1, NAN, 1]])
    image = matrix_image(values, ["a", "b", "c"], cell=40)
    left, top = image.width - 3 * 40, image.height - 3 * 40
    corners = [tuple(colors_of(image)[top + 3, left + 40 * column + 3].tolist()) for column in range(3)]
    assert corners == [(178, 24, 43), (247, 247, 247), (33, 102, 172)]
    assert tuple(colors_of(image)[top + 43, left + 83].tolist()) == UNKNOWN_COLOR


def test_a_matrix_whose_shape_does_not_fit_its_names_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 2\) for 3 names"):
        matrix_image(np.eye(2), ["a", "b", "c"])
