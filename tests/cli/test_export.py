"""Proves that exported files give the model's predictions, for any batch size, without this package, and that other exports are refused."""

import json
import math
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from transformers import ConvNextConfig, Swinv2Config, TimmBackboneConfig

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli import export as command
from mult_hf.cli.errors import CommandError
from mult_hf.cli.main import main
from mult_hf.inference import export as files
from mult_hf.inference.export import ExportError
from mult_hf.model.tasks import resolve_tasks
from support.tables import unpadded

ROOT = Path(__file__).resolve().parents[2]
HEAD = "heads.tasks.depth.projection.weight"
HEIGHT, WIDTH = 40, 36  # neither whole windows nor, at the second stage, whole patches
CLASSES = {"name": "segmentation", "class_names": ["floor", "wall", "door"], "encoding": {"dtype": "uint8", "unknown": [255]}}
TASKS = [CLASSES, "depth", "normals", "edges2d"]
SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "image_size": 64,  # that of the position embeddings, which another size has to resize
    "use_absolute_embeddings": True,
    "out_features": ["stage1", "stage2"],
}
EVERY_KIND = [["self", "encoder"], ["encoder+skip", "reference"]]


def save_model(directory, backbone=SWIN, size=None, **kwargs):
    """A very small model in which no parameter has its initial value, and its processor."""
    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=backbone, **{"tasks": TASKS, **kwargs})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    MulTImageProcessor(size=size or {"height": HEIGHT, "width": WIDTH}, tasks=model.config.tasks).save_pretrained(directory)
    return model


def write_data(directory):
    """Six random views with classes; depth and normals are unknown."""
    rng = np.random.default_rng(0)
    rows = {
        "image": [PILImage.fromarray(rng.integers(0, 255, (48, 48, 3), np.uint8)) for _ in range(6)],
        "segmentation": [PILImage.fromarray(rng.integers(0, 3, (48, 48)).astype(np.uint8)) for _ in range(6)],
    }
    directory.mkdir()
    features = Features({"image": Image(), "segmentation": Image()})
    Dataset.from_dict(rows, features=features).to_parquet(str(directory / "test-00000-of-00001.parquet"))
    (directory / "README.md").write_text(f"---\nmult_tasks: {json.dumps([CLASSES])}\n---\nRandom maps.\n")
    return directory


def pixels(batch):
    return torch.randn(batch, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(batch))


def export(model, output, *words):
    """Run the command in this process; returns what it printed."""
    printed = StringIO()
    with redirect_stdout(printed):
        command.main(["--model", str(model), "--output_dir", str(output), "--cpu_threads", "1", *words])
    return printed.getvalue()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A model in the folder `net`, and labelled data in `views`: the model, and the directory of both."""
    directory = tmp_path_factory.mktemp("export")
    model = save_model(directory / "net", block_attention=EVERY_KIND, reference_task="normals")
    write_data(directory / "views")
    return model, directory


@pytest.fixture(scope="module")
def exported(network):
    """Two of four tasks in all formats, measured on data: the model, the directory of its files, and the output."""
    model, directory = network
    words = "--tasks segmentation depth --formats int8 pt2 onnx --split test --max_samples 5".split()
    return model, directory, export(directory / "net", directory, "--dataset", str(directory / "views"), *words)


def run_onnx(path, pixel_values):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"pixel_values": pixel_values.numpy()})))


# --- predictions of the files


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_onnx_file_predicts_like_the_model_for_any_batch_size(exported, batch):
    """With every kind of block, position embeddings of another size, and half of the windows padded."""
    model, directory, _ = exported
    maps = run_onnx(directory / "net-segmentation-depth-40x36.onnx", pixels(batch))
    expected = model(pixels(batch)).predictions
    assert list(maps) == ["segmentation", "depth"]
    for task, values in maps.items():
        torch.testing.assert_close(torch.from_numpy(values), expected[task], atol=1e-4, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_the_saved_program_of_torch_export_gives_the_same_numbers(exported):
    model, directory, _ = exported
    facts = {"mult_hf": ""}
    program = torch.export.load(directory / "net-segmentation-depth-40x36.pt2", extra_files=facts)
    expected = model(pixels(5)).predictions
    for task, values in program.module()(pixels(5)).items():
        torch.testing.assert_close(values, expected[task])
    assert json.loads(facts["mult_hf"])["height"] == HEIGHT


@pytest.mark.slow
def test_an_earlier_file_stays_until_another_has_passed_its_check_and_is_named_then(tmp_path, monkeypatch):
    """Other results of the same model have the same file name."""
    save_model(tmp_path / "net", tasks=["depth"], decoder_type="mtan")  # that with the fewest operations, because this one exports thrice
    words = ["--formats", "pt2"]
    assert "replaced" not in export(tmp_path / "net", tmp_path / "out", *words)
    first = (tmp_path / "out/net-40x36.pt2").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(files, "largest_differences", lambda *arguments: {"depth": (math.nan, 1.0)})
        with pytest.raises(CommandError, match=r"net-40x36.pt2 differed from PyTorch by nan in depth"):
            export(tmp_path / "net", tmp_path / "out", *words, "--results", "finished")
    assert (tmp_path / "out/net-40x36.pt2").read_bytes() == first
    assert "replaced, from an earlier export: net-40x36.pt2" in export(tmp_path / "net", tmp_path / "out", *words, "--results", "finished")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["net-40x36.pt2"], "nothing unfinished is left"


@pytest.mark.slow
@torch.no_grad()
def test_int8_replaces_matrix_products_with_weights_and_stays_close(exported):
    model, directory, _ = exported
    count = {
        name: [node.op_type for node in onnx.load(directory / name).graph.node]
        for name in ("net-segmentation-depth-40x36.onnx", "net-segmentation-depth-40x36.int8.onnx")
    }
    products = [ops.count("MatMul") for ops in count.values()]
    assert count["net-segmentation-depth-40x36.int8.onnx"].count("MatMulInteger") == products[0] - products[1]
    maps = 2 + 3 + 3  # two encoder blocks; a "self" block of three streams (a "reference" block needs normals); three shared ones
    # Each map is multiplied with the values of every task that it serves; those of normals after the last shared block are not needed.
    values = 2 + 3 + (3 + 3 + 2)
    assert products[1] == maps + values, "queries times keys, and maps times values, have no weights"
    depth = run_onnx(directory / "net-segmentation-depth-40x36.int8.onnx", pixels(3))["depth"]
    error = np.abs(depth - model(pixels(3)).predictions["depth"].numpy())
    assert 1e-4 < error.mean() < 0.2, "metres of ten"


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "decoder",
    [
        pytest.param({"decoder_type": "swin_unet", "block_attention": ["self", "encoder"]}, id="default of training"),
        pytest.param({"decoder_type": "swin_unet"}, id="swin_unet", marks=pytest.mark.nightly),
        pytest.param({"decoder_type": "mtan"}, id="mtan", marks=pytest.mark.nightly),
    ],
)
def test_finished_results_of_other_decoders_are_those_of_post_process(tmp_path, decoder):
    model = save_model(tmp_path / "net", tasks=[CLASSES, {"name": "edges2d", "value_range": (0.0, 0.1)}], **decoder)
    export(tmp_path / "net", tmp_path, "--results", "finished")
    maps = run_onnx(tmp_path / "net-40x36.onnx", pixels(3))
    outputs = model(pixels(3))
    assert outputs.predictions["edges2d"].min() < 0, "premise: there is something to bring into the range"
    for number, expected in enumerate(MulTImageProcessor.from_pretrained(tmp_path / "net").post_process(outputs)):
        assert (maps["segmentation"][number] != expected["segmentation"]["prediction"].numpy()).mean() < 1e-3
        np.testing.assert_allclose(maps["edges2d"][number, 0], expected["edges2d"]["prediction"], atol=1e-4)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        Swinv2Config(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=64, out_features=["stage1", "stage2"]),
        ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage1", "stage2"]),
        TimmBackboneConfig(backbone="resnet18", use_pretrained_backbone=False, out_indices=[1, 2]),
    ],
    ids=lambda config: config.model_type,
)
def test_other_encoders_can_be_exported(tmp_path, backbone):
    save_model(tmp_path / "net", backbone=backbone, tasks=["depth"], decoder_window_size=4)
    assert "| onnx | net-40x36.onnx |" in unpadded(export(tmp_path / "net", tmp_path))


@pytest.mark.nightly
@pytest.mark.slow
@torch.no_grad()
def test_the_compiled_model_gives_the_same_numbers_from_one_graph():
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=SWIN, tasks=["depth", "normals"])).eval()
    # Sizes as constants: after another size in the same process, Dynamo takes them as symbols, and compiles for many minutes.
    compiled = torch.compile(model, fullgraph=True, dynamic=False)  # an error if there is more than one graph
    expected = model(pixels(2)).predictions
    for task, values in compiled(pixels(2)).predictions.items():
        torch.testing.assert_close(values, expected[task], atol=1e-4, rtol=1e-4)


# --- contents of the files ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net-segmentation-depth-40x36.onnx", "net-segmentation-depth-40x36.int8.onnx"])
def test_the_file_contains_everything_needed_to_use_it(exported, name):
    _, directory, _ = exported
    session = onnxruntime.InferenceSession(directory / name)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["mult_hf"])
    processor = MulTImageProcessor.from_pretrained(directory / "net")
    assert (facts["height"], facts["width"], facts["results"]) == (HEIGHT, WIDTH, "predictions")
    assert (facts["image_mean"], facts["image_std"]) == (list(processor.image_mean), list(processor.image_std))
    assert facts["resample"] == PILImage.Resampling.BILINEAR
    assert facts["tasks"]["segmentation"]["class_names"] == ["floor", "wall", "door"]
    assert facts["tasks"]["depth"]["unit"] == "m"
    assert session.get_inputs()[0].shape == ["batch", 3, HEIGHT, WIDTH]
    assert session.get_outputs()[0].shape == ["batch", 3, HEIGHT, WIDTH], "of the three classes"


@pytest.mark.slow
@torch.no_grad()
def test_numpy_and_onnx_runtime_are_enough_to_use_it(exported, tmp_path):
    """From an image to depth in a process that cannot import torch, transformers or this package."""
    model, directory, _ = exported
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    np.save(tmp_path / "image.npy", image)
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "mult_hf")))
import json, numpy as np, onnxruntime
session = onnxruntime.InferenceSession({str(directory / "net-segmentation-depth-40x36.onnx")!r})
facts = json.loads(session.get_modelmeta().custom_metadata_map["mult_hf"])
image = np.load("image.npy") * facts["rescale_factor"]
pixels = ((image - facts["image_mean"]) / facts["image_std"]).transpose(2, 0, 1)[None].astype(np.float32)
np.save("depth.npy", session.run(["depth"], {{"pixel_values": pixels}})[0])
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    inputs = MulTImageProcessor.from_pretrained(directory / "net")(image, return_tensors="pt")
    np.testing.assert_allclose(np.load(tmp_path / "depth.npy"), model(**inputs).predictions["depth"], atol=1e-4)


@pytest.mark.slow
def test_files_contain_no_paths_of_this_machine(exported):
    for name in ("net-segmentation-depth-40x36.onnx", "net-segmentation-depth-40x36.pt2"):
        assert str(ROOT).encode() not in (exported[1] / name).read_bytes(), name


@pytest.mark.slow
def test_files_contain_no_unneeded_decoders(exported):
    """The "reference" block needs the whole decoder of normals, the reference task, but not its head."""
    graph = onnx.load(exported[1] / "net-segmentation-depth-40x36.onnx").graph
    held = {
        "onnx": {weight.name for weight in graph.initializer},
        "pt2": torch.export.load(exported[1] / "net-segmentation-depth-40x36.pt2").state_dict,
    }
    for file, names in held.items():
        assert [name for name in names if ".tasks.normals." in name], f"{file}: premise, weights are called as in the model"
        assert not [name for name in names if ".tasks.edges2d." in name], file
    assert not [name for name in held["onnx"] if "heads.tasks.normals" in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net-segmentation-depth-40x36.onnx", "net-segmentation-depth-40x36.int8.onnx"])
def test_every_weight_is_stored_once_and_needed(exported, name):
    """ONNX Runtime would warn of each unused one, and compute constants in every call."""
    graph = onnx.load(exported[1] / name).graph
    stored = {weight.name: weight.SerializeToString().replace(weight.name.encode(), b"") for weight in graph.initializer}
    assert stored.keys() <= {read for node in graph.node for read in node.input}
    assert "Constant" not in {node.op_type for node in graph.node}
    if not name.endswith(".int8.onnx"):  # quantization stores scales and zero points per layer
        assert len(set(stored.values())) == len(stored)


@pytest.mark.slow
def test_the_printed_tables_compare_every_file_with_the_model(exported):
    _, directory, printed = exported
    rows = {cells[1]: cells[2:] for line in unpadded(printed).splitlines() if len(cells := [cell.strip() for cell in line.split("|")]) == 7}
    assert list(rows) == ["", "---", "PyTorch", "onnx", "int8", "pt2"]
    file, megabytes, difference, seconds, _ = rows["onnx"]
    assert float(megabytes) == pytest.approx((directory / file).stat().st_size / 1e6, abs=0.06)
    assert 0 < float(difference) < 1e-4 < float(rows["int8"][2])
    assert float(seconds) > 0
    assert "5 images of the split test, each predicted once, without flipping:" in printed
    assert "| task | metric | PyTorch | onnx | int8 | pt2 |" in unpadded(printed)


def test_losses_are_in_percent_of_the_reference_and_positive_if_the_file_is_worse():
    """Depth's error grows by a tenth, mIoU by a fifth; edges are unknown, and the error of normals is 0, so no loss is relative to it."""
    before = {"depth/rmse": 0.5, "segmentation/mean_iou": 0.5, "edges2d/mae": math.nan, "normals/mean_angle": 0.0}
    after = {"depth/rmse": 0.55, "segmentation/mean_iou": 0.6, "edges2d/mae": math.nan, "normals/mean_angle": 1.0}
    evaluations = {name: SimpleNamespace(compute=lambda values=values: values) for name, values in (("PyTorch", before), ("int8", after))}
    table = command.losses_table(evaluations, resolve_tasks([name.split("/")[0] for name in before]))
    assert unpadded(table).splitlines()[2:] == [
        "| task | metric | PyTorch | int8 loses |",
        "|---|---|---|---|",
        "| depth | RMSE (m) ↓ | 0.5000 | +10.00 % |",
        "| segmentation | mIoU (%) ↑ | 50.00 | -20.00 % |",
        "| edges2d | MAE ([0, 1]) ↓ | nan | - |",
        "| normals | mean angle (degrees) ↓ | 0.00 | - |",
    ]


# --- refusals ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tasks deph", r"tasks=\['deph'\]; choose at least one of \['segmentation', 'depth', 'normals', 'edges2d'\]"),
        ("--image_size 31", r"--image_size is \[31\]; give a side, or height and width, of at least 32"),
        ("--image_size 1000000", r"--image_size is \[1000000\]; give a side, or height and width, of at least 32 pixels, at most 16384"),
        ("--dataset {data} --split nope", "nope"),
        ("--dataset no-such-data", "no-such-data"),
        ("--image_size 64 64 3", r"--image_size is \[64, 64, 3\]"),
        ("--formats tflite", r"--formats is \['tflite'\]; give at least one of onnx, openvino, openvino-bfloat16, int8, pt2"),
        ("--formats int8", "int8 is converted from onnx, so add onnx"),
        ("--formats pt2 openvino", "openvino is converted from onnx, so add onnx"),
        ("--results finished --dataset views", "--dataset views measures predictions .* export with --results predictions"),
    ],
)
def test_invalid_exports_are_refused_with_the_given_value(network, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(command, "trace", None)  # refused before minutes of work
    with pytest.raises((ValueError, OSError), match=message):
        export(network[1] / "net", tmp_path / "files", *words.format(data=network[1] / "views").split())
    assert not (tmp_path / "files").exists()


def test_an_output_that_is_a_file_is_refused_before_the_export(network, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(command, "trace", None)
    with pytest.raises(ValueError, match=r"--output_dir .*file is a file; give a folder"):
        export(network[1] / "net", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_that_cannot_be_made_and_a_missing_package_are_refused_before_the_export(network, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(command, "trace", None)
    with pytest.raises(NotADirectoryError, match="file/inside"):
        export(network[1] / "net", tmp_path / "file/inside")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"OpenVINO is not installed .*; pip install"):
        export(network[1] / "net", tmp_path / "files", "--formats", "onnx", "openvino")
    assert not (tmp_path / "files").exists()


def as_integers(weights):
    return weights | {HEAD: weights[HEAD].to(torch.int8)}


def of_another_shape(weights):
    return weights | {HEAD: weights[HEAD][:, :1].clone()}


@pytest.mark.parametrize(
    ("change", "message"),
    [(as_integers, "as I8; expected .*: quantized weights cannot be loaded"), (of_another_shape, "lacks 1 of the model's")],
)
def test_a_damaged_checkpoint_is_not_exported(tmp_path, change, message):
    save_model(tmp_path / "net", tasks=["depth"])
    save_file(change(load_file(tmp_path / "net/model.safetensors")), tmp_path / "net/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "net", tmp_path / "files")


def test_tasks_that_are_not_exported_may_be_untrained(tmp_path):
    model = save_model(tmp_path / "net", tasks=["depth"])
    model.add_task("edges2d")
    model.save_pretrained(tmp_path / "net")
    assert list(files.load_exportable(tmp_path / "net", ["depth"]).specs) == ["depth"]
    for tasks in (["edges2d"], None):
        with pytest.raises(ValueError, match=r"edges2d"):
            files.load_exportable(tmp_path / "net", tasks)


def test_a_model_that_does_not_exist_is_named(tmp_path):
    with pytest.raises((ValueError, OSError), match=r"nowhere.* cannot be loaded"):
        export(tmp_path / "nowhere", tmp_path / "files")


def test_a_processor_without_a_fixed_size_needs_one(tmp_path):
    save_model(tmp_path / "net", tasks=["depth"], size={"shortest_edge": 64})
    with pytest.raises(ValueError, match=r"size \{'shortest_edge': 64\} is not fixed; choose a size with --image_size"):
        export(tmp_path / "net", tmp_path)


def test_a_model_that_cannot_be_exported_gives_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    def fail(exportable, size):
        raise ExportError("a SwinBackbone encoder could not be exported")

    save_model(tmp_path / "net", tasks=["depth"])
    monkeypatch.setattr(command, "trace", fail)
    assert main(["export", "--model", str(tmp_path / "net"), "--output_dir", str(tmp_path), "--cpu_threads", "1"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "mult-hf export: error: a SwinBackbone encoder could not be exported"
