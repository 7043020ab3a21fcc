"""Proves that an interrupted run ends like an uninterrupted one, and that two processes train like one."""

import json
import os
import random
import shutil
import signal
import time

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from examples import train as example
from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.inference.directory_lock import exclusive_run
from mult_hf.inference.loading import load_whole_model
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.checkpoints import checkpoint_step, list_checkpoints
from mult_hf.training.run import train as run_training
from support.forked import run_together, start
from support.models import TINY_SWIN
from support.training_runs import (
    CURVATURE,
    DEPTH,
    ROOT,
    TINY,
    assert_close_to,
    comparable_log,
    curvature_map,
    depth_map,
    interrupted,
    new_accelerate_state,
    same,
    sparse_depth_map,
    train,
    weights,
    write_data,
)

# Everything that draws random numbers or keeps state from step to step.
RANDOM = "--drop_path_rate 0.3 --ema_decay 0.9 --gradient_accumulation_steps 2 --num_workers 2 --max_steps 6 --save_steps 2".split()


@pytest.mark.parametrize(
    "weighting", [*(pytest.param(name, marks=pytest.mark.nightly) for name in ("fixed", "uncertainty", "dwa", "pcgrad")), "gradnorm"]
)
def test_a_resumed_run_ends_with_exactly_the_same_weights(tmp_path, data, monkeypatch, weighting):
    """With shuffling, augmentation, worker processes, stochastic depth, accumulation, and averaged weights."""
    flags = ["--dataset", data, *RANDOM, "--weighting", weighting, "--eval_steps", 3]
    train(tmp_path / "through", *flags)
    interrupted(monkeypatch, 3, tmp_path / "resumed", *flags)  # a step after the checkpoint: that step is repeated
    train(tmp_path / "resumed", *flags, "--resume", "latest")
    for part in ("", "best"):
        assert same(weights(tmp_path / "through" / part), weights(tmp_path / "resumed" / part)), part
    assert comparable_log(tmp_path / "through") == comparable_log(tmp_path / "resumed")


@pytest.fixture(scope="module")
def through(tmp_path_factory, data):
    """A run with these random numbers, to compare with others."""
    return train(tmp_path_factory.mktemp("through"), "--dataset", data, *RANDOM)


@pytest.mark.parametrize("flags", [["--seed", 1], ["--ema_decay", 0]], ids=["seed", "no average"])
def test_these_runs_depend_on_their_random_numbers(tmp_path, data, through, flags):
    """Premise of the tests above: another seed, or no averaging, gives other weights."""
    assert not same(weights(through), weights(train(tmp_path, "--dataset", data, *RANDOM, *flags)))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--eval_steps", 1], ["--num_workers", 0]], ids=["evaluations", "workers"])
def test_intermediate_evaluations_and_the_number_of_workers_do_not_change_the_weights(tmp_path, data, through, flags):
    """The random numbers of evaluations are independent of stochastic depth's."""
    assert same(weights(through), weights(train(tmp_path, "--dataset", data, *RANDOM, *flags)))


ONE_RATE = ["--max_steps", 4, "--save_steps", 1, "--keep_checkpoints", 9, "--eval_steps", 1, "--learning_rate", 0]
"""Weights that never change, so that the first evaluation is the best one."""


def test_a_run_that_goes_on_in_another_directory_claims_no_best_model_of_the_first(tmp_path, data, capsys):
    flags = ["--dataset", data, *ONE_RATE]
    first = train(tmp_path / "first", *flags)
    second = train(tmp_path / "second", *flags, "--resume", first / "checkpoints/checkpoint-00000002")
    assert f"log.jsonl and best/ of the steps so far stay beside {first / 'checkpoints'}" in capsys.readouterr().out
    assert [json.loads((run / "metrics.json").read_text())["best_step"] for run in (first, second)] == [1, 3], "the first that it measured"
    assert (second / "best/model.safetensors").is_file()


def without_entry(tree, name):
    """A stored state without the entries of a name; dictionaries are stored as lists of pairs."""
    if isinstance(tree, dict):
        return {key: without_entry(value, name) for key, value in tree.items()}
    if isinstance(tree, list):
        return [without_entry(each, name) for each in tree if not (isinstance(each, list) and each[:1] == [name])]
    return tree


def test_a_checkpoint_of_a_version_that_did_not_count_labels_can_be_resumed(tmp_path, data):
    flags = ["--dataset", data, *ONE_RATE]
    run = train(tmp_path / "run", *flags)
    checkpoint = run / "checkpoints/checkpoint-00000002"
    states = [path for path in checkpoint.iterdir() if path.is_file() and b'"known"' in path.read_bytes()]
    assert len(states) == 1, "premise: one file has the progress"
    states[0].write_text(json.dumps(without_entry(json.loads(states[0].read_text()), "known")))
    assert train(run, *flags, "--resume", checkpoint) == run


def test_a_new_run_that_overwrites_another_removes_its_best_model(tmp_path, data, monkeypatch):
    run = train(tmp_path / "run", "--dataset", data, *ONE_RATE)
    assert (run / "best").is_dir()
    interrupted(monkeypatch, 0, run, "--dataset", data, *ONE_RATE, "--overwrite")
    assert not (run / "best").exists()


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(tmp_path, data):
    """Signal 9, several times; a checkpoint is written at every step, so that many kills fall into a save."""
    flags = ["--dataset", str(data), *RANDOM, "--max_steps", "30", "--save_steps", "1", "--eval_steps", "9"]
    train(tmp_path / "through", *flags)
    argv = [*TINY, "--output_dir", str(tmp_path / "killed"), *flags, "--resume", "latest"]
    moments = random.Random(os.environ.get("MULT_HF_KILL_SEED", "0"))
    kills, output = 0, tmp_path / "output.txt"
    while kills < 3:
        process = start(example.main, argv, output=output)
        wait_for_progress(process, tmp_path / "killed", output)
        time.sleep(moments.uniform(0.0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        print(f"killed with {sorted(path.name for path in (tmp_path / 'killed' / 'checkpoints').iterdir())}")
    train(tmp_path / "killed", *flags, "--resume", "latest")
    for part in ("", "best"):
        assert same(weights(tmp_path / "through" / part), weights(tmp_path / "killed" / part)), part
    assert comparable_log(tmp_path / "through") == comparable_log(tmp_path / "killed")


def wait_for_progress(process, directory, output):
    """Until the run has written a checkpoint newer than all before."""
    newest = max([path.name for path in list_checkpoints(directory / "checkpoints")], default="")
    for _ in range(12000):  # a process takes more than a minute to start on a busy machine
        if max([path.name for path in list_checkpoints(directory / "checkpoints")], default="") > newest:
            return
        assert process.is_alive(), output.read_text()
        time.sleep(0.02)
    raise AssertionError("no checkpoint within four minutes")


def test_a_finished_run_is_resumed_to_the_same_result(tmp_path, data):
    train(tmp_path, "--dataset", data)
    before = weights(tmp_path)
    logged = comparable_log(tmp_path)
    train(tmp_path, "--dataset", data, "--resume", "latest")
    assert same(before, weights(tmp_path))
    assert logged == comparable_log(tmp_path)


def test_the_checkpoint_of_another_run_is_refused(tmp_path, data):
    train(tmp_path, "--dataset", data)
    with pytest.raises(ValueError, match=r"--learning_rate was 0\.004 and is 0\.1"):
        train(tmp_path, "--dataset", data, "--resume", "latest", "--learning_rate", 0.1)
    train(tmp_path, "--dataset", data, "--resume", "latest", "--logging_steps", 5)  # what is written may change


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_whose_data_changed_is_not_resumed(tmp_path, data, split):
    copy = shutil.copytree(data, tmp_path / "data")
    train(tmp_path / "run", "--dataset", copy)
    other = write_data(tmp_path / "other", {"depth": depth_map, "principal_curvature": curvature_map}, [DEPTH, CURVATURE], count=3)
    name = f"{split}-00000-of-00001.parquet"
    shutil.copy(other / name, copy / name)
    with pytest.raises(ValueError, match=rf"the data changed since the checkpoint \({split}\w*: 4 rows, .* at the checkpoint, 3 rows, "):
        train(tmp_path / "run", "--dataset", copy, "--resume", "latest")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"scale": 0.001953125', '"scale": 0.003', r"depth/encoding/scale: 0\.001953125 at the checkpoint, 0\.003 now"),
        ('"channels": 2', '"channels": 2, "loss": "rotate_l1"', "principal_curvature/loss: l1 at the checkpoint, rotate_l1 now"),
    ],
)
def test_a_run_whose_entries_changed_is_not_resumed(tmp_path, data, old, new, named):
    """The same stored maps would mean something else, or be learnt in another way, from this step on."""
    copy = shutil.copytree(data, tmp_path / "data")
    train(tmp_path / "run", "--dataset", copy)
    card = (copy / "README.md").read_text()
    assert old in card
    (copy / "README.md").write_text(card.replace(old, new))
    with pytest.raises(ValueError, match=rf"the data changed since the checkpoint \({named}"):
        train(tmp_path / "run", "--dataset", copy, "--resume", "latest")
    (copy / "README.md").write_text(card.replace('"channels": 2', '"channels": 2, "description": "new words"'))
    train(tmp_path / "run", "--dataset", copy, "--resume", "latest")


@pytest.mark.parametrize(
    ("of_processor", "of_model", "named"),
    [
        ({"size": {"height": 32, "width": 32}}, {}, r"processor/size: {height: 64.0, width: 64.0} at the checkpoint, {height: 32.0,"),
        ({"canonical_focal_length": 500.0}, {}, r"processor/assumed_field_of_view: None at the checkpoint, 60.0 now, processor/canonical"),
        ({}, {"drop_path_rate": 0.5}, r"model/drop_path_rate: 0.0 at the checkpoint, 0.5 now"),
        ({}, {"backbone_config": {**TINY_SWIN, "drop_path_rate": 0.5}}, r"model/backbone/drop_path_rate: .* at the checkpoint, 0.5 now"),
    ],
)
def test_a_run_is_not_resumed_with_another_image_processor_or_model(tmp_path, data, of_processor, of_model, named):
    """In Python, where no flags describe them; the weights would fit."""
    entries, rows = load_task_entries(data), load_rows(data)["train"]

    def run(of_processor, of_model, **arguments):
        processor = MulTImageProcessor(**{"size": {"height": 64, "width": 64}, "tasks": entries, **of_processor})
        model = MulTForMultiTaskDensePrediction(MulTConfig(**{"backbone_config": dict(TINY_SWIN), "tasks": entries, **of_model}))
        new_accelerate_state()
        run_training(
            model, processor, rows, rows, TrainingArguments(output_dir=tmp_path, max_steps=1, batch_size=2, cpu_threads=1, **arguments)
        )

    run({}, {})
    run({}, {}, resume="latest")
    with pytest.raises(ValueError, match=f"the image processor or model changed since the checkpoint .*{named}"):
        run(of_processor, of_model, resume="latest")


def test_a_new_run_overwrites_an_earlier_one_only_with_the_flag(tmp_path, data):
    train(tmp_path, "--dataset", data)
    with pytest.raises(ValueError, match="checkpoints of an earlier run, the last at step 2"):
        train(tmp_path, "--dataset", data)
    train(tmp_path, "--dataset", data, "--overwrite", "--seed", 1)


def test_a_model_without_checkpoints_is_replaced_only_with_the_flag(tmp_path, data):
    """As one that was downloaded, or whose checkpoints were deleted to save space."""
    train(tmp_path, "--dataset", data)
    shutil.rmtree(tmp_path / "checkpoints")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    for more in ([], ["--resume", "latest"]):
        with pytest.raises(ValueError, match=r"has README.md, .*model.safetensors, .* would replace them; give another --output_dir"):
            train(tmp_path, "--dataset", data, *more)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()} == before
    train(tmp_path, "--dataset", data, "--overwrite", "--seed", 1)
    assert (tmp_path / "model.safetensors").read_bytes() != before["model.safetensors"]


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--resume", "latest"]], ids=["new", "overwriting", "resuming"])
def test_a_second_run_in_one_directory_is_refused_and_changes_nothing(tmp_path, data, flags):
    train(tmp_path, "--dataset", data)
    with exclusive_run(tmp_path):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(ValueError, match=f"another run is writing to .*: process {os.getpid()} on .*, started "):
            train(tmp_path, "--dataset", data, *flags)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    train(tmp_path, "--dataset", data, "--resume", "latest")


def test_the_newest_checkpoints_are_kept(tmp_path, data):
    train(tmp_path, "--dataset", data, "--max_steps", 5, "--save_steps", 1, "--keep_checkpoints", 3)
    assert [path.name[-1] for path in list_checkpoints(tmp_path / "checkpoints")] == ["3", "4", "5"]


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, data):
    with pytest.raises(
        FloatingPointError, match=r"step 2: .*(depth|principal_curvature) is (nan|inf).*row \d \(note train image \d\)"
    ) as error:
        train(tmp_path, "--dataset", data, "--learning_rate", 1e30, "--warmup_steps", 0, "--save_steps", 1, "--max_steps", 3)
    assert "last good checkpoint: " in str(error.value)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["checkpoint-00000001"]


# Several processes.


# The checkpoint falls between two entries of the log, so that it holds sums of losses of both processes.
THREE_STEPS = "--max_steps 3 --save_steps 2 --logging_steps 3".split()


@pytest.fixture(scope="module")
def sparse_data(tmp_path_factory):
    """Images with few or no labels of one task, so that processes have different numbers of them."""
    columns = {"depth": sparse_depth_map, "principal_curvature": curvature_map}
    return write_data(tmp_path_factory.mktemp("sparse") / "maps", columns, [DEPTH, CURVATURE], count=8)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, sparse_data):
    """Three steps of four images in one process, to compare with two processes of two."""
    return train(tmp_path_factory.mktemp("one"), "--dataset", sparse_data, "--batch_size", 4, *THREE_STEPS)


def settings_of_the_launcher(configuration):
    """The environment variables that `accelerate launch` gives its processes."""
    parser = launch_command_parser()
    arguments, _, _ = _validate_launch_command(parser.parse_args(["--config_file", str(ROOT / configuration), "script"]))
    return prepare_multi_gpu_env(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", [pytest.param("ddp_cpu", marks=pytest.mark.nightly), "fsdp2_cpu"])
def test_two_processes_train_like_one_with_the_joined_batches(tmp_path, sparse_data, one_process, configuration):
    """The same losses, weights and metrics up to rounding; also after an interruption."""
    settings = settings_of_the_launcher(f"examples/accelerate/{configuration}.yaml")
    argv = [*TINY, "--dataset", str(sparse_data), "--output_dir", str(tmp_path / "two"), "--batch_size", "2", *THREE_STEPS]

    def train_two(*flags):
        printed, statuses = run_together(example.main, [*argv, *flags], output=tmp_path / "output.txt", environment=settings)
        assert statuses == [0, 0], printed
        assert_close_to(one_process, tmp_path / "two")

    train_two()
    newest = list_checkpoints(tmp_path / "two/checkpoints")[-1]
    assert len(list((newest / "sharded").glob("*.safetensors"))) == (2 if configuration == "fsdp2_cpu" else 0)
    if configuration == "ddp_cpu":
        assert same(weights(newest), load_whole_model(str(newest)).state_dict())
    else:
        with pytest.raises(ValueError, match=r"checkpoint-\d+ has no config.json; give the directory of a trained model"):
            load_whole_model(str(newest))
    newest.rename(newest.with_suffix(".partial"))  # as if the run had been killed in its last save
    train_two("--resume", "latest")
    of_one_process = list_checkpoints(one_process / "checkpoints")[0]
    assert checkpoint_step(of_one_process) < 3, "premise: steps are left"
    train_two("--resume", str(of_one_process))
    assert MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "two").task_names == ["depth", "principal_curvature"]
