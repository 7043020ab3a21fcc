"""Proves that photographs are measured without regard to the unit of length, and that the noise of normals from depth is found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from mult_hf import TaskSpec, registered_tasks
from mult_hf.evaluation.loop import Evaluation
from mult_hf.evaluation.photographs import (
    RowsWithNormals,
    add_normals,
    check_focal_lengths,
    find_sets,
    metrics_of_some_sets,
    noise_floor,
    noise_of_normals,
    pooled,
    with_scaled_metrics,
)
from mult_hf.model.tasks import LabelEncoding, resolve_tasks

FOCAL, SIZE = 80.0, (96, 128)
SLOPE = 0.4  # of the wall, to the right
DEPTH = resolve_tasks([{"name": "depth", "encoding": {"dtype": "float32"}}])["depth"]


def wall():
    """Depth of a plane through (0, 0, 2 m) that is turned about the vertical axis: z = 2 + SLOPE * x."""
    right = (np.arange(SIZE[1]) + 0.5 - SIZE[1] / 2) / FOCAL
    return np.broadcast_to(2 / (1 - SLOPE * right), SIZE).astype(np.float32)


def wall_normal():
    return np.array([SLOPE, 0, 1]) / np.hypot(SLOPE, 1)


def row(depth, focal=FOCAL):
    return {"image": np.zeros((*SIZE, 3), np.uint8), "depth": depth, "focal_length": focal}


def test_lengths_are_also_measured_after_median_scaling_and_nothing_else_is():
    curvature = TaskSpec(name="curvature", kind="regression", channels=2, zoom_exponent=1.0)
    specs = with_scaled_metrics({**registered_tasks(), "curvature": curvature})
    changed = [task for task, spec in specs.items() if spec != {**registered_tasks(), "curvature": curvature}[task]]
    assert changed == ["depth"]
    assert specs["depth"].metrics[0] == "abs_rel_median_scaled"
    assert {"delta1_median_scaled", "delta1", "rmse"} <= set(specs["depth"].metrics)


def test_normals_follow_from_depth_where_data_have_none():
    rows = Dataset.from_list([{"image": 0, "depth": 0, "focal_length": FOCAL}])
    found, specs = add_normals(rows, {"depth": DEPTH}, registered_tasks())
    assert isinstance(found, RowsWithNormals)
    assert specs["normals"].encoding == LabelEncoding()
    normals = RowsWithNormals([row(wall())], DEPTH, "normals")[0]["normals"]
    decoded = specs["normals"].decode(normals)
    np.testing.assert_allclose(decoded, np.broadcast_to(wall_normal()[:, None, None], decoded.shape), atol=1e-3)  # float32 depth


@pytest.mark.parametrize("without", ["depth", "focal_length", "normals"])
def test_data_that_cannot_or_need_not_get_normals_stay_as_they_are(without):
    columns = [name for name in ("image", "depth", "focal_length") if name != without]
    rows = Dataset.from_list([dict.fromkeys(columns, 0)])
    specs = {"depth": DEPTH} if without == "focal_length" else {"edges2d": registered_tasks()["edges2d"]}
    specs = specs if without != "normals" else {"depth": DEPTH, "normals": registered_tasks()["normals"]}
    assert add_normals(rows, specs, registered_tasks()) == (rows, specs)
    assert RowsWithNormals([row(wall(), None)], DEPTH, "normals")[0]["normals"] is None


def test_a_depth_map_of_another_size_than_its_image_has_a_focal_length_of_its_own():
    smaller = {**row(wall(), 2 * FOCAL), "image": np.zeros((2 * SIZE[0], 2 * SIZE[1], 3), np.uint8)}
    normals = RowsWithNormals([smaller], DEPTH, "normals")[0]["normals"]
    np.testing.assert_allclose(normals[:, 40, 60], wall_normal(), atol=1e-3)


def test_exact_depth_has_no_noise():
    assert np.median(noise_of_normals(wall(), FOCAL)) < 0.05  # degrees, from the rounding of float32 depth
    odd = wall()[:95, :127]
    assert np.median(noise_of_normals(odd, FOCAL)) < 0.05


@pytest.mark.parametrize("deviation", [0.004, 0.01])
def test_the_noise_is_that_of_normals_at_half_resolution(deviation):
    """Half the pixels, whose true normal is known here, are off by about the same median angle.

    Equal for normally distributed errors; those of slopes that prefer the straighter side are not quite, hence a fifth.
    """
    from mult_hf.data.derive import normals_from_depth

    noisy = wall() + np.random.default_rng(0).normal(0, deviation, SIZE).astype(np.float32)
    half = normals_from_depth(noisy[::2, ::2], FOCAL / 2, (SIZE[1] / 4 + 0.25, SIZE[0] / 4 + 0.25))
    cosine = np.clip(np.einsum("chw,c->hw", half, wall_normal()), -1, 1)
    expected = np.median(np.degrees(np.arccos(cosine)))
    assert expected > 1, "premise: the noise matters"
    assert np.median(noise_of_normals(noisy, FOCAL)) == pytest.approx(expected, rel=0.2)
    assert noise_floor([row(noisy), row(None), row(noisy)], DEPTH) == pytest.approx(expected, rel=0.2)
    assert noise_floor([row(None)], DEPTH) is None


def test_depth_that_is_too_sparse_for_normals_has_no_noise_floor():
    sparse = wall()
    sparse[1::2] = np.nan
    assert noise_floor([row(sparse)], DEPTH) is None


@pytest.mark.parametrize(("focal", "kind"), [(-5.0, "positive"), (0.0, "positive"), (np.nan, "positive"), (np.inf, "finite")])
def test_a_focal_length_that_is_none_is_refused_as_it_was_given(focal, kind):
    with pytest.raises(ValueError, match=rf"focal length {focal} is not {kind}; give it in pixels"):
        noise_of_normals(wall(), focal)


def test_a_directory_of_data_sets_is_told_from_a_data_set(tmp_path):
    card = "---\nmult_tasks: [depth]\n---\nImages.\n"
    for name in ("office", "kitchen", "notes"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "README.md").write_text("Text.\n" if name == "notes" else card)
    assert [path.name for path in find_sets(tmp_path / "photos")] == ["kitchen", "office"]
    assert find_sets(tmp_path / "photos" / "office") == []
    assert find_sets("user/data") == []


def measured(*metrics):
    """One image of normals whose angles are all 60 degrees, measured by some metrics."""
    evaluation = Evaluation({"normals": replace(registered_tasks()["normals"], metrics=metrics)})
    truth = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 4, 4)
    prediction = torch.tensor([0.75**0.5, 0.0, 0.5]).view(3, 1, 1).expand(3, 4, 4)
    evaluation.update(0, "view", {"normals": prediction}, {"normals": truth})
    return evaluation


@pytest.mark.parametrize("first_has_more", [False, True])
def test_all_sets_together_have_the_metrics_common_to_the_sets(first_has_more):
    """Whichever set comes first; another metric would be that of one set under the heading of all."""
    evaluations = [measured("mean_angle"), measured("within_30", "mean_angle")]
    if first_has_more:
        evaluations.reverse()
    whole = pooled(evaluations)
    assert whole.compute() == pytest.approx({"normals/mean_angle": 60.0}, abs=1e-3)
    assert metrics_of_some_sets(evaluations, whole) == ["normals/within_30"]


@pytest.mark.parametrize(
    ("values", "message"),
    [(["near", "far", None, "x"], "focal of test row 1 is 'far'"), ([30.0, -5.0, None, 0.0], "focal of test row 1 is -5")],
)
def test_a_focal_length_that_is_none_is_named_with_its_row(values, message):
    """Only of the rows that are measured, by their numbers in the data set."""
    rows = Dataset.from_dict({"focal_length": values})
    with pytest.raises(ValueError, match=f"{message}.*; give a number of pixels"):
        check_focal_lengths(rows, [1, 3], "test", "focal")
    check_focal_lengths(rows, [2], "test", "focal")
