"""With few labels, each training view keeps the map of one task, and both kinds of network learn from the same maps."""

import json
import shutil

import pytest
from datasets import Image
from huggingface_hub import DatasetCard, DatasetCardData

from examples.study import few_labels_report, train_stacks
from examples.study.few_labels import few_labels, main
from examples.study.report import HERE, read_rows, with_part
from mult_hf.data.schema import load_rows, load_task_entries
from support.studies import write_plan
from support.tables import unpadded


def encoded(rows, tasks):
    """The bytes of the maps, None where there is none."""
    for column in tasks:
        rows = rows.cast_column(column, Image(decode=False))
    return [{task: row[task] and row[task]["bytes"] for task in tasks} for row in rows]


@pytest.fixture(scope="module")
def three_tasks(small_rooms, tmp_path_factory):
    """Four rooms with three tasks."""
    directory = tmp_path_factory.mktemp("few") / "rooms"
    shutil.copytree(small_rooms, directory)
    DatasetCard(f"---\n{DatasetCardData(mult_tasks=load_task_entries(small_rooms)[:3]).to_yaml()}\n---\n").save(directory / "README.md")
    return directory


@pytest.fixture(scope="module")
def made(three_tasks):
    """The same with few labels, and the names of its tasks."""
    directory = three_tasks.parent / "labels"
    main([str(three_tasks), str(directory)])
    return directory, [entry["name"] for entry in load_task_entries(directory)]


def test_every_training_view_has_the_unchanged_map_of_one_task(three_tasks, made):
    directory, tasks = made
    before, after = load_rows(three_tasks, split="train"), load_rows(directory, split="train")
    assert len(after) == len(before)
    whole = {(row["room"], row["view"]): maps for row, maps in zip(before, encoded(before, tasks), strict=True)}
    task_of = {}
    for row, maps in zip(after, encoded(after, tasks), strict=True):
        ((task, contents),) = ((task, contents) for task, contents in maps.items() if contents is not None)
        assert contents == whole[row["room"], row["view"]][task]
        task_of.setdefault(row["room"], set()).add(task)
    assert [*task_of.values()] == [{tasks[0]}, {tasks[0]}, {tasks[1]}, {tasks[2]}], "four rooms in turn, in the order of their tasks"


def test_single_task_networks_get_the_views_with_their_labels(made):
    directory, tasks = made
    splits = load_rows(directory)
    for task in tasks:
        rows = splits[f"train_{task}"]
        assert len(rows) == (4 if task == tasks[0] else 2)
        assert all(maps[task] is not None for maps in encoded(rows, tasks))
    assert [*splits["train"]["room"]] == [room for task in tasks for room in splits[f"train_{task}"]["room"]]


def test_the_small_split_has_all_labels_and_the_other_splits_stay(three_tasks, made):
    directory, tasks = made
    splits = load_rows(directory)
    assert all(None not in maps.values() for maps in encoded(splits["train_few"], tasks))
    assert [*splits["train_few"]["room"]] == [*splits[f"train_{tasks[0]}"]["room"]]
    for split, rows in load_rows(three_tasks).items():
        assert split == "train" or encoded(splits[split], tasks) == encoded(rows, tasks)


def test_a_directory_with_files_is_refused(three_tasks, made):
    with pytest.raises(ValueError, match="is not empty; choose another directory"):
        main([str(three_tasks), str(made[0])])


def test_fewer_rooms_than_tasks_are_refused(small_rooms, tmp_path):
    with pytest.raises(ValueError, match="4 training rooms for 6 tasks; each task needs one at least"):
        main([str(small_rooms), str(tmp_path / "labels")])
    assert not (tmp_path / "labels").exists()


def test_data_without_rooms_or_training_rows_are_refused(three_tasks):
    splits, tasks = load_rows(three_tasks), ["depth"]
    with pytest.raises(ValueError, match=r"has the splits \['test'\]; expected train"):
        few_labels({"test": splits["train"]}, tasks)
    with pytest.raises(ValueError, match=r"train has the columns \[.*\]; expected room, which says which views are of one room"):
        few_labels({"train": splits["train"].remove_columns("room")}, tasks)


def test_networks_of_one_plan_learn_from_their_own_rows(made, tmp_path):
    """The last two differ only in the rows that they see."""
    networks = {
        "together": {"block_attention": ["self", "encoder"]},
        "alone": {"alone": True, "tasks": ["depth"], "train_split": "train_{task}"},
        "other rows": {"alone": True, "tasks": ["depth"], "train_split": "train_few"},
    }
    plan = write_plan(tmp_path / "plan.yaml", made[0], networks, learning_rates=[1e-3], seeds=[0])
    assert train_stacks.main(["--plan", str(plan), "--output_dir", str(tmp_path / "out")]) == 0
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert found["alone-depth"]["flags"]["train_split"] == "train_depth"
    losses = {name: result["training_losses"]["depth"] for name, result in found.items() if "depth" in result["training_losses"]}
    assert losses["alone-depth"] != losses["other-rows-depth"]
    assert set(found["together"]["training_losses"]) == set(made[1])


def test_the_table_compares_both_networks_at_each_number_of_labels(study_results, tmp_path, monkeypatch):
    monkeypatch.setattr(few_labels_report, "SETTINGS", {"few": ("MulT with skip", "own maps with skip"), "none": ("no such row", "MulT")})
    monkeypatch.setattr(
        few_labels_report, "ACROSS", {("across", "better"): ("own maps with skip", "MulT with skip"), ("no", "row"): ("a", "b")}
    )
    page = tmp_path / "page.md"
    page.write_text("<!-- generated: few_labels -->\n<!-- end -->\n")
    out = str(study_results[0] / "out")
    few_labels_report.main(["--results", out, "--main_table", out, "--page", str(page)])
    lines = unpadded(page.read_text()).splitlines()[3:-1]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| few", "six tasks together"],
        ["| few", "one network per task"],
        ["| few", "together better by [%]"],
        ["| across", "better"],
    ]


def test_the_published_table_is_that_of_the_committed_results():
    page = (HERE.parents[1] / "docs/evidence-details.md").read_text()
    rows = {**read_rows(HERE / "results/main_table"), **read_rows(HERE / "results/few_labels")}
    assert with_part(page, "few_labels", few_labels_report.few_labels_table(rows)) == page
