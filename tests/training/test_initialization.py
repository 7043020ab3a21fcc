"""Proves properties of a run's initial model: its position embeddings, its tasks, and its image size."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor, TaskSpec
from mult_hf.evaluation.compatibility import check_same_entries
from mult_hf.model.tasks import resolve_tasks
from mult_hf.training.arguments import ModelArguments
from mult_hf.training.initialization import (
    build_model,
    build_processor,
    init_sincos_position_embeddings,
    load_trained,
    sincos_position_embedding,
    specs_of_model,
    view_size,
)


def test_sincos_embeddings_of_any_two_positions_differ():
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


def test_remaining_channels_are_zero():
    assert (sincos_position_embedding(2, 2, channels=7)[..., 4:] == 0).all()


def test_the_periods_of_position_embeddings_fall_by_the_square_root_of_two():
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


def test_a_model_without_position_embeddings_does_not_change(shallow_model):
    model = shallow_model(tasks=["depth"])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    init_sincos_position_embeddings(model)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_images_are_normalised_as_those_of_the_pretrained_encoder(tmp_path):
    specs, size = resolve_tasks(["depth"]), {"height": 32, "width": 64}
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.1]}')
    own = build_processor(ModelArguments(), specs, size)
    encoders = build_processor(ModelArguments(backbone=str(tmp_path)), specs, size)
    assert [*own.image_mean] == [0.485, 0.456, 0.406]
    assert ([*encoders.image_mean], [*encoders.image_std]) == ([0.5, 0.4, 0.3], [0.3, 0.2, 0.1])
    for processor in (own, encoders):
        assert (processor.size["height"], processor.size["width"], list(processor.task_specs)) == (32, 64, ["depth"])


def test_training_from_a_checkpoint_keeps_its_normalisation_and_its_canonical_camera(tmp_path):
    trained = MulTImageProcessor(
        size={"shortest_edge": 64}, tasks=["depth", "normals"], image_mean=[0.5] * 3, image_std=[0.25] * 3, canonical_focal_length=96.0,
        assumed_field_of_view=70.0, resample=3, do_resize=False, do_reduce_labels=True,
    )  # fmt: skip
    trained.save_pretrained(tmp_path)
    specs, size = resolve_tasks(["depth"]), {"height": 32, "width": 64}
    processor = build_processor(ModelArguments(model=str(tmp_path)), specs, size)
    assert ([*processor.image_mean], [*processor.image_std], int(processor.resample)) == ([0.5] * 3, [0.25] * 3, 3)
    assert (processor.canonical_focal_length, processor.assumed_field_of_view) == (96.0, 70.0)
    assert (processor.size["height"], processor.size["width"], list(processor.task_specs)) == (32, 64, ["depth"])
    assert processor.do_resize, "the data's images have sizes of their own"
    assert not processor.do_reduce_labels, "ids of the data are those of its entries"


@pytest.mark.parametrize(("own", "learnt"), [(96.0, "learnt depth for 96"), (None, "learnt depth without one")])
def test_another_canonical_camera_than_the_checkpoints_is_refused(own, learnt, tmp_path):
    MulTImageProcessor(size={"height": 32, "width": 32}, tasks=["depth"], canonical_focal_length=own).save_pretrained(tmp_path)
    arguments = ModelArguments(model=str(tmp_path), canonical_focal_length=200.0)
    with pytest.raises(ValueError, match=f"--canonical_focal_length is 200, but .* {learnt}; leave the flag out, or train a new model"):
        build_processor(arguments, resolve_tasks(["depth"]), {"height": 32, "width": 32})


def test_a_trained_model_is_adapted_to_the_tasks_of_the_data(shallow_model, tmp_path, capsys):
    shallow_model(tasks=["depth", "normals", "segmentation"]).save_pretrained(tmp_path)
    curvature = TaskSpec(name="principal_curvature", kind="regression", channels=2)
    specs = resolve_tasks(["normals", "depth", curvature])
    model = load_trained(str(tmp_path), specs)
    assert set(model.task_names) == set(specs)
    assert capsys.readouterr().out.splitlines() == [
        f"principal_curvature: {tmp_path} has no such task; its decoder and head start from random weights",
        f"the data have no segmentation: removed from the copy of {tmp_path} that is trained",
    ]
    trained = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).state_dict()
    kept = {name: value for name, value in model.state_dict().items() if "principal_curvature" not in name}
    assert kept
    assert all(torch.equal(value, trained[name]) for name, value in kept.items())


def test_only_new_tasks_have_gradients_on_request(shallow_model, tmp_path):
    shallow_model(tasks=["depth", "normals"]).save_pretrained(tmp_path)
    arguments = ModelArguments(model=str(tmp_path), only_new_tasks=True)
    model = build_model(arguments, resolve_tasks(["edges2d", "depth", "reshading"]), 64, unlabelled=["reshading"])
    assert model.task_names == ["depth", "normals", "edges2d"]
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learnt == {name for name, _ in model.task_parameters("edges2d")}


def test_only_new_tasks_takes_data_with_another_loss_for_a_frozen_task(shallow_model, tmp_path):
    shallow_model(tasks=["depth"]).save_pretrained(tmp_path)
    specs = resolve_tasks([{"name": "depth", "loss": "silog"}, "edges2d"])
    model = build_model(ModelArguments(model=str(tmp_path), only_new_tasks=True), specs, 64)
    found = specs_of_model(model, specs)
    check_same_entries(model.config.task_specs, found)
    assert found["depth"].loss == "rotate_l1" != specs["depth"].loss, "that of the head, which is not trained"


def test_a_task_that_was_added_and_never_trained_is_new(shallow_model, tmp_path):
    shallow_model(tasks=["depth"]).save_pretrained(tmp_path / "old")
    model = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "old")
    model.add_task("edges2d")
    model.save_pretrained(tmp_path / "added")
    model = build_model(ModelArguments(model=str(tmp_path / "added"), only_new_tasks=True), resolve_tasks(["edges2d"]), 64)
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learnt == {name for name, _ in model.task_parameters("edges2d")}


def test_only_new_tasks_needs_a_new_task_and_a_trained_model(shallow_model, tmp_path):
    shallow_model(tasks=["depth", "segmentation"]).save_pretrained(tmp_path)
    arguments = ModelArguments(model=str(tmp_path), only_new_tasks=True)
    with pytest.raises(ValueError, match="has all tasks of the data, depth; leave out --only_new_tasks, or add a task to the data"):
        build_model(arguments, resolve_tasks(["depth"]), 64)
    with pytest.raises(ValueError, match="has all tasks of the data, depth; leave out --only"):
        build_model(arguments, resolve_tasks(["depth", "edges2d"]), 64, unlabelled=["edges2d"])
    other_classes = resolve_tasks([{"name": "segmentation", "channels": 2, "class_names": ["a", "b"]}, "edges2d"])
    with pytest.raises(ValueError, match="and the data 2 different ones, and --only_new_tasks keeps its head; name other tasks by --tasks"):
        build_model(arguments, other_classes, 64)
    with pytest.raises(ValueError, match="--only_new_tasks is given without --model; a new model has new tasks only"):
        ModelArguments(only_new_tasks=True)


def test_a_trained_task_is_learnt_as_in_the_data_within_the_range_of_its_head(shallow_model, tmp_path, capsys):
    """A loss and its weight belong together; a head's range is part of its weights, so the processor must not clip to another one."""
    depth = resolve_tasks(["depth"])["depth"]
    trained = replace(depth, loss="silog", weight=0.3, value_range=(0.0, 10.0))
    of_data = replace(depth, loss="l1", weight=2.0, value_range=(0.0, 64.0))
    shallow_model(tasks=[trained.to_dict(), "normals"]).save_pretrained(tmp_path)
    specs = {"depth": of_data, **resolve_tasks(["normals"])}
    model = load_trained(str(tmp_path), specs)
    for entry in (model.heads.specs["depth"], model.config.task_specs["depth"]):
        assert (entry.loss, entry.weight, entry.value_range) == ("l1", 2.0, (0.0, 10.0))
    of_processor = specs_of_model(model, specs)
    assert (of_processor["depth"].value_range, of_processor["depth"].encoding) == ((0.0, 10.0), of_data.encoding)
    assert of_processor["normals"] == specs["normals"]
    printed = capsys.readouterr().out
    assert "with the loss silog; the data's entry has l1" in printed
    assert "has the range from 0 to 10 m and the data from 0 to 64 m; its head keeps its own" in printed
    assert "normals" not in printed, "which are the same"


@pytest.mark.parametrize(
    "classes",
    [["wall", "floor"], [f"class {number}" for number in range(17)], [f"class {number}" for number in range(40)]],
    ids=["fewer", "as many", "more"],
)
def test_other_classes_get_a_new_head_and_keep_every_other_weight(shallow_model, tmp_path, capsys, classes):
    shallow_model(tasks=["segmentation", "depth"]).save_pretrained(tmp_path)
    trained = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path)
    specs = resolve_tasks([{"name": "segmentation", "class_names": classes}, "depth"])
    model = load_trained(str(tmp_path), specs)
    assert (
        f"segmentation: {tmp_path} has 17 classes and the data {len(classes)} different ones; its decoder is kept"
        in capsys.readouterr().out
    )
    changed = {
        name for name, value in model.state_dict().items() if value.shape != trained.state_dict()[name].shape
        or not torch.equal(value, trained.state_dict()[name])
    }  # fmt: skip
    assert changed == {"heads.tasks.segmentation.projection.weight", "heads.tasks.segmentation.projection.bias"}
    assert model.state_dict().keys() == trained.state_dict().keys()
    model.save_pretrained(tmp_path / "again")
    again = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "again").eval()
    assert list(again.config.task_specs["segmentation"].class_names) == classes
    images = torch.rand(1, 3, 64, 64)
    loss = again(images, labels={"segmentation": torch.full((1, 64, 64), len(classes) - 1)}).loss
    assert again(images).predictions["segmentation"].shape[1] == len(classes)
    assert loss.isfinite()


def test_data_without_the_reference_task_start_from_its_projections(shallow_model, tmp_path, capsys):
    shallow_model(tasks=["depth", "normals", "segmentation"], reference_task="normals").save_pretrained(tmp_path)
    trained = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).state_dict()
    model = load_trained(str(tmp_path), resolve_tasks([{"name": "segmentation", "class_names": ["wall", "floor"]}]))
    assert (model.task_names, model.config.reference_task) == (["segmentation"], "segmentation")
    *_, handed_over, removed = capsys.readouterr().out.splitlines()
    assert handed_over.startswith("the data have no normals, which computes the shared attention")
    assert handed_over.endswith("segmentation takes over its projections")
    assert removed == f"the data have no depth, normals: removed from the copy of {tmp_path} that is trained"
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("heads.")}
    taken_over = [name for name in kept if name not in trained]
    assert taken_over, "premise: only the reference task has projections of queries and keys"
    sources = {name: name if name in trained else name.replace(".segmentation.", ".normals.") for name in kept}
    assert all(torch.equal(value, trained[sources[name]]) for name, value in kept.items())
    assert model(torch.rand(1, 3, 64, 64)).predictions["segmentation"].isfinite().all()


def test_the_same_classes_keep_their_head(shallow_model, tmp_path, capsys):
    shallow_model(tasks=["segmentation"]).save_pretrained(tmp_path)
    trained = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).state_dict()
    model = load_trained(str(tmp_path), resolve_tasks(["segmentation"]))
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert capsys.readouterr().out == "", "nothing changes"


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "segmentation", "kind": "regression", "channels": 1, "class_names": [], "loss": "l1", "metrics": ["mae"]},
        {"name": "depth", "unit": "mm"},
    ],
)
def test_a_task_with_another_meaning_is_still_refused(shallow_model, tmp_path, entry):
    shallow_model(tasks=["segmentation", "depth"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{entry['name']}: .* for the model and .* for the data"):
        load_trained(str(tmp_path), resolve_tasks([entry]))


def rows_of(width, height, **columns):
    return Dataset.from_dict({"image": [PILImage.new("RGB", (width, height))] * 2, **columns})


def test_views_have_the_stored_size_or_the_requested_side():
    assert view_size(rows_of(48, 32)) == {"height": 32, "width": 48}
    assert view_size(rows_of(48, 32), 64) == {"height": 64, "width": 64}


def rows_of_sizes(*sizes):
    return Dataset.from_dict(
        {"image": [PILImage.new("RGB", (width, height)) for height, width in sizes]}, features=Features({"image": Image()})
    )


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ({"shortest_edge": 96}, {}, {"shortest_edge": 96}),
        ({"height": 96, "width": 128}, {}, {"height": 96, "width": 128}),
        ({"shortest_edge": 96}, {"do_resize": False}, {"height": 32, "width": 32}),
    ],
    ids=["shortest edge", "height and width", "stored size of a model that does not resize"],
)
def test_a_trained_model_keeps_its_size_which_is_printed(size, options, expected, tmp_path, capsys):
    MulTImageProcessor(size=size, tasks=["depth"], **options).save_pretrained(tmp_path)
    rows = rows_of_sizes((32, 32), (32, 32))
    assert view_size(rows, model=str(tmp_path)) == expected
    assert ("images are resized as for" in capsys.readouterr().out) == (not options)
    assert view_size(rows, 64, model=str(tmp_path)) == {"height": 64, "width": 64}, "--image_size comes first"


def test_images_of_several_sizes_are_resized_to_their_median_which_is_printed(capsys):
    rows = rows_of_sizes((1000, 40), (100, 150), (60, 160), (100, 200), (90, 170))
    assert view_size(rows) == {"height": 96, "width": 160}  # medians 100 and 160, to multiples of 32
    printed = capsys.readouterr().out
    assert "5 sizes, from 60 to 1000 pixels high and 40 to 200 wide: all are resized to 96 x 160" in printed
    assert "--image_size" in printed


def test_the_size_does_not_depend_on_the_order_of_images():
    sizes = [(40, 60), (200, 300), (100, 100)]
    assert view_size(rows_of_sizes(*sizes)) == view_size(rows_of_sizes(*sizes[::-1]))


def test_small_images_of_several_sizes_are_resized_to_the_encoders_minimum():
    assert view_size(rows_of_sizes((8, 8), (9, 9))) == {"height": 32, "width": 32}


def test_sizes_are_those_of_upright_images(tmp_path):
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.new("RGB", (48, 32)).save(tmp_path / "turned.jpg", exif=exif)
    rows = Dataset.from_dict({"image": [str(tmp_path / "turned.jpg")]}, features=Features({"image": Image()}))
    assert rows[0]["image"].size == (32, 48), "premise: datasets makes it upright"
    assert view_size(rows) == {"height": 48, "width": 32}


def test_an_image_without_a_readable_header_is_named_by_its_row():
    rows = Dataset.from_dict({"image": [{"bytes": b"nothing", "path": None}]}, features=Features({"image": Image()}))
    with pytest.raises(ValueError, match="row 0: its image  cannot be read"):
        view_size(rows)


def test_a_row_without_an_image_is_named():
    rows = Dataset.from_dict({"image": [PILImage.new("RGB", (8, 8)), None]}, features=Features({"image": Image()}))
    with pytest.raises(ValueError, match="row 1 has no image"):
        view_size(rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of(8, 8).rename_column("image", "frame"), r"2 rows with the columns \['frame'\]; expected .* a column 'image'"),
        (rows_of(8, 8).select([]), "0 rows with the columns .*; expected at least one row"),
    ],
    ids=["no image", "no rows"],
)
def test_rows_without_an_image_have_no_view_size(rows, message):
    with pytest.raises(ValueError, match=message):
        view_size(rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_weights_are_trained_in_float32(shallow_model, tmp_path, dtype):
    """AdamW divides by the square root of squared gradients, which are 0 in float16, so that a step gives NaN."""
    model = shallow_model()
    model.to(dtype).save_pretrained(tmp_path)
    loaded = load_trained(str(tmp_path), model.config.task_specs)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    loaded.save_pretrained(tmp_path / "trained")
    again = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "trained")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}, "the result is saved as it was trained"
