"""Proves that a released model is the rounded trained one, measured as written, and described in its card."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from examples.tools import calibrate
from examples.tools import release as script
from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows
from mult_hf.evaluation.report import example_images
from mult_hf.model.visualization import panel
from support.training_runs import DEPTH, train, weights


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A trained directory called "a", a name that also occurs inside words of its card."""
    return train(tmp_path_factory.mktemp("runs") / "a", "--dataset", data, "--tasks", "depth")


def release(run, data, directory, *flags):
    argv = ["--model", run, "--dataset", data, "--split", "validation", "--output_dir", directory, "--images", "1", *flags]
    script.main([str(word) for word in argv])
    return directory


@pytest.fixture(scope="module")
def released(run, data, tmp_path_factory):
    described = ["--limits", "Random maps.", "Nothing is seen.", "--data_command", "make maps", "--license", "mit"]
    return release(run, data, tmp_path_factory.mktemp("given") / "released-model", *described)


@pytest.fixture(scope="module")
def packaged(run, data, tmp_path_factory):
    return release(run, data, tmp_path_factory.mktemp("packaged") / "released-model", "--packaged")


def test_weights_are_stored_in_half_the_bytes_and_differ_only_by_rounding(run, released):
    stored, before = load_file(released / "model.safetensors"), weights(run)
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    assert stored.keys() == before.keys()
    assert all(torch.equal(stored[name], before[name].half()) for name in before)


def test_they_are_loaded_as_float32_by_default(released):
    assert MulTForMultiTaskDensePrediction.from_pretrained(released).dtype == torch.float32
    assert pipeline("multitask-vision", model=str(released)).model.dtype == torch.float32


def test_weights_are_readable_by_everyone(released):
    assert (released / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_card_names_data_results_and_command(released):
    card = ModelCard.load(released / "README.md")
    assert (card.data.model_name, card.data.license) == ("released-model", "mit")
    splits = {(result.metric_name, json.dumps(result.metric_args)) for result in card.data.eval_results}
    assert ("depth/rmse", json.dumps({"flip": True})) in splits
    assert "split `validation` of `maps`" in card.text
    assert "python examples/tools/release.py --model" in card.text
    assert "--data_command 'make maps'" in card.text, "quoted, so that it can be typed"
    assert "## Limits\n\nRandom maps. Nothing is seen.\n" in card.text
    assert "- data created by `make maps`" in card.text


def test_only_the_models_own_name_is_changed_in_the_card(run, released):
    old, new = ((directory / "README.md").read_text() for directory in (run, released))
    assert "# a\n" in old
    assert "# released-model\n" in new
    assert 'model="released-model"' in new
    assert "Bhattacharjee et al." in new


def test_results_are_those_of_the_written_weights(released):
    results = json.loads((released / "results.json").read_text())
    assert results["evaluated_samples"] == 4
    assert results["model"].keys() == results["mirrored"].keys() == results["constant_baseline"].keys() == results["before_rounding"].keys()
    assert 0 < abs(results["model"]["depth/rmse"] - results["before_rounding"]["depth/rmse"]) < 1e-2


def test_the_panel_shows_image_prediction_of_the_released_weights_and_truth(released, data):
    """Mean difference below one grey level: the prediction is made again, in a batch of another size."""
    assert [path.name for path in released.glob("example-*.png")] == ["example-depth.png"]
    model = MulTForMultiTaskDensePrediction.from_pretrained(released).eval()
    collator = MultiTaskCollator(MulTImageProcessor.from_pretrained(released, tasks=[{**DEPTH, "metrics": ["rmse"]}]))
    (example,) = example_images(model, load_rows(str(data), split="validation"), collator, 1)
    shown = [example.image, example.predictions["depth"], example.truths["depth"]]
    titles, keys = ["image", "depth", "truth"], [None, example.keys["depth"]]
    expected = panel([shown], titles, keys=keys)
    with Image.open(released / "example-depth.png") as written:
        assert written.size == expected.size
        difference = np.abs(np.asarray(written.convert("RGB"), float) - np.asarray(expected.convert("RGB"), float))
    assert difference.mean() < 1
    other = panel([[example.image, example.truths["depth"], example.truths["depth"]]], titles, keys=keys)
    assert np.abs(np.asarray(other.convert("RGB"), float) - np.asarray(expected.convert("RGB"), float)).mean() > 5, "premise: it shows"


def test_no_partial_files_remain(released):
    names = {path.name for path in released.iterdir() if path.suffix != ".py"}
    assert names == {
        "README.md", "config.json", "example-depth.png", "model.safetensors", "panel.png", "preprocessor_config.json", "results.json",
        "training.json",
    }  # fmt: skip


def test_a_packaged_model_has_no_copy_of_the_code_but_loads(packaged, released):
    assert list(released.glob("*.py"))
    assert not list(packaged.glob("*.py"))
    assert not any(word in path.read_text() for path in packaged.glob("*.json") for word in ("auto_map", "custom_pipelines"))
    assert 'pipeline("multitask-vision")\n' in (packaged / "README.md").read_text()
    assert "trust_remote_code" not in (packaged / "README.md").read_text(), "there is no code beside it"
    ours, theirs = (MulTForMultiTaskDensePrediction.from_pretrained(path).state_dict() for path in (packaged, released))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_beyond_the_type_are_refused():
    with pytest.raises(ValueError, match=r"\['large'\] reach 70000, beyond 65504.*--dtype float32"):
        script.to_dtype({"large": torch.tensor([7e4]), "small": torch.ones(1)}, torch.float16)


def test_the_training_run_is_never_overwritten(run, data):
    with pytest.raises(ValueError, match="full weights would be lost"):
        release(run, data, run)


def test_a_directory_without_a_card_is_refused(tmp_path, data):
    with pytest.raises(ValueError, match="which has no README"):
        release(tmp_path, data, tmp_path / "out")


def test_a_run_without_the_record_of_its_training_is_refused_before_it_is_measured(run, data, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy/metrics.json").unlink()
    with pytest.raises(ValueError, match=r"which has no metrics\.json; give the output directory of examples/train\.py, or of"):
        release(tmp_path / "copy", data, tmp_path / "out")


def test_a_calibrated_run_is_released_with_its_sections_in_the_order_of_its_steps(run, data, tmp_path):
    calibrate.main([str(word) for word in ("--model", run, "--dataset", data, "--output_dir", tmp_path / "calibrated")])
    released = release(tmp_path / "calibrated", data, tmp_path / "released")
    card = (released / "README.md").read_text()
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == ["# released", "## Results", "## Calibration", "## On held-out images", "## Outputs", "## Training", "## Limits"]
    assert "All results above were measured before this step" in card
    images = re.findall(r"\]\((\S+\.png)\)", card)
    assert images == ["panel.png", "example-depth.png"]
    for directory, names in {tmp_path / "calibrated": images[:1], released: images}.items():
        assert all((directory / name).is_file() for name in names), directory
