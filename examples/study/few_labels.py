"""Make a data set with few labels per task from one in which every view has all of them.

    python -m examples.study.few_labels data/rooms-64 data/rooms-64-few-labels

The rooms are dealt out to the tasks in turn. The splits are

- `train`: every training view, with the map of its room's task only,
- `train_TASK`: the views of `train` that have a map of that task,
- `train_few`: the rooms of the first task, with the maps of all tasks,
- the other splits, as they are.

So networks of one task on `train_TASK` and a network of all tasks on `train` learn from the same labels.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image
from huggingface_hub import DatasetCard, DatasetCardData

from mult_hf.cli import arguments as command_line
from mult_hf.data.schema import CARD_KEY, card_configs, load_rows, load_task_entries
from mult_hf.model.tasks import resolve_tasks

ROOM, TRAIN, FEW = "room", "train", "train_few"


@dataclass
class FewLabelsArguments:
    """What is read and written."""

    dataset: Path = command_line.positional("directory of a data set with a column `room`")
    output_dir: Path = command_line.positional("where the data set with few labels is written")


def task_of_rooms(rooms: Sequence[Any], tasks: Sequence[str]) -> dict[Any, str]:
    """The task whose labels each room keeps, in turn in the order in which rooms occur.

    Examples:
        >>> task_of_rooms([7, 7, 3, 9], ["depth", "normals"])
        {7: 'depth', 3: 'normals', 9: 'depth'}
    """
    return {room: tasks[number % len(tasks)] for number, room in enumerate(dict.fromkeys(rooms))}


def few_labels(splits: Mapping[str, Dataset], tasks: Sequence[str]) -> dict[str, Dataset]:
    """The splits of the data set with few labels; images are not decoded.

    Args:
        splits: rows with all maps, by split.
        tasks: names of the tasks.

    Raises:
        ValueError: if there is no split `train`, it has no column `room`, or there are fewer rooms than tasks.
    """
    if TRAIN not in splits:
        raise ValueError(f"the data set has the splits {list(splits)}; expected {TRAIN}")
    if ROOM not in splits[TRAIN].column_names:
        raise ValueError(f"{TRAIN} has the columns {splits[TRAIN].column_names}; expected {ROOM}, which says which views are of one room")
    encoded = {
        name: rows.cast(Features({**rows.features, **dict.fromkeys(["image", *tasks], Image(decode=False))}))
        for name, rows in splits.items()
    }
    rows = list(encoded[TRAIN])
    kept = task_of_rooms([row[ROOM] for row in rows], tasks)
    if len(kept) < len(tasks):
        raise ValueError(f"{len(kept)} training rooms for {len(tasks)} tasks; each task needs one at least")
    views = {
        task: [{**row, **{other: None for other in tasks if other != task}} for row in rows if kept[row[ROOM]] == task] for task in tasks
    }
    made = {TRAIN: [row for task in tasks for row in views[task]], **{f"{TRAIN}_{task}": found for task, found in views.items()}}
    made[FEW] = [row for row in rows if kept[row[ROOM]] == tasks[0]]
    features = encoded[TRAIN].features
    return {**encoded, **{name: Dataset.from_list(found, features=features) for name, found in made.items()}}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the data set as the command line says.

    Raises:
        ValueError: if the output directory has files, or there are fewer training rooms than tasks.
    """
    arguments = command_line.parse_arguments(FewLabelsArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    output_dir = arguments.output_dir
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty; choose another directory, or remove it")
    entries = load_task_entries(arguments.dataset)
    splits = few_labels(load_rows(arguments.dataset), list(resolve_tasks(entries)))
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        decoded = Features({column: Image() if isinstance(kind, Image) else kind for column, kind in rows.features.items()})
        rows.cast(decoded).to_parquet(output_dir / f"{name}-00000-of-00001.parquet")
    configs = card_configs(output_dir, [{"split": name, "path": f"{name}-*.parquet"} for name in splits])
    header = DatasetCardData(configs=configs, **{CARD_KEY: entries})
    text = f"{arguments.dataset.name} with few labels per task, made by examples/study/few_labels.py."
    DatasetCard(f"---\n{header.to_yaml()}\n---\n{text}\n").save(output_dir / "README.md")


if __name__ == "__main__":
    main()
