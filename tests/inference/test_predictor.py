"""Proves that averaging over views mirrors, rescales and averages every task in its own space, using only the tasks' entries."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mult_hf import MULT_TASKS, TaskSpec
from mult_hf.inference.predictor import TestTimeAugmentation, predict

SPECS = {
    "classes": TaskSpec(name="classes", kind="classification", channels=2),
    "distance": TaskSpec(name="distance", kind="regression", channels=1, zoom_exponent=-1.0),
    "direction": TaskSpec(
        name="direction", kind="regression", channels=3, activation="unit_vector", horizontal_flip_signs=(-1.0, 1.0, 1.0)
    ),
}
FLIP = TestTimeAugmentation(flip=True)


class Handmade(nn.Module):
    """A model with one function of the image per task."""

    def __init__(self, **functions):
        super().__init__()
        self.config = SimpleNamespace(task_specs={task: SPECS[task] for task in functions})
        self.functions = functions
        self.eval()

    def forward(self, pixel_values, tasks=None):
        """As MulT: predictions by task."""
        return SimpleNamespace(predictions={task: self.functions[task](pixel_values) for task in tasks or self.functions})


def slope_to_the_right(images):
    """Central difference along the width, which changes its sign when the image is mirrored."""
    padded = F.pad(images[:, :1], (1, 1, 0, 0), mode="replicate")
    return padded[..., 2:] - padded[..., :-2]


COMMUTING = Handmade(
    classes=lambda images: images[:, :2],
    distance=lambda images: images.mean(dim=1, keepdim=True),
    direction=lambda images: F.normalize(torch.cat([slope_to_the_right(images), images[:, 1:]], dim=1), dim=1),
)


def by_side(if_bright_left, otherwise):
    """A prediction, the same for every pixel, that distinguishes an image from its mirror image by its left and right edge."""

    def function(images):
        bright_left = (images[..., :1] > images[..., -1:])[:, :1, :1]  # (batch, 1, 1, 1)
        values = torch.where(bright_left, *(torch.tensor(each).view(1, -1, 1, 1) for each in (if_bright_left, otherwise)))
        return values.expand(-1, -1, *images.shape[-2:])

    return function


BRIGHT_LEFT = torch.linspace(1, 0, 8).expand(1, 3, 8, 8)


def test_averaging_over_mirror_images_does_not_change_an_equivariant_model():
    images = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    plain, averaged = predict(COMMUTING, images), predict(COMMUTING, images, FLIP)
    assert plain["direction"][:, 0].abs().max() > 0.1, "the premise: there is an x whose sign matters"
    torch.testing.assert_close(averaged["classes"], plain["classes"].log_softmax(dim=1))
    for task in ("distance", "direction"):
        torch.testing.assert_close(averaged[task], plain[task])


def test_a_mirrored_image_gets_the_mirrored_prediction(tiny_model):
    """For any model, because both images have the same two views. Without averaging, an untrained model does not have this property."""
    model = tiny_model()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, averaged = ([predict(model, seen, augmentation) for seen in (image, image.flip(-1))] for augmentation in (None, FLIP))
    for task in MULT_TASKS:
        signs = torch.tensor(model.config.task_specs[task].flip_signs).view(-1, 1, 1)
        assert not torch.allclose(plain[1][task], plain[0][task].flip(-1) * signs, atol=1e-4)
        torch.testing.assert_close(averaged[1][task], averaged[0][task].flip(-1) * signs)


@pytest.mark.parametrize("scales", [(0.5,), (2.0,), (0.5, 1.0, 1.5)])
def test_depth_of_a_magnified_view_is_scaled_back(scales):
    """The model sees 2 m at a width of 64 pixels, and by the same optics 1 m at twice the width."""
    model = Handmade(distance=lambda images: torch.full_like(images[:, :1], 2.0 * 64 / images.shape[-1]))
    averaged = predict(model, torch.zeros(1, 3, 32, 64), TestTimeAugmentation(scales=scales))
    torch.testing.assert_close(averaged["distance"], torch.full((1, 1, 32, 64), 2.0))


def test_views_rounded_to_whole_pixels_are_scaled_back_by_their_actual_zoom():
    """10 x 0.33 pixels are 3, so the zoom is 0.3."""
    model = Handmade(distance=lambda images: torch.full_like(images[:, :1], 2.0 * 10 / images.shape[-1]))
    averaged = predict(model, torch.zeros(1, 3, 10, 10), TestTimeAugmentation(scales=(0.33,)))
    torch.testing.assert_close(averaged["distance"], torch.full((1, 1, 10, 10), 2.0))


def test_a_reduced_view_is_smoothed_against_aliasing():
    """Stripes of three pixels, 0, 0 and 1, are too fine for a third of the size, where each pixel is their mean.

    The distance of the shrunk view is divided by 3.
    """
    stripes = torch.zeros(1, 3, 48, 48)
    stripes[..., 2::3] = 1
    averaged = predict(Handmade(distance=lambda images: images[:, :1]), stripes, TestTimeAugmentation(scales=(1 / 3,)))
    torch.testing.assert_close(averaged["distance"][..., 8:-8], torch.full((1, 1, 48, 32), 1 / 9), rtol=0, atol=0.007)


def test_rescaled_views_do_not_change_a_task_without_zoom_exponent():
    model = Handmade(classes=lambda images: images[:, :2], direction=lambda images: F.normalize(images, dim=1))
    image = torch.tensor([0.3, -0.5, 0.8]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    averaged = predict(model, image, TestTimeAugmentation(flip=False, scales=(0.5, 2.0)))
    torch.testing.assert_close(averaged["direction"], F.normalize(image, dim=1))
    torch.testing.assert_close(averaged["classes"], image[:, :2].log_softmax(dim=1))


def test_class_probabilities_are_averaged_not_logits():
    """One view says 0.6 to 0.4, the other 0.1 to 0.9: 0.35 to 0.65. The mean of the logits would say 0.29 to 0.71."""
    logits = [[math.log(0.6), math.log(0.4)], [math.log(0.1), math.log(0.9)]]
    averaged = predict(Handmade(classes=by_side(*logits)), BRIGHT_LEFT, FLIP)
    torch.testing.assert_close(averaged["classes"][0, :, 0, 0].exp(), torch.tensor([0.35, 0.65]))


def test_probabilities_of_zero_keep_a_finite_logarithm():
    averaged = predict(Handmade(classes=by_side([1000.0, 0.0], [1000.0, 0.0])), BRIGHT_LEFT, FLIP)
    assert torch.isfinite(averaged["classes"]).all()
    assert (averaged["classes"].argmax(dim=1) == 0).all()


def test_the_mean_of_two_vectors_is_normalised():
    """(0, 1, 0) and (0, 0, 1) have the mean (0, 0.5, 0.5), whose direction is (0, 1, 1) / sqrt(2)."""
    averaged = predict(Handmade(direction=by_side([0.0, 1.0, 0.0], [0.0, 0.0, 1.0])), BRIGHT_LEFT, FLIP)
    torch.testing.assert_close(averaged["direction"][0, :, 0, 0], torch.tensor([0.0, 0.5**0.5, 0.5**0.5]))


def test_the_x_of_a_mirrored_vector_is_negated():
    """A wall to the right of the mirrored image is to the left of the image."""
    seen_right, seen_left = [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]
    averaged = predict(Handmade(direction=by_side(seen_right, seen_left)), BRIGHT_LEFT, FLIP)
    torch.testing.assert_close(averaged["direction"][0, :, 0, 0], torch.tensor(seen_right))


def test_without_views_the_prediction_is_that_of_the_model(tiny_model):
    model, image = tiny_model(), torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        expected = model(image, tasks=["segmentation", "depth"]).predictions
    predicted = predict(model, image, tasks=["segmentation", "depth"])
    assert predicted.keys() == expected.keys()
    assert all(torch.equal(predicted[task], expected[task]) for task in expected)


def test_a_wrapped_model_is_averaged_with_its_own_entries():
    images = torch.rand(1, 3, 8, 8)
    averaged = predict(nn.DataParallel(COMMUTING).eval(), images, FLIP)
    assert all(torch.equal(averaged[task], values) for task, values in predict(COMMUTING, images, FLIP).items())


def test_there_is_one_view_per_scale_and_side():
    assert TestTimeAugmentation(flip=True, scales=(1.0, 1.5)).views == [(1.0, False), (1.0, True), (1.5, False), (1.5, True)]
    assert TestTimeAugmentation().views == [(1.0, False)]


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), (math.nan,), (math.inf,)])
def test_invalid_scales_are_refused(scales):
    with pytest.raises(ValueError, match=r"scales are \(.*; give at least one number above 0"):
        TestTimeAugmentation(scales=scales)


def test_a_model_in_training_mode_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"training mode.*model.eval\(\)"):
        predict(tiny_model().train(), torch.zeros(1, 3, 32, 32))
