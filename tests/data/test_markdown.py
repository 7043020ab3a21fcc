"""Proves that a table stays a table whatever its cells hold."""

from mult_hf.data.markdown import markdown_table
from support.tables import unpadded


def test_cells_appear_as_they_were_formatted():
    """No number is rounded, aligned by its point, or taken for another type."""
    table = markdown_table(["name", "value"], [["a", "0.5000"], ["b", "1e3"], ["c", "-"], ["d", ""], ["00", "**2**"]])
    assert unpadded(table).splitlines() == [
        "| name | value |",
        "|---|---|",
        "| a | 0.5000 |",
        "| b | 1e3 |",
        "| c | - |",
        "| d |  |",
        "| 00 | **2** |",
    ]


def test_columns_are_as_wide_as_their_widest_cell():
    lines = markdown_table(["task", "unit"], [["keypoints2d", ""], ["depth", "m"]]).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_a_bar_or_a_line_break_in_a_name_adds_no_column_and_no_row():
    table = markdown_table(["class", "IoU"], [["door|window", "0.1"], ["two\nlines", "0.2"]])
    assert unpadded(table).splitlines()[2:] == [r"| door\|window | 0.1 |", "| two lines | 0.2 |"]


def test_a_table_without_rows_has_its_header():
    assert unpadded(markdown_table(["run", "seeds"], [])).splitlines() == ["| run | seeds |", "|---|---|"]
