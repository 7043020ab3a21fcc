"""Proves that the figure of the whole network is current and depends on the given tasks."""

import importlib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mult_hf import MULT_TASKS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def draw_network():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples/tools"))
        yield importlib.import_module("draw_network")


def labels(figure):
    return ["".join(element.itertext()) for element in ElementTree.fromstring(figure).iter("{http://www.w3.org/2000/svg}text")]


def test_the_figure_in_the_documentation_is_current(draw_network, tmp_path):
    draw_network.main(["--output", str(tmp_path / "network.svg")])
    assert (tmp_path / "network.svg").read_bytes() == (ROOT / "docs/images/network.svg").read_bytes()


def test_every_task_has_a_decoder_and_a_head_and_every_stage_one_shared_map(draw_network):
    for tasks in (list(MULT_TASKS), ["depth", "normals"]):
        words = labels(draw_network.draw(tasks, "depth"))
        assert [word for word in words if word in tasks] == tasks
        assert words.count("head") == len(tasks)
        assert words.count("blocks") == 4 * len(tasks)
        assert words.count("shared map Ar") == 4
        assert "reference task r: depth" in words
