"""Proves that accelerate, which reads weights by their names in memory, loads all weights of a saved model with any encoder."""

import pytest
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from safetensors.torch import load_file

from mult_hf import ROOMS_TINY_CHECKPOINT, MulTConfig, MulTForMultiTaskDensePrediction
from support.models import TINY_SWIN

SWIN_V2 = {**TINY_SWIN, "model_type": "swinv2", "image_size": 64}
CONVNEXT = {
    "model_type": "convnext",
    "hidden_sizes": [8, 16, 32, 64],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
PIXELS = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def dispatched(directory, **kwargs):
    with init_empty_weights():
        model = MulTForMultiTaskDensePrediction(MulTConfig.from_pretrained(directory))
    return load_checkpoint_and_dispatch(model, directory, device_map={"": "cpu"}, **kwargs).eval()


def assert_same_predictions(model, other):
    with torch.no_grad():
        predictions, expected = model(PIXELS).predictions, other(PIXELS).predictions
    for task, wanted in expected.items():
        torch.testing.assert_close(predictions[task], wanted)


@pytest.mark.parametrize("backbone", [TINY_SWIN, SWIN_V2, CONVNEXT], ids=lambda backbone: backbone["model_type"])
@pytest.mark.parametrize("max_shard_size", ["50GB", pytest.param("100KB", marks=pytest.mark.nightly)])
def test_dispatching_a_saved_model_loads_all_its_weights(tmp_path, backbone, max_shard_size):
    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(backbone), tasks=["depth", "normals"])).eval()
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) > (max_shard_size == "100KB"), "premise: shards where asked for"
    assert_same_predictions(dispatched(tmp_path), model)
    assert_same_predictions(MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).eval(), model)


def test_a_model_saved_under_transformers_names_is_read_too(tmp_path):
    """Checkpoints of earlier versions use the names of transformers' first releases."""
    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=["depth"])).eval()
    model.save_pretrained(tmp_path, save_original_format=True)
    assert "mult.backbone.encoder.layers.0.blocks.0.attention.self.query.weight" in load_file(tmp_path / "model.safetensors"), "premise"
    assert_same_predictions(MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).eval(), model)


def test_the_shipped_model_is_dispatched(tmp_path):
    model = MulTForMultiTaskDensePrediction.from_pretrained(ROOMS_TINY_CHECKPOINT).eval()
    assert_same_predictions(dispatched(ROOMS_TINY_CHECKPOINT, dtype=torch.float32), model)
