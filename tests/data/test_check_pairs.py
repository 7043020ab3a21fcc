"""Proves that where depth and normals contradict each other, the checker blames the one that is wrong, or neither."""

import json
import re

import numpy as np
import pytest

from mult_hf.data.check import check
from support.checked_data import ENTRIES, SIZE, sound_maps, write

RIGHT, DOWN = np.meshgrid((np.arange(SIZE[1]) + 0.5 - SIZE[1] / 2) / 20, (np.arange(SIZE[0]) + 0.5 - SIZE[0] / 2) / 20)


def planes(*planes_of_scene):
    """Depth and normals of a scene whose visible surface is the nearest plane at each pixel.

    Args:
        planes_of_scene: normal (x right, y up, z towards the viewer) and distance of each plane from the camera in metres.
    """
    with np.errstate(divide="ignore"):
        along = [-distance / (normal[0] * RIGHT - normal[1] * DOWN - normal[2]) for normal, distance in planes_of_scene]
    depths = np.stack([np.where(depth > 0, depth, np.inf) for depth in along])
    return depths.min(axis=0), np.array([normal for normal, _ in planes_of_scene], float)[depths.argmin(axis=0)]


def unit(*vector):
    return np.array(vector) / np.linalg.norm(vector)


CORRIDOR = ((unit(0, 1, 0), 1.0), (unit(0, 0, 1), 3.0))  # a floor and a wall, no surface that faces sideways
ROOF = ((unit(0, -0.5, 0.8), 1.5), (unit(0, 0, 1), 2.0))  # leans towards the viewer above: no floor, nothing at a grazing angle
WALL = ((unit(-1, 0, 0), 1.2), (unit(0, 0, 1), 3.0))


def problems_of(tmp_path, depth, normals, rows=2, normals_entry=ENTRIES["normals"]):
    """Problems by task; from two rows, too few for a judgement of depth alone."""
    stored = {"depth": np.round(512 * depth).astype(np.uint16), "normals": np.round(127 + 127 * normals).astype(np.uint8)}
    entries = {"depth": ENTRIES["depth"], "normals": normals_entry}
    found = check(write(tmp_path / "set", [{"image": sound_maps()["image"], **stored}] * rows, entries))
    return {task: [*item.problems] for task, item in found.tasks.items() if item.problems}


@pytest.mark.parametrize("scene", [CORRIDOR, ROOF, WALL], ids=["corridor", "roof", "wall"])
def test_depth_and_normals_of_one_scene_do_not_contradict_each_other(tmp_path, scene):
    assert problems_of(tmp_path, *planes(*scene)) == {}


@pytest.mark.parametrize("scene", [CORRIDOR, WALL], ids=["corridor", "wall"])
def test_inverted_depth_is_blamed_where_the_normals_alone_show_that_they_are_right(tmp_path, scene):
    depth, normals = planes(*scene)
    ((task, sentences),) = problems_of(tmp_path, 4 - depth, normals).items()
    assert task == "depth"
    assert len(sentences) == 1
    assert "inverted depth" in sentences[0]


@pytest.mark.parametrize(
    ("scene", "signs", "sentence"),
    [
        (CORRIDOR, (1, -1, 1), "floors point down: .*: scale: [0.007874015748, -0.007874015748, 0.007874015748], offset: [-1, 1, -1]"),
        (WALL, (-1, 1, 1), "x looks mirrored.*: scale: [-0.007874015748, 0.007874015748, 0.007874015748], offset: [1, -1, -1]"),
        (CORRIDOR, (1, 1, -1), "z must point .*: scale: [0.007874015748, 0.007874015748, -0.007874015748], offset: [-1, -1, 1]"),
    ],
    ids=["y down", "x left", "z away"],
)
def test_a_mirrored_axis_is_named_with_the_encoding_that_corrects_it(tmp_path, scene, signs, sentence):
    depth, normals = planes(*scene)
    ((task, sentences),) = problems_of(tmp_path, depth, normals * signs).items()
    assert task == "normals"
    start, _, end = sentence.partition(".*")
    assert any(start in each and each.endswith(end) for each in sentences), sentences


ROOM = (*CORRIDOR, (unit(-1, 0, 0), 1.2))


CEILING = ((unit(0, -1, 0), 1.4), (unit(0, 0, 1), 3.0), (unit(-1, 0, 0), 1.2))  # no floor


@pytest.mark.parametrize(
    ("scene", "signs"),
    [(ROOM, (-1, -1, -1)), (CEILING, (-1, -1, -1)), (ROOM, (-1, -1, 1)), (ROOM, (1, -1, -1))],
    ids=["all away", "all away, no floor", "half a turn", "y down, z into the scene"],
)
def test_the_advice_for_several_mirrored_axes_corrects_them_at_once(tmp_path, scene, signs):
    depth, normals = planes(*scene)
    ((task, sentences),) = problems_of(tmp_path / "wrong", depth, normals * signs, rows=3).items()
    assert task == "normals"
    remedies = {sentence.partition("scale: ")[2] for sentence in sentences if "scale: " in sentence}
    (remedy,) = remedies
    scale, offset = (json.loads(part) for part in re.fullmatch(r"(\[.*\]), offset: (\[.*\])", remedy).groups())
    assert np.sign(scale).tolist() == [*signs]
    entry = {**ENTRIES["normals"], "encoding": {**ENTRIES["normals"]["encoding"], "scale": scale, "offset": offset}}
    assert problems_of(tmp_path / "right", depth, normals * signs, normals_entry=entry) == {}


def test_neither_is_blamed_where_nothing_shows_which_is_wrong(tmp_path):
    depth, normals = planes(*ROOF)
    for changed in ((4 - depth, normals), (depth, normals * (1, -1, 1))):
        ((task, sentences),) = problems_of(tmp_path, *changed).items()
        assert task == "normals"
        assert sentences[0].startswith("depth and normals contradict each other: near and far are swapped, or an axis")
