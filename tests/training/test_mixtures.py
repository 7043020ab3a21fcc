"""Proves that the rows of a mixture are measured as their own data sets store them, and that model and processor have the same entries."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor, TaskSpec
from mult_hf.data.mixing import merge_tasks, mix_datasets
from mult_hf.model.label_encoding import LabelEncoding
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.run import train
from support.models import TINY_SWIN
from support.training_runs import new_accelerate_state

DEPTH = TaskSpec(
    name="depth", kind="regression", channels=1, unit="m", value_range=(0.0, 10.0), metrics=("rmse",),
    encoding=LabelEncoding(dtype="uint16", scale=1 / 1000, unknown=(0,)),
)  # fmt: skip
IN_OTHER_STEPS = replace(DEPTH, encoding=LabelEncoding(dtype="uint16", scale=1 / 256, unknown=(0,)))
BY_SOURCE = {"millimetres": {"depth": DEPTH}, "others": {"depth": IN_OTHER_STEPS}}


def rows_of(stored):
    """Two rows of 2 m everywhere, which is stored as this number."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    rows = {"image": [image] * 2, "depth": [Image.fromarray(np.full((32, 32), stored, np.uint16))] * 2}
    return Dataset.from_dict(rows, features=Features({"image": ImageFeature(), "depth": ImageFeature()}))


def mixture():
    return mix_datasets({"millimetres": rows_of(2000), "others": rows_of(512)}, seed=0)


def trained(directory, of_model, of_processor, training_rows, validation_rows, **kwargs):
    new_accelerate_state()
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=of_model))
    processor = MulTImageProcessor(size={"height": 32, "width": 32}, tasks=of_processor)
    arguments = TrainingArguments(output_dir=directory, max_steps=1, batch_size=2, cpu_threads=1, panel_rows=1)
    return train(model, processor, training_rows, validation_rows, arguments, **kwargs)


@pytest.mark.parametrize("order", [["millimetres", "others"], ["others", "millimetres"]], ids=" then ".join)
def test_the_baseline_of_a_mixture_is_right_where_both_sets_agree(tmp_path, order):
    by_source = {name: BY_SOURCE[name] for name in order}
    entries = list(merge_tasks(by_source).values())
    results = trained(tmp_path, entries, entries, mixture(), mixture(), tasks_by_source=by_source)
    assert results["constant_baseline"]["depth/rmse"] == pytest.approx(0, abs=1e-6), "2 m everywhere, in either encoding"


def test_validation_rows_of_one_set_need_no_source(tmp_path):
    """As in `mult-hf train --mix_with`, which measures on the first data set."""
    results = trained(tmp_path, [DEPTH], [DEPTH], mixture(), rows_of(2000), tasks_by_source=BY_SOURCE)
    assert results["constant_baseline"]["depth/rmse"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_the_names_of_data_sets_may_be_text_of_either_kind(tmp_path, kind):
    """Pandas 3 gives large strings."""
    rows = mixture().cast_column("source", Value(kind))
    results = trained(tmp_path, [DEPTH], [DEPTH], rows, rows, tasks_by_source=BY_SOURCE)
    assert results["constant_baseline"]["depth/rmse"] == pytest.approx(0, abs=1e-6)


def test_a_mixture_without_the_entries_of_its_data_sets_is_said_to_be_read_with_one(tmp_path, capsys):
    trained(tmp_path, [DEPTH], [DEPTH], mixture(), rows_of(2000))
    assert "all are read as the processor's entries say; give tasks_by_source if the data sets store" in capsys.readouterr().out


def test_validation_rows_may_have_a_column_of_that_name_for_something_else(tmp_path):
    rows = rows_of(2000).add_column("source", ["kinect"] * 2)
    results = trained(tmp_path, [DEPTH], [DEPTH], mixture(), rows, tasks_by_source=BY_SOURCE)
    assert results["constant_baseline"]["depth/rmse"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("by_source", [None, {}, BY_SOURCE], ids=["not said", "no mixture", "a mixture for training"])
@pytest.mark.parametrize("cell", [{"camera": "kinect"}, ["kinect", "left"], 7, "kinect"], ids=["struct", "list", "number", "text"])
def test_a_column_of_that_name_may_hold_anything_where_it_does_not_name_data_sets(tmp_path, capsys, cell, by_source):
    rows = Dataset.from_dict({**rows_of(2000).to_dict(), "source": [cell] * 2})
    rows = rows.cast_column("image", ImageFeature()).cast_column("depth", ImageFeature())
    training_rows = mixture() if by_source else rows
    results = trained(tmp_path, [DEPTH], [DEPTH], training_rows, rows, tasks_by_source=by_source)
    assert results["constant_baseline"]["depth/rmse"] == pytest.approx(0, abs=1e-6)
    assert ("give tasks_by_source" in capsys.readouterr().out) == (by_source is None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "mm", "value_range": (0.0, 20000.0)}, "depth: unit is 'm' for the model and 'mm' for the processor"),
        ({"value_range": (0.0, 80.0)}, r"depth: value_range is \(0.0, 10.0\) for the model and \(0.0, 80.0\) for the processor"),
        ({"loss": "berhu"}, "depth: loss is 'rotate_l1' for the model and 'berhu' for the processor"),
        ({"name": "distance"}, r"the processor has the tasks \['distance'\] and the model \['depth'\]"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_processor_with_other_entries_than_the_models_is_refused_before_training(tmp_path, changes, message):
    of_model = replace(DEPTH, loss="rotate_l1")
    with pytest.raises(ValueError, match=f"{message}; build both from the same entries"):
        trained(tmp_path / "run", [of_model], [replace(of_model, **changes)], rows_of(2000), rows_of(2000))
    assert not (tmp_path / "run").exists()


def test_other_spellings_of_a_unit_and_other_encodings_are_the_same_entry(tmp_path):
    trained(tmp_path, [DEPTH], [replace(IN_OTHER_STEPS, unit="metres", weight=2.0)], rows_of(512), rows_of(512))


@pytest.mark.parametrize(
    ("training_rows", "validation_rows", "message"),
    [
        (
            DatasetDict({"train": rows_of(2000)}),
            rows_of(2000),
            r"training_rows is a DatasetDict with the splits \['train'\]; give one of them",
        ),
        (rows_of(2000), {"test": rows_of(2000)}, r"validation_rows is a dict with the splits \['test'\]; give one of them"),
        (rows_of(2000), rows_of(2000).to_iterable_dataset(), "a IterableDataset has no length, .*; load it without streaming"),
        ([{"image": None}], rows_of(2000), "training_rows is a list; give a datasets.Dataset or datasets.IterableDataset"),
        (rows_of(2000), [{"image": None}], "validation_rows is a list; give a datasets.Dataset, for example"),
    ],
    ids=["splits to train on", "splits to measure", "a stream to measure", "a list to train on", "a list to measure"],
)
def test_rows_that_are_not_those_of_one_split_are_refused(tmp_path, training_rows, validation_rows, message):
    with pytest.raises(ValueError, match=message):
        trained(tmp_path / "run", [DEPTH], [DEPTH], training_rows, validation_rows)


def test_a_directory_may_be_given_as_text(tmp_path):
    trained(str(tmp_path / "run"), [DEPTH], [DEPTH], rows_of(2000), rows_of(2000))
    assert (tmp_path / "run/model.safetensors").is_file()
