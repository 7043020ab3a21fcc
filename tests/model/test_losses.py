"""Proves that every loss has the value of a calculation by hand, and that unknown pixels change neither losses nor gradients."""

import math
from dataclasses import replace

import pytest
import torch

from mult_hf import IGNORE_INDEX, TaskSpec, registered_tasks
from mult_hf.model import losses
from mult_hf.model.losses import LOSSES, count_labels, multi_task_loss

NAN = math.nan
REGRESSION_LOSSES = sorted(set(LOSSES) - {"cross_entropy"})


def maps(*rows: list, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One image of one channel, written row by row: (1, 1, height, width)."""
    return torch.tensor(rows, dtype=dtype)[None, None]


def pixels(*vectors: tuple[float, ...]) -> torch.Tensor:
    """One image with one row and a vector per pixel: (1, channels, 1, width)."""
    return torch.tensor(vectors).T[None, :, None]


def random_pair(loss: str, batch: int = 2, size: int = 7, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction and a fully known target that every loss accepts, equal nowhere: three channels, values in (0, 1)."""
    generator = torch.Generator().manual_seed(0)
    prediction = 0.1 + 0.8 * torch.rand(batch, 3, size, size, generator=generator, dtype=dtype)
    if loss == "cross_entropy":
        return prediction, torch.randint(0, 3, (batch, size, size), generator=generator)
    return prediction, 0.1 + 0.8 * torch.rand(batch, 3, size, size, generator=generator, dtype=dtype)


def unknown_value(loss: str) -> float:
    return IGNORE_INDEX if loss == "cross_entropy" else NAN


def gradient(loss: str, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    prediction = prediction.detach().clone().requires_grad_()
    LOSSES[loss](prediction, target).backward()
    return prediction.grad


# Values by hand.


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes():
    value = losses.cross_entropy(torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    assert value.item() == pytest.approx(math.log(5))


def test_cross_entropy_is_the_mean_over_known_pixels_of_the_negative_log_probability():
    logits = pixels((math.log(3), 0.0), (math.log(3), 0.0), (9.0, -9.0))  # probabilities 3/4 and 1/4, twice
    target = torch.tensor([[[0, 1, IGNORE_INDEX]]])
    assert losses.cross_entropy(logits, target).item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_l1_is_the_mean_absolute_error_over_known_pixels():
    assert losses.l1(maps([1.0, 2.0, 9.0]), maps([0.0, 5.0, NAN])).item() == pytest.approx((1 + 3) / 2)


def test_l1_of_vectors_is_the_mean_over_channels_too():
    assert losses.l1(pixels((1.0, 2.0, 3.0)), pixels((0.0, 0.0, 0.0))).item() == pytest.approx(2)


def test_a_vector_with_one_unknown_channel_is_unknown():
    prediction, target = pixels((1.0, 1.0), (5.0, 5.0)), pixels((0.0, 0.0), (0.0, NAN))
    assert losses.l1(prediction, target).item() == pytest.approx(1)


def test_an_infinite_target_is_unknown():
    assert losses.l1(maps([1.0, 2.0, 3.0]), maps([0.0, math.inf, -math.inf])).item() == pytest.approx(1)


def test_silog_forgives_85_percent_of_a_common_factor():
    # d = log 2 everywhere: mean(d^2) - 0.85 mean(d)^2 = 0.15 log(2)^2.
    value = losses.silog(maps([2.0, 4.0, 6.0]), maps([1.0, 2.0, 3.0]))
    assert value.item() == pytest.approx(10 * math.sqrt(0.15) * math.log(2))


def test_silog_of_errors_that_cancel_is_ten_times_their_root_mean_square():
    # d = 1 and -1: mean(d^2) = 1, mean(d) = 0.
    assert losses.silog(maps([math.e, 1 / math.e]), maps([1.0, 1.0])).item() == pytest.approx(10)


def test_silog_takes_targets_of_zero_or_less_as_unknown():
    value = losses.silog(maps([math.e, 1 / math.e, 5.0, 5.0, 5.0]), maps([1.0, 1.0, 0.0, -1.0, NAN]))
    assert value.item() == pytest.approx(10)


def test_silog_of_a_prediction_that_is_not_positive_is_large_and_finite():
    value = losses.silog(maps([0.0, -1.0]), maps([1.0, 1.0]))
    assert value.item() == pytest.approx(10 * math.sqrt(0.15) * math.log(1e6), rel=1e-4)  # read as a micrometre


def test_cosine_is_0_1_and_2_for_equal_orthogonal_and_opposite_directions():
    up, right, down = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)
    for direction, expected in ((up, 0), (right, 1), (down, 2)):
        assert losses.cosine(pixels(direction), pixels(up)).item() == pytest.approx(expected, abs=1e-6)
    assert losses.cosine(pixels(up, right, down), pixels(up, up, up)).item() == pytest.approx(1)


def test_cosine_does_not_depend_on_lengths():
    assert losses.cosine(pixels((0.0, 7.0, 0.0)), pixels((0.0, 0.3, 0.0))).item() == pytest.approx(0, abs=1e-6)


def test_a_target_of_length_0_has_no_direction_for_cosine_as_for_the_metrics():
    prediction = torch.nn.functional.normalize(torch.ones(1, 3, 1, 2), dim=1).requires_grad_()
    target = prediction.detach().clone()
    target[..., 1] = 0
    found = losses.cosine(prediction, target)
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert prediction.grad[..., 1].abs().max() == 0


def test_cosine_is_the_mean_over_known_pixels():
    prediction, target = pixels((1.0, 0.0), (0.0, 1.0), (1.0, 0.0)), pixels((-1.0, 0.0), (0.0, 1.0), (NAN, NAN))
    assert losses.cosine(prediction, target).item() == pytest.approx((2 + 0) / 2)


def test_balanced_binary_cross_entropy_gives_edges_and_the_rest_equal_weight():
    # One edge among four pixels: its weight is 3/4, that of the others 1/4; at probability 1/2 every pixel has loss log 2.
    value = losses.balanced_binary_cross_entropy(maps([0.5] * 4), maps([1.0, 0.0, 0.0, 0.0]))
    assert value.item() == pytest.approx((0.75 + 3 * 0.25) * math.log(2) / 4)


def test_balanced_binary_cross_entropy_balances_over_known_pixels_only():
    # Known are one edge and one non-edge, each weighing 1/2; the edge was given 1/4, the other one 1/2.
    value = losses.balanced_binary_cross_entropy(maps([0.25, 0.5, 0.9, 0.9]), maps([1.0, 0.0, NAN, NAN]))
    assert value.item() == pytest.approx((0.5 * math.log(4) + 0.5 * math.log(2)) / 2)


def test_balanced_binary_cross_entropy_splits_a_soft_edge():
    # Mass 1/2 of each: a pixel's loss is 1/2 * 1/2 * log 4 as an edge and 1/2 * 1/2 * log 4/3 as a non-edge.
    value = losses.balanced_binary_cross_entropy(maps([0.25, 0.25]), maps([0.5, 0.5]))
    assert value.item() == pytest.approx(0.25 * (math.log(4) + math.log(4 / 3)))


@pytest.mark.parametrize("value", [255.0, -0.5])
def test_targets_that_are_no_probabilities_are_refused(value):
    """With 255, the loss would fall without a limit."""
    with pytest.raises(ValueError, match=rf"targets have values from {value:g} to {value:g}; balanced_binary_cross_entropy is defined"):
        losses.balanced_binary_cross_entropy(maps([0.5, 0.5, 0.5]), maps([1.0, value, NAN]))
    assert losses.balanced_binary_cross_entropy(maps([2.0, 0.5]), maps([NAN, 1.0])).isfinite(), "an unknown pixel may have any prediction"


def test_balanced_binary_cross_entropy_of_certain_errors_is_large_and_finite():
    value = losses.balanced_binary_cross_entropy(maps([0.0, 1.0]), maps([1.0, 0.0]))
    assert value.item() == pytest.approx(0.5 * math.log(1e6), rel=0.01)


# The rotate loss.


def test_rotate_loss_is_the_smallest_of_the_nine_shifted_errors():
    prediction = maps([0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0])
    for inner, smallest in ((4.0, 0), (5.5, 0.5), (10.0, 2), (-3.0, 3)):
        target = torch.full((1, 1, 3, 3), 99.0)  # the border of the target is cropped
        target[..., 1, 1] = inner
        assert losses.rotate_l1(prediction, target).item() == pytest.approx(smallest)


@pytest.mark.parametrize("down", [-1, 0, 1])
@pytest.mark.parametrize("right", [-1, 0, 1])
def test_rotate_loss_forgives_a_shift_of_one_pixel_in_any_direction(down, right):
    _, target = random_pair("rotate_l1")
    prediction = target.roll((down, right), dims=(2, 3))
    assert losses.rotate_l1(prediction, target).item() == 0
    assert (down, right) == (0, 0) or losses.l1(prediction, target) > 0.1


@pytest.mark.parametrize("shift", [(2, 0), (0, 2), (-2, 0), (0, -2), (2, 1)])
def test_rotate_loss_does_not_forgive_a_shift_of_two_pixels(shift):
    _, target = random_pair("rotate_l1")
    assert losses.rotate_l1(target.roll(shift, dims=(2, 3)), target) > 0.1


def test_rotate_loss_shifts_every_image_of_a_batch_independently():
    _, target = random_pair("rotate_l1")
    prediction = torch.stack([target[0].roll(1, dims=1), target[1].roll(-1, dims=2)])
    assert losses.rotate_l1(prediction, target).item() == 0


def test_rotate_loss_shifts_all_pixels_of_an_image_equally():
    _, target = random_pair("rotate_l1", size=12)
    halves = torch.cat([target.roll(1, dims=2)[..., :6], target.roll(-1, dims=2)[..., 6:]], dim=3)
    assert losses.rotate_l1(halves, target) > 0.05


def test_rotate_loss_shifts_all_channels_of_an_image_equally():
    _, target = random_pair("rotate_l1")
    channels = torch.cat([target[:, :1].roll(1, dims=2), target[:, 1:].roll(-1, dims=2)], dim=1)
    assert losses.rotate_l1(channels, target) > 0.05


def test_rotate_loss_divides_by_known_pixels_per_image_and_then_by_images_that_have_any():
    prediction, target = torch.zeros(3, 1, 4, 4), torch.full((3, 1, 4, 4), NAN)
    target[0, 0, 1, 1] = 2.0  # one known pixel, error 2
    target[1, 0, 1:3, 1:3] = 1.0  # four known pixels, error 1; the third image has none
    assert losses.rotate_l1(prediction, target).item() == pytest.approx((2 + 1) / 2)


def test_rotate_loss_is_the_mean_over_channels_too():
    prediction = torch.zeros(1, 3, 3, 3)
    target = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1).expand(1, 3, 3, 3)
    assert losses.rotate_l1(prediction, target).item() == pytest.approx(3)


def test_rotate_loss_ignores_an_image_whose_only_known_pixels_are_on_the_border():
    target = torch.full((1, 1, 4, 4), NAN)
    target[..., 0, :] = 5.0
    assert losses.rotate_l1(torch.zeros(1, 1, 4, 4), target).item() == 0


@pytest.mark.parametrize(("height", "width"), [(2, 9), (9, 2)])
def test_rotate_loss_refuses_a_map_that_cropping_leaves_empty(height, width):
    with pytest.raises(ValueError, match=rf"at least 3 x 3 pixels, got {height} x {width}"):
        losses.rotate_l1(torch.zeros(1, 1, height, width), torch.zeros(1, 1, height, width))


# Unknown pixels, for every loss.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_without_known_pixels_loss_and_gradient_are_0(loss, dtype):
    prediction, target = random_pair(loss)
    prediction = prediction.to(dtype).requires_grad_()
    value = LOSSES[loss](prediction, torch.full_like(target, unknown_value(loss)))
    assert value.requires_grad  # so that a batch without labels can be trained on
    value.backward()
    assert value.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize("loss", LOSSES)
def test_without_known_pixels_the_gradient_is_0_even_for_a_zero_prediction(loss):
    prediction, target = random_pair(loss)
    grad = gradient(loss, torch.zeros_like(prediction), torch.full_like(target, unknown_value(loss)))
    assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("loss", LOSSES)
def test_unknown_pixels_do_not_change_the_loss(loss):
    prediction, target = random_pair(loss)
    target[..., 2:5, 2:5] = unknown_value(loss)
    changed = prediction.clone()
    changed[..., 3, 3] = 0.999  # no shift of one pixel reaches it from a known one
    assert LOSSES[loss](prediction, target) > 0
    assert LOSSES[loss](changed, target).item() == pytest.approx(LOSSES[loss](prediction, target).item(), rel=1e-12)
    assert gradient(loss, prediction, target)[..., 3, 3].abs().max() == 0
    assert gradient(loss, prediction, target)[..., 5, 5].abs().max() > 0


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"rotate_l1"}))  # which also looks at the pixels next to known ones
def test_a_loss_over_known_pixels_equals_the_loss_of_the_known_part(loss):
    prediction, target = random_pair(loss)
    alone = LOSSES[loss](prediction[..., :3], target[..., :3])
    target[..., 3:] = unknown_value(loss)
    assert LOSSES[loss](prediction, target).item() == pytest.approx(alone.item(), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_without_labels_does_not_change_the_loss_of_the_others(loss):
    prediction, target = random_pair(loss, batch=3)
    alone = LOSSES[loss](prediction[1:2], target[1:2])
    target[0] = target[2] = unknown_value(loss)
    assert alone > 0
    assert LOSSES[loss](prediction, target).item() == pytest.approx(alone.item(), rel=1e-12)
    per_image = gradient(loss, prediction, target).abs().amax(dim=(1, 2, 3))
    assert per_image[1] > 0
    assert per_image[0] == per_image[2] == 0


@pytest.mark.parametrize("loss", ["cross_entropy", "l1", "cosine", "rotate_l1"])
def test_means_of_two_batches_weighted_by_their_labels_are_the_mean_of_the_joined_batch(loss):
    """One image has few labels, one none, one has them on the border only, and two are whole."""
    prediction, target = random_pair(loss, batch=5)
    target[0, ..., 2:] = target[1] = target[2, ..., 1:-1] = unknown_value(loss)
    parts = [(prediction[rows], target[rows]) for rows in (slice(2), slice(2, 5))]
    few, many = (count_labels(loss, target).item() for _, target in parts)
    joined = sum(count * LOSSES[loss](*part).item() for count, part in zip((few, many), parts)) / (few + many)
    assert few < many
    assert joined == pytest.approx(LOSSES[loss](prediction, target).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "target", "count"),
    [
        ("silog", maps([2.0, 0.0, -1.0], [NAN, math.inf, 3.0]), 2),
        *((loss, pixels((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (NAN, 1.0, 0.0)), count) for loss, count in (("cosine", 1), ("l1", 2))),
        ("l1", torch.tensor([[[1.0, NAN]]]), 1),  # without the axis of a single channel
        ("rotate_l1", torch.ones(2, 1, 3, 3), 2),
        ("l1", torch.full((1, 2, 1, 3), 255), 3),  # no class ids
        *(("cross_entropy", torch.tensor([[[0, 255, 3]]]), 2), ("one's own", maps([0.0, NAN]), 1)),
    ],
)
def test_labels_are_counted_as_the_loss_averages_over_them(loss, target, count):
    assert count_labels(loss, target).item() == count


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_does_not_modify_its_target(loss):
    prediction, target = random_pair(loss)
    target[0] = unknown_value(loss)
    before = target.clone()
    gradient(loss, prediction, target)
    assert torch.equal(before.nan_to_num(-1), target.nan_to_num(-1))


# Gradients and precision.


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_value(loss):
    prediction, target = random_pair(loss, size=4)
    target[0, ..., :2] = unknown_value(loss)
    assert torch.autograd.gradcheck(lambda prediction: LOSSES[loss](prediction, target), prediction.requires_grad_())


@pytest.mark.parametrize("loss", REGRESSION_LOSSES)
def test_a_perfect_prediction_has_a_finite_gradient(loss):
    _, target = random_pair(loss)
    assert torch.isfinite(gradient(loss, target, target)).all()


@pytest.mark.parametrize("loss", sorted(set(REGRESSION_LOSSES) - {"balanced_binary_cross_entropy"}))  # soft targets have entropy
def test_a_perfect_prediction_has_loss_0(loss):
    _, target = random_pair(loss)
    assert LOSSES[loss](target, target).item() == pytest.approx(0, abs=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_low_precision_predictions_are_computed_in_float32(loss, dtype):
    prediction, target = random_pair(loss, dtype=torch.float32)
    low = prediction.to(dtype)
    value = LOSSES[loss](low, target)
    assert value.dtype == torch.float32
    assert value.item() == LOSSES[loss](low.float(), target).item()
    assert gradient(loss, low, target).dtype == dtype
    assert torch.isfinite(gradient(loss, low, target)).all()


def test_sums_beyond_float16_do_not_overflow():
    prediction = torch.full((1, 1, 32, 32), 1000.0, dtype=torch.float16)
    assert prediction.sum().isinf()  # premise
    assert losses.l1(prediction, torch.zeros(1, 1, 32, 32)).item() == 1000
    assert losses.rotate_l1(prediction, torch.zeros(1, 1, 32, 32)).item() == 1000


@pytest.mark.parametrize("loss", LOSSES)
def test_double_precision_is_kept(loss):
    prediction, target = random_pair(loss)
    assert LOSSES[loss](prediction, target).dtype == torch.float64


# Refusals.


@pytest.mark.parametrize("loss", REGRESSION_LOSSES)
def test_shapes_that_would_silently_broadcast_are_refused(loss):
    assert torch.broadcast_shapes((2, 1, 4, 4), (2, 3, 4, 4)) == (2, 3, 4, 4)  # premise
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 3, 4, 4\) and target \(2, 1, 4, 4\)"):
        LOSSES[loss](torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))


def test_class_ids_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"logits have shape \(2, 3, 4, 4\) and class ids \(2, 1, 4, 4\)"):
        losses.cross_entropy(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.long))


def test_an_unknown_loss_is_refused():
    spec = replace(registered_tasks()["depth"], loss="berhu")
    with pytest.raises(ValueError, match=r"'depth' has loss 'berhu'; allowed: l1, rotate_l1, silog$"):
        losses.loss_function(spec)


OF_NUMBERS = {"name": "own", "kind": "regression", "channels": 1}


@pytest.mark.parametrize(
    ("fields", "ranges"),
    [
        ({"loss": "balanced_binary_cross_entropy", "value_range": (0.0, 10.0)}, "from 0 to 1, and its values run from 0 to 10"),
        ({"loss": "silog", "value_range": (-1.0, 1.0)}, "from 0 to inf, and its values run from -1 to 1"),
        ({"loss": "silog", "activation": "unit_vector", "channels": 3}, "from 0 to inf, and its values run from -1 to 1"),
    ],
)
def test_a_loss_that_ignores_values_of_the_task_is_refused(fields, ranges):
    spec = TaskSpec(**OF_NUMBERS | fields)
    with pytest.raises(ValueError, match=f"'own' has loss '{spec.loss}', which is for values {ranges}; give another loss"):
        losses.check_loss(spec)


@pytest.mark.parametrize(
    "fields",
    [
        {"loss": "balanced_binary_cross_entropy", "activation": "sigmoid"},
        {"loss": "balanced_binary_cross_entropy"},
        {"loss": "silog"},
        {"loss": "silog", "activation": "sigmoid", "value_range": (0.1, 80.0)},
        {"loss": "l1", "value_range": (-5.0, 5.0)},
    ],
)
def test_a_loss_of_values_without_limits_or_within_its_own_is_allowed(fields):
    losses.check_loss(TaskSpec(**OF_NUMBERS | fields))


def test_every_registered_task_names_a_loss_that_exists():
    for spec in registered_tasks().values():
        assert losses.loss_function(spec) is LOSSES[spec.loss]


# Several tasks.


SPECS = {
    "classes": TaskSpec(name="classes", kind="classification", channels=2, loss="cross_entropy", weight=0.5),
    "height": TaskSpec(name="height", kind="regression", channels=1, weight=3.0),
    "slope": TaskSpec(name="slope", kind="regression", channels=2, weight=0.0),
}


def three_tasks() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses log 2, 2 and 5."""
    predictions = {"classes": torch.zeros(1, 2, 4, 4), "height": torch.zeros(1, 1, 4, 4), "slope": torch.zeros(1, 2, 4, 4)}
    labels = {
        "classes": torch.ones(1, 4, 4, dtype=torch.long),
        "height": torch.full((1, 1, 4, 4), 2.0),
        "slope": torch.full((1, 2, 4, 4), -5.0),
    }
    return predictions, labels


def test_the_total_is_the_weighted_sum_and_the_parts_are_unweighted():
    total, parts = multi_task_loss(*three_tasks(), SPECS)
    assert {task: part.item() for task, part in parts.items()} == pytest.approx({"classes": math.log(2), "height": 2, "slope": 5})
    assert total.item() == pytest.approx(0.5 * math.log(2) + 3 * 2 + 0 * 5)


def test_the_gradient_of_a_task_is_scaled_by_its_weight():
    predictions, labels = three_tasks()
    for prediction in predictions.values():
        prediction.requires_grad_()
    multi_task_loss(predictions, labels, SPECS)[0].backward()
    torch.testing.assert_close(predictions["height"].grad, torch.full((1, 1, 4, 4), -3.0 / 16))
    assert predictions["slope"].grad.abs().max() == 0


@pytest.mark.parametrize("missing", ["absent", "none"])
def test_a_task_without_labels_is_left_out(missing):
    predictions, labels = three_tasks()
    labels = {"height": labels["height"], **({} if missing == "absent" else {"classes": None, "slope": None})}
    total, parts = multi_task_loss(predictions, labels, SPECS)
    assert list(parts) == ["height"]
    assert total.item() == pytest.approx(6)


def test_labels_of_a_task_that_was_not_predicted_are_left_out():
    predictions, labels = three_tasks()
    total, parts = multi_task_loss({"height": predictions["height"]}, labels, SPECS)
    assert list(parts) == ["height"]
    assert total.item() == pytest.approx(6)


def test_a_task_without_known_pixels_adds_0():
    predictions, labels = three_tasks()
    labels["classes"] = torch.full((1, 4, 4), IGNORE_INDEX)
    total, parts = multi_task_loss(predictions, labels, SPECS)
    assert parts["classes"].item() == 0
    assert total.item() == pytest.approx(6)


def test_labels_of_one_channel_may_lack_the_channel_axis():
    predictions, labels = three_tasks()
    labels["height"] = labels["height"][:, 0]
    assert multi_task_loss(predictions, labels, SPECS)[0].item() == pytest.approx(0.5 * math.log(2) + 6)


def test_labels_of_a_task_that_the_model_lacks_are_refused():
    predictions, labels = three_tasks()
    with pytest.raises(ValueError, match=r"labels for \['hieght'\], but the model's tasks are \['classes', 'height', 'slope'\]"):
        multi_task_loss(predictions, {**labels, "hieght": labels["height"]}, SPECS)


def test_the_error_for_labels_of_another_size_names_the_task():
    predictions, labels = three_tasks()
    with pytest.raises(ValueError, match=r"height: prediction has shape \(1, 1, 4, 4\) and target \(1, 1, 8, 8\)"):
        multi_task_loss(predictions, {**labels, "height": torch.zeros(1, 1, 8, 8)}, SPECS)


@pytest.mark.parametrize("labels", [{}, {"height": None}])
def test_labels_without_any_predicted_task_are_refused(labels):
    predictions, _ = three_tasks()
    with pytest.raises(ValueError, match=r"no label for any predicted task \['classes', 'height', 'slope'\]"):
        multi_task_loss(predictions, labels, SPECS)
