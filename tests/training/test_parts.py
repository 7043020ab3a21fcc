"""Proves the parts of the training loop one by one: parameter groups, averaged weights, progress, log, and starting weights."""

import json
from dataclasses import make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from accelerate import DistributedType
from torch import nn
from transformers import Swinv2Config

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, TaskSpec
from mult_hf.cli.arguments import flag, parse_arguments
from mult_hf.model.tasks import resolve_tasks
from mult_hf.training.averaging import WeightAverage
from mult_hf.training.distributed import configure_deepspeed, whole_model
from mult_hf.training.optimization import parameter_groups
from mult_hf.training.progress import JsonLinesLog, Progress, describe_rows
from mult_hf.training.starting import init_sincos_position_embeddings, load_trained, sincos_position_embedding
from mult_hf.training.stream import TrainingStream

# Parameter groups.


def test_every_parameter_is_in_one_group(tiny_model):
    model = tiny_model()
    groups = parameter_groups(model, learning_rate=1e-3, weight_decay=0.1)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())


def test_norms_biases_and_positions_are_not_decayed(tiny_model):
    model = tiny_model(tasks=["depth", "segmentation"])  # no task with "norm" in its name
    groups = parameter_groups(model, learning_rate=1e-3, weight_decay=0.1)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    exempt = [name for name in named if name.endswith(".bias") or "norm" in name or "position_bias" in name]
    assert any("relative_position_bias_table" in name for name in exempt)  # the encoder's
    assert any("position_bias.table" in name for name in exempt)  # the decoders'
    assert {name for name, parameter in named.items() if decay[id(parameter)] == 0} == set(exempt)


def test_the_encoder_may_learn_at_a_rate_of_its_own(tiny_model):
    model = tiny_model()
    groups = parameter_groups(model, learning_rate=1e-3, weight_decay=0.1, encoder_factor=0.1)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-4 if ".backbone." in name else 1e-3), name


# Where position embeddings start.


def test_waves_tell_every_place_from_every_other():
    found = sincos_position_embedding(4, 6, channels=10)
    assert found.shape == (1, 24, 10)
    distances = torch.cdist(found[0], found[0]) + torch.eye(24)
    assert distances.min() > 0.1


def test_a_linear_map_of_the_waves_tells_left_from_right_and_top_from_bottom():
    found = sincos_position_embedding(8, 8, channels=8).view(8, 8, 8)
    rows_cosine, columns_cosine = found[:, 0, 2], found[0, :, 6]  # sines and cosines of rows come first, two channels each
    for cosine in (rows_cosine, columns_cosine):
        assert (cosine.diff() < 0).all()
        torch.testing.assert_close(cosine, -cosine.flip(0))


def test_channels_that_are_left_over_are_zero():
    assert (sincos_position_embedding(2, 2, channels=7)[..., 4:] == 0).all()


def test_a_new_swin_starts_from_waves_where_it_has_position_embeddings(tiny_config):
    config = tiny_config(tasks=["depth"])
    config.backbone_config.use_absolute_embeddings, config.backbone_config.image_size = True, 32
    model = MulTForMultiTaskDensePrediction(config)
    embeddings = model.mult.backbone.swin.embeddings.position_embeddings
    assert (embeddings == 0).all()  # where transformers starts them
    init_sincos_position_embeddings(model)
    torch.testing.assert_close(embeddings, sincos_position_embedding(8, 8, channels=8))


def test_a_model_without_position_embeddings_is_left_as_it_is(tiny_model):
    model = tiny_model(tasks=["depth"])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    init_sincos_position_embeddings(model)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_frozen_parameters_are_left_out(tiny_model):
    model = tiny_model()
    model.mult.backbone.requires_grad_(False)
    assert len(parameter_groups(model, learning_rate=1e-3, weight_decay=0.1, encoder_factor=0.1)) == 2


# Averaged weights.


def test_the_average_is_the_recursion_by_hand():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.5)
    expected = None
    for step, value in enumerate([1.0, 4.0, 2.0, 8.0, 5.0]):
        model.weight.data.fill_(value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 5.0


def evaluate_and_fail(model, average, own):
    with average.in_place():
        assert not torch.equal(model.weight, own)
        raise FloatingPointError("in the block")


def test_the_own_weights_come_back_bit_for_bit_even_after_an_error():
    model = nn.Linear(3, 3)
    average = WeightAverage(model, decay=0.9)
    average.update()
    nn.init.normal_(model.weight)
    own = model.weight.clone()
    with pytest.raises(FloatingPointError, match="in the block"):
        evaluate_and_fail(model, average, own)
    assert torch.equal(model.weight, own)


def test_an_average_goes_on_from_its_state_as_if_never_stopped():
    values = torch.rand(6, generator=torch.Generator().manual_seed(0)).tolist()

    def run(model, average, part):
        for value in part:
            model.weight.data.fill_(value)
            average.update()
        return average

    model = nn.Linear(1, 1, bias=False)
    through = run(model, WeightAverage(model, 0.7), values)
    half = run(model, WeightAverage(model, 0.7), values[:3])
    resumed = WeightAverage(model, 0.7)
    resumed.load_state_dict(half.state_dict())
    run(model, resumed, values[3:])
    for name, value in through.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        WeightAverage(nn.Linear(1, 1), decay)


# Progress.


def test_progress_survives_a_checkpoint():
    progress = Progress({"seed": "0"}, step=7, seconds=1.5, best_gain=2.0, best_step=5, losses={"depth": 0.5}, batches=3)
    restored = Progress({"seed": "0"})
    restored.load_state_dict(progress.state_dict())
    assert restored == progress


def test_the_checkpoint_of_another_run_is_refused_with_the_difference():
    saved = Progress({"seed": "0", "learning_rate": "0.1"}).state_dict()
    with pytest.raises(ValueError, match=r"--learning_rate was 0\.1 and is 0\.2; give the same flags"):
        Progress({"seed": "0", "learning_rate": "0.2"}).load_state_dict(saved)


def test_the_scales_of_swin_v2_are_not_decayed():
    """They have three dimensions, and are no weights of a layer."""
    swin = Swinv2Config(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=32, out_features=["stage1", "stage2"])
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, tasks=["depth"]))
    decay = {id(p): g["weight_decay"] for g in parameter_groups(model, learning_rate=1.0, weight_decay=0.1) for p in g["params"]}
    scales = [parameter for name, parameter in model.named_parameters() if "logit_scale" in name]
    assert scales
    assert {decay[id(parameter)] for parameter in scales} == {0.0}


def test_samples_are_named_by_their_row_and_short_columns():
    rows = [{"image": object(), "room": number, "note": "x" * 100} for number in range(3)]
    stream = TrainingStream(rows, seed=0)
    row = stream.row_at(4)
    assert describe_rows(stream, [4]) == [f"row {row} (room {row})"]


# Log.


def test_a_log_holds_its_entries_and_forgets_later_steps(tmp_path):
    log = JsonLinesLog(tmp_path / "runs" / "log.jsonl")
    assert log.entries() == []
    for step in (1, 2, 3):
        log.append({"step": step, "loss": step / 2})
    log.drop_after(2)
    log.append({"step": 3, "loss": 9.0})
    assert [entry["loss"] for entry in log.entries()] == [0.5, 1.0, 9.0]


def test_a_line_that_was_cut_short_is_not_an_entry(tmp_path):
    log = JsonLinesLog(tmp_path / "log.jsonl")
    log.append({"step": 1})
    with log.path.open("a") as file:
        file.write('{"step": 2')
    log.drop_after(5)
    log.append({"step": 2})
    assert log.entries() == [{"step": 1}, {"step": 2}]


# Sharded models.


def test_a_whole_copy_of_a_sharded_model_draws_no_random_numbers(tiny_model):
    """Or else evaluating would change what stochastic depth drops afterwards. Premise: to build a model does draw."""
    model = tiny_model(tasks=["depth"])
    sharded = SimpleNamespace(
        distributed_type=DistributedType.FSDP, device=torch.device("cpu"), unwrap_model=lambda module, keep_torch_compile: module
    )
    before = torch.get_rng_state()
    copy = whole_model(sharded, model)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, copy.state_dict()[name]) for name, value in model.state_dict().items())
    MulTForMultiTaskDensePrediction(model.config)
    assert not torch.equal(before, torch.get_rng_state())


# Engines.


def test_deepspeed_is_told_what_it_does_itself():
    """Accelerate refuses a model without a batch size, and would clip at 1 whatever the flag says."""
    plugin = SimpleNamespace(deepspeed_config={"gradient_clipping": "auto"})
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin), gradient_accumulation_steps=2)
    configure_deepspeed(accelerator, batch_size=8, gradient_accumulation_steps=2, max_grad_norm=5.0)
    assert plugin.deepspeed_config == {"train_micro_batch_size_per_gpu": 8, "gradient_clipping": 5.0}
    with pytest.raises(ValueError, match="configuration has 2 gradient_accumulation_steps and the run 4"):
        configure_deepspeed(accelerator, batch_size=8, gradient_accumulation_steps=4, max_grad_norm=5.0)


# Starting weights.


def test_a_trained_model_takes_the_tasks_of_the_data(tiny_model, tmp_path):
    tiny_model(tasks=["depth", "normals", "segmentation"]).save_pretrained(tmp_path)
    curvature = TaskSpec(name="principal_curvature", kind="regression", channels=2)
    specs = resolve_tasks(["normals", "depth", curvature])
    model = load_trained(str(tmp_path), specs)
    assert set(model.task_names) == set(specs)
    trained = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).state_dict()
    kept = {name: value for name, value in model.state_dict().items() if "principal_curvature" not in name}
    assert kept
    assert all(torch.equal(value, trained[name]) for name, value in kept.items())


def test_a_trained_model_with_other_classes_is_refused(tiny_model, tmp_path):
    tiny_model(tasks=["segmentation"]).save_pretrained(tmp_path)
    specs = resolve_tasks([{"name": "segmentation", "class_names": ["wall", "floor"]}])
    with pytest.raises(ValueError, match="segmentation: channels is 17 for the model and 2 for the data"):
        load_trained(str(tmp_path), specs)


# Command lines.


def arguments_class():
    fields = [
        ("config", Path | None, flag(None, "file")),
        ("steps", int, flag(3, "steps")),
        ("tasks", list[str], flag(["a"], "tasks")),
        ("deep", bool, flag(False, "deep")),
        ("options", str, flag("{}", "JSON")),
    ]
    return make_dataclass("Flags", fields)


def test_words_that_yaml_takes_for_truth_values_are_words_again(tmp_path):
    """`mixed_precision: no` is a choice of its flag, `deep: no` a switch."""
    (tmp_path / "flags.yaml").write_text("precision: no\ndeep: yes\n")
    kind = make_dataclass(
        "Flags",
        [("config", Path | None, flag(None, "")), ("precision", Literal["no", "bf16"], flag("bf16", "")), ("deep", bool, flag(False, ""))],
    )
    parsed = parse_arguments(kind, ["--config", str(tmp_path / "flags.yaml")], "")
    assert (parsed.precision, parsed.deep) == ("no", True)


@pytest.mark.parametrize(("name", "text"), [("broken", "steps: [1,\n"), ("missing", None)])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"--config .*{name} cannot be read"):
        parse_arguments(arguments_class(), ["--config", str(tmp_path / name)], "")


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_flags_come_from_the_file_and_then_from_the_command_line(tmp_path, ending):
    file = tmp_path / f"flags.{ending}"
    file.write_text(json.dumps({"steps": 5, "tasks": ["b", "c"], "deep": True, "options": {"x": 1}}))
    parsed = parse_arguments(arguments_class(), ["--config", str(file), "--steps", "7"], "")
    assert (parsed.steps, parsed.tasks, parsed.deep, json.loads(parsed.options)) == (7, ["b", "c"], True, {"x": 1})


def test_a_key_that_is_no_flag_is_refused(tmp_path):
    file = tmp_path / "flags.yaml"
    file.write_text("stepz: 5\n")
    with pytest.raises(ValueError, match=r"flags.yaml has \['stepz'\]; expected flags by name: steps, tasks"):
        parse_arguments(arguments_class(), ["--config", str(file)], "")


def test_a_file_that_holds_no_flags_is_refused(tmp_path):
    file = tmp_path / "flags.yaml"
    file.write_text("- 5\n")
    with pytest.raises(ValueError, match="has list; expected flags by name"):
        parse_arguments(arguments_class(), ["--config", str(file)], "")


def test_lists_of_two_runs_are_two_lists():
    first, second = (parse_arguments(arguments_class(), [], "") for _ in range(2))
    first.tasks.append("b")
    assert second.tasks == ["a"]
