"""Proves that image processors decode stored label maps to targets that stay aligned with their images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mult_hf import MulTImageProcessor
from mult_hf.model.image_processing_base import MulTBatchFeature
from mult_hf.model.images import resize_label
from mult_hf.model.processor_labels import resized_target
from mult_hf.model.tasks import resolve_tasks

IMAGE = np.zeros((8, 9, 3), np.uint8)


@pytest.fixture
def targets(processor_class):
    """Targets of one image that is resized to the size of its stored maps."""

    def make(height, width, label_maps, **kwargs):
        processor = processor_class(size={"height": height, "width": width}, **kwargs)
        labels = processor(IMAGE, label_maps=label_maps, return_tensors="pt")["labels"]
        return {task: target[0] for task, target in labels.items()}

    return make


def test_stored_depth_becomes_metres(targets):
    stored = np.array([[512, 1280, 0], [65535, 8192, 8193]], np.uint16)  # 512 per metre; 0, 65535 and beyond 16 m unknown
    depth = targets(2, 3, {"depth": stored})["depth"]
    assert depth.shape == (1, 2, 3)
    assert depth.dtype == torch.float32
    torch.testing.assert_close(depth[0], torch.tensor([[1, 2.5, np.nan], [np.nan, 16, np.nan]]), equal_nan=True)


def test_stored_classes_become_ids_with_255_unknown(targets):
    classes = targets(2, 2, {"segmentation": np.array([[0, 1], [17, 2]], np.uint8)})["segmentation"]  # 0: unlabelled
    assert classes.dtype == torch.int64
    assert classes.tolist() == [[255, 0], [16, 1]]


def test_stored_normals_become_x_right_y_up_z_towards_the_viewer(targets):
    stored = np.full((5, 6, 3), 127, np.uint8)  # Taskonomy: x right, y down, z into the scene, 127 is zero
    stored[0, 0, 0] = stored[0, 1, 1] = stored[0, 2, 2] = 254
    normals = targets(5, 6, {"normals": stored})["normals"]
    assert normals.shape == (3, 5, 6)
    one = 127 / 127.5
    torch.testing.assert_close(normals[:, 0, :3].T, torch.tensor([[one, 0, 0], [0, -one, 0], [0, 0, -one]]))
    assert normals[:, 0, 3].isnan().all(), "grey is not a vector but a hole in the scan"


def test_stored_heat_maps_become_fractions(targets):
    shading = np.full((5, 6, 3), 9, np.uint8)
    shading[:, ::2, 0], shading[:, 1::2, 0] = 51, 255  # the first of three stored channels contains the map
    edges = np.tile(np.array([0, 65535], np.uint16), (5, 3))
    maps = targets(5, 6, {"edges2d": edges, "reshading": shading})
    torch.testing.assert_close(maps["edges2d"], torch.tensor([0.0, 1.0]).repeat(1, 5, 3))
    torch.testing.assert_close(maps["reshading"], torch.tensor([0.2, 1.0]).repeat(1, 5, 3))


@pytest.mark.parametrize(
    "form",
    [
        lambda s: s,
        lambda s: s[None],
        lambda s: s[..., None],
        lambda s: torch.from_numpy(s.astype(np.int32)),
        Image.fromarray,
        lambda s: Image.fromarray(s.astype(np.int32)),
    ],
    ids=["array", "channel first", "channel last", "tensor widened to 32 bits", "16-bit image", "32-bit image"],
)
def test_a_stored_map_can_be_an_image_an_array_or_a_tensor(targets, form):
    stored = (512 * np.arange(1, 31, dtype=np.uint16) % 8192).reshape(5, 6)
    wanted = targets(5, 6, {"depth": stored})["depth"]
    assert torch.isfinite(wanted).any()
    torch.testing.assert_close(targets(5, 6, {"depth": form(stored)})["depth"], wanted, equal_nan=True)


def test_the_orientation_that_pillow_heif_applied_counts_as_that_of_other_files(processor_class):
    """It turns a HEIC when it opens it, and the map may be stored in either direction."""
    image = Image.new("RGB", (9, 8))
    image.info["original_orientation"] = 3
    processor = processor_class(size={"height": 32, "width": 36})
    with pytest.raises(ValueError, match="the image has EXIF orientation 3 and is turned upright, and a map of 8 x 9 pixels"):
        processor(image, label_maps={"depth": np.ones((8, 9), np.uint16)})
    image.info["original_orientation"] = None
    processor(image, label_maps={"depth": np.ones((8, 9), np.uint16)})


def test_stored_numbers_in_bfloat16_are_read(targets):
    heat = {"name": "heat", "kind": "regression", "channels": 1}
    values = targets(8, 9, {"heat": torch.full((8, 9), 0.5, dtype=torch.bfloat16)}, tasks=[heat])["heat"]
    assert values.unique().tolist() == [0.5]


def test_a_palette_image_is_read_as_ids_not_as_colours(targets):
    image = Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8)).convert("P")
    image.putpalette([200, 100, 50] * 256)
    assert targets(2, 2, {"segmentation": image})["segmentation"].tolist() == [[0, 1], [2, 3]]


def test_a_data_set_can_define_its_own_encoding(targets):
    millimetres = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001, "unknown": [0]}}
    depth = targets(1, 2, {"depth": np.array([[2500, 0]], np.uint16)}, tasks=[millimetres])["depth"]
    torch.testing.assert_close(depth, torch.tensor([[[2.5, np.nan]]]), equal_nan=True)


ANIMALS = {"name": "animals", "kind": "classification", "class_names": ["cat", "dog", "hen"]}


STORED = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)


@pytest.mark.parametrize("form", [np.asarray, Image.fromarray, torch.from_numpy, lambda stored: [stored]])
def test_segmentation_maps_are_the_maps_of_the_only_classification(processor_class, form):
    processor = processor_class(
        size={"height": 2, "width": 3}, tasks=["depth", {**ANIMALS, "encoding": {"dtype": "uint8", "unknown": [3, 255]}}]
    )
    image = np.zeros((2, 3, 3), np.uint8)
    labels = processor(image, form(STORED), return_tensors="pt")["labels"]
    assert {task: target.tolist() for task, target in labels.items()} == {"animals": [[[0, 1, 2], [255, 255, 1]]]}
    depth = np.full((2, 3), 1024, np.uint16)
    both = processor(image, segmentation_maps=form(STORED), label_maps={"depth": depth}, return_tensors="pt")["labels"]
    assert both["animals"].tolist() == labels["animals"].tolist()
    assert (both["depth"] == 2).all()


@pytest.mark.parametrize(
    ("tasks", "given", "said"),
    [
        (["depth"], {"segmentation_maps": STORED}, r"0 of the tasks \['depth'\] classify: \[\]"),
        (["segmentation", ANIMALS], {"segmentation_maps": STORED}, r"2 of the tasks .* classify: \['segmentation', 'animals'\]"),
        ([ANIMALS], {"segmentation_maps": STORED, "label_maps": {"animals": STORED}}, "maps of 'animals' came both as"),
        ([ANIMALS], {"segmentation_maps": {"animals": STORED}}, r"mapping of \['animals'\]; pass maps by task as label_maps="),
    ],
)
def test_segmentation_maps_without_a_single_classification_are_refused(processor_class, tasks, given, said):
    with pytest.raises(ValueError, match=said):
        processor_class(size={"height": 2, "width": 3}, tasks=tasks)(np.zeros((2, 3, 3), np.uint8), **given)


@pytest.mark.parametrize("entry", [ANIMALS, {"name": "segmentation", "class_names": ["cat", "dog", "hen"]}])
@pytest.mark.parametrize("when", ["made", "called", "saved"])
def test_do_reduce_labels_applies_to_both_arguments(processor_class, entry, when, tmp_path):
    """As in SegFormer, 0 and 255 become 255 and others are reduced by 1; the registered encoding, which does the same, is not applied."""
    reduce = {"do_reduce_labels": True}
    processor = processor_class(size={"height": 2, "width": 3}, tasks=[entry, "depth"], **(reduce if when != "called" else {}))
    if when == "saved":
        processor.save_pretrained(tmp_path)
        processor = processor_class.from_pretrained(tmp_path)
    image, call = np.zeros((2, 3, 3), np.uint8), {"return_tensors": "pt", **(reduce if when == "called" else {})}
    depth = np.full((2, 3), 1024, np.uint16)
    wanted = [[[255, 0, 1], [2, 255, 0]]]
    assert processor(image, STORED, **call)["labels"][entry["name"]].tolist() == wanted
    labels = processor(image, label_maps={entry["name"]: STORED, "depth": depth}, **call)["labels"]
    assert labels[entry["name"]].tolist() == wanted
    assert (labels["depth"] == 2).all(), "other tasks are not reduced"


def test_labels_are_not_reduced_by_default(processor_class):
    processor = processor_class(size={"height": 2, "width": 3}, tasks=[{**ANIMALS, "channels": 4, "class_names": []}])
    assert processor.to_dict()["do_reduce_labels"] is False
    assert processor(np.zeros((2, 3, 3), np.uint8), STORED, return_tensors="pt")["labels"]["animals"].tolist() == [[[0, 1, 2], [3, 255, 1]]]


def test_reading_images_without_conversion_to_rgb_is_refused(processor_class):
    with pytest.raises(ValueError, match="do_convert_rgb is False"):
        processor_class()(IMAGE, do_convert_rgb=False)
    with pytest.raises(ValueError, match="do_convert_rgb is False"):
        processor_class(do_convert_rgb=False)(IMAGE)


def test_an_image_without_a_map_has_an_unknown_target(processor_class, rgb):
    processor = processor_class(size={"height": 4, "width": 5})
    stored = {"depth": [np.full((6, 9), 512, np.uint16), None], "segmentation": [None, np.ones((6, 9), np.uint8)], "normals": [None, None]}
    labels = processor([rgb, rgb], label_maps=stored, return_tensors="pt")["labels"]
    assert {task: tuple(target.shape) for task, target in labels.items()} == {
        "depth": (2, 1, 4, 5),
        "segmentation": (2, 4, 5),
        "normals": (2, 3, 4, 5),
    }
    assert (labels["depth"][0] == 1).all()
    assert labels["depth"][1].isnan().all()
    assert (labels["segmentation"][0] == 255).all()
    assert (labels["segmentation"][1] == 0).all()
    assert labels["normals"].isnan().all()


def test_maps_are_resized_with_their_images(processor_class):
    processor = processor_class(size={"shortest_edge": 32})
    image = np.zeros((64, 96, 3), np.uint8)
    batch = processor(image, label_maps={"depth": np.full((128, 192), 512, np.uint16)}, return_tensors="pt")
    assert batch["pixel_values"].shape[-2:] == batch["labels"]["depth"].shape[-2:] == (32, 48)


@pytest.mark.parametrize(("task", "stored_type", "low", "high"), [("segmentation", np.uint8, 1, 17), ("reshading", np.uint8, 0, 255)])
def test_maps_stay_aligned_with_their_image(processor_class, task, stored_type, low, high):
    right = np.arange(96) >= 36  # the right part of the image is white, and of the map high
    image = np.repeat(np.tile(right, (64, 1))[..., None], 3, axis=-1).astype(np.uint8) * 255
    processor = processor_class(size={"height": 32, "width": 64}, do_normalize=False)
    batch = processor(image, label_maps={task: np.where(np.tile(right, (64, 1)), high, low).astype(stored_type)}, return_tensors="pt")
    white = batch["pixel_values"][0, 0, 0] > 0.5
    target = batch["labels"][task].reshape(32, 64)[0]
    assert white.sum() == 40  # 60 of 96 columns, in 64
    assert torch.equal(target > target.float().mean(), white)


def test_nearest_resizing_takes_the_middle_pixel():
    row = torch.arange(6).reshape(1, 6)
    assert resize_label(row, (1, 2), "nearest").tolist() == [[1, 4]]
    assert resize_label(row, (1, 12), "nearest").tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]]


@pytest.mark.parametrize(
    ("known", "wanted"),
    [([1.0, 2, 3, 6], 3.0), ([1.0, 2, 3, np.nan], 2.0), ([1.0, 3, np.nan, np.nan], 2.0), ([1.0, *[np.nan] * 3], np.nan)],
)
def test_bilinear_resizing_averages_known_pixels_and_is_unknown_below_half_weight(known, wanted):
    target = torch.tensor(known).reshape(1, 2, 2)
    torch.testing.assert_close(resize_label(target, (1, 1), "bilinear"), torch.tensor([[[wanted]]]), equal_nan=True)


def test_means_of_unit_vectors_are_unit_vectors_again():
    """Of columns that face right and up, the mean faces between them; it is shorter than 1."""
    columns = torch.zeros(3, 4, 8)
    columns[0, :, ::2] = columns[1, :, 1::2] = 1
    columns[:, 0] = torch.nan
    spec = replace(resolve_tasks(["normals"])["normals"], resample="bilinear")
    resized = resized_target(columns, (4, 4), spec)
    assert resized[:, 0].isnan().all()
    torch.testing.assert_close(resized[:, 1:], torch.tensor([0.5**0.5, 0.5**0.5, 0]).view(3, 1, 1).expand(3, 3, 4), atol=0.15, rtol=0)
    torch.testing.assert_close(resized[:, 1:].norm(dim=0), torch.ones(3, 4))
    longer = replace(spec, name="flow", activation="identity")
    assert resized_target(columns, (4, 4), longer)[:, 1:].norm(dim=0).max() < 0.8, "premise: other means are left as they are"


@pytest.mark.parametrize("resample", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(5, 7), (16, 16), (40, 31), (97, 131)])
def test_resizing_never_mixes_known_and_unknown(resample, size):
    unknown = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.4
    target = torch.where(unknown, torch.nan, 2.5).repeat(3, 1, 1)
    resized = resize_label(target, size, resample)
    assert resized.shape == (3, *size)
    known = resized.isfinite()
    assert 0 < known.sum() < known.numel()
    torch.testing.assert_close(resized[known], torch.full_like(resized[known], 2.5))
    assert torch.equal(known[0], known[1])  # a pixel is known in all channels or in none


@pytest.mark.parametrize("size", [(5, 7), (40, 31)])
def test_resizing_classes_invents_no_class(size):
    classes = torch.tensor([0, 9, 255])[torch.randint(3, (16, 16), generator=torch.Generator().manual_seed(0))]
    for resample in ("nearest", "bilinear"):  # ids are never averaged, whatever the entry says
        resized = resize_label(classes, size, resample)
        assert resized.dtype == torch.int64
        assert set(resized.unique().tolist()) == {0, 9, 255}


def test_resizing_ignores_extreme_values_that_mean_unknown():
    """Unknown depth is stored as 65535 = 128 m: if it were averaged before decoding, the target would show it."""
    stored = np.full((32, 32), 512, np.uint16)
    stored[:, 10:20] = 65535
    smooth = {"name": "depth", "resample": "bilinear"}
    labels = MulTImageProcessor(size={"height": 13, "width": 11}, tasks=[smooth])(
        np.zeros((32, 32, 3), np.uint8), label_maps={"depth": stored}, return_tensors="pt"
    )["labels"]["depth"]
    assert labels.isnan().any()
    assert torch.equal(labels[labels.isfinite()], torch.ones_like(labels[labels.isfinite()]))


@pytest.mark.parametrize(
    ("label_maps", "said"),
    [
        ({"depth": np.ones((4, 4), np.uint8)}, "depth: the stored map is uint8.*reads uint16"),
        ({"depth": np.full((4, 4), 70000)}, "70000.*reads uint16"),
        (
            {"segmentation": np.full((4, 4), 255, np.uint8)},
            "segmentation: 16 pixels have class 254, which the file stores as 255; classes run from 0 to 16",
        ),
        ({"normals": np.ones((4, 4), np.uint8)}, "normals: the stored map has 1 channels.* 3"),
        ({"depth": [None, None]}, "2 maps for 1 images"),
        ({"dpeth": None}, "'dpeth'.*tasks are"),
        ({"depth": "map.png"}, "PIL image, an array or a tensor, got str"),
    ],
    ids=["8 bits for 16", "beyond 16 bits", "wrong class", "wrong channels", "wrong number", "unknown task", "path"],
)
def test_a_map_that_does_not_fit_its_task_is_refused(processor_class, label_maps, said):
    with pytest.raises(ValueError, match=said):
        processor_class(size={"height": 4, "width": 4})(IMAGE, label_maps=label_maps, return_tensors="pt")


def test_the_wrong_map_of_a_batch_is_named(processor_class, tmp_path):
    Image.fromarray(np.full((4, 4), 99, np.uint8)).save(tmp_path / "room_7.png")
    maps = [np.ones((4, 4), np.uint8), Image.open(tmp_path / "room_7.png")]
    with pytest.raises(ValueError, match=r"label map 1 of .*room_7\.png"):
        processor_class(size={"height": 4, "width": 4})([IMAGE] * 2, label_maps={"segmentation": maps})


@pytest.mark.parametrize("kwargs", [{"do_center_crop": True, "crop_size": 2}, {"do_pad": True}])
def test_crops_and_padding_are_refused(processor_class, kwargs):
    with pytest.raises(ValueError, match="would shift predictions against their images"):
        processor_class()(IMAGE, label_maps={"depth": None}, **kwargs)


def test_labels_have_the_requested_type(processor_class, rgb):
    processor = processor_class(size={"height": 4, "width": 5})
    kinds = {kind: processor([rgb], label_maps={"depth": [None]}, return_tensors=kind)["labels"]["depth"] for kind in (None, "pt", "np")}
    assert isinstance(kinds[None], list)
    assert isinstance(kinds["pt"], torch.Tensor)
    assert isinstance(kinds["np"], np.ndarray)
    assert kinds[None][0].shape == (1, 4, 5)
    assert kinds["np"].shape == (1, 1, 4, 5)


def test_a_batch_moves_and_casts_its_nested_labels(processor_class, rgb):
    processor = processor_class(size={"height": 4, "width": 5})
    batch = processor(rgb, label_maps={"depth": None, "segmentation": None}, return_tensors="pt")
    assert isinstance(batch, MulTBatchFeature)
    assert batch["labels"]["depth"].device.type == "cpu"
    cast = batch.to(torch.bfloat16)
    assert cast["pixel_values"].dtype == cast["labels"]["depth"].dtype == torch.bfloat16
    assert cast["labels"]["segmentation"].dtype == torch.int64
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in [moved["pixel_values"], *moved["labels"].values()]} == {"meta"}


@pytest.mark.parametrize("masked", ["image", "label map"])
def test_a_masked_array_is_refused_because_its_mask_would_be_lost(masked):
    hidden = np.ma.array(np.full((32, 32), 7, np.uint16), mask=np.eye(32, dtype=bool))
    image = hidden if masked == "image" else np.zeros((32, 32, 3), np.uint8)
    label_maps = {"edges2d": hidden} if masked == "label map" else None
    processor = MulTImageProcessor(tasks=["edges2d"])
    with pytest.raises(ValueError, match=r"is a masked array, whose mask would be lost; call its filled\(\) with"):
        processor(image, label_maps=label_maps, return_tensors="pt")


def test_a_masked_array_without_masked_values_is_read(targets):
    whole = np.ma.array(np.full((8, 9), 7, np.uint16))
    assert targets(8, 9, {"edges2d": whole}, tasks=["edges2d"])["edges2d"].isfinite().all()
