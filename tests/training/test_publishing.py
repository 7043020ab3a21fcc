"""Proves which files of a training run are uploaded to the Hub, that they come together, and that a private upload stays private."""

from functools import partial
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi

from mult_hf.data.hub import create_repository
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.publishing import upload
from mult_hf.training.run import _claim_destinations
from support.local_hub import logged_in_hub

__all__ = ["logged_in_hub"]

NAME = "user/mult-rooms"
"""The repository; `user` is logged in."""

RESULTS = ["README.md", "config.json", "evaluation/depth.png", "model.safetensors", "panel.png"]


@pytest.fixture
def results(tmp_path):
    """A finished run, with files that do not belong to its results."""
    directory = tmp_path / "run"
    hidden = [".env", ".run.lock", ".git/config", ".partial/model.safetensors", "runs/.env"]
    for name in [*RESULTS, *hidden, "checkpoints/step_5/model.safetensors", "best/x.json"]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"contents of {name}")
    return directory


def test_checkpoints_and_hidden_files_are_not_uploaded(logged_in_hub, results):
    create_repository(NAME)
    assert upload(results, NAME) == f"{logged_in_hub.url}/{NAME}"
    files = logged_in_hub.files("models", NAME)
    assert sorted(files) == RESULTS
    assert files["evaluation/depth.png"].content == b"contents of evaluation/depth.png"


def test_an_interrupted_upload_leaves_no_configuration_without_weights(logged_in_hub, results, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own attempts
    create_repository(NAME)
    for bytes_left in (0, 20):
        logged_in_hub.bytes_left = bytes_left
        with pytest.raises(
            ConnectionError,
            match=r"the upload to user/mult-rooms failed; the results are .*--resume latest, without --overwrite",
        ):
            upload(results, NAME)
        assert not logged_in_hub.files("models", NAME)
    logged_in_hub.bytes_left = None
    upload(results, NAME)
    assert sorted(logged_in_hub.files("models", NAME)) == RESULTS


def test_a_private_repository_is_created_private(logged_in_hub):
    create_repository(NAME, private=True)
    assert logged_in_hub.repositories["models", NAME].private
    create_repository(NAME, private=True)
    create_repository("user/public")
    assert not logged_in_hub.repositories["models", "user/public"].private


def test_a_public_repository_is_refused_for_a_private_upload(logged_in_hub):
    create_repository(NAME)
    with pytest.raises(ValueError, match="user/mult-rooms is public on the Hub, and the upload must be private; make it private in its"):
        create_repository(NAME, private=True)


def test_an_id_without_a_namespace_is_the_users_own(logged_in_hub, results):
    for private in (False, True):
        repo_id = create_repository(f"mult-{private}", private=private)
        assert repo_id == f"user/mult-{private}"
        upload(results, repo_id)
        assert sorted(logged_in_hub.files("models", repo_id)) == RESULTS


@pytest.mark.parametrize("token", ["hf_stranger", False])
def test_a_repository_that_cannot_be_written_to_is_refused_though_it_can_be_read(logged_in_hub, monkeypatch, token):
    create_repository(NAME)
    monkeypatch.setattr("mult_hf.data.hub.HfApi", partial(HfApi, endpoint=logged_in_hub.url, token=token))
    with pytest.raises(PermissionError, match="user/mult-rooms cannot be written to with this token; log in with `hf auth login`, or set"):
        create_repository(NAME)


def test_nothing_is_deleted_for_a_run_whose_results_cannot_be_uploaded(logged_in_hub, results):
    create_repository(NAME)
    arguments = TrainingArguments(output_dir=results, overwrite=True, push_to_hub=NAME, hub_private_repo=True)
    with pytest.raises(ValueError, match="is public on the Hub"):
        _claim_destinations(arguments, SimpleNamespace(is_main_process=True))
    assert (results / "checkpoints/step_5/model.safetensors").is_file()
    assert (results / "best/x.json").is_file()


def test_no_repository_is_created_for_a_run_that_is_refused(logged_in_hub, results):
    checkpoint = results / "checkpoints/checkpoint-5"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").touch()
    arguments = TrainingArguments(output_dir=results, push_to_hub=NAME)
    with pytest.raises(ValueError, match="has checkpoints of an earlier run"):
        _claim_destinations(arguments, SimpleNamespace(is_main_process=True))
    assert not logged_in_hub.repositories


def test_a_private_upload_without_a_repository_is_refused():
    with pytest.raises(ValueError, match="--hub_private_repo is for --push_to_hub, which is missing"):
        TrainingArguments(hub_private_repo=True)
