"""Render views of Freedoom levels with six dense maps.

    mult-hf render doom OUT --levels all --views 1000 --size 128 --seed 0

To continue an interrupted run, repeat the command; finished files are kept.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mult_hf.data.synthetic.doom.levels import select_levels
from mult_hf.data.synthetic.doom.writing import Rendering, write_dataset
from mult_hf.inference.directory_lock import exclusive_run

from .arguments import flag, parse_arguments, positional
from .signals import exiting_on_sigterm


@dataclass
class DoomArguments:
    """Settings of the rendering; each field is an argument."""

    output_dir: Path = positional("directory of the data set, created if it does not exist")
    levels: list[str] = flag(["all"], "levels (E1M1 to E4M9, MAP01 to MAP32), splits, or all")
    views: int = flag(1000, "total number of views of all levels")
    size: int = flag(128, "height and width in pixels")
    seed: int = flag(0, "seed of places, headings and fields of view")


def main(argv: Sequence[str] | None = None) -> None:
    """Render the data set and print which levels have fewer views than requested.

    Args:
        argv: the command line; by default that of this process.

    Raises:
        ValueError: on levels or numbers that cannot be rendered, a directory of other settings, or one that another run is writing to.
    """
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(DoomArguments, argv, __doc__.split("\n")[0], prog="mult-hf render doom")
    rendering = Rendering(select_levels(arguments.levels), arguments.views, arguments.size, arguments.seed)
    with exiting_on_sigterm(), exclusive_run(arguments.output_dir):  # otherwise the engine, a separate process, would keep running
        rows = write_dataset(arguments.output_dir, rendering)
    short = [f"{level} {rows[level]} of {count}" for level, count in rendering.views_by_level().items() if rows[level] < count]
    if short:
        print(f"fewer views than requested, because no more suitable places were found: {', '.join(short)}", file=sys.stderr)
    print(f"{sum(rows.values())} views in {arguments.output_dir}")
