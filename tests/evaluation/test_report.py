"""Colours of several maps have one scale: that of the truths, as far as these are known."""

import numpy as np
import pytest

from mult_hf.evaluation.report import common_limits

UNKNOWN = np.full((1, 4, 4), np.nan)


def constant(value):
    return np.full((1, 4, 4), value)


@pytest.mark.parametrize(
    ("truths", "limits"),
    [
        ([constant(2.0), constant(5.0)], (2.0, 5.0)),
        ([constant(2.0), UNKNOWN], (2.0, 2.0)),
        ([UNKNOWN, UNKNOWN], (7.0, 8.0)),
    ],
)
def test_unknown_truths_do_not_stretch_the_scale_and_predictions_replace_them_if_none_is_known(truths, limits):
    assert common_limits(truths, [constant(7.0), constant(8.0)]) == limits
