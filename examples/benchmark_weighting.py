"""Measure what each task weighting costs: seconds a step and peak memory, as a markdown table.

    python examples/benchmark_weighting.py                       # the small default model of train.py, 8 images of 128 x 128 pixels
    python examples/benchmark_weighting.py --methods fixed gradnorm upgrad --device cuda

Every method runs in a fresh process. A step is a forward pass on a random batch with labels everywhere, the weighting's backward
pass, and AdamW. Time is the median after a warm-up. Memory is the largest resident size of the process on a CPU, Python and
libraries included, and the most that torch had allocated on a GPU.
"""

import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import torch
from accelerate import Accelerator
from torch import Tensor
from train import TrainingArguments, build_model
from transformers import HfArgumentParser

from mult_hf import TaskSpec
from mult_hf.data.schema import load_task_specs
from mult_hf.training.distributed import peak_memory
from mult_hf.training.weighting import WEIGHTINGS, make_weighting


@dataclass
class BenchmarkArguments:
    """Everything that the figures depend on; each field is a flag."""

    methods: list[str] = field(default_factory=lambda: list(WEIGHTINGS), metadata={"help": "names of task weightings"})
    steps: int = field(default=10, metadata={"help": "steps that are timed"})
    warmup_steps: int = field(default=3, metadata={"help": "steps before these"})
    batch_size: int = field(default=8, metadata={"help": "images a step"})
    image_size: int = field(default=128, metadata={"help": "side of the images in pixels"})
    embed_dim: int = field(default=TrainingArguments.embed_dim, metadata={"help": "channels of the Swin's first stage"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    cpu_threads: int = field(default=1, metadata={"help": "threads on a CPU"})


def random_target(spec: TaskSpec, batch_size: int, size: int) -> Tensor:
    """A target that is known everywhere: class ids (batch, height, width), or values in range (batch, channels, height, width)."""
    if spec.is_classification:
        return torch.randint(spec.channels, (batch_size, size, size))
    low, high = spec.value_range or (0.0, 1.0)
    return low + (high - low) * torch.rand(batch_size, spec.channels, size, size)


def measure(method: str, arguments: BenchmarkArguments) -> tuple[float, float]:
    """Median seconds a step and peak MiB of one method; to be called in a process of its own."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.cpu_threads)
    accelerator = Accelerator(cpu=arguments.device == "cpu")
    training = TrainingArguments(embed_dim=arguments.embed_dim)
    specs = load_task_specs(training.dataset, training.tasks)
    model = build_model(training, specs, arguments.image_size).to(accelerator.device).train()
    weighting = make_weighting(method, specs, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate)
    size = arguments.image_size
    images = torch.randn(arguments.batch_size, 3, size, size).to(accelerator.device)
    labels = {task: random_target(spec, arguments.batch_size, size).to(accelerator.device) for task, spec in specs.items()}
    seconds = []
    for _ in range(arguments.warmup_steps + arguments.steps):
        start = time.perf_counter()
        outputs = model(images, labels=labels, output_hidden_states=weighting.reads_features)
        weighting.backward(outputs.task_losses, outputs.hidden_states or (), accelerator)
        del outputs  # what is left of its graph would lie beside the next one
        optimizer.step()
        optimizer.zero_grad()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[arguments.warmup_steps :]), peak_memory(accelerator.device)


def table(results: dict[str, tuple[float, float]]) -> str:
    """Markdown, each method beside the first one."""
    first_seconds, first_memory = next(iter(results.values()))
    first = next(iter(results))
    lines = [f"| method | seconds a step | of {first} | peak memory (MiB) | beyond {first} (MiB) |", "|---|---|---|---|---|"]
    lines += [
        f"| {method} | {seconds:.3f} | {seconds / first_seconds:.2f} x | {memory:.0f} | {memory - first_memory:+.0f} |"
        for method, (seconds, memory) in results.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure one method after the other."""
    (arguments,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses()
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
