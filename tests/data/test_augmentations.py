"""Proves that an augmented sample equals a rendering of the augmented view: flipped, cropped, magnified or rolled, by two renderers."""

import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import adjust_hue

from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.geometric import BEYOND_IMAGE, horizontal_flip, rotate_zoom_crop
from mult_hf.data.photometric import colour_jitter, gaussian_blur, gaussian_noise, jpeg_compressed, tone_curve, white_balance
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec, registered_tasks, resolve_tasks

TASKS = resolve_tasks(["segmentation", "depth", "normals", "reshading"])
SIZE, FOCAL = (96, 128), 90.0
# The room as seen from the camera: each row is a wall's inward normal and its distance from the camera.
WALLS = np.array([(1, 0, 0, 2), (-1, 0, 0, 1.5), (0, 1, 0, 1.2), (0, -1, 0, 1.1), (0, 0, 1, 4), (0, 0, -1, 1.0)])
YAW, PITCH = math.radians(25), math.radians(-12)
# `grid_sample` places a pixel in float32, in units of half the image: 128 pixels * 2^-24 * a few roundings is about 3e-5 pixels, and
# values in [0, 1] change by at most 1 per pixel.
GRID_ROUNDING = 1e-4
BALL, RADIUS = np.array([0.4, -0.3, -2.5]), 0.6


def turn(axis, radians):
    """Rotation matrix about x, y or z."""
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = math.cos(radians)
    matrix[second, first], matrix[first, second] = math.sin(radians), -math.sin(radians)
    return matrix


def render(size=SIZE, focal=FOCAL, principal_point=None, *, roll=0.0, mirror=1.0, scale=1.0):
    """Ray-cast a room with a ball: image, class, z-depth, camera-space normal and a shading that ignores `scale`.

    `roll` rotates the image counter-clockwise (degrees), `mirror=-1` mirrors the scene, `scale` enlarges the whole scene.
    """
    height, width = size
    x, y = principal_point or (width / 2, height / 2)
    right, down = np.meshgrid((np.arange(width) + 0.5 - x) / focal, (np.arange(height) + 0.5 - y) / focal)
    to_view = turn(2, math.radians(roll)) @ np.diag([mirror, 1, 1])  # from the axes of the plain camera
    rays = np.einsum("ij,jhw->ihw", to_view.T, np.stack([right, -down, -np.ones(size)]))
    inward = WALLS[:, :3] @ (turn(0, PITCH) @ turn(1, YAW)).T
    approach = -np.einsum("nc,chw->nhw", inward, rays)  # how fast each ray nears each wall
    distances = np.where(approach > 0, WALLS[:, 3, None, None] / np.where(approach > 0, approach, 1), np.inf)
    wall, depth = distances.argmin(0), distances.min(0)
    normals = np.moveaxis(inward[wall], -1, 0)
    square, across = (rays * rays).sum(0), np.einsum("c,chw->hw", BALL, rays)
    root = across**2 - square * (BALL @ BALL - RADIUS**2)
    ball = root > 0
    depth = np.where(ball, (across - np.sqrt(np.where(ball, root, 0))) / square, depth)
    points = rays * depth
    normals = np.where(ball, (points - BALL[:, None, None]) / RADIUS, normals)
    cosine = -(normals * rays).sum(0) / np.sqrt(square)
    image = 0.5 + 0.4 * np.sin(points * 3 + np.array([0, 1, 2])[:, None, None])
    return {
        "pixel_values": torch.from_numpy(image).float(),
        "labels": {
            "segmentation": torch.from_numpy(np.where(ball, len(WALLS), wall)),
            "depth": torch.from_numpy(depth * scale)[None].float(),
            "normals": torch.from_numpy(np.einsum("ij,jhw->ihw", to_view, normals)).float(),
            "reshading": torch.from_numpy(cosine)[None].float(),
        },
        "focal": focal,
        "principal_point": (x, y),
    }


def differences(found, expected):
    """Of each map, by pixel: relative depth, degrees, absolute values, whether the class differs. Unknown pixels are left out."""
    a, b = found["labels"], expected["labels"]
    known = (a["segmentation"] != IGNORE_INDEX) & a["depth"][0].isfinite() & a["normals"].isfinite().all(0) & a["reshading"][0].isfinite()
    cosine = (a["normals"] * b["normals"]).sum(0).clamp(-1, 1)
    maps = {
        "image": (found["pixel_values"] - expected["pixel_values"]).abs().amax(0),
        "segmentation": (a["segmentation"] != b["segmentation"]).float(),
        "depth": (a["depth"] / b["depth"] - 1).abs()[0],
        "normals": torch.rad2deg(torch.acos(cosine)),
        "reshading": (a["reshading"] - b["reshading"]).abs()[0],
    }
    return {name: values[known] for name, values in maps.items()}, known


def assert_same_view(found, expected):
    """A resampled label comes from at most half a pixel away, so it is nearly equal everywhere except along outlines."""
    assert found["focal"] == pytest.approx(expected["focal"])
    assert found["principal_point"] == pytest.approx(expected["principal_point"])
    by_map, known = differences(found, expected)
    assert known.float().mean() > 0.8
    for name, near in {"image": 0.03, "segmentation": 0, "depth": 0.02, "normals": 4, "reshading": 0.02}.items():
        assert by_map[name].median() <= near / 3, name
        assert (by_map[name] <= near).float().mean() > 0.93, name
    lengths = found["labels"]["normals"].norm(dim=0)[known]
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def assert_identical(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    torch.testing.assert_close(a["pixel_values"], b["pixel_values"], rtol=0, atol=tolerance)
    for name, values in a["labels"].items():
        torch.testing.assert_close(values, b["labels"][name], rtol=0, atol=tolerance, equal_nan=True)
    assert a.get("focal") == b.get("focal")
    assert a.get("principal_point") == b.get("principal_point")


def with_holes(sample):
    """The sample with a block unknown in every map, and the mask of it."""
    hole = torch.zeros(sample["pixel_values"].shape[-2:], dtype=torch.bool)
    hole[30:50, 20:60] = True
    unknown = {name: IGNORE_INDEX if TASKS[name].is_classification else math.nan for name in sample["labels"]}
    return {**sample, "labels": {name: torch.where(hole, unknown[name], values) for name, values in sample["labels"].items()}}, hole


VIEWS = {
    "crop": {"size": (64, 80), "corner": (30, 11)},
    "magnified crop": {"size": (96, 128), "zoom": 1.7, "corner": (60.5, 20.25)},
    "reduced": {"size": (60, 80), "zoom": 0.625},
    "rolled": {"size": (96, 128), "degrees": 8.0},
    "rolled the other way, magnified, cropped": {"size": (80, 80), "degrees": -11.0, "zoom": 1.3, "corner": (40, 30)},
}


@pytest.mark.parametrize("principal_point", [None, (50.0, 40.5)])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_window_of_the_labels_is_the_rendering_of_the_window(view, principal_point):
    """Zooming by z is a focal length times z in a scene made smaller by z: depth over z, the same directions."""
    zoom, (left, top) = view.get("zoom", 1.0), view.get("corner", (0, 0))
    original = render(principal_point=principal_point)
    x, y = original["principal_point"]
    expected = render(view["size"], FOCAL * zoom, (x * zoom - left, y * zoom - top), roll=view.get("degrees", 0.0), scale=1 / zoom)
    assert_same_view(rotate_zoom_crop(original, TASKS, **view), expected)


@pytest.mark.parametrize("principal_point", [None, (50.0, 40.5)])
def test_the_flipped_labels_are_the_rendering_of_the_mirrored_scene(principal_point):
    original = render(principal_point=principal_point)
    x, y = original["principal_point"]
    expected = render(principal_point=(SIZE[1] - x, y), mirror=-1)
    assert_identical(horizontal_flip(original, TASKS), expected, tolerance=1e-5)


@pytest.mark.parametrize("wrong", [{"zoom_exponent": 0.0}, {"rotated_channels": ()}])
def test_the_comparison_detects_values_that_do_not_match_the_view(wrong):
    """The premise of the tests above: with one declaration dropped they fail."""
    tasks = {name: TaskSpec.from_dict({**spec.to_dict(), **(wrong if not spec.is_classification else {})}) for name, spec in TASKS.items()}
    original = render()
    expected = render((96, 128), FOCAL * 1.3, (SIZE[1] / 2 * 1.3, SIZE[0] / 2 * 1.3), roll=8.0, scale=1 / 1.3)
    with pytest.raises(AssertionError):
        assert_same_view(rotate_zoom_crop(original, tasks, (96, 128), zoom=1.3, degrees=8.0), expected)


def test_flipping_twice_gives_the_sample_back():
    original, _ = with_holes(render(principal_point=(50.0, 40.5)))
    once = horizontal_flip(original, TASKS)
    assert not torch.equal(once["pixel_values"], original["pixel_values"])
    assert_identical(horizontal_flip(once, TASKS), original)


def test_a_whole_pixel_crop_copies_values():
    original, _ = with_holes(render())
    window = rotate_zoom_crop(original, TASKS, (40, 50), corner=(17, 23))
    for name, values in original["labels"].items():
        torch.testing.assert_close(window["labels"][name], values[..., 23:63, 17:67], rtol=0, atol=GRID_ROUNDING, equal_nan=True)
    torch.testing.assert_close(window["pixel_values"], original["pixel_values"][:, 23:63, 17:67], rtol=0, atol=GRID_ROUNDING)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("resample", ["nearest", "bilinear"])
def test_unknown_pixels_stay_unknown_and_do_not_affect_others(view, resample):
    """Known pixels around the hole have the constant 3, so a mean that used pixels of the hole would not be 3."""
    heat = TaskSpec(name="heat", kind="regression", channels=1, resample=resample)
    holed, hole = with_holes(render())
    holed["labels"] = {"segmentation": holed["labels"]["segmentation"], "heat": torch.where(hole, math.nan, 3.0)[None]}
    labels = rotate_zoom_crop(holed, {**TASKS, "heat": heat}, **view)["labels"]
    unknown = labels["segmentation"] == IGNORE_INDEX
    assert 0 < unknown.float().mean() < 1
    assert torch.equal(labels["heat"][0].isnan(), unknown)
    torch.testing.assert_close(labels["heat"][0, ~unknown], torch.full((int((~unknown).sum()),), 3.0))


def test_the_mean_next_to_an_unknown_pixel_is_over_the_known_ones():
    tasks = {"heat": TaskSpec(name="heat", kind="regression", channels=1, resample="bilinear")}
    sample = {"pixel_values": torch.zeros(3, 1, 4), "labels": {"heat": torch.tensor([[[1.0, 2.0, math.nan, 8.0]]])}}
    heat = rotate_zoom_crop(sample, tasks, (1, 8), zoom=2.0)["labels"]["heat"]
    # Row centres fall on the borders of a single row: positions .25, .75, ... in units of pixels.
    torch.testing.assert_close(heat[0, 0], torch.tensor([1, 1.25, 1.75, 2, math.nan, math.nan, 8, 8]), equal_nan=True)


def test_beyond_the_image_labels_are_unknown_and_the_colour_is_the_mean():
    window = rotate_zoom_crop(render(), TASKS, (96, 128), corner=(-20, 0))
    assert (window["labels"]["segmentation"][:, :20] == IGNORE_INDEX).all()
    assert (window["labels"]["segmentation"][:, 20:] != IGNORE_INDEX).all()
    for name in ("depth", "normals", "reshading"):
        assert window["labels"][name][..., :20].isnan().all()
        assert window["labels"][name][..., 20:].isfinite().all()
    torch.testing.assert_close(window["pixel_values"][:, 5, 5], torch.tensor(BEYOND_IMAGE))
    window = rotate_zoom_crop(render(), TASKS, (20, 20), corner=(500, 500))  # nothing of the image is left
    assert (window["labels"]["segmentation"] == IGNORE_INDEX).all()


def test_bilinear_vectors_stay_unit_vectors():
    tasks = {"normals": TaskSpec.from_dict({"name": "normals", "resample": "bilinear"})}
    sample = render()
    sample = {**sample, "labels": {"normals": sample["labels"]["normals"]}}
    lengths = rotate_zoom_crop(sample, tasks, (96, 128), zoom=1.5, degrees=7)["labels"]["normals"].norm(dim=0)
    torch.testing.assert_close(lengths[lengths.isfinite()], torch.ones(int(lengths.isfinite().sum())))


def test_the_same_generator_state_gives_the_same_view_without_changing_the_sample():
    augmentation = RandomAugmentation(tasks=TASKS, size=(64, 64), blur=2.0, noise=0.1, hue=0.1)
    sample = render()
    views = [augmentation(sample, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert_identical(views[0], views[1])
    assert not torch.equal(views[0]["pixel_values"], views[2]["pixel_values"])
    assert_identical(sample, render())


def test_without_a_generator_the_global_seed_determines_the_view():
    augmentation = RandomAugmentation(tasks=TASKS, noise=0.1)
    torch.manual_seed(5)
    first = augmentation(render())
    torch.manual_seed(5)
    assert_identical(augmentation(render()), first)


def test_a_random_view_with_all_changes_disabled_is_the_sample():
    still = RandomAugmentation(tasks=TASKS, flip=0, zoom=(1, 1), degrees=0, brightness=0, contrast=0, saturation=0, hue=0)
    sample = render()
    assert_identical(still(sample), sample, tolerance=GRID_ROUNDING)


def test_random_views_keep_normals_consistent_with_the_depth():
    """Whatever was drawn, focal length, principal point, depth and normals still describe the same surfaces."""
    pytest.importorskip("skimage")
    from mult_hf.data.derive import normals_from_depth

    # Nearest resampling makes small stairs in depth, from which normals cannot be derived.
    tasks = {**TASKS, "depth": TaskSpec.from_dict({"name": "depth", "resample": "bilinear"})}
    augmentation = RandomAugmentation(tasks=tasks, zoom=(0.8, 1.6), degrees=15)
    for seed in range(6):
        view = augmentation(render((192, 256), 180.0), torch.Generator().manual_seed(seed))
        derived = normals_from_depth(view["labels"]["depth"][0].numpy(), view["focal"], view["principal_point"])
        cosine = (derived * view["labels"]["normals"].numpy()).sum(0)
        assert np.nanmedian(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) < 1.5, seed


def test_an_unknown_task_is_augmented_according_to_its_entry():
    """Curvature (1/m) grows as the scene shrinks; the vector in channels 2 (right) and 0 (up) turns."""
    tasks = resolve_tasks(
        [
            {"name": "curvature", "kind": "regression", "channels": 1, "zoom_exponent": 1},
            {"name": "gradient", "kind": "regression", "channels": 3, "rotated_channels": [2, 0], "horizontal_flip_signs": [1, 1, -1]},
        ]
    )
    gradient = torch.tensor([0.0, 5.0, 1.0]).view(3, 1, 1).expand(3, 33, 33)
    sample = {"pixel_values": torch.rand(3, 33, 33), "labels": {"curvature": torch.full((1, 33, 33), 2.0), "gradient": gradient}}
    view = rotate_zoom_crop(sample, tasks, (33, 33), degrees=90, zoom=3.0, corner=(33, 33))
    assert view["labels"]["curvature"][0, 16, 16] == pytest.approx(6.0)
    assert view["labels"]["gradient"][:, 16, 16].tolist() == pytest.approx([1, 5, 0], abs=1e-6)  # right became up
    assert horizontal_flip(sample, tasks)["labels"]["gradient"][:, 0, 0].tolist() == [0, 5, -1]


def test_neutral_factors_change_nothing_and_others_have_their_effect():
    image = render()["pixel_values"]
    torch.testing.assert_close(colour_jitter(image), image)
    torch.testing.assert_close(colour_jitter(image, brightness=0.5), image * 0.5)
    grey = colour_jitter(image, saturation=0)
    torch.testing.assert_close(grey[0], grey[2])
    assert colour_jitter(image, contrast=0).std() < 1e-5
    assert not torch.allclose(colour_jitter(image, hue=0.2), image)


@pytest.mark.parametrize("hue", [-0.5, -0.08, 0.001, 0.08, 0.5])
def test_a_hue_shift_equals_torchvisions(hue):
    image = torch.rand((3, 24, 32), generator=torch.Generator().manual_seed(0))
    image[:, :3] = image[:1, :3]  # greys, among them black and white, and pixels with two equal channels
    image[:, 0, :16], image[:, 0, 16:] = 0, 1
    for row, (channel, other) in enumerate([(0, 1), (1, 2), (2, 0)], start=4):
        image[channel, row] = image[other, row]
    # The position on the colour circle is up to 6, so that its rounding is about 5e-7.
    torch.testing.assert_close(colour_jitter(image, hue=hue), adjust_hue(image, hue), rtol=0, atol=3e-6)


def test_white_balance_scales_red_and_blue_alone():
    image = torch.tensor([0.5, 0.4, 0.2]).view(3, 1, 1).expand(3, 4, 4)
    changed = white_balance(image, red=1.5, blue=0.5)
    assert changed[:, 0, 0].tolist() == pytest.approx([0.75, 0.4, 0.1])
    assert white_balance(image, red=3.0)[0].unique().item() == 1.0, "clipped, as on a sensor"
    assert torch.equal(white_balance(image), image)


def test_a_tone_curve_keeps_black_and_white():
    values = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 3).expand(3, 1, 3)
    assert tone_curve(values, 0.5)[0, 0].tolist() == pytest.approx([0, 0.5, 1])
    assert tone_curve(values, 2.0)[0, 0].tolist() == pytest.approx([0, 0.0625, 1])


def test_compression_loses_little_of_a_smooth_image_and_more_at_low_quality():
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert (jpeg_compressed(ramp, 90) - ramp).abs().max() < 0.02  # a few of 255 levels
    assert jpeg_compressed(ramp, 90).dtype == torch.float32
    losses = [(jpeg_compressed(noise, quality) - noise).abs().mean() for quality in (30, 90)]
    assert losses[0] > losses[1] > 0


def test_what_cameras_add_follows_the_generator_and_leaves_the_other_changes_alone():
    view = {"pixel_values": torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)), "labels": {"depth": torch.ones(1, 32, 32)}}
    plain = RandomAugmentation(tasks=TASKS)
    camera = RandomAugmentation(tasks=TASKS, white_balance=0.3, gamma=0.4, jpeg=1.0, noise=0.02, blur=1.0)
    first, second, other = (camera(view, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    assert not torch.allclose(first["pixel_values"], other["pixel_values"], atol=0.1)
    without = plain(view, torch.Generator().manual_seed(3))
    torch.testing.assert_close(first["labels"]["depth"], without["labels"]["depth"], equal_nan=True)
    assert not torch.allclose(first["pixel_values"], without["pixel_values"], atol=0.02)


def test_blur_keeps_the_mean_and_lowers_detail():
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    blurred = gaussian_blur(image, 2.0)
    assert blurred.mean() == pytest.approx(float(image.mean()), abs=0.01)
    assert blurred.std() < 0.3 * image.std()
    assert gaussian_blur(image, 0) is image
    assert gaussian_blur(torch.rand(3, 5, 5), 4.0).shape == (3, 5, 5)  # the kernel would be larger than the image


def test_an_image_is_blurred_in_proportion_to_its_reduction():
    """A white line, reduced to half: sigma is sqrt(2^2 - 1) / 2 pixels, and a new pixel is the mean of the two below it."""
    image = torch.zeros(3, 32, 32)
    image[..., 16] = 1
    line = rotate_zoom_crop({"pixel_values": image, "labels": {}}, TASKS, (16, 16), zoom=0.5)["pixel_values"][0, 8]
    weights = [math.exp(-(distance**2) / (2 * 0.75)) for distance in range(-3, 4)]  # the kernel reaches three sigma
    below, at, beside, two_beside = (weights[index] / sum(weights) for index in (2, 3, 4, 5))
    expected = {7: (below + weights[1] / sum(weights)) / 2, 8: (at + beside) / 2, 9: (two_beside + weights[6] / sum(weights)) / 2}
    for column, value in expected.items():
        assert line[column] == pytest.approx(value, abs=GRID_ROUNDING), column


def test_noise_has_the_given_spread_and_follows_the_generator():
    image = torch.full((3, 100, 100), 0.5)
    noisy = gaussian_noise(image, 0.05, torch.Generator().manual_seed(3))
    assert noisy.std() == pytest.approx(0.05, rel=0.05)
    assert torch.equal(noisy, gaussian_noise(image, 0.05, torch.Generator().manual_seed(3)))
    assert gaussian_noise(image, 5.0).max() == 1
    assert gaussian_noise(image, 0) is image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": torch.zeros(3, 96, 128, dtype=torch.uint8)}, "uint8"),
        ({"pixel_values": torch.zeros(96, 128, 3)}, "expected float"),
        ({"labels": {"depth": torch.zeros(1, 48, 64)}}, "'depth' has shape \\(1, 48, 64\\)"),
        ({"labels": {"depth": torch.zeros(96, 128)}}, "'depth' has shape"),
        ({"labels": {"segmentation": torch.zeros(96, 128)}}, "class ids"),
        ({"labels": {"segmentation": torch.zeros(96, 128, dtype=torch.int8)}}, "torch.int8; .* needs class ids as int64"),
        ({"labels": {"albedo": torch.zeros(3, 96, 128)}}, "'albedo', but tasks has no spec"),
    ],
)
@pytest.mark.parametrize("change_view", [horizontal_flip, lambda sample, tasks: rotate_zoom_crop(sample, tasks, (8, 8))])
def test_a_sample_with_mismatched_maps_is_refused(change, message, change_view):
    with pytest.raises(ValueError, match=message):
        change_view({**render(), **change}, TASKS)


def test_invalid_ranges_are_refused():
    for name, value in [("zoom", (0, 1)), ("zoom", (2, 1)), ("zoom", (1, math.inf)), ("noise", -1), ("hue", 0.7), ("blur", math.inf)]:
        with pytest.raises(ValueError, match=name):
            RandomAugmentation(tasks=TASKS, **{name: value})
    with pytest.raises(ValueError, match="positive"):
        rotate_zoom_crop(render(), TASKS, (8, 8), zoom=0)


def test_all_registered_tasks_go_through_together():
    tasks = registered_tasks()
    labels = {name: torch.from_numpy(spec.unknown_target(*SIZE)) for name, spec in tasks.items()}
    view = RandomAugmentation(tasks=tasks, size=(32, 40))({"pixel_values": torch.rand(3, *SIZE), "labels": labels, "name": "kept"})
    assert view["name"] == "kept"
    for name, spec in tasks.items():
        np.testing.assert_array_equal(view["labels"][name].numpy(), spec.unknown_target(32, 40))


# --- the same for a furnished room, rendered by the project's own renderer ---

IMAGE_MAPS = ("keypoints2d", "edges2d")  # follow from the colours, and so from the noise of the paths of light


@pytest.fixture(scope="module")
def furnished():
    """A room of the Rooms data set, a camera in it, and a function that renders one sample with all six maps."""
    pytest.importorskip("mitsuba")
    pytest.importorskip("mitsuba_oidn")
    from mult_hf.data.synthetic.rooms import layouts, rendering, samples, variants, viewpoints

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the slow variant
        variants.activate(*variants.choose_variant())

    def view(room, camera, size):
        scene = rendering.RoomScene(room)
        geometry, radiance = scene.geometry(camera, size), scene.colour(camera, size, samples=16, seed=0)
        rgb = np.round(255 * (radiance / (1 + radiance)) ** 0.45).astype(np.uint8)  # automatic exposure would differ between views
        labels = samples.view_targets(rgb, geometry, camera.focal_length(size))
        return {
            "pixel_values": torch.from_numpy(rgb).permute(2, 0, 1) / 255,
            "labels": {
                name: torch.from_numpy(values.astype(np.int64 if values.ndim == 2 else np.float32)) for name, values in labels.items()
            },
            "focal": camera.focal_length(size),
            "principal_point": (size / 2, size / 2),
        }

    room = layouts.build_room(4)
    return SimpleNamespace(
        room=room,
        camera=viewpoints.propose(room, np.random.default_rng(0)),
        tasks=resolve_tasks(samples.TASK_ENTRIES),
        view=view,
        original=view(room, viewpoints.propose(room, np.random.default_rng(0)), 64),
    )


# Mitsuba traces in float32, where a coordinate of up to 10 m is rounded by 1e-6 m, several times on the way. How much that changes
# depends on the CPU and on Mitsuba's variant. The depth of a surface seen at a grazing angle of 1 degree changes by 60 times as
# much; the normal on a rounded edge of a few millimetres' radius turns by 1e-6 / 1e-3 or more. Rays that pass an outline within the
# rounding meet something else altogether.
RAY_ROUNDING = 1e-3
SHARE_AT_OUTLINES = 0.005


def assert_same_geometry(found, expected):
    """Where pixel centres coincide, rays and the surfaces they hit are equal, except for rounding and pixels at outlines."""
    a, b = found["labels"], expected["labels"]
    differs = a["segmentation"] != b["segmentation"]
    for name in ("depth", "normals", "reshading"):
        differs = differs | ~torch.isclose(a[name], b[name], rtol=0, atol=RAY_ROUNDING, equal_nan=True).all(dim=0)
    assert differs.float().mean() <= SHARE_AT_OUTLINES, f"{int(differs.sum())} of {differs.numel()} pixels show something else"
    assert found["focal"] == pytest.approx(expected["focal"])
    assert found["principal_point"] == pytest.approx(expected["principal_point"])


def mean_difference(a, b):
    return (a - b).abs().mean().item()


@pytest.mark.slow
def test_a_flipped_room_is_the_rendering_of_the_mirrored_room(furnished):
    from mult_hf.data.synthetic.rooms.meshes import scaling

    mirror = np.array([-1.0, 1, 1])
    meshes = [part.mesh.transformed(scaling(*mirror)) for part in furnished.room.parts]
    meshes = [replace(mesh, faces=mesh.faces[:, ::-1]) for mesh in meshes]  # counter-clockwise again, or lamps would shine inwards
    room = replace(furnished.room, parts=[replace(part, mesh=mesh) for part, mesh in zip(furnished.room.parts, meshes, strict=True)])
    camera = replace(furnished.camera, position=furnished.camera.position * mirror, target=furnished.camera.target * mirror)

    flipped, expected = horizontal_flip(furnished.original, furnished.tasks), furnished.view(room, camera, 64)
    assert len(flipped["labels"]["segmentation"].unique()) >= 5, "there is something to see"
    assert_same_geometry(flipped, expected)
    unmirrored = {**flipped["labels"], "normals": furnished.original["labels"]["normals"].flip(-1)}
    with pytest.raises(AssertionError, match="show something else"):  # the premise
        assert_same_geometry({**flipped, "labels": unmirrored}, expected)
    assert mean_difference(flipped["pixel_values"], expected["pixel_values"]) < 0.02
    for name in IMAGE_MAPS:
        unflipped = mean_difference(furnished.original["labels"][name], expected["labels"][name])
        assert mean_difference(flipped["labels"][name], expected["labels"][name]) < unflipped / 3, name


@pytest.mark.slow
def test_a_central_crop_of_a_room_is_the_rendering_with_a_narrower_field_of_view(furnished):
    cropped = rotate_zoom_crop(furnished.original, furnished.tasks, (40, 40), corner=(12, 12))
    slope = math.tan(math.radians(furnished.camera.field_of_view / 2)) * 40 / 64
    expected = furnished.view(furnished.room, replace(furnished.camera, field_of_view=math.degrees(2 * math.atan(slope))), 40)
    assert_same_geometry(cropped, expected)
    assert mean_difference(cropped["pixel_values"], expected["pixel_values"]) < 0.02


@pytest.mark.slow
def test_a_magnified_crop_of_a_room_is_the_same_window_of_a_larger_film(furnished):
    """Magnified three times, every third pixel is one of the original; the others show the nearest one's map."""
    left, top = 66, 30
    window = rotate_zoom_crop(furnished.original, furnished.tasks, (60, 90), zoom=3.0, corner=(left, top))
    film = furnished.view(furnished.room, furnished.camera, 3 * 64)
    labels = {name: values[..., top : top + 60, left : left + 90] for name, values in film["labels"].items()}
    labels["depth"] = labels["depth"] / 3  # three times the focal length in a scene a third as large
    expected = {**film, "labels": labels, "principal_point": (96 - left, 96 - top)}
    assert_same_geometry(every_third(window), every_third(expected))
    assert (window["labels"]["segmentation"] == labels["segmentation"]).float().mean() > 0.9
    assert mean_difference(window["pixel_values"], film["pixel_values"][:, top : top + 60, left : left + 90]) < 0.03


def every_third(sample):
    """The pixels whose centres are also centres of the original."""
    return {**sample, "labels": {name: values[..., 1::3, 1::3] for name, values in sample["labels"].items()}}
