"""Proves that the fingerprint of rows depends only on their contents."""

import io

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from mult_hf.model.label_encoding import LabelEncoding
from mult_hf.model.tasks import TaskSpec
from mult_hf.training.fingerprint import describe_data, describe_entries, fingerprint

FEATURES = Features({"image": Image(), "depth": Image(), "note": Value("string"), "map": [Value("float32")]})


def encoded(seed):
    file = io.BytesIO()
    PILImage.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def rows_of(count=4, **columns):
    contents = {
        "image": [{"bytes": encoded(n), "path": None} for n in range(count)],
        "depth": [{"bytes": encoded(n + 100), "path": None} for n in range(count)],
        "note": [f"row {n}" for n in range(count)],
        "map": [[float(n), np.nan] for n in range(count)],
    }
    return Dataset.from_dict({**contents, **columns}, features=FEATURES)


def test_equal_rows_have_equal_fingerprints_however_they_are_stored(tmp_path):
    rows = rows_of()
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    stored = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"), features=FEATURES)
    assert fingerprint(stored) == fingerprint(rows)
    assert fingerprint(rows_of(8).select(range(4))) == fingerprint(rows)


@pytest.mark.parametrize(
    "other",
    [
        rows_of(5),
        rows_of(3),
        rows_of().select([1, 0, 2, 3]),
        rows_of(note=["row 0", "row 1", "row 2", "row 4"]),
        rows_of(note=["row 0r", "ow 1", "row 2", "row 3"]),
        rows_of(map=[[0.0, np.nan], [1.0, np.nan], [2.0, np.nan], [3.0, 0.0]]),
        rows_of(depth=[{"bytes": encoded(n), "path": None} for n in (100, 101, 102, 7)]),
        rows_of(depth=[None, *({"bytes": encoded(n), "path": None} for n in (101, 102, 103))]),
        rows_of().rename_columns({"image": "depth", "depth": "image"}),
        rows_of().remove_columns("note"),
    ],
    ids=["one more", "one fewer", "order", "text", "same characters", "number", "one image", "no image", "swapped", "no column"],
)
def test_any_change_of_the_rows_changes_the_fingerprint(other):
    assert fingerprint(other) != fingerprint(rows_of())


def test_images_in_files_count_by_their_contents(tmp_path):
    """Neither the directory nor the time of writing matters."""

    def rows(directory, seeds):
        directory.mkdir()
        for number, seed in enumerate(seeds):
            (directory / f"{number}.png").write_bytes(encoded(seed))
        paths = [str(directory / f"{number}.png") for number in range(len(seeds))]
        return Dataset.from_dict({"image": paths}, features=Features({"image": Image()}))

    first, moved, changed = rows(tmp_path / "a", [1, 2]), rows(tmp_path / "b", [1, 2]), rows(tmp_path / "c", [1, 3])
    assert fingerprint(first) == fingerprint(moved)
    assert fingerprint(first) != fingerprint(changed)


def test_all_rows_count_even_beyond_one_read():
    numbers = list(range(300))
    rows = Dataset.from_dict({"number": numbers})
    assert fingerprint(rows) != fingerprint(Dataset.from_dict({"number": [*numbers[:-1], 0]}))


def test_the_description_has_the_number_of_rows(accelerator):
    found = describe_data(accelerator, training=rows_of(3))
    assert found == {"training": f"3 rows, {fingerprint(rows_of(3))}"}


def described(**fields):
    return describe_entries([{"heat": TaskSpec(**{"name": "heat", "kind": "regression", "channels": 1, **fields})}])


def test_equal_entries_have_equal_descriptions_however_they_are_written():
    encoding = LabelEncoding(dtype="uint16", unknown=(0, 65535))
    one = described(weight=1, value_range=[0, 10], encoding=encoding, metrics=["mae"], unit="m", colormap="magma")
    other_encoding = LabelEncoding(dtype="uint16", unknown=(65535.0, 0.0), scale=1)
    assert one == described(weight=1.0, value_range=(0.0, 10.0), encoding=other_encoding, metrics=["mae", "rmse"], unit="metres")


@pytest.mark.parametrize(
    "fields", [{"weight": 2}, {"loss": "rotate_l1"}, {"value_range": [0, 2]}, {"encoding": LabelEncoding(scale=2)}, {"metrics": ["rmse"]}]
)
def test_entries_of_another_meaning_have_other_descriptions(fields):
    assert described() != described(**fields)


def test_entries_of_several_data_sets_are_described_apart():
    specs = {"heat": TaskSpec(name="heat", kind="regression", channels=1)}
    assert {name.partition("heat/")[0] for name in describe_entries([specs, specs])} == {"data set 1, ", "data set 2, "}
