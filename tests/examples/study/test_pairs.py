"""The tables of pairs and groups compare each task with its own network, at one learning rate and seed by seed."""

import json

import pytest

from examples.study.pairs import group_table, main, pair_table, read_networks
from examples.study.report import HERE, with_part
from support.tables import unpadded


def network(row, values, tasks=None, rate="0.004"):
    """A result with the given values of metrics, one per seed."""
    seeds = [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]
    return {"row": row, "flags": {"tasks": tasks or []}, "learning_rates": {rate: {"validation": seeds}}}


OTHERS = [
    network("single-task with skip", {"depth/rmse": [1.0, 2.0]}, ["depth"]),
    network("single-task with skip", {"segmentation/mean_iou": [0.5, 0.5]}, ["segmentation"]),
    network("single-task with skip", {"normals/mean_angle": [20.0, 20.0]}, ["normals"]),
    network("MulT with skip", {"depth/rmse": [0.9, 1.8], "segmentation/mean_iou": [0.6, 0.4], "normals/mean_angle": [22.0, 22.0]}),
]
PAIR = network("depth and segmentation", {"depth/rmse": [0.9, 1.6], "segmentation/mean_iou": [0.55, 0.6]}, ["depth", "segmentation"])


def test_differences_are_in_percent_of_the_single_task_network_with_the_same_seed():
    _, _, depth, segmentation, normals = unpadded(pair_table([PAIR], OTHERS)).splitlines()
    assert depth == "| depth | - | **+15.0 ± 7.1** | not run | **+10.0 ± 0.0** |", "lower is better"
    assert segmentation == "| segmentation | **+15.0 ± 7.1** | - | not run | +0.0 ± 28.3 |", "bold where seeds agree"
    assert normals == "| normals | not run | not run | - | **-10.0 ± 0.0** |"


def test_pairs_with_several_learning_rates_are_refused():
    with pytest.raises(ValueError, match=r"learning rates \['0.001', '0.004'\]; they are compared at one"):
        pair_table([PAIR, network("depth and normals", {"depth/rmse": [1.0, 1.0]}, ["depth", "normals"], rate="0.001")], OTHERS)


def test_groups_stand_smallest_first_and_lack_the_tasks_that_they_do_not_have():
    three = network("all three", {"depth/rmse": [1.0, 1.0], "segmentation/mean_iou": [0.5, 0.5], "normals/mean_angle": [18.0, 18.0]}, "abc")
    _, _, *lines = unpadded(group_table([three, PAIR], OTHERS)).splitlines()
    assert lines == [
        "| depth and segmentation | 2 | **+15.0 ± 7.1** | **+15.0 ± 7.1** | - |",
        "| all three | 3 | +25.0 ± 35.4 | +0.0 ± 0.0 | **+10.0 ± 0.0** |",
        "| all 3 | 3 | **+10.0 ± 0.0** | +0.0 ± 28.3 | **-10.0 ± 0.0** |",
    ]


def test_groups_with_several_learning_rates_are_refused():
    with pytest.raises(ValueError, match=r"learning rates \['0.001', '0.004'\]; they are compared at one"):
        group_table([PAIR, network("depth and normals", {"depth/rmse": [1.0, 1.0]}, ["depth", "normals"], rate="0.001")], OTHERS)


@pytest.mark.parametrize(("part", "table"), [("pairs", pair_table), ("groups", group_table)])
def test_the_published_tables_are_those_of_the_committed_results(part, table):
    page = (HERE.parents[1] / "docs/evidence-details.md").read_text()
    assert with_part(page, part, table(read_networks(HERE / "results" / part), read_networks(HERE / "results/main_table"))) == page


def test_the_tables_go_into_their_places_in_the_page(tmp_path):
    for directory, networks in {"pairs": [PAIR], "groups": [PAIR], "main": OTHERS}.items():
        (tmp_path / directory).mkdir()
        for number, each in enumerate(networks):
            (tmp_path / directory / f"{number}.json").write_text(json.dumps(each))
    (tmp_path / "main/seconds.json").write_text("{}")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: pairs -->\nold\n<!-- end -->\nbetween\n<!-- generated: groups -->\nold\n<!-- end -->\nafter\n")
    main(
        [
            *("--pairs", str(tmp_path / "pairs"), "--groups", str(tmp_path / "groups"), "--main_table", str(tmp_path / "main")),
            "--page",
            str(page),
        ]
    )
    before, between = page.read_text().split("|\n<!-- end -->\nbetween\n")
    assert before.startswith("before\n<!-- generated: pairs -->\n| task  ")
    assert between.startswith("<!-- generated: groups -->\n| tasks in one network ")
    assert between.endswith("|\n<!-- end -->\nafter\n")
    assert "old" not in page.read_text()
