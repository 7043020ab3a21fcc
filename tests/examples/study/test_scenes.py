"""Runs on varied rooms are measured on photographs once, and compared with the run in which everything varies, seed by seed."""

import json
from pathlib import Path

import pytest

from examples.study import scenes
from examples.study.report import HERE, with_part
from support.tables import unpadded


def measured(value, constant=0.5):
    """Every metric of one set with one value."""
    return {"office": dict.fromkeys(scenes.METRICS, value), "constant office": dict.fromkeys(scenes.METRICS, constant)}


RESULTS = {
    **{f"all-seed-{seed}": measured(value) for seed, value in enumerate([0.5, 0.6])},
    **{f"no-light-seed-{seed}": measured(value) for seed, value in enumerate([0.4, 0.5])},
    **{f"none-seed-{seed}": measured(value) for seed, value in enumerate([0.6, 0.5])},
    **{f"no-sensor-seed-{seed}": measured(value) for seed, value in enumerate([0.5, 0.5])},
}


def test_bold_runs_differ_from_all_on_one_side_with_every_seed():
    _, _, *rows = unpadded(scenes.scenes_table(RESULTS)).splitlines()
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| office", "constant baseline", "0.5"],
        ["| office", "all", "0.55 ± 0.071"],
        ["| office", "none", "0.55 ± 0.071"],
        ["| office", "no light", "**0.45 ± 0.071**"],
        ["| office", "no sensor", "0.5 ± 0"],
    ]


def test_seeds_are_compared_by_their_numbers():
    """Not by the order in which their measurements were written."""
    turned = dict(reversed(RESULTS.items()))
    assert scenes.scenes_table(turned) == scenes.scenes_table(RESULTS)


def test_finished_runs_are_measured_once(tmp_path, monkeypatch):
    for name, finished in {"all-seed-0": True, "all-seed-1": True, "none-seed-0": False}.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        if finished:
            (tmp_path / "runs" / name / "metrics.json").write_text("{}")
    calls = []

    def evaluate(argv):
        flags = dict(zip(argv[::2], argv[1::2], strict=True))
        calls.append(flags["--model"].rpartition("/")[2])
        output = Path(flags["--output_dir"]) / "office"
        output.mkdir()
        numbers = {"model": dict.fromkeys(scenes.METRICS, 0.25), "constant_baseline": dict.fromkeys(scenes.METRICS, 0.5)}
        (output / "results.json").write_text(json.dumps(numbers))

    monkeypatch.setattr(scenes, "evaluate", evaluate)
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"all-seed-0": measured(0.75)}))
    scenes.measure_all(tmp_path / "runs", tmp_path / "photos", results)
    assert calls == ["all-seed-1"]
    assert json.loads(results.read_text()) == {"all-seed-0": measured(0.75), "all-seed-1": measured(0.25)}


def test_runs_without_photographs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--runs and --photos belong together"):
        scenes.ScenesArguments(runs=tmp_path)


def test_the_published_table_is_that_of_the_committed_results():
    page = (HERE.parents[1] / "docs/results.md").read_text()
    assert with_part(page, "scenes", scenes.scenes_table(json.loads((HERE / "results/scenes.json").read_text()))) == page
