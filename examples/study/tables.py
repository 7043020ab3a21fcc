"""Pieces of the study's tables: cells, titles, and a table of the same two kinds of network in several settings."""

from collections.abc import Mapping

from mult_hf.data.markdown import markdown_table
from mult_hf.metrics import METRICS
from mult_hf.model.tasks import registered_tasks

from .differences import Measured, Row, difference, mean_difference

Pair = tuple[str, str]
"""Names of two rows: six tasks together and one network per task, or any two that are compared."""


def title(task: str, rows: Mapping[str, Row]) -> str:
    """Metric, unit and direction of a task."""
    metric = next(row.tasks[task].metric for row in rows.values() if task in row.tasks)
    return METRICS[metric].title(registered_tasks()[task])


def cell(measured: Measured, *, bold: bool) -> str:
    """Mean and standard deviation over seeds, in the metric's unit."""
    unit = METRICS[measured.metric].unit
    values = measured.values * unit.factor
    digits = unit.digits + bool(values.mean() < 0.1)  # else the spread of small errors would be shown as 0
    text = f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")
    return f"**{text}**" if bold else text


def settings_table(heading: str, rows: Mapping[str, Row], settings: Mapping[str, Pair], across: Mapping[tuple[str, str], Pair]) -> str:
    """Markdown: for each setting the rows that exist and, if both do, how much better six tasks together are.

    Args:
        heading: of the first column.
        rows: of all settings.
        settings: the rows of each setting.
        across: differences between settings by the text of their first two cells; the first row against the second.
    """
    tasks = list(dict.fromkeys(task for pair in settings.values() for name in pair if name in rows for task in rows[name].tasks))
    complete = {name: row for name, row in rows.items() if {*tasks} <= row.tasks.keys()}
    lines = []
    for setting, (together, alone) in settings.items():
        if together not in complete:
            continue
        for name in (each for each in (together, alone) if each in complete):
            network = "six tasks together" if name == together else "one network per task"
            lines.append([setting, network, *(cell(rows[name].tasks[task], bold=False) for task in tasks), ""])
        lines += compared(complete, (setting, "together better by [%]"), (together, alone))
    for titles, pair in across.items():
        lines += compared(complete, titles, pair)
    return markdown_table([heading, "network", *(f"{task} {title(task, rows)}" for task in tasks), "all six"], lines)


def compared(rows: Mapping[str, Row], titles: tuple[str, str], pair: Pair) -> list[list[str]]:
    """A line with how much better the first row of a pair is in each task, if both exist."""
    if not {*pair} <= rows.keys():
        return []
    one, other = (rows[name] for name in pair)
    return [[*titles, *(difference(one.tasks[task], other.tasks[task]).text for task in one.tasks), mean_difference(one, other).text]]


def devices(row: Row) -> str:
    """Short names of the devices that trained a row."""
    return ", ".join(sorted({network["device"].removeprefix("NVIDIA ").split(" ")[0] for network in row.networks}))


def best_row(rows: Mapping[str, Row], task: str) -> str:
    """The row with the best mean."""
    return max(
        (name for name in rows if task in rows[name].tasks),
        key=lambda name: rows[name].tasks[task].sign * rows[name].tasks[task].values.mean(),
    )
