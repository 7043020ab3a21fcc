"""Check a data set against its card: what `mult-hf check` does, and what training does before its first step."""

from .checker import HELD_OUT, SHEET_ROWS, check, check_rows

__all__ = ["HELD_OUT", "SHEET_ROWS", "check", "check_rows"]
