"""The encoder: any backbone of transformers with a pyramid of feature maps, prepared for MulT's decoders."""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call
from transformers.backbone_utils import load_backbone
from transformers.utils import logging

from .configuration_mult import MulTConfig
from .decoders import DECODERS
from .encoder_sources import find_timm_encoder, load_timm_weights
from .entry_fields import refusal

logger = logging.get_logger(__name__)

ENCODERS_OF_ONE_SIZE = ("hiera",)
"""Kinds of encoders whose position embeddings transformers does not resize in a backbone."""


def make_backbone(config: MulTConfig) -> nn.Module:
    """Build the encoder of a configuration, without norms that no feature map or decoder depends on.

    Swin backbones have two kinds of norms whose parameters may never get a gradient, which stops distributed training
    (`DistributedDataParallel` waits for every parameter). They are replaced by `nn.Identity`, which has no parameters:

    - `swin.layernorm`, after the last stage: transformers' backbone normalises each feature map by `hidden_states_norms`
      instead. It is always replaced.
    - `hidden_states_norms[stage]` of a finer map that no decoder block reads, as with `block_attention=["self", "self"]`. The
      coarsest map's norm stays, because all streams start there.

    Backbones without these norms are returned as they are. Names of dropped norms in a checkpoint are ignored on load.

    Raises:
        ValueError: if there is no such encoder, transformers' own cannot run, or timm's gives maps with their channels last.
    """
    own = config.backbone_config
    if getattr(own, "model_type", "") == "swinv2" and getattr(own, "use_absolute_embeddings", False):
        raise ValueError(
            "backbone_config is a swinv2 with use_absolute_embeddings, which has one embedding too many in transformers 5 and cannot run; "
            "set it to false, as all published checkpoints do"
        )
    try:
        backbone = load_backbone(config)
    except (ImportError, OSError, ValueError):
        raise
    except Exception as error:  # encoders raise different errors for impossible sizes
        name = getattr(config.backbone_config, "model_type", "")
        raise refusal(f"backbone_config describes no valid {name} encoder: {type(error).__name__}: {error}; correct its fields") from error
    layout = getattr(getattr(backbone, "_backbone", None), "output_fmt", None)  # of timm
    if getattr(layout, "value", layout) == "NHWC":
        raise refusal(
            f"backbone_config is timm's {cast(Any, own).backbone}, whose maps have their channels last, and transformers passes them on as "
            "they are; choose another encoder, such as transformers' own swin, swinv2 or convnext"
        )
    norms = getattr(backbone, "hidden_states_norms", None)
    if not isinstance(norms, nn.ModuleDict):  # MaskFormer's Swin has a list of them, by number
        return backbone
    for module in backbone.children():
        if isinstance(getattr(module, "layernorm", None), nn.LayerNorm):
            module.layernorm = nn.Identity()
    for name in norms.keys() & set(unread_stages(config, backbone.out_features)):
        norms[name] = nn.Identity()
    return backbone


_STRIDES: dict[str, int] = {}
"""What [`finest_stride`] found, by configuration."""


def finest_stride(backbone: nn.Module) -> int:
    """Pixels per token of an encoder's finest feature map, along both axes.

    Its patches tell if its first stage is used, whose tokens they are, and timm tells for its own encoders. Any other one runs once without
    values, on the meta device: this takes no arithmetic, and no weights, which may not be loaded yet. The result is kept in `_STRIDES`.

    Args:
        backbone: as [`make_backbone`] returns it; it is not changed.

    Returns:
        The smallest common multiple of both axes' strides. For an encoder that cannot run without values, its patch size, or 4, that of
        the usual pyramids, with a warning.
    """
    config = cast(Any, backbone.config)
    has_patches = isinstance(getattr(config, "patch_size", None), int)
    patch_size = config.patch_size if has_patches else 4
    if has_patches and list(getattr(config, "out_features", None) or [])[:1] == ["stage1"]:
        return patch_size
    if timm := getattr(backbone, "_backbone", None):
        return int(timm.feature_info.reduction()[0])
    key = config.to_json_string()
    if key in _STRIDES:
        return _STRIDES[key]
    size = _size_to_measure(config, patch_size)
    state = {name: value.to("meta") for name, value in chain(backbone.named_parameters(), backbone.named_buffers())}
    image = torch.zeros(1, getattr(config, "num_channels", 3), *size, device="meta")
    modes = [(module, module.training) for module in backbone.modules()]
    try:
        backbone.eval()
        with torch.no_grad():
            finest = functional_call(backbone, state, (image,)).feature_maps[0]
    except Exception as error:  # encoders raise different errors for what they cannot do without values
        logger.warning(f"images are padded to multiples of {patch_size} pixels, because the encoder's finest stride is unknown ({error})")
        return patch_size
    finally:
        for module, mode in modes:
            module.training = mode
    _STRIDES[key] = math.lcm(*(max(1, round(side / tokens)) for side, tokens in zip(size, finest.shape[-2:])))
    return _STRIDES[key]


def _size_to_measure(config: Any, patch_size: int) -> tuple[int, int]:
    """A size of which every map of a pyramid is a whole fraction."""
    if config.model_type in ENCODERS_OF_ONE_SIZE or getattr(config, "use_absolute_embeddings", False):
        return _own_size(config)
    side = math.lcm(patch_size * 32, 256)
    return side, side


def _own_size(config: Any) -> tuple[int, int]:
    """(height, width) of the images that an encoder was made for."""
    return tuple(config.image_size) if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2


def check_size(backbone: nn.Module, size: tuple[int, int]) -> None:
    """Refuse images that an encoder of one size does not take.

    Args:
        backbone: the encoder.
        size: (height, width) of the images in pixels, padded to whole tokens of the finest map.

    Raises:
        ValueError: naming both sizes.
    """
    config = cast(Any, backbone.config)
    if config.model_type in ENCODERS_OF_ONE_SIZE:
        own = _own_size(config)
    elif config.model_type == "timm_backbone" and not torch.compiler.is_compiling():
        strict = next((module for module in backbone.modules() if getattr(module, "strict_img_size", False)), None)
        own = size if strict is None else tuple(cast(Any, strict).img_size)
    else:
        return
    if own != size:
        raise ValueError(
            f"pixel_values are {size[0]} x {size[1]} pixels, padded to whole patches, and a {config.model_type} encoder takes images of "
            f"{own[0]} x {own[1]} only; resize them, or build the encoder with another image_size"
        )


def keep_frozen_statistics(backbone: nn.Module) -> None:
    """Put batch normalisation into evaluation mode where its weights are frozen.

    In training mode every batch would change its running statistics, and with them the predictions of all tasks, although nothing is
    trained; and adapters do not save them. Where it has no weights, it counts as frozen if the whole encoder is. When weights are
    trainable again, the next `train()` puts it back.

    Args:
        backbone: the encoder.
    """
    frozen = not any(parameter.requires_grad for parameter in backbone.parameters())
    for module in backbone.modules():
        if getattr(module, "running_mean", None) is not None:
            own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
            if not any(own) if own else frozen:
                module.eval()


def unread_stages(config: MulTConfig, out_features: list[str]) -> list[str]:
    """Names of the encoder stages whose map no block of the decoder reads; none for decoders that read every map."""
    if getattr(DECODERS[config.decoder_type], "reads_every_map", True):
        return []
    stages = config.block_attention_of_stages(len(out_features))  # coarsest first
    finer = list(zip(reversed(out_features), stages))[1:]
    return [name for name, kinds in finer if not any(kind.reads_encoder_map for kind in kinds)]


@dataclass(frozen=True)
class BackboneLoadReport:
    """Report of which pretrained weights were loaded.

    Args:
        loaded: names of encoder weights that were filled.
        not_used: names in the checkpoint that the encoder does not have (a classifier, for example).
        fresh: names of encoder weights that the checkpoint does not have; they keep their initial values.
    """

    loaded: tuple[str, ...]
    not_used: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        """One line per list, for a terminal."""
        lines = [f"loaded {len(self.loaded)} encoder weights"]
        lines += [f"not used ({len(self.not_used)}): {', '.join(self.not_used)}"] if self.not_used else []
        lines += [f"new, to be trained ({len(self.fresh)}): {', '.join(self.fresh)}"] if self.fresh else []
        return "\n".join(lines)


def load_pretrained_weights(backbone: nn.Module, name_or_path: str, **kwargs: Any) -> BackboneLoadReport:
    """Fill a backbone from a published checkpoint of its architecture, a classifier's or a backbone's.

    Args:
        backbone: as [`make_backbone`] returns it.
        name_or_path: Hub id, local directory, or timm's own name for a backbone of timm.
        kwargs: for `from_pretrained` (`revision`, `token`, `local_files_only`, ...).

    Returns:
        [`BackboneLoadReport`]: what was loaded, not used, and missing; it is logged too.

    Raises:
        ValueError: if the checkpoint has nothing that fits, or weights of another size.
    """
    config = cast(Any, backbone.config)
    load = _load_from_timm if config.model_type == "timm_backbone" else _load_from_transformers
    report = load(backbone, name_or_path, **kwargs)
    log = logger.warning if report.fresh or report.not_used else logger.info
    log(f"{name_or_path}: {report}")
    return report


def _load_from_timm(backbone: nn.Module, name_or_path: str, **kwargs: Any) -> BackboneLoadReport:
    encoder, config = find_timm_encoder(str(name_or_path), **kwargs), cast(Any, backbone.config)
    if encoder is None:
        raise ValueError(f"{name_or_path} is no checkpoint of timm, and this encoder is timm's {config.backbone!r}")
    not_used = load_timm_weights(backbone, encoder, **kwargs)
    return BackboneLoadReport(tuple(backbone.state_dict()), tuple(not_used), ())


def _load_from_transformers(backbone: nn.Module, name_or_path: str, **kwargs: Any) -> BackboneLoadReport:
    source, info = cast(Any, type(backbone)).from_pretrained(
        name_or_path, config=backbone.config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    if info["mismatched_keys"]:
        raise ValueError(
            f"{name_or_path} does not fit this encoder: other sizes at {sorted(str(key) for key in info['mismatched_keys'])[:5]}; "
            "take the encoder's configuration from the checkpoint with MulTForMultiTaskDensePrediction.from_backbone"
        )
    fresh = set(info["missing_keys"])
    source_state = source.state_dict()
    state = {name: source_state[name] for name in backbone.state_dict() if name in source_state and name not in fresh}
    if not state:
        raise ValueError(f"{name_or_path} has no weight of this {type(backbone).__name__} encoder; is it of another architecture?")
    backbone.load_state_dict(state, strict=False)
    own = set(backbone.state_dict())
    not_used = set(info["unexpected_keys"]) | (set(source_state) - own - fresh)
    return BackboneLoadReport(tuple(state), tuple(sorted(not_used)), tuple(sorted(own - set(state))))


__all__ = ["BackboneLoadReport", "check_size", "finest_stride", "keep_frozen_statistics", "load_pretrained_weights", "make_backbone"]
