"""Proves that units have one spelling where they are compared, and that different units stay different."""

import pytest

from mult_hf.model.units import METRE, UNIT_VECTOR, normalised_unit


@pytest.mark.parametrize("unit", ["m", "metre", "metres", "meter", "Meters", "METRES", " m "])
def test_every_spelling_of_metres_is_one_unit(unit):
    assert normalised_unit(unit) == METRE


@pytest.mark.parametrize("unit", ["unit vector", "unit vectors", "Unit Vector", "unit-vector", "unit  vectors"])
def test_every_spelling_of_unit_vectors_is_one_unit(unit):
    assert normalised_unit(unit) == UNIT_VECTOR


@pytest.mark.parametrize(
    ("one", "other"),
    [("mW", "MW"), ("Mmol", "mmol"), ("MWatt", "mWatt"), ("m", "mm"), ("m", "m/s"), ("[-1, 1]", "[0, 1]"), ("", "m"), ("m", "M")],
)
def test_other_units_stay_apart(one, other):
    assert normalised_unit(one) != normalised_unit(other)


@pytest.mark.parametrize("unit", ["degrees Celsius", "\u00b0C", "1/m", "", "Klasse", "[-1, 1]"])
def test_a_spelling_does_not_change_twice(unit):
    assert normalised_unit(normalised_unit(unit)) == normalised_unit(unit)
