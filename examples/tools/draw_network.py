"""Draw the whole network, from the image to one map per task, as docs/images/network.svg.

    python examples/tools/draw_network.py

The encoder's pyramid goes down on the left, and one decoder per task goes up on the right. Between them, one attention map per shared
block feeds all decoders of its stage. The file is identical on every machine.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from draw_idea import COLUMN, DrawingArguments, arrow, box, figure, task_colors, text

from mult_hf.cli.arguments import flag, parse_arguments

GREY = "#888888"
ENCODER, SHARED, FIRST_TASK = 120, 350, 505  # middles of the columns
TITLES, PREDICTIONS, HEADS, START = 24, 66, 136, 606  # middles of the rows
STAGES = {4: 226, 8: 326, 16: 426, 32: 526}
"""Middle of the row of each stage, by its stride in pixels."""


@dataclass
class NetworkDrawingArguments(DrawingArguments):
    """Settings of the figure; each field is a flag."""

    output: Path = flag(Path(__file__).resolve().parents[2] / "docs/images/network.svg", "file to write the figure to")


def encoder(color: str) -> list[str]:
    """The left part: image, the encoder's maps, and the attention map of each decoder stage."""
    parts = [text(ENCODER, TITLES, "encoder", 15), box(ENCODER, PREDICTIONS, "image, H x W", GREY, width=200)]
    rows = [PREDICTIONS, *STAGES.values()]
    parts += [arrow((ENCODER, above + 17), (ENCODER, below - 21)) for above, below in pairwise(rows)]
    for number, (stride, y) in enumerate(STAGES.items()):
        width = 200 - 30 * number
        parts += [
            box(ENCODER, y, f"H/{stride} x W/{stride}", GREY, width=width),
            arrow((ENCODER + width / 2, y), (SHARED - 64, y)),
            box(SHARED, y, "shared map A^r", color, width=120),
        ]
    return [*parts, text(SHARED, TITLES, "shared attention", 15)]


def decoder(number: int, task: str, color: str, map_color: str) -> list[str]:
    """A column on the right: the stages of one decoder from the coarsest to the finest, its head, and its map."""
    x = FIRST_TASK + number * COLUMN
    rows = [START, *sorted(STAGES.values(), reverse=True), HEADS, PREDICTIONS]
    left = SHARED + 60 if number == 0 else x - COLUMN + 46
    shared = [f'<polyline points="{left:g},{y:g} {x - 46:g},{y:g}" stroke="{map_color}" stroke-width="4"/>' for y in STAGES.values()]
    joins = [arrow((x, below - (17 if below != START else 0)), (x, above + 21)) for below, above in pairwise(rows)]
    stages = [box(x, y, "blocks", color, width=92) for y in STAGES.values()]
    return [*shared, *joins, *stages, box(x, HEADS, "head", color, width=92), box(x, PREDICTIONS, task, color, width=112)]


def draw(tasks: Sequence[str], reference_task: str) -> str:
    """Draw the figure as the text of an SVG file.

    Args:
        tasks: names of the tasks, one decoder each.
        reference_task: the task whose colour the shared maps have.
    """
    colors = task_colors(tasks)
    last = FIRST_TASK + (len(tasks) - 1) * COLUMN
    parts = encoder(colors[reference_task])
    for number, task in enumerate(tasks):
        parts += decoder(number, task, colors[task], colors[reference_task])
    coarsest = max(STAGES.values())
    start = f"{ENCODER:g},{coarsest + 17:g} {ENCODER:g},{START:g} {last:g},{START:g}"
    parts += [
        f'<polyline points="{start}" fill="none" stroke="#333333" stroke-width="1.5"/>',
        text((FIRST_TASK + last) / 2, TITLES, "decoders, one per task", 15),
        text((ENCODER + SHARED) / 2, START + 18, "every decoder starts from the coarsest map", 12),
        text(SHARED, max(STAGES.values()) + 34, f"reference task r: {reference_task}", 12),
    ]
    return figure(last + COLUMN / 2 + 16, START + 40, f"MulT with {len(tasks)} tasks: encoder, shared attention, decoders, heads", parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and write.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(NetworkDrawingArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    arguments.output.write_text(draw(arguments.tasks, arguments.reference_task), encoding="utf-8")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
