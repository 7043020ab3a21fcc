"""Proves that models start from published encoders of timm, and that processors normalise images as encoders were trained."""

import json
import os
import sys

import pytest
import torch
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessor

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor, MulTImageProcessorPil
from mult_hf.model.encoder_sources import find_timm_encoder

timm = pytest.importorskip("timm")

# The smallest pyramids of timm: one with layer norms, and one whose batch norms also have statistics.
ARCHITECTURES = ("test_convnext", "test_resnet")
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def published(architecture, directory, **pretrained_cfg):
    """A classifier with its own weights, saved by timm."""
    torch.manual_seed(0)
    classifier = timm.create_model(architecture, num_classes=7).eval()
    with torch.no_grad():
        for name, value in classifier.state_dict().items():
            if value.is_floating_point():
                value.add_(0.02 * torch.rand_like(value) if "running_var" in name else 0.05 * torch.randn_like(value))
    classifier.pretrained_cfg.update(pretrained_cfg)
    timm.models.save_for_hf(classifier, str(directory), safe_serialization=True)
    return classifier


def assert_encoder_is(model, classifier):
    """The coarsest map equals the classifier's input before pooling."""
    maps = model(IMAGES, output_hidden_states=True).hidden_states
    assert [IMAGES.shape[-1] // each.shape[-1] for each in maps] == [4, 8, 16, 32]
    torch.testing.assert_close(maps[-1], classifier.forward_features(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_model_can_start_from_a_checkpoint_of_timm(architecture, tmp_path):
    classifier = published(architecture, tmp_path / "published")
    model = MulTForMultiTaskDensePrediction.from_backbone(tmp_path / "published", tasks=["depth"])
    assert_encoder_is(model, classifier)
    model.save_pretrained(tmp_path / "trained")
    loaded = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "trained")
    assert_encoder_is(loaded, classifier)


@torch.no_grad()
def test_a_model_can_start_from_a_hub_id_of_timm(tmp_path):
    repository = tmp_path / "models--timm--small"
    classifier = published("test_convnext", repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    model = MulTForMultiTaskDensePrediction.from_backbone("timm/small", tasks=["depth"], cache_dir=str(tmp_path), local_files_only=True)
    assert_encoder_is(model, classifier)


@torch.no_grad()
def test_a_model_can_start_from_a_timm_name_whose_weights_timm_downloads(tmp_path, monkeypatch):
    classifier = published("test_resnet", tmp_path)
    create = timm.create_model

    def create_with_file(name, pretrained=False, **kwargs):
        """Load a local file in place of the download."""
        file = {"pretrained_cfg_overlay": {"file": str(tmp_path / "model.safetensors")}} if pretrained else {}
        return create(name, pretrained, **kwargs, **file)

    monkeypatch.setattr(timm, "create_model", create_with_file)
    assert_encoder_is(MulTForMultiTaskDensePrediction.from_backbone("test_resnet", tasks=["depth"]), classifier)


def test_the_report_lists_the_classifiers_head_as_not_used(tmp_path):
    published("test_convnext", tmp_path)
    model = MulTForMultiTaskDensePrediction.from_backbone(tmp_path, tasks=["depth"])
    report = model.load_backbone_weights(tmp_path)
    assert set(report.not_used) == {"head.fc.weight", "head.fc.bias"}
    assert report.fresh == ()
    assert set(report.loaded) == set(model.mult.backbone.state_dict())


def test_a_timm_model_without_a_pyramid_is_refused():
    with pytest.raises(ValueError, match="'swin-tinny' is neither a directory, nor a Hub id 'owner/name', nor the name of a model in timm"):
        MulTForMultiTaskDensePrediction.from_backbone("swin-tinny")
    with pytest.raises(ValueError, match="'test_vit' of timm does not return maps of 1/4"):
        MulTForMultiTaskDensePrediction.from_backbone("test_vit")
    with pytest.raises(ValueError, match="timm downloads 'test_resnet' by itself, without"):
        MulTForMultiTaskDensePrediction.from_backbone("test_resnet", revision="main")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    classifier = published("test_convnext", tmp_path / "whole")
    state = classifier.state_dict()
    del state["stem.0.weight"]
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
    torch.save(state, tmp_path / "part" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lacks 1 weights of 'test_convnext': \['stem.0.weight'\]"):
        MulTForMultiTaskDensePrediction.from_backbone(tmp_path / "part")
    timm.models.save_for_hf(classifier, str(tmp_path / "changed"), model_args={"drop_path_rate": 0.5}, safe_serialization=True)
    with pytest.raises(ValueError, match=r"changes timm's test_convnext by model_args .*'drop_path_rate': 0.5"):
        MulTForMultiTaskDensePrediction.from_backbone(tmp_path / "changed")
    model = MulTForMultiTaskDensePrediction.from_backbone(tmp_path / "whole", tasks=["depth"])
    published("test_resnet", tmp_path / "other")
    with pytest.raises(ValueError, match=r"does not fit|lacks"):
        model.load_backbone_weights(tmp_path / "other")
    SwinConfig().save_pretrained(tmp_path / "swin")
    with pytest.raises(ValueError, match="is no checkpoint of timm, and this encoder is timm's 'test_convnext'"):
        model.load_backbone_weights(tmp_path / "swin")


class Command:
    """A pickle that runs a command when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_in_a_pickled_encoder_is_refused_and_never_run(tmp_path):
    published("test_convnext", tmp_path / "timm")
    (tmp_path / "timm" / "model.safetensors").unlink()
    torch.save({"stem.0.weight": Command(tmp_path / "ran")}, tmp_path / "timm" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin cannot be read as weights: .*no code in it is run"):
        MulTForMultiTaskDensePrediction.from_backbone(tmp_path / "timm")
    assert not (tmp_path / "ran").exists()


def test_without_timm_the_error_names_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        MulTForMultiTaskDensePrediction.from_backbone("test_convnext")


@pytest.mark.parametrize("processor_class", [MulTImageProcessor, MulTImageProcessorPil])
def test_a_processor_normalises_images_as_the_encoder_was_trained(processor_class, tmp_path):
    published("test_convnext", tmp_path / "timm", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    processor = processor_class.from_backbone(tmp_path / "timm", size={"height": 32, "width": 48}, tasks=["depth"])
    assert ([*processor.image_mean], [*processor.image_std]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert (processor.size["height"], processor.size["width"], list(processor.task_specs)) == (32, 48, ["depth"])
    by_name = processor_class.from_backbone("test_convnext")
    assert [*by_name.image_mean] == [*timm.get_pretrained_cfg("test_convnext").mean]

    SwinForImageClassification(SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1])).save_pretrained(tmp_path / "swin")
    assert processor_class.from_backbone(tmp_path / "swin").to_dict() == processor_class().to_dict(), "no statistics: ImageNet's"
    ViTImageProcessor(image_mean=[0.5, 0.5, 0.4]).save_pretrained(tmp_path / "swin")
    assert [*processor_class.from_backbone(tmp_path / "swin").image_mean] == [0.5, 0.5, 0.4]
    assert [*processor_class.from_backbone(tmp_path / "swin", image_mean=[0.1, 0.1, 0.1]).image_mean] == [0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    "fields",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "do_normalize": False},
        {"rescale_factor": 0.01, "image_mean": 0.5, "image_std": 0.25},
    ],
    ids=str,
)
def test_pixels_are_those_of_the_encoders_own_image_processor(processor_class, fields, tmp_path):
    own = ViTImageProcessor(**{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3], "do_resize": False, **fields})
    own.save_pretrained(tmp_path)
    SwinConfig().save_pretrained(tmp_path)
    colours = torch.randint(0, 256, (3, 32, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    processor = processor_class.from_backbone(tmp_path, size={"height": 32, "width": 40})
    found, expected = (each(colours, return_tensors="pt")["pixel_values"].float() for each in (processor, own))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", ["do_flip_channel_order", "do_color_quantize", "rescale_offset"])
def test_steps_that_change_colours_in_another_way_are_refused(step, tmp_path):
    SwinConfig().save_pretrained(tmp_path)
    plain = {"image_mean": [0.5] * 3, "do_center_crop": True, "do_something_new": True, step: False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(plain))
    assert [*MulTImageProcessor.from_backbone(tmp_path).image_mean] == [0.5] * 3
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "do_center_crop": True, step: True}))
    with pytest.raises(ValueError, match=f"has the image processing {step}: true, which this package's image processor lacks; choose"):
        MulTImageProcessor.from_backbone(tmp_path)


def test_checkpoints_of_transformers_are_not_mistaken_for_timms(tmp_path):
    SwinConfig().save_pretrained(tmp_path)
    assert find_timm_encoder(str(tmp_path)) is None
    assert find_timm_encoder("resnet50.a1_in1k").directory is None
