"""Requests to the HTTP server, and readers of its answers."""

import base64
import io

import numpy as np
from PIL import Image

from mult_hf.inference.stored_maps import read_map
from mult_hf.model.tasks import resolve_tasks


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def base64_of(content):
    return base64.b64encode(content).decode()


SMALL = encoded(Image.new("RGB", (40, 40)))
TYPE = {"content-type": "image/png"}


def post(client, image, **options):
    """Send an image as the body; keywords are query parameters."""
    return client.post("/predict", content=encoded(image), params=options, headers=TYPE)


def assert_maps(read, wanted, tolerances):
    """Values agree within the precision of their storage; 99 % of class ids, because rounding may change a few pixels."""
    assert list(read) == list(wanted)
    for task, values in wanted.items():
        if values.dtype == np.int64:
            assert (read[task] == values).mean() > 0.99, task
        else:
            np.testing.assert_allclose(read[task], values.reshape(read[task].shape), atol=tolerances[task] + 1e-5, rtol=1e-4)


def stored_entries(client):
    return resolve_tasks(client.get("/tasks").json()["tasks"])


def read_files(files, entries, folder):
    """Decode files by their entries: a mapping of names and contents."""
    maps = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        maps[name[:-4]] = read_map(folder / name, entries[name[:-4]])
    return maps
