"""The table of pairs compares each task with its own network, at one learning rate and seed by seed."""

import json

import pytest

from examples.study.pairs import main, pair_table, read_networks
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


def test_the_published_table_is_that_of_the_committed_results():
    page = (HERE.parents[1] / "docs/evidence.md").read_text()
    table = pair_table(read_networks(HERE / "results/pairs"), read_networks(HERE / "results/main_table"))
    assert with_part(page, "pairs", table) == page


def test_the_table_goes_into_its_place_in_the_page(tmp_path):
    for directory, networks in {"pairs": [PAIR], "main": OTHERS}.items():
        (tmp_path / directory).mkdir()
        for number, each in enumerate(networks):
            (tmp_path / directory / f"{number}.json").write_text(json.dumps(each))
    (tmp_path / "main/seconds.json").write_text("{}")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: pairs -->\nold\n<!-- end -->\nafter\n")
    main(["--pairs", str(tmp_path / "pairs"), "--main_table", str(tmp_path / "main"), "--page", str(page)])
    assert page.read_text().startswith("before\n<!-- generated: pairs -->\n| task")
    assert page.read_text().endswith("|\n<!-- end -->\nafter\n")
    assert "old" not in page.read_text()
