"""Proves that the prediction example saves maps that read back as the pipeline's predictions."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from transformers import pipeline

import mult_hf
from mult_hf.inference.stored_maps import load_stored_forms, precision, read_map
from support.forked import run_script

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "docs/images/living-room.jpg"


def test_the_saved_maps_are_those_of_the_pipeline(tmp_path):
    """Of a photograph that was taken upright, with a lens that its EXIF states."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 50
    image = tmp_path / "living-room.jpg"
    Image.open(IMAGE).save(image, exif=exif)
    argv = ["--image", image, "--output_dir", tmp_path / "out"]
    printed, status = run_script(ROOT / "examples/predict.py", *argv, output=tmp_path / "output.txt")
    assert status == 0, printed
    expected = pipeline("multitask-vision", model=mult_hf.DEFAULT_CHECKPOINT)(str(image))
    entries = load_stored_forms(tmp_path / "out")
    assert entries.keys() == expected.keys()
    for task, entry in entries.items():
        assert f"{task} " in printed
        read, prediction = read_map(tmp_path / "out/maps" / task / "living-room.png", entry), expected[task]["prediction"].numpy()
        if entry.is_classification:
            assert (read != prediction).mean() < 0.001, "pixels where two classes are equally likely"
        else:
            np.testing.assert_allclose(read.reshape(prediction.shape), prediction, atol=precision(entry) + 1e-3)
    assert (tmp_path / "out/panels/living-room.jpg").is_file()
