"""Proves that the models keep the promises that transformers users rely on, and MulT's own: subsets, new tasks, any backbone."""

import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    ConvNextConfig,
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    TimmBackboneConfig,
    ViTConfig,
)

from mult_hf import MULT_TASKS, MulTConfig, MulTForMultiTaskDensePrediction, MulTModel, TaskSpec
from mult_hf.model.decoder_mult import SharedWindowAttention
from mult_hf.model.losses import multi_task_loss

CURVATURE = TaskSpec(name="principal_curvature", kind="regression", channels=2, loss="l1", unit="1/m", colormap="vectors")


def pixels(batch=2, height=64, width=64):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def labels_for(model, batch=2, height=64, width=64):
    """Labels of every task, all known."""
    generator = torch.Generator().manual_seed(2)
    labels = {}
    for task, spec in model.config.task_specs.items():
        if spec.is_classification:
            labels[task] = torch.randint(0, spec.channels, (batch, height, width), generator=generator)
        else:
            labels[task] = torch.rand(batch, spec.channels, height, width, generator=generator)
    return labels


def assert_same_predictions(one, other, atol=1e-5):
    assert one.keys() == other.keys()
    for task in one:
        torch.testing.assert_close(one[task], other[task], rtol=1e-4, atol=atol, msg=lambda text, task=task: f"{task}: {text}")


# --- shapes and spaces ---


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 131), (32, 45)])
def test_predictions_have_the_size_of_the_image_and_the_channels_of_the_task(tiny_model, height, width):
    model = tiny_model()
    predictions = model(pixels(2, height, width)).predictions
    assert list(predictions) == list(MULT_TASKS)
    assert {t: tuple(p.shape) for t, p in predictions.items()} == {
        t: (2, spec.channels, height, width) for t, spec in model.config.task_specs.items()
    }


def test_predictions_lie_in_the_space_of_their_target(tiny_model):
    predictions = tiny_model()(100 * pixels()).predictions
    assert predictions["depth"].min() > 0
    assert predictions["depth"].max() < 10
    torch.testing.assert_close(predictions["normals"].norm(dim=1), torch.ones(2, 64, 64))
    assert 0 <= predictions["reshading"].min() <= predictions["reshading"].max() <= 1


def test_an_image_in_a_batch_gets_what_it_gets_alone(tiny_model):
    model, images = tiny_model(), pixels(3, 40, 56)
    together = model(images).predictions
    assert_same_predictions({t: p[1:2] for t, p in together.items()}, model(images[1:2]).predictions)


def test_pixels_and_predictions_stay_aligned_at_odd_sizes(tiny_model):
    """Padding is on the right and bottom only: what is seen at 61 x 61 is the top left part of the same image zero-padded to 64."""
    model, image = tiny_model(), pixels(1, 61, 61)
    padded = nn.functional.pad(image, (0, 3, 0, 3))
    expected = {task: p[..., :61, :61] for task, p in model(padded).predictions.items()}
    assert_same_predictions(model(image).predictions, expected)


# --- subsets of tasks ---


@pytest.mark.parametrize("block_attention", [["self", "encoder"], ["encoder", "reference"], ["self+skip", "self"], ["reference+skip"] * 2])
def test_a_subset_of_tasks_gives_the_same_numbers(tiny_model, block_attention):
    model = tiny_model(block_attention=block_attention)
    full = model(pixels()).predictions
    for wanted in (["depth"], ["normals"], ["edges2d", "segmentation"]):
        part = model(pixels(), tasks=wanted).predictions
        assert list(part) == wanted
        assert_same_predictions(part, {task: full[task] for task in wanted})


def test_a_subset_runs_only_the_streams_that_it_needs(tiny_model):
    assert tiny_model(block_attention=["self", "encoder"]).mult.decoder.streams_to_run(["depth"]) == ["depth"]
    assert tiny_model(block_attention=["encoder", "reference"]).mult.decoder.streams_to_run(["depth"]) == ["depth", "normals"]


# --- attention maps and hidden states ---


def test_shared_maps_are_returned_one_a_block_and_sum_to_one(tiny_model):
    model = tiny_model(block_attention=["self", "encoder", "reference", "self"], tasks=["depth", "normals", "reshading"])
    outputs = model(pixels(2, 64, 96), output_attentions=True)
    assert len(outputs.attentions) == 4 * 2, "two of each stage's four blocks share their map"
    # Stage 1 sees 2 x 3 tokens in one padded 4 x 4 window with 8 heads; stage 4 sees 16 x 24 in 24 windows with 1 head.
    assert tuple(outputs.attentions[0].shape) == (2, 1, 8, 16, 16)
    assert tuple(outputs.attentions[-1].shape) == (2, 24, 1, 16, 16)
    for attention in outputs.attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]))


def test_shared_maps_do_not_depend_on_which_tasks_are_asked_for(tiny_model):
    model = tiny_model(block_attention=["encoder", "reference"])
    everything = model(pixels(), output_attentions=True).attentions
    for one, other in zip(everything, model(pixels(), tasks=["depth"], output_attentions=True).attentions):
        torch.testing.assert_close(one, other)


def test_asking_for_maps_does_not_change_predictions(tiny_model):
    model = tiny_model()
    assert_same_predictions(model(pixels()).predictions, model(pixels(), output_attentions=True).predictions)


def test_hidden_states_are_encoder_maps_and_streams_of_every_stage(tiny_model):
    outputs = tiny_model(tasks=["depth", "normals"])(pixels(1, 64, 64), output_hidden_states=True)
    assert [tuple(m.shape) for m in outputs.hidden_states] == [(1, 8, 16, 16), (1, 16, 8, 8), (1, 32, 4, 4), (1, 64, 2, 2)]
    assert [tuple(m.shape) for m in outputs.task_hidden_states["depth"]] == [(1, 8, 16, 16), (1, 16, 8, 8), (1, 32, 4, 4), (1, 64, 2, 2)]
    assert tiny_model()(pixels()).hidden_states is None


def test_a_tuple_comes_back_when_asked_for(tiny_model):
    model = tiny_model(tasks=["depth", "normals"])
    (predictions,) = model(pixels(), return_dict=False)
    assert_same_predictions(predictions, model(pixels()).predictions)


def test_single_stages_are_returned_by_their_numbers(tiny_model):
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


def test_encoder_maps_and_streams_come_in_one_order(tiny_model):
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


def test_the_loss_can_be_left_out_or_demanded(tiny_model):
    model = tiny_model(tasks=["depth"])
    labels = labels_for(model)
    assert model(pixels(), labels=labels, return_loss=False).loss is None
    assert torch.equal(model(pixels(), labels=labels, return_loss=True).loss, model(pixels(), labels=labels).loss)
    with pytest.raises(ValueError, match="return_loss=True needs labels"):
        model(pixels(), return_loss=True)


def test_keywords_of_any_transformers_model_are_accepted_and_others_refused(tiny_model):
    model = tiny_model(tasks=["depth"])
    assert_same_predictions(model(pixels(), num_items_in_batch=torch.tensor(2)).predictions, model(pixels()).predictions)
    with pytest.raises(TypeError, match=r"unexpected keyword arguments \['lables'\]"):
        model(pixels(), lables={})


# --- numerics ---


@pytest.mark.parametrize("block_attention", [["self", "encoder"], ["encoder+skip", "reference+skip"]])
def test_sdpa_and_eager_attention_agree(tiny_model, block_attention):
    model = tiny_model(block_attention=block_attention)
    assert model.config._attn_implementation == "sdpa", "premise: sdpa is the default"
    fused = model(pixels(2, 52, 75)).predictions
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert_same_predictions(model(pixels(2, 52, 75)).predictions, fused)


@pytest.mark.parametrize(
    "values", [{"block_attention": ["encoder", "reference+skip"]}, {"decoder_type": "swin_unet"}, {"decoder_type": "mtan"}]
)
def test_gradients_reach_every_returned_tensor(tiny_model, values):
    """What is returned is what the predictions are computed from, not a view beside it."""
    model = tiny_model(tasks=["depth", "normals"], **values)
    outputs = model(pixels(), labels=labels_for(model), output_attentions=True, output_hidden_states=True)
    streams = [stream for task in outputs.task_hidden_states.values() for stream in task]
    returned = [*(outputs.attentions or ()), *outputs.hidden_states, *streams]
    assert len(outputs.attentions) == (8 if "block_attention" in values else 0), "premise: two shared blocks per stage"
    for tensor in returned:
        tensor.retain_grad()
    outputs.loss.backward()
    assert [number for number, tensor in enumerate(returned) if tensor.grad is None or not tensor.grad.abs().sum() > 0] == []


def test_attention_dropout_acts_in_training_only(tiny_model):
    model = tiny_model(tasks=["depth"], attention_probs_dropout_prob=0.5)
    first, second = (model(pixels(), output_attentions=True) for _ in range(2))
    assert_same_predictions(first.predictions, second.predictions)
    torch.testing.assert_close(first.attentions[-1].sum(dim=-1), torch.ones_like(first.attentions[-1][..., 0]))
    dropped = model.train()(pixels(), output_attentions=True).attentions[-1]
    assert 0.4 < (dropped == 0).float().mean() < 0.6, "half of the weights, within what thousands of draws allow"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_full_and_its_loss_is_finite(tiny_model, dtype):
    model = tiny_model()
    full = model(pixels(), labels=labels_for(model))
    model.to(dtype)
    half = model(pixels().to(dtype), labels=labels_for(model))
    assert half.predictions["depth"].dtype == torch.float32, "bf16 depth would come in steps of 3 cm"
    assert half.loss.dtype == torch.float32
    assert half.loss.item() == pytest.approx(full.loss.item(), rel=0.02)


def test_gradient_checkpointing_gives_the_same_gradients(tiny_model):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.mult.decoder.stages[0].blocks[0].gradient_checkpointing, "premise: decoder blocks take part"
        model(pixels(), labels=labels_for(model)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_reentrant_checkpointing_is_refused_because_it_would_train_nothing(tiny_model):
    with pytest.raises(ValueError, match="use_reentrant=True"):
        tiny_model().gradient_checkpointing_enable({"use_reentrant": True})


def test_adapters_train_behind_checkpointed_frozen_layers(tiny_model):
    peft = pytest.importorskip("peft")
    model = tiny_model(tasks=["depth", "normals"]).train()
    model.gradient_checkpointing_enable()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted(pixel_values=pixels(), labels=labels_for(model)).loss.backward()
    adapters = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("backbone" in name for name in adapters), "premise: the encoder has adapters too"
    assert all(p.grad is not None for p in adapters.values())


# --- losses and gradients ---


@pytest.mark.parametrize("block_attention", [["self", "encoder"], ["encoder", "reference"]])
def test_every_parameter_gets_a_gradient(tiny_model, block_attention):
    """What distributed training without find_unused_parameters needs."""
    model = tiny_model(block_attention=block_attention).train()
    model(pixels(2, 128, 128), labels=labels_for(model, 2, 128, 128)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    # A single window a stage leaves shifted blocks nothing to shift, but weights still count.
    zero = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0 and "k_proj.bias" not in name]
    assert zero == [], "a key's bias shifts all scores of a query alike, so its gradient is zero by mathematics"


def test_every_parameter_gets_a_gradient_from_a_batch_with_unknown_tasks(tiny_model):
    model = tiny_model().train()
    labels = labels_for(model)
    labels["depth"][:] = torch.nan
    labels["segmentation"][:] = 255
    outputs = model(pixels(), labels=labels)
    outputs.loss.backward()
    assert outputs.task_losses["depth"] == outputs.task_losses["segmentation"] == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all((p.grad == 0).all() for _, p in model.task_parameters("depth"))


def test_the_loss_is_the_weighted_sum_of_task_losses(tiny_model):
    weights = {"depth": 2.0, "normals": 0.5}
    model = tiny_model(tasks=[{"name": task, "weight": weight} for task, weight in weights.items()])
    outputs = model(pixels(), labels=labels_for(model))
    expected = sum(weights[task] * loss for task, loss in outputs.task_losses.items())
    torch.testing.assert_close(outputs.loss, expected)
    predictions = model(pixels()).predictions
    torch.testing.assert_close(outputs.loss, multi_task_loss(predictions, labels_for(model), model.config.task_specs)[0])


def test_labels_of_some_tasks_train_these_alone(tiny_model):
    model = tiny_model()
    outputs = model(pixels(), labels={"depth": labels_for(model)["depth"], "normals": None})
    assert list(outputs.task_losses) == ["depth"]


def test_training_lowers_every_loss(tiny_model):
    model = tiny_model(block_attention=["self+skip", "encoder+skip"]).train()
    labels = labels_for(model)
    labels["depth"] = 2 + labels["depth"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(25):
        outputs = model(pixels(), labels=labels)
        first = first or {t: v.item() for t, v in outputs.task_losses.items()}
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert {t: v.item() < first[t] for t, v in outputs.task_losses.items()} == dict.fromkeys(first, True)


# --- saving and loading ---


def test_a_saved_model_loads_with_the_same_numbers(tiny_model, tmp_path):
    model = tiny_model(block_attention=["encoder+skip", "reference"], reference_task="depth")
    model.save_pretrained(tmp_path)
    loaded, info = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert {key: len(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")} == {
        "missing_keys": 0, "unexpected_keys": 0, "mismatched_keys": 0,
    }  # fmt: skip
    expected = {**model.config.to_dict(), "_name_or_path": str(tmp_path)}
    expected["backbone_config"]["dtype"] = "float32"  # which transformers fills in when it loads
    assert loaded.config.to_dict() == expected
    for task, prediction in model(pixels()).predictions.items():
        assert torch.equal(prediction, loaded(pixels()).predictions[task])


def test_auto_classes_find_the_model(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MulTConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is MulTForMultiTaskDensePrediction


def test_the_model_without_heads_loads_from_the_model_with_heads(tiny_model, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    features = MulTModel.from_pretrained(tmp_path)(pixels()).task_features
    torch.testing.assert_close(model.heads.tasks["depth"](features["depth"], (64, 64), (64, 64)), model(pixels()).predictions["depth"])


def test_weights_are_initialised_after_loading_on_the_meta_device(tiny_config, tmp_path):
    """A non-persistent buffer left as from_pretrained finds it would hold garbage."""
    MulTForMultiTaskDensePrediction(tiny_config()).save_pretrained(tmp_path)
    loaded = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path)
    bias = loaded.mult.decoder.stages[0].blocks[0].attention.tasks["depth"].position_bias
    assert torch.equal(bias.index, bias.make_index())


def test_a_seventh_task_lives_in_the_checkpoint_alone(tiny_config, tmp_path):
    """One entry is all that a new task takes: it predicts, trains, saves, and loads where nobody has registered it."""
    model = MulTForMultiTaskDensePrediction(tiny_config(tasks=[*MULT_TASKS, CURVATURE])).eval()
    labels = {"principal_curvature": torch.rand(2, 2, 64, 64)}
    assert list(model(pixels(), labels=labels).task_losses) == ["principal_curvature"]
    model.save_pretrained(tmp_path)
    script = """
        import sys, torch, mult_hf
        assert "principal_curvature" not in mult_hf.registered_tasks()
        model = mult_hf.MulTForMultiTaskDensePrediction.from_pretrained(sys.argv[1])
        image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        print(model(image).predictions["principal_curvature"].double().sum().item())
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, check=True)
    expected = model(pixels()).predictions["principal_curvature"].double().sum().item()
    assert float(result.stdout) == pytest.approx(expected, abs=1e-3)


# --- adding and removing tasks ---


def test_an_added_task_leaves_the_others_as_they_were(tiny_model):
    model = tiny_model()
    before = model(pixels()).predictions
    model.add_task(CURVATURE)
    after = model(pixels()).predictions
    assert tuple(after.pop("principal_curvature").shape) == (2, 2, 64, 64)
    assert_same_predictions(after, before)


def test_an_added_task_is_in_the_mode_of_the_model(tiny_model):
    """Dropout of new modules must be off in a model that is evaluated."""
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
def test_a_copied_decoder_starts_where_its_source_is(tiny_model, source):
    """A copy of a scalar task also has its head, so that before the activation it predicts the same."""
    model = tiny_model(block_attention=["encoder", "reference"])
    copy = TaskSpec(name="copied", kind="regression", channels=model.config.task_specs[source].channels)
    model.add_task(copy, copy_from=source)
    features = model.mult(pixels()).task_features
    torch.testing.assert_close(features["copied"], features[source])
    torch.testing.assert_close(model.heads.tasks["copied"].logits(features["copied"]), model.heads.tasks[source].logits(features[source]))


def test_everything_else_can_be_frozen(tiny_model):
    model = tiny_model().train()
    model.add_task(CURVATURE, freeze_others=True)
    model(pixels(), labels={"principal_curvature": torch.rand(2, 2, 64, 64)}).loss.backward()
    own = {name for name, _ in model.task_parameters("principal_curvature")}
    assert own
    assert {name for name, p in model.named_parameters() if p.grad is not None} == own


def test_a_removed_task_is_gone_and_the_others_stay(tiny_model):
    model = tiny_model()
    before = model(pixels()).predictions
    model.remove_task("segmentation")
    after = model(pixels()).predictions
    assert_same_predictions(after, {task: p for task, p in before.items() if task != "segmentation"})
    assert not [name for name in model.state_dict() if "segmentation" in name]


def test_the_reference_task_can_go_only_where_nothing_is_shared(tiny_model):
    with pytest.raises(ValueError, match="'normals' is the reference task"):
        tiny_model().remove_task("normals")
    model = tiny_model(block_attention=["self", "self"])
    model.remove_task("normals")
    assert model.config.reference_task in model.task_names
    assert "normals" not in model(pixels()).predictions


def test_wrong_additions_and_removals_are_refused(tiny_model):
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


# --- encoders ---


def test_published_classifier_weights_load_into_the_encoder(tiny_config, tmp_path):
    swin = SwinConfig(
        **{k: v for k, v in tiny_config().backbone_config.to_dict().items() if k in ("embed_dim", "depths", "num_heads")}, window_size=4
    )
    classifier = SwinForImageClassification(swin)
    classifier.save_pretrained(tmp_path)
    model = MulTForMultiTaskDensePrediction(tiny_config())
    report = model.load_backbone_weights(tmp_path)
    for name, value in classifier.swin.encoder.state_dict().items():
        assert torch.equal(model.mult.backbone.swin.encoder.state_dict()[name], value), name
    assert {"classifier.weight", "classifier.bias"} <= set(report.not_used)
    assert all("hidden_states_norms" in name for name in report.fresh), "a classifier has no norms of feature maps"
    assert len(report.fresh) == 8
    assert "not used" in str(report)


def test_published_backbone_weights_load_into_the_encoder_completely(tiny_config, tmp_path):
    backbone = SwinBackbone(tiny_config().backbone_config)
    backbone.save_pretrained(tmp_path)
    model = MulTForMultiTaskDensePrediction(tiny_config())
    report = model.load_backbone_weights(tmp_path)
    assert report.fresh == ()
    expected = backbone.eval()(pixels()).feature_maps
    for one, other in zip(model.eval()(pixels(), output_hidden_states=True).hidden_states, expected):
        torch.testing.assert_close(one, other)


def test_a_model_is_built_on_a_published_encoder_in_one_call(tiny_config, tmp_path):
    SwinForImageClassification(SwinConfig(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_size=4)).save_pretrained(
        tmp_path
    )
    model = MulTForMultiTaskDensePrediction.from_backbone(str(tmp_path), tasks=["depth", "normals"])
    assert model.config.backbone_config.depths == [1, 1, 2, 1]
    assert list(model(pixels()).predictions) == ["depth", "normals"]


def test_an_auto_model_has_heads_and_the_model_without_heads_reads_its_checkpoint(tiny_model, tmp_path):
    model = tiny_model(tasks=["depth"])
    model.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is MulTForMultiTaskDensePrediction
    features = MulTModel.from_pretrained(tmp_path)(pixels()).task_features["depth"]
    torch.testing.assert_close(features, model.mult(pixels()).task_features["depth"])


def test_an_encoder_without_a_pyramid_is_refused(tmp_path):
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'vit'; expected a backbone with stages"):
        MulTForMultiTaskDensePrediction.from_backbone(str(tmp_path))


def test_loading_with_fewer_tasks_than_the_reference_needs_is_refused(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="reference_task 'normals' is not one of the tasks"):
        MulTForMultiTaskDensePrediction.from_pretrained(tmp_path, tasks=["depth"])


@pytest.mark.parametrize("patch_size", [2, 8])
def test_other_patch_sizes_stay_aligned_with_the_image(patch_size):
    """What is seen at 100 x 100 is the top left part of the same image zero-padded to whole patches."""
    swin = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, patch_size=patch_size,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, tasks=["depth"])).eval()
    image = pixels(1, 99, 99)
    side = -(-99 // patch_size) * patch_size
    padded = nn.functional.pad(image, (0, side - 99, 0, side - 99))
    expected = model(padded).predictions["depth"][..., :99, :99]
    torch.testing.assert_close(model(image).predictions["depth"], expected)


def test_weights_of_another_size_or_kind_are_refused(tiny_config, tmp_path):
    model = MulTForMultiTaskDensePrediction(tiny_config())
    SwinForImageClassification(SwinConfig(embed_dim=16, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="does not fit this encoder"):
        model.load_backbone_weights(tmp_path)


def test_absolute_position_embeddings_are_resized_for_other_image_sizes():
    swin = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64, use_absolute_embeddings=True,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, tasks=["depth"])).eval()
    with torch.no_grad():
        model.mult.backbone.swin.embeddings.position_embeddings.normal_()
    for height, width in ((64, 64), (97, 131)):
        prediction = model(torch.zeros(1, 3, height, width)).predictions["depth"]
        assert tuple(prediction.shape) == (1, 1, height, width)
        assert prediction.std() > 1e-4, "an image of one colour looks different in different places"


BACKBONES = {
    "swinv2": Swinv2Config(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    ),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]),
    "timm": TimmBackboneConfig(backbone="resnet18", use_pretrained_backbone=False, out_indices=[1, 2, 3, 4]),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (75, 101)])
def test_any_pyramid_backbone_works(name, height, width, tmp_path):
    if name == "timm":
        pytest.importorskip("timm")
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=BACKBONES[name], tasks=["depth", "normals"], decoder_window_size=4))
    model.eval()
    predictions = model(pixels(2, height, width)).predictions
    assert tuple(predictions["normals"].shape) == (2, 3, height, width)
    model.save_pretrained(tmp_path)
    loaded = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).eval()
    assert_same_predictions(loaded(pixels(2, height, width)).predictions, predictions)


def test_a_state_dict_with_the_names_of_a_saved_file_is_loaded_and_checked(tiny_model, tmp_path):
    """Trainer reads the file itself when it resumes, and files of transformers' own form name Swin's weights differently."""
    model = tiny_model(tasks=["depth"])
    model.save_pretrained(tmp_path, save_original_format=True)
    saved = load_file(tmp_path / "model.safetensors")
    assert not saved.keys() <= model.state_dict().keys(), "premise: the names differ"
    fresh = MulTForMultiTaskDensePrediction(model.config)
    fresh.load_state_dict(saved)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in fresh.state_dict().items())
    lost = "heads.tasks.depth.projection.bias"
    del saved[lost]
    missing, unexpected = fresh.load_state_dict({**saved, "smell": torch.zeros(1)}, strict=False)
    assert (missing, unexpected) == ([lost], ["smell"])


# --- ecosystem ---


def test_adapters_train_save_and_load(tiny_model, tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny_model(tasks=["depth", "normals"])
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    expected = adapted(pixel_values=pixels()).predictions
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(tasks=["depth", "normals"]), tmp_path)
    assert_same_predictions(loaded(pixel_values=pixels()).predictions, expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_adapters_train_behind_checkpointed_layers_of_any_encoder(name):
    peft = pytest.importorskip("peft")
    if name == "timm":
        pytest.importorskip("timm")
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=BACKBONES[name], tasks=["depth"], decoder_window_size=4)).train()
    if name != "timm":  # whose encoder has no layers that transformers can checkpoint
        model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    embedded = []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: embedded.append(output))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted(pixel_values=pixels(), labels=labels_for(model)).loss.backward()
    (output,) = embedded
    assert output.requires_grad
    assert [n for n, p in adapted.named_parameters() if p.requires_grad and p.grad is None] == []


def test_all_heads_are_trained_whole_beside_adapters(tiny_model, tmp_path):
    """PEFT refuses `modules_to_save` on a dictionary of modules, so the heads are a module of their own."""
    peft = pytest.importorskip("peft")
    model = tiny_model(tasks=["depth", "normals"])
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["heads"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
    changed = adapted(pixel_values=pixels()).predictions
    assert not torch.allclose(changed["depth"], tiny_model(tasks=["depth", "normals"])(pixels()).predictions["depth"])
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(tasks=["depth", "normals"]), tmp_path)
    assert_same_predictions(loaded(pixel_values=pixels()).predictions, changed)


def test_compiling_the_whole_graph_gives_the_same_numbers(tiny_model):
    model = tiny_model(tasks=["depth", "segmentation"])
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(pixels())
    assert_same_predictions(compiled.predictions, model(pixels()).predictions)


@pytest.mark.slow
def test_compiling_the_whole_training_graph_gives_the_same_gradients(tiny_model):
    model = tiny_model(tasks=["depth", "normals", "segmentation"])  # in evaluation mode: nothing random
    labels = labels_for(model)
    losses, gradients = [], []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        outputs = run(pixels(), labels=labels)
        outputs.loss.backward()
        losses.append(outputs.loss)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*losses)
    assert all(gradient is not None for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():  # sums in another order
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=lambda message, name=name: f"{name}: {message}")


@pytest.mark.slow
def test_torch_export_gives_the_same_numbers(tiny_model):
    model = tiny_model(tasks=["depth", "normals"])
    with torch.no_grad():
        program = torch.export.export(model, (pixels(),), strict=False)
        assert_same_predictions(program.module()(pixels()).predictions, model(pixels()).predictions)


# --- the classes that transformers sees ---


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


# --- refusals ---


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
def test_wrong_input_is_refused_with_what_came(tiny_model, change, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**{"pixel_values": pixels(), **change})


@pytest.mark.parametrize(("field", "value"), [("loss", "l3"), ("activation", "relu6")])
def test_a_task_with_an_unknown_loss_or_activation_is_refused_when_the_model_is_built(tiny_config, field, value):
    with pytest.raises(ValueError, match=f"task 'depth' has {field} '{value}'; allowed: "):
        MulTForMultiTaskDensePrediction(tiny_config(tasks=[{"name": "depth", field: value}]))


def test_sharing_is_off_in_the_ablation(tiny_model):
    """In ("self", "self") every task owns its map, so no block has a shared one."""
    model = tiny_model(block_attention=["self", "self"])
    attentions = [m for m in model.modules() if isinstance(m, SharedWindowAttention)]
    assert attentions
    assert all(hasattr(a.tasks[task], "q_proj") for a in attentions for task in MULT_TASKS)
    assert model(pixels(), output_attentions=True).attentions == ()
