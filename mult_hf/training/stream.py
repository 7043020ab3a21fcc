"""The order of training samples: a pure function of the seed, so that an interrupted run can resume anywhere.

The samples of a run are numbered 0, 1, 2, ...; this number is called the position. The row at a position and its augmentation depend
only on the seed and the position, not on the number of worker processes or on earlier random numbers. So a run that starts at batch
1,000 gets the same batches as an uninterrupted run, without reading the first 999.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mult_hf.data.collator import Collate
from mult_hf.data.row_errors import AUGMENTATION_SEED, in_batch, read_row


def mix_seeds(*numbers: int) -> int:
    """Combine non-negative numbers into one seed; another order or value gives an unrelated seed (numpy's `SeedSequence`)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch accepts 63 bits


class TrainingStream(Dataset):
    """The endless sequence of a run's samples, by position: every row once per epoch, in a new order each time.

    Args:
        rows: a map-style data set, such as a `datasets.Dataset`.
        seed: seed of order and augmentation.

    Raises:
        ValueError: if there are no rows.

    Examples:
        >>> stream = TrainingStream([{"image": "a"}, {"image": "b"}, {"image": "c"}], seed=0)
        >>> sorted(stream.row_at(position) for position in range(3, 6))  # the second epoch
        [0, 1, 2]
    """

    def __init__(self, rows: Sequence[dict[str, Any]], seed: int) -> None:
        if len(rows) == 0:
            raise ValueError(f"the training data have {len(rows)} rows; choose another split or data set")
        self.rows = rows
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._new_order)

    def _new_order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, epoch))
        return torch.randperm(len(self.rows), generator=generator).tolist()

    def row_at(self, position: int) -> int:
        """Index of the row at a position."""
        epoch, place = divmod(position, len(self.rows))
        return self._order(epoch)[place]

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The row at a position, with its name, and its augmentation seed for [`MultiTaskCollator`]."""
        number = self.row_at(position)
        return {**read_row(self.rows, number), AUGMENTATION_SEED: mix_seeds(self.seed, position, 1)}

    def __getstate__(self) -> dict[str, Any]:  # worker processes cannot unpickle a cache
        return {"rows": self.rows, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        TrainingStream.__init__(self, **state)


class StreamBatches(Sampler[list[int]]):
    """Endless sequence of the positions of one process's batches.

    The processes take turns: of every `processes * batch_size` positions, the first process gets the first `batch_size`.

    Args:
        batch_size: samples per batch and process.
        process: index of this process.
        processes: number of processes.
        start: index of the first batch, for resuming.
    """

    def __init__(self, batch_size: int, process: int = 0, processes: int = 1, start: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.batch_size, self.process, self.processes, self.start = batch_size, process, processes, start

    def positions(self, batch: int) -> list[int]:
        """Positions of the samples of a batch, counted from the start of the run."""
        first = (batch * self.processes + self.process) * self.batch_size
        return list(range(first, first + self.batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.positions, itertools.count(self.start))


def stream_loader(
    stream: TrainingStream, batches: StreamBatches, collate: Collate, *, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """Create a loader of one process's batches, in an order that does not depend on the number of workers.

    Args:
        stream: the samples.
        batches: positions of each batch's samples.
        collate: collates samples into a batch.
        num_workers: worker processes that prepare batches; 0 to prepare them in this process.
        pin_memory: whether to put batches into pinned memory, from which GPUs copy faster.
    """
    # A separate generator, because starting workers draws a number, which must not change dropout's random numbers.
    own, collate = torch.Generator(), partial(in_batch, collate)
    return DataLoader(stream, batch_sampler=batches, num_workers=num_workers, collate_fn=collate, generator=own, pin_memory=pin_memory)


__all__ = ["StreamBatches", "TrainingStream", "mix_seeds", "stream_loader"]
