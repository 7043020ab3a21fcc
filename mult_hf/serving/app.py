"""The web application: it admits, reads, decodes and answers requests, and awaits the model, which runs in a thread or another process.

| route | answer |
|---|---|
| `POST /predict` | the maps of an image |
| `GET /tasks` | the model's tasks with their units and encodings, and the limits |
| `GET /health` | 200 if requests can be predicted, 503 otherwise |
| `GET /metrics` | metrics in the text format of Prometheus |
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mult_hf.data.cores import available_cores
from mult_hf.inference.run import PreparedImage, finished_maps, prepare
from mult_hf.inference.stored_maps import stored_form
from mult_hf.model.image_processing_mult import MulTImageProcessor
from mult_hf.model.resizing import bounded_size
from mult_hf.model.tasks import TaskSpec

from .answers import ANSWERS, FORMATS, Answer
from .batching import Prediction, Query
from .requests import Choices, HttpError, Limits, PredictionRequest, open_request_image, read_request

RETRY_SECONDS = 1
"""Value of the header Retry-After when the queue is full."""

DRAIN_POLL_SECONDS = 0.05

CLIENT_CLOSED = 499
"""Status, in the metrics only, of requests whose client disconnected before the answer."""


@dataclass(frozen=True)
class ServiceSettings:
    """Name, queue and limits of a service.

    Args:
        name: public name of the model.
        queue_size: largest number of requests that wait or are being answered; any others get 503.
        timeout: seconds from the arrival of a request until it gets 504 instead of its maps.
        limits: limits of a request.
    """

    name: str
    queue_size: int = 64
    timeout: float = 30.0
    limits: Limits = field(default_factory=Limits)


class Metrics:
    """Metrics of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("mult_requests", "Answers to POST /predict by HTTP status", ["status"], registry=self.registry)
        self.in_progress = Gauge("mult_requests_in_progress", "Requests that wait or are being answered", registry=self.registry)
        self.seconds = Histogram("mult_request_seconds", "Seconds from a request to its maps", registry=self.registry)
        self.images = Histogram(
            "mult_batch_images", "Images in the batch of each answered request", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )


class PredictionService:
    """Answers requests for the maps of images.

    Args:
        processor: prepares the model's input and post-processes its output.
        specs: entries of the offered tasks.
        settings: limits and sizes.
        predict: coroutine function that calls the model; may raise [`HttpError`].
        is_healthy: coroutine function that returns whether the model can answer.
    """

    def __init__(
        self,
        processor: MulTImageProcessor,
        specs: Mapping[str, TaskSpec],
        settings: ServiceSettings,
        predict: Callable[[Query], Awaitable[Prediction]],
        is_healthy: Callable[[], Awaitable[bool]],
    ) -> None:
        self.processor, self.settings, self.model, self.is_healthy = processor, settings, predict, is_healthy
        self.specs = processor.task_specs
        self.stored = {task: stored_form(spec) for task, spec in specs.items()}
        self.choices = Choices(list(specs), FORMATS, settings.limits, processor.canonical_focal_length is not None)
        self.metrics = Metrics()
        self.in_progress = 0
        self.is_draining = False
        # One thread per CPU core decodes or encodes images; more would only need more memory.
        self.threads = ThreadPoolExecutor(available_cores(), thread_name_prefix="images")

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/predict", self.answer, methods=["POST"]),
            Route("/tasks", self.tasks),
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _unknown_route})

    async def answer(self, request: Request) -> Response:
        """Answer `POST /predict`; a failure is a JSON object with a message of one line under `error`."""
        if self.is_draining or self.in_progress >= self.settings.queue_size:  # before the body is read, so that memory stays bounded
            reason = "the server is stopping" if self.is_draining else f"{self.in_progress} requests wait or are being answered"
            message = f"{reason}; no more are accepted; try again in {RETRY_SECONDS} s"
            return self._counted(_error(HttpError(503, message, {"Retry-After": str(RETRY_SECONDS)})))
        self.in_progress += 1
        self.metrics.in_progress.set(self.in_progress)
        started = time.monotonic()
        try:
            answer = await asyncio.wait_for(self._maps(request), self.settings.timeout)
            self.metrics.seconds.observe(time.monotonic() - started)
            return self._counted(Response(answer.body, headers=answer.headers, media_type=answer.media_type))
        except HttpError as error:
            return self._counted(_error(error))
        except ClientDisconnect:
            return self._counted(Response(status_code=CLIENT_CLOSED))
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            return self._counted(_error(HttpError(504, f"there is no answer after {self.settings.timeout:g} s; try again later")))
        finally:
            self.in_progress -= 1
            self.metrics.in_progress.set(self.in_progress)

    async def drain(self) -> None:
        """Refuse new requests, and wait until those in progress are answered."""
        self.is_draining = True
        while self.in_progress:
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    async def _maps(self, request: Request) -> Answer:
        asked = await read_request(request, self.choices)
        return await _while_connected(request, self._maps_asked_for(asked))

    async def _maps_asked_for(self, asked: PredictionRequest) -> Answer:
        image = await self._in_thread(self._prepare, asked)
        prediction = await self.model(Query(image.pixel_values.numpy(), asked.tasks))
        if prediction.error:
            raise HttpError(500, f"the image cannot be predicted: {prediction.error}"[:300])
        self.metrics.images.observe(prediction.images)
        return await self._in_thread(self._encode, asked, image, prediction)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)

    def _prepare(self, asked: PredictionRequest) -> PreparedImage:
        try:
            image = open_request_image(asked.content, self.settings.limits)
            prepared = prepare(self.processor, "the image", image, focal_length=asked.focal_length)
        except ValueError as error:  # too small for the model
            raise HttpError(422, str(error)) from None
        return replace(prepared, image=Image.new("RGB", (1, 1)))  # saves memory: answers do not contain the image

    def _encode(self, asked: PredictionRequest, image: PreparedImage, prediction: Prediction) -> Answer:
        predictions = {task: torch.from_numpy(prediction.maps[task].copy()) for task in asked.tasks}  # copied, as Ray's are read-only
        try:
            maps = finished_maps(self.processor, image, predictions, bounded_size(image.size, asked.max_side), self.specs)
        except ValueError as error:  # a prediction is not finite
            raise HttpError(500, str(error)) from None
        has_metres = any(self.processor.depends_on_focal_length(self.specs[task]) for task in asked.tasks)
        return ANSWERS[asked.format](maps, self.stored, image.focal_length if has_metres else None)

    def _counted(self, response: Response) -> Response:
        self.metrics.requests.labels(status=str(response.status_code)).inc()
        return response

    async def tasks(self, request: Request) -> Response:
        """Answer `GET /tasks`."""
        return JSONResponse(
            {
                "model": self.settings.name,
                "tasks": [spec.to_dict() for spec in self.stored.values()],
                "formats": list(self.choices.formats),
                "assumed_field_of_view": self.processor.assumed_field_of_view,
                "limits": {**asdict(self.settings.limits), "queue_size": self.settings.queue_size, "timeout": self.settings.timeout},
            }
        )

    async def health(self, request: Request) -> Response:
        """Answer `GET /health`."""
        healthy = not self.is_draining and await self.is_healthy()
        return JSONResponse({"status": "ok" if healthy else "the model is not ready"}, status_code=200 if healthy else 503)

    async def show_metrics(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        return Response(generate_latest(self.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})


async def _while_connected(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Await the answer to a request whose body was read; if its client disconnects first, the work is cancelled.

    Raises:
        ClientDisconnect: if the client disconnects first.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for each in (working, leaving):
            each.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(error: HttpError) -> Response:
    return JSONResponse({"error": error.message}, status_code=error.status, headers=error.headers)


async def _unknown_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    message = f"{request.method} {request.url.path[:80]} is not served; use POST /predict, or GET /tasks, /health or /metrics"
    return _error(HttpError(status, message, getattr(error, "headers", None)))


__all__ = ["RETRY_SECONDS", "Metrics", "PredictionService", "ServiceSettings"]
