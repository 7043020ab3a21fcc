"""Proves that the checker names each common mistake in class maps, and how to correct it."""

import io
import re

import numpy as np
import pytest
from datasets import Array3D, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from mult_hf.data.check import check, check_rows
from support.checked_data import SIZE, sound_maps, write


def png_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def mask(*ids: int) -> np.ndarray:
    """Stripes of ids, one pixel wide."""
    return np.resize(np.array(ids, np.uint8), SIZE[1])[None].repeat(SIZE[0], axis=0).copy()


def classes_of(count: int, **encoding) -> dict:
    names = [f"thing{number}" for number in range(count)]
    return {
        "name": "things",
        "kind": "classification",
        "channels": count,
        "class_names": names,
        **({"encoding": encoding} if encoding else {}),
    }


COLOURS = np.array([(128, 0, 0), (0, 128, 0), (0, 0, 128)], np.uint8)
TWO_CLASSES, THREE_CLASSES = classes_of(2), classes_of(3)
CLASS_MISTAKES = {
    "0/255, 255 read as unknown": (TWO_CLASSES, mask(0, 255), "a 0/255 mask whose foreground is not read as class 1"),
    "0/255, nothing unknown": (classes_of(2, dtype="uint8"), mask(0, 255), "pixels have class 255; .*: .*a 0/255 mask"),
    "0/255, 0 unknown": (classes_of(2, dtype="uint8", unknown=[0]), mask(0, 255), "pixels have class 255; .*: .*a 0/255 mask"),
    "0/255 of three classes": (THREE_CLASSES, mask(0, 255), "a 0/255 mask"),
    "0/127/255": (THREE_CLASSES, mask(0, 127, 255), "0, 127, 255 look spread out for viewing"),
    "1-based": (
        THREE_CLASSES,
        mask(1, 2, 3),
        "ids look 1-based: they run up to 3 for 3 classes; set the encoding's offset to -1 and list 0",
    ),
    "1-based, 0 for unlabelled": (THREE_CLASSES, mask(0, 1, 2, 3), "ids look 1-based"),
    "1-based, 255 for unlabelled": (THREE_CLASSES, mask(1, 2, 3, 255), "ids look 1-based: they run up to 3 for 3 classes; [^;]*$"),
    "1-based, 255 for unlabelled and not listed": (
        classes_of(3, dtype="uint8"),
        mask(1, 2, 3, 255),
        "ids look 1-based: they run up to 3 for 3 classes; .*; 255 looks like the value for pixels without a class",
    ),
    "1-based, more than 100 classes": (
        classes_of(150, dtype="uint8", unknown=[0]),
        np.resize(np.arange(151, dtype=np.uint8), SIZE),
        "ids look 1-based: they run up to 150 for 150 classes",
    ),
    "255 for unlabelled and not listed": (
        classes_of(3, dtype="uint8"),
        mask(0, 1, 2, 255),
        "pixels have class 255; .*: 255 looks like the value for pixels without a class: list it under unknown",
    ),
    "1-based, the last class not among them": (THREE_CLASSES, mask(1, 2), "class 0 never occurs and all others do: ids look 1-based"),
    "a class without a name": (
        classes_of(2, dtype="uint8", offset=-1, unknown=[0]),
        mask(0, 1, 2, 3),
        "stored 3 is class 2, but class_names lists 2 classes, from 0: add the missing one$",
    ),
    "0-based, most of it read as unknown": (
        classes_of(3, dtype="uint8", offset=-1, unknown=[0]),
        mask(0, 0, 0, 0, 0, 1, 2),
        "look 0-based, but 0 is read as unknown and 1 as the first class: give encoding",
    ),
    "0/255 of an entry that starts at 1": (
        classes_of(2, dtype="uint8", offset=-1, unknown=[0, 255]),
        mask(0, 255),
        r"give encoding: \{dtype: uint8, scale: 0.00392156862745098\} \(1/255\)",
    ),
    "0/255 beside a listed void": (
        classes_of(2, dtype="uint8", unknown=[128]),
        mask(0, 128, 255),
        r"apart from the unknown 128, only 0 and 255, .* give encoding: \{dtype: uint8, scale: 0.00392156862745098, unknown: \[128\]\}",
    ),
    "65535 for unlabelled and not listed": (
        classes_of(3, dtype="uint16"),
        np.resize(np.array([0, 1, 2, 65535], np.uint16), SIZE),
        "65535 looks like the value for pixels without a class: list it under unknown",
    ),
    "a channel that the file does not have": (
        classes_of(3, dtype="uint8", channels=[3]),
        np.stack([mask(0, 1, 2)] * 3, axis=-1),
        r"the stored map has 3 channels, but channels \[3\] are to be read from it",
    ),
    "interpolated": (
        TWO_CLASSES,
        np.resize(np.arange(200, dtype=np.uint8), SIZE),
        "200 different ids look like the result of JPEG or interpolation",
    ),
    "colour-coded": (THREE_CLASSES, COLOURS[mask(0, 1, 2)], "a colour-coded mask of 3 colours; store one class id per pixel"),
    "colour-coded, one channel read": (
        classes_of(129, dtype="uint8", channels=[0]),
        COLOURS[mask(0, 1, 2)],
        "a colour-coded mask of 3 colours",
    ),
    "grey as RGB": (THREE_CLASSES, np.stack([mask(0, 1, 2)] * 3, axis=-1), r"a grey mask is stored as RGB; store one channel, or .* \[0\]"),
}


@pytest.mark.parametrize("name", CLASS_MISTAKES)
def test_common_mistakes_in_class_maps_are_named(tmp_path, name):
    entry, stored, sentence = CLASS_MISTAKES[name]
    findings = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "things": stored}] * 3, {"things": entry}))
    (found,) = findings.tasks["things"].problems
    assert re.search(sentence, found), found
    assert str(findings).endswith("1 thing looks wrong")


def test_a_class_0_that_is_stored_as_unknown_is_not_missed(tmp_path):
    entry = classes_of(3, dtype="uint8", unknown=[0])
    assert check(write(tmp_path / "set", [{"image": sound_maps()["image"], "things": mask(0, 1, 2)}] * 3, {"things": entry})).is_right


def test_the_advice_for_0_255_masks_corrects_them(tmp_path):
    entry = classes_of(2, dtype="uint8", scale=0.00392156862745098)
    findings = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "things": mask(0, 0, 0, 255)}], {"things": entry}))
    assert findings.is_right
    assert "things: thing0 75.0%, thing1 25.0%" in str(findings)


def test_the_advice_for_grey_masks_of_three_channels_corrects_them(tmp_path):
    entry, grey = classes_of(3, dtype="uint8", channels=[0]), mask(0, 1, 2)
    for name, channels in (("three", [grey] * 3), ("with alpha", [grey] * 3 + [np.full_like(grey, 255)])):
        rows = [{"image": sound_maps()["image"], "things": np.stack(channels, axis=-1)}] * 3
        assert check(write(tmp_path / name, rows, {"things": entry})).is_right


def test_the_advice_for_a_void_of_16_bits_and_beside_a_void_corrects_them(tmp_path):
    stored = np.resize(np.array([0, 1, 2, 65535], np.uint16), SIZE)
    for number, (entry, ids) in enumerate(
        [
            (classes_of(3, dtype="uint16", unknown=[65535]), stored),
            (classes_of(2, dtype="uint8", scale=0.00392156862745098, unknown=[128]), mask(0, 128, 255)),
        ]
    ):
        rows = [{"image": sound_maps()["image"], "things": ids}] * 3
        assert check(write(tmp_path / str(number), rows, {"things": entry})).is_right


def test_a_mask_with_an_opacity_has_one_problem_which_its_opacity_does_not_hide(tmp_path):
    """255 is its opacity, and not a class."""
    buffer = io.BytesIO()
    Image.merge("LA", [Image.fromarray(each) for each in (mask(0, 1, 2), np.full(SIZE, 255, np.uint8))]).save(buffer, "PNG")
    rows = [{"image": sound_maps()["image"], "things": buffer.getvalue()}] * 3
    (found,) = check(write(tmp_path / "set", rows, {"things": THREE_CLASSES})).tasks["things"].problems
    assert found == "the stored map has 2 channels, the task has 1; see `encoding.channels`"


@pytest.mark.parametrize("shape", [(1, *SIZE), (*SIZE, 1)])
def test_the_mistake_of_a_mask_in_an_array_with_one_channel_is_explained(shape):
    rows = [{"image": {"bytes": png_of(sound_maps()["image"]), "path": None}, "things": mask(0, 255).reshape(shape)}] * 3
    features = Features({"image": ImageFeature(), "things": Array3D(shape, "uint8")})
    (found,) = check_rows({"train": Dataset.from_list(rows, features=features)}, [TWO_CLASSES]).tasks["things"].problems
    assert "a 0/255 mask whose foreground is not read as class 1" in found


def test_class_ids_in_a_jpeg_are_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(buffer, "JPEG")
    findings = check(write(tmp_path / "set", [{"image": sound_maps()["image"], "things": buffer.getvalue()}], {"things": TWO_CLASSES}))
    assert list(findings.tasks["things"].problems) == ["class ids stored as JPEG, whose compression changes them; use PNG"]


def test_classes_that_do_not_occur_and_maps_that_are_mostly_unknown_are_noted(tmp_path):
    classes = mask(0, 1, 255, 255, 255, 255, 255, 255)
    entry = classes_of(4, dtype="uint8", unknown=[255])
    printed = str(check(write(tmp_path / "set", [{"image": sound_maps()["image"], "things": classes}], {"things": entry})))
    assert "note: things: 75.0% of the pixels of its maps are unknown" in printed
    assert "note: things: 2 of 4 classes do not occur: thing2, thing3" in printed
    assert "all looks right" in printed


def test_maps_of_a_single_class_are_named(tmp_path):
    rows = [{"image": sound_maps()["image"], "things": mask(1, 1)}] * 3
    (found,) = check(write(tmp_path / "set", rows, {"things": classes_of(2)})).tasks["things"].problems
    assert found == "only class 1 occurs, so nothing can be learnt; read more rows with --samples, or check the encoding"
    assert check(write(tmp_path / "few", rows[:2], {"things": classes_of(2)})).is_right, "too few maps for a judgement"


ZERO_BASED = "stored ids run from 0 to 2 for 3 classes, so they look 0-based, but 0 is read as unknown and 1 as the first class"


def without_encoding(*names):
    return {"name": "segmentation", "class_names": [*names]}  # read with classes from 1, as Taskonomy stores them


@pytest.mark.parametrize(
    ("stored", "advice"),
    [
        (mask(0, 1, 2), r"encoding: {dtype: uint8}; if 0 does mean unknown and 'c' is only rare, give encoding: {.*unknown: \[0\]}$"),
        (mask(0, 2), r"encoding: {dtype: uint8};"),
        (mask(0, 1, 2, 255), r"encoding: {dtype: uint8, unknown: \[255\]}; .*{dtype: uint8, offset: -1, unknown: \[0, 255\]}$"),
    ],
)
def test_ids_from_0_of_an_entry_without_encoding_are_named(tmp_path, stored, advice):
    rows = [{"image": sound_maps()["image"], "segmentation": stored}] * 3
    (found,) = check(write(tmp_path / "set", rows, {"segmentation": without_encoding("a", "b", "c")})).tasks["segmentation"].problems
    assert ZERO_BASED in found
    assert re.search(advice, found), found


def test_the_advice_for_ids_from_0_corrects_them(tmp_path):
    entry = {**without_encoding("a", "b", "c"), "encoding": {"dtype": "uint8", "unknown": [255]}}
    rows = [{"image": sound_maps()["image"], "segmentation": mask(0, 1, 2, 255)}] * 3
    assert check(write(tmp_path / "set", rows, {"segmentation": entry})).is_right


def test_ids_from_0_of_an_entry_that_reads_0_as_unknown_are_only_mentioned(tmp_path):
    """Where the last class is rare, such ids are right."""
    entry = {**without_encoding("a", "b", "c"), "encoding": {"dtype": "uint8", "offset": -1, "unknown": [0]}}
    rows = [{"image": sound_maps()["image"], "segmentation": mask(0, 1, 2)}] * 3
    found = check(write(tmp_path / "set", rows, {"segmentation": entry}))
    assert found.is_right
    (note,) = (note for note in found.doubts if ZERO_BASED in note)
    assert note.endswith("'c' is only rare, keep the encoding")
    assert str(found).endswith("nothing looks wrong, but see the first note")


@pytest.mark.parametrize("stored", [mask(1, 2, 3), mask(0, 1, 2, 3)], ids=["all classes", "with unknown pixels"])
def test_ids_from_1_of_an_entry_without_encoding_are_right(tmp_path, stored):
    rows = [{"image": sound_maps()["image"], "segmentation": stored}] * 3
    found = check(write(tmp_path / "set", rows, {"segmentation": without_encoding("a", "b", "c")}))
    assert found.is_right
    assert not any("0-based" in note for note in found.doubts)
