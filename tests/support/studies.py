"""Plans of studies small enough to train in a test."""

import yaml

TINY = {
    "decoder": "mult",
    "image_size": 32,
    "embed_dim": 8,
    "depths": [1, 1],
    "window_size": 4,
    "batch_size": 2,
    "warmup_steps": 1,
    "max_steps": 4,
}


def write_plan(path, dataset, networks, /, **changes):
    """Write a plan of tiny networks; `changes` replace whole keys."""
    content = {"base": {"dataset": str(dataset), **TINY}, "learning_rates": [1e-3, 4e-3], "seeds": [0, 1], "networks": networks}
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return path
