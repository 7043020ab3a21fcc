"""Proves that `mult-hf evaluate` measures photographs held both ways, and says which focal lengths are wrong or only assumed."""

import json

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from mult_hf import MulTImageProcessor
from mult_hf.cli.evaluate import main

SIZES = [(48, 36), (36, 48), (48, 36)]  # (width, height)
DEPTH = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0]}}


@pytest.fixture
def model(shallow_model, tmp_path):
    """A model for one canonical camera, whose processor keeps the aspect ratio."""
    model = shallow_model(tasks=["depth"])
    model.save_pretrained(tmp_path / "model")
    processor = MulTImageProcessor(size={"shortest_edge": 32}, tasks=model.config.tasks, canonical_focal_length=40.0)
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def run(model, tmp_path, capsys):
    """Write data with this column, and measure the model on them; returns the printed text and the results."""

    def start(*flags, **columns):
        rng = np.random.default_rng(0)
        rows = {
            "image": [PILImage.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)) for width, height in SIZES],
            "depth": [PILImage.fromarray(rng.integers(512, 2048, (height, width), np.uint16)) for width, height in SIZES],
        }
        features = {"image": Image(), "depth": Image()} | {name: Value("float32") for name in columns}
        (tmp_path / "data").mkdir()
        Dataset.from_dict(rows | columns, features=Features(features)).to_parquet(str(tmp_path / "data/test-00000-of-00001.parquet"))
        (tmp_path / "data/README.md").write_text(f"---\nmult_tasks: {json.dumps([DEPTH])}\n---\nRandom maps.\n")
        words = ["--model", model, "--dataset", tmp_path / "data", "--split", "test", "--output_dir", tmp_path / "out", "--cpu_threads", 1]
        main([*map(str, [*words, *flags])])
        return capsys.readouterr().out, json.loads((tmp_path / "out/results.json").read_text())

    return start


def test_images_of_several_sizes_are_measured_with_the_default_batch_size(run):
    printed, results = run(focal_length=[40.0] * 3)
    assert results["evaluated_samples"] == 3
    assert "assumed_focal_lengths" not in results
    assert "assume" not in printed


def test_it_says_how_many_metres_rest_on_an_assumed_focal_length(run):
    printed, results = run(focal_length=[40.0, None, None])
    assert results["assumed_focal_lengths"] == 2
    assert "model: the focal lengths of 2 of 3 images are not known. Metres there assume a field of view of 60 degrees along" in printed


@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "nan"), (0.0, "0.0"), (-3.0, "-3.0"), (float("inf"), "inf")])
def test_a_wrong_focal_length_is_named_by_its_column_and_row_before_any_prediction(run, value, shown, tmp_path):
    with pytest.raises(ValueError, match=rf"^f_px of test row 2 is {shown}; give a number of pixels"):
        run("--focal_length_column", "f_px", f_px=[40.0, None, value])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("column", ["image", "depth"])
def test_a_column_of_images_holds_no_focal_lengths(run, column):
    with pytest.raises(ValueError, match=f"--focal_length_column is '{column}', a column of type Image; give one with a number of pixels"):
        run("--focal_length_column", column)
