"""Proves that an ablation runs its file's list once, continues after interruptions, and compares with numbers checked by hand."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub.errors import StrictDataclassError
from PIL import Image

from examples.study import ablation
from mult_hf import MULT_TASKS, MulTConfig
from mult_hf.cli.arguments import parse_arguments
from mult_hf.cli.train import TrainFlags
from mult_hf.training.initialization import DEFAULT_BLOCKS
from mult_hf.training.weighting import WEIGHTINGS
from support.tables import unpadded

ROOT = Path(__file__).resolve().parents[3]

# Stands for `mult-hf train`: its metrics are what its flags say. If a flag says so it fails, dies half-way through writing once, or waits
# for another run to start.
FAKE_TRAIN = """
import argparse, json, pathlib, sys, time
parser = argparse.ArgumentParser()
for flag in ("output_dir", "decoder", "fail", "die", "meet", "resume"):
    parser.add_argument("--" + flag)
for flag, default in (("rmse", 2.0), ("angle", 40.0), ("seed", 0)):
    parser.add_argument("--" + flag, type=float, default=default)
parser.add_argument("--tasks", nargs="+", default=["depth", "normals"])
arguments = parser.parse_args()
out = pathlib.Path(arguments.output_dir)
print("step 1")
if arguments.meet:
    (out / "here").touch()
    give_up = time.time() + 20
    while not (out.parent / arguments.meet / "here").exists():
        if time.time() > give_up:
            sys.exit("alone")
        time.sleep(0.05)
if arguments.fail and pathlib.Path(arguments.fail).exists():
    sys.exit("the loss is not finite")
metrics = {"depth/rmse": arguments.rmse + arguments.seed, "normals/mean_angle": arguments.angle}
metrics = {name: value for name, value in metrics.items() if name.split("/")[0] in arguments.tasks}
text = json.dumps({"model": metrics, "parameters": "1,234", "minutes": 2.0})
if arguments.die and not (out / "metrics.json").exists():
    (out / "metrics.json").write_text(text[:20])
    sys.exit(137)
(out / "config.json").write_text(json.dumps({"tasks": arguments.tasks}))
(out / "metrics.json").write_text(text)
"""


@pytest.fixture
def ablate(tmp_path, monkeypatch, capfd):
    """Run the ablation of a file's content with the fake training; returns exit status, output, and the directory."""
    fake = tmp_path / "train.py"
    fake.write_text(FAKE_TRAIN)
    monkeypatch.setattr(ablation, "TRAIN", [str(fake)])

    def run(content, *flags):
        (tmp_path / "file.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        status = ablation.main(["--plan", str(tmp_path / "file.yaml"), "--output_dir", str(tmp_path / "out"), *flags])
        return status, capfd.readouterr(), tmp_path / "out"

    return run


def results_of(out):
    return json.loads((out / "results.json").read_text())["runs"]


# --- runs ---


def test_every_run_has_its_own_directory_flags_and_log(ablate):
    status, _, out = ablate({"base": {"angle": 30.0}, "runs": {"Plain run": {}, "other": {"rmse": 1.5}, "third": {"angle": None}}})
    assert status == 0
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"plain-run", "other", "third"}
    assert json.loads((out / "plain-run/metrics.json").read_text())["model"] == {"depth/rmse": 2.0, "normals/mean_angle": 30.0}
    assert json.loads((out / "other/metrics.json").read_text())["model"] == {"depth/rmse": 1.5, "normals/mean_angle": 30.0}
    assert json.loads((out / "third/metrics.json").read_text())["model"]["normals/mean_angle"] == 40.0, "null takes a flag of base away"
    assert (out / "other/log.txt").read_text() == "step 1\n"


def test_a_grid_is_every_combination(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("grid: {learning_rate: [1e-3, 0.5], tasks: [[depth], [depth, normals]]}\nseeds: [0, 7]")
    runs, _ = ablation.read_plan(file, tmp_path)
    assert [run.name for run in runs[:4]] == [
        "learning_rate 1e-3, tasks depth", "learning_rate 1e-3, tasks depth normals",
        "learning_rate 0.5, tasks depth", "learning_rate 0.5, tasks depth normals",
    ]  # fmt: skip
    assert runs[7].flags == {"learning_rate": 0.5, "tasks": ["depth", "normals"], "seed": 7}
    assert runs[7].directory == tmp_path / "learning-rate-0-5-tasks-depth-normals-seed-7"
    assert len({run.directory for run in runs}) == 8
    assert [run.flags["seed"] for run in runs] == [0] * 4 + [7] * 4, "the first seed of all comes first"


def test_flags_become_a_command_line(tmp_path):
    run = ablation.Run("x", {"tasks": ["depth", "normals"], "learning_rate": 0.01, "position_embeddings": False}, tmp_path)
    argv = ["-m", "mult_hf", "train", "--output_dir", str(tmp_path), "--tasks", "depth", "normals", "--learning_rate", "0.01"]
    argv += ["--position_embeddings", "no"]
    argv += ["--resume", "latest"]
    assert ablation.command(run, "python") == [sys.executable, *argv]
    assert ablation.command(run, "accelerate") == [sys.executable, "-m", "accelerate.commands.launch", *argv]


def test_several_runs_train_at_once(ablate):
    """Each of these waits for the other one to start."""
    content = {"runs": {"a": {"meet": "b"}, "b": {"meet": "a"}, "c": {"rmse": 1.0}}}
    status, printed, out = ablate(content, "--jobs", "2")
    assert status == 0, printed.err
    assert list(results_of(out)) == ["a", "b", "c"], "in the order of the file, whichever ends first"


# --- repetition and failures ---


def test_a_finished_run_is_not_done_again(ablate):
    content = {"runs": {"a": {}, "b": {"rmse": 1.0}}}
    _, _, out = ablate(content)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    assert len(before) == 8, "premise: two runs with record, log, configuration and metrics"
    status, printed, _ = ablate({"runs": {**content["runs"], "c": {}}})
    assert status == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "c/metrics.json").exists()
    assert "| a |" in unpadded(printed.out), "the table has them all"


def test_other_flags_under_an_old_name_are_refused_with_the_difference(ablate):
    ablate({"runs": {"a": {"rmse": 1.0}, "b": {}}})
    with pytest.raises(ValueError, match=r"/a was written with other flags \(angle: default -> 30.0; rmse: 1.0 -> 1.5\)"):
        ablate({"runs": {"b": {}, "a": {"rmse": 1.5, "angle": 30.0}}})


def test_a_run_that_died_while_writing_continues(ablate):
    content = {"runs": {"a": {"die": "once"}, "b": {}}}
    status, printed, out = ablate(content)
    assert status == 1
    assert "a failed, exit status 137" in printed.err
    assert list(results_of(out)) == ["b"], "half a file is no result"
    status, printed, _ = ablate(content)
    assert status == 0
    assert list(results_of(out)) == ["a", "b"]
    assert (out / "a/log.txt").read_text() == "step 1\n" * 2, "the log of the first attempt is kept"


def test_a_failed_run_does_not_stop_others_and_is_repeated(ablate, tmp_path):
    (tmp_path / "trouble").touch()
    content = {"runs": {"bad": {"fail": str(tmp_path / "trouble")}, "good": {}}}
    status, printed, out = ablate(content)
    assert status == 1
    assert list(results_of(out)) == ["good"]
    assert re.search(r"failed: bad, exit status 1: the loss is not finite \(full log: .*bad/log.txt\)", printed.err)
    (tmp_path / "trouble").unlink()
    assert ablate(content)[0] == 0
    assert list(results_of(out)) == ["bad", "good"]


def test_without_a_finished_run_there_is_no_comparison(ablate, tmp_path):
    status, printed, out = ablate({"runs": {"bad": {"fail": str(tmp_path)}}})
    assert status == 1
    assert "no run is finished" in printed.out
    assert not (out / "table.md").exists()


# --- the comparison ---


@pytest.fixture
def compared(ablate):
    """Two single-task references, and a run that is better in depth (1 m against 2) and worse in normals (44 degrees against 40)."""
    content = {
        "runs": {
            "depth alone": {"tasks": ["depth"]}, "normals alone": {"tasks": ["normals"]},
            "both": {"rmse": 1.0, "angle": 44.0}, "half": {"rmse": 3.0, "tasks": ["depth"]},
        },
        "reference": ["depth alone", "normals alone"],
    }  # fmt: skip
    return ablate(content)


def test_the_gain_is_the_mean_relative_improvement_over_the_references(compared):
    """Depth: (2 - 1) / 2 = +50 %; normals: (40 - 44) / 40 = -10 %; their mean is +20 %. A run of depth alone is judged by depth."""
    runs = results_of(compared[2])
    assert runs["both"]["gain_percent"] == [pytest.approx(20.0)]
    assert runs["half"]["gain_percent"] == [pytest.approx(-50.0)]
    assert runs["depth alone"]["gain_percent"] == [pytest.approx(0.0)]


def test_the_table_has_one_row_per_run_and_marks_the_best(compared):
    _, printed, out = compared
    text = (out / "table.md").read_text()
    lines = unpadded(text).splitlines()
    assert lines[0] == (
        "| run | depth rmse (lower is better) | normals mean_angle (lower is better) | multi-task gain [%] (higher is better) "
        "| parameters | minutes | seeds |"
    )
    assert lines[2] == "| depth alone | 2 |  | 0 | 1,234 | 2.0 | 1 |"
    assert lines[3] == "| normals alone |  | **40** | 0 | 1,234 | 2.0 | 1 |"
    assert lines[4] == "| both | **1** | 44 | **20** | 1,234 | 2.0 | 1 |"
    assert "depth alone, normals alone." in lines[-1]
    assert text in printed.out


def test_seeds_are_averaged_and_their_spread_shown(ablate):
    """RMSE 2, 3 and 4 m: mean 3, standard deviation 1. Against that mean depth gains 1/3, 0 and -1/3, and normals nothing."""
    _, _, out = ablate({"runs": {"a": {}}, "seeds": [0, 1, 2], "reference": "a"})
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"a-seed-0", "a-seed-1", "a-seed-2"}
    run = results_of(out)["a"]
    assert run["values"]["depth/rmse"] == {"seeds": [2, 3, 4], "mean": 3, "standard_deviation": 1}
    assert run["values"]["normals/mean_angle"]["standard_deviation"] == 0
    assert run["gain_percent"] == pytest.approx([100 / 6, 0, -100 / 6], abs=1e-9)
    assert "| a | **3 ± 1** | **40 ± 0** |" in unpadded((out / "table.md").read_text())


def test_an_unknown_metric_is_shown_and_never_best(ablate):
    _, _, out = ablate({"runs": {"a": {"rmse": "nan"}, "b": {"rmse": 5.0}}})
    table = unpadded((out / "table.md").read_text())
    assert "| a | nan |" in table
    assert "| b | **5** |" in table


def test_without_a_reference_there_is_no_gain(ablate):
    _, _, out = ablate({"runs": {"a": {}}})
    assert "gain" not in (out / "table.md").read_text()


def test_the_plot_has_one_panel_per_column(compared):
    with Image.open(compared[2] / "plot.png") as image:
        assert image.width > 2 * image.height, "three panels side by side, four lines"
        green = sum(count for count, color in image.convert("RGB").getcolors(2**24) if color == (44, 160, 44))
    assert green > 50, "the best of each column stands out"


def test_further_right_is_better_in_every_panel(monkeypatch, compared):
    directions = []
    monkeypatch.setattr(ablation.Figure, "savefig", lambda figure, *_, **__: directions.extend(a.xaxis_inverted() for a in figure.axes))
    out = compared[2]
    runs, reference = ablation.read_plan(out.parent / "file.yaml", out)
    ablation.plot(*ablation.collect(runs, reference), out / "plot.png")
    assert directions == [True, True, False], "two errors and a gain"


# --- refusals ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"has the runs \[\]"),
        ({"runs": {"a": {}}, "sedes": [1]}, r"has \['sedes'\]; allowed: base, seeds, runs, grid, reference"),
        ({"runs": {"a": {}}, "reference": "b"}, r"the runs \['a'\] and the reference \['b'\]"),
        ({"runs": {"a": {"angel": 3}}}, r"run 'a' has the flag 'angel', which mult-hf train does not have; 'angle'\?"),
        ({"runs": {"a": {"output_dir": "x"}}}, r"run 'a' has the flag 'output_dir'; this script sets it from --output_dir"),
        ({"base": {"seed": 3}, "runs": {"a": {}}}, r"has the flag 'seed'; list seeds under 'seeds'"),
        ({"base": {"config": "x.yaml"}, "runs": {"a": {}}}, r"has the flag 'config'; write that file's flags here"),
        ({"runs": {"a b": {}, "a-b": {}}}, r"runs 'a b' and 'a-b' would both be written to .*/a-b"),
        ({"runs": {"a": {}}, "seeds": [1, 1]}, r"would both be written to .*/a-seed-1"),
        ({"grid": {"rmse": 3}}, r"grid has rmse: 3; give a list"),
    ],
    ids=str,
)
def test_an_invalid_file_is_refused_before_any_run(ablate, tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        ablate(content)
    assert not (tmp_path / "out").exists()


def test_a_directory_with_other_contents_is_refused(ablate, tmp_path):
    (tmp_path / "out/a").mkdir(parents=True)
    with pytest.raises(ValueError, match="/a exists, but is not a run of an ablation"):
        ablate({"runs": {"a": {}}})


# --- the shipped files ---


@pytest.fixture(scope="module")
def real_flags():
    return ablation.known_flags()


SHIPPED = ROOT / "examples/study/ablations"
RUNS = {"paper": 48, "smoke": 2, "weighting": 10}
"""Runs of each shipped file: variants times seeds."""


def test_every_shipped_ablation_is_tested():
    of_stacks = {
        "few_labels",
        "groups",
        "local_tasks",
        "longer",
        "main_table",
        "pairs",
        "pretrained",
        "pretrained_rates",
        "pretrained_steps",
        "transfer",
        "wide_rates",
    }  # tests/examples/study/test_train_stacks.py
    of_a_converted_encoder = {"scenes"}  # its results are read by tests/examples/study/test_scenes.py
    assert {path.stem for path in SHIPPED.glob("*.yaml")} == set(RUNS) | of_stacks | of_a_converted_encoder


def train_flags(run):
    """The flags of a run, as training reads them."""
    argv = ablation.command(run, "python")
    return parse_arguments(TrainFlags, argv[argv.index("train") + 1 :], "")


def check_plan(path, real_flags):
    """Read a file, and every run of it as training would; returns the runs."""
    runs, _ = ablation.read_plan(path, path.parent / "runs")
    ablation.check(runs, real_flags)
    for run in {json.dumps({**run.flags, "seed": None}, sort_keys=True): run for run in runs}.values():  # one of each variant's seeds
        flags, config = train_flags(run), model_of(run.flags)
        read = {name: getattr(flags, name) for name in run.flags}
        assert read | {"weighting_options": None} == run.flags | {"weighting_options": None}
        assert json.loads(flags.weighting_options) == run.flags.get("weighting_options", {})
        assert flags.weighting in WEIGHTINGS
        assert config.decoder_type == run.flags.get("decoder", "mult")
        assert list(config.task_specs) == run.flags.get("tasks", list(MULT_TASKS))
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_shipped_ablation_trains_the_models_and_weightings_that_it_lists(name, real_flags):
    assert len(check_plan(SHIPPED / f"{name}.yaml", real_flags)) == RUNS[name]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_steps", "max_step", r"has the flag 'max_step', which mult-hf train does not have; 'max_steps'\?"),
        ("decoder: swin_unet", "decoder: swin_unt", "swin_unt"),
        ("[depth, normals]", "[depth, normls]", "normls"),
        ("reference: mult", "reference: molt", "the reference \\['molt'\\]"),
    ],
)
def test_a_typo_in_a_shipped_ablation_would_be_detected(old, new, message, real_flags, tmp_path):
    text = (SHIPPED / "smoke.yaml").read_text()
    assert text.count(old) == 1, "premise"
    (tmp_path / "smoke.yaml").write_text(text.replace(old, new))
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        check_plan(tmp_path / "smoke.yaml", real_flags)


def test_the_papers_ablation_has_every_baseline(tmp_path):
    runs, reference = ablation.read_plan(SHIPPED / "paper.yaml", tmp_path)
    models = {run.name: model_of(run.flags) for run in runs}
    assert {tuple(models[name].task_specs) for name in reference} == {(task,) for task in MULT_TASKS}
    assert {model.reference_task for name, model in models.items() if name.startswith("reference ")} == set(MULT_TASKS) - {"normals"}
    assert {len(model.task_specs) for model in models.values()} == {1, 2, 3, 4, 5, 6}
    assert {model.decoder_type for model in models.values()} == {"mult", "swin_unet", "mtan"}
    assert models["mult"].to_dict() == MulTConfig().to_dict()


@pytest.mark.parametrize(
    ("name", "decoder", "blocks"),
    [
        ("paper-mult", "mult", ["self", "encoder"]),
        ("single-task", "mult", ["self", "encoder"]),
        ("no-sharing", "mult", ["self", "self"]),
        ("swin-unet", "swin_unet", ["self", "self"]),
        ("shared-unet", "swin_unet", ["self", "encoder"]),
        ("mult-with-skip", "mult", ["self+skip", "encoder+skip"]),
        ("mtan", "mtan", None),
    ],
)
def test_a_shipped_configuration_has_valid_flags_and_matches_its_name(name, decoder, blocks, real_flags):
    flags = yaml.safe_load((ROOT / f"examples/configs/{name}.yaml").read_text())
    assert set(flags) <= real_flags
    model = model_of(flags)
    assert (model.decoder_type, model.block_attention) == (decoder, blocks)
    assert len(model.task_specs) == (1 if name == "single-task" else 6)


def test_the_configuration_shared_unet_is_the_default_of_training():
    flags = yaml.safe_load((ROOT / "examples/configs/shared-unet.yaml").read_text())
    default = TrainFlags()
    named = {name: getattr(default, name) for name in ("decoder", "learning_rate")}
    assert flags == {**named, "block_attention": DEFAULT_BLOCKS[default.decoder]}


def test_every_shipped_configuration_is_tested():
    assert {path.stem for path in (ROOT / "examples/configs").glob("*.yaml")} == {
        "paper-mult", "single-task", "no-sharing", "swin-unet", "shared-unet", "mult-with-skip", "mtan",
        "rooms-tiny",  # in test_packaged_checkpoints.py
    }  # fmt: skip


def model_of(flags):
    """The configuration that training builds from these flags, without its encoder."""
    names = {"decoder": "decoder_type", "tasks": "tasks", "block_attention": "block_attention", "reference_task": "reference_task"}
    return MulTConfig(**{names[flag]: value for flag, value in flags.items() if flag in names})


@pytest.mark.nightly
@pytest.mark.slow
def test_the_smoke_ablation_trains_two_decoders(tmp_path, monkeypatch):
    """The whole script with the real training, from another directory."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    assert ablation.main(["--plan", str(SHIPPED / "smoke.yaml"), "--output_dir", str(tmp_path)]) == 0
    runs = results_of(tmp_path)
    assert list(runs) == ["mult", "swin-unet"]
    assert runs["mult"]["parameters"] != runs["swin-unet"]["parameters"]
    assert json.loads((tmp_path / "swin-unet/config.json").read_text())["decoder_type"] == "swin_unet"
