"""A few rooms, small enough to train on in a test."""

from pathlib import Path

import pytest
from datasets import concatenate_datasets
from huggingface_hub import DatasetCard, DatasetCardData

from examples.study.shrink import shrink
from mult_hf.data.schema import load_rows, load_task_entries

SAMPLE = Path(__file__).resolve().parents[3] / "examples/data/rooms-sample"


@pytest.fixture(scope="session")
def few_rooms(tmp_path_factory):
    """Eight views of four rooms in each split of the Rooms sample, at 128 x 128 pixels."""
    directory = tmp_path_factory.mktemp("rooms") / "few"
    directory.mkdir()
    for split, rows in load_rows(SAMPLE).items():
        views = [rows.select([first, first + 1]) for first in range(0, 16, 4)]  # four views per room
        concatenate_datasets(views).to_parquet(str(directory / f"{split}-00000-of-00001.parquet"))
    DatasetCard(f"---\n{DatasetCardData(mult_tasks=load_task_entries(SAMPLE)).to_yaml()}\n---\n").save(directory / "README.md")
    return directory


@pytest.fixture(scope="session")
def small_rooms(few_rooms):
    """The same at 32 x 32 pixels."""
    directory = few_rooms.parent / "small"
    shrink(few_rooms, directory, 32)
    return directory
