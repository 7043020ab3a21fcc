"""Batches of a training run: from stored rows, or from rows that are read on demand.

Both kinds continue exactly where a checkpoint was written. The batches of stored rows follow from the seed and the number of the batch
alone ([`mult_hf.training.stream`]), so nothing has to be saved. Streamed rows cannot be read at any position, so each process saves how
far its workers have read.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from mult_hf.data.collator import Collate
from mult_hf.data.row_errors import AUGMENTATION_SEED, EPOCH, INTERNAL, ROW, decode_row, in_batch
from mult_hf.model.entry_fields import refusal
from mult_hf.model.image_processing_base import MulTBatchFeature

from .arguments import TrainingArguments
from .progress import FROM_WEIGHTS, describe_rows, describe_samples, short_columns
from .stream import StreamBatches, TrainingStream, mix_seeds, stream_loader

if TYPE_CHECKING:
    from torchdata.stateful_dataloader import StatefulDataLoader

MAX_EMPTY_EPOCHS = 100


class TrainingBatch(NamedTuple):
    """A batch, and the names of its samples for error messages: positions of stored rows, or short columns of streamed ones."""

    features: MulTBatchFeature
    samples: Sequence[Any]


class BatchSource(Protocol):
    """The endless sequence of one process's batches."""

    @property
    def number_of_rows(self) -> int | None:
        """Number of training rows; None if it is not known."""
        ...

    def start(self, number: int) -> None:
        """Continue with the batch of this number, counted from the start of the run."""
        ...

    def __next__(self) -> TrainingBatch:
        """The next batch."""
        ...

    def epoch(self, seen: int) -> float:
        """Passes over the data, after so many samples in all processes."""
        ...

    def describe(self, batches: Sequence[TrainingBatch]) -> list[str]:
        """Names of the samples of batches, for error messages."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


def make_batches(rows: Dataset | IterableDataset, collate: Collate, arguments: TrainingArguments, accelerator: Accelerator) -> BatchSource:
    """The source of a run's batches.

    Raises:
        ValueError: if there are no rows, or fewer shards than processes and workers that read them.
    """
    if isinstance(rows, IterableDataset):
        return StreamedBatches(rows, collate, arguments, accelerator)
    return StoredBatches(rows, collate, arguments, accelerator)


class StoredBatches:
    """Batches of rows that can be read in any order.

    Args:
        rows: a map-style data set.
        collate: collates samples into a batch.
        arguments: of the run.
        accelerator: the processes.
    """

    def __init__(self, rows: Dataset, collate: Collate, arguments: TrainingArguments, accelerator: Accelerator) -> None:
        self.stream = TrainingStream(rows, arguments.seed)
        self.number_of_rows = len(rows)
        self._positions = partial(StreamBatches, arguments.batch_size, accelerator.process_index, accelerator.num_processes)
        pinned = accelerator.device.type == "cuda"
        self._loader = partial(stream_loader, self.stream, collate=collate, num_workers=arguments.num_workers, pin_memory=pinned)
        self._numbered: Iterator[TrainingBatch] | None = None

    def start(self, number: int) -> None:
        """Continue with the batch of this number."""
        sampler = self._positions(number)
        numbered = enumerate(self._loader(sampler), number)
        self._numbered = (TrainingBatch(features, sampler.positions(number)) for number, features in numbered)

    def __next__(self) -> TrainingBatch:
        """The next batch."""
        if self._numbered is None:
            self.start(0)
        return next(self._numbered)  # type: ignore[arg-type]  # set by `start`

    def epoch(self, seen: int) -> float:
        """Passes over the data, after so many samples in all processes."""
        return round(seen / self.number_of_rows, 4)

    def describe(self, batches: Sequence[TrainingBatch]) -> list[str]:
        """Row numbers and short columns."""
        return describe_rows(self.stream, [position for batch in batches for position in batch.samples])

    def close(self) -> None:
        """Stop the workers."""
        self._numbered = None


class StreamedRows(TorchIterableDataset):
    """The endless sequence of samples of one process and worker, which can be saved and continued after any sample.

    An epoch reads the shards in a new order, which is divided among processes and workers. So every shard is read once per epoch, and a
    worker gets different shards each time. A worker that is faster, or has shorter shards, begins the next epoch earlier; no worker waits.

    Within a worker, rows are shuffled in windows: each window of consecutive rows is read and permuted. A window's permutation follows
    from the seed, the epoch and its position, so after an interruption the worker reads the current window again, and continues after the
    last row that was used. The shuffle buffer of `datasets` loses its rows at an interruption (datasets 5.2, `IterableDataset.state_dict`).

    Args:
        rows: rows with known features, in shards.
        seed: seed of order and augmentation.
        window: rows per window; encoded, they are in memory in every worker.
        process: index of this process.
        processes: number of processes.

    Raises:
        ValueError: if the features are unknown.
    """

    def __init__(self, rows: IterableDataset, *, seed: int, window: int, process: int = 0, processes: int = 1) -> None:
        if rows.features is None:
            raise ValueError("the columns of the streamed rows are unknown; pass features=Features(...) when you create them")
        self.rows, self.seed, self.window = rows, seed, window
        self._features = rows.features
        self._tokens = getattr(rows, "_token_per_repo_id", None)  # which `datasets` passes on when it decodes rows itself
        self.process, self.processes = process, processes
        self._epoch = self._count = 0
        self._saved: Mapping[str, Any] | None = None
        self._current: IterableDataset | None = None

    def in_epoch(self, epoch: int) -> IterableDataset:
        """This process's rows of an epoch, in order, with undecoded images."""
        undecoded = self.rows.decode(False)  # else the window would hold decoded images
        permute = partial(_permuted, seed=(self.seed, epoch))
        shuffled = undecoded.map(permute, batched=True, batch_size=self.window, with_indices=True)
        own = split_dataset_by_node(shuffled.cast(undecoded.features), self.process, self.processes, strategy="shards")
        own.set_epoch(1 + mix_seeds(self.seed, epoch, 3) % 2**31)  # the order of shards; epoch 0 of `datasets` has the files' order
        return own

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Samples without end, each with its augmentation seed for [`MultiTaskCollator`]."""
        worker = get_worker_info()
        lane = self.process if worker is None else self.process * worker.num_workers + worker.id
        empty = 0
        while True:
            self._current = self.in_epoch(self._epoch)
            if self._saved is not None:
                self._current.load_state_dict(dict(self._saved))
                self._saved = None
            before = self._count
            for encoded in self._current:
                self._count += 1
                row = decode_row(encoded, self._features, name_sample(name_columns(encoded)), self._tokens)
                yield {**row, AUGMENTATION_SEED: mix_seeds(self.seed, lane, self._count, 2), EPOCH: self._epoch}
            self._epoch += 1
            empty = empty + 1 if self._count == before else 0
            if empty == MAX_EMPTY_EPOCHS:
                raise ValueError(f"no rows in {empty} passes over the training data; choose another split or data set")

    def state_dict(self) -> dict[str, Any]:
        """What has been read: the epoch, the number of samples, and the position in the epoch."""
        place = self._saved if self._current is None else self._current.state_dict()
        return {"epoch": self._epoch, "count": self._count, "rows": place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the last sample that was read before the state was saved."""
        self._epoch, self._count, self._saved, self._current = state["epoch"], state["count"], state["rows"], None


def _permuted(rows: dict[str, list[Any]], indices: Sequence[int], seed: tuple[int, ...]) -> dict[str, list[Any]]:
    """A window of rows in another order, which follows from the seed and the number of its first row."""
    order = np.random.default_rng([*seed, indices[0]]).permutation(len(indices))
    return {name: [values[place] for place in order] for name, values in rows.items()}


def name_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that name a row, without what training adds to it."""
    return short_columns({key: value for key, value in row.items() if key not in INTERNAL})


def name_sample(columns: Mapping[str, Any]) -> str:
    """The name of a streamed sample from the columns that name it."""
    return describe_samples([("sample", partial(dict, columns))])[0]


class _NamingCollator:
    """Adds the names of its samples to a batch, and the latest epoch of its rows; a class, so that workers can pickle it."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> tuple[MulTBatchFeature, list[dict[str, Any]], int]:
        names = [name_columns(row) for row in rows]
        named = [{**row, ROW: name_sample(name)} for row, name in zip(rows, names)]
        return in_batch(self.collate, named), names, max(row[EPOCH] for row in rows)


class StreamedBatches:
    """Batches of rows that are read in the order of their files.

    Args:
        rows: rows with known features, in at least as many shards as there are processes and workers.
        collate: collates samples into a batch.
        arguments: of the run.
        accelerator: the processes.

    Raises:
        ImportError: if torchdata is not installed.
        ValueError: if there are too few shards.
    """

    number_of_rows = None

    def __init__(self, rows: IterableDataset, collate: Collate, arguments: TrainingArguments, accelerator: Accelerator) -> None:
        self.num_workers = arguments.num_workers
        check_shards(rows, accelerator.num_processes, arguments.num_workers)
        processes = {"process": accelerator.process_index, "processes": accelerator.num_processes}
        self._loader = _stateful_loader(
            StreamedRows(rows, seed=arguments.seed, window=arguments.shuffle_window, **processes),
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            collate_fn=_NamingCollator(collate),
            generator=torch.Generator(),  # a separate one, because starting workers draws a number
            pin_memory=accelerator.device.type == "cuda",
        )
        self._iterator: Iterator[Any] | None = None
        self._epoch = 0

    def start(self, number: int) -> None:
        """Nothing to do: [`load_state_dict`][StreamedBatches.load_state_dict] restores the position."""

    def __next__(self) -> TrainingBatch:
        """The next batch."""
        if self._iterator is None:
            self._iterator = iter(self._loader)
        features, names, self._epoch = next(self._iterator)
        return TrainingBatch(features, names)

    def epoch(self, seen: int) -> float:
        """Complete passes over the data, of the worker that prepared the last batch."""
        return self._epoch

    def describe(self, batches: Sequence[TrainingBatch]) -> list[str]:
        """Short columns."""
        return describe_samples([("sample", partial(dict, name)) for batch in batches for name in batch.samples])

    def close(self) -> None:
        """Stop the workers."""
        if self._iterator is not None:
            self._iterator = None
            self._loader.load_state_dict(self._loader.state_dict())  # which drops its own reference to the workers

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint; each process has its own."""
        return {"num_workers": self.num_workers, "loader": self._loader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from a checkpoint.

        Raises:
            ValueError: if another number of workers read the rows.
        """
        if state["num_workers"] != self.num_workers:
            raise ValueError(
                f"--num_workers was {state['num_workers']} and is {self.num_workers}; each worker reads its own shards of streamed rows: "
                f"continue with --num_workers {state['num_workers']}, or {FROM_WEIGHTS}"
            )
        self._loader.load_state_dict(dict(state["loader"]))


def check_shards(rows: IterableDataset, processes: int, workers: int) -> None:
    """Check that every worker gets a shard.

    Raises:
        ValueError: if there are fewer shards than processes and workers.
    """
    if rows.num_shards < processes * max(workers, 1):
        raise refusal(
            f"the training data have {rows.num_shards} shards, fewer than {processes} processes x {max(workers, 1)} workers; lower "
            "--num_workers, or store the rows in more files or row groups (docs/training.md#streaming)"
        )


def _stateful_loader(rows: StreamedRows, **options: Any) -> "StatefulDataLoader":
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader
    except ImportError as error:
        raise ImportError(f'streaming needs torchdata ({error}); install it with: pip install "mult-hf[stream]"') from error
    return StatefulDataLoader(rows, **options)


__all__ = ["BatchSource", "StoredBatches", "StreamedBatches", "StreamedRows", "TrainingBatch", "check_shards", "make_batches"]
