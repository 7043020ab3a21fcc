"""A conversion is continued only if the download still gives the same values, also where they are derived from other files."""

import shutil
from functools import partial

import numpy as np
import pytest

from mult_hf.data.benchmarks.cocodoom import CocoDoomReader
from mult_hf.data.benchmarks.conversion import convert
from mult_hf.data.benchmarks.nyuv2 import NYUDMTReader
from mult_hf.data.benchmarks.taskonomy import TaskonomyReader
from support.benchmark_files import decoded, filled, random_image, save
from support.cocodoom_files import write_cocodoom


def write_nyud_mt(root):
    save(root / "images/img_5001.jpg", random_image())
    save(root / "depth/img_5001.npy", filled(2.5, np.float32))
    vectors = filled(0, np.float32, 3)
    vectors[..., 1] = -1
    save(root / "normals/img_5001.npy", vectors)
    (root / "gt_sets").mkdir()
    for name in ("train", "val"):
        (root / f"gt_sets/{name}.txt").write_text("img_5001\n")


def write_taskonomy(root):
    depth = filled(1024, np.uint16)
    depth[:5] = 65535
    for folder, array in {"rgb": random_image(), "depth_zbuffer": depth, "normal": filled(90, np.uint8, 3)}.items():
        save(root / folder / "ihlen" / f"point_1_view_0_domain_{folder}.png", array)


def test_another_size_of_files_counts_once_the_files_are_removed(tmp_path):
    root, out = tmp_path / "download", tmp_path / "out"
    for view in range(3):
        save(root / "rgb/ihlen" / f"point_{view}_view_0_domain_rgb.png", random_image())
        save(root / "depth_zbuffer/ihlen" / f"point_{view}_view_0_domain_depth_zbuffer.png", filled(1024, np.uint16))
    reader = partial(TaskonomyReader, root, split="test", tasks=["depth"])
    convert(reader(), out)
    (file,) = out.glob("data/*.parquet")
    convert(reader(), out, megabytes=1e-6)
    assert [*out.glob("data/*.parquet")] == [file], "finished files are kept as they are"
    file.unlink()
    convert(reader(), out, megabytes=1e-6)
    assert len([*out.glob("data/*.parquet")]) == 3


def test_a_card_that_cannot_be_read_is_refused_in_one_sentence(tmp_path):
    write_taskonomy(tmp_path / "download")
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
    with pytest.raises(ValueError, match=r"(?s)the card .*README.md cannot be read: .*; correct the YAML header"):
        convert(TaskonomyReader(tmp_path / "download", split="test", tasks=["depth"]), tmp_path)


@pytest.mark.parametrize(
    ("write", "reader_class", "split", "task", "folder"),
    [
        (write_nyud_mt, NYUDMTReader, "test", "reshading", "normals"),
        (write_cocodoom, CocoDoomReader, "train", "segmentation", "run1/map01/objects"),
        (write_taskonomy, TaskonomyReader, "test", "normals", "depth_zbuffer"),
    ],
    ids=["derived from normals or from derived ones", "classes of objects or of polygons", "holes of depth"],
)
def test_a_folder_that_was_added_since_is_noticed_if_it_changes_values(tmp_path, write, reader_class, split, task, folder):
    root = tmp_path / "download"
    write(root)
    reader = partial(reader_class, root, split=split, tasks=[task])
    expected = decoded(reader(), next(iter(reader())))[task]
    shutil.move(root / folder, tmp_path / "later")
    convert(reader(), tmp_path / "out")
    before = decoded(reader(), next(iter(reader())))[task]
    shutil.move(tmp_path / "later", root / folder)
    assert not np.array_equal(before, expected, equal_nan=True), "premise"
    with pytest.raises(ValueError, match="is from another conversion, of other samples, task entries or stored columns"):
        convert(reader(), tmp_path / "out")
