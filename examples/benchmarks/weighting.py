"""Benchmark of task weightings: seconds per step and peak memory, as a Markdown table.

    python examples/benchmarks/weighting.py                       # a small Swin with MulT's decoders, 8 images of 128 x 128 pixels
    python examples/benchmarks/weighting.py --methods fixed gradnorm upgrad --device cuda

Every method runs in a new process. A step is a forward pass on a random, fully labelled batch, the weighting's backward pass, and
AdamW. Time is the median after a warm-up. Memory is the peak resident size of the process on a CPU, including Python and libraries,
and torch's peak allocation on a GPU.
"""

import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from accelerate import Accelerator
from inputs import random_target

from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.markdown import markdown_table
from mult_hf.data.schema import load_task_specs
from mult_hf.training.arguments import ModelArguments, TrainingArguments
from mult_hf.training.distributed import peak_memory
from mult_hf.training.initialization import build_model
from mult_hf.training.weighting import WEIGHTINGS, make_weighting

ROOMS = Path(__file__).resolve().parents[1] / "data/rooms-sample"
"""The data set whose tasks are trained; its images are not read."""


@dataclass
class BenchmarkArguments:
    """Settings of the measurement; each field is a flag."""

    methods: list[str] = flag(list(WEIGHTINGS), "names of task weightings; the others are compared with the first")
    steps: int = flag(10, "timed steps")
    warmup_steps: int = flag(3, "warm-up steps before the timed ones")
    batch_size: int = flag(8, "images per step")
    image_size: int = flag(128, "side of the images in pixels")
    embed_dim: int = flag(ModelArguments.embed_dim, "channels of the Swin's first stage")
    device: str = flag("cpu", "cpu or cuda")
    cpu_threads: int = flag(1, "threads on a CPU")

    def __post_init__(self) -> None:
        check_bounds(self, {0: ("warmup_steps",), 1: ("steps", "batch_size", "embed_dim", "cpu_threads"), 32: ("image_size",)})
        unknown = [method for method in self.methods if method not in WEIGHTINGS]
        if unknown or not self.methods:
            raise ValueError(f"--methods is {self.methods}; choose at least one of {', '.join(WEIGHTINGS)}")


def measure(method: str, arguments: BenchmarkArguments) -> tuple[float, float]:
    """Median seconds per step and peak MiB of one method; call it in a separate process."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.cpu_threads)
    accelerator = Accelerator(cpu=arguments.device == "cpu")
    specs = load_task_specs(str(ROOMS))
    model = (
        build_model(ModelArguments(embed_dim=arguments.embed_dim, decoder="mult"), specs, arguments.image_size)
        .to(accelerator.device)
        .train()
    )
    weighting = make_weighting(method, specs, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=TrainingArguments.learning_rate)
    size = arguments.image_size
    images = torch.randn(arguments.batch_size, 3, size, size).to(accelerator.device)
    labels = {task: random_target(spec, arguments.batch_size, size).to(accelerator.device) for task, spec in specs.items()}
    seconds = []
    for _ in range(arguments.warmup_steps + arguments.steps):
        start = time.perf_counter()
        outputs = model(images, labels=labels, output_hidden_states=weighting.reads_features)
        weighting.backward(outputs.task_losses, outputs.hidden_states or (), accelerator)
        del outputs  # otherwise its graph would be in memory together with the next one
        optimizer.step()
        optimizer.zero_grad()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[arguments.warmup_steps :]), peak_memory(accelerator.device)


def table(results: Mapping[str, tuple[float, float]]) -> str:
    """Markdown table with one row per method, relative to the first."""
    first_seconds, first_memory = next(iter(results.values()))
    first = next(iter(results))
    rows = [
        [method, f"{seconds:.3f}", f"{seconds / first_seconds:.2f} x", f"{memory:.0f}", f"{memory - first_memory:+.0f}"]
        for method, (seconds, memory) in results.items()
    ]
    return markdown_table(["method", "seconds per step", f"of {first}", "peak memory (MiB)", f"beyond {first} (MiB)"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one method after another.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(BenchmarkArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    results = {}
    for method in arguments.methods:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
            results[method] = process.submit(measure, method, arguments).result()
    size = arguments.image_size
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU, {arguments.cpu_threads} threads"
    print(
        f"{arguments.batch_size} images of {size} x {size} pixels, median of {arguments.steps} steps, {where}, torch {torch.__version__}\n"
    )
    print(table(results))


if __name__ == "__main__":
    main()
