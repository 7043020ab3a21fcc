"""The study trains what its plan lists, chooses on validation, and tests what it chose."""

import json
import math
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from examples.study import rooms, train_stacks
from examples.study.networks import expand
from examples.study.train_stacks import Job, StudyArguments, best_rate, main, read_plan, train_stack, unfinished
from mult_hf.data.schema import load_rows
from support.studies import write_plan

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_every_network_has_one_result_with_all_rates_and_seeds(study_results):
    _, results = study_results
    alone = "single-task-with-skip-half-the-steps"
    assert set(results) == {"mult-with-skip", "own-maps-with-skip", f"{alone}-depth", f"{alone}-segmentation"}
    mult, depth = results["mult-with-skip"], results[f"{alone}-depth"]
    assert (mult["row"], mult["steps"], mult["networks"]) == ("MulT with skip", 4, 4)
    assert (depth["row"], depth["steps"]) == ("single-task with skip, half the steps", 2)
    assert depth["name"] == "single-task with skip, half the steps, depth"
    assert mult["parameters"] > depth["parameters"] > 10_000
    assert mult["flops"] > depth["flops"] > 100_000
    assert set(mult["learning_rates"]) == {"0.001", "0.004"}
    assert len(mult["learning_rates"]["0.001"]["gains"]) == len(mult["test"]) == len(mult["rooms"]) == 2


@pytest.mark.slow
def test_the_rate_with_the_best_validation_gain_is_tested(study_results):
    for result in study_results[1].values():
        means = {float(rate): sum(found["gains"]) / 2 for rate, found in result["learning_rates"].items()}
        assert result["chosen"] == max(means, key=means.get)


def test_test_metrics_follow_from_the_sums_per_room(study_results, small_rooms):
    assert sorted(set(load_rows(small_rooms, split="test")["room"])) == [0, 1, 2, 3], "premise"
    for test, sums in zip(study_results[1]["mult-with-skip"]["test"], study_results[1]["mult-with-skip"]["rooms"]):
        assert len(sums["depth"]["count"]) == 4
        for name, value in test.items():
            task, metric = name.split("/")
            assert rooms.value(metric, rooms.from_json(sums)[task]) == pytest.approx(value, rel=1e-6)


def test_losses_are_recorded_as_they_fall(study_results):
    losses = study_results[1]["mult-with-skip"]["training_losses"]
    assert len(losses["depth"]) == 4, "one point per step where there are fewer than ten"
    assert len(losses["depth"][0]) == 4, "one number per network"
    assert all(math.isfinite(value) for points in losses.values() for point in points for value in point)


def test_a_finished_network_is_not_trained_again(study_results, capsys, monkeypatch):
    directory, _ = study_results
    argv = ["--plan", str(directory / "plan.yaml"), "--output_dir", str(directory / "out")]
    monkeypatch.setattr(train_stacks, "executor", None)  # would fail if anything were left
    assert main(argv) == 0
    assert "every network of the plan has a result" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"mult-with-skip.json was made with .*the plan has .*rename the network, or remove that file"):
        main([*argv, "--max_steps", "8"])


def test_a_stack_that_time_does_not_suffice_for_is_given_up(small_rooms, tmp_path):
    plan = read_plan(write_plan(tmp_path / "plan.yaml", small_rooms, {"depth": {"tasks": ["depth"]}}), StudyArguments(plan=tmp_path))
    train_stacks.streams.create(tmp_path / "0", train_stacks.load_task_specs(small_rooms), 32, 8)
    threads = torch.get_num_threads()
    try:
        assert train_stack(Job(plan.networks[0], (1e-3,), (0,), tmp_path, deadline=time.time())) is None
    finally:
        torch.set_num_threads(threads)


@pytest.mark.nightly
@pytest.mark.slow
def test_stacks_in_several_processes_give_the_results_of_one(study_results, small_rooms, tmp_path):
    directory, alone = study_results
    argv = ["--plan", str(directory / "plan.yaml"), "--output_dir", str(tmp_path / "out"), "--jobs", "2", "--only", "MulT with skip"]
    assert main(argv) == 0
    found = json.loads((tmp_path / "out/mult-with-skip.json").read_text())
    assert found["chosen"] == alone["mult-with-skip"]["chosen"]
    for other, result in zip(alone["mult-with-skip"]["test"], found["test"]):
        assert result == pytest.approx(other, rel=1e-3)


def continue_study(study_results, dataset, output_dir, row, **flags):
    """Results of a row that starts from the weights that the study kept."""
    directory, _ = study_results
    blocks = {"block_attention": ["self+skip", "encoder+skip"]}
    plan = write_plan(output_dir.parent / f"{output_dir.name}.yaml", dataset, {row: {**blocks, **flags}})
    argv = ["--plan", plan, "--output_dir", output_dir, "--initial_weights", directory / "weights"]
    return lambda *more: train_stacks.main([str(word) for word in (*argv, *more)])


def test_a_frozen_network_has_the_metrics_of_its_training(study_results, small_rooms, tmp_path):
    """Also with fewer tasks than it was trained for. Weights are kept in half precision, hence the tolerance."""
    row = "MulT with skip"
    rate = study_results[1]["mult-with-skip"]["chosen"]
    run = continue_study(study_results, small_rooms, tmp_path / "frozen", row)
    assert run("--frozen", "--tasks", "depth", "normals", "--learning_rates", rate) == 0
    frozen, trained = json.loads((tmp_path / "frozen/mult-with-skip.json").read_text()), study_results[1]["mult-with-skip"]
    assert (frozen["steps"], frozen["start"]) == (0, "frozen")
    assert len(frozen["test"]) == 2
    for found, expected in zip(frozen["test"], trained["test"]):
        assert found == pytest.approx({name: expected[name] for name in ("depth/rmse", "normals/mean_angle")}, rel=5e-3)


@pytest.mark.slow
def test_training_from_kept_weights_starts_where_they_ended(study_results, small_rooms, tmp_path):
    random, kept = (tmp_path / name for name in ("random", "kept"))
    run = continue_study(study_results, small_rooms, kept, "MulT with skip")
    assert run("--train_split", "train[:2]", "--max_steps", 2) == 0
    plan = str(tmp_path / "kept.yaml")
    assert main(["--plan", plan, "--output_dir", str(random), "--train_split", "train[:2]", "--max_steps", "2"]) == 0
    first = {
        directory: json.loads((directory / "mult-with-skip.json").read_text())["training_losses"]["segmentation"][0]
        for directory in (random, kept)
    }
    assert all(after < before for after, before in zip(first[kept], first[random])), first


def test_frozen_and_trained_results_are_not_mixed(study_results, small_rooms, tmp_path):
    run = continue_study(study_results, small_rooms, tmp_path / "both", "MulT with skip")
    assert run("--frozen") == 0
    with pytest.raises(ValueError, match=r"mult-with-skip.json was made with .*'frozen'\), the plan has .*'continued'\)"):
        run()


def test_weights_of_another_architecture_are_refused(study_results, small_rooms, tmp_path, capsys):
    """Also where they have every weight that the network needs, and more: here the queries and keys of own maps."""
    blocks = {"block_attention": ["self+skip", "self+skip"]}
    plan = write_plan(tmp_path / "plan.yaml", small_rooms, {"no sharing with skip": blocks})
    kept = ["--keep_weights", str(tmp_path / "weights"), "--seeds", "0", "--max_steps", "1", "--learning_rates", "0.001"]
    assert main(["--plan", str(plan), "--output_dir", str(tmp_path / "out"), *kept]) == 0
    (tmp_path / "weights/no-sharing-with-skip").rename(tmp_path / "weights/mult-with-skip")
    plan = write_plan(tmp_path / "plan.yaml", small_rooms, {"MulT with skip": {"block_attention": ["self+skip", "encoder+skip"]}})
    flags = ["--initial_weights", str(tmp_path / "weights"), "--frozen", "--seeds", "0"]
    assert main(["--plan", str(plan), "--output_dir", str(tmp_path / "frozen"), *flags]) == 1
    assert "does not fit the network" in capsys.readouterr().err


def test_weights_that_do_not_fit_and_frozen_random_weights_are_refused(study_results, small_rooms, tmp_path, capsys):
    run = continue_study(study_results, small_rooms, tmp_path / "wider", "MulT with skip", embed_dim=12)
    assert run() == 1
    assert re.search(
        r"mult-with-skip/0.safetensors does not fit the network, for example in .*use the row, tasks and classes", capsys.readouterr().err
    )
    with pytest.raises(ValueError, match="--frozen is given without --initial_weights"):
        main(["--plan", str(tmp_path / "wider.yaml"), "--output_dir", str(tmp_path / "x"), "--frozen"])


def test_a_rate_with_a_diverged_seed_is_not_chosen():
    assert best_rate({1e-3: [1.0, 2.0], 4e-3: [9.0, math.nan]}) == 1e-3
    with pytest.raises(FloatingPointError, match="not finite with any learning rate"):
        best_rate({1e-3: [math.nan]})


def test_a_row_of_single_tasks_is_one_network_per_task(small_rooms):
    networks = expand("alone", {"dataset": str(small_rooms), "max_steps": 9, "alone": True, "steps": 0.5})
    assert [network.name for network in networks][:2] == ["alone, segmentation", "alone, depth"]
    assert len(networks) == 6
    assert networks[0].flags == {"dataset": str(small_rooms), "max_steps": 4, "tasks": ["segmentation"]}


def test_networks_for_one_task_may_each_have_their_own_learning_rates(small_rooms):
    """As YAML reads them, in which 2e-3 is text."""
    rates = {"depth": ["2e-3", 0.1], "normals": [0.5]}
    flags = {"dataset": str(small_rooms), "max_steps": 9, "alone": True, "tasks": ["depth", "normals"], "learning_rates": rates}
    assert [network.learning_rates for network in expand("alone", flags)] == [[2e-3, 0.1], [0.5]]
    with pytest.raises(ValueError, match=r"row 'alone' has learning rates for \['depth', 'normals'\]; expected edges2d, too"):
        expand("alone", {**flags, "tasks": ["depth", "normals", "edges2d"]})
    with pytest.raises(ValueError, match="row 'six' has learning rates by task, which only a row with alone: yes may have"):
        expand("six", {**flags, "alone": False})


def test_images_are_normalised_as_the_pretrained_encoder_wants_them(small_rooms, tmp_path):
    timm = pytest.importorskip("timm")
    timm.models.save_for_hf(timm.create_model("tf_efficientnet_lite0"), str(tmp_path / "lite0"), safe_serialization=True)
    path = ROOT / "examples/study/ablations/pretrained.yaml"
    network = read_plan(path, StudyArguments(plan=path, dataset=str(small_rooms))).networks[0]
    flags = replace(network, flags={**network.flags, "backbone": str(tmp_path / "lite0")}).parsed()
    processor = train_stacks.processor_of(flags)
    assert {*processor.image_mean, *processor.image_std} == {0.5}
    model = train_stacks.build_model(flags, processor.task_specs, flags.image_size)
    assert list(model.config.task_specs) == list(processor.task_specs)


def test_the_command_line_replaces_parts_of_a_plan(small_rooms, tmp_path):
    path = write_plan(tmp_path / "plan.yaml", small_rooms, {"a": None, "b": {"decoder": "mtan"}})
    plan = read_plan(path, StudyArguments(plan=path, only=["b"], max_steps=7, seeds=[5], learning_rates=[0.1]))
    assert [network.name for network in plan.networks] == ["b"]
    assert plan.networks[0].flags["max_steps"] == 7
    assert (plan.seeds, plan.learning_rates) == ([5], [0.1])


def test_a_network_may_have_learning_rates_of_its_own(small_rooms, tmp_path):
    path = write_plan(tmp_path / "plan.yaml", small_rooms, {"a": {"learning_rates": ["4e-3"]}, "b": None})
    networks = read_plan(path, StudyArguments(plan=path)).networks
    assert [network.learning_rates for network in networks] == [[4e-3], None]
    assert "learning_rates" not in networks[0].flags
    networks = read_plan(path, StudyArguments(plan=path, learning_rates=[0.1])).networks
    assert [network.learning_rates for network in networks] == [None, None], "the command line replaces them"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "a"}, "has the keys .*reference.*expected base, learning_rates, seeds, networks"),
        ({"networks": {"a": {"seed": 3}}}, r"network 'a' has \['seed'\], which this script sets"),
        (
            {"networks": {"a": {"max_steps": 3}}},
            "row 'a' has its own max_steps, which the command line cannot replace; leave out --max_steps",
        ),
    ],
)
def test_a_plan_that_would_mislead_is_refused(small_rooms, tmp_path, changes, message):
    path = write_plan(tmp_path / "plan.yaml", small_rooms, {"a": None}, **changes)
    with pytest.raises(ValueError, match=message):
        read_plan(path, StudyArguments(plan=path, max_steps=2))


def test_rows_without_a_group_are_refused_before_training():
    with pytest.raises(ValueError, match="the rows have none of the columns room, level, block; add one"):
        train_stacks.groups_of([{"image": 1}])
    assert train_stacks.groups_of([{"level": "E1M1"}, {"level": "E1M2"}]) == ["E1M1", "E1M2"]


def test_networks_that_differ_in_their_samples_are_refused(small_rooms, tmp_path):
    path = write_plan(tmp_path / "plan.yaml", small_rooms, {"a": None, "b": {"batch_size": 4}})
    with pytest.raises(ValueError, match="several values of batch_size: 2, 4; all train on the same samples"):
        main(["--plan", str(path), "--output_dir", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("name", "at_least"),
    [
        ("main_table", 22),
        ("wide_rates", 29),
        ("longer", 13),
        ("pairs", 15),
        ("pretrained", 30),
        ("pretrained_rates", 15),
        ("pretrained_steps", 16),
        ("few_labels", 15),
        ("local_tasks", 2),
    ],
)
def test_the_committed_results_are_those_of_the_committed_plan(small_rooms, tmp_path, name, at_least):
    """So the command of docs/evidence-details.md trains what is missing, and nothing twice."""
    path, results = ROOT / f"examples/study/ablations/{name}.yaml", ROOT / f"examples/study/results/{name}"
    dataset = tmp_path / Path(yaml.safe_load(path.read_text())["base"]["dataset"]).name
    shutil.copytree(small_rooms, dataset)
    plan = read_plan(path, StudyArguments(plan=path, dataset=str(dataset)))
    missing = {network.file_name for network in unfinished(plan, results).networks}  # raises an error if any was made otherwise
    stored = {file.name for file in results.glob("*.json")} - {"seconds.json"}
    assert len(stored) >= at_least
    assert stored == {network.file_name for network in plan.networks} - missing


def test_a_row_may_weigh_losses_differently_from_the_data_set(small_rooms, tmp_path):
    blocks = {"block_attention": ["self+skip", "encoder+skip"]}
    rows = {"as usual": blocks, "more edges": {**blocks, "loss_weights": {"edges2d": 1000}}}
    argv = ["--plan", str(write_plan(tmp_path / "plan.yaml", small_rooms, rows)), "--output_dir", str(tmp_path / "out")]
    assert main([*argv, "--seeds", "0", "--learning_rates", "0.004", "--max_steps", "4"]) == 0
    usual, more = (json.loads((tmp_path / f"out/{name}.json").read_text()) for name in ("as-usual", "more-edges"))
    assert more["flags"]["loss_weights"] == {"edges2d": 1000}
    assert "loss_weights" not in usual["flags"]
    for task, losses in usual["training_losses"].items():
        assert more["training_losses"][task][0] == pytest.approx(losses[0], rel=1e-4), "losses are recorded without weights"
    assert more["training_losses"]["depth"][3] != pytest.approx(usual["training_losses"]["depth"][3], rel=1e-4), "edges decided the steps"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tasks": ["depth"], "loss_weights": {"edges2d": 2}}, r"row 'one' has loss_weights of \['edges2d'\], which it does not learn"),
        ({"alone": True, "loss_weights": {"edges2d": 2}}, "with one loss there is nothing to weigh"),
    ],
)
def test_weights_of_losses_that_a_row_does_not_have_are_refused(small_rooms, flags, message):
    with pytest.raises(ValueError, match=message):
        expand("one", {"dataset": str(small_rooms), "max_steps": 9, **flags})


def test_a_result_of_another_plan_is_refused(study_results, small_rooms, tmp_path):
    """Also for a network with learning rates of its own."""
    directory, _ = study_results
    flags = {"block_attention": ["self+skip", "encoder+skip"], "learning_rates": [0.5]}
    path = write_plan(tmp_path / "plan.yaml", small_rooms, {"MulT with skip": flags})
    with pytest.raises(ValueError, match=r"mult-with-skip.json was made with .*, the plan has .*\[0\.5\].*rename the network"):
        unfinished(read_plan(path, StudyArguments(plan=path)), directory / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["few_labels", "groups", "local_tasks", "longer", "main_table", "pairs", "transfer", "wide_rates"])
def test_every_network_of_a_committed_plan_can_be_built(small_rooms, name):
    path = ROOT / f"examples/study/ablations/{name}.yaml"
    plan = read_plan(path, StudyArguments(plan=path, dataset=str(small_rooms)))
    assert len({network.file_name for network in plan.networks}) == len(plan.networks)
    for network in plan.networks:
        flags = network.parsed()
        specs = train_stacks.processor_of(flags).task_specs
        model = train_stacks.build_model(flags, specs, flags.image_size)
        assert list(model.config.task_specs) == list(specs)
