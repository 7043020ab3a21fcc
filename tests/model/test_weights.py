"""Proves that a model with missing, misnamed or non-finite weights is refused, and that a trained one predicts."""

import copy
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, pipeline

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor, MulTModel
from mult_hf.inference.loading import load_whole_model
from mult_hf.model.weights import check_weights, fresh_weights
from mult_hf.training.initialization import hand_over_reference

HEAD = "heads.tasks.depth.projection.weight"
EDGES = "heads.tasks.edges2d.projection.weight"


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """A complete checkpoint, and a way to change its weights."""
    model = tiny_model(tasks=["depth", "edges2d"])
    model.save_pretrained(tmp_path)
    MulTImageProcessor(size={"height": 64, "width": 64}, tasks=model.config.tasks).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"

    def change(weights):
        save_file(weights(load_file(path)), path, {"format": "pt"})
        return tmp_path

    return change


def step(model, optimizer):
    model(torch.randn(1, 3, 64, 64), labels={"edges2d": torch.ones(1, 1, 64, 64)}).loss.backward()
    optimizer.step()


def load(directory, **kwargs):
    return MulTForMultiTaskDensePrediction.from_pretrained(directory, **kwargs)


def test_a_complete_checkpoint_passes(checkpoint):
    model = load(checkpoint(lambda weights: weights))
    check_weights(model)
    check_weights(model.bfloat16())


CHANGES = {
    "one is missing": (
        lambda weights: {k: v for k, v in weights.items() if k != HEAD},
        rf"lacks 1 trained weights, such as {HEAD}, which are random",
    ),
    "none is there": (lambda weights: {"a": torch.zeros(1)}, r"lacks \d{3} trained weights, such as"),
    "all have other names": (lambda weights: {f"net.{k}": v for k, v in weights.items()}, r"lacks \d{3} trained weights"),
    "one is NaN": (lambda weights: {**weights, HEAD: weights[HEAD] * torch.nan}, rf"1 of its weights have .* not finite \({HEAD}\)"),
    "one value is infinite": (lambda weights: {**weights, HEAD: weights[HEAD].index_fill(1, torch.tensor([3]), torch.inf)}, "1 of its"),
}


@pytest.mark.parametrize(("weights", "message"), CHANGES.values(), ids=CHANGES)
def test_an_incomplete_checkpoint_is_refused(checkpoint, weights, message):
    directory = checkpoint(weights)
    for model in (load(directory), load(directory).bfloat16(), AutoModel.from_pretrained(directory), copy.deepcopy(load(directory))):
        with pytest.raises(ValueError, match=f"cannot predict: .*{message}"):
            check_weights(model)
    with pytest.raises(ValueError, match=message):
        pipeline("multitask-vision", model=str(directory))


def test_a_head_for_other_classes_counts_as_untrained_until_it_is_trained(checkpoint):
    two = {"name": "depth", "channels": 2, "metrics": ["mae"], "encoding": {"dtype": "float32"}}
    model, info = load(checkpoint(lambda weights: weights), tasks=[two, "edges2d"], ignore_mismatched_sizes=True, output_loading_info=True)
    assert HEAD in str(info["mismatched_keys"]), "premise, and what transformers returns stays"
    with pytest.raises(ValueError, match="lacks 2 trained weights"):
        check_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(torch.randn(1, 3, 64, 64), labels={"depth": torch.ones(1, 2, 64, 64)}).loss.backward()
    optimizer.step()
    check_weights(model)


def test_an_untrained_task_that_was_removed_does_not_count(checkpoint):
    model = load(checkpoint(lambda weights: {k: v for k, v in weights.items() if k != EDGES}))
    with pytest.raises(ValueError, match="lacks 1 trained weights"):
        check_weights(model)
    model.remove_task("edges2d")
    check_weights(model)


def test_a_model_created_in_this_process_may_predict(tiny_model):
    check_weights(tiny_model(tasks=["depth"]))


def test_a_model_in_training_mode_is_put_into_evaluation_mode(tiny_model):
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    model = tiny_model(tasks=["depth"], drop_path_rate=0.5, hidden_dropout_prob=0.5).train()
    predict = pipeline("multitask-vision", model=model)
    once = predict(image)["depth"]["prediction"]
    model.train()
    torch.testing.assert_close(predict(image)["depth"]["prediction"], once)
    assert not model.training


def test_pickling_keeps_the_list_of_missing_weights(checkpoint):
    model = load(checkpoint(lambda weights: {k: v for k, v in weights.items() if k != HEAD}))
    again = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match="lacks 1 trained weights"):
        check_weights(again)


def test_a_saved_copy_still_lacks_what_was_never_trained(checkpoint, tmp_path):
    model = load(checkpoint(lambda weights: {k: v for k, v in weights.items() if k != HEAD}))
    model.save_pretrained(tmp_path / "copy")
    MulTImageProcessor(size={"height": 64, "width": 64}, tasks=model.config.tasks).save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["untrained_weights"] == [HEAD]
    for refuse in (load_whole_model, lambda path: pipeline("multitask-vision", model=path), lambda path: check_weights(load(path))):
        with pytest.raises(ValueError, match="copy cannot predict: its checkpoint lacks 1 trained weights"):
            refuse(str(tmp_path / "copy"))
    assert load_whole_model(str(tmp_path / "copy"), to_train=True).config.untrained_weights is None, "it may be trained"
    again = load(tmp_path / "copy")
    again.save_pretrained(tmp_path / "again")
    with pytest.raises(ValueError, match="lacks 1 trained weights"):
        check_weights(load(tmp_path / "again"))


def test_a_checkpoints_own_list_counts_where_the_configuration_is_another_ones(checkpoint, tiny_model, tmp_path):
    complete = tiny_model(tasks=["depth", "edges2d"])
    complete.save_pretrained(tmp_path / "complete")
    load(checkpoint(lambda weights: {k: v for k, v in weights.items() if k != HEAD})).save_pretrained(tmp_path / "lacking")
    of_complete, of_lacking = (MulTConfig.from_pretrained(tmp_path / name) for name in ("complete", "lacking"))
    for loading in (load, AutoModel.from_pretrained):
        assert not fresh_weights(loading(tmp_path / "complete", config=of_lacking))
        assert fresh_weights(loading(tmp_path / "lacking", config=of_complete)) == [HEAD]
    loaded = load(tmp_path / "lacking")
    with pytest.raises(ValueError, match="lacks 1 trained weights"):
        check_weights(load(tmp_path / "lacking", config=loaded.config))
    (tmp_path / "lacking" / "config.json").unlink()
    assert not fresh_weights(load(tmp_path / "lacking", config=of_complete)), "weights without a configuration list nothing"


def test_a_copy_saved_after_training_or_without_the_task_is_complete(checkpoint, tmp_path):
    load(checkpoint(lambda weights: {k: v for k, v in weights.items() if k != EDGES})).save_pretrained(tmp_path / "copy")

    def train(model):
        step(model, torch.optim.SGD(model.parameters(), lr=1e-3))

    for change in (train, lambda model: model.remove_task("edges2d")):
        model = load(tmp_path / "copy")
        change(model)
        model.save_pretrained(tmp_path / "whole", state_dict=model.state_dict())
        assert "untrained_weights" not in (tmp_path / "whole" / "config.json").read_text()
        check_weights(load(tmp_path / "whole"))


def without_edges(weights):
    return {name: value for name, value in weights.items() if ".edges2d." not in name}


def test_a_task_is_trained_when_any_of_its_weights_has_changed(checkpoint, tmp_path):
    """In bfloat16 a step of 1e-4 does not move the weights of norms, which are 1; and some people freeze them."""
    model = load(checkpoint(without_edges), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"lacks \d+ trained weights"):
        check_weights(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" not in name)
    step(model, torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-4))
    check_weights(model)
    model.save_pretrained(tmp_path / "trained")
    check_weights(load(tmp_path / "trained"))


@pytest.mark.parametrize("trained", ["depth", "edges2d"])
def test_each_task_is_judged_by_itself(checkpoint, trained):
    model = load(checkpoint(lambda weights: {name: value for name, value in weights.items() if not name.startswith("heads.")}))
    model(torch.randn(1, 3, 64, 64), tasks=[trained], labels={trained: torch.ones(1, 1, 64, 64)}).loss.backward()
    torch.optim.SGD([each for each in model.parameters() if each.grad is not None], lr=1e-2).step()
    other = {"depth": "edges2d", "edges2d": "depth"}[trained]
    with pytest.raises(ValueError, match=f"lacks 2 trained weights, such as heads.tasks.{other}"):
        check_weights(model)


CHANGES_THAT_TRAIN_NOTHING = {
    "a cast and back": lambda model: model.half().float(),
    "as bfloat16 and back": lambda model: model.bfloat16().float(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "another reference": lambda model: hand_over_reference(model, "edges2d"),
}


@pytest.mark.parametrize("change", CHANGES_THAT_TRAIN_NOTHING.values(), ids=CHANGES_THAT_TRAIN_NOTHING)
def test_what_trains_nothing_keeps_the_list_of_missing_weights(checkpoint, tmp_path, change):
    model = change(load(checkpoint(without_edges)))
    model.save_pretrained(tmp_path / "copy")
    for each in (model, load(tmp_path / "copy")):
        with pytest.raises(ValueError, match=r"lacks \d+ trained weights"):
            check_weights(each)


def test_weights_given_to_be_saved_are_judged_in_place_of_the_models(checkpoint, tmp_path):
    """As the Trainer gives them; a wrapper's prefix does not hide a weight."""
    model = load(checkpoint(without_edges))
    trained = {name: value + 0.1 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    for number, give in enumerate(
        [lambda path: model.save_pretrained(path, True, {**trained}), lambda path: model.save_pretrained(path, state_dict={**trained})]
    ):
        give(tmp_path / str(number))
        check_weights(load(tmp_path / str(number)))
    assert fresh_weights(model, {f"module.{name}": value for name, value in model.state_dict().items()}) == fresh_weights(model) != []


def test_the_model_without_heads_keeps_the_list_and_passes_it_on(checkpoint, tmp_path):
    model = load(checkpoint(without_edges))
    for number, base in enumerate([MulTModel.from_pretrained(checkpoint(without_edges)), model.mult]):
        with pytest.raises(ValueError, match=r"lacks \d+ trained weights, such as decoder"):
            check_weights(base)
        base.save_pretrained(tmp_path / str(number))
        assert all(
            name.startswith("decoder.") for name in json.loads((tmp_path / str(number) / "config.json").read_text())["untrained_weights"]
        )
        again = load(tmp_path / str(number))
        assert any(name.startswith("mult.decoder.") for name in fresh_weights(again))


def test_a_model_on_the_disk_keeps_the_list(checkpoint, tmp_path):
    places = {"mult": "cpu", "heads": "disk"}
    model = load(checkpoint(lambda weights: weights), device_map=places, offload_folder=tmp_path / "disk")
    check_weights(model)
    load(checkpoint(without_edges)).save_pretrained(tmp_path / "marked")
    model = load(tmp_path / "marked", device_map=places, offload_folder=tmp_path / "other")
    with pytest.raises(ValueError, match=r"heads\.tasks\.edges2d"):
        check_weights(model)
    model.save_pretrained(tmp_path / "again")
    with pytest.raises(ValueError, match=r"heads\.tasks\.edges2d"):
        check_weights(load(tmp_path / "again"))


def test_an_added_task_may_predict_here_but_not_after_it_was_saved_untrained(checkpoint, tmp_path):
    """Who adds a task knows that it is new; who loads the file does not."""
    model = load(checkpoint(lambda weights: weights))
    model.add_task("normals")
    check_weights(model)
    model.save_pretrained(tmp_path / "untrained")
    with pytest.raises(ValueError, match=r"untrained cannot predict: .*normals"):
        check_weights(load(tmp_path / "untrained"))
    model(torch.randn(1, 3, 64, 64), labels={"normals": torch.randn(1, 3, 64, 64)}).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    model.save_pretrained(tmp_path / "trained")
    check_weights(load(tmp_path / "trained"))


@pytest.mark.parametrize(
    ("channels", "lacking"), [(1, []), (2, ["heads.tasks.other.projection.bias", "heads.tasks.other.projection.weight"])]
)
def test_a_task_copied_from_a_trained_one_is_new_where_its_shape_differs(checkpoint, channels, lacking):
    model = load(checkpoint(lambda weights: weights))
    model.add_task({"name": "other", "channels": channels, "kind": "regression"}, copy_from="depth")
    assert fresh_weights(model, new=True) == lacking
    model.add_task("normals")
    model.add_task({"name": "copied", "channels": 3, "kind": "regression"}, copy_from="normals")
    model.remove_task("normals")
    assert any("copied" in name for name in fresh_weights(model, new=True)), "a copy of random weights is random"


def test_a_task_that_is_removed_and_added_again_is_new_again(checkpoint):
    model = load(checkpoint(lambda weights: weights))
    model.add_task({"name": "other", "channels": 1, "kind": "regression"})
    model.remove_task("other")
    assert fresh_weights(model, new=True) == []
    model.add_task({"name": "other", "channels": 2, "kind": "regression"}, copy_from="depth")
    assert fresh_weights(model, new=True) == ["heads.tasks.other.projection.bias", "heads.tasks.other.projection.weight"]
    assert not any(name.startswith("heads") for name in fresh_weights(model.mult, new=True))


def test_weight_decay_alone_is_no_training(checkpoint):
    """A column may be empty for a whole run: its gradients are 0, and AdamW shrinks the weights all the same."""
    model = load(checkpoint(without_edges))
    before = fresh_weights(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.randn(1, 3, 64, 64), labels={"edges2d": torch.full((1, 1, 64, 64), torch.nan)}).loss.backward()
        optimizer.step()
    assert any("edges2d" in name for name in before)
    assert fresh_weights(model) == before


@pytest.mark.parametrize("name", ["norm", "projection", "attention", "module"])
def test_a_task_may_be_called_like_a_part_of_the_network(checkpoint, name):
    model = load(checkpoint(lambda weights: weights))
    model.add_task({"name": name, "channels": 1, "kind": "regression"}, copy_from="depth")
    assert fresh_weights(model, new=True) == [], "all copied"
    model.add_task({"name": f"{name}2", "channels": 1, "kind": "regression"})
    model.add_task({"name": "other", "channels": 1, "kind": "regression"})
    with torch.no_grad():
        for _, parameter in model.task_parameters("other"):
            parameter.add_(0.5)
    assert {each.split("tasks.")[1].split(".")[0] for each in fresh_weights(model, new=True)} == {f"{name}2"}


def test_a_compiled_part_does_not_hide_its_weights(checkpoint):
    model = load(checkpoint(without_edges))
    before = fresh_weights(model)
    model.mult.decoder = torch.compile(model.mult.decoder)
    assert len(fresh_weights(model)) == len(before)
