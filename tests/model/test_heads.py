"""Proves that heads and post-processing align pixel centres, crop, activate, and keep the precision."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor, TaskSpec
from mult_hf.model.activations import ACTIVATIONS, Activation
from mult_hf.model.decoder_mult import Upsampling
from mult_hf.model.heads import MulTHead
from mult_hf.model.resizing import from_means

LENGTH = TaskSpec(name="length", kind="regression", channels=1)
BOUNDED = TaskSpec(name="bounded", kind="regression", channels=1, activation="sigmoid", value_range=(2.0, 5.0))
DIRECTION = TaskSpec(name="direction", kind="regression", channels=3, activation="unit_vector")


def ramp(height, width):
    """(1, 1, height, width): the index of the column plus 100 times the index of the row."""
    return (100.0 * torch.arange(height)[:, None] + torch.arange(width))[None, None]


def ramp_at_pixel_centres(height, width, factor):
    """The same ramp, `factor` times as large: a pixel's centre is half a pixel from its corner, and values at the border are repeated."""
    rows, columns = (((torch.arange(factor * side) + 0.5) / factor - 0.5).clamp(0, side - 1) for side in (height, width))
    return (100 * rows[:, None] + columns)[None, None]


def head_that_copies(spec):
    """A head whose projection is the identity."""
    head = MulTHead(spec.channels, spec)
    with torch.no_grad():
        head.projection.weight.copy_(torch.eye(spec.channels))
        head.projection.bias.zero_()
    return head


def test_a_head_aligns_pixel_centres_when_it_enlarges():
    found = head_that_copies(LENGTH)(ramp(3, 5), (12, 20), (12, 20))
    torch.testing.assert_close(found, ramp_at_pixel_centres(3, 5, 4))


def test_a_head_crops_the_padding_at_the_right_and_bottom():
    found = head_that_copies(LENGTH)(ramp(3, 5), (12, 20), (10, 17))
    torch.testing.assert_close(found, ramp_at_pixel_centres(3, 5, 4)[..., :10, :17])


def test_upsampling_between_stages_aligns_pixel_centres():
    upsampling = Upsampling(1, 1, 1e-5)
    upsampling.norm, upsampling.reduction = torch.nn.Identity(), torch.nn.Identity()
    found = upsampling(ramp(3, 5).permute(0, 2, 3, 1), (6, 10))
    torch.testing.assert_close(found.permute(0, 3, 1, 2), ramp_at_pixel_centres(3, 5, 2))


def test_post_processing_aligns_pixel_centres_when_it_enlarges():
    processor = MulTImageProcessor(tasks=[LENGTH])
    (found,) = processor.post_process({"length": ramp(3, 5)}, [(9, 15)])
    torch.testing.assert_close(found["length"]["prediction"], ramp_at_pixel_centres(3, 5, 3)[0, 0])


def test_post_processing_restores_unit_length():
    """The mean of two unit vectors is shorter than these."""
    across = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).view(1, 3, 1, 2).expand(-1, -1, 2, -1)
    (found,) = MulTImageProcessor(tasks=[DIRECTION]).post_process({"direction": across}, [(8, 8)])
    torch.testing.assert_close(found["direction"]["prediction"].norm(dim=0), torch.ones(8, 8))


def test_a_sigmoid_head_spans_its_range_from_the_lower_to_the_upper_bound():
    logits = torch.tensor([-100.0, 0.0, 100.0]).expand(1, 1, 3, 3)
    found = head_that_copies(BOUNDED)(logits, (3, 3), (3, 3))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([2.0, 3.5, 5.0]))


def test_a_sigmoid_head_without_a_range_spans_0_to_1():
    spec = TaskSpec(name="share", kind="regression", channels=1, activation="sigmoid")
    found = head_that_copies(spec)(torch.tensor([-100.0, 0.0, 100.0]).expand(1, 1, 3, 3), (3, 3), (3, 3))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([0.0, 0.5, 1.0]))


def test_vectors_have_unit_length_after_the_resize():
    torch.manual_seed(0)
    found = head_that_copies(DIRECTION)(torch.randn(2, 3, 4, 4), (16, 16), (16, 16))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, 16, 16))


@pytest.fixture
def own_activations(monkeypatch):
    """Those of a program: a plain function, one with a range, and one of directions."""
    monkeypatch.setitem(ACTIVATIONS, "plain", lambda logits, spec: logits.exp())
    monkeypatch.setitem(ACTIVATIONS, "positive", Activation(lambda logits, spec: F.softplus(logits), range=lambda spec: (0.0, math.inf)))
    monkeypatch.setitem(ACTIVATIONS, "axis", Activation(lambda logits, spec: F.normalize(logits, dim=1), gives_unit_vectors=True))


@pytest.mark.usefixtures("own_activations")
@pytest.mark.parametrize(
    ("name", "channels", "expected", "limits"),
    [
        ("plain", 1, math.e, (-math.inf, math.inf)),
        ("positive", 1, math.log(1 + math.e), (0, math.inf)),
        ("axis", 4, 0.5, (-math.inf, math.inf)),
    ],
)
def test_an_activation_of_a_program_reaches_the_finished_map(name, channels, expected, limits):
    spec = TaskSpec(name="own", kind="regression", channels=channels, activation=name)
    prediction = head_that_copies(spec)(torch.ones(1, channels, 2, 2), (4, 4), (4, 4))
    (found,) = MulTImageProcessor(tasks=[spec]).post_process({"own": prediction}, [(8, 8)])
    shape = (8, 8) if channels == 1 else (channels, 8, 8)
    torch.testing.assert_close(found["own"]["prediction"], torch.full(shape, expected))
    assert spec.head_range == limits


@pytest.mark.parametrize(
    ("function", "came"),
    [
        (lambda logits, spec: logits[:, :1], r"gave torch.float32 \(1, 1, 32, 32\) for logits \(1, 3, 32, 32\)"),
        (lambda logits, spec: logits.mean(), r"gave torch.float32 \(\) for logits"),
        (lambda logits, spec: logits.round().long(), r"gave torch.int64 \(1, 3, 32, 32\) for logits"),
        (lambda logits, spec: {"own": logits}, "gave dict for logits"),
        (lambda logits: logits, r"failed: TypeError: .*takes 1 positional argument"),
        (lambda logits, spec: logits / spec.missing, r"failed: AttributeError: .*'missing'"),
    ],
    ids=["fewer channels", "one number", "integers", "no tensor", "another signature", "an error of its own"],
)
def test_an_activation_that_gives_no_map_is_refused_before_any_image(monkeypatch, tiny_model, function, came):
    monkeypatch.setitem(ACTIVATIONS, "wrong", function)
    spec = TaskSpec(name="own", kind="regression", channels=3, activation="wrong")
    message = f"activation 'wrong' of task 'own' {came}.*; an activation is called as .* logits .batch, 3, height, width. and returns"
    with pytest.raises(ValueError, match=message):
        MulTHead(8, spec)
    model = tiny_model(tasks=[replace(spec, activation="identity")])
    model.config.tasks = [spec]
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    "function",
    [
        lambda logits, spec: logits * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1),
        lambda logits, spec: F.avg_pool2d(F.pad(logits, (2, 2, 2, 2), mode="reflect"), 5, 1),
    ],
    ids=["tensors of its own", "neighbourhoods"],
)
def test_a_model_with_an_activation_of_a_program_can_be_loaded(monkeypatch, tiny_model, tmp_path, function):
    """Transformers builds it on the meta device first."""
    monkeypatch.setitem(ACTIVATIONS, "own", function)
    model = tiny_model(tasks=[TaskSpec(name="own", kind="regression", channels=3, activation="own")])
    model.save_pretrained(tmp_path)
    loaded = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image).predictions["own"], model(image).predictions["own"])


@pytest.mark.usefixtures("own_activations")
def test_the_range_of_a_finished_map_is_what_both_activation_and_entry_allow():
    spec = TaskSpec(name="own", kind="regression", channels=1, activation="positive", value_range=(-5.0, 5.0))
    assert spec.final_range == (0, 5)
    with pytest.raises(ValueError, match=r"has value_range .-5.0, -1.0., and positive gives values from 0 to inf; give a range among them"):
        replace(spec, value_range=(-5.0, -1.0))


@pytest.mark.usefixtures("own_activations")
def test_directions_of_a_program_need_two_channels():
    with pytest.raises(ValueError, match="has one channel and axis, for vectors of 2 or more channels"):
        TaskSpec(name="own", kind="regression", channels=1, activation="axis")


def test_post_processing_refuses_an_activation_of_which_it_knows_nothing():
    """As one that only the program has that trained the model: its vectors would stay short."""
    spec = TaskSpec(name="own", kind="regression", channels=3, activation="unit_vectr")
    with pytest.raises(ValueError, match="task 'own' has activation 'unit_vectr'; allowed: identity, sigmoid, unit_vector"):
        MulTImageProcessor(tasks=[spec]).post_process({"own": torch.ones(1, 3, 4, 4)}, [(8, 8)])


@pytest.mark.usefixtures("own_activations")
def test_means_of_directions_are_normalised_whatever_their_activation_is_called():
    spec = TaskSpec(name="own", kind="regression", channels=2, activation="axis")
    across = torch.eye(2).view(1, 2, 1, 2).expand(-1, -1, 2, -1)
    (found,) = MulTImageProcessor(tasks=[spec]).post_process({"own": across}, [(8, 8)])
    torch.testing.assert_close(found["own"]["prediction"].norm(dim=0), torch.ones(8, 8))
    torch.testing.assert_close(from_means(0.5 * across, spec, channel_axis=1), across)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_head_resizes_in_full_precision(dtype):
    """Between 100 and 101 bfloat16 has only two numbers, so a resize in bfloat16 would give steps in place of a ramp."""
    head = head_that_copies(LENGTH).to(dtype)
    features = torch.tensor([100.0, 101.0]).expand(1, 1, 2, 2).to(dtype)
    found = head(features, (16, 16), (16, 16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0, 0, 0], 100 + ((torch.arange(16) + 0.5) / 8 - 0.5).clamp(0, 1))
