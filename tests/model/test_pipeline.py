"""Proves that the pipeline gives each task's map in its unit, takes models of any kind, and refuses wrong arguments."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import ViTImageProcessor, pipeline

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor, MulTImageProcessorPil
from mult_hf.model import pipeline_mult
from support.pipelines import INPUT_SIZE, NAMES, assert_same, make_model


def test_a_result_has_one_map_and_one_colour_image_per_task_at_the_size_of_the_image(wanted, image):
    channels = {"segmentation": (), "normals": (3,), "principal_curvature": (2,)}
    assert list(wanted) == NAMES
    for task, maps in wanted.items():
        assert list(maps) == ["prediction", "image"]
        assert tuple(maps["prediction"].shape) == (*channels.get(task, ()), image.height, image.width)
        assert maps["prediction"].dtype == (torch.int64 if task == "segmentation" else torch.float32)
        assert not maps["prediction"].requires_grad
        assert maps["image"].size == image.size
        assert maps["image"].mode == "RGB"


def test_predictions_are_those_of_the_model_resized_to_the_image(predict, wanted, image):
    processor = MulTImageProcessor(size=INPUT_SIZE)
    with torch.no_grad():
        raw = predict.model(processor(image, return_tensors="pt")["pixel_values"]).predictions
    resized = {
        task: F.interpolate(maps, size=(image.height, image.width), mode="bilinear", align_corners=False)[0] for task, maps in raw.items()
    }
    assert (wanted["segmentation"]["prediction"] == resized["segmentation"].argmax(0)).float().mean() > 0.999
    for task in ("depth", "reshading"):
        torch.testing.assert_close(wanted[task]["prediction"], resized[task][0])
    torch.testing.assert_close(wanted["edges2d"]["prediction"], resized["edges2d"][0].clamp(0, 1))
    torch.testing.assert_close(wanted["normals"]["prediction"], F.normalize(resized["normals"], dim=0))
    torch.testing.assert_close(wanted["principal_curvature"]["prediction"], resized["principal_curvature"].clamp(-4, 4))


def test_units_and_colour_images_match_a_calculation_by_hand(image):
    """With zero weights, a head's output is its bias: sigmoid(0) of 10 m, a vector along one axis, one class."""
    model = make_model()
    biases = {
        "segmentation": F.one_hot(torch.tensor(3), 17).float(),
        "depth": torch.zeros(1),
        "normals": torch.tensor([0, 5.0, 0]),
        "keypoints2d": torch.tensor([2.0]),
        "edges2d": torch.tensor([-1.0]),
        "reshading": torch.tensor([np.log(3.0)]),
        "principal_curvature": torch.tensor([4.0, -4.0]),
    }
    with torch.no_grad():
        for task, bias in biases.items():
            model.heads.tasks[task].projection.weight.zero_()
            model.heads.tasks[task].projection.bias.copy_(bias)
    result = pipeline("multitask-vision", model=model)(image)
    by_hand = {
        "segmentation": 3,
        "depth": 5.0,  # metres
        "normals": [0.0, 1.0, 0.0],  # up, of length 1
        "keypoints2d": 1.0,
        "edges2d": 0.0,
        "reshading": 0.75,
        "principal_curvature": [4.0, -4.0],
    }
    for task, value in by_hand.items():
        prediction = result[task]["prediction"]
        constant = torch.tensor(value).reshape(-1, 1, 1).expand(-1, image.height, image.width)
        torch.testing.assert_close(prediction.reshape(constant.shape), constant, msg=lambda text, task=task: f"{task}: {text}")
    # Vectors are shown as red, green and blue, 0 in the middle: up is (half, full, half), and of two channels blue is half.
    assert result["normals"]["image"].getpixel((5, 7)) == (128, 255, 128)
    assert result["principal_curvature"]["image"].getpixel((5, 7)) == (255, 0, 128)


def test_maps_are_not_mirrored_or_turned(predict, image):
    """Light in the top left of an image changes the top left of a map most, even in an untrained model."""
    half = np.zeros((64, 96, 3), np.uint8)
    half[:32, :48] = 255  # bright top left
    depth = predict(half)["depth"]["prediction"]
    flat = predict(np.zeros_like(half))["depth"]["prediction"]
    change = (depth - flat).abs()
    assert change[:32, :48].mean() > 1.1 * max(change[:32, 48:].mean(), change[32:, :48].mean(), change[32:, 48:].mean())


def test_target_size_replaces_the_size_of_the_image(predict, image):
    result = predict(image, target_size=(50, 70))
    assert all(maps["prediction"].shape[-2:] == (50, 70) and maps["image"].size == (70, 50) for maps in result.values())


def test_max_side_bounds_the_longer_side_and_keeps_the_aspect_ratio(predict, image, flower):
    large, small = predict([image, flower], max_side=200, tasks=["depth", "segmentation"], batch_size=2)
    assert [maps["prediction"].shape[-2:] for maps in large.values()] == [(134, 200)] * 2, "of 214 x 320"
    assert large["depth"]["image"].size == (200, 134)
    assert small["depth"]["prediction"].shape == (120, 160), "no image is enlarged"


@pytest.mark.parametrize("options", [{"max_side": 0}, {"max_side": 2.5}, {"max_side": 65_536}, {"max_side": 100, "target_size": (30, 40)}])
def test_an_invalid_max_side_is_refused(predict, image, options):
    with pytest.raises(ValueError, match="max_side is"):
        predict(image, **options)


def test_maps_and_images_are_made_when_they_are_first_requested(predict, image, monkeypatch):
    made = []
    for name in ("finish", "colorize"):
        function = getattr(pipeline_mult, name)
        monkeypatch.setattr(pipeline_mult, name, lambda *args, name=name, function=function: made.append(name) or function(*args))
    result = predict(image)
    assert list(result["depth"]) == ["prediction", "image"]
    assert made == []
    assert result["depth"]["image"] is result["depth"]["image"]
    assert result["depth"]["prediction"] is result["depth"]["prediction"]
    assert made == ["finish", "colorize"], "once each, and the image is that of the prediction"


def test_a_result_is_a_dictionary_that_pickles_with_its_maps(predict, wanted, image):
    result = pickle.loads(pickle.dumps(predict(image)))
    assert isinstance(wanted["depth"], dict)
    assert_same(result, wanted)
    assert all(result[task]["image"].tobytes() == maps["image"].tobytes() for task, maps in wanted.items())


def test_only_the_requested_tasks_are_computed_with_the_same_results(predict, wanted, image):
    result = predict(image, tasks=["depth", "principal_curvature"])
    assert_same(result, {task: wanted[task] for task in ("depth", "principal_curvature")})
    assert list(predict(image, tasks="reshading")) == ["reshading"]


def test_arguments_of_the_pipeline_are_defaults_of_its_calls(directory, image):
    few = pipeline("multitask-vision", model=str(directory), tasks=["depth"], target_size=(30, 40))
    assert {task: tuple(maps["prediction"].shape) for task, maps in few(image).items()} == {"depth": (30, 40)}
    assert {task: tuple(maps["prediction"].shape) for task, maps in few(image, tasks=["edges2d"]).items()} == {"edges2d": (30, 40)}


def test_half_precision_gives_float32_maps_close_to_full_precision(directory, wanted, image):
    half = pipeline("multitask-vision", model=str(directory), dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    result = half(image)
    assert result["depth"]["prediction"].dtype == result["normals"]["prediction"].dtype == torch.float32
    difference = (result["depth"]["prediction"] - wanted["depth"]["prediction"]).abs()
    assert 0 < difference.max() < 0.5  # metres of 10; bfloat16 has eight bits


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), -1, "cuda"])
def test_results_are_on_the_cpu_for_any_device(directory, wanted, image, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_device = pipeline("multitask-vision", model=str(directory), device=device)
    assert on_device.model.device.type == torch.device("cpu" if device == -1 else device).type
    result = on_device(image)
    assert result["depth"]["prediction"].device.type == "cpu"
    assert_same(result, wanted, 1e-5 if device != "cuda" else 1e-2)


def test_a_model_object_is_used_with_the_processor_of_its_directory(directory, wanted, image):
    model = MulTForMultiTaskDensePrediction.from_pretrained(directory)
    by_object = pipeline("multitask-vision", model=model)
    assert (by_object.image_processor.size.height, by_object.image_processor.size.width) == (64, 96)
    assert_same(by_object(image), wanted)


def test_a_model_that_was_never_saved_gets_a_processor_for_its_tasks(wanted, image):
    fresh = pipeline("multitask-vision", model=make_model())
    assert list(fresh.image_processor.task_specs) == NAMES
    assert list(fresh(image)) == NAMES


def test_a_given_processor_is_used(predict, wanted, image):
    given = pipeline("multitask-vision", model=predict.model, image_processor=MulTImageProcessorPil(size=INPUT_SIZE))
    assert isinstance(given.image_processor, MulTImageProcessorPil)
    assert_same({"depth": given(image)["depth"]}, {"depth": wanted["depth"]}, 0.02)  # a grey level, see the processor


def test_a_processor_of_another_model_is_refused(predict):
    with pytest.raises(ValueError, match=r"image_processor is a ViTImageProcessor.*; give a MulTImageProcessor, or none for that of"):
        pipeline("multitask-vision", model=predict.model, image_processor=ViTImageProcessor())


def test_a_task_added_after_saving_is_shown(directory, image):
    model = MulTForMultiTaskDensePrediction.from_pretrained(directory)
    model.add_task({"name": "edge_occlusion", "kind": "regression", "channels": 1})
    assert list(pipeline("multitask-vision", model=model)(image)) == [*NAMES, "edge_occlusion"]


def test_the_error_for_an_unknown_task_lists_the_existing_ones(predict, image):
    with pytest.raises(ValueError, match=r"dpeth.*depth.*principal_curvature"):
        predict(image, tasks=["dpeth"])
    with pytest.raises(ValueError, match="choose at least one"):
        predict(image, tasks=[])


@pytest.mark.parametrize("size", [5, (0, 5), (50,), (3, 50, 70)])
def test_an_invalid_target_size_is_refused(predict, image, size):
    with pytest.raises(ValueError, match="target_size"):
        predict(image, target_size=size)


def test_a_misspelt_argument_is_refused(predict, image):
    with pytest.raises(TypeError, match="no argument taks; it takes tasks, target_size, max_side"):
        predict(image, taks=["depth"])
