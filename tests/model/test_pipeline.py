"""Proves that the pipeline takes a photo in any form, gives each task's map in its unit, and works where mult_hf is not installed."""

import os
import pickle
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_image
from transformers import AutoModel, pipeline
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from mult_hf import (
    MULT_TASKS,
    MulTConfig,
    MulTForMultiTaskDensePrediction,
    MulTImageProcessor,
    MulTImageProcessorPil,
    MultiTaskVisionPipeline,
    registered_tasks,
)
from mult_hf.model import pipeline_mult
from support.models import TINY_SWIN

CURVATURE = {"name": "principal_curvature", "kind": "regression", "channels": 2, "colormap": "vectors", "value_range": [-4, 4]}
TASKS = [*MULT_TASKS, CURVATURE]
NAMES = [*MULT_TASKS, "principal_curvature"]
INPUT_SIZE = {"height": 64, "width": 96}


def make_model(**kwargs):
    """A very small model, whose parameters are away from their initial values so that photos make a difference."""
    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=TASKS, **kwargs))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def photo():
    """A real photo of 213 x 320 pixels."""
    return Image.fromarray(np.ascontiguousarray(load_sample_image("china.jpg")[::2, ::2]))


@pytest.fixture(scope="module")
def flower():
    """Another one, of 120 x 160."""
    return Image.fromarray(load_sample_image("flower.jpg")).resize((160, 120))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """What a training run leaves: a model and a processor, each saved by its own `save_pretrained`."""
    path = tmp_path_factory.mktemp("saved") / "checkpoint"
    make_model().save_pretrained(path)
    MulTImageProcessor(size=INPUT_SIZE, tasks=TASKS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def predict(directory):
    return pipeline("multitask-vision", model=str(directory))


@pytest.fixture(scope="module")
def wanted(predict, photo):
    return predict(photo)


def assert_same(result, wanted, tolerance=1e-5):
    """Equal maps; of class ids, of which rounding may tip a few pixels, at least 99.9 %."""
    assert list(result) == list(wanted)
    for task, maps in wanted.items():
        one, other = result[task]["prediction"], maps["prediction"]
        assert one.shape == other.shape, task
        if other.dtype == torch.int64:
            assert (one == other).float().mean() > 0.999, task
        else:
            torch.testing.assert_close(one, other, atol=tolerance, rtol=0, msg=lambda text, task=task: f"{task}: {text}")


def assert_different(result, other):
    """The premise of every comparison: another photo has another prediction."""
    assert (result["normals"]["prediction"].mean((1, 2)) - other["normals"]["prediction"].mean((1, 2))).abs().max() > 1e-3


# What comes out


def test_a_result_has_one_map_and_one_picture_a_task_at_the_photos_size(wanted, photo):
    channels = {"segmentation": (), "normals": (3,), "principal_curvature": (2,)}
    assert list(wanted) == NAMES
    for task, maps in wanted.items():
        assert list(maps) == ["prediction", "image"]
        assert tuple(maps["prediction"].shape) == (*channels.get(task, ()), photo.height, photo.width)
        assert maps["prediction"].dtype == (torch.int64 if task == "segmentation" else torch.float32)
        assert not maps["prediction"].requires_grad
        assert maps["image"].size == photo.size
        assert maps["image"].mode == "RGB"


def test_predictions_are_the_models_own_brought_to_the_photos_size(predict, wanted, photo):
    processor = MulTImageProcessor(size=INPUT_SIZE)
    with torch.no_grad():
        raw = predict.model(processor(photo, return_tensors="pt")["pixel_values"]).predictions
    resized = {
        task: F.interpolate(maps, size=(photo.height, photo.width), mode="bilinear", align_corners=False)[0] for task, maps in raw.items()
    }
    assert (wanted["segmentation"]["prediction"] == resized["segmentation"].argmax(0)).float().mean() > 0.999
    for task in ("depth", "reshading"):
        torch.testing.assert_close(wanted[task]["prediction"], resized[task][0])
    torch.testing.assert_close(wanted["edges2d"]["prediction"], resized["edges2d"][0].clamp(0, 1))
    torch.testing.assert_close(wanted["normals"]["prediction"], F.normalize(resized["normals"], dim=0))
    torch.testing.assert_close(wanted["principal_curvature"]["prediction"], resized["principal_curvature"].clamp(-4, 4))


def test_units_and_pictures_follow_from_the_heads_by_hand(photo):
    """With zero weights a head's bias is its whole output: sigmoid(0) of 10 m, a vector along one axis, one class."""
    model = make_model()
    biases = {
        "segmentation": F.one_hot(torch.tensor(3), 17).float(),
        "depth": torch.zeros(1),
        "normals": torch.tensor([0, 5.0, 0]),
        "keypoints2d": torch.tensor([2.0]),
        "edges2d": torch.tensor([-1.0]),
        "reshading": torch.tensor([np.log(3.0)]),
        "principal_curvature": torch.tensor([4.0, -4.0]),
    }
    with torch.no_grad():
        for task, bias in biases.items():
            model.heads.tasks[task].projection.weight.zero_()
            model.heads.tasks[task].projection.bias.copy_(bias)
    result = pipeline("multitask-vision", model=model)(photo)
    by_hand = {
        "segmentation": 3,
        "depth": 5.0,  # metres
        "normals": [0.0, 1.0, 0.0],  # up, of length 1
        "keypoints2d": 1.0,
        "edges2d": 0.0,
        "reshading": 0.75,
        "principal_curvature": [4.0, -4.0],
    }
    for task, value in by_hand.items():
        prediction = result[task]["prediction"]
        constant = torch.tensor(value).reshape(-1, 1, 1).expand(-1, photo.height, photo.width)
        torch.testing.assert_close(prediction.reshape(constant.shape), constant, msg=lambda text, task=task: f"{task}: {text}")
    # Vectors are shown as red, green and blue, 0 in the middle: up is (half, full, half), and of two channels blue is half.
    assert result["normals"]["image"].getpixel((5, 7)) == (128, 255, 128)
    assert result["principal_curvature"]["image"].getpixel((5, 7)) == (255, 0, 128)


def test_maps_are_not_mirrored_or_turned(predict, photo):
    """Light in the top left of a photo changes the top left of a map most: the decoders look at the photo, untrained or not."""
    half = np.zeros((64, 96, 3), np.uint8)
    half[:32, :48] = 255  # bright top left
    depth = predict(half)["depth"]["prediction"]
    flat = predict(np.zeros_like(half))["depth"]["prediction"]
    change = (depth - flat).abs()
    assert change[:32, :48].mean() > 1.2 * max(change[:32, 48:].mean(), change[32:, :48].mean(), change[32:, 48:].mean())


def test_target_size_replaces_the_photos_size(predict, photo):
    result = predict(photo, target_size=(50, 70))
    assert all(maps["prediction"].shape[-2:] == (50, 70) and maps["image"].size == (70, 50) for maps in result.values())


def test_max_side_bounds_the_longer_side_and_keeps_the_aspect_ratio(predict, photo, flower):
    large, small = predict([photo, flower], max_side=200, tasks=["depth", "segmentation"], batch_size=2)
    assert [maps["prediction"].shape[-2:] for maps in large.values()] == [(134, 200)] * 2, "of 214 x 320"
    assert large["depth"]["image"].size == (200, 134)
    assert small["depth"]["prediction"].shape == (120, 160), "no image is enlarged"


@pytest.mark.parametrize("options", [{"max_side": 0}, {"max_side": 2.5}, {"max_side": 100, "target_size": (30, 40)}])
def test_a_max_side_that_bounds_nothing_is_refused(predict, photo, options):
    with pytest.raises(ValueError, match="max_side is"):
        predict(photo, **options)


def test_maps_and_images_are_made_when_they_are_asked_for(predict, photo, monkeypatch):
    made = []
    for name in ("finish", "colorize"):
        function = getattr(pipeline_mult, name)
        monkeypatch.setattr(pipeline_mult, name, lambda *args, name=name, function=function: made.append(name) or function(*args))
    result = predict(photo)
    assert list(result["depth"]) == ["prediction", "image"]
    assert made == []
    assert result["depth"]["image"] is result["depth"]["image"]
    assert result["depth"]["prediction"] is result["depth"]["prediction"]
    assert made == ["finish", "colorize"], "once each, and the image is that of the prediction"


def test_a_result_is_a_dictionary_that_pickles_with_its_maps(predict, wanted, photo):
    result = pickle.loads(pickle.dumps(predict(photo)))
    assert isinstance(wanted["depth"], dict)
    assert_same(result, wanted)
    assert all(result[task]["image"].tobytes() == maps["image"].tobytes() for task, maps in wanted.items())


def test_only_the_wanted_tasks_are_computed_and_with_the_same_numbers(predict, wanted, photo):
    result = predict(photo, tasks=["depth", "principal_curvature"])
    assert_same(result, {task: wanted[task] for task in ("depth", "principal_curvature")})
    assert list(predict(photo, tasks="reshading")) == ["reshading"]


def test_arguments_of_the_pipeline_are_defaults_of_its_calls(directory, photo):
    few = pipeline("multitask-vision", model=str(directory), tasks=["depth"], target_size=(30, 40))
    assert {task: tuple(maps["prediction"].shape) for task, maps in few(photo).items()} == {"depth": (30, 40)}
    assert {task: tuple(maps["prediction"].shape) for task, maps in few(photo, tasks=["edges2d"]).items()} == {"edges2d": (30, 40)}


# What goes in


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A folder and the address under which it is served."""
    folder = tmp_path_factory.mktemp("served")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Photos(torch.utils.data.Dataset):
    """A torch data set of photos, or of dictionaries with one."""

    def __init__(self, *photos):
        self.photos = photos

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        return self.photos[index]


ONE_PHOTO = {
    "PIL picture": lambda photo: photo,
    "array": np.asarray,
    "array to 1": lambda photo: np.asarray(photo, np.float32) / 255,
    "tensor": lambda photo: torch.from_numpy(np.array(photo)).permute(2, 0, 1),
    "tensor to 1": lambda photo: torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255,
    "dictionary": lambda photo: {"image": photo, "depth": None},
}


@pytest.mark.parametrize("form", ONE_PHOTO)
def test_one_photo_of_any_form_gives_one_result(predict, wanted, photo, form):
    result = predict(ONE_PHOTO[form](photo))
    # Fractions are resized without rounding to bytes first: up to half a grey level, which a network may blow up a little.
    tolerance = 0.02 if form.endswith("to 1") else 1e-5
    assert isinstance(result, dict)
    if tolerance == 1e-5:
        assert_same(result, wanted)
    else:
        assert_same({"depth": result["depth"]}, {"depth": wanted["depth"]}, tolerance)


def test_a_path_and_a_url_give_the_same_result(predict, wanted, photo, server):
    folder, address = server
    photo.save(folder / "photo.png")
    assert_same(predict(str(folder / "photo.png")), wanted)
    assert_same(predict(folder / "photo.png"), wanted)
    assert_same(predict(f"{address}/photo.png", timeout=10), wanted)


def test_a_photo_behind_a_url_is_read_as_one_in_a_file(predict, photo, server):
    """Transparency on white, 16 bits scaled, turned as EXIF says."""
    folder, address = server
    transparent = photo.copy()
    transparent.putalpha(100)
    transparent.save(folder / "transparent.png")
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    exif = Image.Exif()
    exif[274] = 6
    photo.save(folder / "turned.png", exif=exif)
    for name in ("transparent.png", "deep.png", "turned.png"):
        from_file = predict.preprocess(str(folder / name))
        from_url = predict.preprocess(f"{address}/{name}")
        assert from_url["target_size"] == from_file["target_size"]
        torch.testing.assert_close(from_url["pixel_values"], from_file["pixel_values"], msg=lambda text, name=name: f"{name}: {text}")


def test_grey_photos_are_taken(predict, photo):
    grey = photo.convert("L")
    wanted = predict(grey, tasks=["depth"])
    assert wanted["depth"]["prediction"].shape == (photo.height, photo.width)
    assert_same(predict(np.asarray(grey), tasks=["depth"]), wanted)
    assert_same(predict(torch.from_numpy(np.array(grey)), tasks=["depth"]), wanted)
    assert_same(predict(torch.from_numpy(np.array(grey))[None], tasks=["depth"]), wanted)


def test_maps_of_a_turned_photo_have_the_size_it_is_seen_at(predict, photo, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    photo.save(tmp_path / "turned.png", exif=exif)
    assert predict(tmp_path / "turned.png", tasks=["depth"])["depth"]["prediction"].shape == (photo.width, photo.height)


def test_an_almost_black_photo_of_fractions_stays_black(predict):
    """Values to 1 are told from values to 255 by their range, so a photo must be read once only."""
    dark = np.full((64, 96, 3), 0.002, np.float32)
    black, white = (predict.preprocess(np.full((64, 96, 3), value, np.uint8))["pixel_values"][0] for value in (0, 255))
    pixels = predict.preprocess(dark)["pixel_values"][0]
    assert (white - black).min() > 4
    assert (pixels - black).abs().max() < 0.02 * (white - black).min()


MANY_PHOTOS = {
    "list": list,
    "tuple": tuple,
    "mixed list": lambda photos: [photos[0], np.asarray(photos[1])],
    "generator": lambda photos: (photo for photo in photos),
    "torch data set": lambda photos: Photos(*photos),
    "torch data set of dictionaries": lambda photos: Photos(*({"image": photo, "name": "x"} for photo in photos)),
    "datasets.Dataset": lambda photos: dataset(photos),
    "column of a Dataset": lambda photos: dataset(photos)["image"],
    "streamed Dataset": lambda photos: dataset(photos).to_iterable_dataset(),
}


def dataset(photos):
    features = datasets.Features({"image": datasets.Image(), "name": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": list(photos), "name": [str(i) for i in range(len(photos))]}, features=features)


@pytest.mark.parametrize("form", MANY_PHOTOS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_many_photos_of_any_form_give_a_result_each_in_order(predict, wanted, photo, flower, form, batch_size):
    first, second = predict(MANY_PHOTOS[form]([photo, flower]), batch_size=batch_size, tasks=["depth", "normals"])
    assert second["depth"]["prediction"].shape == (120, 160)
    assert_different(first, second)
    assert_same(first, {task: wanted[task] for task in ("depth", "normals")})
    assert_same(second, predict(flower, tasks=["depth", "normals"]))


def test_an_array_or_tensor_of_four_axes_is_several_photos(predict, wanted, photo):
    pixels = np.asarray(photo)
    for photos in (np.stack([pixels, pixels[::-1]]), torch.from_numpy(np.stack([pixels, pixels[::-1]])).permute(0, 3, 1, 2)):
        first, second = predict(photos)
        assert_same(first, wanted)
        assert_different(first, second)


def test_batches_give_what_one_by_one_gives(predict, photo, flower):
    photos = [photo, flower, photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM), flower.convert("L"), photo.crop((0, 0, 200, 100))]
    one_by_one = [predict(one) for one in photos]
    assert_different(one_by_one[0], one_by_one[1])
    for batch_size in (2, 5):
        for single, batched in zip(one_by_one, predict(photos, batch_size=batch_size), strict=True):
            assert_same(batched, single)


def test_an_empty_list_gives_an_empty_list(predict):
    assert predict([]) == []


# Models, devices and number types


def test_half_precision_gives_float32_maps_near_the_full_ones(directory, wanted, photo):
    half = pipeline("multitask-vision", model=str(directory), dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    result = half(photo)
    assert result["depth"]["prediction"].dtype == result["normals"]["prediction"].dtype == torch.float32
    difference = (result["depth"]["prediction"] - wanted["depth"]["prediction"]).abs()
    assert 0 < difference.max() < 0.5  # metres of 10; bfloat16 has eight bits


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), -1, "cuda"])
def test_results_lie_on_the_cpu_whatever_the_device(directory, wanted, photo, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_device = pipeline("multitask-vision", model=str(directory), device=device)
    assert on_device.model.device.type == torch.device("cpu" if device == -1 else device).type
    result = on_device(photo)
    assert result["depth"]["prediction"].device.type == "cpu"
    assert_same(result, wanted, 1e-5 if device != "cuda" else 1e-2)


def test_a_model_object_brings_the_processor_saved_beside_it(directory, wanted, photo):
    model = MulTForMultiTaskDensePrediction.from_pretrained(directory)
    by_object = pipeline("multitask-vision", model=model)
    assert (by_object.image_processor.size.height, by_object.image_processor.size.width) == (64, 96)
    assert_same(by_object(photo), wanted)


def test_a_model_that_was_never_saved_gets_a_processor_for_its_tasks(wanted, photo):
    fresh = pipeline("multitask-vision", model=make_model())
    assert list(fresh.image_processor.task_specs) == NAMES
    assert list(fresh(photo)) == NAMES


def test_a_given_processor_is_used(predict, wanted, photo):
    given = pipeline("multitask-vision", model=predict.model, image_processor=MulTImageProcessorPil(size=INPUT_SIZE))
    assert isinstance(given.image_processor, MulTImageProcessorPil)
    assert_same({"depth": given(photo)["depth"]}, {"depth": wanted["depth"]}, 0.02)  # a grey level, see the processor


def test_a_task_added_after_saving_is_shown(directory, photo):
    model = MulTForMultiTaskDensePrediction.from_pretrained(directory)
    model.add_task({"name": "edge_occlusion", "kind": "regression", "channels": 1})
    assert list(pipeline("multitask-vision", model=model)(photo)) == [*NAMES, "edge_occlusion"]


# What is refused


def test_a_file_that_is_no_photo_is_refused_by_name(predict, photo, tmp_path):
    (tmp_path / "notes.txt").write_text("not a photo")
    with pytest.raises(ValueError, match=r"notes\.txt cannot be read as an image"):
        predict(str(tmp_path / "notes.txt"))
    with pytest.raises(ValueError, match=r"missing\.jpg does not exist"):
        predict([photo, str(tmp_path / "missing.jpg")])


def test_a_url_without_a_photo_is_refused_by_name(predict, server):
    folder, address = server
    (folder / "notes.txt").write_text("not a photo")
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+/notes\.txt"):
        predict(f"{address}/notes.txt")
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+/missing\.jpg"):
        predict(f"{address}/missing.jpg")


def test_an_unknown_task_is_refused_with_those_that_exist(predict, photo):
    with pytest.raises(ValueError, match=r"dpeth.*depth.*principal_curvature"):
        predict(photo, tasks=["dpeth"])
    with pytest.raises(ValueError, match="choose at least one"):
        predict(photo, tasks=[])


@pytest.mark.parametrize("size", [5, (0, 5), (50,), (3, 50, 70)])
def test_a_target_size_that_is_no_height_and_width_is_refused(predict, photo, size):
    with pytest.raises(ValueError, match="target_size"):
        predict(photo, target_size=size)


def test_a_misspelt_argument_is_refused(predict, photo):
    with pytest.raises(TypeError, match="taks"):
        predict(photo, taks=["depth"])


# Where mult_hf is not installed


CLEAN_PROCESS = """
import importlib.abc, sys, torch
from pathlib import Path

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mult_hf":
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
try:
    import mult_hf
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("mult_hf can be imported")

from transformers import AutoImageProcessor, AutoModel, pipeline

save_again = sys.argv[1] == "save"
photo, out, *checkpoints = map(Path, sys.argv[2:])
for number, checkpoint in enumerate(checkpoints):
    predict = pipeline("multitask-vision", model=str(checkpoint), trust_remote_code=True)
    result = predict(str(photo))
    torch.save({task: maps["prediction"] for task, maps in result.items()}, out / f"{number}.pt")
    result["principal_curvature"]["image"].save(out / f"{number}.png")
    assert type(predict).__module__.startswith("transformers_modules.")
    if not save_again:
        continue
    predict.save_pretrained(out / f"{number}-by-pipeline")
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    assert all(type(one).__module__.startswith("transformers_modules.") for one in (model, processor))
    model.save_pretrained(out / f"{number}-by-parts")
    processor.save_pretrained(out / f"{number}-by-parts")
"""


def run_clean_process(what, out, photo, *checkpoints):
    """Predict with each checkpoint in a process that cannot import mult_hf, and `"save"` each again twice, or only `"look"`."""
    out.mkdir()
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_MODULES_CACHE": str(out / "modules"),
        "HF_HOME": str(out / "home"),
    }
    command = [sys.executable, "-c", CLEAN_PROCESS, *map(str, (what, photo, out, *checkpoints))]
    run = subprocess.run(command, capture_output=True, text=True, cwd=out, env=environment)
    assert run.returncode == 0, run.stderr
    return [
        ({task: {"prediction": maps} for task, maps in torch.load(out / f"{i}.pt").items()}, Image.open(out / f"{i}.png"))
        for i in range(len(checkpoints))
    ]


@pytest.fixture(scope="module")
def clean_runs(directory, predict, photo, tmp_path_factory):
    """What clean processes predict: first from what this process saved, then from what the first clean one saved."""
    folder = tmp_path_factory.mktemp("clean")
    photo.save(folder / "photo.png")
    predict.save_pretrained(folder / "saved-by-pipeline")
    first = run_clean_process("save", folder / "first", folder / "photo.png", directory, folder / "saved-by-pipeline")
    again = [folder / "first" / name for name in ("0-by-pipeline", "0-by-parts", "1-by-pipeline", "1-by-parts")]
    second = run_clean_process("look", folder / "second", folder / "photo.png", *again)
    names = ["saved as model and processor", "saved as pipeline", *(f"saved again, {path.name}" for path in again)]
    return dict(zip(names, [*first, *second], strict=True)), [directory, folder / "saved-by-pipeline", *again]


@pytest.mark.slow
def test_a_process_without_mult_hf_predicts_the_same_also_after_saving_again(clean_runs, wanted):
    runs, _ = clean_runs
    assert len(runs) == 6
    for result, _ in runs.values():
        assert_same(result, wanted, 1e-6)


@pytest.mark.slow
def test_a_task_that_only_the_checkpoint_knows_survives_and_is_shown(clean_runs, wanted):
    assert "principal_curvature" not in registered_tasks()
    runs, _ = clean_runs
    for result, picture in runs.values():
        assert result["principal_curvature"]["prediction"].shape[0] == 2
        assert np.array_equal(np.asarray(picture), np.asarray(wanted["principal_curvature"]["image"]))


@pytest.mark.slow
def test_every_checkpoint_holds_all_its_code_and_nothing_foreign_is_imported(clean_runs):
    """Loading from the Hub reads every file of the closure; a local load only the entry file, so the closure is walked here."""
    allowed = {"torch", "torchvision", "numpy", "PIL", "transformers", "huggingface_hub"}
    _, checkpoints = clean_runs
    for checkpoint in checkpoints:
        entries = {"configuration_mult", "modeling_mult", "image_processing_mult", "image_processing_pil_mult", "pipeline_mult"}
        closure, waiting = set(), entries
        while waiting:
            closure |= waiting
            files = [checkpoint / f"{name}.py" for name in waiting]
            assert all(file.is_file() for file in files), (checkpoint, waiting)
            waiting = {needed for file in files for needed in get_relative_imports(file)} - closure
        assert {"tasks", "decoder_mult", "decoder_unet", "decoder_mtan", "losses", "visualization"} <= closure
        assert {file.stem for file in checkpoint.glob("*.py")} == closure
        for name in closure:
            foreign = set(get_imports(checkpoint / f"{name}.py")) - allowed - set(sys.stdlib_module_names)
            assert not foreign, f"{name}.py imports {foreign}"


def test_where_mult_hf_is_imported_its_own_pipeline_runs_without_trust(directory):
    assert type(pipeline("multitask-vision", model=str(directory))) is MultiTaskVisionPipeline
    assert type(AutoModel.from_pretrained(directory)) is MulTForMultiTaskDensePrediction
