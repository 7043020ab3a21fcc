"""Weights and optimizer state of a sharded model in a checkpoint, which any number of processes can read.

`torch.distributed.checkpoint` writes one safetensors file per process with the shards of that process, so that no process needs memory for
the whole state, and all write at the same time. Each process reads the parts of these files that it needs. `sharded.json` contains
everything that is not a tensor, and lists the files, because torch would keep initial values where a file is missing.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from .state_files import damaged, read_state, write_state

NAME = "sharded"
"""Name of the directory with one file per process, and of the JSON file that describes them."""

_ENTRIES = ("files", "parameters_with_state", "state", "param_groups")


def has_shards(checkpoint: Path) -> bool:
    """Whether a checkpoint contains the state of a sharded model."""
    return (checkpoint / f"{NAME}.json").exists() or (checkpoint / NAME).exists()


def write_shards(checkpoint: Path, module: nn.Module, optimizer: Optimizer, *, main_process: bool) -> None:
    """Write weights and optimizer state; call it in every process.

    Args:
        checkpoint: an existing directory that all processes share.
        module: the model, with sharded parameters.
        optimizer: its optimizer.
        main_process: whether this process writes `sharded.json`.

    Raises:
        OSError: if a file cannot be written.
    """
    weights: Mapping[str, Any] = get_model_state_dict(module)
    optimizer_state: Mapping[str, Any] = get_optimizer_state_dict(module, optimizer)
    tensors = dict(_named_tensors(weights, optimizer_state["state"]))
    dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(checkpoint / NAME), save_distributed=True))
    if main_process:
        values = {
            name: {key: None if isinstance(value, Tensor) else value for key, value in entries.items()}
            for name, entries in optimizer_state["state"].items()
        }
        files = {path.name: path.stat().st_size for path in sorted((checkpoint / NAME).iterdir())}
        groups = optimizer_state["param_groups"]
        write_state(checkpoint, NAME, dict(zip(_ENTRIES, (files, len(values), values, groups))))


def read_shards(checkpoint: Path, module: nn.Module, optimizer: Optimizer) -> None:
    """Read weights and optimizer state; call it in every process.

    Args:
        checkpoint: a directory that [`write_shards`] wrote, with any number of processes.
        module: the model, sharded over these processes or whole; it is modified.
        optimizer: its optimizer; it is modified.

    Raises:
        ValueError: if a file is missing, damaged or of another model, or weights are not finite.
    """
    saved = read_state(checkpoint, NAME)
    if not isinstance(saved, Mapping) or sorted(saved) != sorted(_ENTRIES):
        raise damaged(checkpoint / f"{NAME}.json", ValueError(f"expected the entries {', '.join(_ENTRIES)}"))
    if saved["parameters_with_state"] != len(saved["state"]):
        found = f"the state of {len(saved['state'])} of {saved['parameters_with_state']} parameters"
        raise damaged(checkpoint / f"{NAME}.json", ValueError(found))
    _check_files(checkpoint / NAME, saved["files"])
    weights: Any = get_model_state_dict(module)
    own: Mapping[str, Any] = get_optimizer_state_dict(module, optimizer)
    state: dict[str, dict[str, Any]] = {}
    for name, entries in saved["state"].items():  # of the parameters that have had a gradient
        templates = own["state"].get(name, {})
        if missing := sorted(templates.keys() - entries.keys()):
            raise damaged(checkpoint / f"{NAME}.json", ValueError(f"the optimizer's state of {name} lacks {missing}"))
        state[name] = {key: templates.get(key, value) for key, value in entries.items()}
    for group, own_group in zip(saved["param_groups"], own["param_groups"]):
        if missing := sorted(own_group.keys() - group.keys()):
            raise damaged(checkpoint / f"{NAME}.json", ValueError(f"a parameter group lacks {missing}"))
    try:
        files = HuggingFaceStorageReader(str(checkpoint / NAME))
        dcp.load(dict(_named_tensors(weights, state)), storage_reader=files, no_dist=not dist.is_initialized())
        set_model_state_dict(module, weights)
        # Not strict, because parameters without a gradient so far have no state.
        restored: Any = {"state": state, "param_groups": saved["param_groups"]}
        set_optimizer_state_dict(module, optimizer, restored, options=StateDictOptions(strict=False))
    except (AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError, dcp.CheckpointException) as error:
        raise ValueError(
            f"{checkpoint}: the shards do not fit this run ({error}); resume from another checkpoint, or start a new run"
        ) from error
    _check_finite(checkpoint, weights)


def shard_whole_state(module: nn.Module, optimizer: Optimizer, weights: Mapping[str, Tensor], optimizer_state: Mapping[str, Any]) -> None:
    """Load the state of an unsharded model and its optimizer into a sharded one; each process keeps its own shards.

    Args:
        module: the model, with sharded parameters.
        optimizer: its optimizer, with the parameters in the same order.
        weights: full weights by name.
        optimizer_state: `state_dict` of the unsharded optimizer, whose keys are the numbers of its parameters.
    """
    set_model_state_dict(module, dict(weights), options=StateDictOptions(full_state_dict=True))
    own: Mapping[str, Any] = get_optimizer_state_dict(module, optimizer)
    names = [name for group in own["param_groups"] for name in group["params"]]
    numbers = [number for group in optimizer_state["param_groups"] for number in group["params"]]
    name_of = dict(zip(numbers, names, strict=True))
    state = {
        name_of[number]: {key: _like(value, own["state"][name_of[number]].get(key)) for key, value in entries.items()}
        for number, entries in optimizer_state["state"].items()
    }
    groups = [{**group, "params": [name_of[number] for number in group["params"]]} for group in optimizer_state["param_groups"]]
    restored: Any = {"state": state, "param_groups": groups}
    set_optimizer_state_dict(module, optimizer, restored, options=StateDictOptions(strict=False))


def _like(value: Any, template: Any) -> Any:
    """Shard a full value like a template; a value that has no sharded template is returned as it is."""
    if not isinstance(template, DTensor):
        return value
    # Every process has the full value, so none needs to send it.
    return distribute_tensor(value.to(template.device), template.device_mesh, template.placements, src_data_rank=None)


def _named_tensors(weights: Mapping[str, Any], optimizer_state: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its name in the files."""
    for name, value in weights.items():
        yield f"model.{name}", value
    for name, entries in optimizer_state.items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                yield f"optimizer.{name}.{key}", value


def _check_files(directory: Path, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        path = directory / name
        try:
            if path.stat().st_size != size:
                raise ValueError(f"it has {path.stat().st_size} of {size} bytes")
            with safe_open(path, framework="pt"):  # reads its header
                pass
        except (OSError, SafetensorError, ValueError) as error:
            raise damaged(path, error) from error


def _check_finite(checkpoint: Path, weights: Mapping[str, Any]) -> None:
    local = {name: value.to_local() if isinstance(value, DTensor) else value for name, value in weights.items()}
    broken = [name for name, value in local.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    broken = sorted({*(gather_object(broken) if dist.is_initialized() else broken)})
    if broken:
        raise ValueError(
            f"{checkpoint} has weights that are not finite in {len(broken)} tensors, such as {broken[0]}; resume from an earlier one"
        )


__all__ = ["NAME", "has_shards", "read_shards", "shard_whole_state", "write_shards"]
