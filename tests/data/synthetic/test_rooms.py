"""Proves that a room's images and maps are determined by its seed, match known shapes, and are written completely or not at all."""

# ruff: noqa: E402 - what needs Mitsuba is imported after the check that it is there

import colorsys
import io
import shlex
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mitsuba")
pytest.importorskip("mitsuba_oidn")
datasets = pytest.importorskip("datasets")

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard

from mult_hf.cli.arguments import parse_arguments
from mult_hf.cli.render_rooms import RoomsArguments, main
from mult_hf.data.derive import EDGES_GAIN, KEYPOINTS_GAIN, edges2d, heat_map, keypoints2d, normals_from_depth
from mult_hf.data.ray_cluster import ray_cluster
from mult_hf.data.synthetic import rows as stored
from mult_hf.data.synthetic.rooms import layouts, meshes, samples, textures, variants, viewpoints, writing
from mult_hf.data.synthetic.rooms.builder import CLASS_NAMES, Part, Room, RoomBuilder
from mult_hf.data.synthetic.rooms.floorplan import FloorPlan, Rectangle
from mult_hf.data.synthetic.rooms.materials import grey
from mult_hf.data.synthetic.rooms.rendering import RoomScene
from mult_hf.data.synthetic.rooms.settings import RoomsSettings
from mult_hf.data.synthetic.rooms.viewpoints import RoomCamera
from mult_hf.model.tasks import resolve_tasks

SEED = 11


def settings(**changes):
    values = {"rooms": 5, "validation_rooms": 1, "test_rooms": 1, "views": 1, "size": 64, "samples_per_pixel": 2}
    return RoomsSettings(**{**values, "seed": SEED, "rooms_per_shard": 2, "scenes": 1, "without": (), "variant": "llvm_ad_rgb", **changes})


@pytest.fixture(scope="module")
def backend():
    """The variant and library that work here, in use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = variants.choose_variant()
    variants.activate(*chosen)
    return chosen


@pytest.fixture(scope="module")
def rows(backend):
    """Two views of one room, 64 x 64."""
    return samples.render_room(settings(views=2), SEED)


@pytest.fixture(scope="module")
def targets(rows):
    """The first view's maps, decoded with the card's entries."""
    return {name: spec.decode(decoded(rows[0][name])) for name, spec in resolve_tasks(samples.TASK_ENTRIES).items()}


def decoded(cell):
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


# --- one room ---


MAPS = tuple(entry["name"] for entry in samples.TASK_ENTRIES)


def assert_same_rendering(row, other):
    """The same view: equal but for a step of rounding, and for the few pixels whose rays pass an outline within rounding.

    A CPU, the number of threads, or Mitsuba's variant may change the last bits of float32.
    """
    for name in ("room", "view", "room_kind"):
        assert row[name] == other[name]
    for name in ("field_of_view", "focal_length", "principal_point"):
        assert row[name] == pytest.approx(other[name])
    for name in MAPS:
        steps = 0 if name == "segmentation" else 1
        same = np.abs(decoded(row[name]).astype(int) - decoded(other[name])) <= steps
        assert same.mean() > 0.995, name
    assert np.abs(decoded(row["image"]).astype(int) - decoded(other["image"])).mean() < 1, "of 255"


def test_a_room_renders_identically_for_any_number_of_views(rows):
    again = samples.render_room(settings(views=1), SEED)
    assert_same_rendering(again[0], rows[0])
    with pytest.raises(AssertionError):  # the premise: two views of a room differ
        assert_same_rendering({**rows[1], **{name: rows[0][name] for name in rows[0] if name not in MAPS}}, rows[0])


def test_the_maps_of_a_view_are_complete_and_in_their_ranges(targets):
    assert set(targets) == {"segmentation", "depth", "normals", "keypoints2d", "edges2d", "reshading"}
    assert np.isfinite(targets["depth"]).all()
    assert 0.1 < targets["depth"].min() < targets["depth"].max() < np.hypot(6.4, 6.4) + 1
    np.testing.assert_allclose(np.linalg.norm(targets["normals"], axis=0), 1, atol=0.01)
    for name in ("keypoints2d", "edges2d", "reshading"):
        assert targets[name].min() >= 0
        assert targets[name].max() <= 1
    known = targets["segmentation"] != 255
    assert known.mean() > 0.8
    assert len(np.unique(targets["segmentation"][known])) >= 4


def test_depth_normals_and_focal_length_of_a_view_are_consistent(rows, targets):
    """Normals from differences of the depth equal the rendered ones up to rounding on most of the image."""
    computed = normals_from_depth(targets["depth"][0], rows[0]["focal_length"], tuple(rows[0]["principal_point"]))
    cosine = (computed * targets["normals"]).sum(axis=0)
    assert np.nanmedian(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) < 2
    assert rows[0]["focal_length"] == pytest.approx(32 / np.tan(np.radians(rows[0]["field_of_view"] / 2)))


def test_edges_and_keypoints_are_those_of_the_stored_jpeg(rows, targets):
    rgb = decoded(rows[0]["image"])
    half_a_step = 0.5 / 255 + 1e-6
    np.testing.assert_allclose(targets["edges2d"][0], heat_map(edges2d(rgb), EDGES_GAIN), atol=half_a_step)
    np.testing.assert_allclose(targets["keypoints2d"][0], heat_map(keypoints2d(rgb), KEYPOINTS_GAIN), atol=half_a_step)


def test_images_are_neither_underexposed_nor_overexposed(rows):
    for row in rows:
        rgb = decoded(row["image"])
        assert 60 < rgb.mean() < 200
        assert rgb.std() > 20


# --- geometry against known answers ---


def scene_of(*parts):
    return RoomScene(Room("test", FloorPlan(4, 4), 3, list(parts)))


def test_a_wall_two_metres_away_has_depth_two_and_a_normal_towards_the_viewer(backend):
    wall = Part("wall", meshes.quad([-9, 2, -9], [18, 0, 0], [0, 0, 18]), grey(0.5))
    seen = scene_of(wall).geometry(RoomCamera(np.zeros(3), np.array([0.0, 1, 0]), 90.0), 16)
    np.testing.assert_allclose(seen.depth, 2, rtol=1e-5)  # along the axis, so the corners are no farther
    np.testing.assert_allclose(seen.normals, np.broadcast_to(np.array([0, 0, 1.0])[:, None, None], (3, 16, 16)), atol=1e-5)
    assert (seen.classes == CLASS_NAMES.index("wall")).all()


def test_floor_faces_up_a_wall_on_the_right_faces_left_and_nothing_is_nan(backend):
    floor = Part("floor", meshes.quad([-9, -9, -1], [18, 0, 0], [0, 18, 0]), grey(0.5))
    right = Part("door", meshes.quad([1, -9, -1], [0, 18, 0], [0, 0, 18]), grey(0.6))
    seen = scene_of(floor, right).geometry(RoomCamera(np.zeros(3), np.array([0.0, 1, 0]), 90.0), 32)
    # Pixel centres half a pixel from their corners: the ray of row 31 falls 15.5 / 16 a metre, so it meets the floor at 16 / 15.5.
    assert seen.depth[31, 3] == pytest.approx(16 / 15.5, rel=1e-5)
    np.testing.assert_allclose(seen.normals[:, 31, 3], [0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(seen.normals[:, 3, 31], [-1, 0, 0], atol=1e-5)
    assert CLASS_NAMES[seen.classes[31, 3]] == "floor"
    assert CLASS_NAMES[seen.classes[3, 31]] == "door"
    assert np.isnan(seen.depth[3, 3])
    assert seen.classes[3, 3] == 0


def signed_volume(mesh):
    corners = mesh.vertices[mesh.faces]
    return np.linalg.det(corners).sum() / 6


@pytest.mark.parametrize(("mesh", "volume", "tolerance"), [
    (meshes.box([1, 2, 3]), 48, 1e-9),
    (meshes.box([1, 2, 3], edge_radius=0.01), 48, 0.01),
    (meshes.cylinder([1, 2, 3], [1, 2, 5], 0.5), np.pi / 2, 0.02),
    (meshes.ellipsoid([1, 2, 3]), 8 * np.pi, 0.05),
])  # fmt: skip
def test_closed_shapes_have_their_volume_and_normals_that_point_outwards(mesh, volume, tolerance):
    assert signed_volume(mesh) == pytest.approx(volume, rel=tolerance)
    corners = mesh.vertices[mesh.faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    agreement = (across * mesh.normals[mesh.faces].mean(axis=1)).sum(axis=1)
    assert (agreement[np.linalg.norm(across, axis=1) > 1e-6] > 0).all()


def test_merged_meshes_keep_their_triangles():
    merged = meshes.merge([meshes.box([1, 1, 1]), meshes.box([1, 1, 1]).transformed(meshes.translation(5, 0))])
    assert signed_volume(merged) == pytest.approx(16)


# --- building rooms ---


@pytest.mark.parametrize("kind", sorted(layouts.LAYOUTS))
def test_every_kind_of_room_has_furniture_and_keeps_it_inside(kind):
    builder = RoomBuilder(np.random.default_rng(SEED), 4.0, 5.0, 2.6)
    layouts.LAYOUTS[kind](builder)
    room = builder.finish(kind)
    points = np.concatenate([part.mesh.vertices for part in room.parts])
    assert (points.min(axis=0) > -0.01).all()
    assert (points.max(axis=0) < [4.01, 5.01, 2.6]).all()
    assert len({part.class_name for part in room.parts} - {"unlabelled"}) >= 2


def test_five_consecutive_seeds_give_five_kinds_of_rooms_and_one_seed_the_same_room():
    assert len(layouts.LAYOUTS) >= 4
    rooms = [layouts.build_room(seed) for seed in range(307, 312)]
    assert {room.kind for room in rooms} == set(layouts.LAYOUTS)
    again = layouts.build_room(307)
    for part, other in zip(again.parts, rooms[0].parts, strict=True):
        np.testing.assert_array_equal(part.mesh.vertices, other.mesh.vertices)


def test_nothing_on_the_floor_overlaps_and_tall_things_keep_clear_of_windows():
    plan, rng = FloorPlan(4.0, 3.5), np.random.default_rng(0)
    plan.block_wall(0, 2.0, 3.9)  # a wide window
    frames = [plan.place_at_wall(rng, 0.8, 0.5, tall=0.5) for _ in range(30)]
    placed = [frame for frame in frames if frame is not None]
    assert 2 <= len(placed) < 30, "a full room must refuse"
    for index, place in enumerate(plan.taken):
        assert not any(place.overlaps(other) for other in plan.taken[:index])
    backs_to_wall_0 = [frame for frame in placed if frame[1, 3] < 0.1 and abs(frame[1, 1] - 1) < 1e-9]
    assert not backs_to_wall_0


def test_rectangles_that_touch_do_not_overlap_but_are_closer_than_a_gap():
    left, right = Rectangle(0, 0, 1, 1), Rectangle(1, 0, 2, 1)
    assert not left.overlaps(right)
    assert left.overlaps(right, gap=0.1)
    assert left.overlaps(Rectangle.around(0.9, 0.5, 0.4, 0.4))


def test_cameras_stand_on_free_floor_at_varied_heights_and_fields_of_view():
    room, rng = layouts.build_room(SEED), np.random.default_rng(0)
    views = [viewpoints.propose(room, rng) for _ in range(30)]
    for view in views:
        assert room.plan.is_free(Rectangle.around(*view.position[:2], 0.2, 0.2), gap=0)
        np.testing.assert_allclose(view.axes @ view.axes.T, np.eye(3), atol=1e-12)
        assert view.axes[1, 2] > 0, "up is up"
    assert np.ptp([view.position[2] for view in views]) > 0.7
    assert np.ptp([view.field_of_view for view in views]) > 20


def test_a_view_of_many_things_scores_higher_than_a_bare_wall_or_a_leak():
    depth = np.full((8, 8), 3.0)
    wall = np.full((8, 8), CLASS_NAMES.index("wall"))
    mixed = np.arange(64).reshape(8, 8) % 12 + 1
    assert viewpoints.interest(mixed, depth) > viewpoints.interest(wall, depth)
    assert viewpoints.interest(mixed, depth) > viewpoints.interest(mixed, depth / 10)
    depth[0, 0] = np.nan
    assert viewpoints.interest(mixed, depth) == -np.inf


@pytest.mark.parametrize("make", [textures.wood, textures.tiles, textures.wallpaper, textures.brick, textures.art, textures.outdoors])
def test_textures_are_valid_colours_determined_by_their_generator(make):
    texture = make(np.random.default_rng(5))
    np.testing.assert_array_equal(texture, make(np.random.default_rng(5)))
    assert texture.shape[2] == 3
    assert texture.min() >= 0
    assert texture.max() <= 1
    assert texture.std() > 0.003


def test_colours_match_the_standard_library():
    for hue, saturation, value in np.random.default_rng(0).random((20, 3)):
        np.testing.assert_allclose(textures.colour_of(hue, saturation, value), colorsys.hsv_to_rgb(hue, saturation, value))


def test_an_unknown_class_is_refused_by_name():
    builder = RoomBuilder(np.random.default_rng(0), 4, 4, 2.5)
    with pytest.raises(ValueError, match=r"'couch' is not one of unlabelled, wall"):
        builder.bench("couch")


# --- variants ---


def test_without_a_working_llvm_the_scalar_variant_is_used_and_the_message_names_the_package(monkeypatch):
    monkeypatch.setattr(variants, "llvm_libraries", list)
    with pytest.warns(UserWarning, match=r"found none.*scalar_rgb.*apt-get install libllvm19"):
        assert variants.choose_variant("auto") == ("scalar_rgb", None)
    with pytest.raises(RuntimeError, match="apt-get install libllvm19"):
        variants.choose_variant("llvm_ad_rgb")


def test_a_file_that_is_not_a_library_fails_its_trial(tmp_path, monkeypatch):
    broken = tmp_path / "libLLVM-19.so"
    broken.write_text("not a library")
    assert not variants.survives_trial("llvm_ad_rgb", str(broken))
    monkeypatch.setenv(variants.LIBRARY_VARIABLE, str(broken))
    assert variants.llvm_libraries() == [str(broken)], "what the user names is what is tried"


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/x/libLLVM-19.so", 19),
        ("/x/libLLVM.so.19.1", 19),
        ("/x/libLLVM-14.0.6.so.1", 14),
        ("/x/llvm-18/lib/libLLVM.so", 18),
        ("/x/libLLVM.so", 0),
    ],
)
def test_versions_are_read_from_file_names(path, version):
    assert variants._llvm_version(path) == version


def test_an_unknown_variant_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'cuda'.*auto, llvm_ad_rgb, scalar_rgb, cuda_ad_rgb"):
        variants.choose_variant("cuda")


def test_without_a_gpu_the_cuda_variant_is_refused(monkeypatch):
    monkeypatch.setattr(variants, "survives_trial", lambda variant: False)
    with pytest.raises(RuntimeError, match="cuda_ad_rgb does not work here; it needs an NVIDIA GPU and a driver with OptiX"):
        variants.choose_variant("cuda_ad_rgb")


# --- on disk ---


def fake_room(settings, seed):
    """Rows of the right columns without rendering."""
    cell = stored.map_cell(np.full((1, 32, 32), seed % 256, np.uint8))
    known = {"room": seed, "room_kind": "study", "field_of_view": 60.0, "focal_length": 27.7, "principal_point": [16.0, 16.0]}
    maps = {name: cell for name, column in samples.FEATURES.items() if isinstance(column, datasets.Image)}
    return [{**known, **maps, "view": view} for view in range(settings.views)]


@pytest.fixture
def fake_rendering(monkeypatch):
    """Replaces rendering; returns the list of requested seeds."""
    asked = []

    def render(settings, seed):
        asked.append(seed)
        return fake_room(settings, seed)

    monkeypatch.setattr(writing, "render_room", render)
    monkeypatch.setattr(writing, "activate", lambda *arguments: None)
    return asked


def test_an_interrupted_run_continues_without_repeating_or_truncating_shards(tmp_path, monkeypatch, fake_rendering):
    plan = settings(rooms=8, views=3)  # shards by seed: test 11; validation 12; train 13 14, 15 16, 17 18

    def interrupted(settings, seed):
        if seed == 16:
            raise KeyboardInterrupt
        return fake_room(settings, seed)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "render_room", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writing.write_dataset(tmp_path, plan)
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    assert sorted(finished) == ["test-00000-of-00001.parquet", "train-00000-of-00003.parquet", "validation-00000-of-00001.parquet"]

    writing.write_dataset(tmp_path, plan)
    assert fake_rendering == [15, 16, 17, 18], "only the rooms of missing shards"
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in finished.items())
    assert sorted(row["room"] for row in read_all(tmp_path)) == sorted([*range(11, 19)] * 3)
    assert not list(tmp_path.glob(".*")), "no temporary file stays"


def test_partial_files_of_a_killed_run_are_removed(tmp_path, fake_rendering):
    (tmp_path / ".train-00000-of-00002.parquet.unfinished").write_bytes(b"PAR1 and no more")
    writing.write_dataset(tmp_path, settings())
    assert not list(tmp_path.glob(".*"))
    assert len(read_all(tmp_path)) == 5


def read_all(directory):
    return [row for path in directory.glob("*.parquet") for row in pq.read_table(path).to_pylist()]


def test_load_dataset_reads_the_directory_with_its_splits_columns_and_encodings(tmp_path, fake_rendering):
    writing.write_dataset(tmp_path / "set", settings(views=2))
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 6, "validation": 2, "test": 2}
    assert loaded["train"].features == samples.FEATURES
    entries = DatasetCard.load(tmp_path / "set" / "README.md").data.mult_tasks
    assert resolve_tasks(entries) == resolve_tasks(samples.TASK_ENTRIES)


def test_the_command_in_the_card_gives_the_same_settings(tmp_path):
    wanted = settings(views=3)
    words = shlex.split(writing.command(wanted, "set"))
    assert words[:3] == ["mult-hf", "render", "rooms"]
    options = vars(parse_arguments(RoomsArguments, words[3:], ""))
    assert {**options, "samples_per_pixel": options["spp"], "without": tuple(options["without"])}.items() >= vars(wanted).items()
    writing.write_card(tmp_path, wanted)
    assert writing.command(wanted, tmp_path.name) in (tmp_path / "README.md").read_text()


def test_every_room_is_in_one_split_and_more_rooms_move_none():
    few, many = settings(rooms=10, validation_rooms=2, test_rooms=3), settings(rooms=50, validation_rooms=2, test_rooms=3)
    rooms = [seed for shard in writing.plan_shards(few) for seed in shard.seeds]
    assert sorted(rooms) == list(range(SEED, SEED + 10))
    assert few.split_seeds["test"] == many.split_seeds["test"]
    assert few.split_seeds["validation"] == many.split_seeds["validation"]


def test_files_with_other_settings_or_from_other_programs_are_refused(tmp_path, fake_rendering):
    writing.write_dataset(tmp_path, settings())
    with pytest.raises(ValueError, match="rendered with size 64 instead of 96"):
        writing.write_dataset(tmp_path, settings(size=96))
    foreign = tmp_path / "other"
    foreign.mkdir()
    datasets.Dataset.from_dict({"image": [1]}).to_parquet(foreign / "train.parquet")
    with pytest.raises(ValueError, match="was not written by this command"):
        writing.write_dataset(foreign, settings())


@pytest.mark.parametrize(("flags", "message"), [
    (["--size", "8"], "size is 8; it must be at least 32"),
    (["--rooms", "3", "--test_rooms", "4"], "more than the 3 rooms in all"),
    (["--views", "0"], "views is 0; it must be at least 1"),
    (["--num_proc", "0"], "num_proc is 0"),
    (["--seed", str(2**31)], "exceeds 2147483648"),
])  # fmt: skip
def test_invalid_numbers_are_refused(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        main([str(tmp_path / "set"), "--variant", "scalar_rgb", *flags])


@pytest.mark.slow
def test_two_processes_write_the_same_rows_as_one(tmp_path, backend):
    plan = settings(rooms=2, size=32, variant=backend[0])
    writing.write_dataset(tmp_path / "one", plan, backend[1])
    writing.write_dataset(tmp_path / "two", plan, backend[1], num_proc=2)
    one, two = ({row["room"]: row for row in read_all(tmp_path / name)} for name in ("one", "two"))
    assert one.keys() == two.keys()
    for room, row in one.items():
        assert_same_rendering(row, two[room])


@pytest.mark.nightly
@pytest.mark.slow
def test_processes_on_ray_write_the_same_rows_as_one(tmp_path, backend):
    plan = settings(rooms=2, size=32, variant=backend[0])
    writing.write_dataset(tmp_path / "one", plan, backend[1])
    with ray_cluster(None, 2, "this test") as cluster:
        writing.write_dataset(tmp_path / "ray", plan, backend[1], 2, cluster)
    names = [sorted(path.name for path in (tmp_path / name).glob("*.parquet")) for name in ("one", "ray")]
    assert names[0] == names[1] != []
    one, ray = ({row["room"]: row for row in read_all(tmp_path / name)} for name in ("one", "ray"))
    assert one.keys() == ray.keys()
    for room, row in one.items():
        assert_same_rendering(row, ray[room])


@pytest.mark.nightly
@pytest.mark.slow
def test_the_scalar_variant_sees_the_same_room(tmp_path, rows):
    flags = ["--rooms", "1", "--validation_rooms", "0", "--test_rooms", "0", "--views", "1", "--size", "64", "--spp", "2", "--scenes", "1"]
    command = [sys.executable, "-m", "mult_hf", "render", "rooms", str(tmp_path), *flags, "--seed", str(SEED), "--variant", "scalar_rgb"]
    subprocess.run(command, check=True, capture_output=True)
    (scalar,) = read_all(tmp_path)
    same = (decoded(scalar["segmentation"]) == decoded(rows[0]["segmentation"])).mean()
    assert same > 0.98
    assert np.median(np.abs(decoded(scalar["depth"]).astype(int) - decoded(rows[0]["depth"]))) <= 1
