"""A small sound data set in the form that the checker reads: arrays, their entries and a card."""

from pathlib import Path

import numpy as np
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub import DatasetCard, DatasetCardData

from mult_hf.data.benchmarks.files import as_image

SIZE = (24, 32)
ENTRIES = {
    "segmentation": {
        "name": "segmentation",
        "class_names": ["wall", "floor"],
        "encoding": {"dtype": "uint8", "offset": -1, "unknown": [0]},
    },
    "depth": {"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0]}},
    "normals": {"name": "normals", "encoding": {"dtype": "uint8", "scale": 1 / 127, "offset": -1.0, "unknown": [127]}},
    "edges2d": {"name": "edges2d", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
}


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth in metres, normals (height, width, 3) and surface of a camera 1 m above the floor, 3 m before a wall and 1.2 m left of one."""
    right, down = np.meshgrid((np.arange(SIZE[1]) + 0.5 - SIZE[1] / 2) / 20, (np.arange(SIZE[0]) + 0.5 - SIZE[0] / 2) / 20)
    with np.errstate(divide="ignore"):
        depths = np.stack([np.full(SIZE, 3.0), np.where(down > 0, 1 / down, np.inf), np.where(right > 0, 1.2 / right, np.inf)])
    surface = depths.argmin(axis=0)
    return depths.min(axis=0), np.array([(0, 0, 1), (0, 1, 0), (-1, 0, 0)], float)[surface], surface


def sound_maps(seed: int = 0) -> dict[str, np.ndarray]:
    """The stored scene, with one unknown pixel per map; the floor has class 2, the walls have class 1."""
    metres, vectors, surface = scene()
    depth, normals = np.round(metres * 512).astype(np.uint16), np.round(127 + 127 * vectors).astype(np.uint8)
    classes = np.where(surface == 1, 2, 1).astype(np.uint8)
    depth[0, 0] = classes[0, 0] = 0
    normals[0, 0] = 127
    rng = np.random.default_rng(seed)
    image, edges = rng.integers(0, 256, (*SIZE, 3), np.uint8), rng.integers(0, 255, SIZE, np.uint8)
    return {"image": image, "segmentation": classes, "depth": depth, "normals": normals, "edges2d": edges}


def write(directory: Path, rows: list[dict], entries=ENTRIES) -> Path:
    """A data set as a user has it: parquet and a card. A cell is an array, bytes of a file, or None."""
    columns = sorted({column for row in rows for column in row})

    def stored(cell):
        if isinstance(cell, np.ndarray):
            return as_image(np.moveaxis(cell, -1, 0) if cell.ndim == 3 else cell)
        return {"bytes": cell, "path": "image.png"} if isinstance(cell, bytes) else cell

    as_columns = {column: [stored(row.get(column)) for row in rows] for column in columns}
    directory.mkdir(parents=True, exist_ok=True)
    features = Features({column: ImageFeature() for column in columns})
    Dataset.from_dict(as_columns, features=features).to_parquet(directory / "train-00000-of-00001.parquet")
    DatasetCard(f"---\n{DatasetCardData(mult_tasks=list(entries.values())).to_yaml()}\n---\n").save(directory / "README.md")
    return directory
