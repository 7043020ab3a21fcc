"""Proves on inputs of any size that a prediction depends on its own image, and on nothing that is computed beside it."""

import copy
import itertools
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mult_hf import MulTForMultiTaskDensePrediction
from support.strategies import cases

NIGHTLY = os.environ.get("MULT_HF_PROFILE") == "nightly"

SIDES = st.integers(32, 60)
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
"""Sums of some hundred float32 products of order 1, in another order: batches of another size take another matrix kernel."""


@st.composite
def pixels(draw, batch=1):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return draw(st.sampled_from([1.0, 0.1, 5.0])) * torch.randn(batch, 3, draw(SIDES), draw(SIDES), generator=generator)


@torch.no_grad()
def predictions(model, pixel_values, tasks=None):
    return model(pixel_values, tasks=tasks).predictions


def assert_close(found, expected):
    for task, maps in found.items():
        torch.testing.assert_close(maps, expected[task], **TOLERANCE, msg=lambda text, task=task: f"{task}: {text}")


@cases(0.5)
@given(st.integers(2, 4).flatmap(lambda count: pixels(count)))
def test_an_image_in_a_batch_has_the_same_prediction_as_alone(model, batch):
    together = predictions(model, batch)
    for number in range(len(batch)):
        assert_close(predictions(model, batch[number : number + 1]), {task: maps[number : number + 1] for task, maps in together.items()})


ORDERS = [order for count in (1, 2, 3) for order in itertools.permutations(["segmentation", "depth", "normals"], count)]


@cases(0.5)
@given(pixels(), st.sampled_from(ORDERS))
def test_the_choice_and_order_of_tasks_does_not_change_predictions(model, pixel_values, order):
    some = predictions(model, pixel_values, order)
    assert list(some) == [task for task in model.task_names if task in order] or list(some) == list(order)
    assert set(some) == set(order)
    assert_close(some, predictions(model, pixel_values))


@cases(0.5)
@given(pixels())
def test_zeros_that_fill_up_the_last_patches_change_nothing(model, pixel_values):
    height, width = pixel_values.shape[-2:]
    padded_height, padded_width = model.mult.padded_size((height, width))
    padded = torch.nn.functional.pad(pixel_values, (0, padded_width - width, 0, padded_height - height))
    if padded.shape != pixel_values.shape:
        return_to_size = model.heads(model.mult(padded).task_features, (padded_height, padded_width), (height, width))
        assert_close(predictions(model, pixel_values), {task: maps.detach() for task, maps in return_to_size.items()})


@pytest.fixture(scope="module")
def eager(checkpoint):
    return MulTForMultiTaskDensePrediction.from_pretrained(checkpoint, attn_implementation="eager").eval()


@cases(0.5)
@given(pixels())
def test_both_ways_of_computing_attention_agree(model, eager, pixel_values):
    assert_close(predictions(eager, pixel_values), predictions(model, pixel_values))


@cases(0.5)
@given(pixels(), st.sampled_from([0.0, 0.4, 1.0]), st.integers(0, 1000), st.floats(-1e6, 1e6))
def test_other_channels_of_unknown_pixels_do_not_change_the_loss(model, pixel_values, share, seed, value):
    """The second channel of an unknown normal may hold any number; the loss is 0, and its gradient too, where nothing is known."""
    size = tuple(pixel_values.shape[-2:])
    generator = torch.Generator().manual_seed(seed)
    unknown = torch.rand(size, generator=generator) < share
    classes = torch.randint(0, 17, size, generator=generator).masked_fill(unknown, 255)[None]
    depth = (torch.rand(size, generator=generator) * 9 + 0.1).masked_fill(unknown, float("nan"))[None, None]
    normals = torch.randn(1, 3, *size, generator=generator)
    normals[:, 0] = normals[:, 0].masked_fill(unknown, float("nan"))
    other = normals.clone()
    other[:, 1] = other[:, 1].masked_fill(unknown, value)
    losses = [model(pixel_values, {"segmentation": classes, "depth": depth, "normals": maps}).loss for maps in (normals, other)]
    assert torch.isfinite(losses[0])
    torch.testing.assert_close(losses[0], losses[1])
    if unknown.all():
        assert losses[0] == 0


@pytest.fixture(scope="module")
def halves(model):
    return {dtype: copy.deepcopy(model).to(dtype) for dtype in (torch.float16, torch.bfloat16)}


@cases(0.5)
@given(pixels(), st.sampled_from([torch.float16, torch.bfloat16]), st.floats(1, 50))
def test_half_precision_stays_finite_at_fifty_times_the_usual_input(halves, pixel_values, dtype, factor):
    for task, maps in predictions(halves[dtype], factor * pixel_values).items():
        assert maps.isfinite().all(), task


@pytest.mark.skipif(not NIGHTLY, reason="compiles a graph per size: minutes")
@cases(0.01)
@given(pixels(2))
def test_a_compiled_and_an_exported_model_agree_with_the_model(model, pixel_values):
    torch._dynamo.reset()
    expected = predictions(model, pixel_values)
    with torch.no_grad():
        assert_close(torch.compile(model, backend="aot_eager")(pixel_values).predictions, expected)
        exported = torch.export.export(model, (pixel_values,), strict=False).module()
        assert_close(exported(pixel_values).predictions, expected)
