"""Proves that results are written to a model card in the Hub's format, without changing its other contents."""

import errno
import math

import pytest
from huggingface_hub import EvalResult, ModelCard

from mult_hf import registered_tasks
from mult_hf.data import files
from mult_hf.evaluation import cards
from mult_hf.evaluation.cards import eval_results, update_card

VALUES = {"segmentation/mean_iou": 0.123456789, "depth/rmse": 0.5, "edges2d/mae": math.nan}
CARD = """---
license: mit
model-index:
- name: my-model
  results:
  - task: {type: image-classification}
    dataset: {name: Beans, type: beans}
    metrics:
    - {type: accuracy, value: 0.9}
  - task: {type: depth-estimation}
    dataset: {name: rooms, type: rooms, split: test}
    metrics:
    - {type: rmse, name: depth/rmse, value: 0.7}
    - {type: mae, name: depth/mae, value: 0.6}
---
# My model

What I wrote.
"""


def raises(error):
    def function(*arguments):
        raise error

    return function


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(CARD)
    return path


def values_of(path):
    """By data set, split, metric and settings what a card says."""
    data = ModelCard.load(path).data
    return {
        (result.dataset_name, result.dataset_split, result.metric_name or result.metric_type, str(result.metric_args)): result.metric_value
        for result in data.eval_results
    }


def test_each_known_metric_is_one_result():
    results = eval_results(VALUES, registered_tasks(), "rooms", "test")
    assert [(each.task_type, each.metric_type, each.metric_name, each.metric_value) for each in results] == [
        ("semantic-segmentation", "mean_iou", "segmentation/mean_iou", 0.12346),
        ("depth-estimation", "rmse", "depth/rmse", 0.5),
    ]
    assert {(each.dataset_type, each.dataset_name, each.dataset_split, each.metric_args) for each in results} == {
        ("rooms", "rooms", "test", None)
    }


def test_a_card_stays_whole_if_the_disk_is_full(card, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", raises(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        update_card(card, eval_results(VALUES, registered_tasks(), "rooms", "test"))
    assert card.read_text() == CARD
    assert [*card.parent.iterdir()] == [card]


def test_only_an_earlier_value_of_the_same_measurement_is_replaced(card):
    update_card(card, eval_results(VALUES, registered_tasks(), "rooms", "test"))
    assert values_of(card) == {
        ("Beans", None, "accuracy", "None"): 0.9,
        ("rooms", "test", "depth/mae", "None"): 0.6,
        ("rooms", "test", "depth/rmse", "None"): 0.5,
        ("rooms", "test", "segmentation/mean_iou", "None"): 0.12346,
    }
    loaded = ModelCard.load(card)
    assert (loaded.data.license, loaded.data.model_name) == ("mit", "my-model")
    assert loaded.text.strip() == "# My model\n\nWhat I wrote."


def test_other_splits_and_settings_are_other_measurements(card):
    for split, settings in (("validation", None), ("test", {"flip": True, "scales": [1.0]})):
        update_card(card, eval_results({"depth/rmse": 0.4}, registered_tasks(), "rooms", split, settings))
    values = values_of(card)
    assert values["rooms", "test", "depth/rmse", "None"] == 0.7
    assert values["rooms", "validation", "depth/rmse", "None"] == 0.4
    assert values["rooms", "test", "depth/rmse", "{'flip': True, 'scales': [1.0]}"] == 0.4


def test_writing_twice_changes_nothing(card):
    results = eval_results(VALUES, registered_tasks(), "rooms", "test", {"flip": True, "scales": [0.75, 1.0]})
    update_card(card, results)
    once = card.read_text()
    update_card(card, results)
    assert card.read_text() == once


def test_a_card_without_results_gets_its_directory_as_name_of_the_model(tmp_path):
    path = tmp_path / "mult-rooms" / "README.md"
    path.parent.mkdir()
    path.write_text("---\nlicense: mit\n---\nText.\n")
    update_card(path, [EvalResult("depth-estimation", "rooms", "rooms", "rmse", 0.5)])
    assert ModelCard.load(path).data.model_name == "mult-rooms"


def test_a_directory_without_card_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"README\.md does not exist; `mult-hf train` writes a card"):
        update_card(tmp_path / "README.md", [])


def test_what_a_model_was_trained_on_is_read_from_a_card_on_this_machine_only(tmp_path, monkeypatch):
    """A page must not wait for the network to say it."""
    monkeypatch.setattr("huggingface_hub.file_download.http_get", lambda *args, **kwargs: pytest.fail("asked the network"))
    assert cards.trained_on("someone/model") is cards.trained_on("no / id") is cards.trained_on(str(tmp_path)) is None
    monkeypatch.undo()
    (tmp_path / "README.md").write_text(f"---\n{cards.TRAINED_ON}: my rooms\n---\n")
    assert cards.trained_on(str(tmp_path)) == "my rooms"
    (tmp_path / "README.md").write_text(f"---\n{cards.TRAINED_ON}: {{depth: a, heat: b, edges2d: a, fire: c}}\n---\n")
    assert cards.trained_on(str(tmp_path)) == "a (depth, edges2d), b (heat), and c (fire)"
    for header in (": [broken", f"{cards.TRAINED_ON}: {{depth: 1}}", f"{cards.TRAINED_ON}: {{}}", "tags: 5", "1: 2", "- a list"):
        (tmp_path / "README.md").write_text(f"---\n{header}\n---\n")
        assert cards.trained_on(str(tmp_path)) is None, header
    assert cards.trained_on("x" * 300) is None
