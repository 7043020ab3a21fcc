"""Inject faults into small real runs of training, prediction and rendering, and report what was lost.

    python examples/tools/faults.py                                     # every fault, 5 times each
    python examples/tools/faults.py --faults kill fill --programs train --repeats 20

| fault | what happens at a random moment of a run |
|---|---|
| kill | signal 9 to the program and its workers, as from the kernel when memory runs out |
| stop | in turn Ctrl-C, SIGTERM, and SIGSTOP with SIGCONT half a second later |
| fill | the system refuses to write more than 2 KiB to any file (`RLIMIT_FSIZE`), as on a full disk |
| worker | signal 9 to one process that reads data |
| data | signal 9, and other rows in the data set when the run is resumed |
| two | a second run is started in the same directory |

Then the same command is given again, as a user would, and its result is compared with that of an undisturbed run. A Markdown table goes
to the standard output; the exit status is 1 if anything was lost for good. Needs Linux, and `mult-hf[train]`; rendering `mult-hf[rooms]`.
"""

import contextlib
import fcntl
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import psutil
import pyarrow.parquet as parquet
from PIL import Image

from mult_hf import ROOMS_TINY_CHECKPOINT
from mult_hf.cli import predict, train  # noqa: F401  so that the processes of the runs need not import them again
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.cli.main import main as mult_hf
from mult_hf.data.markdown import markdown_table

SAMPLE = Path(__file__).resolve().parents[2] / "examples/data/rooms-sample"
IMAGES, ROWS, ROOMS = 12, 6, 4
WRITABLE_BYTES, PIPE_BYTES = 2**11, 2**20
PROGRESS_BAR = re.compile(r"^.*\d+(/\d+)?\w* \[[^\]]*\]")


@dataclass
class FaultArguments:
    """Which faults are injected into what; each field is a flag."""

    faults: list[str] = flag(["kill", "stop", "fill", "worker", "data", "two"], "faults to inject")
    programs: list[str] = flag(["train", "stream", "predict", "render"], "programs to inject them into")
    repeats: int = flag(5, "tries of each fault")
    seed: int = flag(0, "seed of the moments")
    max_steps: int = flag(8, "steps of a training run")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ["repeats", "max_steps"]})
        for name, allowed in (("faults", FAULTS), ("programs", PROGRAMS)):
            if wrong := [word for word in getattr(self, name) if word not in allowed]:
                raise ValueError(f"--{name} has {wrong}; allowed: {', '.join(allowed)}")


# --- what is run


@dataclass(frozen=True)
class Program:
    """A command whose result can be compared.

    Args:
        argv: the command line; the output directory follows.
        results: pattern of the files that must not depend on interruptions.
        safe: pattern of what an unfinished run need not do again, one file or folder per unit of work.
        reached: number of units that a run has worked on in its output directory.
        work: number and name of the units.
        inputs: folder that the program reads, and what puts other contents there; None if it reads nothing.
    """

    argv: list[str]
    results: str
    safe: str
    reached: Callable[[Path], int]
    work: tuple[int, str]
    inputs: tuple[str, Callable[[Path], None]] | None = None

    def result(self, output: Path) -> list[Any]:
        """Contents of the result files, and the log without times."""
        log = [{key: value for key, value in entry.items() if key != "seconds_per_step"} for entry in _log(output)]
        return [*((path.name, path.read_bytes()) for path in sorted(output.glob(self.results))), *log]


def _log(output: Path) -> list[dict[str, Any]]:
    path = output / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")] if path.is_file() else []


def programs(work: Path, max_steps: int) -> dict[str, Program]:
    """Training on stored and streamed rows with everything random or stateful; prediction with rooms-tiny; rendering of rooms."""
    model = "--image_size 32 --embed_dim 8 --depths 1 1 1 1 --window_size 4 --drop_path_rate 0.3 --ema_decay 0.9 --batch_size 2"
    run = f"--panel_rows 1 --num_workers 1 --logging_steps 1 --save_steps 2 --cpu_threads 1 --resume latest --max_steps {max_steps}"
    flags = "--image_size 64 --batch_size 1 --num_workers 1 --cpu_threads 1"  # equal batches give equal bits on one machine
    rooms = f"--rooms {ROOMS} --validation_rooms 1 --test_rooms 1 --views 1 --size 32 --spp 1 --rooms_per_shard 1 --variant scalar_rgb"
    training = Program(
        ["train", "--dataset", str(work / "data"), *model.split(), *run.split(), "--output_dir"],
        results="model.safetensors",
        safe="checkpoints/checkpoint-????????",
        reached=lambda output: max((entry["step"] for entry in _log(output)), default=0),
        work=(max_steps, "steps"),
        inputs=("data", lambda folder: write_rows(folder, first=ROWS)),
    )
    # Two workers, each with its own row groups, and windows that end between two checkpoints.
    streaming = ["--streaming", "--num_workers", "2", "--shuffle_window", "3", "--output_dir"]
    return {
        "train": training,
        "stream": replace(training, argv=[*training.argv[:-1], *streaming]),
        "predict": Program(
            ["predict", "--model", ROOMS_TINY_CHECKPOINT, "--inputs", str(work / "images"), *flags.split(), "--output_dir"],
            results="maps/*/*.png",
            safe="sources/*.txt",
            reached=lambda output: len({path.name for path in output.glob("maps/*/*.png")}),
            work=(IMAGES, "images"),
            inputs=("images", lambda folder: write_images(folder, first=IMAGES)),
        ),
        "render": Program(
            ["render", "rooms", *rooms.split()],
            results="*.parquet",
            safe="[!.]*.parquet",
            reached=lambda output: len([*output.glob("*.parquet*")]),
            work=(ROOMS, "rooms"),
        ),
    }


PROGRAMS = ("train", "stream", "predict", "render")


def write_rows(folder: Path, first: int = 0) -> None:
    """Make a data set of some rows of each split of the Rooms sample, from a row on."""
    folder.mkdir(exist_ok=True)
    shutil.copy(SAMPLE / "README.md", folder)
    for path in SAMPLE.glob("*.parquet"):
        parquet.write_table(parquet.read_table(path, use_threads=False).slice(first, ROWS), folder / path.name, row_group_size=2)


def write_images(folder: Path, first: int = 0) -> None:
    """Make a folder of images of the sample, from a row on."""
    folder.mkdir(exist_ok=True)
    table = parquet.read_table(next(SAMPLE.glob("train-*.parquet")), columns=["image"], use_threads=False)
    for number, cell in enumerate(table["image"].slice(first, IMAGES).to_pylist()):
        Image.open(io.BytesIO(cell["bytes"])).resize((96, 80)).save(folder / f"{number:02d}.png")


class Run:
    """A command of `mult-hf` in a process and a process group of its own."""

    def __init__(self, argv: Sequence[str]) -> None:
        # A pipe, because a program that may not write to files shall still say so; it holds all that a small run prints.
        self._messages, end = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(self._messages, False)
        # Forked, since a new interpreter spends most of a short run on imports. This process computes nothing, so it has no threads.
        self.process = multiprocessing.get_context("fork").Process(target=_run, args=(list(argv), end))
        self.process.start()
        os.close(end)
        while self.process.is_alive() and os.getpgid(self.process.pid) != self.process.pid:
            time.sleep(0.001)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, if it is alive."""
        if self.process.is_alive():
            os.killpg(self.process.pid, number)

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit status; None if the run is alive after so many seconds."""
        self.process.join(seconds)
        return self.process.exitcode

    def said(self) -> str:
        """The last line that the program printed, without progress bars."""
        text = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._messages, PIPE_BYTES):
                text += part
        # An error may stand at the end of a progress bar's line.
        lines = [PROGRESS_BAR.sub("", line.split("\r")[-1]).strip() for line in text.decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "nothing")


def _run(argv: list[str], messages: int) -> None:
    os.setsid()
    os.dup2(messages, 1)
    os.dup2(messages, 2)
    sys.stdout.reconfigure(line_buffering=True)  # else what was printed first would come after the error
    sys.exit(mult_hf(argv))


# --- faults


@dataclass(frozen=True)
class Try:
    """What a fault did to one run."""

    again: int  # units of work that had been begun and were done again
    said: str  # the last line of the disturbed run, or of the one that was refused
    equal: bool  # whether the result is that of an undisturbed run


class Bench:
    """A program with its undisturbed result and time, the directory where runs are made, and the source of random moments."""

    def __init__(self, program: Program, work: Path, moments: random.Random) -> None:
        self.program, self.work, self.moments = program, work, moments
        started, output = time.monotonic(), self.new_output()
        run = self.start(output)
        if run.wait() != 0:
            raise RuntimeError(f"{program.argv[0]} fails without a fault: {run.said()}")
        self.seconds, self.expected = time.monotonic() - started, program.result(output)

    def new_output(self) -> Path:
        """An output directory for one try."""
        return Path(tempfile.mkdtemp(dir=self.work)) / "out"

    def start(self, output: Path) -> Run:
        """Start the program."""
        return Run([*self.program.argv, str(output)])

    def begin(self, *, with_safe_work: bool = False) -> tuple[Run, Path]:
        """Start the program in a new place, and wait: for a random moment, or until there is something to lose."""
        output = self.new_output()
        run = self.start(output)
        if not with_safe_work:
            run.wait(self.moments.uniform(0.1, 0.95) * self.seconds)
        while with_safe_work and run.process.is_alive() and not [*output.glob(self.program.safe)]:
            time.sleep(0.005)
        return run, output

    def finish(self, output: Path, disturbed: Run) -> Try:
        """Give the same command again, and compare."""
        disturbed.wait()
        safe = [path.name for path in output.glob(self.program.safe)]
        # A checkpoint's number counts the steps before it.
        kept = max((int(name[-8:]) for name in safe), default=0) if self.program.argv[0] == "train" else len(safe)
        reached, again = self.program.reached(output), self.start(output)
        equal = again.wait() == 0 and self.program.result(output) == self.expected
        return Try(max(0, reached - kept), disturbed.said() + ("" if equal else f"; then: {again.said()}"), equal)


def kill(bench: Bench, number: int) -> Try:
    """Signal 9 to the whole group."""
    run, output = bench.begin()
    run.signal(signal.SIGKILL)
    return bench.finish(output, run)


def stop(bench: Bench, number: int) -> Try:
    """Ctrl-C, SIGTERM and a pause, in turn."""
    run, output = bench.begin()
    chosen = (signal.SIGINT, signal.SIGTERM, signal.SIGSTOP)[number % 3]
    run.signal(chosen)
    time.sleep(0.5 * (chosen == signal.SIGSTOP))
    run.signal(signal.SIGCONT)
    return bench.finish(output, run)


def fill(bench: Bench, number: int) -> Try:
    """No file may grow beyond a small size from a random moment on."""
    run, output = bench.begin()
    if run.process.is_alive():
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (WRITABLE_BYTES, WRITABLE_BYTES))
    return bench.finish(output, run)


def worker(bench: Bench, number: int) -> Try:
    """Signal 9 to a process that reads data."""
    run, output = bench.begin(with_safe_work=True)
    with contextlib.suppress(psutil.NoSuchProcess):  # the run may just have ended
        for process in psutil.Process(run.process.pid).children()[:1]:
            process.kill()
    return bench.finish(output, run)


def data(bench: Bench, number: int) -> Try:
    """Other rows or images when the run is resumed; the result counts once they are put back."""
    run, output = bench.begin(with_safe_work=True)
    run.signal(signal.SIGKILL)
    run.wait()
    name, change = bench.program.inputs
    original = shutil.copytree(bench.work / name, output.parent / name)
    change(bench.work / name)
    changed = bench.start(output)
    changed.wait()
    shutil.copytree(original, bench.work / name, dirs_exist_ok=True)
    return bench.finish(output, changed)


def two(bench: Bench, number: int) -> Try:
    """A second run in the same directory; the first one must end as if it had been alone."""
    run, output = bench.begin(with_safe_work=True)
    run.signal(signal.SIGSTOP)  # so that it has not ended before the second one is ready
    second = bench.start(output)
    second.wait()
    run.signal(signal.SIGCONT)
    run.wait()
    return bench.finish(output, second)


FAULTS = {"kill": kill, "stop": stop, "fill": fill, "worker": worker, "data": data, "two": two}
OF_READERS = ("worker", "data", "two")
"""Faults of programs that read something and hold their directory; rendering does neither."""


COLUMNS = ("fault", "program", "tries", "what was lost", "last message", "same result when started again")


def row(fault: str, program: Program, tries: Sequence[Try]) -> list[str]:
    """One row of the table."""
    again, (count, unit) = sorted(each.again for each in tries), program.work
    said, equal = max((each.said for each in tries), key=len), sum(each.equal for each in tries)
    lost = f"{again[0]} to {again[-1]} of {count} {unit} done again" + ("" if equal == len(tries) else ", **results**")
    name = "train --streaming" if "--streaming" in program.argv else program.argv[0]
    return [fault, name, str(len(tries)), lost, said, f"{equal} of {len(tries)}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Inject the faults and print the table; returns 1 if a result differs from that of an undisturbed run."""
    arguments = parse_arguments(FaultArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0], prog="faults.py")
    moments, rows, is_whole = random.Random(arguments.seed), [], True
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        datasets.config.HF_DATASETS_CACHE = work / "cache"
        write_rows(work / "data")
        write_images(work / "images")
        for name in arguments.programs:
            bench = Bench(programs(work, arguments.max_steps)[name], work, moments)
            for fault in (fault for fault in arguments.faults if bench.program.inputs or fault not in OF_READERS):
                tries = [FAULTS[fault](bench, number) for number in range(arguments.repeats)]
                rows.append([cell.replace(str(work), "DIR") for cell in row(fault, bench.program, tries)])
                print(", ".join(rows[-1]), file=sys.stderr, flush=True)
                is_whole = is_whole and all(each.equal for each in tries)
    print(markdown_table(COLUMNS, rows))
    return int(not is_whole)


if __name__ == "__main__":
    sys.exit(main())
