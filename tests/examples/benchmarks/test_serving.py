"""Proves that the load test notices answers that are lost or belong to another image."""

import asyncio
import io
import itertools

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from examples.benchmarks import serving
from examples.benchmarks.serving import Load, make_files

DEPTHS = [np.full((1, 2, 3), 1.0), np.full((1, 3, 2), 1.0), np.full((1, 2, 3), 2.0)]


def npz(depth):
    content = io.BytesIO()
    np.savez(content, depth=depth)
    return content.getvalue()


def with_server(answer, use):
    """Have `answer` map the number that each request contains to a status and a body, while `use` sends requests to a URL."""

    async def handle(request):
        status, body = answer(int(await request.read()))
        return web.Response(status=status, body=body)

    async def run():
        application = web.Application()
        application.router.add_post("/predict", handle)
        async with TestServer(application) as server:
            return await use(str(server.make_url("")).rstrip("/"))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (lambda number: (200, npz(DEPTHS[number])), 0),
        (lambda number: (200, npz(DEPTHS[number] + 1e-4)), 0),
        (lambda number: (200, npz(DEPTHS[(number + 1) % 3])), 9),
        (lambda number: (200, npz(DEPTHS[0 if number == 2 else number])), 3),
        (lambda number: (503 if number == 1 else 200, npz(DEPTHS[number])), 3),
    ],
    ids=["right", "rounded otherwise", "each other's", "one of equal size", "lost"],
)
def test_answers_of_other_images_and_lost_ones_are_counted(answer, wrong):
    loads = []

    async def use(url):
        loads.append(Load(url, [b"0", b"1", b"2"], tasks="depth"))
        return await loads[0].wrong(9, 2, DEPTHS)

    assert with_server(answer, use) == wrong
    assert sum(loads[0].statuses.values()) == 9


def test_clients_send_for_the_given_time_and_only_answers_count():
    numbers = itertools.count()

    async def use(url):
        load = Load(url, [b"0"])
        turn = await load.for_seconds(3, 0.3)
        assert load.statuses[503] > 0
        assert turn.images == load.statuses[200]
        assert turn.seconds >= 0.3
        return (await load.for_seconds(3, 0.1)).images, load.statuses[200] - turn.images

    second, rest = with_server(lambda _: (503 if next(numbers) % 2 else 200, b""), use)
    assert second == rest, "a second turn is counted by itself"


def test_images_have_every_height_with_every_width():
    sizes = [Image.open(io.BytesIO(content)).size for content in make_files()]
    assert len(set(sizes)) == len(sizes) == len(serving.SIDES) ** 2
