"""Proves that the pipeline of a saved checkpoint works where mult_hf is not installed."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from mult_hf import MulTForMultiTaskDensePrediction, MultiTaskVisionPipeline, registered_tasks
from support.pipelines import assert_same

CLEAN_PROCESS = """
import importlib.abc, sys, torch
from pathlib import Path

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mult_hf":
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
try:
    import mult_hf
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("mult_hf can be imported")

from transformers import AutoImageProcessor, AutoModel, pipeline

save_again = sys.argv[1] == "save"
image, out, *checkpoints = map(Path, sys.argv[2:])
for number, checkpoint in enumerate(checkpoints):
    predict = pipeline("multitask-vision", model=str(checkpoint), trust_remote_code=True)
    result = predict(str(image))
    torch.save({task: maps["prediction"] for task, maps in result.items()}, out / f"{number}.pt")
    result["principal_curvature"]["image"].save(out / f"{number}.png")
    assert type(predict).__module__.startswith("transformers_modules.")
    if number or not save_again:
        continue
    predict.save_pretrained(out / f"{number}-by-pipeline")
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    assert all(type(one).__module__.startswith("transformers_modules.") for one in (model, processor))
    model.save_pretrained(out / f"{number}-by-parts")
    processor.save_pretrained(out / f"{number}-by-parts")
"""


def run_clean_process(what, out, image, *checkpoints):
    """Predict with each checkpoint in a process that cannot import mult_hf, and `"save"` the first again twice, or only `"look"`."""
    out.mkdir()
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_MODULES_CACHE": str(out / "modules"),
        "HF_HOME": str(out / "home"),
    }
    command = [sys.executable, "-c", CLEAN_PROCESS, *map(str, (what, image, out, *checkpoints))]
    run = subprocess.run(command, capture_output=True, text=True, cwd=out, env=environment)
    assert run.returncode == 0, run.stderr
    return [
        ({task: {"prediction": maps} for task, maps in torch.load(out / f"{i}.pt").items()}, Image.open(out / f"{i}.png"))
        for i in range(len(checkpoints))
    ]


@pytest.fixture(scope="module")
def clean_runs(directory, predict, image, tmp_path_factory):
    """Predictions of clean processes: first from checkpoints of this process, then from those that the first clean one saved."""
    folder = tmp_path_factory.mktemp("clean")
    image.save(folder / "image.png")
    predict.save_pretrained(folder / "saved-by-pipeline")
    first = run_clean_process("save", folder / "first", folder / "image.png", directory, folder / "saved-by-pipeline")
    again = [folder / "first" / name for name in ("0-by-pipeline", "0-by-parts")]
    second = run_clean_process("look", folder / "second", folder / "image.png", *again)
    names = ["saved as model and processor", "saved as pipeline", *(f"saved again, {path.name}" for path in again)]
    return dict(zip(names, [*first, *second], strict=True)), [directory, folder / "saved-by-pipeline", *again]


@pytest.mark.slow
def test_without_mult_hf_predictions_are_the_same_even_after_saving_again(clean_runs, wanted):
    runs, _ = clean_runs
    assert len(runs) == 4
    for result, _ in runs.values():
        assert_same(result, wanted, 1e-6)


@pytest.mark.slow
def test_an_unregistered_task_of_the_checkpoint_is_predicted_and_drawn(clean_runs, wanted):
    assert "principal_curvature" not in registered_tasks()
    runs, _ = clean_runs
    for result, image in runs.values():
        assert result["principal_curvature"]["prediction"].shape[0] == 2
        assert np.array_equal(np.asarray(image), np.asarray(wanted["principal_curvature"]["image"]))


@pytest.mark.slow
def test_every_checkpoint_contains_all_its_code_and_imports_no_other_packages(clean_runs):
    """Loading from the Hub reads every imported file, a local load only the entry file, so this test follows all imports."""
    allowed = {"torch", "torchvision", "numpy", "PIL", "transformers", "huggingface_hub"}
    _, checkpoints = clean_runs
    for checkpoint in checkpoints:
        entries = {"configuration_mult", "modeling_mult", "image_processing_mult", "image_processing_pil_mult", "pipeline_mult"}
        closure, waiting = set(), entries
        while waiting:
            closure |= waiting
            files = [checkpoint / f"{name}.py" for name in waiting]
            assert all(file.is_file() for file in files), (checkpoint, waiting)
            waiting = {needed for file in files for needed in get_relative_imports(file)} - closure
        assert {"tasks", "decoder_mult", "decoder_unet", "decoder_mtan", "losses", "visualization"} <= closure
        assert {file.stem for file in checkpoint.glob("*.py")} == closure
        for name in closure:
            foreign = set(get_imports(checkpoint / f"{name}.py")) - allowed - set(sys.stdlib_module_names)
            assert not foreign, f"{name}.py imports {foreign}"


def test_with_mult_hf_imported_its_own_pipeline_runs_without_trust(directory):
    assert type(pipeline("multitask-vision", model=str(directory))) is MultiTaskVisionPipeline
    assert type(AutoModel.from_pretrained(directory)) is MulTForMultiTaskDensePrediction
