"""Proves that depth in answers is of the camera that a request, a photograph or the server states."""

import io
import math

import numpy as np
import pytest
from PIL import ExifTags, Image
from starlette.testclient import TestClient

from mult_hf import MulTImageProcessor
from mult_hf.cli.predict import main as predict_command
from mult_hf.inference.predictor import predict
from mult_hf.inference.stored_maps import precision, read_map
from support.http_requests import SMALL, TYPE, base64_of, encoded, post, stored_entries


@pytest.fixture
def camera_processor(network):
    """The processor of a model with a canonical camera, which assumes 40 degrees."""
    camera = {"canonical_focal_length": 300.0, "assumed_field_of_view": 40.0}
    return MulTImageProcessor(size={"height": 40, "width": 40}, tasks=network.config.tasks, **camera)


@pytest.fixture
def camera_client(serve, camera_processor):
    return TestClient(serve(processor=camera_processor).application())


def with_equivalent(millimetres):
    """EXIF that states the 35 mm equivalent of a focal length."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = millimetres
    return exif.tobytes()


def test_maps_are_the_files_that_predict_writes_whatever_states_the_focal_length(network, processor, camera_client, image, tmp_path):
    """The EXIF of a photograph, of a transparent image, or nothing but --field_of_view."""
    network.save_pretrained(tmp_path / "model")
    type(processor).from_dict({**processor.to_dict(), "canonical_focal_length": 300.0}).save_pretrained(tmp_path / "model")
    contents = {
        "phone.jpg": encoded(image, "JPEG", exif=with_equivalent(26)),
        "transparent.webp": encoded(image.convert("RGBA"), "WEBP", exif=with_equivalent(26)),
        "plain.png": encoded(image),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    flags = ["--model", tmp_path / "model", "--output_dir", tmp_path / "out", "--tasks", "depth", "--field_of_view", 40, "--inputs"]
    assert predict_command([*map(str, [*flags, *(tmp_path / name for name in contents)])]) == 0
    entry, metres = stored_entries(camera_client)["depth"], {}
    for name, content in contents.items():
        answer = camera_client.post("/predict?tasks=depth", content=content, headers={"content-type": "application/octet-stream"})
        (tmp_path / name).write_bytes(answer.content)
        metres[name] = read_map(tmp_path / "out/maps/depth" / f"{name}.png", entry)
        # Rounding depends on the other images of a batch, and may change a value by one step.
        np.testing.assert_allclose(read_map(tmp_path / name, entry), metres[name], atol=2.1 * precision(entry), err_msg=name)
    means = [values.mean() for values in metres.values()]
    assert means[2] > 1.5 * means[0], "premise: the angle of view is narrower than that of 26 mm"


def test_a_request_states_the_focal_length_before_the_file(network, camera_processor, camera_client, image):
    """In pixels of the image, here twice as many as the EXIF states."""
    content = encoded(image, "PNG", exif=with_equivalent(26))
    outputs = predict(network, camera_processor(image, return_tensors="pt")["pixel_values"])
    pixels = 2 * 26 / math.hypot(36, 24) * math.hypot(50, 60)
    (maps,) = camera_processor.post_process(outputs, [(25, 30)], focal_length=pixels / 2)
    options = {"tasks": "depth", "format": "npz", "max_side": "30", "focal_length": str(pixels)}
    answers = [
        camera_client.post("/predict", params=options, content=content, headers=TYPE),
        camera_client.post("/predict", data=options, files={"image": ("a.png", content, "image/png")}),
        camera_client.post("/predict", json={"image": base64_of(content), **options, "focal_length": pixels}),
    ]
    unknown = camera_client.post("/predict", json={"image": base64_of(content), **options, "focal_length": None})
    for answer, factor in [*((each, 1) for each in answers), (unknown, 2)]:
        with np.load(io.BytesIO(answer.content)) as arrays:
            np.testing.assert_allclose(factor * arrays["depth"][0], maps["depth"]["prediction"].numpy(), rtol=1e-4)


def test_answers_state_the_focal_length_that_was_used_and_its_source(camera_client, client, image):
    """In pixels of the image that was sent, also for smaller maps; JSON in the body, the other formats in a header."""
    diagonal = math.hypot(50, 60)
    cases = [
        (encoded(image, "JPEG", exif=with_equivalent(26)), {}, 26 / math.hypot(36, 24) * diagonal, "EXIF"),
        (encoded(image, "JPEG", exif=with_equivalent(26)), {"focal_length": "80"}, 80, "given"),
        (encoded(image), {}, 30 / math.tan(math.radians(20)), "assumed"),
    ]

    def ask(content, **options):
        return camera_client.post("/predict", params={"max_side": "30", **options}, content=content, headers=TYPE)

    for content, given, pixels, source in cases:
        used = ask(content, tasks="depth,normals", format="json", **given).json()["focal_length"]
        assert used == {"pixels": pytest.approx(pixels), "source": source}
        for options in ({"tasks": "depth"}, {}, {"format": "npz"}):
            assert ask(content, **options, **given).headers["focal-length"] == f"{pixels:.3f};source={source}"
    assert "focal-length" not in ask(encoded(image), tasks="normals").headers, "they do not depend on it"
    assert "focal-length" not in post(client, image).headers, "nor do metres of a model without a canonical camera"
    assert post(client, image, format="json").json()["focal_length"] is None


@pytest.mark.parametrize("value", ["0", "-300", "nan", "inf", "1e-320", "300,400", "wide", "", True, [300]])
def test_an_impossible_focal_length_is_refused_in_one_line(camera_client, value):
    in_body = {"json": {"image": base64_of(SMALL), "focal_length": value}}
    request = {"content": SMALL, "headers": TYPE, "params": {"focal_length": value}} if isinstance(value, str) else in_body
    answer = camera_client.post("/predict", **request)
    assert (answer.status_code, "; give a number of pixels of the image from 1 to 1e+07" in answer.json()["error"]) == (422, True)


def test_a_model_without_a_canonical_camera_takes_no_focal_length(client, camera_client):
    answer = client.post("/predict", content=SMALL, headers=TYPE, params={"focal_length": "300"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("focal_length is set, but the model predicts the same for every focal length")
    assert [each.get("/tasks").json()["assumed_field_of_view"] for each in (client, camera_client)] == [None, 40.0]
