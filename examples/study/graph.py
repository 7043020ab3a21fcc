"""The step of a stack as a CUDA graph: recorded once, replayed for every batch.

A step of a small stack consists of several thousand short operations, and starting them from Python takes longer than computing them. A
graph contains the same operations with the same arguments, so a replay computes the same numbers, but is started by one call. The
optimizer's step is not part of the graph, because its learning rate changes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .stack import Stack

WARM_UP = 3
"""Passes before the recording, in which libraries choose algorithms and allocate memory."""

TOLERANCE = 1e-3
"""Largest relative difference of the gradients, which are float32 sums in another order."""


class GraphedStep:
    """A step of a stack, with losses, gradients and clipping replayed from a CUDA graph.

    The recording does not change weights or optimizer. After it, only this object may take steps of the stack.

    Args:
        stack: a stack on a CUDA device.
        pixel_values: images of a batch, (networks, batch, 3, height, width); all later batches must have this shape.
        labels: labels of that batch by task.

    Raises:
        RuntimeError: if the replayed gradients are not those of [`Stack.backward`].
    """

    def __init__(self, stack: Stack, pixel_values: Tensor, labels: Mapping[str, Tensor]) -> None:
        self.stack = stack
        self.pixel_values = torch.empty_like(pixel_values)
        self.labels = {task: torch.empty_like(values) for task, values in labels.items()}
        batches = [(pixel_values, dict(labels)), (pixel_values.flip(1), {task: values.flip(1) for task, values in labels.items()})]
        # The second batch differs at every position, which reveals a graph that does not read its inputs.
        batches[1][0].mul_(0.5)
        expected = [self._gradients_outside(*batch) for batch in batches]
        self._record(*batches[0])
        for batch, gradients in zip(batches, expected):
            self._copy(*batch)
            self.graph.replay()
            self._check(gradients)

    def _gradients_outside(self, pixel_values: Tensor, labels: Mapping[str, Tensor]) -> list[Tensor]:
        """Clipped gradients without a graph, computed on another stream, as CUDA requires before a recording."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.stack.optimizer.zero_grad()
                self.stack.backward(pixel_values, labels)
                self.stack.clip()
            gradients = [vector.grad.clone() for vector in self._vectors()]
            self.stack.optimizer.zero_grad()
        torch.cuda.current_stream().wait_stream(stream)
        return gradients

    def _record(self, pixel_values: Tensor, labels: Mapping[str, Tensor]) -> None:
        """Record losses, gradients and clipping; later replays write the gradients to the same memory."""
        self._copy(pixel_values, labels)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = self.stack.backward(self.pixel_values, self.labels)
            self.stack.clip()

    def _vectors(self) -> list[torch.nn.Parameter]:
        return [vector for vectors in self.stack.vectors for vector in vectors]

    def _copy(self, pixel_values: Tensor, labels: Mapping[str, Tensor]) -> None:
        self.pixel_values.copy_(pixel_values)
        for task, values in labels.items():
            self.labels[task].copy_(values)

    def _check(self, expected: list[Tensor]) -> None:
        """Compare the gradients of a replay with expected ones."""
        pairs = list(zip(self._vectors(), expected))
        difference = torch.stack([(vector.grad - gradient).norm() for vector, gradient in pairs]).norm()
        relative = float(difference / torch.stack([gradient.norm() for gradient in expected]).norm())
        if not relative < TOLERANCE:
            raise RuntimeError(f"gradients of the CUDA graph differ by {relative:.2e} of their norm; allowed: {TOLERANCE}")

    def __call__(self, pixel_values: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One optimizer step of every network, like [`Stack.step`]; the next step overwrites the returned losses."""
        self._copy(pixel_values, labels)
        self.graph.replay()
        self.stack.update()
        return self.losses
