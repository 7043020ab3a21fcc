"""Render rooms with Mitsuba 3: geometry from one exact ray per pixel, colour from path tracing and a denoiser.

Call [`variants.activate`] first. Sources: Mitsuba 3 (Jakob et al. 2022, https://mitsuba.readthedocs.io), Open Image Denoise
(https://www.openimagedenoise.org).
"""

from typing import Any, cast

import numpy as np

from mult_hf.data.synthetic.camera import GeometryMaps

from .builder import CLASS_NAMES, Part, Room
from .materials import Material
from .viewpoints import RoomCamera

try:
    import drjit
    import mitsuba as mi
    import mitsuba_oidn
except ImportError as error:
    raise ImportError(
        f'rendering rooms needs Mitsuba and its denoiser ({error}); install them with: pip install "mult-hf[rooms]"'
    ) from error

PATH_DEPTH = 5
"""Longest light path in segments; longer paths change little in closed pale rooms and cost time."""

GUIDE_SAMPLES = 8
"""Samples per pixel of the albedo and normals that guide the denoiser."""

SHOULDER = 3.0
"""Luminance, in units of the exposure, that the tone curve maps to white."""


class RoomScene:
    """A room loaded into Mitsuba.

    Args:
        room: as `layouts.build_room` makes it.
    """

    def __init__(self, room: Room) -> None:
        materials = {part.material: _bsdf(part.material) for part in room.parts if part.material is not None}
        meshes = {f"part{index:03d}": load_mesh(part, materials) for index, part in enumerate(room.parts)}
        # With optimisation on, Mitsuba merges meshes and loses their identities.
        self._scene = mi.load_dict({"type": "scene", **meshes}, optimize=False)
        classes = {name: CLASS_NAMES.index(part.class_name) for name, part in zip(meshes, room.parts, strict=True)}
        self._class_of_shape = class_table(self._scene, classes)
        aovs = "depth:depth,position:position,normal:sh_normal,shape:shape_index"
        self._geometry_pass = mi.load_dict({"type": "aov", "aovs": aovs})
        self._guide_pass = mi.load_dict({"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"})
        self._colour_pass = mi.load_dict({"type": "path", "max_depth": PATH_DEPTH})

    def geometry(self, camera: RoomCamera, size: int) -> GeometryMaps:
        """Depth in metres, normals and ids of `CLASS_NAMES` at the centres of size x size pixels."""
        # One ray through the pixel's centre: jittered samples would average classes and mix near with far.
        sensor = make_sensor(camera, size, {"type": "stratified", "sample_count": 1, "jitter": False})
        buffers = np.array(mi.render(self._scene, sensor=sensor, integrator=self._geometry_pass, spp=1))  # (height, width, 8)
        hit = buffers[..., 0] > 0
        axes, rays = camera.axes, buffers[..., 1:4] - camera.position
        normals = buffers[..., 4:7] / np.maximum(np.linalg.norm(buffers[..., 4:7], axis=-1, keepdims=True), 1e-6)
        seen_from_behind = (normals * rays).sum(-1, keepdims=True) > 0
        normals = np.where(seen_from_behind, -normals, normals) @ axes.T
        depth = np.where(hit, -(rays @ axes[2]), np.nan)
        shapes = np.where(hit, np.rint(buffers[..., 7]), 0).astype(int)
        return GeometryMaps(depth.astype(np.float32), np.moveaxis(normals, -1, 0).astype(np.float32), self._class_of_shape[shapes])

    def colour(self, camera: RoomCamera, size: int, samples: int, seed: int) -> np.ndarray:
        """Denoised linear radiance, (size, size, 3) float32, from `samples` paths per pixel; see [`radiance`]."""
        return radiance(
            self._scene, camera, size, samples, seed, paths=self._colour_pass, guides=self._guide_pass, guide_samples=GUIDE_SAMPLES
        )


def radiance(
    scene: "mi.Scene",
    camera: RoomCamera,
    size: int,
    samples: int,
    seed: int,
    *,
    paths: "mi.Integrator",
    guides: "mi.Integrator",
    guide_samples: int,
    brightest: float | None = None,
) -> np.ndarray:
    """Denoised linear radiance of a view.

    Args:
        scene: the scene.
        camera: the camera.
        size: height and width in pixels.
        samples: light paths per pixel.
        seed: of the random paths.
        paths: integrator of the light paths.
        guides: integrator of albedo and normals, which guide the denoiser.
        guide_samples: samples per pixel of the guides.
        brightest: value to which the radiance of a pixel is clipped before denoising.

    Returns:
        `np.ndarray`: (size, size, 3) float32.
    """
    sensor = make_sensor(camera, size, {"type": "independent", "sample_count": samples})
    start: Any = seed  # declared as UInt32, and an integer at run time
    noisy = np.array(mi.render(scene, sensor=sensor, integrator=paths, spp=samples, seed=start))[..., :3].clip(0, brightest)
    seen = np.array(mi.render(scene, sensor=sensor, integrator=guides, spp=guide_samples, seed=start))
    albedo, normals = seen[..., :3].clip(0, 1), seen[..., 3:6]
    return mitsuba_oidn.denoise(*(np.ascontiguousarray(each) for each in (noisy, albedo, normals)), hdr=True)


def develop(radiance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convert radiance to an sRGB image as a camera would: slightly inexact exposure and white balance, and a soft shoulder.

    The tone curve is Reinhard's extended one (SIGGRAPH 2002, equation 4).

    Args:
        radiance: (height, width, 3) linear, at least 0.
        rng: random number generator for the errors of exposure and white balance.

    Returns:
        `np.ndarray`: (height, width, 3) uint8.
    """
    luminance = radiance @ np.array([0.2126, 0.7152, 0.0722])
    exposure = 0.25 * rng.uniform(0.85, 1.2) / np.exp(np.log(luminance + 1e-3).mean())
    exposed = np.maximum(radiance, 0) * exposure * rng.uniform(0.95, 1.05, 3)
    toned = np.clip(exposed * (1 + exposed / SHOULDER**2) / (1 + exposed), 0, 1)
    display = np.where(toned <= 0.0031308, 12.92 * toned, 1.055 * np.maximum(toned, 1e-6) ** (1 / 2.4) - 0.055)
    return np.round(255 * display).astype(np.uint8)


def make_sensor(camera: RoomCamera, size: int, sampler: dict) -> "mi.Sensor":
    """Mitsuba's sensor of a camera for size x size pixels."""
    look_at = mi.ScalarTransform4f().look_at(origin=camera.position.tolist(), target=camera.target.tolist(), up=camera.up.tolist())
    film = {"type": "hdrfilm", "width": size, "height": size, "rfilter": {"type": "box"}, "component_format": "float32"}
    lens = {"fov": float(camera.field_of_view), "fov_axis": "x", "near_clip": 0.01, "far_clip": 100.0}
    return mi.load_dict({"type": "perspective", "to_world": look_at, "film": film, "sampler": sampler, **lens})


def make_texture(values: np.ndarray, repeat: float = 1.0) -> dict:
    """(3,) or (height, width, 3) linear values as a Mitsuba colour or texture."""
    if values.ndim == 1:
        return {"type": "rgb", "value": values.tolist()}
    bitmap = mi.Bitmap(np.ascontiguousarray(values, np.float32))
    return {"type": "bitmap", "bitmap": bitmap, "raw": True, "to_uv": mi.ScalarTransform4f().scale([1 / repeat, 1 / repeat, 1])}


def _bsdf(material: Material) -> "mi.BSDF":
    albedo = make_texture(material.linear_albedo, material.repeat)
    if material.roughness is None:
        surface: dict[str, Any] = {"type": "diffuse", "reflectance": albedo}
    else:
        gloss = {"roughness": float(material.roughness), "specular": float(material.specular)}
        surface = {"type": "principled", "base_color": albedo, **gloss}
    return mi.load_dict({"type": "twosided", "surface": surface})


def load_mesh(part: Part, materials: dict[Material, "mi.BSDF"], sampling_weight: float = 1.0) -> "mi.Mesh":
    """Mitsuba's mesh of a part.

    Args:
        part: of a room.
        materials: BSDF of each material.
        sampling_weight: relative frequency with which it is sampled as a lamp, if it emits light.
    """
    properties = mi.Properties()
    if part.material is not None:
        properties["bsdf"] = materials[part.material]
    if part.emission is not None:
        properties["emitter"] = mi.load_dict({"type": "area", "radiance": make_texture(part.emission), "sampling_weight": sampling_weight})
    vertices, faces = len(part.mesh.vertices), len(part.mesh.faces)
    mesh = mi.Mesh(part.class_name, vertices, faces, has_vertex_normals=True, has_vertex_texcoords=True, props=properties)
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = part.mesh.vertices.astype(np.float32).ravel()
    parameters["vertex_normals"] = part.mesh.normals.astype(np.float32).ravel()
    parameters["vertex_texcoords"] = part.mesh.uv.astype(np.float32).ravel()
    parameters["faces"] = part.mesh.faces.astype(np.uint32).ravel()
    parameters.update()
    return mesh


def class_table(scene: "mi.Scene", classes: dict[str, int]) -> np.ndarray:
    """Class ids indexed by the values of the shape_index buffer; scalar variants count shapes from 1 in the scene's order.

    The other variants use Dr.Jit's registry number, which keeps counting from scene to scene.
    """
    shapes = scene.shapes()
    if (mi.variant() or "").startswith("scalar"):
        numbers = list(range(1, len(shapes) + 1))
    else:
        numbers = [int(cast(Any, drjit.reinterpret_array(mi.UInt32, mi.ShapePtr(shape)))[0]) for shape in shapes]
    table = np.zeros(max(numbers) + 1, np.uint8)
    table[numbers] = [classes[shape.id()] for shape in shapes]
    return table
