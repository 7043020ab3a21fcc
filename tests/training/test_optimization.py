"""Proves which parameters are decayed and learn at which rate, and how the learning rate changes."""

import math

import pytest
import torch
from torch import nn
from transformers import Swinv2Config

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
from mult_hf.training.optimization import learning_rate_schedule, parameter_groups


def test_every_parameter_is_in_one_group(tiny_model):
    model = tiny_model()
    groups = parameter_groups(model, learning_rate=1e-3, weight_decay=0.1)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())


def test_norms_biases_and_positions_are_not_decayed(tiny_model):
    model = tiny_model(tasks=["depth", "segmentation"])  # no task with "norm" in its name
    groups = parameter_groups(model, learning_rate=1e-3, weight_decay=0.1)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    exempt = [name for name in named if name.endswith(".bias") or "norm" in name or "position_bias" in name]
    assert any("relative_position_bias_table" in name for name in exempt)  # the encoder's
    assert any("position_bias.table" in name for name in exempt)  # the decoders'
    assert {name for name, parameter in named.items() if decay[id(parameter)] == 0} == set(exempt)


@pytest.mark.parametrize("name", ["position_bias", "pos_embed", "logit_scale", "backbone"])
def test_the_name_of_a_task_changes_neither_decay_nor_learning_rate(tiny_model, name):
    def groups(task):
        model = tiny_model(tasks=[{"name": task, "kind": "regression", "channels": 1}])
        return [
            (group["weight_decay"], group["lr"], len(group["params"]))
            for group in parameter_groups(model, learning_rate=1e-3, weight_decay=0.1, encoder_factor=0.5)
        ]

    assert groups(name) == groups("other")


def test_the_scales_of_swin_v2_are_not_decayed():
    """They have three dimensions, but are not the weights of a layer."""
    swin = Swinv2Config(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=32, out_features=["stage1", "stage2"])
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, tasks=["depth"]))
    decay = {id(p): g["weight_decay"] for g in parameter_groups(model, learning_rate=1.0, weight_decay=0.1) for p in g["params"]}
    scales = [parameter for name, parameter in model.named_parameters() if "logit_scale" in name]
    assert scales
    assert {decay[id(parameter)] for parameter in scales} == {0.0}


def test_the_encoder_has_its_own_learning_rate(tiny_model):
    model = tiny_model()
    groups = parameter_groups(model, learning_rate=1e-3, weight_decay=0.1, encoder_factor=0.1)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-4 if ".backbone." in name else 1e-3), name


def test_frozen_parameters_are_left_out(tiny_model):
    model = tiny_model()
    model.mult.backbone.requires_grad_(False)
    assert len(parameter_groups(model, learning_rate=1e-3, weight_decay=0.1, encoder_factor=0.1)) == 2


SCHEDULES = {
    "cosine": lambda fraction: 0.5 * (1 + math.cos(math.pi * fraction)),
    "linear": lambda fraction: 1 - fraction,
    "polynomial": lambda fraction: (1 - fraction) ** 2,
    "constant_with_warmup": lambda fraction: 1,
}
"""Learning rate after the warm-up, relative to the largest one, by the fraction of the remaining steps; power 2."""


def rates(kind, steps, warmup_steps):
    """The learning rate of each step, and after the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = learning_rate_schedule(optimizer, kind, steps=steps, warmup_steps=warmup_steps, power=2.0)
    found = [schedule.get_last_lr()[0]]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_learning_rate_warms_up_and_follows_its_schedule(kind):
    expected = [0, 0.25] + [0.5 * SCHEDULES[kind](step / 6) for step in range(7)]
    assert rates(kind, steps=8, warmup_steps=2) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("warmup_steps", [4, 5, 30])
def test_the_warm_up_takes_at_most_half_of_all_steps(kind, warmup_steps):
    """A short run with the default warm-up must reach its full learning rate, and decay from there."""
    expected = [0, 0.125, 0.25, 0.375] + [0.5 * SCHEDULES[kind](step / 4) for step in range(5)]
    assert rates(kind, steps=8, warmup_steps=warmup_steps) == pytest.approx(expected, abs=1e-9)


def test_a_run_of_one_step_has_no_warm_up():
    """Its only step would have a learning rate of 0."""
    assert rates("cosine", steps=1, warmup_steps=30)[0] == 0.5
