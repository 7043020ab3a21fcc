"""Load test of `mult-hf serve` on loopback: throughput and latency by number of clients, and whether any answer is lost or mixed up.

    python examples/benchmarks/serving.py                                     # a few minutes
    python examples/benchmarks/serving.py --requests 5000 --clients 1 4 16 32 --seconds 60

For each number of clients, the server and the pipeline take turns, so that other programs on the machine slow both. In the server's turn,
every client sends images of mixed sizes, one request after another. In the pipeline's turn, one process with as many threads as the
server's model predicts batches of the same files, from bytes to finished maps. CPU milliseconds per answer, by process, show what limits
the throughput. Finally, `--requests` requests are sent, whose answers are compared with those of the pipeline, and then twice as many
clients as the queue takes send requests, some of which must get 503. Prints Markdown tables.
"""

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import psutil
import torch
from PIL import Image
from transformers import pipeline

from mult_hf import ROOMS_TINY_CHECKPOINT
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "docs/images/living-room.jpg"
SIDES = (96, 128, 160, 224, 320, 480)
"""Sides of the images in pixels; every height occurs with every width."""

ROLES = {"mult_hf serve": "command", "WebReplica": "web", "ModelReplica": "model", "ProxyActor": "proxy"}
"""Names of processes, by a part of their command lines; the others are Ray's own. On Ray, the command itself only waits."""

STARTUP_SECONDS = 240
TOLERANCE = 2e-3
"""Largest difference in metres between the depth of an answer and the pipeline's; rounding depends on the other images of a batch."""


@dataclass
class BenchmarkArguments:
    """Settings of the load test; each field is a flag."""

    model: str = flag(ROOMS_TINY_CHECKPOINT, "directory or Hub id of the model")
    clients: list[int] = flag([1, 4, 16, 32], "numbers of clients that send requests at the same time; one row each")
    seconds: float = flag(20.0, "seconds per row, of the server and of the pipeline each")
    turns: int = flag(4, "turns of each in these seconds")
    requests: int = flag(500, "requests whose answers are compared with those of the pipeline")
    tasks: str = flag("depth", "tasks of each request, separated by commas")
    format: str = flag("png", "format of the answers to the clients", choices=("png", "npz", "json"))
    batch_size: int = flag(8, "images per batch, of pipeline and server")
    queue_size: int = flag(64, "the server's queue")
    threads: int = flag(1, "threads of the model")
    engine: str = flag("process", "engine of the server", choices=("process", "ray"))
    output: Path | None = flag(None, "JSON file for all results")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ("clients", "turns", "requests", "batch_size", "queue_size", "threads"), 0.1: ("seconds",)})


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


class Turn(NamedTuple):
    """What one of the two did in its turn.

    Args:
        images: number of images with finished maps.
        seconds: from the start of the turn to the last of them.
    """

    images: int
    seconds: float


class Baseline:
    """The pipeline in this process.

    Args:
        arguments: of the benchmark.
        files: images.
    """

    def __init__(self, arguments: BenchmarkArguments, files: Sequence[bytes]) -> None:
        import mult_hf  # noqa: F401  registers the pipeline

        torch.set_num_threads(arguments.threads)
        self.files = list(files)
        self.predict: Any = pipeline("multitask-vision", model=arguments.model, device="cpu")  # type: ignore[call-overload]
        self.options = {"tasks": arguments.tasks.split(","), "batch_size": arguments.batch_size}

    def depths(self) -> list[np.ndarray]:
        """Depth of each file, (1, height, width) metres."""
        return [results["depth"]["prediction"].numpy() for results in self.predict(self.files, tasks=["depth"], batch_size=1)]

    def for_seconds(self, seconds: float) -> Turn:
        """Predict the files in batches, up to the finished maps of the requested tasks."""
        started, done = time.monotonic(), 0
        while time.monotonic() - started < seconds:
            for results in self.predict(self.files, **self.options):
                for maps in results.values():
                    maps["prediction"]
            done += len(self.files)
        return Turn(done, time.monotonic() - started)


class Server:
    """The server's process."""

    def __init__(self, arguments: BenchmarkArguments, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}", log
        flags = {
            "model": arguments.model, "port": port, "batch_size": arguments.batch_size, "queue_size": arguments.queue_size,
            "cpu_threads": arguments.threads, "engine": arguments.engine, "timeout": 120,
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
        """CPU seconds so far, by role; those of Ray are of all its other processes."""
        seconds = dict.fromkeys((*ROLES.values(), "Ray"), 0.0)
        for process in self.processes():
            with suppress(psutil.Error):  # Ray starts and ends processes
                name = " ".join(process.cmdline())
                role = next((role for part, role in ROLES.items() if part in name), "Ray")
                seconds[role] += sum(process.cpu_times()[:2])
        return seconds

    def batches(self) -> tuple[float, float]:
        """Sum over all answers of the size of their batch, and the number of answers."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            text = answer.read().decode()
        found = {name: float(value) for name, value in re.findall(r"^mult_batch_images_(sum|count) (\S+)", text, re.MULTILINE)}
        return found["sum"], found["count"]

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

    def session(self) -> aiohttp.ClientSession:
        """Connections for any number of clients. Of the HTTP clients in Python, aiohttp takes the least time from the server."""
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=180), connector=aiohttp.TCPConnector(limit=0))

    async def send(self, session: aiohttp.ClientSession, number: int) -> tuple[int, bytes]:
        """Send one image; returns status and body of the answer."""
        started = time.monotonic()
        content, headers = self.files[number % len(self.files)], {"content-type": "image/jpeg"}
        async with session.post(f"{self.url}/predict", params=self.options, data=content, headers=headers) as answer:
            body = await answer.read()
        self.seconds.append(time.monotonic() - started)
        self.statuses[answer.status] += 1
        return answer.status, body

    async def for_seconds(self, clients: int, seconds: float) -> Turn:
        """Have this many clients send one request after another."""
        numbers, started, before = count(), time.monotonic(), self.statuses[200]

        async def one(session: aiohttp.ClientSession) -> None:
            while time.monotonic() - started < seconds:
                await self.send(session, next(numbers))

        async with self.session() as session:
            await asyncio.gather(*(one(session) for _ in range(clients)))
        return Turn(self.statuses[200] - before, time.monotonic() - started)

    async def wrong(self, requests: int, clients: int, depths: Sequence[np.ndarray]) -> int:
        """Send so many requests, and count those whose depth is not that of their image."""
        numbers, wrong = iter(range(requests)), 0

        async def one(session: aiohttp.ClientSession) -> None:
            nonlocal wrong
            for number in numbers:
                status, body = await self.send(session, number)
                wrong += status != 200 or not _is_depth(body, depths[number % len(depths)])

        async with self.session() as session:
            await asyncio.gather(*(one(session) for _ in range(clients)))
        return wrong


def _is_depth(content: bytes, depth: np.ndarray) -> bool:
    with np.load(io.BytesIO(content)) as arrays:
        found = arrays["depth"]
    return found.shape[-2:] == depth.shape[-2:] and bool(np.abs(found - depth).max() < TOLERANCE)


def measure_row(arguments: BenchmarkArguments, server: Server, baseline: Baseline, clients: int) -> dict[str, Any]:
    """The server and the pipeline in turns, with this many clients."""
    load = Load(server.url, baseline.files, tasks=arguments.tasks, format=arguments.format)
    turns: dict[str, list[Turn]] = {"pipeline": [], "server": []}
    cpu: Counter[str] = Counter()
    pipeline_cpu = client_cpu = 0.0
    before_batches = server.batches()
    for _ in range(arguments.turns):
        own = time.process_time()
        turns["pipeline"].append(baseline.for_seconds(arguments.seconds / arguments.turns))
        pipeline_cpu += time.process_time() - own
        before, own = server.cpu_seconds(), time.process_time()
        turns["server"].append(asyncio.run(load.for_seconds(clients, arguments.seconds / arguments.turns)))
        client_cpu += time.process_time() - own
        cpu.update({role: after - before[role] for role, after in server.cpu_seconds().items()})
    rates = {name: sum(turn.images for turn in of_one) / sum(turn.seconds for turn in of_one) for name, of_one in turns.items()}
    sizes, answers = (after - before for after, before in zip(server.batches(), before_batches))
    done = load.statuses[200]
    return {
        "clients": clients,
        "pipeline per second": rates["pipeline"],
        "answers per second": rates["server"],
        "ratio": rates["server"] / rates["pipeline"],
        "median s": float(np.quantile(load.seconds, 0.5)),
        "95th percentile s": float(np.quantile(load.seconds, 0.95)),
        "images per batch": sizes / answers,
        "CPU ms, pipeline": 1000 * pipeline_cpu / sum(turn.images for turn in turns["pipeline"]),
        **{f"CPU ms, {role}": 1000 * seconds / done for role, seconds in {**cpu, "clients": client_cpu}.items()},
        "turns": [[turn.images / turn.seconds for turn in pair] for pair in zip(*turns.values())],
        "by status": dict(load.statuses),
    }


def measure_server(arguments: BenchmarkArguments, baseline: Baseline, log: Path) -> dict[str, Any]:
    """Start the server, load it, stop it; returns all results."""
    depths = baseline.depths()
    server = Server(arguments, log)
    try:
        server.wait()
        asyncio.run(Load(server.url, baseline.files, tasks=arguments.tasks).for_seconds(8, 3))  # first requests take longer
        curve = [measure_row(arguments, server, baseline, clients) for clients in arguments.clients]
        check = Load(server.url, baseline.files, tasks="depth", format="npz")
        wrong = asyncio.run(check.wrong(arguments.requests, max(arguments.clients), depths))
        before = server.memory()
        flood = Load(server.url, baseline.files, tasks=arguments.tasks)
        asyncio.run(flood.for_seconds(2 * arguments.queue_size, arguments.seconds / 2))
        results = {"curve": curve, "wrong": wrong, "answers": dict(check.statuses), "flood": dict(flood.statuses)}
        results["memory_mib"] = [before, server.memory()]
    finally:
        status, seconds = server.stop()
    return {**results, "exit_status": status, "stop_seconds": seconds}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write; `argv` is the command line of this process by default."""
    arguments = parse_arguments(BenchmarkArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    baseline = Baseline(arguments, make_files())
    with tempfile.TemporaryDirectory() as folder:
        results = measure_server(arguments, baseline, Path(folder) / "log.txt")
    hidden = {"turns"} | {name for name in results["curve"][0] if all(row[name] == 0 for row in results["curve"])}
    headers = [name for name in results["curve"][0] if name not in hidden]
    rows = [[f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in headers] for row in results["curve"]]
    print(f"{markdown_table(headers, rows)}\n")
    for row in results["curve"]:
        pairs = ", ".join(f"{pipeline:.1f} and {server:.1f}" for pipeline, server in row["turns"])
        print(f"{row['clients']} clients, pipeline and server per second in each turn: {pairs}")
    print(f"{arguments.requests} requests compared: {results['wrong']} lost or wrong, by status {results['answers']}")
    print(f"{2 * arguments.queue_size} clients for a queue of {arguments.queue_size}: {results['flood']}")
    print("memory before and after it: {:.0f} and {:.0f} MiB".format(*results["memory_mib"]))
    print(f"SIGTERM: exit status {results['exit_status']} after {results['stop_seconds']:.1f} s")
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
