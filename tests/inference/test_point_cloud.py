"""Proves that a point cloud matches depth and normals, and is read back from its file by another library."""

import json
import struct

import numpy as np
import pytest

from mult_hf.inference.point_cloud import MAX_TILT, Points, point_cloud, to_glb


def test_a_wall_at_two_metres_in_a_ninety_degree_view_is_four_metres_wide():
    points = point_cloud(np.full((10, 20), 2.0), np.zeros((10, 20, 3), np.uint8), field_of_view=90)
    assert points.corners.shape == (200, 4, 3)
    np.testing.assert_allclose(points.corners.min(axis=(0, 1)), (-2, -1, -2))
    np.testing.assert_allclose(points.corners.max(axis=(0, 1)), (2, 1, -2))


def test_rows_go_down_columns_to_the_right_and_corners_counter_clockwise():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 1] = 255  # top right
    points = point_cloud(np.ones((2, 2)), image, field_of_view=90)
    (white,) = points.corners[points.colors[:, 0] == 255]
    np.testing.assert_allclose(white, [(0, 1, -1), (0, 0, -1), (1, 0, -1), (1, 1, -1)], atol=1e-12)


def test_with_the_normals_of_a_tilted_plane_every_corner_lies_in_the_plane():
    normal, distance, size = np.array([0.6, 0.0, 0.8]), -2.0, 40  # the plane n p = distance
    step = (np.arange(size) + 0.5 - size / 2) / (size / 2)  # slopes of rays at 90 degrees
    depth = np.broadcast_to(distance / (normal[0] * step - normal[2]), (size, size))
    normals = np.broadcast_to(normal[:, None, None], (3, size, size))
    flat = point_cloud(depth, np.zeros((size, size, 3), np.uint8), 90).corners
    tilted = point_cloud(depth, np.zeros((size, size, 3), np.uint8), 90, normals).corners
    assert np.abs(flat @ normal - distance).max() > 0.01  # the premise: facing the camera they stick out
    steep = np.abs(tilted[..., 2] / depth.reshape(-1, 1) + 1) > MAX_TILT - 1e-9
    assert steep.mean() < 0.2
    np.testing.assert_allclose((tilted @ normal)[~steep], distance, atol=1e-9)


def test_a_corner_is_never_far_from_its_middle_even_with_invalid_normals():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(3, 8, 8))
    normals[:, 0, 0], normals[:, 1, 1], normals[:, 2, 2] = 0, np.nan, (1, 0, 0)
    corners = point_cloud(np.full((8, 8), 3.0), np.zeros((8, 8, 3), np.uint8), 60, normals).corners
    assert np.isfinite(corners).all()
    assert np.abs(corners[..., 2] + 3).max() <= 3 * MAX_TILT + 1e-9


def test_pixels_without_depth_give_no_points():
    depth = np.array([[1.0, np.nan], [0.0, 2.0]])
    assert len(point_cloud(depth, np.zeros((2, 2, 3), np.uint8), 60).corners) == 2


@pytest.mark.parametrize("size", [(7, 3), (100, 100), (1, 501), (333, 97)])
def test_there_are_never_more_points_than_allowed(size):
    points = point_cloud(np.ones(size), np.zeros((*size, 3), np.uint8), 60, max_points=500)
    assert 0 < len(points.corners) <= 500


def test_another_library_reads_the_same_squares_and_colours_from_the_file(tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="reads the file independently: pip install trimesh")
    image = np.random.default_rng(0).integers(0, 255, (3, 5, 3), np.uint8)
    points = point_cloud(np.full((3, 5), 2.0), image, 60)
    (tmp_path / "points.glb").write_bytes(to_glb(points))
    mesh = trimesh.load(tmp_path / "points.glb", process=False).to_geometry()
    np.testing.assert_allclose(mesh.vertices, points.corners.reshape(-1, 3), atol=1e-6)
    assert len(mesh.faces) == 2 * 15
    assert mesh.area == pytest.approx(np.prod(np.ptp(points.corners.reshape(-1, 3), axis=0)[:2]))  # the squares tile the wall


def test_vertex_colours_in_the_file_are_linear_as_gltf_requires():
    points = Points(np.zeros((1, 4, 3)), np.array([[255, 188, 0]], np.uint8))
    data = to_glb(points)
    (length,) = struct.unpack("<I", data[12:16])
    view = json.loads(data[20 : 20 + length])["bufferViews"][1]
    colors = np.frombuffer(data[28 + length + view["byteOffset"] :][: view["byteLength"]], "<u2").reshape(4, 4)
    np.testing.assert_allclose(colors / 65535, [(1, 0.5, 0, 1)] * 4, atol=0.005)  # half of white's light is 188 in sRGB
