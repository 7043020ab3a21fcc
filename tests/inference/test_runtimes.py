"""Every runtime predicts what the model predicts in PyTorch, with files that are exported once."""

import errno
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import logging

pytest.importorskip("onnxruntime", reason='exports models: pip install "mult-hf[export]"')
pytest.importorskip("openvino", reason='runs models: pip install "mult-hf[openvino]"')

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor, MultiTaskVisionPipeline
from mult_hf.cli.main import main
from mult_hf.inference import export, runtimes
from mult_hf.inference.digests import digest
from mult_hf.inference.errors import MissingMemoryError
from mult_hf.inference.predictor import TestTimeAugmentation, predict
from mult_hf.inference.runtimes import RUNTIMES, with_runtime
from support.models import FLAT_SWIN
from support.training_runs import DEPTH, depth_map, write_data

HEIGHT, WIDTH = 40, 36  # neither whole windows nor, at the second stage, whole patches
TASKS = ["depth", "normals"]
CONFIG = {  # two stages, because tracing takes a second per block and task
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "out_features": ["stage1", "stage2"],
}

# Largest difference from PyTorch in float32: rounding (the limit that every exported file is checked against), 8 bits of a mantissa, and 8
# bits of weights and activations; of the models of these tests, whose predictions are around 1.
TOLERANCES = {"float32": export.TOLERANCE, "bfloat16": 0.1, "int8": 0.5}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A folder of its own for exported files, and no limit on instructions for OpenVINO, which fails with one ("bad combination")."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)  # a limit for torch's copy of oneDNN, which OpenVINO's reads, too
        patch.setattr(runtimes, "CACHE", tmp_path_factory.mktemp("cache"))
        yield runtimes.CACHE


def save_model(directory, config):
    """Save a model in which no parameter has its initial value, with its processor."""
    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(config), tasks=TASKS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    MulTImageProcessor(size={"height": HEIGHT, "width": WIDTH}, tasks=model.config.tasks).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A very small model."""
    return save_model(tmp_path_factory.mktemp("model"), CONFIG)


@pytest.fixture
def make_model(directory):
    """Load the model, always from the same directory, so that its files are exported by the first test that needs them."""
    return lambda: MulTForMultiTaskDensePrediction.from_pretrained(directory).eval()


def pixels(batch):
    return torch.randn(batch, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(batch))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("runtime", "dtype"), [(name, dtype) for name, each in RUNTIMES.items() for dtype in each.start])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_runtime_predicts_what_the_model_predicts(make_model, runtime, dtype, batch):
    expected = make_model()(pixels(batch)).predictions
    found = with_runtime(make_model(), runtime, dtype)(pixels(batch)).predictions
    assert list(found) == TASKS
    for task, maps in expected.items():
        torch.testing.assert_close(found[task], maps, atol=TOLERANCES[dtype], rtol=0, msg=lambda text, task=task: f"{task}: {text}")
    if dtype != "float32" and (runtime != "openvino" or export.has_openvino_bfloat16()):
        differences = [(found[task] - maps).abs().max() for task, maps in expected.items()]
        assert max(differences) > export.TOLERANCE, "premise: it computes with these numbers"


def test_openvino_says_if_the_processor_has_no_bfloat16(monkeypatch, caplog):
    """OpenVINO itself would take float32 without a message."""
    monkeypatch.setattr(export, "has_openvino_bfloat16", lambda: False)
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    with pytest.raises(RuntimeError):
        export.openvino_predictor(Path("missing.xml"), 1, "bf16")
    assert "this processor has no bfloat16 for OpenVINO" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [pytest.param("onnx", marks=pytest.mark.nightly), "openvino"])
def test_only_the_wanted_tasks_are_exported_and_once_for_each_size(monkeypatch, caplog, tmp_path, runtime):
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    directory = save_model(tmp_path / "model", FLAT_SWIN)
    traced = []
    trace = export.trace
    monkeypatch.setattr(export, "trace", lambda exportable, size: traced.append(size) or trace(exportable, size))
    monkeypatch.setattr(runtimes, "CACHE", tmp_path / "cache")
    for _ in range(2):
        model = MulTForMultiTaskDensePrediction.from_pretrained(directory).eval()
        model = with_runtime(model, runtime, tasks=["normals"])
        for batch in (1, 2):
            assert list(model(pixels(batch)).predictions) == ["normals"]
    assert traced == [(HEIGHT, WIDTH)]
    assert caplog.text.count(f"exporting the model to {runtime} for images of {WIDTH} x {HEIGHT} pixels, once for each size") == 1
    (folder,) = runtimes.CACHE.iterdir()
    assert not [file for file in folder.iterdir() if not file.name.startswith("model.")], "nothing unfinished is left"
    with pytest.raises(ValueError, match=r"tasks has \['depth'\]; exported are \['normals'\]"):
        model(pixels(1), tasks=["depth"])


def test_files_of_other_weights_or_tasks_are_not_taken_for_the_models(make_model):
    model = make_model()
    names = {with_runtime(model, "onnx")._name((HEIGHT, WIDTH)), with_runtime(model, "onnx", tasks=["depth"])._name((HEIGHT, WIDTH))}
    with torch.no_grad():
        next(model.parameters()).add_(1)
    names.add(with_runtime(model, "onnx")._name((HEIGHT, WIDTH)))
    names.add(with_runtime(model, "onnx")._name((WIDTH, HEIGHT)))
    assert len(names) == 4


def damage(path):
    """64 bytes of zeros, as a loss of power may leave them: the file keeps its size."""
    contents = bytearray(path.read_bytes())
    middle = len(contents) * 4 // 5
    contents[middle : middle + 64] = bytes(64)
    path.write_bytes(contents)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.bin", damage),
        ("model.bin", Path.unlink),
        ("model.xml", damage),
        pytest.param("model.digests.json", Path.unlink, marks=pytest.mark.nightly),  # traces the model again
    ],
    ids=["zeros in the weights", "no weights", "zeros in the graph", "no digests"],
)
def test_an_exported_file_that_is_not_as_it_was_written_is_exported_again(make_model, caplog, monkeypatch, name, change):
    """Otherwise it would be used without a message, or fail for every image and in every later run."""
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    expected = with_runtime(make_model(), "openvino")
    expected(pixels(1))
    folder = runtimes.CACHE / expected._name((HEIGHT, WIDTH))
    monkeypatch.setattr(export, "trace", lambda *arguments: pytest.fail("the ONNX file is whole, so the model is not traced again"))
    if name == "model.digests.json":  # those of ONNX, too
        monkeypatch.undo()
        monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
        monkeypatch.setattr(runtimes, "CACHE", folder.parent)
    change(folder / name)
    caplog.clear()
    found = with_runtime(make_model(), "openvino")(pixels(2)).predictions
    assert "exporting the model to openvino" in caplog.text
    for task, maps in make_model()(pixels(2)).predictions.items():
        torch.testing.assert_close(found[task], maps.detach(), atol=export.TOLERANCE, rtol=0)
    caplog.clear()
    with_runtime(make_model(), "openvino")(pixels(1))
    assert not caplog.text, "it is whole again"


@pytest.mark.parametrize("digests", [None, "", "[]", '{"model.xml": 3}', '{"model.onnx": {}}', '{"model.xml": {"model.xml": "0"}}'])
def test_a_file_without_its_own_digest_is_not_taken_for_whole(tmp_path, digests):
    (tmp_path / "model.xml").write_bytes(b"graph")
    if digests is not None:
        (tmp_path / runtimes.DIGESTS).write_text(digests)
    assert not runtimes._is_whole(tmp_path / "model.xml")
    of_file = runtimes._sha256(tmp_path / "model.xml")
    (tmp_path / runtimes.DIGESTS).write_text(json.dumps({"model.xml": {"model.xml": of_file}}))
    assert runtimes._is_whole(tmp_path / "model.xml"), "premise"


def test_a_pipeline_has_the_processor_of_the_models_own_folder_and_saves_the_model(directory, tmp_path):
    base = tmp_path / "base"
    MulTImageProcessor(size={"height": 64, "width": 64}, tasks=TASKS, image_mean=[0.1] * 3).save_pretrained(base)
    MulTForMultiTaskDensePrediction.from_pretrained(directory).save_pretrained(base / "sub")
    MulTImageProcessor(size={"height": HEIGHT, "width": WIDTH}, tasks=TASKS).save_pretrained(base / "sub")
    model = with_runtime(MulTForMultiTaskDensePrediction.from_pretrained(base, subfolder="sub").eval(), "onnx")
    assert dict(MultiTaskVisionPipeline(model).image_processor.size) == {"height": HEIGHT, "width": WIDTH}
    model.save_pretrained(tmp_path / "saved")
    assert digest(MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "saved")) == digest(model)
    assert "MulTForMultiTaskDensePrediction" in (tmp_path / "saved/config.json").read_text()


@pytest.mark.slow
def test_only_the_wanted_tasks_are_returned(make_model):
    model = with_runtime(make_model(), "onnx")
    assert list(model(pixels(1), tasks=["normals"]).predictions) == ["normals"]
    with pytest.raises(ValueError, match="choose at least one of"):
        model(pixels(1), tasks=["dpeth"])


def test_it_has_the_identity_of_the_model(make_model):
    """Its weights, configuration and mode; and it stays on the CPU."""
    model = make_model()
    exported = with_runtime(model, "onnx")
    assert digest(exported) == digest(model)
    assert exported.config is model.config
    assert not exported.training
    assert exported.to("meta").device == torch.device("cpu")


@pytest.mark.slow
def test_views_are_averaged_as_of_the_model(make_model):
    views = TestTimeAugmentation(flip=True)
    expected = predict(make_model(), pixels(2), views)
    found = predict(with_runtime(make_model(), "onnx"), pixels(2), views)
    for task, maps in expected.items():
        torch.testing.assert_close(found[task], maps, atol=export.TOLERANCE, rtol=0)


@pytest.mark.slow
def test_a_pipeline_predicts_with_it(make_model):
    """As the demo does: the model of a pipeline is replaced."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8))
    model = make_model()
    pipeline = MultiTaskVisionPipeline(model, MulTImageProcessor(size={"height": HEIGHT, "width": WIDTH}, tasks=TASKS))
    expected = pipeline(image)["depth"]["prediction"]
    pipeline.model = with_runtime(model, "openvino")
    torch.testing.assert_close(pipeline(image, tasks=["depth"])["depth"]["prediction"], expected, atol=export.TOLERANCE, rtol=0)


@pytest.mark.slow
def test_predict_writes_the_same_maps_with_every_runtime(directory, tmp_path):
    """The same 16-bit numbers, but where rounding tips one to the next step of 10 m / 65534."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(tmp_path / "image.png")
    maps = {}
    for runtime in RUNTIMES:
        argv = ["predict", "--model", directory, "--inputs", tmp_path / "image.png", "--output_dir", tmp_path / runtime, "--cpu_threads", 1]
        assert main([*map(str, argv), "--runtime", runtime]) == 0
        maps[runtime] = np.asarray(Image.open(tmp_path / runtime / "maps/depth/image.png.png")).astype(int)
    assert np.ptp(maps["torch"]) > 100, "premise"
    for runtime in RUNTIMES:
        assert np.abs(maps[runtime] - maps["torch"]).max() <= 2


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        (
            "predict",
            ["--inputs", "x.png", "--runtime", "torch", "--dtype", "int8"],
            "--runtime torch has no --dtype int8; choose from float32",
        ),
        ("predict", ["--inputs", "x.png", "--runtime", "onnx", "--image_size", "own"], "takes a minute for each size"),
        ("evaluate", ["--dataset", "x", "--runtime", "onnx", "--dtype", "bfloat16"], "--runtime onnx has no --dtype bfloat16"),
    ],
)
def test_a_runtime_that_lacks_what_is_asked_for_is_refused(command, flags, message, capsys):
    assert main([command, *flags]) == 2
    assert message in capsys.readouterr().err


def normals_map(rng, size):
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "torch"])
@pytest.mark.parametrize("tasks", [TASKS, TASKS[::-1], []], ids=["all", "reversed", "by default"])
def test_evaluate_measures_the_same_with_every_runtime(directory, tmp_path, runtime, tasks):
    """In any order of the tasks with the file that all of them have; a task of the model that the data lack is named."""
    data = write_data(tmp_path / "data", {"depth": depth_map, "normals": normals_map}, [DEPTH, "normals"], count=3)
    numbers, files = {}, set()
    for name in ("torch", runtime):
        argv = ["--model", directory, "--dataset", data, "--batch_size", 2, "--cpu_threads", 1, "--output_dir", tmp_path / name]
        argv += ["--tasks", *tasks] if tasks else []
        assert main(["evaluate", *map(str, argv), "--runtime", name]) == 0
        numbers[name] = json.loads((tmp_path / name / "results.json").read_text())["model"]
        files.add(len([*runtimes.CACHE.iterdir()]))
    assert numbers[runtime] == pytest.approx(numbers["torch"], rel=1e-3, abs=1e-4)
    assert len(files) == 1 or not tasks, "premise: these tests need no file of their own"


@pytest.mark.slow
def test_evaluate_exports_only_the_measured_tasks(directory, tmp_path, monkeypatch):
    data = write_data(tmp_path / "data", {"normals": normals_map}, ["normals"], count=2)
    exported = []

    def in_torch(self, size):
        exported.append(self.exported_tasks)
        return lambda pixel_values: dict(self.network(pixel_values, tasks=self.exported_tasks).predictions)

    monkeypatch.setattr(runtimes.ExportedModel, "_open", in_torch)
    argv = ["--model", directory, "--dataset", data, "--cpu_threads", 1, "--runtime", "onnx", "--output_dir", tmp_path / "out"]
    assert main(["evaluate", *map(str, argv)]) == 0
    assert exported == [["normals"]]
    assert "depth" in (tmp_path / "out/tables.md").read_text(), "a task without labels is named"


@pytest.mark.slow
def test_one_image_in_8_bits_does_not_depend_on_the_others_of_its_batch(make_model):
    """Activations are scaled by their largest value, which a brighter image of the same batch would change."""
    model = with_runtime(make_model(), "onnx", "int8")
    images = pixels(3) * torch.tensor([0.1, 1.0, 10.0])[:, None, None, None]
    together = model(images).predictions
    for number, image in enumerate(images.split(1)):
        for task, maps in model(image).predictions.items():
            torch.testing.assert_close(maps[0], together[task][number], atol=1e-5, rtol=0)  # rounding; with one scale they differ by 0.1


def save_pictures(folder, *sizes):
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def fail_to_trace(exportable, size):
    raise export.ExportError("it could not be exported")


def fail_to_write(*arguments):
    raise OSError(28, "No space left on device")


def fail_to_convert(*arguments):
    raise torch.onnx.errors.OnnxExporterError("no such operation")


def beyond_2_gigabytes(*arguments):
    raise ValueError("exceeds maximum protobuf size of 2GB")


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (fail_to_convert, "mult-hf predict: error: the model could not be exported to onnx: OnnxExporterError: no such operation"),
        (fail_to_trace, "mult-hf predict: error: it could not be exported"),
        (fail_to_write, "mult-hf predict: error: exported models cannot be kept in .*: .*No space left on device; set HF_HOME to another"),
    ],
)
def test_a_failing_export_stops_the_run_at_the_first_image(directory, tmp_path, monkeypatch, capsys, fail, message):
    attempts = []
    monkeypatch.setattr(runtimes, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(export, "trace", lambda *arguments: attempts.append(1) or fail(*arguments))
    pictures = save_pictures(tmp_path / "images", (50, 60), (50, 60), (50, 60))
    argv = ["--model", directory, "--inputs", pictures, "--output_dir", tmp_path / "out", "--cpu_threads", 1, "--runtime", "onnx"]
    assert main(["predict", *map(str, argv)]) == 2
    assert len(attempts) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not [*(tmp_path / "cache").iterdir()], "nothing unfinished is left"


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))], ids=lambda error: type(error).__name__)
def test_memory_that_is_missing_for_one_size_is_named_once_and_others_are_predicted(make_model, tmp_path, monkeypatch, error):
    """The second image of that size does not wait for another export that fails; later, memory may be there again."""
    tried = []

    def trace(exportable, size, original=export.trace):
        tried.append(size)
        if max(size) > 64:
            raise error
        return original(exportable, size)

    monkeypatch.setattr(runtimes, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(export, "trace", trace)
    model = with_runtime(make_model(), "onnx")
    for _ in range(2):
        with pytest.raises(MissingMemoryError, match=r"the model cannot predict at 160 x 96 pixels here: .*memory"):
            model(torch.zeros(1, 3, 160, 96))
    assert tried == [(160, 96)]
    monkeypatch.setattr(runtimes, "SECONDS_TO_RETRY", 0)
    with pytest.raises(MissingMemoryError):
        model(torch.zeros(1, 3, 160, 96))
    assert tried == [(160, 96)] * 2
    assert model(torch.zeros(1, 3, HEIGHT, WIDTH)).predictions.keys() == set(TASKS)


def test_a_converter_that_refuses_the_model_stops_the_run_too(make_model, tmp_path, monkeypatch):
    """A ValueError of the model itself, such as one about the size of the images, is another matter."""
    monkeypatch.setattr(runtimes, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(export, "trace", lambda *arguments: None)
    monkeypatch.setattr(export, "write", beyond_2_gigabytes)
    with pytest.raises(export.ExportError, match="could not be exported to onnx: ValueError: exceeds maximum protobuf size of 2GB"):
        with_runtime(make_model(), "onnx")(pixels(1))


def test_a_cache_that_cannot_be_written_is_named(make_model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(runtimes, "CACHE", tmp_path / "file/cache")
    with pytest.raises(export.ExportError, match=r"cannot be kept in .*file/cache: .*; set HF_HOME to another folder"):
        with_runtime(make_model(), "onnx")(pixels(1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_missing_package_is_named_before_the_first_image(make_model, monkeypatch, dtype):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"OpenVINO is not installed .*; pip install"):
        with_runtime(make_model(), "openvino", dtype)


def test_a_second_size_says_how_all_images_get_one(make_model, monkeypatch, caplog):
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    monkeypatch.setattr(runtimes.ExportedModel, "_export", lambda self, folder, size: None)
    model = with_runtime(make_model(), "onnx")
    monkeypatch.setattr(model, "format", replace(model.format, predictor=lambda path, threads: None))
    for side in (32, 48):
        model._open((side, side))
        model.predictors[side, side] = None
    first, second = (record.getMessage() for record in caplog.records)
    assert "--image_size" not in first
    assert second.endswith("for images of 48 x 48 pixels, once for each size; --image_size gives all images one size")
