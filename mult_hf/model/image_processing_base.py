"""Code shared by the torchvision and the PIL image processor.

Images and stored label maps become model inputs and targets; predictions become classes, metres and unit vectors. Importing this file
must work if torchvision is missing or broken.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ChannelDimension, ImageInput, PILImageResampling
from transformers.processing_utils import ImagesKwargs, Unpack

from .alignment import orientation
from .cameras import FocalLength, canonical_factor, checked_field_of_view, find_focal_length, listed_focal_lengths
from .encoder_sources import HUB_KEYWORDS, image_statistics
from .entry_fields import refusal
from .images import LabelMap, images_of_array, open_file, read_image
from .normalisation import rescaling
from .post_processing import finish, resized
from .processor_fields import check_aspect, checked_fields
from .processor_labels import Place, reduced, resized_target, with_segmentation_maps
from .resizing import classes_of
from .tasks import MULT_TASKS, TaskSpec, resolve_tasks
from .tensors import check_dense

if TYPE_CHECKING:
    # Never runs. transformers saves the files that the file of a class imports; a saved processor needs those of both backends.
    from .image_processing_mult import MulTImageProcessor  # noqa: F401
    from .image_processing_pil_mult import MulTImageProcessorPil  # noqa: F401

    _Backend = BaseImageProcessor
else:
    _Backend = object  # the classes in those files bring the backend's methods


class MulTImageProcessorKwargs(ImagesKwargs, total=False):
    r"""Keywords of the MulT image processors, in addition to those of every image processor.

    tasks (`list`):
        Task entries: how stored labels are decoded and predictions post-processed. The six tasks of the paper by default.
    do_reduce_labels (`bool`):
        Whether stored class maps have 0 for pixels without a class, as those of ADE20k: 0 and 255 become 255, every other class is
        reduced by 1. This replaces the offset and the unknown values in the encodings of classifications; other tasks are not
        affected. False by default.
    canonical_focal_length (`float`, *optional*):
        Focal length in pixels of the network's input at which values that change with it (depth) are learnt, see
        `mult_hf.model.cameras`. None by default: targets and predictions are those of the camera at hand.
    assumed_field_of_view (`float`, *optional*):
        Degrees along the longer side of an image whose focal length is not known, with `canonical_focal_length`: 60 by default.
    """

    tasks: list
    do_reduce_labels: bool
    canonical_focal_length: float | None
    assumed_field_of_view: float | None


class MulTBatchFeature(BatchFeature):
    """A batch whose `to` also moves the nested `labels`, unlike transformers' own."""

    def to(self, *args: Any, **kwargs: Any) -> "MulTBatchFeature":
        """Move or cast all tensors; class ids keep their integer type."""
        super().to(*args, **kwargs)
        if isinstance(self.data.get("labels"), dict):
            self.data["labels"] = dict(BatchFeature(self.data["labels"]).to(*args, **kwargs).data)
        return self


class MulTProcessingMixin(_Backend):
    """Reading images, decoding labels and post-processing, the same on both backends.

    Examples:
        >>> import numpy as np
        >>> from mult_hf import MulTImageProcessor
        >>> processor = MulTImageProcessor(size={"height": 64, "width": 96}, tasks=["depth"])
        >>> stored = np.full((120, 180), 1024, np.uint16)  # Taskonomy's encoding: 512 per metre
        >>> batch = processor(np.zeros((120, 180, 3), np.uint8), label_maps={"depth": stored}, return_tensors="pt")
        >>> batch["labels"]["depth"].shape, batch["labels"]["depth"][0, 0, 0, 0].item()
        (torch.Size([1, 1, 64, 96]), 2.0)
    """

    valid_kwargs = MulTImageProcessorKwargs
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_reduce_labels = False
    canonical_focal_length: float | None = None
    assumed_field_of_view: float | None = None
    tasks: Any = None

    if TYPE_CHECKING:

        def __call__(self, images: ImageInput, *args: Any, **kwargs: Any) -> MulTBatchFeature:
            """Calls `preprocess`."""

    def __init__(self, **kwargs: Unpack[MulTImageProcessorKwargs]) -> None:
        tasks = kwargs.pop("tasks", None)
        specs = resolve_tasks(MULT_TASKS if tasks is None else tasks)
        if not specs:
            raise ValueError(f"tasks is {tasks!r}; give at least one name of a registered task or entry, or None for MulT's six")
        options: dict[str, Any] = {**checked_fields(kwargs), "tasks": [spec.to_dict() for spec in specs.values()]}
        super().__init__(**options)
        self.assumed_field_of_view = checked_field_of_view(self.assumed_field_of_view, self.canonical_focal_length)

    @classmethod
    def from_backbone(cls, name_or_path: str, **kwargs: Any) -> Any:
        """A new processor that makes pixels from colours as a published encoder was trained, see
        [`MulTForMultiTaskDensePrediction.from_backbone`].

        Args:
            name_or_path: Hub id or local directory of a checkpoint of transformers or timm, or timm's own name.
            kwargs: arguments of the processor, and `revision`, `token`, `cache_dir`, `local_files_only` for loading.

        Returns:
            The processor; with ImageNet's mean and standard deviation where the checkpoint states none.
        """
        hub = {key: kwargs.pop(key) for key in HUB_KEYWORDS if key in kwargs}
        return cls(**{**image_statistics(str(name_or_path), **hub), **kwargs})

    @property
    def task_specs(self) -> dict[str, TaskSpec]:
        """The task entries as [`TaskSpec`] objects by name, with the encodings that maps are decoded with: see `do_reduce_labels`."""
        specs = resolve_tasks(self.tasks)
        return reduced(specs) if self.do_reduce_labels else specs

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: LabelMap | Sequence[LabelMap] = None,
        label_maps: Mapping[str, LabelMap | Sequence[LabelMap]] | None = None,
        focal_length: float | Sequence[float | None] | None = None,
        **kwargs: Unpack[MulTImageProcessorKwargs],
    ) -> MulTBatchFeature:
        """Prepare images, and their stored label maps.

        Args:
            images: one image or a list, see [`read_image`].
            segmentation_maps: the maps of the only classification among the tasks, as in transformers' segmentation models;
                short for `label_maps={task: segmentation_maps}`.
            label_maps: per task one stored map per image, as the data set stores it (PIL image, array or tensor); a single map
                for a single image; `None` for an image without the task, whose target is all unknown.
            focal_length: in pixels of the image; one for all or one per image, None where it is not known. It only affects targets of
                a processor with a `canonical_focal_length`. By default the one in the image's EXIF, or else an assumed one.
            kwargs: `size`, `do_resize`, `return_tensors`, ... as for every image processor, `tasks`, and `do_reduce_labels`.

        Returns:
            [`MulTBatchFeature`]: `pixel_values` (batch, 3, height, width) float32, and with label maps `labels`: per task
            (batch, height, width) int64 class ids with 255 unknown, or (batch, channels, height, width) float32 with NaN unknown.

        Raises:
            ValueError: on a broken or empty image, a label map that does not fit its task, or `segmentation_maps` where not exactly
                one task is a classification; the message names it.
        """
        options: Any = checked_fields(kwargs)
        return super().preprocess(images, segmentation_maps, label_maps, focal_length, **options)

    # `override`, here and below: the base class declares arbitrary further inputs; `preprocess` passes the ones named here.
    def _prepare_image_like_inputs(self, images: ImageInput, *, input_data_format: Any = None, **kwargs: Any) -> list[Any]:  # type: ignore[override]
        """Images in the backend's format, channels first."""
        channels_last = None if input_data_format is None else ChannelDimension(input_data_format) == ChannelDimension.LAST
        read = [read_image(image, name=f"image {number}", channels_last=channels_last) for number, image in enumerate(_listed(images))]
        if not read:
            raise ValueError(f"images is {images!r}; give at least one image")
        return [
            self.process_image(image, input_data_format=None if isinstance(image, Image.Image) else ChannelDimension.FIRST, **kwargs)
            for image in read
        ]

    def _preprocess_image_like_inputs(  # type: ignore[override]
        self,
        images: ImageInput,
        segmentation_maps: Any,
        label_maps: Mapping[str, Any] | None,
        focal_length: Any = None,
        *,
        return_tensors: str | None = None,
        tasks: Any = None,
        do_reduce_labels: bool | None = None,
        canonical_focal_length: float | None = None,
        assumed_field_of_view: float | None = None,
        do_convert_rgb: bool | None = None,
        input_data_format: str | None = None,
        device: Any = None,
        **kwargs: Any,
    ) -> MulTBatchFeature:
        if kwargs.get("do_center_crop") or kwargs.get("do_pad"):
            given = {name: kwargs[name] for name in ("do_center_crop", "do_pad") if kwargs.get(name)}
            raise ValueError(f"{given} would shift predictions against their images; crop or pad images and label maps beforehand")
        if do_convert_rgb is False:
            raise ValueError(f"do_convert_rgb is {do_convert_rgb}, but the model takes RGB and every image is read as RGB; leave it True")
        opened = [open_file(image, f"image {number}") for number, image in enumerate(_listed(images))]
        has_labels = segmentation_maps is not None or label_maps is not None
        # Before pixels are read, because Pillow applies the orientation of a TIFF file then, and forgets it.
        orientations = [orientation(image) for image in opened] if has_labels else []
        if not kwargs.get("do_rescale", True):
            kwargs.update(rescaling(opened, bool(kwargs.get("do_normalize"))))
        to_device = {} if device is None else {"device": device}
        prepared = self._prepare_image_like_inputs(opened, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, **to_device)
        if kwargs.get("do_resize"):
            for number, image in enumerate(prepared):
                check_aspect(image.shape[-2:], kwargs.get("size"), f"image {number}")
        pixel_values = self._preprocess(prepared, return_tensors=None, **kwargs)["pixel_values"]
        batch = MulTBatchFeature(data={"pixel_values": pixel_values}, tensor_type=return_tensors)
        if not has_labels:
            return batch  # entries are only needed for labels, and take as long to check as a small image to resize
        specs = resolve_tasks(tasks)
        if segmentation_maps is not None:
            label_maps = with_segmentation_maps(label_maps, segmentation_maps, specs)
        if label_maps is not None:
            focal_lengths = listed_focal_lengths(focal_length, len(opened))
            places = [
                Place.of_image(image, turned, tuple(upright.shape[-2:]), tuple(pixels.shape[-2:]), focal, assumed_field_of_view)
                for image, turned, upright, pixels, focal in zip(opened, orientations, prepared, pixel_values, focal_lengths)
            ]
            if do_reduce_labels:
                specs = reduced(specs)
            targets = {task: self._targets(task, maps, places, specs, canonical_focal_length) for task, maps in label_maps.items()}
            batch["labels"] = {task: _in_type(maps, return_tensors) for task, maps in targets.items()}
        return batch

    def _targets(
        self,
        task: str,
        maps: LabelMap | Sequence[LabelMap],
        places: list["Place"],
        specs: dict[str, TaskSpec],
        canonical_focal_length: float | None,
    ) -> list[Tensor]:
        """Decode and resize the maps of one task, one per image; for a canonical camera, if there is one."""
        if task not in specs:
            raise refusal(f"label_maps has {task!r}, but this processor's tasks are {list(specs)}; pass tasks=[...] with its entry")
        stored_maps: list[Any] = list(maps) if isinstance(maps, (list, tuple)) else [maps]
        if len(stored_maps) != len(places):
            raise ValueError(
                f"label_maps[{task!r}] has {len(stored_maps)} maps for {len(places)} images; give one per image, None where there is none"
            )
        targets = []
        for number, (stored, place) in enumerate(zip(stored_maps, places)):
            try:
                target = specs[task].unknown_target(*place.size) if stored is None else place.decode(stored, specs[task])
            except (ValueError, OSError, SyntaxError) as error:
                raise ValueError(f"label map {number} of {getattr(stored, 'filename', '') or 'the batch'}: {error}") from None
            resized = resized_target(torch.from_numpy(target), place.size, specs[task])
            factor = canonical_factor(specs[task], place.focal_length, canonical_focal_length)
            targets.append(resized if factor == 1 else resized * factor)
        return targets

    def post_process(
        self,
        outputs: Any,
        target_sizes: Iterable[tuple[int, int]] | None = None,
        *,
        return_scores: bool = False,
        tasks: Any = None,
        focal_length: float | Sequence[float | None] | None = None,
    ) -> list[dict[str, dict[str, Tensor]]]:
        """Predictions in their units, image by image.

        Args:
            outputs: of [`MulTForMultiTaskDensePrediction`], or its dictionary of predictions by task.
            target_sizes: (height, width) of each image; the model's input size by default.
            return_scores: whether to add class probabilities, (classes, height, width).
            tasks: task entries in place of the processor's own.
            focal_length: in pixels of an image of the target size; one for all or one per image, None where it is not known: then one is
                assumed. It only affects a processor with a `canonical_focal_length`.

        Returns:
            Per image a dict by task: `"prediction"`, (height, width) int64 class ids, or float32 (height, width) for one channel
            and (channels, height, width) for more, in the task's unit; and, if requested, `"scores"` of classifications. Unit
            vectors have length 1: where resizing cancels opposite vectors, the nearest predicted one is used, or NaN if that is 0. A
            class is 255 where a logit is NaN.

        Raises:
            ValueError: if there is not one size per image, a predicted task has no entry, or tasks have different numbers of maps.
        """
        specs = resolve_tasks(self.tasks if tasks is None else tasks)
        return [
            {
                task: self._finish(prediction, _entry(task, specs), size, focal, return_scores=return_scores)
                for task, prediction in image.items()
            }
            for image, size, focal in self._images(outputs, target_sizes, focal_length)
        ]

    def focal_length_of(self, image: Any, size: tuple[int, int], given: float | None = None) -> FocalLength:
        """The focal length of an image: the given one, else the one in its EXIF, else an assumed one.

        Args:
            image: a PIL image as it was opened; other images have no EXIF.
            size: (height, width) of the image.
            given: in pixels of the image, or None.

        Raises:
            ValueError: if the given one is not a number from 0.01 to 100,000,000.
        """
        return find_focal_length(image, size, given, self.assumed_field_of_view)

    def depends_on_focal_length(self, spec: TaskSpec) -> bool:
        """Whether the focal length of an image changes a task's values: those of depth, with a `canonical_focal_length`."""
        return self.canonical_focal_length is not None and spec.zoom_exponent != 0

    def camera_factor(self, spec: TaskSpec, prediction: Tensor, size: tuple[int, int] | None, focal_length: float | None) -> float:
        """Factor from true values to those of the canonical camera; 1 without one, and for tasks that do not depend on it.

        Args:
            spec: the task's entry.
            prediction: (channels, height, width), at the size of the model's input.
            size: (height, width) of the image; by default that of the prediction.
            focal_length: in pixels of an image of this size; None where it is not known: then one is assumed.
        """
        if not self.depends_on_focal_length(spec):
            return 1.0
        seen: tuple[int, int] = (prediction.shape[-2], prediction.shape[-1])
        focal = self.focal_length_of(None, size or seen, focal_length).resized(size or seen, seen)
        return canonical_factor(spec, focal.pixels, self.canonical_focal_length)

    def _finish(
        self, prediction: Tensor, spec: TaskSpec, size: tuple[int, int] | None, focal_length: float | None, *, return_scores: bool = False
    ) -> dict[str, Tensor]:
        """Convert one (channels, height, width) prediction to its size and unit, and from the canonical camera to the image's."""
        return finish(prediction, spec, size, self.camera_factor(spec, prediction, size, focal_length), return_scores=return_scores)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Iterable[tuple[int, int]] | None = None, return_segmentation_scores: bool = False
    ) -> list[Tensor] | list[SemanticSegmentationPostProcessorOutput]:
        """Classes of each image, as in transformers' segmentation models.

        Args:
            outputs: as for `post_process`.
            target_sizes: as for `post_process`.
            return_segmentation_scores: whether to return the logits too.

        Returns:
            Per image its class ids, (height, width) int64; with scores an object with these as `segmentation` and the logits, (classes,
            height, width), as `segmentation_scores`.

        Raises:
            ValueError: as `post_process`, or if not exactly one predicted task is a semantic segmentation.
        """
        task = self._only_task("semantic-segmentation", outputs)
        images = [(image, size) for image, size, _ in self._images(outputs, target_sizes)]
        if not return_segmentation_scores:
            return [finish(image[task], self.task_specs[task], size)["prediction"] for image, size in images]
        logits = [resized(image[task], size) for image, size in images]
        both = [dict(segmentation=classes_of(scores), segmentation_scores=scores) for scores in logits]  # noqa: C408
        return [SemanticSegmentationPostProcessorOutput(data=data) for data in both]

    def post_process_depth_estimation(
        self,
        outputs: Any,
        target_sizes: Iterable[tuple[int, int]] | None = None,
        focal_length: float | Sequence[float | None] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Per image `{"predicted_depth": (height, width) in metres}`, as in transformers' depth models; see `post_process`."""
        return [{"predicted_depth": depth} for depth in self._only("depth-estimation", outputs, target_sizes, focal_length)]

    def post_process_normal_estimation(
        self, outputs: Any, target_sizes: Iterable[tuple[int, int]] | None = None
    ) -> list[dict[str, Tensor]]:
        """Per image `{"normals": (3, height, width)}`, x right, y up, z towards the viewer; of length 1, or NaN."""
        return [dict(normals=vectors) for vectors in self._only("normal-estimation", outputs, target_sizes)]  # noqa: C408

    def _only(
        self, transformers_task: str, outputs: Any, target_sizes: Iterable[tuple[int, int]] | None, focal_length: Any = None
    ) -> list[Tensor]:
        """The finished maps of the only task with this `transformers_task`."""
        task = self._only_task(transformers_task, outputs)
        spec, images = self.task_specs[task], self._images(outputs, target_sizes, focal_length)
        return [self._finish(image[task], spec, size, focal)["prediction"] for image, size, focal in images]

    def _only_task(self, transformers_task: str, outputs: Any) -> str:
        """The name of the only predicted task with this `transformers_task`."""
        predictions = _predictions(outputs)
        names = [name for name, spec in self.task_specs.items() if spec.transformers_task == transformers_task and name in predictions]
        if len(names) != 1:
            raise refusal(f"the outputs have {len(names)} tasks for {transformers_task!r} among {list(predictions)}; use post_process")
        return names[0]

    def _images(
        self, outputs: Any, target_sizes: Iterable[tuple[int, int]] | None, focal_length: Any = None
    ) -> list[tuple[dict[str, Tensor], tuple[int, int] | None, float | None]]:
        """The batch's predictions image by image, each with its target size and focal length."""
        predictions = _predictions(outputs)
        counts = {task: len(maps) for task, maps in predictions.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"the outputs have {counts} maps; give one per image of each task")
        count = next(iter(counts.values()))
        sizes = [None] * count if target_sizes is None else _sizes(target_sizes, count)
        if len(sizes) != count:
            raise ValueError(f"target_sizes has {len(sizes)} sizes for {count} images; give one (height, width) per image")
        focals = listed_focal_lengths(focal_length, count)
        return [({task: maps[i] for task, maps in predictions.items()}, *each) for i, each in enumerate(zip(sizes, focals))]

    def to_dict(self) -> dict[str, Any]:
        """Values for `preprocessor_config.json`; `auto_map` names the files of both backends."""
        values = super().to_dict()
        if isinstance(values.get("auto_map"), Mapping):
            backends = {"torchvision": "image_processing_mult.MulTImageProcessor", "pil": "image_processing_pil_mult.MulTImageProcessorPil"}
            values["auto_map"] = {**values["auto_map"], "AutoImageProcessor": backends}
        return values


def _listed(images: Any) -> Sequence[Any]:
    """A list of the images, also for a single one."""
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
        return images_of_array(images)
    return images if isinstance(images, (list, tuple)) else [images]


def _predictions(outputs: Any) -> Mapping[str, Tensor]:
    by_task = outputs if isinstance(outputs, Mapping) and "predictions" not in outputs else getattr(outputs, "predictions", None)
    if not isinstance(by_task, Mapping) or not by_task or not all(map(_is_batch, by_task.values())):
        raise ValueError(
            f"outputs is a {type(outputs).__name__} without predictions (batch, channels, height, width) by task; pass tensors, as in the "
            "model's output"
        )
    for task, maps in by_task.items():
        for each in maps if isinstance(maps, (list, tuple)) else [maps]:
            check_dense(each, f"the prediction of {task}")
            if 0 in each.shape[-2:]:
                raise ValueError(f"the prediction of {task} has shape {tuple(each.shape)}; it has no pixels")
    return by_task


def _is_batch(maps: Any) -> bool:
    """Whether these are maps of several images; the pipeline keeps maps of several sizes in a list."""
    if isinstance(maps, (list, tuple)):
        return all(isinstance(each, Tensor) and each.ndim == 3 for each in maps)
    return isinstance(maps, Tensor) and maps.ndim == 4


def _sizes(target_sizes: Iterable[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    sizes = None
    if not isinstance(target_sizes, (AbstractSet, Mapping)):  # which have no order
        with suppress(TypeError, ValueError):
            sizes = [(index(height), index(width)) for height, width in target_sizes]
    if sizes is None or min((min(size) for size in sizes), default=int(not count)) < 1:
        raise ValueError(f"target_sizes is {str(target_sizes)[:200]}; give one (height, width) per image, whole numbers of at least 1")
    return sizes


def _entry(task: str, specs: dict[str, TaskSpec]) -> TaskSpec:
    if task not in specs:
        raise refusal(f"the outputs have a task {task!r}, but this processor's tasks are {list(specs)}; pass tasks=model.config.tasks")
    return specs[task]


def _in_type(targets: list[Tensor], return_tensors: str | None) -> Any:
    """Stack targets in the requested type; a list of tensors if not stacked."""
    if return_tensors is None:
        return targets
    shapes = {tuple(target.shape) for target in targets}
    if len(shapes) > 1:
        raise refusal(f"label maps of one batch have shapes {sorted(shapes)}; images of a batch need one size")
    stacked = torch.stack(targets)
    return stacked.numpy() if return_tensors == "np" else stacked


__all__ = ["MulTBatchFeature", "MulTImageProcessorKwargs", "MulTProcessingMixin"]
