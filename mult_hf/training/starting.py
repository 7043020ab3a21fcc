"""The model that a run starts from: a new small Swin, or a trained model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.swin.modeling_swin import SwinEmbeddings

from mult_hf.evaluation.compatibility import check_compatible
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.tasks import TaskSpec


def init_sincos_position_embeddings(model: MulTForMultiTaskDensePrediction) -> None:
    """Let a new Swin's position embeddings, where it has them, start from waves along both axes in place of zeros.

    From zeros, a small network trained with L1 on few images never learns which walls face left: as long as no feature tells
    left from right, the head's best weights for the normals' x are zero, and as long as these are zero, nothing asks features
    for it. Waves (Vaswani et al., arXiv 1706.03762, section 3.5, along each axis) hand the column to every block from the first
    step. They are learnt from there on.
    """
    for embeddings in (module for module in model.modules() if isinstance(module, SwinEmbeddings)):
        if embeddings.position_embeddings is not None:
            with torch.no_grad():
                embeddings.position_embeddings.copy_(sincos_position_embedding(*embeddings.patch_grid, embeddings.config.embed_dim))


def sincos_position_embedding(height: int, width: int, channels: int) -> Tensor:
    """Sines and cosines of row and column, shape (1, height * width, channels), within [-1, 1].

    The longest wave is twice the image, so that its cosine falls steadily from one side to the other; each next one is shorter by
    the square root of 2. A quarter of the channels each is sine and cosine of rows and columns; up to three left over are 0.
    """
    rates = torch.pi * 2 ** (torch.arange(channels // 4) / 2)
    rows, columns = (((torch.arange(side) + 0.5) / side)[:, None] * rates for side in (height, width))
    rows, columns = rows[:, None].expand(height, width, -1), columns[None].expand(height, width, -1)
    found = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1)
    return nn.functional.pad(found, (0, channels - found.shape[-1])).flatten(0, 1)[None]


def new_swin(
    embed_dim: int, depths: Sequence[int], window_size: int, image_size: int, position_embeddings: bool, drop_path_rate: float
) -> dict[str, Any]:
    """The entry of a new Swin for [`MulTConfig`], with a head for every 24 channels of its first stage.

    Args:
        embed_dim: channels of the first stage.
        depths: blocks of each stage.
        window_size: side of a window, in patches of 4 pixels.
        image_size: side in pixels of the images that position embeddings are made for.
        position_embeddings: few images teach a network little about where floors and ceilings are wont to be; these tell it directly.
        drop_path_rate: stochastic depth.
    """
    stages = range(len(depths))
    return {
        "model_type": "swin",
        "embed_dim": embed_dim,
        "depths": [*depths],
        "num_heads": [max(1, embed_dim // 24) * 2**stage for stage in stages],
        "window_size": window_size,
        "drop_path_rate": drop_path_rate,
        "use_absolute_embeddings": position_embeddings,
        "image_size": image_size,
        "out_features": [f"stage{stage + 1}" for stage in stages],
    }


def load_trained(name_or_path: str, specs: Mapping[str, TaskSpec]) -> MulTForMultiTaskDensePrediction:
    """A trained model with the tasks of the data: those that it lacks are added, those that it has beyond them removed.

    Raises:
        ValueError: if a task of both means something else in the data: other classes, another unit, other axes.
    """
    model = MulTForMultiTaskDensePrediction.from_pretrained(name_or_path)
    for task, spec in specs.items():
        own = model.config.task_specs.get(task)
        if own is None:
            model.add_task(spec)
        else:
            check_compatible(own, spec)
    for task in set(model.task_names) - set(specs):
        model.remove_task(task)
    return model


__all__ = ["load_trained", "new_swin", "init_sincos_position_embeddings", "sincos_position_embedding"]
