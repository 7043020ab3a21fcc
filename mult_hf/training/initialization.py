"""The model that a run starts from: a new one on a small Swin or on a pretrained encoder, or a trained one; and its image size."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers.models.swin.modeling_swin import SwinEmbeddings

from mult_hf.evaluation.compatibility import check_compatible
from mult_hf.model.configuration_mult import MulTConfig
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.tasks import TaskSpec

from .arguments import ModelArguments

DEFAULT_BLOCKS = {"mult": ["self+skip", "encoder+skip"]}
"""Blocks of a decoder stage per kind of decoder: the paper's, with the encoder's map in the values (docs/baselines.md)."""


def build_model(arguments: ModelArguments, specs: Mapping[str, TaskSpec], image_size: int) -> MulTForMultiTaskDensePrediction:
    """The model that the arguments name: a trained one, a new one on a pretrained encoder, or a new one on a new Swin.

    Args:
        arguments: of the model.
        specs: the task entries by name.
        image_size: side of the images in pixels, which a new Swin's position embeddings are made for.

    Raises:
        ValueError: if a trained model has a task of the same name with another meaning.
    """
    if arguments.model is not None:
        return load_trained(arguments.model, specs)
    decoder = {
        "tasks": list(specs.values()),
        "reference_task": arguments.reference_task,
        "decoder_type": arguments.decoder,
        "block_attention": arguments.block_attention or DEFAULT_BLOCKS.get(arguments.decoder),
        "drop_path_rate": arguments.drop_path_rate,
    }
    if arguments.backbone is not None:
        return MulTForMultiTaskDensePrediction.from_backbone(arguments.backbone, **decoder)
    swin = new_swin(
        arguments.embed_dim, arguments.depths, arguments.window_size, image_size, arguments.position_embeddings, arguments.drop_path_rate
    )
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, **decoder))
    init_sincos_position_embeddings(model)
    return model


def view_size(rows: Dataset, side: int | None = None) -> dict[str, int]:
    """Height and width of training images, as an image processor takes them.

    Args:
        rows: of the data set.
        side: of square images in pixels; by default height and width of the first row's image.

    Raises:
        ValueError: if there are no rows, or no column `image`.
    """
    if "image" not in rows.column_names or len(rows) == 0:
        raise ValueError(f"{len(rows)} rows with the columns {rows.column_names}; expected at least one row, and a column 'image'")
    width, height = rows[0]["image"].size
    return {"height": side or height, "width": side or width}


def init_sincos_position_embeddings(model: MulTForMultiTaskDensePrediction) -> None:
    """Initialize a new Swin's position embeddings, if it has any, with sines and cosines in place of zeros.

    From zeros, a small network trained with L1 on few images never learns which walls face left: as long as no feature separates
    left from right, the best weights of the head for the normals' x are zero, and as long as these are zero, no gradient makes
    features separate them. Sine-cosine embeddings (Vaswani et al., arXiv 1706.03762, section 3.5, along each axis) provide the
    column to every block from the first step. They are learnt from there on.
    """
    for embeddings in (module for module in model.modules() if isinstance(module, SwinEmbeddings)):
        if embeddings.position_embeddings is not None:
            with torch.no_grad():
                embeddings.position_embeddings.copy_(sincos_position_embedding(*embeddings.patch_grid, embeddings.config.embed_dim))


def sincos_position_embedding(height: int, width: int, channels: int) -> Tensor:
    """Sines and cosines of row and column, shape (1, height * width, channels), within [-1, 1].

    The longest period is twice the image, so that its cosine falls steadily from one side to the other; each further one is shorter
    by a factor of the square root of 2. A quarter of the channels each is sine and cosine of rows and columns; up to three left over
    are 0.
    """
    rates = torch.pi * 2 ** (torch.arange(channels // 4) / 2)
    rows, columns = (((torch.arange(side) + 0.5) / side)[:, None] * rates for side in (height, width))  # (side, channels / 4)
    rows, columns = rows[:, None].expand(height, width, -1), columns[None].expand(height, width, -1)
    found = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1)  # (height, width, channels)
    return nn.functional.pad(found, (0, channels - found.shape[-1])).flatten(0, 1)[None]


def new_swin(
    embed_dim: int, depths: Sequence[int], window_size: int, image_size: int, position_embeddings: bool, drop_path_rate: float
) -> dict[str, Any]:
    """The `backbone_config` of a new Swin for [`MulTConfig`], with one head per 24 channels of its first stage.

    Args:
        embed_dim: channels of the first stage.
        depths: blocks per stage.
        window_size: side of a window, in patches of 4 pixels.
        image_size: side in pixels of the images that position embeddings are made for.
        position_embeddings: few images are not enough to learn where floors and ceilings tend to be; these provide the position.
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
    """A trained model with the tasks of the data: tasks that it lacks are added, tasks that the data lacks are removed.

    Raises:
        ValueError: if a task of both has another meaning in the data: other classes, another unit, other axes.
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


__all__ = [
    "DEFAULT_BLOCKS",
    "build_model",
    "init_sincos_position_embeddings",
    "load_trained",
    "new_swin",
    "sincos_position_embedding",
    "view_size",
]
