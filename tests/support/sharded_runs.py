"""Saves and reads a sharded model in several processes, which tests/training/test_sharded_state.py starts."""

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard

from mult_hf.training.sharded_state import read_shards, shard_whole_state, write_shards

WHOLE = StateDictOptions(full_state_dict=True)


def make_model(seed):
    """Layers whose sides no number of processes divides, one with a single row, one without a gradient, and a buffer."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 1), nn.Linear(3, 3))
    model[1].running_mean.normal_()
    return model, torch.optim.AdamW([{"params": model[:2].parameters()}, {"params": model[2:].parameters(), "lr": 0.5}], lr=0.1 + seed)


def take_step(model, optimizer):
    """One step, which is the same in every process."""
    inputs = torch.linspace(-1, 1, 20).reshape(4, 5)
    model[2](model[0](inputs)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def whole_state(model, optimizer):
    """Weights and tensors of the optimizer's state by name, complete in the first process."""
    state = {f"model.{name}": value for name, value in get_model_state_dict(model, options=WHOLE).items()}
    found = get_optimizer_state_dict(model, optimizer, options=WHOLE)
    for name, entries in found["state"].items():
        state |= {f"optimizer.{name}.{key}": value for key, value in entries.items()}
    rates = torch.tensor([group["lr"] for group in found["param_groups"]])
    return {name: value.detach().clone() for name, value in {**state, "rates": rates}.items()}


def run_process(action, directory, kind):
    """Obtain the state after a step in one of several processes, and save it as a whole.

    Args:
        action: `write` to take the step and write its state; `read` to read that into another model; `scatter` to load the state of a
            model that is not sharded into another one.
        directory: of the checkpoint.
        kind: `fsdp`, or `whole` for a model that is not sharded.
    """
    dist.init_process_group("gloo")
    model, optimizer = make_model(seed=0 if action == "write" else 1)
    if kind == "fsdp":
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
        optimizer = type(optimizer)(
            [{**group, "params": list(part.parameters())} for group, part in zip(groups(optimizer), (model[:2], model[2:]))]
        )
    if action == "write":
        take_step(model, optimizer)
        write_shards(directory, model, optimizer, main_process=dist.get_rank() == 0)
    elif action == "read":
        read_shards(directory, model, optimizer)
    else:
        whole, its_optimizer = make_model(seed=0)
        take_step(whole, its_optimizer)
        shard_whole_state(model, optimizer, whole.state_dict(), its_optimizer.state_dict())
    state = whole_state(model, optimizer)
    if dist.get_rank() == 0:
        save_file(state, directory / f"{action}-{kind}-{dist.get_world_size()}.safetensors")
    dist.destroy_process_group()


def groups(optimizer):
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
