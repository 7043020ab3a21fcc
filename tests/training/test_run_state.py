"""Proves that a checkpoint contains no code, and that a damaged or incomplete one is refused by name."""

import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mult_hf.model.tasks import resolve_tasks
from mult_hf.training.averaging import WeightAverage
from mult_hf.training.checkpoints import list_checkpoints
from mult_hf.training.optimization import learning_rate_schedule
from mult_hf.training.progress import Progress
from mult_hf.training.run_state import RunState, random_state, restore_random_state
from mult_hf.training.state_files import read_state, read_tensors, write_state, write_tensors
from mult_hf.training.weighting import make_weighting
from support.training_runs import same, train

CPU = torch.device("cpu")


class RunsCode:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def one_step(state, parts):
    """Move every part away from its start."""
    state.module(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    parts["schedule"].step()
    parts["average"].update()
    parts["weighting"]._log_variances.step({"depth": 0.5})
    parts["progress"].step += 1


@pytest.fixture
def make_state(accelerator, tiny_model):
    """A run's state with all parts, for a small layer."""

    def make():
        torch.manual_seed(0)
        model, optimizer = accelerator.prepare(layer := torch.nn.Linear(2, 2), torch.optim.AdamW(layer.parameters()))
        parts = {
            "progress": Progress({"seed": "0"}),
            "schedule": learning_rate_schedule(optimizer.optimizer, "cosine", steps=4, warmup_steps=1, power=1.0),
            "weighting": make_weighting("uncertainty", resolve_tasks(["depth"]), model),
            "average": WeightAverage(model, 0.9),
        }
        return RunState(accelerator, model, optimizer, parts, trusted=Path()), parts

    return make


@pytest.fixture
def resumable(make_state, tmp_path):
    """A checkpoint, and a function that resumes from it in a new state."""
    state, parts = make_state()
    one_step(state, parts)
    checkpoint = tmp_path / "checkpoint-00000001"
    checkpoint.mkdir()
    state.save(checkpoint)
    return checkpoint, lambda: make_state()[0].load(checkpoint)


FILES = [
    *("model.safetensors", "optimizer.json", "optimizer.safetensors", "average.json", "average.safetensors"),
    *("progress.json", "random_states_0.json", "random_states_0.safetensors", "schedule.json", "weighting.json", "weighting.safetensors"),
]


def test_a_checkpoint_is_safetensors_and_json(resumable):
    checkpoint, _ = resumable
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted(FILES)


def test_every_part_reads_back_as_it_was_saved(make_state, tmp_path):
    saved, restored = make_state(), make_state()
    one_step(*saved)
    saved[0].save(tmp_path)
    restored[0].load(tmp_path)
    assert repr(saved[0].optimizer.state_dict()) == repr(restored[0].optimizer.state_dict())
    assert same(saved[0].module.state_dict(), restored[0].module.state_dict())
    for name, part in saved[1].items():
        assert repr(restored[1][name].state_dict()) == repr(part.state_dict()), name
        assert repr(make_state()[1][name].state_dict()) != repr(part.state_dict()), f"premise: {name} had a state to lose"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_instead_of_any_file_is_refused_and_not_run(resumable, tmp_path, name, writer):
    checkpoint, resume = resumable
    evil = {"a": RunsCode(tmp_path / "ran")}
    if writer == "pickle":
        (checkpoint / name).write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, checkpoint / name)
    with pytest.raises(ValueError, match=rf"{name} is damaged, truncated or in another format"):
        resume()
    assert not (tmp_path / "ran").exists()
    assert os.mkdir(tmp_path / "ran") is None, "premise: the file could have been made"


def test_a_run_does_not_run_pickles_under_the_names_that_accelerate_reads(data, tmp_path):
    flags = [tmp_path / "run", "--dataset", data, "--save_steps", 1, "--max_steps", 1]
    train(*flags)
    (checkpoint,) = list_checkpoints(tmp_path / "run/checkpoints")
    names = ["custom_checkpoint_0.pkl", "optimizer.bin", "scheduler.bin", "random_states_0.pkl", "pytorch_model.bin", "scaler.pt"]
    for name in names:
        torch.save({"a": RunsCode(tmp_path / "ran")}, checkpoint / name)
    train(*flags, "--resume", "latest")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "premise: this pickle runs code"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_file_is_named(resumable, name, share):
    checkpoint, resume = resumable
    contents = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(ValueError, match=rf"checkpoint-00000001/{name} is damaged, truncated .*; resume from another checkpoint"):
        resume()


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
def test_a_missing_file_is_named(resumable, name):
    checkpoint, resume = resumable
    (checkpoint / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        resume()


@pytest.mark.parametrize("generator", ["python", "numpy", "torch", "device", "on_device"])
def test_an_incomplete_random_state_is_refused(resumable, generator):
    checkpoint, resume = resumable
    state = read_state(checkpoint, "random_states_0")
    del state[generator]
    write_state(checkpoint, "random_states_0", state)
    with pytest.raises(ValueError, match=rf"the random state lacks \['{generator}'\]"):
        resume()


def without(state, *keys):
    """A copy of nested dictionaries and lists that lacks one entry."""
    key, *rest = keys
    if not rest:
        return {name: value for name, value in state.items() if name != key}
    changed = state.copy()
    changed[key] = without(state[key], *rest)
    return changed


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("optimizer", ["state", 0], r"has the state of \d+ of \d+ parameters"),
        ("optimizer", ["state", 0, "exp_avg"], r"lacks \['exp_avg'\]"),
        ("optimizer", ["state", 1, "step"], r"lacks \['step'\]"),
        ("optimizer", ["state"], r"lacks \['state'\]"),
        ("optimizer", ["param_groups", 0, "betas"], r"lacks \['betas'\]"),
        ("schedule", ["last_epoch"], r"lacks \['last_epoch'\]"),
        ("weighting", ["log_variances"], r"lacks \['log_variances'\]"),
        ("weighting", ["log_variances", "optimizer", "state"], "does not fit this run"),
    ],
)
def test_half_a_state_is_refused(resumable, name, keys, message):
    """Torch takes half of an optimizer's or schedule's state for that of a run with fewer steps, and continues with other numbers."""
    checkpoint, resume = resumable
    write_state(checkpoint, name, without(read_state(checkpoint, name), *keys))
    with pytest.raises(ValueError, match=f"the state '{name}' {message}"):
        resume()


def test_non_finite_weights_are_refused(resumable):
    checkpoint, resume = resumable
    tensors = read_tensors(checkpoint / "model.safetensors")
    name = min(tensors)
    tensors[name].flatten()[0] = torch.nan
    write_tensors(checkpoint / "model.safetensors", tensors)
    with pytest.raises(ValueError, match=f"weights that are not finite in 1 tensors, such as {name}"):
        resume()


def test_weights_of_another_model_are_refused(resumable):
    checkpoint, resume = resumable
    write_tensors(checkpoint / "model.safetensors", {"other": torch.zeros(1)})
    with pytest.raises(ValueError, match="the state 'model' does not fit this run"):
        resume()


def test_progress_with_other_entries_is_refused(resumable):
    checkpoint, resume = resumable
    write_state(checkpoint, "progress", {**read_state(checkpoint, "progress"), "note_losses": 1})
    with pytest.raises(ValueError, match="the checkpoint's progress has the entries"):
        resume()


def test_random_states_restore_every_generator():
    saved = random_state(CPU)
    generator = np.random  # the global one
    drawn = random.random(), generator.random_sample(), torch.rand(3)
    restore_random_state(saved, CPU)
    again = random.random(), generator.random_sample(), torch.rand(3)
    assert drawn[:2] == again[:2]
    assert torch.equal(drawn[2], again[2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"torch": torch.zeros(3, dtype=torch.uint8)}, "the random state is damaged"),
        ({"python": (3, (1, 2), None)}, "the random state is damaged"),
        ({"device": "cuda"}, "from device 'cuda', but this process runs on 'cpu'"),
        ({"on_device": torch.zeros(16, dtype=torch.uint8)}, "resume on the same kind of device"),
    ],
    ids=["short torch state", "short Python state", "other device", "state of a device"],
)
def test_an_invalid_random_state_is_refused_and_changes_no_generator(changed, message):
    before = random_state(CPU)
    torch.rand(1)
    random.random()
    now = random_state(CPU)
    with pytest.raises(ValueError, match=message):
        restore_random_state({**before, **changed}, CPU)
    assert random_state(CPU)["python"] == now["python"]
    assert torch.equal(random_state(CPU)["torch"], now["torch"])


def test_a_state_reads_back_as_it_was(tmp_path):
    state = {
        "state": {0: {"step": torch.tensor(3.0), "mean": torch.arange(6).view(2, 3).T}},
        "groups": [{"betas": (0.9, 0.999), "lr": 0.1, "none": None, "on": True, "tensor": "text", "dict": {}}],
        "best": -float("inf"),
    }
    write_state(tmp_path, "x", state)
    found = read_state(tmp_path, "x")
    assert torch.equal(found["state"][0].pop("step"), state["state"][0].pop("step"))
    assert torch.equal(found["state"][0].pop("mean"), state["state"][0].pop("mean"))
    assert found == state
    assert json.loads((tmp_path / "x.json").read_text())


@pytest.mark.parametrize("value", [object(), {1.5: 0}, np.float64(1.0), {1, 2}], ids=["object", "float key", "numpy", "set"])
def test_unsupported_values_are_not_written(tmp_path, value):
    with pytest.raises(TypeError, match=r"a state has"):
        write_state(tmp_path, "x", value)
