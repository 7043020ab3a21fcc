"""Units of tasks in one spelling. A unit is free text, so code compares what this module returns, and asks other fields where they tell."""

import re

METRE, UNIT_VECTOR = "m", "unit vector"

_SYMBOLS = {"metre": METRE, "millimetre": "mm", "centimetre": "cm", "kilometre": "km"}


def normalised_unit(unit: str) -> str:
    """A unit in one spelling, to compare it with others: "Metres", "meter" and "m" are one, and so are "unit vectors" and "Unit Vector".

    Words of four letters or more lose capitals and plurals, and American spellings become British. Symbols keep their capitals: mW is
    not MW. Units that the package does not know are compared in the same way.

    Args:
        unit: of a task's entry.

    Examples:
        >>> [normalised_unit(unit) for unit in ("Meters", "millimetres", "Unit-Vectors", "[0,1]", "km/h", "MW")]
        ['m', 'mm', 'unit vector', '[0, 1]', 'km/h', 'MW']
    """
    spaced = re.sub(r"\s*,\s*", ", ", " ".join(re.sub(r"(?<=[A-Za-z])-(?=[A-Za-z])", " ", unit).split()))
    return re.sub(r"[A-Za-z]{4,}", _word, spaced)


def _word(found: re.Match[str]) -> str:
    word = found.group().lower()
    singular = word if word.endswith("ss") else word.removesuffix("s")
    british = f"{singular.removesuffix('meter')}metre" if singular.endswith("meter") else singular
    return _SYMBOLS.get(british, british)


__all__ = ["METRE", "UNIT_VECTOR", "normalised_unit"]
