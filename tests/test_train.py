"""Proves that the training script does what its flags say, from data to a directory that a user can load, whatever interrupts it."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset, Features, Image, Value
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from safetensors.torch import load_file
from transformers import pipeline

from examples import train as script
from examples.evaluate import read_single_task_results
from mult_hf import MULT_TASKS, MulTForMultiTaskDensePrediction
from mult_hf.arguments import parse_arguments
from mult_hf.cards import public_name
from mult_hf.checkpoints import list_checkpoints
from mult_hf.training import JsonLinesLog
from mult_hf.weighting import WEIGHTINGS

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "--embed_dim 8 --depths 1 1 1 1 --window_size 4 --batch_size 2 --panel_rows 1 --cpu_threads 1 --max_steps 2 --logging_steps 1".split()
)
# Everything that draws random numbers or keeps a state from step to step.
RANDOM = "--drop_path_rate 0.3 --ema_decay 0.9 --gradient_accumulation_steps 2 --num_workers 2 --max_steps 6 --save_steps 2".split()


def train(output_dir, *flags):
    """Run the script in this process; flags that come twice count as they stand last."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    threads = torch.get_num_threads()
    try:
        script.main([*TINY, "--output_dir", str(output_dir), *map(str, flags)])
    finally:
        torch.set_num_threads(threads)
    return output_dir


def weights(directory):
    return load_file(directory / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log(directory, key):
    """The values that the log tells under a key, by step."""
    return {entry["step"]: entry[key] for entry in JsonLinesLog(directory / "log.jsonl").entries() if key in entry}


def write_data(directory, columns, entries, count=4, size=64):
    """A data set of random maps in the package's schema: parquet files and a card that says how they are stored."""
    rng = np.random.default_rng(0)
    features = Features({"image": Image(), **{name: Image() for name in columns}, "note": Value("string")})
    for split in ("train", "validation"):
        notes = [f"{split} picture {number}" for number in range(count)]
        rows = {"image": [PILImage.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)) for _ in notes], "note": notes}
        for name, make in columns.items():
            rows[name] = [make(rng, size) for _ in range(count)]
        directory.mkdir(exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(str(directory / f"{split}-00000-of-00001.parquet"))
    (directory / "README.md").write_text(f"---\nmult_tasks: {json.dumps(entries)}\n---\nRandom maps.\n")
    return directory


def depth_picture(rng, size):
    return PILImage.fromarray(rng.integers(500, 2500, (size, size)).astype(np.uint16))


def curvature_picture(rng, size):
    return PILImage.fromarray(rng.integers(100, 155, (size, size, 3), np.uint8))


DEPTH = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0, 65535]}}
CURVATURE = {
    "name": "principal_curvature",
    "kind": "regression",
    "channels": 2,
    "unit": "1/m",
    "colormap": "vectors",
    "encoding": {"dtype": "uint8", "scale": 1 / 127.0, "offset": -1.0, "channels": [0, 1]},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two tasks, one of which no file of the package knows."""
    directory = tmp_path_factory.mktemp("data") / "maps"
    return write_data(directory, {"depth": depth_picture, "principal_curvature": curvature_picture}, [DEPTH, CURVATURE])


# What a run leaves behind.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps on the shipped sample, in a process of its own as `python examples/train.py` does it."""
    directory = tmp_path_factory.mktemp("trained") / "mult-test"
    command = [sys.executable, str(ROOT / "examples/train.py"), *TINY, "--output_dir", str(directory)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
    return directory, printed


def environment(**values):
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **values}


@pytest.mark.slow
def test_the_script_trains_on_the_shipped_sample_and_prints_both_predictors(trained):
    directory, printed = trained
    numbers = json.loads((directory / "metrics.json").read_text())
    assert {name.split("/")[0] for name in numbers["model"]} == set(MULT_TASKS)
    assert numbers["model"].keys() == numbers["trivial"].keys()
    assert all(np.isfinite(value) for value in [*numbers["model"].values(), *numbers["trivial"].values()])
    for name, value in numbers["trivial"].items():
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
    assert np.isfinite(numbers["gain_over_trivial"])  # of the task that is known


def test_the_log_tells_losses_weights_rates_and_evaluations(tmp_path, data):
    train(tmp_path, "--dataset", data, "--max_steps", 4, "--logging_steps", 2, "--eval_steps", 2)
    assert set(log(tmp_path, "loss/depth")) == {2, 4}
    assert set(log(tmp_path, "eval/depth/rmse")) == {2, 4}
    assert set(log(tmp_path, "weight/depth").values()) == {1.0}
    assert all(norm > 0 for norm in log(tmp_path, "gradient_norm").values())
    assert log(tmp_path, "epoch") == {2: 1.0, 4: 2.0}


def test_a_trivial_predictor_without_any_error_is_no_measure_and_no_end(tmp_path):
    """One image, whose own map is what the trivial predictor says: no gain is relative to an error of 0."""
    data = write_data(tmp_path / "data", {"depth": lambda rng, size: PILImage.new("I;16", (size, size), 700)}, [DEPTH], count=1)
    train(tmp_path / "model", "--dataset", data, "--eval_steps", 1)
    numbers = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert numbers["trivial"]["depth/rmse"] == 0
    assert numbers["gain_over_trivial"] is None


def test_numbers_that_are_not_known_are_null_since_json_has_no_other_word(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_picture}, [DEPTH, CURVATURE])
    train(tmp_path / "model", "--dataset", data)
    for text in [(tmp_path / "model" / "metrics.json").read_text(), *(tmp_path / "model" / "log.jsonl").read_text().splitlines()]:
        json.loads(text, parse_constant=pytest.fail)


def test_the_gain_of_the_last_model_stands_beside_that_of_the_best(tmp_path, data):
    train(tmp_path, "--dataset", data, "--max_steps", 5, "--eval_steps", 1, "--learning_rate", 0.1, "--warmup_steps", 0)
    gains, numbers = log(tmp_path, "gain_over_trivial"), json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["best_gain_over_trivial"] == max(gains.values())
    assert numbers["gain_over_trivial"] == gains[5] < max(gains.values())


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
    gains = log(tmp_path, "gain_over_trivial")
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    best = max(gains, key=gains.get)
    assert numbers["best_step"] == best
    assert best < 5, "premise: at this rate the last is not the best"
    train(tmp_path / "again", "--dataset", data, "--max_steps", 5, "--learning_rate", 0.1, "--warmup_steps", 0, "--save_steps", best)
    (checkpoint, *_) = list_checkpoints(tmp_path / "again" / "checkpoints")
    assert same_values(load_file(checkpoint / "model.safetensors"), tmp_path / "best")


def same_values(in_memory_state, directory):
    """Whether a saved model has these weights; saved Swin weights have other names than those in memory."""
    return same(in_memory_state, MulTForMultiTaskDensePrediction.from_pretrained(directory).state_dict())


# Going on after an interruption.


class Interruption(BaseException):
    """Stops a run where no error handling of the script would."""


def interrupted(monkeypatch, after_steps, output_dir, *flags):
    take_step = script.Run.take_step

    def stop(self, *arguments):
        if self.progress.step == after_steps:
            raise Interruption
        return take_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(script.Run, "take_step", stop)
        with pytest.raises(Interruption):
            train(output_dir, *flags)


def comparable_log(directory):
    return [{k: v for k, v in entry.items() if k != "seconds_a_step"} for entry in JsonLinesLog(directory / "log.jsonl").entries()]


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "dwa", "gradnorm", "pcgrad"])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(tmp_path, data, monkeypatch, weighting):
    """With shuffling, augmentation, worker processes, stochastic depth, accumulation, and averaged weights."""
    flags = ["--dataset", data, *RANDOM, "--weighting", weighting, "--eval_steps", 3]
    train(tmp_path / "through", *flags)
    interrupted(monkeypatch, 3, tmp_path / "resumed", *flags)  # a step after the checkpoint: that step is done again
    train(tmp_path / "resumed", *flags, "--resume", "latest")
    for part in ("", "best"):
        assert same(weights(tmp_path / "through" / part), weights(tmp_path / "resumed" / part)), part
    assert comparable_log(tmp_path / "through") == comparable_log(tmp_path / "resumed")


def test_these_runs_do_differ_by_what_is_random(tmp_path, data):
    """Premise of the tests above: another seed, or no averaging, gives other weights."""
    flags = ["--dataset", data, *RANDOM]
    runs = [train(tmp_path / name, *flags, *more) for name, more in {"a": [], "seed": ["--seed", 1], "last": ["--ema_decay", 0]}.items()]
    assert not same(weights(runs[0]), weights(runs[1]))
    assert not same(weights(runs[0]), weights(runs[2]))


def test_evaluations_on_the_way_do_not_change_the_weights(tmp_path, data):
    """Nothing that they draw is taken from what stochastic depth draws from."""
    runs = [train(tmp_path / name, "--dataset", data, *RANDOM, *more) for name, more in {"none": [], "some": ["--eval_steps", 1]}.items()]
    assert same(*map(weights, runs))


def test_the_number_of_workers_does_not_change_the_weights(tmp_path, data):
    runs = [train(tmp_path / str(workers), "--dataset", data, *RANDOM, "--num_workers", workers) for workers in (0, 2)]
    assert same(*map(weights, runs))


@pytest.mark.slow
def test_killed_at_random_moments_a_run_still_ends_with_the_same_weights(tmp_path, data):
    """Signal 9, several times; a checkpoint is written at every step, so that many kills fall into a save."""
    flags = ["--dataset", str(data), *RANDOM, "--max_steps", "40", "--save_steps", "1", "--eval_steps", "9"]
    train(tmp_path / "through", *flags)
    command = [
        sys.executable,
        str(ROOT / "examples/train.py"),
        *TINY,
        "--output_dir",
        str(tmp_path / "killed"),
        *flags,
        "--resume",
        "latest",
    ]
    moments = random.Random(os.environ.get("MULT_HF_KILL_SEED", "0"))
    kills = 0
    while True:
        process = subprocess.Popen(command, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if kills < 4:
            wait_for_progress(process, tmp_path / "killed")
            time.sleep(moments.uniform(0.0, 0.5))
            os.killpg(process.pid, signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            print(f"killed with {sorted(path.name for path in (tmp_path / 'killed' / 'checkpoints').iterdir())}")
        else:
            _, errors = process.communicate()
            assert process.returncode == 0, errors.decode()
            break
    for part in ("", "best"):
        assert same(weights(tmp_path / "through" / part), weights(tmp_path / "killed" / part)), part
    assert comparable_log(tmp_path / "through") == comparable_log(tmp_path / "killed")


def wait_for_progress(process, directory):
    """Until the run has written a checkpoint newer than all before."""
    newest = max([path.name for path in list_checkpoints(directory / "checkpoints")], default="")
    for _ in range(3000):
        if process.poll() is not None:
            raise AssertionError(process.stderr.read().decode())
        if max([path.name for path in list_checkpoints(directory / "checkpoints")], default="") > newest:
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint within a minute")


def test_a_finished_run_is_resumed_to_the_same_result(tmp_path, data):
    train(tmp_path, "--dataset", data)
    before = weights(tmp_path)
    told = comparable_log(tmp_path)
    train(tmp_path, "--dataset", data, "--resume", "latest")
    assert same(before, weights(tmp_path))
    assert told == comparable_log(tmp_path)


def test_another_run_is_not_taken_up(tmp_path, data):
    train(tmp_path, "--dataset", data)
    with pytest.raises(ValueError, match=r"--learning_rate was 0\.002 and is 0\.1"):
        train(tmp_path, "--dataset", data, "--resume", "latest", "--learning_rate", 0.1)
    train(tmp_path, "--dataset", data, "--resume", "latest", "--logging_steps", 5)  # what it writes may change


def test_a_new_run_does_not_overwrite_an_earlier_one_unless_told_to(tmp_path, data):
    train(tmp_path, "--dataset", data)
    with pytest.raises(ValueError, match="checkpoints of an earlier run, the last of step 2"):
        train(tmp_path, "--dataset", data)
    train(tmp_path, "--dataset", data, "--overwrite", "--seed", 1)


def test_the_newest_checkpoints_are_kept(tmp_path, data):
    train(tmp_path, "--dataset", data, "--max_steps", 5, "--save_steps", 1, "--keep_checkpoints", 3)
    assert [path.name[-1] for path in list_checkpoints(tmp_path / "checkpoints")] == ["3", "4", "5"]


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(tmp_path, data):
    with pytest.raises(
        FloatingPointError, match=r"step 2: .*(depth|principal_curvature) is (nan|inf).*row \d \(note train picture \d\)"
    ) as error:
        train(tmp_path, "--dataset", data, "--learning_rate", 1e30, "--warmup_steps", 0, "--save_steps", 1, "--max_steps", 3)
    assert "last good checkpoint: " in str(error.value)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["checkpoint-00000001"]


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
    as_by_default = ["--embed_dim", 24, "--depths", 2, 2, 2, 2, "--window_size", 8]  # which a model brings along
    flags = [*as_by_default, "--model", tmp_path / "first", "--learning_rate", 0, "--weight_decay", 0]
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
    told = {scalar.step: scalar.value for scalar in reader.Scalars("loss/depth")}
    assert told == pytest.approx(log(tmp_path / "run", "loss/depth"))
    assert any((tmp_path / "trackio").rglob("*.db"))


# The checkpoint falls between two entries of the log, so that it holds sums of losses of both processes.
THREE_STEPS = "--max_steps 3 --save_steps 2 --logging_steps 3".split()


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, data):
    """Three steps of four images in one process, to compare with two processes of two."""
    return train(tmp_path_factory.mktemp("one"), "--dataset", data, "--batch_size", 4, *THREE_STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", ["ddp_cpu", "fsdp2_cpu"])
def test_two_processes_train_as_one_with_their_batches_together(tmp_path, data, one_process, configuration):
    """The same losses, weights and metrics up to rounding; also after an interruption."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / f"examples/accelerate/{configuration}.yaml")]
    flags = [*TINY, "--dataset", str(data), "--output_dir", str(tmp_path), "--batch_size", "2", *THREE_STEPS]
    command = [*launch, "--main_process_port", "0", str(ROOT / "examples/train.py"), *flags]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    assert_close_to(one_process, tmp_path)
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    newest.rename(newest.with_suffix(".partial"))  # as if the run had been killed in its last save
    subprocess.run([*command, "--resume", "latest"], env=environment(), check=True, capture_output=True)
    assert_close_to(one_process, tmp_path)
    assert MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).task_names == ["depth", "principal_curvature"]


def assert_close_to(one_process, two_processes):
    for name, value in weights(one_process).items():
        torch.testing.assert_close(weights(two_processes)[name], value, atol=1e-3, rtol=1e-2)
    expected, found = (json.loads((directory / "metrics.json").read_text())["model"] for directory in (one_process, two_processes))
    assert found == pytest.approx(expected, rel=1e-3)
    assert log(two_processes, "loss/depth") == pytest.approx(log(one_process, "loss/depth"), rel=1e-3)


# The command line.


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
        (["--tasks", "depth", "smell"], r"--tasks has \['smell'\], but"),
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
