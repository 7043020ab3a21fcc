"""Proves that the reader of CocoDoom converts both archives to maps in the right unit, and refuses files of another split."""

import json

import numpy as np
import pytest

from mult_hf.data.benchmarks import cocodoom
from mult_hf.data.benchmarks.cocodoom import CocoDoomReader
from mult_hf.data.benchmarks.files import load_splits
from mult_hf.model.tasks import IGNORE_INDEX
from support.benchmark_files import decoded
from support.cocodoom_files import write_cocodoom


def test_cocodoom_reads_depth_in_64ths_and_classes_from_24_bit_ids(tmp_path):
    reader = CocoDoomReader(write_cocodoom(tmp_path))
    (sample,) = reader
    maps, names = decoded(reader, sample), cocodoom.CLASS_NAMES
    assert sample["id"] == "run1/map01/000037"
    assert sample["image"].mode == "RGB"
    assert maps["depth"][0, 5, 30] == 4.0, "64 * 32 * 4 is 128 map units, 32 a metre"
    assert np.isnan(maps["depth"][0, 5, 5]), "the sky has no depth"
    assert [names[maps["segmentation"][5, x]] for x in (5, 15, 30)] == ["sky", "floor or ceiling", "wall"]
    assert names[maps["segmentation"][11, 41]] == "troop"
    assert len(names) == 3 + 137
    np.testing.assert_allclose(maps["normals"][:, 30, 40], [0, 0, 1], atol=0.01)
    assert set(maps) == {"segmentation", "depth", "normals", "keypoints2d", "edges2d", "reshading"}


def test_small_cocodoom_archive_has_things_from_polygons_and_no_geometry(tmp_path):
    reader = CocoDoomReader(write_cocodoom(tmp_path, folders=["rgb"]))
    assert reader.tasks == ["segmentation", "keypoints2d", "edges2d"]
    classes = decoded(reader, next(iter(reader)))["segmentation"]
    assert cocodoom.CLASS_NAMES[classes[11, 41]] == "troop"
    things = np.zeros_like(classes, bool)
    things[10:14, 40:44] = True  # the pixels whose middle lies in the polygon from (40, 10) to (44, 14)
    np.testing.assert_array_equal(classes != IGNORE_INDEX, things)
    assert classes[0, 0] == IGNORE_INDEX, "what is not a thing is unknown"


@pytest.mark.parametrize("corners", [[10, 5, 11, 5, 11, 30, 10, 30], [3, 3, 30, 8, 20, 27], [8.5, 4, 12, 4.5, 11, 9, 7.25, 9.5]])
def test_a_pixel_belongs_to_a_thing_if_its_middle_lies_in_the_polygon(tmp_path, corners):
    """A bar one pixel wide, a triangle, corners between pixels; near a slanted side a finer canvas decides, to a ninth of a pixel."""
    root = write_cocodoom(tmp_path, folders=["rgb"])
    record = json.loads((root / "run-train.json").read_text())
    record["annotations"][0]["segmentation"] = [corners]
    (root / "run-train.json").write_text(json.dumps(record))
    reader = CocoDoomReader(root)
    found = decoded(reader, next(iter(reader)))["segmentation"] != IGNORE_INDEX
    points = np.array(corners, float).reshape(-1, 2)
    y, x = np.mgrid[: found.shape[0], : found.shape[1]] + 0.5
    sides = list(zip(points, np.roll(points, -1, axis=0)))
    distances = np.stack([((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / np.hypot(*(b - a)) for a, b in sides])
    depth = distances.min(axis=0)  # pixels inside of a convex polygon with clockwise corners (y points down)
    assert found[depth > 0.12].all()
    assert not found[depth < -0.12].any()
    assert abs(found.sum() - (depth > 0).sum()) <= 0.02 * found.sum()


def test_cocodoom_splits_by_run_or_by_map_and_refuses_the_wrong_file(tmp_path):
    root = write_cocodoom(tmp_path)
    (root / "map-train.json").write_text((root / "run-train.json").read_text())
    assert CocoDoomReader(root, by="map").shards == [(1, 1)]
    (root / "run-val.json").write_text((root / "run-train.json").read_text())
    with pytest.raises(ValueError, match="run1/map01/000037, which is not in validation"):
        CocoDoomReader(root, split="val")
    with pytest.raises(ValueError, match=r"run-full-train\.json does not exist"):
        CocoDoomReader(root, subset="full")
    lists = load_splits("cocodoom")["map"]
    assert [len(lists[split]["maps"]) for split in ("train", "validation", "test")] == [16, 8, 8]
    assert lists["test"]["maps"][:2] == [4, 8]
