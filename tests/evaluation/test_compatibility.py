"""Proves that a model is measured on a data set only if a task has the same meaning in both; its storage may differ."""

import logging
from dataclasses import replace

import pytest

from mult_hf import LabelEncoding, TaskSpec
from mult_hf.evaluation.compatibility import check_compatible, measured_specs

VECTORS = TaskSpec(
    name="flow",
    kind="regression",
    channels=3,
    unit="m/s",
    horizontal_flip_signs=(-1.0, 1.0, 1.0),
    rotated_channels=(0, 1),
    zoom_exponent=1.0,
    encoding=LabelEncoding(dtype="uint8", scale=1 / 255),
    metrics=("mae",),
)
CLASSES = TaskSpec(name="rooms", kind="classification", channels=2, class_names=("kitchen", "hall"))


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        (VECTORS, "unit", "km/h"),
        (VECTORS, "horizontal_flip_signs", (1.0, 1.0, 1.0)),
        (VECTORS, "rotated_channels", (0, 2)),
        (VECTORS, "rotated_channels", ()),
        (VECTORS, "zoom_exponent", -1.0),
        (CLASSES, "class_names", ("hall", "kitchen")),
    ],
)
def test_entries_that_differ_in_their_meaning_are_refused_with_the_field(spec, field, value):
    with pytest.raises(ValueError, match=rf"{spec.name}: {field} is .* for the model and .* for the data"):
        check_compatible(spec, replace(spec, **{field: value}))


@pytest.mark.parametrize(("ours", "theirs"), [("m", "Metres"), ("unit vector", "unit vectors"), ("[0, 1]", "[0,1]")])
def test_another_spelling_of_a_unit_is_the_same_unit(ours, theirs):
    check_compatible(replace(VECTORS, unit=ours), replace(VECTORS, unit=theirs))


@pytest.mark.parametrize(("ours", "theirs"), [("m", "mm"), ("mW", "MW"), ("", "m"), ("cm", "inches")])
def test_another_unit_stays_refused(ours, theirs):
    with pytest.raises(ValueError, match=f"flow: unit is '{ours}' for the model and '{theirs}' for the data"):
        check_compatible(replace(VECTORS, unit=ours), replace(VECTORS, unit=theirs))


def test_other_numbers_of_channels_and_kinds_are_refused():
    grey = replace(VECTORS, channels=1, horizontal_flip_signs=(), rotated_channels=())
    with pytest.raises(ValueError, match="channels is 3 for the model and 1 for the data"):
        check_compatible(VECTORS, grey)
    with pytest.raises(ValueError, match="kind is 'classification' for the model and 'regression' for the data"):
        check_compatible(CLASSES, TaskSpec(name="rooms", kind="regression", channels=2))


def test_a_sign_of_1_for_each_channel_is_that_of_no_signs():
    grey = TaskSpec(name="heat", kind="regression", channels=1)
    check_compatible(grey, replace(grey, horizontal_flip_signs=(1.0,)))


def test_entries_may_differ_in_how_maps_are_stored_resized_measured_and_shown():
    stored = LabelEncoding(dtype="uint16", scale=1 / 1000)
    other = replace(VECTORS, encoding=stored, resample="bilinear", metrics=("rmse",), colormap="turbo", weight=7.0)
    (measured,) = measured_specs({"flow": VECTORS}, {"flow": other}).values()
    assert (measured.encoding, measured.resample, measured.metrics) == (stored, "bilinear", ("rmse",)), "the data's"
    assert (measured.colormap, measured.weight) == (VECTORS.colormap, VECTORS.weight), "the model's"


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (
            {"value_range": (0.0, 1.0)},
            {"value_range": (0.0, 255.0)},
            "the model has the range from 0 to 1 and the data from 0 to 255",
        ),
        ({}, {"value_range": (0.0, 254.0)}, "the model has the range of all numbers and the data from 0 to 254; if"),
        ({"value_range": (0.0, 1.0)}, {"value_range": (0.0, 1.0)}, ""),
        ({"activation": "sigmoid"}, {"value_range": (0.0, 1.0)}, ""),
    ],
)
def test_another_range_is_named_because_it_may_be_another_scale(ours, theirs, message, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("mult_hf"), "propagate", True)
    heat = TaskSpec(name="heat", kind="regression", channels=1)
    measured_specs({"heat": replace(heat, **ours)}, {"heat": replace(heat, **theirs)})
    assert message in caplog.text
    assert bool(message) == bool(caplog.text)
