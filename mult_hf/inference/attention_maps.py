"""Attention of one pixel: the shared attention maps of a model's outputs, mapped back onto the image.

A map contains the attention between the tokens of a window. [`WindowGrid`] cuts the windows (padded, and shifted in every second
block), so it also reassembles them here.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mult_hf.model.decoder_mult import MulTDecoderBlock, WindowGrid
from mult_hf.model.modeling_mult import MulTDensePredictionOutput, MulTForMultiTaskDensePrediction


class PixelAttention(NamedTuple):
    """Attention weights of one pixel in one shared block; the same for all tasks, which differ only in their values.

    Args:
        weights: (rows, columns) weights of the image's tokens, at least 0. Their sum is 1 minus the attention to padding tokens.
        token: row and column of the pixel's token.
        stride: side of a token in pixels of the model's input.
        size: height and width of the model's input in pixels.
    """

    weights: Tensor
    token: tuple[int, int]
    stride: int
    size: tuple[int, int]

    def over_pixels(self) -> Tensor:
        """(height, width) weights at the size of the model's input: each pixel has the weight of its token."""
        rows, columns = (
            (torch.arange(side) // self.stride).clamp(max=tokens - 1) for side, tokens in zip(self.size, self.weights.shape, strict=True)
        )
        return self.weights[rows[:, None], columns]


def attention_of_token(attention: Tensor, grid: WindowGrid, token: tuple[int, int]) -> Tensor:
    """One token's row of an attention map, arranged on the grid of tokens.

    Args:
        attention: attention map of one image, (windows, heads, tokens, tokens); rows are queries.
        grid: the grid of windows.
        token: row and column of the token.

    Returns:
        `Tensor`: (heads, height, width); 0 outside the token's window.
    """
    marked = attention.new_zeros(1, grid.height, grid.width, 1)
    marked[0, token[0], token[1]] = 1
    # Only the window with the marked token returns its row; all other windows return zeros.
    looked_at = torch.einsum("whqk,wq->wkh", attention, grid.partition(marked)[0].squeeze(-1))
    return grid.merge(looked_at[None])[0].permute(2, 0, 1)


def attention_of_pixel(
    model: MulTForMultiTaskDensePrediction,
    outputs: MulTDensePredictionOutput,
    pixel: tuple[int, int],
    stage: int,
    *,
    block: int = 0,
    head: int | None = None,
    image: int = 0,
) -> PixelAttention:
    """Attention weights of a pixel in a shared block.

    Args:
        model: the model that computed the outputs; needed for the layout of its windows.
        outputs: outputs with `output_attentions=True` and `output_hidden_states=True`.
        pixel: row and column in the model's input.
        stage: stage of the decoders, counted from 1 (that of the encoder's coarsest map).
        block: index among the stage's shared blocks, from 0.
        head: index of a head; the mean over heads by default.
        image: index in the batch.

    Returns:
        [`PixelAttention`].

    Raises:
        ValueError: if the model shares no attention, the pixel, stage, block, head or image does not exist, the outputs lack
            attentions or hidden states, or the encoder's maps do not halve from stage to stage.
    """
    if not outputs.attentions or not outputs.hidden_states:
        _check_shared(model)
        raise ValueError(
            f"the outputs have {list(outputs)}, but attentions and hidden_states are needed; "
            "call the model with output_attentions=True, output_hidden_states=True"
        )
    number, shift = _find_block(model, stage, block)
    attention = outputs.attentions[number]
    encoder_map: Any = outputs.hidden_states[-stage]
    if not outputs.predictions:
        raise ValueError(
            f"the outputs have {list(outputs)} but no predictions, which give the size of the input; pass the unchanged outputs"
        )
    height, width = next(iter(outputs.predictions.values())).shape[-2:]
    size = (height, width)
    if not (0 <= pixel[0] < size[0] and 0 <= pixel[1] < size[1]):
        raise ValueError(f"pixel is {tuple(pixel)}, but the model's input has {size[0]} rows and {size[1]} columns, counted from 0")
    if not 0 <= image < len(attention):
        raise ValueError(f"image is {image}, but the batch has {len(attention)} images, counted from 0")
    if head is not None and not 0 <= head < attention.shape[2]:
        raise ValueError(f"head is {head}, but stage {stage} has {attention.shape[2]} heads, counted from 0")
    grid = WindowGrid(encoder_map.shape[-2], encoder_map.shape[-1], model.config.decoder_window, shift, attention.device)
    stride = _stride(model, grid, size, len(outputs.hidden_states) - stage)
    # If an encoder drops the remainder at the border, its last pixels have no token: use the nearest one.
    token = min(pixel[0] // stride, grid.height - 1), min(pixel[1] // stride, grid.width - 1)
    weights = attention_of_token(attention[image].detach().float(), grid, token)
    return PixelAttention((weights.mean(dim=0) if head is None else weights[head]).cpu(), token, stride, size)


def shared_blocks(model: MulTForMultiTaskDensePrediction) -> dict[int, list[MulTDecoderBlock]]:
    """The blocks that share their attention map, by stage from 1 (that of the coarsest map); stages without one are left out."""
    stages = getattr(model.mult.decoder, "stages", [])
    first = 1 + len(model.mult.backbone.channels) - len(stages)  # decoders may have no stage for the coarsest maps
    blocks = {
        number: [b for b in stage.modules() if isinstance(b, MulTDecoderBlock) and b.attention.kind.is_shared]
        for number, stage in enumerate(stages, start=first)
    }
    return {number: shared for number, shared in blocks.items() if shared}


def _check_shared(model: MulTForMultiTaskDensePrediction) -> dict[int, list[MulTDecoderBlock]]:
    blocks = shared_blocks(model)
    if not blocks:
        kinds = getattr(model.config, "block_attention", None)
        raise ValueError(
            f"this model shares no attention (decoder_type {model.config.decoder_type!r}, block_attention {kinds}); use one with an "
            "'encoder' or 'reference' block"
        )
    return blocks


def _find_block(model: MulTForMultiTaskDensePrediction, stage: int, block: int) -> tuple[int, int]:
    """A shared block's index among all shared blocks (the order of the attention maps), and its shift in tokens."""
    blocks = _check_shared(model)
    if stage not in blocks:
        raise ValueError(f"stage is {stage}; stages with a shared block, starting with the coarsest, are {list(blocks)}")
    if not 0 <= block < len(blocks[stage]):
        raise ValueError(f"block is {block}, but stage {stage} has {len(blocks[stage])} shared blocks, counted from 0")
    before = sum(len(shared) for number, shared in blocks.items() if number < stage)
    return before + block, blocks[stage][block].shift


def _stride(model: MulTForMultiTaskDensePrediction, grid: WindowGrid, size: tuple[int, int], halvings: int) -> int:
    """Side of a token in pixels, if the encoder's map starts with the patches and halves at each stage."""
    stride = model.mult.stride * 2**halvings
    if any(abs(side / stride - tokens) >= 1 for side, tokens in zip(size, (grid.height, grid.width))):
        raise ValueError(
            f"an encoder map has {grid.height} x {grid.width} tokens for {size[0]} x {size[1]} pixels; expected tokens of {stride} x "
            f"{stride} pixels, from an encoder whose maps start with the patches and halve at each stage"
        )
    return stride


__all__ = ["PixelAttention", "attention_of_pixel", "attention_of_token", "shared_blocks"]
