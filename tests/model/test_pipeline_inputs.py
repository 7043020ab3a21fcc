"""Proves that the pipeline takes a photo in any form: files, URLs, arrays, tensors, and many of them in any container."""

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
