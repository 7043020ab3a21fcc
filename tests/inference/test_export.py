"""Proves that an exported file is checked against the model, and that unsupported models are refused."""

import errno
import importlib
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("onnxruntime", reason='exports models: pip install "mult-hf[export]"')

from mult_hf import MulTImageProcessor, TaskSpec
from mult_hf.inference import export

HEIGHT, WIDTH = 40, 36  # neither whole windows nor, at the second stage, whole patches


def test_an_encoder_that_cannot_be_traced_is_named(tiny_model):
    exportable = export.Exportable(tiny_model(tasks=["depth"]), ["depth"], "predictions")
    encoder = exportable.model.mult.backbone
    forward = encoder.forward
    encoder.forward = lambda pixel_values, **kwargs: forward(pixel_values * (2 if pixel_values.sum() > 0 else 1), **kwargs)
    with pytest.raises(export.ExportError, match="a SwinBackbone encoder could not be exported at 40 x 36 pixels; Swin encoders can"):
        export.trace(exportable, (HEIGHT, WIDTH))


def test_a_size_that_the_model_refuses_is_no_fault_of_the_export(tiny_model):
    with pytest.raises(ValueError, match="pixel_values are 13 x 13 pixels"):
        export.trace(export.Exportable(tiny_model(tasks=["depth"]), ["depth"], "predictions"), (13, 13))


def test_a_size_for_which_memory_is_missing_is_no_fault_of_the_export(tiny_model):
    exportable = export.Exportable(tiny_model(tasks=["depth"]), ["depth"], "predictions")
    exportable.model.mult.backbone.forward = out_of_memory
    with pytest.raises(export.ExportError, match="the model cannot predict at 64 x 64 pixels here: not enough memory"):
        export.trace(exportable, (64, 64))


def test_memory_that_is_missing_for_the_batch_of_the_check_is_named_too(tiny_model, tmp_path, monkeypatch):
    """The check predicts several images at once."""
    exportable = export.Exportable(tiny_model(tasks=["depth"]), ["depth"], "predictions")
    monkeypatch.setitem(
        export.FORMATS, "pt2", export.Format(lambda *arguments: tmp_path / "x.pt2", lambda *arguments: out_of_memory, ".pt2")
    )
    with pytest.raises(export.ExportError, match="the model cannot predict at 40 x 36 pixels here: not enough memory"):
        export.write("pt2", exportable, None, {"height": HEIGHT, "width": WIDTH}, tmp_path / "x", 1)


def test_an_error_of_a_users_encoder_is_not_taken_for_missing_memory(tiny_model):
    exportable = export.Exportable(tiny_model(tasks=["depth"]), ["depth"], "predictions")
    exportable.model.mult.backbone.forward = lambda *arguments, **options: torch.zeros(2, 3) @ torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied") as caught:
        export.trace(exportable, (64, 64))
    assert not isinstance(caught.value, export.ExportError)


def out_of_memory(*arguments, **options):
    raise RuntimeError("not enough memory")


@pytest.mark.parametrize("canonical", [96.0, None])
@torch.no_grad()
def test_a_file_says_how_its_depth_becomes_metres(tiny_model, canonical):
    """Depth of a canonical camera looks like metres. Expected: what the processor makes of the same prediction."""
    exportable = export.Exportable(tiny_model(tasks=["depth", "edges2d"]), ["depth", "edges2d"], "predictions").eval()
    size, focal = (HEIGHT, WIDTH), 50.0
    processor = MulTImageProcessor(size={"height": HEIGHT, "width": WIDTH}, tasks=["depth", "edges2d"], canonical_focal_length=canonical)
    facts = json.loads(json.dumps(export.describe(exportable, processor)))
    assert (facts["canonical_focal_length"], facts["assumed_field_of_view"]) == (canonical, canonical and 60.0)
    predictions = exportable(torch.rand(1, 3, *size))
    (expected,) = processor.post_process(predictions, [size], focal_length=focal)
    for task, values in predictions.items():
        entry = facts["tasks"][task]
        factor = 1.0 if canonical is None else (focal / facts["canonical_focal_length"]) ** entry["zoom_exponent"]
        torch.testing.assert_close((values / factor).clamp(*entry["value_range"])[0, 0], expected[task]["prediction"])


@pytest.mark.parametrize(("canonical_camera", "limits"), [(False, (0.0, 1.0)), (True, (-math.inf, math.inf))])
@torch.no_grad()
def test_the_range_of_an_unlimited_head_limits_true_metres_only(tiny_model, canonical_camera, limits):
    """Those of a canonical camera may lie beyond it, and are within it once they are converted."""
    depth = {"name": "depth", "activation": "identity", "value_range": (0.0, 1.0), "loss": "l1"}
    model = tiny_model(tasks=[depth, {"name": "edges2d", "value_range": (0.0, 1.0)}])
    pixels = 3 * torch.randn(1, 3, HEIGHT, WIDTH)
    finished = export.Exportable(model, ["depth", "edges2d"], "finished", canonical_camera=canonical_camera).eval()(pixels)
    expected = model.eval()(pixels).predictions
    assert expected["depth"].min() < 0, "otherwise this shows nothing"
    torch.testing.assert_close(finished["depth"], expected["depth"].clamp(*limits))
    torch.testing.assert_close(finished["edges2d"], expected["edges2d"].clamp(0, 1))


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_a_file_with_different_predictions_is_deleted(monkeypatch, tmp_path, factor):
    def write(program, facts, stem):
        stem.write_bytes(b"wrong")
        return stem

    def model(pixel_values):
        return {"depth": torch.ones(len(pixel_values), 1, HEIGHT, WIDTH)}

    def wrong(pixel_values):
        return {"depth": factor * model(pixel_values)["depth"]}

    monkeypatch.setitem(export.FORMATS, "onnx", replace(export.FORMATS["onnx"], write=write, predictor=lambda path, threads: wrong))
    with pytest.raises(export.ExportError, match=r"differed from PyTorch by .*, more than 0\.0001, and was deleted"):
        export.write("onnx", model, None, {"height": HEIGHT, "width": WIDTH}, tmp_path / "file.onnx", 1)
    assert not (tmp_path / "file.onnx").exists()


@pytest.mark.parametrize(("difference", "is_written"), [(0.02, True), (0.05, False)])
def test_large_values_may_differ_by_some_roundings(monkeypatch, tmp_path, difference, is_written):
    """Depth in millimetres: 64 times the relative precision of float32 is .0229 at 3,000."""

    def model(pixel_values):
        return {"depth": torch.full((len(pixel_values), 1, HEIGHT, WIDTH), 3000.0), "small": torch.ones(len(pixel_values), 1)}

    def rounded(pixel_values):
        return {**model(pixel_values), "depth": model(pixel_values)["depth"] + difference}

    kind = replace(export.FORMATS["onnx"], write=lambda program, facts, stem: stem, predictor=lambda path, threads: rounded)
    monkeypatch.setitem(export.FORMATS, "onnx", kind)
    arguments = ("onnx", model, None, {"height": HEIGHT, "width": WIDTH}, tmp_path / "file.onnx", 1)
    if is_written:
        assert export.write(*arguments).difference == pytest.approx(difference, abs=3e-4)
    else:
        with pytest.raises(export.ExportError, match=r"differed from PyTorch by 0\.05 in depth, more than 0\.02\d+, and was deleted"):
            export.write(*arguments)


def test_a_file_without_a_limit_reports_a_difference_that_is_not_a_number(monkeypatch, tmp_path):
    def model(pixel_values):
        return {"depth": torch.ones(len(pixel_values), 1), "edges2d": torch.ones(len(pixel_values), 1)}

    def broken(pixel_values):
        return {"depth": model(pixel_values)["depth"] + 0.5, "edges2d": model(pixel_values)["edges2d"] * torch.nan}

    kind = replace(export.FORMATS["int8"], write=lambda program, facts, stem: stem, predictor=lambda path, threads: broken)
    monkeypatch.setitem(export.FORMATS, "int8", kind)
    assert math.isnan(export.write("int8", model, None, {"height": HEIGHT, "width": WIDTH}, tmp_path / "file.onnx", 1).difference)


def test_a_missing_runtime_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "mult_hf.inference.export")
    with pytest.raises(ImportError, match=r'onnxruntime.*pip install "mult-hf\[export\]"'):
        importlib.import_module("mult_hf.inference.export")


@pytest.mark.parametrize(
    ("error", "free", "expected", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left"),
            2**40,
            OSError,
            r"net\.xml could not be written to .*out, where 1048576 MiB .*: No space left$",
        ),
        (RuntimeError("iostream error"), 2**20, OSError, r"net\.xml could not be written to .*out, where 1 MiB are free: iostream error$"),
        (RuntimeError("no such operator"), 2**40, RuntimeError, "^no such operator$"),
        (OSError("libopenvino.so: cannot open shared object file"), 2**40, OSError, "^libopenvino.so: cannot open"),
        (RuntimeError("no such operator"), None, RuntimeError, "^no such operator$"),
        (OSError(errno.ENOSPC, "No space left"), None, OSError, r"net\.xml could not be written to .*out: No space left$"),
    ],
)
def test_a_full_disk_is_named_whatever_a_converter_raises_and_other_errors_are_not_hidden(
    tmp_path, monkeypatch, error, free, expected, message
):
    def disk_usage(folder):
        if free is None:
            raise FileNotFoundError(folder)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with pytest.raises(expected, match=message), export.describing_full_disks(tmp_path / "out/.unfinished-1/net.xml"):
        raise error


def test_finished_vectors_keep_the_length_1_whatever_their_range():
    spec = TaskSpec(name="direction", kind="regression", channels=2, activation="unit_vector", value_range=(0.0, 1.0))
    prediction = torch.tensor([-0.6, 0.8]).view(1, 2, 1, 1)
    assert torch.equal(export.finished(prediction, spec), prediction)


@pytest.mark.parametrize("name", export.FORMATS)
def test_every_format_names_the_file_that_fills_the_disk(tmp_path, monkeypatch, name):
    def full(program, facts, stem):
        raise OSError(errno.ENOSPC, "No space left")

    file_format = replace(export.FORMATS[name], write=full)
    monkeypatch.setitem(export.FORMATS, name, file_format)
    with pytest.raises(OSError, match=rf"net{re.escape(file_format.suffix)} could not be written to {re.escape(str(tmp_path))}, where"):
        export.write(name, lambda pixel_values: {}, None, {}, tmp_path / "net", 1)


def test_the_format_of_torch_export_is_written_by_python_because_torch_ends_the_process_on_a_full_disk(tmp_path, monkeypatch):
    def full(path, contents):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    program = torch.export.export(torch.nn.Identity(), (torch.zeros(1),))
    with pytest.raises(OSError, match="No space left"):
        export.write_pt2(program, {}, tmp_path / "net")
