"""Proves that training on streamed rows can be interrupted anywhere, with several processes and workers, without a change of the result."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import torch

from mult_hf.data.schema import card_header
from mult_hf.training.checkpoints import list_checkpoints
from support.processes import kill_all_of, sleep_unless
from support.training_runs import (
    ROOT,
    TINY,
    comparable_log,
    environment,
    interrupted,
    log,
    same,
    train,
    weights,
    write_shards,
)

pytest.importorskip("torchdata")

RANDOM = "--streaming --shuffle_window 3 --drop_path_rate 0.3 --gradient_accumulation_steps 2 --max_steps 8 --save_steps 2".split()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A data set in six files per split, of one row each or more."""
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_on_streamed_rows_ends_with_exactly_the_same_weights(tmp_path, shards, monkeypatch, workers):
    """At a moment of the first epoch and one of a later epoch, each a step after the checkpoint."""
    flags = ["--dataset", shards, *RANDOM, "--num_workers", workers]
    train(tmp_path / "through", *flags)
    for moment in (3, 7):
        interrupted(monkeypatch, moment, tmp_path / "resumed", *flags, "--resume", "latest")
    train(tmp_path / "resumed", *flags, "--resume", "latest")
    assert same(weights(tmp_path / "through"), weights(tmp_path / "resumed"))
    assert comparable_log(tmp_path / "through") == comparable_log(tmp_path / "resumed")
    epochs = log(tmp_path / "through", "epoch")
    assert epochs[1] == 0
    assert epochs[8] > 0, "premise: the run is longer than an epoch"


def test_streamed_rows_are_evaluated_like_stored_ones(tmp_path, shards):
    """The validation rows, the model and its size are the same; only the order of the training rows differs."""
    stored, streamed = (
        json.loads((train(tmp_path / name, "--dataset", shards, "--learning_rate", 0, *flags) / "metrics.json").read_text())
        for name, flags in {"stored": [], "streamed": ["--streaming"]}.items()
    )
    assert streamed["model"] == pytest.approx(stored["model"], rel=1e-5)  # sums in another order
    assert streamed["train_samples"] == "streamed"
    assert stored["train_samples"] == 12
    assert streamed["image_size"] == stored["image_size"]


def test_the_window_and_the_evaluated_rows_are_those_of_the_flags(tmp_path, shards):
    few = ["--dataset", shards, "--streaming", "--validation_samples", 3]
    runs = [train(tmp_path / str(window), *few, "--shuffle_window", window) for window in (1, 12)]
    assert [json.loads((run / "metrics.json").read_text())["evaluated_samples"] for run in runs] == [3, 3]
    assert not same(*map(weights, runs)), "a window of all rows has another order than none"


def test_streamed_data_sets_are_mixed_by_weight(tmp_path, shards, data):
    flags = "--mix_weights 3 1 --streaming --num_workers 1 --max_steps 3 --batch_size 4".split()
    train(tmp_path, "--dataset", shards, "--mix_with", data, *flags)
    assert log(tmp_path, "loss/depth").keys() == {1, 2, 3}


def test_a_run_on_streamed_rows_is_continued_with_the_same_data_and_workers_only(tmp_path, shards):
    copy = shutil.copytree(shards, tmp_path / "data")
    flags = ["--dataset", copy, "--streaming", "--num_workers", 1]
    train(tmp_path / "run", *flags)
    with pytest.raises(ValueError, match=r"--num_workers was 1 and is 2; .*continue with --num_workers 1"):
        train(tmp_path / "run", *flags, "--resume", "latest", "--num_workers", 2)
    shutil.copy(copy / "train-00002-of-00006.parquet", copy / "train-00003-of-00006.parquet")
    with pytest.raises(ValueError, match=r"the data changed since the checkpoint \(training: .*training_files: 6 shards, 6 files, "):
        train(tmp_path / "run", *flags, "--resume", "latest")


def test_a_non_finite_loss_names_the_streamed_samples(tmp_path, shards):
    flags = ["--streaming", "--learning_rate", 1e30, "--warmup_steps", 0, "--save_steps", 1, "--max_steps", 3]
    with pytest.raises(FloatingPointError, match=r"step 2: .*(depth|principal_curvature) is (nan|inf).*sample \(note train image \d\)"):
        train(tmp_path, "--dataset", shards, *flags)


def test_a_url_is_streamed_without_the_flag(tmp_path, shards):
    train(tmp_path, "--dataset", f"file://{shards}")
    assert json.loads((tmp_path / "metrics.json").read_text())["train_samples"] == "streamed"
    assert "file:" not in str(card_header(tmp_path / "README.md")), "the card has no path of this machine"


# Several processes.

LONG = 120
"""Steps of a run that is killed many times before its end."""


def command(output_dir, dataset, processes, *flags):
    """A run in several processes with two workers each, started by torchrun."""
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    run = [str(ROOT / "examples/train.py"), *TINY, "--dataset", str(dataset), "--output_dir", str(output_dir), *map(str, flags)]
    return [sys.executable, "-m", *launch, *run]


@pytest.mark.slow
@pytest.mark.nightly
def test_two_processes_killed_at_random_moments_end_with_the_same_weights(tmp_path, shards):
    """Signal 9 to two processes with two workers each, ten times; a checkpoint is written at every step."""
    flags = [*RANDOM, "--num_workers", 2, "--max_steps", LONG, "--save_steps", 1, "--resume", "latest"]
    subprocess.run(command(tmp_path / "through", shards, 2, *flags), env=environment(), check=True, capture_output=True)
    moments = random.Random(os.environ.get("MULT_HF_KILL_SEED", "0"))
    kills = int(os.environ.get("MULT_HF_KILLS", "10"))
    killed = 0
    while killed < kills:
        before = steps(tmp_path / "killed")
        process = subprocess.Popen(command(tmp_path / "killed", shards, 2, *flags), env=environment(), stderr=subprocess.DEVNULL)
        if killed == 0 and moments.random() >= 0.7:  # before the first checkpoint
            wait_for(lambda process=process: len(psutil.Process(process.pid).children()) >= 2, process)
        else:
            wait_for(lambda before=before: steps(tmp_path / "killed") > before, process)
        sleep_unless(lambda before=before: steps(tmp_path / "killed") >= before + LONG // kills - 3, moments.uniform(0.0, 1.0))
        assert kill_all_of(process) > 2, "premise: torchrun and both of its processes were killed"
        killed += 1
        print(f"kill {killed}: checkpoint {before} -> {steps(tmp_path / 'killed')}")
    assert steps(tmp_path / "killed") < LONG, "premise: the run had not ended"
    subprocess.run(command(tmp_path / "killed", shards, 2, *flags), env=environment(), check=True, capture_output=True)
    assert_equal_up_to_rounding(tmp_path / "through", tmp_path / "killed")


def steps(directory):
    found = list_checkpoints(directory / "checkpoints")
    return int(re.findall(r"\d+", found[-1].name)[0]) if found else 0


def wait_for(reached, process, seconds=240):
    for _ in range(seconds * 50):
        if reached() or process.poll() is not None:
            return
        time.sleep(0.02)
    raise AssertionError(f"not reached within {seconds} seconds")


def assert_equal_up_to_rounding(through, other):
    """Of two processes, gradients are added in one order on one machine; the tolerance is that of other machines."""
    for name, value in weights(through).items():
        torch.testing.assert_close(weights(other)[name], value, atol=1e-6, rtol=1e-5)
    assert [e["step"] for e in comparable_log(through)] == [e["step"] for e in comparable_log(other)]
