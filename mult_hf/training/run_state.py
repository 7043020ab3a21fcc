"""State for resuming a run exactly: weights, optimizer, other parts and random states, without pickled code."""

import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from torch import nn
from torch.optim import Optimizer

from mult_hf.model.entry_fields import refusal

from .progress import FROM_WEIGHTS
from .sharded_state import has_shards, read_shards, shard_whole_state, write_shards
from .state_files import read_state, read_tensors, write_state, write_tensors

_WEIGHTS = "model.safetensors"
_COUNT = "parameters_with_state"  # by which half a state is recognised: torch takes the other half for parameters without a gradient so far

OF_LATER_VERSIONS = {"progress": ("known",)}
"""Entries that checkpoints of earlier versions lack; the part itself fills them in."""


class Stateful(Protocol):
    """A part of a run with a state of tensors, numbers, text, and containers of these."""

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """From a checkpoint."""
        ...


class RunState:
    """Writes and reads the state of a run in all its processes.

    Of a model sharded by FSDP, each process writes its shards (`sharded_state`); otherwise the main process writes weights and optimizer
    state. Any number of processes can read either, whether they shard the model or not. A process that the saved run did not have keeps
    its initial random state. DeepSpeed writes and reads its own files, which are pickled, so they are only read below `trusted`.

    Args:
        accelerator: the processes.
        model: the model as prepared by the accelerator.
        optimizer: the optimizer as prepared by the accelerator.
        parts: other parts by name, loaded in this order, so that the first can reject a checkpoint of another run.
        trusted: directory that contains only files written by this run.
        own_parts: parts by name that differ between processes, such as what each one has read.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        parts: Mapping[str, Stateful],
        *,
        trusted: Path,
        own_parts: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.accelerator, self.trusted = accelerator, trusted
        self.module = accelerator.unwrap_model(model, keep_torch_compile=False)
        self.optimizer = getattr(optimizer, "optimizer", optimizer)  # inside Accelerate's wrapper
        self.parts = {**parts, **({} if accelerator.scaler is None else {"scaler": accelerator.scaler})}
        self.own_parts = {f"{name}_{accelerator.process_index}": part for name, part in (own_parts or {}).items()}
        self._random_name = f"random_states_{accelerator.process_index}"

    def save(self, directory: Path) -> None:
        """Write everything to an existing directory; call it in every process.

        Raises:
            OSError: if a file cannot be written.
        """
        kind = self.accelerator.distributed_type
        if kind == DistributedType.DEEPSPEED:
            self.accelerator.save_state(str(directory / "deepspeed"))
        elif kind == DistributedType.FSDP:
            write_shards(directory, self.module, self.optimizer, main_process=self.accelerator.is_main_process)
        elif self.accelerator.is_main_process:
            write_tensors(directory / _WEIGHTS, self.module.state_dict())
            optimizer = self.optimizer.state_dict()
            write_state(directory, "optimizer", {**optimizer, _COUNT: len(optimizer["state"])})
        if self.accelerator.is_main_process:
            for name, part in self.parts.items():
                write_state(directory, name, part.state_dict())
        for name, part in self.own_parts.items():
            write_state(directory, name, part.state_dict())
        write_state(directory, self._random_name, random_state(self.accelerator.device))

    def load(self, directory: Path) -> None:
        """Read everything; call it in every process.

        Raises:
            ValueError: if the checkpoint is incomplete, damaged, or from another run.
        """
        parts = {**self.parts, **self.own_parts}
        states = {name: read_state(directory, name) for name in parts}
        saved_processes = len([*directory.glob("random_states_*.json")])
        is_new = self.accelerator.process_index >= max(saved_processes, 1)
        numbers = None if is_new else read_state(directory, self._random_name)
        for name, part in parts.items():
            if name in self.parts:
                _check_complete(directory, name, states[name], part.state_dict())
            _apply(directory, name, part.load_state_dict, states[name])
        kind = self.accelerator.distributed_type
        if kind == DistributedType.DEEPSPEED:
            self._load_deepspeed(directory)
        elif has_shards(directory):
            read_shards(directory, self.module, self.optimizer)
        else:
            weights, optimizer = read_tensors(directory / _WEIGHTS), _read_optimizer(directory)
            broken = [name for name, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
            if broken:
                raise ValueError(
                    f"{directory} has weights that are not finite in {len(broken)} tensors, such as {broken[0]}; resume from an earlier one"
                )
            if kind == DistributedType.FSDP:
                load = partial(shard_whole_state, self.module, self.optimizer, weights)
                _apply(directory, "model and optimizer", load, optimizer)
            else:
                _apply(directory, "model", self.module.load_state_dict, weights)
                for saved, own in zip(optimizer["param_groups"], self.optimizer.param_groups):
                    _check_complete(directory, "optimizer", saved, own)
                _apply(directory, "optimizer", self.optimizer.load_state_dict, optimizer)
        # Last, so that nothing draws random numbers after they are restored.
        if numbers is not None:
            _apply(directory, self._random_name, lambda state: restore_random_state(state, self.accelerator.device), numbers)

    def _load_deepspeed(self, directory: Path) -> None:
        if not directory.resolve().is_relative_to(self.trusted.resolve()):
            raise ValueError(
                f"{directory} is not in {self.trusted}; DeepSpeed's files can run code when they are read, so only the run's own files "
                "are read; move the checkpoint there if you trust it"
            )
        self.accelerator.load_state(str(directory / "deepspeed"))


def _read_optimizer(directory: Path) -> dict[str, Any]:
    """The optimizer's state, with the state of every parameter that had one."""
    state = read_state(directory, "optimizer")
    _check_complete(directory, "optimizer", state, dict.fromkeys(("state", "param_groups", _COUNT)))
    count, entries = state.pop(_COUNT), state["state"]
    if count != len(entries):
        raise _incomplete(directory, "optimizer", f"has the state of {len(entries)} of {count} parameters")
    for entry in entries.values():
        _check_complete(directory, "optimizer", entry, next(iter(entries.values())))
        _check_complete(directory, "optimizer", next(iter(entries.values())), entry)
    return state


def _check_complete(directory: Path, name: str, saved: Any, own: Mapping[str, Any]) -> None:
    """Refuse a state without some of the entries that the run's own has: most parts keep their initial value for a missing one."""
    if not isinstance(saved, Mapping):
        raise _incomplete(directory, name, f"is a {type(saved).__name__}")
    if missing := sorted(set(own) - set(saved) - {*OF_LATER_VERSIONS.get(name, ())}, key=str):
        raise _incomplete(directory, name, f"lacks {missing}")


def _incomplete(directory: Path, name: str, what: str) -> ValueError:
    return refusal(f"{directory}: the state {name!r} {what}; resume from another checkpoint, or start a new run")


def _apply(directory: Path, name: str, load: Any, state: Any) -> None:
    """Load one part; an error names the part."""
    try:
        load(state)
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError) as error:
        message = f"{directory}: the state {name!r} does not fit this run ({type(error).__name__}: {error})"
        raise ValueError(f"{message}; resume from another checkpoint, or start a new run") from error


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of every random number generator of this process: Python's, numpy's, torch's, and that of the device."""
    state: Any = np.random.get_state()  # noqa: NPY002 (it is this generator that libraries draw from)
    generator, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (generator, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "device": device.type,
        "on_device": None if device.type == "cpu" else torch.get_device_module(device.type).get_rng_state(),
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set every generator to a state from [`random_state`].

    Raises:
        ValueError: if a generator's state is missing, or from another kind of device; then no generator is changed.
    """
    expected = ("python", "numpy", "torch", "device", "on_device")
    missing = [name for name in expected if name not in state]
    if missing:
        raise ValueError(f"the random state lacks {missing}, so the run would not continue exactly; resume from another checkpoint")
    if state["device"] != device.type or (state["on_device"] is None) != (device.type == "cpu"):
        raise ValueError(
            f"the random state is from device {state['device']!r}, but this process runs on {device.type!r}; resume on the same kind of "
            f"device, or {FROM_WEIGHTS}"
        )
    before = random_state(device)
    try:
        _set(state, device)
    except Exception as error:
        _set(before, device)
        raise ValueError(f"the random state is damaged ({error}); resume from another checkpoint") from error


def _set(state: dict[str, Any], device: torch.device) -> None:
    generator, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((generator, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type != "cpu":
        torch.get_device_module(device.type).set_rng_state(state["on_device"])


__all__ = ["RunState", "Stateful", "random_state", "restore_random_state"]
