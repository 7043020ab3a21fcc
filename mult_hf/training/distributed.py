"""Accelerate for a training run, with support for several processes: FSDP, DeepSpeed, unsharded weights, memory."""

import math
import os
import sys
from typing import Any

import psutil
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import PartialState
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from mult_hf.data.cores import keep_freed_memory, threads_per_process
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.weights import copy_fresh_weights

from .arguments import TrainingArguments


def make_accelerator(arguments: TrainingArguments) -> Accelerator:
    """Create an accelerator from Accelerate's configuration and the arguments."""
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # otherwise several processes on CPUs would train separately
        mixed_precision=arguments.mixed_precision,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        dynamo_backend=arguments.torch_compile,
        log_with=arguments.log_with,
        project_dir=arguments.output_dir,
    )
    use_fsdp_on_cpu(accelerator)
    configure_deepspeed(accelerator, arguments.batch_size, arguments.gradient_accumulation_steps, arguments.max_grad_norm)
    torch.set_float32_matmul_precision(arguments.float32_matmul)
    if accelerator.device.type == "cpu":  # `accelerate launch` allows one thread per process, regardless of the number of cores
        torch.set_num_threads(threads_per_process(arguments.cpu_threads, accelerator.num_processes))
        keep_freed_memory()
    return accelerator


def use_fsdp_on_cpu(accelerator: Accelerator) -> None:
    """Enable FSDP on CPU processes too, if the configuration selects it; otherwise do nothing.

    torch's FSDP2 works with gloo, but Accelerate applies an FSDP configuration only on accelerators, and silently replicates the
    model on CPUs. Both of its state classes share their values between instances, and Accelerate reads the type from both.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (accelerator.state, PartialState()):
            state.distributed_type = DistributedType.FSDP


def configure_deepspeed(accelerator: Accelerator, batch_size: int, gradient_accumulation_steps: int, max_grad_norm: float) -> None:
    """Pass DeepSpeed the settings that it applies itself, if the configuration selects it; otherwise do nothing.

    Args:
        accelerator: an accelerator that has not prepared a model yet.
        batch_size: images per batch and process.
        gradient_accumulation_steps: batches per step.
        max_grad_norm: limit of the gradients' norm, 0 or inf for none; Accelerate's default is 1.

    Raises:
        ValueError: if the configuration has another number of batches per step, which Accelerate would prefer.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None:
        return
    if accelerator.gradient_accumulation_steps != gradient_accumulation_steps:
        raise ValueError(
            f"gradient_accumulation_steps is {accelerator.gradient_accumulation_steps} in Accelerate's configuration and "
            f"{gradient_accumulation_steps} in this run; remove the line from the configuration, or make them equal"
        )
    limit = 0.0 if math.isinf(max_grad_norm) else max_grad_norm  # DeepSpeed's value for no clipping
    plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": batch_size, "gradient_clipping": limit}


def whole_model(accelerator: Accelerator, model: nn.Module) -> MulTForMultiTaskDensePrediction:
    """The module inside the training wrappers; for a sharded one, a copy with unsharded weights, in every process.

    A sharded module cannot be saved directly: torch changes its class, so the wrong source files would be saved with it.
    """
    module = accelerator.unwrap_model(model, keep_torch_compile=False)
    if accelerator.distributed_type != DistributedType.FSDP:
        return module
    state: dict[str, Any] = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True))
    with torch.random.fork_rng(devices=[]):  # training's random numbers must not depend on its initial weights
        whole = MulTForMultiTaskDensePrediction(module.config)
    whole.load_state_dict(state)
    copy_fresh_weights(module, whole)
    return whole.to(accelerator.device)


@torch.no_grad()
def share_statistics(accelerator: Accelerator, module: nn.Module) -> None:
    """Give every process the running statistics of the first one, which are saved, so that all measure the same model.

    Each process has its own, of its own images. `DistributedDataParallel` shares them before a forward pass only, not after the last step.

    Args:
        accelerator: the processes.
        module: a model without sharded buffers.
    """
    if accelerator.num_processes > 1:
        for buffer in running_statistics(module):
            buffer.copy_(broadcast(buffer.clone()))


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Means and variances of batch normalisation, which change in forward passes and not in optimizer steps."""
    return [buffer for name, buffer in module.named_buffers() if name.endswith(("running_mean", "running_var"))]


def check_whole_parameters(accelerator: Accelerator, module: nn.Module, *, average: bool) -> None:
    """Refuse to save or average partitioned weights as if they were complete.

    Raises:
        ValueError: if parameters are partitioned (DeepSpeed ZeRO-3), or are sharded (FSDP) and to be averaged.
    """
    empty = [name for name, parameter in module.named_parameters() if parameter.numel() == 0]
    if empty:
        raise ValueError(
            f"{len(empty)} parameters such as {empty[0]} have no values in this process (DeepSpeed ZeRO-3?); use ZeRO-2 or FSDP2"
        )
    if average and accelerator.distributed_type == DistributedType.FSDP:
        engine = accelerator.distributed_type.value
        raise ValueError(f"an average needs all weights in every process, but {engine} shards them; set --ema_decay 0, or use DDP")


def print_once(message: str) -> None:
    """Print in the main process; unlike `Accelerator.print`, this works before an accelerator exists."""
    if is_first_process():
        print(message, flush=True)


def is_first_process() -> bool:
    """Whether this is the only or the first process of a run; unlike an accelerator, this works before one exists."""
    return os.environ.get("RANK", "0") == "0"


def peak_memory(device: torch.device) -> float:
    """Peak memory in MiB: allocated on an accelerator, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource  # which Windows lacks; elsewhere psutil has the current memory only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


__all__ = [
    "check_whole_parameters",
    "configure_deepspeed",
    "make_accelerator",
    "peak_memory",
    "print_once",
    "running_statistics",
    "share_statistics",
    "use_fsdp_on_cpu",
    "whole_model",
]
