"""Proves that every decoder has the same interface, and that the two baselines compute the equations of their papers."""

import logging

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, ConvNextConfig, SwinConfig, TimmBackboneConfig

from mult_hf import MULT_TASKS, MulTConfig, MulTForMultiTaskDensePrediction, TaskSpec
from mult_hf.model.configuration_mult import DECODER_OPTIONS
from mult_hf.model.decoder_mtan import ConvolutionLayer, MTANDecoder, MTANStage, SoftAttention
from mult_hf.model.decoders import DECODERS

CURVATURE = TaskSpec(name="principal_curvature", kind="regression", channels=2)
TASKS = ["segmentation", "depth", "normals"]
OF_THE_PACKAGE = ["mult", "swin_unet", "mtan"]  # examples/study adds its own, which have their own tests
VARIANTS = {
    **{name: {"decoder_type": name} for name in OF_THE_PACKAGE},
    "swin_unet with a shared map": {"decoder_type": "swin_unet", "block_attention": ["self", "encoder"]},
    "swin_unet with maps of the reference": {"decoder_type": "swin_unet", "block_attention": ["encoder+skip", "reference"]},
}
every_decoder = pytest.mark.parametrize("decoder", VARIANTS)


@pytest.fixture
def model_with(tiny_model):
    """A small model of three tasks with the named decoder."""
    return lambda decoder, **kwargs: tiny_model(**VARIANTS[decoder], **{"tasks": TASKS, **kwargs})


def pixels(batch=2, height=64, width=64):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def labels_for(model, height=64, width=64):
    generator = torch.Generator().manual_seed(2)
    return {
        task: torch.randint(0, spec.channels, (2, height, width), generator=generator)
        if spec.is_classification
        else torch.rand(2, spec.channels, height, width, generator=generator)
        for task, spec in model.config.task_specs.items()
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for task in one:
        torch.testing.assert_close(one[task], other[task], rtol=1e-4, atol=1e-5, msg=lambda text, task=task: f"{task}: {text}")


def changed(before, after):
    """Tasks whose predictions differ."""
    return {task for task in before if not torch.allclose(before[task], after[task], rtol=1e-4, atol=1e-5)}


# --- the contract of decoders.py, for every decoder ---


def test_the_configuration_has_options_for_every_decoder():
    assert set(DECODERS) == set(DECODER_OPTIONS) >= set(OF_THE_PACKAGE)


@every_decoder
@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 131), (32, 45)])
def test_predictions_have_the_size_of_any_image(model_with, decoder, height, width):
    outputs = model_with(decoder)(pixels(2, height, width), output_hidden_states=True)
    assert {task: tuple(p.shape) for task, p in outputs.predictions.items()} == {
        "segmentation": (2, 17, height, width), "depth": (2, 1, height, width), "normals": (2, 3, height, width),
    }  # fmt: skip
    for streams in outputs.task_hidden_states.values():
        assert [stream.shape for stream in streams] == [maps.shape for maps in outputs.hidden_states]


@every_decoder
def test_a_subset_of_tasks_gives_the_predictions_of_the_full_run(model_with, decoder):
    model = model_with(decoder)
    full = model(pixels(2, 52, 75)).predictions
    for wanted in (["depth"], ["normals", "segmentation"]):
        part = model(pixels(2, 52, 75), tasks=wanted).predictions
        assert list(part) == wanted
        assert_same(part, {task: full[task] for task in wanted})


@every_decoder
def test_an_image_in_a_batch_has_the_same_result_as_alone_even_in_training(model_with, decoder):
    """No statistics of the batch are used, unlike in a BatchNorm."""
    model, images = model_with(decoder), pixels(3, 40, 56)
    model.mult.decoder.train()
    assert_same({t: p[1:2] for t, p in model(images).predictions.items()}, model(images[1:2]).predictions)


@every_decoder
def test_every_parameter_gets_a_gradient(model_with, decoder):
    """Distributed training without find_unused_parameters needs this."""
    model = model_with(decoder).train()
    model(pixels(2, 128, 128), labels=labels_for(model, 128, 128)).loss.backward()
    zero = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in zero if "k_proj.bias" not in name] == [], "a key's bias has no gradient by mathematics"
    assert all(p.grad is not None for p in model.parameters())


@every_decoder
def test_gradient_checkpointing_gives_the_same_gradients(model_with, decoder):
    gradients = []
    for checkpointing in (False, True):
        model = model_with(decoder).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert any(getattr(m, "gradient_checkpointing", False) for m in model.mult.decoder.modules()), "premise: decoders take part"
        model(pixels(), labels=labels_for(model)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert_same(*gradients)


@every_decoder
def test_parameters_of_a_task_do_not_affect_other_tasks(model_with, decoder):
    """The reference task is not changed here, because its projections are shared."""
    model = model_with(decoder)
    before = model(pixels()).predictions
    with torch.no_grad():
        for _, parameter in model.task_parameters("depth"):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    assert changed(before, model(pixels()).predictions) == {"depth"}


@every_decoder
def test_adding_and_removing_a_task_does_not_change_the_others(model_with, decoder):
    model = model_with(decoder)
    before, names = model(pixels()).predictions, set(model.state_dict())
    model.add_task(CURVATURE)
    after = model(pixels()).predictions
    assert tuple(after.pop("principal_curvature").shape) == (2, 2, 64, 64)
    assert_same(after, before)
    model.remove_task("principal_curvature")
    assert_same(model(pixels()).predictions, before)
    assert set(model.state_dict()) == names


@every_decoder
def test_a_copied_task_has_the_weights_of_its_source(model_with, decoder):
    model = model_with(decoder)
    model.add_task("reshading", copy_from="depth")
    features = model.mult(pixels()).task_features
    torch.testing.assert_close(features["reshading"], features["depth"])


@every_decoder
def test_a_changed_model_predicts_the_same_after_saving_and_loading(model_with, decoder, tmp_path, caplog):
    model = model_with(decoder)
    model.add_task("reshading")
    model.remove_task("segmentation")
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded, info = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert "no effect" not in caplog.text, "a saved configuration holds nothing that its decoder does not read"
    kept = ("decoder_type", "block_attention", "reference_task")
    assert [getattr(loaded.config, name) for name in kept] == [getattr(model.config, name) for name in kept]
    assert_same(loaded(pixels()).predictions, model(pixels()).predictions)


@every_decoder
@pytest.mark.parametrize(
    "backbone",
    [
        # 75 x 101 pixels make 19 x 26 patches, which ConvNeXt halves to 9 x 13, 4 x 6 and 2 x 3; its widths do not double.
        ConvNextConfig(hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]),
        # Two maps, at 1/4 and 1/16: a step of four.
        TimmBackboneConfig(backbone="resnet18", use_pretrained_backbone=False, out_indices=[1, 3]),
    ],
    ids=["convnext", "timm"],
)
def test_any_pyramid_backbone_works(decoder, backbone):
    config = MulTConfig(backbone_config=backbone, tasks=["depth", "normals"], **VARIANTS[decoder])
    predictions = MulTForMultiTaskDensePrediction(config).eval()(pixels(2, 75, 101)).predictions
    assert tuple(predictions["normals"].shape) == (2, 3, 75, 101)


@every_decoder
@pytest.mark.parametrize(
    "backbone",
    [
        SwinConfig(depths=[1, 1], out_features=["stage1", "stage2"]),
        ConvNextConfig(hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 1, 1], out_features=["stage1", "stage2"]),
    ],
    ids=["swin", "convnext"],
)
def test_every_class_in_no_split_modules_is_a_layer_of_the_model(decoder, backbone):
    """FSDP refuses a model that lists a class without any layer of it."""
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=backbone, tasks=["depth"], **VARIANTS[decoder]))
    decoder_layers, backbone_layers = ({type(m).__name__ for m in part.modules()} for part in (model.mult.decoder, model.mult.backbone))
    assert model._no_split_modules <= decoder_layers | backbone_layers
    assert model._no_split_modules & decoder_layers
    assert model._no_split_modules & backbone_layers


@every_decoder
def test_shared_maps_are_returned_without_changing_predictions(model_with, decoder):
    model = model_with(decoder)
    asked = model(pixels(), output_attentions=True)
    maps = {"mult": 4, "swin_unet with a shared map": 3, "swin_unet with maps of the reference": 6}
    assert len(asked.attentions) == maps.get(decoder, 0), "one per shared block in each of four stages, or the three of Swin-Unet"
    assert_same(asked.predictions, model(pixels()).predictions)


@every_decoder
def test_half_precision_is_close_to_full(model_with, decoder):
    model = model_with(decoder)
    full = model(pixels(), labels=labels_for(model)).loss
    half = model.to(torch.bfloat16)(pixels().to(torch.bfloat16), labels=labels_for(model)).loss
    assert half.item() == pytest.approx(full.item(), rel=0.03)


@every_decoder
def test_training_lowers_every_loss(model_with, decoder):
    model = model_with(decoder).train()
    labels = {**labels_for(model), "depth": 2 + labels_for(model)["depth"]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        outputs = model(pixels(), labels=labels)
        losses.append({task: loss.item() for task, loss in outputs.task_losses.items()})
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(losses[-1][task] < losses[0][task] for task in TASKS), (losses[0], losses[-1])


# --- options that a decoder does not read ---


@pytest.mark.parametrize(
    ("decoder", "option", "value"),
    [
        ("mtan", "block_attention", ["self", "encoder"]),
        ("mtan", "reference_task", "depth"),
        ("mtan", "decoder_window_size", 4),
        ("mtan", "drop_path_rate", 0.1),
    ],
)
def test_an_option_without_effect_is_dropped_with_a_warning(tiny_config, caplog, tmp_path, decoder, option, value):
    with caplog.at_level(logging.WARNING):
        config = tiny_config(decoder_type=decoder, **{option: value})
    assert f"{option}={value!r} has no effect on the {decoder!r} decoder and is dropped" in caplog.text
    assert config.to_dict() == tiny_config(decoder_type=decoder).to_dict()


@pytest.mark.parametrize("decoder", OF_THE_PACKAGE)
def test_options_that_a_decoder_reads_are_kept_without_a_warning(tiny_config, caplog, tmp_path, decoder):
    values = {
        "block_attention": ["encoder", "reference"], "reference_task": "depth", "decoder_num_attention_heads": [4, 4, 2, 1],
        "decoder_window_size": 2, "mlp_ratio": 2.0, "hidden_act": "relu", "qkv_bias": False, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "drop_path_rate": 0.1,
    }  # fmt: skip
    assert set(values) == set(DECODER_OPTIONS["mult"]), "premise: every option"
    read = {name: value for name, value in values.items() if name in DECODER_OPTIONS[decoder]}
    with caplog.at_level(logging.WARNING):
        tiny_config(decoder_type=decoder, **read).save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
    assert caplog.text == ""
    assert {name: getattr(loaded, name) for name in read} == read


def test_a_configuration_without_a_decoder_type_has_the_papers_decoder(tiny_config):
    old = tiny_config(tasks=TASKS).to_dict()
    del old["decoder_type"]
    assert MulTConfig.from_dict(old).to_dict() == tiny_config(tasks=TASKS).to_dict()
    assert MulTConfig().decoder_type == "mult"


def test_an_unknown_decoder_is_refused(tiny_config, model_with, tmp_path):
    with pytest.raises((ValueError, StrictDataclassError), match="decoder_type 'unet' is unknown; choose one of mult, swin_unet, mtan"):
        tiny_config(decoder_type="unet")
    model_with("mult").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="decoder_type 'unet' is unknown"):
        MulTForMultiTaskDensePrediction.from_pretrained(tmp_path, decoder_type="unet")


# --- MTAN ---


def mask_of(stage, task, value):
    """Make a task's mask `sigmoid(value)` everywhere."""
    with torch.no_grad():
        stage.tasks[task].h.weight.zero_()
        stage.tasks[task].h.bias.fill_(value)


def test_a_mask_of_ones_keeps_the_trunk_and_a_mask_of_zeros_removes_it(tiny_config):
    config = tiny_config(tasks=TASKS, decoder_type="mtan")
    stage = MTANStage(config, 8, 16)
    for task, value in (("segmentation", 100.0), ("depth", -100.0), ("normals", 0.0)):
        mask_of(stage, task, value)
    coarser = torch.randn(2, 3, 4, 16)
    trunk, streams = stage(torch.randn(2, 6, 7, 8), coarser, dict.fromkeys(TASKS, coarser))
    assert trunk.abs().max() > 1, "premise: the trunk has something to say"
    assert torch.equal(streams["segmentation"], trunk)
    torch.testing.assert_close(streams["depth"], torch.zeros_like(trunk))
    torch.testing.assert_close(streams["normals"], trunk / 2)


def test_an_mtan_decoder_is_the_papers_equations_written_out(tiny_config):
    torch.manual_seed(0)
    config = tiny_config(tasks=["depth", "normals"], decoder_type="mtan")
    decoder = MTANDecoder(config, [8, 12])
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(0, 0.3)
    fine, coarse = torch.randn(2, 8, 9, 7), torch.randn(2, 12, 5, 4)
    decoded = decoder([fine, coarse], ["depth", "normals"]).streams

    def conv(layer, maps):
        return F.relu(layer.norm(F.conv2d(maps, layer.convolution.weight, padding=1).movedim(1, -1))).movedim(-1, 1)

    def up(maps):
        return F.interpolate(maps, size=(9, 7), mode="bilinear")

    def mask(own, maps):
        return own.h(F.relu(own.norm(own.g(maps.movedim(1, -1))))).sigmoid().movedim(-1, 1)

    first, second = decoder.stages
    for task in ("depth", "normals"):
        u = conv(first.early, coarse)
        p = conv(first.late, u)
        masked = mask(first.tasks[task], u) * p
        torch.testing.assert_close(decoded[task][0], masked)
        u = conv(second.early, torch.cat([up(p), fine], dim=1))
        a = mask(second.tasks[task], torch.cat([u, conv(second.carry, up(masked))], dim=1))
        torch.testing.assert_close(decoded[task][1], a * conv(second.late, u), rtol=1e-4, atol=1e-5)


def test_the_mtan_trunk_is_shared_and_each_task_owns_its_masks(model_with):
    model = model_with("mtan")
    before = model(pixels()).predictions
    with torch.no_grad():
        model.mult.decoder.stages[-1].late.convolution.weight.mul_(torch.rand(8, 1, 1, 1))
    assert changed(before, model(pixels()).predictions) == set(TASKS)
    masks = [module for module in model.mult.decoder.modules() if isinstance(module, SoftAttention)]
    shared = [module for module in model.mult.decoder.modules() if isinstance(module, ConvolutionLayer)]
    assert (len(masks), len(shared)) == (4 * len(TASKS), 4 * 3 - 1), "the coarsest stage has nothing to carry on"


def test_a_forward_hook_reads_the_masks(model_with):
    """As described in the docs."""
    model, masks = model_with("mtan"), []
    model.mult.decoder.stages[-1].tasks["depth"].register_forward_hook(lambda module, arguments, mask: masks.append(mask))
    model(pixels())
    assert [tuple(mask.shape) for mask in masks] == [(2, 16, 16, 8)]
    assert 0 < masks[0].min() < masks[0].max() < 1


# --- the baselines that the "mult" decoder is by its configuration ---


def test_self_self_shares_only_the_encoder(tiny_model):
    model = tiny_model(block_attention=["self", "self"])
    assert [name for name, _ in model.mult.decoder.named_parameters() if ".tasks." not in name] == []
    before = model(pixels()).predictions
    for task in MULT_TASKS:
        original = {name: p.detach().clone() for name, p in model.task_parameters(task)}
        with torch.no_grad():
            for _, parameter in model.task_parameters(task):
                parameter.mul_(1.5)
            assert changed(before, model(pixels()).predictions) == {task}
            for name, parameter in model.task_parameters(task):
                parameter.copy_(original[name])


def test_with_the_papers_blocks_the_reference_tasks_projections_affect_all_tasks(tiny_model):
    """The sharing that ("self", "self") switches off."""
    model = tiny_model(tasks=TASKS, block_attention=["self", "encoder"])
    before = model(pixels()).predictions
    with torch.no_grad():
        model.mult.decoder.stages[-1].blocks[1].attention.tasks["normals"].q_proj.weight.mul_(20)
    assert changed(before, model(pixels()).predictions) == set(TASKS)


@pytest.mark.parametrize("task", MULT_TASKS)
def test_a_single_task_model_is_its_own_reference_and_trains(tiny_model, task):
    model = tiny_model(tasks=[task]).train()
    assert model.config.reference_task == task
    outputs = model(pixels(), labels=labels_for(model))
    outputs.loss.backward()
    assert list(outputs.predictions) == [task]
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("block_attention", "unread"),
    [
        (["self", "self"], {"stage1", "stage2", "stage3"}),
        ([["self"] * 2, ["self", "encoder"], ["self"] * 2, ["self+skip", "self"]], {"stage2"}),
    ],
)
def test_norms_of_unread_encoder_maps_are_left_out(tiny_model, tmp_path, block_attention, unread):
    """Without a gradient it would stop distributed training; a checkpoint that contains such a norm loads without a warning."""
    model = tiny_model(tasks=["depth", "normals"], block_attention=block_attention).train()
    model(pixels(2, 128, 128), labels=labels_for(model, 128, 128)).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    norms = model.mult.backbone.hidden_states_norms
    assert {name for name, norm in norms.items() if isinstance(norm, nn.Identity)} == unread
    for name in unread:
        norms[name] = nn.LayerNorm(8)
    model.eval().save_pretrained(tmp_path)
    loaded, info = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    norms.update({name: nn.Identity() for name in unread})
    assert_same(loaded(pixels()).predictions, model(pixels()).predictions)


def test_no_decoder_has_a_batch_norm(model_with):
    for decoder in OF_THE_PACKAGE:
        assert not [m for m in model_with(decoder).mult.decoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
