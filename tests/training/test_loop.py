"""Proves the steps of the training loop: accumulation, clipping, decay, weighting, precision, trackers."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mult_hf.training.weighting import WEIGHTINGS
from support.training_runs import log, same, train, weights


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path, data):
    """Every pixel is known here, so that means of means are means."""
    flags = ["--dataset", data, "--max_steps", 3]
    small = weights(train(tmp_path / "small", *flags, "--batch_size", 1, "--gradient_accumulation_steps", 2))
    large = weights(train(tmp_path / "large", *flags, "--batch_size", 2))
    for name in small:
        torch.testing.assert_close(small[name], large[name], atol=2e-4, rtol=1e-3)


def test_an_encoder_with_a_rate_of_zero_does_not_change(tmp_path, data):
    flags = ["--dataset", data, "--encoder_learning_rate_factor", 0, "--weight_decay", 0]
    one, three = (weights(train(tmp_path / str(steps), *flags, "--max_steps", steps)) for steps in (1, 3))
    changed = {name.split(".")[1] for name in one if not torch.equal(one[name], three[name])}
    assert changed >= {"decoder", "tasks"}
    assert not any("backbone" in name for name in one if not torch.equal(one[name], three[name]))


def test_gradients_are_clipped(tmp_path, data):
    """With a limit of 0 only weight decay could change a weight."""
    flags = ["--dataset", data, "--weight_decay", 0, "--max_grad_norm", 0]
    assert same(*(weights(train(tmp_path / str(steps), *flags, "--max_steps", steps)) for steps in (1, 3)))


def test_weight_decay_shrinks_what_has_no_gradient(tmp_path, data):
    flags = ["--dataset", data, "--max_grad_norm", 0, "--learning_rate", 0.1, "--warmup_steps", 0, "--schedule", "constant_with_warmup"]
    one, two = (weights(train(tmp_path / str(steps), *flags, "--weight_decay", 0.5, "--max_steps", steps)) for steps in (1, 2))
    name = next(name for name in one if name.endswith("fc1.weight"))
    torch.testing.assert_close(two[name], one[name] * (1 - 0.1 * 0.5))


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


def test_a_gradient_that_is_not_finite_names_all_samples_of_its_step(tmp_path, data, monkeypatch):
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", lambda *_: float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"step 1: gradient is inf; samples of the batch: (row \d[^;]*; ){3}row \d[^;]*; last good"
    ):
        train(tmp_path, "--dataset", data, "--gradient_accumulation_steps", 2)


@pytest.mark.slow
def test_a_compiled_model_trains_alike_and_is_saved_uncompiled(tmp_path, data):
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
