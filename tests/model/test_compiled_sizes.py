"""Proves that `torch.compile` takes images of several sizes: it compiles once per size, with numbers for height and width."""

import pytest
import torch

from support.models import SHALLOW_SWIN

SIZES = [(64, 64), (96, 64), (70, 133)]


@pytest.fixture
def graphs():
    """A backend that runs graphs as they are, and the sizes of the images of all graphs that it was given."""
    torch._dynamo.reset()
    sizes = []

    def backend(graph, inputs):
        tensors = [each for each in inputs if isinstance(each, torch.Tensor) and each.ndim == 4]
        sizes.extend(tuple(each.shape) for each in tensors if each.shape[1] == 3 and each.shape[-1] > 32)  # not the kernel of 4 x 4
        return graph.forward

    yield backend, sizes
    torch._dynamo.reset()


def images(*size, batch=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_a_compiled_model_has_one_graph_per_size_and_no_size_is_a_symbol(tiny_model, graphs):
    """With symbols for height and width, deriving the second graph takes many minutes."""
    backend, shapes = graphs
    model = tiny_model(backbone_config=SHALLOW_SWIN, tasks=["depth"])
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        for size in [*SIZES, *SIZES]:
            torch.testing.assert_close(compiled(images(*size)).predictions["depth"], model(images(*size)).predictions["depth"])
    assert [shape[-2:] for shape in shapes] == SIZES, "one graph per size, also when sizes come again"
    assert all(type(side) is int for shape in shapes for side in shape[-2:])


@pytest.mark.slow
def test_a_compiled_model_takes_every_batch_size_after_the_second_without_compiling_again(tiny_model, graphs):
    """The first graph has the batch size as a number, the second as a symbol: torch's default, which the model leaves alone."""
    backend, shapes = graphs
    model = tiny_model(backbone_config=SHALLOW_SWIN, tasks=["depth"])
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        for batch in (2, 3, 5, 4, 7):
            torch.testing.assert_close(
                compiled(images(64, 64, batch=batch)).predictions["depth"], model(images(64, 64, batch=batch)).predictions["depth"]
            )
    assert len(shapes) == 2
