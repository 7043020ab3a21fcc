"""MulT (CVPR 2022) for Hugging Face: several dense maps of one image from one network with shared attention.

Importing the package registers its classes with transformers' `AutoConfig`, `AutoModel`, `AutoImageProcessor` and
`pipeline("multitask-vision")`, and nothing else. In the command `mult-hf` this waits until a command runs, so that
`mult-hf --help` answers without importing torch.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# While Python looks for the module of `python -m mult_hf`, sys.argv[0] is "-m".
_PROGRAM = (sys.argv or [""])[0].replace("\\", "/").rpartition("/")[2]
_IS_COMMAND = _PROGRAM in ("mult-hf", "mult-hf.exe") or (_PROGRAM == "-m" and "mult_hf" in sys.orig_argv)

if TYPE_CHECKING or not _IS_COMMAND:
    from mult_hf.model.registration import (
        DEFAULT_CHECKPOINT,
        IGNORE_INDEX,
        INDOOR_CHECKPOINT,
        MULT_TASKS,
        ROOMS_TINY_CHECKPOINT,
        LabelEncoding,
        MulTConfig,
        MulTDensePredictionOutput,
        MulTForMultiTaskDensePrediction,
        MulTImageProcessor,
        MulTImageProcessorPil,
        MultiTaskVisionPipeline,
        MulTModel,
        MulTModelOutput,
        MulTPreTrainedModel,
        TaskSpec,
        register_task,
        registered_tasks,
    )
else:

    def __getattr__(name: str) -> Any:
        """Import the classes when the first of them is asked for."""
        if name in __all__:
            return getattr(importlib.import_module("mult_hf.model.registration"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DEFAULT_CHECKPOINT",
    "IGNORE_INDEX",
    "INDOOR_CHECKPOINT",
    "ROOMS_TINY_CHECKPOINT",
    "MULT_TASKS",
    "LabelEncoding",
    "MulTConfig",
    "MulTDensePredictionOutput",
    "MulTForMultiTaskDensePrediction",
    "MulTImageProcessor",
    "MulTImageProcessorPil",
    "MulTModel",
    "MulTModelOutput",
    "MulTPreTrainedModel",
    "MultiTaskVisionPipeline",
    "TaskSpec",
    "register_task",
    "registered_tasks",
]
