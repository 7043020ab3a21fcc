"""Proves that rows keep the EXIF orientation of their images' files, and that only the package's formats are opened."""

import io

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, concatenate_datasets, load_dataset
from datasets import Image as ImageFeature
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import EpsImagePlugin, Image, ImageOps

from mult_hf import MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.image_column import Image as ImageColumn
from mult_hf.data.image_column import as_image_columns
from mult_hf.data.mixing import mix_datasets
from mult_hf.data.schema import load_rows
from mult_hf.inference.sources import RowSource
from mult_hf.model.alignment import orientation, upright_size

ENTRY = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0]}}
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
SQUARE = PIXELS[:, :30]


def file_of(image, file_format="PNG", turned=1):
    exif = Image.Exif()
    exif[0x0112] = turned
    buffer = io.BytesIO()
    image.save(buffer, file_format, exif=exif)
    return buffer.getvalue()


def depth_of(height, width):
    return file_of(Image.fromarray(np.full((height, width), 1024, np.uint16)))


def write(directory, image, depth):
    """A data set of one row, as a user has it."""
    directory.mkdir()
    columns = {name: [{"bytes": content, "path": f"{name}.png"}] for name, content in (("image", image), ("depth", depth))}
    rows = Dataset.from_dict(columns, features=Features({name: ImageFeature() for name in columns}))
    rows.to_parquet(directory / "train-00000-of-00001.parquet")
    DatasetCard(f"---\n{DatasetCardData(mult_tasks=[ENTRY]).to_yaml()}\n---\n").save(directory / "README.md")
    return directory


@pytest.fixture
def collator():
    return MultiTaskCollator(MulTImageProcessor(size={"height": 32, "width": 32}, tasks=["depth"]))


@pytest.mark.parametrize("collate", ["__call__", "collate_for_evaluation"])
@pytest.mark.parametrize("turned", range(2, 9))
def test_a_map_that_may_not_be_turned_with_the_image_of_its_row_is_refused(tmp_path, collator, collate, turned):
    """Orientations 2 to 4 keep the size, and 5 to 8 that of a square image, so the sizes cannot show it."""
    pixels = PIXELS if turned < 5 else SQUARE
    rows = load_rows(write(tmp_path / "data", file_of(Image.fromarray(pixels), turned=turned), depth_of(*pixels.shape[:2])), split="train")
    with pytest.raises(ValueError, match=f"row 0 of the batch: the image has EXIF orientation {turned} and is turned upright"):
        getattr(collator, collate)([rows[0]])


def test_a_map_of_the_upright_image_of_its_row_is_accepted(tmp_path, collator):
    rows = load_rows(write(tmp_path / "data", file_of(Image.fromarray(PIXELS), turned=6), depth_of(40, 30)), split="train")
    assert upright_size(rows[0]["image"]) == (40, 30)
    assert (collator([rows[0]])["labels"]["depth"] == 2).all()


@pytest.mark.parametrize("collate", ["__call__", "collate_for_evaluation"])
@pytest.mark.parametrize("form", ["bytes", "cell", "open file", "path", "name"])
def test_so_is_one_of_an_image_in_any_form(tmp_path, collator, collate, form):
    content, path = file_of(Image.fromarray(PIXELS), "JPEG", turned=3), tmp_path / "image.jpg"
    path.write_bytes(content)
    image = {"bytes": content, "cell": {"bytes": content, "path": None}, "open file": io.BytesIO(content), "path": path, "name": str(path)}[
        form
    ]
    assert orientation(image) == 3
    with pytest.raises(ValueError, match="the image has EXIF orientation 3 and is turned upright"):
        getattr(collator, collate)([{"image": image, "depth": torch.full((30, 40), 1024, dtype=torch.int32)}])


@pytest.mark.parametrize("turned", [1, 3, 6])
def test_pixels_are_those_of_datasets(tmp_path, turned):
    directory = write(tmp_path / "data", file_of(Image.fromarray(PIXELS), turned=turned), depth_of(30, 40))
    own, theirs = load_rows(directory, split="train")[0], load_dataset(str(directory), split="train")[0]
    for column in ("image", "depth"):
        assert own[column].mode == theirs[column].mode
        assert np.array_equal(own[column], theirs[column])
    assert np.array_equal(own["image"], ImageOps.exif_transpose(Image.open(io.BytesIO(file_of(Image.fromarray(PIXELS), turned=turned)))))


def test_the_column_is_that_of_datasets_where_rows_are_joined_or_stored(tmp_path):
    directory = write(tmp_path / "data", file_of(Image.fromarray(PIXELS), turned=3), depth_of(30, 40))
    own, theirs = load_rows(directory, split="train"), load_dataset(str(directory), split="train")
    assert own.features == theirs.features
    assert theirs.features == own.features
    assert own.features.to_dict() == theirs.features.to_dict()
    assert ImageColumn() != ImageColumn(mode="RGB")
    assert len(concatenate_datasets([own, theirs])) == len(mix_datasets({"own": own, "theirs": theirs})) == 2
    for rows in (own.select([0]), own.select_columns(["image"]), own.shuffle(seed=0), mix_datasets({"own": own}), as_image_columns(theirs)):
        assert orientation(rows[0]["image"]) == 3
    streamed = next(iter(mix_datasets({"own": own, "stream": theirs.to_iterable_dataset()})))
    assert streamed["image"].size == (40, 30)


def with_other_columns(tmp_path, image):
    """Two data sets of one image each, of which only the first has a map of depth."""
    own = load_rows(write(tmp_path / "own", image, depth_of(30, 30)), split="train")
    return {"own": own, "other": own.rename_column("depth", "disparity")}


KINDS = {"stored": lambda rows: rows, "streamed": lambda rows: rows.to_iterable_dataset()}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("plain", [False, True], ids=["own", "plain"])
def test_the_columns_of_a_mixture_are_those_of_its_sources_by_type(tmp_path, kind, plain):
    sources = with_other_columns(tmp_path, file_of(Image.fromarray(SQUARE), "JPEG", turned=3))
    features = {name: feature for rows in sources.values() for name, feature in rows.features.items()}
    if plain:  # as another program has read them
        sources = {name: rows.cast(Features({column: ImageFeature() for column in rows.features})) for name, rows in sources.items()}
    mixed = mix_datasets({name: kind(rows) for name, rows in sources.items()})
    assert {name: type(mixed.features[name]) for name in features} == {name: type(feature) for name, feature in features.items()}
    assert [orientation(row["image"]) for row in mixed] == [3, 3]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("turned", range(2, 9))
def test_a_map_that_may_not_be_turned_with_its_image_is_refused_in_a_mixture(tmp_path, collator, kind, turned):
    sources = with_other_columns(tmp_path, file_of(Image.fromarray(SQUARE), "JPEG", turned=turned))
    rows = [*mix_datasets({name: kind(rows) for name, rows in sources.items()})]
    with pytest.raises(ValueError, match=f"row 0 of the batch: the image has EXIF orientation {turned} and is turned upright"):
        collator([row for row in rows if row["source"] == "own"])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_postscript_in_a_mixture_starts_no_other_program(tmp_path, monkeypatch, kind):
    buffer = io.BytesIO()
    Image.fromarray(SQUARE).save(buffer, "EPS")
    mixed = mix_datasets({name: kind(rows) for name, rows in with_other_columns(tmp_path, buffer.getvalue()).items()})
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments))
    with pytest.raises(ValueError, match="cannot be read as an image: it is broken or none of JPEG"):
        next(iter(mixed))
    assert not started


@pytest.mark.parametrize("read", [lambda rows: rows[0]["image"], lambda rows: next(iter(RowSource(rows))).read()], ids=["row", "source"])
def test_postscript_in_a_cell_starts_no_other_program(tmp_path, monkeypatch, read):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "EPS")
    rows = load_rows(write(tmp_path / "data", buffer.getvalue(), depth_of(30, 40)), split="train")
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments))
    with pytest.raises(ValueError, match="cannot be read as an image: it is broken or none of JPEG"):
        read(rows)
    assert not started
