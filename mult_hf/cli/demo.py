"""Serve a web page that predicts maps of an image: every map with its legend and values, a point cloud, and raw maps.

    mult-hf demo
    mult-hf demo --model me/mult --host 0.0.0.0 --max_side 512      # for others on the network; see docs/demo.md

Everything about tasks comes from the model's own entries, so a model with a seventh task shows seven maps.
"""

import base64
import gzip
import io
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import pipeline

try:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError as error:
    raise ImportError(f'the demo needs Gradio ({error}); install it with: pip install "mult-hf[demo]"') from error

from mult_hf import DEFAULT_CHECKPOINT, MultiTaskVisionPipeline, TaskSpec
from mult_hf.data.cores import threads_per_process
from mult_hf.evaluation.cards import public_name, trained_on
from mult_hf.inference.output import PredictionDirectory
from mult_hf.inference.point_cloud import point_cloud, to_glb
from mult_hf.inference.runtimes import check_runtime, with_runtime
from mult_hf.model.cameras import FocalLength, exif_focal_length
from mult_hf.model.images import read_image, readable_formats
from mult_hf.model.visualization import color_limits, colorize

from .arguments import check_bounds, flag, parse_arguments
from .errors import CommandError
from .runtime_flags import dtype_flag, runtime_flag
from .signals import exiting_on_sigterm

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "HEIF")
"""Allowed formats of uploads; HEIF, as phones write it, needs pillow-heif. Pillow reads more, but some start other programs (EPS) or are
rarely tested."""

FIELDS_OF_VIEW = (20, 120)
"""Range of the slider in degrees."""

SHOWN_SIDE = 512
"""Smaller maps are enlarged by an integer factor up to this side, because the page does not enlarge images."""

HOUR = 3600  # seconds

# Names in transformers of the tasks that the point cloud needs.
DEPTH = "depth-estimation"
NORMALS = "normal-estimation"

HINT = "Point at a map: every map's caption shows its value there."
READER = Path(__file__).with_suffix(".js")
STYLE = """
.map img {cursor: crosshair}
.chips {display: flex; flex-wrap: wrap; gap: 2px 10px; font-size: 12px; min-height: 18px; padding: 0 4px}
.chips i {display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 4px; vertical-align: -1px}
.chips img {flex: 1; height: 11px; min-width: 40px; border-radius: 2px; align-self: center; object-fit: fill}
.maps {display: grid !important; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 12px}
.maps .tile {min-width: 0 !important} .map {aspect-ratio: 1}
@media (max-width: 700px) {.maps {grid-template-columns: repeat(2, minmax(0, 1fr))}}
.chips:has(> img) {flex-wrap: nowrap}
.tile {gap: 6px !important} .tile .html-container {padding: 0 4px !important}
.map-caption {padding: 0 4px} .map-caption span {display: block}
.map-caption span {color: var(--neutral-500); font-variant-numeric: tabular-nums}
.map-caption output {display: inline; font-weight: bold; color: var(--body-text-color)}
"""


@dataclass
class DemoArguments:
    """Model, address and limits; each field is a flag, and a key of the file that `--config` names."""

    model: str = flag(DEFAULT_CHECKPOINT, "directory or Hub id of the model; by default the one in the package")
    config: Path | None = flag(None, "YAML or JSON file of flags; flags on the command line take precedence")
    host: str = flag("127.0.0.1", "address to listen on; 0.0.0.0 opens the page to everyone on the network, without a password")
    port: int = flag(7860, "port to listen on; 0 chooses a free one")
    images: list[str] | None = flag(None, "image files to offer as examples")
    max_bytes: int = flag(20_000_000, "largest upload")
    max_pixels: int = flag(50_000_000, "largest number of pixels of an upload, read from its header before decoding")
    max_side: int = flag(1024, "longest side in pixels; larger images are scaled down to it, and their maps with them")
    runtime: str = runtime_flag()
    dtype: str = dtype_flag()
    max_points: int = flag(30_000, "largest number of points of the point cloud")
    field_of_view: float = flag(60.0, "horizontal field of view of the camera in degrees, the slider's initial value")

    def __post_init__(self) -> None:
        check_runtime(self.runtime, self.dtype)
        check_bounds(self, {0: ["port"], 1: ["max_bytes", "max_pixels", "max_points"], 32: ["max_side"]})
        if not FIELDS_OF_VIEW[0] <= self.field_of_view <= FIELDS_OF_VIEW[1]:
            raise ValueError(f"--field_of_view is {self.field_of_view}; give {FIELDS_OF_VIEW[0]} to {FIELDS_OF_VIEW[1]} degrees")
        missing = [path for path in self.images or [] if not Path(path).is_file()]
        if missing:
            raise ValueError(f"--images has {missing}, which do not exist; give paths of images")


# Input


def open_image(path: str | None, limits: DemoArguments) -> Image.Image:
    """Open an upload as an upright RGB image with sides of at most `max_side`.

    Args:
        path: path of the file, or `None` if there is none.
        limits: limits in bytes and pixels.

    Raises:
        gr.Error: with a message for the visitor.
    """
    if path is None:
        raise refusal("There is no image yet: upload one, take one with the webcam, or choose an example.")
    formats, size = [name for name in FORMATS if name in readable_formats()], Path(path).stat().st_size
    if size > limits.max_bytes:
        raise refusal(f"The file has {size:,} bytes; at most {limits.max_bytes:,} are allowed. Save a smaller version.")
    try:
        with open(path, "rb") as file, Image.open(file, formats=formats) as upload:
            pixels = upload.width * upload.height  # from the header, before decoding
            if pixels > limits.max_pixels:
                raise refusal(f"The image has {upload.width:,} x {upload.height:,} pixels; at most {limits.max_pixels:,} are allowed.")
            image = cast(Image.Image, read_image(upload, "The image"))  # as a file is read
    except Image.DecompressionBombError:
        raise refusal(f"The image's header states a huge number of pixels; at most {limits.max_pixels:,} are allowed.") from None
    except Image.UnidentifiedImageError:
        raise refusal(f"The file is empty or not a readable image; allowed formats are {', '.join(formats)}.") from None
    except (OSError, SyntaxError, ValueError) as error:  # raised by Pillow and `read_image` on broken data
        raise refusal(f"The image cannot be read: {error}.") from None
    image.thumbnail((limits.max_side, limits.max_side))
    return image


def refusal(sentence: str) -> gr.Error:
    """An error that is shown on the page but not logged."""
    return gr.Error(sentence, print_exception=False)


def uploads_only(image: gr.Image) -> None:
    """Keep an input from fetching URLs, which a handcrafted request can contain in place of an upload.

    Otherwise strangers could reach services of the server's machine and network through it. Gradio refuses private addresses, but
    fetches all others, of any size.
    """
    move = image.async_move_resource_to_block_cache

    async def move_upload(path: str | Path | None) -> str | None:
        if "://" in str(path):
            raise refusal(f"The image is the URL {str(path)[:100]!r}, and this server fetches none: download the image, then upload it.")
        return await move(path)

    cast(Any, image).async_move_resource_to_block_cache = move_upload


class NoUrls:
    """Refuses requests for the file at a URL, which Gradio would otherwise fetch for anyone.

    Args:
        app: application that answers all other requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_url = scope["type"] == "http" and re.search(r"/file=\s*[a-z][a-z0-9+.-]*:", scope["path"], re.IGNORECASE)
        answer = PlainTextResponse("This server fetches no URLs.", status_code=403) if is_url else self.app
        await answer(scope, receive, send)


# Values and legends


def class_names(spec: TaskSpec) -> list[str]:
    """Names of a task's classes on the page; empty for a task of numbers."""
    return [spec.class_names[number] if spec.class_names else f"class {number}" for number in range(spec.channels * spec.is_classification)]


def numbers_file(maps: Mapping[str, np.ndarray]) -> bytes:
    """The file with the values that the page shows: the numbers of all maps in order, as gzipped little-endian float32.

    Each number is rounded to 13 of its 24 significant bits, because the page shows three decimal digits. This reduces the file to
    about a fifth.

    Args:
        maps: (height, width) or (channels, height, width) by task.
    """
    numbers = np.concatenate([values.ravel() for values in maps.values()]).astype("<f4")
    return gzip.compress(((numbers.view("<u4") + (1 << 10)) & ~np.uint32(0x7FF)).tobytes(), compresslevel=1, mtime=0)


def caption(spec: TaskSpec) -> str:
    """HTML of a task's name and unit, with the element in which the page shows a value."""
    return (
        f"<div class='map-caption'><b>{escape(spec.name)}</b> "
        f"<span><output data-task='{escape(spec.name)}'></output> {escape(spec.unit)}</span></div>"
    )


def legend_html(values: np.ndarray, spec: TaskSpec) -> str:
    """HTML of the caption and the meaning of the colours: the classes that occur, a colour scale, or the task's description."""
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
    """Pixels of an image on the page per pixel of the map, in each direction."""
    return max(1, SHOWN_SIDE // max(height, width))


def focal_length_of_view(degrees: float, width: int) -> float:
    """Focal length in pixels of a camera with this horizontal field of view."""
    return width / 2 / math.tan(math.radians(degrees) / 2)


def with_meaning(specs: Mapping[str, TaskSpec], meaning: str) -> str | None:
    """Name of the first task with this name in transformers, if any."""
    return next((task for task, spec in specs.items() if spec.transformers_task == meaning), None)


# The page


class Shown(NamedTuple):
    """Image and maps on a visitor's page, kept for the slider.

    Args:
        image: (height, width, 3) uint8.
        maps: (height, width) or (channels, height, width) by predicted task.
        camera: the focal length that the metres of depth are for, in pixels, with its source; None without a canonical camera.
    """

    image: np.ndarray
    maps: dict[str, np.ndarray]
    camera: FocalLength | None = None


@dataclass
class Demo:
    """The functions that the page's events call.

    Args:
        predictor: the model.
        arguments: the flags, with the limits.
        folder: folder for visitors' files; the caller removes it.
    """

    predictor: MultiTaskVisionPipeline
    arguments: DemoArguments
    folder: Path

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The model's tasks."""
        return self.predictor.model.config.task_specs

    def predict(self, path: str | None, tasks: list[str], field_of_view: float) -> list[Any]:
        """New contents of all outputs of the page: state, an image and a legend per task, values, point cloud, download."""
        image = open_image(path, self.arguments)
        tasks = [task for task in self.specs if task in tasks]
        if not tasks:
            raise refusal("No map is selected: tick at least one.")
        try:
            results = self.predictor(image, tasks=tasks, focal_length=self.focal_length(image, field_of_view))
        except ValueError as error:  # a shape that the model does not take
            raise refusal(f"The image cannot be predicted: {error}.") from None
        maps = {task: result["prediction"].cpu().numpy() for task, result in results.items()}
        shown = Shown(np.asarray(image), maps, results.get(with_meaning(self.specs, DEPTH), {}).get("focal_length"))
        tiles, zoom = [], enlargement(image.height, image.width)
        for task, spec in self.specs.items():
            ticked = task in results
            shown_map = ImageOps.scale(results[task]["image"], zoom, Image.Resampling.NEAREST) if ticked else None
            legend = legend_html(shown.maps[task], spec) if ticked else f"{caption(spec)}<div class='chips'>not predicted: tick it</div>"
            tiles += [gr.update(value=shown_map), gr.update(value=legend)]
        archive = self.archive(image, {task: result["prediction"] for task, result in results.items()})
        return [shown, *tiles, self.readings(shown), self.view(shown, field_of_view), gr.update(value=archive, interactive=True)]

    def predict_at_once(self, path: str | None, tasks: list[str], field_of_view: float) -> Any:
        """The same as soon as there is an image; without one, after the visitor removed it, the page stays as it is."""
        return gr.skip() if path is None else self.predict(path, tasks, field_of_view)

    def focal_length(self, image: Image.Image, field_of_view: float) -> float | None:
        """That of the slider in pixels, if the model needs one and the image's EXIF has none."""
        if self.predictor.image_processor.canonical_focal_length is None or exif_focal_length(image) is not None:
            return None
        return focal_length_of_view(field_of_view, image.width)

    def readings(self, shown: Shown) -> dict[str, Any]:
        """Input of `demo.js`: the file of [`numbers_file`], and the maps' size, names and channels in the file's order."""
        height, width = shown.image.shape[:2]
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "values.bin"
        path.write_bytes(numbers_file(shown.maps))
        channels = [(task, values.size // (height * width)) for task, values in shown.maps.items()]
        return {"file": gr.FileData(path=str(path)).model_dump(), "height": height, "width": width, "channels": channels}

    def view(self, shown: Shown | None, field_of_view: float) -> str | None:
        """File of the point cloud, if depth was predicted and is known anywhere."""
        depth, normals = (with_meaning(self.specs, meaning) for meaning in (DEPTH, NORMALS))
        if shown is None or depth not in shown.maps:
            return None
        normals_map = None if normals is None else shown.maps.get(normals)
        metres, width = shown.maps[depth], shown.image.shape[1]
        if shown.camera is not None and shown.camera.source == "EXIF":
            field_of_view = 2 * math.degrees(math.atan(width / 2 / shown.camera.pixels))
        elif shown.camera is not None:  # the slider may have moved since the prediction
            ratio = focal_length_of_view(field_of_view, width) / shown.camera.pixels
            metres = metres * ratio ** -self.specs[depth].zoom_exponent
        points = point_cloud(metres, shown.image, field_of_view, normals_map, self.arguments.max_points)
        if not len(points.corners):
            return None
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "points.glb"
        path.write_bytes(to_glb(points))
        return str(path)

    def archive(self, image: Image.Image, predictions: Mapping[str, Any]) -> str:
        """ZIP of the maps as `mult-hf predict` writes them, with the card that describes their encodings."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        directory = PredictionDirectory(folder / "maps", {task: self.specs[task] for task in predictions})
        directory.claim(public_name(self.arguments.model), {}, overwrite=False)
        directory.write("image", image, predictions)
        path = shutil.make_archive(str(folder / "mult-maps"), "zip", folder / "maps")
        shutil.rmtree(folder / "maps")
        return path


def build(demo: Demo) -> gr.Blocks:
    """The page: input and values on the left, maps and point cloud on the right."""
    with gr.Blocks(title="MulT", analytics_enabled=False, fill_width=True, delete_cache=(HOUR, HOUR)) as page:
        shown = gr.State(time_to_live=HOUR)
        # Only the last name of a directory: visitors must not see paths of this machine.
        data = trained_on(demo.arguments.model)
        gr.Markdown(
            f"### MulT: one image, one network, {len(demo.specs)} maps\nModel: `{public_name(demo.arguments.model)}`"
            + (f", trained on {data}; expect less of other scenes" if data else "")
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                image, tasks, button = controls(demo)
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
        inputs, outputs = [image, tasks, fov], [shown, *flat, readings, view, download]
        # Only the page calls these functions: no public API. Progress covers the maps, not the image, which the visitor may replace.
        options: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress_on": [tile for tile, _ in tiles],
            "concurrency_id": "predict",  # one prediction at a time
        }
        button.click(demo.predict, inputs, outputs, **options)
        image.change(demo.predict_at_once, inputs, outputs, **options)
        fov.release(demo.view, [shown, fov], view, api_visibility="private")
    return page


def controls(demo: Demo) -> tuple[gr.Image, gr.CheckboxGroup, gr.Button]:
    """The image, the choice of maps, and the button."""
    image = gr.Image(type="filepath", sources=["upload", "webcam", "clipboard"], label="Image", height=230)
    # Gradio would open the file itself, before our limits and without a message for the visitor.
    image.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]  # on purpose, see above
    uploads_only(image)
    if demo.arguments.images:
        gr.Examples([[path] for path in demo.arguments.images], image)
    tasks = gr.CheckboxGroup([*demo.specs], value=[*demo.specs], label="Maps")
    return image, tasks, gr.Button("Predict", variant="primary")


def maps_grid(specs: Mapping[str, TaskSpec]) -> list[tuple[gr.Image, gr.HTML]]:
    """An image and a legend per task, several in a row."""
    tiles = []
    with gr.Row(elem_classes="maps"):
        for spec in specs.values():
            with gr.Column(min_width=0, elem_classes="tile"):
                tile = gr.Image(
                    label=spec.name,
                    show_label=False,
                    height="100%",
                    interactive=False,
                    format="png",
                    buttons=["fullscreen", "download"],
                    elem_classes="map",
                )
                tiles.append((tile, gr.HTML(caption(spec), padding=False)))
    return tiles


def launch(arguments: DemoArguments, folder: Path, **options: Any) -> gr.Blocks:
    """Load the model and serve the page.

    Args:
        arguments: the flags.
        folder: folder for uploads and predictions while the page is served.
        options: options of Gradio's `launch`, for tests.

    Raises:
        CommandError: if the model cannot be loaded, or the port cannot be opened.
    """
    try:
        # The types of `pipeline` list transformers' own tasks only.
        predictor = cast(Any, pipeline)("multitask-vision", model=arguments.model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CommandError(
            f"--model is {arguments.model}, which cannot be loaded; give a directory or Hub id of a MulT model: {error}"
        ) from None
    predictor.model = with_runtime(predictor.model, arguments.runtime, arguments.dtype, threads=torch.get_num_threads())
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    page = build(Demo(predictor, arguments, folder))
    try:
        page.launch(
            server_name=arguments.host,
            server_port=arguments.port or None,
            max_file_size=arguments.max_bytes,
            share=False,
            show_error=True,  # also errors of other libraries
            state_session_capacity=32,  # visitors whose maps are kept in memory
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # no web fonts
            css=STYLE,
            app_kwargs={"middleware": [Middleware(NoUrls)]},
            **options,
        )
    except OSError as error:
        raise CommandError(
            f"--host {arguments.host} --port {arguments.port} cannot be opened; choose another --port, or 0 for a free one: {error}"
        ) from None
    return page


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted.

    Args:
        argv: the command line; by default that of this process.

    Raises:
        ValueError: if a flag is out of bounds.
        CommandError: if the model cannot be loaded, or the port cannot be opened.
    """
    arguments = parse_arguments(DemoArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0], prog="mult-hf demo")
    torch.set_num_threads(threads_per_process(None, 1))
    with exiting_on_sigterm(), tempfile.TemporaryDirectory(prefix="mult-demo-") as folder:
        launch(arguments, Path(folder))
