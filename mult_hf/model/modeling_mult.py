"""MulT as transformers models: encoder -> decoders -> heads -> losses."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import SwinBackbone
from transformers import initialization as init
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightTransform
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .backbone import BackboneLoadReport, check_size, finest_stride, keep_frozen_statistics, load_pretrained_weights, make_backbone
from .configuration_mult import MulTConfig
from .decoder_mult import PerTask, RelativePositionBias, SharedWindowAttention, check_reference, copy_fitting_weights
from .decoders import DECODERS
from .encoder_sources import HUB_KEYWORDS, encoder_configuration
from .entry_fields import refusal
from .heads import MulTHeads
from .losses import loss_function, multi_task_loss
from .outputs import MulTDensePredictionOutput, MulTModelOutput, classifications_among, selected_stages
from .pickling import picklable_state
from .tasks import TaskSpec, resolve_tasks
from .tensors import check_pixels, compile_once_per_size
from .weights import forget_task, listing_fresh_weights, remember_fresh_weights, remember_new_task, untrained_in

if TYPE_CHECKING:
    # Never runs. transformers copies the files that modeling imports beside a saved checkpoint; without this line a
    # pipeline that was loaded from such a checkpoint and saved again would lose its file.
    from .pipeline_mult import MultiTaskVisionPipeline  # noqa: F401


class MulTPreTrainedModel(PreTrainedModel):
    """Weight initialisation, loading and saving of the MulT models."""

    config: MulTConfig
    config_class = MulTConfig
    base_model_prefix = "mult"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # a tuple in transformers' own models, too
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = False  # neither supports an additive position bias
    _supports_flex_attn = False
    _supports_attention_backend = True
    accepts_loss_kwargs = False  # losses are means over known pixels; Trainer must average them over accumulation steps
    _keys_to_ignore_on_load_unexpected = [r"backbone\.(\w+\.)?layernorm\.", r"backbone\.hidden_states_norms\."]

    def __init__(self, config: MulTConfig) -> None:
        # `from_pretrained(..., tasks=[...])` assigns values after construction, when the configuration no longer checks them; it also
        # does not notice changes inside its lists.
        config.tasks = [spec.to_dict() for spec in config.task_specs.values()]
        config.validate_decoder_type()
        config.validate_tasks()
        config.validate_blocks()
        super().__init__(config)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers, but from safetensors only, unless `use_safetensors=False` asks for pickled weights.

        The model also keeps which weights the checkpoint lacked, see `check_weights` in `weights.py`, and so do copies that are saved,
        and as `source_options` where it came from, for its image processor.
        """
        kwargs.setdefault("use_safetensors", True)
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # a pair, with the loading info
        model, info = loaded
        mismatched = [name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]]
        untrained = untrained_in(model.name_or_path, **kwargs) if "config" in kwargs else None
        untrained = untrained if untrained is not None else model.config.untrained_weights or []
        remember_fresh_weights(model, {*info["missing_keys"], *mismatched, *untrained})
        model.config.untrained_weights = None
        model.source_options = {name: kwargs[name] for name in ("revision", "subfolder", "cache_dir") if kwargs.get(name)}
        return (model, info) if output_loading_info else model

    if TYPE_CHECKING:  # transformers decorates this method by a function whose type has no `self`

        def to(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
            """As in torch."""

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Any = None,
        *args: Any,
        save_original_format: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in transformers, but weights keep their names in memory by default.

        By default, transformers saves the weights of some encoders under the names of their first releases. Code that reads a file without
        renaming, such as `accelerate.load_checkpoint_and_dispatch`, would skip these weights. `from_pretrained` reads both forms.
        """
        check_reference(self, self.config.reference_task)
        kwargs["save_original_format"] = save_original_format
        with listing_fresh_weights(self, state_dict):
            super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling and copying."""
        return picklable_state(self)

    def enable_input_require_grads(self) -> None:
        """Let gradients reach adapters behind frozen, checkpointed layers; transformers' own method expects token embeddings."""

        def require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
            output.requires_grad_(True)

        self._require_grads_hooks = [self.get_input_embeddings().register_forward_hook(require_grad)]
        self._require_grads_hook = self._require_grads_hooks[0]

    # `override`: arguments that later releases of transformers add are passed on by keyword.
    def _set_gradient_checkpointing(self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, **kwargs: Any) -> None:  # type: ignore[override]
        """Refuse the reentrant variant: it ignores tensors in dictionaries, so that almost nothing would be trained, without a warning.

        Raises:
            ValueError: if `use_reentrant=True` was requested.
        """
        options = getattr(gradient_checkpointing_func, "keywords", {})
        if enable and options.get("use_reentrant"):
            raise ValueError(f"gradient checkpointing with {options} loses MulT's gradients; use {{'use_reentrant': False}}")
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As in torch; names in a saved file, which Trainer passes when it resumes, are translated to the names in memory."""
        if not state_dict.keys() <= self.state_dict().keys():
            # transformers saves some encoders under the names of their first releases; `from_pretrained` renames by this list.
            conversions = get_model_conversion_mapping(self)
            state_dict = {_renamed(name, conversions): value for name, value in state_dict.items()}
        return super().load_state_dict(state_dict, strict, assign)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Swin's initialisation; also fills the buffers that `from_pretrained` leaves empty on the meta device."""
        if isinstance(module, RelativePositionBias):
            init.trunc_normal_(module.table, std=self.config.initializer_range)
            init.copy_(module.index, module.make_index())
        else:
            super()._init_weights(module)


class MulTModel(MulTPreTrainedModel):
    """One encoder and one decoder per task, without heads.

    No Auto class loads it: `AutoModel` has one class per configuration and loads [`MulTForMultiTaskDensePrediction`], because pipelines
    load their model through it. `MulTModel.from_pretrained` loads the encoder and decoders of any MulT checkpoint.

    Args:
        config: [`MulTConfig`].

    Raises:
        ValueError: if decoder sizes do not fit the backbone.
    """

    def __init__(self, config: MulTConfig) -> None:
        super().__init__(config)
        self.backbone = cast(Any, make_backbone(config))
        self.decoder = DECODERS[config.decoder_type](config, list(self.backbone.channels))
        self.stride = finest_stride(self.backbone)
        self.post_init()

    def train(self, mode: bool = True) -> "MulTModel":
        """As in torch, but batch normalisation whose weights are frozen stays in evaluation mode, see [`keep_frozen_statistics`]."""
        super().train(mode)
        keep_frozen_statistics(self.backbone)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that embeds patches: the encoder's first."""
        return next(module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs also lists two of the arguments, as for transformers' own models
        self,
        pixel_values: Tensor,
        tasks: Iterable[str] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MulTModelOutput:
        """Encode a batch of images and decode the requested tasks.

        Args:
            pixel_values: normalised images (batch, 3, height, width) of any float type, height and width at least 32.
            tasks: names of the tasks to compute; all of them by default.
            output_attentions: whether to return the shared attention maps.
            output_hidden_states: whether to return encoder maps and streams of all stages; or the numbers of the stages to return,
                0 being the finest, with None in place of the others.
            kwargs: further keywords that transformers may pass to any model; they have no effect.

        Returns:
            [`MulTModelOutput`].

        Raises:
            ValueError: on an unknown task, a wrong image shape, or a stage that does not exist.
            TypeError: on an unknown keyword.
        """
        _refuse_unknown_keywords(kwargs)
        compile_once_per_size(pixel_values)
        check_reference(self.decoder, self.config.reference_task)
        if self.training and not torch.compiler.is_compiling():
            keep_frozen_statistics(self.backbone)  # it may have been frozen, or wrapped by PEFT, after `train()`
        tasks = self.requested_tasks(tasks)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        stages: Any = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        # Swin's absolute position embeddings, if any, are resized for images of another size.
        absolute = isinstance(self.backbone, SwinBackbone) and self.backbone.config.use_absolute_embeddings
        resize = {"interpolate_pos_encoding": True} if absolute else {}
        feature_maps = self.backbone(self._pad_to_patches(pixel_values), **resize).feature_maps
        decoded = self.decoder(feature_maps, tasks, bool(output_attentions))
        wanted = stages is not None and stages is not False
        streams = {task: coarsest_first[::-1] for task, coarsest_first in decoded.streams.items()}
        return MulTModelOutput(
            last_hidden_state=feature_maps[-1],
            task_features={task: finest_first[0] for task, finest_first in streams.items()},
            hidden_states=selected_stages(feature_maps, stages) if wanted else None,
            task_hidden_states={task: selected_stages(maps, stages) for task, maps in streams.items()} if wanted else None,
            attentions=decoded.attentions if output_attentions else None,
        )

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in pixels, multiples of the finest map's stride, to which an image of `size` is padded."""
        height, width = (-(-side // self.stride) * self.stride for side in size)
        return height, width

    def _pad_to_patches(self, pixel_values: Tensor) -> Tensor:
        """Zero-pad images on the right and bottom to whole tokens of the finest map, so that encoder maps and pixels stay aligned, and
        cast them to the weights' type.

        Raises:
            ValueError: see [`check_pixels`], or if the encoder does not take this size.
        """
        check_pixels(pixel_values, getattr(self.config.backbone_config, "num_channels", 3))
        height, width = pixel_values.shape[-2:]
        padded_height, padded_width = self.padded_size((height, width))
        check_size(self.backbone, (padded_height, padded_width))
        # A half-precision model accepts the processor's float32; replicas of DataParallel have no parameters.
        dtype = next((parameter.dtype for parameter in self.parameters() if parameter.is_floating_point()), pixel_values.dtype)
        return F.pad(pixel_values.to(dtype), (0, padded_width - width, 0, padded_height - height))

    def requested_tasks(self, tasks: Iterable[str] | None) -> list[str]:
        """Check names of tasks; `None` means all.

        Raises:
            ValueError: if the model does not have one of them, or if there are none.
        """
        known = [entry["name"] for entry in self.config.task_entries]  # not the full entries, whose parsing torch.compile cannot trace
        if isinstance(tasks, str):
            tasks = [tasks]
        wanted = known if tasks is None else list(tasks) if isinstance(tasks, Iterable) else []
        if not wanted or any(task not in known for task in wanted):
            raise ValueError(f"tasks={wanted or tasks!r}; choose at least one of {known}")
        return list(dict.fromkeys(wanted))

    def load_backbone_weights(self, name_or_path: str, **kwargs: Any) -> BackboneLoadReport:
        """Fill the encoder from a published checkpoint of its architecture, a classifier's or a backbone's.

        Args:
            name_or_path: Hub id or local directory.
            kwargs: for `from_pretrained` (`revision`, `token`, `local_files_only`, ...).

        Returns:
            [`BackboneLoadReport`]: what was loaded, not used, and missing; it is logged too.

        Raises:
            ValueError: if the checkpoint has nothing that fits, or weights of another size.
        """
        return load_pretrained_weights(self.backbone, name_or_path, **kwargs)


class MulTForMultiTaskDensePrediction(MulTPreTrainedModel):
    """MulT with one dense prediction head per task and the multi-task loss.

    Args:
        config: [`MulTConfig`].

    Raises:
        ValueError: if a task's entry names an unknown loss or activation, or sizes do not fit.

    Examples:
        >>> import torch
        >>> from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
        >>> model = MulTForMultiTaskDensePrediction(MulTConfig(tasks=["depth", "normals"])).eval()
        >>> outputs = model(torch.zeros(1, 3, 97, 131), tasks=["depth"])
        >>> outputs.predictions["depth"].shape
        torch.Size([1, 1, 97, 131])
    """

    def __init__(self, config: MulTConfig) -> None:
        super().__init__(config)
        for spec in config.task_specs.values():
            loss_function(spec)  # so that a misspelt loss is refused at construction, not at the first step
        self.mult = MulTModel(config)
        width = self.mult.backbone.channels[0]
        self.heads = MulTHeads(width, config.task_specs)
        self.post_init()

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks that the model predicts, in order."""
        return list(self.config.task_specs)

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that embeds patches: the encoder's first."""
        return self.mult.get_input_embeddings()

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs also lists two of the arguments, as for transformers' own models
        self,
        pixel_values: Tensor,
        labels: Mapping[str, Tensor | None] | None = None,
        tasks: Iterable[str] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        return_loss: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MulTDensePredictionOutput:
        """Predict the requested tasks, and their losses if there are labels.

        Args:
            pixel_values: normalised images (batch, 3, height, width) of any float type, height and width at least 32.
            labels: per task the target at the images' size: (batch, height, width) int64 class ids with 255 unknown, or
                (batch, channels, height, width) with NaN unknown. Tasks may be missing or `None`.
            tasks: names of the tasks to compute; all of them by default.
            output_attentions: whether to return the shared attention maps.
            output_hidden_states: whether to return encoder maps and streams of all stages; or the numbers of the stages to return,
                0 being the finest, with None in place of the others.
            return_loss: whether to compute the losses; by default if there are labels.
            kwargs: further keywords that transformers may pass to any model; they have no effect.

        Returns:
            [`MulTDensePredictionOutput`].

        Raises:
            ValueError: on an unknown task, a wrong image shape, labels that do not fit, a stage that does not exist, or
                `return_loss=True` without labels.
            TypeError: on an unknown keyword.
        """
        if return_loss and labels is None:
            raise ValueError(f"return_loss={return_loss} needs labels, got {labels}; pass labels={{task: target}}")
        if not torch.compiler.is_dynamo_compiling():
            self.heads.follow(self.config)
        outputs = self.mult(pixel_values, tasks, output_attentions, output_hidden_states, return_dict=True, **kwargs)
        height, width = pixel_values.shape[-2:]
        predictions = self.heads(outputs.task_features, self.mult.padded_size((height, width)), (height, width))
        # The entries of the heads, because torch.compile cannot trace the parsing of the configuration's.
        loss, task_losses = (
            (None, None) if labels is None or return_loss is False else multi_task_loss(predictions, labels, self.heads.specs)
        )
        return MulTDensePredictionOutput(
            loss=loss,
            predictions=predictions,
            task_losses=task_losses,
            hidden_states=outputs.hidden_states,
            task_hidden_states=outputs.task_hidden_states,
            attentions=outputs.attentions,
            classifications=classifications_among(predictions, self.config.task_entries),
        )

    @classmethod
    def from_backbone(cls, name_or_path: str, **kwargs: Any) -> "MulTForMultiTaskDensePrediction":
        """A new model with the configuration and weights of a published encoder; decoders and heads start from random weights.

        `MulTImageProcessor.from_backbone` creates the processor with the encoder's own normalisation.

        Args:
            name_or_path: Hub id or local directory of a checkpoint of transformers or timm, e.g.
                "microsoft/swin-tiny-patch4-window7-224" or "timm/convnext_tiny.fb_in1k"; or timm's own name, e.g. "resnet50".
            kwargs: arguments of [`MulTConfig`], `dtype` of the weights, and `revision`, `token`, `cache_dir`, `local_files_only`
                for loading.

        Returns:
            The model in evaluation mode, as from `from_pretrained`; what was loaded is logged, see [`BackboneLoadReport`].

        Raises:
            ValueError: if the checkpoint is no backbone with a pyramid of feature maps, or nothing in it fits.
            ImportError: for an encoder of timm if timm is not installed.
        """
        dtype = kwargs.pop("dtype", None)
        hub = {key: kwargs.pop(key) for key in HUB_KEYWORDS if key in kwargs}
        model = cls(MulTConfig(backbone_config=encoder_configuration(str(name_or_path), **hub), **kwargs))
        model.load_backbone_weights(name_or_path, **hub)
        return model.to(dtype).eval()

    def load_backbone_weights(self, name_or_path: str, **kwargs: Any) -> BackboneLoadReport:
        """See [`MulTModel.load_backbone_weights`]."""
        return self.mult.load_backbone_weights(name_or_path, **kwargs)

    def task_parameters(self, task: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that belong to one task only: its decoder and its head.

        Raises:
            ValueError: on an unknown task.
        """
        (task,) = self.mult.requested_tasks([task])
        parameters = (modules[task].named_parameters(prefix=f"{path}.{task}") for path, modules in self._per_task_modules())
        return chain.from_iterable(parameters)

    @torch.no_grad()
    def add_task(self, task: str | TaskSpec | Mapping[str, Any], *, copy_from: str | None = None, freeze_others: bool = False) -> None:
        """Give the model one more task: a decoder and a head.

        Args:
            task: name of a registered task, a [`TaskSpec`] or a plain entry.
            copy_from: task whose decoder initialises the new one (and whose head does, if it has as many channels); random by default.
            freeze_others: whether to freeze all other parameters and statistics, so that the other tasks predict as before.
                (`requires_grad` is not saved with a model: set it again after loading.)

        Raises:
            ValueError: if the model has the task already, `copy_from` is unknown, or a library such as PEFT has wrapped the heads.
        """
        (spec,) = resolve_tasks([task]).values()
        if spec.name in self.config.task_specs:
            raise refusal(f"the model already has a task {spec.name!r}; its tasks are {self.task_names}")
        if copy_from is not None:
            self.mult.requested_tasks([copy_from])
        loss_function(spec)
        alone = copy.copy(self.config)
        alone.tasks = [spec.to_dict()]
        # A decoder and heads for the new task only; their modules are moved into this model.
        channels = list(self.mult.backbone.channels)
        new_decoder, new_heads = DECODERS[alone.decoder_type](alone, channels), MulTHeads(channels[0], {spec.name: spec})
        tree = nn.ModuleDict({"mult": nn.ModuleDict({"decoder": new_decoder}), "heads": new_heads})  # names as in this model
        try:
            new_modules = [cast(PerTask, tree.get_submodule(path))[spec.name] for path, _ in self._per_task_modules()]
        except AttributeError as error:  # a library, such as PEFT, has put modules of its own around those of the tasks
            raise refusal(f"the model has a module that is not MulT's ({error}); add the task before the model is wrapped") from None
        for new, (_, modules) in zip(new_modules, self._per_task_modules(), strict=True):
            new.apply(self._init_weights)
            if copy_from is not None:
                copy_fitting_weights(modules[copy_from], new)
            modules[spec.name] = new.to(self.device, self.dtype).train(self.training)
        self.config.tasks = [*self.config.task_entries, spec.to_dict()]
        remember_new_task(self, (name for name, _ in self.task_parameters(spec.name)), spec.name, copy_from)
        if freeze_others:
            own = {id(parameter) for _, parameter in self.task_parameters(spec.name)}
            for parameter in self.parameters():
                parameter.requires_grad_(id(parameter) in own)

    def remove_task(self, task: str) -> None:
        """Drop a task's decoder and head.

        Raises:
            ValueError: if the task is unknown, the last one, or the reference task of a model with shared attention.
        """
        self.mult.requested_tasks([task])
        if len(self.task_names) == 1:
            raise ValueError(f"{task!r} is the model's only task; a model needs at least one")
        if task == self.config.reference_task and self.shares_attention:
            raise ValueError(f"{task!r} is the reference task, whose projections make the attention of all others; it cannot be removed")
        for _, modules in self._per_task_modules():
            del modules[task]
        self.config.tasks = [entry for entry in self.config.task_entries if entry["name"] != task]
        forget_task(self, task)
        if not any(spec.zoom_exponent for spec in self.config.task_specs.values()):
            self.config.canonical_focal_length = None  # a new task may be of another camera
        if self.config.reference_task == task:  # nothing is shared, so any other task will do
            self.config.reference_task = self.task_names[0]

    @property
    def shares_attention(self) -> bool:
        """Whether a block of the decoders computes one attention map for all tasks."""
        return any(isinstance(module, SharedWindowAttention) and module.kind.is_shared for module in self.mult.decoder.modules())

    def _per_task_modules(self) -> list[tuple[str, PerTask]]:
        """Everything that exists once per task, with its path."""
        return [(path, module) for path, module in self.named_modules() if isinstance(module, PerTask)]


def _refuse_unknown_keywords(kwargs: Mapping[str, Any]) -> None:
    """Refuse misspelt arguments, but accept those that transformers may pass to any model."""
    unknown = sorted(kwargs.keys() - TransformersKwargs.__annotations__.keys())
    if unknown:
        raise TypeError(f"forward() got unexpected keyword arguments {unknown}")


def _renamed(name: str, conversions: Iterable[WeightTransform]) -> str:
    """A parameter's name in memory, from its name in a saved file."""
    for conversion in conversions:
        name, _ = conversion.rename_source_key(name)
    return name


__all__ = [
    "BackboneLoadReport",
    "MulTDensePredictionOutput",
    "MulTForMultiTaskDensePrediction",
    "MulTModel",
    "MulTModelOutput",
    "MulTPreTrainedModel",
]
