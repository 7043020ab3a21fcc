"""Benchmark of memory over many pipeline calls, which must not grow with their number.

    python examples/benchmarks/memory.py                                    # 3,000 calls with images of 20 sizes
    python examples/benchmarks/memory.py --calls 500 --model me/mult --batch_size 4 --largest_side 128

Prints a Markdown table of the process's resident memory. Images have random sizes from 32 pixels to `--largest_side`, and every form
that the pipeline takes. The first calls fill caches, so growth is counted after a tenth of the calls. The exit status is 1 if it
exceeds `--limit_mib`.
"""

import gc
import io
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from transformers import pipeline

import mult_hf  # noqa: F401  registers the pipeline
from mult_hf import ROOMS_TINY_CHECKPOINT
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.markdown import markdown_table

ROWS = 10
"""Rows of the table."""


SMALLEST_SIDE = 32
"""Smallest height and width of an image in pixels."""


@dataclass
class MemoryArguments:
    """Settings of the measurement; each field is a flag."""

    model: str = flag(ROOMS_TINY_CHECKPOINT, "directory or Hub id of the model; by default the small one in the package")
    calls: int = flag(3000, "calls of the pipeline")
    batch_size: int = flag(1, "images per call")
    sizes: int = flag(20, "different image sizes")
    largest_side: int = flag(512, "largest height and width of an image in pixels")
    tasks: list[str] | None = flag(None, "tasks to predict; by default all")
    threads: int = flag(1, "threads of torch")
    limit_mib: float = flag(64.0, "largest growth in MiB after the first tenth of the calls")
    seed: int = flag(0, "seed of sizes and contents")

    def __post_init__(self) -> None:
        check_bounds(self, {0: ["limit_mib"], 1: ["batch_size", "sizes", "threads"], ROWS: ["calls"], SMALLEST_SIDE: ["largest_side"]})


def _file(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


FORMS: tuple[Callable[[np.ndarray], Any], ...] = (
    Image.fromarray,
    np.asarray,
    lambda array: torch.from_numpy(array).permute(2, 0, 1),
    _file,
    lambda array: io.BytesIO(_file(array)),
)
"""Forms of an image, each from an array (height, width, 3) uint8."""


def resident_mib() -> float:
    """Resident memory of this process in MiB, without garbage."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def measure(predict: Callable[[list[Any]], Any], arguments: MemoryArguments) -> list[tuple[int, float]]:
    """Call the pipeline many times.

    Returns:
        Number of calls so far and resident memory in MiB, after every tenth of them.
    """
    rng = np.random.default_rng(arguments.seed)
    sizes = rng.integers(SMALLEST_SIDE, arguments.largest_side, (arguments.sizes, 2), endpoint=True)
    measured = []
    for call in range(1, arguments.calls + 1):
        contents = rng.integers(0, 256, (arguments.batch_size, *sizes[call % len(sizes)], 3), np.uint8)
        predict([FORMS[(call + number) % len(FORMS)](array) for number, array in enumerate(contents)])
        if call * ROWS // arguments.calls > (call - 1) * ROWS // arguments.calls:
            measured.append((call, resident_mib()))
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns 1 if memory grew beyond the limit.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(MemoryArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    torch.set_num_threads(arguments.threads)
    predict = pipeline("multitask-vision", model=arguments.model)
    keywords = {} if arguments.tasks is None else {"tasks": arguments.tasks}
    before = resident_mib()
    measured = measure(lambda images: predict(images, batch_size=len(images), **keywords), arguments)
    grown = measured[-1][1] - measured[0][1]
    print(f"{arguments.calls} calls with {arguments.batch_size} image(s), torch {torch.__version__}, {platform.machine()}\n")
    print(markdown_table(["calls", "MiB"], [["0", f"{before:.1f}"], *([f"{call}", f"{mib:.1f}"] for call, mib in measured)]))
    print(f"\n{grown:+.1f} MiB after the first {measured[0][0]} calls; the limit is {arguments.limit_mib:g}")
    return int(grown > arguments.limit_mib)


if __name__ == "__main__":
    sys.exit(main())
