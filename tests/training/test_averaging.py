"""Proves that the moving average of weights follows its recursion, and can temporarily replace the weights."""

import pytest
import torch
from torch import nn

from mult_hf.training.averaging import WeightAverage


def test_the_average_is_the_recursion_by_hand():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.5)
    expected = None
    for step, value in enumerate([1.0, 4.0, 2.0, 8.0, 5.0]):
        model.weight.data.fill_(value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 5.0


def test_running_statistics_are_averaged_with_the_weights_and_restored():
    """Those of the last step belong to the weights of the last step."""
    model = nn.Sequential(nn.BatchNorm1d(1, affine=False, momentum=1.0), nn.Linear(1, 1))
    average = WeightAverage(model, decay=0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 4.0, 2.0]):
        model(torch.tensor([[value - 1], [value + 1]]))  # mean `value`, variance 2
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if step == 0 else decay * expected + (1 - decay) * value
    with average.in_place():
        assert model[0].running_mean.item() == pytest.approx(expected)
        assert model[0].running_var.item() == pytest.approx(2.0)
    assert model[0].running_mean.item() == 2.0


def test_small_steps_of_half_precision_weights_are_averaged_too():
    """A hundredth of the distance to the newest weight is less than half of bfloat16's step of 1/128 above 1."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    average = WeightAverage(model, decay=0.99)
    expected = None
    for step in range(1000):
        model.weight.data.fill_(1.0 if step < 940 else 1.25)
        average.update()
        decay = min(0.99, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.item() if step else 1.0
    assert expected > 1.1, "premise"
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected, abs=1 / 256)  # stored in steps of 1/128
    assert model.weight.dtype == torch.bfloat16


def evaluate_and_fail(model, average, own):
    with average.in_place():
        assert not torch.equal(model.weight, own)
        raise FloatingPointError("in the block")


def test_the_models_own_weights_are_restored_exactly_even_after_an_error():
    model = nn.Linear(3, 3)
    average = WeightAverage(model, decay=0.9)
    average.update()
    nn.init.normal_(model.weight)
    own = model.weight.clone()
    with pytest.raises(FloatingPointError, match="in the block"):
        evaluate_and_fail(model, average, own)
    assert torch.equal(model.weight, own)


def test_an_average_resumes_from_its_state_as_if_never_interrupted():
    values = torch.rand(6, generator=torch.Generator().manual_seed(0)).tolist()

    def run(model, average, part):
        for value in part:
            model.weight.data.fill_(value)
            average.update()
        return average

    model = nn.Linear(1, 1, bias=False)
    through = run(model, WeightAverage(model, 0.7), values)
    half = run(model, WeightAverage(model, 0.7), values[:3])
    resumed = WeightAverage(model, 0.7)
    resumed.load_state_dict(half.state_dict())
    run(model, resumed, values[3:])
    for name, value in through.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_invalid_decay_is_refused(decay):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        WeightAverage(nn.Linear(1, 1), decay)
