"""Exact depth, normals and classes of a Doom level: one vertical plane of rays per image column, traced from line to line.

A Doom level is flat: sectors are polygons with a floor and a ceiling height, and lines separate them. All pixels of a column
have the same path over the map, so a column needs the lines that it crosses, in order of distance. At each crossing, every pixel
of the column has either hit the floor or ceiling before the line, or hits the step at the line, or passes through.

Lengths are in map units; the player is 56 units tall. The engine stretches heights by `VERTICAL_STRETCH`, because pixels of the
original game were taller than wide. This equals a level with stretched heights seen by a camera with square pixels. The maps
describe the stretched level, so pinhole formulas hold with a single focal length.
"""

from dataclasses import dataclass

import numpy as np

from mult_hf.data.synthetic.camera import GeometryMaps, focal_length

VERTICAL_STRETCH = 1.2
"""Ratio of drawn height to drawn width of a square in the level."""

CLASS_NAMES = ("wall", "floor", "ceiling", "sky", "door", "liquid", "switch", "monster", "item", "decoration")
"""Classes of the domain, in order of their ids; the last three are sprites and come from the engine's labels buffer."""

CLASS_IDS = {name: number for number, name in enumerate(CLASS_NAMES)}

UNKNOWN_CLASS = 255

NO_SECTOR = -1
"""Sector number for the outer side of a one-sided line."""


@dataclass(frozen=True)
class LevelGeometry:
    """Lines and sectors of a level, as arrays.

    Args:
        starts: (lines, 2) first vertex (x east, y north) of each line, map units.
        ends: (lines, 2) second vertex.
        front: (lines,) index of the sector to the right of the line, seen from its start.
        back: (lines,) index of the sector to its left, `NO_SECTOR` if the line is a solid wall.
        floors: (sectors,) floor heights.
        ceilings: (sectors,) ceiling heights.
        line_classes: (lines,) class id of the wall parts of each line.
        floor_classes: (sectors,) class id of each floor.
        ceiling_classes: (sectors,) class id of each ceiling.
        door_sectors: (sectors,) whether the sector is a door; the part that closes it from above has class "door".
    """

    starts: np.ndarray
    ends: np.ndarray
    front: np.ndarray
    back: np.ndarray
    floors: np.ndarray
    ceilings: np.ndarray
    line_classes: np.ndarray
    floor_classes: np.ndarray
    ceiling_classes: np.ndarray
    door_sectors: np.ndarray


@dataclass(frozen=True)
class LevelCamera:
    """A camera with a horizontal viewing direction.

    Args:
        x: position to the east, map units.
        y: position to the north.
        z: height of the eye.
        heading: degrees from east, counter-clockwise.
        field_of_view: horizontal, degrees.
        width: pixels.
        height: pixels.
    """

    x: float
    y: float
    z: float
    heading: float
    field_of_view: float
    width: int
    height: int

    @property
    def focal(self) -> float:
        """Focal length in pixels; pixels are square in the stretched level (see the module's docstring)."""
        return focal_length(self.field_of_view, self.width)

    @property
    def forward(self) -> np.ndarray:
        """(2,) unit vector of the viewing direction on the map."""
        return np.array([np.cos(np.deg2rad(self.heading)), np.sin(np.deg2rad(self.heading))])

    @property
    def right(self) -> np.ndarray:
        """(2,) unit vector to the camera's right on the map."""
        return np.array([self.forward[1], -self.forward[0]])

    def column_slopes(self) -> np.ndarray:
        """(width,) slope of the ray through each column's pixel centres: map units to the right per map unit of depth."""
        return (np.arange(self.width) + 0.5 - self.width / 2) / self.focal

    def row_slopes(self) -> np.ndarray:
        """(height,) slope of the ray through each row's pixel centres: unstretched map units upwards per map unit of depth."""
        return (self.height / 2 - 0.5 - np.arange(self.height)) / (self.focal * VERTICAL_STRETCH)


def cast_rays(level: LevelGeometry, camera: LevelCamera) -> GeometryMaps:
    """Cast one ray per pixel through a level.

    Args:
        level: the level. Pixels whose rays leave it stay unknown, which happens if its lines do not enclose the camera.
        camera: position, direction and image size.

    Returns:
        `GeometryMaps`: at every pixel centre, depth in map units and normals, both NaN for sky and where nothing was hit, and ids
            of `CLASS_NAMES`, `UNKNOWN_CLASS` where nothing was hit.

    Raises:
        ValueError: if the image has no pixels or the field of view is invalid.
    """
    if camera.width < 1 or camera.height < 1:
        raise ValueError(f"the image is {camera.height} x {camera.width} pixels; give at least 1 x 1")
    if not 0 < camera.field_of_view < 180:
        raise ValueError(f"field of view {camera.field_of_view} is invalid; give degrees between 0 and 180")
    canvas = _Canvas(camera.height, camera.width)
    for crossed, reach in zip(*_crossings(level, camera)):
        if not canvas.open.any():
            break
        _paint_crossing(canvas, level, camera, crossed, reach)
    return GeometryMaps(canvas.depth, canvas.normals, canvas.classes)


class _Canvas:
    """Maps under construction; each pixel keeps the first surface painted on it."""

    def __init__(self, height: int, width: int) -> None:
        self.depth = np.full((height, width), np.nan)
        self.normals = np.full((3, height, width), np.nan)
        self.classes = np.full((height, width), UNKNOWN_CLASS, np.uint8)
        self.open = np.ones((height, width), bool)

    def paint(self, where: np.ndarray, depth: np.ndarray, classes: np.ndarray, normals: np.ndarray) -> None:
        """Fill those pixels of `where` (height, width) that are still empty; the other arguments broadcast. Sky has no geometry."""
        where = where & self.open
        if not where.any():
            return
        shape = where.shape
        classes = np.broadcast_to(classes, shape)
        solid = where & (classes != CLASS_IDS["sky"])
        self.classes[where] = classes[where]
        self.depth[solid] = np.broadcast_to(depth, shape)[solid]
        self.normals[:, solid] = np.broadcast_to(normals, (3, *shape))[:, solid]
        self.open &= ~where


def _crossings(level: LevelGeometry, camera: LevelCamera) -> tuple[np.ndarray, np.ndarray]:
    """Find the lines that each column's plane of rays crosses, nearest first.

    Returns:
        `tuple`: indices of the lines and their depths along the optical axis, both (crossings, width); the depth is infinite
            where a column has fewer crossings.
    """
    rays = camera.forward + camera.column_slopes()[:, None] * camera.right  # (width, 2), one unit of depth long
    offset = level.starts - (camera.x, camera.y)  # (lines, 2)
    along = level.ends - level.starts  # (lines, 2)
    # Solve depth * ray = offset + share * along by Cramer's rule, for all columns and lines at once.
    determinant = rays[:, 1:] * along[:, 0] - rays[:, :1] * along[:, 1]  # (width, lines)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (offset[:, 1] * along[:, 0] - offset[:, 0] * along[:, 1]) / determinant
        share = (rays[:, :1] * offset[:, 1] - rays[:, 1:] * offset[:, 0]) / determinant
        hit = (depth > 0) & (share > -1e-9) & (share < 1 + 1e-9)  # lines slightly lengthened, so that no ray passes through a corner
    depth = np.where(hit, depth, np.inf)
    most = max(int(hit.sum(axis=1).max()), 1)
    nearest = np.argpartition(depth, most - 1, axis=1)[:, :most]
    order = np.argsort(np.take_along_axis(depth, nearest, axis=1), axis=1, kind="stable")
    lines = np.take_along_axis(nearest, order, axis=1)
    return lines.T, np.take_along_axis(depth, lines, axis=1).T


def _paint_crossing(canvas: _Canvas, level: LevelGeometry, camera: LevelCamera, crossed: np.ndarray, reach: np.ndarray) -> None:
    """Paint the surfaces that rays hit before their next line and at the line.

    Args:
        canvas: painted in place.
        level: the level.
        camera: the camera.
        crossed: (width,) index of the next line of each column.
        reach: (width,) its depth, infinite if the column has no further line.
    """
    near, far, facing = _sides(level, camera, crossed)
    met = np.isfinite(reach) & (near != NO_SECTOR)
    slopes = camera.row_slopes()[:, None]  # (height, 1)
    hit_height = camera.z + slopes * np.where(met, reach, 0)  # (height, width), height of each ray at the line
    floor, ceiling = level.floors[near], level.ceilings[near]
    with np.errstate(divide="ignore", invalid="ignore"):
        canvas.paint(met & (hit_height < floor), (floor - camera.z) / slopes, level.floor_classes[near], _UP)
        canvas.paint(met & (hit_height > ceiling), (ceiling - camera.z) / slopes, level.ceiling_classes[near], -_UP)
    solid, through = met & (far == NO_SECTOR), met & (far != NO_SECTOR)
    walls = level.line_classes[crossed]
    canvas.paint(solid | (through & (hit_height <= level.floors[far])), reach, walls, facing)
    canvas.paint(through & (hit_height >= level.ceilings[far]), reach, _upper_classes(level, near, far, walls), facing)


_UP = np.array([0.0, 1.0, 0.0])[:, None, None]


def _sides(level: LevelGeometry, camera: LevelCamera, crossed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sectors in front of and behind a line, (width,) each, and the line's normal towards the camera, (3, 1, width)."""
    along = level.ends[crossed] - level.starts[crossed]
    offset = (camera.x, camera.y) - level.starts[crossed]
    on_front = along[:, 0] * offset[:, 1] - along[:, 1] * offset[:, 0] < 0  # the front is to the right of the line
    near = np.where(on_front, level.front[crossed], level.back[crossed])
    far = np.where(on_front, level.back[crossed], level.front[crossed])
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1)  # (width, 2), to the line's right
    normal = np.where(on_front[:, None], normal, -normal) / np.linalg.norm(normal, axis=1, keepdims=True)
    facing = np.stack([normal @ camera.right, np.zeros(len(normal)), -normal @ camera.forward])
    return near, far, facing[:, None]


def _upper_classes(level: LevelGeometry, near: np.ndarray, far: np.ndarray, walls: np.ndarray) -> np.ndarray:
    """Class of the part above a line's opening, (width,): door, wall, or sky if both sectors have a sky."""
    sky = CLASS_IDS["sky"]
    classes = np.where(level.door_sectors[far], CLASS_IDS["door"], walls)
    return np.where((level.ceiling_classes[near] == sky) & (level.ceiling_classes[far] == sky), sky, classes)
