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


@dataclass
class FewLabelsReportArguments:
    """Where results lie, and where the table goes."""

    results: Path = command_line.flag(HERE / "results/few_labels", "directory of the JSON files with few labels")
    main_table: Path = command_line.flag(HERE / "results/main_table", "directory of the JSON files with all labels")
    page: Path | None = command_line.flag(None, "page whose table is replaced; printed by default")


def few_labels_table(rows: Mapping[str, Row]) -> str:
    """Markdown: for each setting whose rows exist, both rows and how much better six tasks together are.

    Args:
        rows: with few labels and with all.
    """
    known = {setting: pair for setting, pair in SETTINGS.items() if rows.keys() >= {*pair}}
    tasks = list(dict.fromkeys(task for pair in known.values() for task in rows[pair[0]].tasks))
    lines = []
    for setting, (together, alone) in known.items():
        for name in (together, alone):
            network = "six tasks together" if name == together else "one network per task"
            lines.append([setting, network, *(cell(rows[name].tasks[task], bold=False) for task in tasks), ""])
        gains = [difference(rows[together].tasks[task], rows[alone].tasks[task]).text for task in tasks]
        lines.append([setting, "together better by [%]", *gains, mean_difference(rows[together], rows[alone]).text])
    return markdown_table(["training views", "network", *(f"{task} {title(task, rows)}" for task in tasks), "all six"], lines)


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
