"""Benchmark one network for six tasks against six single-task networks: time, memory, parameters, FLOPs, and the machine's limit.

    python examples/benchmarks/network.py                                   # a small Swin with MulT's decoders, at 128 pixels
    python examples/benchmarks/network.py --preset swin-tiny --image_size 224 --batch_sizes 1 8 --modes inference
    python examples/benchmarks/network.py --preset swin-large --image_size 224 --device cuda --dtype bfloat16 --torch_compile inductor

Prints a Markdown table per mode and batch size, and writes all results to `--output`. Weights, images and labels are random, because
no result depends on their values. docs/performance.md explains each column and how it is measured.
"""

import copy
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from inputs import random_target
from products import MIB, Clock, Layout, count_products, profiled, run, seconds_alone, tensor_bytes
from results import write_results
from torch import Tensor, nn

import mult_hf
from mult_hf import MULT_TASKS, MulTConfig, MulTForMultiTaskDensePrediction
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.cores import available_cores
from mult_hf.data.markdown import markdown_table
from mult_hf.model.decoder_mult import SharedWindowAttention
from mult_hf.model.losses import multi_task_loss
from mult_hf.model.outputs import MulTDensePredictionOutput, classifications_among
from mult_hf.model.tasks import resolve_tasks
from mult_hf.training.arguments import ModelArguments
from mult_hf.training.initialization import build_model

WARM_UP = 2  # warm-up runs of each case

CASE_NAMES = (
    "mult",
    "checkpointing",
    "networks",
    "per_task",
    "subsets",
    "no_sharing",
    "swin_unet",
    "mtan",
    "attention",
)  # methods of Comparison

# Sides of the matrices that measure the machine's limit: large enough to reach it, small enough to be quick.
MATMUL_SIDES = {"cpu": 2048, "cuda": 8192}


@dataclass
class BenchmarkArguments:
    """Settings of the measurement; each field is a flag."""

    preset: Literal["small", "swin-tiny", "swin-small", "swin-base", "swin-large"] = flag(
        "small", "small is a small Swin with MulT's decoders"
    )
    image_size: int = flag(128, "side of the images in pixels")
    batch_sizes: list[int] = flag([8], "images per batch; one table per value")
    tasks: list[str] = flag([*MULT_TASKS], "names of registered tasks")
    modes: list[str] = flag(["inference", "training"], "inference, and a training step: forward, backward and AdamW")
    cases: list[str] = flag([*CASE_NAMES], "cases to compare, in the order of the table")
    dtype: Literal["float32", "bfloat16"] = flag("float32", "type of the weights in inference; of autocast in training")
    float32_matmul: Literal["highest", "high", "medium"] = flag("highest", "see torch.set_float32_matmul_precision")
    attention: Literal["sdpa", "eager"] = flag("sdpa", "attention implementation")
    torch_compile: str | None = flag(None, "backend of torch.compile, such as inductor; no compilation by default")
    device: Literal["cpu", "cuda"] = flag("cpu", "device to run on")
    cpu_threads: int = flag(1, "threads of torch on a CPU")
    repeats: int = flag(10, "timed runs; their median is shown")
    seed: int = flag(0, "seed of weights, images and labels")
    output: Path | None = flag(None, "JSON file for all results")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ("cpu_threads", "repeats"), 32: ("image_size",)})
        if min(self.batch_sizes, default=0) < 1:
            raise ValueError(f"--batch_sizes is {self.batch_sizes}; give at least one number, each at least 1")
        for name, allowed in (("modes", MODES), ("cases", CASE_NAMES)):
            given = getattr(self, name)
            if not given or set(given) - set(allowed):
                raise ValueError(f"--{name} is {given}; choose at least one of {', '.join(allowed)}")
        resolve_tasks(self.tasks)  # raises an error for unknown names


def build(arguments: BenchmarkArguments, tasks: Sequence[str], **decoder: Any) -> MulTForMultiTaskDensePrediction:
    """Build a network with random weights on the chosen device; `decoder` are training flags: `decoder`, `block_attention`."""
    if arguments.preset == "small":
        network = build_model(ModelArguments(**{"decoder": "mult", **decoder}), resolve_tasks(tasks), arguments.image_size)
    else:
        options = {"decoder_type": decoder.pop("decoder", "mult"), **decoder}
        network = MulTForMultiTaskDensePrediction(MulTConfig.from_preset(arguments.preset, tasks=list(tasks), **options))
    network.set_attn_implementation(arguments.attention)
    return network.to(arguments.device)


@dataclass(frozen=True)
class Batch:
    """Images (batch, 3, size, size), and labels by task at their size."""

    images: Tensor
    labels: dict[str, Tensor]

    @classmethod
    def random(cls, arguments: BenchmarkArguments, batch_size: int) -> "Batch":
        """Random images and labels; all pixels are known."""
        size, device = arguments.image_size, arguments.device
        labels = {task: random_target(spec, batch_size, size).to(device) for task, spec in resolve_tasks(arguments.tasks).items()}
        return cls(torch.randn(batch_size, 3, size, size).to(device), labels)


class Step:
    """A timed step: a call is one run. The base class is a forward pass of a network for some of its tasks; `modules` take part."""

    def __init__(self, network: MulTForMultiTaskDensePrediction, tasks: Sequence[str], batch: Batch, dtype: torch.dtype) -> None:
        self.network, self.tasks, self.images = network.to(dtype).eval(), tasks, batch.images.to(dtype)
        self.modules: list[nn.Module] = [network]

    def __call__(self) -> None:
        """Run it."""
        with torch.no_grad():
            self.network(self.images, tasks=self.tasks)

    def kept(self) -> list[Tensor]:
        """Tensors that stay in memory between runs."""
        return [tensor for module in self.modules for tensor in (*module.parameters(), *module.buffers())]


class TrainingStep(Step):
    """Forward, backward and an AdamW step of a network for some of its tasks, with float32 weights and autocast."""

    def __init__(self, network: MulTForMultiTaskDensePrediction, tasks: Sequence[str], batch: Batch, dtype: torch.dtype) -> None:
        super().__init__(network, tasks, batch, torch.float32)
        self.labels, self.dtype = {task: batch.labels[task] for task in tasks}, dtype
        self.optimizer = torch.optim.AdamW(network.train().parameters(), fused=True if batch.images.device.type == "cpu" else None)

    def __call__(self) -> None:
        """Run it."""
        with torch.autocast(self.images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.network(self.images, labels=self.labels, tasks=self.tasks).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def kept(self) -> list[Tensor]:
        """Also AdamW's two moments; gradients exist only during a step."""
        return [*super().kept(), *(value for state in self.optimizer.state.values() for value in state.values())]


class PerTaskNetwork(MulTForMultiTaskDensePrediction):
    """The same network with the straightforward implementation: decoders run one by one, and each computes every attention map again."""

    def forward(self, pixel_values: Tensor, labels: Any = None, tasks: Any = None, **kwargs: Any) -> MulTDensePredictionOutput:
        """Predictions, and the loss if there are labels, as of the network."""
        feature_maps = self.mult.backbone(self.mult._pad_to_patches(pixel_values)).feature_maps
        features = {task: self.mult.decoder(feature_maps, [task]).streams[task][-1] for task in self.mult.requested_tasks(tasks)}
        height, width = pixel_values.shape[-2:]
        predictions = self.heads(features, self.mult.padded_size((height, width)), (height, width))
        loss, task_losses = (None, None) if labels is None else multi_task_loss(predictions, labels, self.heads.specs)
        classifications = classifications_among(predictions, self.config.task_entries)
        return MulTDensePredictionOutput(loss=loss, predictions=predictions, task_losses=task_losses, classifications=classifications)


class SharedAttention(Step):
    """Only the attention of all shared blocks, on the streams of a network for a batch, with one call per group of tasks.

    MulT uses one group of all tasks. One group per task computes the same map again for each task. The results are equal.
    """

    def __init__(self, network: MulTForMultiTaskDensePrediction, groups: Sequence[Sequence[str]], batch: Batch, dtype: torch.dtype) -> None:
        super().__init__(network, [task for group in groups for task in group], batch, dtype)
        self.groups, self.inputs = groups, []
        self.modules = [m for m in network.modules() if isinstance(m, SharedWindowAttention) and m.kind.is_shared]
        hooks = [m.register_forward_pre_hook(lambda module, inputs: self.inputs.append((module, inputs))) for m in self.modules]
        super().__call__()
        for hook in hooks:
            hook.remove()

    def __call__(self) -> None:
        """Run it."""
        with torch.no_grad():
            for attention, (streams, encoder_map, shift_mask) in self.inputs:
                for group in self.groups:
                    attention({task: streams[task] for task in group}, encoder_map, shift_mask)


MODES: dict[str, type[Step]] = {"inference": Step, "training": TrainingStep}


@dataclass(frozen=True)
class Comparison:
    """Common settings and methods of the cases of one table."""

    arguments: BenchmarkArguments
    mode: str
    batch: Batch
    network: MulTForMultiTaskDensePrediction

    @property
    def dtype(self) -> torch.dtype:
        """Type of the matrix products."""
        return getattr(torch, self.arguments.dtype)

    def step(self, network: MulTForMultiTaskDensePrediction, tasks: Sequence[str]) -> Step:
        """One run of a network in the table's mode."""
        return MODES[self.mode](network, tasks, self.batch, self.dtype)

    def variant(self, **decoder: Any) -> list[Step]:
        """A network for all tasks with another decoder."""
        tasks = self.arguments.tasks
        return [self.step(build(self.arguments, tasks, **decoder), tasks)]

    def mult(self) -> dict[str, list[Step]]:
        """One network for all tasks."""
        return {f"MulT, {len(self.arguments.tasks)} tasks": [self.step(self.network, self.arguments.tasks)]}

    def checkpointing(self) -> dict[str, list[Step]]:
        """The same network, in which the backward pass computes each block again; in training."""
        if self.mode != "training":
            return {}
        network = copy.deepcopy(self.network)
        network.gradient_checkpointing_enable()
        return {"MulT, gradient checkpointing": [self.step(network, self.arguments.tasks)]}

    def networks(self) -> dict[str, list[Step]]:
        """One network of the same architecture per task, run one after another."""
        tasks = self.arguments.tasks
        return {f"{len(tasks)} networks of one task": [self.step(build(self.arguments, [task]), [task]) for task in tasks]}

    def per_task(self) -> dict[str, list[Step]]:
        """The same network, in which each decoder computes the attention maps again."""
        network = copy.deepcopy(self.network)
        network.__class__ = PerTaskNetwork  # the same modules and weights with another forward
        return {"one attention map per task": [self.step(network, self.arguments.tasks)]}

    def subsets(self) -> dict[str, list[Step]]:
        """Only the first tasks of the network, to show how the cost grows with their number."""
        tasks, numbers = self.arguments.tasks, {len(self.arguments.tasks) // 2, 1} - {0, len(self.arguments.tasks)}
        return {f"MulT, {n} of its {len(tasks)} tasks": [self.step(self.network, tasks[:n])] for n in sorted(numbers, reverse=True)}

    def no_sharing(self) -> dict[str, list[Step]]:
        """Every task computes its attention from its own stream."""
        kinds = [kind.replace("encoder", "self") for kind in self.network.config.block_attention]
        return {f"no sharing ({', '.join(kinds)})": self.variant(block_attention=kinds)}

    def swin_unet(self) -> dict[str, list[Step]]:
        """Swin-Unet decoders, see docs/baselines.md."""
        blocks = ["self", "self"]
        return {"swin_unet decoders": self.variant(decoder="swin_unet", block_attention=blocks)}

    def mtan(self) -> dict[str, list[Step]]:
        """The MTAN decoder, see docs/baselines.md."""
        return {"mtan decoder": self.variant(decoder="mtan")}

    def attention(self) -> dict[str, list[Step]]:
        """Only the shared attention: maps computed once, or again for each task; without gradients, so not in training."""
        tasks = self.arguments.tasks
        groups = {"shared attention alone, one map for all tasks": [tasks], "the same, one map per task": [[task] for task in tasks]}
        if self.mode == "training":
            return {}
        return {name: [SharedAttention(self.network, each, self.batch, self.dtype)] for name, each in groups.items()}


@dataclass
class Cost:
    """One row of a table."""

    parameters: int  # of all networks of the case
    flops: int  # floating-point operations in matrix products of one run
    products_alone: float  # seconds of these products in isolation
    products_share: float  # share of a run's time
    kept_mib: float  # weights, and AdamW's moments in training
    peak_mib: float  # peak memory, including these
    seconds: list[float]  # of each timed run

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the interquartile range, as a share of the median."""
        if len(self.seconds) == 1:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


def measure(cases: Mapping[str, Sequence[Step]], arguments: BenchmarkArguments) -> tuple[dict[str, Cost], float]:
    """Costs of all cases, and the machine's limit in operations per second; cases are timed in turns, so that drift affects all equally."""
    clock = Clock(arguments.device, arguments.cpu_threads)
    costs = {}
    for name, steps in cases.items():
        flops, calls = count_products(steps)
        for module in (module for step in steps for module in step.modules if arguments.torch_compile):
            module.compile(backend=arguments.torch_compile)
        for _ in range(WARM_UP):
            run(steps)
        share, peak = profiled(steps, arguments.device)
        kept = tensor_bytes([tensor for step in steps for tensor in step.kept()]) / MIB
        parameters = sum(p.numel() for step in steps for module in step.modules for p in module.parameters())
        costs[name] = Cost(parameters, flops, seconds_alone(calls, clock), share, kept, kept + peak, [])
    side = MATMUL_SIDES[arguments.device]
    square = Layout((side, side), (side, 1), getattr(torch, arguments.dtype)).random(arguments.device)
    torch.mm(square, square)
    limits = []
    for _ in range(arguments.repeats):
        limits.append(2 * side**3 / clock.seconds(lambda: torch.mm(square, square)))
        for name, steps in cases.items():
            costs[name].seconds.append(clock.seconds(lambda steps=steps: run(steps)))
    return costs, statistics.median(limits)


def table(costs: Mapping[str, Cost], limit: float, clock: Clock) -> str:
    """Markdown table with one row per case; rates are also given as shares of the limit, and of the rate of the products alone."""
    columns: dict[str, Callable[[Cost], str]] = {
        f"ms ({clock.kind})": lambda cost: f"{1e3 * cost.median:.1f}",
        "± %": lambda cost: f"{100 * cost.spread:.1f}",
        "parameters (M)": lambda cost: f"{cost.parameters / 1e6:.2f}",
        "memory (MiB)": lambda cost: f"{cost.peak_mib:.0f}",
        "GFLOP": lambda cost: f"{cost.flops / 1e9:.2f}",
        "GFLOP/s": lambda cost: f"{cost.flops / cost.median / 1e9:.1f}",
        "% of the limit": lambda cost: f"{100 * cost.flops / cost.median / limit:.0f}",
        "% of its products alone": lambda cost: f"{100 * cost.products_alone / cost.median:.0f}",
        "% of time in products": lambda cost: f"{100 * cost.products_share:.0f}",
    }
    return markdown_table(["case", *columns], [[name, *(column(cost) for column in columns.values())] for name, cost in costs.items()])


def ratios(one: Cost, other: Cost) -> dict[str, float]:
    """Time, arithmetic, memory and parameters of one case relative to another."""
    names = {"time": "median", "arithmetic": "flops", "memory": "peak_mib", "parameters": "parameters"}
    return {word: getattr(one, name) / getattr(other, name) for word, name in names.items()}


def compare(arguments: BenchmarkArguments, mode: str, batch_size: int) -> dict[str, Any]:
    """Measure the cases of one table, print it, and return its results."""
    torch.manual_seed(arguments.seed)
    batch = Batch.random(arguments, batch_size)
    comparison = Comparison(arguments, mode, batch, build(arguments, arguments.tasks))
    groups = {name: getattr(comparison, name)() for name in arguments.cases}
    costs, limit = measure({name: steps for group in groups.values() for name, steps in group.items()}, arguments)
    clock = Clock(arguments.device, arguments.cpu_threads)
    print(f"\n{mode}, batch of {batch_size}; limit: {limit / 1e9:.0f} GFLOP/s\n\n{table(costs, limit, clock)}", flush=True)
    found = {"mode": mode, "batch_size": batch_size, "clock": clock.kind, "limit_flops_per_second": limit}
    found["costs"] = {name: {**asdict(cost), "median_seconds": cost.median, "spread": cost.spread} for name, cost in costs.items()}
    if {"mult", "networks"} <= groups.keys():
        (one,), (other,) = groups["mult"], groups["networks"]
        found["mult_of_networks"] = ratios(costs[one], costs[other])
        shares = ", ".join(f"{share:.2f} of the {word}" for word, share in found["mult_of_networks"].items())
        print(f"\n{one} against {other}: {shares}.", flush=True)
    return found


def machine(arguments: BenchmarkArguments) -> dict[str, Any]:
    """The environment that the results depend on, in addition to the flags."""
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{arguments.cpu_threads} thread(s)"
    return {
        "processor": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, {available_cores()} cores",
        "device": device,
        "versions": {"python": platform.python_version(), **{each.__name__: each.__version__ for each in (torch, transformers, mult_hf)}},
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write; `argv` is the command line of this process by default."""
    arguments = parse_arguments(BenchmarkArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    torch.set_num_threads(arguments.cpu_threads)
    torch.set_float32_matmul_precision(arguments.float32_matmul)
    facts = machine(arguments)
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(
        f"{arguments.preset} at {arguments.image_size} x {arguments.image_size} pixels, {arguments.dtype}, {arguments.attention}, "
        f"median of {arguments.repeats}; {facts['processor']}, {facts['device']}; {versions}"
    )
    tables = []
    for mode in arguments.modes:
        for batch_size in arguments.batch_sizes:
            tables.append(compare(arguments, mode, batch_size))
    if arguments.output is not None:
        write_results(arguments.output, arguments, {**facts, "tables": tables})


if __name__ == "__main__":
    main()
