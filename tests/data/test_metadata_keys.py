"""Proves that wrong keys in a folder's metadata are named, and that a folder is found by any path, whatever `datasets` makes of them."""

import json

import numpy as np
import pytest
from PIL import Image

from mult_hf.data.check import checker
from mult_hf.data.schema import load_rows
from mult_hf.data.streaming import open_stream

DEPTH = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001, "unknown": [0]}}


def write_folder(directory, **keys):
    """A folder of two images with depth whose metadata have these keys, in this order; values are file suffixes or numbers."""
    (directory / "train").mkdir(parents=True)
    (directory / "README.md").write_text(f"---\nmult_tasks: {json.dumps([DEPTH])}\n---\nRandom maps.\n")
    rng, lines = np.random.default_rng(0), []
    for number in range(2):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(directory / f"train/{number}_rgb.png")
        Image.fromarray(rng.integers(1000, 4000, (40, 48), np.uint16)).save(directory / f"train/{number}_depth.png")
        values = {key: f"{number}_{value}.png" if isinstance(value, str) else value for key, value in keys.items()}
        lines.append(json.dumps(values))
    (directory / "train/metadata.jsonl").write_text("\n".join(lines))
    return directory


def check(directory):
    return str(checker.check(directory))


@pytest.mark.parametrize("read", [load_rows, check, lambda folder: open_stream(folder, "train")], ids=["load", "check", "stream"])
def test_images_that_datasets_would_read_as_depth_are_refused(tmp_path, read):
    """Of several columns of images, `datasets` (5.2) gives the first one the files under the key `file_name`."""
    folder = write_folder(tmp_path / "rooms", depth_file_name="depth", file_name="rgb")
    message = "metadata.jsonl of .*rooms has the key file_name, whose images datasets reads as the column 'depth', .* call the key image_fi"
    with pytest.raises(ValueError, match=message):
        read(folder)


@pytest.mark.parametrize("first_line", ["", '{"depth_file_name": "0_depth.png"}'], ids=["blank", "without the key"])
def test_the_key_is_found_in_every_line(tmp_path, first_line):
    folder = write_folder(tmp_path / "rooms", depth_file_name="depth", file_name="rgb")
    path = folder / "train/metadata.jsonl"
    path.write_text(f"{first_line}\n{path.read_text()}")
    with pytest.raises(ValueError, match="has the key file_name"):
        load_rows(folder)


def write_unread(folder, name, contents):
    (folder / name).parent.mkdir()
    (folder / name).write_bytes(contents)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("originals/metadata.jsonl", b'{"file_name": "0_rgb.png"}'),
        ("raw/metadata.parquet", b"junk"),
        ("notes/metadata.csv", b"file_name\n"),
    ],
)
def test_metadata_beside_the_splits_are_not_read(tmp_path, name, contents):
    folder = write_folder(tmp_path / "rooms", depth_file_name="depth", image_file_name="rgb")
    write_unread(folder, name, contents)
    assert load_rows(folder)["train"][0]["image"].mode == "RGB"


def test_a_key_inside_of_a_value_is_no_key_of_the_sample(tmp_path):
    folder = write_folder(tmp_path / "rooms", depth_file_name="depth", image_file_name="rgb", meta={"file_name": "0_rgb.png"})
    assert load_rows(folder)["train"][0]["image"].mode == "RGB"


def test_metadata_of_files_that_the_card_does_not_list_are_not_read(tmp_path):
    folder = write_folder(tmp_path / "rooms", depth_file_name="depth", image_file_name="rgb")
    write_unread(folder, "raw/metadata.jsonl", b'{"file_name": "0_rgb.png"}')
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": "train/**"}]}]
    (folder / "README.md").write_text(f"---\nmult_tasks: {json.dumps([DEPTH])}\nconfigs: {json.dumps(configs)}\n---\n")
    assert load_rows(folder)["train"][0]["image"].mode == "RGB"


def test_the_key_file_name_holds_the_images_where_it_comes_first(tmp_path):
    rows = load_rows(write_folder(tmp_path / "rooms", file_name="rgb", depth_file_name="depth"))["train"]
    assert (rows[0]["image"].mode, rows[0]["depth"].mode) == ("RGB", "I;16")


def test_images_under_another_name_are_named(tmp_path):
    found = check(write_folder(tmp_path / "rooms", picture_file_name="rgb", depth_file_name="depth"))
    assert (
        "no column 'image', but 'picture': if it holds the images, rename it to 'image' (in metadata.jsonl, its key to image_file" in found
    )


def test_a_map_under_another_name_is_not_taken_for_the_images(tmp_path):
    assert "but 'depth_map': if it holds the images" not in check(write_folder(tmp_path / "rooms", depth_map_file_name="depth"))


@pytest.mark.parametrize(("key", "is_named"), [("focal", True), ("Focal_Length_px", True), ("exposure", False), ("focal_length", False)])
def test_focal_lengths_under_another_name_are_named(tmp_path, key, is_named):
    found = check(write_folder(tmp_path / "rooms", image_file_name="rgb", depth_file_name="depth", **{key: 50.0}))
    assert (f"no column 'focal_length', but {key!r}: if it holds the focal length in pixels of each image, rename it" in found) == is_named


@pytest.mark.parametrize("read", [load_rows, check, lambda folder: open_stream(folder, "train")], ids=["load", "check", "stream"])
def test_the_current_directory_can_be_a_data_set(tmp_path, monkeypatch, read):
    monkeypatch.chdir(write_folder(tmp_path / "rooms", image_file_name="rgb", depth_file_name="depth"))
    assert read(".")
