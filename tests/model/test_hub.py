"""Proves that models, processors and data sets can be pushed and loaded, with the real client over HTTP to a local server."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, load_dataset
from datasets import Image as ImageColumn
from huggingface_hub import DatasetCard, HfApi, ModelCard, constants
from PIL import Image
from transformers import pipeline

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.schema import load_task_entries
from mult_hf.model.pipeline_mult import MultiTaskVisionPipeline
from support.hub_server import running_hub
from support.models import TINY_SWIN

pytestmark = pytest.mark.slow

OWNER, STRANGER = "hf_owner", "hf_stranger"
TASKS = ["depth", "normals"]
CARD = "---\nlibrary_name: transformers\ntags: [depth-estimation]\n---\nA tiny model of noise.\n"
ENTRIES = [{"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.001, "unknown": [0]}}]


# --- functions of the user's process, a separate one because the client reads its settings at import ---


@pytest.fixture(scope="module")
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture(scope="module")
def settings(hub, tmp_path_factory):
    """Environment of a user's process: the address of the Hub, no xet storage, an empty home, and no settings of this process."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    home = tmp_path_factory.mktemp("home")
    return {**others, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def client(settings):
    """Run a function of this file in a user's process, one process for all tests, and return its result."""
    user_process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with patch.dict(os.environ, settings, clear=True), user_process as process:
        assert process.submit(who_am_i).result() == "user", "premise: it speaks to our server"
        yield lambda function, *args, **kwargs: process.submit(function, *args, **kwargs).result()


def who_am_i():
    return HfApi(token=OWNER).whoami()["name"]


def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))


def make_model(seed=0):
    torch.manual_seed(seed)
    return MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=dict(TINY_SWIN), tasks=TASKS)).eval()


def push_parts(name, **kwargs):
    """Model, processor and card, one after the other."""
    make_model().push_to_hub(name, **kwargs)
    MulTImageProcessor(size={"height": 64, "width": 64}, tasks=TASKS).push_to_hub(name, **kwargs)
    ModelCard(CARD).push_to_hub(name, token=kwargs["token"])


def push_model(name, seed=0, **kwargs):
    make_model(seed).push_to_hub(name, **kwargs)


def push_pipeline(name, **kwargs):
    """Everything at once."""
    processor = MulTImageProcessor(size={"height": 64, "width": 64}, tasks=TASKS)
    pipeline("multitask-vision", model=make_model(), image_processor=processor).push_to_hub(name, **kwargs)


def push_data(name, token, **kwargs):
    depth = Image.fromarray(np.full((64, 64), 2000, np.uint16))
    features = Features({"image": ImageColumn(), "depth": ImageColumn()})
    Dataset.from_dict({"image": [image()] * 2, "depth": [depth] * 2}, features=features).push_to_hub(name, token=token, **kwargs)
    card = DatasetCard.load(name, token=token)  # the one that datasets wrote
    card.data.mult_tasks = ENTRIES
    card.push_to_hub(name, token=token)


def load_weights(name, **kwargs):
    return MulTForMultiTaskDensePrediction.from_pretrained(name, **kwargs).state_dict()


def load_processor(name, **kwargs):
    return MulTImageProcessor.from_pretrained(name, **kwargs).to_dict()


def predict(name, **kwargs):
    maps = pipeline("multitask-vision", model=name, **kwargs)(image())
    return {task: result["prediction"] for task, result in maps.items()}


def load_data(name, **kwargs):
    rows = load_dataset(name, split="train", **kwargs)
    return [np.asarray(row["depth"]) for row in rows]


def failure(function, *args, **kwargs):
    """The error of a function, if any; the client does not wait between retries."""
    with patch("time.sleep"):
        try:
            function(*args, **kwargs)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""


def forget_downloads():
    """Empty the cache, whose contents the client returns to any user of the machine."""
    shutil.rmtree(constants.HF_HUB_CACHE)


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# --- models ---


@pytest.fixture(scope="module")
def pushed(client):
    """The parts one by one, and all by a pipeline; public."""
    client(push_parts, "user/parts", token=OWNER)
    client(push_pipeline, "user/whole", token=OWNER)


def test_model_processor_code_and_card_are_pushed(hub, pushed):
    code = {"modeling_mult.py", "configuration_mult.py", "tasks.py", "image_processing_mult.py", "pipeline_mult.py"}
    for name in ("user/parts", "user/whole"):
        files = hub.files("models", name)
        assert {"config.json", "preprocessor_config.json", "model.safetensors", "README.md", *code} <= files.keys()
        assert files["model.safetensors"].sha256, "weights go the way of large files"
        assert files["config.json"].sha256 is None
    assert hub.files("models", "user/parts")["README.md"].content.decode().endswith("A tiny model of noise.\n")


@pytest.mark.parametrize("name", ["user/parts", "user/whole"])
def test_everything_that_was_pushed_can_be_loaded(client, pushed, name):
    assert_same(client(load_weights, name), dict(make_model().state_dict()))
    processor = client(load_processor, name)
    assert processor["size"] == {"height": 64, "width": 64}
    assert [entry["name"] for entry in processor["tasks"]] == TASKS


def test_a_pipeline_loads_from_a_hub_id(client, pushed):
    with torch.no_grad():
        batch = MulTImageProcessor(size={"height": 64, "width": 64}, tasks=TASKS)(image(), return_tensors="pt")
        (expected,) = MulTImageProcessor(tasks=TASKS).post_process(make_model()(**batch))
    assert_same(client(predict, "user/parts"), {task: maps["prediction"] for task, maps in expected.items()})


WITHOUT_THE_PACKAGE = """
import sys, torch
from PIL import Image
sys.modules["mult_hf"] = None  # an import of it now fails
from transformers import AutoImageProcessor, AutoModel, pipeline
name, image, out, *token = sys.argv[1:]
predict = pipeline("multitask-vision", model=name, trust_remote_code=True, token=token[0] if token else None)
torch.save({task: maps["prediction"] for task, maps in predict(image).items()}, out)
model = AutoModel.from_pretrained(name, trust_remote_code=True, token=token[0] if token else None)
processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=True, token=token[0] if token else None)
assert all(type(one).__module__.startswith("transformers_modules.") for one in (predict, model, processor))
"""


def run_without_the_package(settings, tmp_path, *arguments, **variables):
    """Predictions of a machine without mult_hf, with a separate home."""
    image().save(tmp_path / "image.png")
    command = [
        sys.executable,
        "-c",
        WITHOUT_THE_PACKAGE,
        arguments[0],
        str(tmp_path / "image.png"),
        str(tmp_path / "maps.pt"),
        *arguments[1:],
    ]
    environment = {**settings, "HF_HOME": str(tmp_path / "home"), **variables}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    return torch.load(tmp_path / "maps.pt")


def test_a_machine_without_the_package_predicts_the_same_and_again_offline(hub, client, pushed, settings, tmp_path):
    expected = client(predict, "user/whole")
    assert_same(run_without_the_package(settings, tmp_path, "user/whole"), expected)
    before = len(hub.requests)
    assert_same(run_without_the_package(settings, tmp_path, "user/whole", HF_HUB_OFFLINE="1"), expected)
    assert len(hub.requests) == before, "offline means that nothing is asked"


def test_a_revision_can_be_a_branch_or_a_commit(hub, client, pushed):
    client(push_model, "user/parts", seed=1, revision="second", token=OWNER)
    commit = hub.repositories["models", "user/parts"].branches["second"]
    for revision in ("second", commit):
        assert_same(client(load_weights, "user/parts", revision=revision), dict(make_model(seed=1).state_dict()))
    assert_same(client(load_weights, "user/parts"), dict(make_model().state_dict()))
    assert "smell" in client(failure, load_weights, "user/parts", revision="smell")


def pipeline_of(name, **kwargs):
    """The size to which the pipeline of a loaded model resizes."""
    model = MulTForMultiTaskDensePrediction.from_pretrained(name, **kwargs)
    return dict(MultiTaskVisionPipeline(model).image_processor.size)


def push_processor(name, side, **kwargs):
    MulTImageProcessor(size={"height": side, "width": side}, tasks=TASKS).push_to_hub(name, **kwargs)


def test_the_pipeline_of_a_model_takes_the_processor_of_its_revision(client, pushed):
    client(push_processor, "user/parts", 96, revision="larger", token=OWNER)
    client(push_model, "user/parts", revision="larger", token=OWNER)
    assert client(pipeline_of, "user/parts", revision="larger") == {"height": 96, "width": 96}
    assert client(pipeline_of, "user/parts") == {"height": 64, "width": 64}


# --- tokens ---


@pytest.fixture(scope="module")
def private(client):
    client(push_pipeline, "user/secret", token=OWNER, private=True)
    client(push_data, "user/secret-data", token=OWNER, private=True)


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (load_weights, "user/secret"),
        (load_processor, "user/secret"),
        (predict, "user/secret"),
        (load_data, "user/secret-data"),
        (load_task_entries, "user/secret-data"),
    ],
    ids=["model", "processor", "pipeline", "data", "task entries"],
)
def test_a_private_repository_needs_its_owners_token(client, private, load, name):
    client(forget_downloads)
    for token in (None, STRANGER):
        assert name in client(failure, load, name, token=token)
    assert client(load, name, token=OWNER)


def test_the_token_is_not_sent_to_the_storage_of_large_files(hub, client, private, tmp_path):
    client(load_weights, "user/secret", token=OWNER, cache_dir=tmp_path)
    downloads = [request for request in hub.requests if request.startswith("GET /large/")]
    assert downloads
    assert not hub.storage_saw_token


def test_only_owners_push(hub, client, pushed):
    before = hub.files("models", "user/parts")
    assert "user/parts" in client(failure, push_model, "user/parts", seed=2, token=STRANGER)
    assert hub.files("models", "user/parts") == before


# --- data sets ---


def test_a_pushed_data_set_is_loaded_with_its_task_entries(client):
    client(push_data, "user/data", token=OWNER)
    maps = client(load_data, "user/data")
    assert len(maps) == 2
    assert maps[0].dtype == np.uint16
    assert (maps[0] == 2000).all()
    assert client(load_task_entries, "user/data") == ENTRIES


def test_task_entries_have_revisions(client):
    client(push_data, "user/versions", token=OWNER)
    client(change_entries, "user/versions")
    assert client(load_task_entries, "user/versions") == ENTRIES
    assert client(load_task_entries, "user/versions", revision="centimetres")[0]["encoding"]["scale"] == 0.01


def change_entries(name):
    """The card of another branch says that the maps are in centimetres."""
    HfApi(token=OWNER).create_branch(name, branch="centimetres", repo_type="dataset")
    card = DatasetCard.load(name)
    card.data.mult_tasks = [{"name": "depth", "encoding": {**ENTRIES[0]["encoding"], "scale": 0.01}}]
    HfApi(token=OWNER).upload_file(
        path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=name, repo_type="dataset", revision="centimetres"
    )


# --- broken connections ---


@pytest.fixture
def weak_connection(hub):
    """Transmit this many bytes of large files, then break the connection."""

    def limit(count):
        hub.bytes_left = count

    yield limit
    hub.bytes_left = None


def test_an_interrupted_download_leaves_no_model_and_succeeds_when_repeated(hub, client, pushed, weak_connection, tmp_path):
    size = len(hub.files("models", "user/parts")["model.safetensors"].content)
    weak_connection(size // 2)
    assert client(failure, load_weights, "user/parts", cache_dir=tmp_path)
    assert hub.bytes_left == 0, "premise: it broke within the weights"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size >= size // 4]
    weak_connection(None)
    assert client(failure, load_weights, "user/parts", cache_dir=tmp_path, local_files_only=True), "nothing half usable is left"
    assert_same(client(load_weights, "user/parts", cache_dir=tmp_path), dict(make_model().state_dict()))


def test_an_interrupted_upload_leaves_nothing_to_load_and_succeeds_when_repeated(hub, client, weak_connection):
    weak_connection(10_000)
    assert "model.safetensors" in client(failure, push_model, "user/broken", seed=3, token=OWNER)
    weak_connection(None)
    assert hub.files("models", "user/broken") == {}, "config and code do not come without their weights"
    assert client(failure, load_weights, "user/broken")
    client(push_model, "user/broken", seed=3, token=OWNER)
    assert_same(client(load_weights, "user/broken"), dict(make_model(seed=3).state_dict()))


def train_and_push(directory, name):
    from accelerate.state import AcceleratorState, GradientState

    from examples import train

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    tiny = "--embed_dim 8 --depths 1 1 --window_size 4 --batch_size 2 --cpu_threads 1 --max_steps 2 --eval_steps 1 --panel_rows 1"
    tiny += " --train_split train[:8] --validation_split validation[:8]"
    flags = [*tiny.split(), "--tasks", *TASKS, "--output_dir", str(directory), "--push_to_hub", name]
    with patch.dict(os.environ, {"HF_TOKEN": OWNER}):
        train.main(flags)


def test_the_training_script_uploads_the_finished_model_without_checkpoints(client, hub, tmp_path):
    client(train_and_push, tmp_path / "run", "user/trained")
    files = set(client(list_files, "user/trained"))
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "pipeline_mult.py", "README.md", "panel.png"} <= files
    assert not any(name.startswith(("checkpoints/", "best/")) for name in files)
    assert set(client(predict, "user/trained", token=OWNER)) == set(TASKS)


def list_files(name):
    return HfApi(token=OWNER).list_repo_files(name)
