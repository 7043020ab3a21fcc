"""Digests of what predictions depend on, to tell whether those of an earlier run are still valid."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def digest(model: nn.Module) -> str:
    """16 hexadecimal digits that depend on every weight."""
    hashed = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        hashed.update(name.encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()[:16]


_IRRELEVANT = ("_name_or_path", "transformers_version", "dtype")
"""Entries of a configuration that do not affect predictions."""


def digest_of_values(values: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that depend on every value of a configuration except its path, dtype and transformers version."""
    return hashlib.sha256(json.dumps(_relevant(values), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _relevant(value: Any) -> Any:
    return {key: _relevant(item) for key, item in value.items() if key not in _IRRELEVANT} if isinstance(value, Mapping) else value


__all__ = ["digest", "digest_of_values"]
