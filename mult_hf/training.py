"""Parts of a training loop that are easy to get wrong: parameter groups, averaged weights, a log that survives interruption."""

import json
import math
import os
import resource
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import gather_object
from huggingface_hub import HfApi
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import get_scheduler
from transformers.models.swin.modeling_swin import SwinEmbeddings

from .cards import plain
from .data.stream import TrainingStream
from .evaluation import refuse_other_meaning
from .modeling_mult import MulTForMultiTaskDensePrediction
from .tasks import TaskSpec

# Parts of names of parameters of two or more dimensions that are no weights of a layer: positions, and the scales of Swin V2's attention.
_NOT_DECAYED = ("position_bias", "position_embeddings", "pos_embed", "logit_scale")


def parameter_groups(
    model: MulTForMultiTaskDensePrediction, *, learning_rate: float, weight_decay: float, encoder_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an AdamW: norms, biases, relative position biases and position embeddings are not decayed (as Swin is trained).

    Args:
        model: whose parameters are grouped; frozen ones are left out.
        learning_rate: of decoders and heads.
        weight_decay: of weight matrices.
        encoder_factor: the encoder's learning rate over that of the rest.

    Returns:
        One group for each of encoder and rest, decayed and not, as far as it has parameters.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decayed = parameter.ndim > 1 and not any(part in name for part in _NOT_DECAYED)
        if parameter.requires_grad:
            groups.setdefault((decayed, name.startswith("mult.backbone.")), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decayed else 0.0,
            "lr": learning_rate * (encoder_factor if in_encoder else 1.0),
        }
        for (decayed, in_encoder), parameters in groups.items()
    ]


def start_position_embeddings(model: MulTForMultiTaskDensePrediction) -> None:
    """Let a new Swin's position embeddings, where it has them, start from waves along both axes in place of zeros.

    From zeros, a small network trained with L1 on few images never learns which walls face left: as long as no feature tells
    left from right, the head's best weights for the normals' x are zero, and as long as these are zero, nothing asks features
    for it. Waves (Vaswani et al., arXiv 1706.03762, section 3.5, along each axis) hand the column to every block from the first
    step. They are learnt from there on.
    """
    for embeddings in (module for module in model.modules() if isinstance(module, SwinEmbeddings)):
        if embeddings.position_embeddings is not None:
            with torch.no_grad():
                embeddings.position_embeddings.copy_(waves(*embeddings.patch_grid, embeddings.config.embed_dim))


def waves(height: int, width: int, channels: int) -> Tensor:
    """Sines and cosines of row and column, shape (1, height * width, channels), within [-1, 1].

    The longest wave is twice the image, so that its cosine falls steadily from one side to the other; each next one is shorter by
    the square root of 2. A quarter of the channels each is sine and cosine of rows and columns; up to three left over are 0.
    """
    rates = torch.pi * 2 ** (torch.arange(channels // 4) / 2)
    rows, columns = (((torch.arange(side) + 0.5) / side)[:, None] * rates for side in (height, width))
    rows, columns = rows[:, None].expand(height, width, -1), columns[None].expand(height, width, -1)
    found = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1)
    return nn.functional.pad(found, (0, channels - found.shape[-1])).flatten(0, 1)[None]


def learning_rate_schedule(optimizer: Optimizer, kind: str, *, steps: int, warmup_steps: int, power: float) -> LRScheduler:
    """The course of the learning rate; it grows in the warm-up, and is the optimizer's own after it.

    Args:
        optimizer: whose learning rates are scaled.
        kind: name of one of transformers' schedules.
        steps: of the whole run.
        warmup_steps: of these, at most half of all.
        power: exponent of the polynomial schedule, which ends at 0; others have none.
    """
    extra = {"power": power, "lr_end": 0.0} if kind == "polynomial" else None
    warmup = min(warmup_steps, steps // 2)
    return get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=steps, scheduler_specific_kwargs=extra)


class WeightAverage:
    """Exponential moving average of a model's parameters (torch's `AveragedModel`), which can take their place.

    The decay grows with the steps, `min(decay, (1 + n) / (10 + n))`, so that a short run does not average in its random start
    (as in TensorFlow's `ExponentialMovingAverage` with `num_updates`).

    Args:
        model: with whole parameters; sharded ones (FSDP, DeepSpeed) are not supported.
        decay: weight of the past, at least 0 and below 1.

    Raises:
        ValueError: on another decay.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of the weights' average is {decay}; it must be at least 0 and below 1")
        self.model = model
        self.decay = decay
        self.average = AveragedModel(nn.ParameterList(model.parameters()), multi_avg_fn=self._blend)

    def _blend(self, averages: list[Tensor], values: list[Tensor], steps: Tensor) -> None:
        decay = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        get_ema_multi_avg_fn(decay)(averages, values, steps)

    def update(self) -> None:
        """Take in the model's parameters, after an optimizer step."""
        self.average.update_parameters(nn.ParameterList(self.model.parameters()))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages stand in the model for the time of the block; then its own parameters come back, bit for bit."""
        own = [parameter.detach().clone() for parameter in self.model.parameters()]
        _copy(self.average.module.parameters(), self.model.parameters())
        try:
            yield
        finally:
            _copy(own, self.model.parameters())

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return self.average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.average.load_state_dict(state)


@torch.no_grad()
def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    for source, target in zip(sources, targets):
        target.copy_(source)


@dataclass
class Progress:
    """Where a run stands; part of its checkpoints.

    Args:
        arguments: of the run, so that another run's checkpoint is not taken for its own.
        step: optimizer steps taken.
        seconds: that training took so far, interruptions not counted.
        best_gain: highest multi-task gain over the trivial predictor so far, in percent.
        best_step: when that was.
        losses: sums of the task losses since the last entry of the log.
        batches: how many batches those are of.
    """

    arguments: dict[str, str]
    step: int = 0
    seconds: float = 0.0
    best_gain: float = -math.inf
    best_step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    batches: int = 0

    def note_losses(self, losses: Mapping[str, float]) -> None:
        """Add the task losses of a batch."""
        self.losses = {task: self.losses.get(task, 0.0) + loss for task, loss in losses.items()}
        self.batches += 1

    def take_mean_losses(self) -> dict[str, float]:
        """Means over processes and batches since this was asked last; then the count starts anew."""
        means = {task: total / self.batches for task, total in mean_over_processes(self.losses).items()}
        self.losses, self.batches = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint.

        Raises:
            ValueError: if that is of a run with other arguments.
        """
        saved = state["arguments"]
        other = {name: (saved.get(name), value) for name, value in self.arguments.items() if saved.get(name) != value}
        if other:
            told = ", ".join(f"--{name} was {old} and is {new}" for name, (old, new) in other.items())
            raise ValueError(f"the checkpoint is of another run: {told}; give the same flags, or start from its weights with --model")
        for name, value in state.items():
            setattr(self, name, value)


def mean_over_processes(values: dict[str, float]) -> dict[str, float]:
    """Means of numbers that every process has; each process gets them, the same to the last bit."""
    everywhere = gather_object([values])
    return {name: statistics.fmean(of[name] for of in everywhere) for name in values}


def describe_rows(stream: TrainingStream, positions: Sequence[int]) -> list[str]:
    """Names of samples for an error: row numbers, and what the data set calls them (its short columns)."""
    described = []
    for row in map(stream.row_at, positions):
        named = {key: value for key, value in stream.rows[row].items() if isinstance(value, (str, int)) and len(str(value)) <= 80}
        described.append(f"row {row}" + (f" ({', '.join(f'{key} {value}' for key, value in named.items())})" if named else ""))
    return described


class JsonLinesLog:
    """A file with one JSON object a line, each with the `step` that it tells of.

    Args:
        path: of the file; made with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry through to the file; numbers that are not finite as null."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(plain(entry), allow_nan=False) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """All whole entries; a line that an interruption cut short is left out."""
        return [json.loads(line) for line in self.path.read_text().splitlines(True) if line.endswith("\n")] if self.path.exists() else []

    def drop_after(self, step: int, again: str | None = None) -> None:
        """Forget what a resumed run will tell again: later steps, and of the step itself the entries that have the key `again`."""
        told = [entry for entry in self.entries() if entry["step"] < step or (entry["step"] == step and again not in entry)]
        kept = "".join(json.dumps(entry) + "\n" for entry in told)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rewritten = self.path.with_suffix(".partial")
        rewritten.write_text(kept)
        os.replace(rewritten, self.path)


def use_fsdp_on_cpu(accelerator: Accelerator) -> None:
    """Shard on CPU processes too, where the configuration asks for FSDP.

    torch's FSDP2 works with gloo; Accelerate reads an FSDP configuration only where there are accelerators, and would replicate
    the model without a word. Elsewhere this does nothing.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP


def fit_deepspeed(accelerator: Accelerator, batch_size: int, gradient_accumulation_steps: int, max_grad_norm: float) -> None:
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


def new_swin(
    embed_dim: int, depths: Sequence[int], window_size: int, image_size: int, position_embeddings: bool, drop_path_rate: float
) -> dict[str, Any]:
    """The entry of a new Swin for [`MulTConfig`], with a head for every 24 channels of its first stage.

    Args:
        embed_dim: channels of the first stage.
        depths: blocks of each stage.
        window_size: side of a window, in patches of 4 pixels.
        image_size: side in pixels of the images that position embeddings are made for.
        position_embeddings: few images teach a network little about where floors and ceilings are wont to be; these tell it directly.
        drop_path_rate: stochastic depth.
    """
    stages = range(len(depths))
    return {
        "model_type": "swin",
        "embed_dim": embed_dim,
        "depths": [*depths],
        "num_heads": [max(1, embed_dim // 24) * 2**stage for stage in stages],
        "window_size": window_size,
        "drop_path_rate": drop_path_rate,
        "use_absolute_embeddings": position_embeddings,
        "image_size": image_size,
        "out_features": [f"stage{stage + 1}" for stage in stages],
    }


def load_trained(name_or_path: str, specs: Mapping[str, TaskSpec]) -> MulTForMultiTaskDensePrediction:
    """A trained model with the tasks of the data: those that it lacks are added, those that it has beyond them removed.

    Raises:
        ValueError: if a task of both means something else in the data: other classes, another unit, other axes.
    """
    model = MulTForMultiTaskDensePrediction.from_pretrained(name_or_path)
    for task, spec in specs.items():
        own = model.config.task_specs.get(task)
        if own is None:
            model.add_task(spec)
        else:
            refuse_other_meaning(own, spec)
    for task in set(model.task_names) - set(specs):
        model.remove_task(task)
    return model


def refuse_shards(accelerator: Accelerator, module: nn.Module, *, average: bool) -> None:
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


def upload(directory: Path, repo_id: str) -> str:
    """Upload the result of a run, without what it keeps for itself, to a repository of the Hub; returns its address."""
    return HfApi().upload_folder(repo_id=repo_id, folder_path=directory, ignore_patterns=["checkpoints/*", "best/*", ".partial/*"])


def peak_memory(device: torch.device) -> float:
    """Largest memory so far in MiB: allocated on an accelerator, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kibibytes / 1024


__all__ = [
    "JsonLinesLog",
    "Progress",
    "WeightAverage",
    "describe_rows",
    "fit_deepspeed",
    "learning_rate_schedule",
    "load_trained",
    "mean_over_processes",
    "new_swin",
    "parameter_groups",
    "peak_memory",
    "refuse_shards",
    "start_position_embeddings",
    "upload",
    "use_fsdp_on_cpu",
    "waves",
    "whole_model",
]
