"""Saving a model so that an interruption leaves either the old files or the new ones."""

import shutil
from pathlib import Path

from accelerate import Accelerator

from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction

from .checkpoints import naming_what_was_not_written, replace_files


def save_model(
    accelerator: Accelerator, model: MulTForMultiTaskDensePrediction, processor: MulTProcessingMixin, directory: Path, checkpoints: Path
) -> None:
    """Write a model and its processor in the main process; the other processes wait.

    Args:
        accelerator: the processes.
        model: with whole weights.
        processor: the image processor of the model.
        directory: may hold older files; each is replaced when the new ones are complete.
        checkpoints: where the run keeps its checkpoints, the newest of which an error names.

    Raises:
        OSError: if a file cannot be written; older ones are unchanged or complete.
    """
    if accelerator.is_main_process:
        unfinished = directory / ".partial"  # inside, since the directory may be on a disk of its own
        with naming_what_was_not_written(directory, checkpoints):
            shutil.rmtree(unfinished, ignore_errors=True)
            model.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
            replace_files(unfinished, directory)
    accelerator.wait_for_everyone()


__all__ = ["save_model"]
