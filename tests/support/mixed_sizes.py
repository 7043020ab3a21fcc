"""Images of several sizes, and their evaluation in one of several processes, which tests/evaluation/test_mixed_sizes.py starts."""

import json

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from PIL import Image

from mult_hf import MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.evaluation.loop import evaluate

SIZES = [(30, 20), (20, 30), (40, 20), (30, 20), (20, 30)]  # (width, height), as of a telephone held both ways


def rows_of(sizes, known=True):
    """Rows with random images and depth, the second without a known pixel unless `known`."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (width, height) in enumerate(sizes):
        depth = rng.integers(512, 4096, (height, width), np.uint16)
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
        rows.append({"id": f"photo {number}", "image": image, "depth": depth if known or number != 1 else np.zeros_like(depth)})
    return rows


def collator(**kwargs):
    """Of a processor that keeps the aspect ratio."""
    return MultiTaskCollator(MulTImageProcessor(size={"shortest_edge": 16}, tasks=["depth"], **kwargs))


def brightness(pixel_values):
    """A predictor whose depth depends on the pixel, so that maps of other images give other numbers."""
    return {"depth": 3 + pixel_values.mean(dim=1, keepdim=True)}


def measure_with_a_sharded_model(sizes, batch_size):
    """Measure in this process, one of several, a predictor that all processes have to call equally often, and print the metrics."""
    accelerator = Accelerator(cpu=True)

    def predict(pixel_values):
        total = torch.ones(1)
        dist.all_reduce(total)  # as gathering shards does
        assert total == accelerator.num_processes
        return brightness(pixel_values)

    found = evaluate({"model": predict}, rows_of(sizes), collator(), accelerator, batch_size=batch_size, progress=False)["model"]
    if accelerator.is_main_process:
        print(json.dumps(found.compute()))
    dist.destroy_process_group()
