"""Proves that inputs of a wrong form are refused by name, by the reader, the processors, the model and the pipeline."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from mult_hf import MulTConfig, MulTImageProcessor
from mult_hf.model.images import read_image
from support.refusals import refusal

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


# Axes


@pytest.mark.parametrize("shape", [(3, 50, 3), (4, 50, 3), (1, 50, 3), (3, 50, 4), (3, 50, 1), (3, 3, 3), (1, 1, 1)])
@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy])
def test_an_array_whose_first_and_last_axis_may_be_that_of_the_channels_is_refused(shape, form):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with pytest.raises(ValueError, match=r"photo has shape .*: its channels may be the first axis or the last; say which by input_data"):
        read_image(form(array), "photo")
    assert read_image(form(array), channels_last=True).shape[1:] == shape[:2]
    assert read_image(form(array), channels_last=False).shape[1:] == shape[1:]


def test_a_narrow_image_is_read_as_its_data_format_says(processor_class):
    rows = np.full((3, 64, 3), (200, 10, 20), np.uint8)
    processor = processor_class(size={"height": 32, "width": 32}, do_normalize=False)
    with pytest.raises(ValueError, match="image 0 has shape"):
        processor(rows, return_tensors="pt")
    for array, form in ((rows, "channels_last"), (np.moveaxis(rows, -1, 0), "channels_first")):
        pixels = processor(array, input_data_format=form, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels[0, :, 0, 0] * 255, torch.tensor([200.0, 10, 20]))


def test_the_pipeline_reads_a_narrow_array_once(tiny_model):
    """As read, its channels lie first, which its shape (3, 50, 3) alone does not show."""
    predict = pipeline("multitask-vision", model=tiny_model(tasks=["depth"]), image_processor=MulTImageProcessor(tasks=["depth"]))
    assert predict(np.zeros((50, 3, 3), np.uint8))["depth"]["prediction"].shape == (50, 3)


# Sizes


@pytest.mark.parametrize(
    "size",
    [np.int64(48), 48, {"height": np.int64(48), "width": np.int32(48)}, (48, np.int16(48)), {"height": torch.tensor(48), "width": 48}],
)
def test_sizes_may_be_integers_of_numpy_and_torch(processor_class, tmp_path, size):
    for processor, keywords in ((processor_class(size=size), {}), (processor_class(), {"size": size})):
        assert processor(PHOTO, return_tensors="pt", **keywords)["pixel_values"].shape == (1, 3, 48, 48)
    processor_class(size=size).save_pretrained(tmp_path)
    assert dict(processor_class.from_pretrained(tmp_path).size) == dict(processor_class(size=48).size)


def test_the_shortest_edge_may_be_an_integer_of_numpy(processor_class):
    pixels = processor_class()(PHOTO, size={"shortest_edge": np.int64(32)}, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 40)


NUMBERS = {
    "image_mean": (np.array([0.5, 0.25, 0.75], np.float32), [0.5, 0.25, 0.75]),
    "image_std": ([1, np.int64(2), torch.tensor(4)], [1.0, 2.0, 4.0]),
    "rescale_factor": (np.float32(1 / 256), 1 / 256),
    "resample": (np.int64(2), 2),
    "do_normalize": (np.bool_(False), False),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_other_fields_may_be_numbers_of_numpy_and_torch(processor_class, tmp_path, name):
    """JSON cannot hold them, so a processor that kept them could not be saved, after training for example."""
    given, plain = NUMBERS[name]
    expected = processor_class(**{name: plain})(PHOTO, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor_class()(PHOTO, return_tensors="pt", **{name: given})["pixel_values"], expected)
    processor_class(**{name: given}).save_pretrained(tmp_path)
    assert torch.equal(processor_class.from_pretrained(tmp_path)(PHOTO, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("value", ["no", "false", 0, 1, [False]], ids=str)
@pytest.mark.parametrize("name", ["do_resize", "do_rescale", "do_normalize"])
def test_a_switch_that_is_neither_true_nor_false_is_refused(processor_class, name, value):
    """Text in a configuration file would count as True."""
    for call in (lambda: processor_class(**{name: value}), lambda: processor_class()(PHOTO, **{name: value})):
        assert refusal(call).startswith(f"{name} is {value!r} (")


@pytest.mark.parametrize(("name", "value"), [("image_std", [0.0, 1.0, 1.0]), ("image_mean", [1.0, 2.0]), ("rescale_factor", 0.0)])
def test_factors_of_a_call_are_checked_like_those_of_a_processor(processor_class, name, value):
    for call in (lambda: processor_class(**{name: value}), lambda: processor_class()(PHOTO, **{name: value})):
        assert refusal(call).startswith(f"{name} is {value!r}; give a finite number")


@pytest.mark.parametrize(
    "size",
    [
        *({"height": 0, "width": 5}, {"height": -5, "width": 64}, {"height": 64.5, "width": 64}, {"height": "64", "width": 64}),
        *({"height": True, "width": 64}, {"height": np.float32(64), "width": 64}, {"shortest_edge": 0}, {"height": 10**7, "width": 64}),
        *([64], (64, 64, 64), 0, -3, True, 6.5, "x", "64", [None, 64]),
    ],
    ids=str,
)
def test_a_size_that_is_no_whole_number_of_pixels_is_refused(processor_class, size):
    for call in (lambda: processor_class(size=size), lambda: processor_class()(PHOTO, size=size)):
        assert "give whole numbers of pixels from 1 to 16384" in refusal(call)


@pytest.mark.parametrize("shape", [(1, 33), (2000, 50)])
def test_an_image_too_long_to_keep_its_aspect_ratio_is_refused(processor_class, shape):
    """One row of 2000 pixels would become 224 x 448000, which fills the memory of a server, from a file of a kilobyte."""
    image, keeps_aspect = Image.new("RGB", shape[::-1]), processor_class(size={"shortest_edge": 8})
    message = refusal(lambda: keeps_aspect([PHOTO, image]))
    assert message.startswith(f"image 1 has {shape[0]} x {shape[1]} pixels, and its shorter side is resized to 8: the longer one may be")
    longest = Image.new("RGB", (32, 1))
    assert keeps_aspect(longest, return_tensors="pt")["pixel_values"].shape[-2:] == (8, 256)
    for others in ({"size": {"height": 8, "width": 8}}, {"size": {"shortest_edge": 8, "longest_edge": 40}}, {"do_resize": False}):
        assert max(keeps_aspect(image, return_tensors="pt", **others)["pixel_values"].shape[-2:]) <= max(shape), others


# The model


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (np.zeros((1, 3, 64, 64), np.float32), "pixel_values is a ndarray; expected a tensor"),
        ([torch.zeros(3, 64, 64)], "pixel_values is a list; expected a tensor"),
        (torch.zeros(0, 3, 64, 64), r"pixel_values has shape \(0, 3, 64, 64\); expected at least one image"),
    ],
)
def test_a_model_takes_tensors_of_at_least_one_image(tiny_model, pixel_values, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(tasks=["depth"])(pixel_values)


def test_tasks_that_are_no_names_are_refused(tiny_model):
    model = tiny_model(tasks=["depth"])
    with pytest.raises(ValueError, match=r"tasks=5; choose at least one of \['depth'\]"):
        model(torch.zeros(1, 3, 64, 64), tasks=5)
    with pytest.raises(ValueError, match=r"tasks=\[\['depth'\]\]; choose at least one of"):
        model(torch.zeros(1, 3, 64, 64), tasks=[["depth"]])
    with pytest.raises(ValueError, match="tasks is 5; expected names"):
        pipeline("multitask-vision", model=model, image_processor=MulTImageProcessor(tasks=["depth"]))(PHOTO, tasks=5)


@pytest.mark.parametrize("backbone", [{"embed_dim": 8}, {"model_type": None}, {"model_type": "nope"}, {"model_type": ["swin"]}])
def test_a_backbone_of_no_type_is_refused(backbone):
    with pytest.raises(ValueError, match=r"backbone_config has model_type .*which transformers does not have; give that of a backbone"):
        MulTConfig(backbone_config=backbone)


def test_an_image_without_values_is_refused():
    with pytest.raises(ValueError, match=r"image is a tensor of shape \(3, 40, 40\) on the meta device"):
        read_image(torch.empty(3, 40, 40, device="meta"))


# Tensors that are not dense

ODD_TENSORS = {
    "sparse": (torch.Tensor.to_sparse, "has the layout torch.sparse_coo; expected a dense tensor"),
    "quantized": (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.quint8), "is quantized"),
    "complex": (lambda tensor: tensor.to(torch.complex64), "is torch.complex64; expected real numbers"),
}


@pytest.mark.parametrize(("make", "message"), ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_sparse_quantized_and_complex_tensors_are_refused(tiny_model, make, message):
    """Of a complex depth, the imaginary part would be dropped; with others, torch fails in words that name no input."""
    model, processor = tiny_model(tasks=["depth"]), MulTImageProcessor(tasks=["depth"])
    with pytest.raises(ValueError, match=f"image 0 {message}"):
        processor(make(torch.zeros(3, 40, 50)))
    with pytest.raises(ValueError, match=f"a label map {message}"):
        processor(PHOTO, label_maps={"depth": [make(torch.zeros(1, 40, 50))]})
    with pytest.raises(ValueError, match=f"pixel_values {message}"):
        model(make(torch.zeros(1, 3, 64, 64)))
    with pytest.raises(ValueError, match=f"depth: the label {message}"):
        model(torch.zeros(1, 3, 64, 64), labels={"depth": make(torch.ones(1, 1, 64, 64))})
    with pytest.raises(ValueError, match=f"the prediction of depth {message}"):
        processor.post_process({"depth": make(torch.ones(1, 1, 8, 8))}, [(16, 16)])


# Predictions


def test_sizes_without_an_order_are_refused():
    """A set of two sizes would give each image the size of either."""
    processor = MulTImageProcessor(tasks=["depth"])
    for sizes in ({(10, 20), (30, 40)}, frozenset([(10, 20), (30, 40)]), {(10, 20): 0, (30, 40): 1}):
        with pytest.raises(ValueError, match=r"target_sizes is .*; give one \(height, width\) per image"):
            processor.post_process({"depth": torch.ones(2, 1, 8, 8)}, sizes)


def test_no_images_have_no_maps_and_maps_without_pixels_are_refused():
    processor = MulTImageProcessor(tasks=["depth"])
    assert processor.post_process({"depth": torch.ones(0, 1, 8, 8)}, []) == processor.post_process({"depth": torch.ones(0, 1, 8, 8)}) == []
    for sizes in (None, [(5, 5)]):
        with pytest.raises(ValueError, match=r"the prediction of depth has shape \(1, 1, 0, 8\); it has no pixels"):
            processor.post_process({"depth": torch.ones(1, 1, 0, 8)}, sizes)


def test_a_processor_of_no_task_is_refused(processor_class):
    with pytest.raises(ValueError, match=r"tasks is \[\]; give at least one name"):
        processor_class(tasks=[])


def test_logits_of_nan_are_of_no_class():
    """`argmax` would return the first class."""
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, 0] = 5
    logits[0, 2, 1, 0] = torch.nan
    logits[0, 2, 1, 1] = torch.inf
    processor = MulTImageProcessor(tasks=[{"name": "segmentation", "channels": 3, "class_names": ["a", "b", "c"]}])
    wanted = [[1, 1], [255, 2]]
    assert processor.post_process({"segmentation": logits})[0]["segmentation"]["prediction"].tolist() == wanted
    assert processor.post_process_semantic_segmentation({"segmentation": logits})[0].tolist() == wanted
    resized = processor.post_process({"segmentation": torch.full((1, 3, 8, 8), torch.nan)}, [(20, 30)])[0]["segmentation"]["prediction"]
    assert resized.shape == (20, 30)
    assert (resized == 255).all()


@pytest.mark.parametrize("size", [(10**9, 10**9), (70_000, 5), (0, 5), (5.5, 5), (True, 5), "55", [5, 6, 7]], ids=str)
def test_a_target_size_beyond_any_image_is_refused(tiny_model, size):
    predict = pipeline("multitask-vision", model=tiny_model(tasks=["depth"]), image_processor=MulTImageProcessor(tasks=["depth"]))
    with pytest.raises(ValueError, match=r"target_size is .*; expected \(height, width\) in whole pixels"):
        predict(Image.fromarray(PHOTO), target_size=size)
