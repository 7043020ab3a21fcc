"""Proves that tasks can be added to a model and removed from it without changing the others."""

import copy
import pickle

import pytest
import torch

from mult_hf import MulTForMultiTaskDensePrediction, TaskSpec
from support.batches import CURVATURE, assert_same_predictions, pixels
from support.models import FLAT_SWIN, SMALL_RESNET


def test_adding_a_task_does_not_change_the_others(tiny_model):
    model = tiny_model()
    before = model(pixels()).predictions
    model.add_task(CURVATURE)
    after = model(pixels()).predictions
    assert tuple(after.pop("principal_curvature").shape) == (2, 2, 64, 64)
    assert_same_predictions(after, before)


def test_an_added_task_takes_the_mode_of_the_model(tiny_model):
    """Dropout of new modules must be off in a model in evaluation mode."""
    model = tiny_model(hidden_dropout_prob=0.5, drop_path_rate=0.5)
    model.add_task(CURVATURE)
    one, other = (model(pixels()).predictions["principal_curvature"] for _ in range(2))
    assert torch.equal(one, other)


def test_an_added_task_is_saved_and_loaded(tiny_model, tmp_path):
    model = tiny_model(tasks=["depth", "normals"])
    model.add_task("edges2d", copy_from="depth")
    model.save_pretrained(tmp_path)
    loaded = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path)
    assert_same_predictions(loaded(pixels()).predictions, model(pixels()).predictions)


@pytest.mark.parametrize("source", ["depth", "normals"])
def test_a_copied_decoder_has_the_weights_of_its_source(tiny_model, source):
    """A copy of a scalar task also has its head, so that before the activation it predicts the same."""
    model = tiny_model(block_attention=["encoder", "reference"])
    copied = TaskSpec(name="copied", kind="regression", channels=model.config.task_specs[source].channels)
    model.add_task(copied, copy_from=source)
    features = model.mult(pixels()).task_features
    torch.testing.assert_close(features["copied"], features[source])
    torch.testing.assert_close(model.heads.tasks["copied"].logits(features["copied"]), model.heads.tasks[source].logits(features[source]))


def test_all_other_parameters_can_be_frozen(tiny_model):
    model = tiny_model().train()
    model.add_task(CURVATURE, freeze_others=True)
    model(pixels(), labels={"principal_curvature": torch.rand(2, 2, 64, 64)}).loss.backward()
    own = {name for name, _ in model.task_parameters("principal_curvature")}
    assert own
    assert {name for name, p in model.named_parameters() if p.grad is not None} == own


def train_three_steps(model):
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    for _ in range(3):
        model(10 * pixels() + 3, labels={"principal_curvature": torch.rand(2, 2, 64, 64)}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("in_training", [True, False])
def test_training_one_task_leaves_the_others_as_they_are_if_these_are_frozen(tiny_model, in_training):
    """Also in an encoder with batch normalisation, whose running statistics are no parameters."""
    model = tiny_model(backbone_config=dict(SMALL_RESNET), tasks=["depth", "edges2d"]).train(in_training)
    before = copy.deepcopy(model).eval()(pixels()).predictions
    model.add_task(CURVATURE, freeze_others=True)
    if not in_training:
        model.train()
    untrained = copy.deepcopy(model).eval()(pixels()).predictions.pop("principal_curvature")
    train_three_steps(model)
    after = model.eval()(pixels()).predictions
    assert not torch.equal(after.pop("principal_curvature"), untrained)
    assert_same_predictions(after, before)


def test_batch_normalisation_keeps_its_statistics_where_its_weights_are_frozen(tiny_model):
    model = tiny_model(backbone_config=dict(SMALL_RESNET), tasks=[CURVATURE])
    frozen, trained = model.mult.backbone.embedder, model.mult.backbone.encoder
    frozen.requires_grad_(False)
    model.train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    train_three_steps(model)
    changed = {name for name, buffer in model.named_buffers() if "running" in name and not torch.equal(buffer, before[name])}
    assert changed == {f"mult.backbone.encoder.{name}" for name, _ in trained.named_buffers() if "running" in name}
    model.mult.backbone.requires_grad_(True)
    assert all(module.training for module in model.train().modules()), "it can be trained again"


def test_removing_a_task_does_not_change_the_others(tiny_model):
    model = tiny_model()
    before = model(pixels()).predictions
    model.remove_task("segmentation")
    after = model(pixels()).predictions
    assert_same_predictions(after, {task: p for task, p in before.items() if task != "segmentation"})
    assert not [name for name in model.state_dict() if "segmentation" in name]


def test_the_reference_task_can_be_removed_only_if_nothing_is_shared(tiny_model):
    with pytest.raises(ValueError, match="'normals' is the reference task"):
        tiny_model().remove_task("normals")
    model = tiny_model(block_attention=["self", "self"])
    model.remove_task("normals")
    assert model.config.reference_task in model.task_names
    assert "normals" not in model(pixels()).predictions


def test_invalid_additions_and_removals_are_refused(tiny_model):
    model = tiny_model(tasks=["depth"])
    with pytest.raises(ValueError, match="already has a task 'depth'"):
        model.add_task("depth")
    with pytest.raises(ValueError, match="'nonsense' is not registered"):
        model.add_task("nonsense")
    with pytest.raises(ValueError, match="choose at least one of"):
        model.add_task("normals", copy_from="nonsense")
    with pytest.raises(ValueError, match="only task"):
        model.remove_task("depth")
    assert model.task_names == ["depth"], "a refused change changes nothing"


# Entries that are changed in the configuration of a built model.

HOW = pytest.mark.parametrize("how", ["assigned", "in place"])


def change(model, task, how, **fields):
    """Change fields of a task's entry in a model's configuration."""
    if how == "assigned":
        model.config.tasks = [{**entry, **fields} if entry["name"] == task else entry for entry in model.config.tasks]
    else:
        next(entry for entry in model.config.tasks if entry["name"] == task).update(fields)


@HOW
def test_a_range_changed_in_the_configuration_is_that_of_predictions_and_of_the_saved_model(tiny_model, how, tmp_path):
    model = tiny_model(tasks=["depth", "normals"])
    before = model(pixels()).predictions
    change(model, "depth", how, value_range=[0, 2])
    found = model(pixels()).predictions
    assert_same_predictions(found, {**before, "depth": before["depth"] / 5})
    model.save_pretrained(tmp_path)
    for copied in (MulTForMultiTaskDensePrediction.from_pretrained(tmp_path), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_predictions(copied(pixels()).predictions, found)
        change(copied, "depth", how, value_range=[0, 10])
        assert_same_predictions(copied(pixels()).predictions, before)
    assert_same_predictions(model(pixels()).predictions, found)


@HOW
def test_an_activation_a_loss_and_a_weight_changed_in_the_configuration_are_used(tiny_model, how):
    model = tiny_model(tasks=["depth"])
    labels = {"depth": torch.full((2, 1, 64, 64), 7.0)}
    model(pixels(), labels=labels)
    change(model, "depth", how, activation="identity", loss="l1", weight=3.0)
    outputs = model(pixels(), labels=labels)
    expected = 3 * (outputs.predictions["depth"] - 7).abs().mean()
    torch.testing.assert_close(outputs.loss, expected)
    assert outputs.predictions["depth"].min() < 0, "not the range of the sigmoid"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            ["depth", {"name": "segmentation", "channels": 5, "class_names": []}],
            "'segmentation' as a classification of 5 channels, and its",
        ),
        (
            [{"name": "depth", "channels": 2}, "segmentation"],
            "'depth' as a regression of 2 channels, and its head is for a regression of 1",
        ),
        (["depth"], "config.tasks lacks 'segmentation', unlike the model; call add_task or remove_task instead"),
        (["depth", "segmentation", "edges2d"], "config.tasks has 'edges2d', unlike the model"),
        (["depth", {"name": "segmentation", "loss": "none"}], "task 'segmentation' has loss 'none'; allowed: cross_entropy"),
        (["segmentation", {"name": "depth", "activation": "none"}], "task 'depth' has activation 'none'; allowed: "),
    ],
)
def test_an_entry_that_no_longer_fits_its_head_is_refused_with_what_to_call(tiny_model, entries, message):
    model = tiny_model(tasks=["depth", "segmentation"])
    kept = model.config.tasks
    model.config.tasks = entries
    with pytest.raises(ValueError, match=message):
        model(pixels(), labels={"segmentation": torch.zeros(2, 64, 64, dtype=torch.long)})
    model.config.tasks = kept
    assert list(model(pixels()).predictions) == ["depth", "segmentation"]


def test_a_number_of_classes_assigned_to_the_configuration_of_a_model_is_refused(tiny_model):
    model = tiny_model(tasks=["segmentation"])
    model.config.num_labels = 5
    with pytest.raises(ValueError, match="as a classification of 5 channels, and its head is for a classification of 17"):
        model(pixels())


@torch.no_grad()
def test_an_exported_model_has_the_entries_at_the_time_of_the_export(tiny_model):
    model = tiny_model(backbone_config=FLAT_SWIN, tasks=["depth"])
    change(model, "depth", "in place", value_range=[0, 2])
    exported = torch.export.export(model, (pixels(),)).module()
    assert_same_predictions(exported(pixels()).predictions, model(pixels()).predictions)


def test_a_reference_task_changed_after_building_is_refused_in_predictions_and_at_saving(tiny_model, tmp_path):
    """It would have been saved without the projections that make the shared maps."""
    model = tiny_model(tasks=["depth", "normals"])
    model.config.reference_task = "depth"
    said = "config.reference_task is 'depth', and the model was built with 'normals', whose projections make the shared maps"
    with pytest.raises(ValueError, match=said):
        model(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=said):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_reference_task_of_a_model_that_shares_nothing_may_change(tiny_model):
    model = tiny_model(tasks=["depth", "normals"], block_attention=["self", "self"])
    model.config.reference_task = "depth"
    model(torch.zeros(1, 3, 32, 32))
