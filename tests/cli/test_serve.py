"""Proves that `mult-hf serve` refuses what it cannot serve before it starts anything."""

import socket
import sys

import pytest

from mult_hf import MulTImageProcessor
from mult_hf.cli.errors import CommandError
from mult_hf.cli.serve import ServeArguments, check_address, main, server_settings

TASKS = ["depth", "normals"]


@pytest.fixture
def model(tiny_model, tmp_path):
    tiny_model(tasks=TASKS).save_pretrained(tmp_path)
    MulTImageProcessor(tasks=TASKS).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--queue_size", "0"], "--queue_size is 0; it must be at least 1"),
        (["--port", "70000"], "--port is 70000; it must be at least 1 and at most 65535"),
        (["--timeout", "nan"], "--timeout is nan"),
        (["--copies", "2"], "--ray_address is None, --copies is 2, without --engine ray; add it"),
        (["--ray_address", "auto"], "--ray_address is auto, --copies is 1, without --engine ray; add it"),
        (["--field_of_view", "180"], "--field_of_view is 180; give degrees above 0 and below 180"),
        (["--field_of_view", "40"], "--field_of_view is 40, but .* has no canonical camera: .*; remove it"),
        (["--tasks", "depth", "colour"], r"--tasks has \['colour'\]; .* has \['depth', 'normals'\]"),
    ],
)
def test_flags_that_cannot_be_served_are_refused(model, flags, message):
    with pytest.raises(ValueError, match=message):
        main(["--model", model, *flags])


def test_the_field_of_view_is_that_of_the_servers_processor(model):
    MulTImageProcessor.from_pretrained(model, canonical_focal_length=300.0).save_pretrained(model)
    views = [server_settings(ServeArguments(model, field_of_view=given)).processor().assumed_field_of_view for given in (None, 40.0)]
    assert views == [60.0, 40.0]
    with pytest.raises(ValueError, match="--field_of_view is 40, but the focal length has no effect on normals; remove it"):
        server_settings(ServeArguments(model, tasks=["normals"], field_of_view=40.0))


def test_a_port_in_use_is_refused(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=f"--host 127.0.0.1 --port {port} cannot be opened; choose another --port"):
            main(["--model", model, "--port", str(port)])


def test_a_host_that_does_not_exist_is_refused():
    with pytest.raises(CommandError, match=r"--host nowhere\.invalid --port 8000 cannot be opened"):
        check_address("nowhere.invalid", 8000)


@pytest.mark.parametrize(
    ("package", "engine"), [("uvicorn", "process"), ("prometheus_client", "process"), ("python_multipart", "process"), ("ray", "ray")]
)
def test_a_missing_package_is_named_with_its_extra(model, monkeypatch, package, engine):
    for name in [name for name in sys.modules if name.startswith("mult_hf.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "mult-hf\[serve\]"'):
        main(["--model", model, "--engine", engine])
