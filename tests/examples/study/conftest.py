"""A few rooms, small enough to train on in a test."""

import json
from pathlib import Path

import pytest
import torch
from datasets import concatenate_datasets
from huggingface_hub import DatasetCard, DatasetCardData

from examples.study import train_stacks
from examples.study.shrink import shrink
from mult_hf.data.schema import load_rows, load_task_entries
from support.studies import write_plan

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


@pytest.fixture(scope="session")
def study_results(small_rooms, tmp_path_factory):
    """Directory and results of a tiny study: MulT, its counterpart without sharing, and single tasks with half of the steps."""
    directory = tmp_path_factory.mktemp("study")
    blocks = {"block_attention": ["self+skip", "encoder+skip"]}
    networks = {
        "MulT with skip": blocks,
        "own maps with skip": {"decoder": "mult_own_maps", **blocks},
        "single-task with skip, half the steps": {**blocks, "alone": True, "tasks": ["depth", "segmentation"], "steps": 0.5},
    }
    plan = write_plan(directory / "plan.yaml", small_rooms, networks)
    threads = torch.get_num_threads()
    argv = ["--plan", str(plan), "--output_dir", str(directory / "out"), "--keep_weights", str(directory / "weights")]
    assert train_stacks.main(argv) == 0
    torch.set_num_threads(threads)
    return directory, {path.stem: json.loads(path.read_text()) for path in (directory / "out").glob("*.json")}
