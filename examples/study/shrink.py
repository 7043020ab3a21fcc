"""Store a data set at a smaller size, as training would resize it, so that it fits where little can be carried.

    python examples/study/shrink.py data/rooms-128 data/rooms-64 --size 64

Images and label maps go through the image processor, and are stored without loss in the encodings of the tasks' entries.
Other columns stay as they are.
"""

import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image as PILImage
from torch import Tensor

from mult_hf import MulTImageProcessor
from mult_hf.cli import arguments as command_line
from mult_hf.data.schema import CARD_KEY, card_configs, load_rows, load_task_entries
from mult_hf.data.synthetic.rows import map_cell
from mult_hf.model.tasks import TaskSpec, resolve_tasks


@dataclass
class ShrinkArguments:
    """What is resized, and where the result is written."""

    dataset: Path = command_line.positional("directory of a data set")
    output_dir: Path = command_line.positional("where the smaller one is written")
    size: int = command_line.flag(64, "side of images and maps in pixels")
    tasks_from: Path | None = command_line.flag(None, "directory whose card lists the tasks, if the data set's own card does not")


def small_row(row: Mapping[str, Any], processor: MulTImageProcessor, specs: Mapping[str, TaskSpec]) -> dict[str, Any]:
    """A row with its image and maps at the processor's size, as cells of PNG bytes."""
    maps = {task: [row[task]] for task in specs}
    batch = processor([row["image"]], label_maps=maps, do_rescale=False, do_normalize=False, return_tensors="pt")
    cells = {task: map_cell(spec.encode(batch["labels"][task][0].numpy())) for task, spec in specs.items()}
    return {**row, "image": png(batch["pixel_values"][0]), **cells}


def png(pixel_values: Tensor) -> dict[str, Any]:
    """A cell of the image (3, height, width) in [0, 255]."""
    buffer = io.BytesIO()
    pixels = pixel_values.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()  # (height, width, 3)
    PILImage.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return {"bytes": buffer.getvalue(), "path": None}


def shrink(dataset: Path, output_dir: Path, size: int, tasks_from: Path | None = None) -> None:
    """Write a data set's splits at another size, and its card.

    Raises:
        ValueError: if a card lists no tasks, or the output directory has files.
    """
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty; choose another directory, or remove it")
    entries = load_task_entries(tasks_from or dataset)
    specs = resolve_tasks(entries)
    processor = MulTImageProcessor(size={"height": size, "width": size}, tasks=list(specs.values()))
    output_dir.mkdir(parents=True, exist_ok=True)
    splits = load_rows(dataset)
    for split, rows in splits.items():
        features = Features({**rows.features, **dict.fromkeys(["image", *specs], Image())})
        small = Dataset.from_list([small_row(row, processor, specs) for row in rows], features=features)
        small.to_parquet(output_dir / f"{split}-00000-of-00001.parquet")
    configs = card_configs(output_dir, [{"split": split, "path": f"{split}-*.parquet"} for split in splits])
    header = DatasetCardData(configs=configs, **{CARD_KEY: entries})
    text = f"{dataset.name} at {size} x {size} pixels, made by examples/study/shrink.py. Rows: "
    text += json.dumps({split: len(rows) for split, rows in splits.items()})
    DatasetCard(f"---\n{header.to_yaml()}\n---\n{text}\n").save(output_dir / "README.md")


def main(argv: Sequence[str] | None = None) -> None:
    """Resize a data set as the command line says."""
    arguments = command_line.parse_arguments(ShrinkArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    shrink(arguments.dataset, arguments.output_dir, arguments.size, arguments.tasks_from)


if __name__ == "__main__":
    main()
