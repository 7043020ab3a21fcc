"""Proves that messages of errors stay short: at most 500 characters, whatever they quote."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mult_hf
from mult_hf import MulTImageProcessor, registered_tasks
from mult_hf.inference.sources import find_files
from mult_hf.metrics import MultiTaskMetrics, multi_task_gain
from mult_hf.model.losses import multi_task_loss
from support.refusals import MAX_MESSAGE, refusal

ROOT = Path(mult_hf.__file__).parent
MANY = {f"depth_{number:03d}": replace(registered_tasks()["depth"], name=f"depth_{number:03d}") for number in range(100)}
IMAGE = np.zeros((40, 50, 3), np.uint8)


def raised_messages():
    """(place, characters of literal text) of every error that the package raises."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                texts = [each.value for each in ast.walk(node.exc) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", sum(map(len, texts))


def test_the_text_of_every_message_leaves_room_for_its_values():
    lengths = dict(raised_messages())
    assert len(lengths) > 300, "premise: they were found"
    assert {place: length for place, length in lengths.items() if length > 300} == {}


@pytest.mark.parametrize(
    ("call", "end"),
    [
        (lambda: MulTImageProcessor(tasks=list(MANY.values()))(IMAGE, label_maps={"nope": IMAGE}), "pass tasks=[...] with its entry"),
        (lambda: MultiTaskMetrics(MANY).merge_state({"nope/errors/count": torch.zeros(1)}), "depth_099/ratios"),
        (lambda: multi_task_gain({}, {}, MANY), "measure it, or remove the task from specs"),
        (lambda: multi_task_loss({"depth_000": torch.zeros(1, 1, 4, 4)}, dict.fromkeys(map(str, range(500)), torch.zeros(1)), MANY), ""),
        (lambda: find_files([str(ROOT / "model")] * 50, ROOT / "nowhere"), ""),
    ],
    ids=["processor", "metrics", "gain", "loss", "files"],
)
def test_a_message_that_lists_many_names_keeps_both_ends(call, end):
    message = refusal(call)
    assert len(message) <= MAX_MESSAGE
    assert message.endswith(end)
