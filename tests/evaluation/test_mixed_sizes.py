"""Proves that images of several sizes are measured together like one by one, by any number of processes."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from mult_hf import MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.evaluation import loop
from mult_hf.evaluation.loop import evaluate

SIZES = [(30, 20), (20, 30), (40, 20), (30, 20), (20, 30)]  # (width, height), as of a telephone held both ways


def rows_of(sizes, known=True):
    """Rows with random images and depth, the second without a known pixel."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (width, height) in enumerate(sizes):
        depth = rng.integers(512, 4096, (height, width), np.uint16)
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
        rows.append({"id": f"photo {number}", "image": image, "depth": depth if known or number != 1 else np.zeros_like(depth)})
    return rows


def collator(**kwargs):
    return MultiTaskCollator(MulTImageProcessor(size={"shortest_edge": 16}, tasks=["depth"], **kwargs))


def brightness(pixel_values):
    """A predictor whose depth depends on the pixel, so that maps of other images give other numbers."""
    return {"depth": 3 + pixel_values.mean(dim=1, keepdim=True)}


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


def test_every_process_calls_the_predictor_as_often_as_the_one_with_the_most_sizes(monkeypatch):
    """Models that are sharded need it. What is predicted again is not measured again."""
    monkeypatch.setattr(loop, "_most_calls", lambda calls, accelerator: 4)
    rows, seen = rows_of(SIZES), []

    def counted(pixel_values):
        seen.append(len(pixel_values))
        return brightness(pixel_values)

    found = measured(rows, counted)
    monkeypatch.undo()
    assert len(seen) == 4
    assert found.compute() == measured(rows).compute()


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
