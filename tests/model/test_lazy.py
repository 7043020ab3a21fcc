"""A lazy dictionary is a dictionary of its values, each of which is made once and only when it is asked for."""

import copy
import json
import pickle

import pytest

from mult_hf.model.lazy import LazyDict

VALUES = {"a": 1, "b": 2}


@pytest.fixture
def made():
    """Keys of the values that were made."""
    return []


@pytest.fixture
def lazy(made):
    return LazyDict({key: lambda key=key, value=value: made.append(key) or value for key, value in VALUES.items()})


def test_a_value_is_made_when_it_is_first_asked_for(lazy, made):
    assert (list(lazy), list(lazy.keys()), len(lazy), "a" in lazy, "c" in lazy) == (["a", "b"], ["a", "b"], 2, True, False)
    assert made == []
    assert (lazy["a"], lazy["a"], lazy.get("a")) == (1, 1, 1)
    assert made == ["a"]


READINGS = {
    "dict": dict,
    "unpacking": lambda lazy: {**lazy},
    "keywords": lambda lazy: dict(**lazy),
    "items": lambda lazy: dict(lazy.items()),
    "values": lambda lazy: dict(zip(lazy, lazy.values(), strict=True)),
    "get": lambda lazy: {key: lazy.get(key) for key in lazy},
    "copy": lambda lazy: lazy.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda lazy: pickle.loads(pickle.dumps(lazy)),
    "json": lambda lazy: json.loads(json.dumps(lazy)),
    "repr": lambda lazy: eval(repr(lazy)),
    "union": lambda lazy: lazy | {},
    "union from the right": lambda lazy: {} | lazy,
    "update of another": lambda lazy: (other := {}, other.update(lazy))[0],
    "pop": lambda lazy: {key: lazy.pop(key) for key in list(lazy)},
    "setdefault": lambda lazy: {key: lazy.setdefault(key, 7) for key in lazy},
    "popitem": lambda lazy: dict([lazy.popitem(), lazy.popitem()]),
}


@pytest.mark.parametrize("how", READINGS)
def test_every_way_of_reading_gives_the_values(lazy, made, how):
    assert isinstance(lazy, dict)
    assert READINGS[how](lazy) == VALUES
    assert sorted(made) == ["a", "b"]


@pytest.mark.parametrize("how", ["copy", "copy.copy", "copy.deepcopy", "pickle", "union"])
def test_copies_and_pickles_are_plain_dictionaries(lazy, how):
    assert type(READINGS[how](lazy)) is dict


def test_it_equals_the_dictionary_of_its_values(lazy):
    assert lazy == VALUES
    assert VALUES == lazy  # noqa: SIM300  the other side's comparison
    assert lazy != {"a": 1}


def test_values_can_be_replaced_and_removed(lazy, made):
    lazy["a"] = 5
    lazy.update(c=6)
    del lazy["b"]
    assert lazy == {"a": 5, "c": 6}
    assert made == []


def test_a_maker_that_fails_can_be_asked_again():
    results = iter([ValueError("not yet"), 3])

    def make():
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    lazy = LazyDict({"a": make})
    with pytest.raises(ValueError, match="not yet"):
        lazy["a"]
    assert lazy["a"] == 3
