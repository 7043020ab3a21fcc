"""Encoders small enough to build in every test."""

TINY_SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
