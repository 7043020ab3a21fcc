"""The command line of a reader."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .conversion import convert, push
from .reader import ON_ERROR, SPLIT_NAMES, BenchmarkReader


def run_command(open_reader: Callable[..., BenchmarkReader], options: dict[str, dict[str, Any]], argv: Sequence[str] | None) -> int:
    """The command line of a reader: read a split to its end and report, or convert it.

    Args:
        open_reader: makes the reader of `root`, `split`, `tasks`, `on_error` and the reader's own options.
        options: keyword arguments of `add_argument` for each option of the reader's own, by name.
        argv: arguments; those of the process by default.

    Returns:
        `int`: 1 if something could not be read, else 0.
    """
    command = f"python -m mult_hf.data.{Path(sys.argv[0]).stem}"  # the reader's own module is called __main__ here
    parser = argparse.ArgumentParser(prog=command, description=open_reader.__doc__.partition("\n")[0])
    parser.add_argument("root", help="where the download lies")
    parser.add_argument("--split", default="train", choices=list(SPLIT_NAMES))
    parser.add_argument("--tasks", nargs="+", help="columns to read; all by default")
    parser.add_argument("--on_error", default="raise", choices=ON_ERROR, help="skip: leave broken cells empty and count them")
    for name, keywords in options.items():
        parser.add_argument(f"--{name}", **keywords)
    parser.add_argument("--output_dir", help="write parquet and a card there")
    parser.add_argument("--push_to_hub", metavar="ID", help="convert and upload as a private data set")
    arguments = vars(parser.parse_args(argv))
    output_dir, repo_id = arguments.pop("output_dir"), arguments.pop("push_to_hub")
    try:
        reader = open_reader(**arguments)
        if repo_id:
            push(reader, repo_id, output_dir)
        elif output_dir:
            convert(reader, output_dir)
        else:
            for _ in reader:
                pass
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{reader.name} {reader.split}, {', '.join(reader.tasks)}: {reader.report}")
    return int(bool(reader.report.problems))
