"""The digest by which results are told to be of the same weights."""

import torch
from torch import nn

from mult_hf.inference.output import digest


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_equal_weights_have_one_digest():
    assert digest(linear()) == digest(linear())


def test_weights_that_change_places_change_the_digest():
    """The same tensors in the same order under other names are another model."""
    assert digest(nn.ModuleDict({"depth": linear()})) != digest(nn.ModuleDict({"normals": linear()}))


def test_the_values_of_one_weight_change_the_digest():
    changed = linear()
    with torch.no_grad():
        changed.weight[1, 2] += 1e-3
    assert digest(changed) != digest(linear())
