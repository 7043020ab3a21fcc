"""The decoders that a model may have, by the name that `MulTConfig.decoder_type` gives: the one interface of all of them.

A decoder is an `nn.Module` of which the model asks no more than this:

- It is made by `Decoder(config, channels)`, with the channels of the encoder maps finest first, as `backbone.channels` gives them.
- `decoder(feature_maps, tasks, return_maps)` takes the encoder maps, finest first, (batch, channels, height, width) of any size,
  and decodes the named tasks alone, to the same numbers as a run of all tasks. It returns a
  [`MulTDecoderOutput`](decoder_mult.py): per task one stream per stage, coarsest first, the last of them with the size and channels
  of the finest encoder map.
- What belongs to one task lies in a [`PerTask`](decoder_mult.py); what lies elsewhere is shared. By this type the model finds a
  task's parameters, adds tasks and removes them.
- Every parameter gets a gradient when all tasks have a loss, and nothing is written on `self` in forward (distributed training,
  gradient checkpointing). Layers worth recomputing are `GradientCheckpointingLayer`s.
- `_no_split_modules` lists the classes of its layers that lie on one device and make one shard of FSDP; transformers gathers it.
  A class that no layer is of is an error there.

A further decoder is a class, its name here, and the arguments that it reads in `DECODER_OPTIONS` of the configuration; the tests
of `test_decoder_variants.py` then run on it too.
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
