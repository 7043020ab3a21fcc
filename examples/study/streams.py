"""The training samples of a seed, prepared once for all networks that train with it.

Which row a sample is, and how it is augmented, follows from the seed and the sample's position alone
(`mult_hf.training.stream`). So networks that differ in architecture or learning rate see the same batches, and any process can
prepare any part of them.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mult_hf import MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.model.tasks import TaskSpec
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.loop import training_views
from mult_hf.training.stream import StreamBatches, TrainingStream

IMAGES = "pixel_values"


def layout(specs: Mapping[str, TaskSpec], size: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of one sample's arrays; class ids, of which 255 is unknown, fit into bytes."""
    targets = {
        task: ((size, size), np.uint8) if spec.is_classification else ((spec.channels, size, size), np.float32)
        for task, spec in specs.items()
    }
    return {IMAGES: ((3, size, size), np.float32), **targets}


def create(directory: Path, specs: Mapping[str, TaskSpec], size: int, samples: int) -> None:
    """Make the empty files of a stream.

    Args:
        directory: of the stream; made if it does not exist.
        specs: the tasks.
        size: side of the images in pixels.
        samples: how many samples the stream has.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, (shape, kind) in layout(specs, size).items():
        np.lib.format.open_memmap(directory / f"{name}.npy", mode="w+", dtype=kind, shape=(samples, *shape))


def fill(
    directory: Path, rows: Sequence[Mapping[str, Any]], processor: MulTImageProcessor, arguments: TrainingArguments, positions: range
) -> None:
    """Prepare some samples of a stream, and write them to their places in its files.

    Args:
        directory: of the stream.
        rows: the training rows.
        processor: of the tasks and the size.
        arguments: seed and augmentation.
        positions: of the samples.
    """
    stream = TrainingStream(rows, arguments.seed)
    batch = MultiTaskCollator(processor, augment=training_views(arguments, processor))([stream[p] for p in positions])
    for name, values in {IMAGES: batch["pixel_values"], **batch["labels"]}.items():
        file = np.load(directory / f"{name}.npy", mmap_mode="r+")
        file[positions.start : positions.stop] = values.numpy()  # other processes see it without a flush to the disk


@cache
def array(file: Path) -> Tensor:
    """All samples of one of a stream's files, which stay in the file until they are read: a long stream is larger than a GPU's memory."""
    return torch.from_numpy(np.load(file, mmap_mode="c"))  # a tensor must be writable: "c" never changes the file


class Stream:
    """A prepared stream.

    Args:
        directory: of the stream.
        tasks: names of the tasks to read.
        batch_size: samples per batch.
    """

    def __init__(self, directory: Path, tasks: Sequence[str], batch_size: int) -> None:
        self.arrays = {name: array(directory / f"{name}.npy") for name in (IMAGES, *tasks)}
        self.batches = StreamBatches(batch_size)

    def batch(self, number: int) -> dict[str, Tensor]:
        """Images under `pixel_values` and targets by task, (batch, ...) each; class ids are bytes."""
        positions = self.batches.positions(number)
        return {name: values[positions[0] : positions[-1] + 1] for name, values in self.arrays.items()}


def stacked_batch(
    streams: Mapping[int, Stream], seeds: Sequence[int], number: int, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """The batches that the networks of a stack take at one step.

    Args:
        streams: by seed.
        seeds: of the networks.
        number: of the step, from 0.
        device: where the networks are.

    Returns:
        `pixel_values` and labels by task, (networks, batch, ...) each.
    """
    batches = {seed: stream.batch(number) for seed, stream in streams.items()}
    order = [list(streams).index(seed) for seed in seeds]
    stacked = {}
    for name in next(iter(batches.values())):
        own = [batch[name].to(device) for batch in batches.values()]
        values = torch.stack([own[position] for position in order])
        stacked[name] = values.long() if values.dtype == torch.uint8 else values
    return stacked.pop(IMAGES), stacked
