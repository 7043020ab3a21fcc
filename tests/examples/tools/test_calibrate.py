"""examples/tools/calibrate.py moves the predictions of the chosen tasks towards their median, and changes nothing else."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL import Image

from examples.tools import calibrate
from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.schema import load_rows

SAMPLE = str(Path(__file__).resolve().parents[3] / "examples/data/rooms-sample")


@pytest.fixture
def model_path(shallow_model, tmp_path):
    """A small model with two regressions and a classification, and its processor."""
    tasks = ["depth", "normals", "segmentation"]
    shallow_model(tasks=tasks).save_pretrained(tmp_path / "model")
    MulTImageProcessor(size={"height": 64, "width": 64}, tasks=tasks).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.slow
def test_outputs_of_the_last_layer_move_towards_their_median_by_the_factor(model_path, tmp_path):
    flags = ["--dataset", SAMPLE, "--split", "test", "--tasks", "depth", "--factor", "0.5"]
    calibrate.main(["--model", model_path, *flags, "--output_dir", str(tmp_path / "calibrated")])
    rows = load_rows(SAMPLE, split="test")
    pixel_values = MulTImageProcessor.from_pretrained(model_path)(rows[0]["image"], return_tensors="pt")["pixel_values"]
    before, after = (MulTForMultiTaskDensePrediction.from_pretrained(path).eval() for path in (model_path, tmp_path / "calibrated"))
    centre = calibrate.median_outputs(before, MulTImageProcessor.from_pretrained(model_path), rows, ["depth"])["depth"]
    with torch.no_grad():
        old, new = (model(pixel_values).predictions for model in (before, after))
    # Depth is ten times the sigmoid of the last layer's outputs (its entry's range is 0 to 10 m).
    logits, moved = (torch.logit(maps["depth"].double() / 10) for maps in (old, new))
    assert logits.std() > 1e-4, "premise: they differ"
    torch.testing.assert_close(moved, centre + 0.5 * (logits - centre), rtol=1e-4, atol=1e-4)  # float32 inside the network
    for task in ("normals", "segmentation"):
        torch.testing.assert_close(new[task], old[task])


@pytest.mark.slow
def test_half_precision_stays_and_moves_as_float32_does(model_path, tmp_path):
    half = MulTForMultiTaskDensePrediction.from_pretrained(model_path).half()
    half.save_pretrained(tmp_path / "half")
    MulTImageProcessor.from_pretrained(model_path).save_pretrained(tmp_path / "half")
    flags = ["--dataset", SAMPLE, "--split", "test", "--tasks", "depth", "depth", "normals", "--factor", "0.5"]
    for name, model in {"of-half": str(tmp_path / "half"), "of-float": model_path}.items():
        calibrate.main(["--model", model, *flags, "--output_dir", str(tmp_path / name)])
    found = {name: MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / name) for name in ("of-half", "of-float")}
    assert [model.dtype for model in found.values()] == [torch.float16, torch.float32]
    for task in ("depth", "normals"):
        of_half, of_float = (model.heads.tasks[task].projection for model in found.values())
        torch.testing.assert_close(of_half.bias.float(), of_float.bias, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(of_half.weight.float(), of_float.weight, rtol=2e-3, atol=2e-3)


def test_the_card_says_what_was_changed_and_keeps_no_results_of_the_model_before(model_path, tmp_path):
    results = [EvalResult(task_type="depth-estimation", dataset_type="x", dataset_name="x", metric_type="rmse", metric_value=0.5)]
    data = ModelCardData(model_name="model", eval_results=results, license="mit")
    ModelCard(f"---\n{data.to_yaml()}\n---\n# model\n\nText.\n").save(Path(model_path) / "README.md")
    calibrate.main(["--model", model_path, "--dataset", SAMPLE, "--split", "test", "--output_dir", str(tmp_path / "calibrated")])
    card = ModelCard.load(tmp_path / "calibrated/README.md")
    assert (card.data.model_name, card.data.license, card.data.eval_results) == ("calibrated", "mit", None)
    assert card.text.startswith("# calibrated\n\nText.\n\n## Calibration\n\nAll results above were measured before this step")
    assert "times 0.9 about their\nmedian on the split `test` of `rooms-sample`" in card.text
    assert "\n- depth: about " in card.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"photo": [1]}, "the data set has the columns photo; the images must be in a column called 'image'"),
        ({"image": [Image.new("RGB", (64, 64)), None]}, "row 1 has no image"),
    ],
)
def test_rows_without_images_are_refused(model_path, rows, message):
    model = MulTForMultiTaskDensePrediction.from_pretrained(model_path).eval()
    with pytest.raises(ValueError, match=message):
        calibrate.median_outputs(model, MulTImageProcessor.from_pretrained(model_path), Dataset.from_dict(rows), ["depth"])


def test_the_models_own_directory_is_refused(model_path):
    with pytest.raises(ValueError, match=r"--output_dir is .*, that of --model, whose weights would be lost; give another directory"):
        calibrate.main(["--model", model_path, "--dataset", SAMPLE, "--output_dir", f"{model_path}/../model"])


def test_classes_are_refused(model_path, tmp_path):
    with pytest.raises(ValueError, match=r"--tasks has \['segmentation'\]; the model's regressions are depth, normals"):
        calibrate.main(["--model", model_path, "--dataset", SAMPLE, "--tasks", "segmentation", "--output_dir", str(tmp_path / "out")])
