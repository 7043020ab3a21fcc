"""A stack trains each of its networks as `mult-hf train` trains it alone."""

import copy

import pytest
import torch
from accelerate.utils import set_seed

from examples.study import decoders  # noqa: F401  (registers the study's own)
from examples.study.stack import Stack
from examples.study.streams import Stream, create, fill, stacked_batch
from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.schema import load_rows, load_task_specs
from mult_hf.training.arguments import ModelArguments, TrainingArguments
from mult_hf.training.initialization import build_model
from support.models import BACKBONES
from support.training_runs import train, weights

SIZE, STEPS = 32, 3
SMALL = {"embed_dim": 8, "depths": [1, 1], "window_size": 4}  # as the flags that `train` adds
FLAGS = "--image_size 32 --batch_size 2 --max_steps 3 --warmup_steps 1 --max_grad_norm 0.5".split()
ALL_KINDS = [
    {"block_attention": ["self+skip", "encoder+skip"]},
    {"block_attention": ["encoder", "reference"]},
    {"decoder": "swin_unet"},
    {"decoder": "mtan"},
    {"decoder": "cross_task"},
]


def settings(seed=0):
    return TrainingArguments(batch_size=2, max_steps=STEPS, warmup_steps=1, max_grad_norm=0.5, seed=seed)


def networks(specs, seeds, **flags):
    models = []
    for seed in seeds:
        set_seed(seed)
        models.append(build_model(ModelArguments(**SMALL, **flags), specs, SIZE).train())
    return models


@pytest.fixture
def prepared(small_rooms, tmp_path):
    """Streams of two seeds, and the tasks."""
    specs = load_task_specs(small_rooms)
    processor = MulTImageProcessor(size={"height": SIZE, "width": SIZE}, tasks=list(specs.values()))
    rows = list(load_rows(small_rooms, split="train"))
    for seed in (3, 4):
        create(tmp_path / str(seed), specs, SIZE, 2 * STEPS)
        for positions in (range(4, 6), range(4)):  # in any order
            fill(tmp_path / str(seed), rows, processor, settings(seed), positions)
    return {seed: Stream(tmp_path / str(seed), list(specs), 2) for seed in (3, 4)}, specs


def trained(streams, specs, members, **flags):
    """A stack of (learning rate, seed) after all steps."""
    seeds = [seed for _, seed in members]
    stack = Stack(networks(specs, seeds, **flags), [rate for rate, _ in members], settings(), "cpu")
    for number in range(STEPS):
        stack.step(*stacked_batch(streams, seeds, number, torch.device("cpu")))
    return stack


@pytest.mark.slow
def test_each_network_of_a_stack_gets_the_weights_that_the_program_trains(prepared, small_rooms, tmp_path):
    members = [(2e-3, 3), (1e-2, 3), (2e-3, 4)]
    stack = trained(*prepared, members)
    for number, (rate, seed) in list(enumerate(members))[1:]:  # another rate and another seed than the first
        out = train(tmp_path / f"alone-{number}", *FLAGS, "--dataset", small_rooms, "--learning_rate", rate, "--seed", seed)
        alone = weights(out)
        stack.network(number).save_pretrained(tmp_path / f"stacked-{number}")  # under the names of the file
        stacked = weights(tmp_path / f"stacked-{number}")
        # Adam divides by the root of the mean square: where a gradient is nearly 0, rounding decides its sign, and the step is of the
        # size of the learning rate. So few weights may differ, and these by no more than that.
        differing = torch.cat([((stacked[name] - alone[name]).abs() > 1e-5).flatten() for name in alone])
        assert differing.float().mean() < 0.01, f"network {number}: {differing.float().mean():.3%} of the weights differ"
        assert max((stacked[name] - alone[name]).abs().max() for name in alone) <= 2 * STEPS * rate


@pytest.mark.parametrize("flags", ALL_KINDS, ids=lambda flags: "-".join([flags.get("decoder", "mult"), *flags.get("block_attention", [])]))
def test_losses_and_gradients_of_a_stack_are_those_of_its_networks(prepared, flags):
    streams, specs = prepared
    models = networks(specs, [3, 4], **flags)
    alone = copy.deepcopy(models)
    stack = Stack(models, [1e-3, 1e-3], settings(), "cpu")
    images, labels = stacked_batch(streams, [3, 4], 0, torch.device("cpu"))
    losses = stack.backward(images, labels)
    for number, model in enumerate(alone):
        outputs = model(images[number], labels={task: target[number] for task, target in labels.items()})
        for task, loss in outputs.task_losses.items():
            torch.testing.assert_close(losses[task][number], loss.detach(), rtol=1e-4, atol=1e-6)
        outputs.loss.backward()
        gradient = stack.gradient(number)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_a_pretrained_encoder_keeps_the_statistics_of_its_batch_normalisation():
    """The gradients are those of each network alone with the same statistics, and training does not change them."""
    config = MulTConfig(backbone_config=BACKBONES["timm"], tasks=["depth"], decoder_num_attention_heads=[8, 4, 2, 1])
    set_seed(0)
    models = [MulTForMultiTaskDensePrediction(config) for _ in range(2)]
    for model in models:
        normalisations = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert normalisations, "premise"
        for module in normalisations:
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    statistics = {name: value for name, value in models[0].state_dict().items() if "running_" in name}
    models[1].load_state_dict(statistics, strict=False)  # both have one pretrained encoder
    alone = [copy.deepcopy(model).eval() for model in models]
    images, targets = torch.randn(2, 2, 3, 64, 64), torch.rand(2, 2, 1, 64, 64) + 1
    stack = Stack(models, [1e-3] * 2, settings(), "cpu")
    losses = stack.backward(images, {"depth": targets})
    for number, model in enumerate(alone):
        loss = model(images[number], labels={"depth": targets[number]}).loss
        assert float(losses["depth"][number]) == pytest.approx(float(loss.detach()), rel=1e-4)
        loss.backward()
        found = stack.gradient(number)
        # Sums of float32 in another order, through some 20 convolutions.
        for name, parameter in model.named_parameters():
            assert torch.allclose(found[name], parameter.grad, rtol=1e-2, atol=1e-4 * float(parameter.grad.abs().max()) + 1e-6), name
    stack.clip()
    stack.update()
    assert all(torch.equal(value, dict(alone[1].named_buffers())[name]) for name, value in stack.network(1).named_buffers())


def test_the_gradient_of_each_network_is_clipped_to_its_own_norm(prepared):
    streams, specs = prepared
    stack = Stack(networks(specs, [3, 4]), [1e-3, 1e-3], settings(), "cpu")
    stack.optimizer.zero_grad = lambda: None  # keep them
    stack.step(*stacked_batch(streams, [3, 4], 0, torch.device("cpu")))
    for number in range(2):
        norms = [gradient.norm() for gradient in stack.gradient(number).values()]
        torch.testing.assert_close(torch.stack(norms).norm(), torch.tensor(0.5), rtol=1e-3, atol=0)


def test_a_diverging_network_does_not_affect_the_others_of_its_stack(prepared):
    streams, specs = prepared
    depth = {"depth": specs["depth"]}
    good = trained(streams, depth, [(2e-3, 3)]).network(0).state_dict()
    both = trained(streams, depth, [(1e30, 4), (2e-3, 3)])
    assert not all(value.isfinite().all() for value in both.network(0).state_dict().values()), "premise"
    assert all(value.isfinite().all() for value in both.network(1).state_dict().values())
    other = both.network(1).state_dict()
    assert sum((other[name] - good[name]).abs().gt(1e-5).sum() for name in good) < 0.01 * sum(value.numel() for value in good.values())


def test_unsupported_options_of_a_stack_are_refused(prepared):
    specs = {"depth": prepared[1]["depth"]}
    two = networks(specs, [3, 4])
    with pytest.raises(ValueError, match="2 networks and 1 learning rates"):
        Stack(two, [1e-3], settings(), "cpu")
    with pytest.raises(ValueError, match="parameters of different names or shapes"):
        Stack([two[0], *networks(specs, [3], decoder="mtan")], [1e-3] * 2, settings(), "cpu")
    with pytest.raises(ValueError, match=r"without \{'ema_decay': 0.9\}"):
        Stack(two, [1e-3] * 2, TrainingArguments(ema_decay=0.9), "cpu")
    with pytest.raises(ValueError, match=r"without \{'drop_path_rate': 0.1\}"):
        Stack(networks(specs, [3], drop_path_rate=0.1), [1e-3], settings(), "cpu")
