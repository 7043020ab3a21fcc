"""Read a downloaded benchmark completely and report problems, or convert it.

    mult-hf convert taskonomy ROOT --split train --subset tiny
    mult-hf convert nyuv2 nyu_depth_v2_labeled.mat --split test --output_dir converted
    mult-hf convert taskonomy ROOT --split train --output_dir shards --num_proc 8 --shuffle

Without `--output_dir` and `--push_to_hub`, every file of the split is read and nothing is written. The exit status is 1 if a file
is missing or broken.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from mult_hf.data.benchmarks.cocodoom import CocoDoomReader
from mult_hf.data.benchmarks.conversion import FILE_MEGABYTES, convert, push
from mult_hf.data.benchmarks.nyuv2 import open_nyuv2
from mult_hf.data.benchmarks.reader import ON_ERROR, SPLIT_NAMES, BenchmarkReader
from mult_hf.data.benchmarks.replica import ReplicaReader
from mult_hf.data.benchmarks.taskonomy import SUBSETS, TaskonomyReader
from mult_hf.inference.directory_lock import exclusive_run

from .arguments import MAX_WORKERS, check_bounds, flag, parse_arguments, positional
from .errors import OneLineParser
from .signals import exiting_on_sigterm


@dataclass
class ConvertArguments:
    """Input and output; each field is an argument."""

    root: Path = positional("directory or file of the download")
    split: str = flag("train", "split to read", choices=[*SPLIT_NAMES])
    tasks: list[str] | None = flag(None, "columns to read; all by default")
    on_error: str = flag("raise", "raise: stop at the first broken file; skip: leave broken cells empty and count them", choices=ON_ERROR)
    output_dir: Path | None = flag(None, "write Parquet files and a card to this directory")
    push_to_hub: str | None = flag(None, "convert and upload as a private data set; --output_dir keeps the files", metavar="ID")
    megabytes: int = flag(FILE_MEGABYTES, "approximate size of each Parquet file, in millions of bytes")
    num_proc: int = flag(1, "processes that write files")
    shuffle: bool = flag(False, "write samples in random order, for training with --streaming")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ["megabytes", "num_proc"]}, {MAX_WORKERS: ["num_proc"]})


@dataclass
class TaskonomyArguments(ConvertArguments):
    """Arguments of Taskonomy."""

    subset: str = flag("tiny", "official subset of the buildings", choices=SUBSETS)
    without: list[str] = flag([], "buildings to leave out")


@dataclass
class NYUv2Arguments(ConvertArguments):
    """Arguments of NYUv2."""

    normals_signs: list[float] = flag([1.0, -1.0, 1.0], "three factors that convert the stored axes to x right, y up, z towards the viewer")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.normals_signs) != 3:
            raise ValueError(f"--normals_signs is {self.normals_signs}; give three factors, for x, y and z")


@dataclass
class CocoDoomArguments(ConvertArguments):
    """Arguments of CocoDoom."""

    by: str = flag("run", "split by player (run) or by level (map)", choices=("run", "map"))
    subset: str = flag("standard", "downloaded archive", choices=("standard", "full"))


class Benchmark(NamedTuple):
    """A benchmark.

    Args:
        open_reader: creates the reader; takes every argument except those in [`DESTINATIONS`].
        arguments: dataclass of the command line.
    """

    open_reader: Callable[..., BenchmarkReader]
    arguments: type[ConvertArguments]


BENCHMARKS = {
    "taskonomy": Benchmark(TaskonomyReader, TaskonomyArguments),
    "replica": Benchmark(ReplicaReader, ConvertArguments),
    "nyuv2": Benchmark(open_nyuv2, NYUv2Arguments),
    "cocodoom": Benchmark(CocoDoomReader, CocoDoomArguments),
}

WRITING = ("megabytes", "num_proc", "shuffle")

DESTINATIONS = ("output_dir", "push_to_hub", *WRITING)
"""Arguments for the output, which the reader does not take."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read or convert a split; returns 1 if a file is missing or broken.

    Args:
        argv: the benchmark and its arguments; by default those of this process.

    Raises:
        ValueError: at the first broken file unless `--on_error` is `skip`, on what the reader does not take, and if another run is
            writing to the output directory.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = OneLineParser(prog="mult-hf convert", description=__doc__.split("\n")[0])
    parser.add_argument("benchmark", choices=BENCHMARKS, help="mult-hf convert BENCHMARK --help lists its flags")
    name = parser.parse_args(argv[:1]).benchmark
    open_reader, kind = BENCHMARKS[name]
    arguments = parse_arguments(kind, argv[1:], (open_reader.__doc__ or "").partition("\n")[0], prog=f"mult-hf convert {name}")
    reader = open_reader(**{each.name: getattr(arguments, each.name) for each in fields(arguments) if each.name not in DESTINATIONS})
    writing = {name: getattr(arguments, name) for name in WRITING}
    running = nullcontext() if arguments.output_dir is None else exclusive_run(arguments.output_dir)
    with exiting_on_sigterm(), running:  # a conversion without a directory leaves gigabytes in a temporary one otherwise
        if arguments.push_to_hub:
            push(reader, arguments.push_to_hub, arguments.output_dir, **writing)
        elif arguments.output_dir:
            convert(reader, arguments.output_dir, **writing)
        else:
            for _ in reader:  # to its end: the report counts every file
                pass
    print(f"{reader.name} {reader.split}, {', '.join(reader.tasks)}: {reader.report}")
    return int(bool(reader.report.problems))
