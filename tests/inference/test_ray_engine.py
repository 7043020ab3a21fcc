"""Proves that `mult-hf predict --engine ray` writes and reports what one process does, also if a worker is killed."""

import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli.predict import main
from mult_hf.data.ray_cluster import Cluster
from mult_hf.inference.ray_engine import RayWorkers
from mult_hf.inference.sources import FileSource, RowSource, find_files
from mult_hf.inference.stored_maps import load_stored_forms, precision, read_map
from support.models import TINY_SWIN
from support.ray_workers import map_workers

TASKS = ["segmentation", "depth", "normals"]


@pytest.fixture(scope="module")
def cluster():
    from mult_hf.data.ray_cluster import ray_cluster

    with ray_cluster(None, 2, "this test"):
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=TASKS)).save_pretrained(path)
    MulTImageProcessor(size={"height": 40, "width": 40}, tasks=TASKS).save_pretrained(path)
    return path


def save_images(directory, count):
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (40 + number, 60, 3), np.uint8)
        path = directory / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return directory


@pytest.fixture
def run(model, capsys):
    def start(images, output, *flags):
        status = main([*map(str, ["--model", model, "--inputs", images, "--output_dir", output, "--cpu_threads", 1, *flags])])
        return status, capsys.readouterr().out.replace(str(output), "OUT")

    return start


def assert_same_files(directory, other):
    """The same files; records are equal, and values agree within a step, because rounding depends on the other images of a batch."""
    names = sorted(path.relative_to(directory) for path in directory.rglob("*.*") if path.is_file() and not path.name.startswith("."))
    assert names == sorted(path.relative_to(other) for path in other.rglob("*.*") if path.is_file() and not path.name.startswith("."))
    for name in names:
        if name.parts[0] == "sources" or name.name == "README.md":
            assert (directory / name).read_text() == (other / name).read_text()
        elif name.parts[0] == "maps":
            entry = load_stored_forms(directory)[name.parts[1]]
            one, two = read_map(directory / name, entry), read_map(other / name, entry)
            if entry.is_classification:
                assert (one != two).mean() < 0.01
            else:
                np.testing.assert_allclose(one, two, atol=2 * precision(entry) + 1e-4)


@pytest.mark.nightly  # two minutes of a core; the parts below, and what they are made of, are tested in every run
@pytest.mark.slow
@pytest.mark.parametrize("kills", [0, 1], ids=["no worker killed", "a worker killed"])
def test_files_report_and_status_are_those_of_one_process(cluster, run, tmp_path, kills):
    """The first two images were predicted before; a map of one of them is missing."""
    images, flags = save_images(tmp_path / "images", 2), ["--batch_size", 2, "--keep_images"]
    run(images, tmp_path / "ray", *flags)
    (tmp_path / "ray/maps/depth/b/01.png.png").unlink()
    save_images(images, 20)
    (images / "a/broken.jpg").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(images / "a/-.png")
    expected = run(images, tmp_path / "one", *flags)
    assert expected[0] == 1
    assert "written to OUT: 21 predicted, 0 predicted before, 1 failed" in expected[1]

    before, killed, ended = set((tmp_path / "ray").glob("maps/*/*/*.png")), [], threading.Event()

    def kill_one():
        while len(killed) < kills and not ended.is_set():
            workers = map_workers()
            if workers and set((tmp_path / "ray").glob("maps/*/*/*.png")) - before:
                workers[0].kill()
                killed.append(workers[0].pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    status, out = run(images, tmp_path / "ray", *flags, "--engine", "ray", "--ray_workers", 2)
    ended.set()
    thread.join()
    assert len(killed) == kills, "premise: a worker was killed while it predicted"
    reported = [line for line in out.splitlines() if line.startswith(("not predicted", "written to"))]  # Ray reports the killed worker, too
    wanted = expected[1].replace("21 predicted, 0 predicted before", "20 predicted, 1 predicted before")
    assert (status, reported) == (1, wanted.splitlines())
    assert_same_files(tmp_path / "one", tmp_path / "ray")


def test_ray_flags_without_the_engine_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match="--ray_workers is 2, without --engine ray; add it"):
        run(tmp_path, tmp_path / "out", "--ray_workers", 2)


@pytest.mark.parametrize(
    ("cluster_", "count", "threads", "expected"),
    [
        (Cluster(8, 0), None, None, (8, 1, 0)),
        (Cluster(8, 0), None, 3, (2, 3, 0)),
        (Cluster(8, 0), 5, None, (5, 1, 0)),
        (Cluster(1, 0), None, 4, (1, 4, 0)),
        (Cluster(64, 4), None, None, (4, 1, 1)),
    ],
)
def test_there_is_a_worker_per_gpu_or_for_all_processors(cluster_, count, threads, expected):
    assert RayWorkers.of_cluster(cluster_, count, threads) == expected


def test_a_source_of_files_is_the_sum_of_its_parts(tmp_path):
    images = save_images(tmp_path / "images", 5)
    shutil.copy(images / "a/00.png", images / "clip.mp4")  # a video by its name
    source = FileSource(find_files([str(images)], tmp_path / "out"))
    parts = source.parts()
    assert [source.is_image(part) for part in parts] == [True] * 5 + [False]
    names = [image.name for part in parts[:5] for image in source.part([part])]
    assert names == [image.name for image in source][:5]
    assert (len(source.part(parts[:2])), len(source.part([]))) == (2, 0)


def test_a_source_of_rows_is_the_sum_of_its_parts(tmp_path):
    from datasets import Dataset, Features
    from datasets import Image as Feature

    rows = [str(path) for path in sorted(save_images(tmp_path, 4).rglob("*.png"))]
    source = RowSource(Dataset.from_dict({"image": rows}, features=Features({"image": Feature()})))
    assert [image.name for image in source.part([3, 1])] == [[*source][number].name for number in (3, 1)]
    assert (len(source), len(source.part([0])), [*source.parts()]) == (4, 1, [0, 1, 2, 3])
