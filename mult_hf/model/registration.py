"""Registers the classes with transformers: `AutoConfig`, `AutoModel`, `AutoImageProcessor` and `pipeline("multitask-vision")`."""

from pathlib import Path

from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from mult_hf.model.configuration_mult import MulTConfig
from mult_hf.model.image_processing_mult import MulTImageProcessor
from mult_hf.model.image_processing_pil_mult import MulTImageProcessorPil
from mult_hf.model.modeling_mult import (
    MulTDensePredictionOutput,
    MulTForMultiTaskDensePrediction,
    MulTModel,
    MulTModelOutput,
    MulTPreTrainedModel,
)
from mult_hf.model.pipeline_mult import MultiTaskVisionPipeline
from mult_hf.model.tasks import IGNORE_INDEX, MULT_TASKS, LabelEncoding, TaskSpec, register_task, registered_tasks

_CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"

INDOOR_CHECKPOINT = str(_CHECKPOINTS / "indoor")
"""Directory of the model in the package for photographs of rooms; its README.md lists its training data, metrics and limits."""

ROOMS_TINY_CHECKPOINT = str(_CHECKPOINTS / "rooms-tiny")
"""Directory of the small and fast model in the package, for rendered rooms of 128 pixels only."""

DEFAULT_CHECKPOINT = INDOOR_CHECKPOINT
"""Directory of the model that is used where none is named."""


def _register() -> None:
    """Register the classes with transformers, and let `save_pretrained` copy their code next to the weights."""
    AutoConfig.register("mult", MulTConfig, exist_ok=True)
    # AutoModel loads the model with heads, because the pipeline loads its model through it.
    AutoModel.register(MulTConfig, MulTForMultiTaskDensePrediction, exist_ok=True)
    processors: dict[str, type] = {"torchvision": MulTImageProcessor, "pil": MulTImageProcessorPil}
    AutoImageProcessor.register(MulTConfig, image_processor_classes=processors, exist_ok=True)
    MulTConfig.register_for_auto_class()
    MulTForMultiTaskDensePrediction.register_for_auto_class("AutoModel")
    MulTImageProcessor.register_for_auto_class()
    MulTImageProcessorPil.register_for_auto_class()
    if "multitask-vision" not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            "multitask-vision",
            pipeline_class=MultiTaskVisionPipeline,
            pt_model=(AutoModel,),
            default={"model": (DEFAULT_CHECKPOINT, "main")},  # the revision applies to Hub ids and is ignored for a directory
            type="image",
        )


_register()
