"""Proves that the demo's server gives out its page and its maps, and no other file of this machine."""

import urllib.error
import urllib.request

import pytest

pytest.importorskip("gradio", reason='the demo needs Gradio: pip install "mult-hf[demo]"')

from mult_hf import MultiTaskVisionPipeline
from mult_hf.cli import demo as app


@pytest.fixture
def served(tiny_model, tmp_path, monkeypatch):
    """The address of a page with a tiny random model, next to which lies a file that nobody is to get."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # so that what `launch` sets ends with this test
    model = tiny_model(tasks=["depth"])
    model.save_pretrained(tmp_path / "model")
    MultiTaskVisionPipeline(model).image_processor.save_pretrained(tmp_path / "model")
    (tmp_path / "served").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    page = app.launch(app.DemoArguments(model=str(tmp_path / "model"), port=0), tmp_path / "served", prevent_thread_lock=True, quiet=True)
    yield page.local_url.rstrip("/")
    page.close()


def answer(address):
    """(status, body) of a request."""
    try:
        with urllib.request.urlopen(address, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_no_route_gives_out_a_file_of_this_machine(served, tmp_path):
    assert answer(served)[0] == 200, "premise: the page is there"
    secret = tmp_path / "secret.txt"
    routes = ["file", "gradio_api/file", "gradio_api/stream", "proxy", "gradio_api/proxy", "static", "assets", "custom_component"]
    for route in routes:
        for path in (secret, "/etc/passwd", f"../{secret}", "..%2f..%2f..%2f..%2fetc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x"):
            for join in ("=", "/"):
                status, body = answer(f"{served}/{route}{join}{path}")
                assert status >= 400, (route, path, status)
                assert b"root:" not in body
                assert b"secret" not in body.replace(str(secret).encode(), b"")
