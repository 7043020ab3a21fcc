"""Shapes of small objects that the first version's meshes lack; numpy only."""

from collections.abc import Sequence

import numpy as np

from .. import meshes
from ..meshes import Mesh, Vector


def turned(profile: Sequence[tuple[float, float]], segments: int = 20) -> Mesh:
    """The surface of a profile (radius, height) revolved about z, metres; radius 0 closes an end."""
    radii, heights = np.array(profile, float).T
    return meshes.surface_of_revolution(np.maximum(radii, 1e-4), heights, segments)


def front_quad(x: float, y: float, z: float, half_width: float, half_height: float) -> Mesh:
    """A rectangle centred at (x, y, z) that faces +y, with one upright image on it."""
    corner = [x + half_width, y, z - half_height]
    mesh = meshes.quad(corner, [-2 * half_width, 0, 0], [0, 0, 2 * half_height], unit_uv=(1, 1))
    return Mesh(mesh.vertices, mesh.faces, mesh.normals, np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], 1))  # bitmaps run downwards


def vessel(radius: float, height: float, wall: float = 0.004, base: float = 0.7) -> Mesh:
    """An open cup, bowl or pot with a wall of some thickness.

    Args:
        radius: of the rim, metres.
        height: metres.
        wall: thickness, metres.
        base: radius of the bottom as a share of the rim's.
    """
    foot, inner = base * radius, radius - wall
    profile = [(0, 0), (foot * 0.98, 0), (foot, 0.002), (0.55 * foot + 0.45 * radius, 0.35 * height), (radius, height)]
    profile += [(inner, height), (inner * (0.55 * base + 0.45), 0.35 * height), (inner * base, 1.5 * wall), (0, 1.5 * wall)]
    return turned(profile)


def bottle(radius: float, height: float, neck: float) -> Mesh:
    """A bottle with a neck of radius `neck`, or a can where the neck is nearly as wide."""
    profile = [(0, 0), (0.96 * radius, 0), (radius, 0.01), (radius, 0.62 * height), (0.9 * radius, 0.7 * height), (neck, 0.82 * height)]
    return turned([*profile, (neck, 0.99 * height), (0.9 * neck, height), (0, height)])


def arc(centre: Vector, radius: float, start: float, end: float, steps: int) -> np.ndarray:
    """(steps, 3) points on a circle in the xz plane, from angle to angle in degrees."""
    angle = np.radians(np.linspace(start, end, steps))
    return np.asarray(centre, float) + radius * np.stack([np.cos(angle), np.zeros(steps), np.sin(angle)], 1)


def tube(points: np.ndarray | Sequence[Sequence[float]], radius: float, sides: int = 6) -> Mesh:
    """A cable through points (points, 3)."""
    points = np.asarray(points, float)
    along = np.gradient(points, axis=0)
    length = np.linalg.norm(along, axis=1, keepdims=True)
    along = np.where(length > 1e-9, along / np.maximum(length, 1e-9), [1.0, 0.0, 0.0])  # points may coincide
    side = np.cross(along, [0.31, 0.17, 0.93])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(along, side)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    normals = side[:, None] * np.cos(angle)[:, None] + other[:, None] * np.sin(angle)[:, None]  # (points, sides + 1, 3)
    vertices = points[:, None] + radius * normals
    uv = np.stack(np.broadcast_arrays(angle[None] * radius, np.arange(len(points))[:, None] * 0.05), -1)
    first, second = np.meshgrid(np.arange(len(points) - 1), np.arange(sides), indexing="ij")
    corner = (first * (sides + 1) + second).ravel()
    below, beside = corner + sides + 1, corner + 1
    faces = np.concatenate([np.stack([corner, below + 1, below], 1), np.stack([corner, beside, below + 1], 1)])
    return Mesh(
        vertices.reshape(-1, 3), faces[:, ::-1] if _is_inside_out(vertices, faces) else faces, normals.reshape(-1, 3), uv.reshape(-1, 2)
    )


def _is_inside_out(vertices: np.ndarray, faces: np.ndarray) -> bool:
    flat = vertices.reshape(-1, 3)
    corners = flat[faces[:1]]
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[0]
    return bool(outward @ (corners[0].mean(0) - vertices[:2].mean((0, 1))) < 0)


def crumpled(half_size: Vector, rng: np.random.Generator, strength: float) -> Mesh:
    """A rounded box with dents, such as a bag or a cushion on the floor; normals follow the dents."""
    half = np.asarray(half_size, float)
    mesh = meshes.box(half, 0.9 * half.min(), 6)
    phase, waves = rng.uniform(0, 2 * np.pi, 3), rng.uniform(2, 5, (3, 3)) / half.max()
    shift = np.stack([np.sin(mesh.vertices @ waves[axis] + phase[axis]) for axis in range(3)], 1)
    vertices = mesh.vertices + strength * half.min() * shift
    corners = vertices[mesh.faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    # Vertices on the seams of the six sides are duplicated; those at the same place share one normal.
    _, place = np.unique(np.round(mesh.vertices, 6), axis=0, return_inverse=True)
    place = place.ravel()
    total = np.zeros((place.max() + 1, 3))
    for corner in range(3):
        np.add.at(total, place[mesh.faces[:, corner]], face_normals)
    normals = total[place] / np.maximum(np.linalg.norm(total[place], axis=1, keepdims=True), 1e-12)
    return Mesh(vertices, mesh.faces, normals, mesh.uv)
