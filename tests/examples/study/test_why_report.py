"""Tables of the attention maps follow from their records."""

import json

import pytest

from examples.study import why_report
from examples.study.why_report import OWN, SHARED, changes, distance_table, ordered, read_why, replacement_table


def record(rows, seeds, tasks, distance, stage=3):
    return {"stage": stage, "rows": list(rows), "seeds": list(seeds), "tasks": list(tasks), "distance": distance}


def cells(table, name):
    line = next(line for line in table.splitlines() if line.split("|")[1].strip() == name)
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_shared_map_comes_first_whatever_the_order_of_the_plan():
    found = ordered(record((OWN, SHARED), (1, 1), ("depth", "normals"), 0.5))
    assert (found["rows"], found["tasks"]) == ([SHARED, OWN], ["normals", "depth"])
    assert ordered(found) == found


def test_distances_are_averaged_within_a_seed_and_spread_over_seeds():
    pairs = [((0, 0), "depth", 0.1), ((0, 0), "edges2d", 0.3), ((1, 1), "depth", 0.4), ((1, 1), "edges2d", 0.4), ((0, 0), "normals", 0.9)]
    records = [record((SHARED, OWN), seeds, ("normals", task), distance) for seeds, task, distance in pairs]
    table = distance_table(records)
    assert cells(table, "shared map, own maps of the other tasks") == ["", "", "", "0.300 ± 0.141"]
    assert cells(table, "shared map, own map of the same task (normals)")[-1] == "0.900"
    assert "uniform" not in table, "rows without records are left out"


def test_files_that_repeat_a_pair_count_it_once(tmp_path):
    pair, entry = record((SHARED, SHARED), (0, 1), ("normals", "normals"), 0.2), {"row": SHARED, "seed": 0, "values": {}}
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"distances": [pair], "metrics": [entry]}))
    assert read_why(tmp_path) == {"distances": [pair], "metrics": [entry]}


def entry(row, seed, depth, iou):
    trained = {"depth/rmse": 1.0, "segmentation/mean_iou": 0.5}
    uniform = {"depth/rmse": depth, "segmentation/mean_iou": iou}
    return {"row": row, "seed": seed, "values": {"as trained": trained, "maps: uniform": uniform}}


def test_a_change_is_negative_where_the_task_gets_worse():
    assert changes(entry(SHARED, 0, 1.2, 0.4), "maps: uniform") == pytest.approx({"depth": -20.0, "segmentation": -20.0})


def test_changes_are_averaged_over_seeds_and_tasks():
    table = replacement_table([entry(SHARED, 0, 1.2, 0.4), entry(SHARED, 1, 1.0, 0.5)])
    found = cells(table, SHARED)
    assert found[0] == "uniform"
    assert found[-1] == "-10.0 ± 14.1"
    assert "-10.0 ± 14.1" in found[1:-1]


def test_corrupted_images_and_replaced_maps_are_in_tables_of_their_own():
    both = entry(SHARED, 0, 1.2, 0.4)
    both["values"]["noise 0.1"] = both["values"]["maps: uniform"]
    assert "noise" not in replacement_table([both])
    assert "uniform" not in why_report.corruption_table([both])


def test_the_plot_is_drawn_from_networks_with_own_maps(tmp_path):
    makers = ["depth", "segmentation"]
    worse = dict.fromkeys(["depth/mae", "segmentation/mae"], 2.0)
    values = {"as trained": dict.fromkeys(worse, 1.0), **{f"maps: all {task}": worse for task in makers}}
    records = [record(("own maps", "own maps"), (0, 0), makers, 0.1 * stage, stage) for stage in range(4)]
    why = {"distances": records, "metrics": [{"row": "own maps", "seed": 0, "values": values}]}
    why_report.plot_maps(why, tmp_path / "maps.png")
    assert (tmp_path / "maps.png").stat().st_size > 10_000
