"""Proves that an entry with an invalid value is refused at construction, by a ValueError that names its field."""

import re
from dataclasses import fields, replace

import numpy as np
import pytest
from torch import nn

from mult_hf import LabelEncoding, MulTDensePredictionOutput, MulTModelOutput, TaskSpec
from mult_hf.data.collator import AUGMENTATION_SEED
from mult_hf.metrics.table import METRICS, STATISTICS
from mult_hf.model.entry_checks import CLASS_METRICS, OF_CLASSES, OF_NUMBERS, OF_VECTORS
from mult_hf.model.heads import ACTIVATIONS
from mult_hf.model.losses import LOSSES
from mult_hf.model.tasks import RESERVED_NAMES, resolve_tasks

NO_TEXT = [None, 5, 1.5, True, ["l1"], {"a": 1}]
NO_NUMBER = ["1", "1/512", True, [1], {"a": 1}, float("nan"), float("inf"), -float("inf"), 10**400, 1j]
NO_LIST = [5, 1.5, "mae", True, {"a": 1}, [[1]], [None], [float("nan")], [{}]]
WRONG = {
    "kind": NO_TEXT,
    "channels": ["1", 1.0, True, [1], None, 0, -1],
    "activation": NO_TEXT,
    "loss": [5, ["l1"], True],
    "weight": [*NO_NUMBER, None, -1],
    "metrics": ["mae", 5, [5], [None], {"mae": 1}, ["mean_iou"]],
    "unit": NO_TEXT,
    "value_range": [10, "0-10", [0], [0, 1, 2], [1, 1], [1, 0], [0, float("inf")], [float("nan"), 1], ["0", "1"], [None, None]],
    "class_names": ["a", 5, [5], [True], [None], {"a": 1}],
    "resample": [*NO_TEXT, "bicubic"],
    "horizontal_flip_signs": [*NO_LIST, [2.0], [0], ["1"], [1, 1]],
    "rotated_channels": [0, "01", [0.0, 1.0], [0], [0, 1]],
    "zoom_exponent": [*NO_NUMBER, None],
    "colormap": [5, ["gray"]],
    "transformers_task": [5, ["depth-estimation"]],
    "description": NO_TEXT,
    "encoding": [5, "uint8", [1], ["dtype"], True],
}
WRONG_ENCODINGS = {
    "dtype": [None, 5, ["uint8"], "", "colour", "str", "object", "complex64", "datetime64[s]", "i4,i4"],
    "scale": ["1/512", None, True, [], ["1"], [None], 0, [1, 0], float("nan"), float("inf"), {"a": 1}],
    "offset": ["1", None, True, [], [None], float("nan"), {"a": 1}],
    "unknown": [0, 255, "0", None, True, ["0"], [None], [True], [-1], [65536], [0.5], [float("nan")], [float("inf")]],
    "maximum": ["8192", True, [8192], float("nan"), float("inf")],
    "channels": [0, "0", [], ["0"], [0.0], [-1], [True]],
}


def cases(table):
    return [pytest.param(field, value, id=f"{field}={value!r:.40}") for field, values in table.items() for value in values]


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("1 / 255", "a finite number, in YAML 0.00392156862745098"),
        ("1e-3", "a finite number, in YAML 0.001"),
        ("1/0", "a finite number"),
        ("1/2/3", "a finite number"),
        ("nan", "a finite number"),
        ("much", "a finite number"),
    ],
)
def test_a_number_that_yaml_reads_as_text_is_written_out(value, advice):
    with pytest.raises(ValueError, match=rf"scale '{value}' \(str\); give {re.escape(advice)}$"):
        LabelEncoding(dtype="uint8", scale=value)


@pytest.mark.parametrize(("field", "value"), cases(WRONG))
@pytest.mark.parametrize("name", ["depth", "roughness"], ids=["of a registered task", "of a new task"])
def test_the_error_for_an_invalid_value_names_its_field(name, field, value):
    entry = {"name": name, "kind": "regression", "channels": 1}
    assert resolve_tasks([entry])[name].channels == 1, "premise: without the value there is nothing to refuse"
    words = field.rstrip("s").replace("horizontal_", "").replace("_", "[ _]")
    with pytest.raises(ValueError, match=rf"(?=.*\b{name}\b).*{words}"):
        resolve_tasks([{**entry, field: value}])


@pytest.mark.parametrize(("field", "value"), cases(WRONG_ENCODINGS))
def test_the_error_for_an_invalid_value_of_an_encoding_names_its_field(field, value):
    with pytest.raises(ValueError, match=rf"encoding of task 'depth': encoding .*{field}"):
        resolve_tasks([{"name": "depth", "encoding": {"dtype": "uint16", field: value}}])


@pytest.mark.parametrize("entry", [None, 5, True, ["depth"], {"name": 5}, {"name": None}, {"name": ["depth"]}, {5: 1, "name": "depth"}])
def test_a_value_that_is_not_an_entry_is_refused(entry):
    with pytest.raises(ValueError, match="task entry"):
        resolve_tasks([entry])


@pytest.mark.parametrize("entries", [None, 5, "depth", True])
def test_a_value_that_is_not_a_list_of_entries_is_refused(entries):
    with pytest.raises(ValueError, match="give a list"):
        resolve_tasks(entries)


def test_long_values_are_shortened_in_errors():
    with pytest.raises(ValueError, match="weight") as refusal:
        resolve_tasks([{"name": "depth", "weight": list(range(10_000))}])
    assert len(str(refusal.value)) < 500


def test_lists_and_numpy_numbers_become_json_values():
    spec = TaskSpec(
        name="t", kind="regression", channels=np.int64(2), weight=np.float32(0.5), value_range=np.array([0, 1]), metrics=["mae"]
    )
    assert spec == TaskSpec(name="t", kind="regression", channels=2, weight=0.5, value_range=(0, 1), metrics=("mae",))
    assert {type(spec.channels), type(spec.weight), type(spec.value_range[0])} == {int, float}


# Fields that do not fit each other.


def test_the_list_of_class_metrics_matches_the_table_of_metrics():
    """The table is not saved with a checkpoint, so the list that entries are checked by must equal it."""
    assert set(CLASS_METRICS) == {name for name, metric in METRICS.items() if STATISTICS[metric.statistics].kind == "classification"}


def test_a_metric_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match=r"task 't' is a classification and has metrics \['mae'\]"):
        TaskSpec(name="t", kind="classification", channels=5, metrics=("mae", "mean_iou"))
    with pytest.raises(ValueError, match=r"task 't' is a regression and has metrics \['mean_iou'\]"):
        TaskSpec(name="t", kind="regression", channels=1, metrics=("mae", "mean_iou"))


def test_an_encoding_with_another_number_of_channels_than_the_task_is_refused():
    for changes in ({"channels": (0, 1)}, {"scale": (1.0, -1.0)}, {"offset": (1.0, 2.0)}):
        with pytest.raises(ValueError, match=r"task 't' has 3 channels in its maps, and its encoding"):
            TaskSpec(name="t", kind="regression", channels=3, encoding=LabelEncoding(**changes))
        with pytest.raises(ValueError, match=r"task 't' has 1 channels in its maps, and its encoding"):
            TaskSpec(name="t", kind="classification", channels=3, encoding=LabelEncoding(dtype="uint8", **changes))


def test_an_encoding_with_lists_of_different_lengths_is_refused():
    with pytest.raises(ValueError, match=r"\{'channels': 2, 'scale': 3\} numbers per channel"):
        LabelEncoding(channels=(0, 1), scale=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(("turned", "signs"), [((0, 1), (-1, 1, 1)), ((2, 0), (1, 1, -1)), ((), (1, 1, 1))])
def test_vectors_that_turn_with_the_image_are_mirrored_with_it(turned, signs):
    """Otherwise a flip and a rotation of one image would teach vectors that contradict each other."""
    entry = {"name": "t", "kind": "regression", "channels": 3, "rotated_channels": turned}
    assert TaskSpec(**entry).flip_signs == signs
    assert TaskSpec(**entry, horizontal_flip_signs=(1, 1, 1)).flip_signs == (1, 1, 1), "a given one counts"
    assert replace(TaskSpec(**entry), rotated_channels=()).flip_signs == (1, 1, 1), "a default is not kept"


# Names.


def test_every_output_and_column_is_reserved():
    taken = {field.name for kind in (MulTDensePredictionOutput, MulTModelOutput) for field in fields(kind)}
    assert {*taken, "image", "pixel_values", "labels", "target_size", AUGMENTATION_SEED} <= set(RESERVED_NAMES)


@pytest.mark.parametrize("name", RESERVED_NAMES)
def test_the_name_of_an_output_or_a_column_is_refused(name):
    with pytest.raises(ValueError, match=f"a task cannot be called '{name}'.*choose another"):
        TaskSpec(name=name, kind="regression", channels=1)


@pytest.mark.parametrize("name", ["type", "values", "training", "half", "update", "forward"])
def test_a_name_that_torch_modules_use_is_refused_at_construction(name):
    assert hasattr(nn.ModuleDict(), name), "premise"
    with pytest.raises(ValueError, match=f"a task cannot be called '{name}'.*ModuleDict.*choose another"):
        TaskSpec(name=name, kind="regression", channels=1)


@pytest.mark.parametrize(
    ("kind", "channels", "fields", "message"),
    [
        ("classification", 3, {"loss": "l1"}, "is a classification and has loss 'l1', which is for regression"),
        ("regression", 3, {"loss": "cross_entropy"}, "is a regression and has loss 'cross_entropy', which is for classification"),
        ("classification", 3, {"activation": "unit_vector"}, "has activation 'unit_vector', which is for regression"),
        ("classification", 3, {"activation": "sigmoid"}, "has activation 'sigmoid', which is for regression"),
        ("classification", 3, {"value_range": (0.0, 2.0)}, r"value_range \(0.0, 2.0\), which is for numbers"),
        ("classification", 3, {"horizontal_flip_signs": (-1, 1, 1)}, "holds classes, which .* drop .* horizontal_flip_signs"),
        ("classification", 3, {"class_names": ("a", "b", "a")}, r"class_names \['a'\] more than once"),
        ("regression", 1, {"class_names": ("a",)}, r"is a regression and has class_names \['a'\]"),
        ("regression", 1, {"activation": "unit_vector"}, "has one channel and unit_vector, for vectors"),
        ("regression", 1, {"loss": "cosine"}, "has one channel and cosine, for vectors"),
        ("regression", 1, {"horizontal_flip_signs": (-1,), "value_range": (0.0, 10.0)}, r"give a value_range such as \[-10, 10\]"),
        ("regression", 1, {"horizontal_flip_signs": (-1,), "value_range": (-10.0, -5.0)}, r"give a value_range such as \[-10, 10\]"),
        (
            "regression",
            1,
            {"horizontal_flip_signs": (-1,), "activation": "sigmoid"},
            "values from 0 to 1, of which none may have the other sign",
        ),
        (
            "regression",
            2,
            {"rotated_channels": (0, 1), "value_range": (0.0, 1.0)},
            r"has rotated_channels \[0, 1\] and values from 0 to 1, of which none .*; drop the channels, or give .* \[-1, 1\]",
        ),
        ("regression", 1, {"metrics": ("mae", "mae")}, r"has metrics \['mae', 'mae'\]; give each once"),
        ("regression", 1, {"value_range": (-1e308, 1e308)}, "value range .* with a finite difference"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(kind, channels, fields, message):
    TaskSpec(name="new", kind=kind, channels=channels)
    with pytest.raises(ValueError, match=f"task 'new' {message}|task 'new' .*{message}"):
        TaskSpec(name="new", kind=kind, channels=channels, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"horizontal_flip_signs": (-1,)},
        {"horizontal_flip_signs": (-1,), "value_range": (-4.0, 4.0)},
        {"horizontal_flip_signs": (-1,), "value_range": (-10.0, 80.0)},
    ],
)
def test_fields_that_fit_each_other_are_allowed(fields):
    assert TaskSpec(name="new", kind="regression", channels=1, **fields)


def test_every_loss_and_activation_has_a_kind():
    assert {*OF_CLASSES["loss"], *OF_NUMBERS["loss"]} == {*LOSSES}
    assert {*OF_CLASSES["activation"], *OF_NUMBERS["activation"], "identity"} == {*ACTIVATIONS}
    assert set(OF_VECTORS) <= {*OF_NUMBERS["loss"], *OF_NUMBERS["activation"]}


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"loss": "cross_entropy"}, "loss 'cross_entropy', which is for classification; choose from: l1, rotate_l1, silog, balanced"),
        ({"loss": "cosine"}, "choose from loss: l1, rotate_l1, silog, balanced_binary_cross_entropy$"),
        ({"activation": "unit_vector"}, "choose from activation: identity, sigmoid$"),
        ({"kind": "classification", "channels": 2, "loss": "l1"}, "loss 'l1', which is for regression; choose from: cross_entropy$"),
        ({"kind": "classification", "channels": 2, "activation": "sigmoid"}, "which is for regression; choose from: identity$"),
    ],
)
def test_what_fits_the_task_is_offered_in_place_of_what_does_not(fields, allowed):
    with pytest.raises(ValueError, match=allowed):
        TaskSpec(**{"name": "new", "kind": "regression", "channels": 1, **fields})
