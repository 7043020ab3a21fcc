"""Proves that the checker finds common mistakes in maps of tasks that the package does not know."""

import numpy as np
import pytest

from mult_hf.data.check import check
from support.checked_data import SIZE, sound_maps, write

HEAT = {"name": "heat", "kind": "regression", "channels": 1, "encoding": {"dtype": "float32"}}
RNG = np.random.default_rng(0)
DEGREES = RNG.uniform(18, 30, SIZE).astype(np.float32)


def problems_of(tmp_path, stored, entry=HEAT, rows=3):
    found = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "heat": stored}] * rows, {"heat": entry}))
    return [*found.tasks["heat"].problems]


def with_share(number, share=0.03):
    return np.where(RNG.uniform(size=SIZE) < share, np.float32(number), DEGREES)


@pytest.mark.parametrize("number", [-9999, 9999, -999, 65535, -32768, 1e20, -3.4e38])
@pytest.mark.parametrize("limits", [None, [0.0, 100.0]])
def test_a_number_that_marks_pixels_without_a_value_is_named(tmp_path, number, limits):
    """With limits, so few values beyond them would pass."""
    found = problems_of(tmp_path, with_share(number, 0.015), {**HEAT, "value_range": limits} if limits else HEAT)
    (sentence,) = found
    assert "which looks like a value for unknown pixels; list the stored value under the encoding's unknown" in sentence


@pytest.mark.parametrize(
    ("stored", "entry"),
    [
        (with_share(-9999), {**HEAT, "value_range": [-9999.0, 100.0]}),
        (with_share(100), HEAT),
        (RNG.choice([0.0, 999.0], SIZE).astype(np.float32) + DEGREES, HEAT),
        (with_share(-9999, 0), HEAT),
    ],
    ids=["within the limits", "an unusual number", "numbers about it", "none"],
)
def test_other_numbers_far_from_the_rest_are_values(tmp_path, stored, entry):
    assert problems_of(tmp_path, stored, entry) == []


def test_a_map_drawn_in_colours_is_named(tmp_path):
    entry = {**HEAT, "encoding": {"dtype": "uint8"}}
    colours = RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    assert problems_of(tmp_path, colours, entry) == ["a picture drawn in colours, not numbers; store the values themselves, one per pixel"]


def test_a_grey_map_with_three_channels_is_told_how_to_read_one(tmp_path):
    entry = {**HEAT, "encoding": {"dtype": "uint8"}}
    grey = RNG.integers(0, 256, SIZE).astype(np.uint8)
    (found,) = problems_of(tmp_path / "three", np.stack([grey] * 3, axis=-1), entry)
    assert "the stored map has 3 channels, the task has 1; see `encoding.channels`" in found
    assert problems_of(tmp_path / "one", np.stack([grey] * 3, axis=-1), {**HEAT, "encoding": {"dtype": "uint8", "channels": [0]}}) == []


def test_every_wrong_entry_of_a_card_is_named(tmp_path):
    entries = {"heat": {**HEAT, "loss": "cross_entropy"}, "cold": {**HEAT, "name": "cold", "kind": "sum"}}
    root = write(tmp_path / "set", [{"image": sound_maps()["image"], "heat": DEGREES}], entries)
    with pytest.raises(ValueError, match=r"2 entries of the card are wrong: task 'heat' .*; task 'cold' has kind 'sum'; allowed"):
        check(root)


def test_maps_that_cannot_be_decoded_have_no_share_of_unknown_pixels(tmp_path):
    root = write(tmp_path / "set", [{"image": sound_maps()["image"], "heat": DEGREES.astype(np.uint8)}], {"heat": HEAT})
    assert "heat   1 of 1 maps, stored uint8, none could be decoded" in str(check(root))


def test_relative_errors_of_values_below_0_are_refused(tmp_path):
    (found,) = problems_of(tmp_path, DEGREES, {**HEAT, "value_range": [-20.0, 80.0], "metrics": ["abs_rel"]})
    assert found.startswith("task 'heat' has the metric 'abs_rel', which leaves out values of 0 or less, and its values run from -20 to 80")
    allowed = found.partition("choose from: ")[2].split(", ")
    assert allowed[:2] == ["mae", "rmse"]
    assert not {"abs_rel", "delta1", "silog", "mean_iou"} & {*allowed}
