"""An InvPT-style decoder: tokens of all tasks and all places attend to one another while the resolution grows.

InvPT (Ye and Xu, "Inverted Pyramid Multi-task Transformer for Dense Scene Understanding", arXiv 2203.07997, section 3). Each task
starts from its own features of the coarsest encoder map (the preliminary decoder). One step up, with x^t a task's stream:

        x^t <- up(x^t) + linear^t(encoder map)                          the encoder's features enter at every step
        X   <- tokens of all x^t, one after another                     queries and keys at a lower resolution
        S   <- Q K^T / sqrt(d),  then  a S + b up(S of the stage before)         attention message passing
        x^t <- x^t + up(softmax(S) V),  then an MLP                     projections and MLP are the same for all tasks

MulT shares one map among tasks that do not see each other; here every task sees all others. What differs from the paper: no
preliminary predictions and no losses on them (every decoder of the comparison has the same heads and losses), linear layers and
pooling in place of strided convolutions, and LayerNorm in place of BatchNorm.

All maps are channels-last, (batch, height, width, channels), unless said otherwise.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from mult_hf.model.configuration_mult import MulTConfig
from mult_hf.model.decoder_mtan import ConvolutionLayer
from mult_hf.model.decoder_mult import MulTDecoderOutput, PerTask, Upsampling, channels_first, channels_last, resize

HEADS = 2  # in all stages, so that a stage can add the scores of the one before

Size = tuple[int, int]


def pooled(maps: Tensor, size: Size) -> Tensor:
    """Mean over equal parts: (batch, height, width, channels) -> (batch, *size, channels)."""
    return channels_last(F.adaptive_avg_pool2d(channels_first(maps), size))


class StepUp(nn.Module):
    """What one task owns between two stages: to the next resolution, and the encoder map added."""

    def __init__(self, channels: int, next_channels: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.up = Upsampling(channels, next_channels, layer_norm_eps)
        self.skip = nn.Linear(next_channels, next_channels)

    def forward(self, stream: Tensor, encoder_map: Tensor) -> Tensor:
        """A stream, and the next finer encoder map; returns the stream with the size and channels of that map."""
        return self.up(stream, encoder_map.shape[1:3]) + self.skip(encoder_map)


class CrossTaskStage(GradientCheckpointingLayer):
    """One resolution: the step up of every task, attention among the tokens of all tasks, and an MLP.

    Args:
        config: the model's configuration.
        channels: of the coarser stage.
        next_channels: of this stage.
        first: whether there are no scores of a stage before.
    """

    def __init__(self, config: MulTConfig, channels: int, next_channels: int, first: bool) -> None:
        super().__init__()
        eps, hidden = config.layer_norm_eps, int(config.mlp_ratio * next_channels)
        self.scaling = (next_channels // HEADS) ** -0.5
        self.tasks = PerTask(config.task_specs, lambda task: StepUp(channels, next_channels, eps))
        self.layernorm_before, self.layernorm_after = (nn.LayerNorm(next_channels, eps=eps) for _ in range(2))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(next_channels, next_channels, bias=config.qkv_bias) for _ in range(3))
        self.o_proj = nn.Linear(next_channels, next_channels)
        self.fc1, self.fc2 = nn.Linear(next_channels, hidden), nn.Linear(hidden, next_channels)
        self.activation = ACT2FN[config.hidden_act]
        self.mix = None if first else nn.Parameter(torch.tensor([1.0, 0.0]))  # a and b; at first a stage sees its own scores only

    def forward(
        self, streams: Mapping[str, Tensor], encoder_map: Tensor, key_size: Size, before: tuple[Tensor, Size] | None
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Size]]:
        """One step up.

        Args:
            streams: per task, of the coarser stage.
            encoder_map: of this resolution.
            key_size: height and width that keys and values are pooled to.
            before: scores of the stage before, (batch, heads, tasks * query tokens, tasks * key tokens), and its query size.

        Returns:
            this stage's streams, and its scores with their query size.
        """
        streams = {task: self.tasks[task](stream, encoder_map) for task, stream in streams.items()}
        size = tuple(encoder_map.shape[1:3])
        query_size = tuple(max(key, side // 2) for key, side in zip(key_size, size))
        normed = [self.layernorm_before(stream) for stream in streams.values()]
        keys = torch.cat([pooled(stream, key_size).flatten(1, 2) for stream in normed], dim=1)  # (batch, tasks * tokens, channels)
        queries = torch.cat([pooled(stream, query_size).flatten(1, 2) for stream in normed], dim=1)
        query, key, value = (self.split_heads(t) for t in (self.q_proj(queries), self.k_proj(keys), self.v_proj(keys)))
        scores = (query * self.scaling) @ key.transpose(-2, -1)  # (batch, heads, tasks * query tokens, tasks * key tokens)
        if self.mix is not None:
            scores = self.mix[0] * scores + self.mix[1] * enlarged(*before, query_size, len(streams))
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)  # (batch, tasks * query tokens, channels)
        parts = self.o_proj(mixed).chunk(len(streams), dim=1)
        attended = {task: resize(part.unflatten(1, query_size), size) for task, part in zip(streams, parts)}
        streams = {task: stream + attended[task] for task, stream in streams.items()}
        return {task: stream + self.mlp(stream) for task, stream in streams.items()}, (scores, query_size)

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, channels) -> (batch, heads, tokens, head_dim)."""
        return tokens.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def mlp(self, stream: Tensor) -> Tensor:
        """(batch, height, width, channels) -> the same shape."""
        return self.fc2(self.activation(self.fc1(self.layernorm_after(stream))))


def enlarged(scores: Tensor, size: Size, new_size: Size, tasks: int) -> Tensor:
    """Scores at another query size: (batch, heads, tasks * query tokens, keys) -> the same with new query tokens."""
    maps = scores.unflatten(2, (tasks, *size)).permute(0, 1, 2, 5, 3, 4)  # (batch, heads, tasks, keys, height, width)
    maps = F.interpolate(maps.flatten(0, 2), size=new_size, mode="bilinear", align_corners=False)
    return maps.unflatten(0, (*scores.shape[:2], tasks)).permute(0, 1, 2, 4, 5, 3).flatten(2, 4)


class CrossTaskDecoder(nn.Module):
    """InvPT-style decoder (arXiv 2203.07997), by the interface of `mult_hf/model/decoders.py`; returns no shared maps.

    Every task's result depends on the tokens of all tasks, so all of them are decoded also where some are asked for.

    Args:
        config: the model's configuration.
        channels: of the encoder maps, finest first.
    """

    _no_split_modules: ClassVar[list[str]] = ["CrossTaskStage"]

    def __init__(self, config: MulTConfig, channels: list[int]) -> None:
        super().__init__()
        channels = [*reversed(channels)]  # from here on coarsest first, in the order in which the stages run
        self.tasks = PerTask(config.task_specs, lambda task: ConvolutionLayer(channels[0], channels[0], config.layer_norm_eps))
        pairs = enumerate(pairwise(channels))
        self.stages = nn.ModuleList(CrossTaskStage(config, *pair, first=number == 0) for number, pair in pairs)

    def forward(self, feature_maps: Iterable[Tensor], tasks: list[str], return_maps: bool = False) -> MulTDecoderOutput:
        """Decode the wanted tasks.

        Args:
            feature_maps: of the encoder, finest first, (batch, channels, height, width) each.
            tasks: which streams to return.
            return_maps: no effect, because no map is shared.
        """
        coarsest, *finer = [channels_last(maps).contiguous() for maps in feature_maps][::-1]
        streams, before = {task: own(coarsest) for task, own in self.tasks.items()}, None
        stage_streams = [{task: channels_first(stream) for task, stream in streams.items()}]
        for stage, encoder_map in zip(self.stages, finer):
            streams = {task: channels_last(stream) for task, stream in stage_streams[-1].items()}
            streams, before = stage(streams, encoder_map, tuple(finer[0].shape[1:3]), before)
            stage_streams.append({task: channels_first(stream) for task, stream in streams.items()})
        return MulTDecoderOutput({task: tuple(streams[task] for streams in stage_streams) for task in tasks}, ())
