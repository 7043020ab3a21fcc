"""Proves that a folder of images that `datasets` cannot read, or leaves out, is explained: by the file, the line, and what to do."""

import json
import re
import shutil
import tarfile

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from mult_hf.data.check import check
from mult_hf.data.schema import load_rows
from mult_hf.data.streaming import open_stream

CARD = "---\nmult_tasks: [{name: depth, encoding: {dtype: uint16, scale: 0.001, unknown: [0]}}]\n---\n"
KEYS = {"file_name": "0_rgb.png", "depth_file_name": "0_depth.png"}


def folder(root, **lines):
    """A folder of images with this text in the metadata file of each split; None for a split without files."""
    rng = np.random.default_rng(0)
    (root / "README.md").write_text(CARD)
    for split, text in lines.items():
        (root / split).mkdir()
        if text is not None:
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(root / split / "0_rgb.png")
            Image.fromarray(rng.integers(500, 2500, (32, 32)).astype(np.uint16)).save(root / split / "0_depth.png")
            (root / split / "metadata.jsonl").write_text(text)
    return root


MISTAKES = {
    "an empty file": ("", r"validation/metadata\.jsonl has no lines"),
    "half a line": ('{"file_name": ', r"validation/metadata\.jsonl, line 1, is not JSON: .*; write one object per line"),
    "a list": ('["0_rgb.png"]', r"validation/metadata\.jsonl, line 1, is a JSON list"),
    "a key less": (
        json.dumps({"file_name": "0_rgb.png"}),
        r"validation/metadata\.jsonl has no value of depth_file_name, and .*train/metadata\.jsonl has;",
    ),
    "null everywhere": (json.dumps({**KEYS, "depth_file_name": None}), r"validation/metadata\.jsonl has no value of depth_file_name"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_metadata_file_is_named(tmp_path, name):
    text, message = MISTAKES[name]
    root = folder(tmp_path, train=json.dumps(KEYS), validation=text)
    with pytest.raises(ValueError, match=message):
        load_rows(root)
    try:
        found = str(check(root))
    except ValueError as error:
        found = str(error)
    assert re.search(message, found), found


@pytest.mark.parametrize("split", ["validation", "validation[:3]"])
def test_a_split_without_files_is_none_and_another_is_suggested(tmp_path, split):
    root = folder(tmp_path, train=json.dumps(KEYS), validation=None)
    advice = r"Unknown split \"validation\" \(a folder without images .*the data set has train: give .*'train\[:90%\]' and 'train\[90%:\]'"
    with pytest.raises(ValueError, match=advice):
        load_rows(root, split=split)
    found = check(root)
    assert found.is_right
    assert any("no split 'validation', on which training measures" in note for note in found.notes)


@pytest.mark.parametrize("text", ["a caption\u2028of two lines", "plain"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
def test_what_datasets_reads_is_no_mistake(tmp_path, text, mark):
    line = mark + json.dumps({**KEYS, "caption": text}, ensure_ascii=False)
    root = folder(tmp_path, train=line, validation=line)
    (root / "raw").mkdir()
    (root / "raw/metadata.jsonl").write_text('{"of another format": 1}')
    card = CARD.replace("mult_tasks", "configs: [{config_name: default, data_files: [{split: train, path: 'train/**'}]}]\nmult_tasks")
    (root / "README.md").write_text(card)
    assert check(root).is_right
    assert load_rows(root, "train")[0]["caption"] == text


def test_a_metadata_file_that_is_not_utf_8_is_named(tmp_path):
    root = folder(tmp_path, train=json.dumps(KEYS), validation=json.dumps(KEYS))
    (root / "train/metadata.jsonl").write_bytes('{"file_name": "caf\u00e9.png"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"train/metadata\.jsonl is not UTF-8: .*; save it as UTF-8"):
        load_rows(root)


def test_a_file_that_does_not_exist_is_named(tmp_path):
    root = folder(tmp_path, train=json.dumps(KEYS), validation=json.dumps(KEYS))
    (root / "train/0_depth.png").unlink()
    depth = check(root).tasks["depth"]
    ((sentence, rows),) = depth.problems.items()
    assert sentence == "the file does not exist"
    assert (depth.found, depth.rows) == (1, 2)
    assert "train/0_depth.png" in rows[0]


def test_file_names_that_were_not_read_are_explained(tmp_path):
    text = json.dumps({"file_name": "0_rgb.png", "depth": "0_depth.png"})
    (found,) = check(folder(tmp_path, train=text, validation=text)).tasks["depth"].problems
    assert found == "the cell is text, not an image; in a metadata.jsonl, a key that ends in _file_name reads the file"


def test_a_key_with_almost_the_ending_for_files_is_explained(tmp_path):
    text = json.dumps({"file_name": "0_rgb.png", "depth_filename": "0_depth.png"})
    found = check(folder(tmp_path, train=text, validation=text))
    (problem,) = found.tasks["depth"].problems
    assert problem.startswith("no column 'depth', but 'depth_filename': rename the one you mean (if it names files, its key in ")
    assert problem.endswith(" must be depth_file_name)")


def test_a_column_with_almost_the_name_of_a_task_is_suggested(tmp_path):
    text = json.dumps({"file_name": "0_rgb.png", "depths_file_name": "0_depth.png"})
    found = check(folder(tmp_path, train=text, validation=text))
    assert [*found.tasks["depth"].problems] == ["no column 'depth', but 'depths': rename the one you mean"]
    (problem,) = found.tasks["image"].problems
    assert "the card lists depth, and the columns are image, depths; name columns after the tasks" in problem


def with_both_kinds(root, parquet):
    """A folder of one image per split, and Parquet files beside it."""
    root.mkdir(exist_ok=True)
    folder(root, train=json.dumps(KEYS), validation=json.dumps(KEYS))
    columns = {column: [str(root / "train" / f"0_{name}.png")] * 3 for column, name in (("image", "rgb"), ("depth", "depth"))}
    rows = Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, ImageFeature())))
    (root / parquet).parent.mkdir(exist_ok=True)
    rows.to_parquet(root / parquet)
    return root


@pytest.mark.parametrize(
    ("parquet", "message"),
    [
        ("train-00000-of-00001.parquet", r"has the images of a folder and train-00000-of-00001\.parquet, .*: move train-0.* `configs`"),
        ("data/train-00000-of-00001.parquet", r"has Parquet files and train/metadata\.jsonl, .*: move train/metadata\.jsonl .* `configs`"),
    ],
)
def test_files_of_a_second_kind_are_refused_and_not_left_out(tmp_path, parquet, message):
    """`datasets` reads one kind, which one depends on the names of the directories."""
    root = with_both_kinds(tmp_path, parquet)
    for read in (load_rows, lambda root: load_rows(root, split="train"), check, lambda root: open_stream(root, "train")):
        with pytest.raises(ValueError, match=message):
            read(root)


def as_parquet(root):
    """A folder whose metadata are in Parquet, as `datasets` reads them too."""
    folder(root, train=json.dumps(KEYS), validation=json.dumps(KEYS))
    for split in ("train", "validation"):
        (root / split / "metadata.jsonl").unlink()
        Dataset.from_list([KEYS]).to_parquet(root / split / "metadata.parquet")


def with_predictions(root):
    """Parquet files, and what `mult-hf predict --keep_images` writes for their split."""
    folder(root, train=json.dumps(KEYS))
    files = {"image": root / "train/0_rgb.png", "depth": root / "train/0_depth.png"}
    cells = {column: {"bytes": path.read_bytes(), "path": None} for column, path in files.items()}
    Dataset.from_list([cells], features=Features(dict.fromkeys(cells, ImageFeature()))).to_parquet(root / "train-00000-of-00001.parquet")
    shutil.rmtree(root / "train")
    (root / "predictions").mkdir()
    (root / "predictions/README.md").write_text(CARD)
    (root / "predictions/metadata.jsonl").write_text(json.dumps(KEYS))


ALONGSIDE = {
    "metadata of the folder as Parquet": as_parquet,
    "Parquet that belongs to no split": lambda root: with_both_kinds(root, "outputs/x.parquet"),
    "predictions with a card of their own": with_predictions,
    "the archive that the folder was taken from": lambda root: folder(root, train=json.dumps(KEYS)).joinpath("train.tar").write_bytes(b""),
    "a table without images": lambda root: Dataset.from_list([{"x": 1.0}]).to_parquet(
        folder(root, train=json.dumps(KEYS)) / "train/poses.parquet"
    ),
    "a card after an empty line": lambda root: folder(root, train=json.dumps(KEYS)).joinpath("README.md").write_text(f"\n{CARD}"),
}


@pytest.mark.parametrize("name", ALONGSIDE)
def test_other_files_may_lie_in_the_directory(tmp_path, name):
    ALONGSIDE[name](tmp_path)
    rows = load_rows(tmp_path, split="train")
    assert rows.column_names == ["image", "depth"]
    assert check(tmp_path).tasks["depth"].found
    assert len(list(open_stream(tmp_path, "train").rows)) == len(rows)


def test_archives_and_metadata_tables_beside_parquet_are_refused(tmp_path):
    with_both_kinds(tmp_path / "tar", "data/train-00000-of-00001.parquet")
    for split in ("train", "validation"):
        shutil.rmtree(tmp_path / "tar" / split)
    (tmp_path / "tar/train-more.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has Parquet files and train-more\.tar"):
        load_rows(tmp_path / "tar")
    root = with_both_kinds(tmp_path / "csv", "data/train-00000-of-00001.parquet")
    for split in ("train", "validation"):
        (root / split / "metadata.jsonl").rename(root / split / "metadata.csv")
    with pytest.raises(ValueError, match=r"has Parquet files and train/metadata\.csv"):
        load_rows(root)


def test_a_configuration_without_files_changes_nothing(tmp_path):
    root = with_both_kinds(tmp_path, "train-00000-of-00001.parquet")
    (root / "README.md").write_text(CARD.replace("mult_tasks", "configs: [{config_name: default, default: true}]\nmult_tasks"))
    with pytest.raises(ValueError, match="has the images of a folder and train-00000"):
        load_rows(root)


def archive(root, name, columns):
    """An archive of a folder's first image, once per column, with its map under the column's name; None for a sample without a map."""
    (root / name).parent.mkdir(exist_ok=True)
    with tarfile.open(root / name, "w") as file:
        for number, column in enumerate(columns):
            file.add(root / "train/0_rgb.png", f"{number}.image.png")
            if column is not None:
                file.add(root / "train/0_depth.png", f"{number}.{column}.png")


def test_maps_that_an_archive_has_only_after_its_first_samples_are_not_left_out(tmp_path):
    """`datasets` takes the columns from the first five samples."""
    folder(tmp_path, train=json.dumps(KEYS))
    archive(tmp_path, "train-000.tar", [*[None] * 6, "depth", "depth"])
    shutil.rmtree(tmp_path / "train")
    (tmp_path / ".trash").mkdir()
    shutil.copy(tmp_path / "train-000.tar", tmp_path / ".trash")
    for read in (check, lambda root: open_stream(root, "train"), load_rows):
        with pytest.raises(ValueError, match=r"train-000\.tar: 6\.depth\.png would be left out, .*: give these a file of every kind"):
            read(tmp_path)


def test_a_broken_archive_is_left_to_who_reads_it(tmp_path):
    folder(tmp_path, train=json.dumps(KEYS))
    archive(tmp_path, "train-000.tar", [None] * 5)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train-001.tar").write_bytes(b"broken")
    assert "image" in open_stream(tmp_path, "train").rows.column_names


def test_archives_that_the_card_does_not_list_are_no_part_of_the_data(tmp_path):
    folder(tmp_path, train=json.dumps(KEYS))
    for name, column in (("depth/train-0.tar", "depth"), ("old/train-0.tar", "normals")):
        archive(tmp_path, name, [column] * 5)
    shutil.rmtree(tmp_path / "train")
    configs = "configs: [{config_name: default, data_files: [{split: train, path: depth/*.tar}]}]\n"
    tasks = CARD.replace("mult_tasks: [", "mult_tasks: [{name: normals}, ").replace("mult_tasks", f"{configs}mult_tasks")
    (tmp_path / "README.md").write_text(tasks)
    assert {"image", "depth"} <= {*open_stream(tmp_path, "train").rows.column_names}


def test_a_card_without_a_header_is_explained(tmp_path):
    folder(tmp_path, train=json.dumps(KEYS)).joinpath("README.md").write_text(CARD.replace("---\n", ""))
    with pytest.raises(
        ValueError, match=r"README\.md has no list 'mult_tasks', because it has no YAML header: its first line must be `---`"
    ):
        check(tmp_path)


def test_a_card_that_lists_its_files_may_have_others_beside_them(tmp_path):
    root = with_both_kinds(tmp_path, "train-00000-of-00001.parquet")
    configs = "configs: [{config_name: default, data_files: [{split: train, path: train-*.parquet}]}]\n"
    (root / "README.md").write_text(CARD.replace("mult_tasks", f"{configs}mult_tasks"))
    assert len(load_rows(root, split="train")) == 3
    assert len(list(open_stream(root, "train").rows)) == 3
