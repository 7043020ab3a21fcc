"""Proves that the metrics work as modules of the `evaluate` library: by path, combined, over processes, and without storing maps."""

import json
import multiprocessing
import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch

import mult_hf.metrics.modules as evaluation
from mult_hf.metrics import MultiTaskMetrics

MODULES = {
    "mult_segmentation": evaluation.MultSegmentation,
    "mult_depth": evaluation.MultDepth,
    "mult_normals": evaluation.MultNormals,
    "mult_maps": evaluation.MultMaps,
    "mult_boundaries": evaluation.MultBoundaries,
}
ARGUMENTS = {"mult_segmentation": {"num_classes": 3, "class_names": ("wall", "floor", "bed")}}


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """Files of `evaluate` go to the test's directory."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")


def maps(name: str, count: int = 5, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and references of several images, with unknown pixels."""
    generator = torch.Generator().manual_seed(0)
    channels = 3 if name == "mult_normals" else 1
    if name == "mult_segmentation":
        predictions, references = torch.randint(0, 3, (2, count, size, size), generator=generator)
        return predictions, references.masked_fill(torch.rand(references.shape, generator=generator) < 0.3, 255)
    predictions, references = torch.rand((2, count, channels, size, size), generator=generator)
    return predictions, references.masked_fill(torch.rand(references[:, :1].shape, generator=generator) < 0.3, float("nan"))


def expected(name: str, predictions, references) -> dict[str, float]:
    metrics = MultiTaskMetrics({"map": load(name).spec})
    for prediction, reference in zip(predictions, references):
        metrics.update({"map": prediction}, {"map": reference})
    return {key.split("/")[1]: value for key, value in metrics.compute().items()}


def load(name: str, **kwargs):
    return MODULES[name](**ARGUMENTS.get(name, {}), **kwargs)


def without_classes(values: dict) -> dict:
    return {name: value for name, value in values.items() if name != "per_class"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_returns_the_packages_metrics(name):
    predictions, references = maps(name)
    values = without_classes(load(name).compute(predictions=predictions, references=references))
    assert values == pytest.approx(expected(name, predictions, references), rel=1e-12)
    assert len(values) >= 2


@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_images_may_be_added_singly_in_batches_and_as_arrays_of_any_size(keep_in_memory):
    predictions, references = maps("mult_depth")
    whole = load("mult_depth").compute(predictions=predictions, references=references)
    module = load("mult_depth", keep_in_memory=keep_in_memory)
    module.add(prediction=predictions[0], reference=references[0])
    module.add_batch(predictions=predictions[1:3].numpy(), references=references[1:3].numpy())
    module.add_batch(predictions=[predictions[3], predictions[4, ..., :5]], references=[references[3], references[4, ..., :5]])
    assert len(module) == 5
    rest = {"predictions": [predictions[4, ..., 5:]], "references": [references[4, ..., 5:]]}
    assert module.compute(**rest) == pytest.approx(whole, rel=1e-12)


def test_a_module_is_reset_after_compute():
    predictions, references = maps("mult_maps")
    module = load("mult_maps")
    first = module.compute(predictions=predictions, references=references)
    assert all(np.isnan(value) for value in module.compute().values())
    assert module.compute(predictions=predictions, references=references) == first


def test_the_file_contains_sums_of_constant_size(tmp_path, monkeypatch):
    sizes = []
    compute = evaluation.MultDepth._compute

    def watched(self, predictions, references):
        sizes.append(sum(len(row) for row in predictions))
        assert references == [count]
        return compute(self, predictions, references)

    monkeypatch.setattr(evaluation.MultDepth, "_compute", watched)
    for count in (1, 50):
        predictions, references = maps("mult_depth", count, size=32)
        load("mult_depth").compute(predictions=predictions, references=references)
    assert sizes[0] == sizes[1] < 32 * 32


def test_segmentation_has_a_table_of_classes():
    predictions, references = maps("mult_segmentation")
    table = load("mult_segmentation").compute(predictions=predictions, references=references)["per_class"]
    assert [line["class"] for line in table] == ["wall", "floor", "bed"]
    assert sum(line["pixels"] for line in table) == (references != 255).sum()


def test_the_computed_metrics_are_chosen_on_loading():
    module = load("mult_depth", metrics=("silog_median_scaled", "rmse"))
    predictions, references = maps("mult_depth")
    assert list(module.compute(predictions=predictions, references=references)) == ["silog_median_scaled", "rmse"]
    with pytest.raises(ValueError, match="unknown are"):
        load("mult_depth", metrics=("rmsle",))


def test_a_batch_has_the_value_of_its_images_and_is_refused_as_one_image():
    """Angles of 0, 90 and 45 degrees, one per image; with the batch axis taken for channels the mean is another number."""
    target = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1).repeat(3, 1, 2, 2)
    prediction = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]).reshape(3, 3, 1, 1).repeat(1, 1, 2, 2)
    values = load("mult_normals").compute(predictions=prediction, references=target)
    assert values["mean_angle"] == pytest.approx((0 + 90 + 45) / 3, abs=1e-5)
    with pytest.raises(ValueError, match=r"prediction has shape \(3, 3, 2, 2\), but one image's map is \(3, height, width\)"):
        load("mult_normals").add(prediction=prediction, reference=target)


def test_maps_of_several_channels_are_measured_by_their_number():
    prediction, target = torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    assert load("mult_maps", channels=2).compute(predictions=prediction, references=target) == {"mae": 1.0, "rmse": 1.0}
    with pytest.raises(ValueError, match=r"map: prediction has shape \(2, 4, 4\)"):
        load("mult_maps").compute(predictions=prediction, references=target)


def test_lists_of_different_lengths_are_refused():
    predictions, references = maps("mult_depth")
    with pytest.raises(ValueError, match="zip"):
        load("mult_depth").add_batch(predictions=predictions[:2], references=references)


def test_a_refused_call_adds_none_of_its_images():
    """The cell of a notebook is run again once the list is corrected."""
    module, right, wrong = load("mult_depth", metrics=("rmse",)), torch.ones(4, 4), torch.zeros(2, 2)
    with pytest.raises(ValueError, match="they must be equal"):
        module.compute(predictions=[right + 0.5, wrong], references=[right, right])
    with pytest.raises(ValueError, match="zip"):
        module.add_batch(predictions=[right + 0.5], references=[right, right])
    assert len(module) == 0
    assert module.compute(predictions=[right], references=[right]) == {"rmse": 0.0}


def test_modules_can_be_combined():
    predictions, references = maps("mult_maps")
    both = evaluate.combine([load("mult_depth"), load("mult_maps")])
    both.add(prediction=predictions[0], reference=references[0])
    both.add_batch(predictions=predictions[1:], references=references[1:])
    values = both.compute()
    depth = expected("mult_depth", predictions, references)
    assert values["abs_rel"] == pytest.approx(depth["abs_rel"])
    assert values["mult_depth_rmse"] == values["mult_maps_rmse"] == pytest.approx(depth["rmse"])  # two of the name


def measure_a_part(process: int, count: int, directory: str, results: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    predictions, references = maps("mult_depth")
    module = load("mult_depth", num_process=count, process_id=process, experiment_id="shared", cache_dir=directory)
    if process < 2:  # the last one gets no image
        module.add_batch(predictions=predictions[process::2], references=references[process::2])
    results.put((process, module.compute()))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_several_processes_give_the_same_number_as_one(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=measure_a_part, args=(number, 3, str(tmp_path), results)) for number in range(3)]
    for process in processes:
        process.start()
    values = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert values[0] == pytest.approx(expected("mult_depth", *maps("mult_depth")), rel=1e-12)
    assert values[1] is values[2] is None


LOAD_BY_PATH = """
import json, os, sys
from pathlib import Path
written = lambda: sorted(str(path) for path in Path(os.environ["HF_HOME"]).rglob("*"))
import evaluate
before = written()
from mult_hf.metrics.modules import script
print(json.dumps([before, written()]))
arguments = json.loads(sys.argv[1])
loaded = [evaluate.load(script(name), **arguments.get(name, {})) for name in arguments["names"]]
print(json.dumps([[module.name, type(module).__name__] for module in loaded]))
"""


def run_in_empty_home(directory, *argv):
    """Run Python with no cached file anywhere; returns what it printed."""
    environment = {**os.environ, "HF_HOME": str(directory), "HF_EVALUATE_OFFLINE": "1"}
    for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE"):
        environment.pop(name, None)
    run = subprocess.run([sys.executable, "-c", *argv], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_modules_load_by_path_and_importing_them_writes_no_files_beyond_those_of_evaluate(tmp_path):
    printed = run_in_empty_home(tmp_path, LOAD_BY_PATH, json.dumps({**ARGUMENTS, "names": list(MODULES)})).splitlines()
    before, after = json.loads(printed[0])
    assert after == before
    assert json.loads(printed[1]) == [[name, cls.__name__] for name, cls in MODULES.items()]


def test_a_script_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="unknown evaluate module 'mult_height'; allowed: mult_boundaries, mult_depth"):
        evaluation.script("mult_height")


@pytest.mark.parametrize("role", ["prediction", "reference"])
def test_a_masked_array_is_refused_because_its_mask_would_be_lost(role):
    """Without the mask, the masked pixel of 1000 m would count."""
    masked = np.ma.array([[1000.0, 2.0]], mask=[[True, False]])
    with pytest.raises(ValueError, match=r"map is a masked array, whose mask would be lost; call its filled\(\) with NaN, or 255"):
        evaluation.MultDepth(metrics=["rmse"]).add(**{"prediction": np.ones((1, 2)), "reference": np.ones((1, 2)), role: masked})
    nothing_masked = np.ma.array([[1.0, 2.0]])
    evaluation.MultDepth(metrics=["rmse"]).add(prediction=nothing_masked, reference=nothing_masked)
