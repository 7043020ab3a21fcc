"""Maps that follow from a tilted surface, and filters at the border of an image; every number by hand."""

import numpy as np
import pytest

pytest.importorskip("skimage")

from mult_hf.data.derive import EDGES_SIGMA, edges2d, normals_from_depth, reshading

SIZE, FOCAL = (48, 64), 60.0


def unit(*vector):
    return np.asarray(vector, float) / np.linalg.norm(vector)


def points_of_plane(normal, distance):
    """Points (3, height, width) in camera axes at which the rays of the pixels meet the plane normal . p = -distance."""
    height, width = SIZE
    right, down = np.meshgrid((np.arange(width) + 0.5 - width / 2) / FOCAL, (np.arange(height) + 0.5 - height / 2) / FOCAL)
    rays = np.stack([right, -down, -np.ones(SIZE)])  # x right, y up, z towards the viewer
    return rays * (-distance / np.einsum("c,chw->hw", normal, rays))


@pytest.mark.parametrize("normal", [(0.5, 0, 1), (-0.5, 0, 1), (0, 0.6, 1), (0, -0.6, 1), (0.4, -0.3, 1)])
def test_the_reshading_of_a_tilted_plane_follows_from_its_points(normal):
    """Shade 2 * 0.8 * cos(theta) * 8 / (8 + r^2), with r and theta from the points themselves, the camera being the origin."""
    normal = unit(*normal)
    points = points_of_plane(normal, 2.0)
    squared = (points**2).sum(axis=0)
    cosine = -np.einsum("c,chw->hw", normal, points) / np.sqrt(squared)
    expected = (1.6 * cosine * 8 / (8 + squared)).clip(0, 1)
    assert expected.std() > 0.02, "premise: the shade differs from pixel to pixel"
    shade = reshading(-points[2], np.broadcast_to(normal[:, None, None], (3, *SIZE)), FOCAL)
    np.testing.assert_allclose(shade, expected, atol=1e-5)


@pytest.mark.parametrize(("normal", "brighter"), [((1, 0, 2), "left"), ((-1, 0, 2), "right"), ((0, 1, 2), "bottom"), ((0, -1, 2), "top")])
def test_a_surface_is_brightest_on_the_side_from_which_it_faces_the_camera(normal, brighter):
    """Of equal distance everywhere, so that the angle alone decides: a normal that points right faces a camera that is to its right."""
    normals = np.broadcast_to(unit(*normal)[:, None, None], (3, *SIZE))
    height, width = SIZE
    right, down = np.meshgrid((np.arange(width) + 0.5 - width / 2) / FOCAL, (np.arange(height) + 0.5 - height / 2) / FOCAL)
    shade = reshading(2 / np.sqrt(1 + right**2 + down**2), normals, FOCAL)
    middle = SIZE[0] // 2, SIZE[1] // 2
    half = {"left": shade[:, : middle[1]], "right": shade[:, middle[1] :], "top": shade[: middle[0]], "bottom": shade[middle[0] :]}
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[brighter]
    assert half[brighter].mean() > half[opposite].mean() + 0.05


@pytest.mark.parametrize("normal", [(0.5, 0, 1), (0, -0.6, 1), (-0.4, 0.3, 1)])
def test_reshading_of_depth_alone_is_that_of_its_own_normals(normal):
    """Both functions use one set of axes."""
    points = points_of_plane(unit(*normal), 2.0)
    depth = -points[2]
    exact = reshading(depth, np.broadcast_to(unit(*normal)[:, None, None], (3, *SIZE)), FOCAL)
    np.testing.assert_allclose(reshading(depth, normals_from_depth(depth, FOCAL), FOCAL), exact, atol=1e-4)


def normalised_gaussian(values):
    """A Gaussian of sigma `EDGES_SIGMA` over a row of numbers, which has nothing beyond its ends: a mean over what is there."""
    reach = round(4 * EDGES_SIGMA)  # where scipy truncates it
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-(steps**2) / (2 * EDGES_SIGMA**2))
    padded = np.pad(values, reach)
    there = np.pad(np.ones_like(values), reach)
    places = np.arange(len(values))[:, None] + steps + reach
    return (padded[places] @ weights) / (there[places] @ weights)


def test_edges_do_not_see_beyond_the_border_of_the_image():
    """A ramp towards the border: the smoothing there takes the mean of what the image has, neither mirrored nor filled with black."""
    ramp = np.zeros(512)
    ramp[:32] = np.arange(32, 0, -1) * 7 / 255
    image = np.broadcast_to(np.round(ramp * 255).astype(np.uint8)[None, :, None], (512, 512, 3))
    smooth = normalised_gaussian(ramp)
    expected = np.abs(smooth[2:] - smooth[:-2]) / np.sqrt(2)  # Sobel's magnitude of a map that changes along one axis
    found = edges2d(np.ascontiguousarray(image))[256, 1:-1]
    # Mirroring would change the values by 1 to 23 % in the first eight pixels; float32 leaves about 1e-6.
    np.testing.assert_allclose(found[:16], expected[:16], rtol=1e-3)


def test_edges_weigh_colours_by_their_brightness():
    """ITU-R 601: of equal steps in red, green and blue the edges are as 0.299 to 0.587 to 0.114."""
    strengths = []
    for channel in range(3):
        image = np.zeros((512, 512, 3), np.uint8)
        image[:, 256:, channel] = 200
        strengths.append(edges2d(image)[256].max())
    np.testing.assert_allclose(np.array(strengths) / sum(strengths), [0.299, 0.587, 0.114], rtol=1e-4)
