"""Proves that the default checkpoint is complete, keeps aspect ratios and cameras apart, and is better than a constant map."""

import re
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

import mult_hf
from mult_hf import INDOOR_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import evaluate, higher_is_better
from mult_hf.inference.predictor import predict
from mult_hf.model.tasks import resolve_tasks

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = str(ROOT / "examples/data/rooms-sample")
DIRECTORY = Path(INDOOR_CHECKPOINT)


@pytest.fixture(scope="module")
def model():
    return MulTForMultiTaskDensePrediction.from_pretrained(INDOOR_CHECKPOINT).eval()


def test_the_pipeline_keeps_the_aspect_ratio_of_a_photograph():
    predict_maps = pipeline("multitask-vision", model=INDOOR_CHECKPOINT)
    with Image.open(ROOT / "docs/images/living-room.jpg") as photograph:
        maps = predict_maps(photograph.resize((360, 240)))
        wide = predict_maps.image_processor(photograph.resize((360, 240)), return_tensors="pt")["pixel_values"].shape
    assert wide[-1] / wide[-2] == pytest.approx(1.5, rel=0.01)
    assert list(maps) == list(mult_hf.MULT_TASKS)
    assert maps["depth"]["prediction"].shape[-2:] == (240, 360)
    assert all(maps[task]["prediction"].isfinite().all() for task in maps)


def test_a_longer_lens_means_a_greater_distance():
    """Depth of one image follows the focal length in proportion: it is learnt for one camera."""
    predict_maps = pipeline("multitask-vision", model=INDOOR_CHECKPOINT)
    image = str(ROOT / "docs/images/living-room.jpg")
    near, far = (predict_maps(image, focal_length=focal)["depth"]["prediction"] for focal in (400.0, 800.0))
    within = far < 9.9  # the task's range ends at 10 m
    assert within.float().mean() > 0.5
    torch.testing.assert_close(far[within], 2 * near[within], rtol=1e-4, atol=0)


def test_it_is_float32_in_memory_and_at_most_30_megabytes_of_half_precision_on_disk(model):
    assert model.dtype == torch.float32
    assert {weight.dtype for weight in load_file(DIRECTORY / "model.safetensors").values() if weight.is_floating_point()} == {torch.float16}
    assert (DIRECTORY / "model.safetensors").stat().st_size <= 30e6


def test_its_card_has_existing_images_the_encoders_licence_and_metrics_of_every_task(model):
    card = ModelCard.load(DIRECTORY / "README.md")
    images = re.findall(r"\]\((\S+\.png)\)", card.text)
    assert len(images) == 1 + len(model.task_names)
    assert all((DIRECTORY / image).is_file() for image in images)
    assert {result.metric_name.split("/")[0] for result in card.data.eval_results if result.dataset_split == "test"} == set(
        model.task_names
    )
    assert card.data.license == "apache-2.0", "that of the encoder's weights"
    assert "Apache License" in (DIRECTORY / "LICENSE").read_text()
    assert 'pipeline("multitask-vision")' in card.text


@pytest.mark.slow
def test_it_beats_the_constant_map_in_every_task_on_held_out_rooms(model):
    """By the headline metric, on the sample's test rooms, whose seeds are none of those it was trained on."""
    specs = measured_specs(model.config.task_specs, resolve_tasks(load_task_entries(SAMPLE)))
    processor = MulTImageProcessor.from_pretrained(INDOOR_CHECKPOINT, tasks=[spec.to_dict() for spec in specs.values()])
    collator, test = MultiTaskCollator(processor), load_rows(SAMPLE, split="test").select(range(0, 64, 4))
    baseline = constant_baseline(load_rows(SAMPLE, split="train"), collator)
    predictors = {"model": lambda values: predict(model, values), "constant baseline": baseline}
    evaluations = evaluate(predictors, test, collator, Accelerator(cpu=True), batch_size=8, per_image=False)
    ours, constant = (each.compute() for each in evaluations.values())
    for task, spec in specs.items():
        headline = f"{task}/{spec.metrics[0]}"
        sign = 1 if higher_is_better(evaluations["model"].metrics, headline) else -1
        assert sign * ours[headline] > sign * constant[headline], headline
