"""Views of a level: choice of viewpoint, image, and exact depth, normals and classes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mult_hf.data.synthetic.camera import GeometryMaps

from .engine import RESOLUTIONS, Frame, FrozenGame, Sprite
from .levels import LEVELS, read_level
from .raycasting import CLASS_IDS, CLASS_NAMES, UNKNOWN_CLASS, LevelCamera, LevelGeometry, cast_rays

METRES_PER_MAP_UNIT = 1 / 32
"""With this scale the player's eyes, 41 units high and stretched by 1.2, are at 1.54 m."""

SUPERSAMPLING = 3
"""Engine pixels per image pixel along each side; odd, so that one of them is in the centre."""

SMALLEST_SIZE, LARGEST_SIZE = 32, max(RESOLUTIONS) // SUPERSAMPLING

FIELDS_OF_VIEW = (75, 105)
"""Range of the engine's 4:3 field of view, in whole degrees; the square cut from it has 60 to 89 degrees."""

HIGHEST_UNKNOWN_SHARE = 0.01
"""Views with a larger share of unlabelled pixels are rejected."""

DARKEST_MEAN = 32
"""Lowest mean (of 255) after brightening; darker images are rejected, because nothing can be seen in them."""

ATTEMPTS_PER_VIEW = 60
"""Places tried per view before the level counts as exhausted."""

SPRITE_CLASSES = {
    "Monster": "monster",
    "Health": "item",
    "Armor": "item",
    "Ammo": "item",
    "Weapon": "item",
    "Key": "item",
    "Powerup": "item",
}
"""Class by ViZDoom's category of a thing; all other things (barrels, lamps, columns, trees, corpses) are decoration."""

HIGHEST_GAIN, BRIGHT_MEAN, LOWEST_EXPONENT = 3.0, 0.36, 0.6
"""Parameter of the exposure, see `brighten`. The engine's frames have a mean of about 0.14 of white, photographs about 0.4."""

# The engine's depth buffer, calibrated against ray casting: whole steps of about 7.1 map units, starting at about 17. On floors and
# ceilings they measure the depth, on walls the depth times tan(field of view / 2); not usable beyond 180 steps.
BUFFER_STEP, BUFFER_START, BUFFER_END = 7.1, 17.0, 180.0


@dataclass(frozen=True)
class View:
    """One rendered view; unknown pixels are NaN, or 255 in `classes`.

    Args:
        image: (size, size, 3) uint8 RGB, brightened.
        depth: (size, size) metres along the optical axis; unknown for sky.
        normals: (3, size, size) unit vectors: x right, y up, z towards the viewer; unknown for sky.
        classes: (size, size) uint8 ids of `raycasting.CLASS_NAMES`.
        camera: the pinhole camera of the square image.
    """

    image: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    classes: np.ndarray
    camera: LevelCamera


def check_size(size: int) -> None:
    """Reject image sizes that the engine cannot supersample.

    Raises:
        ValueError: unless `size` is even and within `SMALLEST_SIZE` and `LARGEST_SIZE`.
    """
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE or size % 2:
        raise ValueError(f"size {size} cannot be rendered; give an even number of pixels from {SMALLEST_SIZE} to {LARGEST_SIZE}")


def render_views(level: str, count: int, size: int, seed: int) -> Iterator[View]:
    """Render views of a level; equal arguments give equal views.

    Args:
        level: a name in `levels.LEVELS`.
        count: number of views. Fewer are rendered if `count * ATTEMPTS_PER_VIEW` attempts find too few (see `is_worth_a_view`).
        size: side of the square images in pixels.
        seed: determines, with the level, the places, headings and fields of view.

    Raises:
        ValueError: if the size is invalid.
    """
    check_size(size)
    random = np.random.default_rng([seed, LEVELS.index(level)])
    geometry, things = read_level(level)
    height = next(rows for rows in RESOLUTIONS if rows >= SUPERSAMPLING * size)
    rendered = 0
    with FrozenGame(level, height, seed) as game:
        for _ in range(count * ATTEMPTS_PER_VIEW):
            if rendered == count:
                return
            frame = _frame_somewhere(game, geometry, things, random)
            view = None if frame is None else compose_view(frame, geometry, size)
            if view is not None and view.image.mean() >= DARKEST_MEAN and is_worth_a_view(view.depth, view.classes):
                rendered += 1
                yield view


def is_worth_a_view(depth: np.ndarray, classes: np.ndarray) -> bool:
    """Whether a view shows enough: no wall close by, no dominant class, nothing right in front of the camera, few unknown pixels.

    Args:
        depth: (height, width) metres, NaN where unknown.
        classes: (height, width) uint8 ids, 255 where unknown.
    """
    shares = np.bincount(classes.ravel(), minlength=UNKNOWN_CLASS + 1) / classes.size
    far = np.where(np.isnan(depth), np.inf, depth)
    return bool(
        shares[UNKNOWN_CLASS] <= HIGHEST_UNKNOWN_SHARE
        and shares[: len(CLASS_NAMES)].max() <= 0.75
        and np.median(far) >= 3
        and (far < 1).mean() <= 0.05
        and far.min() >= 0.5
    )


def compose_view(frame: Frame, geometry: LevelGeometry, size: int) -> View:
    """Cut the square from a frame and combine its maps: the level from ray casting, sprites from the engine's labels.

    Pixels where ray casting disagrees with the engine's depth buffer become unknown. These are mostly fences and grates (textures
    with holes in an opening) and a few level-design tricks that ray casting does not model. Measured on outlines, the engine's
    rows are about half an engine pixel, or a sixth of an image pixel, away from the cast ones.

    Args:
        frame: the engine's frame.
        geometry: geometry of the level; the heights are taken from the frame.
        size: side of the square in pixels, at most a third of the frame's height.
    """
    camera = square_camera(frame, size)
    maps = cast_rays(replace(geometry, floors=frame.floors, ceilings=frame.ceilings), camera)
    wrong = ~agrees_with_depth_buffer(maps, _blocks(frame.depth_steps, size), frame.field_of_view)
    labels = _blocks(frame.labels, size)[:, SUPERSAMPLING // 2, :, SUPERSAMPLING // 2]
    depth, normals, classes = maps.depth.copy(), maps.normals.copy(), maps.classes.copy()
    depth[wrong], normals[:, wrong], classes[wrong] = np.nan, np.nan, UNKNOWN_CLASS
    for sprite in frame.sprites:
        where = labels == sprite.label
        depth[where] = (sprite.x - camera.x) * camera.forward[0] + (sprite.y - camera.y) * camera.forward[1]
        normals[:, where] = np.array([0.0, 0.0, 1.0])[:, None]
        classes[where] = sprite_class(sprite)
    image = _blocks(frame.image, size).mean(axis=(1, 3))
    return View(brighten(image), depth * METRES_PER_MAP_UNIT, normals, classes, camera)


def square_camera(frame: Frame, size: int) -> LevelCamera:
    """The camera of the square of `SUPERSAMPLING * size` engine pixels in the middle of a frame."""
    side_share = SUPERSAMPLING * size / frame.image.shape[1]
    half = np.arctan(np.tan(np.deg2rad(frame.field_of_view) / 2) * side_share)
    x, y, _ = frame.position
    return LevelCamera(float(x), float(y), frame.eye, frame.heading, float(np.rad2deg(2 * half)), size, size)


def agrees_with_depth_buffer(maps: GeometryMaps, depth_steps: np.ndarray, field_of_view: float) -> np.ndarray:
    """Where ray casting and the engine's depth buffer show the same surface.

    Args:
        maps: from ray casting, map units; sky has no depth and agrees with everything.
        depth_steps: (height, block, width, block) uint8, the block of engine pixels of each image pixel.
        field_of_view: of the engine's frame in degrees.

    Returns:
        `np.ndarray`: (height, width) bool: whether the depth is in the range of the pixel's block, with a tolerance of two steps
            and 6 %.
    """
    flat = np.isin(maps.classes, [CLASS_IDS[name] for name in ("floor", "liquid", "ceiling")])
    scaled = np.where(flat, maps.depth, maps.depth * np.tan(np.deg2rad(field_of_view) / 2))
    steps = np.clip((scaled - BUFFER_START) / BUFFER_STEP, 0, BUFFER_END)
    slack = 2 + 0.06 * steps
    nearest = np.minimum(depth_steps.min(axis=(1, 3)), BUFFER_END)
    farthest = np.minimum(depth_steps.max(axis=(1, 3)), BUFFER_END)
    return np.isnan(steps) | ((steps >= nearest - slack) & (steps <= farthest + slack))


def brighten(image: np.ndarray) -> np.ndarray:
    """Expose a dark frame as a camera would: a gain, then a gamma curve, both computed from the frame alone.

    The gain, at most `HIGHEST_GAIN`, maps the 99th percentile of the pixels' strongest channels to white. The exponent is
    log(`BRIGHT_MEAN`) / log(mean), which would map a uniform surface of that mean to `BRIGHT_MEAN`. It is limited to the range from
    `LOWEST_EXPONENT` to 1, so that night stays darker than day. A gamma curve alone would turn shadows into grey haze.

    Args:
        image: (height, width, 3) in [0, 255].

    Returns:
        `np.ndarray`: (height, width, 3) uint8.
    """
    level = np.asarray(image, np.float64) / 255
    white = max(float(np.percentile(level.max(axis=-1), 99)), 1 / 255)
    level = np.minimum(level * np.clip(1 / white, 1, HIGHEST_GAIN), 1)
    mean = np.clip(level.mean(), 1e-3, 1 - 1e-3)
    exponent = np.clip(np.log(BRIGHT_MEAN) / np.log(mean), LOWEST_EXPONENT, 1)
    return np.round(255 * level**exponent).astype(np.uint8)


def sprite_class(sprite: Sprite) -> int:
    """Class id of a sprite."""
    return CLASS_IDS[SPRITE_CLASSES.get(sprite.category, "decoration")]


def _frame_somewhere(game: FrozenGame, geometry: LevelGeometry, things: np.ndarray, random: np.random.Generator) -> Frame | None:
    """A frame from a random place, in the first heading that is worth a view; `None` if the place is unsuitable."""
    place = np.round(things[random.integers(len(things))] + random.uniform(-96, 96, 2)).astype(int)
    headings = random.uniform(0, 360) + 45 * random.permutation(8)
    field_of_view = int(random.integers(FIELDS_OF_VIEW[0], FIELDS_OF_VIEW[1] + 1))
    # The player picks up items within 36 units, which would change the level and flash the screen.
    if np.abs(things - place).max(axis=1).min() < 40 or not game.move_to(*map(int, place)):
        return None
    frame = game.look(headings[0], field_of_view)
    geometry = replace(geometry, floors=frame.floors, ceilings=frame.ceilings)
    for heading in headings % 360:
        preview = cast_rays(geometry, replace(square_camera(frame, 24), heading=float(heading)))
        if is_worth_a_view(preview.depth * METRES_PER_MAP_UNIT, preview.classes):
            return game.look(float(heading), field_of_view)
    return None


def _blocks(values: np.ndarray, size: int) -> np.ndarray:
    """The central square of a frame, as (size, SUPERSAMPLING, size, SUPERSAMPLING, ...)."""
    side = SUPERSAMPLING * size
    top, left = (values.shape[0] - side) // 2, (values.shape[1] - side) // 2
    square = values[top : top + side, left : left + side]
    return square.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, *values.shape[2:])
