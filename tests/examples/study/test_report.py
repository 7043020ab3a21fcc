"""The report follows from results: differences by hand, intervals by room, and the committed page."""

import re
from pathlib import Path

import numpy as np
import pytest

from examples.study import rates, report, rooms
from examples.study.differences import Difference, Measured, Row, difference, mean_difference
from examples.study.report import Study, generated, main, read_rows, with_parts

ROOT = Path(__file__).resolve().parents[3]
DRAWS = rooms.draw_rooms(20, 400)


def measured(metric, *seeds):
    """One seed per list of errors, one error per room."""
    field = {"mae": "absolute", "mean_angle": "angle"}[metric]
    return Measured(metric, [{"count": np.ones(20), field: np.array(errors, float)} for errors in seeds], DRAWS)


def errors(mean, spread=0.1, seed=0):
    return mean + spread * np.random.default_rng(seed).standard_normal(20)


def test_a_difference_is_in_percent_and_positive_where_it_is_better():
    found = difference(measured("mae", [0.9] * 20, [0.7] * 20), measured("mae", [1.0] * 20, [1.0] * 20))
    assert found.percent == pytest.approx(20.0)
    assert found.seeds == pytest.approx([10.0, 30.0])
    assert (found.low, found.high) == pytest.approx((20.0, 20.0)), "every room says the same"
    assert found.text == "**+20.0 [+20.0, +20.0] 2/2**"


def test_rooms_that_differ_make_the_interval_wide():
    same, others = errors(1.0), errors(0.97, 0.3, seed=1)
    found = difference(measured("mae", others, others), measured("mae", same, same))
    assert found.low < 0 < found.high
    assert not found.counts


def test_the_same_rooms_are_drawn_for_both():
    """A difference that every room shows is sure, however much the rooms differ from one another."""
    hard = errors(1.0, 0.5)
    found = difference(measured("mae", hard * 0.99), measured("mae", hard))
    assert (found.low, found.high) == pytest.approx((1.0, 1.0))
    assert found.counts


@pytest.mark.parametrize(
    ("low", "high", "seeds", "counts"),
    [(1, 3, [1, 2], True), (-1, 3, [1, 2], False), (1, 3, [-1, 5], False), (-3, -1, [-1, -2], True), (-3, -1, [1, -4], False)],
)
def test_a_difference_counts_where_rooms_and_seeds_agree(low, high, seeds, counts):
    assert Difference(2.0, low, high, np.array(seeds)).counts is counts


def test_the_gain_is_the_mean_over_the_tasks_that_both_have():
    one = {"depth": measured("mae", [0.9] * 20), "normals": measured("mean_angle", [30.0] * 20)}
    other = {"depth": measured("mae", [1.0] * 20), "normals": measured("mean_angle", [20.0] * 20), "edges2d": measured("mae", [1.0] * 20)}
    assert mean_difference(Row("a", [], one), Row("b", [], other)).percent == pytest.approx((10 - 50) / 2)


# --- from the results of a real, tiny study ---


@pytest.mark.slow
def test_every_result_is_in_the_tables(study_results, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "REFERENCE", "own maps with skip")
    directory, results = study_results
    rows = read_rows(directory / "out", resamples=50)
    parts = generated(Study(rows, {"MulT with skip": 0.25}))
    main_rows = {line.split(" | ")[0].strip("| "): re.sub(" +", " ", line) for line in parts["main"].splitlines()[2:]}
    assert list(main_rows) == ["MulT with skip", "own maps with skip", "single-task with skip, half the steps"]
    rmse = np.array([test["depth/rmse"] for test in results["mult-with-skip"]["test"]])
    assert f"{rmse.mean():.4f} ± {rmse.std(ddof=1):.4f}" in main_rows["MulT with skip"]
    assert f"{results['mult-with-skip']['parameters']:,}" in main_rows["MulT with skip"]
    assert main_rows["MulT with skip"].endswith("| 250 | cpu |")
    both = [results[f"single-task-with-skip-half-the-steps-{task}"]["parameters"] for task in ("depth", "segmentation")]
    assert f"{sum(both):,}" in main_rows["single-task with skip, half the steps"], "one row for all single-task networks"
    assert "MulT with skip over own maps with skip" in parts["comparisons"]
    assert "MTAN" not in parts["comparisons"], "rows without results are left out"
    chosen = results["mult-with-skip"]["chosen"]
    gains = results["mult-with-skip"]["learning_rates"][str(chosen)]["gains"]
    assert f"**{np.mean(gains):.1f}**" in parts["rates"]
    assert "16 trainings (48 optimizer steps) of 4 architectures on cpu; 2 seeds, 2 learning rates" in parts["facts"]


def test_a_row_that_was_trained_again_is_compared_with_its_first_training(study_results):
    rows = read_rows(study_results[0] / "out", resamples=50)
    first, second = rows["MulT with skip"], rows["own maps with skip"]  # stands for the second training
    table = generated(Study(rows, again={"MulT with skip": second}))["again"]
    cells = [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]]
    assert cells[:2] == ["MulT with skip", "cpu over cpu"]
    assert cells[2:-1] == [difference(second.tasks[task], first.tasks[task]).text for task in second.tasks]
    assert cells[-1] == mean_difference(second, first).text


def test_reference_tasks_are_compared_with_a_training_on_the_same_device(study_results):
    """Normals were trained on a GPU, where they are as good as depth, and again on a CPU, where they are 20 % better."""
    gpu, cpu = ([{"device": name}] for name in ("NVIDIA H200", "cpu"))
    rows = {
        report.OF_NORMALS: Row(report.OF_NORMALS, gpu, {"edges2d": measured("mae", [1.0] * 20, [1.0] * 20)}),
        "reference depth": Row("reference depth", cpu, {"edges2d": measured("mae", [1.0] * 20, [1.0] * 20)}),
    }
    again = {report.OF_NORMALS: Row(report.OF_NORMALS, cpu, {"edges2d": measured("mae", [0.8] * 20, [0.8] * 20)})}
    found = report.reference_table(rows, again).splitlines()[2]
    assert [cell.strip() for cell in found.split("|")[1:4]] == ["depth", "cpu, cpu", "**+20.0 [+20.0, +20.0] 2/2**"]
    assert "H200, cpu" in report.reference_table(rows, {}), "without a second training, the devices are stated"


def test_networks_in_another_domain_are_compared_by_the_number_of_its_views(study_results, tmp_path):
    """A network that is 10 % better frozen and 20 % better with 50 views; directories that do not exist are left out."""
    one, other = report.TRANSFERRED["sharing"]

    def rows(error):
        values = {one: measured("mae", [error] * 20, [error] * 20), other: measured("mae", [1.0] * 20, [1.0] * 20)}
        return {name: Row(name, [], {"edges2d": value}) for name, value in values.items()}

    found = generated(Study(read_rows(study_results[0] / "out"), transfers={"frozen": rows(0.9), "50": rows(0.8)}))
    assert [line.split("|")[-2].strip() for line in found["transferred"].splitlines()[2:]] == [
        "**+10.0 [+10.0, +10.0] 2/2**", "**+20.0 [+20.0, +20.0] 2/2**"
    ]  # fmt: skip
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found["transfer"].splitlines()[2:]]
    assert [line[:2] for line in table] == [
        ["Doom, none (frozen)", one], ["Doom, none (frozen)", other], ["Doom, 50", one], ["Doom, 50", other]
    ]  # fmt: skip
    assert [line[2].startswith("**") for line in table] == [True, False, True, False]
    assert report.read_transfers(tmp_path) == {}


def row_of(name, errors, rate=1e-3, **more):
    """A row of one network, with these errors of keypoints in each seed, on validation and on test."""
    validation = {str(rate): {"validation": [{"keypoints2d/mae": error} for error in errors]}}
    network = {"name": name, "chosen": rate, "device": "cpu", "learning_rates": validation, "steps": 800, **more}
    return Row(name, [network], {"keypoints2d": measured("mae", *([error] * 20 for error in errors))})


def test_rows_of_the_first_study_fill_what_the_wide_one_lacks_but_for_reference_tasks():
    rows, first = (
        {name: row_of(name, [1.0, 1.0], source=source) for name in names}
        for source, names in (("wide", ["MulT", "own maps"]), ("first", ["MulT", "no sharing", "reference depth"]))
    )
    shown = Study(rows, first=first).shown
    assert {name: row.networks[0]["source"] for name, row in shown.items()} == {"MulT": "wide", "own maps": "wide", "no sharing": "first"}
    assert list(shown) == [name for name in report.ORDER if name in shown], "in the order of the tables"


def cells_of(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_wide_study_is_compared_with_the_first_and_both_chosen_rates_are_named():
    """20 % less error with a rate that the first study did not have; a row without a first training is left out."""
    rows = {"MulT": row_of("MulT", [0.8, 0.8], rate=0.016), "own maps": row_of("own maps", [1.0, 1.0])}
    table = rates.wider_table(rows, {"MulT": row_of("MulT", [1.0, 1.0], rate=0.004)})
    assert [cells_of(line)[:3] for line in table.splitlines()[2:]] == [["MulT", "0.004 → 0.016", "**+20.0 [+20.0, +20.0] 2/2**"]]
    several = Row("alone", [{"chosen": rate} for rate in (0.004, 0.001, 0.002)], {})
    assert rates.chosen_rates(several) == "0.001 to 0.004"


def test_networks_are_compared_at_the_rates_that_both_have():
    """The first seed is better, the second worse by less; a rate of one network alone has an empty cell."""
    rows = {"MulT": row_of("MulT", [0.8, 1.1], rate=0.001), "own maps": row_of("own maps", [1.0, 1.0], rate=0.001)}
    rows["MulT"].networks[0]["learning_rates"]["0.002"] = {"validation": [{"keypoints2d/mae": 0.5}] * 2}
    header, _, line = rates.equal_rates_table(rows).splitlines()
    assert cells_of(header) == ["better by [%]", "0.001"]
    assert cells_of(line) == ["MulT over own maps", "+5.0 1/2"]
    rows["own maps"].networks[0]["learning_rates"]["0.002"] = {"validation": [{"keypoints2d/mae": 1.0, "depth/rmse": 9.0}] * 2}
    assert cells_of(rates.equal_rates_table(rows).splitlines()[2])[1:] == ["+5.0 1/2", "**+50.0 2/2**"], "mean over the tasks of both"


def test_a_network_that_diverged_has_no_difference():
    rows = {name: row_of(name, [1.0, 1.0]) for name in ("MulT", "own maps")}
    rows["MulT"].networks[0]["learning_rates"]["0.001"]["validation"][0]["keypoints2d/mae"] = None
    assert cells_of(rates.equal_rates_table(rows).splitlines()[2]) == ["MulT over own maps", "diverged"]


def test_six_tasks_and_one_are_compared_task_by_task_in_the_usual_order():
    named = {task: f"{rates.ALONE}, {task}" for task in ("keypoints2d", "depth")}
    alone = [{**row_of(name, [1.0, 1.0]).networks[0], "flags": {"tasks": [task]}} for task, name in named.items()]
    alone[1]["learning_rates"] = {"0.001": {"validation": [{"depth/rmse": 2.0}] * 2}}
    joint = row_of(rates.TOGETHER, [1.1, 1.2])
    for seed in joint.networks[0]["learning_rates"]["0.001"]["validation"]:
        seed["depth/rmse"] = 1.0
    lines = rates.equal_rates_table({rates.TOGETHER: joint, rates.ALONE: Row(rates.ALONE, alone, {})}).splitlines()[2:]
    assert [cells_of(line) for line in lines] == [
        [f"{rates.TOGETHER} over {rates.ALONE}, depth", "**+50.0 2/2**"],
        [f"{rates.TOGETHER} over {rates.ALONE}, keypoints2d", "**-15.0 2/2**"],
    ]


def test_longer_trainings_are_shown_beside_the_usual_ones():
    together, alone = report.LONGER
    rows = {together: row_of(together, [1.0, 1.0]), alone: row_of(alone, [0.5, 0.5])}
    longer = {together: row_of(together, [0.9, 0.9], steps=1600), alone: row_of(alone, [0.4, 0.4], steps=1600)}
    found = [cells_of(line) for line in report.longer_table(rows, longer).splitlines()[2:]]
    assert [line[:2] for line in found] == [
        ["800 steps", "six tasks together"],
        ["800 steps", "one network per task"],
        ["800 steps", "together better by [%]"],
        ["1,600 steps", "six tasks together"],
        ["1,600 steps", "one network per task"],
        ["1,600 steps", "together better by [%]"],
        ["1,600 steps, against 800 steps", "six tasks together, better by [%]"],
        ["1,600 steps, against 800 steps", "one network per task, better by [%]"],
    ]
    assert [found[line][-1][2:7] for line in (2, 5, 6, 7)] == ["-100.", "-125.", "+10.0", "+20.0"]
    half = {**longer, report.HALF: row_of(report.HALF, [2.0, 2.0], steps=400)}
    first = [cells_of(line) for line in report.longer_table(rows, half).splitlines()[2:5]]
    assert [line[:2] for line in first] == [
        ["800 steps together, 400 steps alone", name] for name in ("six tasks together", "one network per task", "together better by [%]")
    ]
    assert first[2][-1] == "**+50.0 [+50.0, +50.0] 2/2**"


def test_a_pretrained_encoder_is_shown_with_both_comparisons():
    together, alone = report.LONGER
    rows = {name: row_of(name, [error] * 2, steps=400) for name, error in ((together, 0.9), (alone, 1.0), (report.OWN_MAPS, 0.6))}
    new = {together: row_of(together, [1.8, 1.8])}
    found = [cells_of(line) for line in report.pretrained_table(rows, new).splitlines()[2:]]
    assert [line[:2] for line in found[2:]] == [
        ["400 steps", "together better by [%]"],
        ["400 steps", "a shared map better than own maps by [%]"],
        ["400 steps, against 800 of a new encoder", "six tasks together, better by [%]"],
    ]
    assert [line[-1][2:7] for line in found[2:]] == ["+10.0", "-50.0", "+50.0"]
    for row in rows.values():
        for network in row.networks:
            network.update(parameters=1, flops=1, device="cpu")
    titles, _, *lines = report.main_table(rows, {}, alone).splitlines()
    place = cells_of(titles).index(f"gain over {alone} [%]")
    gains = {cells_of(line)[0]: cells_of(line)[place] for line in lines}
    assert gains[alone] == "0"
    assert (gains[together][2:7], gains[report.OWN_MAPS][2:7]) == ("+10.0", "+40.0")


def test_pages_are_filled_and_plots_are_drawn(study_results, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESAMPLES", 50)
    pages = {tmp_path / "page.md": ("facts", "main"), tmp_path / "details.md": ("equal_rates", "comparisons", "rates")}
    for page, names in pages.items():
        page.write_text("Before.\n" + "".join(f"<!-- generated: {name} -->\nold\n<!-- end -->\n" for name in names) + "After.\n")
    argv = ["--results", str(study_results[0] / "out"), "--page", *map(str, pages), "--images", str(tmp_path)]
    main(argv)
    once = [page.read_text() for page in pages]
    assert once[0].startswith("Before.\n<!-- generated: facts -->\n16 trainings")
    assert once[1].startswith("Before.\n<!-- generated: equal_rates -->\n| better by [%] ")
    assert all(text.endswith("|\n<!-- end -->\nAfter.\n") for text in once)
    assert "old" not in "".join(once)
    main(argv[:-2])  # without the plots
    assert [page.read_text() for page in pages] == once
    assert {path.name for path in tmp_path.glob("*.png")} == {"evidence-comparisons.png", "evidence-losses.png"}


@pytest.mark.parametrize("marked", [["main"], ["main", "rates", "main"], ["main", "rates", "new"]])
def test_pages_that_do_not_have_each_part_once_are_refused(marked):
    pages = [f"<!-- generated: {name} -->\n<!-- end -->\n" for name in marked]
    with pytest.raises(ValueError, match=rf"the pages mark the parts {re.escape(str(marked))}; expected each of main, rates once"):
        with_parts(pages, {"main": "", "rates": ""})


def test_a_directory_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no results; train some with examples\.study\.train_stacks"):
        read_rows(tmp_path)


# --- the pages that are published ---


PAGES = [ROOT / "docs/evidence.md", ROOT / "docs/evidence-details.md"]
GENERATED = re.compile(r"<!-- generated: \w+ -->\n.*?<!-- end -->", re.DOTALL)
QUOTED = re.compile(r"([+-][\d.]+)(?: %)?\s(\[[^\]]+\])(?!\()(\s\d/\d)?|([+-][\d.]+ ± [\d.]+)")
"""A difference with its interval, and the number of seeds where it is given, or with its standard deviation; not a number before a link."""


INTERVAL = re.compile(r"\[([+-][\d.]+), ([+-][\d.]+)\]")


def intervals_apart(text):
    """A text without its intervals and bold type, which depends on them; and the ends of the intervals."""
    return INTERVAL.sub("[]", text.replace("*", "")), [float(end) for ends in INTERVAL.findall(text) for end in ends]


@pytest.mark.slow
def test_the_published_pages_show_what_follows_from_the_committed_results():
    pages = [page.read_text() for page in PAGES]
    results = report.HERE / "results"
    others = {name: results / name for name in report.FURTHER}
    again = with_parts(pages, generated(report.read_study(results / "wide_rates", results / "main_table", **others)))
    (text, ends), (expected_text, expected_ends) = intervals_apart("".join(pages)), intervals_apart("".join(again))
    assert text == expected_text
    assert ends == pytest.approx(expected_ends, abs=0.15), "another numpy may draw other rooms"


def test_every_difference_that_is_quoted_is_in_a_generated_table():
    """In the text and in the tables written by hand, of both pages."""
    pages = "\n".join(page.read_text() for page in PAGES)
    tables, by_hand = "\n".join(GENERATED.findall(pages)), GENERATED.sub("", pages)
    quoted = [f"{percent} {interval}{seeds}" if percent else spread for percent, interval, seeds, spread in QUOTED.findall(by_hand)]
    assert len(quoted) > 40, "premise"
    assert [quote for quote in quoted if quote not in tables] == []
