"""Findings of the checker of data sets, and how they are printed."""

import re
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .mistakes import Evidence


@dataclass
class TaskFindings:
    """Findings about one column of the samples that were read.

    Args:
        rows: number of samples read.
        found: number of cells with a map.
        dtypes: types of the stored maps.
        lowest: lowest decoded value of all known pixels.
        highest: highest decoded value of all known pixels.
        pixels: number of pixels of all maps.
        unknown: number of unknown pixels.
        problems: description of a problem -> rows that have it.
        evidence: statistics over all maps of the column.
    """

    rows: int = 0
    found: int = 0
    dtypes: set[str] = field(default_factory=set)
    lowest: float = np.inf
    highest: float = -np.inf
    pixels: int = 0
    unknown: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)

    def wrong(self, sentence: str, row: str) -> None:
        """Record a problem and its row. Sentences that differ only in their numbers are merged into the first one."""
        first = next((known for known in self.problems if without_numbers(known) == without_numbers(sentence)), sentence)
        self.problems.setdefault(first, []).append(row)

    def describe(self) -> str:
        """One line with the number of maps, their stored type, decoded range and share of unknown pixels."""
        if not self.found:
            return f"0 of {self.rows} maps: unknown everywhere"
        values = f"{self.lowest:.4g} to {self.highest:.4g}" if self.lowest <= self.highest else "no known values"
        dtypes = ", ".join(sorted(self.dtypes)) or "unreadable"
        unknown = f"{self.unknown_share:.1%} unknown" if self.pixels else "none could be decoded"
        return f"{self.found} of {self.rows} maps, stored {dtypes}, {f'decoded {values}, ' if self.pixels else ''}{unknown}"

    @property
    def unknown_share(self) -> float:
        """Share of pixels that are unknown."""
        return self.unknown / max(self.pixels, 1)


def _notes(count: int) -> str:
    return "note" if count == 1 else f"{count} notes"


def _first_rows(rows: list[str]) -> str:
    return ", ".join(rows[:3]) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")


def without_numbers(sentence: str) -> str:
    """A sentence with every number as 0, to recognise one that differs in numbers only."""
    return re.sub(r"\d[\d., ]*", "0", sentence)


@dataclass
class Findings:
    """The checker's result.

    Args:
        tasks: findings by column, `image` first.
        notes: remarks that are not errors.
        sheet: contact sheet, or `None` if no image could be read.
        empty_splits: names of the splits without rows.
        doubts: what may be wrong, or right; only a person can tell.
        rows: number of rows that were read, by split.
    """

    tasks: dict[str, TaskFindings]
    notes: list[str]
    sheet: Image.Image | None
    empty_splits: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """What is wrong, one line for each: the column, the problem, and its first rows."""
        return [
            f"{column}: {sentence} [{_first_rows(rows)}]"
            for column, findings in self.tasks.items()
            for sentence, rows in findings.problems.items()
        ]

    @property
    def is_right(self) -> bool:
        """Whether no problem was found."""
        return not any(findings.problems for findings in self.tasks.values())

    def __str__(self) -> str:
        lines = [f"rows read: {', '.join(f'{rows} of {split}' for split, rows in self.rows.items())}"] if len(self.rows) > 1 else []
        width = max(map(len, self.tasks))
        for task, findings in self.tasks.items():
            lines.append(f"{task:{width}}  {findings.describe()}")
            for sentence, rows in findings.problems.items():
                lines.append(f"{'':{width}}  WRONG: {sentence} [{_first_rows(rows)}]")
        count = sum(len(findings.problems) for findings in self.tasks.values())
        empty = [task for task, findings in self.tasks.items() if not findings.found and task != "image"]
        buts = [f"{', '.join(empty)} {'has' if len(empty) == 1 else 'have'} no maps"] if empty else []
        buts += [f"see the first {_notes(len(self.doubts))}"] if self.doubts else []
        right = f"nothing looks wrong, but {', and '.join(buts)}" if buts else "all looks right"
        result = right if count == 0 else "1 thing looks wrong" if count == 1 else f"{count} things look wrong"
        return "\n".join([*lines, *(f"note: {note}" for note in [*self.doubts, *self.notes]), result])


__all__ = ["Findings", "TaskFindings", "without_numbers"]
