"""Proves that the checker finds common mistakes in maps of tasks that the package does not know."""

import json
import re

import numpy as np
import pytest

from mult_hf.cli.errors import MAX_MESSAGE
from mult_hf.data.check import check
from mult_hf.data.check.mistakes import suspicions
from mult_hf.model.tasks import TaskSpec
from support.checked_data import SIZE, sound_maps, write

SIXTEEN_BITS = {"dtype": "uint16", "scale": 1 / 65535}
HEAT = {"name": "heat", "kind": "regression", "channels": 1, "encoding": {"dtype": "float32"}}
DEGREES = np.random.default_rng(0).uniform(18, 30, SIZE).astype(np.float32)


def problems_of(tmp_path, stored, entry=HEAT, rows=3):
    found = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "heat": stored}] * rows, {"heat": entry}))
    return [*found.tasks["heat"].problems]


def with_pixels(number, count):
    """The map with this number in so many of its 768 pixels."""
    changed = DEGREES.copy()
    changed.flat[: 7 * count : 7] = number
    assert (changed == np.float32(number)).sum() == count
    return changed


def unknown_of(sentence):
    """The stored number that a sentence advises to list."""
    return [json.loads(re.search(r"list (\S+) under the encoding's unknown$", sentence)[1])]


FEW = 12
"""Of 768 pixels: 1.6 %, more than the half percent that is looked at, and less than the 2 % beyond the limits that are reported anyway."""


@pytest.mark.parametrize("number", [-9999, 9999, -999, 65535, -32768, 1e20, -3.4e38])
@pytest.mark.parametrize("limits", [None, [0.0, 100.0], [-4e38, 3e38]], ids=["no limits", "beyond them", "within them"])
def test_a_number_that_marks_pixels_without_a_value_is_named(tmp_path, number, limits):
    entry = {**HEAT, "value_range": limits} if limits else HEAT
    (sentence,) = problems_of(tmp_path, with_pixels(number, FEW), entry)
    assert sentence.startswith("1.6% of the known values are exactly")
    unknown = unknown_of(sentence)
    assert problems_of(tmp_path / "listed", with_pixels(number, FEW), {**entry, "encoding": {"dtype": "float32", "unknown": unknown}}) == []


def test_a_stored_number_that_marks_pixels_without_a_value_is_named_whatever_it_decodes_to(tmp_path):
    encoding = {"dtype": "uint16", "scale": 0.01, "offset": -100.0}
    stored = np.round((with_pixels(65535 * 0.01 - 100, FEW) + 100) * 100).astype(np.uint16)
    (sentence,) = problems_of(tmp_path, stored, {**HEAT, "encoding": encoding})
    assert unknown_of(sentence) == [65535]
    assert problems_of(tmp_path / "listed", stored, {**HEAT, "encoding": {**encoding, "unknown": [65535]}}) == []


def test_two_such_numbers_in_one_map_do_not_hide_each_other(tmp_path):
    stored = with_pixels(-9999, FEW)
    stored.flat[3 : 3 + 7 * FEW : 7] = 9999
    found = " ".join(problems_of(tmp_path, stored))
    assert "list -9999.0 under" in found
    assert "list 9999.0 under" in found


@pytest.mark.parametrize(
    ("stored", "entry"),
    [
        (with_pixels(100, FEW), HEAT),
        (np.random.default_rng(1).choice([0.0, 999.0], SIZE).astype(np.float32) + DEGREES, HEAT),
        (with_pixels(-9999, 1), HEAT),
        (np.where(with_pixels(65535, FEW) == 65535, 65535, 0).astype(np.uint16), {**HEAT, "encoding": SIXTEEN_BITS}),
        (np.where(with_pixels(65535, FEW) == 65535, 65535, 100 * DEGREES).astype(np.uint16), {**HEAT, "encoding": SIXTEEN_BITS}),
    ],
    ids=["an unusual number", "numbers about it", "one pixel", "0 and 1", "saturated"],
)
def test_other_numbers_far_from_the_rest_are_values(tmp_path, stored, entry):
    assert problems_of(tmp_path, stored, entry) == []


def test_one_value_beyond_the_limits_may_mean_unknown(tmp_path):
    encoding = {"dtype": "uint16", "scale": 0.01, "offset": -100.0}
    stored = np.round((with_pixels(-100, 5 * FEW) + 100) * 100).astype(np.uint16)
    (sentence,) = problems_of(tmp_path, stored, {**HEAT, "encoding": encoding, "value_range": [-20.0, 80.0]})
    assert sentence.startswith("7.8% of the values are exactly -100, beyond [-20, 80]")
    assert unknown_of(sentence) == [0]


def test_a_map_drawn_in_colours_is_named(tmp_path):
    entry = {**HEAT, "encoding": {"dtype": "uint8"}}
    colours = np.random.default_rng(2).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    assert problems_of(tmp_path, colours, entry) == ["a picture drawn in colours, not numbers; store the values themselves, one per pixel"]


def test_a_grey_map_with_three_channels_is_told_how_to_read_one(tmp_path):
    entry = {**HEAT, "encoding": {"dtype": "uint8"}}
    grey = np.random.default_rng(2).integers(0, 256, SIZE).astype(np.uint8)
    (found,) = problems_of(tmp_path / "three", np.stack([grey] * 3, axis=-1), entry)
    assert "the stored map has 3 channels, the task has 1; see `encoding.channels`" in found
    assert problems_of(tmp_path / "one", np.stack([grey] * 3, axis=-1), {**HEAT, "encoding": {"dtype": "uint8", "channels": [0]}}) == []


def test_every_wrong_entry_of_a_card_is_named(tmp_path):
    entries = {"heat": {**HEAT, "loss": "cross_entropy"}}
    entries |= {name: {**HEAT, "name": name, "kind": "sum"} for name in ("cold", "warm", "damp", "dry", "wet", "hot")}
    root = write(tmp_path / "set", [{"image": sound_maps()["image"], "heat": DEGREES}], entries)
    with pytest.raises(ValueError, match=r"^7 entries of the card are wrong: task 'heat' .*; task 'cold' has kind 'sum'") as found:
        check(root)
    assert all(f"task '{name}'" in str(found.value) for name in ("heat", "cold", "warm", "damp", "dry"))
    assert str(found.value).endswith("; and 2 more")
    assert len(str(found.value)) <= MAX_MESSAGE, "which is what commands print"


def test_maps_that_cannot_be_decoded_have_no_share_of_unknown_pixels(tmp_path):
    root = write(tmp_path / "set", [{"image": sound_maps()["image"], "heat": DEGREES.astype(np.uint8)}], {"heat": HEAT})
    assert "heat   1 of 1 maps, stored uint8, none could be decoded" in str(check(root))


def test_relative_errors_of_values_below_0_are_refused(tmp_path):
    (found,) = problems_of(tmp_path, DEGREES, {**HEAT, "value_range": [-20.0, 80.0], "metrics": ["abs_rel"]})
    assert found.startswith("task 'heat' has the metric 'abs_rel', which leaves out values of 0 or less, and its values run from -20 to 80")
    allowed = found.partition("choose from: ")[2].split(", ")
    assert allowed[:2] == ["mae", "rmse"]
    assert not {"abs_rel", "delta1", "silog", "mean_iou"} & {*allowed}


@pytest.mark.parametrize(
    ("fields", "advice"), [({}, "heat is null in all rows that were read"), ({"name": "image_heat"}, "'image_heat_file_name'")]
)
def test_a_column_of_nulls_is_told_from_a_missing_one(tmp_path, fields, advice):
    entry = {**HEAT, **fields}
    found = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "heat": None}] * 2, {entry["name"]: entry}))
    (problem,) = found.tasks["image"].problems
    assert advice in problem
    assert not any("rename 'image'" in note for note in found.notes)


FLOW = {"name": "heat", "kind": "regression", "channels": 2, "rotated_channels": [0, 1], "value_range": [-1.0, 1.0]}
IN_8_BITS = {"dtype": "uint8", "scale": 1 / 127, "offset": -1.0, "channels": [0, 1], "unknown": [255]}


def flow_map(*marked):
    """Vectors in 8 bits, of which one in ten has 255 in these channels."""
    stored = np.random.default_rng(0).integers(20, 230, (*SIZE, 3)).astype(np.uint8)
    stored[..., 2] = 0
    for channel in marked:
        stored[:, ::10, channel] = 255
    return stored


def test_a_sentinel_in_one_channel_is_named_where_the_task_has_no_range():
    values = np.random.default_rng(0).normal(size=(2, 768))
    values[1, ::10] = -9999
    entry = {**FLOW, "value_range": None, "encoding": {"dtype": "float32", "unknown": [-9999]}}
    (sentence,) = suspicions(values, TaskSpec.from_dict(entry))
    assert "of the known vectors have -9999, which means unknown, in some of their channels only" in sentence


def test_vectors_that_are_marked_as_unknown_in_one_channel_only_are_named(tmp_path):
    """255 is 1.008 there, beyond the range, but within the tolerance of a step."""
    entry = {**FLOW, "encoding": IN_8_BITS}
    (sentence,) = problems_of(tmp_path / "one", flow_map(1), entry)
    assert re.match(r"1\d\.\d% of the known vectors have 255, which means unknown, in some of their channels only", sentence)
    assert problems_of(tmp_path / "both", flow_map(0, 1), entry) == []
    assert problems_of(tmp_path / "none", flow_map(), entry) == []


def test_the_number_for_unknown_vectors_may_be_a_value_of_a_single_channel(tmp_path):
    """As in 8-bit normals whose holes are (255, 255): one channel of 255 alone is the value 1."""
    encoding = {**IN_8_BITS, "scale": 2 / 255}
    assert problems_of(tmp_path, flow_map(1), {**FLOW, "encoding": encoding}) == []
