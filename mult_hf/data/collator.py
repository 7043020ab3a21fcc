"""Collate rows of a data set into a batch for the model."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mult_hf.model.alignment import check_aligned, upright_size
from mult_hf.model.cameras import FocalLength, check_focal_length
from mult_hf.model.entry_fields import refusal
from mult_hf.model.image_processing_base import MulTBatchFeature, MulTProcessingMixin
from mult_hf.model.normalisation import Normalisation
from mult_hf.model.processor_labels import decode_map, reduced
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .row_errors import AUGMENTATION_SEED, INTERNAL, ROW
from .schema import FOCAL_LENGTH

Augmentation = Callable[..., dict[str, Any]]
"""Changes one sample, `{"pixel_values": (3, height, width) in [0, 1], "labels": {...}}`; see `mult_hf.data.augmentations`. If a
row has a seed, a `torch.Generator` is passed as the second argument."""

Collate = Callable[[Sequence[Mapping[str, Any]]], MulTBatchFeature]
"""Collates rows into a batch."""

SEEDS, SIZES = "view_seeds", "image_sizes"
"""Keys of a batch whose views are still to be made: (batch,) int64 seeds of the views, and (batch, 2) int64 heights and widths."""

IN_0_TO_1: dict[str, Any] = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False}
"""Keywords of a processor for images in [0, 1], which augmentation takes; [`Normalisation`] of its views follows."""


class MultiTaskCollator:
    """Converts rows with `image` and one column per task to `pixel_values` and nested `labels`.

    A missing column and a null cell mean the same: the whole map is unknown. Every batch contains every task of the processor,
    so that each decoder takes part in each step, as distributed training requires.

    Args:
        processor: a MulT image processor; its tasks are the columns that are read.
        augment: applied to each sample, image and targets together, before the image is normalised. A row with an
            `"augmentation_seed"` gets its own generator; the others use torch's global one.
        tasks_by_source: for a mixture of data sets ([`mix_datasets`]): by name in the column `source`, that set's task entries with its
            own encodings. Other tasks are unknown in its rows, because nothing says how their maps are stored.
    """

    def __init__(
        self,
        processor: MulTProcessingMixin,
        augment: Augmentation | None = None,
        tasks_by_source: Mapping[str, Mapping[str, TaskSpec]] | None = None,
    ) -> None:
        self.processor = processor
        self.augment = augment
        self.tasks_by_source = tasks_by_source

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> MulTBatchFeature:
        """Collate rows into a batch.

        Args:
            rows: as `datasets` yields them, with decoded images.

        Returns:
            [`MulTBatchFeature`] with `pixel_values` (batch, 3, height, width) and `labels` by task.

        Raises:
            ValueError: if a row has no image, a map does not match its task or align with its image (see
                `mult_hf.model.alignment`), or the prepared images differ in size.
        """
        specs = self.processor.task_specs  # read once per batch, because the processor parses its entries
        self._check_rows(rows, specs)
        augment = self.augment
        if augment is None:
            return _stacked(list(self._samples(rows, specs)))
        normalise = Normalisation.of(self.processor, [row["image"] for row in rows])
        seeds = [row.get(AUGMENTATION_SEED) for row in rows]
        views = [_augmented(augment, sample, seed) for sample, seed in zip(self._samples(rows, specs, **IN_0_TO_1), seeds)]
        return _stacked([{**view, "pixel_values": normalise(view["pixel_values"])} for view in views])

    def without_views(self, rows: Sequence[Mapping[str, Any]]) -> MulTBatchFeature:
        """Collate rows whose views are made later, on a device, by [`BatchViews`][mult_hf.data.batch_views.BatchViews].

        Args:
            rows: as for a batch, each with an `"augmentation_seed"`.

        Returns:
            [`MulTBatchFeature`] with `pixel_values` (batch, 3, height, width) in [0, 1], `labels` by task, and the seeds and sizes of the
                images under [`SEEDS`] and [`SIZES`]. A smaller image is padded at the bottom and on the right: labels are unknown there,
                and colours repeat those at the border.

        Raises:
            ValueError: if a row has no seed, no image, or a map that does not match its task or align with its image.
        """
        specs = self.processor.task_specs
        self._check_rows(rows, specs)
        seeds = [row.get(AUGMENTATION_SEED) for row in rows]
        if None in seeds:
            raise refusal(f"row {seeds.index(None)} of the batch has no {AUGMENTATION_SEED!r}; add one, an integer, to every row")
        if Normalisation.of(self.processor, [row["image"] for row in rows]) != Normalisation.of(self.processor):
            raise refusal(
                "the images are floats in [0, 1], which do_rescale=False and do_normalize=False of the processor keep there, and views on "
                "a device are made of images of 8 bits; make the views in the loader, or set do_rescale=True"
            )
        samples = list(self._samples(rows, specs, **IN_0_TO_1))
        sizes = [tuple(sample["pixel_values"].shape[-2:]) for sample in samples]
        largest = tuple(max(lengths) for lengths in zip(*sizes))
        batch = _stacked([sample if size == largest else _padded(sample, largest) for sample, size in zip(samples, sizes)])
        return MulTBatchFeature(data={**batch, SEEDS: torch.tensor(seeds), SIZES: torch.tensor(sizes)})

    def collate_for_evaluation(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Collate rows for evaluation: the model's input, and targets that have not been resized.

        Args:
            rows: as for a batch; `augment` is not applied.

        Returns:
            `pixel_values` (batch, 3, height, width), and for each row its targets by task, decoded at the size of the stored map:
            (height, width) class ids with 255 unknown, or (channels, height, width) with NaN unknown. A missing map becomes an
            unknown target of the image's size.

        Raises:
            ValueError: as for a batch, or if the prepared images differ in size.
        """
        images, targets = self.prepare_for_evaluation(rows)
        sizes = {tuple(image.shape[-2:]) for image in images}
        if len(sizes) > 1:
            raise refusal(f"the prepared images have sizes {sorted(sizes)}; use batches of one, or a processor with a fixed size")
        return torch.stack(images), targets

    def prepare_for_evaluation(self, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Like `collate_for_evaluation`, for images that may differ in size: with one `pixel_values` (3, height, width) per row."""
        specs = self.processor.task_specs
        self._check_rows(rows, specs)
        images = self.processor([row["image"] for row in rows])["pixel_values"]
        return [torch.as_tensor(image) for image in images], [self._stored_targets(row, specs) for row in rows]

    def focal_lengths(self, rows: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[float] | None:
        """Focal lengths of rows in pixels of the model's input, for `post_process`; None for a processor without a canonical camera.

        Args:
            rows: as for a batch. Where the column [`FOCAL_LENGTH`] is missing or null, the focal length in the image's EXIF is used, or
                an assumed one.
            size: (height, width) of the model's input.
        """
        cameras = self.cameras(rows, size)
        return None if cameras is None else [camera.pixels for camera in cameras]

    def cameras(self, rows: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[FocalLength] | None:
        """Like `focal_lengths`, with the source of each, such as EXIF."""
        if self.processor.canonical_focal_length is None:
            return None
        sizes = [upright_size(row["image"]) for row in rows]
        found = [self.processor.focal_length_of(row["image"], own, row.get(FOCAL_LENGTH)) for row, own in zip(rows, sizes)]
        return [camera.resized(own, size) for camera, own in zip(found, sizes)]

    def _check_rows(self, rows: Sequence[Mapping[str, Any]], specs: Mapping[str, TaskSpec]) -> None:
        without_image = [number for number, row in enumerate(rows) if row.get("image") is None]
        if without_image:
            columns = sorted(set(rows[without_image[0]]) - INTERNAL)
            raise refusal(f"rows {without_image} of the batch have no image; their columns are {columns}")
        for number, row in enumerate(rows):
            where = row.get(ROW) or f"row {number} of the batch"
            check_aligned({task: self._stored(row, task) for task in self.tasks_of(row.get("source"), specs)}, row["image"], where)
            if self.processor.canonical_focal_length is not None and row.get(FOCAL_LENGTH) is not None:
                check_focal_length(row[FOCAL_LENGTH], f"{FOCAL_LENGTH} of {where}")

    def _stored_targets(self, row: Mapping[str, Any], specs: Mapping[str, TaskSpec]) -> dict[str, Tensor]:
        targets = {}
        for task, spec in self.tasks_of(row.get("source"), specs).items():
            stored = self._stored(row, task)
            targets[task] = spec.unknown_target(*upright_size(row["image"])) if stored is None else decode_map(stored, spec)
        return {task: torch.from_numpy(target) for task, target in targets.items()}

    def _samples(self, rows: Sequence[Mapping[str, Any]], specs: Mapping[str, TaskSpec], **kwargs: Any) -> Iterator[dict[str, Any]]:
        """Each row as unstacked `pixel_values` and `labels`, decoded with the encodings of its own data set."""
        groups = [rows] if self.tasks_by_source is None else [[row] for row in rows]
        for group in groups:
            own = self.tasks_of(group[0].get("source"), specs)
            maps = {task: [self._stored(row, task) for row in group] for task in own}
            images = [row["image"] for row in group]
            if self.processor.canonical_focal_length is not None:
                kwargs["focal_length"] = [row.get(FOCAL_LENGTH) for row in group]
            batch = self.processor(images, label_maps=maps, tasks=list(own.values()), **kwargs)
            for number, image in enumerate(batch["pixel_values"]):
                labels = {task: targets[number] for task, targets in batch["labels"].items()}
                yield {"pixel_values": torch.as_tensor(image), "labels": labels}

    def _stored(self, row: Mapping[str, Any], task: str) -> Any:
        """A row's map as it is stored; None if it has none, or its data set does not list the task."""
        is_listed = self.tasks_by_source is None or task in self.tasks_by_source[row["source"]]
        return row.get(task) if is_listed else None

    def tasks_of(self, source: Any, specs: Mapping[str, TaskSpec]) -> Mapping[str, TaskSpec]:
        """The processor's tasks, in a mixture with the encodings of one data set, as its maps are decoded for training and evaluation.

        Args:
            source: name of the data set in a mixture; it has no effect without one.
            specs: the processor's `task_specs`.

        Raises:
            ValueError: if a mixture has no such data set.
        """
        if self.tasks_by_source is None:
            return specs
        tasks_by_source: Mapping[Any, Mapping[str, TaskSpec]] = self.tasks_by_source
        if source not in tasks_by_source:
            raise refusal(f"a row is from data set {source!r}, but tasks_by_source has {list(tasks_by_source)}; add its tasks")
        own = {task: tasks_by_source[source].get(task, spec) for task, spec in specs.items()}
        return reduced(own) if self.processor.do_reduce_labels else own


def _augmented(augment: Augmentation, sample: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """A view of a sample, whose image is not yet normalised."""
    return augment(sample) if seed is None else augment(sample, torch.Generator().manual_seed(seed))


def _padded(sample: dict[str, Any], size: tuple[int, ...]) -> dict[str, Any]:
    """Pad a sample at the bottom and on the right, with unknown labels and the colours at the border."""
    image = sample["pixel_values"]
    beyond = (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2])
    labels = {
        task: functional.pad(values, beyond, value=math.nan if values.is_floating_point() else IGNORE_INDEX)
        for task, values in sample["labels"].items()
    }
    return {"pixel_values": functional.pad(image[None], beyond, mode="replicate")[0], "labels": labels}


def _stacked(samples: list[dict[str, Any]]) -> MulTBatchFeature:
    sizes = {tuple(sample["pixel_values"].shape) for sample in samples}
    if len(sizes) > 1:
        raise refusal(f"the images of a batch have shapes {sorted(sizes)}; give the processor or the augmentation a fixed size")
    labels = {task: torch.stack([sample["labels"][task] for sample in samples]) for task in samples[0]["labels"]}
    return MulTBatchFeature(data={"pixel_values": torch.stack([sample["pixel_values"] for sample in samples]), "labels": labels})
