"""Proves that the pipeline accepts images in any form: files, URLs, arrays, tensors, and many of them in any container."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from support.pipelines import assert_different, assert_same


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


class Images(torch.utils.data.Dataset):
    """A torch data set of images, or of dictionaries with one."""

    def __init__(self, *images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


ONE_IMAGE = {
    "PIL image": lambda image: image,
    "array": np.asarray,
    "array to 1": lambda image: np.asarray(image, np.float32) / 255,
    "tensor": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    "tensor to 1": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255,
    "dictionary": lambda image: {"image": image, "depth": None},
}


@pytest.mark.parametrize("form", ONE_IMAGE)
def test_one_image_of_any_form_gives_one_result(predict, wanted, image, form):
    result = predict(ONE_IMAGE[form](image))
    # Fractions are resized without rounding to bytes first: up to half a grey level, which a network may amplify a little.
    tolerance = 0.02 if form.endswith("to 1") else 1e-5
    assert isinstance(result, dict)
    if tolerance == 1e-5:
        assert_same(result, wanted)
    else:
        assert_same({"depth": result["depth"]}, {"depth": wanted["depth"]}, tolerance)


def test_a_path_and_a_url_give_the_same_result(predict, wanted, image, server):
    folder, address = server
    image.save(folder / "image.png")
    assert_same(predict(str(folder / "image.png")), wanted)
    assert_same(predict(folder / "image.png"), wanted)
    assert_same(predict(f"{address}/image.png", timeout=10), wanted)


def test_a_path_may_begin_with_the_home_directory(predict, wanted, image, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    image.save(tmp_path / "photo.png")
    assert_same(predict("~/photo.png"), wanted)


def test_an_image_at_a_url_is_read_like_a_file(predict, image, server):
    """Transparent pixels on white, 16 bits scaled, turned by EXIF orientation."""
    folder, address = server
    transparent = image.copy()
    transparent.putalpha(100)
    transparent.save(folder / "transparent.png")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    exif = Image.Exif()
    exif[274] = 6
    image.save(folder / "turned.png", exif=exif)
    for name in ("transparent.png", "deep.png", "turned.png"):
        from_file = predict.preprocess(str(folder / name))
        from_url = predict.preprocess(f"{address}/{name}")
        assert from_url["target_size"] == from_file["target_size"]
        torch.testing.assert_close(from_url["pixel_values"], from_file["pixel_values"], msg=lambda text, name=name: f"{name}: {text}")


def test_grey_images_are_accepted(predict, image):
    grey = image.convert("L")
    wanted = predict(grey, tasks=["depth"])
    assert wanted["depth"]["prediction"].shape == (image.height, image.width)
    assert_same(predict(np.asarray(grey), tasks=["depth"]), wanted)
    assert_same(predict(torch.from_numpy(np.array(grey)), tasks=["depth"]), wanted)
    assert_same(predict(torch.from_numpy(np.array(grey))[None], tasks=["depth"]), wanted)


def test_maps_of_a_turned_image_have_its_upright_size(predict, image, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert predict(tmp_path / "turned.png", tasks=["depth"])["depth"]["prediction"].shape == (image.width, image.height)


def test_an_almost_black_float_image_stays_black(predict):
    """The range of floats is recognised by their values, so an image must be read only once."""
    dark = np.full((64, 96, 3), 0.002, np.float32)
    black, white = (predict.preprocess(np.full((64, 96, 3), value, np.uint8))["pixel_values"][0] for value in (0, 255))
    pixels = predict.preprocess(dark)["pixel_values"][0]
    assert (white - black).min() > 4
    assert (pixels - black).abs().max() < 0.02 * (white - black).min()


MANY_IMAGES = {
    "list": list,
    "tuple": tuple,
    "mixed list": lambda images: [images[0], np.asarray(images[1])],
    "generator": lambda images: (image for image in images),
    "torch data set": lambda images: Images(*images),
    "torch data set of dictionaries": lambda images: Images(*({"image": image, "name": "x"} for image in images)),
    "datasets.Dataset": lambda images: dataset(images),
    "column of a Dataset": lambda images: dataset(images)["image"],
    "streamed Dataset": lambda images: dataset(images).to_iterable_dataset(),
}


def dataset(images):
    features = datasets.Features({"image": datasets.Image(), "name": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": list(images), "name": [str(i) for i in range(len(images))]}, features=features)


@pytest.mark.parametrize("form", MANY_IMAGES)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_many_images_of_any_form_give_one_result_each_in_order(predict, wanted, image, flower, form, batch_size):
    first, second = predict(MANY_IMAGES[form]([image, flower]), batch_size=batch_size, tasks=["depth", "normals"])
    assert second["depth"]["prediction"].shape == (120, 160)
    assert_different(first, second)
    assert_same(first, {task: wanted[task] for task in ("depth", "normals")})
    assert_same(second, predict(flower, tasks=["depth", "normals"]))


def test_an_array_or_tensor_with_four_axes_is_a_batch_of_images(predict, wanted, image):
    pixels = np.asarray(image)
    for images in (np.stack([pixels, pixels[::-1]]), torch.from_numpy(np.stack([pixels, pixels[::-1]])).permute(0, 3, 1, 2)):
        first, second = predict(images)
        assert_same(first, wanted)
        assert_different(first, second)


def test_batches_give_the_same_results_as_single_images(predict, image, flower):
    images = [image, flower, image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), flower.convert("L"), image.crop((0, 0, 200, 100))]
    one_by_one = [predict(one) for one in images]
    assert_different(one_by_one[0], one_by_one[1])
    for batch_size in (2, 5):
        for single, batched in zip(one_by_one, predict(images, batch_size=batch_size), strict=True):
            assert_same(batched, single)


def test_an_empty_list_gives_an_empty_list(predict):
    assert predict([]) == []


def test_the_error_names_a_file_that_is_not_an_image(predict, image, tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match=r"notes\.txt cannot be read as an image"):
        predict(str(tmp_path / "notes.txt"))
    with pytest.raises(ValueError, match=r"missing\.jpg does not exist"):
        predict([image, str(tmp_path / "missing.jpg")])


def test_the_error_names_a_url_without_an_image(predict, server):
    folder, address = server
    (folder / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+/notes\.txt"):
        predict(f"{address}/notes.txt")
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+/missing\.jpg"):
        predict(f"{address}/missing.jpg")
