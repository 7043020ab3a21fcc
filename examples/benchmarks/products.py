"""What a network spends its time and memory on: matrix products, their time by themselves, and the peak of memory."""

import itertools
import json
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode, flop_registry

MIB = 2**20

# torch.profiler's names of operations that multiply matrices on a CPU, including fused attention and those of torch.compile.
PRODUCTS = {
    *("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkl::_mkl_linear", "mkldnn::_linear_pointwise"),
    *("aten::mkldnn_convolution", "aten::convolution_backward", "aten::_scaled_dot_product_flash_attention_for_cpu"),
}


class Work(Protocol):
    """What is measured: a call is one run, and `modules` are what runs."""

    modules: list[nn.Module]

    def __call__(self) -> None:
        """Run it."""


def run(steps: Sequence[Work]) -> None:
    """Run the steps one after another."""
    for step in steps:
        step()


@dataclass(frozen=True)
class Layout:
    """Properties of a tensor that affect the time of a product."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, value: Any) -> Any:
        """The layout of a tensor; lists become tuples, so that they are hashable; other values are unchanged."""
        if isinstance(value, Tensor):
            return cls(tuple(value.shape), value.stride(), value.dtype)
        return tuple(map(cls.of, value)) if isinstance(value, (list, tuple)) else value

    def random(self, device: str) -> Tensor:
        """A random tensor with this layout."""
        elements = 1 + sum((side - 1) * step for side, step in zip(self.shape, self.stride))
        return torch.randn(elements, dtype=self.dtype, device=device).as_strided(self.shape, self.stride)


class RecordProducts(TorchDispatchMode):
    """Counts, by operation and layouts, the calls of every operation that FlopCounterMode counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, Any]] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record the call and run it."""
        if operation.overloadpacket in flop_registry:
            self.calls[operation, Layout.of(args)] += 1
        return operation(*args, **(kwargs or {}))


@contextmanager
def written_out(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Compute attention as two products and a softmax, because FlopCounterMode does not count the CPU's fused kernel."""
    configs = [module.config for root in modules for module in root.modules() if hasattr(module, "config")]
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in zip(configs, before):
            config._attn_implementation = implementation


def count_products(steps: Sequence[Work]) -> tuple[int, Counter[tuple[Any, Any]]]:
    """Floating-point operations in matrix products (a multiply-add is two), and the counted calls of these products."""
    modules = [module for step in steps for module in step.modules]
    with written_out(modules), RecordProducts() as recorded, FlopCounterMode(display=False) as counted:
        run(steps)
    return counted.get_total_flops(), recorded.calls


@dataclass(frozen=True)
class Clock:
    """Measures seconds: CPU time if this process has one thread, because other programs affect it least; otherwise wall time."""

    device: str
    threads: int

    @property
    def kind(self) -> str:
        """Name of the kind of seconds."""
        return "CPU" if self.device == "cpu" and self.threads == 1 else "wall"

    def now(self) -> float:
        """The current time, after all work on the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.kind == "CPU" else time.perf_counter()

    def seconds(self, action: Callable[[], Any]) -> float:
        """Seconds of one run."""
        start = self.now()
        action()
        return self.now() - start


def seconds_alone(calls: Mapping[tuple[Any, Any], int], clock: Clock) -> float:
    """Time of a case's products in isolation: the sum over products of its time multiplied by its number of calls."""
    total = 0.0
    for (operation, layouts), number in calls.items():
        inputs = tree_map(lambda value: value.random(clock.device) if isinstance(value, Layout) else value, layouts)

        def product(operation: Any = operation, inputs: Any = inputs) -> None:
            operation(*inputs)

        with torch.no_grad():
            product()
            total += number * statistics.median(clock.seconds(product) for _ in range(3))
    return total


def profiled(steps: Sequence[Work], device: str) -> tuple[float, float]:
    """Share of one run's time in products (NaN on a GPU), and peak memory in MiB in addition to persistent tensors."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(steps)
        return math.nan, (torch.cuda.max_memory_allocated() - before) / MIB
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(steps)
    with tempfile.TemporaryDirectory() as directory:  # only the trace file contains all of this in a public format
        path = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = sorted(json.loads(path.read_text())["traceEvents"], key=lambda event: event["ts"])
    return products_share(events), peak_bytes(events) / MIB


def products_share(events: Sequence[Mapping[str, Any]]) -> float:
    """Share of products in the time from the start of the first operation to the end of the last."""
    operations = [event for event in events if event.get("cat") == "cpu_op"]
    time_of_all = max(event["ts"] + event["dur"] for event in operations) - operations[0]["ts"]
    return sum(event["dur"] for event in operations if event["name"] in PRODUCTS) / time_of_all


def peak_bytes(events: Sequence[Mapping[str, Any]]) -> int:
    """Peak of allocated memory."""
    changes = [event["args"]["Bytes"] for event in events if event["name"] == "[memory]"]
    return max(itertools.accumulate(changes), default=0)


def tensor_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of tensors, each counted once."""
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())
