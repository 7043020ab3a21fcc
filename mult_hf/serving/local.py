"""Serve in this process on uvicorn: the web application, and the model in a thread."""

import asyncio
from collections.abc import Callable

import uvicorn

from .app import PredictionService
from .model import batched_model
from .settings import ServerSettings

KEEP_ALIVE_SECONDS = 75
"""Time until an idle connection is closed; longer than the pauses of usual clients and reverse proxies."""

POLL_SECONDS = 0.02


def serve_here(settings: ServerSettings, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or an interrupt; then requests in progress are answered, and new connections refused.

    Args:
        settings: what to serve.
        ready: called when the port is open.
    """
    asyncio.run(_serve(settings, ready))


async def _serve(settings: ServerSettings, ready: Callable[[], None]) -> None:
    async def is_healthy() -> bool:
        return True  # the model is in this process

    service = PredictionService(settings.processor(), settings.offered(), settings.service, batched_model(settings), is_healthy)
    server = uvicorn.Server(
        uvicorn.Config(
            service.application(),
            host=settings.host,
            port=settings.port,
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(settings.service.timeout) + 5,
        )
    )
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(POLL_SECONDS)
    if server.started:
        ready()
    await serving


__all__ = ["serve_here"]
