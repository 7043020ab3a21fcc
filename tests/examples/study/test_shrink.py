"""A smaller copy of a data set holds what training at that size would have seen."""

import pytest
import torch

from examples.study.shrink import main, shrink
from mult_hf import MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries, load_task_specs


def batch(directory, size):
    processor = MulTImageProcessor(size={"height": size, "width": size}, tasks=list(load_task_specs(directory).values()))
    return MultiTaskCollator(processor)(load_rows(directory, split="validation").select([0, 5]))


def test_training_sees_the_same_at_the_smaller_size(few_rooms, small_rooms):
    large, small = batch(few_rooms, 32), batch(small_rooms, 32)
    torch.testing.assert_close(small["pixel_values"], large["pixel_values"], rtol=0, atol=0.6 / 255 / 0.22, msg="half an 8-bit step")
    steps = {task: spec.encoding.scale for task, spec in load_task_specs(few_rooms).items()}
    for task, target in large["labels"].items():
        torch.testing.assert_close(small["labels"][task], target, rtol=0, atol=0.51 * steps[task], equal_nan=True)


def test_rows_columns_and_tasks_stay(few_rooms, small_rooms):
    before, after = load_rows(few_rooms), load_rows(small_rooms)
    assert {split: len(rows) for split, rows in after.items()} == {"train": 8, "validation": 8, "test": 8}
    assert after["test"]["room"] == before["test"]["room"]
    assert after["test"].features == before["test"].features
    assert after["test"][0]["depth"].size == after["test"][0]["image"].size == (32, 32)
    assert load_task_entries(small_rooms) == load_task_entries(few_rooms)


def test_tasks_may_come_from_another_card(few_rooms, tmp_path):
    (tmp_path / "plain").mkdir()
    for path in few_rooms.glob("*.parquet"):
        (tmp_path / "plain" / path.name).symlink_to(path)
    (tmp_path / "plain/README.md").write_text("no header\n")
    main([str(tmp_path / "plain"), str(tmp_path / "small"), "--size", "32", "--tasks_from", str(few_rooms)])
    assert load_task_entries(tmp_path / "small") == load_task_entries(few_rooms)


def test_files_of_another_run_are_never_overwritten(few_rooms, small_rooms):
    with pytest.raises(ValueError, match="is not empty; choose another directory"):
        shrink(few_rooms, small_rooms, 64)
