"""A download of CocoDoom with one frame, as of either archive."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mult_hf.data.benchmarks import cocodoom

from .benchmark_files import filled, random_image, save

IMAGE_ID = 10**9 + 10**7 + 37  # run 1, map 1, tic 37: 10e8 * run + 10e6 * level + tic
TROOP_ID = 2**23 + 7  # a thing's id; the object map keeps its lower 23 bits


def colors_of(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def write_cocodoom(root: Path, folders=("rgb", "depth", "objects")) -> Path:
    ids = filled(2**23, np.int64)  # sky
    ids[:, 10:], ids[:, 20:], ids[10:14, 40:44] = 2**23 + 1, 2**23 + 2, TROOP_ID % 2**23
    depth = filled(64 * 32 * 4, np.uint16)
    depth[:, :10] = 65535
    maps = {"rgb": None, "depth": depth, "objects": colors_of(ids)}
    level = root / "run1" / "map01"
    for folder in folders:
        if folder == "rgb":
            (level / "rgb").mkdir(parents=True)
            Image.fromarray(random_image()).quantize(16).save(level / "rgb" / "000037.png")
        else:
            save(level / folder / "000037.png", maps[folder])
    annotation = {
        "id": IMAGE_ID * 10**6 + TROOP_ID,
        "image_id": IMAGE_ID,
        "category_id": cocodoom.THINGS.index("troop"),
        "segmentation": [[40, 10, 44, 10, 44, 14, 40, 14]],
    }
    record = {"images": [{"id": IMAGE_ID, "file_name": "run1/map01/rgb/000037.png"}], "annotations": [annotation]}
    (root / "run-train.json").write_text(json.dumps(record))
    return root
