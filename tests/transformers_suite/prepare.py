"""Preparations before transformers' mixins are imported: MulT's names in transformers' tables, and a saved model for the pipeline."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, SwinConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

import mult_hf

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
re._MAXCACHE = 16_384  # as in tests/conftest.py

IMAGE = str(Path(__file__).resolve().parents[2] / "docs" / "images" / "coffee.jpg")
TASKS = {"segmentation": (), "normals": (3,)}
"""Tasks of the tested models, and the axes of their predictions before height and width."""

ONCE = re.compile(
    r"test_(pipeline_|config$|flash_|flex_|model_rope|vision_axial|get_(text|image|audio|video)_|.*deepspeed|.*router|.*generat|bc_"
    r"|inputs_embeds|resize_|.*_offload|model_parallelism|encoder_decoder|causal_lm|kernels|sdpa_|sliding|tp_plan|multimodal"
    r"|eager_matches|problem_types|torch_compile|can_load_with_|feed_forward_chunk|tied_weights|keep_in_fp32)"
)
"""Names of tests that run for the first kind of model alone: they need text, audio, experts or an accelerator, or do not depend on it."""


def swin(config_class: type[PreTrainedConfig], **changes: Any) -> PreTrainedConfig:
    """The smallest Swin with four stages."""
    stages = [f"stage{number}" for number in range(1, 5)]
    sizes = {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 2, 4, 8], "window_size": 4, "image_size": 64, "out_features": stages}
    return config_class(**sizes, **changes)


def _register() -> None:
    """Register MulT where the mixins look classes up by name."""
    MODEL_MAPPING_NAMES["mult"] = mult_hf.MulTModel.__name__  # a model without a head has no loss
    package = sys.modules["transformers"]  # not what `import` gave above: transformers puts a new module there while its parts are imported
    for name in ("MulTImageProcessor", "MulTImageProcessorPil"):
        setattr(package, name, getattr(mult_hf, name))


def _save_tiny_model(directory: Path) -> None:
    """Save a model where PipelineTesterMixin looks for models, and the list that it reads."""
    torch.manual_seed(0)
    model_class = mult_hf.MulTForMultiTaskDensePrediction
    model = model_class(mult_hf.MulTConfig(backbone_config=swin(SwinConfig), tasks=list(TASKS)))
    model.save_pretrained(directory / "mult" / model_class.__name__)
    processor = mult_hf.MulTImageProcessor(size={"height": 64, "width": 64}, tasks=model.config.tasks)
    processor.save_pretrained(directory / "mult" / model_class.__name__)
    entry = {"tokenizer_classes": [], "processor_classes": [type(processor).__name__], "model_classes": [model_class.__name__]}
    (directory / "reports").mkdir()
    (directory / "reports" / "tiny_model_summary.json").write_text(json.dumps({model_class.__name__: entry}))


_register()
_save_tiny_model(Path(os.environ["TRANSFORMERS_TINY_MODEL_PATH"]))
