"""The network, and the code that is saved with a checkpoint: tasks, configuration, decoders, losses, image processors, pipeline.

`save_pretrained` copies these files next to the weights, so that `trust_remote_code=True` works where this package is not
installed. They import torch, torchvision, numpy, PIL, transformers and huggingface_hub, and each other as `from .x import y`.
"""
