"""The image processor on torchvision: batched, on any device."""

from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import PILImageResampling

from .image_processing_base import MulTImageProcessorKwargs, MulTProcessingMixin


class MulTImageProcessor(MulTProcessingMixin, TorchvisionBackend):
    """Turn images and stored label maps into model inputs and targets, and predictions into classes, metres and unit vectors.

    Args:
        size (dict[str, int]): of `pixel_values`, `{"height": 224, "width": 224}` by default; `{"shortest_edge": ...}` keeps the
            aspect ratio.
        tasks (list): names, [`TaskSpec`] objects or entries as dictionaries; the paper's six tasks by default. For a data set that stores
            labels in another form, pass entries with its own `encoding`.
        do_reduce_labels (bool): whether stored class maps have 0 for pixels without a class, see [`MulTImageProcessorKwargs`]; False by
            default.
        kwargs: as for every image processor of transformers (`do_resize`, `image_mean`, ...).
    """

    def resize(self, image: Tensor, size: Any, resample: Any = None, antialias: bool = True, **kwargs: Any) -> Tensor:
        """Resize images (..., 3, height, width), with one rounding to 8 bits, on every CPU and GPU.

        torchvision rounds twice, after each of the two axes and with coarse weights, where the CPU has AVX2, and once elsewhere.
        Pillow rounds twice, too: each of the two then differs from the exact value in its own direction.

        Raises:
            ValueError: on a filter that torchvision lacks.
        """
        if resample in (PILImageResampling.BOX, PILImageResampling.HAMMING):
            raise ValueError(f"resample is {resample!r}, which torchvision lacks; give BILINEAR or BICUBIC, or use MulTImageProcessorPil")
        if image.dtype != torch.uint8 or resample == PILImageResampling.LANCZOS:
            return super().resize(image, size, resample, antialias, **kwargs)
        # One image at a time, because floats take four times the memory.
        batch = image.reshape(-1, *image.shape[-3:])
        resized = [super(MulTImageProcessor, self).resize(each.float(), size, resample, antialias, **kwargs) for each in batch]
        exact = torch.stack([each.round_().clamp_(0, 255).to(torch.uint8) for each in resized])
        return exact.reshape(*image.shape[:-3], *exact.shape[-3:])


__all__ = ["MulTImageProcessor", "MulTImageProcessorKwargs"]
