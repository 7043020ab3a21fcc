"""Proves which model a run starts from: its position embeddings, its tasks, and its image size."""

import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage

from mult_hf import MulTForMultiTaskDensePrediction, TaskSpec
from mult_hf.model.tasks import resolve_tasks
from mult_hf.training.initialization import init_sincos_position_embeddings, load_trained, sincos_position_embedding, view_size


def test_sincos_embeddings_of_any_two_places_differ():
    found = sincos_position_embedding(4, 6, channels=10)
    assert found.shape == (1, 24, 10)
    distances = torch.cdist(found[0], found[0]) + torch.eye(24)
    assert distances.min() > 0.1


def test_a_linear_map_of_sincos_embeddings_separates_left_from_right_and_top_from_bottom():
    found = sincos_position_embedding(8, 8, channels=8).view(8, 8, 8)
    rows_cosine, columns_cosine = found[:, 0, 2], found[0, :, 6]  # sines and cosines of rows come first, two channels each
    for cosine in (rows_cosine, columns_cosine):
        assert (cosine.diff() < 0).all()
        torch.testing.assert_close(cosine, -cosine.flip(0))


def test_channels_that_are_left_over_are_zero():
    assert (sincos_position_embedding(2, 2, channels=7)[..., 4:] == 0).all()


def test_position_embeddings_start_from_waves_that_get_shorter_by_the_square_root_of_two():
    """Eight channels: sine and cosine of the row, then of the column, two waves each; a single row stands in the middle."""
    columns = (torch.arange(6) + 0.5) / 6
    found = sincos_position_embedding(1, 6, channels=8)[0]
    for wave, rate in enumerate((torch.pi, torch.pi * 2**0.5)):
        torch.testing.assert_close(found[:, 4 + wave], (columns * rate).sin())
        torch.testing.assert_close(found[:, 6 + wave], (columns * rate).cos())
        torch.testing.assert_close(found[:, wave], torch.full((6,), rate / 2).sin())


def test_the_position_embeddings_of_a_new_swin_become_sines_and_cosines(tiny_config):
    config = tiny_config(tasks=["depth"])
    config.backbone_config.use_absolute_embeddings, config.backbone_config.image_size = True, 32
    model = MulTForMultiTaskDensePrediction(config)
    embeddings = model.mult.backbone.swin.embeddings.position_embeddings
    assert (embeddings == 0).all()  # where transformers starts them
    init_sincos_position_embeddings(model)
    torch.testing.assert_close(embeddings, sincos_position_embedding(8, 8, channels=8))


def test_a_model_without_position_embeddings_does_not_change(tiny_model):
    model = tiny_model(tasks=["depth"])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    init_sincos_position_embeddings(model)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_trained_model_takes_the_tasks_of_the_data(tiny_model, tmp_path):
    tiny_model(tasks=["depth", "normals", "segmentation"]).save_pretrained(tmp_path)
    curvature = TaskSpec(name="principal_curvature", kind="regression", channels=2)
    specs = resolve_tasks(["normals", "depth", curvature])
    model = load_trained(str(tmp_path), specs)
    assert set(model.task_names) == set(specs)
    trained = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).state_dict()
    kept = {name: value for name, value in model.state_dict().items() if "principal_curvature" not in name}
    assert kept
    assert all(torch.equal(value, trained[name]) for name, value in kept.items())


def test_a_trained_model_with_other_classes_is_refused(tiny_model, tmp_path):
    tiny_model(tasks=["segmentation"]).save_pretrained(tmp_path)
    specs = resolve_tasks([{"name": "segmentation", "class_names": ["wall", "floor"]}])
    with pytest.raises(ValueError, match="segmentation: channels is 17 for the model and 2 for the data"):
        load_trained(str(tmp_path), specs)


def rows_of(width, height, **columns):
    return Dataset.from_dict({"image": [PILImage.new("RGB", (width, height))] * 2, **columns})


def test_views_have_the_stored_size_or_the_side_that_is_asked_for():
    assert view_size(rows_of(48, 32)) == {"height": 32, "width": 48}
    assert view_size(rows_of(48, 32), 64) == {"height": 64, "width": 64}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of(8, 8).rename_column("image", "photo"), r"2 rows with the columns \['photo'\]; expected .* a column 'image'"),
        (rows_of(8, 8).select([]), "0 rows with the columns .*; expected at least one row"),
    ],
    ids=["no image", "no rows"],
)
def test_rows_without_an_image_have_no_view_size(rows, message):
    with pytest.raises(ValueError, match=message):
        view_size(rows)
