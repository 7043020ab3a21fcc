"""Proves that the checker names cells and files that are no images, and goes on with the others."""

import io

import fsspec
import numpy as np
import pytest
from datasets import Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image

from mult_hf.data.check import check, check_rows
from support.checked_data import ENTRIES, sound_maps, write


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def with_damaged_end(array):
    """All pixels are there; the last chunk is broken."""
    return png(array)[:-12] + b"\x00\x00\x00\x05XXXX"


def too_large(array):
    """More pixels than Pillow opens."""
    side = 2 * int(Image.MAX_IMAGE_PIXELS**0.5) + 1
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("column", ["image", "edges2d"])
@pytest.mark.parametrize("broken", [with_damaged_end, too_large])
def test_a_file_that_cannot_be_read_is_named_and_the_other_rows_are_checked(tmp_path, column, broken):
    maps = sound_maps()
    rows = [sound_maps(), {**maps, column: broken(maps[column])}, {**sound_maps(), "segmentation": maps["segmentation"] + np.uint8(2)}]
    found = check(write(tmp_path / "set", rows)).tasks
    if column == "image" or broken is too_large:  # Pillow reads grey pixels before it sees the end
        ((sentence, names),) = found[column].problems.items()
        assert sentence.startswith("cannot be read completely")
        assert names[0].startswith("train row 1")
    assert found["segmentation"].problems


OTHER_CELLS = {
    "bytes": (Value("binary"), png(sound_maps()["image"])),
    "text in a list": (Sequence(Value("string")), ["a.png"]),
    "a number": (Value("int64"), 7),
    "a list of numbers": (Sequence(Value("int64")), [7, 8]),
    "a structure": ({"file": Value("string")}, {"file": "a.png"}),
    "a list of images": (Sequence(ImageFeature()), [{"bytes": png(sound_maps()["image"]), "path": None}]),
}


@pytest.mark.parametrize("column", ["image", "depth"])
@pytest.mark.parametrize("name", OTHER_CELLS)
def test_cells_that_are_no_images_are_named(tmp_path, column, name):
    kind, cell = OTHER_CELLS[name]
    cells = {other: {"bytes": png(sound_maps()[other]), "path": None} for other in ("image", "depth")}
    features = Features({**dict.fromkeys(cells, ImageFeature()), column: kind})
    rows = Dataset.from_list([{**cells, column: cell}] * 3, features=features)
    (tmp_path / "set").mkdir()
    rows.to_parquet(tmp_path / "set/train-00000-of-00001.parquet")
    DatasetCard(f"---\n{DatasetCardData(mult_tasks=[ENTRIES['depth']]).to_yaml()}\n---\n").save(tmp_path / "set/README.md")
    (sentence,) = check(tmp_path / "set").tasks[column].problems
    assert sentence.startswith("the cell is no image, but ")
    assert sentence.endswith("; store images with the type `datasets.Image`")


def test_images_that_lie_elsewhere_are_read_from_there():
    store = fsspec.filesystem("memory")
    maps = sound_maps()
    for column in ("image", "depth"):
        with store.open(f"/{column}.png", "wb") as file:
            file.write(png(maps[column]))
    cells = {column: {"path": f"memory://{column}.png", "bytes": None} for column in ("image", "depth")}
    rows = Dataset.from_list([cells], features=Features(dict.fromkeys(cells, ImageFeature())))
    found = check_rows({"train": rows}, [ENTRIES["depth"]])
    assert found.is_right
    assert found.tasks["depth"].found == 1


def test_time_and_pictures_of_a_check_can_be_limited():
    cells = {column: {"bytes": png(sound_maps()[column]), "path": None} for column in ("image", "depth")}
    rows = Dataset.from_list([cells] * 5, features=Features(dict.fromkeys(cells, ImageFeature())))
    found = check_rows({"train": rows}, [ENTRIES["depth"]], seconds=0, draw=False)
    assert found.tasks["image"].rows == 1
    assert found.sheet is None
