"""Benchmark of data preparation: samples per second of one worker, with the image processor, augmentation, and DPT's processor.

    python examples/benchmarks/data.py                                            # the shipped Rooms sample at 128 and 512 pixels
    python examples/benchmarks/data.py --dataset user/my-rooms --sizes 384 --batch_size 16
    python examples/benchmarks/data.py --dataset data/taskonomy --sizes 224 --gpu_images_per_second 60

Prints two Markdown tables. In the first, images are decoded and resized beforehand, so only their preparation is timed. The second covers
all steps from a file to a batch: reading rows as `--streaming` does, decoding them, preparing and augmenting them at each size, and
how many cores feed one GPU. Each row is the median over batches. CPU seconds are reliable even on a busy machine.
"""

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from transformers import DPTImageProcessor

from mult_hf import MulTImageProcessor, TaskSpec
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.cores import available_cores
from mult_hf.data.markdown import markdown_table
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.data.streaming import open_stream
from mult_hf.model.tasks import resolve_tasks

ROOT = Path(__file__).resolve().parents[2]

Row = dict[str, Any]
"""One row of a data set, with decoded images."""


@dataclass
class BenchmarkArguments:
    """Settings of the measurement; each field is a flag."""

    dataset: str = flag(str(ROOT / "examples/data/rooms-sample"), "local directory or Hub id")
    split: str = flag("train", "split whose first rows are used")
    sizes: list[int] = flag([128, 512], "sides of the square images in pixels")
    batch_size: int = flag(8, "rows per batch")
    batches: int = flag(20, "batches to measure, after one warm-up batch")
    threads: int = flag(1, "threads of torch; workers of a DataLoader have one each")
    seed: int = flag(0, "seed of the random views")
    gpu_images_per_second: float = flag(60.0, "images that one GPU trains on per second, for the number of cores that feed it")

    def __post_init__(self) -> None:
        check_bounds(self, {0.001: ("gpu_images_per_second",), 1: ("batch_size", "batches", "threads")})
        if min(self.sizes, default=0) < 1:
            raise ValueError(f"--sizes is {self.sizes}; give at least one side, each at least 1 pixel")


def resized(row: Row, size: int, specs: dict[str, TaskSpec]) -> Row:
    """Resize the image and the stored maps of a row; the values of maps are kept."""
    maps = {task: row[task].resize((size, size), Image.Resampling.NEAREST) for task in specs if row.get(task) is not None}
    return {"image": row["image"].resize((size, size), Image.Resampling.BICUBIC), **maps}


def preparations(size: int, specs: dict[str, TaskSpec]) -> dict[str, Callable[[list[Row]], Any]]:
    """The measured functions of a batch of rows, by name."""
    sides = {"height": size, "width": size}
    processor, dpt = MulTImageProcessor(size=sides, tasks=list(specs.values())), DPTImageProcessor(size=sides)
    one_map = next((task for task, spec in specs.items() if spec.is_classification), None)

    def dpt_batch(rows: list[Row]) -> Any:
        # If the data set has no class map, the processor gets only the images.
        maps = {} if one_map is None else {"segmentation_maps": [row[one_map] for row in rows]}
        return dpt([row["image"] for row in rows], return_tensors="pt", **maps)

    return {
        f"MulT's processor, {len(specs)} maps": MultiTaskCollator(processor),
        f"the same with augmentation, {len(specs)} maps": MultiTaskCollator(processor, augment=RandomAugmentation(tasks=specs)),
        f"DPT's processor, {0 if one_map is None else 1} map(s)": dpt_batch,
    }


def measure(prepare: Callable[[list[Row]], Any], rows: list[Row], batches: int) -> tuple[float, float]:
    """Median CPU seconds and wall seconds of one batch."""
    prepare(rows)
    cpu, wall = [], []
    for _ in range(batches):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        prepare(rows)
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    return median(cpu), median(wall)


def sample_bytes(row: Row) -> int:
    """Bytes of the encoded images and maps of a row."""
    return sum(len(cell["bytes"]) for cell in row.values() if isinstance(cell, dict) and cell.get("bytes"))


def steps_from_files(arguments: BenchmarkArguments, specs: dict[str, TaskSpec]) -> tuple[float, dict[str, float]]:
    """Mean bytes of a stored sample, and CPU seconds per sample of each step from a file to a batch."""
    stream = open_stream(arguments.dataset, arguments.split).rows
    undecoded = iter(stream.decode(False))
    read: list[list[Row]] = []

    def read_batch(_: list[Row]) -> None:
        nonlocal undecoded
        rows = list(islice(undecoded, arguments.batch_size))
        if len(rows) < arguments.batch_size:  # the split ended: from the start again
            undecoded = iter(stream.decode(False))
            rows += islice(undecoded, arguments.batch_size - len(rows))
        read.append(rows)

    def decode(rows: list[Row]) -> list[Row]:
        decoded = [stream.features.decode_example(row) for row in rows]
        for row in decoded:
            for cell in row.values():
                if isinstance(cell, Image.Image):
                    cell.load()
        return decoded

    seconds = {"reading": measure(read_batch, [], arguments.batches)[0]}
    rows = read[0]
    seconds["decoding"] = measure(decode, rows, arguments.batches)[0]
    decoded = decode(rows)
    for size in arguments.sizes:
        processor = MulTImageProcessor(size={"height": size, "width": size}, tasks=list(specs.values()))
        collate = MultiTaskCollator(processor, augment=RandomAugmentation(tasks=specs))
        seconds[f"preparing at {size} pixels"] = measure(collate, decoded, arguments.batches)[0]
    return sum(map(sample_bytes, rows)) / len(rows), {step: cpu / len(rows) for step, cpu in seconds.items()}


def print_steps(arguments: BenchmarkArguments, specs: dict[str, TaskSpec]) -> None:
    """Print the table of all steps, and the cores that feed a GPU."""
    mean_bytes, seconds = steps_from_files(arguments, specs)
    rows = [[step, f"{1000 * each:.2f}", f"{1 / each:.0f}"] for step, each in seconds.items()]
    for size in arguments.sizes:
        total = seconds["reading"] + seconds["decoding"] + seconds[f"preparing at {size} pixels"]
        rows.append([f"all, {size} pixels", f"{1000 * total:.2f}", f"{1 / total:.0f}"])
        rows[-1].append(f"{arguments.gpu_images_per_second * total:.1f}")
    print(f"\nfrom a file to a batch; a stored sample has {mean_bytes / 1000:.0f} kB\n")
    columns = ["step", "CPU ms per sample", "samples per second and core", f"cores for {arguments.gpu_images_per_second:g} images/s"]
    print(markdown_table(columns, [[*row, *[""] * (len(columns) - len(row))] for row in rows]))


def main(argv: Sequence[str] | None = None) -> None:
    """Load, measure, print.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(BenchmarkArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    specs = resolve_tasks(load_task_entries(arguments.dataset))
    stored = load_rows(arguments.dataset, split=f"{arguments.split}[:{arguments.batch_size}]")
    batches = f"{arguments.batches} batches of {len(stored)} samples"
    print(f"{batches}, 1 process, {torch.get_num_threads()} torch thread(s), {platform.machine()}, {available_cores()} cores\n")
    measured = []
    for size in arguments.sizes:
        rows = [resized(row, size, specs) for row in stored]
        for name, prepare in preparations(size, specs).items():
            cpu, wall = measure(prepare, rows, arguments.batches)
            rates = [f"{len(rows) / seconds:.0f}" for seconds in (cpu, wall)]
            measured.append([str(size), name, f"{cpu:.4f}", f"{wall:.4f}", *rates])
    columns = ["pixels", "step", "CPU seconds per batch", "wall seconds per batch", "samples per CPU second", "samples per second"]
    print(markdown_table(columns, measured))
    print_steps(arguments, specs)


if __name__ == "__main__":
    main()
