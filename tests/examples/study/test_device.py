"""The check before a study, and the time of a step."""

import json

import pytest
import torch
import yaml

from examples.study import check_device, seconds
from examples.study.stack import Stack


@pytest.mark.slow
def test_the_check_passes_where_stacks_are_right_and_fails_where_they_are_not(small_rooms, capsys, monkeypatch):
    monkeypatch.setattr(check_device, "BATCH", 2)
    argv = ["--dataset", str(small_rooms), "--device", "cpu"]
    assert check_device.main(argv) == 0
    right = Stack._losses
    monkeypatch.setattr(Stack, "_losses", lambda self, task, *maps: right(self, task, *maps) * torch.tensor([1.0, 1.01]))
    assert check_device.main(argv) == 1
    assert "of their norm on cpu; allowed: 0.001" in capsys.readouterr().out


def test_every_network_of_a_plan_is_timed(small_rooms, tmp_path):
    base = {"dataset": str(small_rooms), "image_size": 32, "embed_dim": 8, "depths": [1, 1, 1, 1], "window_size": 4, "max_steps": 2}
    networks = {"a": {"decoder": "mtan"}, "b": {"alone": True, "tasks": ["depth"]}}
    content = {"base": base, "learning_rates": [1e-3], "seeds": [0], "networks": networks}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    threads = torch.get_num_threads()
    seconds.main(["--plan", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "out/seconds.json"), "--steps", "1"])
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "out/seconds.json").read_text())
    assert list(found["seconds_per_step"]) == ["a", "b, depth"]
    assert all(value > 0 for value in found["seconds_per_step"].values())


def test_at_least_one_step_is_measured(tmp_path):
    with pytest.raises(ValueError, match="--steps is 0; it must be at least 1"):
        seconds.SecondsArguments(plan=tmp_path, steps=0)
