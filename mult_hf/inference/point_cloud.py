"""Point clouds from depth maps, with the surface's tilt from normals, and files of them for 3D viewers (glTF)."""

import json
from typing import NamedTuple

import numpy as np

MAX_TILT = 0.05
"""Largest distance of a square's corner from its middle along the optical axis, as a share of its depth."""


class Points(NamedTuple):
    """A point cloud whose points are small squares.

    Args:
        corners: (points, 4, 3) metres, counter-clockwise as the camera sees them; x right, y up, z towards the viewer, the camera
            being at 0.
        colors: (points, 3) uint8, sRGB.
    """

    corners: np.ndarray
    colors: np.ndarray


def point_cloud(
    depth: np.ndarray, image: np.ndarray, field_of_view: float, normals: np.ndarray | None = None, max_points: int = 30_000
) -> Points:
    """The surface that a depth map shows, as squares that together look like the image from where it was taken.

    Each square is what a pixel sees of the plane through its point: across the pixel's four corner rays r it lies at the depth
    (n p) / (n r), n being the normal at the point p, at most [`MAX_TILT`] of the depth nearer or further.

    Args:
        depth: (height, width) metres along the optical axis; pixels that are not known, or not above 0, are left out.
        image: (height, width, 3) uint8, the squares' colours.
        field_of_view: horizontal, degrees, of a pinhole camera that looks through the middle of the image.
        normals: (3, height, width) unit vectors, x right, y up, z towards the viewer. Without them, and where they are not known,
            the squares face the camera's plane.
        max_points: every second, third, ... pixel of every second, third, ... row is taken, so that no more come out.
    """
    height, width = depth.shape
    step = int(np.ceil(np.sqrt(height * width / max_points)))
    while len(range(0, height, step)) * len(range(0, width, step)) > max_points:
        step += 1
    focal = width / 2 / np.tan(np.deg2rad(field_of_view) / 2)  # pixels
    rows, columns = np.mgrid[0:height:step, 0:width:step].reshape(2, -1)
    middle = depth[rows, columns].astype(np.float64)
    known = np.isfinite(middle) & (middle > 0)
    rows, columns, middle = rows[known], columns[known], middle[known]
    # The middle of the square, then its corners: steps to the right and down, counter-clockwise.
    right = columns[:, None] + 0.5 + step * np.array([0, -0.5, -0.5, 0.5, 0.5])
    down = rows[:, None] + 0.5 + step * np.array([0, -0.5, 0.5, 0.5, -0.5])
    rays = np.stack([(right - width / 2) / focal, (height / 2 - down) / focal, -np.ones_like(right)], axis=-1)  # (points, 5, 3)
    facing = np.zeros((len(middle), 3)) if normals is None else normals[:, rows, columns].T.astype(np.float64)
    facing = np.where(np.isfinite(facing).all(axis=1, keepdims=True) & facing.any(axis=1, keepdims=True), facing, (0.0, 0.0, 1.0))
    towards = np.einsum("prc,pc->pr", rays, facing)  # n r: below 0 where the surface is seen from its front
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.nan_to_num(towards[:, :1] / towards[:, 1:], nan=1.0)
    depths = middle[:, None] * np.clip(factors, 1 - MAX_TILT, 1 + MAX_TILT)
    return Points(rays[:, 1:] * depths[..., None], image[rows, columns])


def to_glb(points: Points) -> bytes:
    """The point cloud as a binary glTF 2.0 file, without lighting (https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html)."""
    count = len(points.corners)
    corners = points.corners.reshape(-1, 3).astype("<f4")
    srgb = points.colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)  # what glTF's vertex colours are
    opaque = np.concatenate([linear, np.ones((count, 1))], axis=1)
    colors = np.round(opaque * 65535).astype("<u2").repeat(4, axis=0)
    triangles = (np.arange(count)[:, None] * 4 + np.array([0, 1, 2, 0, 2, 3])).astype("<u4").reshape(-1)
    low, high = (corners.min(axis=0).tolist(), corners.max(axis=0).tolist())
    accessors = [
        {"componentType": 5126, "type": "VEC3", "count": len(corners), "min": low, "max": high},
        {"componentType": 5123, "type": "VEC4", "count": len(colors), "normalized": True},
        {"componentType": 5125, "type": "SCALAR", "count": len(triangles)},
    ]
    parts = [array.tobytes() for array in (corners, colors, triangles)]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    scene = {
        "asset": {"version": "2.0", "generator": "mult_hf"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [{"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}]}],
        "accessors": [{"bufferView": number, **accessor} for number, accessor in enumerate(accessors)],
        "bufferViews": [{"buffer": 0, "byteOffset": start, "byteLength": len(part)} for start, part in zip(starts, parts)],
        "buffers": [{"byteLength": starts[-1]}],
    }
    return _glb_file(json.dumps(scene).encode(), b"".join(parts))


def _glb_file(scene: bytes, binary: bytes) -> bytes:
    """Header and the two chunks; each chunk's length is a multiple of 4."""
    chunks = b""
    for kind, data, filler in ((b"JSON", scene, b" "), (b"BIN\0", binary, b"\0")):
        data += filler * (-len(data) % 4)
        chunks += len(data).to_bytes(4, "little") + kind + data
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunks)).to_bytes(4, "little") + chunks


__all__ = ["MAX_TILT", "Points", "point_cloud", "to_glb"]
