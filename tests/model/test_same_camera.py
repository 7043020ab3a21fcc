"""Proves that a model says for which camera it learnt depth, and that a processor with another one is refused wherever both meet."""

import json

import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from transformers import pipeline

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor, MultiTaskVisionPipeline
from mult_hf.cli import evaluate, export, predict, serve
from mult_hf.model.tasks import resolve_tasks
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.run import train
from support.models import TINY_SWIN
from support.training_runs import ROOT

GREY = {"dtype": "uint8", "scale": 1 / 255}
GRADIENT = {"name": "gradient", "kind": "regression", "channels": 1, "encoding": GREY}
DISTANCE = {**GRADIENT, "name": "distance", "zoom_exponent": -1.0}
SIZE = {"height": 32, "width": 32}


def build(camera=None, tasks=("depth",)):
    config = MulTConfig(backbone_config=dict(TINY_SWIN), tasks=list(tasks), canonical_focal_length=camera)
    return MulTForMultiTaskDensePrediction(config).eval()


def processor_for(camera, tasks=("depth",)):
    return MulTImageProcessor(size=SIZE, tasks=list(tasks), canonical_focal_length=camera)


def test_the_pipeline_refuses_a_processor_with_another_camera():
    said = "50 for the model and 96 for the processor, so depth would have the wrong scale; load the model's own processor"
    with pytest.raises(ValueError, match=said):
        MultiTaskVisionPipeline(build(50.0), image_processor=processor_for(96.0))


def test_a_processor_that_was_built_without_a_camera_gives_metres_with_that_of_the_model():
    """As one that was built for another size; it is left as it is."""
    model, image, bare = build(50.0), PILImage.new("RGB", (40, 32), "gray"), processor_for(None)
    expected = MultiTaskVisionPipeline(model, image_processor=processor_for(50.0))(image, focal_length=80.0)["depth"]
    found = MultiTaskVisionPipeline(model, image_processor=bare)(image, focal_length=80.0)["depth"]
    torch.testing.assert_close(found["prediction"], expected["prediction"])
    assert found["focal_length"] == expected["focal_length"]
    assert bare.canonical_focal_length is None


@pytest.mark.parametrize(("of_model", "of_processor"), [(50.0, 50), (None, 96.0), (None, None)])
def test_the_pipeline_takes_the_same_camera_and_any_where_the_model_does_not_say(of_model, of_processor):
    results = MultiTaskVisionPipeline(build(of_model), image_processor=processor_for(of_processor))(PILImage.new("RGB", (40, 32)))
    assert ("focal_length" in results["depth"]) == (of_processor is not None)


def test_the_camera_of_a_task_that_was_removed_has_no_effect():
    model = build(50.0, ("depth", "normals"))
    model.remove_task("depth")
    assert model.config.canonical_focal_length is None
    MultiTaskVisionPipeline(model, image_processor=processor_for(None, ("normals",)))


def test_a_camera_that_no_task_depends_on_is_not_compared():
    MultiTaskVisionPipeline(build(50.0, ("normals",)), image_processor=processor_for(96.0, ("normals",)))


def test_a_model_that_was_never_saved_gets_a_processor_with_its_camera():
    assert MultiTaskVisionPipeline(build(50.0)).image_processor.canonical_focal_length == 50


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf")])
def test_an_impossible_camera_is_refused(wrong):
    with pytest.raises(Exception, match="canonical_focal_length is"):
        MulTConfig(canonical_focal_length=wrong)


def test_the_configuration_names_a_camera_only_if_there_is_one(tmp_path):
    build(50.0).save_pretrained(tmp_path / "with")
    build(None).save_pretrained(tmp_path / "without")
    assert MulTConfig.from_pretrained(tmp_path / "with").canonical_focal_length == 50
    assert "canonical_focal_length" not in json.loads((tmp_path / "without/config.json").read_text())


@pytest.mark.parametrize("directory", sorted((ROOT / "mult_hf/checkpoints").glob("*/")), ids=lambda path: path.name)
def test_a_shipped_model_says_the_camera_of_its_processor(directory):
    of_processor = MulTImageProcessor.from_pretrained(directory).canonical_focal_length
    assert MulTConfig.from_pretrained(directory).canonical_focal_length == of_processor


@pytest.mark.parametrize(("tasks", "expected"), [((DISTANCE,), 96.0), ((GRADIENT,), None)])
def test_training_writes_the_camera_if_it_matters_to_a_task(tasks, expected, tmp_path):
    names = list(resolve_tasks(tasks))
    maps = {name: [PILImage.new("L", (32, 32), grey) for grey in (60, 90)] for name in names}
    rows = Dataset.from_dict(
        {"image": [PILImage.new("RGB", (32, 32))] * 2, **maps}, features=Features(dict.fromkeys(["image", *names], Image()))
    )
    model = build(tasks=tasks)
    train(model, processor_for(96.0, tasks), rows, rows, TrainingArguments(max_steps=1, batch_size=2, output_dir=tmp_path / "run"))
    assert MulTConfig.from_pretrained(tmp_path / "run").canonical_focal_length == model.config.canonical_focal_length == expected


def test_a_training_that_does_not_start_leaves_the_camera_as_it_was(tmp_path):
    model = build(tasks=(DISTANCE,))
    features = Features({"image": Image(), "distance": Image()})
    cells = {"image": [PILImage.new("RGB", (32, 32))] * 2, "distance": [PILImage.new("L", (32, 32), 60)] * 2}
    rows = Dataset.from_dict(cells, features=features)
    arguments = TrainingArguments(max_steps=1, output_dir=tmp_path / "run", resume="checkpoint-7")
    with pytest.raises((ValueError, OSError), match="checkpoint-7"):
        train(model, processor_for(96.0, (DISTANCE,)), rows, rows, arguments)
    assert model.config.canonical_focal_length is None


@pytest.mark.parametrize(("camera", "targets"), [(None, "true distances"), (96.0, "those for 96")])
def test_training_for_another_camera_says_so_and_takes_it(tmp_path, capsys, camera, targets):
    """As for data of one camera, which need no focal lengths."""
    features = Features({"image": Image(), "distance": Image()})
    cells = {"image": [PILImage.new("RGB", (32, 32))] * 2, "distance": [PILImage.new("L", (32, 32), 60)] * 2}
    rows = Dataset.from_dict(cells, features=features)
    model = build(50.0, (DISTANCE,))
    train(model, processor_for(camera, (DISTANCE,)), rows, rows, TrainingArguments(max_steps=1, batch_size=2, output_dir=tmp_path / "run"))
    said = f"learnt distance for a canonical focal length of 50, but the processor's targets are {targets}, so it learns anew"
    assert said in capsys.readouterr().out
    assert MulTConfig.from_pretrained(tmp_path / "run").canonical_focal_length == camera


def rows_of(*tasks):
    cells = {"image": [PILImage.new("RGB", (32, 32))] * 2, **{name: [PILImage.new("L", (32, 32), 60)] * 2 for name in tasks}}
    return Dataset.from_dict(cells, features=Features(dict.fromkeys(cells, Image())))


def without_labels(model):
    return rows_of("gradient")


def frozen(model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for _, parameter in model.task_parameters("gradient"):
        parameter.requires_grad_(True)
    return rows_of("gradient", "distance")


@pytest.mark.parametrize("keep", [without_labels, frozen])
def test_training_that_keeps_a_task_refuses_another_camera_for_it(tmp_path, keep):
    tasks = (GRADIENT, DISTANCE)
    model = build(50.0, tasks)
    rows = keep(model)
    arguments = TrainingArguments(max_steps=1, batch_size=2, output_dir=tmp_path / "run")
    for camera in (None, 96.0):
        with pytest.raises(ValueError, match=r"50 for the model and .* for the processor, so distance would have the wrong scale"):
            train(model, processor_for(camera, tasks), rows, rows, arguments)
        assert model.config.canonical_focal_length == 50
    train(model, processor_for(50.0, tasks), rows, rows, arguments)
    assert MulTConfig.from_pretrained(tmp_path / "run").canonical_focal_length == 50


def test_a_model_that_did_not_learn_distances_says_no_camera(tmp_path):
    tasks = (GRADIENT, DISTANCE)
    model, rows = build(None, tasks), rows_of("gradient")
    train(model, processor_for(96.0, tasks), rows, rows, TrainingArguments(max_steps=1, batch_size=2, output_dir=tmp_path / "run"))
    assert model.config.canonical_focal_length is None


@pytest.fixture
def directory(tmp_path):
    """A model whose processor was replaced by one without its camera."""
    build(50.0).save_pretrained(tmp_path / "model")
    processor_for(None).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (predict, ["--inputs", "{images}", "--output_dir", "{images}/out"]),
        (evaluate, ["--split", "validation[:2]"]),
        (export, ["--output_dir", "{images}/out"]),
        (serve, []),
    ],
    ids=["predict", "evaluate", "export", "serve"],
)
def test_a_command_refuses_a_directory_whose_processor_has_another_camera(command, flags, directory, tmp_path):
    PILImage.new("RGB", (40, 32)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"model contradicts itself: .* 50 for the model and none for the processor.*config\.json"):
        command.main(["--model", directory, *(flag.format(images=tmp_path) for flag in flags)])


def test_a_pipeline_refuses_such_a_directory_as_well(directory):
    with pytest.raises(ValueError, match=r"50 for the model and none for the processor.*; correct the wrong one of the two in its config"):
        pipeline("multitask-vision", model=directory)


def test_a_model_that_has_learnt_a_camera_since_it_was_loaded_counts_more_than_its_directory(tmp_path):
    build(None).save_pretrained(tmp_path)
    processor_for(None).save_pretrained(tmp_path)
    model = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).eval()
    model.config.canonical_focal_length = 96.0
    for processor in (None, processor_for(None)):
        assert MultiTaskVisionPipeline(model, image_processor=processor).image_processor.canonical_focal_length == 96


def test_a_camera_matters_only_to_the_tasks_that_are_computed(tmp_path):
    tasks = ("depth", "normals")
    build(50.0, tasks).save_pretrained(tmp_path / "model")
    processor_for(None, tasks).save_pretrained(tmp_path / "model")
    PILImage.new("RGB", (40, 32)).save(tmp_path / "image.png")
    words = ["--model", str(tmp_path / "model"), "--inputs", str(tmp_path / "image.png"), "--output_dir", str(tmp_path / "out")]
    assert not predict.main([*words, "--tasks", "normals"])
    with pytest.raises(ValueError, match="so depth would have the wrong scale"):
        predict.main([*words, "--tasks", "depth", "--overwrite"])
