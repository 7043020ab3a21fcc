"""Proves that derived maps have the values of their definitions on a plane, a sphere, a step edge and a blob."""

from statistics import NormalDist

import numpy as np
import pytest

pytest.importorskip("skimage")

from mult_hf.data.derive import (
    EDGES_GAIN,
    EDGES_SIGMA,
    KEYPOINTS_GAIN,
    edges2d,
    heat_map,
    keypoints2d,
    normals_from_depth,
    reshading,
)

SIZE, FOCAL = (48, 64), 60.0


def rays(size=SIZE, focal=FOCAL, principal_point=None):
    """Rays (3, height, width) in camera axes that go 1 metre forward, that is -1 along z."""
    height, width = size
    x, y = principal_point or (width / 2, height / 2)
    right, down = np.meshgrid((np.arange(width) + 0.5 - x) / focal, (np.arange(height) + 0.5 - y) / focal)
    return np.stack([right, -down, -np.ones(size)])


def plane(normal, distance, **camera):
    """Depth of the plane whose points p hold normal . p = -distance."""
    return -distance / np.einsum("c,chw->hw", normal, rays(**camera))


def sphere(centre, radius):
    """Depth and outward normals of a sphere, NaN where the ray misses it."""
    r, c = rays(), np.asarray(centre)[:, None, None]
    a, b = (r * r).sum(0), (r * c).sum(0)
    under_root = b**2 - a * ((c * c).sum() - radius**2)
    with np.errstate(invalid="ignore"):
        depth = (b - np.sqrt(under_root)) / a
    return depth, (r * depth - c) / radius


def unit(*vector):
    return np.asarray(vector) / np.linalg.norm(vector)


def angle(a, b):
    """Degrees between vectors along the first axis."""
    return np.degrees(np.arccos(np.clip((a * b).sum(0), -1, 1)))


def step_edge(size, low=50, high=200):
    """An image whose left half is dark and whose right half is bright."""
    image = np.full((*size, 3), low, np.uint8)
    image[:, size[1] // 2 :] = high
    return image


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.5, 0, 1), (0, 1, 0.8), (-0.6, 0.4, 1)])
@pytest.mark.parametrize("principal_point", [None, (20.0, 30.5)])
def test_the_normals_of_a_plane_are_exact(normal, principal_point):
    normal = unit(*normal)
    depth = plane(normal, 2.0, principal_point=principal_point)
    depth = np.where(depth > 0, depth, np.nan)  # unknown beyond the plane's horizon
    found = normals_from_depth(depth, FOCAL, principal_point)
    known = np.isfinite(found).all(0)
    assert known.sum() > 0.5 * known.size
    np.testing.assert_allclose(found[:, known], np.broadcast_to(normal[:, None], (3, known.sum())), atol=1e-5)


def test_the_normals_of_a_sphere_point_away_from_its_centre():
    depth, expected = sphere((0.2, -0.1, -3.0), 1.0)
    found = normals_from_depth(depth, FOCAL)
    facing = np.isfinite(depth) & (expected[2] > 0.5)  # nearer to the outline one pixel spans many degrees
    assert facing.sum() > 500
    assert angle(found, expected)[facing].max() < 5.0
    assert angle(found, expected)[facing].mean() < 1.0
    np.testing.assert_allclose(np.linalg.norm(found, axis=0)[np.isfinite(found[0])], 1, atol=1e-6)


def test_a_depth_step_is_not_blurred():
    depth = plane((0, 0, 1), 3.0)
    depth[:, 30:] = plane(unit(0.3, 0.1, 1), 1.5)[:, 30:]
    found = normals_from_depth(depth, FOCAL)
    assert angle(found, np.array([0, 0, 1])[:, None, None])[:, :30].max() < 0.5
    assert angle(found, unit(0.3, 0.1, 1)[:, None, None])[:, 30:].max() < 0.5


def test_a_crease_between_two_walls_is_not_blurred():
    left, right = unit(1, 0, 1.2), unit(-1, 0.1, 1)
    nearer = plane(left, 2.0) > plane(right, 2.0)
    depth = np.where(nearer, plane(right, 2.0), plane(left, 2.0))
    expected = np.where(nearer, right[:, None, None], left[:, None, None])
    assert 0.2 < nearer.mean() < 0.8
    assert (angle(normals_from_depth(depth, FOCAL), expected) < 1).mean() > 0.95


def test_rounding_depth_to_16_bits_does_not_turn_a_wall_towards_the_camera():
    normal = unit(0.05, 0, 1)
    rounded = np.round(plane(normal, 2.0) * 512) / 512
    assert np.unique(rounded[0]).size < SIZE[1]  # some neighbours share a value, so that one difference is 0
    mean = np.nanmean(normals_from_depth(rounded, FOCAL), axis=(1, 2))
    assert angle(mean / np.linalg.norm(mean), normal) < 0.3


def test_normals_are_unknown_only_where_depth_or_both_neighbours_are():
    depth = plane((0, 0, 1), 2.0)
    depth[5, 5] = np.nan
    depth[10, 10] = 0.0
    depth[20, [19, 21]] = np.nan
    unknown = np.isnan(normals_from_depth(depth, FOCAL)).all(0)
    assert {tuple(position) for position in np.argwhere(unknown)} == {(5, 5), (10, 10), (20, 19), (20, 20), (20, 21)}


def test_reshading_follows_the_inverse_square_and_the_cosine():
    depth = plane((0, 0, 1), 3.0, principal_point=(10.5, 20.5))
    shade = reshading(depth, np.broadcast_to(np.array([0, 0, 1.0])[:, None, None], (3, *SIZE)), FOCAL, (10.5, 20.5))
    assert shade[20, 10] == pytest.approx(1.6 * 8 / (8 + 3**2))  # straight ahead, 3 m
    cosine, distance = 1 / np.sqrt(1 + 0.5**2), 3 * np.sqrt(1 + 0.5**2)
    assert shade[20, 40] == pytest.approx(1.6 * cosine * 8 / (8 + distance**2))  # 30 of 60 pixels to the right
    assert shade.dtype == np.float32


# A pixel's ray goes 1 metre forward, `right` to the right and `down` downwards; at 2 m depth its squared length is 4 (1 + right^2 +
# down^2). The cosine is between the normal and the way back along the ray, (-right, down, 1).
TILTED = {
    "tilted left, right of the centre": ((-0.6, 0, 0.8), (1, 0), 1.4 / np.sqrt(2)),
    "tilted right, right of the centre": ((0.6, 0, 0.8), (1, 0), 0.2 / np.sqrt(2)),
    "tilted up, below the centre": ((0, 0.6, 0.8), (0, 1), 1.4 / np.sqrt(2)),
    "tilted down, below the centre": ((0, -0.6, 0.8), (0, 1), 0.2 / np.sqrt(2)),
    "tilted left and up, right of and below the centre": ((-2 / 3, 1 / 3, 2 / 3), (1, 1), 5 / 3 / np.sqrt(3)),
    "tilted right and down, right of and below the centre": ((1 / 3, -1 / 3, np.sqrt(7) / 3), (1, 1), (np.sqrt(7) - 2) / 3 / np.sqrt(3)),
}


@pytest.mark.parametrize(("normal", "slopes", "cosine"), TILTED.values(), ids=TILTED)
def test_reshading_of_a_tilted_surface_is_that_of_its_angle_to_the_ray(normal, slopes, cosine):
    right, down = slopes
    normals = np.broadcast_to(np.array(normal)[:, None, None], (3, 2, 2))
    shade = reshading(np.full((2, 2), 2.0), normals, focal=1.0, principal_point=(0.5, 0.5))  # one pixel is one unit of slope
    assert shade[down, right] == pytest.approx(1.6 * cosine * 8 / (8 + 4 * (1 + right**2 + down**2)), rel=1e-5)


@pytest.mark.parametrize("normal", [(0.5, 0, 1), (-0.5, 0, 1), (0, 0.5, 1), (0, -0.5, 1), (-0.3, 0.4, 1)])
def test_reshading_of_a_plane_falls_with_the_distance_from_its_foot(normal):
    """For a plane at distance d from the camera the cosine of a point at distance r is d / r."""
    normal = unit(*normal)
    depth = plane(normal, 2.0)
    assert (depth > 0).all()
    shade = reshading(depth, np.broadcast_to(normal[:, None, None], (3, *SIZE)), FOCAL)
    distance = depth * np.linalg.norm(rays(), axis=0)
    np.testing.assert_allclose(shade, np.minimum(1.6 * 2 / distance * 8 / (8 + distance**2), 1), rtol=1e-5)


@pytest.mark.parametrize("normal", [(0.5, 0, 1), (0, -0.6, 1), (-0.4, 0.3, 1)])
def test_reshading_of_depth_alone_is_that_of_its_own_normals(normal):
    """Both functions use the same axes."""
    depth = plane(unit(*normal), 2.0)
    exact = reshading(depth, np.broadcast_to(unit(*normal)[:, None, None], (3, *SIZE)), FOCAL)
    np.testing.assert_allclose(reshading(depth, normals_from_depth(depth, FOCAL), FOCAL), exact, atol=1e-4)


def test_reshading_saturates_near_the_light_and_is_black_where_a_surface_turns_away():
    normals = np.zeros((3, *SIZE))
    normals[2] = 1
    assert (reshading(plane((0, 0, 1), 0.1), normals, FOCAL)[20:28, 28:36] == 1).all()
    assert (reshading(plane((0, 0, 1), 0.1), -normals, FOCAL) == 0).all()


def test_reshading_is_unknown_where_depth_or_normal_is():
    depth, normals = plane((0, 0, 1), 2.0), np.zeros((3, *SIZE))
    normals[2] = 1
    depth[3, 4], normals[1, 7, 8] = np.nan, np.nan
    assert {tuple(position) for position in np.argwhere(np.isnan(reshading(depth, normals, FOCAL)))} == {(3, 4), (7, 8)}


def test_the_edge_of_a_step_has_the_slope_of_the_smoothed_step():
    """The filter is the difference of the two neighbours over sqrt(2); a step of height h smoothed by sigma is h Phi(x / sigma)."""
    magnitude = edges2d(step_edge((512, 512)))
    smoothed = NormalDist(0, EDGES_SIGMA).cdf  # pixel 256 lies half a pixel behind the step, its neighbours at -0.5 and 1.5
    expected = (150 / 255) * (smoothed(1.5) - smoothed(-0.5)) / np.sqrt(2)
    assert magnitude[256].max() == pytest.approx(expected, rel=0.01)
    assert abs(int(magnitude[256].argmax()) - 255.5) <= 0.5
    assert magnitude[:, :200].max() < 1e-6
    assert magnitude[:, 300:].max() < 1e-6
    np.testing.assert_allclose(magnitude[0], magnitude[256], atol=1e-5)  # the border looks like the middle


def test_the_smoothing_before_the_edge_filter_ignores_pixels_beyond_the_border():
    """A dark strip of 2 pixels at the left border: means over the pixels that exist, whose weights are those of the Gaussian."""
    image = np.full((512, 512, 3), 200, np.uint8)
    image[:, :2] = 50
    columns = np.arange(40)
    weights = np.exp(-((columns[:, None] - columns) ** 2) / (2 * EDGES_SIGMA**2))  # (at, from)
    weights[np.abs(columns[:, None] - columns) > 4 * EDGES_SIGMA] = 0  # scipy's Gaussian ends there
    smooth = weights @ np.where(columns < 2, 50, 200) / 255 / weights.sum(axis=1)
    expected = (smooth[2:20] - smooth[:18]) / np.sqrt(2)
    np.testing.assert_allclose(edges2d(image)[256, 1:19], expected, atol=1e-5)
    assert expected[0] > 0.03


def test_edges_weigh_colours_by_their_brightness():
    """ITU-R 601: of equal steps in red, green and blue the edges are as 0.299 to 0.587 to 0.114."""
    strengths = []
    for channel in range(3):
        image = np.zeros((512, 512, 3), np.uint8)
        image[:, 256:, channel] = 200
        strengths.append(edges2d(image)[256].max())
    np.testing.assert_allclose(np.array(strengths) / sum(strengths), [0.299, 0.587, 0.114], rtol=1e-4)


@pytest.mark.parametrize("size", [(128, 128), (256, 256), (1024, 1024), (128, 192)])
def test_edges_mean_the_same_at_every_size(size):
    full, other = edges2d(step_edge((512, 512))), edges2d(step_edge(size))
    assert other.shape == size
    sum_across = full[256].sum() / 512  # the area below the ridge, in shares of the shorter side
    assert other[size[0] // 2].sum() / min(size) == pytest.approx(sum_across, rel=0.03)


@pytest.mark.parametrize("side", [128, 256, 512, 1024])
def test_keypoints_are_on_a_blob_and_mean_the_same_at_every_size(side):
    image = np.zeros((side, side, 3), np.uint8)
    low, high = side // 2 - side // 32, side // 2 + side // 32
    image[low:high, low:high] = 255
    response = keypoints2d(image)
    assert response.shape == (side, side)
    row, column = np.unravel_index(response.argmax(), response.shape)
    assert abs(row - (side - 1) / 2) <= side / 64
    assert abs(column - (side - 1) / 2) <= side / 64
    reference = np.zeros((512, 512, 3), np.uint8)
    reference[240:272, 240:272] = 255
    assert response.max() == pytest.approx(keypoints2d(reference).max(), rel=0.05)


def test_keypoints_do_not_respond_to_a_straight_edge():
    blob = np.zeros((128, 128, 3), np.uint8)
    blob[60:68, 60:68] = 255
    edge = keypoints2d(step_edge((128, 128), 0, 255))[32:96]  # away from the border, where the edge ends
    assert edge.max() < 0.1 * keypoints2d(blob).max()


def test_a_heat_map_is_clipped_and_keeps_unknown_pixels():
    np.testing.assert_array_equal(heat_map(np.array([-1.0, 0.1, 0.25, 3.0, np.nan]), EDGES_GAIN), np.float32([0, 0.4, 1, 1, np.nan]))
    assert heat_map(np.array([0.01]), KEYPOINTS_GAIN)[0] == pytest.approx(0.2)


@pytest.mark.parametrize("derive", [edges2d, keypoints2d])
@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_other_arrays_than_rgb_images_are_refused_with_their_shape_and_type(derive, image):
    with pytest.raises(ValueError, match="expected uint8") as refusal:
        derive(image)
    assert str(image.shape) in str(refusal.value)
    assert str(image.dtype) in str(refusal.value)


def test_mismatched_geometry_is_refused():
    with pytest.raises(ValueError, match="expected \\(height, width\\)"):
        normals_from_depth(np.ones((1, 4, 4)), FOCAL)
    with pytest.raises(ValueError, match="not positive"):
        normals_from_depth(np.ones((4, 4)), 0.0)
    with pytest.raises(ValueError, match="normals have shape"):
        reshading(np.ones((4, 4)), np.ones((4, 4, 3)), FOCAL)
