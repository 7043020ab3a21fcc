"""Proves that a task's entry reads stored label maps into targets and back, refuses invalid maps, and is unchanged by JSON."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from mult_hf import IGNORE_INDEX, MULT_TASKS, LabelEncoding, TaskSpec, register_task, registered_tasks
from mult_hf.model import tasks

PRINCIPAL_CURVATURE = TaskSpec(
    name="principal_curvature",
    kind="regression",
    channels=2,
    metrics=("mae", "rmse"),
    unit="1/m",
    value_range=(-1.0, 1.0),
    encoding=LabelEncoding(dtype="uint16", scale=(1 / 100, 1 / 200), offset=(-1.0, 0.5), unknown=(65535,), channels=(0, 1)),
    horizontal_flip_signs=(1.0, -1.0),
)


@pytest.fixture
def registry(monkeypatch):
    """Let a test register tasks that later tests do not see."""
    monkeypatch.setattr(tasks, "_REGISTRY", registered_tasks())


def spec_of(task: str) -> TaskSpec:
    return registered_tasks()[task]


def a_task(**changes) -> TaskSpec:
    return TaskSpec(**{"name": "roughness", "kind": "regression", "channels": 2, **changes})


# Stored values and their meaning.


def test_depth_is_decoded_to_metres_and_is_unknown_at_zero_saturation_and_beyond_16_m():
    stored = np.array([[512, 1280, 8192], [0, 65535, 8193]], np.uint16)
    expected = np.array([[[1.0, 2.5, 16.0], [np.nan, np.nan, np.nan]]], np.float32)
    depth = spec_of("depth").decode(stored)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, expected)


def test_taskonomy_normals_are_turned_from_y_down_and_z_inwards_to_y_up_and_z_towards_the_viewer():
    # 127 is zero; 255 is about +1 and 0 about -1. A floor is stored with y = -1 (down is positive), a facing wall with z = -1.
    floor, facing_wall, wall_on_the_left = (127, 0, 127), (127, 127, 0), (254, 127, 127)
    stored = np.array([[floor, facing_wall, wall_on_the_left, floor]], np.uint8)
    normals = spec_of("normals").decode(np.moveaxis(stored, -1, 0))  # (3, 1, 4)
    np.testing.assert_allclose(normals[:, 0, 0], (0, 127 / 127.5, 0), atol=1e-6)
    np.testing.assert_allclose(normals[:, 0, 1], (0, 0, 127 / 127.5), atol=1e-6)
    np.testing.assert_allclose(normals[:, 0, 2], (127 / 127.5, 0, 0), atol=1e-6)


def test_stored_classes_lose_their_leading_unlabelled_id():
    classes = spec_of("segmentation").decode(np.array([[0, 1, 17]], np.uint8))
    assert classes.dtype == np.int64
    assert classes.tolist() == [[IGNORE_INDEX, 0, 16]]


def test_heat_maps_span_0_to_1():
    for task, largest in (("keypoints2d", np.uint16(65535)), ("edges2d", np.uint16(65535)), ("reshading", np.uint8(255))):
        heat = spec_of(task).decode(np.array([[largest * 0, largest]], largest.dtype))
        np.testing.assert_allclose(heat, [[[0, 1]]], atol=1e-7)


def test_a_float_map_is_unknown_where_it_is_not_finite_or_above_the_maximum():
    stored = np.array([[1.0, np.nan, np.inf, -np.inf, 3.0, 2.0]], np.float32)
    decoded = LabelEncoding(maximum=2.0).decode(stored)
    np.testing.assert_array_equal(decoded, np.array([[[1, np.nan, np.nan, np.nan, np.nan, 2]]], np.float32))


def test_a_pixel_is_unknown_only_if_all_its_channels_have_an_unknown_value():
    stored = np.zeros((3, 1, 2), np.uint8)
    stored[0, 0, 1] = 9  # the second pixel is (9, 0, 0)
    decoded = LabelEncoding(dtype="uint8", unknown=(0,)).decode(stored)
    assert np.isnan(decoded[:, 0, 0]).all()
    assert decoded[:, 0, 1].tolist() == [9, 0, 0]


def test_a_pixel_is_unknown_if_any_channel_is_not_finite_or_above_the_maximum():
    stored = np.ones((2, 1, 3), np.float32)
    stored[0, 0, 0], stored[1, 0, 1] = np.nan, 7
    decoded = LabelEncoding(maximum=5.0).decode(stored)
    assert np.isnan(decoded[:, 0, :2]).all()
    assert (decoded[:, 0, 2] == 1).all()


def test_channels_are_selected_in_the_given_order():
    stored = np.stack([np.full((5, 6), value, np.float32) for value in (10, 20, 30)])
    assert LabelEncoding(channels=(2, 0)).decode(stored)[:, 0, 0].tolist() == [30, 10]


def test_unselected_channels_do_not_make_a_pixel_unknown():
    stored = np.stack([np.full((5, 5), 3, np.float32), np.full((5, 5), np.nan, np.float32)])
    assert (LabelEncoding(channels=(0,)).decode(stored) == 3).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_first_and_channels_last_give_the_same_target(channels):
    stored = np.arange(channels * 5 * 6, dtype=np.float32).reshape(channels, 5, 6)
    first, last = LabelEncoding().decode(stored), LabelEncoding().decode(np.moveaxis(stored, 0, -1))
    assert first.shape == (channels, 5, 6)
    np.testing.assert_array_equal(first, stored)
    np.testing.assert_array_equal(last, stored)


def test_a_map_without_channel_axis_has_one_channel():
    assert LabelEncoding().decode(np.zeros((5, 6))).shape == (1, 5, 6)


def test_a_16_bit_map_widened_to_int32_by_an_image_library_is_read_as_16_bits():
    stored = np.array([[512, 65535]], np.uint16)
    np.testing.assert_array_equal(spec_of("depth").decode(stored.astype(np.int32)), spec_of("depth").decode(stored))


def test_decoding_does_not_change_the_stored_map():
    stored = np.array([[0, 512, 65535]], np.uint16)
    spec_of("depth").decode(stored)
    assert stored.tolist() == [[0, 512, 65535]]


# Round trips.


@pytest.mark.parametrize("task", [*map(spec_of, MULT_TASKS), PRINCIPAL_CURVATURE], ids=lambda spec: spec.name)
def test_encoding_inverts_decoding_for_every_stored_value(task):
    limits = np.iinfo(task.encoding.dtype)
    top = int(task.encoding.maximum or (task.channels if task.is_classification else limits.max))
    stored = np.arange(limits.min, top + 1).astype(task.encoding.dtype)
    stored = np.broadcast_to(stored[None, None], (1 if task.is_classification else task.channels, 1, len(stored)))
    unknown = np.isin(stored, task.encoding.unknown)
    expected = np.where(unknown, (task.encoding.unknown or (0,))[0], stored)  # several values may mean "not known"; the first is written
    encoded = task.encode(task.decode(stored))
    assert encoded.dtype == stored.dtype
    np.testing.assert_array_equal(encoded, expected)


def test_decoding_inverts_encoding_up_to_half_a_step():
    depth = np.random.default_rng(0).uniform(0.1, 15.9, (1, 8, 9)).astype(np.float32)
    depth[0, 2, 3] = np.nan
    back = spec_of("depth").decode(spec_of("depth").encode(depth))
    np.testing.assert_allclose(back, depth, atol=0.5 / 512 + 1e-6)  # also: unknown stays unknown
    assert np.isnan(back[0, 2, 3])


def test_encoding_rounds_to_the_nearest_stored_value_rather_than_down():
    assert LabelEncoding(dtype="uint8", scale=0.1).encode(np.array([[[0.26]]])).item() == 3


def test_a_pixel_with_one_unknown_channel_is_not_stored_as_known():
    encoding = LabelEncoding(dtype="uint8", scale=1 / 255, unknown=(0,))
    target = np.array([np.nan, 0.5, 0.5]).reshape(3, 1, 1)
    assert np.isnan(encoding.decode(encoding.encode(target))).all()


def test_the_target_of_a_sample_without_the_task_is_unknown_in_the_shape_of_a_decoded_one():
    for task in map(spec_of, MULT_TASKS):
        stored = np.full((1 if task.is_classification else task.channels, 5, 6), 1, task.encoding.dtype)
        decoded, nothing = task.decode(stored), task.unknown_target(5, 6)
        assert (nothing.shape, nothing.dtype) == (decoded.shape, decoded.dtype)
        assert (nothing == IGNORE_INDEX).all() if task.is_classification else np.isnan(nothing).all()


# Refusals of maps.


def test_an_8_bit_copy_of_a_16_bit_map_is_refused():
    with pytest.raises(ValueError, match=r"depth: the stored map is uint8 with values from 0 to 200, .* reads uint16"):
        spec_of("depth").decode(np.array([[0, 200]], np.uint8))


def test_an_integer_map_is_refused_if_floats_are_declared():
    """An entry without an encoding reads float32; an 8-bit image would become targets of 0 to 255."""
    heat = TaskSpec(name="heat", kind="regression", channels=1, value_range=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"heat: the stored map is uint8 with values from 0 to 200, .* reads float32"):
        heat.decode(np.array([[0, 200]], np.uint8))
    assert heat.decode(np.array([[0, 0.5]], np.float64)).tolist() == [[[0, 0.5]]], "another float type is no other unit"


def test_a_16_bit_map_is_refused_if_8_bits_are_declared_even_before_it_overflows():
    with pytest.raises(ValueError, match=r"stored map is uint16 with values from 0 to 300, .* reads uint8"):
        spec_of("reshading").decode(np.array([[0, 300]], np.uint16))


def test_a_float_map_is_refused_if_integers_are_declared():
    with pytest.raises(ValueError, match=r"depth: the stored map is float32 .* reads uint16"):
        spec_of("depth").decode(np.array([[1.5]], np.float32))


def test_negative_values_of_a_widened_map_are_refused():
    with pytest.raises(ValueError, match=r"values from -1 to 512"):
        spec_of("depth").decode(np.array([[-1, 512]], np.int32))


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4, 4)])
def test_a_map_of_another_number_of_axes_is_refused(shape):
    with pytest.raises(ValueError, match=rf"2 or 3 axes, got shape {re.escape(str(shape))}"):
        LabelEncoding().decode(np.zeros(shape))


def test_a_missing_channel_is_refused():
    with pytest.raises(ValueError, match=r"has 2 channels, but channels \[0, 2\]"):
        LabelEncoding(channels=(0, 2)).decode(np.zeros((2, 5, 5)))


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"depth: the stored map has 3 channels, the task has 1"):
        spec_of("depth").decode(np.zeros((3, 5, 5), np.uint16))


def test_a_class_map_stored_as_a_colour_image_is_refused():
    with pytest.raises(ValueError, match=r"segmentation: .*3 channels"):
        spec_of("segmentation").decode(np.ones((3, 5, 5), np.uint8))


def test_a_class_id_beyond_the_class_list_is_refused():
    with pytest.raises(ValueError, match=r"segmentation: 2 pixels have class 17, which the file stores as 18; classes run from 0 to 16"):
        spec_of("segmentation").decode(np.array([[1, 18, 18]], np.uint8))


def test_a_negative_class_is_refused():
    spec = replace(spec_of("segmentation"), encoding=LabelEncoding(dtype="uint8", offset=-1.0))
    with pytest.raises(ValueError, match=r"1 pixels have class -1"):
        spec.decode(np.array([[0, 1]], np.uint8))


def test_a_fractional_class_is_refused():
    spec = replace(spec_of("segmentation"), encoding=LabelEncoding())
    with pytest.raises(ValueError, match=r"class 1\.5"):
        spec.decode(np.array([[1.5, 1.0]], np.float32))


@pytest.mark.parametrize(("metres", "shown"), [(128.5, "65792"), (-1.0, "-512"), (np.inf, "inf")])
def test_a_value_that_the_storage_cannot_hold_is_refused(metres, shown):
    with pytest.raises(ValueError, match=rf"{shown}.*uint16 cannot hold"):
        spec_of("depth").encode(np.array([[[1.0, metres]]]))


def test_the_largest_value_that_the_storage_can_hold_is_not_refused():
    assert LabelEncoding(dtype="uint8").encode(np.array([[[0.0, 255.0]]])).tolist() == [[[0, 255]]]


def test_unknown_pixels_are_refused_if_no_stored_value_means_unknown():
    with pytest.raises(ValueError, match=r"2 values are not known.*set `unknown`"):
        spec_of("edges2d").encode(np.array([[[0.5, np.nan, np.nan]]]))


# Entries.


@pytest.mark.parametrize("name", ["Depth", "2d_edges", "edge-occlusion", "edge occlusion", "", "_depth", "depth\n", "a.b"])
def test_a_name_that_is_not_a_lower_case_identifier_is_refused(name):
    with pytest.raises(ValueError, match="not a lower-case identifier"):
        a_task(name=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ordinal"}, r"'roughness' has kind 'ordinal'; allowed: classification, regression"),
        ({"resample": "bicubic"}, r"resample 'bicubic'; allowed: nearest, bilinear"),
        ({"channels": 0}, r"0 channels; a regression needs at least 1"),
        ({"kind": "classification", "channels": 1}, r"1 channels; .* a classification 2 to 255"),
        ({"kind": "classification", "channels": 256}, r"256 channels"),
        ({"weight": -0.5}, r"weight -0\.5; weights are at least 0"),
        ({"class_names": ("a", "b", "c")}, r"3 class names for 2 channels"),
        ({"horizontal_flip_signs": (1.0,)}, r"1 flip signs for 2 channels"),
        ({"value_range": (1.0, 1.0)}, r"value range \(1\.0, 1\.0\); give two numbers, the smaller one first"),
        ({"value_range": (1.0, 0.0)}, r"value range \(1\.0, 0\.0\)"),
    ],
)
def test_an_impossible_task_is_refused(changes, message):
    assert a_task().name == "roughness"  # without the change there is nothing to refuse
    with pytest.raises(ValueError, match=message):
        a_task(**changes)


def test_the_limits_themselves_are_allowed():
    assert a_task(channels=1).channels == 1
    assert a_task(kind="classification", channels=2).is_classification
    assert a_task(kind="classification", channels=255).channels == 255
    assert a_task(weight=0.0).weight == 0


def test_positional_arguments_are_refused_so_that_fields_may_be_added():
    with pytest.raises(TypeError):
        TaskSpec("roughness", "regression", 2)


def test_a_shared_entry_cannot_be_modified():
    with pytest.raises(AttributeError):
        spec_of("depth").weight = 3.0


def test_mirroring_negates_the_x_of_normals_and_nothing_else():
    assert spec_of("normals").flip_signs == (-1, 1, 1)
    for task in set(MULT_TASKS) - {"normals"}:
        assert set(spec_of(task).flip_signs) == {1}
        assert len(spec_of(task).flip_signs) == spec_of(task).channels


def test_the_six_tasks_of_the_paper_are_registered_in_its_order():
    assert MULT_TASKS == ("segmentation", "depth", "normals", "keypoints2d", "edges2d", "reshading")
    assert [spec_of(task).name for task in MULT_TASKS] == list(MULT_TASKS)


def test_the_six_tasks_have_the_losses_of_the_paper():
    losses = {task: spec_of(task).loss for task in MULT_TASKS}
    assert losses == {**dict.fromkeys(MULT_TASKS, "l1"), "segmentation": "cross_entropy", "depth": "rotate_l1"}


# Entries as JSON values.


@pytest.mark.parametrize("spec", [*map(spec_of, MULT_TASKS), PRINCIPAL_CURVATURE], ids=lambda spec: spec.name)
def test_an_entry_is_unchanged_after_json(spec):
    entry = spec.to_dict()
    through_json = json.loads(json.dumps(entry))
    assert through_json == entry
    assert TaskSpec.from_dict(through_json) == spec


def test_an_entry_of_a_registered_task_lists_only_differences():
    spec = TaskSpec.from_dict({"name": "depth", "value_range": [0, 80], "weight": 2.0})
    assert spec == replace(spec_of("depth"), value_range=(0, 80), weight=2.0)
    assert spec != spec_of("depth")


def test_an_entry_does_not_change_the_registered_task():
    before = spec_of("depth")
    TaskSpec.from_dict({"name": "depth", "weight": 2.0})
    assert spec_of("depth") is before


def test_an_encoding_replaces_the_registered_one_as_a_whole():
    # A data set states its own encoding; parts of Taskonomy's, such as its 16 m limit, would silently drop labels.
    spec = TaskSpec.from_dict({"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001}})
    assert spec.encoding == LabelEncoding(dtype="uint16", scale=0.001)


def test_class_names_determine_the_number_of_channels():
    spec = TaskSpec.from_dict({"name": "segmentation", "class_names": ["floor", "wall", "rest"]})
    assert spec.channels == 3
    assert spec.class_names == ("floor", "wall", "rest")


def test_a_full_entry_needs_no_registration(registry):
    assert PRINCIPAL_CURVATURE.name not in registered_tasks()
    assert TaskSpec.from_dict(PRINCIPAL_CURVATURE.to_dict()) == PRINCIPAL_CURVATURE
    assert PRINCIPAL_CURVATURE.name not in registered_tasks()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "depth", "wieght": 2}, r"entry 'depth' has unknown fields \['wieght'\]; allowed: name, kind.*; did you mean weight\?$"),
        ({"kind": "regression", "channels": 1}, r"needs a name, got \{'kind'"),
        ({"name": "roughness", "channels": 1}, r"'roughness' is not registered and its entry lacks \['kind'\]; registered: segmentation"),
        ({"name": "roughness"}, r"lacks \['kind', 'channels'\]"),
        ({"name": "depth", "encoding": {"dytpe": "uint8"}}, r"encoding of task 'depth' has unknown fields \['dytpe'\]; allowed: dtype"),
        ({"name": "depth", "weight": -1}, r"weight -1"),
    ],
)
def test_an_invalid_entry_is_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        TaskSpec.from_dict(entry)


# The registry.


def test_a_registered_task_can_be_given_by_name(registry):
    assert register_task(PRINCIPAL_CURVATURE) is PRINCIPAL_CURVATURE
    assert registered_tasks()["principal_curvature"] == PRINCIPAL_CURVATURE
    assert tasks.resolve_tasks(["principal_curvature"]) == {"principal_curvature": PRINCIPAL_CURVATURE}


def test_registering_the_same_task_again_has_no_effect(registry):
    register_task(PRINCIPAL_CURVATURE)
    register_task(replace(PRINCIPAL_CURVATURE))
    assert list(registered_tasks()).count("principal_curvature") == 1


def test_a_registered_task_is_replaced_only_with_exist_ok(registry):
    other = replace(spec_of("depth"), value_range=(0.0, 80.0))
    with pytest.raises(ValueError, match=r"'depth' is registered with other values; pass exist_ok=True"):
        register_task(other)
    assert spec_of("depth").value_range == (0.0, 10.0)
    register_task(other, exist_ok=True)
    assert spec_of("depth") == other


def test_the_dict_of_registered_tasks_is_a_copy():
    registered_tasks().clear()
    assert set(MULT_TASKS) <= set(registered_tasks())


def test_names_entries_and_specs_can_be_mixed_in_any_order():
    specs = tasks.resolve_tasks([PRINCIPAL_CURVATURE, "normals", {"name": "depth", "weight": 0.5}])
    assert list(specs) == ["principal_curvature", "normals", "depth"]
    assert specs["principal_curvature"] is PRINCIPAL_CURVATURE
    assert specs["normals"] is spec_of("normals")
    assert specs["depth"].weight == 0.5


def test_resolved_tasks_resolve_to_themselves():
    specs = tasks.resolve_tasks(["normals", PRINCIPAL_CURVATURE])
    assert tasks.resolve_tasks(specs) == specs
    assert list(tasks.resolve_tasks(specs)) == list(specs)


def test_a_name_that_is_not_registered_is_refused():
    with pytest.raises(
        ValueError, match=r"'dept' is not registered \(did you mean 'depth'\?\); registered: segmentation, depth.*register_task"
    ):
        tasks.resolve_tasks(["dept"])


def test_a_duplicate_task_is_refused():
    with pytest.raises(ValueError, match=r"'depth' comes twice"):
        tasks.resolve_tasks(["depth", "normals", {"name": "depth", "weight": 2.0}])


def test_the_default_encoding_is_8_bit_ids_for_classes_and_floats_for_numbers():
    classes = TaskSpec(name="classes", kind="classification", channels=3)
    assert classes.decode(np.array([[0, 2, 255]], np.uint8)).tolist() == [[0, 2, 255]]
    distance = TaskSpec(name="distance", kind="regression", channels=1)
    assert distance.decode(np.array([[0.5, np.nan]], np.float32))[0, 0, 0] == 0.5
    with pytest.raises(ValueError, match="reads float32"):
        distance.decode(np.array([[3, 255]], np.uint8))
