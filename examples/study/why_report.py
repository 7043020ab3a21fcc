"""Make the tables and plots of docs/evidence-details.md that show the measurements of `why.py`."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mult_hf.data.markdown import markdown_table
from mult_hf.metrics import METRICS
from mult_hf.model.tasks import registered_tasks

SHARED, OWN = "MulT with skip", "own maps with skip"
AS_TRAINED = "as trained"
MAPS = "maps: "
STAGES = ("1/32", "1/16", "1/8", "1/4")
"""Resolution of the decoder's stages, relative to the image."""

Record = Mapping[str, Any]


def same_seed(record: Record) -> bool:
    """Whether both maps are from networks with the same seed."""
    return record["seeds"][0] == record["seeds"][1]


def same_task(record: Record) -> bool:
    """Whether both maps belong to the same task."""
    return record["tasks"][0] == record["tasks"][1]


def between(first: str, second: str, *conditions: Callable[[Record], bool]) -> Callable[[Record], bool]:
    """The condition that a record is about these two rows and meets all given conditions."""
    return lambda record: record["rows"] == [first, second] and all(holds(record) for holds in conditions)


def of_two_references(record: Record) -> bool:
    """Whether both maps are shared maps, the first computed by normals and the second by another task."""
    return record["rows"][0] == SHARED and record["rows"][1].startswith("reference ")


def negated(holds: Callable[[Record], bool]) -> Callable[[Record], bool]:
    """The opposite condition."""
    return lambda record: not holds(record)


DISTANCES: dict[str, Callable[[Record], bool]] = {
    "shared map, own map of the same task (normals)": between(SHARED, OWN, same_seed, same_task),
    "shared map, own maps of the other tasks": between(SHARED, OWN, same_seed, negated(same_task)),
    "shared map made by normals, by another task": lambda record: of_two_references(record) and same_seed(record),
    **{f"{name}: shared maps of two seeds": between(name, name, negated(same_seed)) for name in (SHARED, "authors' head")},
    **{
        f"{name}: {pairs}": between(name, name, *conditions)
        for name in (OWN, "own maps", "no sharing with skip", "no sharing")
        for pairs, conditions in {
            "two tasks, one seed": (same_seed, negated(same_task)),
            "one task, two seeds": (negated(same_seed), same_task),
        }.items()
    },
    **{f"{name}: from uniform attention": between(name, "uniform") for name in (SHARED, "authors' head", OWN, "own maps", "no sharing")},
}
"""By row of the table of distances: the condition for the pairs of maps that it averages."""


def read_why(*directories: Path) -> dict[str, list[Any]]:
    """Read all files of `why.py` in some directories; a pair of maps or a network that is in several files counts once."""
    found: dict[str, dict[str, Any]] = {"distances": {}, "metrics": {}}
    for path in (path for directory in directories for path in sorted(directory.glob("*.json"))):
        content = json.loads(path.read_text())
        for record in map(ordered, content["distances"]):
            found["distances"][json.dumps([record[key] for key in ("stage", "rows", "seeds", "tasks")])] = record
        for entry in content["metrics"]:
            found["metrics"][json.dumps([entry["row"], entry["seed"]])] = entry
    return {name: list(records.values()) for name, records in found.items()}


def ordered(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the shared map first; distances are symmetric, and `why.py` orders each pair as the plan does."""
    sides = list(zip(record["rows"], record["seeds"], record["tasks"]))
    if sides[1][0] == SHARED != sides[0][0]:
        sides.reverse()
    return {**record, **{key: [side[place] for side in sides] for place, key in enumerate(("rows", "seeds", "tasks"))}}


def mean_and_spread(values: Iterable[float], digits: int) -> str:
    """Mean and standard deviation as text; empty if there are no values."""
    values = list(values)
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}" if values else ""


def distance_table(records: Sequence[Record]) -> str:
    """Markdown: mean distances per stage, with the standard deviation over seeds or pairs of seeds."""
    lines = []
    for name, wanted in DISTANCES.items():
        chosen = [record for record in records if wanted(record)]
        if chosen:
            lines.append([name, *(mean_and_spread(by_seeds(chosen, stage), 3) for stage in range(len(STAGES)))])
    return markdown_table(["total variation between", *STAGES], lines)


def by_seeds(records: Sequence[Record], stage: int) -> list[float]:
    """The mean distance for each seed, or pair of seeds."""
    grouped: dict[tuple[int, ...], list[float]] = {}
    for record in records:
        if record["stage"] == stage:
            grouped.setdefault(tuple(record["seeds"]), []).append(record["distance"])
    return [float(np.mean(values)) for values in grouped.values()]


def task_distance_table(records: Sequence[Record], name: str = "own maps", reference: str = "normals") -> str:
    """Markdown: distances between the own map of one task and those of all other tasks in the same network."""
    lines = []
    for task in registered_tasks():
        chosen = [r for r in records if r["rows"] == [name, name] and same_seed(r) and set(r["tasks"]) == {reference, task}]
        if chosen:
            lines.append([task, *(mean_and_spread(by_seeds(chosen, stage), 3) for stage in range(len(STAGES)))])
    return markdown_table([f"{reference} and", *STAGES], lines)


def changes(entry: Record, variant: str) -> dict[str, float]:
    """By task, the percentage by which a variant is better than the network as trained; negative if it is worse."""
    found = {}
    for name, value in entry["values"][variant].items():
        task, metric = name.split("/")
        reference = entry["values"][AS_TRAINED][name]
        found[task] = 100 * (1 if METRICS[metric].higher_is_better else -1) * (value - reference) / reference
    return found


def replacement_table(entries: Sequence[Record]) -> str:
    """Markdown: effect of replaced maps on each task, mean and standard deviation over seeds."""
    return variant_table(entries, lambda variant: variant.startswith(MAPS))


def corruption_table(entries: Sequence[Record]) -> str:
    """Markdown: effect of corrupted images on each task, by network."""
    return variant_table(entries, lambda variant: not variant.startswith(MAPS) and variant != AS_TRAINED)


def variant_table(entries: Sequence[Record], wanted: Callable[[str], bool]) -> str:
    """Markdown: change of each task in the wanted variants of all networks."""
    lines = []
    for name in dict.fromkeys(entry["row"] for entry in entries):
        own = [entry for entry in entries if entry["row"] == name]
        for variant in dict.fromkeys(variant for entry in own for variant in entry["values"] if wanted(variant)):
            found = [changes(entry, variant) for entry in own if variant in entry["values"]]
            tasks = [[change[task] for change in found if task in change] for task in registered_tasks()]
            cells = [mean_and_spread(values, 1) for values in tasks]
            lines.append([name, variant.removeprefix(MAPS), *cells, mean_and_spread((np.mean([*c.values()]) for c in found), 1)])
    return markdown_table(["network", "change", *registered_tasks(), "all six"], lines)


# --- plots ---


def plot_maps(why: Mapping[str, Sequence[Record]], path: Path, name: str = "own maps") -> None:
    """Plot distances by stage, and the loss of each task with the map of another task."""
    figure = Figure(figsize=(12.8, 4.2), layout="constrained")
    distances, losses = figure.subplots(1, 2, width_ratios=[1.3, 1])
    draw_distances(distances, why["distances"])
    draw_losses(losses, [entry for entry in why["metrics"] if entry["row"] == name])
    figure.savefig(path, dpi=120)


def draw_distances(axes: Axes, records: Sequence[Record]) -> None:
    """Draw one line per row of the table of distances, with the standard deviation over seeds or pairs of seeds."""
    for name, wanted in DISTANCES.items():
        chosen = [record for record in records if wanted(record)]
        if chosen and "uniform" not in name:
            found = [by_seeds(chosen, stage) for stage in range(len(STAGES))]
            spread = [np.std(values, ddof=1) if len(values) > 1 else 0 for values in found]
            style = "--" if "two seeds" in name else "-"
            axes.errorbar(STAGES, [np.mean(values) for values in found], spread, label=name, linestyle=style, marker="o", capsize=3)
    axes.set_xlabel("resolution of the stage")
    axes.set_ylabel("total variation")
    axes.set_title("Distance between attention maps", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def draw_losses(axes: Axes, entries: Sequence[Record]) -> None:
    """Draw a matrix: the percentage by which each task gets better if all tasks use the map of one; negative is worse."""
    tasks = [task for task in registered_tasks() if entries and f"{MAPS}all {task}" in entries[0]["values"]]
    mean = [[np.mean([changes(e, f"{MAPS}all {maker}")[task] for e in entries]) for task in tasks] for maker in tasks]
    axes.imshow(mean, cmap="Reds_r", vmin=-100, vmax=0)
    for row, column in product(range(len(tasks)), repeat=2):
        if row != column:
            color = "white" if mean[row][column] < -60 else "black"
            axes.text(column, row, f"{mean[row][column]:.0f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, fontsize=8)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    axes.set_xlabel("task that is measured")
    axes.set_ylabel("task whose map all use")
    axes.set_title("Better by [%] with the map of another task", fontsize=10)
