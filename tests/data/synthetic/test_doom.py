"""Proves that the Doom domain's maps are exact where the answer is known, repeatable, stored as its card says, and resumable."""

# ruff: noqa: E402 (what follows importorskip)

import tempfile
from dataclasses import replace

import numpy as np
import pytest

vizdoom = pytest.importorskip("vizdoom")
pytest.importorskip("omg")
datasets = pytest.importorskip("datasets")
yaml = pytest.importorskip("yaml")

from mult_hf.cli.render_doom import main
from mult_hf.data.synthetic.doom import engine, writing
from mult_hf.data.synthetic.doom.engine import Frame, FrozenGame, Sprite
from mult_hf.data.synthetic.doom.levels import LEVELS, read_level, select_levels, split_of
from mult_hf.data.synthetic.doom.raycasting import (
    CLASS_IDS,
    NO_SECTOR,
    UNKNOWN_CLASS,
    VERTICAL_STRETCH,
    LevelCamera,
    LevelGeometry,
    cast_rays,
)
from mult_hf.data.synthetic.doom.samples import encode_sample
from mult_hf.data.synthetic.doom.views import (
    BUFFER_START,
    BUFFER_STEP,
    METRES_PER_MAP_UNIT,
    SUPERSAMPLING,
    View,
    agrees_with_depth_buffer,
    brighten,
    compose_view,
    render_views,
)
from mult_hf.model.tasks import resolve_tasks

WALL, FLOOR, CEILING, SKY, DOOR = (CLASS_IDS[name] for name in ("wall", "floor", "ceiling", "sky", "door"))


def square_room(**changes: object) -> LevelGeometry:
    """A room of 200 x 200 map units around the origin, floor at 0, ceiling at 100; its front sides face inwards."""
    corners = np.array([(-100, -100), (-100, 100), (100, 100), (100, -100)], float)
    room = LevelGeometry(
        starts=corners,
        ends=np.roll(corners, -1, axis=0),
        front=np.zeros(4, int),
        back=np.full(4, NO_SECTOR),
        floors=np.array([0.0]),
        ceilings=np.array([100.0]),
        line_classes=np.full(4, WALL),
        floor_classes=np.array([FLOOR]),
        ceiling_classes=np.array([CEILING]),
        door_sectors=np.array([False]),
    )
    return replace(room, **changes)


def two_rooms(floor: float, ceiling: float, **changes: object) -> LevelGeometry:
    """The square room with an opening through all of its east wall (x = 100) to a room of its own, which ends at x = 300."""
    corners = np.array([(100, 100), (300, 100), (300, -100), (100, -100)], float)
    room = square_room()
    opened = room.back.copy()
    opened[2] = 1  # the line from (100, 100) to (100, -100)
    both = replace(
        room,
        starts=np.concatenate([room.starts, corners[:3]]),
        ends=np.concatenate([room.ends, corners[1:]]),
        front=np.array([0, 0, 0, 0, 1, 1, 1]),
        back=np.concatenate([opened, [NO_SECTOR] * 3]),
        floors=np.array([0.0, floor]),
        ceilings=np.array([100.0, ceiling]),
        line_classes=np.full(7, WALL),
        floor_classes=np.array([FLOOR, FLOOR]),
        ceiling_classes=np.array([CEILING, CEILING]),
        door_sectors=np.array([False, False]),
    )
    return replace(both, **changes)


def camera(heading: float = 0.0, width: int = 65, height: int = 65) -> LevelCamera:
    """In the middle of the square room, eyes at 40 map units."""
    return LevelCamera(x=0, y=0, z=40, heading=heading, field_of_view=90, width=width, height=height)


def heights_at_opening() -> np.ndarray:
    """(65,) where the rays of `camera()`'s rows meet the plane x = 100: its focal length is 32.5 pixels."""
    return 40 + (32 - np.arange(65)) / (32.5 * VERTICAL_STRETCH) * 100


# Ray casting


@pytest.mark.parametrize("heading", [0, 90, 180, 270])
def test_a_wall_straight_ahead_is_at_its_distance_and_faces_the_camera(heading):
    maps = cast_rays(square_room(), camera(heading))
    middle = maps.classes[32]
    assert (middle == WALL).all()
    np.testing.assert_allclose(maps.depth[32, 20:45], 100)
    np.testing.assert_allclose(maps.normals[:, 32, 20:45], np.array([[0], [0], [1]]) * np.ones((1, 25)), atol=1e-12)


def test_floor_and_ceiling_satisfy_similar_triangles():
    view = camera()
    maps = cast_rays(square_room(), view)
    rows = np.arange(65) + 0.5 - 32.5
    # Of a stretched level: eyes 40 * 1.2 above the floor, 60 * 1.2 below the ceiling, square pixels.
    for row in (60, 64):
        assert (maps.classes[row] == FLOOR).all()
        np.testing.assert_allclose(maps.depth[row], 40 * VERTICAL_STRETCH * view.focal / rows[row])
        np.testing.assert_allclose(maps.normals[:, row, 10], [0, 1, 0])
    assert maps.classes[0, 32] == CEILING
    np.testing.assert_allclose(maps.depth[0, 32], 60 * VERTICAL_STRETCH * view.focal / -rows[0])
    np.testing.assert_allclose(maps.normals[:, 0, 32], [0, -1, 0])


def test_a_corner_ahead_shows_two_walls_turned_by_45_degrees_to_either_side():
    maps = cast_rays(square_room(), camera(heading=45))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(maps.normals[:, 32, 20], [half, 0, half], atol=1e-12)  # the left wall faces right
    np.testing.assert_allclose(maps.normals[:, 32, 44], [-half, 0, half], atol=1e-12)
    np.testing.assert_allclose(maps.depth[32, 32], 100 * np.sqrt(2))


def test_normals_are_consistent_with_the_depth():
    """Points of the depth map, taken apart with the focal length, lie on planes with the normals of the map."""
    view = camera(heading=20, width=64, height=64)
    maps = cast_rays(square_room(), view)
    right, down = np.meshgrid(*[(np.arange(64) + 0.5 - 32) / view.focal] * 2)
    points = np.stack([right, -down, -np.ones_like(right)]) * maps.depth
    along_rows, along_columns = np.diff(points, axis=2)[:, :-1], np.diff(points, axis=1)[:, :, :-1]
    normals = maps.normals[:, :-1, :-1]
    same = (np.diff(maps.normals, axis=2)[:, :-1] == 0).all(axis=0) & (np.diff(maps.normals, axis=1)[:, :, :-1] == 0).all(axis=0)
    assert same.mean() > 0.8
    for step in (along_rows, along_columns):
        np.testing.assert_allclose((normals * step).sum(axis=0)[same], 0, atol=1e-9)
    assert ((normals * points[:, :-1, :-1]).sum(axis=0) < 0).all(), "normals must point towards the camera"


def test_an_opening_shows_the_room_behind_except_where_steps_hide_it():
    maps = cast_rays(two_rooms(floor=30, ceiling=80), camera())
    column = maps.depth[:, 32]
    heights = heights_at_opening()
    step = (heights <= 30) & (heights >= 0)
    beam = (heights >= 80) & (heights <= 100)
    assert step.sum() > 5
    assert beam.sum() > 5
    np.testing.assert_allclose(column[step | beam], 100)
    np.testing.assert_allclose(column[32], 300)


def test_sky_has_a_class_and_no_geometry():
    maps = cast_rays(square_room(ceiling_classes=np.array([SKY])), camera())
    sky = maps.classes == SKY
    assert sky.any()
    assert np.isnan(maps.depth[sky]).all()
    assert np.isnan(maps.normals[:, sky]).all()


def test_between_two_skies_of_different_height_there_is_sky():
    hanging = heights_at_opening() > 60
    assert hanging.sum() > 5
    for far_ceiling, expected in ((SKY, SKY), (CEILING, WALL)):
        maps = cast_rays(two_rooms(floor=0, ceiling=60, ceiling_classes=np.array([SKY, far_ceiling])), camera())
        assert (maps.classes[hanging & (heights_at_opening() < 100), 32] == expected).all()


def test_the_part_that_closes_a_door_sector_is_a_door():
    closed = two_rooms(floor=0, ceiling=0, door_sectors=np.array([False, True]))
    assert cast_rays(closed, camera()).classes[32, 32] == DOOR


def test_rays_that_leave_the_level_are_unknown():
    open_to_the_east = square_room()
    keep = np.array([0, 1, 3])
    lines = {name: getattr(open_to_the_east, name)[keep] for name in ("starts", "ends", "front", "back", "line_classes")}
    maps = cast_rays(replace(open_to_the_east, **lines), camera())
    assert (maps.classes[:, 32] == UNKNOWN_CLASS).all()
    assert np.isnan(maps.depth[:, 32]).all()


@pytest.mark.parametrize(("changes", "message"), [({"field_of_view": 180}, "field of view 180"), ({"width": 0}, "65 x 0")])
def test_invalid_cameras_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        cast_rays(square_room(), replace(camera(), **changes))


# A frame of the engine becomes a view


def frame_of_room(**changes: object) -> Frame:
    """What an engine would give for the square room: 256 x 192, a depth buffer that agrees, no sprites."""
    maps = cast_rays(square_room(), camera(width=256, height=192))
    frame = Frame(
        image=np.full((192, 256, 3), 36, np.uint8),
        depth_steps=np.round((maps.depth - BUFFER_START) / BUFFER_STEP).clip(0, 255).astype(np.uint8),
        labels=np.zeros((192, 256), np.uint8),
        sprites=(),
        floors=np.array([0.0]),
        ceilings=np.array([100.0]),
        position=np.array([0.0, 0.0, -1.0]),
        eye=40.0,
        heading=0.0,
        field_of_view=90.0,
    )
    return replace(frame, **changes)


def test_the_square_view_is_known_everywhere_and_in_metres():
    view = compose_view(frame_of_room(), square_room(), 64)
    assert view.image.shape == (64, 64, 3)
    assert not (view.classes == UNKNOWN_CLASS).any()
    assert view.depth[32, 32] == pytest.approx(100 * METRES_PER_MAP_UNIT)
    # 192 of 256 columns: tan of half the field of view shrinks to 3/4.
    assert view.camera.field_of_view == pytest.approx(2 * np.rad2deg(np.arctan(0.75)))


def test_a_sprite_is_upright_at_its_distance():
    labels = np.zeros((192, 256), np.uint8)
    labels[90:102, 122:134] = 7
    frame = frame_of_room(labels=labels, sprites=(Sprite(7, "DoomImp", "Monster", 64.0, 5.0),))
    view = compose_view(frame, square_room(), 64)
    monster = view.classes == CLASS_IDS["monster"]
    assert monster.sum() == 16  # 12 x 12 engine pixels
    np.testing.assert_allclose(view.depth[monster], 64 * METRES_PER_MAP_UNIT)
    np.testing.assert_allclose(view.normals[:, monster].T, np.tile([0, 0, 1], (16, 1)))


def test_a_grate_that_only_the_engine_draws_becomes_unknown():
    steps = frame_of_room().depth_steps.copy()
    steps[90:102, 122:134] = 3  # something at 38 map units, where the rays see a wall at 100
    view = compose_view(frame_of_room(depth_steps=steps), square_room(), 64)
    assert (view.classes == UNKNOWN_CLASS).sum() == 16
    assert np.isnan(view.depth[view.classes == UNKNOWN_CLASS]).all()


def test_a_pixel_on_an_outline_agrees_with_either_side():
    maps = cast_rays(square_room(), camera(width=1, height=1))
    steps = np.full((1, SUPERSAMPLING, 1, SUPERSAMPLING), 200, np.uint8)
    assert not agrees_with_depth_buffer(maps, steps, 90)
    steps[0, 0, 0, 0] = (100 - BUFFER_START) / BUFFER_STEP
    assert agrees_with_depth_buffer(maps, steps, 90)


def test_brightening_lifts_dark_frames_and_keeps_bright_ones():
    dark, bright = np.full((8, 8, 3), 30, np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert brighten(dark).mean() > 80
    np.testing.assert_array_equal(brighten(bright), bright)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert (np.diff(brighten(ramp)[0, :, 0].astype(int)) >= 0).all(), "brighter stays brighter"


# Levels


def test_every_level_has_one_split_and_the_shares_are_a_half_and_two_quarters():
    counts = {split: len(select_levels([split])) for split in ("train", "validation", "test")}
    assert counts == {"train": 34, "validation": 17, "test": 17}
    assert [split_of(level) for level in ("MAP01", "MAP02", "MAP03", "MAP04", "E1M1", "E2M1")] == [
        "train",
        "train",
        "validation",
        "test",
        "train",
        "train",
    ]
    assert select_levels(["all"]) == LEVELS


def test_levels_are_named_in_any_case_and_come_in_order_once():
    assert select_levels(["map05", "E1M2", "MAP05"]) == ("E1M2", "MAP05")
    with pytest.raises(ValueError, match=r"MAP33.*MAP01 to MAP32"):
        select_levels(["MAP33"])


def test_a_level_of_freedoom_is_read_with_its_doors_and_things():
    geometry, things = read_level("MAP05")
    assert len(geometry.starts) == len(geometry.front) == len(geometry.line_classes) > 1000
    assert geometry.front.max() < len(geometry.floors)
    assert geometry.door_sectors.any()
    assert things.shape[1] == 2


# The engine


def test_the_same_seed_gives_the_same_views_and_another_one_does_not():
    first, again, other = (list(render_views("E1M1", 2, 64, seed)) for seed in (3, 3, 4))
    assert len(first) == 2
    for one, two in zip(first, again):
        assert one.camera == two.camera
        for name in ("image", "depth", "normals", "classes"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert first[0].camera != other[0].camera


def test_rendered_views_have_the_documented_contents():
    for view in render_views("MAP02", 2, 64, seed=0):
        known = np.isfinite(view.depth)
        assert (view.depth[known] >= 0.5).all()
        np.testing.assert_allclose(np.linalg.norm(view.normals[:, known], axis=0), 1)
        np.testing.assert_array_equal(known, (view.classes != SKY) & (view.classes != UNKNOWN_CLASS))
        assert (view.classes == UNKNOWN_CLASS).mean() <= 0.01


def test_unsupported_resolutions_are_refused():
    with pytest.raises(ValueError, match=r"123 rows.*120, 150"):
        FrozenGame("MAP01", 123, 0)


def test_an_engine_that_does_not_start_says_what_it_needs_and_leaves_nothing(monkeypatch, tmp_path):
    class Game:
        def init(self):
            raise vizdoom.MessageQueueException("Failed to create message queues: File too large")

    monkeypatch.setattr(engine, "_configured_game", lambda *arguments: Game())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match=r"ViZDoom does not start: Failed to create message queues: .*; it needs .*/dev/shm"):
        FrozenGame("MAP01", 120, 0)
    assert not [*tmp_path.iterdir()]


# The data set on disk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three views of two levels, rendered by the command."""
    path = tmp_path_factory.mktemp("doom") / "set"
    main([str(path), "--levels", "MAP04", "MAP05", "--views", "3", "--size", "32", "--seed", "2"])
    return path


def load(folder, split, tmp_path):
    return datasets.load_dataset(str(folder), split=split, cache_dir=str(tmp_path))


def card_header(folder) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_the_directory_loads_with_the_columns_of_the_card(folder, tmp_path):
    rows = {split: load(folder, split, tmp_path) for split in ("train", "test")}
    assert {split: len(data) for split, data in rows.items()} == {"train": 1, "test": 2}
    names = [entry["name"] for entry in card_header(folder)["mult_tasks"]]
    assert rows["test"].column_names == ["level", "view", "field_of_view", "image", *names]
    assert set(rows["test"]["level"]) == {"MAP04"}


def test_stored_maps_decode_with_the_card_alone(folder, tmp_path):
    tasks = resolve_tasks(card_header(folder)["mult_tasks"])
    for row in load(folder, "test", tmp_path):
        targets = {name: spec.decode(np.asarray(row[name])) for name, spec in tasks.items()}
        sky = targets["segmentation"] == SKY
        known = np.isfinite(targets["depth"][0])
        np.testing.assert_array_equal(known, ~sky & (targets["segmentation"] != 255))
        np.testing.assert_array_equal(np.isfinite(targets["normals"]).all(axis=0), known)
        np.testing.assert_array_equal(np.isfinite(targets["reshading"][0]), known)
        np.testing.assert_allclose(np.linalg.norm(targets["normals"][:, known], axis=0), 1, atol=0.02)
        assert row["image"].size == (32, 32)


def test_encoding_a_view_and_decoding_it_loses_only_rounding():
    view = next(render_views("E1M1", 1, 64, seed=0))
    far = view.depth.copy()
    far[0] = 200.0  # beyond what 16 bits hold
    row = encode_sample("E1M1", 0, View(view.image, far, view.normals, view.classes, view.camera))
    tasks = resolve_tasks(writing.TASK_ENTRIES)
    stored = {name: datasets.Image().decode_example({"path": None, **row[name]}) for name in tasks}
    depth = tasks["depth"].decode(np.asarray(stored["depth"]))[0]
    assert np.isnan(depth[0]).all()
    np.testing.assert_allclose(depth[1:], view.depth[1:], atol=0.5 / 512 + 1e-9)
    np.testing.assert_array_equal(tasks["segmentation"].decode(np.asarray(stored["segmentation"])), view.classes)


def test_the_card_contains_the_command_and_the_licence_is_next_to_the_samples(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "--levels MAP04 MAP05 --views 3 --size 32 --seed 2" in text
    assert card_header(folder)["license"] == "bsd-3-clause"
    licence = (folder / writing.LICENSE_FILE).read_text(encoding="utf-8")
    assert "Contributors to the Freedoom project" in licence
    assert licence.strip() in text


def test_an_interrupted_rendering_continues_without_repeating_finished_levels(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in (folder / "data").iterdir()}
    finished, lost = sorted(before)
    assert (finished, lost) == ("test-MAP04.parquet", "train-MAP05.parquet")
    (folder / "data" / lost).unlink()
    rendered = []
    monkeypatch.setattr(writing, "render_views", lambda level, *rest: rendered.append(level) or render_views(level, *rest))
    writing.write_dataset(folder, writing.Rendering(("MAP04", "MAP05"), 3, 32, 2))
    assert rendered == ["MAP05"]
    assert {path.name: path.read_bytes() for path in (folder / "data").iterdir()} == before


def test_a_folder_with_other_settings_is_refused(folder):
    with pytest.raises(ValueError, match="size 32 instead of 64"):
        main([str(folder), "--levels", "MAP04", "MAP05", "--views", "3", "--size", "64", "--seed", "2"])


def test_a_folder_with_rooms_or_notes_is_refused_and_stays_as_it_is(folder, tmp_path):
    for name, text in (("rooms", "---\npretty_name: Rooms\n---\n"), ("notes", "mine")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(text)
        with pytest.raises(ValueError, match=r"README\.md is not the card"):
            main([str(tmp_path / name), "--levels", "MAP04", "--views", "1", "--size", "32"])
        assert (tmp_path / name / "README.md").read_text() == text
        assert not [*(tmp_path / name).rglob("*.parquet")]


def test_a_file_instead_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; give a folder"):
        main([str(tmp_path / "file"), "--levels", "MAP01", "--views", "1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "33"], "size 33 .* even number"),
        (["--size", "1024"], "from 32 to 400"),
        (["--views", "0"], "0 views cannot be spread over 68 levels"),
        (["--levels", "E5M1"], "no level or split 'E5M1'"),
        (["--seed", "-1"], "seed -1 is negative"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main([str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()
