"""Load test of `mult-hf serve` on loopback: throughput and latency by number of clients, and whether any answer is lost or mixed up.

    python examples/benchmarks/serving.py                                     # a few minutes
    python examples/benchmarks/serving.py --requests 5000 --clients 1 4 16 32 --seconds 60

First the throughput of the pipeline is measured, in one process with as many threads as the server's model: batches of the same files,
from bytes to finished maps. Then the server starts. For each number of clients, every client sends images of mixed sizes for `--seconds`,
one request after another. CPU seconds per answer, by process, show what limits the throughput if other programs keep the processors busy.
Finally, `--requests` requests are sent, whose answers are compared with those of the pipeline, and then twice as many clients as the queue
takes send requests, some of which must get 503. Prints Markdown tables.
"""

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
import torch
from PIL import Image
from transformers import pipeline

from mult_hf import DEFAULT_CHECKPOINT
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "docs/images/living-room.jpg"
SIDES = (96, 128, 160, 224, 320, 480)
"""Sides of the images in pixels; every height occurs with every width."""

ROLES = {"ModelReplica": "model", "WebReplica": "web"}
"""Names of processes, by a part of their command lines; the others are Ray's own."""

STARTUP_SECONDS = 240
TOLERANCE = 2e-3
"""Largest difference in metres between the depth of an answer and the pipeline's; rounding depends on the other images of a batch."""


@dataclass
class BenchmarkArguments:
    """Settings of the load test; each field is a flag."""

    model: str = flag(DEFAULT_CHECKPOINT, "directory or Hub id of the model")
    clients: list[int] = flag([1, 4, 16, 32], "numbers of clients that send requests at the same time; one row each")
    seconds: float = flag(20.0, "seconds per row")
    requests: int = flag(500, "requests whose answers are compared with those of the pipeline")
    tasks: str = flag("depth", "tasks of each request, separated by commas")
    format: str = flag("png", "format of the answers to the clients", choices=("png", "npz", "json"))
    batch_size: int = flag(8, "images per batch, of pipeline and server")
    queue_size: int = flag(64, "the server's queue")
    threads: int = flag(1, "threads of the model")
    output: Path | None = flag(None, "JSON file for all results")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ("clients", "requests", "batch_size", "queue_size", "threads"), 0.1: ("seconds",)})


def make_files() -> list[bytes]:
    """A file for every height and width: other parts of one photograph, so that every answer differs."""
    image = Image.open(IMAGE).convert("RGB")
    random = np.random.default_rng(0)
    files = []
    for height in SIDES:
        for width in SIDES:
            left, top = (int(random.integers(0, side // 2)) for side in image.size)
            part = image.crop((left, top, left + image.width // 2, top + image.height // 2)).resize((width, height))
            content = io.BytesIO()
            part.save(content, "JPEG", quality=90)
            files.append(content.getvalue())
    return files


class Baseline(NamedTuple):
    """Results of the pipeline.

    Args:
        throughput: images per second.
        cpu_seconds: CPU seconds per image.
        depths: depth of each file, (1, height, width) metres.
    """

    throughput: float
    cpu_seconds: float
    depths: list[np.ndarray]


def measure_pipeline(arguments: BenchmarkArguments, files: Sequence[bytes]) -> Baseline:
    """Predict the files in batches in this process, for so many seconds, up to the finished maps of the requested tasks."""
    import mult_hf  # noqa: F401  registers the pipeline

    torch.set_num_threads(arguments.threads)
    predict: Any = pipeline("multitask-vision", model=arguments.model, device="cpu")  # type: ignore[call-overload]
    options = {"tasks": arguments.tasks.split(","), "batch_size": arguments.batch_size}
    depths = [results["depth"]["prediction"].numpy() for results in predict(list(files), tasks=["depth"], batch_size=1)]
    started, cpu, done = time.monotonic(), time.process_time(), 0
    while time.monotonic() - started < arguments.seconds:
        for results in predict(list(files), **options):
            for maps in results.values():
                maps["prediction"]
        done += len(files)
    return Baseline(done / (time.monotonic() - started), (time.process_time() - cpu) / done, depths)


class Server:
    """The server's process."""

    def __init__(self, arguments: BenchmarkArguments, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}", log
        flags = {
            "model": arguments.model, "port": port, "batch_size": arguments.batch_size, "queue_size": arguments.queue_size,
            "cpu_threads": arguments.threads, "timeout": 120,
        }  # fmt: skip
        argv = [sys.executable, "-m", "mult_hf", "serve", *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(argv, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: if it does not start.
        """
        deadline = time.monotonic() + STARTUP_SECONDS
        while "\nserving " not in f"\n{self.log.read_text()}":
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {self.log.read_text()[-1000:]}")
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def memory(self) -> float:
        """MiB of all its processes, without what they share."""
        return sum(process.memory_full_info().uss for process in self.processes()) / 2**20

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds so far: of the model's process, of the one that reads and answers requests, and of Ray's."""
        seconds = dict.fromkeys((*ROLES.values(), "Ray"), 0.0)
        for process in self.processes():
            name = " ".join(process.cmdline())
            role = next((role for part, role in ROLES.items() if part in name), "Ray")
            seconds[role] += sum(process.cpu_times()[:2])
        return seconds

    def stop(self) -> tuple[int, float]:
        """Stop it by SIGTERM; its exit status and the seconds until its end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=120), time.monotonic() - started
        finally:
            self.process.kill()


class Load:
    """Clients of a server.

    Args:
        url: its address.
        files: images to send.
        options: query parameters.
    """

    def __init__(self, url: str, files: Sequence[bytes], **options: str) -> None:
        self.url, self.files, self.options = url, files, options
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()

    async def send(self, client: httpx.AsyncClient, number: int) -> httpx.Response:
        """Send one image."""
        started = time.monotonic()
        content = self.files[number % len(self.files)]
        answer = await client.post(f"{self.url}/predict", params=self.options, content=content, headers={"content-type": "image/jpeg"})
        self.seconds.append(time.monotonic() - started)
        self.statuses[answer.status_code] += 1
        return answer

    async def for_seconds(self, clients: int, seconds: float) -> float:
        """Have this many clients send one request after another; returns answers per second."""
        numbers, started = count(), time.monotonic()

        async def one(client: httpx.AsyncClient) -> None:
            while time.monotonic() - started < seconds:
                await self.send(client, next(numbers))

        async with httpx.AsyncClient(timeout=180, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(one(client) for _ in range(clients)))
        return self.statuses[200] / (time.monotonic() - started)

    async def wrong(self, requests: int, clients: int, depths: Sequence[np.ndarray]) -> int:
        """Send so many requests, and count those whose depth is not that of their image."""
        numbers, wrong = iter(range(requests)), 0

        async def one(client: httpx.AsyncClient) -> None:
            nonlocal wrong
            for number in numbers:
                answer = await self.send(client, number)
                wrong += answer.status_code != 200 or not _is_depth(answer.content, depths[number % len(depths)])

        async with httpx.AsyncClient(timeout=180, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(one(client) for _ in range(clients)))
        return wrong


def _is_depth(content: bytes, depth: np.ndarray) -> bool:
    with np.load(io.BytesIO(content)) as arrays:
        found = arrays["depth"]
    return found.shape[-2:] == depth.shape[-2:] and bool(np.abs(found - depth).max() < TOLERANCE)


def measure_server(arguments: BenchmarkArguments, files: Sequence[bytes], baseline: Baseline, log: Path) -> dict[str, Any]:
    """Start the server, load it, stop it; returns all results."""
    server = Server(arguments, log)
    try:
        server.wait()
        asyncio.run(Load(server.url, files, tasks=arguments.tasks).for_seconds(8, 3))  # first requests take longer
        curve = []
        for clients in arguments.clients:
            load = Load(server.url, files, tasks=arguments.tasks, format=arguments.format)
            before_cpu = server.cpu_seconds()
            throughput = asyncio.run(load.for_seconds(clients, arguments.seconds))
            cpu = [(after - before_cpu[role]) / load.statuses[200] for role, after in server.cpu_seconds().items()]
            quantiles = np.quantile(load.seconds, (0.5, 0.95))
            curve.append([clients, throughput, throughput / baseline.throughput, *quantiles, *cpu, dict(load.statuses)])
        check = Load(server.url, files, tasks="depth", format="npz")
        wrong = asyncio.run(check.wrong(arguments.requests, max(arguments.clients), baseline.depths))
        before = server.memory()
        flood = Load(server.url, files, tasks=arguments.tasks)
        asyncio.run(flood.for_seconds(2 * arguments.queue_size, arguments.seconds / 2))
        results = {"curve": curve, "wrong": wrong, "answers": dict(check.statuses), "flood": dict(flood.statuses)}
        results["memory_mib"] = [before, server.memory()]
    finally:
        status, seconds = server.stop()
    return {**results, "exit_status": status, "stop_seconds": seconds}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write; `argv` is the command line of this process by default."""
    arguments = parse_arguments(BenchmarkArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    files = make_files()
    baseline = measure_pipeline(arguments, files)
    busy = baseline.cpu_seconds * baseline.throughput
    print(
        f"pipeline, batches of {arguments.batch_size}: {baseline.throughput:.1f} images per second, {baseline.cpu_seconds:.3f} CPU s each"
    )
    print(f"this process had {busy:.0%} of a processor", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        results = measure_server(arguments, files, baseline, Path(folder) / "log.txt")
    headers = [
        "clients",
        "answers per second",
        "relative to pipeline",
        "median s",
        "95th percentile s",
        *(f"CPU s, {role}" for role in (*ROLES.values(), "Ray")),
        "by status",
    ]
    rows = [[str(clients), *(f"{number:.3g}" for number in numbers), str(statuses)] for clients, *numbers, statuses in results["curve"]]
    print(f"\n{markdown_table(headers, rows)}\n")
    print(f"{arguments.requests} requests compared: {results['wrong']} lost or wrong, by status {results['answers']}")
    print(f"{2 * arguments.queue_size} clients for a queue of {arguments.queue_size}: {results['flood']}")
    print("memory before and after it: {:.0f} and {:.0f} MiB".format(*results["memory_mib"]))
    print(f"SIGTERM: exit status {results['exit_status']} after {results['stop_seconds']:.1f} s")
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(
            json.dumps({"pipeline": {"throughput": baseline.throughput, "cpu_seconds": baseline.cpu_seconds}, **results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
