"""Plot what `table.py` measured: time against pixels and tasks, and the time of each runtime.

python examples/benchmarks/table.py --groups forward forward-swin-tiny pixels tasks --output outputs/benchmark.json
python examples/benchmarks/plot.py outputs/benchmark.json docs/images/benchmark.png

Groups that were not run are left out.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mult_hf.cli.arguments import parse_arguments, positional


@dataclass
class PlotArguments:
    """Results to draw, and where the picture goes."""

    results: Path = positional("JSON file of `table.py --output`")
    output: Path = positional("the picture, PNG or SVG")


def medians(rows: Mapping[str, Sequence[float] | str]) -> dict[str, float]:
    """Median seconds of each row that was run."""
    return {title: statistics.median(seconds) for title, seconds in rows.items() if not isinstance(seconds, str)}


def numbers(group: Mapping[str, float]) -> tuple[list[int], list[float]]:
    """The first number of each title, such as a side in pixels, and the seconds."""
    return [int(next(word for word in title.split() if word.isdigit())) for title in group], [*group.values()]


def draw_pixels(axes: Axes, rows: Mapping[str, float]) -> None:
    """Seconds per image against its pixels, beside a line of equal time per pixel through the smallest image."""
    sides, seconds = numbers(rows)
    pixels = [side**2 / 1e6 for side in sides]
    axes.loglog(pixels, seconds, "o-", label="small network")
    axes.loglog(pixels, [seconds[0] * each / pixels[0] for each in pixels], "--", color="gray", label="equal time per pixel")
    axes.set(xlabel="megapixels", ylabel="seconds per image", title="pixels")
    axes.legend()


def draw_tasks(axes: Axes, rows: Mapping[str, float]) -> None:
    """Milliseconds against the number of tasks."""
    counts, seconds = numbers(rows)
    axes.plot(counts, [1e3 * each for each in seconds], "o-")
    axes.set(xlabel="tasks that are computed", ylabel="milliseconds", title="tasks (small network, 128 px, batch of 8)")
    axes.set_ylim(bottom=0)


def draw_runtimes(axes: Axes, rows: Mapping[str, float], *, title: str) -> None:
    """Time of each row as a multiple of the first."""
    first = next(iter(rows.values()))
    labels, shares = [*rows], [seconds / first for seconds in rows.values()]
    bars = axes.barh(labels, shares)
    axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel=f"times {labels[0]}", title=title)


DRAWINGS: dict[str, Callable[[Axes, Mapping[str, float]], None]] = {
    "pixels": draw_pixels,
    "tasks": draw_tasks,
    "forward": partial(draw_runtimes, title="small network, 128 px, batch of 8"),
    "forward-swin-tiny": partial(draw_runtimes, title="Swin-T, 224 px, batch of 1"),
}
"""Groups of the table that are drawn, in the plot's order."""


def plot(results: Mapping[str, Mapping[str, Sequence[float] | str]]) -> Figure:
    """Draw the groups that were run.

    Args:
        results: seconds of each run, or why a row was not run, by group and row.

    Raises:
        ValueError: if none of the groups was run.
    """
    found = {group: rows for group in DRAWINGS if (rows := medians(results.get(group, {})))}
    if not found:
        raise ValueError(f"the results have no rows of {', '.join(DRAWINGS)}; run table.py with these --groups")
    columns = min(2, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(6.5 * columns, 4 * lines), layout="constrained")
    for number, (group, rows) in enumerate(found.items(), start=1):
        DRAWINGS[group](figure.add_subplot(lines, columns, number), rows)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Read, draw and save.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(PlotArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    plot(json.loads(arguments.results.read_text())["results"]).savefig(arguments.output, dpi=100)


if __name__ == "__main__":
    main()
