"""Proves that a file under its final name is complete."""

import errno
import os
import re
import time

import pytest

from mult_hf.data.files import make_folder, remove_unfinished, sync_to_disk, temporary_folder, whole_file


def test_a_file_appears_under_its_name_once_it_is_complete(tmp_path):
    path = tmp_path / "card.md"
    path.write_text("old")
    with whole_file(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["card.md"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "card.md"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), whole_file(path) as unfinished:  # noqa: PT012
        unfinished.write_text("ha")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["card.md"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_an_error_of_writing_names_the_file(tmp_path, number):
    named = re.escape(f"[Errno {number}] {os.strerror(number)}: '{tmp_path / 'map.png'}'")
    with pytest.raises(OSError, match=named), whole_file(tmp_path / "map.png"):
        raise OSError(number, os.strerror(number))  # as Pillow's and Python's own `write` do, without a name
    with pytest.raises(OSError, match=r"^no image$"), whole_file(tmp_path / "map.png"):
        raise OSError("no image")


def test_a_file_that_another_process_writes_next_is_left_alone(tmp_path, monkeypatch):
    """As two workers do if the one that was taken for lost goes on."""
    replace = os.replace

    def replace_and_begin_again(unfinished, path):
        replace(unfinished, path)
        unfinished.write_text("of another process")

    monkeypatch.setattr("mult_hf.data.files.os.replace", replace_and_begin_again)
    with whole_file(tmp_path / "map.png") as unfinished:
        unfinished.write_text("complete")
    assert ((tmp_path / "map.png").read_text(), unfinished.read_text()) == ("complete", "of another process")


def test_only_partial_files_of_a_killed_run_are_removed(tmp_path):
    writing = whole_file(tmp_path / "train.parquet")
    writing.__enter__().write_bytes(b"PAR1 and no more")  # never left: what kill -9 does
    (tmp_path / "test.parquet").write_bytes(b"complete")
    remove_unfinished(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["test.parquet"]


@pytest.mark.skipif(os.name != "posix", reason="only POSIX systems open directories, and sync files that are open for reading")
def test_files_and_directories_are_synced_without_permission_to_write(tmp_path, monkeypatch):
    """A copy of installed code may be read-only."""
    (tmp_path / "model.py").write_text("x = 1")
    (tmp_path / "model.py").chmod(0o444)
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    sync_to_disk(tmp_path / "model.py")
    sync_to_disk(tmp_path)
    assert synced == [path.stat().st_ino for path in (tmp_path / "model.py", tmp_path)]


def test_folders_of_killed_processes_are_removed_when_nobody_can_use_them_any_more(tmp_path):
    for name, age in {".unfinished-killed": 25, ".unfinished-running": 23, "kept": 25}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
        then = time.time() - age * 3600
        os.utime(tmp_path / name, (then, then))
    with temporary_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".unfinished-")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished-running", "kept"]


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("file/in", NotADirectoryError, "Not a directory"),
        ("n" * 300, OSError, "File name too long"),
        ("link", FileExistsError, "a link to nothing is there"),
        ("link/inside", FileExistsError, ".*/link is a link to nothing"),
    ],
)
def test_a_folder_that_cannot_be_created_is_named_with_the_reason(tmp_path, name, error, reason):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(error, match=rf"^the folder {re.escape(str(tmp_path / name))} cannot be created: {reason}; give another$"):
        make_folder(tmp_path / name)
