"""Configuration of MulT: backbone, decoders, the source of each block's attention, and the full task entries."""

import copy
import difflib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, cast

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.utils import logging

from .cameras import check_focal_length
from .entry_fields import refusal
from .tasks import MULT_TASKS, PREFERRED_REFERENCE_TASK, TaskSpec, resolve_tasks

logger = logging.get_logger(__name__)

ATTENTION_SOURCES = ("self", "encoder", "reference")

_BLOCK_OPTIONS = (
    "decoder_num_attention_heads",
    "decoder_window_size",
    "mlp_ratio",
    "hidden_act",
    "qkv_bias",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "drop_path_rate",
)
DECODER_OPTIONS: dict[str, tuple[str, ...]] = {
    "mult": ("block_attention", "reference_task", *_BLOCK_OPTIONS),
    "swin_unet": ("block_attention", "reference_task", *_BLOCK_OPTIONS),
    "mtan": (),
}
"""The arguments that each decoder reads and another may not. All decoders read `tasks`, `layer_norm_eps`, `initializer_range`."""

# Sizes of the published Swin encoders (Swin Transformer, arXiv 2103.14030, section 3.3 and appendix A2).
PRESETS: dict[str, dict[str, Any]] = {
    "swin-tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "drop_path_rate": 0.2},
    "swin-small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "drop_path_rate": 0.3},
    "swin-base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.5},
    "swin-large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "drop_path_rate": 0.3},
}

# What `pipeline(..., trust_remote_code=True)` reads in config.json to find the pipeline's file in the checkpoint.
CUSTOM_PIPELINES = {"multitask-vision": {"impl": "pipeline_mult.MultiTaskVisionPipeline", "pt": ["AutoModel"], "type": "image"}}

# Keywords that transformers itself passes to a configuration, beside its declared fields.
_TRANSFORMERS_KEYWORDS = {
    "auto_map",
    "custom_pipelines",
    "model_type",
    "attn_implementation",
    "torch_dtype",
    "name_or_path",
    "output_attentions",
    "trust_remote_code",
    "code_revision",
}


# Keywords that name a pretrained backbone in configurations of transformers, which would query the Hub at once.
_BACKBONE_KEYWORDS = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs")


def _preferred_reference_task(config: "MulTConfig") -> str | None:
    names = list(config.task_specs)
    return PREFERRED_REFERENCE_TASK if PREFERRED_REFERENCE_TASK in names else next(iter(names), None)


_PLAIN_BLOCKS = {"swin_unet": ("self", "self")}  # as in its paper, where tasks share no attention


def _windows_of_encoder(config: "MulTConfig") -> int:
    """The window size of a Swin encoder. Of others it may be missing, a list, or 0 for no windows: then Swin's usual one."""
    size = getattr(config.backbone_config, "window_size", None)
    return size if isinstance(size, int) and size > 0 else 7


# Defaults that depend on other arguments, for options that are None. None of them depends on another of these.
_DERIVED_DEFAULTS: dict[str, Callable[["MulTConfig"], Any]] = {
    "block_attention": lambda config: [*_PLAIN_BLOCKS.get(config.decoder_type, ("self", "encoder"))],
    "reference_task": _preferred_reference_task,
    "decoder_window_size": _windows_of_encoder,
}


class BlockAttention(NamedTuple):
    """Where a block's queries and keys come from, and whether the encoder map also enters its values.

    `source` is `"self"` (the task's own stream; no sharing), `"encoder"` (the encoder map of the same resolution, by the
    reference task's projections; one map for all tasks) or `"reference"` (the reference task's own stream; one map for all
    tasks).
    """

    source: str
    skip: bool

    @classmethod
    def parse(cls, kind: str) -> "BlockAttention":
        """Parse a block kind such as `"encoder"` or `"encoder+skip"`.

        Raises:
            ValueError: on anything else.
        """
        source, plus, skip = kind.partition("+") if isinstance(kind, str) else (kind, "", "")
        if source not in ATTENTION_SOURCES or (plus and skip != "skip"):
            raise ValueError(f"block_attention has {kind!r}, which is not one of {', '.join(ATTENTION_SOURCES)}, each also with '+skip'")
        return cls(source, skip == "skip")

    @property
    def is_shared(self) -> bool:
        """Whether one map serves every task."""
        return self.source != "self"

    @property
    def reads_encoder_map(self) -> bool:
        """Whether queries, keys or values depend on the encoder's map."""
        return self.source == "encoder" or self.skip


@strict
class MulTConfig(PreTrainedConfig):
    r"""Configuration of [`MulTModel`] and [`MulTForMultiTaskDensePrediction`] (MulT, CVPR 2022, arXiv 2205.08303).

    Every keyword of a transformers configuration is accepted too. `id2label` and `num_labels` set the classes of the one classification
    task; they follow `tasks` at all times, and are empty where there is no classification or more than one.

    Args:
        backbone_config: configuration, or its dict, of any `AutoBackbone` that returns a pyramid of feature maps. Defaults to
            Swin-T with all four stages.
        tasks: names of registered tasks, [`TaskSpec`] objects or entries as dictionaries. Stored as full entries. Defaults to the six
            tasks of the paper.
        decoder_type: `"mult"` (the paper's), `"swin_unet"` (encoder maps enter each stage by concatenation) or `"mtan"` (a shared
            trunk under each task's soft masks), see `decoders.py`. Arguments that a decoder does not read (`DECODER_OPTIONS`)
            keep their defaults; another value is dropped with a warning. To load a configuration with another type, give
            `block_attention`, too.
        block_attention: kinds of a decoder stage's blocks, see [`BlockAttention`]: one list for all stages, or one list per
            stage from the coarsest to the finest (`"swin_unet"` has no blocks at the encoder's coarsest map, and so one list
            fewer). Odd blocks use shifted windows, so a stage has an even number. The default of `"mult"`, `["self", "encoder"]`,
            is the paper's; `["encoder", "reference"]` is the authors' released head; `["self", "self"]`, the default of
            `"swin_unet"`, shares no attention. `None` for `"mtan"`.
        reference_task: the task whose projections compute the shared maps. Defaults to surface normals, or to the first task
            if there are none. `None` for `"mtan"`.
        decoder_num_attention_heads: heads per encoder map, coarsest first (`"swin_unet"` has no blocks at the coarsest, so its first
            number has no effect). Defaults to the backbone's, reversed, or to one
            head per 32 channels for a backbone without heads, or fewer where 32 does not divide the channels.
        decoder_window_size: side of the attention windows in tokens. Defaults to the backbone's, or 7.
        mlp_ratio: hidden width of a decoder MLP divided by its input width.
        hidden_act: activation of the decoder MLPs.
        qkv_bias: whether query, key and value projections have a bias.
        hidden_dropout_prob: dropout after output projections and in MLPs of the decoders.
        attention_probs_dropout_prob: dropout of the decoders' attention maps.
        drop_path_rate: largest stochastic depth rate of the decoders, growing linearly over the blocks. It acts on both residual
            branches as in the authors' code; transformers' Swin encoder drops the attention branch only.
        layer_norm_eps: epsilon of the decoders' layer norms.
        initializer_range: standard deviation of the truncated normal for new linear weights.
        canonical_focal_length: focal length, in pixels of the network's input, of the camera for which the model learnt depth, see
            [`MulTImageProcessor`]; `train` writes it, and pipelines and commands refuse a processor with another. None for a model
            without such a camera, or one that was saved before models said so.
        untrained_weights: names of saved weights that no training has changed since they were initialised at random. `save_pretrained`
            writes them, and a model with such weights is refused for predictions.

    Raises:
        ValueError: on an unknown or impossible task entry, or a backbone by name (`backbone="..."`).
        huggingface_hub.errors.StrictDataclassError: on a wrong type or an impossible combination; the message says what is
            allowed.

    Examples:
        >>> from mult_hf import MulTConfig
        >>> config = MulTConfig.from_preset("swin-tiny", tasks=["depth", "normals"])
        >>> config.reference_task
        'normals'
    """

    model_type = "mult"
    keys_to_ignore_at_inference = ["task_losses", "hidden_states", "task_hidden_states", "attentions", "classifications"]
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="swin",
            init_kwargs={"out_features": ["stage1", "stage2", "stage3", "stage4"]},
        ),
    }

    backbone_config: dict | PreTrainedConfig | None = None
    tasks: list | tuple | dict | None = None
    decoder_type: str = "mult"
    block_attention: list | tuple | None = None
    reference_task: str | None = None
    decoder_num_attention_heads: list[int] | tuple[int, ...] | None = None
    decoder_window_size: int | None = None
    mlp_ratio: float | int = 4.0
    hidden_act: str = "gelu"
    qkv_bias: bool = True
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    canonical_focal_length: float | int | None = None
    untrained_weights: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _refuse_backbone_keywords(kwargs)
        _warn_about_unknown_names(kwargs, list(type(self).__dataclass_fields__))
        if not __name__.startswith("transformers_modules"):
            # If this package is installed, its own pipeline runs; otherwise transformers would ask for trust_remote_code.
            kwargs.pop("custom_pipelines", None)
        self.tasks = [spec.to_dict() for spec in resolve_tasks(MULT_TASKS if self.tasks is None else self.tasks).values()]
        label2id, num_labels = self.label2id, kwargs.pop("num_labels", None)
        if self.id2label is None and num_labels is not None:
            self.id2label = _placeholder_labels(num_labels)
        if self.id2label is not None:
            self._take_class_names()
        self._name_classes()
        if label2id and label2id != self.label2id:
            logger.warning(f"label2id={label2id} is not the inverse of id2label={self.id2label} and is replaced")
        _check_backbone_type(self.backbone_config)
        super().__post_init__(**kwargs)  # makes `backbone_config` a configuration
        if self.decoder_type in DECODER_OPTIONS:
            for option in dict.fromkeys(name for options in DECODER_OPTIONS.values() for name in options):
                self._complete_option(option)
        self._classes_follow = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the tasks' entries and transformers' class names consistent when either is assigned after construction."""
        super().__setattr__(name, value)
        if name in ("tasks", "id2label") and self.__dict__.pop("_classes_follow", False):
            try:
                if name == "id2label":
                    self._take_class_names()
                self.tasks = [spec.to_dict() for spec in self.task_specs.values()]
                self._name_classes()
            finally:
                self._classes_follow = True

    def reads(self, option: str) -> bool:
        """Whether the decoder depends on this argument."""
        return option in DECODER_OPTIONS.get(self.decoder_type, ())

    def _complete_option(self, option: str) -> None:
        """Set a decoder option to its default if it is None, or if the decoder does not read it, so that no unused value is saved."""
        value, default = getattr(self, option), type(self).__dataclass_fields__[option].default
        if not self.reads(option):
            if value != default:
                logger.warning(f"{option}={value!r} has no effect on the {self.decoder_type!r} decoder and is dropped")
            setattr(self, option, default)
        elif value is None and option in _DERIVED_DEFAULTS:
            setattr(self, option, _DERIVED_DEFAULTS[option](self))
        elif isinstance(value, (list, tuple)):  # a copy, so that the caller's lists are not shared
            setattr(self, option, [list(item) if isinstance(item, (list, tuple)) else item for item in value])

    def _take_class_names(self) -> None:
        """Change the one classification's entry to the classes of a given `id2label`; warn where there is not exactly one."""
        by_number = {str(number): name for number, name in (self.id2label or {}).items()}
        numbers = [str(number) for number in range(len(by_number))]
        names = [by_number.get(number, "") for number in numbers]  # with gaps, which are refused below
        specs, unnamed = self.task_specs, names == list(_placeholder_labels(len(names)).values())
        classifications = [spec for spec in specs.values() if spec.is_classification]
        if len(classifications) != 1:
            if names and names != list(_placeholder_labels(2).values()):  # what transformers stores by default
                logger.warning(
                    f"id2label={self.id2label} has no effect: {len(classifications)} of the tasks {list(specs)} classify, not one; "
                    "give class_names in the task's entry"
                )
            return
        (spec,) = classifications
        if by_number.keys() != set(numbers):
            raise refusal(
                f"id2label has the ids {list(self.id2label or {})}; give one name for each id from 0 to {len(numbers) - 1}: predictions "
                "number the classes without gaps, and the encoding of the task's entry says which stored value is which"
            )
        if names != _class_names(spec) and not (unnamed and len(names) == spec.channels):
            specs[spec.name] = replace(spec, channels=len(names), class_names=() if unnamed else tuple(names))
            self.tasks = [spec.to_dict() for spec in specs.values()]

    def _name_classes(self) -> None:
        """Set `id2label` and `label2id` to the classes of the one classification; empty where there is none or more than one."""
        classifications = [spec for spec in self.task_specs.values() if spec.is_classification]
        names = _class_names(classifications[0]) if len(classifications) == 1 else []
        self.id2label = dict(enumerate(names))
        self.label2id = {name: number for number, name in self.id2label.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `config.json`, which also name the pipeline's code for machines without this package."""
        values = {**super().to_dict(), "custom_pipelines": CUSTOM_PIPELINES}
        values.pop("_classes_follow", None)
        for name in ("canonical_focal_length", "untrained_weights"):
            if values.get(name) is None:
                values.pop(name, None)  # not for most models, and older releases do not know it
        return values

    @property
    def task_entries(self) -> list[dict[str, Any]]:
        """`tasks` after construction: one full entry per task, in order."""
        return self.tasks  # type: ignore[return-value]  # the field also takes what construction completes

    @property
    def task_specs(self) -> dict[str, TaskSpec]:
        """The task entries as [`TaskSpec`] objects by name, in order."""
        return resolve_tasks(self.task_entries)

    @property
    def decoder_window(self) -> int:
        """`decoder_window_size` after construction, for decoders that read it."""
        return cast(int, self.decoder_window_size)

    def block_attention_of_stages(self, number_of_stages: int) -> list[list[BlockAttention]]:
        """Parsed block kinds, one list per decoder stage from the coarsest to the finest.

        Raises:
            ValueError: if `block_attention` has per-stage lists, but not `number_of_stages` of them.
        """
        stages = self._stage_lists()
        stages = stages * number_of_stages if len(stages) == 1 else stages
        if len(stages) != number_of_stages:
            raise ValueError(
                f"block_attention has {len(stages)} lists for {number_of_stages} decoder stages; give one list, or one per stage"
            )
        return [[BlockAttention.parse(kind) for kind in kinds] for kinds in stages]

    def _stage_lists(self) -> list[list[str]]:
        stages = list(self.block_attention or ())
        return stages if any(isinstance(kinds, list) for kinds in stages) else [stages]

    def validate_decoder_type(self) -> None:
        """Checked at construction and at save: there is such a decoder."""
        if self.decoder_type not in DECODER_OPTIONS:
            raise ValueError(f"decoder_type {self.decoder_type!r} is unknown; choose one of {', '.join(DECODER_OPTIONS)}")

    def validate_blocks(self) -> None:
        """Checked at construction and at save: block kinds exist and come in pairs of regular and shifted windows."""
        if not self.reads("block_attention"):
            return
        for kinds in self._stage_lists():
            if not isinstance(kinds, list):
                raise ValueError(f"block_attention mixes kinds and lists: {self.block_attention}; give one list, or one list per stage")
            if not kinds or len(kinds) % 2:
                raise refusal(
                    f"a decoder stage has blocks {list(kinds)}; their number must be even and at least 2, because regular and shifted "
                    "windows alternate"
                )
            for kind in kinds:
                BlockAttention.parse(kind)

    def validate_tasks(self) -> None:
        """Checked at construction and at save: there is a task, and the reference task is one of them."""
        names = list(self.task_specs)
        if not names:
            raise ValueError(f"tasks is {self.tasks}; give at least one, for example tasks=['depth']")
        if self.reads("reference_task") and self.reference_task not in names:
            raise refusal(f"reference_task {self.reference_task!r} is not one of the tasks {names}; choose one of them")

    def validate_rates(self) -> None:
        """Checked at construction and at save: rates lie in [0, 1)."""
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("mlp_ratio", "layer_norm_eps"):
            if not 0 < getattr(self, name) < math.inf:  # false for NaN, too
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        if not 0 <= self.initializer_range < math.inf:
            raise ValueError(f"initializer_range is {self.initializer_range}; it must be at least 0 and finite")

    def validate_canonical_focal_length(self) -> None:
        """Checked at construction and at save: the focal length is possible."""
        if self.canonical_focal_length is not None:
            check_focal_length(self.canonical_focal_length, "canonical_focal_length")

    def validate_decoder_window(self) -> None:
        """Checked at construction and at save: the window has at least one token."""
        if self.decoder_window_size is not None and self.decoder_window_size < 1:
            raise ValueError(f"decoder_window_size is {self.decoder_window_size}; it must be at least 1")
        if self.decoder_num_attention_heads is not None and min(self.decoder_num_attention_heads, default=1) < 1:
            raise ValueError(f"decoder_num_attention_heads has {min(self.decoder_num_attention_heads)}; a stage has at least 1 head")

    def validate_hidden_act(self) -> None:
        """Checked at construction and at save: there is such an activation."""
        if self.hidden_act not in ACT2FN:
            raise refusal(f"hidden_act {self.hidden_act[:80]!r} is unknown; choose one of {', '.join(ACT2FN)}")

    @classmethod
    def from_preset(cls, preset: str, **kwargs: Any) -> "MulTConfig":
        """MulT on one of the published Swin sizes: `"swin-tiny"`, `"swin-small"`, `"swin-base"`, `"swin-large"` (the paper's).

        Args:
            preset: name of the size.
            kwargs: any argument of [`MulTConfig`].

        Raises:
            ValueError: on an unknown preset.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
        backbone = {
            "model_type": "swin",
            "window_size": 7,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
            **copy.deepcopy(PRESETS[preset]),
        }
        return cls(backbone_config=backbone, **kwargs)


def _placeholder_labels(number: int) -> dict[int, str]:
    """The names that transformers gives to unnamed classes."""
    return {index: f"LABEL_{index}" for index in range(number)}


def _class_names(spec: TaskSpec) -> list[str]:
    return list(spec.class_names) or [f"class {number}" for number in range(spec.channels)]


def _check_backbone_type(backbone_config: Any) -> None:
    """Refuse plain values that do not say whose configuration they are; transformers would raise a bare `KeyError`."""
    if not isinstance(backbone_config, dict):
        return
    model_type = backbone_config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise refusal(
            f"backbone_config has model_type {model_type!r}, which transformers does not have; give that of a backbone, such as 'swin'"
        )


def _refuse_backbone_keywords(kwargs: dict[str, Any]) -> None:
    """Refuse a backbone name before transformers looks it up: a configuration describes an encoder, but does not load its weights.

    Raises:
        ValueError: naming what to give instead.
    """
    given = {name: kwargs[name] for name in _BACKBONE_KEYWORDS if kwargs.get(name)}
    if given:
        raise refusal(
            f"MulTConfig takes no {', '.join(f'{name}={value!r}' for name, value in given.items())}; give backbone_config, which "
            "describes an encoder, or build the model with MulTForMultiTaskDensePrediction.from_backbone(name), which loads an encoder of "
            "transformers or timm with its weights"
        )


def _warn_about_unknown_names(kwargs: dict[str, Any], fields: list[str]) -> None:
    """Warn about misspelt arguments, because `@strict` silently accepts any keyword.

    Raises:
        ValueError: if one is the name of a value that follows from the others.
    """
    for name in kwargs:
        if isinstance(getattr(MulTConfig, name, None), property) and not hasattr(PreTrainedConfig, name) and name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            raise refusal(f"MulTConfig takes no {name!r}, which follows from others; give {close[0] if close else 'tasks'}")
        if name.startswith("_") or name in _TRANSFORMERS_KEYWORDS or hasattr(PreTrainedConfig, name):
            continue
        close = difflib.get_close_matches(name, fields, n=1)
        logger.warning(
            f"MulTConfig does not know {name!r}; it is stored but has no effect." + (f" Did you mean {close[0]!r}?" if close else "")
        )


__all__ = ["MulTConfig", "BlockAttention"]
