"""Decoders of the study that the package does not have; importing this module makes them known by name.

`mult_own_maps` is MulT with one difference: in the blocks that share a map, every task computes its own one, from the same
encoder map by its own projections. It shows what sharing does by itself. (`["self", "self"]` changes the source of queries and keys,
too.)

`swin_unet_shared` is Swin-Unet with MulT's shared map in the second block of each stage; in `swin_unet_own_maps`, its counterpart,
every task computes its own one from the encoder map. They show what sharing does in a decoder with skip connections.

`cross_task` lets the tokens of all tasks attend to one another, see `cross_task.py`.
"""

from typing import ClassVar

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


class OwnMapsDecoder(MulTDecoder):
    """MulT's decoder with one attention map per task in the `"encoder"` blocks.

    Args:
        config: the model's configuration.
        channels: of the encoder maps, finest first.

    Raises:
        ValueError: if a block takes queries and keys from the reference task's stream, which belongs to another task.
    """

    def __init__(self, config: MulTConfig, channels: list[int]) -> None:
        super().__init__(config, channels)
        for stage, width in zip(self.stages, reversed(channels)):
            for block in stage.blocks:
                kind = block.attention.kind
                if kind.source == "reference":
                    raise ValueError("a 'reference' block has no counterpart with one map per task; use 'self' or 'encoder' blocks")
                if kind.is_shared:
                    block.attention = SharedWindowAttention(config, width, block.attention.heads, OwnMap(*kind), config.task_specs)


class SwinUnetSharedDecoder(SwinUnetDecoder):
    """Swin-Unet's decoder with one attention map for all tasks, from the encoder map, in the second block of each stage."""

    kinds: ClassVar = (BlockAttention("self", skip=False), BlockAttention("encoder", skip=False))


class SwinUnetOwnMapsDecoder(SwinUnetDecoder):
    """The same with one map per task, from the encoder map."""

    kinds: ClassVar = (BlockAttention("self", skip=False), OwnMap("encoder", skip=False))


DECODERS["cross_task"] = CrossTaskDecoder
DECODER_OPTIONS["cross_task"] = ("mlp_ratio", "hidden_act", "qkv_bias")
DECODERS["mult_own_maps"] = OwnMapsDecoder
DECODER_OPTIONS["mult_own_maps"] = DECODER_OPTIONS["mult"]
for _name, _decoder in {"swin_unet_shared": SwinUnetSharedDecoder, "swin_unet_own_maps": SwinUnetOwnMapsDecoder}.items():
    DECODERS[_name] = _decoder
    DECODER_OPTIONS[_name] = (*DECODER_OPTIONS["swin_unet"], "reference_task")
