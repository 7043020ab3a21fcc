"""Proves that a saved image processor loads for both backends, and works without mult_hf and torchvision."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor

from mult_hf import LabelEncoding, MulTImageProcessor, MulTImageProcessorPil, TaskSpec

GREY_LEVEL = 1 / 255


TWO_NUMBERS = {"name": "principal_curvature", "kind": "regression", "channels": 2}


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_a_saved_processor_loads_for_both_backends(processor_class, backend, tmp_path, rgb):
    far = TaskSpec(name="depth", kind="regression", channels=1, value_range=(0, 80), encoding=LabelEncoding(dtype="uint16", scale=1 / 256))
    saved = processor_class(size={"height": 40, "width": 64}, image_mean=[0.5, 0.4, 0.3], tasks=[far, TWO_NUMBERS])
    saved.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(loaded) is {"torchvision": MulTImageProcessor, "pil": MulTImageProcessorPil}[backend]
    assert loaded.task_specs == saved.task_specs
    assert loaded.task_specs["depth"].encoding.scale == 1 / 256
    assert loaded.to_dict() == saved.to_dict()
    one, other = (p(rgb, label_maps={"depth": np.full((6, 9), 256, np.uint16)}, return_tensors="pt") for p in (saved, loaded))
    torch.testing.assert_close(one["pixel_values"], other["pixel_values"], atol=1.001 * GREY_LEVEL / 0.224, rtol=0)
    assert (other["labels"]["depth"] == 1).all()


def test_the_saved_directory_contains_the_code_of_both_backends(processor_class, tmp_path):
    """Remote code is found by the file names in the saved configuration, whichever backend saved it."""
    saved = processor_class()
    saved.save_pretrained(tmp_path)
    named = saved.to_dict()["auto_map"]["AutoImageProcessor"]
    assert set(named) == {"torchvision", "pil"}
    assert {f"{reference.split('.')[0]}.py" for reference in named.values()} <= {path.name for path in tmp_path.iterdir()}


WITHOUT_TORCHVISION = """
import importlib, sys, types
sys.modules["torchvision"] = None  # `import torchvision` fails, and looking for it finds nothing
package = types.ModuleType("remote_code")  # a folder of files without __init__.py, as transformers makes of remote code
package.__path__ = [sys.argv[1]]
sys.modules["remote_code"] = package
pil = importlib.import_module("remote_code.image_processing_pil_mult")
import numpy as np
image, depth = (np.load(path) for path in sys.argv[2:4])
batch = pil.MulTImageProcessorPil(size={"height": 32, "width": 40})(image, label_maps={"depth": depth}, return_tensors="np")
assert "mult_hf" not in sys.modules
np.savez(sys.argv[4], pixel_values=batch["pixel_values"], depth=batch["labels"]["depth"])
"""


@pytest.mark.slow
def test_the_pil_processor_works_without_torchvision(tmp_path, rgb):
    depth = np.random.default_rng(0).integers(0, 5120, (6, 9)).astype(np.uint16)
    np.save(tmp_path / "image.npy", rgb)
    np.save(tmp_path / "depth.npy", depth)
    files = Path(importlib.util.find_spec("mult_hf.model").origin).parent
    arguments = [files, *(tmp_path / name for name in ("image.npy", "depth.npy", "result.npz"))]
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCHVISION, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    here = MulTImageProcessorPil(size={"height": 32, "width": 40})(rgb, label_maps={"depth": depth}, return_tensors="np")
    there = np.load(tmp_path / "result.npz")
    np.testing.assert_array_equal(there["pixel_values"], here["pixel_values"])
    np.testing.assert_array_equal(there["depth"], here["labels"]["depth"])
