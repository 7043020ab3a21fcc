"""Proves that the checker accepts a correct data set, and finds and locates each common mistake."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image

from mult_hf.cli.check import main
from mult_hf.data.check import check
from support.checked_data import ENTRIES, SIZE, scene, sound_maps, write


def test_a_sound_data_set_passes_and_is_described(tmp_path, capsys):
    root = write(tmp_path / "sound", [sound_maps(0), {**sound_maps(1), "depth": None}])
    assert main([str(root), "--sheet", str(tmp_path / "new" / "sheet.png")]) == 0
    printed = capsys.readouterr().out
    assert "depth         1 of 2 maps, stored uint16, decoded 1.549 to 3, 0.1% unknown" in printed
    assert "segmentation  2 of 2 maps, stored uint8, decoded 0 to 1" in printed
    assert "note: segmentation: wall 82.1%, floor 17.9%" in printed
    assert "all looks right" in printed

    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png").convert("RGB"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100, "it shows images"


def with_map(task: str, change) -> dict[str, np.ndarray]:
    maps = sound_maps()
    return {**maps, task: change(maps[task])}


def truncated(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()[:-200]


WRONG = {
    "8 bits where 16 are due": ("depth", lambda depth: (depth // 256).astype(np.uint8), "uint8 .* reads uint16"),
    "normals not unit": ("normals", lambda normals: (127 + (normals.astype(int) - 127) // 2).astype(np.uint8), "do not have unit length"),
    "normals pointing away": ("normals", lambda normals: (254 - normals).astype(np.uint8), "point away from the camera"),
    "a class beyond the list": (
        "segmentation",
        lambda classes: classes + np.uint8(2),
        "class 2, 3, which the file stores as 3, 4; classes run from 0",
    ),
    "a constant map": ("edges2d", lambda edges: np.full_like(edges, 7), "maps with a single value"),
    "a truncated map": ("edges2d", truncated, "cannot be read completely"),
    "a truncated image": ("image", truncated, "cannot be read completely"),
    "a map with nothing known": ("depth", np.zeros_like, "without a known pixel"),
    "another aspect ratio": ("edges2d", lambda edges: edges[:, :24], "24 x 24 pixels, its image 24 x 32: another aspect ratio"),
    "a transposed map": ("segmentation", lambda classes: classes.T.copy(), "32 x 24 pixels, its image 24 x 32: turned by 90 degrees"),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_problem_is_found_and_its_row_named(tmp_path, name):
    task, change, sentence = WRONG[name]
    findings = check(write(tmp_path / "set", [sound_maps(), with_map(task, change), sound_maps()]))
    assert not findings.is_right
    problems = {column: item.problems for column, item in findings.tasks.items() if item.problems}
    assert list(problems) == [task], "nothing else is suspected"
    ((found, rows),) = problems[task].items()
    assert re.search(sentence, found)
    assert [row.split(" (")[0] for row in rows] == ["train row 1"]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("metrics", ["rmse", "iou"], "unknown are ['iou']; allowed: mae, rmse, log_rmse"),
        ("metrics", ["mean_angle"], "has the metric 'mean_angle', which is for"),
        ("loss", "l3", "allowed: l1, rotate_l1, silog"),
        ("activation", "relu", "allowed: identity, sigmoid"),
        ("colormap", "rainbow", "has colormap 'rainbow'; allowed: gray, viridis"),
        ("colormap", "vectors", "a regression of 1 channel, has colormap 'vectors'; allowed: gray, viridis"),
        ("loss", "balanced_binary_cross_entropy", "which is for values from 0 to 1, and its values run from 0 to 10"),
    ],
)
def test_names_in_an_entry_that_training_refuses_are_found_before(tmp_path, field, value, allowed):
    root = write(tmp_path / "set", [sound_maps()], {**ENTRIES, "depth": {**ENTRIES["depth"], field: value}})
    findings = check(root)
    problems = {column: item.problems for column, item in findings.tasks.items() if item.problems}
    ((sentence, rows),) = problems.pop("depth").items()
    assert not problems, "nothing else is suspected"
    assert rows == ["the card"]
    assert sentence.startswith("task 'depth'")
    assert allowed in sentence


METRES, VECTORS, _ = scene()
CELSIUS = {"name": "heat", "kind": "regression", "channels": 1, "unit": "°C", "encoding": {"dtype": "float32"}}


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        ({"activation": "sigmoid"}, r"beyond \[0, 1\], .* with the task's activation 'sigmoid'; give"),
        ({"value_range": [0.0, 10.0]}, r"beyond \[0, 10\], .* with the task's value_range; give"),
        ({"activation": "sigmoid", "value_range": [0.0, 10.0], "unit": "m"}, r"beyond \[0, 10\], .* with the task's value_range; give"),
    ],
)
def test_values_that_no_prediction_can_have_are_named(tmp_path, fields, limits):
    heat = np.tile(np.linspace(20, 1, SIZE[0], dtype=np.float32)[:, None], SIZE[1])
    rows = [{"image": sound_maps()["image"], "heat": heat}] * 3
    (found,) = check(write(tmp_path / "beyond", rows, {"heat": {**CELSIUS, **fields}})).tasks["heat"].problems
    assert re.match(rf"\d+\.\d% of the values are {limits}", found), found
    assert check(write(tmp_path / "all", rows, {"heat": {**CELSIUS, **fields, "value_range": [0.0, 20.0]}})).is_right


HEIGHTS = {**CELSIUS, "unit": "m", "zoom_exponent": 0.0}
POINTS = {**CELSIUS, "unit": "m", "channels": 3, "encoding": {"dtype": "uint8", "scale": 0.1, "offset": -10}}


@pytest.mark.parametrize(
    ("entry", "stored"),
    [
        (HEIGHTS, np.maximum(0, np.linspace(0.4, -1, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE))),
        (POINTS, np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)),
    ],
    ids=["heights above the floor", "points in space"],
)
def test_lengths_that_are_not_distances_from_the_camera_may_be_0_or_less(tmp_path, entry, stored):
    findings = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "heat": stored}] * 3, {"heat": entry}))
    assert findings.is_right, str(findings)


@pytest.mark.parametrize("unit", ["metres", "meters", "Metres", "METER", " m "])
def test_the_unit_of_distances_may_be_spelt_out(tmp_path, unit):
    entry = {**CELSIUS, "unit": unit, "zoom_exponent": -1.0}
    rows = [{"image": sound_maps()["image"], "heat": (1000 * METRES).astype(np.float32)}] * 3
    (found,) = check(write(tmp_path / "set", rows, {"heat": entry})).tasks["heat"].problems
    assert "looks like millimetres" in found


def test_depth_without_a_unit_is_that_of_transformers_in_metres(tmp_path):
    entry = {**CELSIUS, "zoom_exponent": -1.0, "transformers_task": "depth-estimation"}
    rows = [{"image": sound_maps()["image"], "heat": (1000 * METRES).astype(np.float32)}] * 3
    (found,) = check(write(tmp_path / "set", rows, {"heat": {**entry, "unit": ""}})).tasks["heat"].problems
    assert "looks like millimetres" in found
    assert check(write(tmp_path / "own", rows, {"heat": {**entry, "unit": "mm"}})).is_right, "a unit of its own is believed"


@pytest.mark.parametrize(
    "fields",
    [{"unit": "unit vectors"}, {"unit": "Unit Vector"}, {"unit": "unit-vector"}, {"unit": "", "transformers_task": "normal-estimation"}],
    ids=str,
)
def test_normals_that_point_away_are_named_however_the_entry_says_that_they_are_normals(tmp_path, fields):
    encoding = ENTRIES["normals"]["encoding"]
    away = {**encoding, **{name: [encoding[name], encoding[name], -encoding[name]] for name in ("scale", "offset")}}
    rows = [{"image": sound_maps()["image"], "heat": sound_maps()["normals"]}] * 3
    entry = {**CELSIUS, "channels": 3, **fields}
    assert check(write(tmp_path / "right", rows, {"heat": {**entry, "encoding": encoding}})).is_right
    found = check(write(tmp_path / "away", rows, {"heat": {**entry, "encoding": away}})).tasks["heat"].problems
    assert any("vectors point away from the camera" in problem for problem in found)


@pytest.mark.parametrize("unit", ["[0, 1]", "[0,1]"])
def test_shares_beyond_0_to_1_are_named_in_either_spelling(tmp_path, unit):
    shares = np.tile(np.linspace(0, 2.55, SIZE[1], dtype=np.float32), (SIZE[0], 1))
    entry = {**CELSIUS, "unit": unit, "value_range": [0.0, 1.0]}
    found = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "heat": shares}] * 3, {"heat": entry})).tasks["heat"].problems
    assert any("values beyond [0, 1]; check the encoding's scale" in problem for problem in found)


def test_vectors_of_an_own_task_have_unit_length_where_its_activation_says_so(tmp_path):
    entry = {**CELSIUS, "channels": 3, "unit": "", "activation": "unit_vector", "encoding": {"dtype": "uint8", "scale": 1 / 255}}
    rows = [{"image": sound_maps()["image"], "heat": np.round(127.5 + 127.5 * VECTORS).astype(np.uint8)}] * 3
    (found,) = check(write(tmp_path / "set", rows, {"heat": entry})).tasks["heat"].problems
    assert "do not have unit length" in found


def test_fields_that_would_turn_and_mirror_values_wrongly_are_mentioned(tmp_path):
    """Not counted as wrong: the axes of a task of one's own are not known."""
    own = {"unit": "unit vector", "activation": "unit_vector", "name": "plane_normals", "channels": 3, "kind": "regression"}
    entries = {"plane_normals": {**own, "encoding": ENTRIES["normals"]["encoding"]}, "distance": {**HEIGHTS, "name": "distance"}}
    rows = [{"image": sound_maps()["image"], "plane_normals": sound_maps()["normals"], "distance": METRES.astype(np.float32)}] * 3
    findings = check(write(tmp_path / "set", rows, entries))
    assert findings.is_right
    assert "note: plane_normals: unit vectors with horizontal_flip_signs [1.0, 1.0, 1.0] and rotated_channels []" in str(findings)
    assert "note: distance: metres with zoom_exponent 0; for distances from the camera give -1" in str(findings)
    assert "zoom_exponent" not in str(check(write(tmp_path / "sound", [sound_maps()] * 3)))


def test_entries_that_would_teach_contradictions_or_nothing_are_mentioned(tmp_path):
    flow = {"name": "flow", "kind": "regression", "channels": 3, "rotated_channels": [0, 1], "encoding": ENTRIES["normals"]["encoding"]}
    heat = {"name": "distance", "kind": "regression", "channels": 1, "loss": "silog", "encoding": {"dtype": "float32"}}
    rows = [{"image": sound_maps()["image"], "flow": sound_maps()["normals"], "distance": METRES.astype(np.float32)}] * 3

    def notes(**changes):
        entries = {name: {**entry, **changes.get(name, {})} for name, entry in {"flow": flow, "distance": heat}.items()}
        return str(check(write(tmp_path / f"set{len(list(tmp_path.iterdir()))}", rows, entries)))

    found = notes(flow={"horizontal_flip_signs": [1, 1, 1]})
    assert "note: flow: rotated_channels [0, 1] (right, up) and horizontal_flip_signs [1, 1, 1]; mirrored vectors point" in found
    assert "note: distance: loss silog with activation identity: predictions beyond 0 to inf have no gradient, so give" in found
    sound = notes(distance={"activation": "sigmoid", "value_range": [0, 10]})
    assert "rotated_channels" not in sound
    assert "gradient" not in sound


def test_how_maps_are_read_is_mentioned_where_the_card_does_not_say_it(tmp_path):
    """Ids from 0 in place of those from 1 lose a class, and millimetres in place of 512 steps per metre are twice as far."""
    entries = {**ENTRIES, "depth": {"name": "depth"}}
    notes = check(write(tmp_path / "set", [sound_maps()] * 3, entries)).doubts
    assert notes[0].startswith("depth: the card's entry has no encoding, so maps are read with dtype uint16, scale 0.00195")
    assert not [note for note in notes[1:] if "no encoding" in note]


def test_a_split_without_rows_is_named(tmp_path):
    root = write(tmp_path / "set", [sound_maps()] * 3)
    train = Dataset.from_parquet(str(root / "train-00000-of-00001.parquet"), cache_dir=str(tmp_path / "cache"))
    train.select([]).to_parquet(root / "validation-00000-of-00001.parquet")
    findings = check(root)
    assert findings.tasks["image"].problems == {"no rows, so nothing can be trained or measured on it": ["split validation"]}


def test_values_are_not_limited_where_predictions_are_not_and_a_few_may_be_beyond(tmp_path):
    heat = np.linspace(-5, 5, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    rows = [{"image": sound_maps()["image"], "heat": heat}] * 3
    assert check(write(tmp_path / "any", rows, {"heat": CELSIUS})).is_right
    heat[0, :10] = 8  # 1.3 % of the pixels
    assert check(write(tmp_path / "few", rows, {"heat": {**CELSIUS, "value_range": [-5.0, 5.0]}})).is_right


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda vectors: vectors * (-1, 1, 1), "x looks mirrored"),
        (lambda vectors: vectors * (1, -1, 1), "y looks stored downwards"),
        (lambda vectors: vectors[..., ::-1], r"channels look reversed \(BGR\): .* as \[2, 1, 0\]"),
    ],
    ids=["x left", "y down", "BGR"],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_normals_of_surfaces_that_no_camera_sees_are_named_without_depth(tmp_path, change, sentence, mirrored):
    """A surface is visible only if its normal points against the line of sight, whatever the scene."""
    vectors = VECTORS[:, ::-1] * (-1, 1, 1) if mirrored else VECTORS
    for name, seen in (("sound", vectors), ("changed", change(vectors))):
        rows = [{"image": sound_maps()["image"], "normals": np.round(127 + 127 * seen).astype(np.uint8)}] * 4
        problems = list(check(write(tmp_path / name, rows, {"normals": ENTRIES["normals"]})).tasks["normals"].problems)
        assert len(problems) == (name == "changed"), problems
    assert re.search(sentence, problems[0]), problems


NORMALS_MISTAKES = {
    "y down": ((1, -1, 1), "normals", "y looks stored downwards"),
    "x left": ((-1, 1, 1), "normals", "x looks mirrored"),
    "into the scene": ((1, 1, -1), "normals", "point away from the camera"),
}


@pytest.mark.parametrize("name", NORMALS_MISTAKES)
def test_axes_of_normals_that_contradict_the_depth_are_named(tmp_path, name):
    signs, task, sentence = NORMALS_MISTAKES[name]
    normals = np.round(127 + 127 * VECTORS * signs).astype(np.uint8)
    findings = check(write(tmp_path / "set", [{**sound_maps(), "normals": normals}] * 3))
    found = {column: list(item.problems) for column, item in findings.tasks.items() if item.problems}
    assert list(found) == [task]
    assert any(re.search(sentence, problem) for problem in found[task]), found


def test_y_down_is_detected_without_depth_and_inverted_depth_from_its_normals(tmp_path):
    normals = np.round(127 + 127 * VECTORS * (1, -1, 1)).astype(np.uint8)
    rows = [{"image": sound_maps()["image"], "normals": normals}] * 3
    (found,) = check(write(tmp_path / "alone", rows, {"normals": ENTRIES["normals"]})).tasks["normals"].problems
    assert "y looks stored downwards" in found

    rows = [{**sound_maps(), "depth": np.round(512 * (4 - METRES)).astype(np.uint16)}] * 2  # too few for a judgement by depth alone
    findings = check(write(tmp_path / "together", rows))
    assert [column for column, item in findings.tasks.items() if item.problems] == ["depth"]
    assert "inverted depth" in next(iter(findings.tasks["depth"].problems))


@pytest.mark.parametrize(
    ("orientation", "size", "sentence"),
    [(3, SIZE, "EXIF orientation 3"), (6, SIZE, "turned by 90 degrees"), (6, (24, 24), "orientation 6")],
)
def test_an_image_with_an_exif_orientation_unlike_its_map_is_named(tmp_path, orientation, size, sentence):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(image).save(buffer, "JPEG", exif=exif)
    maps = {"edges2d": np.random.default_rng(1).integers(0, 255, size, np.uint8)}
    findings = check(write(tmp_path / "set", [{"image": buffer.getvalue(), **maps}], {"edges2d": ENTRIES["edges2d"]}))
    (found,) = findings.tasks["edges2d"].problems
    assert sentence in found

    upright = {"edges2d": maps["edges2d"].T.copy()}
    findings = check(write(tmp_path / "upright", [{"image": buffer.getvalue(), **upright}], {"edges2d": ENTRIES["edges2d"]}))
    assert findings.is_right == (orientation == 6 and size == SIZE), "a map of the upright image's size is seen to be upright"


@pytest.mark.parametrize("name", ["rooms-sample", "doom-sample"])
def test_the_shipped_samples_pass_the_check(name):
    findings = check(Path(__file__).parents[2] / "examples" / "data" / name, split="test", samples=24)
    assert findings.is_right, str(findings)


def test_a_problem_of_many_rows_is_one_finding_even_if_its_numbers_differ(tmp_path):
    def beyond(number):
        classes = sound_maps()["segmentation"].copy()
        classes[:number] = 2 + number
        return {**sound_maps(), "segmentation": classes, "edges2d": b"not an image"}

    findings = check(write(tmp_path / "set", [beyond(number) for number in (1, 2, 3, 4)]))
    ((sentence, rows),) = findings.tasks["segmentation"].problems.items()
    assert sentence.startswith("32 pixels have class 2"), "with the first row's numbers"
    assert len(rows) == 4
    assert list(findings.tasks["edges2d"].problems) == ["cannot be opened as an image"]
    assert "[train row 0, train row 1, train row 2 and 1 more]" in str(findings)


def test_floors_seen_by_a_level_camera_pass_although_rounding_stores_a_negative_z(tmp_path):
    floors = np.full((*SIZE, 3), (127, 254, 126), np.uint8)  # (0, 1, 0) and one step of rounding
    floors[:4] = (127, 127, 254)
    assert check(write(tmp_path / "set", [with_map("normals", lambda normals: floors)])).is_right


def test_the_file_of_a_broken_image_is_named(tmp_path):
    findings = check(write(tmp_path / "set", [sound_maps(), with_map("edges2d", truncated)]))
    assert "train row 1 (image.png)" in str(findings)


def test_a_missing_card_or_data_set_gives_a_helpful_message(tmp_path):
    with pytest.raises(ValueError, match=r"has no README\.md"):
        check(tmp_path)
    root = write(tmp_path / "set", [sound_maps()])
    with pytest.raises(ValueError, match="has no split 'test'; it has train"):
        check(root, split="test")
    (root / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="datasets cannot load"):
        check(root)


def test_columns_and_entries_without_a_counterpart_are_mentioned(tmp_path):
    rows = [{"image": sound_maps()["image"], "tiefe": sound_maps()["depth"]}]
    printed = str(check(write(tmp_path / "set", rows)))
    assert "column 'tiefe' holds images, but the card has no task of that name" in printed
    assert "no column 'depth': unknown everywhere" in printed
    assert "no task of the card has a map" in printed
    assert "1 thing looks wrong" in printed


@pytest.mark.parametrize("name", ["sheet", "sheet.nope", "folder.png"])
def test_a_sheet_that_cannot_be_written_is_refused_before_the_data_are_read(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=rf"--sheet is .*{name}; give a file that ends in .png, .jpg"):
        main([str(tmp_path / "no data"), "--sheet", str(tmp_path / name)])


def test_samples_limits_the_number_of_rows_read(tmp_path):
    root = write(tmp_path / "set", [sound_maps(), sound_maps(), with_map("edges2d", truncated)])
    few = check(root, samples=2)
    assert few.is_right
    assert "train: only the first 2 rows were read; --samples reads more" in few.notes
    assert not any("rows were read" in note for note in check(root, samples=3).notes)
    assert not check(root, samples=3).is_right


def test_a_folder_of_files_names_the_file_that_is_wrong(tmp_path):
    """The layout of docs/data.md's example: images in folders and a metadata file."""
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


def test_the_example_of_the_documentation_passes_the_checker_as_a_folder_and_as_parquet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path = tmp_path / "my-rooms"
    tmp_path.mkdir()
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
    towards[16:] = (128, 0, 127)  # y is down in these files: a floor
    Image.fromarray(towards).save(tmp_path / "train" / "0001_normals.png")

    findings = check(tmp_path)
    assert findings.is_right, str(findings)
    assert {task: item.found for task, item in findings.tasks.items()} == {"image": 2, "segmentation": 1, "depth": 2, "normals": 1}
    assert findings.tasks["depth"].highest == pytest.approx(1.536), "1536 millimetres"

    shutil.copytree(tmp_path / "train", tmp_path / "validation")
    Path("my-rooms-parquet").mkdir()
    shutil.move(tmp_path / "README.md", "my-rooms-parquet")
    exec(re.search(r"```python\n(import json.*?)```", page, re.DOTALL)[1], {})
    shutil.rmtree(tmp_path)
    findings = check("my-rooms-parquet")
    assert findings.is_right, str(findings)
    assert {task: item.found for task, item in findings.tasks.items()} == {"image": 4, "segmentation": 2, "depth": 4, "normals": 2}


def test_focal_lengths_that_cannot_be_pixels_of_the_image_are_named(tmp_path):
    """20 pixels is right for this scene of 32 columns; null is not known."""
    root = write(tmp_path / "data", [sound_maps(number) for number in range(4)])
    path = next(root.glob("*.parquet"))
    rows = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    rows.add_column("focal_length", [20.0, None, -1.0, 2600.0]).to_parquet(path)
    found = check(root).tasks["image"].problems
    assert found == {
        "focal_length is -1.0; give pixels of the image above 0, or null where it is not known": ["train row 2"],
        "focal_length is 2600 pixels, a field of view of 0.7 degrees; give pixels of the image": ["train row 3"],
    }


def stored_file(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


EDGES = Image.fromarray(sound_maps()["edges2d"])
NO_EDGES = {
    "a palette": (stored_file(EDGES.quantize(16), "PNG"), "has a palette, so its pixels are numbers of colours"),
    "two pages": (stored_file(EDGES, "TIFF", save_all=True, append_images=[EDGES]), "has 2 frames or pages"),
    "half of two pages": (stored_file(EDGES, "TIFF", save_all=True, append_images=[EDGES])[:-900], "the file is broken|read completely"),
}


@pytest.mark.parametrize("name", NO_EDGES)
def test_files_whose_pixels_are_not_the_values_are_named(tmp_path, name):
    contents, reason = NO_EDGES[name]
    (found,) = check(write(tmp_path / "set", [{**sound_maps(), "edges2d": contents}] * 3)).tasks["edges2d"].problems
    assert re.search(reason, found), found


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK"])
def test_the_sheet_shows_an_image_in_its_own_colours(tmp_path, mode):
    red = Image.new("RGB", SIZE[::-1], (250, 0, 0))
    red.paste((0, 0, 250), (0, 0, 8, 8))
    file = io.BytesIO()
    red.convert(mode).save(file, "TIFF")
    sheet = check(write(tmp_path / "set", [{**sound_maps(), "image": file.getvalue()}] * 3)).sheet
    pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3).astype(int)
    assert (np.abs(pixels - (250, 0, 0)).max(axis=1) < 20).sum() > 1000


def test_the_verdict_names_tasks_without_a_map(tmp_path):
    """A forgotten column is no contradiction in the data, but more often a mistake than not."""
    rows = [sound_maps(seed) for seed in range(2)]
    for row in rows:
        del row["edges2d"]
    entries = {task: ENTRIES[task] for task in ("normals", "edges2d")}
    assert str(check(write(tmp_path / "set", rows, entries))).endswith("nothing looks wrong, but edges2d has no maps")
