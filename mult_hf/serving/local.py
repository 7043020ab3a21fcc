"""Serve in this process on uvicorn: the web application, and the model in a thread."""

import socket
from collections.abc import Callable

import uvicorn

from .app import PredictionService
from .model import batched_model
from .settings import ServerSettings

KEEP_ALIVE_SECONDS = 75
"""Time until an idle connection is closed; longer than the pauses of usual clients and reverse proxies."""


class _Server(uvicorn.Server):
    """Calls a function when the port is open."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()


def serve_here(settings: ServerSettings, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or an interrupt; then requests in progress are answered, and new connections refused.

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
