"""Serve in this process: the web application on uvicorn, and the model in a thread."""

import socket
from collections.abc import Callable

import uvicorn

from .app import PredictionService
from .model import batched_model
from .settings import ServerSettings

KEEP_ALIVE_SECONDS = 75
"""Seconds until an idle connection is closed; longer than usual clients and reverse proxies keep connections idle."""


class _Server(uvicorn.Server):
    """A server that calls a function when its port is open."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()


def serve_here(settings: ServerSettings, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then answer the requests in progress, and refuse new connections.

    Args:
        settings: what to serve.
        ready: called when the port is open.
    """

    async def is_healthy() -> bool:
        return True  # the model is in this process

    service = PredictionService(settings.processor(), settings.offered(), settings.service, batched_model(settings), is_healthy)
    config = uvicorn.Config(
        service.application(),
        host=settings.host,
        port=settings.port,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.service.timeout) + 5,
    )
    _Server(config, ready).run()  # on uvloop's event loop and httptools' parser, where they are installed


__all__ = ["serve_here"]
