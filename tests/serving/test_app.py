"""Proves what the server answers: the files of `mult-hf predict`, or one line that says what is wrong, within its limits."""

import asyncio
import base64
import io
import json
import math
import threading
import zipfile
import zlib
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image
from starlette.testclient import TestClient

from mult_hf import MulTImageProcessor, TaskSpec
from mult_hf.cli.predict import main as predict_command
from mult_hf.inference.predictor import predict
from mult_hf.inference.stored_maps import precision, read_map
from mult_hf.model.tasks import LabelEncoding, resolve_tasks
from mult_hf.serving.app import CLIENT_CLOSED
from mult_hf.serving.batching import Batcher, Prediction
from mult_hf.serving.requests import Limits

NAMES = ["segmentation", "depth", "normals", "curvature"]
SUFFIXES = {"segmentation": ".png", "depth": ".png", "normals": ".png", "curvature": ".npz"}


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def base64_of(content):
    return base64.b64encode(content).decode()


@pytest.fixture
def expected(network, processor):
    """The maps of an image, as from `post_process`, at its own size or another one."""

    def make(image, size=None):
        outputs = predict(network, processor(image, return_tensors="pt")["pixel_values"])
        (maps,) = processor.post_process(outputs, [size or (image.height, image.width)])
        return {task: maps[task]["prediction"].numpy() for task in maps}

    return make


def post(client, image, **options):
    """Send an image as the body; keywords are query parameters."""
    return client.post("/predict", content=encoded(image), params=options, headers={"content-type": "image/png"})


def assert_maps(read, wanted, tolerances):
    """Values agree within the precision of their storage; 99 % of class ids, because rounding may change a few pixels."""
    assert list(read) == list(wanted)
    for task, values in wanted.items():
        if values.dtype == np.int64:
            assert (read[task] == values).mean() > 0.99, task
        else:
            np.testing.assert_allclose(read[task], values.reshape(read[task].shape), atol=tolerances[task] + 1e-5, rtol=1e-4)


def stored_entries(client):
    return resolve_tasks(client.get("/tasks").json()["tasks"])


def read_files(files, entries, folder):
    """Decode files by their entries: a mapping of names and contents."""
    maps = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        maps[name[:-4]] = read_map(folder / name, entries[name[:-4]])
    return maps


# --- answers


def test_several_maps_are_a_zip_of_the_files_that_predict_writes(client, image, expected, tmp_path):
    answer = post(client, image)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == [f"{task}{SUFFIXES[task]}" for task in NAMES]
    entries = stored_entries(client)
    read = read_files({name: archive.read(name) for name in archive.namelist()}, entries, tmp_path)
    assert_maps(read, expected(image), {task: precision(entry) for task, entry in entries.items()})


def test_one_map_is_its_file(client, image, expected, tmp_path):
    answer = post(client, image, tasks="depth")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    entry = stored_entries(client)["depth"]
    (tmp_path / "depth.png").write_bytes(answer.content)
    assert_maps({"depth": read_map(tmp_path / "depth.png", entry)}, {"depth": expected(image)["depth"]}, {"depth": precision(entry)})


def test_npz_has_values_in_their_units_in_the_order_of_the_request(client, image, expected):
    answer = post(client, image, tasks="normals,segmentation,curvature", format="npz")
    with np.load(io.BytesIO(answer.content)) as arrays:
        read = dict(arrays)
    assert {task: (values.dtype, values.shape) for task, values in read.items()} == {
        "normals": (np.float32, (3, 50, 60)),
        "segmentation": (np.uint8, (50, 60)),
        "curvature": (np.float32, (2, 50, 60)),
    }
    wanted = expected(image)
    assert_maps(read, {task: wanted[task] for task in read}, dict.fromkeys(NAMES, 0))


def test_json_has_each_file_with_the_encoding_that_reads_it(client, image, expected, tmp_path):
    maps = post(client, image, tasks="depth", format="json").json()["maps"]
    assert {key: value for key, value in maps["depth"].items() if key not in ("file", "encoding")} == {
        "height": 50, "width": 60, "unit": "m", "media_type": "image/png",
    }  # fmt: skip
    encoding = LabelEncoding(**maps["depth"]["encoding"])
    stored = Image.open(io.BytesIO(base64.b64decode(maps["depth"]["file"])))
    assert_maps({"depth": encoding.decode(np.asarray(stored))}, {"depth": expected(image)["depth"]}, {"depth": encoding.scale / 2})


def test_maps_are_as_large_as_the_request_and_the_server_allow(serve, image):
    client = TestClient(serve(limits=Limits(max_side=48)).application())
    sizes = [Image.open(io.BytesIO(post(client, image, tasks="depth", **sides).content)).size for sides in ({}, {"max_side": 30})]
    assert sizes == [(48, 40), (30, 25)]


def test_an_image_is_upright(client, image):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn
    answer = client.post("/predict?tasks=depth", content=encoded(image, "JPEG", exif=exif), headers={"content-type": "image/jpeg"})
    assert Image.open(io.BytesIO(answer.content)).size == (50, 60)


def test_every_way_to_send_an_image_gives_the_same_answer(client, image):
    content, options = encoded(image), {"tasks": "depth", "format": "png", "max_side": "30"}
    answers = [
        client.post("/predict", params=options, content=content, headers={"content-type": "image/png"}),
        client.post("/predict", params=options, content=content, headers={"content-type": "application/octet-stream"}),
        client.post("/predict", data=options, files={"image": ("a.png", content, "image/png")}),
        client.post("/predict", params=options, files={"image": ("a.png", content)}),
        client.post("/predict", json={"image": base64_of(content), **options, "tasks": ["depth"], "max_side": 30}),
        client.post("/predict", params=options, json={"image": base64_of(content)}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.content for answer in answers}) == 1


def test_the_page_of_tasks_has_the_limits(serve):
    page = TestClient(serve(queue_size=7, limits=Limits(max_bytes=99)).application()).get("/tasks").json()
    assert page["model"] == "tiny"
    assert [TaskSpec.from_dict(entry).name for entry in page["tasks"]] == NAMES
    assert (page["formats"], page["limits"]["queue_size"], page["limits"]["max_bytes"]) == (["png", "npz", "json"], 7, 99)


# --- focal lengths


@pytest.fixture
def camera_processor(network):
    """The processor of a model with a canonical camera, which assumes 40 degrees."""
    camera = {"canonical_focal_length": 300.0, "assumed_field_of_view": 40.0}
    return MulTImageProcessor(size={"height": 40, "width": 40}, tasks=network.config.tasks, **camera)


@pytest.fixture
def camera_client(serve, camera_processor):
    return TestClient(serve(processor=camera_processor).application())


def with_equivalent(millimetres):
    """EXIF that states the 35 mm equivalent of a focal length."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = millimetres
    return exif.tobytes()


def test_maps_are_the_files_that_predict_writes_whatever_states_the_focal_length(network, processor, camera_client, image, tmp_path):
    """The EXIF of a photograph, of a transparent image, or nothing but --field_of_view."""
    network.save_pretrained(tmp_path / "model")
    type(processor).from_dict({**processor.to_dict(), "canonical_focal_length": 300.0}).save_pretrained(tmp_path / "model")
    contents = {
        "phone.jpg": encoded(image, "JPEG", exif=with_equivalent(26)),
        "transparent.webp": encoded(image.convert("RGBA"), "WEBP", exif=with_equivalent(26)),
        "plain.png": encoded(image),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    flags = ["--model", tmp_path / "model", "--output_dir", tmp_path / "out", "--tasks", "depth", "--field_of_view", 40, "--inputs"]
    assert predict_command([*map(str, [*flags, *(tmp_path / name for name in contents)])]) == 0
    entry, metres = stored_entries(camera_client)["depth"], {}
    for name, content in contents.items():
        answer = camera_client.post("/predict?tasks=depth", content=content, headers={"content-type": "application/octet-stream"})
        (tmp_path / name).write_bytes(answer.content)
        metres[name] = read_map(tmp_path / "out/maps/depth" / f"{name}.png", entry)
        # Rounding depends on the other images of a batch, and may change a value by one step.
        np.testing.assert_allclose(read_map(tmp_path / name, entry), metres[name], atol=2.1 * precision(entry), err_msg=name)
    means = [values.mean() for values in metres.values()]
    assert means[2] > 1.5 * means[0], "premise: the angle of view is narrower than that of 26 mm"


def test_a_request_states_the_focal_length_before_the_file(network, camera_processor, camera_client, image):
    """In pixels of the image, here twice as many as the EXIF states."""
    content = encoded(image, "PNG", exif=with_equivalent(26))
    outputs = predict(network, camera_processor(image, return_tensors="pt")["pixel_values"])
    pixels = 2 * 26 / math.hypot(36, 24) * math.hypot(50, 60)
    (maps,) = camera_processor.post_process(outputs, [(25, 30)], focal_length=pixels / 2)
    options = {"tasks": "depth", "format": "npz", "max_side": "30", "focal_length": str(pixels)}
    answers = [
        camera_client.post("/predict", params=options, content=content, headers=TYPE),
        camera_client.post("/predict", data=options, files={"image": ("a.png", content, "image/png")}),
        camera_client.post("/predict", json={"image": base64_of(content), **options, "focal_length": pixels}),
    ]
    unknown = camera_client.post("/predict", json={"image": base64_of(content), **options, "focal_length": None})
    for answer, factor in [*((each, 1) for each in answers), (unknown, 2)]:
        with np.load(io.BytesIO(answer.content)) as arrays:
            np.testing.assert_allclose(factor * arrays["depth"][0], maps["depth"]["prediction"].numpy(), rtol=1e-4)


def test_answers_state_the_focal_length_that_was_used_and_its_source(camera_client, client, image):
    """In pixels of the image that was sent, also for smaller maps; JSON in the body, the other formats in a header."""
    diagonal = math.hypot(50, 60)
    cases = [
        (encoded(image, "JPEG", exif=with_equivalent(26)), {}, 26 / math.hypot(36, 24) * diagonal, "EXIF"),
        (encoded(image, "JPEG", exif=with_equivalent(26)), {"focal_length": "80"}, 80, "given"),
        (encoded(image), {}, 30 / math.tan(math.radians(20)), "assumed"),
    ]

    def ask(content, **options):
        return camera_client.post("/predict", params={"max_side": "30", **options}, content=content, headers=TYPE)

    for content, given, pixels, source in cases:
        used = ask(content, tasks="depth,normals", format="json", **given).json()["focal_length"]
        assert used == {"pixels": pytest.approx(pixels), "source": source}
        for options in ({"tasks": "depth"}, {}, {"format": "npz"}):
            assert ask(content, **options, **given).headers["focal-length"] == f"{pixels:.3f};source={source}"
    assert "focal-length" not in ask(encoded(image), tasks="normals").headers, "they do not depend on it"
    assert "focal-length" not in post(client, image).headers, "nor do metres of a model without a canonical camera"
    assert post(client, image, format="json").json()["focal_length"] is None


@pytest.mark.parametrize("value", ["0", "-300", "nan", "inf", "1e-320", "300,400", "wide", "", True, [300]])
def test_an_impossible_focal_length_is_refused_in_one_line(camera_client, value):
    in_body = {"json": {"image": base64_of(SMALL), "focal_length": value}}
    request = {"content": SMALL, "headers": TYPE, "params": {"focal_length": value}} if isinstance(value, str) else in_body
    answer = camera_client.post("/predict", **request)
    assert (answer.status_code, "; give a number of pixels of the image from 1 to 1e+07" in answer.json()["error"]) == (422, True)


def test_a_model_without_a_canonical_camera_takes_no_focal_length(client, camera_client):
    answer = client.post("/predict", content=SMALL, headers=TYPE, params={"focal_length": "300"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("focal_length is set, but the model predicts the same for every focal length")
    assert [each.get("/tasks").json()["assumed_field_of_view"] for each in (client, camera_client)] == [None, 40.0]


# --- refusals

SMALL = encoded(Image.new("RGB", (40, 40)))
TYPE = {"content-type": "image/png"}


@pytest.mark.parametrize(
    ("request_", "status", "part"),
    [
        ({"content": SMALL}, 415, "the content type is ''; expected image/*, application/octet-stream, multipart/form-data"),
        ({"content": SMALL, "headers": {"content-type": "text/plain"}}, 415, "the content type is 'text/plain'"),
        ({"content": b"", "headers": TYPE}, 422, "the image is empty"),
        ({"content": b"GIF89a", "headers": TYPE}, 422, "the image cannot be read as an image"),
        ({"content": SMALL[:60], "headers": TYPE}, 422, "the image is broken"),
        ({"content": b"x" * 5000, "headers": TYPE}, 413, "the request has 5,000 bytes or more; at most 4,000 are allowed"),
        ({"content": encoded(Image.new("1", (300, 300))), "headers": TYPE}, 413, "the image has 300 x 300 pixels; at most 50,000"),
        ({"content": SMALL, "headers": TYPE, "params": {"tasks": "depth,colour"}}, 422, "choose from segmentation, depth, normals"),
        ({"content": SMALL, "headers": TYPE, "params": {"format": "exr"}}, 422, "format is 'exr'; choose from png, npz, json"),
        ({"content": SMALL, "headers": TYPE, "params": {"max_side": "0"}}, 422, "max_side is '0'; give a whole number of pixels"),
        ({"content": SMALL, "headers": TYPE, "params": {"max_side": "9999"}}, 422, "from 1 to 2048"),
        ({"content": SMALL, "headers": TYPE, "params": {"url": "x"}}, 422, "url cannot be set; the options are tasks, format, max_"),
        ({"files": {"file": ("a.png", SMALL)}}, 422, "the form has ['file']; expected a file called `image`"),
        ({"data": {"image": "text"}, "files": {"x": ("a", b"a")}}, 422, "expected a file called `image`"),
        ({"files": [("image", ("a.png", SMALL)), ("image", ("b.png", SMALL))]}, 422, "the form cannot be read"),
        ({"content": SMALL, "headers": {"content-type": "multipart/form-data"}}, 422, "the form cannot be read"),
        ({"files": {"image": ("a.png", SMALL)}, "data": {"tasks": "depth"}, "params": {"tasks": "depth"}}, 422, "the URL set tasks; give"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "the body is not JSON"),
        ({"content": b"[" * 3000, "headers": {"content-type": "application/json"}}, 422, "the body is not JSON"),
        ({"json": []}, 422, "not a JSON object with the key `image`"),
        ({"json": {"image": 3}}, 422, "not a JSON object with the key `image`"),
        ({"json": {"image": "http://127.0.0.1/a.png"}}, 422, "`image` is not base64: 'http://127.0.0.1/a.png'"),
        ({"json": {"image": "/etc/hostname"}}, 422, "`image` is not base64"),
        ({"json": {"image": base64_of(SMALL), "tasks": 3}}, 422, "tasks is '3'"),
        ({"json": {"image": base64_of(SMALL), "max_side": True}}, 422, "max_side is 'True'"),
        ({"json": {"image": base64_of(SMALL), "format": []}}, 422, "format is '[]'"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_answered_is_refused_in_one_line(serve, request_, status, part):
    client = TestClient(serve(limits=Limits(max_bytes=4000, max_pixels=50_000)).application())
    answer = client.post("/predict", **request_)
    message = answer.json()["error"]
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert part in message
    assert "\n" not in message
    assert len(message) < 400


def test_an_image_whose_header_states_a_huge_size_is_refused_as_too_large(client):
    huge = bytearray(encoded(Image.new("1", (8, 8))))
    huge[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")  # their checksum
    answer = client.post("/predict", content=bytes(huge), headers=TYPE)
    assert answer.status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/secret", 404), ("POST", "/health", 405)])
def test_other_routes_are_refused_in_one_line(client, method, path, status):
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"].startswith(f"{method} {path} is not served")) == (status, True)


def test_a_body_beyond_the_limit_is_not_read_to_its_end(serve):
    """Without a content length, 1 GB comes in pieces of 1 kB."""
    application = serve(limits=Limits(max_bytes=10_000)).application()
    received, sent = [], []

    async def receive():
        received.append(1)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": len(received) < 1_000_000}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"content-type", b"image/png")], "query_string": b""}
    asyncio.run(application(scope, receive, send))
    assert sent[0]["status"] == 413
    assert len(received) == 11


def test_a_prediction_that_is_not_finite_is_an_error_of_the_server(serve, image):
    async def infinite(query):
        return Prediction({"depth": np.full((1, 1, 40, 40), np.inf, np.float32)}, 1)

    answer = post(TestClient(serve(infinite).application()), image, tasks="depth")
    assert answer.status_code == 500
    assert "the model's prediction of depth is not finite" in answer.json()["error"]


def test_a_failed_prediction_is_an_error_of_the_server(serve, image):
    async def fails(query):
        return Prediction(error="out of memory")

    answer = post(TestClient(serve(fails).application()), image)
    assert (answer.status_code, answer.json()["error"]) == (500, "the image cannot be predicted: out of memory")


# --- several requests


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
