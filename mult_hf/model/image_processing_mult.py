"""The image processor on torchvision: batched, on any device."""

from transformers.image_processing_backends import TorchvisionBackend

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


__all__ = ["MulTImageProcessor", "MulTImageProcessorKwargs"]
