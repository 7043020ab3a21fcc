"""Proves that images of several sizes are measured together like one by one, by any number of processes."""

import json
import math

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from mult_hf.evaluation import loop
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.loop import evaluate
from support.forked import run_together
from support.mixed_sizes import SIZES, brightness, collator, measure_with_a_sharded_model, rows_of


def measured(rows, predictor=brightness, collate=None, **kwargs):
    return evaluate({"model": predictor}, rows, collate or collator(), Accelerator(cpu=True), **kwargs)["model"]


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_portraits_and_landscapes_of_a_batch_give_what_single_images_give(batch_size):
    rows = rows_of(SIZES)
    alone, together = measured(rows, batch_size=1), measured(rows, batch_size=batch_size)
    assert together.compute() == pytest.approx(alone.compute(), rel=1e-6)  # batches may round in another order
    assert together.names == alone.names == [row["id"] for row in rows]


def test_images_of_one_size_are_predicted_together():
    seen = []

    def counted(pixel_values):
        seen.append(tuple(pixel_values.shape))
        return brightness(pixel_values)

    measured(rows_of(SIZES), counted)
    assert sorted(seen) == [(1, 3, 16, 32), (2, 3, 16, 24), (2, 3, 24, 16)]


def test_processes_call_a_sharded_model_equally_often_and_give_the_numbers_of_one(tmp_path):
    """Batches of three have one, two or three sizes, and the last one is a padding batch in one of the processes."""
    sizes = [*SIZES, *SIZES[:4]]
    flags = {"output": tmp_path / "printed.txt", "environment": {"ACCELERATE_USE_CPU": "true"}}
    printed, statuses = run_together(measure_with_a_sharded_model, sizes, 3, **flags)
    assert statuses == [0, 0], printed
    assert json.loads(printed.splitlines()[-1]) == pytest.approx(measured(rows_of(sizes), batch_size=3).compute(), rel=1e-12)


def test_a_constant_depth_is_predicted_exactly_at_every_aspect_ratio():
    """2 m everywhere, through one lens: the best constant map for a canonical camera has no error in an image of any size."""
    rows = rows_of([(30, 20), (40, 20), (20, 30)])
    rows = [{**row, "depth": torch.full(row["depth"].shape, 2 * 512).numpy().astype("uint16"), "focal_length": 20.0} for row in rows]
    collate = collator(canonical_focal_length=16.0)
    found = measured(rows, constant_baseline(rows, collate), collate).compute()
    assert found["depth/rmse"] == pytest.approx(0, abs=1e-4)


def test_images_are_counted_whose_metres_assume_a_focal_length():
    """Not one with a given focal length, one that states its own, or one without a label in metres."""
    rows = rows_of([*SIZES, (30, 20)], known=False)
    rows[0]["focal_length"] = 25.0
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    rows[2]["image"].info["exif"] = exif.tobytes()
    assert measured(rows, collate=collator(canonical_focal_length=16.0)).assumed_focal_lengths == len(rows) - 3
    assert measured(rows).assumed_focal_lengths == 0, "without a canonical camera nothing is assumed"


def test_assumed_focal_lengths_are_added_up_over_processes():
    rows, collate = rows_of(SIZES), collator(canonical_focal_length=16.0)
    first, second = measured(rows, collate=collate), loop.Evaluation(collate.processor.task_specs)
    second.update(9, "another", {"depth": torch.ones(2, 2)}, {"depth": torch.ones(1, 2, 2)}, assumed_focal_length=True)
    first.merge(second)
    assert first.assumed_focal_lengths == len(rows) + 1
    assert not math.isnan(first.compute()["depth/rmse"])
