"""Serve a model over HTTP: an image in, maps out, with batches across requests (docs/serving.md).

    mult-hf serve
    mult-hf serve --model me/mult --host 0.0.0.0 --port 8000 --queue_size 128
    mult-hf serve --model me/mult --engine ray --copies 4
    curl -H 'Content-Type: image/jpeg' --data-binary @image.jpg 'http://127.0.0.1:8000/predict?tasks=depth' -o depth.png

SIGTERM and Ctrl-C stop the server after the requests in progress are answered.
"""

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mult_hf import DEFAULT_CHECKPOINT
from mult_hf.data.cores import available_cores, threads_per_process
from mult_hf.evaluation.cards import public_name

from .arguments import MAX_WORKERS, check_bounds, flag, parse_arguments
from .camera_flags import check_effect, check_field_of_view, field_of_view_flag
from .errors import CommandError

MAX_SIDE = 16_384

PROCESS, RAY = "process", "ray"
"""Values of --engine."""


@dataclass
class ServeArguments:
    """Model, address and limits; each field is a flag, and a key of the file given by `--config`."""

    model: str = flag(DEFAULT_CHECKPOINT, "directory or Hub id of the model; by default the one in the package")
    config: Path | None = flag(None, "YAML or JSON file of flags; flags on the command line take precedence")
    tasks: list[str] | None = flag(None, "names of the tasks to offer; by default all tasks of the model")
    field_of_view: float | None = field_of_view_flag("neither in their EXIF nor in the request")
    # Address
    host: str = flag("127.0.0.1", "address to listen on; 0.0.0.0 opens the server to everyone on the network, without a password")
    port: int = flag(8000, "port to listen on")
    engine: str = flag(
        PROCESS,
        "process: this process, on uvicorn; ray: Ray Serve, with several copies of the model, which are replaced if they end",
        choices=(PROCESS, RAY),
    )
    ray_address: str | None = flag(None, "address of the Ray cluster, such as auto; by default one is started on this machine")
    # Batches
    batch_size: int = flag(8, "largest number of images per batch")
    batch_wait: float = flag(5.0, "milliseconds that an image waits for others to join its batch")
    copies: int = flag(1, "copies of the model with --engine ray, each in a process, and on a GPU if there is one")
    cpu_threads: int | None = flag(None, "threads per copy without GPU; by default the available CPU cores, shared between copies")
    # Limits
    queue_size: int = flag(64, "requests that wait or are being answered; further ones get 503 with Retry-After")
    timeout: float = flag(30.0, "seconds from a request to its answer, after which it gets 504")
    max_bytes: int = flag(20_000_000, "largest image file; larger ones get 413")
    max_pixels: int = flag(50_000_000, "largest number of pixels, read from the image's header before decoding; larger ones get 413")
    max_side: int = flag(2048, "longest side of maps in pixels; maps of larger images are smaller")

    def __post_init__(self) -> None:
        counts = ["port", "batch_size", "copies", "cpu_threads", "queue_size", "max_bytes", "max_pixels", "max_side"]
        most: dict[float, list[str]] = {65_535: ["port"], MAX_WORKERS: ["copies"], 1024: ["batch_size"], 100_000: ["queue_size"]}
        most[MAX_SIDE] = ["max_side"]
        check_bounds(self, {1: counts, 0: ["batch_wait"], 0.1: ["timeout"]}, most)
        check_field_of_view(self.field_of_view)
        if self.engine != RAY and (self.ray_address or self.copies > 1):
            raise ValueError(f"--ray_address is {self.ray_address}, --copies is {self.copies}, without --engine {RAY}; add it")


def server_settings(arguments: ServeArguments) -> Any:
    """Check the model, and turn the flags into settings of the server.

    Raises:
        ImportError: if a package of the extra `serve` is missing.
        ValueError: if the model is damaged or lacks a task, or a flag has no effect on it.
        OSError: if there is no such model.
    """
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401

        from mult_hf.serving import app, settings
        from mult_hf.serving.requests import Limits

        if arguments.engine == RAY:
            from mult_hf.serving import deployments  # noqa: F401
    except ImportError as error:
        raise ImportError(f'the server needs further packages ({error}); install them with: pip install "mult-hf[serve]"') from error
    specs = settings.model_tasks(arguments.model, arguments.tasks)
    limits = Limits(arguments.max_bytes, arguments.max_pixels, arguments.max_side)
    served = settings.ServerSettings(
        model=str(Path(arguments.model).resolve()) if Path(arguments.model).is_dir() else arguments.model,
        service=app.ServiceSettings(public_name(arguments.model), arguments.queue_size, arguments.timeout, limits),
        host=arguments.host,
        port=arguments.port,
        tasks=arguments.tasks,
        batch_size=arguments.batch_size,
        batch_wait=arguments.batch_wait / 1000,
        copies=arguments.copies,
        threads=threads_per_process(arguments.cpu_threads, arguments.copies),
        entries=[spec.to_dict() for spec in specs.values()],
        field_of_view=arguments.field_of_view,
    )
    check_effect(arguments.field_of_view, arguments.model, served.processor(), served.offered().values())
    return served


def check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        CommandError: naming it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that were just closed do not count
            probe.bind(address)
    except OSError as error:
        raise CommandError(f"--host {host} --port {port} cannot be opened; choose another --port: {error}") from None


class StopSignals:
    """SIGTERM and Ctrl-C: they end the wait of a server that serves, and interrupt one that starts."""

    def __init__(self) -> None:
        self.is_serving = False
        self._received = threading.Event()

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle both signals during a `with` block."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Set the handlers, also in place of those that a library has set meanwhile."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, *_: Any) -> None:
        self._received.set()
        if not self.is_serving:
            raise KeyboardInterrupt

    def wait(self) -> None:
        """Wait for the first signal."""
        self._received.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or an interrupt; requests in progress are answered first.

    Args:
        argv: the command line; by default that of this process.

    Raises:
        ValueError: if a flag is out of bounds, or the model is damaged or lacks a task.
        OSError: if there is no such model.
        ImportError: if a package of the extra `serve` is missing.
        CommandError: if the port cannot be opened.
    """
    arguments = parse_arguments(ServeArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0], prog="mult-hf serve")
    stop = StopSignals()
    try:
        with stop.handled():  # from now on, because a container's first process ignores signals that it does not handle
            settings = server_settings(arguments)
            check_address(arguments.host, arguments.port)
            ENGINES[arguments.engine](arguments, settings, stop)
    except KeyboardInterrupt:
        print("stopped during the start, before any request", flush=True)


def _say_ready(settings: Any, stop: StopSignals) -> None:
    stop.is_serving = True
    print(f"serving {settings.service.name} on http://{settings.host}:{settings.port}; Ctrl-C or SIGTERM stops", flush=True)


def _serve_here(arguments: ServeArguments, settings: Any, stop: StopSignals) -> None:
    from mult_hf.serving.local import serve_here

    serve_here(settings, partial(_say_ready, settings, stop))


def _serve_on_ray(arguments: ServeArguments, settings: Any, stop: StopSignals) -> None:
    from mult_hf.data.ray_cluster import ray_cluster
    from mult_hf.serving.deployments import OBJECT_STORE_BYTES, deployed

    cpus = max(available_cores(), settings.threads * settings.copies)
    try:
        with ray_cluster(arguments.ray_address, cpus, "the server", "serve", OBJECT_STORE_BYTES) as cluster:
            stop.install()  # Ray has set handlers of its own, which end its processes and exit
            with deployed(settings, cluster):
                _say_ready(settings, stop)
                stop.wait()
                print("stopping: requests in progress are answered first", flush=True)
    except SystemExit:  # by such a handler, while the cluster starts
        raise KeyboardInterrupt from None


ENGINES: dict[str, Callable[[ServeArguments, Any, StopSignals], None]] = {PROCESS: _serve_here, RAY: _serve_on_ray}
"""Engines by the value of --engine."""
