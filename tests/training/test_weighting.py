"""Proves that every task weighting follows its paper's formula, also with unknown labels, accumulation, processes and resuming."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.weighting import WEIGHTINGS, label_shares, make_weighting, weighting_options
from support.weightings import TASKS, backward, batch_of, gradients_of, losses_of, one_step, specs_of, weighting_of

LEARNING = ("uncertainty", "dwa", "gradnorm")


def play(weighting, accelerator, steps):
    """Pass a weighting the losses of one optimizer step after another."""
    for values in steps:
        features = torch.ones(1, requires_grad=True) * 1  # not a leaf, as a model's are not
        weighting.backward(losses_of(features, **values), [features], accelerator)
    return weighting


# Common properties


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_weighting_starts_at_the_fixed_weights_and_returns_the_weighted_sum(name, accelerator, shallow_model):
    model = shallow_model(tasks=TASKS)
    specs = model.config.task_specs
    weighting = make_weighting(name, specs, model)
    fixed = {task: spec.weight for task, spec in specs.items()}
    assert weighting.name == name
    assert weighting.weights == pytest.approx(fixed)
    outputs = model(**batch_of(), output_hidden_states=True)
    total = weighting.backward(outputs.task_losses, outputs.hidden_states, accelerator)
    assert not total.requires_grad
    assert total.item() == pytest.approx(outputs.loss.item(), rel=1e-6)
    assert list(weighting.weights) == list(TASKS)


def test_fixed_weights_give_exactly_the_gradients_of_the_models_own_loss(accelerator, shallow_model):
    model = shallow_model(tasks=TASKS)
    model(**batch_of()).loss.backward()
    expected = gradients_of(model)
    assert model.config.task_specs["normals"].weight != 1
    actual = one_step(make_weighting("fixed", model.config.task_specs, model), model, batch_of(), accelerator)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


# Uncertainty


def test_uncertainty_follows_the_gradient_of_its_formula(accelerator):
    """Against autograd and Adam on sum_t exp(-s_t) f_t L_t + s_t / 2."""
    fixed, steps = {"a": 1.0, "b": 3.0}, [{"a": 2.0, "b": 0.1}, {"a": 1.0, "b": 0.2}, {"a": 0.3, "b": 0.4}]
    log_variances = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_variances], lr=0.1)
    for losses in steps:
        weighted = torch.tensor([fixed[task] * losses[task] for task in fixed])
        optimizer.zero_grad()
        ((-log_variances).exp() * weighted + log_variances / 2).sum().backward()
        optimizer.step()
    weights = play(weighting_of("uncertainty", fixed, learning_rate=0.1), accelerator, steps).weights
    expected = [fixed[task] * math.exp(-value) for task, value in zip(fixed, log_variances.tolist())]
    assert list(weights.values()) == pytest.approx(expected, rel=1e-6)
    assert weights["a"] < 1 or weights["b"] > 3, "the weights have moved"


def test_uncertainty_settles_where_every_task_contributes_one_half(accelerator):
    """d/ds (exp(-s) L + s / 2) = 0 at exp(-s) L = 1/2."""
    losses = {"a": 5.0, "b": 0.2}
    weighting = play(weighting_of("uncertainty", {"a": 1.0, "b": 2.0}, learning_rate=0.05), accelerator, [losses] * 400)
    assert [weighting.weights[task] * losses[task] for task in losses] == pytest.approx([0.5, 0.5], rel=1e-3)


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_does_not_spoil_what_is_learnt(accelerator, name, value):
    """An own loop may skip the step, as the scaler of half precision does."""
    weighting = weighting_of(name, {"a": 1.0, "b": 3.0}, **({"period": 1} if name == "dwa" else {}))
    play(weighting, accelerator, [{"a": 2.0, "b": 0.5}, {"a": value, "b": 0.5}] + [{"a": 2.0, "b": 0.5}] * 3)
    assert all(map(math.isfinite, weighting.weights.values()))


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_one_micro_batch_that_is_not_finite_does_not_spoil_those_beside_it(accelerator, name, spoilt):
    def backward_of(is_spoilt, is_last):
        features = torch.ones(1, requires_grad=True) * 1
        losses = losses_of(features, a=2.0, b=0.5)
        if is_spoilt:
            losses["b"] = (features * math.nan).sum() if spoilt == "loss" else (features - 1).clamp(min=0).sqrt().sum() + 0.5
        accelerator.gradient_state._set_sync_gradients(is_last)
        weighting.backward(losses, [features], accelerator)

    weighting = weighting_of(name, {"a": 1.0, "b": 3.0}, **({"period": 1} if name == "dwa" else {}))
    for _ in range(3):
        backward_of(is_spoilt=True, is_last=False)
        backward_of(is_spoilt=False, is_last=True)
    assert all(map(math.isfinite, weighting.weights.values()))


# Dynamic weight averaging


def test_dwa_weights_are_the_softmax_of_ratios_of_period_averages(accelerator):
    """Periods of two steps with means a: 4, 2 and b: 1, 1. Ratios 1/2 and 1, temperature 2, K = 2."""
    steps = [{"a": 5.0, "b": 0.5}, {"a": 3.0, "b": 1.5}, {"a": 2.5, "b": 1.0}, {"a": 1.5, "b": 1.0}]
    weighting = weighting_of("dwa", {"a": 1.0, "b": 3.0}, period=2)
    play(weighting, accelerator, steps[:3])
    assert weighting.weights == {"a": 1.0, "b": 3.0}, "until two periods are over"
    play(weighting, accelerator, steps[3:])
    slow, fast = math.exp(1 / 2), math.exp(0.5 / 2)
    assert weighting.weights == pytest.approx({"a": 2 * fast / (slow + fast), "b": 3 * 2 * slow / (slow + fast)})


def test_dwa_with_a_high_temperature_stays_near_the_fixed_weights(accelerator):
    steps = [{"a": 4.0, "b": 1.0}, {"a": 1.0, "b": 1.0}]
    cold, hot = (play(weighting_of("dwa", {"a": 1.0, "b": 1.0}, period=1, temperature=t), accelerator, steps).weights for t in (0.5, 1e4))
    assert cold["b"] - cold["a"] > 1
    assert hot == pytest.approx({"a": 1.0, "b": 1.0}, abs=1e-3)


# GradNorm


def test_gradnorm_makes_gradients_of_very_different_scale_equal(accelerator):
    """Two tasks as in the paper's toy, one 100 times the other, at equal rates: w_a : w_b = 100 : 1, and w_a + w_b = 2."""
    weighting = play(weighting_of("gradnorm", {"a": 1.0, "b": 1.0}), accelerator, [{"a": 0.1, "b": 10.0}] * 300)
    assert weighting.weights == pytest.approx({"a": 200 / 101, "b": 2 / 101}, rel=0.05)
    assert sum(weighting.weights.values()) == pytest.approx(2, rel=1e-9)


def test_gradnorm_gives_slow_tasks_the_larger_gradient(accelerator):
    """Task a keeps its loss and b halves it: r_a : r_b = 2 : 1. With alpha = 1 so must be w_a * 1 : w_b * 4, so w_a : w_b = 8 : 1."""
    steps = [{"a": 1.0, "b": 8.0}] + [{"a": 1.0, "b": 4.0}] * 300
    weights = play(weighting_of("gradnorm", {"a": 1.0, "b": 1.0}, alpha=1.0), accelerator, steps).weights
    assert weights["a"] / weights["b"] == pytest.approx(8.0, rel=0.05)


def test_gradnorm_follows_the_gradient_of_its_formula(accelerator):
    """Against autograd and Adam on algorithm 1, for the logarithms of the factors; a loss is its own gradient's norm here."""
    fixed, steps = {"a": 1.0, "b": 3.0}, [{"a": 2.0, "b": 0.1}, {"a": 1.0, "b": 0.2}, {"a": 0.3, "b": 0.4}, {"a": 2.5, "b": 0.1}]
    logarithms = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logarithms], lr=0.1)
    losses = torch.tensor([[fixed[task] * step[task] for task in fixed] for step in steps], dtype=torch.float64)
    for loss in losses:
        norms = logarithms.exp() * loss
        rates = loss / losses[0]
        targets = (norms.mean() * (rates / rates.mean()) ** 1.5).detach()
        optimizer.zero_grad()
        (norms - targets).abs().sum().backward()
        optimizer.step()
        logarithms.data += math.log(2) - logarithms.data.logsumexp(0)
    weights = play(weighting_of("gradnorm", fixed, alpha=1.5, learning_rate=0.1), accelerator, steps).weights
    assert list(weights.values()) == pytest.approx([f * math.exp(value) for f, value in zip(fixed.values(), logarithms.tolist())], rel=1e-6)
    assert weights != pytest.approx(fixed, rel=0.05), "the weights have moved"


def test_gradnorm_balances_a_network_with_tasks_of_two_scales(accelerator):
    """The paper's toy (section 4): targets sigma_i tanh((B + eps_i) x) with sigma 1 and 10, one trunk, one head per task."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"backbone": nn.Sequential(nn.Linear(20, 32), nn.Tanh()), "a": nn.Linear(32, 8), "b": nn.Linear(32, 8)})
    base = torch.randn(20, 8)
    truth = {"a": (1.0, base + 0.3 * torch.randn(20, 8)), "b": (10.0, base + 0.3 * torch.randn(20, 8))}
    weighting = make_weighting("gradnorm", specs_of(a=1.0, b=1.0), network, alpha=0.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def losses_and_features():
        inputs = torch.randn(256, 20)
        features = network["backbone"](inputs)
        targets = {task: sigma * torch.tanh(inputs @ matrix) for task, (sigma, matrix) in truth.items()}
        return {task: (network[task](features) - target).square().mean() for task, target in targets.items()}, features

    def norms():
        losses, features = losses_and_features()
        gradients = {task: torch.autograd.grad(loss, features, retain_graph=True)[0].norm() for task, loss in losses.items()}
        return {task: (weighting.weights[task] * gradient).item() for task, gradient in gradients.items()}

    before = norms()
    assert before["b"] / before["a"] > 5
    for _ in range(300):
        losses, features = losses_and_features()
        weighting.backward(losses, [features], accelerator)
        optimizer.step()
        optimizer.zero_grad()
    after = norms()
    assert after["b"] / after["a"] == pytest.approx(1, abs=0.2)


# Unknown labels


@pytest.mark.parametrize("unknown", [{"b": 0.0}, {}], ids=["loss of 0", "no loss"])
@pytest.mark.parametrize("name", LEARNING)
def test_a_step_without_labels_of_a_task_does_not_change_its_weight(name, unknown, accelerator):
    """Task b has labels in two steps; the step between them has none."""
    options = {"dwa": {"period": 1}}.get(name, {})
    known = [{"a": 1.0, "b": 8.0}, {"a": 1.0, "b": 2.0}]
    between = play(weighting_of(name, {"a": 1.0, "b": 1.0}, **options), accelerator, known[:1])
    before = between.weights
    play(between, accelerator, [{"a": 1.0, **unknown}])
    if name != "dwa":  # whose factors always add up to K, so that b moves when a does
        assert between.weights["b"] == before["b"]
    play(between, accelerator, known[1:])
    without = play(weighting_of(name, {"a": 1.0, "b": 1.0}, **options), accelerator, known)
    assert without.weights["b"] != 1.0
    assert between.weights["b"] == pytest.approx(without.weights["b"], rel=1e-9)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_task_that_is_never_labelled_does_not_affect_others(name, accelerator, shallow_model):
    """The encoder's gradient is that of the other tasks, as if the model computed only these."""
    model = shallow_model(tasks=TASKS)
    specs = model.config.task_specs
    partial, full = batch_of(), batch_of()
    partial["labels"]["edges2d"].fill_(torch.nan)
    del full["labels"]["edges2d"]
    results = []
    for batch in (partial, full):
        torch.manual_seed(0)
        weighting = make_weighting(name, specs, model)
        for _ in range(3):
            gradients = one_step(weighting, model, batch, accelerator)
        results.append(gradients)
        assert all(math.isfinite(weight) for weight in weighting.weights.values())
        assert weighting.weights["edges2d"] == (0 if weighting.writes_gradients else specs["edges2d"].weight)
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_batch_without_any_label_has_no_gradient(name, accelerator, shallow_model):
    model = shallow_model(tasks=TASKS)
    weighting = make_weighting(name, model.config.task_specs, model)
    before = weighting.weights
    batch = batch_of()
    for label in batch["labels"].values():
        label.fill_(torch.nan)
    assert not any(gradient.any() for gradient in one_step(weighting, model, batch, accelerator).values())
    assert weighting.writes_gradients or weighting.weights == before


# Training loops


@pytest.mark.parametrize("known", ["all", "some"])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_accumulated_micro_batches_equal_the_joined_batch(name, known, make_accelerator, shallow_model):
    """Also if they have different numbers of labels, or none of a task."""
    model = shallow_model(tasks=TASKS)
    batch = batch_of(4)
    if known == "some":
        batch["labels"]["depth"][0] = batch["labels"]["normals"][2:, :, 5:] = batch["labels"]["edges2d"][:2] = torch.nan
    halves = [
        {"pixel_values": batch["pixel_values"][rows], "labels": {task: label[rows] for task, label in batch["labels"].items()}}
        for rows in (slice(0, 2), slice(2, 4))
    ]
    results = []
    for micro_batches in ([batch], halves):
        accelerator = make_accelerator(gradient_accumulation_steps=len(micro_batches))
        weighting = make_weighting(name, model.config.task_specs, model, **({"period": 1} if name == "dwa" else {}))
        torch.manual_seed(0)
        shares = label_shares([micro_batch["labels"] for micro_batch in micro_batches], model.config.task_specs, accelerator)
        moved = []
        for _ in range(2):
            model.zero_grad()
            for micro_batch, share in zip(micro_batches, shares):
                with accelerator.accumulate(model):
                    backward(weighting, model, micro_batch, accelerator, share)
                moved.append(weighting.weights)
        results.append((weighting.weights, gradients_of(model)))
    assert moved[0] == pytest.approx({task: spec.weight for task, spec in model.config.task_specs.items()}), "only optimizer steps move"
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-3, abs=1e-3)
    scale = max(gradient.abs().max().item() for gradient in results[0][1].values())
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-2, atol=1e-4 * scale)


def test_a_loss_with_all_labels_of_a_step_counts_with_its_own_value(make_accelerator):
    """Its share is 2 of 2 batches. Uncertainty raises the weight of a loss below 0.5, and would lower that of its double."""
    accelerator = make_accelerator(gradient_accumulation_steps=2)
    weighting = weighting_of("uncertainty", {"a": 1.0})
    for loss, share in ((0.0, 0.0), (0.4, 2.0)):
        features = torch.ones(1, requires_grad=True) * 1
        with accelerator.accumulate():
            weighting.backward(losses_of(features, a=loss), [features], accelerator, {"a": torch.tensor(share)})
    assert weighting.weights["a"] > 1


def test_gradnorm_measures_the_mean_loss_of_the_micro_batches_with_labels_of_a_task(make_accelerator):
    """Two micro-batches of one image: a's gradient over both is (1/2, 1/2), norm 0.71; b is known in the first only: (1), norm 1."""
    accelerator = make_accelerator(gradient_accumulation_steps=2)
    weighting = weighting_of("gradnorm", {"a": 1.0, "b": 1.0}, alpha=0.0)
    for losses in ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}):
        with accelerator.accumulate():
            play(weighting, accelerator, [losses])
    assert weighting.weights["b"] < 1 < weighting.weights["a"]


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_weighting_works_in_bfloat16(name, make_accelerator, shallow_model):
    """Feature maps and Jacobians are of the network as it ran; weights come near those of full precision."""
    weights = []
    for mixed_precision in ("no", "bf16"):
        accelerator = make_accelerator(mixed_precision=mixed_precision)
        model = accelerator.prepare(shallow_model(tasks=TASKS))
        weighting = make_weighting(name, model.config.task_specs, model)
        torch.manual_seed(0)
        gradients = one_step(weighting, model, batch_of(), accelerator)
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
        weights.append(weighting.weights)
    assert weights[1] == pytest.approx(weights[0], rel=0.1, abs=0.1)


@pytest.mark.parametrize("name", ["gradnorm", "upgrad"])
def test_task_gradients_are_the_same_with_gradient_checkpointing(name, accelerator, shallow_model):
    results = []
    for checkpointing in (False, True):
        model = shallow_model(tasks=TASKS).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        results.append(one_step(make_weighting(name, model.config.task_specs, model), model, batch_of(), accelerator))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_resumed_weighting_continues_exactly(name, accelerator, shallow_model, tmp_path):
    """Weights and gradients, bit for bit; through Accelerate's own checkpoint, which also holds the random state."""
    model = shallow_model(tasks=TASKS)
    options = {"period": 2} if name == "dwa" else {}
    weighting, resumed = (make_weighting(name, model.config.task_specs, model, **options) for _ in range(2))
    batches = [batch_of(2, seed) for seed in range(6)]
    for batch in batches[:3]:
        one_step(weighting, model, batch, accelerator)
    accelerator.register_for_checkpointing(weighting)
    accelerator.save_state(tmp_path)
    rest = [(one_step(weighting, model, batch, accelerator), weighting.weights) for batch in batches[3:]]
    accelerator._custom_objects[:] = [resumed]
    accelerator.load_state(tmp_path)
    for batch, (gradients, weights) in zip(batches[3:], rest):
        again = one_step(resumed, model, batch, accelerator)
        assert resumed.weights == weights
        assert all(torch.equal(again[key], gradients[key]) for key in gradients)
    if name in LEARNING:
        assert weights != make_weighting(name, model.config.task_specs, model).weights, "there was a state to lose"


# Refusals


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match=r"unknown task weighting 'sum'; allowed: fixed, uncertainty"):
        weighting_of("sum", {"a": 1.0})
    with pytest.raises(ValueError, match=r"'dwa' has no options \['periods'\]; allowed: period, temperature"):
        weighting_of("dwa", {"a": 1.0}, periods=3)
    with pytest.raises(ValueError, match=r"'mgda' has no options \['weighting'\]; allowed: none"):
        weighting_of("mgda", {"a": 1.0}, weighting="UPGradWeighting")
    with pytest.raises(ValueError, match="period 0"):
        weighting_of("dwa", {"a": 1.0}, period=0)


def test_options_are_listed_with_their_defaults():
    assert weighting_options("gradnorm") == {"alpha": 1.5, "learning_rate": 0.025}
    assert weighting_options("cagrad") == {"c": 0.4}
    assert weighting_options("fixed") == weighting_options("upgrad") == {}
    assert make_weighting("cagrad", specs_of(a=1.0), nn.ModuleDict({"backbone": nn.Linear(1, 1)}), c=0.1)._weighting.c == 0.1


@pytest.mark.parametrize("name", ["gradnorm", "upgrad"])
@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_methods_that_need_gradients_per_task_refuse_engines_without_them(name, kind):
    weighting = make_weighting(name, specs_of(a=1.0), nn.ModuleDict({"backbone": nn.Linear(1, 1)}))
    engine = SimpleNamespace(distributed_type=kind, scaler=None, device="cpu")
    features = torch.ones(1, requires_grad=True) * 1
    with pytest.raises(ValueError, match=rf"'{name}' needs the gradients of single tasks, which {kind.value} does not provide"):
        weighting.backward(losses_of(features, a=1.0), [features], engine)
    scaling = SimpleNamespace(distributed_type=DistributedType.NO, scaler=object(), mixed_precision="fp16", device="cpu")
    with pytest.raises(ValueError, match="loss scaling of mixed_precision='fp16'; use 'bf16'"):
        weighting.backward(losses_of(features, a=1.0), [features], scaling)


@pytest.mark.parametrize(("name", "message"), [("gradnorm", "none of which needs a gradient"), ("upgrad", "the encoder is frozen")])
def test_methods_that_balance_the_encoders_gradients_refuse_a_frozen_encoder(name, message, accelerator, shallow_model):
    model = shallow_model(tasks=TASKS)
    model.mult.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match=message):
        one_step(make_weighting(name, model.config.task_specs, model), model, batch_of(), accelerator)


def test_gradnorm_refuses_feature_maps_of_another_forward_pass(accelerator):
    features, others = (torch.ones(1, requires_grad=True) * 1 for _ in range(2))
    with pytest.raises(ValueError, match="the loss of 'a' does not depend on the given feature maps"):
        weighting_of("gradnorm", {"a": 1.0}).backward(losses_of(features, a=1.0), [others], accelerator)


@pytest.mark.parametrize("losses", [{}, {"smell": 1.0}])
@pytest.mark.parametrize("name", ["fixed", "upgrad"])
def test_losses_of_other_tasks_or_none_are_refused(name, losses, accelerator):
    weighting = make_weighting(name, specs_of(a=1.0), nn.ModuleDict({"backbone": nn.Linear(1, 1)}))
    with pytest.raises(ValueError, match=r"expected at least one of the weighting's tasks \['a'\]"):
        weighting.backward(losses_of(torch.ones(1), **losses), (), accelerator)


def test_the_state_of_another_weighting_is_refused():
    dwa = weighting_of("dwa", {"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match=r"'dwa' for tasks \['a', 'b'\], but this one is 'uncertainty'"):
        weighting_of("uncertainty", {"a": 1.0, "b": 1.0}).load_state_dict(dwa.state_dict())
    with pytest.raises(ValueError, match=r"this one is 'dwa' for \['b', 'a'\]"):
        weighting_of("dwa", {"b": 1.0, "a": 1.0}).load_state_dict(dwa.state_dict())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dwa", {"period": None}, r"option 'period' of task weighting 'dwa' is None .NoneType.; give an integer"),
        ("dwa", {"period": 2.5}, r"option 'period' of task weighting 'dwa' is 2.5 .float.; give an integer"),
        ("dwa", {"temperature": "2"}, r"option 'temperature' of task weighting 'dwa' is '2' .str.; give a finite number"),
        ("gradnorm", {"learning_rate": "0.1"}, r"option 'learning_rate' of task weighting 'gradnorm' is '0.1'"),
        ("aligned_mtl", {"scale_mode": 3}, r"option 'scale_mode' of task weighting 'aligned_mtl' is 3 .int.; give text"),
    ],
)
def test_an_option_of_another_type_than_its_default_is_refused_before_the_data_are_read(name, options, message):
    with pytest.raises(ValueError, match=message):
        TrainingArguments(weighting=name, weighting_options=json.dumps(options))


def test_options_that_are_no_text_are_refused_like_text_that_is_no_object():
    with pytest.raises(ValueError, match="--weighting_options is None; give a JSON object such as"):
        TrainingArguments(weighting="dwa", weighting_options=None)
