"""Proves that gradient methods combine the tasks' gradients like torchjd, and train the same in two processes."""

import sys

import pytest
import torch
from accelerate import Accelerator
from torchjd import aggregation
from torchjd.autojac import jac_to_grad, mtl_backward

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
from mult_hf.training.weighting import make_weighting
from mult_hf.training.weighting.gradients import _is_of_encoder
from support.forked import run_together
from support.models import SHALLOW_SWIN
from support.weightings import TASKS, backward, batch_of, gradients_of, one_step, weighting_of

AGGREGATORS = {
    "pcgrad": aggregation.PCGrad(),
    "cagrad": aggregation.CAGrad(c=0.4),
    "upgrad": aggregation.UPGrad(),
    "mgda": aggregation.MGDA(),
    "imtl_g": aggregation.IMTLG(),
    "aligned_mtl": aggregation.AlignedMTL(),
}


def explicit_gradients(model, batch):
    """The gradient of each task's weighted loss, each from a separate forward and backward pass."""
    rows = {}
    for task, spec in model.config.task_specs.items():
        model.zero_grad()
        (spec.weight * model(**batch).task_losses[task]).backward()
        rows[task] = gradients_of(model)
    return rows


def flat(gradients, names):
    return torch.cat([gradients[name].flatten() for name in names])


@pytest.mark.parametrize("name", AGGREGATORS)
def test_gradient_methods_give_the_encoder_torchjds_combination_of_its_jacobian(name, accelerator, shallow_model):
    """And everything behind it the sum of the tasks' gradients, also the reference task's projections, which all losses reach."""
    model = shallow_model(tasks=TASKS)
    rows = explicit_gradients(model, batch_of())
    encoder = [name for name in rows["depth"] if "backbone" in name]
    rest = [name for name in rows["depth"] if "backbone" not in name]
    projections = [name for name in rest if ".tasks.normals." in name and ("q_proj" in name or "position_bias" in name)]
    reached = [name for name in projections if all(row[name].any() for row in rows.values())]
    assert len(reached) == 6, "weight, bias and table of the shared block of each of two stages"

    jacobian = torch.stack([flat(row, encoder) for row in rows.values()])
    torch.manual_seed(3)  # PCGrad draws the order of tasks
    expected = AGGREGATORS[name](jacobian)
    torch.manual_seed(3)
    weighting = make_weighting(name, model.config.task_specs, model)
    actual = one_step(weighting, model, batch_of(), accelerator)
    torch.testing.assert_close(flat(actual, encoder), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    summed = {key: sum(row[key] for row in rows.values()) for key in rest}
    torch.testing.assert_close({key: actual[key] for key in rest}, summed, rtol=1e-4, atol=1e-6)

    factors = torch.tensor([weighting.weights[task] / spec.weight for task, spec in model.config.task_specs.items()])
    torch.testing.assert_close(factors @ jacobian, flat(actual, encoder), rtol=1e-3, atol=1e-6)


def test_gradient_methods_agree_with_mtl_backward_where_feature_maps_are_independent(accelerator, shallow_model):
    model = shallow_model(tasks=TASKS)
    actual = one_step(make_weighting("upgrad", model.config.task_specs, model), model, batch_of(), accelerator)
    model.zero_grad()
    outputs = model(**batch_of(), output_hidden_states=True)
    losses = [spec.weight * outputs.task_losses[task] for task, spec in model.config.task_specs.items()]
    mtl_backward(losses, features=outputs.hidden_states, retain_graph=True, parallel_chunk_size=1)
    jac_to_grad([p for name, p in model.named_parameters() if "backbone" in name], aggregation.UPGrad())
    torch.testing.assert_close(actual, gradients_of(model), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("name", AGGREGATORS)
def test_gradient_methods_do_not_depend_on_the_scale_of_all_losses(name, scale, accelerator, shallow_model):
    """The solvers of torchjd alone treat a small Jacobian as zero, so CAGrad's encoder would stop learning."""
    model = shallow_model(tasks=TASKS)
    outputs = []
    for factor in (1.0, scale):
        torch.manual_seed(0)
        weighting = make_weighting(name, model.config.task_specs, model)
        losses = {task: factor * loss for task, loss in model(**batch_of()).task_losses.items()}
        weighting.backward(losses, (), accelerator)
        outputs.append(weighting.weights)
    assert outputs[1] == pytest.approx(outputs[0], rel=0.02, abs=1e-3)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_gradient_methods_without_torchjd_name_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=rf"'{name}' needs torchjd and its solvers: pip install 'mult-hf\[weighting\]'"):
        weighting_of(name, {"a": 1.0})


def test_gradient_methods_refuse_a_model_without_an_encoder():
    with pytest.raises(ValueError, match="Linear has no module called backbone"):
        weighting_of("upgrad", {"a": 1.0})


TOGETHER = {"uncertainty": {}, "dwa": {"period": 1}, "gradnorm": {}, "mgda": {}, "pcgrad": {}}


def train_three_steps(name, options, accelerator, rows):
    """Final parameters and weights of a tiny model that sees these rows of each batch of four."""
    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(SHALLOW_SWIN), tasks=TASKS))
    for parameter in model.parameters():  # normals of a new model are tiny vectors, whose directions any rounding turns
        parameter.data += 0.05 * torch.randn_like(parameter)
    wrapped = accelerator.prepare(model.eval())
    weighting = make_weighting(name, model.config.task_specs, wrapped, **options)
    if name == "pcgrad":  # PCGrad's random order of tasks makes a difference now and then; this makes one always
        weighting._weighting = lambda gramian: torch.rand(len(gramian))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    torch.manual_seed(accelerator.process_index)  # as augmentations leave it: not the same in each process
    for seed in range(3):
        batch = batch_of(4, seed)
        own = {"pixel_values": batch["pixel_values"][rows], "labels": {task: label[rows] for task, label in batch["labels"].items()}}
        backward(weighting, model if weighting.writes_gradients else wrapped, own, accelerator)
        optimizer.step()
        optimizer.zero_grad()
    return weighting.weights, {key: value.detach().clone() for key, value in model.named_parameters()}


def run_process(directory):
    """One of two processes."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    rank = accelerator.process_index
    rows = slice(2 * rank, 2 * rank + 2)
    torch.save({name: train_three_steps(name, options, accelerator, rows) for name, options in TOGETHER.items()}, directory / f"{rank}.pt")
    accelerator.end_training()


@pytest.mark.slow
def test_two_processes_train_like_one_with_the_joined_batch(accelerator, tmp_path):
    """What draws random numbers is compared between the processes only."""
    printed, statuses = run_together(run_process, tmp_path, output=tmp_path / "output.txt")
    assert statuses == [0, 0], printed
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, options in TOGETHER.items():
        weights, parameters = first[name]
        assert second[name][0] == weights
        assert all(torch.equal(second[name][1][key], parameters[key]) for key in parameters), name
        if name == "pcgrad":
            continue
        alone = train_three_steps(name, options, accelerator, slice(0, 4))
        assert weights == pytest.approx(alone[0], rel=1e-4), name
        torch.testing.assert_close(parameters, alone[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_task_called_like_the_encoder_is_not_of_the_encoder(wrapper):
    assert _is_of_encoder(f"{wrapper}mult.backbone.embeddings.weight")
    assert not _is_of_encoder(f"{wrapper}heads.tasks.backbone.projection.weight")
