"""Load a trained model and its processor, and reject damaged or incomplete ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mult_hf.model.entry_fields import refusal
from mult_hf.model.image_processing_mult import MulTImageProcessor
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.weights import check_weights


def load_whole_model(name_or_path: str) -> MulTForMultiTaskDensePrediction:
    """Load a model and check that its file has every weight and that all are finite; transformers would fill gaps at random.

    Args:
        name_or_path: directory or Hub id.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: if a file is damaged, or weights are missing, have another shape, or are not finite.
        OSError: if there are no such files.
    """
    with _naming_what_is_damaged(name_or_path):
        model, found = MulTForMultiTaskDensePrediction.from_pretrained(name_or_path, output_loading_info=True, ignore_mismatched_sizes=True)
    absent = sorted([*found["missing_keys"], *(str(each[0]) for each in found["mismatched_keys"])])
    if absent:
        raise ValueError(
            f"{name_or_path} lacks {len(absent)} of the model's {len(model.state_dict())} weights, such as {absent[0]}; predictions would "
            "come from random weights, so save or download the model again"
        )
    check_weights(model)
    return model.eval()


def load_processor(name_or_path: str, **kwargs: Any) -> MulTImageProcessor:
    """Load the image processor of a model.

    Args:
        name_or_path: directory or Hub id.
        kwargs: values in place of the stored ones, such as `size` and `tasks`.

    Raises:
        ValueError: if its file is damaged, or has a value of a wrong type.
        OSError: if there is none.
    """
    with _naming_what_is_damaged(name_or_path):
        return MulTImageProcessor.from_pretrained(name_or_path, **kwargs)


@contextmanager
def _naming_what_is_damaged(name_or_path: str) -> Iterator[None]:
    """Convert all errors that damaged files cause (of safetensors, of strict configurations, `KeyError`, ...) to one kind."""
    try:
        yield
    except ImportError:  # of a library that a backbone needs
        raise
    except Exception as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        cause = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
        message = f"{name_or_path} cannot be loaded: {cause}; give another directory or Hub id, or save or download this one again"
        raise kind(str(refusal(message))) from error


__all__ = ["load_processor", "load_whole_model"]
