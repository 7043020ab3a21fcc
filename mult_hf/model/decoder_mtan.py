"""An MTAN-style decoder: one shared trunk, whose features each task selects by soft masks.

MTAN (Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", arXiv 1803.10704, section 3). At stage j, u and p are an
early and a late feature map of the shared trunk, t a task, x_sa the encoder map of the resolution:

        u_j = conv([up(p_(j-1)), x_sa])            p_j = conv(u_j)                           shared
        a_j^t = sigmoid(h^t(g^t([u_j, f(up(xhat_(j-1)^t))])))                                the mask: g, h the task's, f shared
        xhat_j^t = a_j^t * p_j                                                               equations 1 and 2

A mask is one number in (0, 1) per pixel and channel; 1 keeps the trunk's feature, 0 removes it. The convolutions conv and f are 3 x 3,
g and h 1 x 1.

Differences from the paper: masks exist only in the decoder (MTAN also masks the encoder, which is a pretrained backbone here), and the
encoder map enters the trunk by concatenation instead of SegNet's pooling indices. Every norm is a LayerNorm over channels instead of
BatchNorm, which would make an image's result depend on its batch and whose statistics adapters do not save. There is no norm between h
and the sigmoid, because it would keep a pixel's mask from being fully open or closed.

All maps are channels-last, (batch, height, width, channels), unless said otherwise.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_mult import MulTConfig
from .decoder_mult import MulTDecoderOutput, PerTask, channels_first, channels_last, resize


class ConvolutionLayer(nn.Module):
    """3 x 3 convolution, LayerNorm, ReLU: the layer of the trunk and of f."""

    def __init__(self, channels: int, out_channels: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm = nn.LayerNorm(out_channels, eps=layer_norm_eps)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, height, width, out_channels)."""
        return self.norm(channels_last(self.convolution(channels_first(maps)))).relu()


class SoftAttention(nn.Module):
    """A task's layers g and h at one stage, and the sigmoid: its mask of the shared features."""

    def __init__(self, channels: int, out_channels: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.g = nn.Linear(channels, out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels, eps=layer_norm_eps)
        self.h = nn.Linear(out_channels, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, height, width, channels) -> mask in (0, 1), (batch, height, width, out_channels)."""
        return self.h(self.norm(self.g(features)).relu()).sigmoid()


class MTANStage(GradientCheckpointingLayer):
    """The trunk at one resolution, and each task's mask of it.

    Args:
        config: the model's configuration.
        channels: of the encoder map, the trunk and the masked streams.
        coarser_channels: of the stage before, 0 for the coarsest.
    """

    def __init__(self, config: MulTConfig, channels: int, coarser_channels: int) -> None:
        super().__init__()
        eps = config.layer_norm_eps
        self.early = ConvolutionLayer(coarser_channels + channels, channels, eps)
        self.late = ConvolutionLayer(channels, channels, eps)
        self.carry = ConvolutionLayer(coarser_channels, channels, eps) if coarser_channels else None  # f, which all tasks share
        width = 2 * channels if coarser_channels else channels
        self.tasks = PerTask(config.task_specs, lambda task: SoftAttention(width, channels, eps))

    def forward(self, encoder_map: Tensor, trunk: Tensor | None, streams: Mapping[str, Tensor | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step up.

        Args:
            encoder_map: the encoder's map of this resolution.
            trunk: the late features p of the coarser stage, None at the coarsest.
            streams: per task the masked features of the coarser stage, None at the coarsest.

        Returns:
            this stage's late features and masked streams.
        """
        size = encoder_map.shape[1:3]
        early = self.early(encoder_map if trunk is None else torch.cat([resize(trunk, size), encoder_map], dim=-1))
        late = self.late(early)
        masks = {task: self.tasks[task](self.attention_input(early, stream)) for task, stream in streams.items()}
        return late, {task: mask * late for task, mask in masks.items()}

    def attention_input(self, early: Tensor, stream: Tensor | None) -> Tensor:
        """Input of a mask: the early features and the task's own stream, concatenated on the channels."""
        if stream is None or self.carry is None:  # both at the coarsest stage
            return early
        return torch.cat([early, self.carry(resize(stream, early.shape[1:3]))], dim=-1)


class MTANDecoder(nn.Module):
    """One shared decoder trunk with one soft mask per task and stage (arXiv 1803.10704), by the interface of `decoders.py`.

    Each mask belongs to one task, so none is returned as a shared map; a forward hook on a [`SoftAttention`] reads them.

    Args:
        config: the model's configuration.
        channels: of the encoder maps, finest first.
    """

    _no_split_modules: ClassVar[list[str]] = ["MTANStage"]

    def __init__(self, config: MulTConfig, channels: list[int]) -> None:
        super().__init__()
        channels = [*reversed(channels)]  # from here on coarsest first, in the order in which the stages run
        self.stages = nn.ModuleList(MTANStage(config, width, coarser) for width, coarser in zip(channels, [0, *channels]))

    def forward(self, feature_maps: Iterable[Tensor], tasks: list[str], return_maps: bool = False) -> MulTDecoderOutput:
        """Decode the wanted tasks.

        Args:
            feature_maps: of the encoder, finest first, (batch, channels, height, width) each.
            tasks: which streams to return.
            return_maps: no effect, because no map is shared.
        """
        trunk, streams, stage_streams = None, dict.fromkeys(tasks), []
        for stage, maps in zip(self.stages, [*feature_maps][::-1]):
            trunk, streams = stage(channels_last(maps).contiguous(), trunk, streams)
            stage_streams.append({task: channels_first(stream) for task, stream in streams.items()})
            # Gradients reach the returned tensors, because the next stage reads these.
            streams = {task: channels_last(stream) for task, stream in stage_streams[-1].items()}
        return MulTDecoderOutput({task: tuple(streams[task] for streams in stage_streams) for task in tasks}, ())
