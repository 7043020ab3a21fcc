"""The decoders that a model may have, by `MulTConfig.decoder_type`, and their common interface.

A decoder is an `nn.Module`. The model relies on this:

- It is made by `Decoder(config, channels)`, with the channels of the encoder maps finest first, as `backbone.channels` gives them.
- `decoder(feature_maps, tasks, return_maps)` takes the encoder maps, finest first, (batch, channels, height, width) of any size,
  and decodes only the named tasks, with the same result as a run of all tasks. It returns a
  [`MulTDecoderOutput`](decoder_mult.py): per task one stream per stage, coarsest first, the last of them with the size and channels
  of the finest encoder map.
- What belongs to one task lies in a [`PerTask`](decoder_mult.py); what lies elsewhere is shared. The model finds the
  parameters of a task, adds tasks and removes tasks by this type.
- Every parameter gets a gradient when all tasks have a loss, and nothing is written on `self` in forward (distributed training,
  gradient checkpointing). Layers worth recomputing are `GradientCheckpointingLayer`s.
- `_no_split_modules` lists the classes of its layers that lie on one device and make one shard of FSDP; transformers gathers it.
  A class without a layer is an error there.

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
