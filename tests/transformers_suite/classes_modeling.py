"""MulT in transformers' ModelTesterMixin, ConfigTester and PipelineTesterMixin; `test_transformers_suite.py` runs this file.

The docstring of an overridden test states why transformers' own does not apply to MulT; all others run unchanged.
"""

# ruff: noqa: D101, D102  (transformers documents its methods)

import copy
import os
import unittest
from typing import Any

import prepare
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import ConvNextConfig, PreTrainedConfig, SwinConfig, Swinv2Config, TimmBackboneConfig
from transformers.pipelines import pipeline
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from transformers_tests.test_pipeline_mixin import PipelineTesterMixin, pipeline_test_mapping

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTModel

pipeline_test_mapping["multitask-vision"] = {"test": f"{__name__}.MultiTaskVisionPipelineTests"}

SIZE = 64  # side of the images in pixels
STEPS = (4, 8)  # pixels per token of the encoder's stages, finest first


class MulTModelTester:
    """Configuration and inputs of one kind of model, in the form that the mixins need."""

    batch_size = 2
    is_training = True
    shared_maps = 2  # one shared block per stage
    finer_maps_are_read = True  # by blocks of the decoder

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent
        sides = [self.batch_size, SIZE, SIZE]
        classes = ids_tensor(sides, 17)
        classes[:, :4] = 255
        normals = nn.functional.normalize(floats_tensor([self.batch_size, 3, SIZE, SIZE]) - 0.5, dim=1)
        normals[:, :, :4] = torch.nan
        self.labels = {"segmentation": classes, "normals": normals}

    def backbone(self) -> PreTrainedConfig:
        return prepare.swin(SwinConfig)

    def options(self) -> dict[str, Any]:
        return {}

    def get_config(self) -> MulTConfig:
        return MulTConfig(backbone_config=self.backbone(), tasks=list(prepare.TASKS), **self.options())

    def prepare_config_and_inputs_for_common(self) -> tuple[MulTConfig, dict[str, Tensor]]:
        return self.get_config(), {"pixel_values": floats_tensor([self.batch_size, 3, SIZE, SIZE])}


class MulTModelTest(ModelTesterMixin, PipelineTesterMixin, unittest.TestCase):
    all_model_classes = (MulTModel, MulTForMultiTaskDensePrediction)
    pipeline_model_mapping = {"multitask-vision": MulTForMultiTaskDensePrediction}
    model_tester_class = MulTModelTester
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True  # the file names no year; run the test all the same

    def setUp(self) -> None:
        self.model_tester = self.model_tester_class(self)
        self.config_tester = ConfigTester(self, MulTConfig, has_text_modality=False, mlp_ratio=2.0, initializer_range=0.03)

    def _prepare_for_class(self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False) -> dict[str, Any]:
        """Labels are one map per task, which no table of transformers describes."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is MulTForMultiTaskDensePrediction:
            inputs["labels"] = copy.deepcopy(self.model_tester.labels)
        return inputs

    def models_in_evaluation_mode(self, **settings: Any) -> list[nn.Module]:
        config = self.model_tester.get_config()
        for name, value in settings.items():
            setattr(config, name, value)
        return [model_class(copy.deepcopy(config)).eval() for model_class in self.all_model_classes]

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    @unittest.skip("MulT reads images: it has no token embeddings that could be passed instead")
    def test_inputs_embeds(self) -> None: ...

    @unittest.skip("for models that are marked as composite, with towers for images and for text")
    def test_sdpa_can_dispatch_composite_models(self) -> None: ...

    @unittest.skip("MulT saves weights under their names in memory, which other readers of the file need")
    def test_reverse_loading_mapping(self) -> None: ...

    def test_model_get_set_embeddings(self) -> None:
        """The input embedding is a convolution that embeds patches, not an `nn.Embedding`; as in Swin's tests."""
        for model in self.models_in_evaluation_mode():
            assert isinstance(model.get_input_embeddings(), nn.Conv2d)
            assert model.get_output_embeddings() is None

    def test_determinism(self) -> None:
        """The first output of the model with heads is a dictionary."""
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model in self.models_in_evaluation_mode():
            with torch.no_grad():
                first, second = tensors(model(**inputs)), tensors(model(**inputs))
            assert len(first) >= len(prepare.TASKS)
            for one, other in zip(first, second, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-5)

    def test_attention_outputs(self) -> None:
        """There is one map per shared block, (batch, windows, heads, tokens, tokens), and none per layer of a sequence."""
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for settings, arguments in (({"output_attentions": True}, {}), ({}, {"output_attentions": True})):
            for model in self.models_in_evaluation_mode(**settings):
                with torch.no_grad():
                    maps = model(**inputs, **arguments).attentions
                assert len(maps) == self.model_tester.shared_maps
                for attention in maps:
                    assert attention.ndim == 5
                    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))

    def test_hidden_states_output(self) -> None:
        """Hidden states are feature maps, one per stage of the encoder and of each task's decoder; as in UperNet's tests."""
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        sides = [SIZE // step for step in STEPS]
        for settings, arguments in (({"output_hidden_states": True}, {}), ({}, {"output_hidden_states": True})):
            for model in self.models_in_evaluation_mode(**settings):
                with torch.no_grad():
                    outputs = model(**inputs, **arguments)
                for maps in (outputs.hidden_states, *(outputs.task_hidden_states[task] for task in prepare.TASKS)):
                    assert [tuple(one.shape[2:]) for one in maps] == [(side, side) for side in sides]

    def test_retain_grad_hidden_states_attentions(self) -> None:
        """The first output of MulTModel is the coarsest map, which does not depend on the others; predictions do."""
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = MulTForMultiTaskDensePrediction(self.model_tester.get_config())
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
        maps = [*outputs.attentions, *tensors(outputs.task_hidden_states)]
        maps += outputs.hidden_states if self.model_tester.finer_maps_are_read else outputs.hidden_states[-1:]
        for tensor in maps:
            tensor.retain_grad()
        sum(prediction.square().sum() for prediction in outputs.predictions.values()).backward()
        assert [tuple(tensor.shape) for tensor in maps if tensor.grad is None] == []

    def test_training_gradient_checkpointing_use_reentrant_true(self) -> None:
        """Refused: reentrant checkpoints do not see tensors in dictionaries, and would lose most gradients."""
        model = MulTForMultiTaskDensePrediction(self.model_tester.get_config())
        with pytest.raises(ValueError, match="use_reentrant"):
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})

    def test_pipeline_multitask_vision(self) -> None:
        self.run_task_tests(task="multitask-vision")

    def test_pipeline_multitask_vision_bf16(self) -> None:
        self.run_task_tests(task="multitask-vision", dtype="bfloat16")


class MultiTaskVisionPipelineTests:
    """Tests that PipelineTesterMixin runs for the task `multitask-vision`."""

    def get_test_pipeline(self, model: Any, tokenizer: Any = None, image_processor: Any = None, dtype: str = "float32", **_: Any) -> Any:
        return pipeline("multitask-vision", model=model, image_processor=image_processor, dtype=dtype), [prepare.IMAGE]

    def run_pipeline_test(self, predict: Any, examples: list[str]) -> None:
        image = Image.open(examples[0]).convert("RGB")
        alone = predict(image)
        results = [predict(examples[0]), *predict([examples[0], image, image], batch_size=2)]
        for maps in (alone, *results):
            assert set(maps) == set(prepare.TASKS)
            for task, shape in prepare.TASKS.items():
                assert tuple(maps[task]["prediction"].shape) == (*shape, image.height, image.width)
                assert maps[task]["image"].size == image.size
        assert len(results) == 4


def tensors(value: Any) -> list[Tensor]:
    """All tensors of nested containers."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def further_kind(name: str, tester: dict[str, Any]) -> type:
    """A class that runs the tests on another kind of model, except those whose result cannot depend on the kind."""
    tester_class = type(f"MulT{name}ModelTester", (MulTModelTester,), tester)
    once = {test: None for test in dir(MulTModelTest) if prepare.ONCE.match(test)}
    return type(f"MulT{name}ModelTest", (MulTModelTest,), {"model_tester_class": tester_class, "__module__": __name__, **once})


MulTConvNextModelTest = further_kind(
    "ConvNext",
    {
        "backbone": lambda self: ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], out_features=prepare.STAGES),
        "options": lambda self: {"decoder_window_size": 4},
    },
)

if os.environ.get("MULT_HF_ALL_KINDS"):
    MulTSwinv2ModelTest = further_kind("Swinv2", {"backbone": lambda self: prepare.swin(Swinv2Config)})
    MulTPositionsModelTest = further_kind("Positions", {"backbone": lambda self: prepare.swin(SwinConfig, use_absolute_embeddings=True)})
    MulTTimmModelTest = further_kind(
        "Timm",
        {
            "backbone": lambda self: TimmBackboneConfig(backbone="test_convnext", out_indices=[0, 1]),
            "options": lambda self: {"decoder_window_size": 4},
        },
    )
    MulTReferenceModelTest = further_kind(
        "Reference",
        {"options": lambda self: {"block_attention": ["encoder+skip", "reference"], "reference_task": "segmentation"}, "shared_maps": 4},
    )
    MulTNoSharingModelTest = further_kind(
        "NoSharing", {"options": lambda self: {"block_attention": ["self", "self"]}, "shared_maps": 0, "finer_maps_are_read": False}
    )
    MulTUnetModelTest = further_kind("Unet", {"options": lambda self: {"decoder_type": "swin_unet"}, "shared_maps": 0})
    MulTSharedUnetModelTest = further_kind(
        "SharedUnet", {"options": lambda self: {"decoder_type": "swin_unet", "block_attention": ["self", "encoder"]}, "shared_maps": 1}
    )
    MulTMtanModelTest = further_kind("Mtan", {"options": lambda self: {"decoder_type": "mtan"}, "shared_maps": 0})
