"""Pickling of models, which spawned processes need (`num_workers` of a pipeline on macOS and Windows)."""

from typing import Any

from torch import nn

_FLAG = "_output_capturing_hooks_installed"
_INSTALLER = "transformers.utils.output_capturing"


def picklable_state(model: nn.Module) -> dict[str, Any]:
    """The state of a model without transformers' hooks that collect hidden states, which are local functions and cannot be
    pickled. The flag of their presence is left out too, so transformers installs them again at the next forward pass.

    Args:
        model: the model, which is not changed.
    """
    return _without_hooks(model, {}).__dict__


def _without_hooks(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """A module with the same tensors; a module that is used in two places remains one object."""
    if id(module) not in copies:
        copied = copies[id(module)] = module.__class__.__new__(module.__class__)
        copied.__dict__.update(module.__dict__)
        copied.__dict__.pop(_FLAG, None)
        hooks = module._forward_hooks
        copied.__dict__["_forward_hooks"] = type(hooks)(
            (number, hook) for number, hook in hooks.items() if getattr(hook, "__module__", None) != _INSTALLER
        )
        copied.__dict__["_modules"] = type(module._modules)(
            (name, None if child is None else _without_hooks(child, copies)) for name, child in module._modules.items()
        )
    return copies[id(module)]


__all__ = ["picklable_state"]
