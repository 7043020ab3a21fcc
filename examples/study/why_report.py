"""Tables of what `why.py` measured and of the rows that were trained again on another GPU, for docs/evidence.md."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mult_hf.data.markdown import markdown_table
from mult_hf.metrics import METRICS
from mult_hf.model.tasks import registered_tasks

SHARED, OWN, STREAMS = "MulT with skip", "own maps with skip", "no sharing with skip"
AS_TRAINED = "as trained"
MAPS = "maps: "
STAGES = ("1/32", "1/16", "1/8", "1/4")
"""Resolution of the decoder's stages, relative to the image."""

Record = Mapping[str, Any]


def same_seed(record: Record) -> bool:
    """Whether both maps are of networks with one seed."""
    return record["seeds"][0] == record["seeds"][1]


def same_task(record: Record) -> bool:
    """Whether both maps are of one task."""
    return record["tasks"][0] == record["tasks"][1]


def between(one: str, other: str, *conditions: Callable[[Record], bool]) -> Callable[[Record], bool]:
    """Whether a record is of these rows and meets all conditions."""
    return lambda record: record["rows"] == [one, other] and all(holds(record) for holds in conditions)


def of_two_references(record: Record) -> bool:
    """Whether both maps are shared ones, the first made by normals and the second by another task."""
    return record["rows"][0] == SHARED and record["rows"][1].startswith("reference ")


def other(holds: Callable[[Record], bool]) -> Callable[[Record], bool]:
    """The opposite condition."""
    return lambda record: not holds(record)


DISTANCES: dict[str, Callable[[Record], bool]] = {
    "shared map, own map of the same task (normals)": between(SHARED, OWN, same_seed, same_task),
    "shared map, own maps of the other tasks": between(SHARED, OWN, same_seed, other(same_task)),
    "shared maps of two seeds": between(SHARED, SHARED, other(same_seed)),
    "own maps of two tasks of one network": between(OWN, OWN, same_seed, other(same_task)),
    "own maps of one task, two seeds": between(OWN, OWN, other(same_seed), same_task),
    "maps from the streams of two tasks of one network": between(STREAMS, STREAMS, same_seed, other(same_task)),
    "shared map made by normals, by another task": lambda r: (
        r["rows"][0] == SHARED and r["rows"][1].startswith("reference ") and same_seed(r)
    ),
    "shared map, uniform attention": between(SHARED, "uniform"),
}
"""Which pairs of maps are averaged in a row of the table of distances."""


def read_why(directory: Path) -> dict[str, list[Any]]:
    """All that `why.py` wrote to a directory, pairs of maps and networks once each."""
    found: dict[str, dict[str, Any]] = {"distances": {}, "metrics": {}}
    for path in sorted(directory.glob("*.json")):
        content = json.loads(path.read_text())
        for record in map(ordered, content["distances"]):
            found["distances"][json.dumps([record[key] for key in ("stage", "rows", "seeds", "tasks")])] = record
        for entry in content["metrics"]:
            found["metrics"][json.dumps([entry["row"], entry["seed"]])] = entry
    return {name: list(records.values()) for name, records in found.items()}


def ordered(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the shared map first: distances have no direction, and their order is that of the plan."""
    sides = list(zip(record["rows"], record["seeds"], record["tasks"]))
    if sides[1][0] == SHARED != sides[0][0]:
        sides.reverse()
    return {**record, **{key: [side[place] for side in sides] for place, key in enumerate(("rows", "seeds", "tasks"))}}


def mean_and_spread(values: Iterable[float], digits: int) -> str:
    """Mean and standard deviation, or nothing where there are no values."""
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


def task_distance_table(records: Sequence[Record]) -> str:
    """Markdown: distance of the shared map from each task's own map."""
    lines = []
    for task in registered_tasks():
        chosen = [record for record in records if record["rows"] == [SHARED, OWN] and same_seed(record) and record["tasks"][1] == task]
        if chosen:
            lines.append([task, *(mean_and_spread(by_seeds(chosen, stage), 3) for stage in range(len(STAGES)))])
    return markdown_table(["own map of", *STAGES], lines)


def changes(entry: Record, variant: str) -> dict[str, float]:
    """By task, how much better a variant is than the network as trained, in percent; negative where it is worse."""
    found = {}
    for name, value in entry["values"][variant].items():
        task, metric = name.split("/")
        reference = entry["values"][AS_TRAINED][name]
        found[task] = 100 * (1 if METRICS[metric].higher_is_better else -1) * (value - reference) / reference
    return found


def replacement_table(entries: Sequence[Record]) -> str:
    """Markdown: what replacing the maps does to each task, mean and standard deviation over seeds."""
    return variant_table(entries, [SHARED, OWN, STREAMS], lambda variant: variant.startswith(MAPS))


def corruption_table(entries: Sequence[Record]) -> str:
    """Markdown: what corrupting the images does to each task, by network."""
    names = list(dict.fromkeys(entry["row"] for entry in entries))
    return variant_table(entries, names, lambda variant: not variant.startswith(MAPS) and variant != AS_TRAINED)


def variant_table(entries: Sequence[Record], names: Sequence[str], wanted: Callable[[str], bool]) -> str:
    """Markdown: changes of every task for the wanted variants of the named networks."""
    lines = []
    for name in names:
        own = [entry for entry in entries if entry["row"] == name]
        for variant in dict.fromkeys(variant for entry in own for variant in entry["values"] if wanted(variant)):
            found = [changes(entry, variant) for entry in own if variant in entry["values"]]
            tasks = [[change[task] for change in found if task in change] for task in registered_tasks()]
            cells = [mean_and_spread(values, 1) for values in tasks]
            lines.append([name, variant.removeprefix(MAPS), *cells, mean_and_spread((np.mean([*c.values()]) for c in found), 1)])
    return markdown_table(["network", "change", *registered_tasks(), "all six"], lines)
