"""Proves that streamed rows are read once per epoch by all processes and workers together, and continue exactly after an interruption."""

import json
from collections import Counter
from functools import partial
from itertools import islice, pairwise

import pytest
from datasets import Dataset, Features, IterableDataset, Value

from mult_hf.data.collator import AUGMENTATION_SEED
from mult_hf.data.mixing import mix_datasets
from mult_hf.training.batches import EPOCH, StreamedRows, check_shards

pytest.importorskip("torchdata")
from torchdata.stateful_dataloader import StatefulDataLoader

SHARDS = [7, 5, 9, 4, 6, 8]  # rows in each: unequal, so that processes and workers end their epochs at different moments
ROWS = sorted(shard * 100 + row for shard, count in enumerate(SHARDS) for row in range(count))


def _numbers(shards):
    for shard in shards:
        for row in range(SHARDS[shard]):
            yield {"number": shard * 100 + row}


def rows_in_shards():
    return IterableDataset.from_generator(
        _numbers, gen_kwargs={"shards": list(range(len(SHARDS)))}, features=Features({"number": Value("int64")})
    )


def reader(seed=0, window=4, rows=None, **processes):
    return StreamedRows(rows_in_shards() if rows is None else rows, seed=seed, window=window, **processes)


def epochs(samples):
    """Numbers of the samples by epoch, in the order in which they came."""
    found = {}
    for sample in samples:
        found.setdefault(sample[EPOCH], []).append(sample["number"])
    return found


def loader(workers, process=0, processes=1, batch_size=3):
    rows = reader(process=process, processes=processes)
    return StatefulDataLoader(rows, batch_size=batch_size, num_workers=workers, collate_fn=list)


def test_every_epoch_has_every_row_once_in_a_new_order():
    found = epochs(islice(reader(), 4 * len(ROWS)))
    assert [sorted(found[epoch]) for epoch in range(4)] == [ROWS] * 4
    assert len({tuple(order) for order in found.values()}) == 4
    assert found[0] != ROWS


def test_the_order_and_the_augmentation_depend_on_the_seed_alone():
    first, again, other = (list(islice(reader(seed=seed), 60)) for seed in (1, 1, 2))
    assert first == again
    assert [row["number"] for row in first] != [row["number"] for row in other]
    assert len({row[AUGMENTATION_SEED] for row in first + other}) == 120


def test_a_window_mixes_rows_beyond_their_neighbours():
    """Premise of the window: without one, the rows of a shard keep their order."""
    in_order = [row["number"] for row in islice(reader(window=1), len(ROWS))]
    assert all(later == earlier + 1 for earlier, later in pairwise(in_order) if later // 100 == earlier // 100)
    mixed = [row["number"] for row in islice(reader(window=len(ROWS)), len(ROWS))]
    assert sum(later == earlier + 1 for earlier, later in pairwise(mixed)) < 6


def test_processes_share_an_epoch_without_gap_or_repetition():
    parts = [epochs(islice(reader(process=process, processes=4), 200)) for process in range(4)]
    for epoch in range(3):
        assert sorted(number for part in parts for number in part[epoch]) == ROWS
    shares = [{process: Counter(n // 100 for n in part[epoch]) for process, part in enumerate(parts)} for epoch in range(3)]
    assert shares[0] != shares[1], "a process reads other shards in the next epoch"


@pytest.mark.parametrize("processes", [1, 2])
def test_workers_share_an_epoch_without_gap_or_repetition(processes):
    found = Counter()
    for process in range(processes):
        for batch in islice(loader(2, process, processes), 60):
            found.update((row[EPOCH], row["number"]) for row in batch)
    assert set(found.values()) == {1}
    assert sorted(number for epoch, number in found if epoch == 0) == ROWS
    assert sorted(number for epoch, number in found if epoch == 1) == ROWS


def test_reading_continues_behind_every_sample():
    """Also inside a window, at the ends of shards and at the end of an epoch."""
    expected = list(islice(reader(), 90))
    for moment in range(80):
        interrupted = reader()
        assert list(islice(interrupted, moment)) == expected[:moment]
        state = json.loads(json.dumps(interrupted.state_dict()))
        continued = reader()
        continued.load_state_dict(state)
        assert list(islice(continued, 5)) == expected[moment : moment + 5], moment


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_continues_with_the_next_batch(workers):
    expected = list(islice(loader(workers), 24))
    for moment in (1, 2, 7, 13, 20):
        interrupted = loader(workers)
        batches = iter(interrupted)
        assert list(islice(batches, moment)) == expected[:moment]
        state = interrupted.state_dict()
        del batches
        continued = loader(workers)
        continued.load_state_dict(state)
        assert list(islice(continued, 4)) == expected[moment : moment + 4]


def test_a_mixture_by_weight_continues_behind_every_sample():
    stored = Dataset.from_dict({"number": [1000 + n for n in range(12)]})
    make = partial(mix_datasets, {"many": rows_in_shards(), "few": stored.to_iterable_dataset(4)}, {"many": 3, "few": 1}, seed=5)
    expected = list(islice(reader(rows=make()), 60))
    shares = Counter(row["source"] for row in expected)
    assert 30 < shares["many"] < 58
    for moment in (0, 1, 11, 37):
        interrupted = reader(rows=make())
        list(islice(interrupted, moment))
        continued = reader(rows=make())
        continued.load_state_dict(interrupted.state_dict())
        assert list(islice(continued, 6)) == expected[moment : moment + 6]


def test_fewer_shards_than_readers_are_refused():
    check_shards(rows_in_shards(), processes=3, workers=2)
    with pytest.raises(ValueError, match=r"6 shards, fewer than 2 processes x 4 workers; lower --num_workers"):
        check_shards(rows_in_shards(), processes=2, workers=4)


def test_rows_without_known_columns_are_refused():
    rows = IterableDataset.from_generator(_numbers, gen_kwargs={"shards": [0, 1]})
    with pytest.raises(ValueError, match="the columns of the streamed rows are unknown"):
        reader(rows=rows)


def test_data_without_rows_stop_the_run_instead_of_waiting_forever():
    empty = Dataset.from_dict({"number": [1, 2]}).to_iterable_dataset(1).filter(_nothing)
    with pytest.raises(ValueError, match="no rows in 100 passes"):
        next(iter(reader(rows=empty.cast(Features({"number": Value("int64")})))))


def _nothing(row):
    return False
