"""Make the table of few labels: six tasks together, against one network per task, by how many labels there are.

    python -m examples.study.few_labels_report --results examples/study/results/few_labels --page docs/evidence-details.md

The table replaces what stands between the page's lines `<!-- generated: few_labels -->` and `<!-- end -->`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mult_hf.cli import arguments as command_line

from .differences import Row
from .report import HERE, read_rows, with_part
from .tables import settings_table

SETTINGS = {
    "188 rooms, all labels": ("Swin-Unet with a shared map", "single-task Swin-Unet"),
    "31 rooms per task, each view with one label": ("together, one label per view", "alone, one label per view"),
    "the same, together for six times the steps": ("together, one label per view, six times the steps", "alone, one label per view"),
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
    """Markdown: both kinds of network in each setting; `rows` are those with few labels and with all."""
    return settings_table("training views", rows, SETTINGS, ACROSS)


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
