"""Save a model such that an interruption leaves either the old or the new files."""

import shutil
from pathlib import Path

from accelerate import Accelerator

from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction

from .checkpoints import describing_write_errors, replace_files


def save_model(
    accelerator: Accelerator, model: MulTForMultiTaskDensePrediction, processor: MulTProcessingMixin, directory: Path, checkpoints: Path
) -> None:
    """Write a model and its processor in the main process; the other processes wait.

    Args:
        accelerator: the processes.
        model: the model with unsharded weights.
        processor: the image processor of the model.
        directory: output directory; older files are replaced once the new ones are complete.
        checkpoints: directory of the run's checkpoints; error messages name the newest.

    Raises:
        OSError: if a file cannot be written; every file in the directory stays complete.
    """
    if accelerator.is_main_process:
        unfinished = directory / ".partial"  # inside, because the directory may be on a separate disk
        with describing_write_errors(directory, checkpoints):
            shutil.rmtree(unfinished, ignore_errors=True)
            model.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
            replace_files(unfinished, directory)
    accelerator.wait_for_everyone()


__all__ = ["save_model"]
