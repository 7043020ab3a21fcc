"""Render varied rooms with Mitsuba 3: labels from nine rays per pixel, colour from path tracing and a denoiser.

Dr.Jit compiles one function for each set of constants of the BSDFs, again for each room. So all differences between materials are
in bitmaps, and the repeats of textures are in the meshes, which reduces compilation to a fifth.
"""

from dataclasses import replace
from typing import Any

import mitsuba as mi
import numpy as np

from mult_hf.data.synthetic.camera import GeometryMaps

from ..builder import CLASS_NAMES, Part
from ..materials import Material
from ..rendering import class_table, load_mesh, make_sensor, make_texture, radiance
from ..viewpoints import RoomCamera
from . import labels
from .builder import Sun, VariedRoom
from .viewpoints import Preview

PATH_DEPTH = 5
"""Longest light path in segments."""

ROULETTE_DEPTH = 3
"""Segments after which dark paths are ended at random (Russian roulette)."""

GUIDE_SAMPLES = 4
"""Samples per pixel of the albedo and normals that guide the denoiser."""

SPECULAR = 0.5
"""Strength of all gloss; materials differ in roughness."""

BRIGHTEST = 60.0
"""Radiance to which pixels are clipped before denoising."""

DIMMEST_LAMP = 0.02
"""Share of the strongest lamp's power below which a light, such as a screen, is not sampled directly."""


class VariedScene:
    """A varied room loaded into Mitsuba.

    Args:
        room: as `layouts.build_room` makes it.
    """

    def __init__(self, room: VariedRoom) -> None:
        materials = {part.material: _bsdf(part.material) for part in room.parts if part.material is not None}
        weights = _lamp_weights(room.parts)
        meshes = {
            f"part{index:03d}": load_mesh(_with_repeats(part), materials, weight)
            for index, (part, weight) in enumerate(zip(room.parts, weights, strict=True))
        }
        sun = {} if room.sun is None else {"sun": _sun(room.sun, max(weights))}
        # With optimisation on, Mitsuba merges meshes and loses their identities.
        self._scene = mi.load_dict({"type": "scene", **meshes, **sun}, optimize=False)
        classes = {name: CLASS_NAMES.index(part.class_name) for name, part in zip(meshes, room.parts, strict=True)}
        self._class_of_shape = class_table(self._scene, classes)
        self._geometry_pass = mi.load_dict({"type": "aov", "aovs": "position:position,normal:sh_normal,shape:shape_index"})
        # Two passes, because a path integrator inside that of the guides would be compiled and run twice.
        self._guide_pass = mi.load_dict({"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"})
        self._colour_pass = mi.load_dict({"type": "path", "max_depth": PATH_DEPTH, "rr_depth": ROULETTE_DEPTH})

    def preview(self, camera: RoomCamera, size: int) -> Preview:
        """A preview of a camera, from one ray per pixel."""
        points, _, classes, behind = self._rays(camera, size)
        return Preview(classes, -points[..., 2], float(behind.mean()))

    def geometry(self, camera: RoomCamera, size: int) -> GeometryMaps:
        """Depth in metres, normals and ids of `CLASS_NAMES` of size x size pixels, each of one surface (see `labels`)."""
        points, normals, classes, _ = (labels.split_pixels(each) for each in self._rays(camera, size * labels.RAYS))
        chosen = labels.choose_rays(classes, -points[..., 2], normals)[None]
        points, normals = (np.take_along_axis(each, chosen[..., None], 0)[0] for each in (points, normals))
        depth = labels.at_centre(points, normals, labels.centre_rays(size, camera.focal_length(size)))
        return GeometryMaps(
            depth.astype(np.float32), np.moveaxis(normals, -1, 0).astype(np.float32), np.take_along_axis(classes, chosen, 0)[0]
        )

    def _rays(self, camera: RoomCamera, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Intersections of one ray through the centre of each of size x size cells.

        Returns:
            `tuple`: points (size, size, 3) in camera axes, NaN where nothing is hit; normals on the visible side (size, size, 3),
                camera axes; classes (size, size); whether the back was hit (size, size).
        """
        sensor = make_sensor(camera, size, {"type": "stratified", "sample_count": 1, "jitter": False})
        buffers = np.array(mi.render(self._scene, sensor=sensor, integrator=self._geometry_pass, spp=1))[..., -7:]  # (size, size, 7)
        normals = buffers[..., 3:6] @ camera.axes.T
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        hit = length[..., 0] > 0.5
        points = np.where(hit[..., None], (buffers[..., :3] - camera.position) @ camera.axes.T, np.nan)
        normals = normals / np.maximum(length, 1e-6)
        behind = (normals * points).sum(-1, keepdims=True) > 0
        classes = self._class_of_shape[np.where(hit, np.rint(buffers[..., 6]), 0).astype(int)]
        return points, np.where(behind, -normals, normals), classes, behind[..., 0]

    def colour(self, camera: RoomCamera, size: int, samples: int, seed: int) -> np.ndarray:
        """Denoised linear radiance, (size, size, 3) float32, from `samples` paths per pixel; see [`radiance`]."""
        integrators = {"paths": self._colour_pass, "guides": self._guide_pass}
        return radiance(self._scene, camera, size, samples, seed, **integrators, guide_samples=GUIDE_SAMPLES, brightest=BRIGHTEST)


def _bitmap(values: np.ndarray) -> np.ndarray:
    """A colour (3,) as the smallest texture that Mitsuba accepts."""
    return np.tile(values, (2, 2, 1)) if values.ndim == 1 else values


def _bsdf(material: Material) -> "mi.BSDF":
    albedo = make_texture(_bitmap(material.linear_albedo))
    if material.roughness is None:
        surface: dict[str, Any] = {"type": "diffuse", "reflectance": albedo}
    else:
        roughness = {"type": "bitmap", "bitmap": mi.Bitmap(np.full((2, 2, 1), material.roughness, np.float32)), "raw": True}
        metallic = float(getattr(material, "metallic", 0.0))
        surface = {"type": "principled", "base_color": albedo, "roughness": roughness, "metallic": metallic, "specular": SPECULAR}
    return mi.load_dict({"type": "twosided", "surface": surface})


def _with_repeats(part: Part) -> Part:
    """The part with texture coordinates in units of its material's texture."""
    if part.material is None or part.emission is not None:
        return part
    return replace(part, mesh=replace(part.mesh, uv=part.mesh.uv / part.material.repeat))


def _lamp_weights(parts: list[Part]) -> list[float]:
    """Sampling weight of each part as a lamp, proportional to its power; 0 if that is small."""
    powers = np.array([_power(part) for part in parts])
    return [float(power) for power in np.where(powers > DIMMEST_LAMP * powers.max(), powers, 0)]


def _power(part: Part) -> float:
    """Radiance times area."""
    if part.emission is None:
        return 0.0
    corners = part.mesh.vertices[part.mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    return float(np.mean(part.emission) * area)


def _sun(sun: Sun, weight: float) -> dict[str, Any]:
    """A projector with the image of a bright window."""
    picture = np.full((64, 64, 3), [1.0, 0.92, 0.78], np.float32)
    picture[30:34] = picture[:, 31:33] = 0
    picture[:3] = picture[-3:] = picture[:, :3] = picture[:, -3:] = 0
    look_at = mi.ScalarTransform4f().look_at(origin=sun.position.tolist(), target=sun.target.tolist(), up=[0, 0, 1])
    irradiance = {"type": "bitmap", "bitmap": mi.Bitmap(picture), "raw": True}
    projector = {"type": "projector", "to_world": look_at, "fov": 38.0, "irradiance": irradiance, "scale": sun.strength}
    return {**projector, "sampling_weight": max(weight, 1e-3)}
