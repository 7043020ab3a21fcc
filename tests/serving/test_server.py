"""Proves that `mult-hf serve` answers many clients at once with their own maps, and ends cleanly."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from mult_hf import MulTImageProcessor
from mult_hf.inference.predictor import predict
from support.processes import kill_all_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
QUEUE = 16


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A very small model whose depth depends on the image."""
    import torch

    from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
    from support.models import TINY_SWIN

    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(
        MulTConfig(backbone_config=dict(TINY_SWIN), tasks=["depth", "normals"], reference_task="normals")
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("served")
    model.eval().save_pretrained(path)
    MulTImageProcessor(size={"height": 64, "width": 64}, tasks=model.config.tasks).save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=["process", pytest.param("ray", marks=pytest.mark.nightly)])
def engine(request):
    """What runs the server."""
    return request.param


def start(directory, engine, log):
    """The command with this model: its process, and its port."""
    port = free_port()
    flags = {"--model": directory, "--engine": engine, "--port": port, "--queue_size": QUEUE, "--cpu_threads": 1}
    command = [sys.executable, "-m", "mult_hf", "serve", *(str(word) for pair in flags.items() for word in pair)]
    with open(log, "wb") as file:
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT), port


def wait_for(reached, process, log):
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(directory, engine, tmp_path_factory):
    """The server's process and its address."""
    log = tmp_path_factory.mktemp("log") / "log.txt"
    process, port = start(directory, engine, log)
    try:
        wait_for(lambda: b"serving served" in log.read_bytes(), process, log)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        kill_all_of(process)


def image_of(number):
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (40 + number, 90 - number, 3), np.uint8))


def content_of(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def post(client, url, image):
    return client.post(f"{url}/predict?tasks=depth&format=npz", content=content_of(image), headers={"content-type": "image/png"})


def depth_of(answer):
    assert answer.status_code == 200, answer.text
    with np.load(io.BytesIO(answer.content)) as arrays:
        return arrays["depth"]


def expected_depth(directory, images):
    from mult_hf import MulTForMultiTaskDensePrediction

    model, processor = MulTForMultiTaskDensePrediction.from_pretrained(directory).eval(), MulTImageProcessor.from_pretrained(directory)
    for image in images:
        (maps,) = processor.post_process(
            predict(model, processor(image, return_tensors="pt")["pixel_values"]), [(image.height, image.width)]
        )
        yield maps["depth"]["prediction"].numpy()


def test_concurrent_clients_get_the_maps_of_their_own_images_in_batches(server, directory):
    _, url = server
    images = [image_of(number) for number in range(40)]
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(QUEUE) as pool:
        found = [depth_of(answer) for answer in pool.map(lambda image: post(client, url, image), images)]
        metrics = client.get(f"{url}/metrics").text
        assert client.get(f"{url}/health").json() == {"status": "ok"}
    wanted = list(expected_depth(directory, images))
    assert max(abs(wanted[0].mean() - other.mean()) for other in wanted[1:]) > 1e-3, "premise: images differ"
    for depth, expected in zip(found, wanted):
        # Rounding depends on the other images of a batch.
        np.testing.assert_allclose(depth, expected.reshape(depth.shape), atol=1e-4)
    assert 'mult_batch_images_bucket{le="1.0"} 40.0' not in metrics, "requests were predicted together"


def test_beyond_the_queue_clients_get_503_and_the_server_stays_well(server):
    _, url = server
    image = image_of(0)
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=100)) as client, ThreadPoolExecutor(64) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: post(client, url, image), range(256))]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= QUEUE
        assert post(client, url, image).status_code == 200


def test_sigterm_answers_the_requests_in_progress_and_leaves_no_process(server, engine):
    """Ends the server, so it comes after all tests that use it."""
    process, url = server
    group = psutil.Process(process.pid).children(recursive=True)
    assert bool(group) == (engine == "ray"), "premise: the server has processes of its own on Ray"
    large = Image.fromarray(np.random.default_rng(0).integers(0, 255, (2000, 3000, 3), np.uint8))  # takes some time to decode
    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, client, url, large) for _ in range(4)]
        while "mult_requests_in_progress 4.0" not in client.get(f"{url}/metrics").text:
            assert not any(answer.done() for answer in answers), "premise: all are in progress together"
        process.send_signal(signal.SIGTERM)
        statuses = [answer.result().status_code for answer in answers]
    assert statuses == [200] * 4
    assert process.wait(timeout=120) == 0
    _, alive = psutil.wait_procs(group, timeout=30)
    assert alive == []


@pytest.mark.parametrize("moment", ["the model is checked", "the cluster starts", "the model's process starts"])
def test_sigterm_during_the_start_leaves_no_process(directory, engine, tmp_path, moment, request):
    if engine == "process" and moment != "the model is checked":
        pytest.skip("there are no other processes")
    log = tmp_path / "log.txt"
    process, _ = start(directory, engine, log)
    request.addfinalizer(partial(kill_all_of, process))
    moments = {
        "the model is checked": lambda: b"Loading weights" in log.read_bytes(),
        "the cluster starts": lambda: psutil.Process(process.pid).children(),
        "the model's process starts": lambda: "ModelReplica" in str([each.name() for each in children(process)]),
    }
    wait_for(moments[moment], process, log)
    group = children(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, log.read_text()
    assert "stopped during the start" in log.read_text()
    _, alive = psutil.wait_procs(group, timeout=30)
    assert alive == []


def children(process):
    """All processes that the command has started, directly or not, and that have not ended meanwhile."""
    return [each for each in psutil.Process(process.pid).children(recursive=True) if each.is_running()]


@pytest.mark.nightly
def test_the_wheel_alone_serves_the_shipped_model(tmp_path):
    """As in a container: the files of the wheel, an empty working directory, and no network."""
    pytest.importorskip("hatchling", reason="builds the wheel: pip install hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "home").mkdir()
    port, log = free_port(), tmp_path / "log.txt"
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path / "installed"), "HOME": str(tmp_path / "home")}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mult_hf", "serve", "--port", str(port), "--cpu_threads", "1"],
            cwd=tmp_path / "home", env=environment, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for(lambda: f"on http://127.0.0.1:{port}" in log.read_text(), process, log)
        answer = httpx.post(f"http://127.0.0.1:{port}/predict?tasks=depth", files={"image": content_of(image_of(0))}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert Image.open(io.BytesIO(answer.content)).size == (90, 40)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        kill_all_of(process)
