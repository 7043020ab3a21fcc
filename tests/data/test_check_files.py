"""Proves that the checker names cells and files that are no images, and goes on with the others."""

import io
import tarfile

import fsspec
import numpy as np
import pytest
from datasets import Array3D, Dataset, Features, IterableDataset, Sequence, Value
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


@pytest.mark.parametrize("channels_first", [True, False])
def test_a_map_in_an_array_of_which_one_channel_is_read_is_checked(tmp_path, channels_first):
    maps = sound_maps()
    metres = np.stack([maps["depth"] / np.float32(512)] * 3, axis=0 if channels_first else -1).astype(np.float32)
    features = Features({"image": ImageFeature(), "depth": Array3D(metres.shape, "float32")})
    rows = Dataset.from_list([{"image": {"bytes": png(maps["image"]), "path": None}, "depth": metres}] * 3, features=features)
    entry = {"name": "depth", "encoding": {"dtype": "float32", "channels": [0], "unknown": [0]}}
    found = check_rows({"train": rows}, [entry]).tasks["depth"]
    assert (found.found, found.problems) == (3, {})


def test_an_image_in_an_array_is_named_as_such():
    image = sound_maps()["image"]
    rows = Dataset.from_list([{"image": image}] * 2, features=Features({"image": Array3D(image.shape, "uint8")}))
    (found,) = check_rows({"train": rows}, []).tasks["image"].problems
    assert found.startswith("the image is an array, int64 of shape")
    assert found.endswith("store images with the type `datasets.Image`")


def test_a_shard_that_breaks_off_is_refused_with_what_to_do(tmp_path):
    contents = io.BytesIO()
    with tarfile.open(fileobj=contents, mode="w") as shard:
        for number in range(6):
            for name, data in ((f"{number}.png", png(sound_maps()["image"])), (f"{number}.edges2d.png", png(sound_maps()["edges2d"]))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
        middle = shard.getmembers()[4].offset_data + 20
    (tmp_path / "train-00000.tar").write_bytes(contents.getvalue()[:middle])
    DatasetCard(f"---\n{DatasetCardData(mult_tasks=['edges2d']).to_yaml()}\n---\n").save(tmp_path / "README.md")
    with pytest.raises(ValueError, match=r"datasets cannot load .*; make or download its files again"):
        check(tmp_path)


@pytest.mark.parametrize("error", [tarfile.ReadError("unexpected end of data"), OSError("Couldn't deserialize thrift")])
def test_a_file_that_breaks_off_later_is_named_by_its_split_and_the_rows_before(error):
    def rows():
        yield from [{"image": {"bytes": png(sound_maps()["image"]), "path": None}}] * 2
        raise error

    stream = IterableDataset.from_generator(rows, features=Features({"image": ImageFeature()}))
    with pytest.raises(ValueError, match=f"split train cannot be read after 2 rows: {error}; make or download its files again"):
        check_rows({"train": stream}, [])


def test_a_column_whose_name_has_another_number_is_no_misspelt_task():
    """3D edges are not 2D edges."""
    cells = {name: {"bytes": png(sound_maps()[of]), "path": None} for name, of in (("image", "image"), ("edges3d", "edges2d"))}
    rows = Dataset.from_list([cells] * 2, features=Features(dict.fromkeys(cells, ImageFeature())))
    findings = check_rows({"train": rows}, ["edges2d"])
    assert findings.tasks["edges2d"].problems == {}
    assert not any("no column" in doubt for doubt in findings.doubts)
    misspelt = rows.rename_column("edges3d", "edgs2d")
    (found,) = check_rows({"train": misspelt}, ["edges2d"]).tasks["edges2d"].problems
    assert found == "no column 'edges2d', but 'edgs2d': rename the one you mean"


def test_an_error_of_the_system_between_rows_keeps_its_own_words():
    """A file that may not be read is not broken."""

    def rows():
        yield {"image": {"bytes": png(sound_maps()["image"]), "path": None}}
        raise PermissionError(13, "Permission denied", "b.tar")

    with pytest.raises(PermissionError, match=r"Permission denied: 'b\.tar'"):
        check_rows({"train": IterableDataset.from_generator(rows, features=Features({"image": ImageFeature()}))}, [])


def test_a_task_without_a_column_beside_images_without_a_task_is_in_doubt():
    """The name heta is not similar enough to heat to be called a mistake."""
    sources = {"image": "image", "edges2d": "edges2d", "heat": "edges2d"}
    cells = {name: {"bytes": png(sound_maps()[source]), "path": None} for name, source in sources.items()}
    rows = Dataset.from_list([cells] * 2, features=Features(dict.fromkeys(cells, ImageFeature())))
    entry = {"name": "heta", "kind": "regression", "channels": 1, "encoding": {"dtype": "uint8"}}
    doubt = "no column heta, and no task heat: if they are meant to be the same, give them one name; else neither is used"
    assert doubt in check_rows({"train": rows}, ["edges2d", entry]).doubts
    assert doubt not in check_rows({"train": rows}, ["edges2d"]).doubts, "a column alone"
    task_alone = check_rows({"train": rows.remove_columns("heat")}, ["edges2d", entry]).doubts
    assert not any("no column" in each for each in task_alone)
