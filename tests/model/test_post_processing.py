"""Proves that post-processed unit vectors have length 1 or are unknown."""

import pytest
import torch

from mult_hf import MulTImageProcessor


def finished(vectors, size):
    """`vectors` as rows of (x, y, z), side by side in one image, at another size."""
    prediction = torch.tensor(vectors, dtype=torch.float32).T[None, :, None, :]  # (batch, channels, height, width)
    (image,) = MulTImageProcessor(tasks=["normals"]).post_process({"normals": prediction}, [size])
    return image["normals"]["prediction"]


@pytest.mark.parametrize("width", [2, 3, 4, 5, 7, 64])
def test_where_opposite_vectors_cancel_out_one_of_them_is_used(width):
    vectors = finished([(1, 0, 0), (-1, 0, 0)], (3, width))
    torch.testing.assert_close(vectors.norm(dim=0), torch.ones(3, width))
    assert (vectors[0].abs() == 1).all(), "each is one of the two, not a direction of rounding errors"
    assert vectors[0, 0, 0] == 1
    assert vectors[0, 0, -1] == -1


@pytest.mark.parametrize("length", [1e-30, 1e-6, 0.5, 7.0, 1e30])
def test_vectors_of_any_length_become_unit_vectors(length):
    vectors = finished([(0, length, 0), (0, length, 0)], (2, 5))
    torch.testing.assert_close(vectors, torch.tensor([0.0, 1, 0]).view(3, 1, 1).expand(3, 2, 5))


@pytest.mark.parametrize("nothing", [(0, 0, 0), (float("nan"), 0, 0), (float("inf"), 0, 0)])
def test_a_vector_without_direction_is_unknown(nothing):
    assert finished([nothing, nothing], (1, 2)).isnan().all()
    assert finished([nothing, nothing], (2, 5)).isnan().all()


def test_without_resizing_an_unknown_vector_does_not_affect_its_neighbours():
    vectors = finished([(0, 0, 0), (0, 0, 2)], (1, 2))
    assert vectors[:, 0, 0].isnan().all()
    assert vectors[:, 0, 1].tolist() == [0, 0, 1]
