"""The study's decoders keep the interface of the package, and differ from it in what they are made for."""

import pytest
import torch

from examples.study import decoders  # noqa: F401  (registers them)
from examples.study.cross_task import enlarged

TASKS = ["segmentation", "depth", "normals"]
BLOCKS = {"block_attention": ["self", "encoder"]}
EACH = pytest.mark.parametrize("decoder", ["mult_own_maps", "cross_task", "swin_unet_own_maps"])


def pixels(height=64, width=64):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def changed_tasks(model, parameters):
    """Tasks whose predictions change with some parameters."""
    before = model(pixels()).predictions
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(1.5).add_(0.1)
    after = model(pixels()).predictions
    return {task for task in before if not torch.allclose(before[task], after[task], rtol=1e-4, atol=1e-5)}


@EACH
@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 131), (32, 45)])
def test_predictions_have_the_size_of_any_image(tiny_model, decoder, height, width):
    outputs = tiny_model(decoder_type=decoder, tasks=TASKS)(pixels(height, width), output_hidden_states=True)
    assert {task: tuple(maps.shape[2:]) for task, maps in outputs.predictions.items()} == dict.fromkeys(TASKS, (height, width))
    for streams in outputs.task_hidden_states.values():
        assert [stream.shape for stream in streams] == [maps.shape for maps in outputs.hidden_states]


@EACH
def test_a_single_task_has_the_predictions_of_the_full_run(tiny_model, decoder):
    model = tiny_model(decoder_type=decoder, tasks=TASKS)
    alone = model(pixels(52, 75), tasks=["depth"]).predictions
    assert list(alone) == ["depth"]
    torch.testing.assert_close(alone["depth"], model(pixels(52, 75)).predictions["depth"], rtol=1e-4, atol=1e-5)


@EACH
def test_every_parameter_gets_a_gradient(tiny_model, decoder):
    model = tiny_model(decoder_type=decoder, tasks=TASKS)  # in evaluation mode: stochastic depth may skip a block for both images
    generator = torch.Generator().manual_seed(2)
    targets = {task: torch.rand(2, 3 if task == "normals" else 1, 128, 128, generator=generator) for task in TASKS[1:]}
    classes = torch.randint(0, 17, (2, 128, 128), generator=generator)
    model(pixels(128, 128), labels={"segmentation": classes, **targets}).loss.backward()
    zero = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert [name for name in zero if "k_proj.bias" not in name] == [], "a key's bias has no gradient by mathematics"


# --- maps of one's own ---


def test_without_sharing_no_task_depends_on_the_reference_tasks_projections(tiny_model):
    """The premise is MulT, where the same change reaches every task."""
    for decoder, expected in (
        ("mult", set(TASKS)),
        ("mult_own_maps", {"normals"}),
        ("swin_unet", set(TASKS)),
        ("swin_unet_own_maps", {"normals"}),
    ):
        model = tiny_model(decoder_type=decoder, tasks=TASKS, **BLOCKS)
        own = [block.attention.tasks["normals"] for stage in model.mult.decoder.stages for block in stage.blocks[1:]]
        assert changed_tasks(model, [p for projections in own for p in projections.q_proj.parameters()]) == expected, decoder


def test_of_one_task_both_are_the_same_network(tiny_model):
    shared = tiny_model(tasks=["normals"], block_attention=["self+skip", "encoder+skip"])
    own = tiny_model(decoder_type="mult_own_maps", tasks=["normals"], block_attention=["self+skip", "encoder+skip"])
    own.load_state_dict(shared.state_dict())
    torch.testing.assert_close(own(pixels()).predictions, shared(pixels()).predictions)


@pytest.mark.parametrize("decoder", ["mult", "swin_unet"])
def test_equal_projections_of_all_tasks_are_a_shared_map(tiny_model, decoder):
    """So the two decoders differ in nothing else."""
    shared = tiny_model(decoder_type=decoder, tasks=TASKS, **BLOCKS)
    own = tiny_model(decoder_type=f"{decoder}_own_maps", tasks=TASKS, **BLOCKS)
    weights = shared.state_dict()
    own.load_state_dict(
        {
            name: weights.get(name, weights.get(name.replace(".depth.", ".normals.").replace(".segmentation.", ".normals.")))
            for name in own.state_dict()
        }
    )
    torch.testing.assert_close(own(pixels()).predictions, shared(pixels()).predictions, rtol=1e-4, atol=1e-5)


def test_a_reference_block_has_no_counterpart(tiny_model):
    with pytest.raises(ValueError, match="a 'reference' block has no counterpart with one map per task"):
        tiny_model(decoder_type="mult_own_maps", tasks=TASKS, block_attention=["encoder", "reference"])


# --- attention among tasks ---


def test_every_task_sees_the_others(tiny_model):
    model = tiny_model(decoder_type="cross_task", tasks=TASKS)
    assert changed_tasks(model, model.mult.decoder.tasks["depth"].parameters()) == set(TASKS)


def test_scores_of_the_stage_before_enter_with_their_weight(tiny_model):
    model = tiny_model(decoder_type="cross_task", tasks=TASKS)
    stages = model.mult.decoder.stages
    assert stages[0].mix is None
    with torch.no_grad():
        for stage in stages[1:]:
            stage.mix.copy_(torch.tensor([1.0, 0.0]))
    before = model(pixels()).predictions["depth"]
    with torch.no_grad():
        stages[1].mix[1] = 2.0
    assert not torch.allclose(model(pixels()).predictions["depth"], before)


def test_enlarged_scores_stay_with_their_task_and_key():
    scores = torch.arange(3).view(1, 1, 3, 1).repeat_interleave(4, dim=2).float() * torch.tensor(
        [1.0, 10.0]
    )  # 3 tasks, 2 x 2 queries, 2 keys
    larger = enlarged(scores, (2, 2), (4, 4), tasks=3)
    assert larger.shape == (1, 1, 48, 2)
    torch.testing.assert_close(larger[0, 0].view(3, 16, 2).mean(dim=1), torch.tensor([[0.0, 0.0], [1.0, 10.0], [2.0, 20.0]]))
