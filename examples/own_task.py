"""A seventh task from one entry and one column: train it, save it, and use it in the pipeline.

    python examples/own_task.py
    python examples/own_task.py --max_steps 450 --rows 192 --batch_size 8

The task marks jumps in depth: the outlines of objects in front of others. Its maps are computed from the depth of the shipped Rooms
sample. For your own maps, change only `with_occlusion`. docs/own-task.md explains each step.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import set_seed
from PIL import Image
from transformers import pipeline

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.fields import check_bounds
from mult_hf.training.results import Provenance
from mult_hf.training.run import train

ROOMS = Path(__file__).resolve().parent / "data/rooms-sample"
SMALL_SWIN = {
    "model_type": "swin",
    "embed_dim": 24,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": 8,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}

OCCLUSION = {
    "name": "occlusion",  # also the name of the column
    "kind": "regression",
    "channels": 1,
    "activation": "sigmoid",
    "value_range": [0.0, 1.0],
    "unit": "[0, 1]",
    "loss": "l1",
    "metrics": ["mae"],
    "weight": 5.0,  # most pixels are 0, so the errors are small numbers
    "colormap": "magma",
    "encoding": {"dtype": "uint8", "scale": 1 / 254, "unknown": [255]},  # value = stored / 254
    "description": "Jump of depth between neighbouring pixels.",
}


def with_occlusion(row: dict[str, Any]) -> dict[str, Any]:
    """Add the new column to a row in its stored form: an 8-bit image, 255 where depth is unknown."""
    depth = np.asarray(row["depth"], dtype=float)  # (height, width), 0 where unknown
    slope = np.hypot(*np.gradient(np.log(np.maximum(depth, 1))))
    stored = np.where(depth == 0, 255, 254 * np.clip(5 * slope, 0, 1)).round().astype(np.uint8)
    return {"occlusion": Image.fromarray(stored)}


def main(argv: Sequence[str] | None = None) -> None:
    """Derive the column, train all seven tasks, and predict with the saved model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/own-task"), help="where everything is written")
    parser.add_argument("--max_steps", type=int, default=20, help="optimizer steps")
    parser.add_argument("--batch_size", type=int, default=4, help="images per step")
    parser.add_argument("--rows", type=int, default=16, help="rows per split; the sample has 192 for training and 64 for validation")
    flags = parser.parse_args(argv)
    check_bounds(flags, {1: ["max_steps", "batch_size", "rows"]})

    # 1. Data with the new column, and the entries of its tasks.
    tasks = [*load_task_entries(ROOMS), OCCLUSION]
    splits = {name: rows.select(range(min(flags.rows, len(rows)))) for name, rows in load_rows(ROOMS).items()}
    training_rows, validation_rows = (splits[name].map(with_occlusion) for name in ("train", "validation"))

    # 2. Model and processor from the same entries.
    set_seed(0)
    decoder = {"decoder_type": "swin_unet", "block_attention": ["self", "encoder"]}  # as in `mult-hf train`
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=SMALL_SWIN, tasks=tasks, **decoder))
    processor = MulTImageProcessor(size={"height": 128, "width": 128}, tasks=tasks)

    # 3. Training, evaluation and the model card, as for any other task.
    arguments = TrainingArguments(output_dir=flags.output_dir, max_steps=flags.max_steps, batch_size=flags.batch_size, overwrite=True)
    provenance = Provenance(dataset="rooms-sample with occlusion", start="random weights", command="python examples/own_task.py")
    results = train(model, processor, training_rows, validation_rows, arguments, provenance)
    print(f"mean absolute error of occlusion: {results['model']['occlusion/mae']:.4f}")

    # 4. The saved configuration contains the entry, so the pipeline handles the task like the others.
    maps = pipeline("multitask-vision", model=str(flags.output_dir))(validation_rows[0]["image"])
    maps["occlusion"]["image"].save(flags.output_dir / "occlusion.png")  # maps["occlusion"]["prediction"]: (height, width) in [0, 1]
    print(f"saved {flags.output_dir / 'occlusion.png'}")


if __name__ == "__main__":
    main()
