"""Make the tables of which tasks help each other: pairs and larger groups of tasks in one network, against one network per task.

    python -m examples.study.pairs --page docs/evidence-details.md

All networks are compared at the learning rate of the pairs, on the validation rooms. The tables replace what stands between the
page's lines `<!-- generated: pairs -->` or `<!-- generated: groups -->` and `<!-- end -->`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mult_hf.cli import arguments as command_line
from mult_hf.data.markdown import markdown_table
from mult_hf.metrics import METRICS

from .report import HERE, REFERENCE, with_part

ALL_TASKS = "MulT with skip"
"""The row of the main table with all tasks in one network."""


@dataclass
class PairsArguments:
    """Where results lie, and where the tables go."""

    pairs: Path = command_line.flag(HERE / "results/pairs", "directory of the JSON files of the pairs")
    groups: Path = command_line.flag(HERE / "results/groups", "directory of the JSON files of the groups of three and more tasks")
    main_table: Path = command_line.flag(HERE / "results/main_table", "directory of the JSON files of the main table")
    page: Path | None = command_line.flag(None, "page whose tables are replaced; printed by default")


def read_networks(directory: Path) -> list[dict[str, Any]]:
    """The results of a directory, one per network."""
    found = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    return [network for network in found if "learning_rates" in network]


def validation(network: Mapping[str, Any], rate: str) -> dict[str, np.ndarray]:
    """The headline metric of each task on the validation rooms, one value per seed."""
    seeds = network["learning_rates"][rate]["validation"]
    return {name: np.array([values[name] for values in seeds]) for name in seeds[0]}


def percent_better(metric: str, values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """How much better values are than those of the reference with the same seed."""
    sign = 1 if METRICS[metric.split("/")[1]].higher_is_better else -1
    return sign * 100 * (values / reference - 1)


def cell(differences: np.ndarray) -> str:
    """Mean and standard deviation over seeds, bold where all seeds agree in sign."""
    text = f"{differences.mean():+.1f} ± {differences.std(ddof=1):.1f}"
    return f"**{text}**" if abs(np.sign(differences).sum()) == len(differences) else text


def common_rate(networks: Sequence[Mapping[str, Any]]) -> str:
    """The only learning rate of some networks.

    Raises:
        ValueError: if they have several.
    """
    rates = sorted({rate for network in networks for rate in network["learning_rates"]})
    if len(rates) != 1:
        raise ValueError(f"the networks have the learning rates {rates}; they are compared at one")
    return rates[0]


def references(others: Sequence[Mapping[str, Any]], rate: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Metrics on the validation rooms of the single-task networks, and of the network of all tasks, from the results of the main table."""
    alone = {metric: values for each in others if each["row"] == REFERENCE for metric, values in validation(each, rate).items()}
    (together,) = (validation(each, rate) for each in others if each["row"] == ALL_TASKS)
    return alone, together


def pair_table(pairs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one row per measured task, one column per partner.

    Args:
        pairs: results of networks of two tasks, with one learning rate.
        others: results of the main table.

    Raises:
        ValueError: if the pairs have several learning rates.
    """
    rate = common_rate(pairs)
    alone, together = references(others, rate)
    measured = {tuple(network["flags"]["tasks"]): validation(network, rate) for network in pairs}
    tasks, lines = list(together), []
    for metric in tasks:
        by_partner = {}
        for names, values in measured.items():
            if metric in values:
                (partner,) = set(names) - {metric.split("/")[0]}
                by_partner[partner] = cell(percent_better(metric, values[metric], alone[metric]))
        partners = [by_partner.get(other.split("/")[0], "-" if other == metric else "not run") for other in tasks]
        lines.append([metric.split("/")[0], *partners, cell(percent_better(metric, together[metric], alone[metric]))])
    return markdown_table(["task", *(f"with {metric.split('/')[0]}" for metric in tasks), "with all five"], lines)


def group_table(groups: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one row per group of tasks, fewest tasks first, and one for all tasks; one column per measured task.

    Args:
        groups: results of networks of any number of tasks, with one learning rate.
        others: results of the main table.

    Raises:
        ValueError: if the groups have several learning rates.
    """
    rate = common_rate(groups)
    alone, together = references(others, rate)
    smallest_first = sorted(groups, key=lambda network: (len(network["flags"]["tasks"]), network["row"]))
    rows = {network["row"]: validation(network, rate) for network in smallest_first} | {f"all {len(together)}": together}
    lines = [
        [
            name,
            str(len(values)),
            *(cell(percent_better(metric, values[metric], alone[metric])) if metric in values else "-" for metric in together),
        ]
        for name, values in rows.items()
    ]
    return markdown_table(["tasks in one network", "number", *(metric.split("/")[0] for metric in together)], lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the tables as the command line says."""
    arguments = command_line.parse_arguments(PairsArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    others = read_networks(arguments.main_table)
    tables = {
        "pairs": pair_table(read_networks(arguments.pairs), others),
        "groups": group_table(read_networks(arguments.groups), others),
    }
    for name, table in tables.items():
        if arguments.page is None:
            print(table, end="\n\n")
        else:
            arguments.page.write_text(with_part(arguments.page.read_text(), name, table))


if __name__ == "__main__":
    main()
