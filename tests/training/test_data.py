"""Proves that training says what looks wrong in its data before the first step."""

import numpy as np
import pytest
import yaml

from mult_hf.training.arguments import DataArguments, ModelArguments
from mult_hf.training.data import load_data
from mult_hf.training.initialization import build_model
from support.checked_data import sound_maps, write
from support.training_runs import train

ROWS = 4


def inverted(maps):
    """Depth that falls where it should grow."""
    depth = maps["depth"].astype(int)
    return {**maps, "depth": np.where(depth > 0, depth.max() + 300 - depth, 0).astype(np.uint16)}


def with_y_down(maps):
    normals = maps["normals"].copy()
    normals[..., 1] = 254 - normals[..., 1]
    return {**maps, "normals": normals}


def with_masks_of_0_and_255(maps):
    return {**maps, "segmentation": np.where(maps["segmentation"] == 2, 255, 0).astype(np.uint8)}


def load(directory, **settings):
    return load_data(DataArguments(dataset=str(directory), **{"validation_split": "train", **settings}))


def made(directory, change=lambda maps: maps):
    return write(directory, [change(sound_maps(seed)) for seed in range(ROWS)])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("change", "task", "words"),
    [
        (inverted, "depth", "inverted depth"),
        (with_y_down, "normals", "floors point down"),
        (with_masks_of_0_and_255, "segmentation", "0 and 255"),
    ],
)
def test_what_the_checker_calls_wrong_is_printed_before_training(tmp_path, capsys, change, task, words, streaming):
    directory = made(tmp_path / "set", change)
    load(directory, streaming=streaming)
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{directory}, train, looks wrong: {task}: ")]
    assert len(found) == 1
    assert words in found[0]


def test_the_checker_is_named_where_something_looks_wrong(tmp_path, capsys):
    directory = made(tmp_path / "set", inverted)
    load(directory)
    assert capsys.readouterr().out.endswith(f"`mult-hf check {directory} --sheet sheet.png` reads more rows, and draws them\n")


def test_what_looks_wrong_is_repeated_below_the_results(tmp_path, capsys):
    directory = made(tmp_path / "set", inverted)
    train(tmp_path / "run", "--dataset", directory, "--validation_split", "train", "--tasks", "depth", "--image_size", 32)
    results, repeated = capsys.readouterr().out.split("check the data before you trust these results: ")
    assert "| constant baseline" in results
    assert repeated.startswith(f"{directory}, train, looks wrong: depth: ")


def test_nothing_is_printed_about_sound_data(tmp_path, capsys):
    load(made(tmp_path / "set"))
    assert capsys.readouterr().out == ""


def test_tasks_that_are_not_trained_are_not_checked(tmp_path, capsys):
    load(made(tmp_path / "set", inverted), tasks=["segmentation", "edges2d"])
    assert capsys.readouterr().out == ""


def test_validation_rows_are_checked_too(tmp_path, capsys):
    directory = write(tmp_path / "set", [sound_maps(seed) for seed in range(ROWS)] + [inverted(sound_maps(seed)) for seed in range(ROWS)])
    load(directory, train_split=f"train[:{ROWS}]", validation_split=f"train[{ROWS}:]")
    assert f"{directory}, train[{ROWS}:], looks wrong: depth: " in capsys.readouterr().out


def test_every_data_set_of_a_mixture_is_checked(tmp_path, capsys):
    sound, wrong = made(tmp_path / "sound"), made(tmp_path / "wrong", with_y_down)
    load(sound, mix_with=[str(wrong)])
    assert f"{wrong}, train, looks wrong: normals: " in capsys.readouterr().out


def unlist(directory, task):
    """Remove a task's entry from a card; its column stays."""
    card = directory / "README.md"
    header = yaml.safe_load(card.read_text().split("---")[1])
    header["mult_tasks"] = [entry for entry in header["mult_tasks"] if task not in (entry, dict(entry).get("name"))]
    card.write_text(f"---\n{yaml.safe_dump(header)}---\n")
    return directory


@pytest.mark.parametrize("unlisted_first", [False, True])
def test_a_column_without_an_entry_is_not_read_with_the_encoding_of_another_data_set(tmp_path, capsys, unlisted_first):
    listed, unlisted = made(tmp_path / "listed"), unlist(made(tmp_path / "unlisted"), "depth")
    first, second = (unlisted, listed) if unlisted_first else (listed, unlisted)
    data = load(first, mix_with=[str(second)])
    assert "depth" in data.specs
    for row in data.training_rows:
        assert (row["depth"] is None) == (row["source"] == str(unlisted))
    assert ("depth" in data.validation_rows.column_names) == ("depth" in data.baseline_rows.column_names) == (not unlisted_first)
    assert f"{unlisted}: not used, because mult_tasks in its card has no entry: depth; add one" in capsys.readouterr().out


def test_a_mixture_says_how_many_rows_a_pass_draws_of_each_set(tmp_path, capsys):
    """Its length is not that of the data: it draws until each row was drawn, and so some rows repeatedly."""
    first, second = made(tmp_path / "first"), made(tmp_path / "second")
    mixed = load(first, mix_with=[str(second)], mix_weights=[1.0, 9.0]).training_rows
    of_second = len(mixed.filter(lambda row: row["source"] == str(second)))
    assert len(mixed) > 2 * ROWS
    counts = f"{len(mixed) - of_second} of {first} ({ROWS} rows), {of_second} of {second} ({ROWS} rows)"
    assert f"one pass draws {len(mixed)} training images: {counts}; --mix_weights sets the shares" in capsys.readouterr().out


def test_other_processes_of_a_run_print_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    load(made(tmp_path / "set", inverted))
    assert capsys.readouterr().out == ""


def test_notes_that_only_a_person_can_judge_are_printed_once(tmp_path, capsys):
    """The entry reads ids from 1, and the stored ones may start at 0."""
    maps = [{**sound_maps(seed), "segmentation": (sound_maps(seed)["segmentation"] == 1).astype(np.uint8)} for seed in range(ROWS)]
    load(write(tmp_path / "set", maps), train_split="train[:2]", validation_split="train[2:]")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "look 0-based" in line]
    assert line.startswith(f"{tmp_path / 'set'}: note: segmentation: ")


def test_a_note_on_class_ids_that_another_split_refutes_is_not_printed(tmp_path, capsys):
    """The last class is rare: it occurs in the second split only."""
    maps = [{**sound_maps(seed), "segmentation": (sound_maps(seed)["segmentation"] == 1).astype(np.uint8)} for seed in range(ROWS)]
    maps[-1]["segmentation"][:4] = 2
    load(write(tmp_path / "set", maps), train_split="train[:2]", validation_split="train[2:]")
    assert "look 0-based" not in capsys.readouterr().out


@pytest.mark.parametrize("of_validation", [255, 0], ids=["unmarked border", "nothing known"])
def test_a_note_on_class_ids_is_printed_though_255_is_in_one_split_only_or_another_split_knows_no_class(tmp_path, capsys, of_validation):
    maps = [{**sound_maps(seed), "segmentation": (sound_maps(seed)["segmentation"] == 1).astype(np.uint8)} for seed in range(ROWS)]
    for each in maps[2:]:
        border = slice(None) if of_validation == 0 else slice(0, 2)
        each["segmentation"][border] = of_validation
    load(write(tmp_path / "set", maps), train_split="train[:2]", validation_split="train[2:]")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "look 0-based" in line]
    assert line.startswith(f"{tmp_path / 'set'}: note: segmentation: ")


def test_a_note_that_is_not_about_a_task_is_printed(tmp_path, capsys):
    rows = [{("edgemap2d" if name == "edges2d" else name): each for name, each in sound_maps(seed).items()} for seed in range(ROWS)]
    load(write(tmp_path / "set", rows), train_split="train[:2]", validation_split="train[2:]")
    assert "note: no column edges2d, and no task edgemap2d: if they are meant to be the same" in capsys.readouterr().out


def test_a_mistake_of_both_splits_is_one_line(tmp_path, capsys):
    rows = [{**sound_maps(seed), "depth": sound_maps(seed)["depth"] * (seed + 11)} for seed in range(ROWS)]  # other numbers in each row
    load(write(tmp_path / "set", rows), train_split="train[:2]", validation_split="train[2:]")
    lines = [line for line in capsys.readouterr().out.splitlines() if "looks wrong: depth: a median of" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{tmp_path / 'set'}, train[:2] and train[2:], looks wrong")


def test_a_task_without_a_column_is_left_out_of_a_new_model(tmp_path, capsys):
    rows = [{column: cells for column, cells in sound_maps(seed).items() if column != "depth"} for seed in range(ROWS)]
    directory = write(tmp_path / "set", rows)
    data = load(directory)
    small = ModelArguments(embed_dim=8, depths=[1, 1], window_size=4)
    model = build_model(small, data.specs, 32, data.unlabelled)
    assert model.task_names == ["segmentation", "normals", "edges2d"]
    assert "the training data has no column depth: left out of the model" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--tasks has \['depth'\], of which the training data has no column"):
        load(directory, tasks=["depth", "normals"])
    arguments = DataArguments(dataset=str(directory), validation_split="train")
    assert load_data(arguments, computed=["depth"]).unlabelled == [], "its targets come from each view"


@pytest.mark.parametrize("own", ["depth", "edges2d"])
def test_a_trained_model_keeps_its_decoders_and_gets_none_without_labels(tmp_path, own):
    rows = [{column: cells for column, cells in sound_maps(seed).items() if column != "depth"} for seed in range(ROWS)]
    data = load(write(tmp_path / "set", rows))
    small = ModelArguments(embed_dim=8, depths=[1, 1], window_size=4)
    build_model(small, {own: data.specs[own]}, 32).save_pretrained(tmp_path / "trained")
    found = build_model(ModelArguments(model=str(tmp_path / "trained")), data.specs, 32, data.unlabelled)
    assert ("depth" in found.task_names) == (own == "depth")
    assert {"segmentation", "normals", "edges2d"} <= {*found.task_names}


def test_tasks_whose_names_differ_in_numbers_only_are_each_named(tmp_path, capsys):
    def classes(name):
        return {"name": name, "kind": "classification", "channels": 2, "encoding": {"dtype": "uint8"}}

    rows = [
        {"image": maps["image"], "parts1": maps["segmentation"] + 3, "parts2": maps["segmentation"] + 3}
        for maps in map(sound_maps, range(4))
    ]
    directory = write(tmp_path / "set", rows, {name: classes(name) for name in ("parts1", "parts2")})
    load(directory)
    printed = capsys.readouterr().out
    assert all(f"looks wrong: {name}: " in printed for name in ("parts1", "parts2"))
