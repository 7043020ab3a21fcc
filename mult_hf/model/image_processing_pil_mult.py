"""The image processor on PIL and numpy; it also works where torchvision is missing or broken."""

from transformers.image_processing_backends import PilBackend

from .image_processing_base import MulTImageProcessorKwargs, MulTProcessingMixin


class MulTImageProcessorPil(MulTProcessingMixin, PilBackend):
    """Turn images and label maps into model inputs and targets, one image at a time on the CPU.

    Arguments as for [`MulTImageProcessor`]. If images are resized, its `pixel_values` differ from those of the
    torchvision processor by at most one of 255 grey levels.
    """


__all__ = ["MulTImageProcessorKwargs", "MulTImageProcessorPil"]
