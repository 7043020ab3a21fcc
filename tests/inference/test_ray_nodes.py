"""Proves that the loss of a node of a Ray cluster loses and doubles no prediction."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli.predict import main
from support.models import TINY_SWIN
from support.ray_workers import map_workers

pytestmark = [pytest.mark.slow, pytest.mark.nightly]  # a cluster of two nodes takes two minutes

TASKS = ["depth", "normals"]
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
SECONDS = 200


@pytest.fixture
def nodes():
    """A cluster of two nodes with one processor each, to which this process is connected."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized(), "premise: no other cluster is in use"
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_killed_node_loses_and_doubles_nothing(nodes, tmp_path, capsys):
    MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=TASKS)).save_pretrained(tmp_path / "model")
    MulTImageProcessor(size={"height": 40, "width": 40}, tasks=TASKS).save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number:02d}.png")
    workers = []

    def kill_node():
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and len(list((tmp_path / "out").glob("sources/*.txt"))) < 4:
            time.sleep(0.02)
        workers.extend(map_workers())
        (node,) = nodes.worker_nodes
        nodes.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=kill_node)
    thread.start()
    flags = {"model": tmp_path / "model", "inputs": tmp_path / "images", "output_dir": tmp_path / "out", "batch_size": 1, "cpu_threads": 1}
    argv = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    status = main([*argv, "--engine", "ray", "--ray_address", nodes.address, "--ray_workers", "2"])
    still_running = thread.is_alive()
    thread.join()
    assert not still_running, "premise: the node was lost while images were predicted"
    assert len(workers) == 2, "premise: each node, which has one processor, had a worker"
    assert (status, capsys.readouterr().out.splitlines()[-1].partition(": ")[2]) == (0, "24 predicted, 0 predicted before, 0 failed")
    for task in TASKS:
        assert len(list((tmp_path / "out/maps" / task).glob("*.png"))) == 24
