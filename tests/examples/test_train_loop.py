"""Proves that the minimal loop in examples/train_loop.py takes the same steps as the training function."""

import pytest
import torch
from accelerate.utils import set_seed

from examples import lora, own_task, train_loop
from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.run import train
from support.training_runs import new_accelerate_state, weights

STEPS = 4


def new_model(tasks, seed=0):
    set_seed(seed)
    return MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=train_loop.SMALL_SWIN, tasks=tasks, **train_loop.DECODER))


def run_loop(output_dir, data):
    new_accelerate_state()
    train_loop.main(["--dataset", str(data), "--output_dir", str(output_dir), "--max_steps", str(STEPS), "--batch_size", "2"])
    return weights(output_dir)


def run_function(output_dir, data, **arguments):
    new_accelerate_state()
    rows, tasks = load_rows(data), load_task_entries(data)
    processor = MulTImageProcessor(size={"height": 64, "width": 64}, tasks=tasks)
    settings = TrainingArguments(output_dir=output_dir, max_steps=STEPS, batch_size=2, panel_rows=1, cpu_threads=1, **arguments)
    train(new_model(tasks), processor, rows["train"], rows["validation"], settings)
    return weights(output_dir)


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.slow
def test_the_bare_loop_and_the_training_function_give_the_same_weights(tmp_path, data):
    """At fixed weighting. They add the task losses in different orders, and AdamW's first steps have the size of the learning rate
    whatever the size of a gradient, so rounding may show; premise: four steps and another decay move weights much further.
    """
    loop = run_loop(tmp_path / "loop", data)
    function = run_function(tmp_path / "function", data)
    assert largest_difference(loop, function) < 2e-4
    new_model(load_task_entries(data)).save_pretrained(tmp_path / "new")
    assert largest_difference(loop, weights(tmp_path / "new")) > 1e-3
    other = run_function(tmp_path / "other", data, weight_decay=0.9)
    assert largest_difference(loop, other) > 4e-4


def test_the_loop_saves_a_model_and_its_processor(tmp_path, data):
    run_loop(tmp_path, data)
    model = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path)
    processor = MulTImageProcessor.from_pretrained(tmp_path)
    assert model.task_names == list(processor.task_specs) == ["depth", "principal_curvature"]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_steps", "0"], "--max_steps is 0; it must be at least 1"),
        (["--batch_size", "-2"], "--batch_size is -2; it must be at least 1"),
        (["--learning_rate", "nan"], "--learning_rate is nan; it must be"),
        (["--learning_rate", "0"], "--learning_rate is 0.0; it must be"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
    ],
)
def test_settings_that_train_nothing_are_refused_before_the_first_step(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        train_loop.main(["--output_dir", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused_before_the_training(tmp_path, monkeypatch):
    (tmp_path / "out").write_text("mine")
    monkeypatch.setattr(train_loop, "load_rows", None)
    with pytest.raises(FileExistsError, match="out"):
        train_loop.main(["--output_dir", str(tmp_path / "out")])


@pytest.mark.parametrize(("example", "flag"), [(own_task, "rows"), (own_task, "batch_size"), (lora, "rows"), (lora, "max_steps")])
def test_other_examples_refuse_numbers_below_one(tmp_path, example, flag):
    with pytest.raises(ValueError, match=f"--{flag} is 0; it must be at least 1"):
        example.main(["--output_dir", str(tmp_path), f"--{flag}", "0"])
