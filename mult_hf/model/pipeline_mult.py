"""The `multitask-vision` pipeline: predicts one map and one colour image per task from an image."""

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_utils import PreTrainedModel
from transformers.pipelines.base import Pipeline

from .agreement import agreement
from .cameras import CORRECT_STORED, FocalLength, check_same_camera, checked_field_of_view
from .image_processing_mult import MulTImageProcessor
from .images import images_of_array, open_file, read_image
from .lazy import LazyDict
from .post_processing import finish
from .resizing import bounded_size
from .tasks import TaskSpec
from .visualization import colorize
from .weights import check_weights

MAX_SIDE = 65_535
"""Largest height and width of maps in pixels; larger values are typing errors."""

ARGUMENTS = ("tasks", "target_size", "max_side", "timeout", "focal_length", "confidence", "batch_size", "num_workers")
"""What a call takes besides the images."""

_SINGLE = (str, Path, bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor, Mapping)


class MultiTaskVisionPipeline(Pipeline):
    """Several dense maps of each image from one model.

    Examples:
        >>> from transformers import pipeline
        >>> import mult_hf  # registers the pipeline
        >>> predict = pipeline("multitask-vision")  # doctest: +SKIP
        >>> predict("image.jpg")["depth"]["prediction"].shape  # metres  # doctest: +SKIP
        torch.Size([480, 640])

    Keywords of the call, or of `pipeline(...)`:

    - `tasks`: names of the tasks to compute; all by default.
    - `target_size`: (height, width) of the maps; each image's own size by default.
    - `max_side`: longest side of the maps in pixels: those of a larger image have its aspect ratio and this longer side.
    - `timeout`: seconds for the download of a URL, 30 by default.
    - `focal_length`: in pixels of the images, for a processor with a `canonical_focal_length`; by default each file's own, from the
      35 mm equivalent in its EXIF, or else an assumed one. The results say which.
    - `confidence`: whether each task also gets a map of its confidence, see [`agreement`]; it takes twice the time of the network.

    The model is put into evaluation mode. A given `image_processor` without a `canonical_focal_length` gets that of the model.

    Raises:
        ValueError: if weights of the model are missing in its checkpoint or not finite, or it learnt depth for another camera than that
            of the processor.
    """

    _load_processor = False  # type: ignore[assignment]  # transformers declares None for values that it infers
    _load_image_processor = None  # see __init__: the processor of a model object is saved next to the model
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]
    image_processor: Any  # never None, see __init__

    def __init__(self, model: PreTrainedModel, image_processor: BaseImageProcessor | None = None, **kwargs: Any) -> None:
        processor: Any = image_processor
        camera = getattr(model.config, "canonical_focal_length", None)  # which other classes of models do not have
        if processor is None and model.name_or_path:
            processor = _own_processor(model)
        elif processor is None:  # a model that was never saved has no processor
            processor = MulTImageProcessor(tasks=model.config.tasks, canonical_focal_length=camera)
        elif not hasattr(processor, "focal_length_of"):  # by name, because a model's own code has another class
            given = type(processor).__name__
            raise ValueError(f"image_processor is a {given}; give a MulTImageProcessor, or none for that of the model's directory")
        if camera is not None and any(spec.zoom_exponent for spec in model.config.task_specs.values()):
            contradicts = processor.canonical_focal_length is None and _is_stored_without_camera(model)
            processor = processor if contradicts else _with_camera(processor, camera)
            advice = CORRECT_STORED if contradicts else None
            check_same_camera(camera, processor.canonical_focal_length, model.config.task_specs.values(), advice)
        super().__init__(model, image_processor=processor, **kwargs)
        check_weights(self.model)

    # `override`, here and below: the base class declares arbitrary keywords, and these methods name theirs.
    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Predict.

        Args:
            inputs: a path, URL, PIL image, array (height, width, 3), tensor (3, height, width), bytes of a file or an open file, see
                `read_image`; a list, generator or data set of them, or of dictionaries with an `image`, and optionally its
                `focal_length`, which precedes that of the call.
            kwargs: `tasks`, `target_size` or `max_side`, `timeout`, `focal_length`, `confidence`, `batch_size`, `num_workers`.

        Returns:
            Per image `{task: {"prediction": Tensor, "image": PIL image}}`: the prediction in the task's unit as `post_process`
            returns it, and the same in the task's colour map. A list for a list, an iterator for a generator or a data set. Both are
            made when they are first asked for, see [`LazyDict`], so a large image costs no time for maps that nobody looks at. Tasks
            whose values depend on the camera also have its `focal_length`, a [`FocalLength`] in pixels of the image with its source,
            if the processor has a `canonical_focal_length`. With `confidence`, each task has a `confidence` (height, width) from 0 to 1.

        Raises:
            ValueError: on an unknown task, an image that cannot be read, both `target_size` and `max_side`, or a `focal_length` for a
                processor without a `canonical_focal_length` (that of a row has no effect there, because data sets are for all models).
        """
        # transformers' pipelines take lists, generators and torch data sets; any other sequence of images is converted to one of these.
        if isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim == 4:
            inputs = images_of_array(inputs)
        elif isinstance(inputs, tuple):
            inputs = list(inputs)
        elif (
            not isinstance(inputs, _SINGLE)
            and not hasattr(inputs, "read")
            and isinstance(inputs, Iterable)
            and not isinstance(inputs, (list, Dataset, GeneratorType))
        ):
            inputs = (image for image in inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        tasks: Iterable[str] | None = None,
        target_size: tuple[int, int] | None = None,
        max_side: int | None = None,
        timeout: float | None = None,
        focal_length: float | None = None,
        confidence: bool | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise TypeError(f"the pipeline has no argument {', '.join(unknown)}; it takes {', '.join(ARGUMENTS)}")
        if target_size is not None:
            _check_size(target_size)
        if max_side is not None and not _is_side(max_side):
            raise ValueError(f"max_side is {max_side!r}; expected a whole number of pixels, above 0 and at most {MAX_SIDE}")
        if target_size is not None and max_side is not None:
            raise ValueError(f"target_size is {target_size} and max_side is {max_side}; give one of the two")
        if tasks is not None and not isinstance(tasks, Iterable):
            raise ValueError(f"tasks is {tasks!r}; expected names of tasks, such as ['depth']")
        if focal_length is not None and self.image_processor.canonical_focal_length is None:
            raise ValueError(
                f"focal_length is {focal_length!r}, but the model has no canonical camera: it predicts the same for every focal length; "
                "leave it out"
            )
        if isinstance(focal_length, Iterable) and not isinstance(focal_length, (str, np.ndarray, Tensor)):
            raise ValueError(
                f"focal_length is {focal_length!r}, and one number is for all images; for several, pass each image as "
                '{"image": image, "focal_length": pixels}'
            )
        if confidence is not None and not isinstance(confidence, bool):
            raise ValueError(f"confidence is {confidence!r}; expected True or False")
        preprocess = {"target_size": target_size, "max_side": max_side, "timeout": timeout, "focal_length": focal_length}
        names = [tasks] if isinstance(tasks, str) else tasks
        forward = {"tasks": None if names is None else list(names), "confidence": confidence}
        return _given(preprocess), _given(forward), {}

    def preprocess(  # type: ignore[override]
        self,
        input_: Any,
        target_size: tuple[int, int] | None = None,
        max_side: int | None = None,
        timeout: float | None = None,
        focal_length: float | None = None,
    ) -> dict[str, Any]:
        """Convert one image to `pixel_values` (1, 3, height, width), the size of its maps, and its focal length."""
        is_row = isinstance(input_, Mapping) and "image" in input_
        opened = open_file(input_["image"] if is_row else input_, timeout=timeout)
        image = read_image(opened)
        own = input_.get("focal_length") if is_row else None  # a missing column and a null cell mean the same
        given = focal_length if own is None else own
        focal = self.image_processor.focal_length_of(opened, _size(image), given)
        form = {} if isinstance(image, Image.Image) else {"input_data_format": "channels_first"}  # as `read_image` returns arrays
        pixel_values = self.image_processor(images=image, return_tensors="pt", **form)["pixel_values"].to(self.dtype)
        # In a list, because transformers concatenates tensors to a batch, but a processor may keep aspect ratios.
        size = tuple(map(int, target_size or bounded_size(_size(image), max_side)))
        return {"pixel_values": [pixel_values], "target_size": [size], "focal_length": [(*focal, *_size(image))]}

    def _forward(  # type: ignore[override]
        self, input_tensors: dict[str, Any], tasks: list[str] | None = None, confidence: bool = False
    ) -> dict[str, Any]:
        if self.model.training:  # otherwise dropout and stochastic depth would be active
            self.model.eval()
        images = [image for each in input_tensors["pixel_values"] for image in (each if isinstance(each, list) else [each])]
        numbers_by_size: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):  # (1, 3, height, width)
            numbers_by_size.setdefault(tuple(image.shape), []).append(number)
        predictions: dict[str, list[Any]] = {}
        for numbers in numbers_by_size.values():
            batch = torch.cat([images[number] for number in numbers])
            views = [batch, batch.flip(-1)] if confidence else [batch]
            by_view = [self.model(view, tasks=tasks).predictions for view in views]
            for task in by_view[0]:
                of_images = predictions.setdefault(task, [None] * len(images))
                for number, *maps in zip(numbers, *(found[task] for found in by_view)):
                    of_images[number] = torch.stack(maps)  # (views, channels, height, width)
        # Batches are split by key, so predictions and sizes must be entries of one flat dictionary.
        return {**predictions, **{key: input_tensors[key] for key in ("target_size", "focal_length")}}

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, LazyDict]:  # type: ignore[override]
        """Convert one image's predictions to its size and units, and to colour images; each is made when it is first requested."""
        size, (pixels, source, *own_size) = (_innermost(model_outputs.pop(key)) for key in ("target_size", "focal_length"))
        focal = FocalLength(pixels, source)
        # The model's entries, because a task may have been added after the processor was saved.
        specs = self.model.config.task_specs
        results = {}
        for task, maps in model_outputs.items():
            views = maps[0]
            factor = self.image_processor.camera_factor(specs[task], views[0], size, focal.resized(own_size, size).pixels)
            used = focal if self.image_processor.depends_on_focal_length(specs[task]) else None
            results[task] = _result(views, specs[task], size, factor, used)
        return results


def _own_processor(model: Any) -> MulTImageProcessor:
    """The processor next to a model's weights."""
    options = getattr(model, "source_options", {})  # of the model's revision, for example: another one may have another processor
    return MulTImageProcessor.from_pretrained(model.name_or_path, **options)


def _with_camera(image_processor: Any, camera: float) -> Any:
    """A processor that was built without a camera, for another size for example, with that of the model; others as they are."""
    if image_processor.canonical_focal_length is not None:
        return image_processor
    completed = copy.copy(image_processor)
    completed.canonical_focal_length = camera
    completed.assumed_field_of_view = checked_field_of_view(completed.assumed_field_of_view, camera)
    return completed


def _is_stored_without_camera(model: Any) -> bool:
    """Whether a model's directory names its camera in the configuration and not in the processor, so that one of the two is wrong.

    A model whose camera was set since it was loaded is newer than its directory.
    """
    with suppress(OSError, ValueError):  # no directory, or without one of the files
        if model.name_or_path:
            stored = type(model.config).from_pretrained(model.name_or_path, **getattr(model, "source_options", {}))
            return stored.canonical_focal_length is not None and _own_processor(model).canonical_focal_length is None
    return False


def _result(views: Tensor, spec: TaskSpec, size: tuple[int, int], factor: float, focal: FocalLength | None) -> LazyDict:
    """The finished map of (views, channels, height, width) predictions, and what else the call asked for.

    The first view is the image itself, the second, if there is one, its mirror image.
    """
    makers: dict[str, Callable[[], Any]] = {"prediction": lambda: finish(views[0], spec, size, factor)["prediction"]}
    if focal is not None:
        makers["focal_length"] = lambda: focal
    if len(views) > 1:
        makers["confidence"] = lambda: agreement(views[0], views[1], spec, size)
    makers["image"] = lambda: colorize(result["prediction"], spec)
    result = LazyDict(makers)
    return result


def _given(keywords: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keywords.items() if value is not None}


def _innermost(values: Any) -> Any:
    """Values of one image; each level of batching adds one list."""
    while isinstance(values[0], (list, tuple)):
        values = values[0]
    return values


def _check_size(size: Any) -> None:
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(map(_is_side, size))):
        raise ValueError(f"target_size is {size!r}; expected (height, width) in whole pixels, both above 0 and at most {MAX_SIDE}")


def _is_side(side: Any) -> bool:
    return isinstance(side, Integral) and not isinstance(side, bool) and 0 < int(side) <= MAX_SIDE


def _size(image: Any) -> tuple[int, int]:
    """Height and width of what `read_image` returns: a PIL image, or an array or tensor with channels first."""
    return (image.height, image.width) if isinstance(image, Image.Image) else tuple(image.shape[1:])


__all__ = ["MultiTaskVisionPipeline"]
