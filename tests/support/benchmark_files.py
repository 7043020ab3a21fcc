"""Files of small benchmark downloads, and what their readers make of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from mult_hf.model.tasks import resolve_tasks

HEIGHT, WIDTH = 48, 64


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


def filled(value, dtype, channels: int = 0) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH), value, dtype)


def random_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def decoded(reader, sample: dict) -> dict[str, np.ndarray]:
    """Targets of a sample, decoded only with the reader's entries."""
    specs = resolve_tasks(reader.task_entries())
    return {task: spec.decode(np.asarray(sample[task])) for task, spec in specs.items() if sample[task] is not None}
