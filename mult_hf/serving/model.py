"""Load the model in a process that serves it."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mult_hf.data.cores import keep_freed_memory
from mult_hf.inference.loading import load_whole_model
from mult_hf.inference.predictor import predict

from .batching import Batcher, predict_together
from .settings import ServerSettings


def batched_model(settings: ServerSettings) -> Batcher:
    """Load the model, onto a GPU if there is one, as a batcher that predicts the images of several requests together."""
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    network = load_whole_model(settings.model).to("cuda" if torch.cuda.is_available() else "cpu")

    def predict_tasks(pixel_values: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        return predict(network, pixel_values.to(network.device), tasks=tasks)

    return Batcher(partial(predict_together, predict_tasks), settings.batch_size, settings.batch_wait)


__all__ = ["batched_model"]
