"""Proves properties of the training loop's steps: accumulation, clipping, decay, weighting, precision, trackers."""

import io
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from datasets import Image as ImageFeature
from PIL import Image

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.model.weights import fresh_weights
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.checkpoints import list_checkpoints
from mult_hf.training.run import train as train_model
from mult_hf.training.weighting import WEIGHTINGS
from support.models import SMALL_RESNET, TINY_SWIN
from support.training_runs import (
    CURVATURE,
    DEPTH,
    curvature_map,
    depth_map,
    log,
    new_accelerate_state,
    sparse_depth_map,
    train,
    weights,
    write_data,
)


@pytest.mark.parametrize("depth", [depth_map, sparse_depth_map])
def test_accumulated_batches_give_the_step_of_one_large_batch(tmp_path, depth):
    """Also if they have different numbers of labels; the log has the loss of the large batch, too."""
    columns = {"depth": depth, "principal_curvature": curvature_map}
    data = write_data(tmp_path / "data", columns, [DEPTH, CURVATURE], count=8)
    flags = ["--dataset", data, "--max_steps", 3]
    small = train(tmp_path / "small", *flags, "--batch_size", 1, "--gradient_accumulation_steps", 4)
    large = train(tmp_path / "large", *flags, "--batch_size", 4)
    for name, weight in weights(small).items():
        torch.testing.assert_close(weight, weights(large)[name], atol=2e-4, rtol=1e-3)
    assert log(small, "loss/depth") == pytest.approx(log(large, "loss/depth"), rel=1e-3)


def test_an_encoder_with_a_rate_of_zero_does_not_change(tmp_path, data):
    flags = ["--dataset", data, "--encoder_learning_rate_factor", 0, "--weight_decay", 0]
    one, three = (weights(train(tmp_path / str(steps), *flags, "--max_steps", steps)) for steps in (1, 3))
    changed = {name.split(".")[1] for name in one if not torch.equal(one[name], three[name])}
    assert changed >= {"decoder", "tasks"}
    assert not any("backbone" in name for name in one if not torch.equal(one[name], three[name]))


def test_a_rate_of_zero_keeps_the_encoders_batch_statistics_too(tmp_path, data):
    entries, rows = load_task_entries(data), load_rows(data)["train"]
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(SMALL_RESNET), tasks=entries))
    before = {name: value.clone() for name, value in model.mult.backbone.state_dict().items()}
    arguments = TrainingArguments(output_dir=tmp_path, max_steps=2, batch_size=2, cpu_threads=1, encoder_learning_rate_factor=0)
    new_accelerate_state()
    train_model(model, MulTImageProcessor(size={"height": 64, "width": 64}, tasks=entries), rows, rows, arguments)
    after = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).mult.backbone.state_dict()
    assert any("running" in name for name in before), "premise: it has some"
    assert [name for name in before if not torch.equal(after[name], before[name])] == []
    assert all(parameter.requires_grad for parameter in model.parameters()), "a second training may change it"


@pytest.mark.parametrize("split", ["training", "validation"])
def test_rows_that_a_program_has_joined_keep_the_orientation_of_their_images(tmp_path, data, split):
    """`datasets` joins sets of different columns as columns of its own types, which drop it: such maps would be misaligned silently."""
    entries, rows = load_task_entries(data), load_rows(data)["train"]
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 3
    rows[0]["image"].save(buffer, "JPEG", exif=exif)
    turned = rows.select([0]).cast_column("image", ImageFeature(decode=False)).to_dict()
    turned = Dataset.from_dict({**turned, "image": [{"bytes": buffer.getvalue(), "path": None}]}, features=rows.features)
    joined = concatenate_datasets([turned, rows.select_columns(["image", "depth"])])
    assert joined[0]["image"].info.get("applied_exif_orientation") is None, "premise: it is lost"
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=entries))
    processor = MulTImageProcessor(size={"height": 64, "width": 64}, tasks=entries)
    arguments = TrainingArguments(output_dir=tmp_path, max_steps=1, batch_size=2, cpu_threads=1)
    new_accelerate_state()
    splits = {"training": rows, "validation": rows, split: joined}
    with pytest.raises(ValueError, match=f"{split}.*the image has EXIF orientation 3 and is turned upright"):
        train_model(model, processor, splits["training"], splits["validation"], arguments)


def norms_after_clipping(monkeypatch, output_dir, *flags):
    """Norms of the gradients with which the optimizer steps."""
    norms, clip = [], Accelerator.clip_grad_norm_

    def clip_and_measure(self, parameters, limit):
        parameters = [*parameters]
        before = clip(self, parameters, limit)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norms.append((float(before), float(torch.nn.utils.get_total_norm(gradients))))
        return before

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "clip_grad_norm_", clip_and_measure)
        train(output_dir, *flags)
    return norms


def test_gradients_are_clipped_to_the_limit(tmp_path, data, monkeypatch):
    for before, after in norms_after_clipping(monkeypatch, tmp_path, "--dataset", data, "--max_grad_norm", 0.01):
        assert before > 0.01, "premise: there is something to clip"
        assert after == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("limit", ["0", "-0.0"])
def test_a_limit_of_zero_clips_nothing(tmp_path, data, monkeypatch, limit):
    """In torch's own function 0 would erase every gradient."""
    for before, after in norms_after_clipping(monkeypatch, tmp_path, "--dataset", data, "--max_grad_norm", limit):
        assert before > 0
        assert after == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("limit", ["nan", "-1", "inf"])
def test_an_invalid_limit_is_refused(tmp_path, data, limit):
    with pytest.raises(ValueError, match=r"--max_grad_norm is .*; it must be at least 0"):
        train(tmp_path, "--dataset", data, "--max_grad_norm", limit)


def test_weight_decay_shrinks_weights_without_gradient(tmp_path, data, monkeypatch):
    def erase(self, parameters, limit):
        for parameter in parameters:
            parameter.grad = None if parameter.grad is None else torch.zeros_like(parameter.grad)
        return 0.0

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", erase)
    flags = ["--dataset", data, "--learning_rate", 0.1, "--warmup_steps", 0, "--schedule", "constant_with_warmup"]
    one, two = (weights(train(tmp_path / str(steps), *flags, "--weight_decay", 0.5, "--max_steps", steps)) for steps in (1, 2))
    name = next(name for name in one if name.endswith("fc1.weight"))
    torch.testing.assert_close(two[name], one[name] * (1 - 0.1 * 0.5))


def spoil_step(monkeypatch, number):
    """The optimizer's step of this number leaves one weight of NaN."""
    step, count = torch.optim.AdamW.step, iter(range(1, 100))

    def spoiling(self, *arguments, **keywords):
        result = step(self, *arguments, **keywords)
        if next(count) == number:
            with torch.no_grad():
                self.param_groups[0]["params"][0].flatten()[0] = torch.nan
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spoiling)


@pytest.mark.parametrize("flags", [["--save_steps", 1], ["--save_steps", 1, "--eval_steps", 1], ["--save_steps", 1, "--ema_decay", 0.9]])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_weights_corrupted_by_a_step_are_never_saved(tmp_path, data, monkeypatch, number, flags):
    """Also those of the last step, after which no loss is computed."""
    spoil_step(monkeypatch, number)
    with pytest.raises(
        FloatingPointError, match=rf"step {number}: \d+ weight tensors, .* are not finite after it; last good checkpoint: "
    ) as error:
        train(tmp_path, "--dataset", data, "--max_steps", 3, *flags)
    found = list_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in found] == [f"checkpoint-{step:08d}" for step in range(max(1, number - 2), number)]
    assert (str(found[-1]) if found else "none yet") in str(error.value)
    assert not (tmp_path / "model.safetensors").exists()
    saved = [*found, *([tmp_path / "best"] if (tmp_path / "best").exists() else [])]
    assert all(value.isfinite().all() for directory in saved for value in weights(directory).values())


@contextmanager
def files_of_at_most(size):
    """Writing beyond this size fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_ends_a_run_with_the_path_and_the_previous_checkpoint(tmp_path, data, monkeypatch):
    flags = ["--dataset", data, "--save_steps", 1, "--max_steps", 2]
    load_rows(data)  # whose cached copy is larger than the limit, too
    with files_of_at_most(10_000), pytest.raises(OSError, match=r"checkpoint-00000001 could not be written; .*checkpoint: none yet; free"):
        train(tmp_path, *flags)
    assert list_checkpoints(tmp_path / "checkpoints") == []
    train(tmp_path, *flags, "--max_steps", 1)
    with files_of_at_most(10_000), pytest.raises(OSError, match=r" could not be written; .*checkpoint-00000001; free some space"):
        train(tmp_path, *flags, "--max_steps", 1, "--resume", "latest")  # the model at the end


@pytest.mark.parametrize("weighting", sorted(set(WEIGHTINGS) - {"fixed"}))
def test_every_weighting_trains_from_its_name(tmp_path, data, weighting):
    train(tmp_path, "--dataset", data, "--weighting", weighting, "--max_steps", 1)
    assert all(np.isfinite(list(log(tmp_path, f"weight/{task}").values())).all() for task in ("depth", "principal_curvature"))


def test_a_weighting_takes_its_options(tmp_path, data):
    with pytest.raises(ValueError, match="no options"):
        train(tmp_path, "--dataset", data, "--weighting", "dwa", "--weighting_options", '{"warmth": 1}')


def test_mixed_precision_trains_close_to_full_precision(tmp_path, data):
    flags = ["--dataset", data, "--max_steps", 1]
    full, mixed = (log(train(tmp_path / name, *flags, "--mixed_precision", name), "loss/depth")[1] for name in ("no", "bf16"))
    assert full != mixed  # premise: it was on
    assert full == pytest.approx(mixed, rel=0.02)


def test_a_non_finite_gradient_names_all_samples_of_its_step(tmp_path, data, monkeypatch):
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", lambda *_: float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"step 1: gradient is inf; samples of the batch: (row \d[^;]*; ){3}row \d[^;]*; last good"
    ):
        train(tmp_path, "--dataset", data, "--gradient_accumulation_steps", 2)


@pytest.mark.slow
def test_a_compiled_model_trains_the_same_and_is_saved_uncompiled(tmp_path, data):
    flags = ["--dataset", data, "--drop_path_rate", 0, "--tasks", "depth", "--max_steps", 1, "--depths", 1, "--decoder", "mult"]
    torch._dynamo.reset()  # sizes that other tests compiled would be symbols here
    plain, compiled = train(tmp_path / "plain", *flags), train(tmp_path / "compiled", *flags, "--torch_compile", "aot_eager")
    assert weights(plain).keys() == weights(compiled).keys()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, atol=1e-4, rtol=1e-3)


def test_trackers_get_the_entries_of_the_log(tmp_path, data, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    train(tmp_path / "run", "--dataset", data, "--log_with", "tensorboard", "trackio")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = min((tmp_path / "run").rglob("events.out.tfevents.*"), key=lambda path: len(path.parts))  # deeper: the flags
    reader = EventAccumulator(str(events))
    reader.Reload()
    tracked = {scalar.step: scalar.value for scalar in reader.Scalars("loss/depth")}
    assert tracked == pytest.approx(log(tmp_path / "run", "loss/depth"))
    assert any((tmp_path / "trackio").rglob("*.db"))


def test_views_made_on_the_device_train_the_same_weights(tmp_path, data):
    """Up to rounding: without noise, a seed gives the same view in both places."""
    flags = ["--dataset", data, "--max_steps", 3, "--max_zoom", 1.5, "--rotation", 8, "--hue", 0.1]
    in_the_loader = weights(train(tmp_path / "loader", *flags))
    on_the_device = weights(train(tmp_path / "device", *flags, "--views_on_device"))
    for name in in_the_loader:
        torch.testing.assert_close(on_the_device[name], in_the_loader[name], atol=2e-4, rtol=1e-3)


def test_compressed_views_cannot_be_made_on_the_device(tmp_path, data):
    with pytest.raises(ValueError, match="a device cannot compress views"):
        train(tmp_path, "--dataset", data, "--views_on_device", "--jpeg", 0.5)


def test_checkpoints_and_results_list_a_task_that_was_added_and_never_trained(tmp_path, data):
    entries = load_task_entries(data)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=entries))
    model.add_task("edges2d")
    processor = MulTImageProcessor(size={"height": 64, "width": 64}, tasks=model.config.tasks)
    rows = load_rows(data)["train"]
    new_accelerate_state()
    train_model(
        model, processor, rows, rows, TrainingArguments(output_dir=tmp_path, max_steps=2, batch_size=2, panel_rows=1, cpu_threads=1)
    )
    checkpoints = list_checkpoints(tmp_path / "checkpoints")
    assert checkpoints
    for directory in (tmp_path, *checkpoints):
        untrained = fresh_weights(MulTForMultiTaskDensePrediction.from_pretrained(directory))
        assert untrained
        assert all(".tasks.edges2d." in name for name in untrained)


def changed_weights(data, directory, *, without, **settings):
    """Names of the weights before a training on data that lack a column, and of those that it changed."""
    entries, rows = load_task_entries(data), load_rows(data)
    model = MulTForMultiTaskDensePrediction(
        MulTConfig(backbone_config=dict(TINY_SWIN), tasks=entries, reference_task="principal_curvature")
    )
    if "targets_of_views" in settings:
        model.add_task(without)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    processor = MulTImageProcessor(size={"height": 64, "width": 64}, tasks=model.config.tasks)
    arguments = {"max_steps": 2, "batch_size": 2, "cpu_threads": 1, "weight_decay": 0.5, "learning_rate": 0.1, **settings}
    new_accelerate_state()
    kept = [name for name in rows["train"].column_names if name != without]
    train_model(
        model, processor, rows["train"].select_columns(kept), rows["validation"], TrainingArguments(output_dir=directory, **arguments)
    )
    after = MulTForMultiTaskDensePrediction.from_pretrained(directory).state_dict()
    return set(before), {name for name in before if not torch.equal(after[name], before[name])}


def test_a_task_without_a_column_is_not_worn_by_weight_decay(tmp_path, data):
    names, changed = changed_weights(data, tmp_path, without="depth")
    assert not any(".tasks.depth." in name for name in changed)
    assert all(name in changed for name in names if ".tasks.principal_curvature." in name and name.endswith("weight"))


def test_of_a_reference_task_without_a_column_only_what_others_share_is_trained(tmp_path, data):
    _, changed = changed_weights(data, tmp_path, without="principal_curvature")
    changed = {name for name in changed if ".tasks.principal_curvature." in name}
    assert changed
    assert not any(name.startswith("heads.") or "mlp" in name or ".value." in name for name in changed), "its own head and stream are not"


@pytest.mark.parametrize("views_on_device", [False, True])
def test_a_task_whose_targets_are_computed_from_views_is_learnt_without_a_column(tmp_path, data, views_on_device):
    names, changed = changed_weights(data, tmp_path, without="edges2d", targets_of_views=["edges2d"], views_on_device=views_on_device)
    assert all(name in changed for name in names if ".tasks.edges2d." in name and name.endswith("weight"))
