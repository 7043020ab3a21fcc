"""Proves that the demo shows every task of a model from its entry, that its download reads back, and that the page explains problems
with an upload.
"""

import gzip
import json
import math
import shutil
import socket
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image

gr = pytest.importorskip("gradio", reason='the demo needs Gradio: pip install "mult-hf[demo]"')

from mult_hf import MulTImageProcessor, MultiTaskVisionPipeline, TaskSpec, registered_tasks  # noqa: E402
from mult_hf.cli import demo as app  # noqa: E402
from mult_hf.cli.errors import CommandError  # noqa: E402
from mult_hf.inference.point_cloud import point_cloud  # noqa: E402
from mult_hf.inference.stored_maps import load_stored_forms, precision, read_map  # noqa: E402

SPECS = registered_tasks()
LIMITS = app.DemoArguments(max_bytes=100_000, max_pixels=10_000, max_side=64, max_points=500)
CURVATURE = TaskSpec(name="principal_curvature", kind="regression", channels=2, unit="1/m", colormap="vectors", description="How it bends.")
ODD_CLASSES = replace(SPECS["segmentation"], channels=3, class_names=("<i>a</i>", "b ${1 + 1} {{value}}", "c"))
CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()


def image_file(path, size=(60, 40), **options):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)).save(path, **options)
    return str(path)


def png_that_says_it_is(width, height):
    """Signature and header of a PNG and the start of its pixels: 41 bytes that can claim any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 1000) + b"IDAT"


# Input


def test_an_image_is_opened_upright_and_scaled_down_to_the_longest_allowed_side(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = image_file(tmp_path / "image.jpg", size=(96, 48), exif=exif)
    assert app.open_image(path, LIMITS).size == (32, 64)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"These are words.", "not a readable image; allowed formats are JPEG"),
        (b"", "empty or not a readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n", "not a readable image"),
        (b"x" * 100_001, "100,001 bytes; at most 100,000"),
        (png_that_says_it_is(101, 100), "101 x 100 pixels; at most 10,000"),
        (png_that_says_it_is(2_000_000, 2_000_000), "huge number of pixels; at most 10,000"),
        (png_that_says_it_is(50, 50), "cannot be read: "),
    ],
    ids=["words", "empty", "a program in PostScript", "bytes", "pixels", "bomb", "broken"],
)
def test_an_error_message_explains_what_is_wrong_with_an_upload_without_paths(tmp_path, content, sentence):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(gr.Error) as raised:
        app.open_image(str(path), LIMITS)
    assert sentence in raised.value.message
    assert str(tmp_path) not in raised.value.message
    assert not raised.value.print_exception  # nothing in the log


def test_predicting_without_an_image_gives_an_instruction():
    with pytest.raises(gr.Error, match="There is no image yet"):
        app.open_image(None, LIMITS)


# Values and legends


def test_the_page_gets_the_values_of_all_maps_within_a_ten_thousandth():
    """Four times as precise as the three digits shown; class ids and unknown values are unchanged."""
    rng = np.random.default_rng(0)
    maps = {"segmentation": rng.integers(0, 255, (40, 60)), "depth": rng.uniform(0, 10, (40, 60)), "normals": rng.normal(size=(3, 40, 60))}
    maps["segmentation"][0, 0], maps["depth"][0, 0] = 255, np.nan
    data = app.numbers_file(maps)
    numbers = np.split(np.frombuffer(gzip.decompress(data), "<f4").reshape(-1, 40, 60), [1, 2])
    np.testing.assert_array_equal(numbers[0][0], maps["segmentation"])
    np.testing.assert_allclose(numbers[1][0], maps["depth"], rtol=2**-13 * 1.01)
    np.testing.assert_allclose(numbers[2], maps["normals"], rtol=2**-13 * 1.01)
    assert len(data) < 0.75 * 4 * 5 * 40 * 60, "of noise, which compresses worst; float32 has 4 bytes a number"


def test_a_class_without_a_name_is_called_by_its_number_and_numbers_have_no_classes():
    assert app.class_names(SPECS["segmentation"])[2] == "chair"
    assert app.class_names(replace(SPECS["segmentation"], class_names=()))[2] == "class 2"
    assert app.class_names(SPECS["depth"]) == []


def test_a_legend_lists_the_classes_that_occur_in_the_colours_of_the_map():
    legend = app.legend_html(np.array([[2, 2], [5, 255]]), SPECS["segmentation"])
    assert "chair" in legend
    assert "bed" in legend
    assert "couch" not in legend
    color = app.colorize(np.array([[2]]), SPECS["segmentation"]).getpixel((0, 0))
    assert f"rgb{color}" in legend


def test_a_legend_of_numbers_is_a_scale_and_of_vectors_their_description():
    assert "1<img" in (scale := app.legend_html(np.array([[1.0, 1.0], [1.0, 1.0]]), SPECS["depth"]))
    assert "<b>depth</b>" in scale
    assert "<output data-task='depth'></output> m<" in scale
    assert "How it bends." in app.legend_html(np.zeros((2, 2, 2)), CURVATURE)


def test_names_from_a_model_cannot_insert_markup_into_the_page():
    spec = replace(SPECS["segmentation"], channels=2, class_names=("<script>", "b"), unit="<i>")
    html = app.legend_html(np.zeros((1, 1), np.int64), spec)
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "&lt;i&gt;" in html


# The page


@pytest.fixture
def demo(shallow_model, tmp_path):
    """A tiny random model of the six tasks and a seventh."""
    model = shallow_model(tasks=[*SPECS, CURVATURE])
    (tmp_path / "served").mkdir()
    return app.Demo(MultiTaskVisionPipeline(model), LIMITS, tmp_path / "served")


def test_a_seventh_task_has_an_image_a_legend_a_value_and_a_checkbox(demo, tmp_path):
    shown, *tiles, readings, view, _ = demo.predict(image_file(tmp_path / "a.png"), [*demo.specs], 60)
    assert list(shown.maps) == [*SPECS, CURVATURE.name]
    assert len(tiles) == 2 * 7
    assert tiles[-2]["value"].size == (8 * 60, 8 * 40)  # enlarged to be seen
    assert "How it bends." in tiles[-1]["value"]
    assert readings["channels"][-1] == (CURVATURE.name, 2)
    assert Path(view).read_bytes().startswith(b"glTF")
    kinds = [type(block).__name__ for block in app.build(demo).blocks.values()]
    assert kinds.count("Image") == 1 + 7


def test_only_ticked_maps_are_computed_and_shown(demo, tmp_path):
    shown, *tiles, _, view, _ = demo.predict(image_file(tmp_path / "a.png"), ["normals"], 60)
    assert list(shown.maps) == ["normals"]
    assert [tile["value"] is not None for tile in tiles[::2]] == [task == "normals" for task in demo.specs]
    assert ["not predicted: tick it" in legend["value"] for legend in tiles[1::2]] == [task != "normals" for task in demo.specs]
    assert view is None  # without depth there is none
    with pytest.raises(gr.Error, match="tick at least one"):
        demo.predict(image_file(tmp_path / "a.png"), [], 60)


def test_without_an_image_the_page_stays_as_it_is_until_someone_asks(demo):
    assert demo.predict_at_once(None, [*demo.specs], 60) == gr.skip()
    with pytest.raises(gr.Error, match="There is no image yet"):
        demo.predict(None, [*demo.specs], 60)


@pytest.mark.parametrize(
    ("card", "line"), [("mult_trained_on: my rooms", ", trained on my rooms; expect less of other scenes"), ("a: 1", "")]
)
def test_the_page_says_what_the_model_was_trained_on_if_its_card_does(demo, tmp_path, card, line):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text(f"---\n{card}\n---\n")
    demo.arguments = replace(LIMITS, model=str(tmp_path / "mine"))
    (text,) = [block.value for block in app.build(demo).blocks.values() if isinstance(block, gr.Markdown)]
    assert text.endswith(f"Model: `mine`{line}")


def test_the_page_says_that_an_image_is_too_long_for_a_model_that_keeps_aspect_ratios(demo, tmp_path):
    demo.predictor.image_processor = MulTImageProcessor(size={"shortest_edge": 32}, tasks=[*demo.specs.values()])
    with pytest.raises(gr.Error, match="The image cannot be predicted: image 0 has 1 x 64 pixels") as raised:
        demo.predict(image_file(tmp_path / "a.png", size=(90, 1)), ["depth"], 60)
    assert not raised.value.print_exception


def test_the_download_reads_back_as_the_shown_maps(demo, tmp_path):
    shown, *_, download = demo.predict(image_file(tmp_path / "a.png"), [*demo.specs], 60)
    with zipfile.ZipFile(download["value"]) as archive:
        archive.extractall(tmp_path / "maps")
    stored = load_stored_forms(tmp_path / "maps")
    assert list(stored) == [*demo.specs]
    for task, spec in stored.items():
        (path,) = (tmp_path / "maps/maps" / task).iterdir()
        np.testing.assert_allclose(read_map(path, spec).squeeze(), shown.maps[task], atol=precision(spec) + 1e-6)


def test_the_page_gets_the_address_of_the_values_and_their_tasks(demo, tmp_path):
    shown, *_, readings, _, _ = demo.predict(image_file(tmp_path / "a.png"), ["normals", "depth"], 60)
    assert (readings["height"], readings["width"]) == (40, 60)
    assert readings["channels"] == [("depth", 1), ("normals", 3)]
    assert Path(readings["file"]["path"]).read_bytes() == app.numbers_file(shown.maps)


def test_a_wider_lens_makes_the_view_wider(demo, tmp_path):
    shown, *_ = demo.predict(image_file(tmp_path / "a.png"), ["depth"], 60)
    narrow, wide = (Path(demo.view(shown, degrees)).read_bytes() for degrees in (40, 100))
    assert narrow != wide


@pytest.mark.parametrize("millimetres", [None, 26])
def test_depth_and_point_cloud_have_the_same_camera(demo, tmp_path, monkeypatch, millimetres):
    """The EXIF's, or else the slider's, also after it moved; in a portrait image the horizontal angle is not that of the longer side."""
    demo.predictor.image_processor.canonical_focal_length = 50.0
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = millimetres or 0
    clouds = []

    def recorded(depth, image, degrees, *rest):
        clouds.append((depth, degrees))
        return point_cloud(depth, image, degrees, *rest)

    monkeypatch.setattr(app, "point_cloud", recorded)
    shown, *_ = demo.predict(image_file(tmp_path / "a.jpg", (40, 60), exif=exif), ["depth"], 90)
    demo.view(shown, 53.13010235415598)  # 2 atan(1 / 2): half the image's width over its focal length
    (depth, degrees), (moved, moved_degrees) = clouds
    np.testing.assert_array_equal(depth, shown.maps["depth"])
    if millimetres is None:
        assert shown.camera == (pytest.approx(20.0), "given"), "40 pixels wide, 90 degrees"
        assert (degrees, moved_degrees) == (90, pytest.approx(53.13, abs=0.01))
        np.testing.assert_allclose(moved, 2 * depth, rtol=1e-6)
    else:
        stated = 26 / math.hypot(36, 24) * math.hypot(40, 60)
        assert shown.camera == (pytest.approx(stated), "EXIF")
        assert degrees == moved_degrees == pytest.approx(2 * math.degrees(math.atan(20 / stated)))
        np.testing.assert_array_equal(moved, depth)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_side": 31}, "--max_side is 31; it must be at least 32"),
        ({"field_of_view": 180.0}, "--field_of_view is 180.0; give 20 to 120"),
        ({"images": ["nowhere.jpg"]}, "nowhere.jpg"),
    ],
)
def test_invalid_flags_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        app.DemoArguments(**values)


def test_the_demo_listens_on_this_machine_only_by_default():
    assert app.DemoArguments().host == "127.0.0.1"


def test_a_missing_model_ends_the_program_with_a_one_line_error(tmp_path):
    with pytest.raises(CommandError, match=r"nowhere, which cannot be loaded; give a directory or Hub id"):
        app.launch(app.DemoArguments(model=str(tmp_path / "nowhere")), tmp_path)


def test_a_port_in_use_ends_the_program_with_a_one_line_error(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(app, "pipeline", lambda *args, **kwargs: demo.predictor)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=rf"--port {port} cannot be opened; choose another --port, or 0"):
            app.launch(app.DemoArguments(port=port), tmp_path, prevent_thread_lock=True, quiet=True)


# Served


@pytest.fixture
def served(shallow_model, tmp_path, monkeypatch):
    """The address of a page with a tiny random model of seven tasks."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # so that what `launch` sets ends with this test
    model = shallow_model(tasks=[ODD_CLASSES, *list(SPECS)[1:], CURVATURE])
    model.save_pretrained(tmp_path / "model")
    MultiTaskVisionPipeline(model).image_processor.save_pretrained(tmp_path / "model")
    (tmp_path / "served").mkdir()
    arguments = replace(LIMITS, model=str(tmp_path / "model"), port=0)
    page = app.launch(arguments, tmp_path / "served", prevent_thread_lock=True, quiet=True)
    yield page.local_url
    page.close()


def answer(address, image):
    """The last message of the server about a prediction of `image`, sent as the page sends it."""
    session = {"session_hash": "visitor"}
    joined = {"data": [image, ["depth"], 60], "fn_index": 0, **session}
    httpx.post(f"{address}gradio_api/queue/join", json=joined).raise_for_status()
    with httpx.stream("GET", f"{address}gradio_api/queue/data", params=session, timeout=60) as events:
        messages = (json.loads(line.removeprefix("data:")) for line in events.iter_lines() if line.startswith("data:"))
        return next(message for message in messages if message["msg"] == "process_completed")


def test_a_request_with_an_upload_is_answered_and_one_with_a_url_is_refused_without_fetching_it(served, tmp_path, monkeypatch):
    """The page sends no URLs; a stranger may."""
    with open(image_file(tmp_path / "image.png"), "rb") as file:
        (path,) = httpx.post(f"{served}gradio_api/upload", files={"files": file}).json()
    meta = {"_type": "gradio.FileData"}
    assert answer(served, {"path": path, "meta": meta})["success"], "premise: this is how the page asks"
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_get", lambda url: pytest.fail(f"fetched {url}"))
    for url in ("http://127.0.0.1:1/secret", "https://example.org/image.png"):
        for payload in ({"path": url, "meta": meta}, {"path": url, "url": url, "meta": meta}):
            refused = answer(served, payload)
            assert not refused["success"]
            assert "this server fetches none: download the image, then upload it" in refused["output"]["error"]
    assert not answer(served, {"path": "HTTP://example.org/image.png", "meta": meta})["success"], "no upload either"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/secret", "https://example.org/a.png", "HTTPS://example.org", "http%3A//example.org"])
def test_the_server_is_no_proxy(served, monkeypatch, url):
    monkeypatch.setattr("safehttpx.async_validate_url", lambda host: pytest.fail(f"asked for {host}"))
    for method in ("GET", "HEAD"):
        response = httpx.request(method, f"{served}gradio_api/file={url}")
        assert (response.status_code, response.text) == (403, "This server fetches no URLs." if method == "GET" else "")


# In a browser

UNNAMED = """() => [...document.querySelectorAll("button, a, input:not([type=file])")].filter((control) => control.offsetParent !== null
  && !control.ariaLabel && !control.title && !control.innerText.trim() && !control.labels?.length)"""
"""A function of the page that lists what a screen reader would call a button, a link or a field without saying which."""


@pytest.fixture
def browser():
    """Headless Chromium of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium here; on Debian: apt-get install -y chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)


@pytest.mark.slow
def test_in_a_browser_it_predicts_reads_downloads_and_refuses_and_contacts_no_other_server(browser, served, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served)
    upload, predict = page.locator("input[type=file]").first, page.get_by_role("button", name="Predict")

    predict.click()
    page.get_by_text("There is no image yet").wait_for()

    words = tmp_path / "words.png"
    words.write_text("These are words.")
    upload.set_input_files(words)
    page.get_by_text("not a readable image").wait_for()

    page.reload()
    upload.set_input_files(image_file(tmp_path / "large.png", size=(300, 200)))
    page.get_by_text("exceed the maximum allowed size").wait_for()
    words = tmp_path / "words.txt"
    words.write_text("These are words.")
    upload.set_input_files(words)
    page.get_by_text("Only image/* allowed").wait_for()

    page.reload()
    upload.set_input_files(image_file(tmp_path / "image.png"))
    page.get_by_text("Pixel 30 from the left, 20 from the top").wait_for()
    assert page.locator(".map").count() == 7
    page.wait_for_function(f"({UNNAMED})().length == 0")
    assert page.locator("img[alt=depth]").count() == 1
    with page.expect_download() as download:
        page.get_by_text("Download the raw maps").click()
    assert zipfile.is_zipfile(download.value.path())
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []


@pytest.mark.slow
def test_in_a_browser_the_mouse_reads_every_map_at_its_pixel_without_a_request(browser, served, tmp_path, monkeypatch):
    """Maps whose values show their position: reshading is row + column / 100, and the top left is unknown.

    Without depth, because the 3D view keeps loading its program for a while.
    """
    rows, columns = np.mgrid[:40, :60].astype(float)
    maps = {ODD_CLASSES.name: columns % 3, "reshading": rows + columns / 100, CURVATURE.name: np.stack([rows / 1000, -columns])}
    maps[ODD_CLASSES.name][0, 0], maps["reshading"][0, 0] = 255, np.nan
    predicted = app.numbers_file
    monkeypatch.setattr(app, "numbers_file", lambda shown: predicted({task: maps.get(task, shown[task]) for task in shown}))
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(served)
    page.get_by_label("depth").uncheck()
    page.locator("input[type=file]").first.set_input_files(image_file(tmp_path / "image.png"))
    page.get_by_text("Pixel 30 from the left, 20 from the top").wait_for()
    page.wait_for_function("document.querySelectorAll('.map img')[5]?.naturalWidth == 480")  # loaded: 60 pixels, enlarged 8 times
    page.wait_for_timeout(500)
    assert page.get_by_text("b ${1 + 1} {{value}}").count() > 0, "a class is called what it is called"
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    def point_at(column, row):
        box = page.locator(".map img").nth(1).bounding_box()
        shown = min(box["width"] / 60, box["height"] / 40, 8)  # pixels of the screen per pixel of the map
        left, top = box["x"] + (box["width"] - 60 * shown) / 2, box["y"] + (box["height"] - 40 * shown) / 2
        page.mouse.move(left + (column + 0.5) * shown, top + (row + 0.5) * shown)
        return {task: page.locator(f"[data-task={task}]").inner_text() for task in maps}

    assert point_at(31, 5) == {ODD_CLASSES.name: "b ${1 + 1} {{value}}", "reshading": "5.31", CURVATURE.name: "0.005, -31"}
    assert page.get_by_text("Pixel 31 from the left, 5 from the top").is_visible()
    assert point_at(0, 0) == {ODD_CLASSES.name: "not known", "reshading": "not known", CURVATURE.name: "0, 0"}
    assert point_at(59, 39) == {ODD_CLASSES.name: "c", "reshading": "39.6", CURVATURE.name: "0.039, -59"}
    assert point_at(59, -1)["reshading"] == "39.6", "next to the image nothing changes"
    assert point_at(30, 0)[ODD_CLASSES.name] == "<i>a</i>", "as text"
    assert asked == []
    page.locator(".map", has=page.locator("img")).nth(1).get_by_role("button", name="Fullscreen").click()
    page.wait_for_timeout(500)
    assert point_at(42, 7)["reshading"] == "7.42"


@pytest.mark.slow
def test_in_a_browser_the_page_fits_a_phone_and_keeps_its_grid_when_a_map_is_unticked(browser, served, tmp_path):
    """3,340 pixels with one map per row; maps stand in two columns, also those that are not predicted."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(served)
    page.get_by_label("normals").uncheck()
    page.locator("input[type=file]").first.set_input_files(image_file(tmp_path / "image.png"))
    page.get_by_text("Pixel 30 from the left, 20 from the top").wait_for()
    boxes = [tile.bounding_box() for tile in page.locator(".tile").all()]
    assert len(boxes) == 7
    assert len({box["x"] for box in boxes}) == 2
    assert len({round(box["y"]) for box in boxes}) == 4
    height, width = page.evaluate("[document.documentElement.scrollHeight, document.documentElement.scrollWidth]")
    assert width == 390
    assert height < 2600
    assert page.get_by_text("not predicted: tick it").count() == 1
