"""Proves that converted benchmarks are uploaded as private data sets, one split after another, with the real client to a local Hub."""

import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi

from mult_hf.data.benchmarks import conversion
from mult_hf.data.benchmarks.conversion import convert, push
from mult_hf.data.benchmarks.taskonomy import TaskonomyReader
from mult_hf.data.hub import create_repository
from support.benchmark_files import filled, random_image, save
from support.hub_server import File
from support.local_hub import logged_in_hub

__all__ = ["logged_in_hub"]

NAME = "user/rooms"
"""The data set; `user` is logged in."""


def card(hub):
    """The header of the card on the Hub."""
    return yaml.safe_load(hub.files("datasets", NAME)["README.md"].content.decode().split("---")[1])


def splits(hub):
    (config,) = card(hub)["configs"]
    return [each["split"] for each in config["data_files"]]


@pytest.fixture
def reader(tmp_path):
    """Makes a reader of a split."""
    root = tmp_path / "in"
    maps = {"rgb": random_image(), "depth_zbuffer": filled(1024, np.uint16), "normal": filled(127, np.uint8, 3)}
    for building in ("ihlen", "wiconisco"):  # of the test and the validation split
        for view in range(3):
            for domain, values in maps.items():
                save(root / domain / building / f"point_12_view_{view}_domain_{domain}.png", values)
    return lambda split, tasks=("depth",): TaskonomyReader(root, split=split, tasks=[*tasks])


def test_the_converted_files_and_their_card_are_uploaded_to_a_private_data_set(logged_in_hub, reader, tmp_path):
    push(reader("test"), NAME, tmp_path / "out")
    files = logged_in_hub.files("datasets", NAME)
    assert sorted(files) == ["README.md", "data/test-00000-of-00001.parquet"]
    assert files["data/test-00000-of-00001.parquet"].content == (tmp_path / "out/data/test-00000-of-00001.parquet").read_bytes()
    assert card(logged_in_hub)["mult_tasks"] == reader("test").task_entries()
    assert logged_in_hub.repositories["datasets", NAME].private


def test_a_second_split_is_added_to_the_first_without_its_files_at_hand(logged_in_hub, reader):
    push(reader("test"), NAME)
    push(reader("validation"), NAME)
    assert splits(logged_in_hub) == ["validation", "test"]
    assert {"data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"} <= logged_in_hub.files("datasets", NAME).keys()


def test_files_of_an_earlier_upload_of_the_split_do_not_stay(logged_in_hub, reader):
    push(reader("validation"), NAME)
    push(reader("test"), NAME, megabytes=1e-6)
    assert "data/test-00002-of-00003.parquet" in logged_in_hub.files("datasets", NAME), "premise: several files"
    push(reader("test"), NAME)
    found = [name for name in logged_in_hub.files("datasets", NAME) if name.endswith(".parquet")]
    assert sorted(found) == ["data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"]


def test_the_text_of_the_card_on_the_hub_stays(logged_in_hub, reader):
    push(reader("test"), NAME)
    repository = logged_in_hub.repositories["datasets", NAME]
    files = dict(logged_in_hub.files("datasets", NAME))
    files["README.md"] = File(files["README.md"].content + b"\nOurs alone.\n")
    repository.commit("main", files)
    push(reader("validation"), NAME)
    assert b"Ours alone." in logged_in_hub.files("datasets", NAME)["README.md"].content
    assert splits(logged_in_hub) == ["validation", "test"]


def test_a_public_data_set_is_refused_before_anything_is_converted(logged_in_hub, reader, tmp_path):
    create_repository(NAME, repo_type="dataset")
    with pytest.raises(ValueError, match="user/rooms is public on the Hub, and the upload must be private; make it private"):
        push(reader("test"), NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not logged_in_hub.files("datasets", NAME)


def test_a_split_with_other_tasks_is_refused_before_anything_is_converted(logged_in_hub, reader, tmp_path):
    push(reader("test"), NAME)
    with pytest.raises(ValueError, match=r"the card of user/rooms lists other task entries than \['normals'\] of .*; upload to another"):
        push(reader("validation", ["normals"]), NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("configs: [{config_name: default, data_files: data/*.parquet}]", "has files that `mult-hf convert` did not upload"),
        ("configs: [{config_name: default, data_files: [data/train-*.parquet]}]", "has files that `mult-hf convert` did not upload"),
        ("configs: [{config_name: a, data_files: [{split: train, path: a/*}]}]", "has files that `mult-hf convert` did not upload"),
        ("configs: [{config_name: a}, {config_name: b}]", "has files that `mult-hf convert` did not upload"),
        ("configs: [a]", "has files that `mult-hf convert` did not upload"),
        ("configs: default", "has files that `mult-hf convert` did not upload"),
        ("configs: {a: b}", "has files that `mult-hf convert` did not upload"),
        ("- a", r"(?s)the card of user/rooms cannot be read: .*; repair it, or upload to another data set"),
        ("license: mit", "has files that `mult-hf convert` did not upload"),
        ("license: [mit", r"(?s)the card of user/rooms cannot be read: .*; repair it, or upload to another data set"),
    ],
)
def test_a_data_set_of_other_files_is_refused_before_anything_is_converted(logged_in_hub, reader, tmp_path, header, message):
    create_repository(NAME, repo_type="dataset", private=True)
    files = {"README.md": File(f"---\n{header}\n---\nOurs.\n".encode()), "a/x.parquet": File(b"rows")}
    logged_in_hub.repositories["datasets", NAME].commit("main", files)
    with pytest.raises(ValueError, match=message):
        push(reader("test"), NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [b"Ours alone.", "\ufeff---\nlicense: mit\n---\nOurs alone.".encode()])
def test_a_card_without_files_gets_them(logged_in_hub, reader, text):
    create_repository(NAME, repo_type="dataset", private=True)
    logged_in_hub.repositories["datasets", NAME].commit("main", {"README.md": File(text)})
    push(reader("test"), NAME)
    assert splits(logged_in_hub) == ["test"]
    assert logged_in_hub.files("datasets", NAME)["README.md"].content.count(b"---\n") == 2
    assert b"Ours alone." in logged_in_hub.files("datasets", NAME)["README.md"].content


def test_another_split_that_is_not_finished_on_this_disk_is_left_as_it_is_on_the_hub(logged_in_hub, reader, tmp_path):
    push(reader("test"), NAME, megabytes=1e-6)
    before = logged_in_hub.files("datasets", NAME).keys()
    convert(reader("test"), tmp_path / "out", megabytes=1e-6)
    (tmp_path / "out/data/test-00002-of-00003.parquet").unlink()
    push(reader("validation"), NAME, tmp_path / "out")
    assert before < logged_in_hub.files("datasets", NAME).keys()


def test_an_upload_that_ends_before_its_commit_changes_nothing(logged_in_hub, reader, monkeypatch):
    push(reader("validation"), NAME)
    before = logged_in_hub.files("datasets", NAME)
    monkeypatch.setattr(HfApi, "create_commit", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        push(reader("test"), NAME)
    assert logged_in_hub.files("datasets", NAME) == before


@pytest.mark.parametrize("moment", ["convert", "_data_set_on_hub"])  # during the conversion; between looking at the card and the commit
def test_splits_that_are_uploaded_at_the_same_time_are_both_listed(logged_in_hub, reader, monkeypatch, moment):
    function, calls = getattr(conversion, moment), []

    def and_upload_another(*args, **kwargs):
        result = function(*args, **kwargs)
        calls.append(moment)
        if len(calls) == (1 if moment == "convert" else 2):
            with monkeypatch.context() as patch:
                patch.setattr(conversion, moment, function)
                push(reader("validation"), NAME)
        return result

    monkeypatch.setattr(conversion, moment, and_upload_another)
    push(reader("test"), NAME)
    assert splits(logged_in_hub) == ["validation", "test"]
    assert {"data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"} <= logged_in_hub.files("datasets", NAME).keys()


def test_only_the_files_of_the_split_are_sent(logged_in_hub, reader, tmp_path):
    convert(reader("validation"), tmp_path / "out")
    push(reader("test"), NAME, tmp_path / "out")
    assert sorted(logged_in_hub.files("datasets", NAME)) == ["README.md", "data/test-00000-of-00001.parquet"]
    assert splits(logged_in_hub) == ["test"]


@pytest.mark.parametrize(
    "names", [["train.csv"], ["data/test-00000-of-00001.parquet"], ["images/1.png"], ["1.jpg", "2.webp"], ["a.mp4", "b.wav"]]
)
def test_a_data_set_without_a_card_is_refused_if_it_has_rows(logged_in_hub, reader, tmp_path, names):
    create_repository(NAME, repo_type="dataset", private=True)
    logged_in_hub.repositories["datasets", NAME].commit("main", {name: File(b"rows") for name in names})
    with pytest.raises(ValueError, match="has files that `mult-hf convert` did not upload"):
        push(reader("test"), NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


HARMLESS = ("LICENSE.md", "LICENSE.txt", "preview.png", ".gitignore", ".gitattributes", "CITATION.cff", "dataset_infos.json")


def test_files_that_hold_no_rows_do_not_matter(logged_in_hub, reader):
    create_repository(NAME, repo_type="dataset", private=True)
    others = {name: File(b"ours") for name in HARMLESS}
    card = File(b"---\nlicense: mit\n---\nOurs.\n")
    logged_in_hub.repositories["datasets", NAME].commit("main", {"README.md": card, **others})
    push(reader("test"), NAME)
    assert others.items() <= logged_in_hub.files("datasets", NAME).items()


def test_an_interrupted_upload_lists_no_split_and_succeeds_when_repeated(logged_in_hub, reader, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own attempts
    convert(reader("test"), tmp_path / "out")
    logged_in_hub.bytes_left = 100
    with pytest.raises(ConnectionError, match=r"the upload to user/rooms failed; the converted files are in .*; run the same command"):
        push(reader("test"), NAME, tmp_path / "out")
    assert not logged_in_hub.files("datasets", NAME)
    logged_in_hub.bytes_left = None
    push(reader("test"), NAME, tmp_path / "out")
    assert splits(logged_in_hub) == ["test"]
