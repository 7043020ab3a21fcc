"""Render the Doom data set: `python -m mult_hf.data.synthetic.doom OUT --levels all --views 1000 --size 128 --seed 0`."""

import argparse
import signal
import sys
from pathlib import Path

from mult_hf.cli.arguments import program_name

from .levels import select_levels
from .writing import Rendering, write_dataset


def parse_arguments(arguments: list[str] | None = None) -> tuple[Path, Rendering]:
    """Read the command line.

    Args:
        arguments: without the program's name; `sys.argv` when left out.

    Returns:
        `tuple`: the folder to write to and what to render.

    Raises:
        SystemExit: with a message, on arguments that cannot be rendered.
    """
    parser = argparse.ArgumentParser(
        prog=program_name("python -m mult_hf.data.synthetic.doom"), description="Render views of Freedoom levels with six dense maps."
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="where to write; an interrupted rendering goes on")
    parser.add_argument("--levels", nargs="+", default=["all"], help="levels (E1M1 .. E4M9, MAP01 .. MAP32), splits, or all; default all")
    parser.add_argument("--views", type=int, default=1000, help="number of views over all levels; default 1000")
    parser.add_argument("--size", type=int, default=128, help="pixels of the square images; default 128")
    parser.add_argument("--seed", type=int, default=0, help="of places, headings and fields of view; default 0")
    options = parser.parse_args(arguments)
    try:
        rendering = Rendering(select_levels(options.levels), options.views, options.size, options.seed)
    except ValueError as error:
        parser.error(str(error))
    return options.folder, rendering


def main(arguments: list[str] | None = None) -> None:
    """Render, and say which levels gave fewer views than asked for."""
    folder, rendering = parse_arguments(arguments)
    try:
        rows = write_dataset(folder, rendering)
    except ValueError as error:
        sys.exit(f"error: {error}")
    short = [f"{level} {rows[level]} of {count}" for level, count in rendering.views_by_level().items() if rows[level] < count]
    if short:
        print(f"fewer views than asked for, no more good places found: {', '.join(short)}", file=sys.stderr)
    print(f"{sum(rows.values())} views in {folder}")


if __name__ == "__main__":
    # A scheduler's termination must unwind like an interrupt does, or the engine, a process of its own, would live on.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
