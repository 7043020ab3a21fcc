"""Plots of docs/evidence.md and docs/evidence-details.md: the differences between networks, and their training losses."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .differences import Row, difference, mean_difference

COLUMNS = 4  # panels of a plot side by side


def panels(number: int, height: float, **keywords: Any) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, each with a height in inches, and some empty places at the end."""
    rows = math.ceil(number / COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, rows * height), layout="constrained")
    places = [*figure.subplots(rows, COLUMNS, squeeze=False, **keywords).flat]
    for place in places[number:]:
        place.axis("off")
    return figure, places


def plot_comparisons(compared: Sequence[tuple[Row, Row]], path: Path) -> None:
    """One panel per task: how much better the first row of each pair is, in percent with intervals over rooms, and the seeds as ticks."""
    tasks = [*dict.fromkeys(task for pair in compared for row in pair for task in row.tasks), "all six"]
    figure, places = panels(len(tasks), 1.2 + 0.4 * len(compared), sharey=True)
    for axes, task in zip(places, tasks):
        for height, (one, other) in enumerate(compared):
            if task in one.tasks.keys() & other.tasks.keys() or task == tasks[-1]:
                found = mean_difference(one, other) if task == tasks[-1] else difference(one.tasks[task], other.tasks[task])
                color = "tab:gray" if not found.counts else "tab:green" if found.percent > 0 else "tab:red"
                axes.plot([found.low, found.high], [height, height], color=color)
                axes.plot(found.percent, height, "o", color=color)
                axes.plot(found.seeds, [height + 0.25] * len(found.seeds), "|", color=color, markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("better by [%]", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_yticks(range(len(compared)), [f"{one.name}\nover {other.name}" for one, other in compared])
    places[0].set_ylim(len(compared) - 0.5, -0.5)
    figure.savefig(path, dpi=120)


LINES = ("solid", "dashed", "dotted")


def plot_losses(rows: Mapping[str, Row], path: Path) -> None:
    """Training losses of the chosen learning rate over the steps: one panel per task, one line per row."""
    tasks = list(dict.fromkeys(task for row in rows.values() for task in row.tasks))
    figure, places = panels(len(tasks), 2.6)
    for axes, task in zip(places, tasks):
        for number, row in enumerate(rows.values()):
            style = {"color": f"C{number % 10}", "linestyle": LINES[number // 10 % len(LINES)]}  # ten colours
            for network in (network for network in row.networks if task in network["training_losses"]):
                losses = np.array(network["training_losses"][task], np.float64)  # (points, networks)
                first = len(network["seeds"]) * list(map(float, network["learning_rates"])).index(network["chosen"])
                mean = losses[:, first : first + len(network["seeds"])].mean(axis=1)
                steps = (np.arange(len(mean)) + 0.5) * network["steps"] / len(mean)
                axes.plot(steps, mean, label=row.name, linewidth=1, **style)
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
    figure.legend(*places[0].get_legend_handles_labels(), fontsize=9, ncols=COLUMNS + 1, loc="outside lower center")
    figure.savefig(path, dpi=120)
