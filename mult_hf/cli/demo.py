"""A demo in the browser: a photo in; every map of a model with its legend, values under the mouse, a view in 3D and raw maps out.

    python examples/app.py
    python examples/app.py --model me/mult --host 0.0.0.0 --max_side 512      # for others on the network, see docs/demo.md

Everything about tasks comes from the model's own entries, so a model with a seventh task shows seven maps. Needs
`pip install "mult-hf[demo]"`.
"""

import base64
import gzip
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image, ImageOps
from transformers import pipeline

from mult_hf import DEFAULT_CHECKPOINT, MultiTaskVisionPipeline, TaskSpec
from mult_hf.cli.arguments import flag, parse_arguments
from mult_hf.evaluation.cards import public_name
from mult_hf.inference.output import Results
from mult_hf.model.images import read_image
from mult_hf.model.visualization import color_limits, colorize

ROOT = Path(__file__).resolve().parents[1]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What uploads may be. Pillow knows more, some of which start other programs (EPS) or are rarely tested."""

FIELDS_OF_VIEW = (20, 120)
"""Degrees that the slider reaches from and to."""

SHOWN_SIDE = 512
"""Pictures of smaller maps are enlarged by whole numbers up to this side, since the page shows none above its own size."""

MAX_TILT = 0.05
"""How far a corner of a square of the point cloud may be nearer or further than its middle, as a part of its depth."""

COLUMNS = 3
"""Maps in a row."""

HOUR = 3600  # seconds

# How transformers calls the tasks that the view in 3D needs.
DEPTH = "depth-estimation"
NORMALS = "normal-estimation"

HINT = "Point at a map: every map's caption tells its value there."
READER = Path(__file__).with_suffix(".js")
EXAMPLES = [str(ROOT / "docs/images" / name) for name in ("living-room.jpg", "coffee.jpg")]
STYLE = """
.map img {cursor: crosshair}
.chips {display: flex; flex-wrap: wrap; gap: 2px 10px; font-size: 12px; min-height: 18px; padding: 0 4px}
.chips i {display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 4px; vertical-align: -1px}
.chips img {flex: 1; height: 11px; min-width: 40px; border-radius: 2px; align-self: center; object-fit: fill}
.tile {gap: 6px !important} .tile .html-container {padding: 0 4px !important}
.map-caption {padding: 0 4px} .map-caption span {display: block}
.map-caption span {color: var(--neutral-500); font-variant-numeric: tabular-nums}
.map-caption output {display: inline; font-weight: bold; color: var(--body-text-color)}
"""


@dataclass
class DemoArguments:
    """What is shown, to whom, and its limits; each field is a flag, and a key of the file that `--config` names."""

    model: str = flag(DEFAULT_CHECKPOINT, "directory or Hub id of the model; the small one that comes with the package by default")
    config: Path | None = flag(None, "YAML or JSON file of flags; those on the command line win")
    host: str = flag("127.0.0.1", "address to listen at; 0.0.0.0 lets everybody in the network in, without a password")
    port: int = flag(7860, "port to listen at; 0 takes a free one")
    photos: list[str] = flag(EXAMPLES, "photos to offer as examples")
    max_bytes: int = flag(20_000_000, "largest upload")
    max_pixels: int = flag(50_000_000, "most pixels of an upload, told by its header before anything is unpacked")
    max_side: int = flag(1024, "photos are brought down to this longer side, which is then the maps' too")
    max_points: int = flag(30_000, "most points of the view in 3D")
    field_of_view: float = flag(60.0, "of the camera, horizontal, in degrees: where the slider stands first")

    def __post_init__(self) -> None:
        for name, least in (("max_bytes", 1), ("max_pixels", 1), ("max_side", 32), ("max_points", 1), ("port", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least {least}")
        if not FIELDS_OF_VIEW[0] <= self.field_of_view <= FIELDS_OF_VIEW[1]:
            raise ValueError(f"--field_of_view is {self.field_of_view}; give {FIELDS_OF_VIEW[0]} to {FIELDS_OF_VIEW[1]} degrees")
        missing = [path for path in self.photos if not Path(path).is_file()]
        if missing:
            raise ValueError(f"--photos has {missing}, which are not there; give paths of photos")


# What comes in


def open_photo(path: str | None, limits: DemoArguments) -> Image.Image:
    """An upload as an upright RGB picture of at most `max_side`.

    Args:
        path: of the file, `None` if there is none.
        limits: in bytes and pixels.

    Raises:
        gr.Error: in one sentence for the person who uploaded it.
    """
    if path is None:
        raise refusal("There is no photo yet: drop one, take one, or choose an example.")
    size = Path(path).stat().st_size
    if size > limits.max_bytes:
        raise refusal(f"The file has {size:,} bytes; at most {limits.max_bytes:,} are allowed. Save it smaller.")
    try:
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
            pixels = picture.width * picture.height  # from the header: nothing was unpacked yet
            if pixels > limits.max_pixels:
                raise refusal(f"The photo has {picture.width:,} x {picture.height:,} pixels; at most {limits.max_pixels:,} are allowed.")
            photo = read_image(picture, "The photo")
    except Image.DecompressionBombError:
        raise refusal(f"The photo says that it has a huge number of pixels; at most {limits.max_pixels:,} are allowed.") from None
    except Image.UnidentifiedImageError:
        raise refusal(f"The file is empty or no photo that can be read; allowed are {', '.join(FORMATS)}.") from None
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow and `read_image` raise on broken data
        raise refusal(f"The photo cannot be read: {error}.") from None
    photo.thumbnail((limits.max_side, limits.max_side))
    return photo


def refusal(sentence: str) -> gr.Error:
    """What is told to the person; the log stays as it is."""
    return gr.Error(sentence, print_exception=False)


# What is read off the maps


def class_names(spec: TaskSpec) -> list[str]:
    """What the page calls each class of a task; nothing for a task of numbers."""
    return [spec.class_names[number] if spec.class_names else f"class {number}" for number in range(spec.channels * spec.is_classification)]


def numbers_file(maps: Mapping[str, np.ndarray]) -> bytes:
    """What the page reads values off: the numbers of all maps, one after the other, as little-endian float32 in gzip.

    The last 11 of a number's 24 binary digits are rounded away, since the page shows three decimal ones: that leaves about a fifth of
    the bytes.

    Args:
        maps: (height, width) or (channels, height, width) a task.
    """
    numbers = np.concatenate([values.ravel() for values in maps.values()]).astype("<f4")
    return gzip.compress(((numbers.view("<u4") + (1 << 10)) & ~np.uint32(0x7FF)).tobytes(), compresslevel=1)


def caption(spec: TaskSpec) -> str:
    """A task's name and unit, and the place where the page writes a value, as HTML."""
    return (
        f"<div class='map-caption'><b>{escape(spec.name)}</b> "
        f"<span><output data-task='{escape(spec.name)}'></output> {escape(spec.unit)}</span></div>"
    )


def legend_html(values: np.ndarray, spec: TaskSpec) -> str:
    """The caption, and what the colours mean: the classes that occur, a scale from the lowest to the highest colour, or the description."""
    return f"{caption(spec)}<div class='chips'>{_colors_meaning(values, spec)}</div>"


def _colors_meaning(values: np.ndarray, spec: TaskSpec) -> str:
    if spec.is_classification:
        return "".join(_chip(number, spec) for number in np.unique(values) if 0 <= number < spec.channels)
    if spec.channels > 1:
        return escape(spec.description)
    low, high = color_limits(values)
    data = io.BytesIO()
    colorize(np.linspace(low, high, 128)[None], spec, (low, high)).save(data, "PNG")
    return f"{low:.3g}<img alt='' src='data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}'>{high:.3g}"


def _chip(class_id: int, spec: TaskSpec) -> str:
    """A class's colour and name."""
    color = colorize(np.array([[class_id]]), spec).getpixel((0, 0))
    return f"<span><i style='background: rgb{color}'></i>{escape(class_names(spec)[class_id])}</span>"


def enlargement(height: int, width: int) -> int:
    """How many pixels of a picture on the page are one of the map, in each direction."""
    return max(1, SHOWN_SIDE // max(height, width))


# The view in 3D


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
    depth: np.ndarray, photo: np.ndarray, field_of_view: float, normals: np.ndarray | None = None, max_points: int = 30_000
) -> Points:
    """The surface that a depth map shows, as squares that together look like the photo from where it was taken.

    Each square is what a pixel sees of the plane through its point: across the pixel's four corner rays r it lies at the depth
    (n p) / (n r), n being the normal at the point p, at most [`MAX_TILT`] of the depth nearer or further.

    Args:
        depth: (height, width) metres along the optical axis; pixels that are not known, or not above 0, are left out.
        photo: (height, width, 3) uint8, the squares' colours.
        field_of_view: horizontal, degrees, of a pinhole camera that looks through the middle of the photo.
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
    return Points(rays[:, 1:] * depths[..., None], photo[rows, columns])


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


def with_meaning(specs: Mapping[str, TaskSpec], meaning: str) -> str | None:
    """Name of the first task that transformers calls so, if any."""
    return next((task for task, spec in specs.items() if spec.transformers_task == meaning), None)


# The page


class Shown(NamedTuple):
    """What a visitor has before the eyes, kept to answer the slider.

    Args:
        photo: (height, width, 3) uint8.
        maps: (height, width) or (channels, height, width) a task that was predicted.
    """

    photo: np.ndarray
    maps: dict[str, np.ndarray]


@dataclass
class Demo:
    """What the page's events call.

    Args:
        predictor: the model.
        arguments: limits.
        folder: where files for visitors are written; whoever made it removes it.
    """

    predictor: MultiTaskVisionPipeline
    arguments: DemoArguments
    folder: Path

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The model's tasks."""
        return self.predictor.model.config.task_specs

    def predict(self, path: str | None, tasks: list[str], field_of_view: float) -> list[Any]:
        """New contents of all outputs of the page: what is shown, a picture and a legend a task, values, view in 3D, download."""
        photo = open_photo(path, self.arguments)
        tasks = [task for task in self.specs if task in tasks]
        if not tasks:
            raise refusal("No map is chosen: tick at least one.")
        results = self.predictor(photo, tasks=tasks)
        shown = Shown(np.asarray(photo), {task: result["prediction"].cpu().numpy() for task, result in results.items()})
        tiles, zoom = [], enlargement(photo.height, photo.width)
        for task, spec in self.specs.items():
            ticked = task in results
            picture = ImageOps.scale(results[task]["image"], zoom, Image.Resampling.NEAREST) if ticked else None
            tiles.append(gr.update(value=picture, visible=ticked))
            tiles.append(gr.update(value=legend_html(shown.maps[task], spec) if ticked else "", visible=ticked))
        archive = self.archive(photo, {task: result["prediction"] for task, result in results.items()})
        return [shown, *tiles, self.readings(shown), self.view(shown, field_of_view), gr.update(value=archive, interactive=True)]

    def readings(self, shown: Shown) -> dict[str, Any]:
        """What `app.js` reads values off: the file of [`numbers_file`], the maps' size, names and channels in the file's order."""
        height, width = shown.photo.shape[:2]
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "values.bin"
        path.write_bytes(numbers_file(shown.maps))
        channels = [(task, values.size // (height * width)) for task, values in shown.maps.items()]
        return {"file": gr.FileData(path=str(path)).model_dump(), "height": height, "width": width, "channels": channels}

    def view(self, shown: Shown | None, field_of_view: float) -> str | None:
        """File of the view in 3D, if depth was predicted and is known anywhere."""
        depth, normals = (with_meaning(self.specs, meaning) for meaning in (DEPTH, NORMALS))
        if shown is None or depth not in shown.maps:
            return None
        points = point_cloud(shown.maps[depth], shown.photo, field_of_view, shown.maps.get(normals), self.arguments.max_points)
        if not len(points.corners):
            return None
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "points.glb"
        path.write_bytes(to_glb(points))
        return str(path)

    def archive(self, photo: Image.Image, predictions: Mapping[str, Any]) -> str:
        """ZIP of the maps as `mult-hf predict` writes them, with the card by which they are read back."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        results = Results(folder / "maps", {task: self.specs[task] for task in predictions})
        results.claim(self.arguments.model, {}, overwrite=False)
        results.write("photo", photo, predictions)
        path = shutil.make_archive(str(folder / "mult-maps"), "zip", folder / "maps")
        shutil.rmtree(folder / "maps")
        return path


def build(demo: Demo) -> gr.Blocks:
    """The page: what goes in and what is read on the left, what comes out on the right."""
    with gr.Blocks(title="MulT", analytics_enabled=False, fill_width=True, delete_cache=(HOUR, HOUR)) as page:
        shown = gr.State(time_to_live=HOUR)
        # A directory by its own name: visitors need not know where things lie on this machine.
        gr.Markdown(f"### MulT: one photo, one network, {len(demo.specs)} maps\nModel: `{public_name(demo.arguments.model)}`")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo, tasks, button = controls(demo)
                names = {task: class_names(spec) for task, spec in demo.specs.items() if spec.is_classification}
                readings = gr.HTML(html_template=HINT, js_on_load=READER.read_text(), class_names=names, unknown="not known")
                download = gr.DownloadButton("Download the raw maps (ZIP)", interactive=False)
            with gr.Column(scale=3, min_width=600):
                tiles = maps_grid(demo.specs)
                with gr.Row(visible=with_meaning(demo.specs, DEPTH) is not None):
                    view = gr.Model3D(label="Point cloud: drag to turn, wheel to zoom", height=300, scale=2, min_width=320)
                    fov = gr.Slider(
                        *FIELDS_OF_VIEW, demo.arguments.field_of_view, step=1, label="Horizontal field of view, degrees", min_width=240
                    )
        flat = [part for tile in tiles for part in tile]
        # Only the page itself calls these functions: no public API. Progress, and an error until it is closed, cover what they are
        # shown on: not the photo, which one will want to replace.
        button.click(
            demo.predict, [photo, tasks, fov], [shown, *flat, readings, view, download], api_visibility="private", show_progress_on=readings
        )
        fov.release(demo.view, [shown, fov], view, api_visibility="private")
    return page


def controls(demo: Demo) -> tuple[gr.Image, gr.CheckboxGroup, gr.Button]:
    """The photo, which maps, and the button."""
    photo = gr.Image(type="filepath", sources=["upload", "webcam", "clipboard"], label="Photo", height=230)
    # Gradio would open the file itself, before our limits and without a sentence for the person.
    photo.preprocess = lambda payload: None if payload is None else payload.path
    gr.Examples([[path] for path in demo.arguments.photos], photo)
    tasks = gr.CheckboxGroup([*demo.specs], value=[*demo.specs], label="Maps")
    return photo, tasks, gr.Button("Predict", variant="primary")


def maps_grid(specs: Mapping[str, TaskSpec]) -> list[tuple[gr.Image, gr.HTML]]:
    """A picture and a legend a task, several in a row."""
    tiles, entries = [], [*specs.values()]
    for first in range(0, len(entries), COLUMNS):
        with gr.Row():
            for spec in entries[first : first + COLUMNS]:
                with gr.Column(min_width=180, elem_classes="tile"):
                    picture = gr.Image(
                        show_label=False,
                        height=260,
                        interactive=False,
                        format="png",
                        buttons=["fullscreen", "download"],
                        elem_classes="map",
                    )
                    tiles.append((picture, gr.HTML(caption(spec), padding=False)))
    return tiles


def launch(arguments: DemoArguments, folder: Path, **options: Any) -> gr.Blocks:
    """Load the model and serve the page.

    Args:
        arguments: the flags.
        folder: where uploads and results lie while the page is served.
        options: of Gradio's `launch`, for tests.

    Raises:
        SystemExit: if the model cannot be loaded or the port not be opened, with the reason.
    """
    try:
        predictor = pipeline("multitask-vision", model=arguments.model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"--model is {arguments.model}, which cannot be loaded; give a directory or Hub id of a MulT model: {error}"
        ) from None
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    page = build(Demo(predictor, arguments, folder))
    try:
        page.launch(
            server_name=arguments.host,
            server_port=arguments.port or None,
            max_file_size=arguments.max_bytes,
            share=False,
            show_error=True,  # what was not foreseen is told, too
            state_session_capacity=32,  # visitors whose maps are kept in memory
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # no fonts from elsewhere
            css=STYLE,
            **options,
        )
    except OSError as error:
        raise SystemExit(
            f"--host {arguments.host} --port {arguments.port} cannot be listened at; take another --port, or 0 for a free one: {error}"
        ) from None
    return page


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted; `argv` are those of the command line by default."""
    arguments = parse_arguments(DemoArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    with tempfile.TemporaryDirectory(prefix="mult-demo-") as folder:
        launch(arguments, Path(folder))


if __name__ == "__main__":
    main()
