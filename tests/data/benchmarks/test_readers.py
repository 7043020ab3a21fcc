"""Proves that each reader converts a download in its exact layout to maps in the right unit, and names every invalid file."""

import json
import pickle
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from datasets.arrow_writer import ParquetWriter
from PIL import Image
from pyarrow.parquet import ParquetFile

from mult_hf.data.benchmarks import conversion, nyuv2, replica, taskonomy
from mult_hf.data.benchmarks.conversion import convert
from mult_hf.data.benchmarks.errors import ReadError
from mult_hf.data.benchmarks.files import load_splits
from mult_hf.data.benchmarks.nyuv2 import NYUDMTReader, NYULabeledReader, open_nyuv2
from mult_hf.data.benchmarks.replica import ReplicaReader
from mult_hf.data.benchmarks.taskonomy import TaskonomyReader
from mult_hf.data.schema import load_task_entries
from mult_hf.data.streaming import open_stream
from mult_hf.model.tasks import IGNORE_INDEX, resolve_tasks
from support.benchmark_files import HEIGHT, WIDTH, decoded, filled, random_image, save

# --- Taskonomy -----------------------------------------------------------------------------------------------------------------


def taskonomy_maps() -> dict[str, tuple[str, np.ndarray]]:
    """Folder -> (domain in the file name, map). Known values by hand: 1024 is 2 m, 65535 a hole, 9000 too far to trust."""
    depth = filled(1024, np.uint16)
    depth[0, :2] = 65535, 9000
    normal = filled(127, np.uint8, 3)
    normal[..., 2] = 0  # z into the scene is stored at 255: 0 faces the camera
    classes = filled(1, np.uint8)
    classes[0, :2] = 0, 17
    return {
        "rgb": ("rgb", random_image()),
        "depth_zbuffer": ("depth_zbuffer", depth),
        "depth_euclidean": ("depth_euclidean", filled(1536, np.uint16)),
        "normal": ("normal", normal),
        "keypoints2d": ("keypoints2d", filled(655, np.uint16)),
        "edge_texture": ("edge_texture", np.where(np.arange(WIDTH) < 9, 65535, 8192).astype(np.uint16) * np.ones((HEIGHT, 1), np.uint16)),
        "edge_occlusion": ("edge_occlusion", filled(32768, np.uint16)),
        "reshading": ("reshading", filled(51, np.uint8, 3)),
        "principal_curvature": ("principal_curvature", filled(127, np.uint8, 3)),
        "segment_semantic": ("segmentsemantic", classes),
    }


def write_taskonomy(root: Path, buildings=("ihlen",), layout="{folder}/{building}", views=(0,)) -> Path:
    for building in buildings:
        for folder, (domain, array) in taskonomy_maps().items():
            for view in views:
                name = f"point_12_view_{view}_domain_{domain}.png"
                save(root / layout.format(folder=folder, building=building) / name, array)
    return root


LAYOUTS = ["{folder}/{building}", "{building}_{folder}/{folder}", "{building}/{folder}", "{folder}/taskonomy/{building}"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_taskonomy_decodes_to_the_right_units_in_every_layout(tmp_path, layout):
    reader = TaskonomyReader(write_taskonomy(tmp_path, layout=layout), split="test")
    (sample,) = reader
    maps = decoded(reader, sample)

    assert sample["id"] == "ihlen/point_12_view_0"
    assert np.array_equal(np.asarray(sample["image"]), random_image())
    assert maps["depth"][0, 5, 5] == 2.0
    assert np.isnan(maps["depth"][0, 0, :2]).all(), "a hole, and a depth beyond 16 m"
    assert maps["depth_euclidean"][0, 5, 5] == 3.0
    np.testing.assert_allclose(maps["normals"][:, 5, 5], [0, 0, 127 / 127.5], atol=1e-6)
    assert np.isnan(maps["normals"][:, 0, 0]).all(), "no normal where the depth has a hole"
    assert np.isfinite(maps["normals"][:, 0, 1]).all(), "far depth is noise, but the normal is there"
    np.testing.assert_allclose(maps["reshading"][0, 5, 5], 0.2, atol=1e-6)
    np.testing.assert_allclose(maps["edge_occlusion"][0, 5, 5], 0.5, atol=1e-5)
    np.testing.assert_allclose(maps["principal_curvature"][:, 5, 5], [0, 0], atol=1e-6)
    assert maps["segmentation"][5, 5] == 0
    assert maps["segmentation"][0, 0] == IGNORE_INDEX, "0 is uncertain"
    assert resolve_tasks(reader.task_entries())["segmentation"].class_names[maps["segmentation"][0, 1]] == "vase"


def test_all_distances_of_taskonomy_are_divided_by_the_zoom(tmp_path):
    specs = resolve_tasks(TaskonomyReader(write_taskonomy(tmp_path), split="test").task_entries())
    assert {task: spec.zoom_exponent for task, spec in specs.items() if spec.unit == "m"} == {"depth": -1, "depth_euclidean": -1}


def test_taskonomy_heat_maps_have_the_gains_of_the_derivations_and_are_clamped_at_one(tmp_path):
    reader = TaskonomyReader(write_taskonomy(tmp_path), split="test", tasks=["edges2d", "keypoints2d"])
    maps = decoded(reader, next(iter(reader)))
    np.testing.assert_allclose(maps["edges2d"][0, 5, 0], 1.0, atol=1e-4)  # stored 1.0, clamped at 0.25
    np.testing.assert_allclose(maps["edges2d"][0, 5, 20], 4 * 8192 / 65535, atol=1e-6)
    np.testing.assert_allclose(maps["keypoints2d"][0, 5, 5], 20 * 655 / 65535, atol=1e-6)


def test_tasks_select_columns_and_lists_select_buildings(tmp_path):
    root = write_taskonomy(tmp_path, buildings=["ihlen", "mcdade", "hanson"], views=[10, 2])
    reader = TaskonomyReader(root, split="test", tasks=["depth"])
    samples = list(reader)
    assert [sample["id"] for sample in samples] == [f"{name}/point_12_view_{view}" for name in ("ihlen", "mcdade") for view in (2, 10)]
    assert set(samples[0]) == {"id", "image", "depth"}
    assert TaskonomyReader(root, split="test", without=["ihlen"]).shards == ["mcdade"]


def test_missing_edges_are_derived_from_the_image_but_normals_are_not(tmp_path):
    for folder in ("rgb", "depth_zbuffer"):
        domain, array = taskonomy_maps()[folder]
        save(tmp_path / folder / "ihlen" / f"point_1_view_0_domain_{domain}.png", array)
    reader = TaskonomyReader(tmp_path, split="test")
    assert reader.tasks == ["depth", "keypoints2d", "edges2d"]
    edges = decoded(reader, next(iter(reader)))["edges2d"]
    assert edges.shape == (1, HEIGHT, WIDTH)
    assert 0 <= edges.min() < edges.max() <= 1.001
    with pytest.raises(ValueError, match="has no normals, which cannot be derived"):
        TaskonomyReader(tmp_path, split="test", tasks=["normals"])


# --- What must not be read silently --------------------------------------------------------------------------------------------


def break_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def break_bit_depth(path: Path) -> None:
    Image.fromarray((np.asarray(Image.open(path)) // 256).astype(np.uint8)).save(path)


BREAKS = {
    "broken file": (break_truncated, r"cannot be read completely \(.+; \d+ bytes\); download it again"),
    "wrong bit depth": (break_bit_depth, r"is uint8 \(mode L\), expected uint16; a tool that opens 16 bits as 8 corrupts the values"),
    "missing file": (Path.unlink, "does not exist, expected a uint16 image"),
}
"""Kind of problem: its cause, and the error's description."""


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_map_is_named_or_counted(tmp_path, kind, caplog):
    root = write_taskonomy(tmp_path, views=[0, 1])
    bad = root / "edge_occlusion" / "ihlen" / "point_12_view_1_domain_edge_occlusion.png"
    break_file, message = BREAKS[kind]
    break_file(bad)
    tasks = ["depth", "edge_occlusion"]

    with pytest.raises(ReadError) as raised:
        list(TaskonomyReader(root, split="test", tasks=tasks))
    assert raised.value.kind == kind
    assert re.fullmatch(rf'{re.escape(str(bad))}: {message}; to continue and count such files, set on_error="skip"', str(raised.value))
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value), "it comes through from a loader's worker"

    reader = TaskonomyReader(root, split="test", tasks=tasks, on_error="skip")
    samples = list(reader)
    assert [sample["edge_occlusion"] is None for sample in samples] == [False, True]
    assert all(sample["depth"] is not None for sample in samples)
    assert reader.report.problems == {kind: 1}
    assert re.search(f"1 x {kind}\n  {re.escape(str(bad))}: {message}", caplog.text), "the report at the end counts and names it"


def test_a_sample_without_its_image_is_left_out_and_counted(tmp_path):
    root = write_taskonomy(tmp_path, views=[0, 1])
    break_truncated(root / "rgb" / "ihlen" / "point_12_view_0_domain_rgb.png")
    reader = TaskonomyReader(root, split="test", on_error="skip")
    assert [sample["id"] for sample in reader] == ["ihlen/point_12_view_1"]
    assert (reader.report.samples, reader.report.problems) == (1, {"broken file": 1})


def test_invalid_arguments_are_refused_with_the_allowed_ones(tmp_path):
    write_taskonomy(tmp_path)
    with pytest.raises(ValueError, match="unknown split 'trian'; allowed: train"):
        TaskonomyReader(tmp_path, split="trian")
    with pytest.raises(ValueError, match="unknown subset 'huge'; Taskonomy has tiny"):
        TaskonomyReader(tmp_path, subset="huge")
    with pytest.raises(ValueError, match="allowed: raise, skip"):
        TaskonomyReader(tmp_path, split="test", on_error="ignore")
    with pytest.raises(ValueError, match=r"none of the 25 buildings of tiny/train \(hanson"):
        TaskonomyReader(tmp_path, split="train")
    with pytest.raises(ValueError, match="does not exist; download Taskonomy"):
        TaskonomyReader(tmp_path / "nowhere")


# --- datasets, conversion and the command line -----------------------------------------------------------------------------------


def test_iterable_dataset_has_one_shard_per_building_and_reads_lazily(tmp_path):
    root = write_taskonomy(tmp_path, buildings=["ihlen", "mcdade"])
    break_truncated(root / "rgb" / "mcdade" / "point_12_view_0_domain_rgb.png")
    dataset = TaskonomyReader(root, split="test", tasks=["depth"]).to_iterable_dataset()
    assert dataset.num_shards == 2
    assert np.asarray(next(iter(dataset))["depth"]).dtype == np.uint16, "the broken second building was not opened"
    with pytest.raises(ReadError, match="mcdade"):
        list(dataset)


def test_load_dataset_returns_the_same_targets_after_conversion(tmp_path):
    from datasets import load_dataset

    root = write_taskonomy(tmp_path / "in", buildings=["ihlen", "mcdade", "wiconisco"])
    (root / "reshading" / "mcdade" / "point_12_view_0_domain_reshading.png").unlink()
    reader = TaskonomyReader(root, split="test", on_error="skip")
    convert(reader, tmp_path / "out")
    assert reader.report.problems == {"missing file": 1}
    convert(TaskonomyReader(root, split="val", on_error="skip"), tmp_path / "out")

    before = decoded(reader, next(iter(reader)))
    own_bytes = (root / "depth_zbuffer" / "ihlen" / "point_12_view_0_domain_depth_zbuffer.png").read_bytes()
    shutil.rmtree(root)  # the converted data must not depend on the download

    assert load_task_entries(tmp_path / "out") == reader.task_entries()
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"validation": 1, "test": 2}
    assert loaded["test"][1]["reshading"] is None
    after = decoded(reader, loaded["test"][0])
    assert set(before) == set(after) == set(reader.tasks)
    for task in before:
        np.testing.assert_array_equal(before[task], after[task], err_msg=task)
    assert loaded["test"].with_format("arrow")[0]["depth"][0]["bytes"].as_py() == own_bytes, "images are copied, not encoded again"


def test_conversion_streams_and_refuses_to_mix_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "ROWS_IN_MEMORY", 2)
    root = write_taskonomy(tmp_path / "in", views=range(7))
    convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out")
    (path,) = (tmp_path / "out" / "data").glob("*.parquet")
    assert ParquetFile(path).num_row_groups >= 3, "rows were written while the rest was still to be read"
    with pytest.raises(ValueError, match="lists other task entries"):
        convert(TaskonomyReader(root, split="test", tasks=["normals"]), tmp_path / "out")
    write_taskonomy(root, buildings=["mcdade"])
    with pytest.raises(ValueError, match="is from another conversion, of 7 samples, than this one of 8 samples"):
        convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out")


def test_an_interrupted_conversion_continues_and_never_leaves_a_partial_file(tmp_path):
    root = write_taskonomy(tmp_path / "in", buildings=["ihlen", "muleshoe"])
    bad = root / "rgb" / "muleshoe" / "point_12_view_0_domain_rgb.png"
    whole = bad.read_bytes()
    break_truncated(bad)
    with pytest.raises(ReadError):
        convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out", megabytes=1e-6)
    (first,) = (tmp_path / "out" / "data").glob("*.parquet")
    written = first.stat().st_mtime_ns

    bad.write_bytes(whole)
    convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out")  # the number of files is that of the first run
    assert sorted(path.name for path in (tmp_path / "out" / "data").iterdir()) == [".test.json", *parquet_names("test", 2)]
    assert first.stat().st_mtime_ns == written


def test_a_conversion_with_other_settings_is_not_taken_for_done(tmp_path):
    root = write_nyud_mt(tmp_path)
    convert(NYUDMTReader(root), tmp_path / "out")
    convert(NYUDMTReader(root), tmp_path / "out")
    with pytest.raises(ValueError, match=r"another conversion, .*settings than .*'normals_signs': \[1.0, 1.0, 1.0\].*; remove the files"):
        convert(NYUDMTReader(root, normals_signs=(1.0, 1.0, 1.0)), tmp_path / "out")


def test_an_interrupted_conversion_is_not_continued_with_other_tasks(tmp_path):
    """Before its card is written, only the record of the plan tells which tasks the first file has."""
    root = write_taskonomy(tmp_path / "in", buildings=["ihlen", "muleshoe"])
    break_truncated(root / "rgb" / "muleshoe" / "point_12_view_0_domain_rgb.png")
    with pytest.raises(ReadError):
        convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out", megabytes=1e-6)
    with pytest.raises(ValueError, match="is from another conversion, of other samples, task entries"):
        convert(TaskonomyReader(root, split="test", tasks=["normals"]), tmp_path / "out", megabytes=1e-6)


def test_cells_that_were_skipped_are_reported_again_and_read_once_the_download_is_repaired(tmp_path):
    root = write_taskonomy(tmp_path / "in", buildings=["ihlen", "mcdade"])
    lost = root / "depth_zbuffer" / "mcdade" / "point_12_view_0_domain_depth_zbuffer.png"
    lost.rename(tmp_path / "kept")
    reader = TaskonomyReader(root, split="test", tasks=["depth"], on_error="skip")
    for _ in range(2):
        convert(reader, tmp_path / "out", megabytes=1e-6)
        assert reader.report.problems == {"missing file": 1}
    whole, with_gap = sorted((tmp_path / "out/data").glob("*.parquet"))
    written = whole.stat().st_mtime_ns
    with pytest.raises(ReadError, match="mcdade"):
        convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out")
    (tmp_path / "kept").rename(lost)
    repaired = TaskonomyReader(root, split="test", tasks=["depth"])
    convert(repaired, tmp_path / "out")
    assert not repaired.report.problems
    assert whole.stat().st_mtime_ns == written, "only the file with the gap is written again"
    assert ParquetFile(with_gap).read(["depth"])["depth"].null_count == 0
    assert sorted(path.name for path in whole.parent.iterdir()) == [".test.json", whole.name, with_gap.name]


def test_a_repair_that_is_interrupted_forgets_no_empty_cell(tmp_path, monkeypatch):
    root = write_taskonomy(tmp_path / "in")
    lost = root / "depth_zbuffer" / "ihlen" / "point_12_view_0_domain_depth_zbuffer.png"
    lost.rename(tmp_path / "kept")
    convert(TaskonomyReader(root, split="test", tasks=["depth"], on_error="skip"), tmp_path / "out")
    (tmp_path / "kept").rename(lost)
    with monkeypatch.context() as patch:
        patch.setattr(ParquetWriter, "finalize", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out")
    (path,) = (tmp_path / "out/data").glob("*.parquet")
    assert ParquetFile(path).read(["depth"])["depth"].null_count == 1, "premise: the earlier file is still there"
    convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out")
    assert ParquetFile(path).read(["depth"])["depth"].null_count == 0


def test_a_conversion_by_an_earlier_version_is_named_as_such(tmp_path):
    root = write_taskonomy(tmp_path / "in")
    convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out")
    (tmp_path / "out/data/.test.json").write_text(json.dumps({"samples": 1, "files": 1, "shuffle": False}))
    with pytest.raises(ValueError, match="from another conversion, by an earlier version, which did not record"):
        convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "out")


def parquet_names(split, count):
    return [f"{split}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]


@pytest.mark.parametrize("num_proc", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_files_have_about_the_requested_size_and_every_sample_once(tmp_path, num_proc):
    """The samples of several buildings share files; two processes write the same files as one."""
    root = write_taskonomy(tmp_path / "in", buildings=["ihlen", "mcdade", "muleshoe"], views=range(5))
    reader = TaskonomyReader(root, split="test", tasks=["depth", "normals"])
    whole = convert(reader, tmp_path / "whole") / "data/test-00000-of-00001.parquet"
    size = whole.stat().st_size
    parts = convert(reader, tmp_path / "parts", megabytes=size / 4 / 1e6, num_proc=num_proc) / "data"
    assert sorted(path.name for path in parts.glob("*.parquet")) in (parquet_names("test", count) for count in (3, 4, 5))
    assert reader.report.samples == 15
    assert max(path.stat().st_size for path in parts.glob("*.parquet")) < 0.5 * size
    found = [row for path in sorted(parts.glob("*.parquet")) for row in ParquetFile(path).read().to_pylist()]
    assert found == ParquetFile(whole).read().to_pylist()


def test_shuffled_files_mix_buildings_in_an_order_that_does_not_change(tmp_path):
    root = write_taskonomy(tmp_path / "in", buildings=["ihlen", "mcdade", "muleshoe"], views=range(5))
    ids = []
    for name in ("a", "b"):
        convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / name, shuffle=True)
        ids.append(ParquetFile(tmp_path / name / "data/test-00000-of-00001.parquet").read(["id"])["id"].to_pylist())
    assert ids[0] == ids[1]
    assert sorted(ids[0]) == sorted(sample["id"] for sample in TaskonomyReader(root, split="test", tasks=["depth"]))
    assert len({identity.partition("/")[0] for identity in ids[0][:5]}) > 1, "the first rows are not one building's"
    with pytest.raises(ValueError, match="of 15 samples, shuffled, than this one of 15 samples; remove"):
        convert(TaskonomyReader(root, split="test", tasks=["depth"]), tmp_path / "a")


def test_converted_files_are_streamed(tmp_path):
    root = write_taskonomy(tmp_path / "in", buildings=["ihlen", "mcdade"], views=range(4))
    reader = TaskonomyReader(root, split="test", tasks=["depth"])
    rows = open_stream(convert(reader, tmp_path / "out", megabytes=1e-6), "test").rows
    assert rows.num_shards == 8
    assert sorted(row["id"] for row in rows) == sorted(sample["id"] for sample in reader)


# --- Replica -----------------------------------------------------------------------------------------------------------------------


def test_replica_is_taskonomys_layout_with_its_own_scenes_and_classes(tmp_path):
    write_taskonomy(tmp_path, buildings=["room_1", "room_0"])
    reader = ReplicaReader(tmp_path, split="test")
    (sample,) = reader
    assert sample["id"] == "room_1/point_12_view_0"
    maps, specs = decoded(reader, sample), resolve_tasks(reader.task_entries())
    assert maps["depth"][0, 5, 5] == 2.0
    assert specs["segmentation"].class_names[maps["segmentation"][5, 5]] == "backpack"
    assert len(replica.CLASS_NAMES) == 101
    lists = load_splits("replica")["fullplus"]
    assert {split: len(scenes) for split, scenes in lists.items()} == {"train": 10, "validation": 4, "test": 4}
    assert set(lists["test"]) == {"room_1", "office_2", "frl_apartment_4", "frl_apartment_5"}


# --- Official lists ------------------------------------------------------------------------------------------------------------------


def test_official_lists_have_the_published_sizes_and_do_not_overlap():
    lists = load_splits("taskonomy")
    assert {split: len(names) for split, names in lists["tiny"].items()} == {"train": 25, "validation": 5, "test": 5}
    assert set(lists["tiny"]["test"]) == {"ihlen", "muleshoe", "uvalda", "noxapater", "mcdade"}
    assert set(lists["tiny"]["validation"]) == {"wiconisco", "corozal", "collierville", "markleeville", "darden"}
    for smaller, larger in zip(taskonomy.SUBSETS, taskonomy.SUBSETS[1:]):
        assert all(set(lists[smaller][split]) <= set(lists[larger][split]) for split in lists[smaller])
    everything = [building for names in lists["fullplus"].values() for building in names]
    assert len(everything) == len(set(everything)) == 537

    nyu = load_splits("nyuv2")
    assert len(nyu["test"]) == len(set(nyu["test"])) == 654 == nyu["images"] - 795
    raw = [raw_id for raw_ids in nyu["raw_ids_of_class"].values() for raw_id in raw_ids]
    assert len(raw) == len(set(raw))
    by_name = dict(zip(nyuv2.CLASS_NAMES, nyu["raw_ids_of_class"].values()))
    assert [by_name[name] for name in ("wall", "floor", "ceiling", "chair", "person")] == [[21], [11], [4], [5], [331]]


# --- NYUv2 ---------------------------------------------------------------------------------------------------------------------------


def write_nyud_mt(root: Path) -> Path:
    classes = filled(1, np.uint8)
    classes[0, 0], classes[0, 1] = 0, 40
    depth = filled(2.5, np.float32)
    depth[0, 0] = 0
    normals = filled(0, np.float32, 3)
    normals[...] = [0.0, -1.0, 0.0]  # y down in the files: this is a floor
    normals[0, 0] = 0
    for name in ("img_5001", "img_5003"):
        save(root / "images" / f"{name}.jpg", random_image())
        save(root / "segmentation" / f"{name}.png", classes)
        save(root / "depth" / f"{name}.npy", depth)
        save(root / "normals" / f"{name}.npy", normals)
        save(root / "edge" / f"{name}.npy", filled(1, np.float32))
    (root / "gt_sets").mkdir()
    (root / "gt_sets" / "train.txt").write_text("img_5003\n")
    (root / "gt_sets" / "val.txt").write_text("img_5001\n")
    return root


def test_nyud_mt_decodes_metres_forty_classes_and_unit_normals(tmp_path):
    reader = open_nyuv2(write_nyud_mt(tmp_path), split="test")
    assert isinstance(reader, NYUDMTReader)
    (sample,) = reader
    maps, specs = decoded(reader, sample), resolve_tasks(reader.task_entries())
    assert sample["id"] == "img_5001"
    assert maps["depth"][0, 5, 5] == 2.5
    assert np.isnan(maps["depth"][0, 0, 0])
    assert maps["segmentation"][0, 0] == IGNORE_INDEX
    assert specs["segmentation"].class_names[maps["segmentation"][5, 5]] == "wall"
    assert specs["segmentation"].class_names[maps["segmentation"][0, 1]] == "otherprop"
    np.testing.assert_allclose(maps["normals"][:, 5, 5], [0, 1, 0], atol=1e-6)
    assert np.isnan(maps["normals"][:, 0, 0]).all()
    assert maps["boundaries"][0, 5, 5] == 1
    assert np.isnan(maps["reshading"][0, 0, 0]), "no shading where the geometry is unknown"
    assert set(maps) == set(reader.tasks), "keypoints, edges and reshading are derived"
    flipped = NYUDMTReader(tmp_path, split="test", tasks=["normals"], normals_signs=(1, 1, 1))
    np.testing.assert_allclose(decoded(flipped, next(iter(flipped)))["normals"][:, 5, 5], [0, -1, 0], atol=1e-6)


def test_normals_without_unit_length_are_refused(tmp_path):
    root = write_nyud_mt(tmp_path)
    bad = save(root / "normals" / "img_5003.npy", filled(127, np.float32, 3))
    with pytest.raises(ReadError, match="vectors of length 220, expected 1") as raised:
        list(NYUDMTReader(root, tasks=["normals"]))
    assert str(bad) in str(raised.value)


@pytest.fixture
def labeled_mat(tmp_path):
    """Three images; MATLAB writes (images, channels, width, height) as HDF5 sees it. Number 1 and 2 are of the test list."""
    h5py = pytest.importorskip("h5py")
    labels = np.full((3, WIDTH, HEIGHT), 21, np.uint16)
    labels[:, 0, 0], labels[:, 1, 0] = 0, 894
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.stack([random_image(seed).transpose(2, 1, 0) for seed in range(3)])
        file["depths"] = np.full((3, WIDTH, HEIGHT), 3.0, np.float32)
        file["labels"] = labels
    return tmp_path


def test_labelled_mat_is_transposed_and_mapped_to_forty_classes(labeled_mat):
    reader = open_nyuv2(labeled_mat, split="train")
    assert isinstance(reader, NYULabeledReader)
    (sample,) = reader
    maps, specs = decoded(reader, sample), resolve_tasks(reader.task_entries())
    assert sample["id"] == "3", "1 and 2 are test images"
    assert np.array_equal(np.asarray(sample["image"]), random_image(2))
    assert maps["depth"].shape == (1, HEIGHT, WIDTH)
    assert maps["depth"][0, 5, 5] == 3.0
    names = specs["segmentation"].class_names
    assert (names[maps["segmentation"][5, 5]], names[maps["segmentation"][0, 1]]) == ("wall", "otherprop")
    assert maps["segmentation"][0, 0] == IGNORE_INDEX
    np.testing.assert_allclose(maps["normals"][:, 20, 20], [0, 0, 1], atol=0.02, err_msg="a wall straight ahead faces the camera")
    assert [s["id"] for s in open_nyuv2(labeled_mat / "nyu_depth_v2_labeled.mat", split="test", tasks=["depth"])] == ["1", "2"]
    assert next(iter(pickle.loads(pickle.dumps(reader))))["id"] == "3", "an open reader goes to a loader's worker"


def test_a_truncated_mat_and_another_directory_are_refused(labeled_mat):
    path = labeled_mat / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a complete HDF5 file"):
        open_nyuv2(path)
    path.unlink()
    with pytest.raises(ValueError, match="not in the NYUD_MT layout"):
        open_nyuv2(labeled_mat)
