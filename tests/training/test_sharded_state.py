"""Proves that the state of a sharded model is read on any number of processes, and that damaged shards are refused by name."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mult_hf.training.sharded_state import has_shards, read_shards
from support.forked import run_together
from support.sharded_runs import make_model, run_process, whole_state
from support.training_runs import same


def start(processes, action, directory, kind):
    printed, statuses = run_together(run_process, action, directory, kind, processes=processes, output=directory / "output.txt")
    assert statuses == [0] * processes, printed


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What two processes wrote after one step."""
    directory = tmp_path_factory.mktemp("checkpoint")
    start(2, "write", directory, "fsdp")
    return directory


@pytest.fixture
def damaged(checkpoint, tmp_path):
    """A copy to damage."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


def read(directory):
    """Read it in this process, into a model with other weights that is not sharded."""
    model, optimizer = make_model(seed=1)
    read_shards(directory, model, optimizer)
    return model, optimizer


def shards(directory):
    return sorted((directory / "sharded").iterdir())


def test_each_process_writes_its_part_as_safetensors(checkpoint):
    assert has_shards(checkpoint)
    files = shards(checkpoint)
    assert len(files) == 2
    parts, whole = [load_file(path) for path in files], load_file(checkpoint / "write-fsdp-2.safetensors")
    assert [part["model.0.weight"].shape for part in parts] == [(4, 5), (3, 5)]
    assert torch.equal(torch.cat([part["model.0.weight"] for part in parts]), whole["model.0.weight"])
    assert json.loads((checkpoint / "sharded.json").read_text())


@pytest.mark.parametrize(("processes", "kind"), [(3, "fsdp"), (2, "whole")])
def test_other_processes_read_the_same_state(checkpoint, processes, kind):
    """Sharded over three processes, and whole in each of two, as with DistributedDataParallel."""
    start(processes, "read", checkpoint, kind)
    assert same(load_file(checkpoint / f"read-{kind}-{processes}.safetensors"), load_file(checkpoint / "write-fsdp-2.safetensors"))


def test_the_state_of_one_process_is_sharded_over_others(checkpoint):
    """From a checkpoint that was written without FSDP; 1e-6 because the processes of the other one added their gradients."""
    start(3, "scatter", checkpoint, "fsdp")
    found, wanted = load_file(checkpoint / "scatter-fsdp-3.safetensors"), load_file(checkpoint / "write-fsdp-2.safetensors")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)


def test_one_process_reads_the_same_state(checkpoint):
    before = whole_state(*make_model(seed=1))
    model, optimizer = read(checkpoint)
    assert model[3].weight not in optimizer.state, "premise: a layer had no gradient, and no state"
    found, wanted = whole_state(model, optimizer), load_file(checkpoint / "write-fsdp-2.safetensors")
    assert same(found, wanted)
    assert not torch.equal(before["model.1.running_mean"], found["model.1.running_mean"]), "premise: the model had other values"


def test_a_missing_shard_is_named(damaged):
    """Torch itself would keep the initial values of its part."""
    shards(damaged)[0].unlink()
    with pytest.raises(ValueError, match=r"shard-00001-\S*safetensors is missing; resume from another checkpoint"):
        read(damaged)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_shard_is_named(damaged, share):
    contents = shards(damaged)[1].read_bytes()
    shards(damaged)[1].write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(ValueError, match=r"shard-00002-\S*safetensors is damaged, truncated"):
        read(damaged)


class RunsCode:
    """Leaves a directory behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_place_of_a_shard_is_refused_and_not_run(damaged, tmp_path):
    size = shards(damaged)[0].stat().st_size
    shards(damaged)[0].write_bytes(pickle.dumps(RunsCode(tmp_path / "ran")).ljust(size, b"\0"))
    with pytest.raises(ValueError, match=r"shard-00001-\S*safetensors is damaged"):
        read(damaged)
    assert not (tmp_path / "ran").exists()


def edited(directory, edit):
    path = directory / "sharded.json"
    tree = dict(json.loads(path.read_text())["dict"])
    edit(tree)
    path.write_text(json.dumps({"dict": [*tree.items()]}))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tree: tree.pop("files"), "expected the entries files, "),
        (lambda tree: tree["state"]["dict"].pop(), r"has the state of \d+ of \d+ parameters|the state of \d+ of \d+ parameters"),
        (lambda tree: tree["state"]["dict"][0][1]["dict"].pop(), "the optimizer's state of 0.weight lacks "),
        (lambda tree: tree["param_groups"][0]["dict"].pop(0), "a parameter group lacks "),
    ],
    ids=["entry", "parameter", "tensor", "option"],
)
def test_half_a_description_is_refused(damaged, edit, message):
    edited(damaged, edit)
    with pytest.raises(ValueError, match=message):
        read(damaged)


def test_the_shards_of_another_model_are_refused(checkpoint):
    model = torch.nn.Linear(5, 7)
    with pytest.raises(ValueError, match="the shards do not fit this run"):
        read_shards(checkpoint, model, torch.optim.AdamW(model.parameters()))


def test_shards_with_non_finite_weights_are_refused(damaged):
    from safetensors import safe_open

    path = shards(damaged)[0]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["model.0.weight"][0, 0] = torch.nan
    save_file(tensors, path, metadata=metadata)
    edited(damaged, lambda tree: tree.update(files={"dict": [[each.name, each.stat().st_size] for each in shards(damaged)]}))
    with pytest.raises(ValueError, match=r"weights that are not finite in 1 tensors, such as 0\.weight"):
        read(damaged)
