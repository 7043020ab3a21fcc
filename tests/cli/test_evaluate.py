"""Proves that `mult-hf evaluate` measures correctly, and refuses meaningless comparisons, with any number of processes."""

import json
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Image, Value
from huggingface_hub import ModelCard
from PIL import Image as PILImage

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli import evaluate as module
from mult_hf.cli.evaluate import EvaluationArguments, load_split, main
from mult_hf.data.schema import load_rows
from mult_hf.inference.directory_lock import exclusive_run
from mult_hf.metrics import MultiTaskMetrics
from support.forked import run_together
from support.tables import unpadded

CLASSES = ["floor", "wall", "door"]
SEGMENTATION = {"name": "segmentation", "class_names": CLASSES, "encoding": {"dtype": "uint8", "unknown": [255]}}
MILLIMETRES = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001, "unknown": [0]}}
STEPS_OF_512 = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0]}}
MODEL_TASKS = [{"name": "segmentation", "class_names": CLASSES}, "depth", "edges2d"]  # with Taskonomy's encodings
SIZE = 40


def write_data(directory, depth_entry=MILLIMETRES, segmentation_entry=SEGMENTATION, steps_a_metre=1000, count=5):
    """Random maps in two splits. Depths are eighths of metres, which both encodings store exactly."""
    features = Features({"id": Value("string"), "image": Image(), "segmentation": Image(), "depth": Image()})
    directory.mkdir()
    for number, split in enumerate(("train", "test")):
        rng = np.random.default_rng(number)
        rows = {
            "id": [f"view_{view}" for view in range(count)],
            "image": [PILImage.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)) for _ in range(count)],
            "segmentation": [PILImage.fromarray(rng.choice([0, 1, 2, 255], (SIZE, SIZE)).astype(np.uint8)) for _ in range(count)],
            "depth": [
                PILImage.fromarray((rng.integers(0, 8 * (view + 1), (SIZE, SIZE)) * steps_a_metre // 8).astype(np.uint16))
                for view in range(count)
            ],
        }
        Dataset.from_dict(rows, features=features).to_parquet(str(directory / f"{split}-00000-of-00001.parquet"))
    (directory / "README.md").write_text(f"---\nmult_tasks: {json.dumps([segmentation_entry, depth_entry])}\n---\nRandom maps.\n")
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "views")


@pytest.fixture
def save_model(shallow_model, tmp_path):
    """Save a very small model as training does, with a processor and a card."""

    def save(name="model", seed=0, tasks=MODEL_TASKS, size=SIZE):
        model = shallow_model(tasks=tasks)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        model.save_pretrained(tmp_path / name)
        MulTImageProcessor(size={"height": size, "width": size}, tasks=model.config.tasks).save_pretrained(tmp_path / name)
        (tmp_path / name / "README.md").write_text("---\nlicense: mit\n---\n# My model\n")
        return tmp_path / name

    return save


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command in this process; returns what it printed, its results.json and its directory."""

    def evaluate(model, data, *flags):
        output = tmp_path / f"output_{len(list(tmp_path.iterdir()))}"
        arguments = ["--model", model, "--dataset", data, "--split", "test", "--cpu_threads", 1, "--output_dir", output, *flags]
        main([str(argument) for argument in arguments])
        printed = capsys.readouterr().out
        assert (output / "tables.md").read_text() in printed + "\n"
        return printed, json.loads((output / "results.json").read_text()), output

    return evaluate


# --- measurements


def test_the_numbers_are_those_of_the_model_as_a_user_runs_it(save_model, data, run, shallow_model):
    """Image by image through processor, model and post_process, against maps read by hand."""
    model_directory = save_model()
    _, results, _ = run(model_directory, data, "--batch_size", 2)
    model = MulTForMultiTaskDensePrediction.from_pretrained(model_directory)
    processor = MulTImageProcessor.from_pretrained(model_directory)
    metrics = MultiTaskMetrics({task: model.config.task_specs[task] for task in ("segmentation", "depth")})
    for row in Dataset.from_parquet(str(data / "test-00000-of-00001.parquet")):
        with torch.no_grad():
            (maps,) = processor.post_process(model(**processor(row["image"], return_tensors="pt")))
        depth = np.array(row["depth"]).astype(np.float32)
        targets = {
            "segmentation": torch.from_numpy(np.array(row["segmentation"]).astype(np.int64)),
            "depth": torch.from_numpy(np.where(depth == 0, np.nan, depth / 1000).astype(np.float32))[None],
        }
        metrics.update({task: maps[task]["prediction"] for task in targets}, targets)
    assert results["model"] == pytest.approx(metrics.compute(), rel=1e-5)
    assert (results["dataset"], results["split"], results["evaluated_samples"]) == ("views", "test", 5)


def test_maps_are_read_with_the_encodings_of_their_data_set(save_model, data, run, tmp_path):
    """The same metres as millimetres and as steps of 1/512 m give the same numbers; the model has another encoding."""
    model, other = save_model(), write_data(tmp_path / "other", STEPS_OF_512, steps_a_metre=512)
    assert run(model, data)[1]["model"] == run(model, other)[1]["model"]


def test_tasks_without_results_are_named_with_the_reason(save_model, data, run):
    printed, results, _ = run(save_model(), data)
    assert "Not measured for model (not in the data): edges2d." in printed
    assert {name.split("/")[0] for name in results["model"]} == {"segmentation", "depth"}
    printed, results, _ = run(save_model("depth_only", tasks=["depth"]), data)
    assert "Not measured for depth_only (in the data, but not in the model): segmentation." in printed
    printed, results, _ = run(save_model(), data, "--tasks", "segmentation")
    assert "Not measured for model (not requested): depth." in printed
    assert {name.split("/")[0] for name in results["model"]} == {"segmentation"}


def test_a_task_without_known_pixels_is_null_and_reported(save_model, run, tmp_path):
    directory = write_data(tmp_path / "dark", {"name": "depth", "encoding": {"dtype": "uint16", "maximum": -1.0}})
    printed, results, _ = run(save_model(), directory)
    assert "(without a known pixel in this split): depth." in printed
    assert results["model"]["depth/rmse"] is None
    assert results["model"]["segmentation/mean_iou"] > 0


def test_the_constant_baseline_has_a_column_and_its_numbers_are_kept(save_model, data, run):
    printed, results, _ = run(save_model(), data, "--baseline_split", "train")
    assert "| task | metric | model | constant baseline |" in unpadded(printed)
    assert results["constant_baseline"].keys() == results["model"].keys()
    assert f"{results['constant_baseline']['depth/rmse']:.4f}" in printed


def test_another_size_for_the_model_does_not_change_the_labels(save_model, data, run):
    model = save_model()
    plain, large = (run(model, data, *flags)[1] for flags in ((), ("--image_size", "64", "48")))
    pixels = [sum(row["pixels"] for row in results["per_class"]["segmentation"]) for results in (plain, large)]
    assert pixels[0] == pixels[1]
    assert plain["model"] != large["model"]


def test_views_are_averaged_if_requested(save_model, data, run):
    model = save_model()
    plain, same, flipped, scaled = (
        run(model, data, *flags)[1]["model"] for flags in ((), ("--scales", "1.0"), ("--flip",), ("--scales", "1.0", "1.5"))
    )
    assert plain == same
    assert len({values["depth/rmse"] for values in (plain, flipped, scaled)}) == 3


def test_fewer_samples_are_spread_evenly(save_model, data, run):
    results = run(save_model(), data, "--max_samples", 3, "--worst", 3)[1]
    assert results["evaluated_samples"] == 3
    assert {image["name"] for image in results["worst"]["depth/rmse"]} == {"view_0", "view_2", "view_4"}


# --- comparisons


def test_two_models_are_compared_with_differences_and_intervals(save_model, data, run):
    printed, results, _ = run(save_model("first"), data, "--compare", save_model("second", seed=1), "--resamples", 100)
    assert "| task | metric | first | second |" in unpadded(printed)
    assert "| task | metric | first - second | 95% interval | better |" in unpadded(printed)
    for name, interval in results["differences"].items():
        assert interval["difference"] == pytest.approx(results["model"][name] - results["compared"][name])
        assert interval["low"] <= interval["difference"] <= interval["high"]


def test_a_model_with_another_input_size_is_measured_at_its_own_size(save_model, data, run):
    large = save_model("large", seed=1, size=64)
    compared = run(save_model(), data, "--compare", large, "--resamples", 100)[1]["compared"]
    assert compared == pytest.approx(run(large, data)[1]["model"], rel=1e-12)


def test_a_model_with_fewer_tasks_has_dashes_and_no_difference(save_model, data, run):
    printed, results, _ = run(save_model(), data, "--compare", save_model("depth_only", seed=1, tasks=["depth"]), "--resamples", 100)
    assert "| segmentation | mean_iou (higher is better)" in unpadded(printed)
    assert {name.split("/")[0] for name in results["differences"]} == {"depth"}


def write_runs(directory, **runs):
    for name, results in runs.items():
        (directory / name).mkdir(parents=True)
        (directory / name / ("metrics.json" if "steps" in results else "results.json")).write_text(json.dumps(results))
    return directory


def test_the_gain_over_single_task_results_is_in_percent(save_model, data, run, tmp_path):
    """Errors half as large and a score half as high: +50 % and -50 % average to 0 %."""
    model = save_model()
    values = run(model, data)[1]["model"]
    singles = write_runs(
        tmp_path / "singles",
        depth={"model": {"depth/rmse": 2 * values["depth/rmse"]}, "evaluated_samples": 5, "steps": 10},
        classes={"model": {"segmentation/mean_iou": 2 * values["segmentation/mean_iou"]}, "evaluated_samples": 5, "split": "test"},
    )
    printed, results, _ = run(model, data, "--single_task_results", singles)
    assert results["multi_task_gain"] == pytest.approx(0.0)
    assert "| +50.00 % |" in unpadded(printed)
    assert "| -50.00 % |" in unpadded(printed)
    assert "Multi-task gain over 2 of 2 tasks: +0.00 %." in printed.replace("-0.00", "+0.00")


def test_a_task_without_single_task_result_is_left_out_of_the_gain_and_named(save_model, data, run, tmp_path):
    model = save_model("single", tasks=["depth"])
    results, output = run(model, data)[1:]
    assert (output / "results.json").is_file()
    singles = tmp_path / "singles"
    singles.mkdir()
    output.rename(singles / "depth")
    printed, again, _ = run(save_model(), data, "--single_task_results", singles)
    gain = (results["model"]["depth/rmse"] - again["model"]["depth/rmse"]) / results["model"]["depth/rmse"]
    assert again["multi_task_gain"] == pytest.approx(100 * gain)
    assert "Multi-task gain over 1 of 2 tasks" in printed
    assert "Not counted, because a number is missing or 0: segmentation." in printed


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "has no metrics.json or results.json in its directories"),
        ({"both": {"model": {"depth/rmse": 1, "segmentation/mean_iou": 1}}}, r"has results of \['depth', 'segmentation'\]"),
        (
            {"a": {"model": {"depth/rmse": 1}}, "b": {"model": {"depth/rmse": 2}}},
            r"results of \['depth'\], and \['depth/rmse'\] were already read",
        ),
        ({"a": {"model": {"depth/rmse": 1}, "split": "train"}}, r"was measured on \{'split': 'train'\}, this run on \{'split': 'test'\}"),
        ({"a": {"model": {"edges2d/mae": 1}}}, r"have \['edges2d/mae'\]; expected at least one of"),
        ({"a": {"foo": 1}}, r"a/results.json has no numbers by metric under `model`; give directories that"),
        ({"a": [1]}, "has no numbers by metric under `model`"),
        ({"a": {"model": {"depth/rmse": "0.5"}}}, "has no numbers by metric under `model`"),
    ],
)
def test_incomparable_single_task_results_are_refused(runs, message, save_model, data, run, tmp_path):
    (tmp_path / "singles").mkdir()
    with pytest.raises(ValueError, match=message):
        run(save_model(), data, "--single_task_results", write_runs(tmp_path / "singles", **runs))


def test_single_task_results_that_are_no_json_are_named(save_model, data, run, tmp_path):
    (tmp_path / "singles/a").mkdir(parents=True)
    (tmp_path / "singles/a/metrics.json").write_text("depth: 0.5")
    with pytest.raises(ValueError, match=r"a/metrics.json is not JSON: .*; give directories that `mult-hf train` or"):
        run(save_model(), data, "--single_task_results", tmp_path / "singles")


@pytest.mark.parametrize(
    ("flags", "message"), [(["--resamples", 99], "resamples is 99; it must be at least 100"), (["--seed", -1], "seed is -1")]
)
def test_numbers_that_say_nothing_are_refused_before_anything_is_measured(flags, message, save_model, data, run):
    with pytest.raises(ValueError, match=message):
        run(save_model(), data, *flags)


def test_a_requested_task_without_a_column_is_refused(save_model, data, run, tmp_path):
    """Its card lists the task, so only the column tells."""
    without = tmp_path / "without"
    shutil.copytree(data, without)
    for split, rows in load_rows(data).items():
        for file in without.glob(f"{split}*.parquet"):
            rows.remove_columns("depth").to_parquet(file)
    with pytest.raises(
        ValueError, match=r"--tasks has \['depth'\], but 'test' of .*without has the columns \['id', 'image', 'segmentation'\]"
    ):
        run(save_model(), without, "--tasks", "depth")


def test_another_column_of_focal_lengths_replaces_the_usual_one(data, tmp_path):
    """Where the data have both."""
    shutil.copytree(data, tmp_path / "both")
    for file in (tmp_path / "both").glob("*.parquet"):
        rows = Dataset.from_parquet(str(data / file.name))
        rows.add_column("focal_length", [1.0] * 5).add_column("fx", [70.0] * 5).to_parquet(str(file))
    arguments = EvaluationArguments(dataset=str(tmp_path / "both"), focal_length_column="fx")
    split = load_split(arguments, "test", Accelerator(cpu=True))
    assert set(split["focal_length"]) == {70.0}
    assert "fx" not in split.column_names


# --- the configuration file


def test_flags_come_from_a_file_and_the_command_line_takes_precedence(save_model, data, run, tmp_path):
    model = save_model()
    file = tmp_path / "evaluation.yaml"
    file.write_text("tasks: [depth]\nmax_samples: 2\n")
    results = run(model, data, "--config", file, "--max_samples", "3")[1]
    assert results["evaluated_samples"] == 3
    assert {name.split("/")[0] for name in results["model"]} == {"depth"}


def test_a_data_set_must_be_named_outside_a_checkout():
    with pytest.raises(ValueError, match="--dataset is missing; give a local directory or Hub id"):
        EvaluationArguments(dataset=None)


# --- panels and cards


@pytest.mark.parametrize("interrupted", ["save", "save_worst", "update_card"])
def test_nothing_of_an_earlier_evaluation_stays_beside_another_even_if_one_is_killed_while_it_writes(
    save_model, data, tmp_path, monkeypatch, interrupted
):
    out = tmp_path / "out"
    flags = [*map(str, ["--model", save_model(), "--dataset", data, "--split", "test", "--cpu_threads", 1, "--output_dir", out])]
    main([*flags, "--worst", "1"])
    with monkeypatch.context() as patch:
        owner = module.Report if interrupted == "save" else module
        patch.setattr(owner, interrupted, Mock(side_effect=KeyboardInterrupt))  # as Ctrl-C, which a process in the background ignores
        with pytest.raises(KeyboardInterrupt):
            main([*flags, "--worst", "1", "--update_card"])
    assert (out / "results.json").exists() == (out / "tables.md").exists() == (interrupted != "save")
    assert bool([*out.glob("worst_*.png")]) == (interrupted == "update_card")
    main(flags)
    assert not [*out.glob("worst_*.png")]


def test_the_worst_images_have_a_panel_per_task_with_names_and_values(save_model, data, run):
    _, results, output = run(save_model(), data, "--worst", 2)
    images = results["worst"]["depth/rmse"]
    assert [image["name"] for image in images] == ["view_0", "view_1"], "this model says 5 m, and these are the nearest"
    assert images[0]["value"] >= images[1]["value"] > results["model"]["depth/rmse"]
    for task in ("depth", "segmentation"):
        with PILImage.open(output / f"worst_{task}.png") as image:
            assert image.width == 3 * 244 + 4, "three columns"
            assert image.height > 20 + 2 * (18 + 240 + 4) + 4, "titles, two rows with captions, and what the colours mean"


def test_the_card_gets_the_results_with_the_settings_they_hold_for(save_model, data, run):
    model = save_model()
    plain, flipped = (run(model, data, "--update_card", *flags)[1]["model"] for flags in ((), ("--flip",)))
    card = ModelCard.load(model / "README.md")
    assert "# My model" in card.text
    written = {(each.metric_name, bool(each.metric_args)): each.metric_value for each in card.data.eval_results}
    for name in plain:
        assert written[name, False] == pytest.approx(plain[name], abs=1e-5)
        assert written[name, True] == pytest.approx(flipped[name], abs=1e-5)
    assert {(each.dataset_name, each.dataset_split) for each in card.data.eval_results} == {("views", "test")}


def test_results_of_other_numbers_and_runtimes_are_entries_of_their_own(save_model, data, run):
    model = save_model()
    for flags in ((), ("--dtype", "bfloat16"), ("--image_size", "32")):
        run(model, data, "--update_card", *flags)
    card = ModelCard.load(model / "README.md")
    of_depth = [each.metric_args for each in card.data.eval_results if each.metric_name == "depth/rmse"]
    assert of_depth == [None, {"dtype": "bfloat16"}, {"image_size": [32]}]


# --- refusals


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**SEGMENTATION, "class_names": ["floor", "door", "wall"]}, r"segmentation: class_names .* \(first at 1: 'wall' and 'door'\)"),
        ({**SEGMENTATION, "class_names": [*CLASSES, "sky"]}, "segmentation: channels is 3 for the model and 4 for the data"),
        ({**MILLIMETRES, "unit": "mm"}, "depth: unit is 'm' for the model and 'mm' for the data"),
    ],
)
def test_other_classes_and_units_are_refused(entry, message, save_model, run, tmp_path):
    changed = {entry["name"]: entry}
    directory = write_data(tmp_path / "data", changed.get("depth", MILLIMETRES), changed.get("segmentation", SEGMENTATION))
    with pytest.raises(ValueError, match=rf"cannot be measured on .*{message}"):
        run(save_model(), directory)


def test_incompatible_tasks_can_be_left_out(save_model, run, tmp_path):
    directory = write_data(tmp_path / "data", {**MILLIMETRES, "unit": "mm"})
    assert {name.split("/")[0] for name in run(save_model(), directory, "--tasks", "segmentation")[1]["model"]} == {"segmentation"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "depth", "smell"], r"--tasks has \['smell'\]"),
        (["--tasks", "edges2d"], r"--tasks has \['edges2d'\]; .* has \['segmentation', 'depth'\]"),
        (["--split", "night"], 'Unknown split "night"'),
        (["--batch_size", "0"], "--batch_size is 0; it must be at least 1"),
        (["--max_samples", "0"], "--max_samples is 0"),
        (["--worst", "-1"], "--worst is -1; it must be at least 0"),
        (["--image_size", "16"], r"--image_size is \[16\]; give a side"),
        (["--scales", "0"], r"scales are \(0.0,\)"),
        (["--update_card", "--max_samples", "2"], "--max_samples 2 would publish metrics of a subset"),
    ],
)
def test_invalid_flags_are_refused(flags, message, save_model, data, run):
    with pytest.raises(ValueError, match=message):
        run(save_model(), data, *flags)


def test_a_model_is_not_compared_with_itself(save_model, data, run):
    model = save_model()
    with pytest.raises(ValueError, match="the same as --model; give another model"):
        run(model, data, "--compare", f"{model.parent}/../{model.parent.name}/model/")


def test_models_of_the_same_name_are_shown_with_their_paths(save_model, data, run):
    first, second = save_model("one/best"), save_model("two/best", seed=1)
    printed, results, _ = run(first, data, "--compare", second, "--resamples", 100)
    assert f"| task | metric | {first} | {second} |" in unpadded(printed)
    assert results["model"] != results["compared"]


def test_a_missing_card_cannot_be_updated(save_model, data, run):
    model = save_model()
    (model / "README.md").unlink()
    with pytest.raises(ValueError, match=r"--update_card needs .*README\.md, which does not exist"):
        run(model, data, "--update_card")


# --- processes


@pytest.mark.slow
def test_two_processes_give_the_same_numbers_as_one(save_model, data, run, tmp_path):
    """Exactly, with views, a constant baseline, a comparison, and an odd number of batches: 3 in 2 processes."""
    model, other = save_model(), save_model("other", seed=1)
    flags = ["--batch_size", "2", "--flip", "--baseline_split", "train", "--compare", str(other), "--resamples", "100", "--worst", "1"]
    alone = run(model, data, *flags)[1]
    argv = ["--model", model, "--dataset", data, "--split", "test", "--cpu_threads", 1, "--output_dir", tmp_path / "two", *flags]
    cpu = {"ACCELERATE_USE_CPU": "true"}  # as `accelerate launch --cpu` sets it
    printed, statuses = run_together(main, [*map(str, argv)], output=tmp_path / "output.txt", environment=cpu)
    assert statuses == [0, 0], printed
    together = json.loads((tmp_path / "two" / "results.json").read_text())
    assert unpadded(printed).count("| task | metric | model | constant baseline | other |") == 1, "one process speaks"
    for part in ("model", "constant_baseline", "compared", "differences", "per_class", "worst", "evaluated_samples"):
        assert together[part] == alone[part]


def test_a_second_run_in_a_directory_is_refused(save_model, data, tmp_path):
    argv = ["--model", save_model(), "--dataset", data, "--split", "test", "--cpu_threads", 1, "--output_dir", tmp_path / "out"]
    with exclusive_run(tmp_path / "out"), pytest.raises(ValueError, match=r"another run is writing to .*out: process"):
        main([*map(str, argv)])
    assert not (tmp_path / "out/results.json").exists()


def write_photographs(directory, count=3):
    """Images with depth in millimetres and the focal lengths of their camera, under a name of the data's own."""
    features = Features({"image": Image(), "depth": Image(), "focal": Value("float32")})
    directory.mkdir(parents=True)
    rng = np.random.default_rng(len(directory.name))
    rows = {
        "image": [PILImage.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)) for _ in range(count)],
        "depth": [PILImage.fromarray(rng.integers(1000, 1500, (SIZE, SIZE)).astype(np.uint16)) for _ in range(count)],
        "focal": [30.0] * count,
    }
    Dataset.from_dict(rows, features=features).to_parquet(str(directory / "test-00000-of-00001.parquet"))
    (directory / "README.md").write_text(f"---\nmult_tasks: {json.dumps([MILLIMETRES])}\n---\nRandom maps.\n")


def test_a_directory_of_data_sets_is_measured_set_by_set_and_as_a_whole(save_model, tmp_path, capsys):
    """Each with its own constant map, and with normals from depth; the whole adds the sums of both."""
    for name in ("office", "kitchen"):
        write_photographs(tmp_path / "photos" / name)
    model = save_model(tasks=["depth", "normals"])
    flags = ["--dataset", tmp_path / "photos", "--split", "test", "--focal_length_column", "focal", "--cpu_threads", 1]
    main([str(flag) for flag in ["--model", model, "--output_dir", tmp_path / "out", *flags]])
    printed = capsys.readouterr().out
    assert printed.index("## kitchen") < printed.index("## office") < printed.index("## all sets")
    assert printed.count("Noise of normals from this depth:") == 2
    whole, kitchen, office = (json.loads((tmp_path / "out" / name / "results.json").read_text()) for name in ("", "kitchen", "office"))
    for column, own in (("model", "model"), ("constant baseline", "constant_baseline")):
        squared = [each[own]["depth/rmse"] ** 2 for each in (kitchen, office)]  # all pixels are known, so that each set counts a half
        assert whole[column]["depth/rmse"] == pytest.approx((sum(squared) / 2) ** 0.5)
        assert set(whole[column]) >= {"depth/abs_rel_median_scaled", "depth/delta1", "normals/median_angle"}
    assert kitchen["noise_of_normals"] > 20, "millimetres at random are all noise"


def test_flags_for_one_data_set_are_refused_for_several(save_model, tmp_path):
    write_photographs(tmp_path / "photos" / "office")
    flags = ["--model", save_model(), "--dataset", tmp_path / "photos", "--split", "test", "--update_card"]
    with pytest.raises(ValueError, match="has 1 data sets, and --update_card needs one"):
        main([str(flag) for flag in flags])


def test_a_missing_column_of_focal_lengths_is_refused(run, save_model, data):
    with pytest.raises(ValueError, match=r"--focal_length_column is 'focal', but .* has the columns \['id'"):
        run(save_model(), data, "--focal_length_column", "focal")
