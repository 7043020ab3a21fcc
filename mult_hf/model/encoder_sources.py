"""Published encoders: checkpoints of transformers, and encoders of the timm library.

timm is optional for machines that load the code of a checkpoint. It is imported only to build its encoders, not to read configurations.
"""

import os
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoConfig, TimmBackboneConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from .entry_fields import refusal

logger = logging.get_logger(__name__)

HUB_KEYWORDS = ("revision", "token", "cache_dir", "local_files_only")
"""Keywords for downloads from the Hub."""

STEPS = (4, 8, 16, 32)
"""Pixels per token of the feature maps that are taken from an encoder of timm, finest first."""

_CLASSIFIER_ARGUMENTS = ("num_classes", "global_pool")

_PIXEL_STEPS = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
"""Fields of an image processor that say how pixels are made from colours."""

_OTHER_STEPS = ("do_flip_channel_order", "do_grayscale", "do_color_quantize", "rescale_offset", "offset")
"""Steps of transformers' image processors that change colours in other ways."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class TimmEncoder(NamedTuple):
    """An encoder of timm: its architecture, and the source of its weights and image statistics.

    Args:
        architecture: name in timm, with the tag of its weights if timm downloads them, e.g. `resnet50.a1_in1k`.
        directory: directory with timm's `config.json` and the weights; `None` if timm downloads them.
        values: contents of `config.json`.
    """

    architecture: str
    directory: Path | None
    values: dict[str, Any]


def find_timm_encoder(name_or_path: str, **hub: Any) -> TimmEncoder | None:
    """The encoder of timm with this name, or None for a checkpoint of transformers.

    Args:
        name_or_path: timm's own name, which has no slash; or a directory or Hub id, whose `config.json` shows the library.
        hub: see [`HUB_KEYWORDS`].

    Raises:
        ValueError: if the checkpoint modifies timm's architecture by arguments that a configuration of transformers cannot express.
    """
    if not os.path.isdir(name_or_path) and "/" not in name_or_path:
        return TimmEncoder(name_or_path, None, {})
    values, _ = PreTrainedConfig.get_config_dict(name_or_path, **hub)
    if "pretrained_cfg" not in values:
        return None
    changes = {name: value for name, value in (values.get("model_args") or {}).items() if name not in _CLASSIFIER_ARGUMENTS}
    if changes and changes != {"in_chans": 3}:
        raise ValueError(f"{name_or_path} changes timm's {values['architecture']} by model_args {changes}; give an encoder without changes")
    if os.path.isdir(name_or_path):
        directory = name_or_path
    else:
        directory = snapshot_download(name_or_path, allow_patterns=["config.json", *_WEIGHTS], **hub)
    return TimmEncoder(values["architecture"], Path(directory), values)


def encoder_configuration(name_or_path: str, **hub: Any) -> PreTrainedConfig:
    """The configuration of a published encoder that returns its pyramid of feature maps.

    Args:
        name_or_path: as for [`find_timm_encoder`].
        hub: see [`HUB_KEYWORDS`].

    Raises:
        ValueError: if the encoder has no pyramid of feature maps.
    """
    encoder = find_timm_encoder(name_or_path, **hub)
    if encoder is not None:
        # transformers accepts `out_indices` as an additional keyword.
        return TimmBackboneConfig(backbone=encoder.architecture, out_indices=_pyramid(encoder.architecture))  # type: ignore[call-arg]
    config = AutoConfig.from_pretrained(name_or_path, **hub)
    stages = [name for name in getattr(config, "stage_names", []) if name != "stem"]
    if not stages:
        raise ValueError(f"{name_or_path} is a {config.model_type!r}; expected a backbone with stages, such as Swin or ConvNeXt")
    config.out_features = stages
    return config


def _pyramid(architecture: str) -> list[int]:
    """Indices of the feature maps of a timm architecture at [`STEPS`].

    Raises:
        ValueError: if timm lacks the architecture, or it has no such maps for every image size.
    """
    timm = _timm()
    if not timm.is_model(architecture):
        raise ValueError(
            f"{architecture!r} is neither a directory, nor a Hub id 'owner/name', nor the name of a model in timm {timm.__version__}"
        )
    try:
        encoder = timm.create_model(architecture, features_only=True)
        last = {level["reduction"]: index for index, level in enumerate(encoder.feature_info.info)}  # if several maps have the same step
        if not last.keys() >= set(STEPS):
            raise refusal(f"its maps are at 1/{', 1/'.join(map(str, last))}")
        chosen = [last[step] for step in STEPS]
        encoder = timm.create_model(architecture, features_only=True, out_indices=chosen).eval()
        with torch.no_grad():
            maps = encoder(torch.zeros(1, 3, 64, 96))
        expected = [(1, channels, 64 // step, 96 // step) for step, channels in zip(STEPS, encoder.feature_info.channels())]
        if [tuple(each.shape) for each in maps] != expected:
            raise ValueError(f"its maps of an image of 64 x 96 pixels have shapes {[tuple(each.shape) for each in maps]}, not {expected}")
    except (RuntimeError, ValueError, AssertionError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{architecture!r} of timm does not return maps of 1/4, 1/8, 1/16 and 1/32 of an image of any size, channels first; choose a "
            f"network such as 'resnet50' or 'convnext_tiny' ({error})"
        ) from error
    return chosen


def load_timm_weights(backbone: nn.Module, encoder: TimmEncoder, **hub: Any) -> list[str]:
    """Fill a `TimmBackbone` with the weights of a published encoder.

    Args:
        backbone: of the encoder's architecture.
        encoder: see [`find_timm_encoder`].
        hub: see [`HUB_KEYWORDS`].

    Returns:
        Names of weights in the checkpoint that the encoder does not have, such as those of its classifier.

    Raises:
        ValueError: if weights are missing, or of another size, or if timm cannot do what `hub` asks for.
    """
    timm = _timm()
    not_used: list[str] = []
    if encoder.directory is None:
        asked = sorted(name for name, value in hub.items() if value is not None and name != "cache_dir")
        if asked:
            raise ValueError(f"timm downloads {encoder.architecture!r} by itself, without {asked}; give the Hub id, 'timm/...'")
        weights: dict[str, Any] = {"cache_dir": hub.get("cache_dir")}
    else:
        path = _weights_file(encoder.directory)
        try:
            stored = timm.models.load_state_dict(str(path), weights_only=True).keys()  # first, so that no code in the file ever runs
        except Exception as error:  # readers of damaged files raise errors of any kind
            raise refusal(f"{path} cannot be read as weights: {error}; no code in it is run") from error
        needed = timm.create_model(encoder.architecture, num_classes=0).state_dict().keys()
        missing = sorted(name for name in needed - stored if not name.endswith("num_batches_tracked"))
        if missing:
            raise ValueError(f"{path} lacks {len(missing)} weights of {encoder.architecture!r}: {missing[:3]}")
        not_used = sorted(stored - needed)
        weights = {"pretrained_cfg_overlay": {"file": str(path), "custom_load": False}}
    stages = tuple(cast(Any, backbone.config).out_indices)
    try:
        source = timm.create_model(encoder.architecture, pretrained=True, features_only=True, out_indices=stages, **weights)
        backbone.get_submodule("_backbone").load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ValueError(f"{encoder.directory or encoder.architecture} does not fit this encoder: {error}") from error
    return not_used


def image_statistics(name_or_path: str, **hub: Any) -> dict[str, Any]:
    """How the pixels that an encoder was trained on were made from colours, as arguments of an image processor.

    Args:
        name_or_path: as for [`find_timm_encoder`].
        hub: see [`HUB_KEYWORDS`].

    Returns:
        `image_mean` and `image_std`, per channel, and `do_rescale`, `rescale_factor` and `do_normalize` where the checkpoint states them.
        Empty, with a warning, if a checkpoint has no image processor.

    Raises:
        ValueError: if the checkpoint changes colours in another way, such as the order of the channels.
    """
    encoder = find_timm_encoder(name_or_path, **hub)
    if encoder is not None:
        values = encoder.values.get("pretrained_cfg") or _timm().get_pretrained_cfg(encoder.architecture).to_dict()
        return {"image_mean": [*values["mean"]], "image_std": [*values["std"]]}
    try:
        values, _ = BaseImageProcessor.get_image_processor_dict(name_or_path, **hub)
    except OSError as error:
        logger.warning(f"{name_or_path} has no image processor that can be read; images are normalised by ImageNet's statistics ({error})")
        return {}
    others = [f"{name}: true" for name in _OTHER_STEPS if values.get(name)]
    if others:
        raise refusal(
            f"{name_or_path} has the image processing {', '.join(others)}, which this package's image processor lacks; choose another "
            "encoder, or give the model pixels that you prepare as its own image processor does"
        )
    return _of_8_bits({name: values[name] for name in _PIXEL_STEPS if values.get(name) is not None})


def _of_8_bits(values: dict[str, Any]) -> dict[str, Any]:
    """The same for this package's processor, to which `do_rescale=False` means images in [0, 1]; to transformers' it means 0 to 255."""
    return values if values.get("do_rescale", True) else {**values, "do_rescale": True, "rescale_factor": 1.0}


def _weights_file(directory: Path) -> Path:
    for name in _WEIGHTS:
        if (directory / name).is_file():
            return directory / name
    raise ValueError(f"{directory} has none of {', '.join(_WEIGHTS)}; expected a checkpoint as timm saves it")


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"encoders of timm need the library timm ({error}); install it with: pip install timm") from error
    return timm


__all__ = ["HUB_KEYWORDS", "TimmEncoder", "encoder_configuration", "find_timm_encoder", "image_statistics", "load_timm_weights"]
