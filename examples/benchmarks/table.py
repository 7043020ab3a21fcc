"""One table of all benchmarks, for choosing a runtime, a model and a machine.

    python examples/benchmarks/table.py --output outputs/benchmark.json
    python examples/benchmarks/table.py --groups training pixels --repeats 3 --seconds_per_group 600

The rows of a group are timed in turns, so that a slower machine affects all of them, and are given in milliseconds and as a multiple of the
group's first row; those of the memory groups are in MiB. A row that needs a missing package says so, and rows of groups that are not
chosen say "not run". Weights and images are random. The groups with other runtimes export the network first, which takes minutes
once (docs/export.md). Results are saved after every group.
"""

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from end_to_end import CASES, make_images
from network import Batch, Comparison, Step, build, machine
from network import BenchmarkArguments as NetworkArguments
from products import MIB, Clock, profiled, run, tensor_bytes
from results import write_results
from torch import nn
from transformers import DPTConfig, DPTForDepthEstimation, SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

from mult_hf import MULT_TASKS
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.cli.predict import main as predict_images
from mult_hf.data.cores import keep_freed_memory
from mult_hf.data.markdown import markdown_table
from mult_hf.inference.runtimes import RUNTIMES, with_runtime
from mult_hf.model.decoder_mult import BlockLayers

Action = Callable[[], Any]
SMALL = {"preset": "small", "image_size": 128, "batch_sizes": [8]}
SWIN_TINY = {"preset": "swin-tiny", "image_size": 224, "batch_sizes": [1]}
SWIN_TINY_8 = {**SWIN_TINY, "batch_sizes": [8]}
MATMUL_SIDE = 2048
MEGAPIXELS = 12
PREDICTED_IMAGES, PREDICTED_SIDE = 48, 512
NOT_RUN, FAILED = "not run", "failed"
MEMORY = "memory"
"""Start of the names of groups that are measured in MiB."""
PRESETS = ("swin-tiny", "swin-small", "swin-base", "swin-large")
MORE_TASKS = [{"name": f"more_{number}", "kind": "regression", "channels": 1} for number in (1, 2)]
"""Entries beyond the registered tasks, to show the cost of eight."""


@dataclass
class TableArguments:
    """Settings of the measurement; each field is a flag."""

    groups: list[str] | None = flag(None, "groups of rows to run; by default all")
    device: str = flag("cpu", "cpu, or cuda for the rows that run in PyTorch")
    cpu_threads: int = flag(1, "threads of each runtime")
    repeats: int = flag(3, "timed runs of each row; their median is shown")
    seconds_per_group: float = flag(20.0, "a group's runs end after this time, but not before every row ran once")
    output: Path | None = flag(None, "JSON file for all results")

    def __post_init__(self) -> None:
        check_bounds(self, {0: ("seconds_per_group",), 1: ("cpu_threads", "repeats")})
        unknown = sorted({*(self.groups or [])} - {*GROUPS})
        if unknown:
            raise ValueError(f"--groups has {unknown}; choose from {', '.join(GROUPS)}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"--device is {self.device}; give cpu or cuda")

    def network(self, **values: Any) -> NetworkArguments:
        """Settings of the benchmark of networks."""
        return NetworkArguments(device=self.device, cpu_threads=self.cpu_threads, **values)


def limit(arguments: TableArguments) -> Action:
    """One product of large square matrices in float32: the machine's rate."""
    square = torch.randn(MATMUL_SIDE, MATMUL_SIDE, device=arguments.device)
    return lambda: square @ square


def in_runtime(arguments: TableArguments, values: Mapping[str, Any], runtime: str, dtype: str) -> Action:
    """A forward pass of the network for six tasks, with a runtime."""
    network = arguments.network(**values)
    if runtime != "torch" and arguments.device != "cpu":
        raise ImportError("runtimes other than PyTorch are measured on the CPU")
    torch.manual_seed(0)
    model = with_runtime(build(network, network.tasks).eval(), runtime, dtype, threads=arguments.cpu_threads)
    return forward(model, Batch.random(network, network.batch_sizes[0]).images)


def forward(model: Callable[..., Any], images: torch.Tensor, **options: Any) -> Action:
    """A call of a model without gradients."""
    return torch.no_grad()(lambda: model(images, **options))


def compiled(arguments: TableArguments, values: Mapping[str, Any], **options: Any) -> Action:
    """A forward pass with the layers compiled that are repeated in every block and task; `options` are torch.compile's."""
    network = arguments.network(**values)
    if options and arguments.device != "cuda":
        raise ImportError("CUDA graphs need --device cuda")
    model = build(network, network.tasks).eval()
    for module in model.modules():
        if isinstance(module, BlockLayers):
            module.compile(**options)
    run_model = forward(model, Batch.random(network, network.batch_sizes[0]).images)

    def step() -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # else CUDA graphs of one layer overwrite the outputs that another still needs
        return run_model()

    return step


def case(arguments: TableArguments, values: Mapping[str, Any], mode: str, name: str) -> Action:
    """A case of the benchmark of networks, such as six networks of one task."""
    return partial(run, steps_of(arguments, values, mode, name))


def peak_memory(arguments: TableArguments, values: Mapping[str, Any], name: str) -> Callable[[], float]:
    """MiB of weights, AdamW's moments and the peak of other tensors in a training step."""
    steps = steps_of(arguments, values, "training", name)
    run(steps)  # which creates AdamW's moments

    def measured() -> float:
        kept = tensor_bytes([tensor for step in steps for tensor in step.kept()]) / MIB
        return kept + profiled(steps, arguments.device)[1]

    return measured


def steps_of(arguments: TableArguments, values: Mapping[str, Any], mode: str, name: str) -> Sequence[Step]:
    """The steps of a case of the benchmark of networks."""
    network = arguments.network(**values)
    torch.manual_seed(0)
    comparison = Comparison(network, mode, Batch.random(network, network.batch_sizes[0]), build(network, network.tasks))
    (steps,) = getattr(comparison, name)().values()
    return steps


def of_transformers(arguments: TableArguments, make: Callable[[], nn.Module]) -> Action:
    """A network of transformers for one task, on one image of 224 pixels."""
    return forward(make().eval().to(arguments.device), torch.randn(1, 3, 224, 224, device=arguments.device))


def upernet() -> nn.Module:
    """UPerNet with Swin-T and 17 classes."""
    backbone = SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, num_labels=17, use_auxiliary_head=False))


def dpt() -> nn.Module:
    """DPT with ViT-B, for depth."""
    return DPTForDepthEstimation(DPTConfig(image_size=224, hidden_size=768, backbone_out_indices=[2, 5, 8, 11]))


def of_network(arguments: TableArguments, preset: str, image_size: int, batch_size: int = 1) -> Action:
    """A forward pass of a network for six tasks."""
    network = arguments.network(preset=preset, image_size=image_size, batch_sizes=[batch_size])
    return forward(build(network, network.tasks).eval(), Batch.random(network, batch_size).images)


def of_tasks(arguments: TableArguments, count: int) -> Action:
    """The small network with eight tasks, called for some of them."""
    network = arguments.network(**SMALL)
    model = build(network, [*MULT_TASKS, *MORE_TASKS]).eval()
    return forward(model, Batch.random(network, 8).images, tasks=model.task_names[:count])


def end_to_end(arguments: TableArguments, name: str) -> Action:
    """What a user waits for, with the default model and an image of 12 megapixels; one thread."""
    start, folder = CASES[name](), tempfile.TemporaryDirectory()
    _, large = make_images(Path(folder.name), MEGAPIXELS, 1)
    return quiet(lambda: start([str(large)]) and folder)  # the folder lives as long as the action


def quiet(action: Action) -> Action:
    """The action without its output, which would stand between the tables."""

    def act() -> Any:
        with redirect_stdout(StringIO()):
            return action()

    return act


def predict_many(arguments: TableArguments, runtime: str, dtype: str) -> Action:
    """`mult-hf predict` of many images with the default model, from files to files, with all maps and panels."""
    folder = tempfile.TemporaryDirectory()
    paths = make_images(Path(folder.name), PREDICTED_SIDE**2 / 1e6, PREDICTED_IMAGES)[1:]
    flags = ["--runtime", runtime, "--dtype", dtype, "--cpu_threads", str(arguments.cpu_threads), "--overwrite"]

    def predict() -> None:
        output_dir = f"{folder.name}/predictions"  # named here, so that the folder lives as long as this function
        if predict_images(["--inputs", *map(str, paths), "--output_dir", output_dir, *flags]) != 0:
            raise RuntimeError(f"mult-hf predict {' '.join(flags)} failed for an image; run it on one image to see why")

    return quiet(predict)


def forwards(values: Mapping[str, Any]) -> dict[str, Callable[[TableArguments], Action]]:
    """Rows of a forward pass: runtimes, and other implementations."""
    runtimes = {f"{runtime}, {dtype}": partial(in_runtime, values=values, runtime=runtime, dtype=dtype) for runtime, dtype in CHOICES}
    compilations = {
        "repeated layers compiled": partial(compiled, values=values),
        "repeated layers compiled, reduce-overhead": partial(compiled, values=values, mode="reduce-overhead"),
    }
    others = {"one attention map per task": "per_task", "six networks of one task": "networks"}
    cases = {title: partial(case, values=values, mode="inference", name=name) for title, name in others.items()}
    return {**runtimes, **compilations, **cases}


def trainings(values: Mapping[str, Any]) -> dict[str, Callable[[TableArguments], Action]]:
    """Rows of a training step."""
    cases = {title: partial(case, values=values, mode="training", name=name) for title, name in TRAININGS.items()}
    return {**cases, "MulT, autocast to bfloat16": partial(case, values={**values, "dtype": "bfloat16"}, mode="training", name="mult")}


def memories(values: Mapping[str, Any]) -> dict[str, Callable[[TableArguments], Action]]:
    """Rows of the memory of a training step."""
    return {title: partial(peak_memory, values=values, name=name) for title, name in TRAININGS.items()}


def some(rows: Mapping[str, Callable[[TableArguments], Action]], *titles: str) -> dict[str, Callable[[TableArguments], Action]]:
    """The rows with these titles."""
    return {title: rows[title] for title in titles}


CHOICES = [(runtime, dtype) for runtime, each in RUNTIMES.items() for dtype in each.start]
"""Names of a runtime and one of its dtypes."""

TRAININGS = {
    "one attention map per task": "per_task",
    "MulT": "mult",
    "MulT, gradient checkpointing": "checkpointing",
    "six networks of one task": "networks",
}
"""Rows of a training step: cases of the benchmark of networks."""

GROUPS: dict[str, dict[str, Callable[[TableArguments], Action]]] = {
    "limit": {f"product of {MATMUL_SIDE} x {MATMUL_SIDE}, float32": limit},
    "forward": forwards(SMALL),
    "forward-swin-tiny": {title: row for title, row in forwards(SWIN_TINY).items() if "compiled" not in title},
    "forward-swin-tiny-8": some(forwards(SWIN_TINY_8), "torch, float32", "openvino, float32", "six networks of one task"),
    "one-task": {
        "MulT, Swin-T, six tasks": partial(case, values=SWIN_TINY, mode="inference", name="mult"),
        "UPerNet, Swin-T": partial(of_transformers, make=upernet),
        "DPT, ViT-B": partial(of_transformers, make=dpt),
    },
    "training": trainings(SMALL),
    "training-swin-tiny": some(trainings(SWIN_TINY), *TRAININGS),
    "training-swin-tiny-8": some(trainings(SWIN_TINY_8), "MulT", "six networks of one task"),
    "memory": memories(SMALL),
    "memory-swin-tiny": memories(SWIN_TINY),
    "pixels": {f"{size} x {size}": partial(of_network, preset="small", image_size=size) for size in (256, 512, 1024, 2048)},
    "batch": {f"batch of {size}": partial(of_network, preset="small", image_size=128, batch_size=size) for size in (1, 2, 4, 8, 16)},
    "tasks": {f"{count} of 8 tasks": partial(of_tasks, count=count) for count in (1, 2, 4, 6, 8)},
    "model": {preset: partial(of_network, preset=preset, image_size=224) for preset in PRESETS},
    "predict": {f"{runtime}, {dtype}": partial(predict_many, runtime=runtime, dtype=dtype) for runtime, dtype in CHOICES},
    "end-to-end": {name: partial(end_to_end, name=name) for name in CASES},
}
"""Rows by group and title: functions that prepare what is timed."""


def measure(
    rows: Mapping[str, Callable[[TableArguments], Action]], arguments: TableArguments, *, memory: bool = False
) -> dict[str, list[float] | str]:
    """Seconds of each run, or MiB, by row, or why a row was not run."""
    clock = Clock(arguments.device, arguments.cpu_threads)
    actions: dict[str, Action] = {}
    results: dict[str, list[float] | str] = {}
    for title, prepare in rows.items():
        try:
            action = prepare(arguments)
            measured = action()  # for times a warm-up, which compiles, exports and allocates
            results[title] = [measured] if memory else []
            actions |= {} if memory else {title: action}
        except ImportError as error:
            results[title] = f"{NOT_RUN}: {error}"
        except Exception as error:  # one row must not cost the others, which take half an hour
            results[title] = f"{FAILED}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    started = time.monotonic()
    for number in range(arguments.repeats):
        if number and time.monotonic() - started > arguments.seconds_per_group:
            break
        for title, action in actions.items():
            results[title].append(clock.seconds(action))
    return results


def table(results: Mapping[str, Mapping[str, Sequence[float] | str]], clock: Clock) -> str:
    """Markdown table of all groups; times and memory are also multiples of the group's first row."""
    rows = []
    for group, by_title in results.items():
        first = next((statistics.median(each) for each in by_title.values() if not isinstance(each, str)), None)
        for title, values in by_title.items():
            if isinstance(values, str) or first is None:
                rows.append([group, title, str(values), "-"])
            else:
                median = statistics.median(values)
                shown = f"{median:.0f} MiB" if group.startswith(MEMORY) else f"{1e3 * median:.1f}"
                rows.append([group, title, shown, f"{median / first:.2f}"])
    return markdown_table(["group", "row", f"ms ({clock.kind})", "times the first"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns 1 if a row failed.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(TableArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    torch.set_num_threads(arguments.cpu_threads)
    keep_freed_memory()
    clock, chosen = Clock(arguments.device, arguments.cpu_threads), arguments.groups or [*GROUPS]
    facts = machine(arguments.network())
    results: dict[str, dict[str, list[float] | str]] = {group: dict.fromkeys(rows, NOT_RUN) for group, rows in GROUPS.items()}
    for group in chosen:
        started = time.monotonic()
        results[group] = measure(GROUPS[group], arguments, memory=group.startswith(MEMORY))
        gc.collect()
        print(f"{table({group: results[group]}, clock)}\n{group} took {time.monotonic() - started:.0f} s\n", flush=True)
        if arguments.output is not None:
            write_results(arguments.output, arguments, {**facts, "results": results})
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(f"\n{facts['processor']}, {facts['device']}; median of up to {arguments.repeats}; {versions}\n\n{table(results, clock)}")
    return int(any(str(row).startswith(FAILED) for rows in results.values() for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
