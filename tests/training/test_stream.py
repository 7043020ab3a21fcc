"""Proves that a sample and its augmentation depend only on the seed and the position."""

import pickle
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from mult_hf import MulTImageProcessor
from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.collator import AUGMENTATION_SEED, MultiTaskCollator
from mult_hf.training.stream import StreamBatches, TrainingStream, mix_seeds

ROWS = [{"number": number} for number in range(10)]


def numbers(stream, positions):
    return [stream[position]["number"] for position in positions]


def test_every_epoch_has_every_row_once_in_a_new_order():
    stream = TrainingStream(ROWS, seed=0)
    epochs = [numbers(stream, range(10 * epoch, 10 * epoch + 10)) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


def test_the_order_depends_only_on_the_seed():
    forwards, backwards = TrainingStream(ROWS, seed=3), TrainingStream(ROWS, seed=3)
    torch.rand(5)  # the global generator has no effect
    assert [forwards[p] for p in range(30)] == [backwards[p] for p in reversed(range(30))][::-1]
    assert [forwards[p] for p in range(30)] != [TrainingStream(ROWS, seed=4)[p] for p in range(30)]


def test_every_position_has_its_own_augmentation_seed():
    stream = TrainingStream(ROWS, seed=0)
    assert len({stream[position][AUGMENTATION_SEED] for position in range(1000)}) == 1000


def test_close_seeds_give_unrelated_ones():
    assert len({mix_seeds(a, b) for a in range(40) for b in range(40)}) == 1600
    assert mix_seeds(1, 2) != mix_seeds(2, 1)
    assert all(0 <= mix_seeds(a) < 2**63 for a in range(100))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_stream_without_gap_or_repetition(processes):
    samplers = [StreamBatches(4, process, processes) for process in range(processes)]
    seen = [position for batch in range(5) for sampler in samplers for position in sampler.positions(batch)]
    assert seen == list(range(5 * 4 * processes))


def test_a_batch_of_two_processes_is_the_batch_of_one_with_twice_the_size():
    halves = [StreamBatches(4, process, 2).positions(7) for process in range(2)]
    assert halves[0] + halves[1] == StreamBatches(8).positions(7)


def load(start, workers, batches=4):
    loader = DataLoader(TrainingStream(ROWS, 0), batch_sampler=StreamBatches(3, start=start), num_workers=workers, collate_fn=list)
    return [batch for _, batch in zip(range(batches), loader)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_can_start_anywhere_with_any_number_of_workers(workers):
    assert load(start=2, workers=workers, batches=2) == load(start=0, workers=0)[2:]


def test_a_stream_can_be_pickled_for_a_worker_process():
    stream = TrainingStream(ROWS, seed=5)
    stream[3]
    assert numbers(pickle.loads(pickle.dumps(stream)), range(20)) == numbers(stream, range(20))


def test_the_augmentation_of_a_seeded_row_does_not_depend_on_earlier_draws():
    processor = MulTImageProcessor(size={"height": 32, "width": 32}, tasks=["depth"])
    collate = MultiTaskCollator(processor, augment=RandomAugmentation(tasks=processor.task_specs))
    image = (torch.rand(3, 32, 32) * 255).byte()
    seeded = [{"image": image, AUGMENTATION_SEED: seed} for seed in (1, 2)]
    first = collate(seeded)["pixel_values"]
    assert not torch.equal(first[0], first[1])  # premise: the seeds make different views
    torch.rand(7)
    assert torch.equal(collate(seeded[::-1])["pixel_values"], first.flip(0))
    views = [collate([{"image": image}])["pixel_values"] for _ in range(2)]
    assert not torch.equal(*views)  # without a seed the global generator decides


def test_the_rows_of_a_large_data_set_are_used_equally_often():
    stream = TrainingStream([{"number": n} for n in range(7)], seed=1)
    counts = Counter(numbers(stream, range(70)))
    assert set(counts.values()) == {10}


def test_an_empty_data_set_and_an_empty_batch_are_refused():
    with pytest.raises(ValueError, match="have 0 rows"):
        TrainingStream([], seed=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        StreamBatches(0)
