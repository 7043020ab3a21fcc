"""Proves what the server answers: the files of `mult-hf predict`, or one line that says what is wrong."""

import asyncio
import base64
import io
import json
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mult_hf import TaskSpec
from mult_hf.inference.predictor import predict
from mult_hf.inference.stored_maps import precision, read_map
from mult_hf.model.tasks import LabelEncoding
from mult_hf.serving.batching import Prediction
from mult_hf.serving.requests import Limits
from support.http_requests import SMALL, TYPE, assert_maps, base64_of, encoded, post, read_files, stored_entries

NAMES = ["segmentation", "depth", "normals", "curvature"]
SUFFIXES = {"segmentation": ".png", "depth": ".png", "normals": ".png", "curvature": ".npz"}


@pytest.fixture
def expected(network, processor):
    """The maps of an image, as from `post_process`, at its own size or another one."""

    def make(image, size=None):
        outputs = predict(network, processor(image, return_tensors="pt")["pixel_values"])
        (maps,) = processor.post_process(outputs, [size or (image.height, image.width)])
        return {task: maps[task]["prediction"].numpy() for task in maps}

    return make


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


# --- refusals


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
        (
            {
                "content": b'--abc\r\nContent-Disposition: form-data; name="tasks"\r\n\r\ndepth\r\n--abc--\r\n',
                "headers": {"content-type": "multipart/form-data; boundary=abc; charset=undefined"},
            },
            422,
            "the form cannot be read",
        ),
        ({"files": {"image": ("a.png", SMALL)}, "data": {"tasks": "depth"}, "params": {"tasks": "depth"}}, 422, "the URL set tasks; give"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "the body is not JSON"),
        ({"content": b"[" * 3000, "headers": {"content-type": "application/json"}}, 422, "the body is not JSON"),
        (
            {"content": json.dumps({"image": base64_of(SMALL), "\ud800": 1}), "headers": {"content-type": "application/json"}},
            422,
            "\\ud800 cannot be set; the options are tasks",
        ),
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
    assert answer.json()["error"].startswith("the image has more than the 50,000,000 pixels"), "the server's limit, not Pillow's"


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
