"""Proves that the packaged checkpoints are complete, load without network access, and are better than a constant map on held-out rooms."""

import json
import re
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from huggingface_hub import ModelCard
from PIL import Image
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
ROOM = ROOT / "docs/images/living-room.jpg"


@dataclass
class Packaged:
    """A checkpoint of the package and what is expected of it."""

    directory: Path
    most_bytes: float
    license: str
    said: tuple[str, ...]
    """Parts of the card's text."""

    @cached_property
    def model(self):
        """The model in float32."""
        return MulTForMultiTaskDensePrediction.from_pretrained(self.directory).eval()


CHECKPOINTS = {
    "rooms-tiny": Packaged(
        Path(ROOMS_TINY_CHECKPOINT),
        15e6,
        "mit",
        ("accelerate launch examples/train.py --config examples/configs/rooms-tiny.yaml", "not photographs"),
    ),
    "indoor": Packaged(
        Path(INDOOR_CHECKPOINT), 30e6, "apache-2.0", ('pipeline("multitask-vision")',)
    ),  # the licence of the encoder's weights
}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def packaged(request):
    return CHECKPOINTS[request.param]


def test_the_pipeline_without_a_model_loads_the_default_without_network_access(monkeypatch):
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


def test_it_is_float32_in_memory_and_small_half_precision_on_disk(packaged):
    assert packaged.model.dtype == torch.float32
    weights = load_file(packaged.directory / "model.safetensors").values()
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.float16}
    assert (packaged.directory / "model.safetensors").stat().st_size <= packaged.most_bytes


def test_its_card_has_existing_images_a_licence_and_metrics_of_every_task(packaged):
    card = ModelCard.load(packaged.directory / "README.md")
    images = re.findall(r"\]\((\S+\.png)\)", card.text)
    assert len(images) == 1 + len(packaged.model.task_names)
    assert all((packaged.directory / image).is_file() for image in images)
    measured = {result.metric_name.split("/")[0] for result in card.data.eval_results if result.dataset_split == "test"}
    assert measured == set(packaged.model.task_names)
    assert card.data.license == packaged.license
    assert (packaged.directory / "LICENSE").is_file() == (packaged.license != "mit"), "MIT is the package's own licence"
    assert all(text in card.text for text in packaged.said)


def test_it_contains_no_paths_of_the_training_machine(packaged):
    for path in [*packaged.directory.glob("*.json"), packaged.directory / "README.md"]:
        assert not re.search(r"(?<![\w.])/(root|home|tmp|work|Users)/", path.read_text()), path


def test_saving_it_again_adds_the_code_for_machines_without_the_package(packaged, tmp_path):
    MulTForMultiTaskDensePrediction.from_pretrained(packaged.directory).save_pretrained(tmp_path)
    assert (tmp_path / "modeling_mult.py").is_file()
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.slow
def test_it_beats_the_constant_map_in_every_task_on_held_out_rooms(packaged):
    """By the headline metric, on the sample's test rooms, whose seeds are none of those it was trained or chosen on."""
    specs = measured_specs(packaged.model.config.task_specs, resolve_tasks(load_task_entries(SAMPLE)))
    processor = MulTImageProcessor.from_pretrained(packaged.directory, tasks=[spec.to_dict() for spec in specs.values()])
    collator, test = MultiTaskCollator(processor), load_rows(SAMPLE, split="test").select(range(0, 64, 4))
    baseline = constant_baseline(load_rows(SAMPLE, split="train"), collator)
    predictors = {"model": lambda values: predict(packaged.model, values), "constant baseline": baseline}
    evaluations = evaluate(predictors, test, collator, Accelerator(cpu=True), batch_size=8, per_image=False)
    ours, constant = (each.compute() for each in evaluations.values())
    for task, spec in specs.items():
        headline = f"{task}/{spec.metrics[0]}"
        sign = 1 if higher_is_better(evaluations["model"].metrics, headline) else -1
        assert sign * ours[headline] > sign * constant[headline], headline


# --- rooms-tiny ---


def test_the_settings_of_rooms_tiny_match_the_configuration_file_in_its_command():
    settings = yaml.safe_load((ROOT / "examples/configs/rooms-tiny.yaml").read_text())
    recorded = json.loads((CHECKPOINTS["rooms-tiny"].directory / "training.json").read_text())["arguments"]
    assert {name: recorded[name] for name in settings} == {name: str(value) for name, value in settings.items()}


def test_rooms_tiny_was_not_trained_on_the_rooms_of_the_sample():
    (rooms, first), *_ = re.findall(r"--rooms (\d+) .*--seed (\d+)", (CHECKPOINTS["rooms-tiny"].directory / "README.md").read_text())
    assert not set(load_rows(SAMPLE, split="test")["room"]) & set(range(int(first), int(first) + int(rooms)))


def test_normals_of_rooms_tiny_distinguish_left_from_right():
    """A mirrored room has mirrored normals: x changes its sign."""
    model, processor = CHECKPOINTS["rooms-tiny"].model, MulTImageProcessor.from_pretrained(ROOMS_TINY_CHECKPOINT)
    pixel_values = processor(load_rows(SAMPLE, split="test").select(range(8))["image"][:], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        x, mirrored = (model(values, tasks=["normals"]).predictions["normals"][:, 0] for values in (pixel_values, pixel_values.flip(-1)))
    assert x.std() > 0.2
    assert torch.corrcoef(torch.stack([x.flatten(), -mirrored.flip(-1).flatten()]))[0, 1] > 0.8


# --- indoor ---


def test_the_pipeline_with_indoor_keeps_the_aspect_ratio_of_a_photograph():
    predict_maps = pipeline("multitask-vision", model=INDOOR_CHECKPOINT)
    with Image.open(ROOM) as photograph:
        maps = predict_maps(photograph.resize((360, 240)))
        wide = predict_maps.image_processor(photograph.resize((360, 240)), return_tensors="pt")["pixel_values"].shape
    assert wide[-1] / wide[-2] == pytest.approx(1.5, rel=0.01)
    assert list(maps) == list(mult_hf.MULT_TASKS)
    assert maps["depth"]["prediction"].shape[-2:] == (240, 360)
    assert all(maps[task]["prediction"].isfinite().all() for task in maps)


def test_for_indoor_a_longer_lens_means_a_greater_distance():
    """Depth of one image follows the focal length in proportion: it is learnt for one camera."""
    predict_maps = pipeline("multitask-vision", model=INDOOR_CHECKPOINT)
    near, far = (predict_maps(str(ROOM), focal_length=focal)["depth"]["prediction"] for focal in (400.0, 800.0))
    within = far < 9.9  # the task's range ends at 10 m
    assert within.float().mean() > 0.5
    torch.testing.assert_close(far[within], 2 * near[within], rtol=1e-4, atol=0)
