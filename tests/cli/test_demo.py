"""Proves that the demo shows every task of a model from its entry, that its point cloud is where the depth says, that what it gives to
download reads back, and that whatever is wrong with an upload is told to the person in a sentence.
"""

import gzip
import json
import shutil
import socket
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

gr = pytest.importorskip("gradio", reason='the demo needs Gradio: pip install "mult-hf[demo]"')

from examples import app  # noqa: E402
from mult_hf import MultiTaskVisionPipeline, TaskSpec, registered_tasks  # noqa: E402
from mult_hf.inference.output import load_stored_forms, precision, read_map  # noqa: E402

SPECS = registered_tasks()
LIMITS = app.DemoArguments(max_bytes=100_000, max_pixels=10_000, max_side=64, max_points=500)
CURVATURE = TaskSpec(name="principal_curvature", kind="regression", channels=2, unit="1/m", colormap="vectors", description="How it bends.")
ODD_CLASSES = replace(SPECS["segmentation"], channels=3, class_names=("<i>a</i>", "b ${1 + 1} {{value}}", "c"))
CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()


def photo_file(path, size=(60, 40), **options):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)).save(path, **options)
    return str(path)


def png_that_says_it_is(width, height):
    """Signature and header of a PNG, and where its pixels should begin: 41 bytes that claim any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 1000) + b"IDAT"


# What comes in


def test_a_photo_is_opened_upright_and_brought_down_to_the_longest_side_allowed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = photo_file(tmp_path / "photo.jpg", size=(96, 48), exif=exif)
    assert app.open_photo(path, LIMITS).size == (32, 64)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"These are words.", "no photo that can be read; allowed are JPEG"),
        (b"", "empty or no photo"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n", "no photo that can be read"),
        (b"x" * 100_001, "100,001 bytes; at most 100,000"),
        (png_that_says_it_is(101, 100), "101 x 100 pixels; at most 10,000"),
        (png_that_says_it_is(2_000_000, 2_000_000), "huge number of pixels; at most 10,000"),
        (png_that_says_it_is(50, 50), "cannot be read: "),
    ],
    ids=["words", "empty", "a program in PostScript", "bytes", "pixels", "bomb", "broken"],
)
def test_what_is_wrong_with_an_upload_is_told_in_a_sentence_without_paths(tmp_path, content, sentence):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(gr.Error) as told:
        app.open_photo(str(path), LIMITS)
    assert sentence in told.value.message
    assert str(tmp_path) not in told.value.message
    assert not told.value.print_exception  # nothing in the log


def test_predicting_without_a_photo_says_what_to_do():
    with pytest.raises(gr.Error, match="There is no photo yet"):
        app.open_photo(None, LIMITS)


# What is read off the maps


def test_the_page_gets_all_numbers_of_all_maps_within_a_ten_thousandth():
    """Four times as exact as the three digits that it shows; class ids and what is not known come as they are."""
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
    assert app.class_names(replace(SPECS["segmentation"], class_names=None))[2] == "class 2"
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


def test_names_from_a_model_cannot_bring_markup_into_the_page():
    spec = replace(SPECS["segmentation"], channels=2, class_names=("<script>", "b"), unit="<i>")
    html = app.legend_html(np.zeros((1, 1), np.int64), spec)
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "&lt;i&gt;" in html


# The view in 3D


def test_a_wall_at_two_metres_seen_by_ninety_degrees_is_four_metres_wide():
    points = app.point_cloud(np.full((10, 20), 2.0), np.zeros((10, 20, 3), np.uint8), field_of_view=90)
    assert points.corners.shape == (200, 4, 3)
    np.testing.assert_allclose(points.corners.min(axis=(0, 1)), (-2, -1, -2))
    np.testing.assert_allclose(points.corners.max(axis=(0, 1)), (2, 1, -2))


def test_rows_go_down_columns_to_the_right_and_corners_counter_clockwise():
    photo = np.zeros((2, 2, 3), np.uint8)
    photo[0, 1] = 255  # top right
    points = app.point_cloud(np.ones((2, 2)), photo, field_of_view=90)
    (white,) = points.corners[points.colors[:, 0] == 255]
    np.testing.assert_allclose(white, [(0, 1, -1), (0, 0, -1), (1, 0, -1), (1, 1, -1)], atol=1e-12)


def test_with_the_normals_of_a_tilted_plane_every_corner_lies_in_the_plane():
    normal, distance, size = np.array([0.6, 0.0, 0.8]), -2.0, 40  # the plane n p = distance
    step = (np.arange(size) + 0.5 - size / 2) / (size / 2)  # slopes of rays at 90 degrees
    depth = np.broadcast_to(distance / (normal[0] * step - normal[2]), (size, size))
    normals = np.broadcast_to(normal[:, None, None], (3, size, size))
    flat = app.point_cloud(depth, np.zeros((size, size, 3), np.uint8), 90).corners
    tilted = app.point_cloud(depth, np.zeros((size, size, 3), np.uint8), 90, normals).corners
    assert np.abs(flat @ normal - distance).max() > 0.01  # the premise: facing the camera they stick out
    steep = np.abs(tilted[..., 2] / depth.reshape(-1, 1) + 1) > app.MAX_TILT - 1e-9
    assert steep.mean() < 0.2
    np.testing.assert_allclose((tilted @ normal)[~steep], distance, atol=1e-9)


def test_a_corner_is_never_far_from_its_middle_even_where_normals_are_nonsense():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(3, 8, 8))
    normals[:, 0, 0], normals[:, 1, 1], normals[:, 2, 2] = 0, np.nan, (1, 0, 0)
    corners = app.point_cloud(np.full((8, 8), 3.0), np.zeros((8, 8, 3), np.uint8), 60, normals).corners
    assert np.isfinite(corners).all()
    assert np.abs(corners[..., 2] + 3).max() <= 3 * app.MAX_TILT + 1e-9


def test_pixels_without_depth_are_no_points():
    depth = np.array([[1.0, np.nan], [0.0, 2.0]])
    assert len(app.point_cloud(depth, np.zeros((2, 2, 3), np.uint8), 60).corners) == 2


@pytest.mark.parametrize("size", [(7, 3), (100, 100), (1, 501), (333, 97)])
def test_there_are_never_more_points_than_allowed(size):
    points = app.point_cloud(np.ones(size), np.zeros((*size, 3), np.uint8), 60, max_points=500)
    assert 0 < len(points.corners) <= 500


def test_another_library_reads_the_same_squares_and_colours_from_the_file(tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="reads the file independently: pip install trimesh")
    photo = np.random.default_rng(0).integers(0, 255, (3, 5, 3), np.uint8)
    points = app.point_cloud(np.full((3, 5), 2.0), photo, 60)
    (tmp_path / "points.glb").write_bytes(app.to_glb(points))
    mesh = trimesh.load(tmp_path / "points.glb", process=False).to_geometry()
    np.testing.assert_allclose(mesh.vertices, points.corners.reshape(-1, 3), atol=1e-6)
    assert len(mesh.faces) == 2 * 15
    assert mesh.area == pytest.approx(np.prod(np.ptp(points.corners.reshape(-1, 3), axis=0)[:2]))  # the squares tile the wall


def test_vertex_colours_in_the_file_are_linear_as_gltf_demands():
    points = app.Points(np.zeros((1, 4, 3)), np.array([[255, 188, 0]], np.uint8))
    data = app.to_glb(points)
    (length,) = struct.unpack("<I", data[12:16])
    view = json.loads(data[20 : 20 + length])["bufferViews"][1]
    colors = np.frombuffer(data[28 + length + view["byteOffset"] :][: view["byteLength"]], "<u2").reshape(4, 4)
    np.testing.assert_allclose(colors / 65535, [(1, 0.5, 0, 1)] * 4, atol=0.005)  # half of white's light is 188 in sRGB


# The page


@pytest.fixture
def demo(tiny_model, tmp_path):
    """A tiny random model of the six tasks and a seventh."""
    model = tiny_model(tasks=[*SPECS, CURVATURE])
    (tmp_path / "served").mkdir()
    return app.Demo(MultiTaskVisionPipeline(model), LIMITS, tmp_path / "served")


def test_a_seventh_task_has_a_picture_a_legend_a_value_and_a_checkbox(demo, tmp_path):
    shown, *tiles, readings, view, _ = demo.predict(photo_file(tmp_path / "a.png"), [*demo.specs], 60)
    assert list(shown.maps) == [*SPECS, CURVATURE.name]
    assert len(tiles) == 2 * 7
    assert tiles[-2]["value"].size == (8 * 60, 8 * 40)  # enlarged to be seen
    assert "How it bends." in tiles[-1]["value"]
    assert readings["channels"][-1] == (CURVATURE.name, 2)
    assert Path(view).read_bytes().startswith(b"glTF")
    kinds = [type(block).__name__ for block in app.build(demo).blocks.values()]
    assert kinds.count("Image") == 1 + 7


def test_only_ticked_maps_are_computed_and_shown(demo, tmp_path):
    shown, *tiles, _, view, _ = demo.predict(photo_file(tmp_path / "a.png"), ["normals"], 60)
    assert list(shown.maps) == ["normals"]
    assert [tile["visible"] for tile in tiles[::2]] == [task == "normals" for task in demo.specs]
    assert view is None  # without depth there is none
    with pytest.raises(gr.Error, match="tick at least one"):
        demo.predict(photo_file(tmp_path / "a.png"), [], 60)


def test_the_download_reads_back_as_what_is_shown(demo, tmp_path):
    shown, *_, download = demo.predict(photo_file(tmp_path / "a.png"), [*demo.specs], 60)
    with zipfile.ZipFile(download["value"]) as archive:
        archive.extractall(tmp_path / "maps")
    stored = load_stored_forms(tmp_path / "maps")
    assert list(stored) == [*demo.specs]
    for task, spec in stored.items():
        (path,) = (tmp_path / "maps/maps" / task).iterdir()
        np.testing.assert_allclose(read_map(path, spec).squeeze(), shown.maps[task], atol=precision(spec) + 1e-6)


def test_the_page_is_told_where_the_numbers_are_and_whose(demo, tmp_path):
    shown, *_, readings, _, _ = demo.predict(photo_file(tmp_path / "a.png"), ["normals", "depth"], 60)
    assert (readings["height"], readings["width"]) == (40, 60)
    assert readings["channels"] == [("depth", 1), ("normals", 3)]
    assert Path(readings["file"]["path"]).read_bytes() == app.numbers_file(shown.maps)


def test_a_wider_lens_makes_the_view_wider(demo, tmp_path):
    shown, *_ = demo.predict(photo_file(tmp_path / "a.png"), ["depth"], 60)
    narrow, wide = (Path(demo.view(shown, degrees)).read_bytes() for degrees in (40, 100))
    assert narrow != wide


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_side": 31}, "--max_side is 31; it must be at least 32"),
        ({"field_of_view": 180.0}, "--field_of_view is 180.0; give 20 to 120"),
        ({"photos": ["nowhere.jpg"]}, "nowhere.jpg"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        app.DemoArguments(**values)


def test_the_demo_listens_to_this_machine_alone_unless_told_otherwise():
    assert app.DemoArguments().host == "127.0.0.1"


def test_a_model_that_is_not_there_ends_the_program_with_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"nowhere, which cannot be loaded; give a directory or Hub id"):
        app.launch(app.DemoArguments(model=str(tmp_path / "nowhere")), tmp_path)


def test_a_port_in_use_ends_the_program_with_a_sentence(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(app, "pipeline", lambda *args, **kwargs: demo.predictor)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"--port {port} cannot be listened at; take another --port, or 0"):
            app.launch(app.DemoArguments(port=port), tmp_path, prevent_thread_lock=True, quiet=True)


# In a browser


@pytest.fixture
def browser():
    """Headless Chromium of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium here; on Debian: apt-get install -y chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)


@pytest.fixture
def served(tiny_model, tmp_path, monkeypatch):
    """The address of a page with a tiny random model of seven tasks."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # so that what `launch` sets ends with this test
    model = tiny_model(tasks=[ODD_CLASSES, *list(SPECS)[1:], CURVATURE])
    model.save_pretrained(tmp_path / "model")
    MultiTaskVisionPipeline(model).image_processor.save_pretrained(tmp_path / "model")
    (tmp_path / "served").mkdir()
    arguments = replace(LIMITS, model=str(tmp_path / "model"), port=0)
    page = app.launch(arguments, tmp_path / "served", prevent_thread_lock=True, quiet=True)
    yield page.local_url
    page.close()


@pytest.mark.slow
def test_in_a_browser_it_predicts_reads_downloads_and_refuses_and_asks_nobody_else(browser, served, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served)
    upload, predict = page.locator("input[type=file]").first, page.get_by_role("button", name="Predict")

    predict.click()
    page.get_by_text("There is no photo yet").wait_for()

    words = tmp_path / "words.png"
    words.write_text("These are words.")
    upload.set_input_files(words)
    page.wait_for_timeout(1000)
    predict.click()
    page.get_by_text("no photo that can be read").wait_for()

    page.reload()
    upload.set_input_files(photo_file(tmp_path / "large.png", size=(300, 200)))
    page.get_by_text("exceed the maximum allowed size").wait_for()
    words = tmp_path / "words.txt"
    words.write_text("These are words.")
    upload.set_input_files(words)
    page.get_by_text("Only image/* allowed").wait_for()

    page.reload()
    upload.set_input_files(photo_file(tmp_path / "photo.png"))
    page.locator("img[alt='']").first.wait_for()
    predict.click()
    page.get_by_text("Pixel 30 from the left, 20 from the top").wait_for()
    assert page.locator(".map").count() == 7
    with page.expect_download() as download:
        page.get_by_text("Download the raw maps").click()
    assert zipfile.is_zipfile(download.value.path())
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []


@pytest.mark.slow
def test_in_a_browser_the_mouse_reads_every_map_at_its_pixel_and_the_server_hears_nothing_of_it(browser, served, tmp_path, monkeypatch):
    """Maps whose numbers tell where they were read: reshading is row + column / 100, and at the top left nothing is known.

    Without depth, since the view in 3D goes on loading its program for a while.
    """
    rows, columns = np.mgrid[:40, :60].astype(float)
    maps = {ODD_CLASSES.name: columns % 3, "reshading": rows + columns / 100, CURVATURE.name: np.stack([rows / 1000, -columns])}
    maps[ODD_CLASSES.name][0, 0], maps["reshading"][0, 0] = 255, np.nan
    predicted = app.numbers_file
    monkeypatch.setattr(app, "numbers_file", lambda shown: predicted({task: maps.get(task, shown[task]) for task in shown}))
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(served)
    page.locator("input[type=file]").first.set_input_files(photo_file(tmp_path / "photo.png"))
    page.locator("img[alt='']").first.wait_for()
    page.get_by_label("depth").uncheck()
    page.get_by_role("button", name="Predict").click()
    page.get_by_text("Pixel 30 from the left, 20 from the top").wait_for()
    page.wait_for_function("document.querySelectorAll('.map img')[5]?.naturalWidth == 480")  # loaded: 60 pixels, enlarged 8 times
    page.wait_for_timeout(500)
    assert page.get_by_text("b ${1 + 1} {{value}}").count() > 0, "a class is called what it is called"
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    def point_at(column, row):
        box = page.locator(".map img").nth(1).bounding_box()
        shown = min(box["width"] / 60, box["height"] / 40, 8)  # pixels of the screen a pixel of the map
        left, top = box["x"] + (box["width"] - 60 * shown) / 2, box["y"] + (box["height"] - 40 * shown) / 2
        page.mouse.move(left + (column + 0.5) * shown, top + (row + 0.5) * shown)
        return {task: page.locator(f"[data-task={task}]").inner_text() for task in maps}

    assert point_at(31, 5) == {ODD_CLASSES.name: "b ${1 + 1} {{value}}", "reshading": "5.31", CURVATURE.name: "0.005, -31"}
    assert page.get_by_text("Pixel 31 from the left, 5 from the top").is_visible()
    assert point_at(0, 0) == {ODD_CLASSES.name: "not known", "reshading": "not known", CURVATURE.name: "0, 0"}
    assert point_at(59, 39) == {ODD_CLASSES.name: "c", "reshading": "39.6", CURVATURE.name: "0.039, -59"}
    assert point_at(59, -1)["reshading"] == "39.6", "beside the picture nothing changes"
    assert point_at(30, 0)[ODD_CLASSES.name] == "<i>a</i>", "as text"
    assert asked == []
    page.locator(".map").nth(1).get_by_role("button", name="Fullscreen").click()
    page.wait_for_timeout(500)
    assert point_at(42, 7)["reshading"] == "7.42"
