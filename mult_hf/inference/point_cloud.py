"""Point clouds from depth maps, oriented by normals, and glTF files of them for 3D viewers."""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

MAX_TILT = 0.05
"""Largest distance of a square's corner from its centre along the optical axis, as a share of the centre's depth."""


class Points(NamedTuple):
    """A point cloud whose points are small squares.

    Args:
        corners: (points, 4, 3) metres, counter-clockwise as seen from the camera; x right, y up, z towards the viewer, with the
            camera at 0.
        colors: (points, 3) uint8, sRGB.
    """

    corners: np.ndarray
    colors: np.ndarray


def point_cloud(
    depth: np.ndarray, image: np.ndarray, field_of_view: float, normals: np.ndarray | None = None, max_points: int = 30_000
) -> Points:
    """The surface that a depth map shows, as squares that together look like the image from where it was taken.

    Each square is the part of the tangent plane at a pixel's point p that the pixel covers. With n the normal at p, the ray r through a
    corner of the pixel meets the plane at the depth (n p) / (n r), limited to [`MAX_TILT`] of the depth of p on either side.

    Args:
        depth: (height, width) metres along the optical axis; unknown pixels and those of 0 or less are left out.
        image: (height, width, 3) uint8, the colours of the squares.
        field_of_view: horizontal field of view in degrees, of a pinhole camera whose optical axis goes through the image's centre.
        normals: (3, height, width) unit vectors, x right, y up, z towards the viewer. Without them, and where they are unknown,
            the squares are parallel to the image plane.
        max_points: largest number of points; only every n-th pixel of every n-th row is used if there are more.

    Raises:
        ValueError: if shapes differ, or a number is out of its range.
    """
    height, width = depth.shape
    if image.shape != (height, width, 3):
        raise ValueError(f"image has the shape {image.shape}; with depth of {depth.shape}, give {(height, width, 3)}")
    if normals is not None and normals.shape != (3, height, width):
        raise ValueError(f"normals have the shape {normals.shape}; with depth of {depth.shape}, give {(3, height, width)}")
    if not 0 < field_of_view < 180:
        raise ValueError(f"field_of_view is {field_of_view}; give degrees between 0 and 180")
    if max_points < 1:
        raise ValueError(f"max_points is {max_points}; it must be at least 1")
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
    towards = np.einsum("prc,pc->pr", rays, facing)  # n r: below 0 if the front of the surface is visible
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.nan_to_num(towards[:, :1] / towards[:, 1:], nan=1.0)
    factors[factors < 0] = np.inf  # the corner's ray never meets the tangent plane, which recedes without end
    depths = middle[:, None] * np.clip(factors, 1 - MAX_TILT, 1 + MAX_TILT)
    return Points(rays[:, 1:] * depths[..., None], image[rows, columns])


def to_glb(points: Points) -> bytes:
    """The point cloud as a binary glTF 2.0 file, without lighting.

    Each square shows one pixel of a texture, which glTF reads as sRGB: colours are exact.

    Raises:
        ValueError: if there are no points.
        ImportError: if trimesh is not installed.
    """
    if not len(points.corners):
        raise ValueError("the point cloud is empty, as of a depth map without known pixels; a glTF file needs at least one point")
    try:
        import trimesh
        from trimesh.exchange.gltf import export_glb
        from trimesh.visual import TextureVisuals
        from trimesh.visual.material import PBRMaterial
    except ImportError as error:
        raise ImportError(f'writing glTF needs trimesh ({error}); install it with: pip install "mult-hf[demo]"') from error
    count = len(points.corners)
    side = int(np.ceil(np.sqrt(count)))  # of the texture
    colors = np.zeros((side * side, 3), np.uint8)
    colors[:count] = points.colors
    rows, columns = np.divmod(np.arange(count), side)
    middles = np.stack([columns + 0.5, side - rows - 0.5], axis=-1) / side  # of the pixels; trimesh's v axis points up
    texture = Image.fromarray(colors.reshape(side, side, 3))
    material = PBRMaterial(baseColorTexture=texture, doubleSided=True, metallicFactor=0.0)
    mesh = trimesh.Trimesh(
        vertices=points.corners.reshape(-1, 3),
        faces=(4 * np.arange(count)[:, None, None] + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3),
        visual=TextureVisuals(uv=middles.repeat(4, axis=0), material=material),  # a square's corners share a pixel
        process=False,  # keep the order, and do not merge corners of different squares
    )
    return export_glb(trimesh.Scene(mesh), include_normals=False, tree_postprocessor=_without_lighting)


def _without_lighting(tree: dict[str, Any]) -> None:
    """Mark the material of a glTF file as unlit; trimesh has no option for this."""
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", ()), "KHR_materials_unlit"]
    for material in tree["materials"]:
        material["extensions"] = {"KHR_materials_unlit": {}}


__all__ = ["MAX_TILT", "Points", "point_cloud", "to_glb"]
