"""Proves that what is written reads back, and that a spoilt file is refused in words."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mult_hf import MulTImageProcessor
from mult_hf.cli.arguments import parse_arguments
from mult_hf.cli.train import TrainFlags
from mult_hf.data.schema import load_task_specs
from mult_hf.inference.loading import load_whole_model
from mult_hf.inference.stored_maps import precision, read_map, stored_form, write_map
from mult_hf.training.state_files import read_state, write_state
from support.refusals import refusal
from support.strategies import JUNK, ODD_TEXT, card, cases, spoilt, spoilt_bytes, targets, task_specs, write


@cases(2)
@given(task_specs.flatmap(lambda spec: st.tuples(st.just(spec), targets(spec))))
def test_a_predicted_map_is_read_back_within_its_precision(tmp_path, pair):
    spec, target = pair
    stored = stored_form(spec)
    path = tmp_path / f"map.{'npz' if stored.encoding.dtype == 'float32' else 'png'}"
    prediction = torch.from_numpy(target)
    write_map(path, prediction[0] if spec.channels == 1 and not spec.is_classification else prediction, stored)
    back = read_map(path, stored)
    assert back.shape == target.shape
    np.testing.assert_allclose(back, target, atol=precision(stored) * 1.01 + 1e-6 * np.nanmax(np.abs(target), initial=0), rtol=0)


LEAVES = st.one_of(
    st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.none(),
    st.lists(st.floats(width=32), max_size=3).map(torch.tensor), st.integers(0, 3).map(lambda n: torch.arange(n).expand(2, n)),
    st.sampled_from([torch.tensor(3), torch.zeros(0, 4), torch.ones(2, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bool)]),
)  # fmt: skip
KEYS = st.one_of(st.text(max_size=4), st.integers())
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_equal(one, other)
    else:
        assert found == expected or found != found


@cases(2)
@given(TREES)
def test_a_state_is_read_back_as_it_was(tmp_path, state):
    write_state(tmp_path, "part", state)
    assert_equal(read_state(tmp_path, "part"), state)


STATE = {"step": 3, "moments": {0: (torch.ones(3), torch.zeros(2, 2))}, "name": "adam", "rates": [0.1, None]}


@cases(2)
@given(st.data())
def test_a_spoilt_state_is_refused_or_a_state(tmp_path, data):
    write_state(tmp_path, "part", STATE)
    path = tmp_path / data.draw(st.sampled_from(["part.json", "part.safetensors"]))
    write(path, data.draw(spoilt_bytes(path.read_bytes())))
    refusal(lambda: read_state(tmp_path, "part"))


# --- checkpoints


@pytest.fixture(scope="module")
def copy(checkpoint, tmp_path_factory):
    """Make the checkpoint whole again, in one place."""
    directory = tmp_path_factory.mktemp("copy") / "model"

    def make():
        shutil.copytree(checkpoint, directory, dirs_exist_ok=True)
        return directory

    return make


@cases(0.5)
@given(st.data())
def test_a_spoilt_file_of_weights_is_refused_or_gives_finite_weights(copy, data):
    directory = copy()
    path = directory / "model.safetensors"
    write(path, data.draw(spoilt_bytes(path.read_bytes())))
    if refusal(lambda: load_whole_model(directory)):
        return
    assert all(value.isfinite().all() for value in load_whole_model(directory).state_dict().values())


@cases(0.5)
@given(st.data())
def test_a_checkpoint_with_a_weight_renamed_cut_or_left_out_is_refused(copy, data):
    directory = copy()
    weights = load_file(directory / "model.safetensors")
    name = data.draw(st.sampled_from(sorted(weights)))
    kind = data.draw(st.sampled_from(["rename", "remove", "reshape", "nan"]))
    value = weights.pop(name) if kind in ("rename", "remove") else weights[name]
    if kind == "rename":
        weights[data.draw(st.text("abc._", min_size=1, max_size=9))] = value
    elif kind == "reshape":
        weights[name] = torch.cat([value, value])
    elif kind == "nan":
        weights[name] = torch.full_like(value, float("nan"))
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    if value.is_floating_point():
        assert refusal(lambda: load_whole_model(directory)), f"{name} of the file is not that of the model"


@cases(0.5)
@given(st.data())
def test_a_spoilt_configuration_file_is_refused_or_read(copy, data):
    directory = copy()
    path = directory / data.draw(st.sampled_from(["config.json", "preprocessor_config.json"]))
    values = json.loads(path.read_text())
    text = json.dumps(data.draw(spoilt(values)))
    write(path, data.draw(st.one_of(st.just(text), st.just(text), spoilt_bytes(path.read_bytes()), ODD_TEXT)))

    def load():
        load_whole_model(directory)
        MulTImageProcessor.from_pretrained(directory)

    refusal(load)


# --- cards and files of flags


@cases(3)
@given(st.data())
def test_a_spoilt_card_is_refused_or_lists_tasks(tmp_path, data):
    entries = [spec.to_dict() for spec in data.draw(st.lists(task_specs, min_size=1, max_size=2, unique_by=lambda spec: spec.name))]
    entries[0] = data.draw(st.one_of(st.just(entries[0]), spoilt(entries[0]), JUNK))
    text = card(json.loads(json.dumps(entries)))
    write(tmp_path / "README.md", data.draw(st.one_of(st.just(text), st.just(text), spoilt_bytes(text.encode()), ODD_TEXT)))
    if not refusal(lambda: load_task_specs(tmp_path)):
        assert load_task_specs(tmp_path)


@cases(2)
@given(st.one_of(
    ODD_TEXT, st.binary(max_size=40), st.dictionaries(st.sampled_from(["max_steps", "dataset", "depths", "seed", "max_zoom", "overwrite",
    "config", "nonsense", 3, "weighting_options", "resume"]), JUNK, max_size=3).map(lambda values: json.dumps(values).encode()),
))  # fmt: skip
def test_a_file_of_flags_is_refused_or_read(tmp_path, content):
    path = write(tmp_path / "flags.yaml", content)

    def read():
        try:
            parse_arguments(TrainFlags, ["--config", str(path)], "", prog="mult-hf train")
        except SystemExit as error:  # a value of a wrong type, as on the command line
            assert error.code == 2  # noqa: PT017

    refusal(read)
