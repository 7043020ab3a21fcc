"""Draw attention that is computed once and shared by all tasks, as docs/images/shared-attention.svg.

    python examples/tools/draw_idea.py

The figure shows one shared block of [`SharedWindowAttention`] and the following [`BlockLayers`]: the reference task's projections in
its colour on the left, one column per task on the right. The file is identical on every machine.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from mult_hf import MULT_TASKS
from mult_hf.cli.arguments import flag, parse_arguments
from mult_hf.model.tasks import PREFERRED_REFERENCE_TASK
from mult_hf.model.visualization import class_palette

COLUMN, BOX_WIDTH, BOX_HEIGHT = 124, 104, 34
LEFT = 330  # where the tasks' columns begin
STREAM, NORM, VALUES, ATTENDED, OUTPUT, SUM, MLP, SECOND_SUM, END = 66, 116, 176, 256, 316, 366, 414, 464, 508  # middles of the rows


@dataclass
class DrawingArguments:
    """Settings of the figure; each field is a flag."""

    tasks: list[str] = flag(list(MULT_TASKS), "names of the tasks, one column each")
    reference_task: str = flag(PREFERRED_REFERENCE_TASK, "the task that computes the map")
    output: Path = flag(Path(__file__).resolve().parents[2] / "docs/images/shared-attention.svg", "file to write the figure to")

    def __post_init__(self) -> None:
        if self.reference_task not in self.tasks:
            raise ValueError(f"--reference_task is {self.reference_task!r}; choose one of the tasks {self.tasks}")


def text(x: float, y: float, label: str, size: int = 13) -> str:
    """A line of text around (x, y); the letter after `^` is raised, the one after `_` lowered."""
    pieces, height = [], 0
    for mark, letters in _scripts(label):
        wanted = {"^": -5, "_": 4}.get(mark, 0)
        small = f' font-size="{size - 3}"' if mark else ""
        pieces.append(f'<tspan dy="{wanted - height}"{small}>{escape(letters)}</tspan>')
        height = wanted
    return f'<text x="{x:g}" y="{y + size * 0.35:g}" font-size="{size}" text-anchor="middle">{"".join(pieces)}</text>'


def _scripts(label: str) -> list[tuple[str, str]]:
    """Cut "k^rT" into ("", "k"), ("^", "r"), ("", "T")."""
    return [(part[0], part[1:]) if part[0] in "^_" else ("", part) for part in re.split(r"([\^_]\w)", label) if part]


def box(x: float, y: float, label: str, color: str, width: float = BOX_WIDTH, height: float = BOX_HEIGHT) -> str:
    """A labelled box around (x, y)."""
    corner = f'x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {corner} rx="6" fill="{color}" fill-opacity="0.28" stroke="{color}" stroke-width="1.5"/>' + text(x, y, label)


def arrow(*points: tuple[float, float]) -> str:
    """A line through the points with a head at its end."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="#333333" stroke-width="1.5" marker-end="url(#head)"/>'


def plus(x: float, y: float) -> str:
    """The sum of a residual connection."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="10" fill="white" stroke="#333333" stroke-width="1.5"/>' + text(x, y, "+", 16)


def reference_column(color: str) -> list[str]:
    """The left part: the encoder's map, queries, keys and the position bias, and the one attention map."""
    x, grey = 150, "#888888"
    return [
        box(x, STREAM, "encoder map x_s_a, H/s x W/s", grey, width=210),
        arrow((x - 55, STREAM + 17), (x - 55, VALUES - 77)),
        arrow((x + 55, STREAM + 17), (x + 55, VALUES - 77)),
        box(x - 55, NORM, "q^r = linear", color, width=100),
        box(x + 55, NORM, "k^r = linear", color, width=100),
        arrow((x - 55, NORM + 17), (x - 55, VALUES - 21)),
        arrow((x + 55, NORM + 17), (x + 55, VALUES - 21)),
        box(x, VALUES, "A^r = softmax(q^r k^r^T / √d + B^r)", color, width=250, height=42),
        text(x, VALUES + 36, "once: one map per head and window,", 12),
        text(x, VALUES + 52, "for any number of tasks", 12),
        # The map goes to every column.
        f'<polyline points="{x - 110:g},{VALUES + 21:g} {x - 110:g},{ATTENDED:g} {LEFT - 20:g},{ATTENDED:g}" fill="none" '
        f'stroke="{color}" stroke-width="4"/>',
    ]


def task_column(number: int, task: str, color: str, map_color: str) -> list[str]:
    """A task's stream through its own layers and the shared map."""
    x = LEFT + (number + 0.5) * COLUMN
    start = LEFT - 20 if number == 0 else x - COLUMN + BOX_WIDTH / 2
    rows = [STREAM, NORM, VALUES, ATTENDED, OUTPUT, SUM, MLP, SECOND_SUM]
    half = {SUM: 10, SECOND_SUM: 10}
    joins = [arrow((x, a + half.get(a, 17)), (x, b - half.get(b, 17) - 4)) for a, b in pairwise(rows)]
    aside = x + BOX_WIDTH / 2 + 4
    return [
        text(x, 26, task, 14),
        f'<polyline points="{start:g},{ATTENDED} {x - BOX_WIDTH / 2:g},{ATTENDED}" stroke="{map_color}" stroke-width="4"/>',
        *joins,
        box(x, STREAM, "stream x^t", color),
        box(x, NORM, "norm", color),
        box(x, VALUES, "v^t = linear", color),
        box(x, ATTENDED, "A^r v^t", map_color),
        box(x, OUTPUT, "W^t", color),
        plus(x, SUM),
        box(x, MLP, "norm, MLP", color),
        plus(x, SECOND_SUM),
        arrow((x + 52, STREAM), (aside, STREAM), (aside, SUM), (x + 14, SUM)),
        arrow((x, SUM + 13), (aside, SUM + 13), (aside, SECOND_SUM), (x + 14, SECOND_SUM)),
        arrow((x, SECOND_SUM + 10), (x, END)),
    ]


def draw(tasks: Sequence[str], reference_task: str) -> str:
    """Draw the figure as the text of an SVG file.

    Args:
        tasks: names of the tasks, one column each.
        reference_task: the task whose colour the map has.
    """
    colors = task_colors(tasks)
    width, height = LEFT + len(tasks) * COLUMN + 16, END + 16
    parts = reference_column(colors[reference_task])
    for number, task in enumerate(tasks):
        parts += task_column(number, task, colors[task], colors[reference_task])
    parts.append(text(150, 26, f"reference task r: {reference_task}", 14))
    return figure(width, height, f"One attention map, computed by {reference_task}, for {len(tasks)} tasks", parts)


def figure(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """An SVG file of these parts, with the line marker `head`."""
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
            'font-family="Helvetica, Arial, sans-serif" fill="#111111">',
            f"<title>{escape(title)}</title>",
            f'<defs>{head}<path d="M0,0 L8,4 L0,8 z" fill="#333333"/></marker></defs>',
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def task_colors(tasks: Sequence[str]) -> dict[str, str]:
    """A hexadecimal colour per task."""
    return dict(zip(tasks, ("#{:02x}{:02x}{:02x}".format(*color) for color in class_palette(len(tasks)).tolist())))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and write.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(DrawingArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    arguments.output.write_text(draw(arguments.tasks, arguments.reference_task), encoding="utf-8")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
