"""Proves that a point cloud matches depth and normals, and is the same in its file, read without trimesh."""

import io
import json
import math
import struct
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from mult_hf.inference.point_cloud import MAX_TILT, point_cloud, to_glb

needs_trimesh = pytest.mark.skipif(find_spec("trimesh") is None, reason='writes a GLB file: pip install "mult-hf[demo]"')


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


def test_with_normals_of_a_tilted_plane_all_corners_are_in_the_plane():
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


def test_a_corner_whose_ray_misses_the_plane_recedes_instead_of_coming_closer():
    """The plane is seen at a grazing angle: the rays of the right corners pass beyond its horizon, where it is infinitely far."""
    height, width = 48, 64
    depth = np.full((height, width), np.nan)
    depth[24, 32] = 2.0
    normal = np.array([1.0, 0.0, 0.018]) / np.hypot(1.0, 0.018)  # n r is -0.009 in the middle and changes sign 0.5 pixels to the right
    (corners,) = point_cloud(
        depth, np.zeros((height, width, 3), np.uint8), 60, np.broadcast_to(normal[:, None, None], (3, height, width))
    ).corners
    middle = (32.5 - 32) / (32 / np.tan(np.radians(30))) * normal[0] - normal[2]
    right = (33.0 - 32) / (32 / np.tan(np.radians(30))) * normal[0] - normal[2]
    assert middle < 0 < right, "premise"
    np.testing.assert_allclose(-corners[:, 2], np.array([2, 2, 2, 2]) * (1 + MAX_TILT * np.array([-1, -1, 1, 1])))


def test_pixels_without_depth_give_no_points():
    depth = np.array([[1.0, np.nan], [0.0, 2.0]])
    assert len(point_cloud(depth, np.zeros((2, 2, 3), np.uint8), 60).corners) == 2


@pytest.mark.parametrize("size", [(7, 3), (100, 100), (1, 501), (333, 97)])
def test_there_are_never_more_points_than_allowed(size):
    points = point_cloud(np.ones(size), np.zeros((*size, 3), np.uint8), 60, max_points=500)
    assert 0 < len(points.corners) <= 500


def read_glb(data):
    """A glTF file by the words of its specification: its scene, and the arrays and the texture of its only mesh."""
    magic, version, length, json_length, json_kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, json_kind) == (b"glTF", 2, len(data), b"JSON")
    scene = json.loads(data[20 : 20 + json_length])
    binary_length, binary_kind = struct.unpack("<I4s", data[20 + json_length : 28 + json_length])
    assert binary_kind == b"BIN\0"
    binary = data[28 + json_length :][:binary_length]

    def view(number):
        entry = scene["bufferViews"][number]
        return binary[entry.get("byteOffset", 0) :][: entry["byteLength"]]

    def array(number, dtype):
        entry = scene["accessors"][number]
        return np.frombuffer(view(entry["bufferView"])[entry.get("byteOffset", 0) :], dtype).reshape(entry["count"], -1)

    ((primitive,),) = (mesh["primitives"] for mesh in scene["meshes"])
    corners, places = (array(primitive["attributes"][name], "<f4") for name in ("POSITION", "TEXCOORD_0"))
    triangles = array(primitive["indices"], "<u4").reshape(-1, 3)
    texture = np.asarray(Image.open(io.BytesIO(view(scene["images"][0]["bufferView"]))).convert("RGB"))
    return scene, corners, triangles, places, texture


@needs_trimesh
def test_the_file_contains_the_same_squares_counter_clockwise_at_the_same_positions():
    points = point_cloud(np.full((3, 5), 2.0), np.zeros((3, 5, 3), np.uint8), 60)
    scene, corners, triangles, _, _ = read_glb(to_glb(points))
    np.testing.assert_allclose(corners, points.corners.reshape(-1, 3), atol=1e-6)
    assert not [node for node in scene["nodes"] if {"matrix", "rotation", "scale", "translation"} & node.keys()], "nothing moves them"
    first, second, third = corners[triangles].transpose(1, 0, 2)  # each (triangles, 3)
    crossed = np.cross(second - first, third - first)
    assert (crossed[:, 2] > 0).all(), "their front is where the camera is"
    area = np.prod(np.ptp(points.corners.reshape(-1, 3), axis=0)[:2])
    assert np.linalg.norm(crossed, axis=1).sum() / 2 == pytest.approx(area), "the squares tile the wall"


@needs_trimesh
@pytest.mark.parametrize("size", [(3, 5), (4, 4)])  # the texture has room to spare, and none
def test_every_corner_of_a_square_shows_the_middle_of_a_texture_pixel_of_its_colour(size):
    """In glTF textures are sRGB, and their first pixel is at (0, 0)."""
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    points = point_cloud(np.full(size, 2.0), image, 60)
    scene, _, _, places, texture = read_glb(to_glb(points))
    height, width = texture.shape[:2]
    columns, rows = (places * (width, height)).T
    np.testing.assert_allclose(columns % 1, 0.5, atol=1e-4)
    np.testing.assert_allclose(rows % 1, 0.5, atol=1e-4)
    np.testing.assert_array_equal(texture[rows.astype(int), columns.astype(int)], points.colors.repeat(4, axis=0))
    (material,) = scene["materials"]
    assert material["extensions"] == {"KHR_materials_unlit": {}}
    assert material["doubleSided"]
    assert scene["extensionsUsed"] == ["KHR_materials_unlit"]


def test_without_trimesh_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    points = point_cloud(np.ones((2, 2)), np.zeros((2, 2, 3), np.uint8), 60)
    with pytest.raises(ImportError, match=r'pip install "mult-hf\[demo\]"'):
        to_glb(points)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((16, 16, 3), np.uint8)}, r"image has the shape \(16, 16, 3\); with depth of \(8, 8\), give \(8, 8, 3\)"),
        ({"image": np.zeros((8, 8), np.uint8)}, r"image has the shape \(8, 8\)"),
        ({"normals": np.zeros((3, 16, 16))}, r"normals have the shape \(3, 16, 16\); with depth of \(8, 8\), give \(3, 8, 8\)"),
        ({"field_of_view": 180}, "field_of_view is 180; give degrees between 0 and 180"),
        ({"field_of_view": 0}, "field_of_view is 0"),
        ({"field_of_view": math.nan}, "field_of_view is nan"),
        ({"max_points": 0}, "max_points is 0; it must be at least 1"),
    ],
)
def test_arguments_that_give_wrong_points_are_refused(changes, message):
    arguments = {"depth": np.ones((8, 8)), "image": np.zeros((8, 8, 3), np.uint8), "field_of_view": 60}
    with pytest.raises(ValueError, match=message):
        point_cloud(**{**arguments, **changes})


def test_a_cloud_without_points_is_refused_by_name():
    nothing = point_cloud(np.full((8, 8), np.nan), np.zeros((8, 8, 3), np.uint8), 60)
    with pytest.raises(ValueError, match="the point cloud is empty, as of a depth map without known pixels"):
        to_glb(nothing)
