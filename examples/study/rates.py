"""Tables of what the learning rate changes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mult_hf.data.markdown import markdown_table
from mult_hf.metrics import METRICS
from mult_hf.model.tasks import registered_tasks

from .differences import Row, difference, mean_difference, relative

SHARING = {
    "MulT with skip": ("own maps with skip", "no sharing with skip"),
    "Swin-Unet with a shared map": ("Swin-Unet with own maps", "Swin-Unet"),
    "MulT": ("own maps",),
}
"""Rows with a shared map, and their counterparts without."""

TOGETHER, ALONE = "Swin-Unet with a shared map", "single-task Swin-Unet"
"""The row for six tasks, and the row of one network per task with the same decoder, that are compared task by task."""


def rate_table(rows: Mapping[str, Row]) -> str:
    """Markdown: mean gain over the constant baseline on the validation split by learning rate, the chosen one in bold."""
    networks = [network for row in rows.values() for network in row.networks]
    rates = sorted({float(rate) for network in networks for rate in network["learning_rates"]})
    lines = []
    for network in networks:
        found = {float(rate): results["gains"] for rate, results in network["learning_rates"].items()}
        cells = [rate_cell(found[rate], bold=rate == network["chosen"]) if rate in found else "" for rate in rates]
        lines.append([network["name"], *cells])
    return markdown_table(["network", *(f"{rate:g}" for rate in rates)], lines)


def rate_cell(gains: Sequence[float | None], *, bold: bool) -> str:
    """Mean over seeds, or that training diverged."""
    if None in gains:
        return "diverged"
    return f"**{np.mean(gains):.1f}**" if bold else f"{np.mean(gains):.1f}"


def wider_table(rows: Mapping[str, Row], first: Mapping[str, Row]) -> str:
    """Markdown: how much better the rows of the first study are with more learning rates to choose from."""
    tasks = list(dict.fromkeys(task for row in rows.values() for task in row.tasks))
    lines = []
    for name, row in rows.items():
        if name in first:
            chosen = " → ".join(chosen_rates(each) for each in (first[name], row))
            cells = [difference(row.tasks[task], first[name].tasks[task]).text for task in row.tasks]
            lines.append([name, chosen, *cells, mean_difference(row, first[name]).text])
    return markdown_table(["network", "chosen rates", *tasks, "all six"], lines)


def chosen_rates(row: Row) -> str:
    """The learning rate of a row, or the lowest and the highest of its networks."""
    chosen = sorted({network["chosen"] for network in row.networks})
    return " to ".join(f"{rate:g}" for rate in dict.fromkeys((chosen[0], chosen[-1])))


def equal_rates_table(rows: Mapping[str, Row]) -> str:
    """Markdown: how much better a row is at each learning rate that both were trained with, on the validation split."""
    pairs = [(rows[one], rows[other]) for one, others in SHARING.items() for other in others if {one, other} <= rows.keys()]
    compared = [(f"{one.name} over {other.name}", one.networks[0], other.networks[0]) for one, other in pairs]
    if {TOGETHER, ALONE} <= rows.keys():
        joint = rows[TOGETHER].networks[0]
        alone = sorted(rows[ALONE].networks, key=lambda network: [*registered_tasks()].index(network["flags"]["tasks"][0]))
        compared += [(f"{joint['name']} over {network['name']}", joint, network) for network in alone]
    gains = {title: gains_by_rate(one, other) for title, one, other in compared}
    rates = sorted({rate for found in gains.values() for rate in found})
    lines = [[title, *(gain_cell(found[rate]) if rate in found else "" for rate in rates)] for title, found in gains.items()]
    return markdown_table(["better by [%]", *(f"{rate:g}" for rate in rates)], lines)


def gains_by_rate(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[float, list[float]]:
    """The percentage by which one network is better than another on the validation split, by learning rate, for each seed.

    It is the mean over the tasks that both have.
    """
    own, others = ({float(rate): found["validation"] for rate, found in each["learning_rates"].items()} for each in (one, other))
    return {rate: [mean_gain(*seeds) for seeds in zip(own[rate], others[rate])] for rate in own if rate in others}


def mean_gain(values: Mapping[str, float | None], reference: Mapping[str, float | None]) -> float:
    """Mean of the relative differences in percent of the metrics that both have; positive where it is for the better."""
    signs = {name: 1 if METRICS[name.split("/")[1]].higher_is_better else -1 for name in values if name in reference}
    if None in [each[name] for each in (values, reference) for name in signs]:
        return math.nan  # one of them diverged
    return float(np.mean([relative(values[name], reference[name], sign) for name, sign in signs.items()]))


def gain_cell(gains: Sequence[float]) -> str:
    """Mean over seeds, and how many have its sign; bold if all have."""
    mean = float(np.mean(gains))
    if math.isnan(mean):
        return "diverged"
    agreeing = int((np.sign(gains) == np.sign(mean)).sum())
    text = f"{mean:+.1f} {agreeing}/{len(gains)}"
    return f"**{text}**" if agreeing == len(gains) else text
