"""Fixtures shared by several test files: models small enough to build in every test."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
from support.models import SHALLOW_SWIN, TINY_SWIN

if "OMP_NUM_THREADS" not in os.environ:  # which says how many threads a run is to be tried with
    torch.set_num_threads(1)  # models of a few thousand weights only lose by waiting for a second thread
THREADS = torch.get_num_threads()

# transformers compiles an expression per weight when it loads a model; more than Python keeps, which otherwise takes a third of loading.
re._MAXCACHE = 16_384

# Files of tests need not survive a loss of power, and a short training run waits for the disk for a tenth of its time. Processes that
# tests start and kill write as always.
os.fsync = os.fstat

# Accelerate and pipelines take a GPU where there is one, and a GPU rounds otherwise than the CPU that the expected numbers are for.
if "MULT_HF_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order of files below, where pytest-xdist would start with the files of most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that were not asked for, and begin with the files that take long, so that no worker waits for another at the end.

    `slow` tests run in continuous integration (`MULT_HF_PROFILE=full`), and where `-m`, `-k` or a node id asks for them. A `nightly`
    test repeats, for another case, what a test of every run shows, or takes measurements. Long files are those with few tests, some of
    them slow.
    """
    tests, slow = Counter(item.path for item in items), {item.path for item in items if item.get_closest_marker("slow")}
    items[:] = sorted(items, key=lambda item: (item.path not in slow, tests[item.path] if item.path in slow else 0))
    profile = os.environ.get("MULT_HF_PROFILE", "")
    chosen = config.option.markexpr or config.option.keyword or any("::" in word for word in config.args)
    not_run = {"nightly"} if profile != "nightly" else set()
    if not profile and not chosen:
        not_run.add("slow")
    left_out = [item for item in items if any(map(item.get_closest_marker, not_run))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def number_of_threads() -> Iterator[None]:
    """Give each test the same number of threads; a number that a command had set made later tests up to 30 times slower."""
    if torch.get_num_threads() != THREADS:  # of a fixture of several tests
        torch.set_num_threads(THREADS)
    yield
    if torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two tasks, one of which does not occur in the package."""
    from support.training_runs import CURVATURE, DEPTH, curvature_map, depth_map, write_data

    directory = tmp_path_factory.mktemp("data") / "maps"
    return write_data(directory, {"depth": depth_map, "principal_curvature": curvature_map}, [DEPTH, CURVATURE])


@pytest.fixture
def tiny_config() -> Callable[..., MulTConfig]:
    """Make a configuration with a very small Swin; keywords as for [`MulTConfig`]."""
    return lambda **kwargs: MulTConfig(**{"backbone_config": dict(TINY_SWIN), **kwargs})


@pytest.fixture
def tiny_model(tiny_config: Callable[..., MulTConfig]) -> Callable[..., MulTForMultiTaskDensePrediction]:
    """Make a very small model in evaluation mode, always the same one, in which no parameter has its initial value."""

    def make(**kwargs: Any) -> MulTForMultiTaskDensePrediction:
        torch.manual_seed(0)
        model = MulTForMultiTaskDensePrediction(tiny_config(**kwargs))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model.eval()

    return make


@pytest.fixture
def shallow_model(tiny_model: Callable[..., MulTForMultiTaskDensePrediction]) -> Callable[..., MulTForMultiTaskDensePrediction]:
    """The same with two stages instead of four, for tests of what surrounds a model: its time is proportional to the number of blocks."""
    return partial(tiny_model, backbone_config=dict(SHALLOW_SWIN))
