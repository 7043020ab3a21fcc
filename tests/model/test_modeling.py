"""Proves that the models have the interface of transformers models: sizes, subsets of tasks, outputs, class names, refusals."""

import copy
import dataclasses
import pickle
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.utils.operations import convert_to_fp32
from torch import nn
from torch.nn.parallel.scatter_gather import gather

from mult_hf import MULT_TASKS, MulTConfig, MulTForMultiTaskDensePrediction
from mult_hf.model.decoder_mult import SharedWindowAttention, streams_to_run
from support.batches import assert_same_predictions, labels_for, pixels


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 131), (32, 45)])
def test_predictions_have_the_size_of_the_image_and_the_channels_of_the_task(tiny_model, height, width):
    model = tiny_model()
    predictions = model(pixels(2, height, width)).predictions
    assert list(predictions) == list(MULT_TASKS)
    assert {t: tuple(p.shape) for t, p in predictions.items()} == {
        t: (2, spec.channels, height, width) for t, spec in model.config.task_specs.items()
    }


def test_predictions_are_in_the_space_of_their_target(tiny_model):
    predictions = tiny_model()(100 * pixels()).predictions
    assert predictions["depth"].min() > 0
    assert predictions["depth"].max() < 10
    torch.testing.assert_close(predictions["normals"].norm(dim=1), torch.ones(2, 64, 64))
    assert 0 <= predictions["reshading"].min() <= predictions["reshading"].max() <= 1


def test_an_image_in_a_batch_has_the_same_result_as_alone(tiny_model):
    model, images = tiny_model(), pixels(3, 40, 56)
    together = model(images).predictions
    assert_same_predictions({t: p[1:2] for t, p in together.items()}, model(images[1:2]).predictions)


def test_pixels_and_predictions_stay_aligned_at_odd_sizes(tiny_model):
    """Padding is on the right and bottom only: the result at 61 x 61 equals the top left part of that of the image zero-padded to 64."""
    model, image = tiny_model(), pixels(1, 61, 61)
    padded = nn.functional.pad(image, (0, 3, 0, 3))
    expected = {task: p[..., :61, :61] for task, p in model(padded).predictions.items()}
    assert_same_predictions(model(image).predictions, expected)


@pytest.mark.parametrize("block_attention", [["self", "encoder"], ["encoder", "reference"], ["self+skip", "self"], ["reference+skip"] * 2])
def test_a_subset_of_tasks_gives_the_same_predictions(tiny_model, block_attention):
    model = tiny_model(block_attention=block_attention)
    full = model(pixels()).predictions
    for wanted in (["depth"], ["normals"], ["edges2d", "segmentation"]):
        part = model(pixels(), tasks=wanted).predictions
        assert list(part) == wanted
        assert_same_predictions(part, {task: full[task] for task in wanted})


def test_only_the_needed_streams_run_for_a_subset(tiny_model):
    assert streams_to_run(tiny_model(block_attention=["self", "encoder"]).mult.decoder.stages, ["depth"]) == ["depth"]
    assert streams_to_run(tiny_model(block_attention=["encoder", "reference"]).mult.decoder.stages, ["depth"]) == ["depth", "normals"]


def test_one_shared_map_per_block_is_returned_and_sums_to_one(tiny_model):
    model = tiny_model(block_attention=["self", "encoder", "reference", "self"], tasks=["depth", "normals", "reshading"])
    outputs = model(pixels(2, 64, 96), output_attentions=True)
    assert len(outputs.attentions) == 4 * 2, "two of each stage's four blocks share their map"
    # Stage 1 has 2 x 3 tokens in one padded 4 x 4 window with 8 heads; stage 4 has 16 x 24 tokens in 24 windows with 1 head.
    assert tuple(outputs.attentions[0].shape) == (2, 1, 8, 16, 16)
    assert tuple(outputs.attentions[-1].shape) == (2, 24, 1, 16, 16)
    for attention in outputs.attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]))


def test_shared_maps_do_not_depend_on_the_requested_tasks(tiny_model):
    model = tiny_model(block_attention=["encoder", "reference"])
    everything = model(pixels(), output_attentions=True).attentions
    for one, other in zip(everything, model(pixels(), tasks=["depth"], output_attentions=True).attentions):
        torch.testing.assert_close(one, other)


def test_returning_maps_does_not_change_predictions(tiny_model):
    model = tiny_model()
    assert_same_predictions(model(pixels()).predictions, model(pixels(), output_attentions=True).predictions)


def test_hidden_states_are_encoder_maps_and_streams_of_every_stage(tiny_model):
    outputs = tiny_model(tasks=["depth", "normals"])(pixels(1, 64, 64), output_hidden_states=True)
    assert [tuple(m.shape) for m in outputs.hidden_states] == [(1, 8, 16, 16), (1, 16, 8, 8), (1, 32, 4, 4), (1, 64, 2, 2)]
    assert [tuple(m.shape) for m in outputs.task_hidden_states["depth"]] == [(1, 8, 16, 16), (1, 16, 8, 8), (1, 32, 4, 4), (1, 64, 2, 2)]
    assert tiny_model()(pixels()).hidden_states is None


def test_return_dict_false_returns_a_tuple(tiny_model):
    model = tiny_model(tasks=["depth", "normals"])
    (predictions,) = model(pixels(), return_dict=False)
    assert_same_predictions(predictions, model(pixels()).predictions)


def test_single_stages_can_be_requested_by_number(tiny_model):
    model = tiny_model(tasks=["depth"])
    everything, some = model(pixels(), output_hidden_states=True), model(pixels(), output_hidden_states=[0, 2])
    one = model(pixels(), output_hidden_states=3)
    for maps, chosen, last in (
        (everything.hidden_states, some.hidden_states, one.hidden_states),
        (everything.task_hidden_states["depth"], some.task_hidden_states["depth"], one.task_hidden_states["depth"]),
    ):
        assert [each is None for each in chosen] == [False, True, False, True]
        assert [each is None for each in last] == [True, True, True, False]
        for each, expected in ((chosen[0], maps[0]), (chosen[2], maps[2]), (last[3], maps[3])):
            torch.testing.assert_close(each, expected)
    assert [each is None for each in model(pixels(), output_hidden_states=[-1]).hidden_states] == [True, True, True, False]
    with pytest.raises(ValueError, match=r"output_hidden_states=\[4\]; the model has stages 0 \(the finest\) to 3"):
        model(pixels(), output_hidden_states=[4])
    with pytest.raises(ValueError, match=r"output_hidden_states=\['1'\]; the model has stages 0"):
        model(pixels(), output_hidden_states="1")
    for number in (np.int64(3), np.array([3])):
        assert [each is None for each in model(pixels(), output_hidden_states=number).hidden_states] == [True, True, True, False]
    with pytest.raises(ValueError, match=r"output_hidden_states=\[1.0\]; .*; give whole numbers"):
        model(pixels(), output_hidden_states=1.0)


def test_encoder_maps_and_streams_have_the_same_order(tiny_model):
    outputs = tiny_model(tasks=["depth"])(pixels(), output_hidden_states=True)
    sizes = [[tuple(m.shape) for m in maps] for maps in (outputs.hidden_states, outputs.task_hidden_states["depth"])]
    assert sizes[0] == sizes[1] == sorted(sizes[0], key=lambda shape: -shape[2])


def test_each_prediction_has_a_flat_name_by_its_entry(tiny_model):
    entry = {"name": "wear", "kind": "classification", "channels": 3}
    outputs = tiny_model(tasks=["segmentation", "depth", entry])(pixels())
    assert outputs.predicted_depth is outputs.predictions["depth"]
    assert outputs.segmentation_logits is outputs.predictions["segmentation"]
    assert outputs.wear_logits is outputs.predictions["wear"]
    for name in ("depth_logits", "predicted_wear", "predicted_normals"):
        with pytest.raises(AttributeError, match="its predictions are segmentation_logits, predicted_depth, wear_logits"):
            getattr(outputs, name)


@pytest.mark.parametrize(
    "rebuild",
    [
        convert_to_fp32,
        lambda outputs: gather([outputs, outputs], "cpu"),
        lambda outputs: type(outputs)(**outputs),
        lambda outputs: pickle.loads(pickle.dumps(outputs)),
        copy.copy,
        copy.deepcopy,
        dataclasses.replace,
        lambda outputs: torch.utils._pytree.tree_map(torch.detach, outputs),
    ],
    ids=["accelerate", "data-parallel", "fields", "pickle", "copy", "deepcopy", "replace", "pytree"],
)
def test_flat_names_survive_whatever_rebuilds_the_outputs(tiny_model, rebuild, monkeypatch):
    monkeypatch.setattr("torch.nn.parallel.scatter_gather.Gather", mock.Mock(apply=lambda device, axis, *parts: torch.cat(parts, axis)))
    model = tiny_model(tasks=["segmentation", "depth"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = model(pixels())
    rebuilt = rebuild(outputs)
    for found, task in ((rebuilt.segmentation_logits, "segmentation"), (rebuilt.predicted_depth, "depth")):
        assert torch.equal(found[: len(pixels())], outputs.predictions[task])
    with pytest.raises(AttributeError, match="its predictions are segmentation_logits, predicted_depth"):
        _ = rebuilt.predicted_segmentation


def test_logits_of_classes_are_no_copies_and_not_among_the_tuple(tiny_model):
    model = tiny_model(tasks=["segmentation", "depth"])
    outputs = model(pixels())
    assert outputs.classifications["segmentation"] is outputs.predictions["segmentation"]
    assert [list(part) for part in outputs.to_tuple()] == [["segmentation", "depth"]] == [list(part) for part in outputs[:]]
    assert model(pixels(), tasks=["depth"]).classifications is None


def test_return_loss_omits_or_requires_the_loss(tiny_model):
    model = tiny_model(tasks=["depth"])
    labels = labels_for(model)
    assert model(pixels(), labels=labels, return_loss=False).loss is None
    assert torch.equal(model(pixels(), labels=labels, return_loss=True).loss, model(pixels(), labels=labels).loss)
    with pytest.raises(ValueError, match="return_loss=True needs labels"):
        model(pixels(), return_loss=True)


def test_common_keywords_of_transformers_are_accepted_and_others_refused(tiny_model):
    model = tiny_model(tasks=["depth"])
    assert_same_predictions(model(pixels(), num_items_in_batch=torch.tensor(2)).predictions, model(pixels()).predictions)
    with pytest.raises(TypeError, match=r"unexpected keyword arguments \['lables'\]"):
        model(pixels(), lables={})


def labels_of(config):
    return config.num_labels, config.id2label, config.label2id


def test_the_class_names_follow_the_tasks(tiny_model, tmp_path):
    model = tiny_model(tasks=["depth", "normals"])
    assert labels_of(model.config) == (0, {}, {})
    model.add_task({"name": "wear", "kind": "classification", "class_names": ["new", "worn"]})
    assert labels_of(model.config) == (2, {0: "new", 1: "worn"}, {"new": 0, "worn": 1})
    model.save_pretrained(tmp_path)
    assert labels_of(MulTConfig.from_pretrained(tmp_path)) == labels_of(model.config)
    assert labels_of(MulTForMultiTaskDensePrediction.from_pretrained(tmp_path, tasks=["depth", "normals"]).config) == (0, {}, {})
    model.add_task({"name": "use", "kind": "classification", "channels": 3})
    assert labels_of(model.config) == (0, {}, {}), "two classifications: there is no one list of classes"
    model.remove_task("wear")
    assert labels_of(model.config) == (3, {n: f"class {n}" for n in range(3)}, {f"class {n}": n for n in range(3)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": torch.zeros(1, 1, 64, 64)}, r"shape \(1, 1, 64, 64\); .* 3 channels"),
        ({"pixel_values": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}, "uint8; expected normalised floats"),
        ({"labels": torch.zeros(2, 1, 64, 64)}, "labels is a Tensor; expected a dictionary"),
        ({"labels": {"segmentation": torch.full((2, 64, 64), 99)}}, r"segmentation: class ids have \[99\]; allowed are 0 to 16"),
        ({"labels": {"segmentation": torch.zeros(2, 64, 64)}}, "segmentation: class ids are torch.float32; expected integers"),
        ({"pixel_values": torch.zeros(3, 64, 64)}, r"shape \(3, 64, 64\); expected \(batch, channels, height, width\)"),
        ({"pixel_values": torch.zeros(1, 3, 31, 64)}, "31 x 64 pixels; both sides must be at least 32"),
        ({"tasks": ["deph"]}, "deph"),
        ({"tasks": []}, "choose at least one of"),
        ({"labels": {"deph": torch.zeros(1)}}, "labels for .*deph"),
        ({"labels": {}}, "no label for any predicted task"),
        ({"labels": {"depth": torch.zeros(2, 1, 32, 32)}}, r"depth: prediction has shape \(2, 1, 64, 64\) and target \(2, 1, 32, 32\)"),
    ],
)
def test_the_error_for_invalid_input_states_what_was_given(tiny_model, change, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**{"pixel_values": pixels(), **change})


@pytest.mark.parametrize(("field", "value"), [("loss", "l3"), ("activation", "relu6")])
def test_an_unknown_loss_or_activation_is_refused_when_the_model_is_built(tiny_config, field, value):
    with pytest.raises(ValueError, match=f"task 'depth' has {field} '{value}'; allowed: "):
        MulTForMultiTaskDensePrediction(tiny_config(tasks=[{"name": "depth", field: value}]))


def test_sharing_is_off_in_the_ablation(tiny_model):
    """In ("self", "self") every task has its own map, so no block has a shared one."""
    model = tiny_model(block_attention=["self", "self"])
    attentions = [m for m in model.modules() if isinstance(m, SharedWindowAttention)]
    assert attentions
    assert all(hasattr(a.tasks[task], "q_proj") for a in attentions for task in MULT_TASKS)
    assert model(pixels(), output_attentions=True).attentions == ()
