"""Proves that an error about a row names it: in this process, in a worker's, and in each place that reads rows."""

import io
from contextlib import closing

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader

from mult_hf import MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.image_column import as_image_columns
from mult_hf.data.mixing import mix_datasets
from mult_hf.data.row_errors import ROW, RowError, in_batch, naming_row, read_row
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.batches import StreamedBatches
from mult_hf.training.stream import StreamBatches, TrainingStream, stream_loader


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = png(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
DEPTH = png(np.random.default_rng(1).integers(500, 2500, (32, 32)).astype(np.uint16))
BROKEN_DEPTH = {
    "truncated": (DEPTH[: len(DEPTH) // 2], r"row 2, column 'depth': image cannot be read completely: .*truncated"),
    "no image": (b"metres", r"row 2, column 'depth': image cannot be read as an image"),
    "8 bits": (png(np.full((32, 32), 9, np.uint8)), r"row 2: .*depth: the stored map is uint8"),
    "wider": (png(np.full((32, 64), 1024, np.uint16)), r"depth of row 2: the map has 32 x 64 pixels, its image 32 x 32"),
}


# Starting a worker takes a second: one error of reading, and one of preparing.
IN_THIS_PROCESS_AND_IN_A_WORKER = [
    pytest.param(*BROKEN_DEPTH[name], workers, id=f"{name}, {workers} workers")
    for name in BROKEN_DEPTH
    for workers in ((0, 1) if name in ("truncated", "wider") else (0,))
]


def rows_with(depth, number=2, count=4):
    """Rows of which one has this depth map."""
    depths = [DEPTH] * count
    depths[number] = depth
    cells = {"image": [IMAGE] * count, "depth": depths}
    columns = {name: [{"bytes": content, "path": None} for content in contents] for name, contents in cells.items()}
    return as_image_columns(Dataset.from_dict(columns, features=Features({name: ImageFeature() for name in columns})))


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def collator():
    return MultiTaskCollator(MulTImageProcessor(size={"height": 32, "width": 32}, tasks=["depth"]))


@pytest.mark.parametrize(("depth", "message", "workers"), IN_THIS_PROCESS_AND_IN_A_WORKER)
def test_a_training_batch_names_the_row_that_cannot_be_used(collator, depth, message, workers):
    loader = stream_loader(TrainingStream(rows_with(depth), seed=0), StreamBatches(4), collator, num_workers=workers)
    with pytest.raises(RowError, match=rf"^{message}") as found:
        next(iter(loader))
    assert "Traceback" not in str(found.value)


@pytest.mark.parametrize(("depth", "message"), BROKEN_DEPTH.values(), ids=BROKEN_DEPTH)
def test_the_constant_baseline_names_the_row_that_cannot_be_used(collator, depth, message):
    with pytest.raises(RowError, match=rf"^{message}"):
        constant_baseline(rows_with(depth), collator)


def test_rows_that_can_be_used_are_prepared_once_and_together():
    calls = []
    assert in_batch(lambda rows: calls.append(len(rows)) or len(rows), [{ROW: "row 0"}, {ROW: "row 1"}]) == 2
    assert calls == [2]


def test_rows_that_only_together_cannot_be_used_keep_their_error():
    def same_size(rows):
        if len({row["size"] for row in rows}) > 1:
            raise ValueError("sizes differ")
        return torch.ones(1)

    with pytest.raises(ValueError, match=r"^sizes differ$"):
        in_batch(same_size, [{ROW: "row 0", "size": 1}, {ROW: "row 1", "size": 2}])


def test_an_error_that_names_the_row_is_not_prefixed_again():
    with pytest.raises(RowError, match=r"^depth of row 3: too small$"), naming_row("row 3"):
        raise ValueError("depth of row 3: too small")
    with pytest.raises(RowError, match=r"^row 3: depth of row 31: too small$"), naming_row("row 3"):
        raise ValueError("depth of row 31: too small")
    with pytest.raises(RowError, match=r"^depth of sample \(id 3\): too small$"), naming_row("sample (id 3)"):
        raise ValueError("depth of sample (id 3): too small")


def test_a_message_about_a_row_has_no_position_in_a_batch_and_no_internal_column(collator):
    rows = [{**row, ROW: f"row {number}"} for number, row in enumerate(rows_with(BROKEN_DEPTH["8 bits"][0]))]
    with pytest.raises(RowError, match=r"^row 2: depth: the stored map is uint8"):
        in_batch(collator, rows)
    rows[1]["image"] = None
    with pytest.raises(RowError, match=r"have no image; their columns are \['depth', 'image'\]$"):
        in_batch(collator, rows)


@pytest.mark.parametrize(("depth", "message", "workers"), IN_THIS_PROCESS_AND_IN_A_WORKER)
def test_streamed_samples_that_cannot_be_used_are_named_by_their_columns(collator, accelerator, depth, message, workers):
    rows = rows_with(depth).add_column("note", ["a", "b", "c", "d"]).to_iterable_dataset(num_shards=2)
    arguments = TrainingArguments(batch_size=2, num_workers=workers, max_steps=1)
    batches = StreamedBatches(rows, collator, arguments, accelerator)
    with closing(batches), pytest.raises(RowError, match=message.replace("row 2", r"sample \(note c\)")) as found:
        [next(batches) for _ in range(2)]
    assert "Traceback" not in str(found.value)
    assert str(found.value).count("note c") == 1


def test_other_errors_than_those_of_contents_pass_unchanged():
    with pytest.raises(TypeError, match=r"^a bug$"), naming_row("row 3"):
        raise TypeError("a bug")


class Failing:
    """A data set whose rows cannot be used; a worker process pickles it."""

    def __len__(self):
        return 1

    def __getitem__(self, number):
        raise RowError(f"row {number}: Caught a cold in DataLoader worker process 7.\nsecond line")


def test_a_workers_error_has_the_message_of_the_row_alone():
    with pytest.raises(RowError) as found:
        next(iter(DataLoader(Failing(), num_workers=1)))
    assert str(found.value) == "row 0: Caught a cold in DataLoader worker process 7.\nsecond line"


def test_a_list_of_rows_is_read_as_one():
    assert read_row([{"a": 1}], 0) == {"a": 1, ROW: "row 0"}


def test_a_row_of_a_mixture_is_named_with_its_data_set():
    mixed = mix_datasets({"sound": rows_with(DEPTH), "broken": rows_with(BROKEN_DEPTH["no image"][0])})
    number = next(index for index in range(len(mixed)) if mixed.select_columns(["source"])[index]["source"] == "broken")
    numbers = range(number, len(mixed))
    with pytest.raises(RowError, match=r"^row \d+ \(source broken\), column 'depth': image cannot be read as an image"):
        [read_row(mixed, each) for each in numbers]


def test_a_selected_row_keeps_the_number_that_the_data_set_has():
    assert read_row(rows_with(DEPTH).select([3]), 0, 3)[ROW] == "row 3"
