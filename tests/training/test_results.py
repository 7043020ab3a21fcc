"""Proves properties of a run's results: a model for the pipeline, metrics, log, panel and card."""

import json
import re

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from safetensors.torch import load_file
from transformers import pipeline

from mult_hf import MULT_TASKS, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.evaluation.cards import trained_on, write_card
from mult_hf.model.tasks import resolve_tasks
from mult_hf.training.checkpoints import list_checkpoints
from mult_hf.training.loop import TrainingLoop
from mult_hf.training.results import Provenance, camera_note, data_by_task
from support.forked import run_script
from support.tables import unpadded
from support.training_runs import CURVATURE, DEPTH, ROOT, TINY, depth_map, log, same, train, weights, write_data

DEFAULTS = ["--embed_dim", 24, "--depths", 2, 2, 2, 2, "--window_size", 8]
"""Flags that a trained model replaces must have their defaults."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps on the shipped sample, in a separate process as with `python examples/train.py`."""
    directory = tmp_path_factory.mktemp("trained") / "mult-test"
    few_rows = ["--train_split", "train[:12]", "--validation_split", "validation[:6]"]
    argv = [*TINY, *few_rows, "--output_dir", directory]
    printed, status = run_script(ROOT / "examples/train.py", *argv, output=directory.parent / "output.txt")
    assert status == 0, printed
    return directory, printed


@pytest.mark.slow
def test_the_example_trains_on_the_shipped_sample_and_prints_both_predictors(trained):
    directory, printed = trained
    numbers = json.loads((directory / "metrics.json").read_text())
    assert {name.split("/")[0] for name in numbers["model"]} == set(MULT_TASKS)
    assert numbers["model"].keys() == numbers["constant_baseline"].keys()
    assert all(np.isfinite(value) for value in [*numbers["model"].values(), *numbers["constant_baseline"].values()])
    table = unpadded(printed)
    for name, value in numbers["constant_baseline"].items():
        task, metric = name.split("/")
        assert f"| {task} | {metric}" in table
        assert f"{value:.4f}" in printed


@pytest.mark.slow
def test_the_result_works_in_the_pipeline(trained):
    directory, _ = trained
    image = PILImage.new("RGB", (90, 70), "gray")
    maps = pipeline("multitask-vision", model=str(directory))(image)
    assert list(maps) == list(MULT_TASKS)
    assert maps["depth"]["prediction"].shape == (70, 90)
    assert maps["depth"]["image"].size == (90, 70)


@pytest.mark.slow
def test_the_card_is_filled_and_its_metadata_valid(trained):
    directory, _ = trained
    card = ModelCard.load(directory / "README.md")
    numbers = json.loads((directory / "metrics.json").read_text())
    assert card.data.library_name == "transformers"
    assert {result.metric_name: result.metric_value for result in card.data.eval_results} == {
        name: round(value, 5) for name, value in numbers["model"].items()
    }
    assert "{{" not in card.text
    assert "panel.png" in card.text
    with PILImage.open(directory / "panel.png") as panel:
        assert panel.width > panel.height, (
            "an image and six tasks side by side, a row of predictions and one of truth, and what colours mean"
        )


@pytest.mark.parametrize(
    ("tasks", "canonical", "expected"),
    [
        (["edges2d"], None, ""),
        (["edges2d", "normals"], 96.0, ""),
        (["depth"], None, None),
        (["depth"], 96.0, "Depth is learnt for a camera"),
    ],
)
def test_the_card_speaks_of_depth_only_if_the_values_of_a_task_depend_on_the_camera(tasks, canonical, expected, tmp_path):
    note = camera_note(MulTImageProcessor(tasks=tasks, canonical_focal_length=canonical))
    assert note == expected or note.startswith(expected)
    write_card(tmp_path / "README.md", ROOT / "model_card.md", resolve_tasks(tasks), [], camera_note=note, dataset="data")
    text = (tmp_path / "README.md").read_text()
    assert ("scale of depth" in text) == (expected is None)
    assert ("`data`. The numbers" in text) == (expected == "")


def test_a_seventh_task_is_one_entry_and_one_column(tmp_path, data):
    """Trains, evaluates, saves, loads and shows in the pipeline; no file of the package contains it."""
    train(tmp_path, "--dataset", data)
    assert "principal_curvature/mae" in json.loads((tmp_path / "metrics.json").read_text())["model"]
    model = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path)
    assert model.task_names == ["depth", "principal_curvature"]
    maps = pipeline("multitask-vision", model=str(tmp_path))(PILImage.new("RGB", (80, 64)))
    assert maps["principal_curvature"]["prediction"].shape == (2, 64, 80)


def test_a_task_without_a_column_is_unknown_and_changes_nothing_else(tmp_path, data):
    """The card lists two tasks but the files contain one: for a model that has both, the other is unknown, its loss 0, its metric NaN."""
    trained = train(tmp_path / "trained", "--dataset", data)
    data = write_data(tmp_path / "data", {"depth": depth_map}, [DEPTH, CURVATURE])
    train(tmp_path / "model", "--dataset", data, "--eval_steps", 1, "--model", trained, *DEFAULTS)
    numbers = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert np.isfinite(numbers["model"]["depth/rmse"])
    assert numbers["model"]["principal_curvature/mae"] is None
    assert set(log(tmp_path / "model", "loss/principal_curvature").values()) == {0.0}
    assert np.isfinite(numbers["gain_over_baseline"])  # of the task that is known


def test_only_new_tasks_are_trained_on_request_and_the_others_predict_as_before(tmp_path, data, capsys):
    """From data of the new task alone; the scale of the panel's colours is then that of the predictions."""
    entries = [DEPTH, {"name": "edges2d"}]
    old = train(tmp_path / "old", "--dataset", write_data(tmp_path / "data", {"depth": depth_map, "edges2d": depth_map}, entries))
    new = train(tmp_path / "new", "--dataset", data, "--tasks", "principal_curvature", "--model", old, "--only_new_tasks", *DEFAULTS)
    printed = capsys.readouterr().out
    assert f"only principal_curvature is trained, from random weights; depth, edges2d, and the encoder, stay as in {old}" in printed
    assert "no column" not in printed, "nothing is missing for what is trained"
    assert trained_on(str(old)) == "data"
    assert trained_on(str(new)) == "data (depth, edges2d), and maps (principal_curvature)"
    card = (new / "README.md").read_text()
    assert f"images that look like those of {trained_on(str(new))}. The numbers above" in card, "and nothing of the cameras of `maps`"
    assert "\n- not trained in this run: depth, edges2d\n" in card
    assert "one Swin encoder, one\n" in card
    assert "Not measured, because no validation row has a known label of it: depth, edges2d.\n" in printed
    assert "at which trained ones forget" not in printed, "new decoders are trained at the default rate"
    before, after = weights(old), weights(new)
    assert {name for name in after if name not in before} == {name for name in after if ".principal_curvature." in name}
    assert all(torch.equal(after[name], before[name]) for name in before)
    image = PILImage.new("RGB", (80, 64), "gray")
    one, other = (pipeline("multitask-vision", model=str(path))(image)["depth"]["prediction"] for path in (old, new))
    torch.testing.assert_close(torch.as_tensor(other), torch.as_tensor(one))


@pytest.mark.parametrize(
    ("start_data", "kept", "expected"),
    [
        (None, [], "maps"),
        (None, ["depth"], {"heat": "maps"}),  # that of depth is not known
        ("maps", ["depth"], "maps"),
        ("rooms", ["depth"], {"depth": "rooms", "heat": "maps"}),
        ({"depth": "rooms", "heat": "fires"}, ["depth"], {"depth": "rooms", "heat": "maps"}),
        ({"heat": "fires"}, ["depth"], {"heat": "maps"}),
    ],
)
def test_what_each_task_was_trained_on_is_remembered_over_several_trainings(start_data, kept, expected):
    taught = [task for task in ("depth", "heat") if task not in kept]
    assert data_by_task(Provenance(start_data=start_data), "maps", kept, taught) == expected


def test_a_new_model_has_no_task_without_a_column(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_map}, [DEPTH, CURVATURE])
    train(tmp_path / "model", "--dataset", data)
    assert MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "model").task_names == ["depth"]
    assert "principal_curvature" not in (tmp_path / "model/README.md").read_text()


def test_the_log_has_losses_weights_rates_and_evaluations(tmp_path, data):
    train(tmp_path, "--dataset", data, "--max_steps", 4, "--logging_steps", 2, "--eval_steps", 2)
    assert set(log(tmp_path, "loss/depth")) == {2, 4}
    assert set(log(tmp_path, "eval/depth/rmse")) == {2, 4}
    assert set(log(tmp_path, "weight/depth").values()) == {1.0}
    assert all(norm > 0 for norm in log(tmp_path, "gradient_norm").values())
    assert log(tmp_path, "epoch") == {2: 1.0, 4: 2.0}


def test_a_constant_baseline_without_error_gives_no_gain_and_no_crash(tmp_path):
    """One image, whose own map is the constant baseline: no gain is relative to an error of 0."""
    data = write_data(tmp_path / "data", {"depth": lambda rng, size: PILImage.new("I;16", (size, size), 700)}, [DEPTH], count=1)
    train(tmp_path / "model", "--dataset", data, "--eval_steps", 1)
    numbers = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert numbers["constant_baseline"]["depth/rmse"] == 0
    assert numbers["gain_over_baseline"] is None


def test_unknown_numbers_are_null_in_json(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_map}, [DEPTH, CURVATURE])
    train(tmp_path / "model", "--dataset", data)
    for text in [(tmp_path / "model" / "metrics.json").read_text(), *(tmp_path / "model" / "log.jsonl").read_text().splitlines()]:
        json.loads(text, parse_constant=pytest.fail)


def test_metrics_have_the_gain_of_the_last_model_and_of_the_best(tmp_path, data):
    train(tmp_path, "--dataset", data, "--max_steps", 5, "--eval_steps", 1, "--learning_rate", 0.1, "--warmup_steps", 0)
    gains, numbers = log(tmp_path, "gain_over_baseline"), json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["best_gain_over_baseline"] == max(gains.values())
    assert numbers["gain_over_baseline"] == gains[5] < max(gains.values())


def test_metrics_name_the_data_that_they_were_measured_on(tmp_path, data):
    """`mult-hf evaluate --single_task_results` uses them to find comparable results."""
    train(tmp_path / "depth", "--dataset", data, "--tasks", "depth")
    numbers = json.loads((tmp_path / "depth" / "metrics.json").read_text())
    assert (numbers["dataset"], numbers["split"], numbers["evaluated_samples"]) == (data.name, "validation", 4)
    assert {name.split("/")[0] for name in numbers["model"]} == {"depth"}


def test_the_output_may_be_the_working_directory(tmp_path, data, monkeypatch):
    """Nothing is written beside it, where another disk may be mounted, or none."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    train(".", "--dataset", data)
    assert MulTForMultiTaskDensePrediction.from_pretrained(".").task_names == ["depth", "principal_curvature"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_best_contains_the_model_of_the_best_evaluation(tmp_path, data):
    train(tmp_path, "--dataset", data, "--max_steps", 5, "--eval_steps", 1, "--learning_rate", 0.1, "--warmup_steps", 0)
    gains = log(tmp_path, "gain_over_baseline")
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    best = max(gains, key=gains.get)
    assert numbers["best_step"] == best
    assert best < 5, "premise: at this rate the last is not the best"
    saves = ["--save_steps", best, "--keep_checkpoints", 5]  # the first of them is of that step
    train(tmp_path / "again", "--dataset", data, "--max_steps", 5, "--learning_rate", 0.1, "--warmup_steps", 0, *saves)
    (checkpoint, *_) = list_checkpoints(tmp_path / "again" / "checkpoints")
    assert same_values(load_file(checkpoint / "model.safetensors"), tmp_path / "best")


def same_values(in_memory_state, directory):
    """Whether a saved model has these weights; saved Swin weights have other names than those in memory."""
    return same(in_memory_state, MulTForMultiTaskDensePrediction.from_pretrained(directory).state_dict())


def test_the_panel_has_the_requested_number_of_images(tmp_path, data):
    runs = [train(tmp_path / str(rows), "--dataset", data, "--panel_rows", rows) for rows in (1, 2)]
    one, two = (PILImage.open(directory / "panel.png").height for directory in runs)
    assert 1.5 * one < two < 2 * one, "titles and keys are drawn once"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_validation_row_that_cannot_be_used_is_named_before_the_first_step(tmp_path, monkeypatch, workers):
    heights = iter([64] * 4 + [64, 64, 64, 32])  # of the training rows, then of the validation rows

    def shrinking(rng, size):
        return depth_map(rng, size).resize((size, next(heights)))

    broken = write_data(tmp_path / "broken", {"depth": shrinking}, [DEPTH])
    monkeypatch.setattr(TrainingLoop, "take_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(ValueError, match=r"^validation data, depth of row 3: the map has 32 x 64 pixels, its image 64 x 64"):
        train(tmp_path / "run", "--dataset", broken, "--num_workers", workers)


@pytest.mark.parametrize(
    ("where", "flags", "saved"),
    [
        ("take_step", [], "interrupted after step 0; nothing is saved yet"),
        ("evaluate", ["--eval_steps", 1, "--save_steps", 1], "interrupted after step 1; nothing is saved yet"),
        ("evaluate", [], r"interrupted after step 2; --resume latest continues from .*checkpoint-00000002"),
    ],
)
def test_an_interruption_says_what_is_saved(tmp_path, data, monkeypatch, capsys, where, flags, saved):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingLoop, where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "--dataset", data, *flags)
    assert re.search(saved, capsys.readouterr().out)


def test_a_failing_final_evaluation_loses_neither_weights_nor_processor(tmp_path, data, monkeypatch):
    (tmp_path / "metrics.json").write_text("those of an earlier run")
    monkeypatch.setattr(TrainingLoop, "evaluate", lambda _: pytest.fail("no evaluation"))
    with pytest.raises(pytest.fail.Exception, match="no evaluation"):
        train(tmp_path, "--dataset", data, "--overwrite")
    (checkpoint,) = list_checkpoints(tmp_path / "checkpoints")
    assert same(load_file(tmp_path / "model.safetensors"), load_file(checkpoint / "model.safetensors"))
    assert MulTImageProcessor.from_pretrained(tmp_path).task_specs.keys() == {"depth", "principal_curvature"}
    assert not (tmp_path / "metrics.json").exists(), "it would be taken for that of the new weights"
