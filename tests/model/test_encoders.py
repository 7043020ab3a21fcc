"""Proves that published weights load into the encoder, and that any encoder with a pyramid of feature maps works."""

import copy
import logging

import pytest
import torch
from torch import nn
from transformers import (
    HieraConfig,
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    TimmBackboneConfig,
    ViTConfig,
)

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
from mult_hf.model import backbone as backbone_module
from mult_hf.model.backbone import finest_stride, make_backbone
from support.batches import assert_same_predictions, pixels
from support.models import BACKBONES, TINY_SWIN

STAGES = ["stage1", "stage2", "stage3", "stage4"]


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


def test_from_backbone_builds_a_model_on_a_published_encoder(tiny_config, tmp_path):
    SwinForImageClassification(SwinConfig(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_size=4)).save_pretrained(
        tmp_path
    )
    model = MulTForMultiTaskDensePrediction.from_backbone(str(tmp_path), tasks=["depth", "normals"])
    assert model.config.backbone_config.depths == [1, 1, 2, 1]
    assert list(model(pixels()).predictions) == ["depth", "normals"]


def test_an_encoder_that_takes_images_of_one_size_refuses_others():
    hiera = HieraConfig(image_size=[64, 64], embed_dim=8, num_heads=[1, 1, 1, 1], depths=[1, 1, 1, 1], out_features=STAGES)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=hiera, decoder_num_attention_heads=[1, 1, 1, 1], tasks=["depth"]))
    assert model(torch.zeros(1, 3, 64, 64)).predictions["depth"].shape == (1, 1, 64, 64)
    assert model(torch.zeros(1, 3, 62, 64)).predictions["depth"].shape == (1, 1, 62, 64), "padded to whole patches"
    with pytest.raises(ValueError, match=r"are 96 x 64 pixels, .*and a hiera encoder takes images of 64 x 64 only; resize them"):
        model(torch.zeros(1, 3, 96, 64))


def test_an_encoder_of_timm_that_takes_images_of_one_size_refuses_others():
    pytest.importorskip("timm")
    vit = TimmBackboneConfig(backbone="vit_tiny_patch16_224", use_pretrained_backbone=False, out_indices=[11])
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=vit, tasks=["depth"]))
    assert model(torch.zeros(1, 3, 220, 224)).predictions["depth"].shape == (1, 1, 220, 224), "padded to whole patches"
    with pytest.raises(ValueError, match=r"are 64 x 80 pixels, .*encoder takes images of 224 x 224 only; resize them"):
        model(torch.zeros(1, 3, 64, 72))


def test_an_encoder_of_timm_with_channels_last_is_refused_when_it_is_built():
    pytest.importorskip("timm")
    swin = TimmBackboneConfig(backbone="swin_tiny_patch4_window7_224", use_pretrained_backbone=False, out_indices=[0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"swin_tiny_patch4_window7_224, whose maps have their channels last.*; choose another"):
        MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, tasks=["depth"]))


def test_an_encoder_that_transformers_cannot_run_is_refused_when_it_is_built():
    swin = Swinv2Config(embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4, image_size=64, use_absolute_embeddings=True)
    with pytest.raises(ValueError, match=r"swinv2 with use_absolute_embeddings, .*; set it to false"):
        MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, tasks=["depth"]))


def test_an_encoder_without_a_pyramid_is_refused(tmp_path):
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'vit'; expected a backbone with stages"):
        MulTForMultiTaskDensePrediction.from_backbone(str(tmp_path))


@pytest.mark.parametrize("patch_size", [2, 8])
def test_other_patch_sizes_stay_aligned_with_the_image(patch_size):
    """The result equals the top left part of that of the same image, zero-padded to whole patches."""
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


RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "layer_type": "basic"}


@pytest.mark.parametrize(
    ("encoder", "stride"),
    [
        ({**RESNET, "out_features": STAGES}, 4),
        ({**RESNET, "out_features": STAGES[1:]}, 8),
        ({**TINY_SWIN, "out_features": STAGES[2:]}, 16),
        ({**TINY_SWIN, "patch_size": 3}, 3),
        ({**TINY_SWIN, "use_absolute_embeddings": True, "image_size": 64, "out_features": STAGES[1:]}, 8),
    ],
)
@torch.no_grad()
def test_images_are_padded_to_the_stride_that_the_finest_map_really_has(encoder, stride, caplog):
    """So the prediction of an image is the top left part of that of the same image with zeros below and on the right."""
    with caplog.at_level(logging.WARNING):
        model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=encoder, tasks=["depth"])).eval()
    assert "finest stride" not in caplog.text
    assert model.mult.padded_size((36, 49)) == tuple(-(-side // stride) * stride for side in (36, 49))
    finest = model(pixels(1, 48, 96), output_hidden_states=True).hidden_states[0]
    assert (finest.shape[-2] * stride, finest.shape[-1] * stride) == (48, 96)
    image = pixels(1, 36, 49)
    padded = nn.functional.pad(image, [0, -49 % stride, 0, -36 % stride])
    torch.testing.assert_close(model(image).predictions["depth"], model(padded).predictions["depth"][..., :36, :49])


def test_measuring_the_stride_changes_neither_the_encoder_nor_random_numbers():
    torch.manual_seed(0)
    backbone = make_backbone(MulTConfig(backbone_config={**RESNET, "out_features": STAGES}, tasks=["depth"]))
    backbone.embedder.eval()
    before, modes, numbers = copy.deepcopy(backbone.state_dict()), [m.training for m in backbone.modules()], torch.get_rng_state()
    backbone_module._STRIDES.clear()
    assert finest_stride(backbone) == 4
    assert [m.training for m in backbone.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)


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
