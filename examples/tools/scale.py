"""Predict the time of a run on more machines, and its bottleneck: arithmetic, all-reduce, decoding, or storage.

    python examples/tools/scale.py                                     # MulT-L on Taskonomy: 1, 8 and 64 GPUs
    python examples/tools/scale.py --preset swin-tiny --gpus 8 --decode_ms 30 --augment_ms 12
    python examples/tools/scale.py --mode prediction --samples 1e8 --megabytes 3 --batch_size 16 --decode_ms 42 --augment_ms 0
    python examples/tools/scale.py --runs outputs/one outputs/two      # predict the second run from the first, and compare

A step takes as long as its slowest part: arithmetic and the part of the all-reduce that it cannot hide, or the preparation of its images,
or reading them. docs/scale.md names the source of each default: measured by a command of this repository, or assumed.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.markdown import markdown_table

FACTORS = {"training": 3, "prediction": 1}
"""Products of a step over those of a forward pass: in training one for the outputs, two for the gradients of weights and inputs."""

HIDEABLE = 2 / 3
"""Share of a step's arithmetic, the backward pass, during which gradients are already sent."""

ADAMW_BYTES = 16
"""Bytes per parameter of weights, gradients and AdamW's two moments in float32."""


@dataclass(frozen=True)
class Workload:
    """A network and its data; measured or counted.

    Args:
        parameters: number of parameters.
        forward_flops: operations in matrix products of a forward pass, per image.
        sample_bytes: bytes of a stored sample: image and maps.
        core_seconds: seconds of one core per sample: reading, decoding, preparing and augmenting.
    """

    parameters: float
    forward_flops: float
    sample_bytes: float
    core_seconds: float


@dataclass(frozen=True)
class Cluster:
    """Machines; assumed, unless measured.

    Args:
        gpus: number of GPUs, or of processes.
        gpus_per_node: GPUs of one machine.
        gpu_flops: operations per second in large matrix products of the training's precision.
        utilization: share of that rate that a step reaches.
        cores_per_gpu: cores that prepare images for a GPU.
        inside_bandwidth: bytes per second and GPU between GPUs of one machine.
        between_bandwidth: bytes per second and GPU between machines.
        storage_bandwidth: bytes per second that all machines together read from shared storage.
        latency: seconds per stage of an all-reduce.
    """

    gpus: int
    gpus_per_node: int = 8
    gpu_flops: float = 989e12
    utilization: float = 0.35
    cores_per_gpu: float = 12
    inside_bandwidth: float = 300e9
    between_bandwidth: float = 40e9
    storage_bandwidth: float = 20e9
    latency: float = 20e-6


def parts_of_step(workload: Workload, cluster: Cluster, batch_size: int, mode: str = "training") -> dict[str, float]:
    """Seconds of each part of a step with `batch_size` images per GPU, if nothing else limited it."""
    arithmetic = FACTORS[mode] * workload.forward_flops * batch_size / (cluster.gpu_flops * cluster.utilization)
    sent = all_reduce_seconds(4 * workload.parameters, cluster) if mode == "training" else 0.0
    exposed = max(0.0, sent - HIDEABLE * arithmetic)
    return {
        "arithmetic": arithmetic,
        "all-reduce": arithmetic + exposed if exposed else 0.0,
        "decoding": workload.core_seconds * batch_size / cluster.cores_per_gpu,
        "storage": workload.sample_bytes * batch_size * cluster.gpus / cluster.storage_bandwidth,
    }


def all_reduce_seconds(gradient_bytes: float, cluster: Cluster) -> float:
    """Seconds of a ring all-reduce, in which each GPU sends `2 (n - 1) / n` times the gradients."""
    if cluster.gpus == 1:
        return 0.0
    bandwidth = cluster.inside_bandwidth if cluster.gpus <= cluster.gpus_per_node else cluster.between_bandwidth
    return 2 * (cluster.gpus - 1) * (gradient_bytes / cluster.gpus / bandwidth + cluster.latency)


def step_seconds(parts: Mapping[str, float]) -> tuple[float, str]:
    """Seconds of a step, and the part that takes them."""
    slowest = max(parts, key=lambda name: parts[name])
    return parts[slowest], slowest


def count_workload(preset: str, tasks: Sequence[str], image_size: int, sample_bytes: float, core_seconds: float) -> Workload:
    """Count parameters and products of a network without computing anything (torch's meta device)."""
    with torch.device("meta"):
        network = MulTForMultiTaskDensePrediction(MulTConfig.from_preset(preset, tasks=list(tasks))).eval()
        network.set_attn_implementation("eager")  # fused attention is not counted
        image = torch.empty(1, 3, image_size, image_size)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(pixel_values=image)
    return Workload(sum(p.numel() for p in network.parameters()), counter.get_total_flops(), sample_bytes, core_seconds)


def plan_row(workload: Workload, cluster: Cluster, batch_size: int, samples: float, mode: str) -> list[str]:
    """A row of the table: the times for a number of samples on a cluster."""
    parts = parts_of_step(workload, cluster, batch_size, mode)
    seconds, slowest = step_seconds(parts)
    rate = batch_size * cluster.gpus / seconds
    cores = workload.core_seconds * rate / cluster.gpus
    return [
        str(cluster.gpus),
        *(f"{1000 * parts[name]:.0f}" for name in parts),
        f"{1000 * seconds:.0f}",
        slowest,
        f"{rate:.0f}",
        f"{cores:.1f}",
        f"{rate * workload.sample_bytes / 1e9:.2f}",
        f"{samples / rate / 3600:.1f}",
    ]


# --- runs of this machine


@dataclass(frozen=True)
class Run:
    """A finished run, from its output directory.

    Args:
        name: its directory's name.
        processes: number of processes.
        images: images per step and process.
        seconds: seconds per step, without the first ones.
    """

    name: str
    processes: int
    images: int
    seconds: float


def read_run(directory: Path, quantile: float = 0.5) -> Run:
    """Read `metrics.json` and `log.jsonl`.

    Args:
        directory: of the run.
        quantile: of the times of its steps: the median, or a lower one if other programs slowed most steps.

    Raises:
        ValueError: if the log has fewer than three entries of steps.
    """
    metrics = json.loads((directory / "metrics.json").read_text())
    entries = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    steps = [entry["seconds_per_step"] for entry in entries if "seconds_per_step" in entry]
    if len(steps) < 3:
        raise ValueError(f"{directory} has {len(steps)} entries of steps in log.jsonl; train for longer, or with --logging_steps 1")
    arguments = metrics["arguments"]
    images = int(arguments["batch_size"]) * int(arguments["gradient_accumulation_steps"])
    return Run(directory.name, metrics["processes"], images, float(np.quantile(steps[len(steps) // 4 :], quantile)))


def predict_run(base: Run, other: Run, parameters: float, cores: int, cluster: Cluster) -> float:
    """Seconds per step of another run, from one process's: more images, processes that share cores, and an all-reduce.

    Gloo sends gradients while the same core computes them, so nothing is hidden.
    """
    per_image = base.seconds / base.images
    crowding = max(1.0, other.processes / cores) / max(1.0, base.processes / cores)
    sent = all_reduce_seconds(4 * parameters, replace(cluster, gpus=other.processes))
    return per_image * other.images * crowding + sent


@dataclass
class ScaleArguments:
    """A network, its data and the machines; each field is a flag."""

    mode: Literal["training", "prediction"] = flag("training", "what is done with the samples")
    preset: str = flag("swin-large", "encoder: swin-tiny, swin-small, swin-base or swin-large")
    tasks: list[str] = flag(["segmentation", "depth", "normals", "keypoints2d", "edges2d", "reshading"], "tasks")
    image_size: int = flag(224, "side of the images in pixels")
    batch_size: int = flag(4, "images per step and GPU")
    samples: float = flag(4.5e6, "samples of a pass over the data")
    gpus: list[int] = flag([1, 8, 64], "numbers of GPUs")
    megabytes: float = flag(12e6 / 4.5e6, "size of a stored sample; Taskonomy's 12 TB of 4.5 million by default")
    read_ms: float = flag(0.2, "milliseconds of one core to read a sample (examples/benchmarks/data.py)")
    decode_ms: float = flag(20.0, "milliseconds of one core to decode a sample")
    augment_ms: float = flag(50.0, "milliseconds of one core to prepare and augment a sample")
    gpu_tflops: float = flag(989.0, "rate of large matrix products of a GPU, in TFLOP/s")
    utilization: float = flag(0.35, "share of that rate that a step reaches")
    cores_per_gpu: float = flag(12.0, "cores that prepare images for a GPU")
    network_gigabytes: float = flag(40.0, "gigabytes per second and GPU between machines")
    storage_gigabytes: float = flag(20.0, "gigabytes per second of shared storage")
    runs: list[Path] | None = flag(None, "output directories of finished runs: the others are predicted from the first")
    cores: int = flag(2, "cores of the machine of --runs")
    quantile: float = flag(0.5, "quantile of the times of their steps; a low one if other programs were busy on the machine")
    loopback_gigabytes: float = flag(0.7, "gigabytes per second between the processes of --runs")
    run_parameters: float = flag(8.69e6, "parameters of the network of --runs")

    def __post_init__(self) -> None:
        work = ["read_ms", "decode_ms", "augment_ms"]
        positive = [each.name for each in fields(self) if each.name not in ("mode", "preset", "tasks", "runs", *work)]
        check_bounds(self, {0: work, 1e-9: positive, 1: ["image_size", "batch_size", "gpus", "cores"]}, {1: ["utilization", "quantile"]})


def main(argv: Sequence[str] | None = None) -> None:
    """Print the plan, or the comparison with finished runs.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(ScaleArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0], prog="scale.py")
    if arguments.runs:
        print(compare_runs(arguments))
        return
    core_seconds = (arguments.read_ms + arguments.decode_ms + arguments.augment_ms) / 1000
    workload = count_workload(arguments.preset, arguments.tasks, arguments.image_size, 1e6 * arguments.megabytes, core_seconds)
    print(
        f"{arguments.mode}: {arguments.preset}, {len(arguments.tasks)} tasks, {arguments.image_size} x {arguments.image_size} pixels, "
        f"{arguments.batch_size} images per GPU\n"
        f"{workload.parameters / 1e6:.0f} M parameters, {workload.forward_flops / 1e9:.0f} GFLOP per image forward, "
        f"{ADAMW_BYTES * workload.parameters / 1e9:.1f} GB of weights, gradients and AdamW\n"
        f"{1000 * core_seconds:.0f} ms of a core and {arguments.megabytes:.2f} MB per sample\n"
    )
    heads = ["GPUs", "arithmetic ms", "with all-reduce ms", "decoding ms", "storage ms", "step ms", "limit", "images/s"]
    heads += ["cores per GPU used", "GB/s read", f"hours for {arguments.samples:.3g} samples"]
    clusters = [cluster_of(arguments, gpus) for gpus in arguments.gpus]
    rows = [plan_row(workload, cluster, arguments.batch_size, arguments.samples, arguments.mode) for cluster in clusters]
    print(markdown_table(heads, rows))


def cluster_of(arguments: ScaleArguments, gpus: int) -> Cluster:
    """The machines that the flags describe."""
    return Cluster(
        gpus,
        gpu_flops=1e12 * arguments.gpu_tflops,
        utilization=arguments.utilization,
        cores_per_gpu=arguments.cores_per_gpu,
        between_bandwidth=1e9 * arguments.network_gigabytes,
        storage_bandwidth=1e9 * arguments.storage_gigabytes,
    )


def compare_runs(arguments: ScaleArguments) -> str:
    """A table of measured and predicted seconds per step; the first run is the base."""
    base, *others = [read_run(path, arguments.quantile) for path in arguments.runs or []]
    cluster = Cluster(1, inside_bandwidth=1e9 * arguments.loopback_gigabytes)
    rows: list[list[Any]] = [[base.name, base.processes, base.images, f"{base.seconds:.3f}", "(base)", ""]]
    for run in others:
        predicted = predict_run(base, run, arguments.run_parameters, arguments.cores, cluster)
        error = f"{100 * (predicted / run.seconds - 1):+.0f} %"
        rows.append([run.name, run.processes, run.images, f"{run.seconds:.3f}", f"{predicted:.3f}", error])
    heads = ["run", "processes", "images per process and step", "measured s", "predicted s", "error"]
    return markdown_table(heads, [[str(cell) for cell in row] for row in rows])


if __name__ == "__main__":
    main()
