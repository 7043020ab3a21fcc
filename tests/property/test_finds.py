"""What the generated inputs and the injected faults found, each with its right value or refusal."""

import errno
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mult_hf import MulTImageProcessor, TaskSpec
from mult_hf.cli import main as command
from mult_hf.data.schema import load_task_specs
from mult_hf.data.workers import naming_killed_workers
from mult_hf.inference.loading import load_processor, load_whole_model
from mult_hf.inference.output import PredictionDirectory
from mult_hf.inference.stored_maps import read_map, stored_form, write_map
from mult_hf.model.images import read_image
from mult_hf.model.label_encoding import LabelEncoding
from mult_hf.training.progress import JsonLinesLog
from support.refusals import refusal
from support.training_runs import train

# --- label maps


def test_a_number_beyond_its_float_type_is_refused_and_not_stored_as_unknown():
    """70,000 is infinite in float16, and infinite means unknown."""
    target = np.array([[[70_000.0, np.nan, 2.0]]], np.float32)
    with pytest.raises(ValueError, match="encoded values reach from 2 to 70000, which float16 cannot hold"):
        LabelEncoding(dtype="float16").encode(target)
    stored = LabelEncoding(dtype="float16").encode(target / 10)
    np.testing.assert_allclose(LabelEncoding(dtype="float16").decode(stored), target / 10, rtol=1e-3)


def test_the_largest_integer_is_not_rounded_beyond_its_type():
    with pytest.raises(ValueError, match="int64 cannot hold"):
        LabelEncoding(dtype="int64").encode(np.full((1, 1, 2), 2.0**63, np.float32))


@pytest.mark.parametrize("dtype", ["uint64", "int64"])
@pytest.mark.parametrize("declared", ["int32", "int16", "uint8"])
def test_a_widened_map_of_any_integers_is_read_if_its_values_fit(dtype, declared):
    """Numpy compares no unsigned number with a negative limit."""
    encoding = LabelEncoding(dtype=declared)
    assert encoding.decode(np.full((4, 5), 7, dtype)).max() == 7
    assert encoding.decode(np.zeros((0, 5), dtype)).shape == (1, 0, 5)
    with pytest.raises(ValueError, match=rf"the stored map is {dtype} with values from 0 to 9000000000"):
        encoding.decode(np.array([[0, 9_000_000_000]], dtype))


def test_a_map_of_the_other_byte_order_has_the_same_numbers():
    """As FITS, NetCDF and some TIFF readers return it."""
    encoding, stored = LabelEncoding(dtype="uint16", scale=1 / 512), np.array([[512, 1024]], np.uint16)
    assert np.array_equal(encoding.decode(stored.astype(">u2")), encoding.decode(stored))


def test_a_decoded_value_beyond_float32_is_unknown():
    decoded = LabelEncoding(dtype="float64", scale=1e30).decode(np.array([[1.0, 1e10]]))
    assert np.array_equal(decoded, np.array([[[1e30, np.nan]]], np.float32), equal_nan=True)


@pytest.mark.parametrize(
    "stored", [np.array([["a"]]), np.array([["2020-01-01"]], "M8[D]"), np.zeros((2, 2), [("a", "u1")]), np.array([[None]])]
)
def test_a_map_without_numbers_is_refused(stored):
    with pytest.raises(ValueError, match="not of numbers; store it as float32"):
        LabelEncoding().decode(stored)


@pytest.mark.parametrize("size", [(3, 5), (5, 3), (3, 3), (1, 4)])
def test_predicted_vectors_of_an_image_of_three_rows_are_read_back(tmp_path, size):
    """(3, width, 3) may have its channels first or last; in a file they are last."""
    stored = stored_form(TaskSpec(name="normal", kind="regression", channels=3, value_range=(-1.0, 1.0)))
    vectors = torch.rand(3, *size) * 2 - 1
    write_map(tmp_path / "map.png", vectors, stored)
    np.testing.assert_allclose(read_map(tmp_path / "map.png", stored), vectors, atol=1 / 254 + 1e-6)
    maps = {"normal": Image.open(tmp_path / "map.png")}
    labels = MulTImageProcessor(tasks=[stored], do_resize=False)(Image.new("RGB", size[::-1]), label_maps=maps, return_tensors="pt")[
        "labels"
    ]
    np.testing.assert_allclose(labels["normal"][0], vectors, atol=1 / 254 + 1e-6)


# --- entries, configurations, processors


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "x" * 3000, "kind": "regression", "channels": 1},
        {"name": "a", "kind": "k" * 3000, "channels": 1},
        {"name": "a", "kind": "regression", "channels": 2000, "horizontal_flip_signs": [2] * 2000},
        {"name": "a", "kind": "regression", "channels": 1, "x" * 3000: 1},
        {"kind": "regression", "class_names": ["x"] * 2000},
        {"name": "a", "kind": "regression", "channels": 1, "encoding": {"dtype": "uint8", "unknown": [300] * 2000}},
        ["x"] * 2000,
    ],
)
def test_however_long_a_value_is_its_refusal_can_be_read(entry):
    assert refusal(lambda: TaskSpec.from_dict(entry))


def test_a_task_whose_name_is_too_long_for_its_files_is_refused():
    TaskSpec(name="a" * 64, kind="regression", channels=1)
    with pytest.raises(ValueError, match="is not a lower-case identifier of at most 64 characters"):
        TaskSpec(name="a" * 65, kind="regression", channels=1)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"hidden_act": "gleu"}, "hidden_act 'gleu' is unknown; choose one of .*gelu"),
        ({"decoder_num_attention_heads": [1, 1, 0, 1]}, "decoder_num_attention_heads has 0; a stage has at least 1 head"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio is nan; it must be above 0 and finite"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0; it must be above 0 and finite"),
        ({"initializer_range": -1.0}, "initializer_range is -1.0; it must be at least 0 and finite"),
    ],
)
def test_an_impossible_value_is_refused_when_the_configuration_is_made(tiny_config, keywords, message):
    with pytest.raises(Exception, match=message) as error:
        tiny_config(**keywords)
    assert type(error.value).__name__ == "StrictDataclassClassValidationError"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"image_std": [0.2, 0.0, 0.2]}, r"image_std is \[0.2, 0.0, 0.2\]; give a finite number above 0, or one per colour"),
        ({"image_mean": "grey"}, "image_mean is 'grey'; give a finite number, or one per colour"),
        ({"rescale_factor": float("inf")}, "rescale_factor is inf; give a finite number above 0"),
    ],
)
def test_a_processor_that_would_make_pixels_infinite_is_refused(keywords, message):
    """Classes of NaN are class 0, which looks like a result."""
    with pytest.raises(ValueError, match=message):
        MulTImageProcessor(**keywords)


# --- images and predictions


def test_a_path_that_is_too_long_is_shown_once_and_cut():
    message = refusal(lambda: read_image("x" * 4000))
    assert message.startswith("xxx")
    assert message.endswith("cannot be read as an image: File name too long")


def test_floats_that_overshoot_1_a_little_are_not_read_as_a_black_image():
    bright = np.full((5, 6, 3), 0.5)
    assert read_image(bright).max() == 128
    bright[0, 0, 0] = 1.02  # as cubic resampling leaves it
    with pytest.raises(ValueError, match=r"image has floats up to 1.02: .*; clip it to \[0, 1\], or convert it to uint8"):
        read_image(bright)


@pytest.mark.parametrize("sizes", [[(0, 5)], [(5, -1)], [(2.5, 3)], 7, ["ab"], [(1, 2, 3)], []])
def test_target_sizes_that_are_none_are_refused(sizes):
    processor = MulTImageProcessor(tasks=["depth"])
    with pytest.raises(ValueError, match=r"target_sizes is .*; give one \(height, width\) per image, whole numbers of at least 1"):
        processor.post_process({"depth": torch.ones(1, 1, 4, 4)}, sizes)


@pytest.mark.parametrize("outputs", [None, {}, torch.ones(1, 1, 4, 4), {"depth": torch.ones(4, 4)}], ids=["none", "empty", "tensor", "map"])
def test_a_value_that_is_not_an_output_of_the_model_is_refused(outputs):
    with pytest.raises(ValueError, match=r"without predictions \(batch, channels, height, width\) by task"):
        MulTImageProcessor(tasks=["depth"]).post_process(outputs)


def test_channels_beyond_those_of_the_task_are_not_dropped():
    with pytest.raises(ValueError, match="depth: the prediction has 2 channels, its entry 1"):
        MulTImageProcessor(tasks=["depth"]).post_process({"depth": torch.ones(1, 2, 4, 4)})


# --- files


@pytest.fixture
def saved(tiny_model, tmp_path):
    model = tiny_model(tasks=["depth"])
    model.save_pretrained(tmp_path / "model")
    MulTImageProcessor(tasks=["depth"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_of_weights_is_named(saved, share):
    path = saved / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = refusal(lambda: load_whole_model(str(saved)))
    assert f"{saved} cannot be loaded: " in message
    assert message.endswith("; give another directory or Hub id, or save or download this one again")


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"model_type": "mult", "tasks": 3}', '{"model_type": "mult", "backbone_config": 3}', "null"]
)
def test_a_damaged_configuration_is_named(saved, content):
    (saved / "config.json").write_text(content)
    assert "model cannot be loaded: " in refusal(lambda: load_whole_model(str(saved)))


@pytest.mark.parametrize("content", ["[]", "{", '{"image_std": [0, 0, 0]}', "null"])
def test_a_damaged_processor_is_named(saved, content):
    (saved / "preprocessor_config.json").write_text(content)
    assert "model cannot be loaded: " in refusal(lambda: load_processor(str(saved)))


@pytest.mark.parametrize("header", ["{a", "- 1", "? [1, 2]\n: 3", "1: 2", "a: &a [*a]", "!!python/object/apply:os.getcwd []", "[" * 3000])
def test_the_error_names_a_card_whose_header_is_not_yaml(tmp_path, header):
    (tmp_path / "README.md").write_text(f"---\nmult_tasks: {header}\n---\n" if header[0] in "{[!" else f"---\n{header}\n---\n")
    message = refusal(lambda: load_task_specs(tmp_path))
    assert "README.md cannot be read" in message or "has no list 'mult_tasks'" in message


def test_a_damaged_card_of_predictions_is_no_crash(tmp_path):
    directory = PredictionDirectory(tmp_path, {})
    for text in ("---\nmult_prediction: 3\n---\n", "---\n{a\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert refusal(lambda: directory.claim("model", {}, overwrite=False))


# --- command lines


def lines(capsys, *argv):
    """Exit status and error lines of a command; some statuses are returned and some raised."""
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(command.main([*map(str, argv)]))
    return ended.value.code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("mult-hf")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--drop_path_rate", 2], "--drop_path_rate is 2.0; it must be at least 0 and below 1"),
        (["--embed_dim", 0], "--embed_dim is 0; it must be at least 1"),
        (["--embed_dim", 10**20], "--embed_dim is 100000000000000000000; it must be at least 1 and at most 4096"),
        (["--depths", 2, 0], "--depths is [2, 0]; it must be at least 1"),
        (["--window_size", -1], "--window_size is -1; it must be at least 1"),
        (["--color_jitter", "nan"], "--color_jitter is nan; it must be at least 0 and at most 1"),
        (["--color_jitter", 5], "--color_jitter is 5.0; it must be at least 0 and at most 1"),
        (["--seed", -1], "--seed is -1; it must be at least 0 and at most 4294967295"),
        (["--seed", 10**20], "--seed is 100000000000000000000; it must be at least 0"),
        (["--schedule_power", "nan"], "--schedule_power is nan; it must be at least 0"),
        (["--num_workers", 10_000], "--num_workers is 10000; it must be at least 0 and at most 256"),
        (["--image_size", 10**20], "--image_size is 100000000000000000000; it must be at least 32 and at most 16384"),
        (["--reference_task", "nothing"], "reference_task 'nothing' is not one of the tasks"),
        (["--block_attention", "self", "other"], "block_attention has 'other', which is not one of self, encoder, reference"),
        (["a\nb" * 300], "unrecognized arguments: a b"),
    ],
)
def test_impossible_flags_of_train_are_one_line(capsys, data, tmp_path, flags, message):
    """Strict configurations raise an error of their own kind, which is not a ValueError."""
    status, (line,) = lines(capsys, "train", "--dataset", data, "--output_dir", tmp_path, *flags)
    assert status == 2
    assert message in line
    assert len(line) < 700


@pytest.mark.parametrize("command_line", ["predict --inputs x --image_size ²", "predict --inputs x --image_size 99999999999999999999",
                                          "evaluate --dataset x --image_size 99999999999999999999"])  # fmt: skip
def test_sizes_beyond_any_memory_are_one_line(capsys, command_line):
    status, (line,) = lines(capsys, *command_line.split())
    assert status == 2
    assert "give a side, or height and width, of at least 32 pixels and at most 16384" in line


@pytest.mark.parametrize("words", [["--inputs", ""], ["--inputs", "x", ""], ["--inputs="], ["--inputs", "x", "--output_dir", ""]])
def test_an_unset_shell_variable_does_not_stand_for_the_current_directory(capsys, words):
    status, (line,) = lines(capsys, "predict", *words)
    assert status == 2
    assert "is empty; give a value, or leave the flag out" in line


def test_thousands_of_workers_are_not_started(capsys):
    status, (line,) = lines(capsys, "predict", "--inputs", "x", "--num_workers", 10_000)
    assert status == 2
    assert "--num_workers is 10000; it must be at least 0 and at most 256" in line


def test_a_truncated_checkpoint_is_one_line(capsys, saved, tmp_path):
    (saved / "model.safetensors").write_bytes(b"")
    Image.new("RGB", (40, 40)).save(tmp_path / "image.png")
    status, (line,) = lines(capsys, "predict", "--model", saved, "--inputs", tmp_path / "image.png", "--output_dir", tmp_path / "out")
    assert status == 2
    assert f"{saved} cannot be loaded" in line


def test_a_run_that_diverges_is_one_line(capsys, monkeypatch):
    import sys
    import types

    def diverge(argv):
        raise FloatingPointError("step 3: the loss is nan")

    monkeypatch.setitem(sys.modules, "mult_hf.cli.train", types.SimpleNamespace(main=diverge))
    assert lines(capsys, "train") == (2, ["mult-hf train: error: step 3: the loss is nan"])


# --- faults


class Killed(Dataset):
    """The second row kills the process that reads it."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)


def test_the_error_for_a_killed_worker_says_what_to_do():
    @naming_killed_workers("continue with --resume latest")
    def read():
        return list(DataLoader(Killed(), num_workers=1))

    with pytest.raises(
        ChildProcessError, match=r"a process that reads data was killed, .*; lower --num_workers or --batch_size, and continue"
    ):
        read()


def test_other_errors_with_workers_keep_their_type():
    with pytest.raises(RuntimeError, match="out of memory"), naming_killed_workers("go on"):
        raise RuntimeError("out of memory")


def test_a_log_that_cannot_be_written_is_named_with_the_checkpoint_before(tmp_path, data, monkeypatch):
    def full(self, entry):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JsonLinesLog, "append", full)
    with pytest.raises(OSError, match=r"log.jsonl could not be written; \d+ MiB are free there; newest complete checkpoint: none yet"):
        train(tmp_path, "--dataset", data)
