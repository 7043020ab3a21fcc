"""Make the table of few labels: six tasks together, against one network per task, by how many labels there are.

    python -m examples.study.few_labels_report --results examples/study/results/few_labels --page docs/evidence.md

The table replaces what stands between the page's lines `<!-- generated: few_labels -->` and `<!-- end -->`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mult_hf.cli import arguments as command_line
from mult_hf.data.markdown import markdown_table

from .differences import Row, difference, mean_difference
from .report import HERE, cell, read_rows, title, with_part

SETTINGS = {
    "188 rooms, all labels": ("Swin-Unet with a shared map", "single-task Swin-Unet"),
    "31 rooms per task, each view with one label": ("together, one label per view", "alone, one label per view"),
    "32 rooms, all labels": ("together, a sixth of the views", "alone, a sixth of the views"),
}
"""By setting, the rows of the network for six tasks and of those for one task."""

ACROSS = {
    ("32 rooms, against 188, all labels", "better by [%]"): ("together, a sixth of the views", "Swin-Unet with a shared map"),
    ("188 rooms with one label per view, against 32 with all", "better by [%]"): (
        "together, one label per view",
        "together, a sixth of the views",
    ),
}
"""What else is compared: networks for six tasks between settings."""


@dataclass
class FewLabelsReportArguments:
    """Where results lie, and where the table goes."""

    results: Path = command_line.flag(HERE / "results/few_labels", "directory of the JSON files with few labels")
    main_table: Path = command_line.flag(HERE / "results/main_table", "directory of the JSON files with all labels")
    page: Path | None = command_line.flag(None, "page whose table is replaced; printed by default")


def few_labels_table(rows: Mapping[str, Row]) -> str:
    """Markdown: for each setting the rows that exist and, if both do, how much better six tasks together are.

    Args:
        rows: with few labels and with all.
    """
    tasks = list(dict.fromkeys(task for pair in SETTINGS.values() for name in pair if name in rows for task in rows[name].tasks))
    complete = {name: row for name, row in rows.items() if {*tasks} <= row.tasks.keys()}
    lines = []
    for setting, (together, alone) in SETTINGS.items():
        for name in (each for each in (together, alone) if each in complete):
            network = "six tasks together" if name == together else "one network per task"
            lines.append([setting, network, *(cell(rows[name].tasks[task], bold=False) for task in tasks), ""])
        lines += compared(complete, (setting, "together better by [%]"), (together, alone))
    for titles, pair in ACROSS.items():
        lines += compared(complete, titles, pair)
    return markdown_table(["training views", "network", *(f"{task} {title(task, rows)}" for task in tasks), "all six"], lines)


def compared(rows: Mapping[str, Row], titles: tuple[str, str], pair: tuple[str, str]) -> list[list[str]]:
    """A line with how much better the first row of a pair is in each task, if both exist."""
    if not {*pair} <= rows.keys():
        return []
    one, other = (rows[name] for name in pair)
    return [[*titles, *(difference(one.tasks[task], other.tasks[task]).text for task in one.tasks), mean_difference(one, other).text]]


def main(argv: Sequence[str] | None = None) -> None:
    """Make the table as the command line says."""
    arguments = command_line.parse_arguments(FewLabelsReportArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    table = few_labels_table({**read_rows(arguments.main_table), **read_rows(arguments.results)})
    if arguments.page is None:
        print(table)
    else:
        arguments.page.write_text(with_part(arguments.page.read_text(), "few_labels", table))


if __name__ == "__main__":
    main()
