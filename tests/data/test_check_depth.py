"""Proves that the checker names common mistakes in depth maps, with a remedy that corrects them."""

import re

import numpy as np
import pytest

from mult_hf.data.check import check
from support.checked_data import ENTRIES, scene, sound_maps, write


def depth_entry(**encoding) -> dict:
    return {"name": "depth", "encoding": {"dtype": "float32", **encoding}}


METRES, _, _ = scene()
DEPTH_MISTAKES = {
    "millimetres": (depth_entry(), 1000 * METRES, "looks like millimetres; divide the encoding's scale by 1000"),
    "centimetres": (depth_entry(), 100 * METRES * 0.9, "looks like centimetres; divide the encoding's scale by 100"),
    "millimetres read as centimetres": (depth_entry(scale=0.01), 2000 * METRES, "like millimetres; divide the encoding's scale by 10$"),
    "kilometres": (depth_entry(), METRES / 1000, "nearer than any camera can focus"),
    "inverted": (depth_entry(), 4 - METRES, "inverted depth or disparity"),
    "disparity": (depth_entry(), 5 / METRES, "inverted depth or disparity"),
    "8 bits where 16 are due": (
        depth_entry(dtype="uint16", scale=0.001),
        np.round(METRES * 85).astype(np.uint8),
        "uint8 .* reads uint16.*; distances in 8 bits look like depth drawn for viewing",
    ),
    "8 bits": (depth_entry(dtype="uint8", scale=3 / 255), np.round(METRES * 85).astype(np.uint8), "depth drawn for viewing"),
}


@pytest.mark.parametrize("name", DEPTH_MISTAKES)
def test_common_mistakes_in_depth_maps_are_named(tmp_path, name):
    entry, stored, sentence = DEPTH_MISTAKES[name]
    stored = stored if stored.dtype == np.uint8 else stored.astype(np.float32)
    findings = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "depth": stored}] * 3, {"depth": entry}))
    (found,) = findings.tasks["depth"].problems
    assert re.search(sentence, found), found


def test_depth_normalised_per_image_is_named(tmp_path):
    rows = [{"image": sound_maps()["image"], "depth": (METRES / METRES.max()).astype(np.float32)}] * 3
    (found,) = check(write(tmp_path / "set", rows, {"depth": depth_entry()})).tasks["depth"].problems
    assert "normalised per image" in found


@pytest.mark.parametrize("scale", [1 / 512, 0.001, 1 / 65535])
@pytest.mark.parametrize("stretch", [lambda depth: depth / depth.max(), lambda depth: (depth - depth.min()) / np.ptp(depth)])
def test_depth_stretched_to_16_bits_per_image_is_named_whatever_its_scale(tmp_path, scale, stretch):
    rows, columns = np.indices(METRES.shape)
    stored = np.round(65535 * stretch(METRES - 0.01 * rows - 0.01 * columns)).astype(np.uint16)  # one pixel is the farthest
    entry = depth_entry(dtype="uint16", scale=scale, unknown=[0])
    found = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "depth": stored}] * 3, {"depth": entry}))
    (found,) = found.tasks["depth"].problems
    assert "stretched to the same maximum, which looks like depth normalised per image; store metres" in found


def test_depth_cut_off_at_the_largest_number_is_not_normalised(tmp_path):
    entry = depth_entry(dtype="uint16", scale=3 / 65535)
    stored = np.minimum(np.round(METRES / 3 * 65535), 65535).astype(np.uint16)
    assert check(write(tmp_path / "set", [{"image": sound_maps()["image"], "depth": stored}] * 3, {"depth": entry})).is_right


def test_sky_at_the_largest_number_is_not_normalised_depth_however_small_it_is(tmp_path):
    """Nothing comes near it; and a number that the entry lists as unknown says nothing."""
    rows, columns = np.indices(METRES.shape)
    stored = np.round(1000 * (METRES - 0.01 * rows - 0.01 * columns)).astype(np.uint16)
    stored[0, 0] = 65535
    maps = [{"image": sound_maps()["image"], "depth": stored}] * 3
    sky = {**depth_entry(dtype="uint16", scale=0.001), "value_range": [0.0, 70.0]}
    assert check(write(tmp_path / "sky", maps, {"depth": sky})).is_right
    assert check(write(tmp_path / "unknown", maps, {"depth": depth_entry(dtype="uint16", scale=0.001, unknown=[0, 65535])})).is_right


def test_holes_that_are_not_listed_are_the_only_problem(tmp_path):
    """Zeros are neither near surfaces nor a wrong unit."""
    stored = METRES.astype(np.float32)
    stored[8:16] = 0
    rows = [{"image": sound_maps()["image"], "depth": stored}] * 3
    (found,) = check(write(tmp_path / "set", rows, {"depth": depth_entry()})).tasks["depth"].problems
    assert "a distance of 0 or less; list the stored value" in found


def test_depth_far_below_the_stated_range_is_in_doubt(tmp_path):
    rows = [{"image": sound_maps()["image"], "depth": (METRES / 10).astype(np.float32)}] * 3
    found = check(write(tmp_path / "set", rows, {"depth": {**depth_entry(), "value_range": [0.0, 20.0]}}))
    assert found.is_right
    assert found.doubts[0].endswith(" m, and value_range reaches 20 m; check the encoding's scale")
    assert not check(write(tmp_path / "near", rows, {"depth": {**depth_entry(), "value_range": [0.0, 1.0]}})).doubts
    stored = [{**maps, "depth": np.round(2000 * METRES).astype(np.uint16)} for maps in rows]
    whole = {**depth_entry(dtype="uint16", scale=0.001), "value_range": [0.0, 65.535]}
    assert not check(write(tmp_path / "whole", stored, {"depth": whole})).doubts, "all that 16 bits hold"


def test_depth_beyond_a_kilometre_is_in_doubt_within_the_stated_range(tmp_path):
    """From an aeroplane it is right; in millimetres, the range was widened to fit it."""
    rows = [{"image": sound_maps()["image"], "depth": (1000 * METRES).astype(np.float32)}] * 3
    found = check(write(tmp_path / "set", rows, {"depth": {**depth_entry(), "value_range": [0.0, 20000.0]}}))
    assert found.is_right
    assert found.doubts[0].endswith("if they are millimetres, divide the encoding's scale, and value_range, by 1000")


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        (depth_entry(), 1e10),
        (depth_entry(), 65.535),
        ({**ENTRIES["depth"], "encoding": {"dtype": "uint16", "scale": 0.001, "unknown": [0]}}, 65535),
    ],
    ids=["float", "float of millimetres", "millimetres"],
)
def test_a_value_for_missing_depth_that_is_not_listed_is_named(tmp_path, entry, missing):
    dtype = np.dtype(entry["encoding"]["dtype"])
    stored = (METRES if dtype.kind == "f" else 1000 * METRES).astype(dtype)
    stored[:2] = missing
    (found,) = (
        check(write(tmp_path / "set", [{"image": sound_maps()["image"], "depth": stored}] * 3, {"depth": entry})).tasks["depth"].problems
    )
    assert re.search(r"8\.3% of the known pixels are exactly .* m, far beyond the others, .*list the stored value under", found), found


def test_distances_outdoors_need_a_range_and_no_other_scale(tmp_path):
    """Following the advice for wrong units would silently divide right distances by 100."""
    rows = [{"image": sound_maps()["image"], "depth": (METRES * 20).astype(np.float32)}] * 3
    (found,) = check(write(tmp_path / "set", rows, {"depth": depth_entry()})).tasks["depth"].problems
    assert "; if these are metres, give value_range: [0, 60]; if not, it looks like centimetres" in found
    assert check(write(tmp_path / "right", rows, {"depth": {**depth_entry(), "value_range": [0, 60]}})).is_right


def test_a_length_that_is_no_distance_from_the_camera_may_have_any_size(tmp_path):
    entry = {"name": "height", "kind": "regression", "channels": 1, "unit": "m", "encoding": {"dtype": "float32"}}
    rows = [{"image": sound_maps()["image"], "height": (400 + METRES).astype(np.float32)}] * 3
    assert check(write(tmp_path / "set", rows, {"height": entry})).is_right


def test_depth_that_is_cut_off_at_the_metre_that_its_entry_states_is_not_normalised(tmp_path):
    rows = [{"image": sound_maps()["image"], "depth": np.minimum(METRES / 2, 1).astype(np.float32)}] * 3
    assert check(write(tmp_path / "set", rows, {"depth": {**depth_entry(), "value_range": [0, 1]}})).is_right
    (found,) = check(write(tmp_path / "unstated", rows, {"depth": depth_entry()})).tasks["depth"].problems
    assert "normalised per image" in found
