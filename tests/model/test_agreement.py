"""Proves that confidence is the agreement of an image's prediction with that of its mirror image."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from mult_hf import LabelEncoding, TaskSpec, registered_tasks
from mult_hf.model.agreement import agreement, mirrored_back

SPECS = registered_tasks()


def in_mirror(prediction, spec):
    """What a model without preference for a side predicts for the mirrored image."""
    return mirrored_back(prediction, spec)


@pytest.mark.parametrize("task", SPECS)
def test_equal_predictions_agree_everywhere(task):
    prediction = torch.rand(SPECS[task].channels, 5, 8, generator=torch.Generator().manual_seed(0))
    agreed = agreement(prediction, in_mirror(prediction, SPECS[task]), SPECS[task])
    assert agreed.shape == (5, 8)
    torch.testing.assert_close(agreed, torch.ones(5, 8))


def test_values_differ_by_their_share_of_the_tasks_range():
    depth = torch.full((1, 2, 3), 4.0)
    other = depth.clone()
    other[0, 0, 2] = 1.5  # of the mirrored image: its right end is the image's left
    assert SPECS["depth"].value_range == (0, 10)
    torch.testing.assert_close(agreement(depth, other, SPECS["depth"]), torch.tensor([[0.75, 1, 1], [1, 1, 1]]))


def test_opposite_normals_do_not_agree_and_a_mirrored_x_changes_its_sign():
    left = torch.tensor([-1.0, 0, 0]).view(3, 1, 1)
    assert agreement(left, -left, SPECS["normals"]).item() == 1
    assert agreement(left, left, SPECS["normals"]).item() == 0


def test_classes_agree_by_the_overlap_of_their_probabilities():
    spec = TaskSpec(name="two", kind="classification", channels=2, encoding=LabelEncoding(dtype="uint8"))
    probabilities = [torch.tensor([share, 1 - share]).view(2, 1, 1) for share in (0.9, 0.3)]
    assert agreement(probabilities[0].log(), probabilities[1].log(), spec).item() == pytest.approx(0.4, abs=1e-6)


def test_a_task_without_a_range_is_compared_with_the_range_of_its_predictions():
    spec = TaskSpec(name="free", kind="regression", channels=1)
    one, other = torch.tensor([[[0.0, 8.0]]]), torch.tensor([[[6.0, 0.0]]])
    torch.testing.assert_close(agreement(one, other, spec), torch.tensor([[1.0, 0.75]]))
    assert agreement(one * 0, other * 0, spec).tolist() == [[1, 1]]


@pytest.mark.parametrize("spec", [SPECS["depth"], TaskSpec(name="free", kind="regression", channels=1)], ids=["range", "no range"])
def test_only_a_pixel_whose_prediction_is_not_finite_has_no_confidence(spec):
    values = torch.tensor([[[1.0, float("nan")]]])
    agreed = agreement(values, torch.ones(1, 1, 2), spec)
    assert agreed[0, 0] == 1
    assert agreed[0, 1].isnan()


def test_the_pipeline_adds_confidence_at_the_size_of_the_map_and_changes_nothing_else(predict, image, wanted):
    results = predict(image, confidence=True)
    assert list(results) == list(wanted)
    for task, maps in results.items():
        assert [*maps] == ["prediction", "confidence", "image"]
        torch.testing.assert_close(maps["prediction"], wanted[task]["prediction"], rtol=0, atol=1e-5)
        assert maps["confidence"].shape == (image.height, image.width)
        assert 0 <= maps["confidence"].min() < maps["confidence"].max() <= 1
    assert "confidence" not in predict(image, confidence=False)["depth"]


def test_the_mirrored_image_has_the_mirrored_confidence(predict, image):
    one = predict(image, confidence=True, target_size=(64, 96))
    other = predict(image.transpose(0), confidence=True, target_size=(64, 96))  # FLIP_LEFT_RIGHT
    for task in one:
        np.testing.assert_allclose(one[task]["confidence"], other[task]["confidence"].flip(-1), atol=5e-3, err_msg=task)


def test_images_in_a_batch_have_the_confidence_that_they_have_alone(predict, image, flower):
    alone = [predict(each, confidence=True, tasks=["depth"]) for each in (image, flower, image)]
    together = predict([image, flower, image], confidence=True, tasks=["depth"], batch_size=2)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one["depth"]["confidence"], other["depth"]["confidence"], rtol=0, atol=1e-5)


def test_confidence_may_be_a_default_of_the_pipeline(directory, image):
    predict = pipeline("multitask-vision", model=str(directory), confidence=True, tasks=["depth"])
    assert "confidence" in predict(image)["depth"]


@pytest.mark.parametrize("value", ["yes", 0.5, 1])
def test_anything_but_true_or_false_is_refused(predict, image, value):
    with pytest.raises(ValueError, match=r"confidence is .*; expected True or False"):
        predict(image, confidence=value)
