"""Proves that training streams its rows from a store over S3's protocol, and continues there after an interruption."""

import shutil

import pytest

from support.s3_store import s3_store, upload
from support.training_runs import comparable_log, interrupted, same, train, weights, write_shards

pytest.importorskip("torchdata")

FLAGS = "--streaming --shuffle_window 3 --gradient_accumulation_steps 2 --max_steps 6 --save_steps 2".split()


@pytest.fixture(scope="module")
def store():
    with s3_store() as url:
        yield url


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A data set in six files per split, on a disk."""
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_on_rows_in_s3_ends_with_the_weights_of_a_run_on_rows_on_disk(tmp_path, store, shards, monkeypatch, workers):
    """The store has the same files, so the order of the rows is the same."""
    url = upload(shards, f"{store}/maps{workers}")
    flags = [*FLAGS, "--num_workers", workers]
    train(tmp_path / "disk", "--dataset", shards, *flags)
    for moment in (3, 5):
        interrupted(monkeypatch, moment, tmp_path / "s3", "--dataset", url, *flags, "--resume", "latest")
    train(tmp_path / "s3", "--dataset", url, *flags, "--resume", "latest")
    assert same(weights(tmp_path / "disk"), weights(tmp_path / "s3"))
    assert comparable_log(tmp_path / "disk") == comparable_log(tmp_path / "s3")


def test_a_changed_object_is_noticed_by_a_resumed_run(tmp_path, store, shards):
    copy = shutil.copytree(shards, tmp_path / "data")
    url = upload(copy, f"{store}/changing")
    train(tmp_path / "run", "--dataset", url)
    shutil.copy(copy / "train-00002-of-00006.parquet", copy / "train-00003-of-00006.parquet")
    upload(copy, url)
    with pytest.raises(ValueError, match=r"the data changed since the checkpoint"):
        train(tmp_path / "run", "--dataset", url, "--resume", "latest")


def test_a_bucket_that_does_not_exist_is_named(tmp_path, store):
    with pytest.raises(ValueError, match=r"s3://missing/maps"):
        train(tmp_path / "run", "--dataset", "s3://missing/maps")
