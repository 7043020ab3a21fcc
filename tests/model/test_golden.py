"""Proves that a converted checkpoint of the authors' released head computes what their own code computed."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from examples.tools.convert_original_checkpoint import config_from_weights, convert, convert_state, read_checkpoint

FIXTURE = Path(__file__).parents[1] / "fixtures" / "original_dea1.safetensors"
TOLERANCE = 1e-4  # the weights are of order 1; 1e-6 is seen


@pytest.fixture(scope="module")
def golden():
    return load_file(FIXTURE)


@pytest.fixture(scope="module")
def converted():
    return convert(FIXTURE)


def test_sizes_are_read_from_the_weights(converted):
    with safe_open(FIXTURE, "pt") as file:
        stated = json.loads(file.metadata()["config"])
    backbone = converted.config.backbone_config
    assert [backbone.embed_dim, backbone.depths, backbone.num_heads] == [stated["embed_dim"], stated["depths"], stated["num_heads"]]
    assert backbone.window_size == converted.config.decoder_window_size == stated["window_size"]
    assert converted.config.task_specs["segmentation"].channels == stated["num_classes"]
    assert converted.config.block_attention == [["encoder", "reference"]] * 4
    assert converted.config.reference_task == "depth"


@pytest.mark.parametrize("stage", range(4))
def test_encoder_features_equal_the_authors(golden, converted, stage):
    with torch.no_grad():
        features = converted.mult(golden["input.image"], output_hidden_states=True).hidden_states[stage]
    torch.testing.assert_close(features, golden[f"expected.feature.{stage}"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("task", ["segmentation", "depth"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_equal_the_authors(golden, converted, task, attention):
    converted.set_attn_implementation(attention)
    with torch.no_grad():
        features = converted.mult(golden["input.image"]).task_features[task]
        logits = converted.heads.tasks[task].logits(features)
    torch.testing.assert_close(logits, golden[f"expected.{task}_logits"], rtol=0, atol=TOLERANCE)


def test_the_golden_values_detect_a_wrong_block_kind(golden):
    """Premise of the tests above: they fail with another source of the second block's queries and keys."""
    state = convert_state(read_checkpoint(FIXTURE))
    config = config_from_weights(read_checkpoint(FIXTURE))
    config.block_attention = [["encoder", "encoder"]] * 4
    from mult_hf import MulTForMultiTaskDensePrediction

    model = MulTForMultiTaskDensePrediction(config).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model.heads.tasks["depth"].logits(model.mult(golden["input.image"]).task_features["depth"])
    assert (logits - golden["expected.depth_logits"]).abs().max() > 100 * TOLERANCE


def test_a_pth_file_converts_to_the_same_model(tmp_path, converted):
    weights = read_checkpoint(FIXTURE)
    torch.save({"state_dict": weights, "meta": {"epoch": 3}}, tmp_path / "original.pth")
    again = convert(tmp_path / "original.pth")
    assert all(torch.equal(a, b) for a, b in zip(converted.state_dict().values(), again.state_dict().values()))


def test_an_unexpected_weight_stops_the_conversion(tmp_path):
    weights = read_checkpoint(FIXTURE) | {"decode_head.layers.0.blocks.0.attn.mystery_se.weight": torch.zeros(1)}
    save_file(weights, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="mystery_se"):
        convert(tmp_path / "odd.safetensors")


def test_a_missing_weight_stops_the_conversion(tmp_path):
    weights = read_checkpoint(FIXTURE)
    del weights["decode_head.layers.2.blocks.1.mlp_de.fc1.weight"]
    save_file(weights, tmp_path / "short.safetensors")
    with pytest.raises(ValueError, match=r"stages\.2\.blocks\.1\.tasks\.depth\.fc1\.weight"):
        convert(tmp_path / "short.safetensors")


class Command:
    """A pickle that runs a command when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, code: torch.save({"state_dict": {"backbone.a": code}}, path), "no code in it is run"),
        (lambda path, code: path.write_bytes(pickle.dumps({"state_dict": code})), "no code in it is run"),
        (lambda path, code: path.write_bytes(b""), "cannot be read as weights"),
        (lambda path, code: path.write_bytes(b"PK\3\4" + bytes(100)), "cannot be read as weights"),
        (lambda path, code: None, "No such file"),
        (lambda path, code: torch.save([1], path), "contains a list"),
        (lambda path, code: torch.save({"backbone.a": 5}, path), r"of type \['int'\]"),
        (lambda path, code: torch.save({5: torch.zeros(1)}, path), "has 0 weights"),
        (lambda path, code: torch.save({"state_dict": None}, path), "contains a NoneType"),
    ],
    ids=["code", "pickle", "empty", "damaged", "missing", "list", "number", "other names", "none"],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused_by_name_and_never_run(tmp_path, write, message, suffix):
    path, ran = tmp_path / f"odd.{suffix}", tmp_path / "ran"
    write(path, Command(ran))
    with pytest.raises(ValueError, match="odd" if suffix == "safetensors" else message) as refused:
        convert(path)
    assert path.name in str(refused.value)
    assert len(str(refused.value)) <= 500 + len(str(path))
    assert not ran.exists()


def test_the_error_for_another_kind_of_file_names_it(tmp_path):
    save_file({"backbone.something": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="two-task head"):
        convert(tmp_path / "other.safetensors")
