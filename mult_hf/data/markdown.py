"""Markdown tables with aligned columns, which are also readable in a terminal."""

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of formatted cells.

    Args:
        header: titles of the columns.
        rows: cells of each row; a vertical bar inside a cell is escaped, and a line break becomes a space.

    Examples:
        >>> print(markdown_table(["task", "MAE"], [["depth", "0.5000"]]))
        | task   | MAE    |
        |--------|--------|
        | depth  | 0.5000 |
    """
    cells = [[_escaped(cell) for cell in row] for row in rows]
    return tabulate(cells, [_escaped(title) for title in header], tablefmt="github", disable_numparse=True)


def _escaped(cell: str) -> str:
    return " ".join(cell.splitlines()).replace("|", "\\|")
