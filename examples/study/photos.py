"""Cut the frames of a video with label maps into small squares, for the study's networks.

    python -m examples.study.photos photos/hololens-office data/office-64 --size 64

The middle square of each frame is kept, at the size of the study's rooms. Frames beside each other show nearly the same, so the splits
are consecutive parts of the video (half for training, a tenth for validation, the rest for tests), and a column `block` numbers groups
of 10 frames, which the study resamples as it does rooms.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value, concatenate_datasets
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image as PILImage

from mult_hf import MulTImageProcessor
from mult_hf.cli import arguments as command_line
from mult_hf.data.schema import CARD_KEY, card_configs, load_rows, load_task_entries
from mult_hf.model.alignment import misalignment
from mult_hf.model.tasks import resolve_tasks

from .shrink import small_row

BLOCK = 10
"""Frames of a block."""


@dataclass
class PhotosArguments:
    """What is cut, and where the result is written."""

    dataset: Path = command_line.positional("directory of a data set whose rows are in the order of the video")
    output_dir: Path = command_line.positional("where the squares are written")
    size: int = command_line.flag(64, "side of images and maps in pixels")


def squares(row: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, PILImage.Image]:
    """The middle squares of a row's image and maps.

    Raises:
        ValueError: if a map is missing, or does not show what the image shows.
    """
    for task in tasks:
        reason = "is missing" if row.get(task) is None else misalignment(row[task], row["image"])
        if reason is not None:
            raise ValueError(f"the map {task} of a frame {reason}; leave the frame or the task out")
    return {name: middle_square(row[name]) for name in ("image", *tasks)}


def middle_square(cell: PILImage.Image) -> PILImage.Image:
    """The largest square around the centre."""
    side = min(cell.size)
    left, top = (cell.width - side) // 2, (cell.height - side) // 2
    return cell.crop((left, top, left + side, top + side))


def parts(count: int) -> dict[str, range]:
    """Rows of each split, whole blocks of consecutive frames.

    Raises:
        ValueError: if there are fewer than 10 blocks.
    """
    blocks = count // BLOCK
    if blocks < 10:
        raise ValueError(f"{count} frames are {blocks} blocks of {BLOCK}; at least 10 blocks are needed for three splits")
    ends = [0, blocks // 2 * BLOCK, (blocks // 2 + blocks // 10) * BLOCK, count]
    return {name: range(start, end) for name, start, end in zip(("train", "validation", "test"), ends[:-1], ends[1:], strict=True)}


def cut(dataset: Path, output_dir: Path, size: int) -> None:
    """Write the squares of a data set in three splits, and a card.

    Raises:
        ValueError: if the card lists no tasks, there are too few frames, or the output directory has files.
    """
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty; choose another directory, or remove it")
    entries = load_task_entries(dataset)
    specs = resolve_tasks(entries)
    processor = MulTImageProcessor(size={"height": size, "width": size}, tasks=list(specs.values()))
    rows = concatenate_datasets([*load_rows(dataset).values()])
    features = Features({"block": Value("int64"), **dict.fromkeys(["image", *specs], Image())})

    def square(number: int) -> Mapping[str, Any]:
        row = rows[number]
        return {"block": number // BLOCK, **small_row(squares(row, list(specs)), processor, specs)}

    splits = parts(len(rows))
    output_dir.mkdir(parents=True, exist_ok=True)
    for split, numbers in splits.items():
        small = Dataset.from_list([dict(square(number)) for number in numbers], features=features)
        small.to_parquet(output_dir / f"{split}-00000-of-00001.parquet")
    configs = card_configs(output_dir, [{"split": split, "path": f"{split}-*.parquet"} for split in splits])
    header = DatasetCardData(configs=configs, **{CARD_KEY: entries})
    text = f"Middle squares of {dataset.name} at {size} x {size} pixels, made by examples/study/photos.py from {len(rows)} frames."
    DatasetCard(f"---\n{header.to_yaml()}\n---\n{text}\n").save(output_dir / "README.md")


def main(argv: Sequence[str] | None = None) -> None:
    """Cut a data set as the command line says."""
    arguments = command_line.parse_arguments(PhotosArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    cut(arguments.dataset, arguments.output_dir, arguments.size)


if __name__ == "__main__":
    main()
