"""Proves that both packaged checkpoints are complete, load without network access, and are better than a constant map on held-out rooms."""

import json
import re
import socket
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import pipeline

import mult_hf
from mult_hf import DEFAULT_CHECKPOINT, INDOOR_CHECKPOINT, ROOMS_TINY_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import evaluate, higher_is_better
from mult_hf.inference.predictor import predict
from mult_hf.model.tasks import resolve_tasks

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = str(ROOT / "examples/data/rooms-sample")
IMAGE = str(ROOT / "docs/images/coffee.jpg")
DIRECTORY = Path(ROOMS_TINY_CHECKPOINT)
PACKAGED = pytest.mark.parametrize("directory", [ROOMS_TINY_CHECKPOINT, INDOOR_CHECKPOINT], ids=lambda path: Path(path).name)


@pytest.fixture(scope="module")
def model():
    return MulTForMultiTaskDensePrediction.from_pretrained(ROOMS_TINY_CHECKPOINT).eval()


def test_the_pipeline_without_a_model_loads_it_without_network_access(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"asked the network for {arguments}")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    predict_maps = pipeline("multitask-vision")
    assert predict_maps.model.name_or_path == DEFAULT_CHECKPOINT == INDOOR_CHECKPOINT
    maps = predict_maps(IMAGE)
    assert list(maps) == list(mult_hf.MULT_TASKS)
    assert maps["depth"]["prediction"].isfinite().all()


def test_it_is_float32_in_memory_and_at_most_15_megabytes_of_half_precision_on_disk(model):
    assert model.dtype == torch.float32
    assert {weight.dtype for weight in load_file(DIRECTORY / "model.safetensors").values()} == {torch.float16}
    assert (DIRECTORY / "model.safetensors").stat().st_size <= 15e6


def test_its_card_has_existing_images_and_metrics_of_every_task(model):
    card = ModelCard.load(DIRECTORY / "README.md")
    images = re.findall(r"\]\((\S+\.png)\)", card.text)
    assert len(images) == 1 + len(model.task_names)
    assert all((DIRECTORY / image).is_file() for image in images)
    assert {result.metric_name.split("/")[0] for result in card.data.eval_results if result.dataset_split == "test"} == set(
        model.task_names
    )
    assert "accelerate launch examples/train.py --config examples/configs/rooms-tiny.yaml" in card.text
    assert "not photographs" in card.text


@PACKAGED
def test_a_packaged_model_contains_no_paths_of_the_training_machine(directory):
    for path in [*Path(directory).glob("*.json"), Path(directory, "README.md")]:
        assert not re.search(r"(?<![\w.])/(root|home|tmp|work|Users)/", path.read_text()), path


def test_its_settings_match_the_configuration_file_in_its_command():
    settings = yaml.safe_load((ROOT / "examples/configs/rooms-tiny.yaml").read_text())
    recorded = json.loads((DIRECTORY / "training.json").read_text())["arguments"]
    assert {name: recorded[name] for name in settings} == {name: str(value) for name, value in settings.items()}


@PACKAGED
def test_saving_it_again_adds_the_code_for_machines_without_the_package(directory, tmp_path):
    MulTForMultiTaskDensePrediction.from_pretrained(directory).save_pretrained(tmp_path)
    assert (tmp_path / "modeling_mult.py").is_file()
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())


def test_its_normals_distinguish_left_from_right(model):
    """A mirrored room has mirrored normals: x changes its sign."""
    processor = MulTImageProcessor.from_pretrained(ROOMS_TINY_CHECKPOINT)
    pixel_values = processor(load_rows(SAMPLE, split="test").select(range(8))["image"][:], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        x, mirrored = (model(values, tasks=["normals"]).predictions["normals"][:, 0] for values in (pixel_values, pixel_values.flip(-1)))
    assert x.std() > 0.2
    assert torch.corrcoef(torch.stack([x.flatten(), -mirrored.flip(-1).flatten()]))[0, 1] > 0.8


@pytest.mark.slow
def test_it_beats_the_constant_map_in_every_task_on_held_out_rooms(model):
    """By the headline metric, on the sample's test rooms, whose seeds are none of those it was trained or chosen on."""
    (rooms, first), *_ = re.findall(r"--rooms (\d+) .*--seed (\d+)", (DIRECTORY / "README.md").read_text())
    seen = range(int(first), int(first) + int(rooms))
    specs = measured_specs(model.config.task_specs, resolve_tasks(load_task_entries(SAMPLE)))
    processor = MulTImageProcessor.from_pretrained(ROOMS_TINY_CHECKPOINT, tasks=[spec.to_dict() for spec in specs.values()])
    collator, test = MultiTaskCollator(processor), load_rows(SAMPLE, split="test").select(range(0, 64, 2))
    assert not set(test["room"]) & set(seen)
    baseline = constant_baseline(load_rows(SAMPLE, split="train"), collator)
    predictors = {"model": lambda values: predict(model, values), "constant baseline": baseline}
    evaluations = evaluate(predictors, test, collator, Accelerator(cpu=True), batch_size=8, per_image=False)
    ours, constant = (each.compute() for each in evaluations.values())
    for task, spec in specs.items():
        headline = f"{task}/{spec.metrics[0]}"
        sign = 1 if higher_is_better(evaluations["model"].metrics, headline) else -1
        assert sign * ours[headline] > sign * constant[headline], (
            f"{headline}: {ours[headline]:.4f}, constant map: {constant[headline]:.4f}"
        )
