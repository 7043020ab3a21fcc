"""What a log entry says of the batches since the one before."""

import pytest

from mult_hf.training.progress import Progress


def test_logged_losses_are_means_over_the_batches_since_the_last_entry():
    progress = Progress({})
    progress.note_losses({"depth": 1.0, "normals": 4.0})
    progress.note_losses({"depth": 3.0, "normals": 8.0})
    assert progress.take_mean_losses() == pytest.approx({"depth": 2.0, "normals": 6.0})
    progress.note_losses({"depth": 5.0})
    assert progress.take_mean_losses() == pytest.approx({"depth": 5.0}), "the count starts anew"
