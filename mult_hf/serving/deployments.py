"""Deploy the web application and the model on Ray Serve: one process that answers requests, and one process per copy of the model."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette

from mult_hf.data.ray_cluster import Cluster, import_ray

from .app import RETRY_SECONDS, PredictionService
from .batching import Prediction, Query
from .model import batched_model
from .requests import HttpError
from .settings import ServerSettings

import_ray("serve", "the server")
from ray import serve  # noqa: E402  after the call that switches off its usage reports
from ray.exceptions import RayError  # noqa: E402
from ray.serve.config import BackpressureConfig  # noqa: E402
from ray.serve.schema import ApplicationStatus, LoggingConfig  # noqa: E402

APPLICATION = "mult"

OBJECT_STORE_BYTES = 300_000_000
"""Shared memory of a cluster on this machine: it holds inputs and outputs of the model on their way between processes."""

HEADROOM = 100
"""Requests beyond the queue that the application still answers itself, including those for /health and /metrics."""

SENDING_SECONDS = 1.0
"""Seconds for the last answers to pass from the application through Ray Serve's proxy to the client; the proxy ends without waiting."""

CONNECTIONS = 1000
"""Further requests, beyond the headroom, that wait for the application; any others get 503 from Ray Serve."""


class ModelReplica:
    """A copy of the model, which predicts the images of several requests together."""

    def __init__(self, settings: ServerSettings) -> None:
        self.model = batched_model(settings)

    async def __call__(self, query: Query) -> Prediction:
        """Predict one image, in a batch with others that arrive at about the same time."""
        return await self.model(query)


@serve.ingress()
class WebReplica:
    """The web application."""

    def __init__(self, settings: ServerSettings, model: Any) -> None:
        self.model = model
        self.service = PredictionService(settings.processor(), settings.offered(), settings.service, self._predict, self._is_healthy)

    def __serve_build_asgi_app__(self) -> Starlette:
        return self.service.application()

    async def _predict(self, query: Query) -> Prediction:
        try:
            return await self.model.remote(query)
        except RayError as error:  # the model's process has ended, and Ray starts another one
            raise HttpError(503, f"the model is not available: {type(error).__name__}; try again", {"Retry-After": "10"}) from None

    async def drain(self) -> None:
        """Refuse new requests, and wait until the answers to those in progress have left."""
        await self.service.drain()
        await asyncio.sleep(SENDING_SECONDS)

    async def _is_healthy(self) -> bool:
        status = await asyncio.to_thread(serve.status)
        application = status.applications.get(APPLICATION)
        return application is not None and application.status == ApplicationStatus.RUNNING


@contextmanager
def deployed(settings: ServerSettings, cluster: Cluster) -> Iterator[None]:
    """Serve for the duration of a `with` block; at its end, requests in progress are answered first.

    On a cluster that this process started, the server's processes end with the cluster; Ray Serve itself would wait for processes that are
    still starting.

    Args:
        settings: what to serve.
        cluster: the cluster that this process is connected to.
    """
    logs = LoggingConfig(enable_access_log=False, log_level="WARNING")
    try:
        serve.start(http_options={"host": settings.host, "port": settings.port}, logging_config=logs)
        web = serve.run(_application(settings, cluster), name=APPLICATION, route_prefix="/", logging_config=logs)
        yield
        web.drain.remote().result(timeout_s=settings.service.timeout + 10)
    finally:
        if not cluster.is_ours:
            serve.shutdown()


def _application(settings: ServerSettings, cluster: Cluster) -> Any:
    """The two deployments, bound to each other."""
    deployment: Any = serve.deployment  # Ray's type hints describe it as a decorator with arguments
    stopping = {"graceful_shutdown_timeout_s": settings.service.timeout + 5, "graceful_shutdown_wait_loop_s": 0.2}
    model = deployment(ModelReplica).options(
        num_replicas=settings.copies,
        ray_actor_options={"num_gpus": 1} if cluster.gpus else {"num_cpus": settings.threads},
        max_ongoing_requests=2 * settings.batch_size,  # one batch gathers while another one is predicted
        **stopping,
    )
    web = deployment(WebReplica).options(
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=settings.service.queue_size + HEADROOM,
        max_queued_requests=CONNECTIONS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_SECONDS),
        **stopping,
    )
    return web.bind(settings, model.bind(settings))


__all__ = ["OBJECT_STORE_BYTES", "deployed"]
