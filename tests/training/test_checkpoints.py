"""Proves that a checkpoint is complete or does not exist, whenever a save is interrupted."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from mult_hf.training.checkpoints import (
    checkpoint_step,
    clear_for_new_run,
    find_checkpoint,
    list_checkpoints,
    replace_files,
    save_checkpoint,
)
from mult_hf.training.state_files import write_tensors


def write_weights(directory):
    write_tensors(directory / "model.safetensors", torch.nn.Linear(2, 2).state_dict())


def save(accelerator, directory, step, keep, write=write_weights):
    return save_checkpoint(accelerator, write, directory, step, keep)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def permissions(path):
    return oct(path.stat().st_mode & 0o777)


def test_weights_have_the_permissions_of_new_files(tmp_path, accelerator):
    """The safetensors library writes files that nobody but their owner may read, so nobody else could load the model."""

    def write(directory):
        directory.mkdir(exist_ok=True)
        write_weights(directory)
        (directory / "model.safetensors").chmod(0o600)  # as some releases of safetensors write it

    before = os.umask(0o027)
    try:
        checkpoint = save(accelerator, tmp_path / "checkpoints", 5, keep=1, write=write)
        write(tmp_path / "new")
        replace_files(tmp_path / "new", tmp_path / "model")
    finally:
        os.umask(before)
    for directory in (checkpoint, tmp_path / "model"):
        assert permissions(directory / "model.safetensors") == oct(0o640)
        assert names(directory) == ["model.safetensors"]


def test_the_newest_checkpoints_are_kept_by_number(tmp_path, accelerator):
    for step in (5, 10, 15):
        assert save(accelerator, tmp_path, step, keep=2) == tmp_path / f"checkpoint-{step:08d}"
    assert names(tmp_path) == ["checkpoint-00000010", "checkpoint-00000015"]
    assert find_checkpoint(tmp_path, "latest").name == "checkpoint-00000015"
    assert (tmp_path / "checkpoint-00000015" / "model.safetensors").stat().st_size > 0


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, no clean-up runs."""


INTERRUPTIONS = ["mkdir", "write", "fsync", "rename", "rmtree"]


@pytest.mark.parametrize("moment", INTERRUPTIONS)
@pytest.mark.parametrize("occurrence", range(3))
def test_the_latest_checkpoint_is_complete_whenever_a_save_is_killed(tmp_path, accelerator, monkeypatch, moment, occurrence):
    """The first save is complete, the second is killed at one of its steps; then a third one succeeds."""
    save(accelerator, tmp_path, 1, keep=1)
    whole = names(tmp_path / "checkpoint-00000001")
    calls = {"count": 0}

    def killed_at(function):
        def wrapper(*args, **kwargs):
            calls["count"] += 1
            if calls["count"] == occurrence + 1:
                raise Killed
            return function(*args, **kwargs)

        return wrapper

    writer = type("Writer", (), {"write": staticmethod(write_weights)})
    with monkeypatch.context() as patch:
        owner = {
            "mkdir": (Path, "mkdir"),
            "write": (writer, "write"),
            "fsync": (os, "fsync"),
            "rename": (Path, "rename"),
            "rmtree": (shutil, "rmtree"),
        }[moment]
        patch.setattr(*owner, killed_at(getattr(*owner)))
        try:
            save(accelerator, tmp_path, 2, keep=1, write=writer.write)
        except Killed:
            pass
        else:
            assert calls["count"] <= occurrence, "premise: a save without interruption has no such moment"
    latest = find_checkpoint(tmp_path, "latest")
    assert names(latest) == whole
    save(accelerator, tmp_path, 3, keep=1)
    assert names(tmp_path) == ["checkpoint-00000003"], "the next save clears away what the killed one left"


def test_an_incomplete_save_is_never_used(tmp_path, accelerator):
    def half(directory):
        Path(directory, "model.safetensors").write_bytes(b"half")
        raise Killed

    with pytest.raises(Killed):
        save(accelerator, tmp_path, 4, keep=1, write=half)
    assert names(tmp_path) == ["checkpoint-00000004.partial"]
    assert list_checkpoints(tmp_path) == []
    assert find_checkpoint(tmp_path, "latest") is None


def test_a_step_that_is_saved_again_replaces_the_first_save(tmp_path, accelerator):
    first = save(accelerator, tmp_path, 7, keep=1)
    (first / "old").touch()
    assert not (save(accelerator, tmp_path, 7, keep=1) / "old").exists()


@pytest.mark.parametrize("occurrence", range(2))
@pytest.mark.parametrize(("owner", "name"), [(shutil, "rmtree"), (Path, "rename")], ids=["deleting", "renaming"])
def test_the_only_checkpoint_is_never_missing_while_its_step_is_saved_again(tmp_path, accelerator, monkeypatch, owner, name, occurrence):
    """A large checkpoint takes seconds to delete, and a run may be killed then, or between two renames."""
    whole = names(save(accelerator, tmp_path, 7, keep=1))
    calls, function = [], getattr(owner, name)

    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == occurrence + 1:
            raise Killed
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            save(accelerator, tmp_path, 7, keep=1)
    with pytest.raises(ValueError, match="earlier run, the last at step 7"):
        clear_for_new_run(tmp_path, overwrite=False)
    assert names(find_checkpoint(tmp_path, "latest")) == whole
    save(accelerator, tmp_path, 8, keep=1)
    assert names(tmp_path) == ["checkpoint-00000008"], "the next save clears away what the killed one left"


def test_checkpoints_are_ordered_numerically(tmp_path):
    for name in ("checkpoint-90", "checkpoint-100", "checkpoint-9", "checkpoint-best", "other"):
        (tmp_path / name).mkdir()
    assert [checkpoint_step(path) for path in list_checkpoints(tmp_path)] == [9, 90, 100]


def test_a_checkpoint_may_be_chosen_by_its_path(tmp_path):
    (tmp_path / "checkpoint-00000003").mkdir()
    assert find_checkpoint(tmp_path, str(tmp_path / "checkpoint-00000003")).name == "checkpoint-00000003"
    with pytest.raises(ValueError, match=r"checkpoint-00000004 does not exist; complete checkpoints are \[.*checkpoint-00000003'\]"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-00000004"))
    with pytest.raises(ValueError, match="does not have a checkpoint's name"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-00000003.partial"))


def test_a_new_run_does_not_mix_with_an_earlier_one(tmp_path):
    clear_for_new_run(tmp_path, overwrite=False)
    (tmp_path / "checkpoint-00000003").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"earlier run, the last at step 3; continue with --resume latest"):
        clear_for_new_run(tmp_path, overwrite=False)
    clear_for_new_run(tmp_path, overwrite=True)
    assert list_checkpoints(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error"), RuntimeError("unexpected pos 1 vs 2")],
    ids=["the system's", "safetensors'", "torch's"],
)
def test_a_failed_save_names_its_checkpoint_and_the_previous_one(tmp_path, accelerator, error):
    """Whatever the file writer raises on a full disk."""
    save(accelerator, tmp_path, 1, keep=1)

    def full(directory):
        raise error

    message = (
        r"checkpoint-00000002 could not be written; \d+ MiB are free there; newest complete checkpoint: .*checkpoint-00000001; "
        rf"free some space .*{re.escape(str(error))}"
    )
    with pytest.raises(OSError, match=message):
        save(accelerator, tmp_path, 2, keep=1, write=full)
    assert find_checkpoint(tmp_path, "latest").name == "checkpoint-00000001"


def test_a_run_resumed_from_an_older_checkpoint_keeps_its_own(tmp_path, accelerator):
    """Newer checkpoints of the earlier run still exist; they do not displace the new ones."""
    for step in (1, 2, 3):
        save(accelerator, tmp_path, step, keep=3)
    save(accelerator, tmp_path, 2, keep=1)
    assert "checkpoint-00000002" in names(tmp_path)


def test_replacing_files_does_not_affect_others(tmp_path):
    (tmp_path / "target").mkdir()
    for name in ("kept", "replaced"):
        (tmp_path / "target" / name).write_text("old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "replaced").write_text("new")
    replace_files(tmp_path / "new", tmp_path / "target")
    assert {path.name: path.read_text() for path in (tmp_path / "target").iterdir()} == {"kept": "old", "replaced": "new"}
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("config", ["old", "new"])
def test_old_weights_never_stay_beside_a_new_configuration(tmp_path, config, monkeypatch):
    """They would load and predict in another range, for example."""
    old, new = tmp_path / "model", tmp_path / "new"
    for directory, contents in ((old, "old"), (new, "new")):
        directory.mkdir()
        (directory / "model.safetensors").write_text(contents)
        (directory / "config.json").write_text(config if directory == new else "old")
    found, replace = [], Path.replace

    def replaced(path, target):
        found.append({each.name: each.read_text() for each in old.iterdir()})
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replaced)
    replace_files(new, old)
    found.append({each.name: each.read_text() for each in old.iterdir()})
    assert len(found) == 3
    for files in found:
        assert files.get("config.json") in (None, config if files["model.safetensors"] == "new" else "old")
    assert ("config.json" in found[0]) == (config == "old"), "a model with the same configuration stays usable all the time"
    assert found[-1] == {"config.json": config, "model.safetensors": "new"}


def test_keeping_no_checkpoint_is_refused(tmp_path, accelerator):
    with pytest.raises(ValueError, match="keep is 0; it must be at least 1"):
        save(accelerator, tmp_path, 1, keep=0)
