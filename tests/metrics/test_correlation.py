"""Proves that correlations of errors are Pearson's over the pixels known in both tasks, however the images are split."""

import numpy as np
import pytest
import torch

from mult_hf import IGNORE_INDEX, TaskSpec
from mult_hf.metrics.correlation import ErrorCorrelation, correlation_table, pixel_error

NAN = float("nan")
CLASSES = TaskSpec(name="parts", kind="classification", channels=3, metrics=("mean_iou",))
VECTORS = TaskSpec(name="directions", kind="regression", channels=3, metrics=("mean_angle",))
NUMBERS = TaskSpec(name="heights", kind="regression", channels=1, metrics=("rmse",))
PAIRS = TaskSpec(name="pairs", kind="regression", channels=2, metrics=("mae",))
SPECS = {spec.name: spec for spec in (CLASSES, VECTORS, NUMBERS)}


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_classes_are_wrong_or_right():
    prediction, target = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, IGNORE_INDEX]])
    torch.testing.assert_close(pixel_error(prediction, target, CLASSES), torch.tensor([[0, 1, NAN]]).double(), equal_nan=True)


def test_errors_of_vectors_measured_by_angles_are_in_degrees():
    target = torch.tensor([[[1.0, 1.0, NAN, 0.0]], [[0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]])
    prediction = torch.tensor([[[0.0, 2.0, 1.0, 1.0]], [[5.0, 2.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]])
    expected = torch.tensor([[90, 45, NAN, NAN]]).double()  # the last target has no direction
    torch.testing.assert_close(pixel_error(prediction, target, VECTORS), expected, equal_nan=True)


def test_errors_of_numbers_are_distances_with_or_without_a_channel_axis():
    prediction, target = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[3.0, 4.0, NAN]])
    expected = torch.tensor([[2, 1, NAN]]).double()
    torch.testing.assert_close(pixel_error(prediction, target[None], NUMBERS), expected, equal_nan=True)
    pair = pixel_error(torch.tensor([[[3.0]], [[0.0]]]), torch.tensor([[[0.0]], [[4.0]]]), PAIRS)
    assert pair.tolist() == [[5]], "legs of 3 and 4"


def test_the_correlation_of_four_pixels_by_hand():
    """Errors (1, 2, 3, 4) and (1, 3, 2, 4): deviations multiply to 4, their squares sum to 5 each, so 4 / 5."""
    collected = ErrorCorrelation({"a": NUMBERS, "b": NUMBERS})
    collected.update({"a": column(1, 2, 3, 4), "b": column(1, 3, 2, 4)}, {"a": torch.zeros(4, 1), "b": torch.zeros(4, 1)})
    torch.testing.assert_close(collected.compute(), torch.tensor([[1, 0.8], [0.8, 1]]).double())


def random_images(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        predictions = {
            "parts": torch.randint(3, (6, 7), generator=generator),
            "directions": torch.randn(3, 6, 7, generator=generator),
            "heights": torch.randn(6, 7, generator=generator),
        }
        targets = {
            "parts": torch.randint(3, (6, 7), generator=generator),
            "directions": torch.randn(3, 6, 7, generator=generator),
            "heights": torch.randn(1, 6, 7, generator=generator),
        }
        targets["parts"][:2] = IGNORE_INDEX
        targets["heights"][..., :3] = NAN
        yield predictions, targets


def test_the_correlation_equals_numpys_over_the_pixels_known_in_both():
    collected, errors = ErrorCorrelation(SPECS), {task: [] for task in SPECS}
    for predictions, targets in random_images(5):
        collected.update(predictions, targets)
        for task, spec in SPECS.items():
            errors[task].append(pixel_error(predictions[task], targets[task], spec).flatten().numpy())
    errors = np.stack([np.concatenate(parts) for parts in errors.values()])
    for i in range(3):
        for j in range(3):
            known = np.isfinite(errors[i]) & np.isfinite(errors[j])
            assert collected.sums.count[i, j].item() == known.sum()
            assert collected.compute()[i, j].item() == pytest.approx(np.corrcoef(errors[i, known], errors[j, known])[0, 1], abs=1e-9)
    assert collected.sums.count[0, 2].item() == 5 * 4 * 4, "four rows have classes, four columns heights"


def test_sums_of_two_processes_add_up():
    whole, parts = ErrorCorrelation(SPECS), [ErrorCorrelation(SPECS), ErrorCorrelation(SPECS)]
    for number, image in enumerate(random_images(4)):
        whole.update(*image)
        parts[number % 2].update(*image)
    parts[0].merge(parts[1])
    for name, value in whole.sums.tensors().items():
        torch.testing.assert_close(parts[0].sums.tensors()[name], value)


def test_sums_of_other_tasks_are_not_added():
    with pytest.raises(ValueError, match=r"tasks are \['a'\] here and \['b'\] in the other"):
        ErrorCorrelation({"a": NUMBERS}).merge(ErrorCorrelation({"b": NUMBERS}))


def test_a_task_without_a_target_is_unknown_in_that_image():
    collected = ErrorCorrelation({"a": NUMBERS, "b": NUMBERS})
    collected.update({"a": column(1, 2), "b": column(2, 1)}, {"a": torch.zeros(2, 1), "b": torch.zeros(2, 1)})
    collected.update({"a": column(9, 7), "b": column(9, 9)}, {"a": torch.zeros(2, 1)})
    collected.update({"a": column(9, 7)}, {})
    assert collected.sums.count.tolist() == [[4, 2], [2, 2]]
    assert collected.compute()[0, 1].item() == pytest.approx(-1)


def test_undefined_correlations_are_nan():
    collected = ErrorCorrelation({"a": NUMBERS, "same": NUMBERS, "never": NUMBERS})
    zeros = torch.zeros(3, 1)
    collected.update({"a": column(1, 2, 3), "same": column(0.1, 0.1, 0.1)}, {"a": zeros, "same": zeros})
    values = collected.compute()
    assert values[0, 0].item() == pytest.approx(1)
    assert values[0, 1:].isnan().all(), "no spread, no pixel"
    assert correlation_table(values[:2, :2], ["a", "same"]).splitlines()[2:] == ["| a | 1.00 | - |", "| same | - | - |"]


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"heights: prediction has shape \(1, 2, 1\), target \(1, 3, 1\)"):
        pixel_error(torch.zeros(2, 1), torch.zeros(3, 1), NUMBERS)
    with pytest.raises(ValueError, match=r"tasks' maps have sizes \{'a': \(2, 1\), 'b': \(3, 1\)\}"):
        ErrorCorrelation({"a": NUMBERS, "b": NUMBERS}).update(
            {"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)}, {"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)}
        )
