"""Load a trained model and its processor, and reject damaged or incomplete ones."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from mult_hf.data.files import did_you_mean
from mult_hf.model.cameras import CORRECT_STORED, check_same_camera
from mult_hf.model.configuration_mult import MulTConfig
from mult_hf.model.entry_fields import refusal
from mult_hf.model.image_processing_mult import MulTImageProcessor
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.weights import check_weights

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of weights, as safetensors names them."""


def load_whole_model(name_or_path: str, *, to_train: bool = False) -> MulTForMultiTaskDensePrediction:
    """Load a model and check that its file has every weight and that all are finite; transformers would fill gaps at random.

    Args:
        name_or_path: directory or Hub id.
        to_train: whether weights may be untrained, see `untrained_weights` of [`MulTConfig`].

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: if a file is damaged, or weights are missing, untrained, integers, not finite, or have another shape.
        OSError: if there are no such files.
    """
    _check_directory(name_or_path)
    with _naming_what_is_damaged(name_or_path):
        model, found = MulTForMultiTaskDensePrediction.from_pretrained(name_or_path, output_loading_info=True, ignore_mismatched_sizes=True)
    absent = sorted([*found["missing_keys"], *(str(each[0]) for each in found["mismatched_keys"])])
    if absent:
        raise ValueError(
            f"{name_or_path} lacks {len(absent)} of the model's {len(model.state_dict())} weights, such as {absent[0]}; predictions would "
            "come from random weights, so save or download the model again"
        )
    check_weights(model, to_train=to_train)
    _check_types(name_or_path, model)
    return model.eval()


def load_processor(
    name_or_path: str, config: MulTConfig | None = None, specs: Iterable[TaskSpec] | None = None, **kwargs: Any
) -> MulTImageProcessor:
    """Load the image processor of a model.

    Args:
        name_or_path: directory or Hub id.
        config: the model's configuration; with it, the cameras of model and processor are compared.
        specs: entries of the tasks to compute, whose values a wrong camera would change; by default all of the model.
        kwargs: values in place of the stored ones, such as `size` and `tasks`; None keeps the stored one. If `tasks` are given, their
            encodings hold: `do_reduce_labels` is off unless it is given, too.

    Raises:
        ValueError: if its file is damaged, has a value of a wrong type, or another canonical camera than the model.
        OSError: if there is none.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    if "tasks" in given:
        given.setdefault("do_reduce_labels", False)
    with _naming_what_is_damaged(name_or_path):
        processor = MulTImageProcessor.from_pretrained(name_or_path, **given)
    if config is not None:
        check_stored_camera(name_or_path, config, processor, config.task_specs.values() if specs is None else specs)
    return processor


def check_stored_camera(name_or_path: str, config: MulTConfig, processor: MulTImageProcessor, specs: Iterable[TaskSpec]) -> None:
    """Refuse a model and a processor of one directory that are of different cameras; for arguments, see [`load_processor`].

    Raises:
        ValueError: naming the directory, both cameras, and the tasks that would be wrong.
    """
    try:
        check_same_camera(config.canonical_focal_length, processor.canonical_focal_length, specs, CORRECT_STORED)
    except ValueError as error:
        raise refusal(f"{name_or_path} contradicts itself: {error}") from None


def _check_directory(name_or_path: str) -> None:
    """Refuse a path that is neither a directory with a configuration nor a Hub id; transformers would use default values or query the Hub.

    Raises:
        ValueError: naming the path.
    """
    path = Path(name_or_path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} has no config.json; give the directory of a trained model")
    elif path.exists() or path.is_absolute() or len(path.parts) > 2 or path.parts[:1] in ((".",), ("..",), ("~",)):
        raise ValueError(f"{path} is {'a file' if path.exists() else 'no directory'}; give the directory of a trained model, or a Hub id")


def _check_types(name_or_path: str, model: nn.Module) -> None:
    """Refuse files with integer weights, such as quantized ones: transformers would use the integers as weights.

    Raises:
        ValueError: naming a weight and its type.
    """
    weights = {name for name, value in model.state_dict().items() if value.is_floating_point()}  # some buffers are integers
    for path in sorted(Path(name_or_path).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in sorted(weights.intersection(file.keys())):
                dtype = file.get_slice(name).get_dtype()
                if dtype not in FLOATS:
                    raise ValueError(f"{path} holds {name} as {dtype}; expected {', '.join(FLOATS)}: quantized weights cannot be loaded")


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
        name = str(name_or_path)
        where = name if Path(name).exists() else f"{name} is not a local directory{did_you_mean(name)}, and"
        message = f"{where} cannot be loaded: {cause}; give another directory or Hub id, or save or download this one again"
        raise kind(str(refusal(message))) from error


__all__ = ["check_stored_camera", "load_processor", "load_whole_model"]
