"""Proves that results on Ray are those of one process, in order where asked, and that errors and a missing Ray are named."""

import sys
from functools import partial

import numpy as np
import pytest

from mult_hf.data.ray_cluster import RESULT, _Worker, import_ray, map_on_ray, ray_cluster


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(None, 2, "this test") as found:
        yield found


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"--engine ray needs Ray .*pip install \"mult-hf\[ray\]\""):
        import_ray("ray", "--engine ray")


def test_a_worker_returns_its_results_or_its_error_as_one_row():
    """Ray Data would turn lists into Arrow's types, and keep only the text of an error."""
    result = _Worker(partial(partial, list))({"item": np.array([3, 1])})[RESULT][0]
    assert (result.value, result.error) == ([3, 1], None)
    failed = _Worker(partial(partial, int))({"item": np.array([3, 1])})[RESULT][0]
    assert (failed.value, type(failed.error)) == (None, TypeError)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_cluster_of_this_machine_has_the_processors_that_were_asked_for(cluster):
    assert (cluster.cpus, cluster.gpus) == (2, 0)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("items", [[3, 1, 4, 1, 5, 9, 2, 6], [b"a\xff", b"", b"c\x00"]])
def test_results_come_in_the_order_of_the_items(cluster, items):
    results = map_on_ray(partial(partial, list), items, items_per_task=2, workers=2, num_cpus=1, in_order=True)
    assert [item for result in results for item in result] == items


@pytest.mark.nightly
@pytest.mark.slow
def test_what_a_worker_raises_is_raised_here(cluster):
    with pytest.raises(TypeError, match="int"):
        list(map_on_ray(partial(partial, int), [1, 2], items_per_task=1, workers=1, num_cpus=1))
