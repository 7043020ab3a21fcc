"""Benchmark the runtimes that predict with a model: PyTorch, ONNX Runtime and OpenVINO, in float32, bfloat16 and 8 bits.

    python examples/benchmarks/runtimes.py                                          # a small Swin with MulT's decoders
    python examples/benchmarks/runtimes.py --preset swin-tiny --image_size 224 --batch_size 1
    python examples/benchmarks/runtimes.py --model mult_hf/checkpoints/rooms-tiny --dataset data/rooms-128      # also the accuracy

Prints a Markdown table: time per batch, speedup over PyTorch in float32, and the largest difference from its
predictions. Runtimes take turns, so that a slower machine affects all of them. Images, and weights without `--model`, are random.
With `--dataset`, two more tables have each task's metrics on held-out rows, and the loss against PyTorch in float32. The first run
exports the network, which takes minutes; its files are kept (docs/export.md).
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from network import BenchmarkArguments as NetworkArguments
from network import build, machine
from products import Clock
from results import write_results

from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.cli.export import accuracy_table, labelled_rows
from mult_hf.data.markdown import markdown_table
from mult_hf.inference.loading import load_whole_model
from mult_hf.inference.predictor import predict
from mult_hf.inference.runtimes import RUNTIMES, with_runtime

WARM_UP = 2
REFERENCE = ("torch", "float32")


@dataclass
class BenchmarkArguments:
    """Settings of the measurement; each field is a flag."""

    preset: Literal["small", "swin-tiny", "swin-small", "swin-base", "swin-large"] = flag(
        "small", "small is a small Swin with MulT's decoders"
    )
    image_size: int = flag(128, "side of the images in pixels")
    batch_size: int = flag(8, "images per batch")
    model: str | None = flag(None, "directory or Hub id of a trained model to measure in place of a preset")
    dataset: str | None = flag(None, "local directory or Hub id of data to measure the accuracy of --model on")
    split: str = flag("test", "split of the data set")
    max_samples: int | None = flag(None, "number of rows to measure on, from the start; all by default")
    runtimes: list[str] = flag([*RUNTIMES], "runtimes to compare with PyTorch")
    cpu_threads: int = flag(1, "threads of each runtime")
    repeats: int = flag(10, "timed runs; their median is shown")
    output: Path | None = flag(None, "JSON file for all results")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ("batch_size", "cpu_threads", "repeats"), 32: ("image_size",)})
        unknown = sorted(set(self.runtimes) - set(RUNTIMES))
        if unknown:
            raise ValueError(f"--runtimes has {unknown}; choose from {', '.join(RUNTIMES)}")
        if self.dataset is not None and self.model is None:
            raise ValueError(f"--dataset is {self.dataset}, but random weights have no accuracy; give a trained model with --model")

    @property
    def candidates(self) -> list[tuple[str, str]]:
        """Runtime and dtype of each row, PyTorch in float32 first."""
        chosen = [(name, dtype) for name in RUNTIMES if name in self.runtimes for dtype in RUNTIMES[name].start]
        return [REFERENCE, *(each for each in chosen if each != REFERENCE)]


def start(arguments: BenchmarkArguments, runtime: str, dtype: str) -> Any:
    """The network with a runtime; with the same weights for all of them."""
    torch.manual_seed(0)
    network = NetworkArguments(preset=arguments.preset, image_size=arguments.image_size)
    model = build(network, network.tasks).eval() if arguments.model is None else load_whole_model(arguments.model)
    return with_runtime(model, runtime, dtype, threads=arguments.cpu_threads)


@torch.no_grad()
def measure(models: Mapping[tuple[str, str], Any], arguments: BenchmarkArguments) -> list[dict[str, Any]]:
    """A result per row of the table.

    Args:
        models: models by runtime and dtype, including PyTorch in float32.
        arguments: settings of the measurement.
    """
    images = torch.randn(arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    expected = models[REFERENCE](images).predictions
    clock, seconds = Clock("cpu", arguments.cpu_threads), {each: [] for each in models}
    differences = {}
    for each, model in models.items():
        for _ in range(WARM_UP):
            found = model(images).predictions
        differences[each] = max((found[task] - maps).abs().max().item() for task, maps in expected.items())
    for _ in range(arguments.repeats):
        for each, model in models.items():
            seconds[each].append(clock.seconds(lambda model=model: model(images)))
    return [
        {"runtime": runtime, "dtype": dtype, "seconds": seconds[runtime, dtype], "largest_difference": differences[runtime, dtype]}
        for runtime, dtype in models
    ]


def accuracy(models: Mapping[tuple[str, str], Any], arguments: BenchmarkArguments) -> str:
    """Markdown tables of the accuracy on held-out rows, and of the loss against PyTorch in float32."""
    specs = models[REFERENCE].config.task_specs
    predictors = {" ".join(each): partial(predict, model) for each, model in models.items()}
    size = (arguments.image_size, arguments.image_size)
    data = {"model": arguments.model, "dataset": arguments.dataset, "split": arguments.split, "max_samples": arguments.max_samples}
    return accuracy_table(predictors, specs, size, **data)


def table(results: Sequence[dict[str, Any]], clock: Clock) -> str:
    """Markdown table with one row per runtime and dtype; the first is the reference."""
    medians = [statistics.median(each["seconds"]) for each in results]
    rows = [
        [each["runtime"], each["dtype"], f"{1e3 * median:.1f}", f"{medians[0] / median:.2f}", f"{each['largest_difference']:.1g}"]
        for each, median in zip(results, medians)
    ]
    return markdown_table(["runtime", "dtype", f"ms ({clock.kind})", "speedup", "largest difference"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Export, measure, print, write; `argv` is the command line of this process by default."""
    arguments = parse_arguments(BenchmarkArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    torch.set_num_threads(arguments.cpu_threads)
    facts = machine(NetworkArguments(cpu_threads=arguments.cpu_threads))
    size = f"{arguments.image_size} x {arguments.image_size} pixels, batch of {arguments.batch_size}"
    print(f"{arguments.model or arguments.preset} at {size}; median of {arguments.repeats}; {facts['processor']}, {facts['device']}\n")
    models = {REFERENCE: start(arguments, *REFERENCE)}
    if arguments.dataset is not None:  # what is wrong with it is said before minutes of exports
        labelled_rows(models[REFERENCE].config.task_specs, arguments.dataset, arguments.split)
    models |= {each: start(arguments, *each) for each in arguments.candidates if each != REFERENCE}
    results = measure(models, arguments)
    print(table(results, Clock("cpu", arguments.cpu_threads)), flush=True)
    if arguments.dataset is not None:
        print("\n" + accuracy(models, arguments))
    if arguments.output is not None:
        write_results(arguments.output, arguments, {**facts, "results": results})


if __name__ == "__main__":
    main()
