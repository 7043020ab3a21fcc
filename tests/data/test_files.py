"""Proves that a file under its final name is complete."""

import pytest

from mult_hf.data.files import remove_unfinished, whole_file


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


def test_only_partial_files_of_a_killed_run_are_removed(tmp_path):
    writing = whole_file(tmp_path / "train.parquet")
    writing.__enter__().write_bytes(b"PAR1 and no more")  # never left: what kill -9 does
    (tmp_path / "test.parquet").write_bytes(b"complete")
    remove_unfinished(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["test.parquet"]
