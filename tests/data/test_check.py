"""Proves that the checker passes a sound data set, and finds and places each thing that is commonly wrong with one."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image

from mult_hf.cli.check import main
from mult_hf.data.benchmarks.files import as_picture
from mult_hf.data.check import check

SIZE = (24, 32)
ENTRIES = {
    "segmentation": {
        "name": "segmentation",
        "class_names": ["wall", "floor"],
        "encoding": {"dtype": "uint8", "offset": -1, "unknown": [0]},
    },
    "depth": {"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0]}},
    "normals": {"name": "normals", "encoding": {"dtype": "uint8", "scale": 1 / 127, "offset": -1.0, "unknown": [127]}},
    "edges2d": {"name": "edges2d", "encoding": {"dtype": "uint8", "scale": 1 / 255}},
}


def sound_maps(seed: int = 0) -> dict[str, np.ndarray]:
    """A ramp of depth from 1 to 2 m, a wall that faces the camera, half wall and half floor, one pixel unknown in each."""
    ramp = np.linspace(512, 1024, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    normals = np.full((*SIZE, 3), (127, 127, 254), np.uint8)
    normals[:4] = (127, 254, 127)
    classes = np.ones(SIZE, np.uint8)
    classes[12:] = 2
    ramp[0, 0] = classes[0, 0] = 0
    normals[0, 0] = 127
    rng = np.random.default_rng(seed)
    photo, edges = rng.integers(0, 256, (*SIZE, 3), np.uint8), rng.integers(0, 255, SIZE, np.uint8)
    return {"image": photo, "segmentation": classes, "depth": ramp, "normals": normals, "edges2d": edges}


def write(directory: Path, rows: list[dict], entries=ENTRIES) -> Path:
    """A data set as a user has it: parquet and a card. A cell is an array, bytes of a file, or None."""
    columns = sorted({column for row in rows for column in row})

    def stored(cell):
        if isinstance(cell, np.ndarray):
            return as_picture(np.moveaxis(cell, -1, 0) if cell.ndim == 3 else cell)
        return {"bytes": cell, "path": "photo.png"} if isinstance(cell, bytes) else cell

    as_columns = {column: [stored(row.get(column)) for row in rows] for column in columns}
    directory.mkdir(parents=True, exist_ok=True)
    features = Features({column: ImageFeature() for column in columns})
    Dataset.from_dict(as_columns, features=features).to_parquet(directory / "train-00000-of-00001.parquet")
    DatasetCard(f"---\n{DatasetCardData(mult_tasks=list(entries.values())).to_yaml()}\n---\n").save(directory / "README.md")
    return directory


def test_a_sound_data_set_passes_and_is_described(tmp_path, capsys):
    root = write(tmp_path / "sound", [sound_maps(0), {**sound_maps(1), "depth": None}])
    assert main([str(root), "--sheet", str(tmp_path / "sheet.png")]) == 0
    printed = capsys.readouterr().out
    assert "depth         1 of 2 maps, stored uint16, decoded 1 to 2, 0.1% unknown" in printed
    assert "segmentation  2 of 2 maps, stored uint8, decoded 0 to 1" in printed
    assert "all looks right" in printed

    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100, "it has pictures on it"


def with_map(task: str, change) -> dict[str, np.ndarray]:
    maps = sound_maps()
    return {**maps, task: change(maps[task])}


def truncated(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()[:-200]


WRONG = {
    "8 bits where 16 are due": ("depth", lambda depth: (depth // 256).astype(np.uint8), "uint8 .* reads uint16"),
    "millimetres": ("depth", lambda depth: np.where(depth, 60000 + depth % 100, 0).astype(np.uint16), "look like millimetres"),
    "normals not unit": ("normals", lambda normals: (127 + (normals.astype(int) - 127) // 2).astype(np.uint8), "not unit"),
    "normals pointing away": ("normals", lambda normals: (254 - normals).astype(np.uint8), "point away from the camera"),
    "a class beyond the list": ("segmentation", lambda classes: classes + np.uint8(1), "pixels have class 2; classes run from 0 to 1"),
    "a constant map": ("edges2d", lambda edges: np.full_like(edges, 7), "one value only"),
    "a truncated picture": ("edges2d", truncated, "cannot be read to its end"),
    "a truncated photo": ("image", truncated, "cannot be read to its end"),
    "a map with nothing known": ("depth", np.zeros_like, "without one known pixel"),
    "another shape": ("edges2d", lambda edges: edges[:, :24], "24 x 24 for images of 24 x 32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found_and_its_row_named(tmp_path, name):
    task, change, sentence = WRONG[name]
    findings = check(write(tmp_path / "set", [sound_maps(), with_map(task, change), sound_maps()]))
    assert not findings.is_right
    problems = {column: item.problems for column, item in findings.tasks.items() if item.problems}
    assert list(problems) == [task], "nothing else is suspected"
    ((found, rows),) = problems[task].items()
    assert re.search(sentence, found)
    assert [row.split(" (")[0] for row in rows] == ["train row 1"]


def test_what_is_wrong_with_many_rows_is_one_finding_even_if_its_numbers_differ(tmp_path):
    def beyond(number):
        classes = sound_maps()["segmentation"].copy()
        classes[:number] = 2 + number
        return {**sound_maps(), "segmentation": classes, "edges2d": b"no picture"}

    findings = check(write(tmp_path / "set", [beyond(number) for number in (1, 2, 3, 4)]))
    ((sentence, rows),) = findings.tasks["segmentation"].problems.items()
    assert sentence.startswith("32 pixels have class 2"), "told with the first row's numbers"
    assert len(rows) == 4
    assert list(findings.tasks["edges2d"].problems) == ["is no picture that can be opened"]
    assert "[train row 0, train row 1, train row 2 and 1 more]" in str(findings)


def test_floors_before_a_level_camera_do_not_point_away_though_rounding_stores_their_z_below_zero(tmp_path):
    floors = np.full((*SIZE, 3), (127, 254, 126), np.uint8)  # (0, 1, 0) and one step of rounding
    floors[:4] = (127, 127, 254)
    assert check(write(tmp_path / "set", [with_map("normals", lambda normals: floors)])).is_right


def test_the_file_of_a_broken_picture_is_named(tmp_path):
    findings = check(write(tmp_path / "set", [sound_maps(), with_map("edges2d", truncated)]))
    assert "train row 1 (photo.png)" in str(findings)


def test_the_message_helps_when_the_card_or_the_data_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"has no README\.md"):
        check(tmp_path)
    root = write(tmp_path / "set", [sound_maps()])
    with pytest.raises(ValueError, match="has no split 'test'; it has train"):
        check(root, split="test")
    (root / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="datasets cannot load"):
        check(root)


def test_columns_and_entries_that_do_not_meet_are_mentioned(tmp_path):
    rows = [{"image": sound_maps()["image"], "tiefe": sound_maps()["depth"]}]
    printed = str(check(write(tmp_path / "set", rows)))
    assert "column 'tiefe' holds pictures but the card has no task of that name" in printed
    assert "no column 'depth': unknown everywhere" in printed
    assert "no task of the card has a map" in printed
    assert "1 things look wrong" in printed


def test_samples_limits_what_is_read(tmp_path):
    root = write(tmp_path / "set", [sound_maps(), sound_maps(), with_map("edges2d", truncated)])
    assert check(root, samples=2).is_right
    assert not check(root, samples=3).is_right


def test_a_folder_of_files_names_the_file_that_is_wrong(tmp_path):
    """The layout of docs/data.md's example: pictures in folders and a metadata file."""
    for number in range(2):
        maps = sound_maps(number)
        (tmp_path / "train").mkdir(exist_ok=True)
        Image.fromarray(maps["image"]).save(tmp_path / "train" / f"{number}_rgb.png")
        depth = maps["depth"] if number == 0 else (maps["depth"] // 256).astype(np.uint8)
        Image.fromarray(depth).save(tmp_path / "train" / f"{number}_depth.png")
    lines = [f'{{"image_file_name": "{n}_rgb.png", "depth_file_name": "{n}_depth.png"}}' for n in range(2)]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines))
    card = DatasetCard(f"---\n{DatasetCardData(mult_tasks=[ENTRIES['depth']]).to_yaml()}\n---\n")
    card.save(tmp_path / "README.md")
    findings = check(tmp_path)
    assert findings.tasks["depth"].found == 2
    (rows,) = findings.tasks["depth"].problems.values()
    assert "1_depth.png" in rows[0]


def test_the_example_of_the_documentation_passes_the_checker(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.jsonl").write_text(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    maps = sound_maps()
    for name in ("0001", "0002"):
        Image.fromarray(maps["image"]).save(tmp_path / "train" / f"{name}_rgb.jpg")
        Image.fromarray(maps["depth"]).save(tmp_path / "train" / f"{name}_depth.png")
    Image.fromarray(maps["segmentation"]).save(tmp_path / "train" / "0001_classes.png")
    towards = np.broadcast_to(np.array([127, 128, 255], np.uint8), (*SIZE, 3)).copy()
    towards[:8] = (128, 0, 127)  # y is down in these files: a floor
    Image.fromarray(towards).save(tmp_path / "train" / "0001_normals.png")

    findings = check(tmp_path)
    assert findings.is_right, str(findings)
    assert {task: item.found for task, item in findings.tasks.items()} == {"image": 2, "segmentation": 1, "depth": 2, "normals": 1}
    assert findings.tasks["depth"].highest == pytest.approx(1.024), "1024 millimetres"
