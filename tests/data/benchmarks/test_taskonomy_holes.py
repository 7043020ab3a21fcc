"""Holes in Taskonomy's scans are unknown in every map of the geometry, and the other pixels keep their values."""

from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from mult_hf.data.benchmarks.conversion import convert
from mult_hf.data.benchmarks.errors import ReadError
from mult_hf.data.benchmarks.replica import ReplicaReader
from mult_hf.data.benchmarks.taskonomy import TaskonomyReader
from mult_hf.data.schema import load_task_entries
from mult_hf.model.tasks import resolve_tasks
from support.benchmark_files import HEIGHT, WIDTH, decoded, filled, random_image, save

HOLE = (slice(3, 7), slice(10, 20))
"""Where the depth is missing."""

GEOMETRY = ["normals", "reshading", "edge_occlusion", "principal_curvature"]


def depth_with_hole(value: int = 1024) -> np.ndarray:
    depth = filled(value, np.uint16)
    depth[HOLE] = 65535
    return depth


def write(root: Path, building: str = "ihlen", depth: str | None = "depth_zbuffer", shading_channels: int = 0) -> Path:
    """A view whose files hold plausible values in the hole as well, and every extreme value beside it."""
    generator = np.random.default_rng(0)
    maps = {
        "rgb": random_image(),
        "normal": filled(90, np.uint8, 3),
        "reshading": filled(51, np.uint8, shading_channels),
        "edge_occlusion": generator.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16),
        "principal_curvature": generator.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8),
        "keypoints2d": filled(655, np.uint16),
        "edge_texture": filled(8192, np.uint16),
    }
    for folder in ("reshading", "edge_occlusion", "principal_curvature"):
        maps[folder][20, 30], maps[folder][20, 31] = np.iinfo(maps[folder].dtype).max, 0
    if depth is not None:
        maps[depth] = depth_with_hole()
    for folder, array in maps.items():
        save(root / folder / building / f"point_1_view_0_domain_{folder}.png", array)
    return root


@pytest.mark.parametrize("depth", ["depth_zbuffer", "depth_euclidean"])
@pytest.mark.parametrize(("reader_class", "building"), [(TaskonomyReader, "ihlen"), (ReplicaReader, "room_1")])
def test_maps_of_the_geometry_are_unknown_in_holes_and_known_elsewhere(tmp_path, reader_class, building, depth):
    reader = reader_class(write(tmp_path, building, depth), split="test")
    maps = decoded(reader, next(iter(reader)))
    for task in GEOMETRY:
        unknown = np.isnan(maps[task]).any(axis=0)
        assert unknown[HOLE].all(), task
        assert unknown.sum() == 4 * 10, f"{task}: a pixel beside the hole was lost"
    for task in ("keypoints2d", "edges2d"):
        assert np.isfinite(maps[task]).all(), f"{task} follows from the image, which has no holes"


def test_the_other_pixels_have_the_values_of_the_files(tmp_path):
    reader = TaskonomyReader(write(tmp_path), split="test", tasks=GEOMETRY)
    maps, without = decoded(reader, next(iter(reader))), np.ones((HEIGHT, WIDTH), bool)
    without[HOLE] = False
    folders = ("edge_occlusion", "principal_curvature", "reshading")
    stored = {name: np.asarray(Image.open(tmp_path / name / "ihlen" / f"point_1_view_0_domain_{name}.png")) for name in folders}
    np.testing.assert_allclose(maps["reshading"][0][without], stored["reshading"][without] / 255, atol=1e-7)
    # The largest value of a file is not told from a hole otherwise: it becomes the next lower one.
    np.testing.assert_allclose(maps["edge_occlusion"][0][without], np.minimum(stored["edge_occlusion"], 65534)[without] / 65535, atol=1e-7)
    curvature = np.minimum(stored["principal_curvature"][..., :2], 254)[without]
    np.testing.assert_allclose(maps["principal_curvature"][:, without].T, (curvature.astype(float) - 127) / 128, atol=1e-6)


@pytest.mark.parametrize("channels", [0, 3], ids=["grey", "three channels"])
def test_reshading_without_a_depth_map_keeps_all_its_values(tmp_path, channels):
    reader = TaskonomyReader(write(tmp_path, depth=None, shading_channels=channels), split="test", tasks=["reshading"])
    shading = decoded(reader, next(iter(reader)))["reshading"]
    assert shading.shape == (1, HEIGHT, WIDTH)
    assert np.isfinite(shading).all()
    assert (shading[0, 20, 30], shading[0, 20, 31]) == (1.0, 0.0)


def test_a_depth_map_of_another_size_is_refused_by_its_name(tmp_path):
    root = write(tmp_path)
    path = save(root / "depth_zbuffer/ihlen/point_1_view_0_domain_depth_zbuffer.png", depth_with_hole()[:-2])
    reader = TaskonomyReader(root, split="test", tasks=["reshading"])
    with pytest.raises(ReadError, match=rf"{path.name}.* is {WIDTH} x {HEIGHT - 2} pixels, but other maps .* {WIDTH} x {HEIGHT} pixels"):
        next(iter(reader))


def test_a_conversion_keeps_the_holes_and_its_entries_say_how_they_are_stored(tmp_path):
    reader = TaskonomyReader(write(tmp_path / "download"), split="test", tasks=GEOMETRY)
    convert(reader, tmp_path / "converted")
    specs = resolve_tasks(load_task_entries(tmp_path / "converted"))
    (row,) = load_dataset(str(tmp_path / "converted"), split="test", cache_dir=str(tmp_path / "cache"))
    for task in GEOMETRY:
        unknown = np.isnan(specs[task].decode(np.asarray(row[task]))).any(axis=0)
        assert unknown[HOLE].all(), task
        assert unknown.sum() == 4 * 10, task
