"""State of a run in files that cannot contain code: tensors in safetensors, everything else in JSON.

A state is a tree of dictionaries, lists and tuples with tensors, numbers, text, booleans and None as leaves, as returned by
`state_dict`. `NAME.json` contains the tree, with a number for each tensor; `NAME.safetensors` contains the tensors by these numbers
and is not written if there are none.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_LEAVES = (bool, int, float, str, type(None))


def write_state(directory: Path, name: str, state: Any) -> None:
    """Write a state; [`read_state`] returns an equal one.

    Args:
        directory: output directory.
        name: name of the files, without suffix.
        state: see the module's docstring; tensors may be on any device.

    Raises:
        TypeError: if the state contains any other type.
        OSError: if a file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = _to_json(state, tensors)
    if tensors:
        write_tensors(directory / f"{name}.safetensors", tensors)
    (directory / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")


def read_state(directory: Path, name: str) -> Any:
    """Read a state that [`write_state`] wrote; its tensors are on the CPU.

    Raises:
        ValueError: if a file is missing, truncated, or in another format.
    """
    path = directory / f"{name}.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    tensors = read_tensors(path.with_suffix(".safetensors")) if path.with_suffix(".safetensors").exists() else {}
    try:
        return _from_json(tree, tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name to a safetensors file.

    Raises:
        OSError: if the file cannot be written.
    """
    separate = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    try:
        save_file(separate, path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file to the CPU.

    Raises:
        ValueError: if the file is missing, truncated, or not a safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ValueError:
    """The refusal of a checkpoint's file that cannot be read."""
    what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged, truncated or in another format ({error})"
    return ValueError(f"{path} {what}; resume from another checkpoint, or start a new run")


def _to_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, Mapping):  # as pairs, because the keys of an optimizer's state are numbers
        return {"dict": [[key, _to_json(item, tensors)] for key, item in value.items() if _is_key(key)]}
    if isinstance(value, tuple):
        return {"tuple": [_to_json(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_to_json(item, tensors) for item in value]
    if type(value) not in _LEAVES:
        raise TypeError(f"a state has {value!r} of type {type(value).__name__}; expected tensors, numbers, text and containers of these")
    return value


def _is_key(key: Any) -> bool:
    if type(key) not in (int, str):
        raise TypeError(f"a state has the key {key!r} of type {type(key).__name__}; expected text or an integer")
    return True


def _from_json(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_from_json(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _from_json(item, tensors) for key, item in content}
    if kind == "tuple":
        return tuple(_from_json(item, tensors) for item in content)
    raise ValueError(f"unknown kind of node {kind!r}; expected tensor, dict or tuple")


__all__ = ["damaged", "read_state", "read_tensors", "write_state", "write_tensors"]
