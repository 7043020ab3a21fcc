"""Proves that the study of confidence measures what its table says."""

import numpy as np
import pytest

from examples.study.confidence import COLUMNS, ConfidenceArguments, Measured, main, measure, row


def test_doubt_that_grows_with_the_error_has_correlation_1():
    error = np.arange(16.0).reshape(4, 4) ** 2
    found = measure(1 / (1 + error), error)
    assert found.correlation == pytest.approx(1)
    assert found.error == pytest.approx((np.arange(16) ** 2).mean())
    assert found.doubtful == pytest.approx(np.mean([144, 169, 196, 225]))
    assert found.sure == pytest.approx(np.mean([0, 1, 4, 9]))
    assert measure(error, error).correlation == pytest.approx(-1)


def test_unknown_pixels_do_not_count():
    error, confidence = np.arange(8.0), -np.arange(8.0)
    error[3], confidence[5] = np.nan, np.nan
    assert measure(confidence, error).correlation == pytest.approx(1)
    assert measure(confidence, error).error == pytest.approx(np.mean([0, 1, 2, 4, 6, 7]))


@pytest.mark.parametrize("error", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_image_without_different_errors_is_left_out(error):
    assert measure(np.random.default_rng(0).random((4, 4)), error) is None


def test_a_row_has_the_means_over_images():
    assert row("depth", [Measured(0.5, 1, 2, 0.5), Measured(0.3, 3, 4, 1.5)]) == ["depth", "2", "0.40 ± 0.14", "2", "3", "1"]


@pytest.mark.slow
def test_the_program_prints_a_row_per_task_of_the_shipped_model(capsys):
    main(["--max_samples", "2"])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == list(COLUMNS)
    assert [line[0] for line in lines[2:]] == ["segmentation", "depth", "normals", "keypoints2d", "edges2d", "reshading"]


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="--max_samples is 0"):
        ConfidenceArguments(max_samples=0)
