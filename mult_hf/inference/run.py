"""Predict a stream of images in batches and write the maps; a failed input does not stop the run."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mult_hf.data.files import FULL_DISK
from mult_hf.data.schema import is_url
from mult_hf.data.workers import naming_killed_workers
from mult_hf.model.cameras import ASSUMED, FocalLength, film_exif
from mult_hf.model.entry_fields import refusal
from mult_hf.model.image_processing_mult import MulTImageProcessor
from mult_hf.model.tasks import TaskSpec

from .errors import ExportError, MissingMemoryError
from .output import PredictionDirectory
from .predictor import Predictor
from .sources import FailedInput, ImageStream, InputImage, SkippedInput, Source, SourceRecord, by_size

MIN_SIDE = 32
"""Smallest height and width, in pixels, that the model accepts: the encoder's largest stride."""

MAX_SIDE = 16_384
"""Largest height and width in pixels that images are resized to; larger values are typing errors."""

STORE_WRITERS = 4
"""Images whose files are sent to an object store at a time, because each request waits for its answer."""


@dataclass(eq=False)  # tensors and images have no one truth value
class PreparedImage:
    """An image that has been read and preprocessed.

    Args:
        name: name of its predictions.
        size: (height, width) of the image.
        image: the image itself, or as much of it as is needed to write its files.
        pixel_values: input of the model, (3, height, width); a [`PredictionRun`] empties it once it is predicted, because it may be large.
        focal_length: of the image, in its own pixels.
        record: the image's source.
    """

    name: str
    size: tuple[int, int]
    image: Image.Image
    pixel_values: Tensor
    focal_length: FocalLength
    record: SourceRecord | None = None


@dataclass
class Outcomes:
    """Results of one process.

    Args:
        done: number of images whose files were written.
        skipped: number of images that were predicted before and have the same contents.
        failed: the others, with their reasons.
        remarks: notes about predicted images, with the number of images that each applies to.
        assumed: by field of view in degrees, the number of predicted images whose metres assume it.
    """

    done: int = 0
    skipped: int = 0
    failed: list[FailedInput] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    assumed: Counter[float] = field(default_factory=Counter)


def total_outcomes(outcomes: Iterable[Outcomes]) -> Outcomes:
    """The outcomes of several processes as those of one."""
    total = Outcomes()
    for each in outcomes:
        total.done += each.done
        total.skipped += each.skipped
        total.failed += each.failed
        total.remarks += each.remarks
        total.assumed += each.assumed
    return total


@dataclass
class PredictionRun:
    """Predicts one process's share of the images.

    Args:
        predictor: the model.
        processor: prepares its input and post-processes its predictions.
        directory: the output directory.
        batch_size: images of one size per batch.
        num_workers: processes that read images.
        min_side: smallest height and width in pixels that the predictor accepts.
        remark: returns a note about an image of this (height, width), or None.
        skip_predicted: whether images are skipped that were predicted before and have the same contents.
        show_progress: whether the first process shows a progress bar.
    """

    predictor: Predictor
    processor: MulTImageProcessor
    directory: PredictionDirectory
    batch_size: int = 1
    num_workers: int = 0
    min_side: int = MIN_SIDE
    remark: Callable[[tuple[int, int]], str | None] | None = None
    skip_predicted: bool = True
    show_progress: bool = True

    @naming_killed_workers("continue with the same command")
    def __call__(self, source: Source, process: int = 0, processes: int = 1) -> Outcomes:
        """Predict every `processes`-th image.

        Args:
            source: all images; must be the same in every process.
            process: index of this process; the first one shows a progress bar.
            processes: number of processes.

        Raises:
            OSError: if the disk is full or cannot be written to, or a process that reads images was killed.
        """
        stream = ImageStream(source, self._read, self._is_predicted, process, processes)
        loader = DataLoader(stream, batch_size=None, num_workers=self.num_workers)
        outcomes = Outcomes()
        total = len(source) // processes  # an estimate if there are videos
        # A batch's files are written while the next batch is predicted.
        writer = ThreadPoolExecutor(max_workers=STORE_WRITERS if is_url(self.directory.directory) else 1)
        try:
            with tqdm(total=total, desc="predicting", unit="image", disable=process > 0 or not self.show_progress) as bar:
                writing: list[_Writing] = []
                for images in by_size(_to_predict(loader, outcomes, bar), self.batch_size):
                    try:
                        predicted = self._predict_batch(images, outcomes, bar)
                    except ExportError:  # ends the run; the maps that it has are kept
                        _finish_writing(writing, outcomes, bar)
                        raise
                    _finish_writing(writing, outcomes, bar)
                    outcomes.remarks += self._remarks([image for image, _ in predicted])
                    outcomes.assumed += self._assumed([image for image, _ in predicted])
                    writing = [_Writing(image.name, writer.submit(self._write, image, maps)) for image, maps in predicted]
                _finish_writing(writing, outcomes, bar)
        finally:
            writer.shutdown(cancel_futures=True)
        return outcomes

    def _remarks(self, images: list[PreparedImage]) -> Counter[str]:
        remark = self.remark or (lambda size: None)
        return Counter(filter(None, (remark(each.size) for each in images)))

    def _assumed(self, images: list[PreparedImage]) -> Counter[float]:
        """The field of view that metres of these images assume, with the number of images whose focal length is not known."""
        degrees = self.processor.assumed_field_of_view
        if degrees is None or not any(map(self.processor.depends_on_focal_length, self.directory.specs.values())):
            return Counter()
        return Counter(degrees for image in images if image.focal_length.source == ASSUMED)

    def _is_predicted(self, image: InputImage) -> bool:
        predicted = self.directory.is_predicted(image.name, image.stamp, image.digest)  # also refuses names that are too long
        return predicted and self.skip_predicted

    def _read(self, image: InputImage) -> PreparedImage:
        record = image.record()
        prepared = prepare(self.processor, image.name, image.read(), self.min_side, image.focal_length)
        # Many images may wait for their predictions, so each is reduced to what is written of it.
        kept = self.directory.kept(prepared.image)
        if self.processor.canonical_focal_length is not None:  # the metres of its maps are those of this focal length
            kept = kept.copy()
            kept.info["exif"] = film_exif(prepared.focal_length.film_equivalent(prepared.size))
        prepared.image, prepared.record = kept, record
        return prepared

    def _predict_batch(self, images: list[PreparedImage], outcomes: Outcomes, bar: tqdm) -> list[tuple[PreparedImage, dict[str, Tensor]]]:
        """Predict images of equal size: each image with its predictions (1, channels, height, width). Failed ones are counted."""
        failed = None
        try:
            predictions = self.predictor(_stacked([image.pixel_values for image in images]))
        except Exception as error:
            if isinstance(error, ExportError) and not isinstance(error, MissingMemoryError):  # it would come again for every image
                raise
            failed = FailedInput.from_error(images[0].name, error)
        if failed is not None and len(images) > 1:  # out of memory, for example: outside of `except`, which keeps the batch's tensors alive
            return [pair for image in images for pair in self._predict_batch([image], outcomes, bar)]
        if failed is not None:
            outcomes.failed.append(failed)
            bar.update()
            return []
        for image in images:
            image.pixel_values = image.pixel_values[:, :0, :0].clone()
        return [(image, {task: maps[number : number + 1] for task, maps in predictions.items()}) for number, image in enumerate(images)]

    def _write(self, image: PreparedImage, predictions: dict[str, Tensor]) -> None:
        """Write the maps of one image, one after another, because maps may be much larger than predictions.

        Raises:
            ValueError: if a prediction is not finite, which would be written as a map of unknown pixels.
        """
        maps = finished_maps(self.processor, image, predictions, self.directory.map_size(image.size))
        self.directory.write(image.name, image.image, maps, image.record)


def _stacked(images: list[Tensor]) -> Tensor:
    """Images as a batch; a single one, which may be large, is not copied."""
    return images[0][None] if len(images) == 1 else torch.stack(images)


class _Writing(NamedTuple):
    """An image whose files are being written."""

    name: str
    files: "Future[None]"


def _finish_writing(images: Iterable[_Writing], outcomes: Outcomes, bar: tqdm) -> None:
    """Wait for the images' files, and count them.

    Raises:
        OSError: if the disk is full or cannot be written to.
    """
    for image in images:
        try:
            image.files.result()
            outcomes.done += 1
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL_DISK:
                raise
            outcomes.failed.append(FailedInput.from_error(image.name, error))
        bar.update()


def prepare(
    processor: MulTImageProcessor, name: str, image: Image.Image, min_side: int = MIN_SIDE, focal_length: float | None = None
) -> PreparedImage:
    """Turn an image into the predictor's input.

    Args:
        processor: of the model.
        name: of the image's predictions.
        image: upright, RGB.
        min_side: shortest side of the input in pixels.
        focal_length: in pixels of the image, for a processor with a canonical camera; None where it is not known: then the one in the
            image's EXIF is used, or an assumed one.

    Raises:
        ValueError: if the image keeps its own size and a side is below `min_side` pixels, or the focal length is not from 0.01 to
            100,000,000.
    """
    pixel_values = processor(image, return_tensors="pt")["pixel_values"][0]  # (3, height, width)
    if min(pixel_values.shape[-2:]) < min_side:
        raise ValueError(f"{image.width} x {image.height} pixels are too few; the model needs {min_side} per side; set --image_size")
    size = (image.height, image.width)
    given = None if processor.canonical_focal_length is None else focal_length
    return PreparedImage(name, size, image, pixel_values, processor.focal_length_of(image, size, given))


def finished_maps(
    processor: MulTImageProcessor,
    image: PreparedImage,
    predictions: dict[str, Tensor],
    size: tuple[int, int],
    specs: Mapping[str, TaskSpec] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The maps of one image in their units, each made when it is asked for.

    A prediction is removed once its map is made, because blended tiles of a large image hold hundreds of megabytes.

    Args:
        processor: the one that prepared the image.
        image: the image.
        predictions: the model's, (1, channels, height, width) per task; empty at the end.
        size: (height, width) of the maps.
        specs: entries of the tasks; by default the processor's, which it has to check for every image.

    Returns:
        Pairs of task and map, as from `post_process`.

    Raises:
        ValueError: if a prediction is not finite, which would become a map of unknown pixels.
    """
    if infinite := [task for task, maps in predictions.items() if not _is_finite(maps)]:
        raise refusal(f"the model's prediction of {', '.join(infinite)} is not finite: its weights are too large; use another model")
    entries = specs or processor.task_specs
    return ((task, _finished(processor, image, task, predictions.pop(task), size, entries)) for task in list(predictions))


def _is_finite(maps: Tensor) -> bool:
    """Whether all values are finite; the extremes need no memory, and either is NaN where any value is."""
    return all(bool(extreme.isfinite()) for extreme in maps.aminmax())


def _finished(
    processor: MulTImageProcessor, image: PreparedImage, task: str, prediction: Tensor, size: tuple[int, int], specs: Mapping[str, TaskSpec]
) -> Tensor:
    focal = image.focal_length.resized(image.size, size).pixels
    (maps,) = processor.post_process({task: prediction}, [size], tasks=specs, focal_length=focal)
    return maps[task]["prediction"]


def _to_predict(
    outcomes_of_reading: Iterable[PreparedImage | FailedInput | SkippedInput], outcomes: Outcomes, bar: tqdm
) -> Iterator[PreparedImage]:
    """Yield the images to predict and count all other items. Skipped ones reduce the bar's total, which estimates the time left."""
    for outcome in outcomes_of_reading:
        if isinstance(outcome, PreparedImage):
            yield outcome
        elif isinstance(outcome, FailedInput):
            outcomes.failed.append(outcome)
            bar.update()
        else:
            outcomes.skipped += 1
            bar.total = max(0, (bar.total or 0) - 1)


__all__ = ["Outcomes", "PredictionRun", "PreparedImage", "finished_maps", "prepare", "total_outcomes"]
