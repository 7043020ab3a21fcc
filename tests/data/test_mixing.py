"""Proves that a mixture contains every data set's samples unchanged, by weight, with null for missing tasks."""

import io
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as PILImage

pytest.importorskip("datasets")

from datasets import Dataset, Features, Image, IterableDataset, Value

from mult_hf.data.mixing import SOURCE_COLUMN, merge_tasks, mix_datasets
from mult_hf.model.tasks import resolve_tasks

KINDS = {"map-style": lambda dataset: dataset, "iterable": lambda dataset: dataset.to_iterable_dataset()}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    """Makes a set map-style or iterable."""
    return request.param


def stored(array, file_format="PNG"):
    """A column's cell as files hold it."""
    buffer = io.BytesIO()
    PILImage.fromarray(array).save(buffer, file_format)
    return {"bytes": buffer.getvalue(), "path": None}


def images(count, seed):
    values = np.random.default_rng(seed).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    return [stored(value, "JPEG") for value in values]


def depth_set(count=30):
    """Samples with 16-bit depth; sample i is i + 1000 everywhere."""
    depth = [stored(np.full((8, 8), 1000 + index, np.uint16)) for index in range(count)]
    columns = {"image": images(count, 0), "depth": depth, "view": list(range(count))}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "depth": Image(), "view": Value("int32")}))


def class_set(count=10):
    """Samples with classes; sample i is class i everywhere."""
    classes = [stored(np.full((8, 8), index, np.uint8)) for index in range(count)]
    columns = {"image": images(count, 1), "segmentation": classes}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "segmentation": Image()}))


def test_samples_are_unchanged_with_null_for_missing_columns(kind):
    mixed = mix_datasets({"rooms": kind(depth_set()), "coco": kind(class_set())})
    assert set(mixed.features) == {"image", "depth", "segmentation", "view", SOURCE_COLUMN}
    originals = {"rooms": list(depth_set()), "coco": list(class_set())}
    position = Counter()
    for sample in mixed:
        name = sample[SOURCE_COLUMN]
        original = originals[name][position[name] % len(originals[name])]  # a set that ended starts again
        position[name] += 1
        for column in ("image", "depth", "segmentation"):
            if column in original:
                np.testing.assert_array_equal(np.asarray(sample[column]), np.asarray(original[column]))
                assert np.asarray(sample[column]).dtype == np.asarray(original[column]).dtype  # 16 bits stay 16 bits
            else:
                assert sample[column] is None
    assert position["rooms"] >= 30
    assert position["coco"] >= 10


def test_weights_are_the_shares_of_the_sets(kind):
    mixed = mix_datasets({"rooms": kind(depth_set(400)), "coco": kind(class_set())}, {"rooms": 3, "coco": 1})
    share = np.mean([sample[SOURCE_COLUMN] == "rooms" for sample in mixed])
    assert share == pytest.approx(0.75, abs=0.06)


def test_the_seed_determines_the_order(kind):
    orders = []
    for seed in (1, 1, 2):
        mixed = mix_datasets({"rooms": kind(depth_set()), "coco": kind(class_set())}, seed=seed)
        orders.append([sample[SOURCE_COLUMN] for sample in mixed])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_the_stopping_strategy_is_applied(kind):
    sources = {"rooms": kind(depth_set()), "coco": kind(class_set())}
    drawn = {}
    for strategy in ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement"):
        drawn[strategy] = Counter(sample[SOURCE_COLUMN] for sample in mix_datasets(sources, stopping_strategy=strategy))
    assert drawn["first_exhausted"]["coco"] == 10
    assert drawn["first_exhausted"]["rooms"] < 30
    assert drawn["all_exhausted"]["rooms"] == 30
    assert drawn["all_exhausted"]["coco"] > 10
    assert drawn["all_exhausted_without_replacement"] == {"rooms": 30, "coco": 10}


def test_one_iterable_set_makes_the_mixture_iterable():
    mixed = mix_datasets({"rooms": depth_set(), "coco": class_set().to_iterable_dataset()})
    assert isinstance(mixed, IterableDataset)
    assert {sample[SOURCE_COLUMN] for sample in mixed} == {"rooms", "coco"}


def generated():
    for index in range(4):
        yield {"image": np.full((8, 8, 3), index, np.uint8), "depth": np.full((8, 8), 1000 + index, np.uint16)}


def test_a_generator_can_be_mixed_and_the_mixture_pickled_for_a_worker():
    stream = IterableDataset.from_generator(generated, features=Features({"image": Image(), "depth": Image()}))
    mixed = pickle.loads(pickle.dumps(mix_datasets({"stream": stream, "coco": class_set().to_iterable_dataset()})))
    depths = [np.asarray(sample["depth"]) for sample in mixed if sample[SOURCE_COLUMN] == "stream"]
    assert [int(depth[0, 0]) for depth in depths[:4]] == [1000, 1001, 1002, 1003]
    assert depths[0].dtype == np.uint16


def test_a_single_set_and_a_shuffled_one_mix_too(kind):
    assert len(list(mix_datasets({"rooms": kind(depth_set())}))) == 30
    mixed = mix_datasets({"rooms": kind(depth_set().shuffle(seed=0)), "coco": kind(class_set())}, stopping_strategy="first_exhausted")
    sample = next(iter(mixed.filter(lambda source: source == "rooms", input_columns=SOURCE_COLUMN)))
    assert np.asarray(sample["depth"]).max() == 1000 + sample["view"]


def test_only_the_requested_columns_are_kept(kind):
    mixed = mix_datasets({"rooms": kind(depth_set()), "coco": kind(class_set())}, columns=["image", "depth"])
    assert set(mixed.features) == {"image", "depth", SOURCE_COLUMN}


def test_columns_with_conflicting_types_are_refused_by_name(kind):
    other = class_set().add_column("view", ["first"] * 10)
    with pytest.raises(ValueError, match=r"'view' is .*int32.* in 'rooms' and .*string.* in 'coco'"):
        mix_datasets({"rooms": kind(depth_set()), "coco": kind(other)})
    assert "view" not in mix_datasets({"rooms": kind(depth_set()), "coco": kind(other)}, columns=["image", "depth"]).features


@pytest.mark.parametrize(
    "weights",
    [
        {"rooms": 1},
        {"rooms": 1, "cocoa": 1},
        {"rooms": 1, "coco": 0},
        {"rooms": 1, "coco": float("nan")},
        {"rooms": "3", "coco": 1},
        {"rooms": None, "coco": 1},
        {"rooms": True, "coco": 1},
    ],
)
def test_invalid_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        mix_datasets({"rooms": depth_set(), "coco": class_set()}, weights)


def test_sets_that_cannot_be_mixed_without_loss_are_refused():
    with pytest.raises(ValueError, match="format 'numpy'"):
        mix_datasets({"rooms": depth_set().with_format("numpy")})
    with pytest.raises(ValueError, match="column 'source'"):
        mix_datasets({"rooms": depth_set().rename_column("view", "source")})
    with pytest.raises(ValueError, match="features of data set 'stream'"):
        mix_datasets({"stream": IterableDataset.from_generator(lambda: iter([{"image": 1}]))})
    with pytest.raises(ValueError, match="no data sets"):
        mix_datasets({})


def test_each_sample_is_decoded_with_its_own_encodings():
    """Depth in 1/512 m in one set and in mm in the other: one spec for the model, two encodings."""
    tasks_by_source = {
        "rooms": resolve_tasks([{"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0]}}]),
        "sensor": resolve_tasks([{"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001, "unknown": [0]}}, "normals"]),
    }
    assert list(merge_tasks(tasks_by_source)) == ["depth", "normals"]
    for sample in mix_datasets({"rooms": depth_set(1), "sensor": depth_set(1)}):
        depth = tasks_by_source[sample[SOURCE_COLUMN]]["depth"].decode(np.asarray(sample["depth"]))
        assert depth.max() == pytest.approx({"rooms": 1000 / 512, "sensor": 1.0}[sample[SOURCE_COLUMN]])


def test_one_unit_in_two_spellings_is_one_definition_of_a_task_and_another_unit_is_not():
    depth = resolve_tasks(["depth"])["depth"]
    merged = merge_tasks({"a": {"depth": depth}, "b": {"depth": replace(depth, unit="Metres")}})
    assert merged == {"depth": depth}
    with pytest.raises(ValueError, match="'depth' differs between 'a' and 'b' in unit; use the same values"):
        merge_tasks({"a": {"depth": depth}, "b": {"depth": replace(depth, unit="mm")}})


def test_data_sets_with_different_definitions_of_a_task_are_refused():
    with pytest.raises(ValueError, match="'segmentation' differs between 'a' and 'b' in channels, class_names"):
        merge_tasks({"a": resolve_tasks(["segmentation"]), "b": resolve_tasks([{"name": "segmentation", "class_names": ["sky", "wall"]}])})


def test_focal_lengths_of_several_types_are_mixed_as_numbers_and_words_are_refused(kind):
    """A metadata file with whole numbers has integers, one with a decimal point has 64 bits, and rendered rooms have 32."""
    sets = {dtype: Dataset.from_dict({"focal_length": [600]}).cast_column("focal_length", Value(dtype)) for dtype in ("int64", "float32")}
    mixed = mix_datasets({name: kind(each) for name, each in sets.items()})
    assert {row["focal_length"] for row in mixed} == {600.0}
    assert mixed.features["focal_length"] == Value("float64")
    assert [*mixed.features] == [*sets["int64"].features, "source"]
    words = Dataset.from_dict({"focal_length": ["600"]})
    with pytest.raises(ValueError, match=r"column 'focal_length' is .* in 'int64' and .* in 'words'"):
        mix_datasets({"int64": kind(sets["int64"]), "words": kind(words)})


def test_images_are_not_copied_for_the_type_of_the_focal_lengths(monkeypatch):
    """A cast of one column passes all columns through the cache; mixed data sets may have hundreds of gigabytes."""
    written = []
    original = Dataset.map
    monkeypatch.setattr(Dataset, "map", lambda rows, *args, **kwargs: written.append(rows.column_names) or original(rows, *args, **kwargs))
    cells = [PILImage.new("RGB", (4, 4))]
    sets = {}
    for dtype, length in {"int64": 600, "float64": 603.2, "float32": None}.items():
        features = Features({"image": Image(), "focal_length": Value(dtype)})
        sets[dtype] = Dataset.from_dict({"image": cells, "focal_length": [length]}, features=features)
    mixed = mix_datasets(sets)
    assert {row["focal_length"] for row in mixed} == {600.0, 603.2, None}
    assert written == [["focal_length"]] * 2
    assert all(row["image"].size == (4, 4) for row in mixed)
