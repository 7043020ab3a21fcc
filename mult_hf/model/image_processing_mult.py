"""The image processor on torchvision: as the PIL one, batched and on any device."""

from transformers.image_processing_backends import TorchvisionBackend

from .image_processing_pil_mult import MulTProcessingMixin


class MulTImageProcessor(MulTProcessingMixin, TorchvisionBackend):
    """Photos and stored label maps to model inputs and targets, and predictions back to classes, metres and unit vectors.

    Args:
        size (dict[str, int]): of `pixel_values`, `{"height": 224, "width": 224}` by default; `{"shortest_edge": ...}` keeps the
            aspect ratio.
        tasks (list): names, [`TaskSpec`] objects or plain entries; the six tasks of the paper by default. A data set that stores
            its labels differently gives entries with its own `encoding`.
        kwargs: as for every image processor of transformers (`do_resize`, `image_mean`, ...).
    """


__all__ = ["MulTImageProcessor"]
