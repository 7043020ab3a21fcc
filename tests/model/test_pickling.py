"""Proves that models and pipelines can be pickled, for spawned processes, with the same predictions and hidden states."""

import copy
import pickle

import pytest
import torch
from transformers import pipeline

from support.forked import run_script


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy])
@pytest.mark.parametrize("has_run", [False, True])
def test_a_model_predicts_the_same_after_pickling_and_copying(tiny_model, duplicate, has_run):
    """Local functions are hooks that transformers adds to the encoder, some of them in the first forward pass."""
    model, pixels = tiny_model(tasks=["depth"]), torch.randn(1, 3, 64, 64)
    if has_run:
        model(pixels)
    again = duplicate(model)
    with torch.no_grad():
        outputs, wanted = (each(pixels, output_hidden_states=True) for each in (again, model))
    torch.testing.assert_close(outputs.predictions, wanted.predictions)
    torch.testing.assert_close(outputs.hidden_states, wanted.hidden_states)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert not {parameter.data_ptr() for parameter in again.parameters()} & {parameter.data_ptr() for parameter in model.parameters()}


def test_pickling_does_not_change_the_model(tiny_model):
    model, pixels = tiny_model(tasks=["depth"]), torch.randn(1, 3, 64, 64)
    model(pixels)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    assert sum(hooks), "premise"
    pickle.dumps(model)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_hooks_of_the_user_are_kept(tiny_model):
    model = tiny_model(tasks=["depth"])
    model.mult.backbone.register_forward_hook(a_hook)
    assert [*pickled(model).mult.backbone._forward_hooks.values()] == [a_hook]


def a_hook(module, inputs, output):
    """A hook without effect, at module level so that it can be pickled."""


def test_a_pipeline_predicts_the_same_after_pickling(tiny_model):
    predict, image = pipeline("multitask-vision", model=tiny_model(tasks=["depth"])), torch.zeros(3, 64, 64, dtype=torch.uint8)
    wanted = predict(image)["depth"]["prediction"]
    torch.testing.assert_close(pickled(predict)(image)["depth"]["prediction"], wanted)


SPAWNED = """
import sys, torch
from PIL import Image
from transformers import pipeline
import mult_hf
if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn", force=True)
    predict = pipeline("multitask-vision", image_processor=mult_hf.MulTImageProcessor(size={"height": 64, "width": 64}))
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    alone = [predict(image, tasks=["depth"])["depth"]["prediction"] for image in images]
    for one, other in zip(predict(images, tasks=["depth"], num_workers=1), alone, strict=True):
        torch.testing.assert_close(one["depth"]["prediction"], other)
"""


def test_a_pipeline_reads_images_in_a_spawned_worker(tmp_path):
    """The default on macOS and Windows."""
    script = tmp_path / "script.py"
    script.write_text(SPAWNED)
    printed, status = run_script(script, output=tmp_path / "output.txt")
    assert status == 0, printed
