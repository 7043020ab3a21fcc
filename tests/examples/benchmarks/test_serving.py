"""Proves that the load test notices answers that are lost or belong to another image."""

import asyncio
import io
import itertools

import httpx
import numpy as np
import pytest
from PIL import Image

from examples.benchmarks import serving
from examples.benchmarks.serving import Load, make_files

DEPTHS = [np.full((1, 2, 3), 1.0), np.full((1, 3, 2), 1.0), np.full((1, 2, 3), 2.0)]


def npz(depth):
    content = io.BytesIO()
    np.savez(content, depth=depth)
    return content.getvalue()


@pytest.fixture
def server(monkeypatch):
    """Replace the network by a function of the request's number, which is its content."""
    client = httpx.AsyncClient

    def install(answer):
        transport = httpx.MockTransport(lambda request: answer(int(request.content)))
        monkeypatch.setattr(serving.httpx, "AsyncClient", lambda **options: client(transport=transport))

    return install


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (lambda number: httpx.Response(200, content=npz(DEPTHS[number])), 0),
        (lambda number: httpx.Response(200, content=npz(DEPTHS[number] + 1e-4)), 0),
        (lambda number: httpx.Response(200, content=npz(DEPTHS[(number + 1) % 3])), 9),
        (lambda number: httpx.Response(200, content=npz(DEPTHS[0 if number == 2 else number])), 3),
        (lambda number: httpx.Response(503 if number == 1 else 200, content=npz(DEPTHS[number])), 3),
    ],
    ids=["right", "rounded otherwise", "each other's", "one of equal size", "lost"],
)
def test_answers_of_other_images_and_lost_ones_are_counted(server, answer, wrong):
    server(answer)
    load = Load("http://test", [b"0", b"1", b"2"], tasks="depth")
    assert asyncio.run(load.wrong(9, 2, DEPTHS)) == wrong
    assert sum(load.statuses.values()) == 9


def test_clients_send_for_the_given_time_and_only_answers_count(server):
    numbers = itertools.count()
    server(lambda _: httpx.Response(503 if next(numbers) % 2 else 200))
    load = Load("http://test", [b"0"])
    turn = asyncio.run(load.for_seconds(3, 0.3))
    assert load.statuses[503] > 0
    assert turn.images == load.statuses[200]
    assert turn.seconds >= 0.3
    assert asyncio.run(load.for_seconds(3, 0.1)).images == load.statuses[200] - turn.images, "a second turn is counted by itself"


def test_images_have_every_height_with_every_width():
    sizes = [Image.open(io.BytesIO(content)).size for content in make_files()]
    assert len(set(sizes)) == len(sizes) == len(serving.SIDES) ** 2
