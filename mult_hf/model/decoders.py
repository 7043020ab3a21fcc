"""The decoders that a model may have, by `MulTConfig.decoder_type`, and their common interface.

A decoder is an `nn.Module`. The model relies on this:

- It is constructed by `Decoder(config, channels)`, with the channels of the encoder maps, finest first, as in `backbone.channels`.
- `decoder(feature_maps, tasks, return_maps)` takes the encoder maps, finest first, (batch, channels, height, width) of any size,
  and decodes only the named tasks, with the same result as a run of all tasks. It returns a
  [`MulTDecoderOutput`](decoder_mult.py): per task one stream per stage, coarsest first, the last of them with the size and channels
  of the finest encoder map.
- Modules of a single task are in a [`PerTask`](decoder_mult.py); all others are shared. The model uses this type to find the parameters
  of a task and to add and remove tasks.
- Every parameter gets a gradient when all tasks have a loss, and nothing is written on `self` in forward (distributed training,
  gradient checkpointing). Layers worth recomputing are `GradientCheckpointingLayer`s.
- `reads_every_map` is False for a decoder that reads the coarsest map, and of the others only those that `block_attention` names. Norms
  of unread maps are left out of the encoder: they would get no gradient, which stops distributed training. The default is True.
- `_no_split_modules` lists the classes of layers that stay on one device and form one shard of FSDP; transformers collects it. A class
  that no layer has is an error.

To add a decoder, write a class, add its name here, and list the arguments that it reads in `DECODER_OPTIONS` of the configuration. The
tests of `test_decoder_variants.py` then cover it too.
"""

from torch import nn

from .decoder_mtan import MTANDecoder
from .decoder_mult import MulTDecoder
from .decoder_unet import SwinUnetDecoder

DECODERS: dict[str, type[nn.Module]] = {
    "mult": MulTDecoder,
    "swin_unet": SwinUnetDecoder,
    "mtan": MTANDecoder,
}
"""Decoder classes by `decoder_type`."""
