"""A step replayed from a CUDA graph is the step of the stack. Needs a GPU (`MULT_HF_TEST_GPU=1`)."""

import copy

import pytest
import torch

from examples.study.graph import GraphedStep
from examples.study.seconds import random_batch
from examples.study.stack import Stack
from mult_hf.data.schema import load_task_specs
from mult_hf.training.arguments import ModelArguments, TrainingArguments
from mult_hf.training.initialization import build_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SIZE, NETWORKS, STEPS = 32, 2, 3


def stack_of(models):
    return Stack([copy.deepcopy(model) for model in models], [1e-3] * NETWORKS, TrainingArguments(max_steps=STEPS, warmup_steps=1), "cuda")


@pytest.fixture
def models_and_batches(small_rooms):
    specs = load_task_specs(small_rooms)
    small = ModelArguments(embed_dim=8, depths=[1, 1], window_size=4)
    models = [build_model(small, specs, SIZE) for _ in range(NETWORKS)]
    batches = []
    for _ in range(STEPS):
        own = [random_batch(specs, 2, SIZE, torch.device("cuda")) for _ in models]
        labels = {task: torch.stack([targets[task] for _, targets in own]) for task in specs}
        batches.append((torch.stack([images for images, _ in own]), labels))
    return models, batches


def test_replayed_steps_have_the_losses_of_the_stack(models_and_batches):
    models, batches = models_and_batches
    plain, replayed = stack_of(models), stack_of(models)
    step = GraphedStep(replayed, *batches[0])
    for batch in batches:
        expected, found = plain.step(*batch), step(*batch)
        for task, losses in expected.items():
            torch.testing.assert_close(found[task], losses, rtol=1e-3, atol=1e-5)  # sums in another order, then Adam


def test_a_graph_with_other_gradients_is_refused(models_and_batches, monkeypatch):
    models, batches = models_and_batches
    right = GraphedStep._gradients_outside
    monkeypatch.setattr(GraphedStep, "_gradients_outside", lambda self, *batch: [1.01 * g for g in right(self, *batch)])
    with pytest.raises(RuntimeError, match="gradients of the CUDA graph differ by"):
        GraphedStep(stack_of(models), *batches[0])
