"""Markdown tables without the padding that aligns their columns."""

import re


def unpadded(text):
    """The text with its tables as `| a | b |`, and `|---|---|` below their headers."""
    return "\n".join(_unpadded_row(line) if line.startswith("|") else line for line in text.splitlines())


def _unpadded_row(line):
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    if all(re.fullmatch(":?-+:?", cell) for cell in cells):
        return "|---" * len(cells) + "|"
    return f"| {' | '.join(cells)} |"
