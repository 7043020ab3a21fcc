"""Proves what the server does with several requests at once: limits of its queue, time limits, clients that leave, and its end."""

import asyncio
import io
import json
import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mult_hf.serving.app import CLIENT_CLOSED
from mult_hf.serving.batching import Batcher, Prediction
from support.http_requests import SMALL, TYPE, encoded, post


def together(service, calls):
    """Run `calls(client)`, a coroutine with an asynchronous client of the service."""

    async def run():
        transport = httpx.ASGITransport(service.application())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await calls(client)

    return asyncio.run(run())


def hold(service):
    """Let the model of a service answer only once the event that is returned is set."""
    release = asyncio.Event()

    async def waits(query):
        await release.wait()
        return Prediction({"depth": np.full((1, 1, 40, 40), 2, np.float32)}, 1)

    service.model = waits
    return release


def send(client, image, **options):
    return client.post("/predict", content=encoded(image), params=options, headers=TYPE)


def test_requests_beyond_the_queue_get_503_at_once_and_the_others_their_answers(serve, image):
    async def calls(client):
        release = hold(service)
        first = [asyncio.create_task(send(client, image, tasks="depth")) for _ in range(2)]
        while service.in_progress < 2:
            await asyncio.sleep(0.01)
        refused = [await send(client, image, tasks="depth") for _ in range(3)]
        release.set()
        answered = await asyncio.gather(*first)
        return refused, answered, await send(client, image, tasks="depth"), (await client.get("/metrics")).text

    service = serve(queue_size=2)
    refused, answered, later, metrics = together(service, calls)
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(503, "1")] * 3
    assert "2 requests wait or are being answered" in refused[0].json()["error"]
    assert [answer.status_code for answer in [*answered, later]] == [200] * 3
    for line in ('mult_requests_total{status="503"} 3.0', 'mult_requests_total{status="200"} 3.0', "mult_requests_in_progress 0.0"):
        assert line in metrics
    assert "mult_request_seconds_count 3.0" in metrics


def test_a_request_without_an_answer_in_time_gets_504_and_frees_its_place(serve, image):
    cancelled = []

    async def never(query):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def calls(client):
        return [await send(client, image) for _ in range(2)]

    service = serve(never, queue_size=1, timeout=0.3)
    answers = together(service, calls)
    assert [answer.status_code for answer in answers] == [504] * 2
    assert answers[0].json()["error"].startswith("there is no answer after 0.3 s; ")
    assert len(cancelled) == 2, "the model need not predict what nobody waits for"
    assert service.in_progress == 0


def test_concurrent_requests_of_mixed_sizes_get_their_own_answers(serve, processor):
    """The model returns each image's mean, 5 m further away, so an answer names its image."""

    async def mean(query):
        await asyncio.sleep(0.01 * np.random.default_rng().random())
        return Prediction({"depth": np.full((1, 1, 40, 40), 5 + query.pixel_values.mean(), np.float32)}, 1)

    async def calls(client):
        images = [Image.new("RGB", (40 + number, 80 - number), (5 * number,) * 3) for number in range(40)]
        answers = await asyncio.gather(*[send(client, image, tasks="depth", format="npz") for image in images])
        return images, answers

    images, answers = together(serve(mean), calls)
    for image, answer in zip(images, answers):
        with np.load(io.BytesIO(answer.content)) as arrays:
            depth = arrays["depth"]
        assert depth.shape == (1, image.height, image.width)
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        np.testing.assert_allclose(depth, np.full(depth.shape, 5 + pixels.mean()), atol=1e-4)  # sums in another order


def test_an_image_whose_client_leaves_while_it_waits_is_not_predicted(serve):
    predicted, go = [], threading.Event()

    def model(queries):
        predicted.extend(query.pixel_values.shape[1:] for query in queries)
        assert go.wait(60)
        return [Prediction({"depth": np.full((1, 1, 40, 40), 2, np.float32)}, len(queries)) for query in queries]

    async def post_and_leave(application, leave):
        """Send an image; returns the statuses that the server sends."""
        body, statuses = [{"type": "http.request", "body": SMALL}], []

        async def receive():
            if body:
                return body.pop()
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            statuses.append(message.get("status"))

        headers = [(b"content-type", b"image/png")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b"tasks=depth"}
        await application(scope, receive, send)
        return statuses[0]

    async def run():
        batcher = Batcher(model, size=8, wait=0.0)
        service = serve(batcher)
        application, stays, leaves = service.application(), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(post_and_leave(application, stays))
        while not predicted:  # the model is busy from now on
            await asyncio.sleep(0.001)
        second = asyncio.create_task(post_and_leave(application, leaves))
        while not batcher.waiting:
            await asyncio.sleep(0.001)
        leaves.set()
        statuses = [await second]
        third = asyncio.create_task(post_and_leave(application, stays))
        while batcher.waiting < 1:
            await asyncio.sleep(0.001)
        go.set()
        return [*statuses, await first, await third], service.in_progress

    assert asyncio.run(asyncio.wait_for(run(), 60)) == ([CLIENT_CLOSED, 200, 200], 0)  # a broken server would not answer
    assert len(predicted) == 2


def test_a_draining_server_answers_what_is_in_progress_and_refuses_the_rest(serve, image):
    async def calls(client):
        release = hold(service)
        first = asyncio.create_task(send(client, image, tasks="depth"))
        while not service.in_progress:
            await asyncio.sleep(0.01)
        draining = asyncio.create_task(service.drain())
        await asyncio.sleep(0)
        refused, health = await send(client, image), await client.get("/health")
        assert not draining.done()
        release.set()
        await draining
        return refused, health, await first

    service = serve()
    refused, health, answered = together(service, calls)
    assert (refused.status_code, health.status_code, answered.status_code) == (503, 503, 200)
    assert refused.json()["error"].startswith("the server is stopping")


@pytest.mark.parametrize(("healthy", "status"), [(True, 200), (False, 503)])
def test_health_is_that_of_the_model(serve, healthy, status):
    assert TestClient(serve(healthy=healthy).application()).get("/health").status_code == status


def test_health_is_answered_while_the_queue_is_full(serve):
    service = serve(queue_size=1)
    service.in_progress = 1
    client = TestClient(service.application())
    assert [client.get("/health").status_code, client.post("/predict", content=SMALL, headers=TYPE).status_code] == [200, 503]


def test_only_offered_tasks_are_answered(serve, network, image):
    service = serve()
    service.choices = replace(service.choices, tasks=["depth"])
    client = TestClient(service.application())
    assert post(client, image).headers["content-type"] == "image/png"
    assert json.loads(post(client, image, tasks="normals").content)["error"].startswith("tasks is 'normals'; choose from depth")
