"""Benchmark what a user waits for: the pipeline and `mult-hf predict`, from an image to maps, of one or several checkouts.

    python examples/benchmarks/end_to_end.py                                     # this checkout, images of 0.2, 3 and 12 megapixels
    python examples/benchmarks/end_to_end.py --checkouts . ../v0.1.0 --megapixels 12 --repeats 3

Each run is a process of its own with one thread, which first does the same with a small image, so that libraries and model are
loaded. The checkouts take turns, so that a slower machine affects all of them. Prints a Markdown table per size: the median of the CPU
seconds of a run, and the peak memory of its process.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "docs/images/living-room.jpg"
SMALL = (96, 128)  # height and width of the image that is predicted first
NOT_THERE = "-"  # in the table, for what a checkout cannot do


def look_at(results: dict[str, Any]) -> None:
    """Ask for every map and every image."""
    for maps in results.values():
        maps["prediction"], maps["image"]


def run_pipeline(*, look: bool = True, **options: Any) -> Callable[[list[str]], None]:
    """The pipeline, on one image after another."""
    import torch
    from transformers import pipeline

    import mult_hf  # noqa: F401  registers the pipeline

    torch.set_num_threads(1)
    predict: Any = pipeline("multitask-vision")  # type: ignore[call-overload]

    def run(paths: list[str]) -> None:
        for path in paths:
            results = predict(path, **options)
            if look:
                look_at(results)

    return run


def run_command(*flags: str) -> Callable[[list[str]], None]:
    """`mult-hf predict`, in this process."""
    from mult_hf.cli.predict import main

    def run(paths: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if main(["--inputs", *paths, "--output_dir", folder, "--cpu_threads", "1", *flags]) != 0:
                raise RuntimeError(f"mult-hf predict {' '.join(flags)} failed for an image")

    return run


CASES: dict[str, Callable[[], Callable[[list[str]], None]]] = {
    "pipeline, every map and image": run_pipeline,
    "pipeline, nothing looked at": lambda: run_pipeline(look=False),
    "pipeline, max_side=1024": lambda: run_pipeline(max_side=1024),
    "mult-hf predict": run_command,
    "mult-hf predict --max_side 1024": lambda: run_command("--max_side", "1024"),
    "mult-hf predict --tile 1024": lambda: run_command("--tile", "1024"),
    "mult-hf predict --tile 512": lambda: run_command("--tile", "512"),
}
"""What is measured: functions that load what is needed and return what is timed."""


@dataclass
class BenchmarkArguments:
    """Settings of the measurement; each field is a flag."""

    checkouts: list[Path] = flag([ROOT], "directories that hold a `mult_hf` to measure")
    megapixels: list[float] = flag([0.2, 3.0, 12.0], "sizes of the image; one table per size")
    images: int = flag(1, "images per run; seconds are given per image")
    cases: list[str] = flag([*CASES], "what to measure: names in the table, or parts of them")
    repeats: int = flag(3, "runs of each case and checkout")
    output: Path | None = flag(None, "JSON file for all results")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ("images", "repeats")})
        if min(self.megapixels, default=0) <= 0:
            raise ValueError(f"--megapixels is {self.megapixels}; give at least one number above 0")
        if not self.names:
            raise ValueError(f"--cases is {self.cases}; give names, or parts of them: {'; '.join(CASES)}")

    @property
    def names(self) -> list[str]:
        """The cases to measure."""
        return [name for name in CASES if any(part == name or (part not in CASES and part in name) for part in self.cases)]


def measure_here(case: str, paths: list[str]) -> dict[str, float]:
    """CPU seconds per image, and the peak of this process's memory in MiB; the first path is of the small image."""
    run = CASES[case]()
    run(paths[:1])
    start = time.process_time()
    run(paths[1:])
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"seconds": seconds / len(paths[1:]), "peak_mib": peak}


def measure(checkout: Path, case: str, paths: Sequence[Path]) -> dict[str, float] | None:
    """Results of a case in a new process with this checkout's `mult_hf`; None if it fails, as where a checkout lacks a flag."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--run", case, *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=checkout)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    print(f"{case}, {checkout}: {done.stderr.strip().rpartition(chr(10))[2]}", flush=True)
    return None


def make_images(folder: Path, megapixels: float, count: int) -> list[Path]:
    """The small image, and `count` files of this size, 4 : 3."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    image = Image.open(IMAGE).convert("RGB")
    paths = [folder / "small.jpg", *(folder / f"image-{number}.jpg" for number in range(count))]
    image.resize(SMALL[::-1]).save(paths[0], quality=90)
    large = image.resize((width, round(width * 3 / 4)), Image.Resampling.BICUBIC)
    for path in paths[1:]:
        large.save(path, quality=90)
    return paths


def compare(arguments: BenchmarkArguments, megapixels: float) -> dict[str, Any]:
    """Measure one size, print its table, and return the results of all runs."""
    runs: dict[str, dict[str, list[dict[str, float]]]] = {name: {str(each): [] for each in arguments.checkouts} for name in arguments.names}
    with tempfile.TemporaryDirectory() as folder:
        paths = make_images(Path(folder), megapixels, arguments.images)
        for _ in range(arguments.repeats):
            for name, by_checkout in runs.items():
                for checkout in arguments.checkouts:
                    result = measure(checkout, name, paths)
                    by_checkout[str(checkout)] += [] if result is None else [result]
    headers = ["case", *(f"{part}, {checkout}" for checkout in arguments.checkouts for part in ("s", "MiB"))]
    rows = [[name, *(cell for results in by_checkout.values() for cell in cells(results))] for name, by_checkout in runs.items()]
    print(f"\n{megapixels:g} megapixels\n\n{markdown_table(headers, rows)}", flush=True)
    return {"megapixels": megapixels, "runs": runs}


def cells(results: Sequence[dict[str, float]]) -> tuple[str, str]:
    """Median seconds, and the highest peak, of some runs."""
    if not results:
        return NOT_THERE, NOT_THERE
    return f"{statistics.median(each['seconds'] for each in results):.2f}", f"{max(each['peak_mib'] for each in results):.0f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write; `argv` is the command line of this process by default."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--run"]:  # in a process that `measure` started
        print(json.dumps(measure_here(argv[1], list(argv[2:]))))
        return
    arguments = parse_arguments(BenchmarkArguments, argv, __doc__.split("\n")[0])
    tables = [compare(arguments, megapixels) for megapixels in arguments.megapixels]
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"images": arguments.images, "tables": tables}, indent=2) + "\n")


if __name__ == "__main__":
    main()
