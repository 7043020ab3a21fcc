"""Where training starts and how its learning rate runs, number by number."""

import pytest
import torch

from mult_hf.training.initialization import sincos_position_embedding
from mult_hf.training.optimization import learning_rate_schedule


def rates(kind, *, steps, warmup_steps, power=1.0):
    """The learning rate at each step of a run whose optimizer has the rate 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = learning_rate_schedule(optimizer, kind, steps=steps, warmup_steps=warmup_steps, power=power)
    course = []
    for _ in range(steps):
        course.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return [*course, schedule.get_last_lr()[0]]


def test_the_rate_grows_evenly_in_the_warm_up_and_falls_to_nothing():
    assert rates("linear", steps=8, warmup_steps=4) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0])


def test_a_warm_up_longer_than_the_run_takes_half_of_it():
    """Else a short run would never reach the rate that it was given."""
    assert rates("linear", steps=8, warmup_steps=1000) == pytest.approx(rates("linear", steps=8, warmup_steps=4))


def test_the_exponent_bends_the_polynomial_schedule_which_ends_at_nothing():
    assert rates("polynomial", steps=4, warmup_steps=0, power=2.0) == pytest.approx([1, 9 / 16, 4 / 16, 1 / 16, 0])


def test_position_embeddings_start_from_sines_whose_periods_shrink_by_the_square_root_of_two():
    """Eight channels: sine and cosine of the row, then of the column, two periods each; a single row is at the centre."""
    columns = (torch.arange(6) + 0.5) / 6
    found = sincos_position_embedding(1, 6, channels=8)[0]
    for wave, rate in enumerate((torch.pi, torch.pi * 2**0.5)):
        torch.testing.assert_close(found[:, 4 + wave], (columns * rate).sin())
        torch.testing.assert_close(found[:, 6 + wave], (columns * rate).cos())
        torch.testing.assert_close(found[:, wave], torch.full((6,), rate / 2).sin())
