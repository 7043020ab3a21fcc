"""What differs when several processes share a model: FSDP on CPUs, DeepSpeed, whole weights from sharded ones, memory."""

import os
import resource
import sys

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction


def use_fsdp_on_cpu(accelerator: Accelerator) -> None:
    """Shard on CPU processes too, where the configuration asks for FSDP.

    torch's FSDP2 works with gloo; Accelerate reads an FSDP configuration only where there are accelerators, and would replicate
    the model without a word. Elsewhere this does nothing.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP


def configure_deepspeed(accelerator: Accelerator, batch_size: int, gradient_accumulation_steps: int, max_grad_norm: float) -> None:
    """Tell DeepSpeed, where the configuration asks for it, what it does by itself; elsewhere this does nothing.

    Args:
        accelerator: not used for any model yet.
        batch_size: images a batch and process.
        gradient_accumulation_steps: batches a step.
        max_grad_norm: limit of the gradients' norm, which Accelerate would take to be 1.

    Raises:
        ValueError: if the configuration says another number of batches a step, which Accelerate would prefer.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None:
        return
    if accelerator.gradient_accumulation_steps != gradient_accumulation_steps:
        raise ValueError(
            f"Accelerate's configuration has {accelerator.gradient_accumulation_steps} gradient_accumulation_steps and the run "
            f"{gradient_accumulation_steps}; take the line out of the configuration, or make them equal"
        )
    plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": batch_size, "gradient_clipping": max_grad_norm}


def whole_model(accelerator: Accelerator, model: nn.Module) -> MulTForMultiTaskDensePrediction:
    """The module behind the wrappers for training; of a sharded one a copy with whole weights, in every process.

    A sharded module cannot be saved as it is: torch gives it a class of its own, whose files would be copied in place of MulT's.
    """
    module = accelerator.unwrap_model(model, keep_torch_compile=False)
    if accelerator.distributed_type != DistributedType.FSDP:
        return module
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True))
    with torch.random.fork_rng(devices=[]):  # its first weights must not come out of what training draws from
        whole = MulTForMultiTaskDensePrediction(module.config)
    whole.load_state_dict(state)
    return whole.to(accelerator.device)


def check_whole_parameters(accelerator: Accelerator, module: nn.Module, *, average: bool) -> None:
    """Refuse what would save or average parts of weights as if they were whole.

    Raises:
        ValueError: if parameters are partitioned (DeepSpeed ZeRO-3), or sharded (FSDP) while their average is wanted.
    """
    empty = [name for name, parameter in module.named_parameters() if parameter.numel() == 0]
    if empty:
        raise ValueError(
            f"{len(empty)} parameters such as {empty[0]} hold no values in this process (DeepSpeed ZeRO-3?); use ZeRO-2 or FSDP2"
        )
    if average and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError("an average of the weights needs them whole in every process, but FSDP shards them; set --ema_decay 0, or use DDP")


def peak_memory(device: torch.device) -> float:
    """Largest memory so far in MiB: allocated on an accelerator, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kibibytes / 1024


__all__ = ["configure_deepspeed", "peak_memory", "check_whole_parameters", "use_fsdp_on_cpu", "whole_model"]
