"""Proves that an incomplete model is refused, which transformers would fill with random weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.inference.loading import load_processor, load_whole_model


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A saved model, and a function that rewrites its weights."""
    model = tiny_model(tasks=["depth", "normals"])
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    return model, tmp_path, lambda change: save_file(change(load_file(path)), path, {"format": "pt"})


def test_a_complete_model_is_loaded_as_it_was_saved(saved):
    model, directory, _ = saved
    found = load_whole_model(str(directory))
    assert not found.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())


def head_of_depth(name):
    return "depth" in name and "projection" in name and name.startswith("heads")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"a": torch.zeros(1)}, r"lacks \d+ of the model's \d+ weights, such as"),
        (lambda state: {f"other.{name}": value for name, value in state.items()}, r"lacks \d+ of the model's"),
        (lambda state: {name: value for name, value in state.items() if not head_of_depth(name)}, "lacks 2 of the model's"),
        (
            lambda state: {name: value / 0 if head_of_depth(name) else value for name, value in state.items()},
            "2 of its weights have values that are not finite",
        ),
    ],
    ids=["another file", "other names", "no head", "infinite head"],
)
def test_an_incomplete_model_is_refused(saved, change, message):
    _, directory, rewrite = saved
    rewrite(change)
    with pytest.raises(ValueError, match=message):
        load_whole_model(str(directory))


def test_weights_of_another_shape_are_refused(saved):
    _, directory, rewrite = saved
    name = "heads.tasks.normals.projection.bias"
    rewrite(lambda state: {**state, name: state[name][:1].clone()})
    with pytest.raises(ValueError, match=f"lacks 1 of the model's .* such as {name}"):
        load_whole_model(str(directory))


@pytest.mark.parametrize(
    "change",
    [lambda weight: weight.round().long(), lambda weight: weight.to(torch.int8), lambda weight: weight > 0],
    ids=["int64", "int8", "bool"],
)
def test_weights_stored_as_integers_are_refused(saved, change):
    """Transformers reads them as they are, though quantized weights need a scale."""
    _, directory, rewrite = saved
    rewrite(lambda state: {**state, "heads.tasks.normals.projection.weight": change(state["heads.tasks.normals.projection.weight"])})
    with pytest.raises(ValueError, match=r"holds heads.tasks.normals.projection.weight as \w+; expected F64, F32, F16, BF16"):
        load_whole_model(str(directory))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_type_are_loaded(saved, dtype):
    _, directory, rewrite = saved
    rewrite(lambda state: {name: value.to(dtype) for name, value in state.items()})
    load_whole_model(str(directory))


def test_pickled_weights_are_not_read_beside_nothing_else(saved):
    _, directory, _ = saved
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    for load in (load_whole_model, MulTForMultiTaskDensePrediction.from_pretrained):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            load(str(directory))
    MulTForMultiTaskDensePrediction.from_pretrained(directory, use_safetensors=False)


def test_a_directory_without_configuration_is_not_taken_for_the_default_model(saved):
    _, directory, _ = saved
    (directory / "config.json").unlink()
    with pytest.raises(ValueError, match=rf"{directory} has no config.json"):
        load_whole_model(str(directory))


@pytest.mark.parametrize("name", ["/nowhere/model", "outputs/no/model", "../model", "{path}/model.safetensors"])
def test_a_path_to_no_directory_is_not_taken_for_a_hub_id(saved, name):
    _, directory, _ = saved
    with pytest.raises(ValueError, match=r"is (no directory|a file); give the directory of a trained model, or a Hub id"):
        load_whole_model(name.format(path=directory))


@pytest.mark.parametrize("kept", [0, 4, 500, 5000, -1])
def test_weights_that_are_cut_off_are_refused_with_the_models_name(saved, kept):
    _, directory, _ = saved
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{directory} cannot be loaded: .*; give another directory or Hub id, or save"):
        load_whole_model(str(directory))


def test_maps_of_given_tasks_are_decoded_as_their_entries_say(tmp_path):
    """Those of a data set, which may store ids otherwise than the data that the model was trained on."""
    animals = {"name": "animals", "kind": "classification", "class_names": ["cat", "dog"]}
    MulTImageProcessor(tasks=[animals], do_reduce_labels=True).save_pretrained(tmp_path)
    assert load_processor(str(tmp_path)).task_specs["animals"].encoding.offset == -1, "as it was saved"
    assert load_processor(str(tmp_path), tasks=[animals]).task_specs["animals"].encoding.offset == 0
