"""Proves that post-processing turns predictions into classes, metres and unit vectors at the size of each image."""

import numpy as np
import pytest
import torch

from mult_hf import MulTDensePredictionOutput, MulTImageProcessor, MulTImageProcessorPil

TWO_NUMBERS = {"name": "principal_curvature", "kind": "regression", "channels": 2}


def finished(predictions, target_sizes=None, tasks=None, **kwargs):
    return MulTImageProcessorPil(tasks=tasks).post_process(predictions, target_sizes, **kwargs)


def test_logits_become_class_ids_and_scores():
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 2, 0, 0], logits[0, 1, 0, 1] = np.log(2), np.log(6)
    (image,) = finished({"segmentation": logits}, tasks=[{"name": "segmentation", "class_names": ["a", "b", "c"]}], return_scores=True)
    assert image["segmentation"]["prediction"].tolist() == [[2, 1]]
    assert image["segmentation"]["prediction"].dtype == torch.int64
    torch.testing.assert_close(image["segmentation"]["scores"][:, 0].T, torch.tensor([[0.25, 0.25, 0.5], [0.125, 0.75, 0.125]]))


def test_scores_are_left_out_unless_requested():
    (image,) = finished({"segmentation": torch.zeros(1, 17, 2, 2)})
    assert list(image["segmentation"]) == ["prediction"]


def test_depth_stays_metres_and_maps_stay_in_their_range():
    (image,) = finished({"depth": torch.tensor([[[[2.5, 12.0]]]]), "edges2d": torch.tensor([[[[-0.25, 0.5, 1.5]]]])})
    assert image["depth"]["prediction"].tolist() == [[2.5, 10.0]]
    assert image["edges2d"]["prediction"].tolist() == [[0.0, 0.5, 1.0]]


def test_normals_have_unit_length_after_resizing():
    right, viewer = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    prediction = torch.stack([right, viewer], dim=-1).reshape(1, 3, 1, 2)
    (image,) = finished({"normals": prediction}, [(1, 4)])
    normals = image["normals"]["prediction"]
    assert normals.shape == (3, 1, 4)
    torch.testing.assert_close(normals.norm(dim=0), torch.ones(1, 4))
    torch.testing.assert_close(normals[:, 0, 1], torch.tensor([3.0, 0, 1]) / 10**0.5)  # three parts of one, one of the other
    torch.testing.assert_close(normals[:, 0, 0], right)


def test_each_image_has_its_own_size_and_unregistered_tasks_keep_their_channels():
    predictions = {"depth": torch.ones(2, 1, 4, 4), "principal_curvature": torch.ones(2, 2, 4, 4)}
    first, second = finished(predictions, [(3, 5), torch.Size([8, 2])], tasks=["depth", TWO_NUMBERS])
    assert [first[task]["prediction"].shape for task in predictions] == [(3, 5), (2, 3, 5)]
    assert [second[task]["prediction"].shape for task in predictions] == [(8, 2), (2, 8, 2)]
    first, _ = finished(predictions, tasks=["depth", TWO_NUMBERS])
    assert first["depth"]["prediction"].shape == (4, 4)


def test_images_of_a_batch_are_not_swapped():
    first, second = finished({"depth": torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)}, [(2, 2), (2, 2)])
    torch.testing.assert_close(first["depth"]["prediction"], torch.full((2, 2), 1.0))
    torch.testing.assert_close(second["depth"]["prediction"], torch.full((2, 2), 2.0))


def test_half_precision_predictions_become_float32():
    (image,) = finished({"depth": torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)})
    assert image["depth"]["prediction"].dtype == torch.float32


@pytest.mark.parametrize("processor", [MulTImageProcessor(), MulTImageProcessorPil()], ids=["torchvision", "pil"])
def test_post_process_methods_of_transformers_return_its_formats(processor):
    predictions = {
        "segmentation": torch.eye(17)[3].reshape(1, 17, 1, 1).expand(1, 17, 4, 4),
        "depth": torch.full((1, 1, 4, 4), 2.0),
        "normals": torch.tensor([0.0, 0, 1]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4),
    }
    outputs = MulTDensePredictionOutput(predictions=predictions)
    (classes,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(2, 3)])
    (both,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(2, 3)], return_segmentation_scores=True)
    assert torch.equal(both.segmentation, classes)
    torch.testing.assert_close(both.segmentation_scores, torch.eye(17)[3].reshape(17, 1, 1).expand(17, 2, 3))  # logits
    (depth,) = processor.post_process_depth_estimation(outputs, target_sizes=[(2, 3)])
    (normals,) = processor.post_process_normal_estimation(outputs, target_sizes=[(2, 3)])
    assert torch.equal(classes, torch.full((2, 3), 3))
    assert torch.equal(depth["predicted_depth"], torch.full((2, 3), 2.0))
    torch.testing.assert_close(normals["normals"], torch.tensor([0.0, 0, 1]).reshape(3, 1, 1).expand(3, 2, 3))


def test_invalid_input_of_post_processing_is_refused():
    with pytest.raises(ValueError, match="1 sizes for 2 images"):
        finished({"depth": torch.ones(2, 1, 4, 4)}, [(4, 4)])
    with pytest.raises(ValueError, match=r"the outputs have \{'depth': 1, 'normals': 2\} maps; give one per image of each task"):
        finished({"depth": torch.ones(1, 1, 4, 4), "normals": torch.ones(2, 3, 4, 4)})
    with pytest.raises(ValueError, match="task 'principal_curvature'"):
        finished({"principal_curvature": torch.ones(1, 2, 4, 4)})
    with pytest.raises(ValueError, match="0 tasks for 'depth-estimation'"):
        MulTImageProcessorPil().post_process_depth_estimation({"normals": torch.ones(1, 3, 4, 4)})


def test_post_processing_is_the_inverse_of_reading_a_map(processor_class):
    """Stored maps that are decoded, used as predictions, post-processed and encoded equal the stored maps."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(3, 8, 12))
    directions /= np.linalg.norm(directions, axis=0)
    processor = processor_class(size={"height": 8, "width": 12}, tasks=["segmentation", "depth", "normals", "edges2d", TWO_NUMBERS])
    specs = processor.task_specs
    stored = {
        "segmentation": random.integers(1, 18, (1, 8, 12)).astype(np.uint8),
        "depth": random.integers(1, 5120, (1, 8, 12)).astype(np.uint16),
        "normals": specs["normals"].encode(directions),
        "edges2d": random.integers(0, 65536, (1, 8, 12)).astype(np.uint16),
        "principal_curvature": random.normal(size=(2, 8, 12)).astype(np.float32),
    }
    labels = processor(np.zeros((8, 12, 3), np.uint8), label_maps=stored, return_tensors="pt")["labels"]
    predictions = dict(labels, segmentation=torch.nn.functional.one_hot(labels["segmentation"], 17).permute(0, 3, 1, 2) * 5.0)
    (image,) = processor.post_process(predictions, [(8, 12)])
    for task, maps in image.items():
        target = maps["prediction"].numpy().reshape((8, 12) if task == "segmentation" else (-1, 8, 12))
        difference = specs[task].encode(target).astype(np.float64) - stored[task]
        assert np.abs(difference).max() <= (1 if task == "normals" else 0), task  # stored normals are unit vectors up to rounding
