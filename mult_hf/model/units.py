"""Units of tasks in one spelling. A unit is free text, so code compares what this module returns, and asks other fields where they tell."""

import re

METRE, UNIT_VECTOR, SHARE = "m", "unit vector", "[0, 1]"
"""Units by which `mult-hf check` recognises lengths, directions and shares, as [`normalised_unit`] writes them."""

_WORDS = {"metre": METRE, "millimetre": "mm", "centimetre": "cm", "kilometre": "km", "unit": "unit", "vector": "vector"}


def normalised_unit(unit: str) -> str:
    """A unit in one spelling, to compare it with others: "Metres", "meter" and "m" are one, and so are "unit vectors" and "Unit Vector".

    Metres, millimetres, centimetres, kilometres and unit vectors have several spellings. Of all other units only spaces are ignored: mW
    is not MW.

    Args:
        unit: of a task's entry.

    Examples:
        >>> [normalised_unit(unit) for unit in ("Meters", "millimetres", "Unit-Vectors", "[0,1]", "km/h", "MW")]
        ['m', 'mm', 'unit vector', '[0, 1]', 'km/h', 'MW']
    """
    spaced = re.sub(r"\s*,\s*", ", ", " ".join(re.sub(r"(?<=[A-Za-z])-(?=[A-Za-z])", " ", unit).split()))
    return re.sub(r"[A-Za-z]{4,}", _word, spaced)


def _word(found: re.Match[str]) -> str:
    """A known word in one spelling, and any other one as it is."""
    singular = found.group().lower().removesuffix("s")
    british = f"{singular.removesuffix('meter')}metre" if singular.endswith("meter") else singular
    return _WORDS.get(british, found.group())


__all__ = ["METRE", "SHARE", "UNIT_VECTOR", "normalised_unit"]
