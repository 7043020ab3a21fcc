"""A Swin-Unet-style decoder: each task decodes alone, and encoder maps are concatenated to its stream.

Swin-Unet (Cao et al., "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", arXiv 2105.05537, section 3) is a Swin
encoder whose last stage is the bottleneck, and a decoder that mirrors the other stages. A step up, for stream x and encoder map s:

        x <- LayerNorm(rearrange(linear(x)))       patch expanding: twice the size, the channels of s
        x <- linear([x, s])                        skip connection: side by side, and back to the channels of s
        x <- SW-MSA block(W-MSA block(x))          two Swin blocks, regular and shifted windows

Here each task has its own decoder. The blocks are those of MulT. By the default of `MulTConfig`, each attends to its own stream
(`"self"`), as in Swin-Unet, and tasks share only the encoder. With `block_attention=["self", "encoder"]`, the second block takes
MulT's one attention map for all tasks.
Left out: the norm and the patch expanding to full resolution at the end (each task has the package's head at H/4 instead, so that
only decoders are compared). Patch expanding was the best of the three ways up in the paper's ablation (section 4.5); the bilinear
resize of the "mult" decoder is used only if doubling does not give the next map's size (odd sizes, encoders with other strides).

All maps are channels-last, (batch, height, width, channels), unless said otherwise.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .configuration_mult import MulTConfig
from .decoder_mult import (
    MulTDecoderBlock,
    MulTDecoderOutput,
    PerTask,
    channels_first,
    channels_last,
    decoder_heads,
    resize,
    run_blocks,
    stage_blocks,
    streams_to_run,
)


class PatchExpanding(nn.Module):
    """Double height and width: a linear layer from one token to four, and a norm (Swin-Unet, section 3.5)."""

    def __init__(self, channels: int, next_channels: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.expansion = nn.Linear(channels, 4 * next_channels, bias=False)
        self.norm = nn.LayerNorm(next_channels, eps=layer_norm_eps)

    def forward(self, stream: Tensor, size: tuple[int, int]) -> Tensor:
        """(batch, height, width, channels) -> (batch, *size, next_channels)."""
        stream = self.expansion(stream).unflatten(-1, (2, 2, -1))  # (batch, height, width, 2, 2, next_channels)
        stream = stream.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (batch, 2 * height, 2 * width, next_channels)
        return self.norm(stream if stream.shape[1:3] == size else resize(stream, size))


class SkipConnection(nn.Module):
    """A task's layers between two stages: patch expanding, then a linear layer of stream and encoder map, concatenated."""

    def __init__(self, channels: int, next_channels: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.expanding = PatchExpanding(channels, next_channels, layer_norm_eps)
        self.fusion = nn.Linear(2 * next_channels, next_channels)

    def forward(self, stream: Tensor, encoder_map: Tensor) -> Tensor:
        """A stream, and the next finer encoder map; returns the stream with the size and channels of that map."""
        expanded = self.expanding(stream, encoder_map.shape[1:3])
        return self.fusion(torch.cat([expanded, encoder_map], dim=-1))


class SwinUnetStage(nn.Module):
    """One step up of all decoders: each task's skip connection, and its Swin blocks."""

    def __init__(self, connections: PerTask, blocks: list[MulTDecoderBlock]) -> None:
        super().__init__()
        self.tasks = connections
        self.blocks: Any = nn.ModuleList(blocks)

    def forward(self, streams: Mapping[str, Tensor], encoder_map: Tensor) -> tuple[Mapping[str, Tensor], list[Tensor]]:
        """Streams of the coarser stage and this stage's encoder map in; this stage's streams, and the maps that its blocks share, out."""
        fused = {task: self.tasks[task](stream, encoder_map) for task, stream in streams.items()}
        return run_blocks(self.blocks, fused, encoder_map)


class SwinUnetDecoder(nn.Module):
    """One Swin-Unet decoder per task (arXiv 2105.05537), by the interface of `decoders.py`.

    Args:
        config: the model's configuration.
        channels: of the encoder maps, finest first.

    Raises:
        ValueError: if there is only one map, or heads or block lists do not fit the stages.
    """

    _no_split_modules: ClassVar[list[str]] = ["MulTDecoderBlock"]
    reads_every_map: ClassVar[bool] = True

    def __init__(self, config: MulTConfig, channels: list[int]) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(
                f"the 'swin_unet' decoder needs at least 2 encoder maps, and the encoder has {len(channels)}; use an encoder with more "
                "stages, or the 'mult' decoder"
            )
        channels = [*reversed(channels)]  # from here on coarsest first, in the order in which the decoders run
        heads = decoder_heads(config, channels)[1:]  # the coarsest map is the bottleneck, whose blocks are the encoder's
        connections = (_skip_connections(config, *widths) for widths in pairwise(channels))
        self.stages: Iterable[Any] = nn.ModuleList(map(SwinUnetStage, connections, stage_blocks(config, channels[1:], heads)))

    def forward(self, feature_maps: Iterable[Tensor], tasks: list[str], return_maps: bool = False) -> MulTDecoderOutput:
        """Decode the wanted tasks.

        Args:
            feature_maps: of the encoder, finest first, (batch, channels, height, width) each.
            tasks: which streams to return.
            return_maps: whether to collect the shared attention maps.
        """
        coarsest, *finer = [channels_last(maps).contiguous() for maps in feature_maps][::-1]
        stage_streams = [dict.fromkeys(streams_to_run(self.stages, tasks), channels_first(coarsest))]
        attentions: list[Tensor] = []
        for stage, encoder_map in zip(self.stages, finer):
            streams, maps = stage({task: channels_last(stream) for task, stream in stage_streams[-1].items()}, encoder_map)
            stage_streams.append({task: channels_first(stream) for task, stream in streams.items()})
            if return_maps:
                attentions += maps
        return MulTDecoderOutput({task: tuple(streams[task] for streams in stage_streams) for task in tasks}, tuple(attentions))


def _skip_connections(config: MulTConfig, channels: int, next_channels: int) -> PerTask:
    """Each task's step to the next stage."""
    return PerTask(config.task_specs, lambda task: SkipConnection(channels, next_channels, config.layer_norm_eps))
