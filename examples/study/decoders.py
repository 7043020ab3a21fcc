"""Decoders of the study that the package does not have; importing this module makes them known by name.

`mult_own_maps` is MulT with one difference: in the blocks that share a map, every task computes its own one, from the same
encoder map by its own projections. It shows what sharing does by itself. (`["self", "self"]` changes the source of queries and keys,
too.)

`swin_unet_own_maps` is the same for Swin-Unet's decoder, whose skip connections give encoder features another way into the streams.

`cross_task` lets the tokens of all tasks attend to one another, see `cross_task.py`.
"""

from collections.abc import Iterable
from typing import Any

from mult_hf.model.configuration_mult import DECODER_OPTIONS, BlockAttention, MulTConfig
from mult_hf.model.decoder_mult import MulTDecoder, SharedWindowAttention
from mult_hf.model.decoder_unet import SwinUnetDecoder
from mult_hf.model.decoders import DECODERS

from .cross_task import CrossTaskDecoder


class OwnMap(BlockAttention):
    """A kind of block in which nothing is shared, whatever queries and keys are computed from."""

    @property
    def is_shared(self) -> bool:
        """Whether one map serves every task: never."""
        return False


def give_own_maps(stages: Iterable[Any], config: MulTConfig) -> None:
    """Replace every attention that shares a map by one in which each task computes its own.

    Args:
        stages: of a decoder, with `blocks` each.
        config: the model's configuration.

    Raises:
        ValueError: if a block takes queries and keys from the reference task's stream, which belongs to another task.
    """
    for block in (block for stage in stages for block in stage.blocks):
        shared = block.attention
        if shared.kind.source == "reference":
            raise ValueError("a 'reference' block has no counterpart with one map per task; use 'self' or 'encoder' blocks")
        if shared.kind.is_shared:
            width = next(iter(shared.tasks.values())).o_proj.out_features
            block.attention = SharedWindowAttention(config, width, shared.heads, OwnMap(*shared.kind), config.task_specs)


class OwnMapsDecoder(MulTDecoder):
    """MulT's decoder with one attention map per task in the `"encoder"` blocks; arguments and errors of [`give_own_maps`]."""

    def __init__(self, config: MulTConfig, channels: list[int]) -> None:
        super().__init__(config, channels)
        give_own_maps(self.stages, config)


class SwinUnetOwnMapsDecoder(SwinUnetDecoder):
    """Swin-Unet's decoder with one attention map per task in the `"encoder"` blocks; arguments and errors of [`give_own_maps`]."""

    def __init__(self, config: MulTConfig, channels: list[int]) -> None:
        super().__init__(config, channels)
        give_own_maps(self.stages, config)


DECODERS["cross_task"] = CrossTaskDecoder
DECODER_OPTIONS["cross_task"] = ("mlp_ratio", "hidden_act", "qkv_bias")
for _name, _decoder in {"mult_own_maps": OwnMapsDecoder, "swin_unet_own_maps": SwinUnetOwnMapsDecoder}.items():
    DECODERS[_name] = _decoder
    DECODER_OPTIONS[_name] = DECODER_OPTIONS["mult"]
