"""A fixture for tests of uploads: the Hub of `hub_server`, and the client of this process logged in to it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from .hub_server import Hub, running_hub


@pytest.fixture
def logged_in_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server; `HfApi()` of the modules that upload is that of its user, `user`. Downloads are cached in the test's directory."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        api = partial(HfApi, endpoint=hub.url, token="hf_owner")
        for module in ("mult_hf.data.hub", "mult_hf.data.benchmarks.conversion"):
            monkeypatch.setattr(f"{module}.HfApi", api)
        yield hub
