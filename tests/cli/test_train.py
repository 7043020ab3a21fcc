"""Proves that every flag of `mult-hf train` has its documented effect or is refused."""

import json
from dataclasses import fields

import pytest
import torch
import yaml
from transformers import SwinBackbone, SwinConfig

from mult_hf import MulTForMultiTaskDensePrediction
from mult_hf.cli import train as command
from mult_hf.cli.arguments import parse_arguments
from mult_hf.training.loop import TrainingLoop
from support.models import TINY_SWIN
from support.training_runs import DEPTH, ROOT, depth_map, log, same, train, weights, write_data

AS_BY_DEFAULT = ["--embed_dim", 24, "--depths", 2, 2, 2, 2, "--window_size", 8]  # sizes that a model or an encoder brings along


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
    """The effects are tested elsewhere; here only that every flag has one."""
    train(tmp_path, "--dataset", data, f"--{name}", *str(SHAPING[name]).split())
    assert not same(weights(plain_run), weights(tmp_path))


def test_evaluation_uses_its_own_split(tmp_path, data, plain_run):
    train(tmp_path, "--dataset", data, "--validation_split", "train")
    other, own = (json.loads((directory / "metrics.json").read_text()) for directory in (tmp_path, plain_run))
    assert (other["split"], own["split"]) == ("train", "validation")
    assert other["model"] != own["model"]
    assert same(weights(plain_run), weights(tmp_path))


@pytest.mark.parametrize(("schedule", "power", "last"), [("linear", 3, 1 / 4), ("polynomial", 3, (1 / 4) ** 3), ("polynomial", 1, 1 / 4)])
def test_the_learning_rate_follows_the_schedule_and_power_of_the_flags(tmp_path, data, schedule, power, last):
    flags = ["--schedule", schedule, "--schedule_power", power, "--warmup_steps", 2, "--learning_rate", 0.01]
    train(tmp_path, "--dataset", data, "--max_steps", 6, *flags)
    rates = log(tmp_path, "learning_rate")
    assert [rates[step] for step in (1, 2, 5)] == pytest.approx([0.005, 0.01, 0.01 * last])


def test_training_starts_from_a_trained_model(tmp_path, data):
    train(tmp_path / "first", "--dataset", data)
    flags = [*AS_BY_DEFAULT, "--model", tmp_path / "first", "--learning_rate", 0, "--weight_decay", 0]
    train(tmp_path / "second", "--dataset", data, *flags)
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))


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


def test_flags_may_come_from_a_file(tmp_path, data):
    (tmp_path / "flags.yaml").write_text(yaml.safe_dump({"dataset": str(data), "max_steps": 3, "tasks": ["depth"]}))
    train(tmp_path / "model", "--config", tmp_path / "flags.yaml", "--max_steps", 1)
    assert MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "model").task_names == ["depth"]
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["steps"] == 1  # the command line wins


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_value_of_a_shipped_configuration_reaches_its_flag(file):
    """With the flags' types of paths and numbers; a default value would prove nothing."""
    given = yaml.safe_load(file.read_text())
    flags, default = (parse_arguments(command.TrainFlags, argv, "") for argv in (["--config", str(file)], []))
    assert {name: type(value)(getattr(flags, name)) for name, value in given.items()} == given
    assert any(getattr(flags, name) != getattr(default, name) for name in given)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_steps", "0"], "--max_steps is 0; it must be at least 1"),
        (["--eval_steps", "0"], "--eval_steps is 0; it must be at least 1"),
        (["--weighting", "fair"], "--weighting is 'fair'; allowed: fixed"),
        (["--ema_decay", "1"], "--ema_decay is 1.0"),
        (["--model", "a", "--backbone", "b"], "--model a replaces these settings; remove --backbone b, --embed_dim 8"),
        (["--backbone", "b"], "--backbone b replaces these settings; remove --embed_dim 8"),
        (["--max_grad_norm", "-1"], r"--max_grad_norm is -1\.0; it must be at least 0"),
        (["--learning_rate", "nan"], "--learning_rate is nan; it must be at least 0"),
        (["--image_size", "0"], "--image_size is 0; it must be at least 32"),
        (["--panel_rows", "0"], "--panel_rows is 0; it must be at least 1"),
        (["--weighting_options", "{period: 5}"], r"--weighting_options is '\{period: 5\}'; give a JSON object"),
        (["--weighting_options", "[5]"], r"--weighting_options is '\[5\]'; give a JSON object"),
        (
            ["--torch_compile", "aot_eager", "--weighting", "gradnorm"],
            "differentiates a graph several times, but a compiled graph allows this only once",
        ),
        (["--tasks", "depth", "smell"], r"has no tasks \['smell'\]; it has \['depth', 'principal_curvature'\]"),
    ],
)
def test_invalid_flags_are_refused(tmp_path, data, flags, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, "--dataset", data, *flags)


def test_a_data_set_without_a_card_is_refused(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_map}, [DEPTH])
    (data / "README.md").unlink()
    with pytest.raises(ValueError, match=r"has no README\.md"):
        train(tmp_path / "model", "--dataset", data)


def test_columns_without_the_name_of_a_task_are_refused(tmp_path):
    data = write_data(tmp_path / "data", {"distance": depth_map}, [DEPTH])
    with pytest.raises(ValueError, match=r"columns are .*'distance'.*; expected 'image' and at least one of \['depth'\]"):
        train(tmp_path / "model", "--dataset", data)


# Flags with a test of their own, here or in tests/training.
TESTED_BY_NAME = {
    *("config", "dataset", "validation_split", "model", "backbone", "num_workers", "max_steps", "encoder_learning_rate_factor"),
    *("schedule", "schedule_power", "max_grad_norm", "weighting_options", "mixed_precision", "torch_compile", "output_dir"),
    *("eval_steps", "save_steps", "keep_checkpoints", "resume", "overwrite", "logging_steps", "log_with", "panel_rows", "push_to_hub"),
    *("float32_matmul", "cpu_threads"),
}


def test_every_flag_has_a_help_text_and_a_test():
    assert {each.name for each in fields(command.TrainFlags)} == {*SHAPING, *TESTED_BY_NAME}
    assert all(each.metadata["help"] for each in fields(command.TrainFlags))


def test_flags_set_precision_and_threads(tmp_path, data, monkeypatch):
    """Restored afterwards, because both are settings of the whole process."""
    threads, seen = torch.get_num_threads(), []
    monkeypatch.setattr(TrainingLoop, "run", lambda loop: seen.append((torch.get_num_threads(), torch.get_float32_matmul_precision())))
    monkeypatch.setattr("mult_hf.training.run.save_results", lambda loop, provenance: {})
    try:
        train(tmp_path, "--dataset", data, "--cpu_threads", 2, "--float32_matmul", "medium")
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
    assert seen == [(2, "medium")]


def test_a_data_set_must_be_named_without_the_sample(tmp_path, monkeypatch):
    """As in an installed package."""
    monkeypatch.setattr(command.TrainFlags.__dataclass_fields__["dataset"], "default", None)
    monkeypatch.setattr(command.TrainFlags, "dataset", None)
    with pytest.raises(ValueError, match="--dataset is missing; give a local directory or Hub id of a data set"):
        command.main(["--output_dir", str(tmp_path)])
