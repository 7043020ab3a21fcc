"""Proves that a data set is read from its current files, not from an old copy of it or of another with the same name."""

import datasets
import huggingface_hub
import pytest
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard

from mult_hf.data.schema import card_configs, load_rows, load_task_entries, with_columns_of_tasks


def write_rows(directory, values, **header):
    directory.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"value": values}).to_parquet(directory / "train-00000-of-00001.parquet")
    files = [{"split": "train", "path": "train-*.parquet"}]
    DatasetCard(f"---\n{yaml.safe_dump(header or {'configs': card_configs(directory, files)})}---\n").save(directory / "README.md")
    return directory


def test_a_regenerated_directory_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    header = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train-*.parquet"}]}]}
    for values in ([1, 2], [7, 8, 9]):
        write_rows(tmp_path / "a" / "rooms", values, **header)
        assert load_rows(tmp_path / "a" / "rooms", "train")["value"][:] == values
    write_rows(tmp_path / "b" / "rooms", [5], **header)
    assert load_rows(tmp_path / "b" / "rooms", "train")["value"][:] == [5], "another directory of the same name"


def test_the_card_lets_plain_load_dataset_detect_a_change(tmp_path):
    for values in ([1, 2], list(range(100))):
        write_rows(tmp_path / "rooms", values)
        rows = load_dataset(str(tmp_path / "rooms"), split="train", cache_dir=str(tmp_path / "cache"))
        assert rows["value"][:] == values


def test_a_mistyped_directory_is_answered_with_the_one_that_may_be_meant(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    write_rows(tmp_path / "my-rooms", [1])
    monkeypatch.chdir(tmp_path)
    for mistyped, meant in (("my-room", "my-rooms"), ("./my_rooms", "my-rooms"), (f"{tmp_path}/myrooms", f"{tmp_path}/my-rooms")):
        with pytest.raises(ValueError, match=rf"{mistyped} is not a local directory \(did you mean {meant}\?\), and the Hub"):
            load_task_entries(mistyped)
    with pytest.raises(
        ValueError, match=r"kitchen is not a local directory, and the Hub .*: the Hub cannot be reached, and .*; give a directory"
    ):
        load_task_entries("kitchen")
    with pytest.raises(
        ValueError,
        match=r"a/b/c is not a local directory, and the Hub .*: this is no valid id, such as user/name; give a directory",
    ):
        load_task_entries("a/b/c")


def test_columns_that_would_get_the_name_of_another_keep_theirs():
    for columns in (["image", "jpg"], ["jpg", "png"], ["depth", "depth.png", "image"]):
        rows = Dataset.from_dict({name: [name] for name in columns})
        assert with_columns_of_tasks(rows).column_names == columns
        assert with_columns_of_tasks(rows.to_iterable_dataset()).column_names == columns
    renamed = with_columns_of_tasks(Dataset.from_dict({"jpg": ["a"], "depth.png": ["b"], "note": ["c"]}))
    assert renamed[0] == {"image": "a", "depth": "b", "note": "c"}


def test_load_rows_gives_all_splits_without_a_name(tmp_path):
    assert list(load_rows(write_rows(tmp_path / "rooms", [1]))) == ["train"]


def test_a_broken_file_of_a_data_set_is_refused_with_its_directory(tmp_path):
    path = write_rows(tmp_path / "rooms", [1]) / "train-00000-of-00001.parquet"
    for content in (path.read_bytes()[:-10], b"PAR1 and no more", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{tmp_path}/rooms cannot be read: .*; make or download its files again"):
            load_rows(tmp_path / "rooms", "train")
