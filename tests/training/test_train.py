"""Proves that the training script does what its flags say, from data to a directory that a user can load."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from safetensors.torch import load_file
from transformers import SwinBackbone, SwinConfig, pipeline

from examples import train as script
from mult_hf import MULT_TASKS, MulTForMultiTaskDensePrediction
from mult_hf.cli.arguments import parse_arguments
from mult_hf.evaluation.cards import public_name
from mult_hf.evaluation.comparison import read_single_task_results
from mult_hf.training.checkpoints import list_checkpoints
from mult_hf.training.weighting import WEIGHTINGS
from support.models import TINY_SWIN
from support.training_runs import CURVATURE, DEPTH, ROOT, TINY, depth_picture, environment, log, same, train, weights, write_data

AS_BY_DEFAULT = ["--embed_dim", 24, "--depths", 2, 2, 2, 2, "--window_size", 8]  # sizes that a model or an encoder brings along

# What a run leaves behind.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps on the shipped sample, in a process of its own as `python examples/train.py` does it."""
    directory = tmp_path_factory.mktemp("trained") / "mult-test"
    command = [sys.executable, str(ROOT / "examples/train.py"), *TINY, "--output_dir", str(directory)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
    return directory, printed


@pytest.mark.slow
def test_the_script_trains_on_the_shipped_sample_and_prints_both_predictors(trained):
    directory, printed = trained
    numbers = json.loads((directory / "metrics.json").read_text())
    assert {name.split("/")[0] for name in numbers["model"]} == set(MULT_TASKS)
    assert numbers["model"].keys() == numbers["constant_baseline"].keys()
    assert all(np.isfinite(value) for value in [*numbers["model"].values(), *numbers["constant_baseline"].values()])
    for name, value in numbers["constant_baseline"].items():
        task, metric = name.split("/")
        assert f"| {task} | {metric}" in printed
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
        assert panel.width > panel.height, "a photo and six tasks side by side, one row of predictions and one of truth"


def test_a_seventh_task_is_one_entry_and_one_column(tmp_path, data):
    """Trains, evaluates, saves, loads and shows in the pipeline; no file of the package knows it."""
    train(tmp_path, "--dataset", data)
    assert "principal_curvature/mae" in json.loads((tmp_path / "metrics.json").read_text())["model"]
    model = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path)
    assert model.task_names == ["depth", "principal_curvature"]
    maps = pipeline("multitask-vision", model=str(tmp_path))(PILImage.new("RGB", (80, 64)))
    assert maps["principal_curvature"]["prediction"].shape == (2, 64, 80)


def test_a_task_without_a_column_is_unknown_and_harms_nothing(tmp_path):
    """The card promises two tasks and the files hold one: the other is all unknown, its loss 0, its metric NaN."""
    data = write_data(tmp_path / "data", {"depth": depth_picture}, [DEPTH, CURVATURE])
    train(tmp_path / "model", "--dataset", data, "--eval_steps", 1)
    numbers = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert np.isfinite(numbers["model"]["depth/rmse"])
    assert numbers["model"]["principal_curvature/mae"] is None
    assert set(log(tmp_path / "model", "loss/principal_curvature").values()) == {0.0}
    assert np.isfinite(numbers["gain_over_baseline"])  # of the task that is known


def test_the_log_tells_losses_weights_rates_and_evaluations(tmp_path, data):
    train(tmp_path, "--dataset", data, "--max_steps", 4, "--logging_steps", 2, "--eval_steps", 2)
    assert set(log(tmp_path, "loss/depth")) == {2, 4}
    assert set(log(tmp_path, "eval/depth/rmse")) == {2, 4}
    assert set(log(tmp_path, "weight/depth").values()) == {1.0}
    assert all(norm > 0 for norm in log(tmp_path, "gradient_norm").values())
    assert log(tmp_path, "epoch") == {2: 1.0, 4: 2.0}


def test_a_constant_baseline_without_any_error_is_no_measure_and_no_end(tmp_path):
    """One image, whose own map is what the constant baseline says: no gain is relative to an error of 0."""
    data = write_data(tmp_path / "data", {"depth": lambda rng, size: PILImage.new("I;16", (size, size), 700)}, [DEPTH], count=1)
    train(tmp_path / "model", "--dataset", data, "--eval_steps", 1)
    numbers = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert numbers["constant_baseline"]["depth/rmse"] == 0
    assert numbers["gain_over_baseline"] is None


def test_numbers_that_are_not_known_are_null_since_json_has_no_other_word(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_picture}, [DEPTH, CURVATURE])
    train(tmp_path / "model", "--dataset", data)
    for text in [(tmp_path / "model" / "metrics.json").read_text(), *(tmp_path / "model" / "log.jsonl").read_text().splitlines()]:
        json.loads(text, parse_constant=pytest.fail)


def test_the_gain_of_the_last_model_stands_beside_that_of_the_best(tmp_path, data):
    train(tmp_path, "--dataset", data, "--max_steps", 5, "--eval_steps", 1, "--learning_rate", 0.1, "--warmup_steps", 0)
    gains, numbers = log(tmp_path, "gain_over_baseline"), json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["best_gain_over_baseline"] == max(gains.values())
    assert numbers["gain_over_baseline"] == gains[5] < max(gains.values())


def test_evaluate_takes_what_a_run_has_written_as_single_task_results(tmp_path, data):
    train(tmp_path / "depth", "--dataset", data, "--tasks", "depth")
    described = {"dataset": public_name(str(data)), "split": "validation", "evaluated_samples": 4}
    assert "depth/rmse" in read_single_task_results(tmp_path, described)


def test_the_output_may_be_the_working_directory(tmp_path, data, monkeypatch):
    """Nothing is written beside it, where it may be another disk's, or none's."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    train(".", "--dataset", data)
    assert MulTForMultiTaskDensePrediction.from_pretrained(".").task_names == ["depth", "principal_curvature"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_best_holds_the_model_of_the_best_evaluation(tmp_path, data):
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


# Optimisation.


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path, data):
    """Every pixel is known here, so that means of means are means."""
    flags = ["--dataset", data, "--max_steps", 3]
    small = weights(train(tmp_path / "small", *flags, "--batch_size", 1, "--gradient_accumulation_steps", 2))
    large = weights(train(tmp_path / "large", *flags, "--batch_size", 2))
    for name in small:
        torch.testing.assert_close(small[name], large[name], atol=2e-4, rtol=1e-3)


def test_an_encoder_with_a_rate_of_zero_stays(tmp_path, data):
    flags = ["--dataset", data, "--encoder_learning_rate_factor", 0, "--weight_decay", 0]
    one, three = (weights(train(tmp_path / str(steps), *flags, "--max_steps", steps)) for steps in (1, 3))
    changed = {name.split(".")[1] for name in one if not torch.equal(one[name], three[name])}
    assert changed >= {"decoder", "tasks"}
    assert not any("backbone" in name for name in one if not torch.equal(one[name], three[name]))


def test_gradients_are_clipped(tmp_path, data):
    """With a limit of 0 nothing but weight decay could move a weight."""
    flags = ["--dataset", data, "--weight_decay", 0, "--max_grad_norm", 0]
    assert same(*(weights(train(tmp_path / str(steps), *flags, "--max_steps", steps)) for steps in (1, 3)))


def test_weight_decay_shrinks_what_has_no_gradient(tmp_path, data):
    flags = ["--dataset", data, "--max_grad_norm", 0, "--learning_rate", 0.1, "--warmup_steps", 0, "--schedule", "constant_with_warmup"]
    one, two = (weights(train(tmp_path / str(steps), *flags, "--weight_decay", 0.5, "--max_steps", steps)) for steps in (1, 2))
    name = next(name for name in one if name.endswith("fc1.weight"))
    torch.testing.assert_close(two[name], one[name] * (1 - 0.1 * 0.5))


SCHEDULES = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "polynomial": lambda share: (1 - share) ** 2,
    "constant_with_warmup": lambda share: 1,
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_learning_rate_warms_up_and_follows_its_schedule(tmp_path, data, schedule):
    flags = ["--schedule", schedule, "--schedule_power", 2, "--warmup_steps", 2, "--learning_rate", 0.01]
    train(tmp_path, "--dataset", data, "--max_steps", 6, *flags)
    for step, rate in log(tmp_path, "learning_rate").items():
        expected = step / 2 if step < 2 else SCHEDULES[schedule]((step - 2) / 4)
        assert rate == pytest.approx(0.01 * expected, abs=1e-9), step


@pytest.mark.parametrize("weighting", sorted(set(WEIGHTINGS) - {"fixed"}))
def test_every_weighting_trains_from_its_name(tmp_path, data, weighting):
    train(tmp_path, "--dataset", data, "--weighting", weighting, "--max_steps", 1)
    assert all(np.isfinite(list(log(tmp_path, f"weight/{task}").values())).all() for task in ("depth", "principal_curvature"))


def test_a_weighting_takes_its_options(tmp_path, data):
    with pytest.raises(ValueError, match="no options"):
        train(tmp_path, "--dataset", data, "--weighting", "dwa", "--weighting_options", '{"warmth": 1}')


def test_training_goes_on_from_a_trained_model(tmp_path, data):
    train(tmp_path / "first", "--dataset", data)
    flags = [*AS_BY_DEFAULT, "--model", tmp_path / "first", "--learning_rate", 0, "--weight_decay", 0]
    train(tmp_path / "second", "--dataset", data, *flags)
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))


# Execution.


def test_mixed_precision_trains_close_to_full_precision(tmp_path, data):
    flags = ["--dataset", data, "--max_steps", 1]
    full, mixed = (log(train(tmp_path / name, *flags, "--mixed_precision", name), "loss/depth")[1] for name in ("no", "bf16"))
    assert full != mixed  # premise: it was on
    assert full == pytest.approx(mixed, rel=0.02)


def test_a_gradient_that_is_not_finite_names_all_samples_of_its_step(tmp_path, data, monkeypatch):
    monkeypatch.setattr(script.Accelerator, "clip_grad_norm_", lambda *_: float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"step 1: gradient is inf; samples of the batch: (row \d[^;]*; ){3}row \d[^;]*; last good"
    ):
        train(tmp_path, "--dataset", data, "--gradient_accumulation_steps", 2)


@pytest.mark.slow
def test_a_compiled_model_trains_alike_and_is_saved_as_itself(tmp_path, data):
    flags = ["--dataset", data, "--drop_path_rate", 0]
    plain, compiled = train(tmp_path / "plain", *flags), train(tmp_path / "compiled", *flags, "--torch_compile", "aot_eager")
    assert weights(plain).keys() == weights(compiled).keys()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, atol=1e-4, rtol=1e-3)


def test_trackers_get_what_the_log_gets(tmp_path, data, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    train(tmp_path / "run", "--dataset", data, "--log_with", "tensorboard", "trackio")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = min((tmp_path / "run").rglob("events.out.tfevents.*"), key=lambda path: len(path.parts))  # deeper: the flags
    reader = EventAccumulator(str(events))
    reader.Reload()
    tracked = {scalar.step: scalar.value for scalar in reader.Scalars("loss/depth")}
    assert tracked == pytest.approx(log(tmp_path / "run", "loss/depth"))
    assert any((tmp_path / "trackio").rglob("*.db"))


# The command line.


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory, data):
    return train(tmp_path_factory.mktemp("plain"), "--dataset", data)


SHAPING = {
    "train_split": "validation",
    "tasks": "depth",
    "image_size": 48,
    "max_zoom": 1.5,
    "color_jitter": 0,
    "embed_dim": 16,
    "depths": "1 1 2 1",
    "window_size": 2,
    "position_embeddings": False,
    "decoder": "swin_unet",
    "block_attention": "self encoder",
    "reference_task": "principal_curvature",
    "drop_path_rate": 0.5,
    "batch_size": 3,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
    "warmup_steps": 0,
    "weight_decay": 0.9,
    "weighting": "uncertainty",
    "ema_decay": 0.9,
    "seed": 1,
}


@pytest.mark.parametrize("name", SHAPING)
def test_every_flag_that_shapes_the_run_changes_the_weights(tmp_path, data, plain_run, name):
    """What it changes them to is proven elsewhere; here, that no flag is without effect."""
    train(tmp_path, "--dataset", data, f"--{name}", *str(SHAPING[name]).split())
    assert not same(weights(plain_run), weights(tmp_path))


def test_evaluation_takes_its_own_split(tmp_path, data, plain_run):
    train(tmp_path, "--dataset", data, "--validation_split", "train")
    other, own = (json.loads((directory / "metrics.json").read_text()) for directory in (tmp_path, plain_run))
    assert (other["split"], own["split"]) == ("train", "validation")
    assert other["model"] != own["model"]
    assert same(weights(plain_run), weights(tmp_path))


def test_training_starts_from_a_pretrained_encoder(tmp_path, data):
    torch.manual_seed(0)
    encoder = SwinBackbone(SwinConfig(**{key: value for key, value in TINY_SWIN.items() if key != "model_type"}, image_size=64))
    encoder.save_pretrained(tmp_path / "encoder")
    flags = [*AS_BY_DEFAULT, "--backbone", tmp_path / "encoder", "--encoder_learning_rate_factor", 0, "--weight_decay", 0]
    train(tmp_path / "model", "--dataset", data, *flags)
    found = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "model").mult.backbone.state_dict()
    kept = [name for name, value in encoder.state_dict().items() if name in found and "layernorm" not in name.split(".")[:2]]
    assert len(kept) > 20
    assert all(torch.equal(found[name], encoder.state_dict()[name]) for name in kept)


def test_the_panel_has_as_many_photos_as_asked_for(tmp_path, data, plain_run):
    train(tmp_path, "--dataset", data, "--panel_rows", 2)
    heights = [PILImage.open(directory / "panel.png").height for directory in (plain_run, tmp_path)]
    assert heights[1] > 1.8 * heights[0]


def test_flags_may_come_from_a_file(tmp_path, data):
    (tmp_path / "flags.yaml").write_text(yaml.safe_dump({"dataset": str(data), "max_steps": 3, "tasks": ["depth"]}))
    train(tmp_path / "model", "--config", tmp_path / "flags.yaml", "--max_steps", 1)
    assert MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "model").task_names == ["depth"]
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["steps"] == 1  # the command line wins


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_read(file):
    parse_arguments(script.TrainingArguments, ["--config", str(file)], "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_steps", "0"], "--max_steps is 0; it must be at least 1"),
        (["--eval_steps", "0"], "--eval_steps is 0; it must be at least 1"),
        (["--weighting", "fair"], "--weighting is 'fair'; allowed: fixed"),
        (["--ema_decay", "1"], "--ema_decay is 1.0"),
        (["--model", "a", "--backbone", "b"], "--model a brings its own; drop --backbone b, --embed_dim 8"),
        (["--backbone", "b"], "--backbone b brings its own; drop --embed_dim 8"),
        (["--max_grad_norm", "-1"], r"--max_grad_norm is -1\.0; it must be at least 0"),
        (["--learning_rate", "nan"], "--learning_rate is nan; it must be at least 0"),
        (["--image_size", "0"], "--image_size is 0; it must be at least 32"),
        (["--panel_rows", "0"], "--panel_rows is 0; it must be at least 1"),
        (["--weighting_options", "{period: 5}"], r"--weighting_options is '\{period: 5\}'; give a JSON object"),
        (["--weighting_options", "[5]"], r"--weighting_options is '\[5\]'; give a JSON object"),
        (
            ["--torch_compile", "aot_eager", "--weighting", "gradnorm"],
            "gradients of a graph several times, which a compiled one gives once",
        ),
        (["--tasks", "depth", "smell"], r"there are no tasks \['smell'\] in .*; it has \['depth', 'principal_curvature'\]"),
    ],
)
def test_impossible_flags_are_refused(tmp_path, data, flags, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, "--dataset", data, *flags)


def test_a_data_set_without_a_card_is_refused(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_picture}, [DEPTH])
    (data / "README.md").unlink()
    with pytest.raises(ValueError, match=r"has no README\.md"):
        train(tmp_path / "model", "--dataset", data)


def test_columns_that_no_task_is_called_after_are_refused(tmp_path):
    data = write_data(tmp_path / "data", {"distance": depth_picture}, [DEPTH])
    with pytest.raises(ValueError, match=r"columns are .*'distance'.*; expected 'image' and at least one of \['depth'\]"):
        train(tmp_path / "model", "--dataset", data)


def test_every_flag_has_a_help_text_and_is_read_somewhere():
    source = (ROOT / "examples/train.py").read_text()
    for name, flag in script.TrainingArguments.__dataclass_fields__.items():
        assert flag.metadata["help"], name
        assert source.count(f"arguments.{name}") + source.count(f'"{name}"') >= 1, f"--{name} is never read"
