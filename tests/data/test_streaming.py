"""Proves that directories, URLs and archives are opened as the same rows, without storing them."""

import io
import json
import shutil
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, Features, IterableDataset, Value
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from mult_hf.data import streaming
from mult_hf.data.check import check
from mult_hf.data.row_errors import RowError, read_row
from mult_hf.data.schema import load_rows, load_task_specs
from mult_hf.data.streaming import first_rows, open_stream, streams_by_default
from support.training_runs import DEPTH


def pixels(rows, task="depth"):
    return [(np.asarray(row["image"]).sum(), np.asarray(row[task]).sum()) for row in rows]


@pytest.fixture
def archives(tmp_path, data):
    """The rows of the stored data set in two WebDataset archives per split."""
    directory = tmp_path / "archives"
    directory.mkdir()
    for split, rows in load_rows(data).items():
        for part in range(2):
            with tarfile.open(directory / f"{split}-{part}.tar", "w") as archive:
                for number in range(2 * part, 2 * part + 2):
                    for task in ("image", "depth"):
                        file = io.BytesIO()
                        rows[number][task].save(file, "PNG")
                        entry = tarfile.TarInfo(f"{number:04d}.{task}.png")
                        entry.size = file.tell()
                        file.seek(0)
                        archive.addfile(entry, file)
    (directory / "README.md").write_text(f"---\nmult_tasks: {json.dumps([DEPTH])}\n---\n")
    return directory


def test_a_directory_is_streamed_with_the_rows_that_loading_it_gives(data):
    stream = open_stream(data, "train")
    assert isinstance(stream.rows, IterableDataset)
    assert pixels(stream.rows) == pixels(load_rows(data, "train"))


@pytest.mark.parametrize("listed", [True, False], ids=["card lists files", "files have names of splits"])
def test_a_url_is_streamed(data, tmp_path, listed):
    copy = shutil.copytree(data, tmp_path / "copy")
    if listed:
        for path in copy.glob("*.parquet"):
            path.rename(copy / f"part-of-{path.name[:5]}.parquet")
        files = [{"split": split, "path": f"part-of-{split[:5]}.parquet"} for split in ("train", "validation")]
        card = {"mult_tasks": [DEPTH], "configs": [{"config_name": "default", "data_files": files}]}
        (copy / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    url = f"file://{copy}"
    assert load_task_specs(url, ["depth"])["depth"].name == "depth"
    assert pixels(open_stream(url, "train").rows) == pixels(load_rows(data, "train"))
    assert pixels(open_stream(url, "validation").rows) == pixels(load_rows(data, "validation"))


def test_archives_have_the_columns_of_the_schema(archives, data):
    rows = open_stream(archives, "train").rows
    assert {"image", "depth"} <= set(rows.column_names)
    assert rows.num_shards == 2
    assert sorted(pixels(rows)) == sorted(pixels(load_rows(data, "train")))


def test_archives_are_loaded_and_checked_with_the_columns_of_the_schema(archives, data):
    assert sorted(pixels(load_rows(archives, "train"))) == sorted(pixels(load_rows(data, "train")))
    found = check(archives)
    assert found.is_right
    assert found.tasks["depth"].found == 8


def test_a_broken_file_in_an_archive_is_named(archives):
    path = archives / "train-0.tar"
    contents = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        start = archive.getmember("0001.depth.png").offset_data
    contents[start : start + 8] = b"no image"
    path.write_bytes(contents)
    rows = first_rows(open_stream(archives, "train").rows, 8)
    with pytest.raises(RowError, match=r"^row \d, column 'depth': 0001\.depth\.png cannot be read as an image"):
        [read_row(rows, number) for number in range(len(rows))]
    ((sentence, where),) = check(archives, "train").tasks["depth"].problems.items()
    assert sentence == "cannot be opened as an image"
    assert "0001.depth.png" in where[0]


def test_the_description_of_files_changes_with_them_and_not_with_their_place(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "elsewhere")
    before = open_stream(data, "train").contents
    assert open_stream(copy, "train").contents == before
    shutil.copy(copy / "validation-00000-of-00001.parquet", copy / "train-00000-of-00001.parquet")
    assert open_stream(copy, "train").contents != before
    assert before.startswith("1 files, ")


def test_what_cannot_be_streamed_is_named(data, tmp_path):
    with pytest.raises(ValueError, match="has no split 'test'; it has train, validation"):
        open_stream(data, "test")
    with pytest.raises(ValueError, match="nowhere cannot be streamed: "):
        open_stream(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match=r"the card .*README.md cannot be read"):
        open_stream(f"file://{tmp_path}/nowhere", "train")


def raising(error):
    """A function that raises an error, whatever its arguments."""

    def function(*args, **kwargs):
        raise error

    return function


def test_urls_archives_and_data_beyond_the_disk_are_streamed_by_default(data, archives, monkeypatch):
    assert streams_by_default("s3://bucket/rooms")
    assert streams_by_default(archives)
    assert not streams_by_default(data)
    for error in (OfflineModeIsEnabled("offline"), HTTPError("Name or service not known")):  # on purpose, or without a network
        monkeypatch.setattr(streaming.HfApi, "dataset_info", raising(error))
        assert not streams_by_default("user/rooms")
    size = sum(path.stat().st_size for path in data.glob("*.parquet"))
    for free, expected in ((size, False), (size - 1, True)):
        monkeypatch.setattr(streaming.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert streams_by_default(data) == expected


def test_first_rows_come_from_several_shards(data):
    rows = open_stream(data, "train").rows
    assert pixels(first_rows(rows, 3)) == pixels(load_rows(data, "train"))[:3]
    assert len(first_rows(rows, 100)) == 4
    numbers = Dataset.from_dict({"number": list(range(24))}).to_iterable_dataset(num_shards=6)
    assert first_rows(numbers, 6)["number"][:] == [0, 4, 8, 12, 16, 20]


@pytest.mark.parametrize(("sizes", "count", "expected"), [((1000, 1000, 37), 500, 500), ((2, 100), 50, 50), ((5, 5, 5), 50, 15)])
def test_small_shards_are_made_up_for_by_larger_ones(sizes, count, expected):
    """Rows of a stream that was cut unevenly, as the last row group of a file usually is."""
    starts = np.cumsum([0, *sizes])
    parts = [range(start, start + size) for start, size in zip(starts.tolist(), sizes)]
    rows = IterableDataset.from_generator(numbers_of_parts, gen_kwargs={"parts": parts}, features=Features({"number": Value("int64")}))
    found = first_rows(rows, count)["number"][:]
    assert len(found) == len(set(found)) == expected


def numbers_of_parts(parts):
    for part in parts:
        yield from ({"number": number} for number in part)
