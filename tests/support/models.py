"""Encoders small enough to build in every test."""

from transformers import ConvNextConfig, MaskFormerSwinConfig, Swinv2Config, TimmBackboneConfig

TINY_SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [2, 1, 1, 1],  # the second block of the first stage shifts its windows
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}

# Two stages, for what costs time per block: tracing and compilation.
SHALLOW_SWIN = {**TINY_SWIN, "depths": [2, 1], "num_heads": [1, 2], "out_features": ["stage1", "stage2"]}

# One stage, where the time per block is seconds, and another test compiles two.
FLAT_SWIN = {**TINY_SWIN, "depths": [2], "num_heads": [1], "out_features": ["stage1"]}

BACKBONES = {
    "swinv2": Swinv2Config(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    ),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]),
    "maskformer-swin": MaskFormerSwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    ),
    "timm": TimmBackboneConfig(backbone="resnet18", use_pretrained_backbone=False, out_indices=[1, 2, 3, 4]),
}  # fmt: skip

SMALL_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2"],
}
"""An encoder with batch normalisation."""
