"""Proves that results on Ray are those of one process, in order where asked, and that errors and a missing Ray are named."""

import sys
from functools import partial

import pytest

from mult_hf.data.ray_cluster import import_ray, map_on_ray, ray_cluster


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(None, 2, "this test") as found:
        yield found


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"--engine ray needs Ray .*pip install \"mult-hf\[ray\]\""):
        import_ray("ray", "--engine ray")


@pytest.mark.slow
def test_a_cluster_of_this_machine_has_the_processors_that_were_asked_for(cluster):
    assert (cluster.cpus, cluster.gpus) == (2, 0)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("items", [[3, 1, 4, 1, 5, 9, 2, 6], [b"a\xff", b"", b"c\x00"]])
def test_results_come_in_the_order_of_the_items(cluster, items):
    results = map_on_ray(partial(partial, list), items, items_per_task=2, workers=2, num_cpus=1, in_order=True)
    assert [item for result in results for item in result] == items


@pytest.mark.slow
def test_what_a_worker_raises_is_raised_here(cluster):
    with pytest.raises(TypeError, match="int"):
        list(map_on_ray(partial(partial, int), [1, 2], items_per_task=1, workers=1, num_cpus=1))
