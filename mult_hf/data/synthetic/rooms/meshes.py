"""Triangle meshes of basic furniture shapes, in metres; numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Vector = Sequence[float] | np.ndarray
"""Three numbers."""

IDENTITY = np.eye(4)


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with a normal and a texture coordinate at each vertex.

    Args:
        vertices: (vertices, 3) metres.
        faces: (triangles, 3) indices of vertices, counter-clockwise as seen from outside.
        normals: (vertices, 3) unit vectors.
        uv: (vertices, 2) texture coordinates, in metres along the surface unless the shape says otherwise.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uv: np.ndarray

    def transformed(self, matrix: np.ndarray) -> "Mesh":
        """The mesh transformed by an affine (4, 4) matrix; normals use its inverse transpose."""
        normals = self.normals @ np.linalg.inv(matrix[:3, :3])
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        return replace(self, vertices=self.vertices @ matrix[:3, :3].T + matrix[:3, 3], normals=normals)


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """Merge several meshes into one."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        faces=np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
        normals=np.concatenate([mesh.normals for mesh in meshes]),
        uv=np.concatenate([mesh.uv for mesh in meshes]),
    )


def translation(x: float, y: float, z: float = 0.0) -> np.ndarray:
    """(4, 4) matrix that translates by (x, y, z) metres."""
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def scaling(x: float, y: float, z: float) -> np.ndarray:
    """(4, 4) matrix that scales along the axes."""
    return np.diag([x, y, z, 1.0])


def rotation(axis: str, degrees: float) -> np.ndarray:
    """(4, 4) matrix that rotates about the axis `"x"`, `"y"` or `"z"`, counter-clockwise if the axis points at the viewer."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(4)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def quad(corner: Vector, first_edge: Vector, second_edge: Vector, unit_uv: tuple[float, float] | None = None) -> Mesh:
    """A flat parallelogram whose normal is first_edge x second_edge.

    Args:
        corner: (3,) metres.
        first_edge: (3,) metres, the direction of u.
        second_edge: (3,) metres, the direction of v.
        unit_uv: highest texture coordinates, to stretch one image over it; the edges' lengths in metres by default.
    """
    corner, first, second = (np.asarray(vector, float) for vector in (corner, first_edge, second_edge))
    u, v = unit_uv or (np.linalg.norm(first), np.linalg.norm(second))
    normal = np.cross(first, second)
    return Mesh(
        vertices=np.stack([corner, corner + first, corner + first + second, corner + second]),
        faces=np.array([[0, 1, 2], [0, 2, 3]]),
        normals=np.tile(normal / np.linalg.norm(normal), (4, 1)),
        uv=np.array([[0, 0], [u, 0], [u, v], [0, v]], float),
    )


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """(triangles, 3) faces of a grid of rows x columns vertices, counter-clockwise for axes (row, column, normal)."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    corner = (row * columns + column).ravel()
    across, along, opposite = corner + columns, corner + 1, corner + columns + 1
    return np.concatenate([np.stack([corner, across, opposite], 1), np.stack([corner, opposite, along], 1)])


def box(half_size: Vector, edge_radius: float = 0.0, edge_steps: int = 4) -> Mesh:
    """A box centred at the origin, with rounded edges if `edge_radius` is above 0.

    Args:
        half_size: (3,) distances from the centre to the faces, metres.
        edge_radius: radius of the edges in metres; at most the smallest half size.
        edge_steps: vertices across one rounded edge.
    """
    half = np.asarray(half_size, float)
    radius = min(edge_radius, 0.999 * half.min())
    return merge([_box_face(half, radius, edge_steps, axis, side) for axis in range(3) for side in (-1, 1)])


def _box_face(half: np.ndarray, radius: float, edge_steps: int, axis: int, side: int) -> Mesh:
    """One of the six faces: a grid on the sharp box, projected onto the sphere around the nearest point of the inner box."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    steps = edge_steps if radius > 0 else 1
    ticks = [np.concatenate([np.linspace(-h, -h + radius, steps), np.linspace(h, h - radius, steps)[::-1]]) for h in half[[first, second]]]
    grid = np.meshgrid(*ticks, indexing="ij")
    points = np.empty((grid[0].size, 3))
    points[:, axis], points[:, first], points[:, second] = side * half[axis], grid[0].ravel(), grid[1].ravel()
    if radius > 0:
        inner = np.clip(points, -half + radius, half - radius)
        normals = points - inner
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        vertices = inner + radius * normals
    else:
        vertices, normals = points, np.tile(np.eye(3)[axis] * side, (len(points), 1))
    faces = _grid_faces(*grid[0].shape)
    # Textures are upright: u along the horizontal axis, v along z on side faces.
    columns = [second, first] if axis == 1 else [first, second]
    return Mesh(vertices, faces if side > 0 else faces[:, ::-1], normals, points[:, columns])


def surface_of_revolution(radii: Vector, heights: Vector, segments: int = 24) -> Mesh:
    """The surface of a profile (radius, height) revolved about z; open at both ends."""
    radii, heights = np.asarray(radii, float), np.asarray(heights, float)
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    slope_radius, slope_height = np.gradient(radii), np.gradient(heights)
    length = np.hypot(slope_radius, slope_height)
    outward, upward = slope_height / length, -slope_radius / length
    vertices = np.stack([np.outer(radii, np.cos(angle)), np.outer(radii, np.sin(angle)), np.outer(heights, np.ones_like(angle))], -1)
    normals = np.stack([np.outer(outward, np.cos(angle)), np.outer(outward, np.sin(angle)), np.outer(upward, np.ones_like(angle))], -1)
    uv = np.stack(np.broadcast_arrays(angle[None] * radii.max(), heights[:, None]), -1)  # (heights, angles, 2)
    faces = _grid_faces(len(radii), segments + 1)[:, ::-1]
    return Mesh(vertices.reshape(-1, 3), faces, normals.reshape(-1, 3), uv.reshape(-1, 2).astype(float))


def disk(radius: float, segments: int = 24) -> Mesh:
    """A flat disk centred at the origin, facing up."""
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rim = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(segments)], 1)
    vertices = np.concatenate([np.zeros((1, 3)), rim])
    index = np.arange(segments)
    faces = np.stack([np.zeros(segments, int), 1 + index, 1 + (index + 1) % segments], 1)
    return Mesh(vertices, faces, np.tile([0.0, 0.0, 1.0], (segments + 1, 1)), vertices[:, :2])


def cylinder(start: Vector, end: Vector, radius: float) -> Mesh:
    """A closed cylinder between two points; thin ones get fewer sides."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = float(np.linalg.norm(end - start))
    upward = (end - start) / length
    side = np.cross([0, 1, 0] if abs(upward[1]) < 0.9 else [1, 0, 0], upward)
    side /= np.linalg.norm(side)
    frame = np.eye(4)
    frame[:3, 0], frame[:3, 1], frame[:3, 2], frame[:3, 3] = side, np.cross(upward, side), upward, start
    segments = 24 if radius > 0.02 else 10
    lid, bottom = disk(radius, segments), disk(radius, segments).transformed(rotation("x", 180))
    tube = surface_of_revolution([radius, radius], [0, length], segments)
    return merge([tube, lid.transformed(translation(0, 0, length)), bottom]).transformed(frame)


def ellipsoid(radii: Vector) -> Mesh:
    """An ellipsoid centred at the origin with half axes `radii` (3,)."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 13)
    # A radius of zero at the poles would give triangles without area.
    sphere = surface_of_revolution(np.cos(latitude) + 1e-4, np.sin(latitude), 20)
    return sphere.transformed(scaling(*radii))


def wavy_sheet(width: float, height: float, waves: float, amplitude: float) -> Mesh:
    """A hanging cloth from (0, 0, 0) to (width, 0, height) with folds along y; its normals point to +y."""
    columns = max(8, int(8 * waves))
    x = np.linspace(0, width, columns)
    y = amplitude * np.sin(2 * np.pi * waves * x / width)
    slope = amplitude * 2 * np.pi * waves / width * np.cos(2 * np.pi * waves * x / width)
    normals = np.stack([-slope, np.ones_like(x), np.zeros_like(x)], 1) / np.hypot(slope, 1)[:, None]
    vertices = np.stack([np.stack([x, y, np.full_like(x, z)], 1) for z in (0.0, height)])  # (2, columns, 3)
    uv = np.stack([np.stack([x, np.full_like(x, z)], 1) for z in (0.0, height)])
    faces = _grid_faces(2, columns)
    return Mesh(vertices.reshape(-1, 3), faces, np.tile(normals, (2, 1)), uv.reshape(-1, 2))
