"""Proves that every flag of `mult-hf train` has its documented effect or is refused."""

import json
import shlex
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from transformers import SwinBackbone, SwinConfig

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli import predict
from mult_hf.cli import train as command
from mult_hf.cli.arguments import parse_arguments
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows
from mult_hf.training.checkpoints import list_checkpoints
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
    "min_zoom": 0.5,
    "rotation": 20,
    "hue": 0.3,
    "white_balance": 0.5,
    "gamma": 0.5,
    "blur": 2,
    "noise": 0.1,
    "jpeg": 1,
    "canonical_focal_length": 300,  # far targets become larger than predictions, which alone changes an L1 loss's gradient
    "embed_dim": 16,
    "depths": "1 1 2 1",
    "window_size": 2,
    "position_embeddings": False,
    "decoder": "mult",
    "block_attention": "self self",
    "reference_task": "principal_curvature",
    "decoder_window_size": 2,
    "mlp_ratio": 2,
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


def test_the_last_line_is_a_command_that_predicts_with_the_model(tmp_path, data, capsys):
    train(tmp_path / "my run", "--dataset", data)
    program, command_name, *words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert (program, command_name) == ("mult-hf", "predict")
    replaced = {"image.jpg": ROOT / "docs/images/coffee.jpg", "predictions": tmp_path / "predictions"}
    predict.main([str(replaced.get(word, word)) for word in words])
    assert list((tmp_path / "predictions/maps/depth").iterdir())


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


def test_training_starts_from_a_checkpoint_of_another_run(tmp_path, data):
    train(tmp_path / "first", "--dataset", data, "--save_steps", 1, "--keep_checkpoints", 2)
    checkpoint, last = list_checkpoints(tmp_path / "first" / "checkpoints")
    unchanging = ["--learning_rate", 0, "--weight_decay", 0]
    train(tmp_path / "second", "--dataset", data, *AS_BY_DEFAULT, "--model", checkpoint, *unchanging)
    assert same(weights(checkpoint), weights(tmp_path / "second"))
    assert same(weights(last), weights(tmp_path / "first"))
    assert not same(weights(checkpoint), weights(last))


def test_further_training_keeps_the_range_of_depth_and_says_which_camera_is_assumed(tmp_path, data, capsys):
    """Otherwise the saved processor would clip to a range of the data that the head does not have."""
    train(tmp_path / "first", "--dataset", data, "--tasks", "depth", "--canonical_focal_length", 96)
    assert "has no column focal_length: the model learns depth for a canonical camera" in capsys.readouterr().out
    far = write_data(tmp_path / "far", {"depth": depth_map}, [{**DEPTH, "value_range": [0.0, 64.0]}])
    train(tmp_path / "second", "--dataset", far, *AS_BY_DEFAULT, "--model", tmp_path / "first")
    model = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "second")
    processor = MulTImageProcessor.from_pretrained(tmp_path / "second")
    assert processor.task_specs["depth"].value_range == model.config.task_specs["depth"].value_range == (0.0, 10.0)
    assert processor.canonical_focal_length == 96
    printed = capsys.readouterr().out
    assert "the range from 0 to 10 m and the data from 0 to 64 m" in printed
    assert "or else a field of view of 60 degrees is assumed" in printed


def test_a_mixture_names_the_data_sets_without_focal_lengths(tmp_path, data, capsys):
    other = write_data(tmp_path / "other", {"depth": depth_map}, [DEPTH])
    for split, rows in load_rows(other).items():
        rows.add_column("focal_length", [60.0] * len(rows)).to_parquet(str(other / f"{split}-00000-of-00001.parquet"))
    flags = ["--mix_with", other, "--canonical_focal_length", 96]
    train(tmp_path / "mixed", "--dataset", data, *flags)
    printed = capsys.readouterr().out
    assert f"no column focal_length in {data}: for these rows, the focal length in each image's EXIF is used" in printed
    assert "the training data has no column focal_length" not in printed
    train(tmp_path / "curvature", "--dataset", data, "--tasks", "principal_curvature", "--canonical_focal_length", 96)
    assert "focal_length" not in capsys.readouterr().out, "curvature does not depend on it"


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


def test_a_mixture_trains_every_task_of_any_data_set_with_its_own_encoding(tmp_path, data, monkeypatch):
    """One set has depth in 1 / 512 m, the other in mm and without curvature. Evaluation and baseline are those of the first."""
    millimetres = {**DEPTH, "encoding": {"dtype": "uint16", "scale": 0.001, "unknown": [0]}}
    other = write_data(tmp_path / "other", {"depth": depth_map}, [millimetres], count=2)
    batches, collate = [], MultiTaskCollator.__call__

    def keep(self, rows):
        batches.append((rows, collate(self, rows)))
        return batches[-1][1]

    monkeypatch.setattr(MultiTaskCollator, "__call__", keep)
    train(tmp_path / "mixed", "--dataset", data, "--mix_with", other, "--mix_weights", 1, 3, "--batch_size", 8, "--color_jitter", 0)
    mixed = [(row, depth, batch) for rows, batch in batches if "source" in rows[0] for row, depth in zip(rows, batch["labels"]["depth"])]
    highest = {
        name: max(depth.nan_to_num().max().item() for row, depth, _ in mixed if row["source"] == str(name)) for name in (data, other)
    }
    assert highest[data] > 4, "2,499 / 512 m, magnified by at most 1.15"
    assert highest[other] < 2.5
    assert {row["source"] for row, *_ in mixed} == {str(data), str(other)}
    found = json.loads((tmp_path / "mixed" / "metrics.json").read_text())
    assert found["dataset"] == f"{data.name} and other"
    alone = json.loads((train(tmp_path / "alone", "--dataset", data) / "metrics.json").read_text())
    assert found["constant_baseline"] == alone["constant_baseline"]


def test_photographs_without_maps_teach_what_follows_from_the_image(tmp_path, data, monkeypatch):
    photographs = write_data(tmp_path / "photographs", {}, [{"name": "edges2d"}])
    batches, collate = [], MultiTaskCollator.__call__
    monkeypatch.setattr(MultiTaskCollator, "__call__", lambda self, rows: batches.append((rows, collate(self, rows))) or batches[-1][1])
    flags = ["--dataset", data, "--mix_with", photographs, "--targets_of_views", "edges2d", "--batch_size", 8]
    model = train(tmp_path / "model", *flags)
    assert MulTForMultiTaskDensePrediction.from_pretrained(model).task_names == ["depth", "principal_curvature", "edges2d"]
    trained = [batch for rows, batch in batches if "source" in rows[0]]
    assert all(batch["labels"]["edges2d"].isfinite().all() for batch in trained)
    assert any(batch["labels"]["depth"].isnan().all(dim=(1, 2, 3)).any() for batch in trained), "premise: some rows have no maps"
    batches.clear()
    train(tmp_path / "few", *flags, "--targets_of_views_share", 0.1)
    trained = [batch for rows, batch in batches if "source" in rows[0]]
    assert any(batch["labels"]["edges2d"].isnan().all(dim=(1, 2, 3)).any() for batch in trained)


def test_windows_are_cut_out_of_images_that_keep_their_aspect(tmp_path, data):
    train(tmp_path, "--dataset", data, "--image_size", 48, "--keep_aspect")
    processor = MulTImageProcessor.from_pretrained(tmp_path)
    assert dict(processor.size) == {"shortest_edge": 48}
    assert json.loads((tmp_path / "metrics.json").read_text())["image_size"] == "shorter side 48"


def test_an_encoder_without_attention_gets_heads_per_stage(tmp_path, data):
    timm = pytest.importorskip("timm")
    encoder = timm.create_model("test_efficientnet")
    encoder.pretrained_cfg.update(mean=(0.1, 0.2, 0.3))
    timm.models.save_for_hf(encoder, str(tmp_path / "encoder"), safe_serialization=True)
    flags = [*AS_BY_DEFAULT, "--backbone", tmp_path / "encoder", "--decoder_num_attention_heads", 2, 2, 1, 1]
    train(tmp_path / "model", "--dataset", data, *flags)
    assert MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "model").config.decoder_num_attention_heads == [2, 2, 1, 1]
    assert [*MulTImageProcessor.from_pretrained(tmp_path / "model").image_mean] == [0.1, 0.2, 0.3]


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
        (
            ["--weighting", "mgda", "--encoder_learning_rate_factor", "0"],
            "--weighting mgda balances the encoder's gradients, and --encoder_learning_rate_factor 0 freezes it; choose fixed, uncertainty",
        ),
        (
            [
                "--weighting",
                "gradnorm",
                "--model",
                "m",
                "--only_new_tasks",
                "--embed_dim",
                "24",
                "--depths",
                "2",
                "2",
                "2",
                "2",
                "--window_size",
                "8",
            ],
            "--weighting gradnorm balances the encoder's gradients, and --only_new_tasks freezes it",
        ),
        (
            "--model m --only_new_tasks --output_dir ./m --embed_dim 24 --depths 2 2 2 2 --window_size 8".split(),
            "--model m is in --output_dir m, and --only_new_tasks needs to resume it; choose another --output_dir",
        ),
        (
            "--model m/best --overwrite --output_dir m --embed_dim 24 --depths 2 2 2 2 --window_size 8".split(),
            "--model m/best is in --output_dir m, and --overwrite deletes it; choose another --output_dir",
        ),
        (["--ema_decay", "1"], "--ema_decay is 1.0"),
        (["--model", "a", "--backbone", "b"], "--model a replaces these settings; remove --backbone b, --embed_dim 8"),
        (["--backbone", "b"], "--backbone b replaces these settings; remove --embed_dim 8"),
        (["--max_grad_norm", "-1"], r"--max_grad_norm is -1\.0; it must be at least 0"),
        (["--learning_rate", "nan"], "--learning_rate is nan; it must be at least 0"),
        (["--image_size", "0"], "--image_size is 0; it must be at least 32"),
        (["--panel_rows", "0"], "--panel_rows is 0; it must be at least 1"),
        (["--jpeg", "2"], "--jpeg is 2.0; it must be at least 0 and at most 1"),
        (["--min_zoom", "0"], "--min_zoom is 0.0; it must be at least 0.1 and at most 1"),
        (["--canonical_focal_length", "0"], "--canonical_focal_length is 0.0; it must be at least 1"),
        (["--targets_of_views", "depth"], r"the image alone does not define \['depth'\]; choose from: edges2d, keypoints2d"),
        (["--keep_aspect"], "--keep_aspect needs --image_size, which is None"),
        (["--mix_with", "b", "--mix_weights", "1"], "--mix_weights has 1 weights for --dataset and 1 data sets of --mix_with"),
        (["--mix_weights", "nan"], r"--mix_weights has \[nan\]; give finite weights above 0"),
        (["--mix_with", "b", "--mix_weights", "1", "0"], r"--mix_weights has \[0\.0\]; give finite weights above 0"),
        (["--mix_with", "b", "b"], "--mix_with b b names a data set twice"),
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


def test_a_map_that_cannot_be_read_stops_training_with_its_row_and_what_to_do(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_map}, [DEPTH])
    path = data / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    cells = table["depth"].to_pylist()
    cells[2]["bytes"] = cells[2]["bytes"][:40]
    table = table.set_column(table.column_names.index("depth"), "depth", pa.array(cells, table["depth"].type))
    pq.write_table(table, path)
    with pytest.raises(
        ValueError, match=r"training data, row 2, column 'depth': .*; repair it, store null .*; to find others: `mult-hf check"
    ):
        train(tmp_path / "model", "--dataset", data)


def test_a_row_that_stops_training_is_explained_by_what_is_wrong_in_all_rows(tmp_path):
    """To mend or leave out a single row of 0/255 masks does not help."""
    entry = {"name": "mask", "kind": "classification", "channels": 2, "encoding": {"dtype": "uint8"}}
    masks = {"mask": lambda rng, size: Image.fromarray(255 * rng.integers(0, 2, (size, size)).astype(np.uint8))}
    data = write_data(tmp_path / "data", masks, [entry])
    message = r"(training|validation) data, row \d.*: mask: .* class 255.*; this may be so in all rows: .*looks wrong: mask: .*0/255 mask"
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "model", "--dataset", data)


def test_a_misspelt_colour_map_is_refused_before_the_first_step_and_not_by_the_panel_at_the_end(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_map}, [{**DEPTH, "colormap": "mgma"}])
    with pytest.raises(ValueError, match="task 'depth', a regression of 1 channel, has colormap 'mgma'; allowed: gray"):
        train(tmp_path / "model", "--dataset", data)
    assert not (tmp_path / "model/log.jsonl").exists()


# Flags with a test of their own, here or in tests/training.
TESTED_BY_NAME = {
    *("streaming", "shuffle_window", "validation_samples"),  # tests/training/test_streamed_runs.py
    *("config", "dataset", "validation_split", "model", "backbone", "num_workers", "max_steps", "encoder_learning_rate_factor"),
    *("schedule", "schedule_power", "max_grad_norm", "weighting_options", "mixed_precision", "torch_compile", "output_dir"),
    *("eval_steps", "save_steps", "keep_checkpoints", "resume", "overwrite", "logging_steps", "log_with", "panel_rows", "push_to_hub"),
    *("float32_matmul", "cpu_threads", "mix_with", "mix_weights", "keep_aspect", "decoder_num_attention_heads"),
    *("targets_of_views", "targets_of_views_share", "views_on_device"),
    "only_new_tasks",  # tests/training/test_results.py
    "hub_private_repo",  # tests/training/test_publishing.py
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


def test_a_card_with_broken_yaml_is_named(tmp_path):
    data = write_data(tmp_path / "data", {"depth": depth_map}, [DEPTH])
    (data / "README.md").write_text("---\nmult_tasks: [a: b: c\n---\n")
    with pytest.raises(ValueError, match=r"(?s)card .*README.md cannot be read: .*; correct the YAML header"):
        train(tmp_path / "run", "--dataset", data)
