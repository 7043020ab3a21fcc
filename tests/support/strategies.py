"""Hypothesis strategies for everything that the package reads: images, label maps, task entries, configurations, files, command lines.

Sizes are small and odd on purpose, down to one pixel. Invalid values are valid ones with one change, like
real mistakes.
"""

import io
import json
from pathlib import Path

import numpy as np
import yaml
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from mult_hf import TaskSpec
from mult_hf.model.label_encoding import LabelEncoding

from .models import TINY_SWIN

SIDES = st.integers(1, 24)
SIZES = st.tuples(SIDES, SIDES)  # (height, width)
MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LA", "HSV", "PA", "RGBa", "I;16", "I", "F")
DTYPES = ("bool", "uint8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", ">u2", ">f4")
ORIENTATION_TAG = 274


def cases(weight=1.0):
    """Settings of a property that costs `1 / weight` times as much as the others: the profile's cases, times the weight."""
    return settings(max_examples=max(2, round(weight * settings.default.max_examples)))


def seeded(values):
    """A strategy of numpy generators: cheap random contents, of which only the seed shrinks."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng).map(values)


# --- images


@st.composite
def pil_images(draw, modes=MODES, sizes=SIZES):
    """A PIL image of any mode, some with an EXIF orientation."""
    (height, width), mode, rng = draw(sizes), draw(st.sampled_from(modes)), draw(seeded(lambda rng: rng))
    if mode in ("I;16", "I", "F"):
        dtype, highest = {"I;16": (np.uint16, 65536), "I": (np.int32, 65536), "F": (np.float32, 256)}[mode]
        image = Image.fromarray(rng.integers(0, highest, (height, width)).astype(dtype))
    else:
        channels = {"L": 1, "1": 1, "P": 1, "LA": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "HSV": 3}.get(mode, 4)
        image = Image.frombytes(
            "L" if mode == "1" else mode, (width, height), rng.integers(0, 256, height * width * channels, np.uint8).tobytes()
        )
        image = image.convert("1") if mode == "1" else image
        if mode in ("P", "PA"):
            image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
    if orientation := draw(st.sampled_from((None, None, *range(9)))):
        image.getexif()[ORIENTATION_TAG] = orientation
    return image


@st.composite
def image_arrays(draw, dtypes=DTYPES, sizes=SIZES):
    """An array of any type of numbers, grey or of 3 or 4 channels, first or last, with values that its type may hold in an image."""
    (height, width), dtype = draw(sizes), np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(st.sampled_from([(height, width), (height, width, 3), (3, height, width), (4, height, width), (height, width, 1)]))
    low, high = draw(st.sampled_from([(0, 1), (0, 255), (0, 65535), (-1, 1), (0, 200), (0, 300), (0, 0)]))
    rng = draw(seeded(lambda rng: rng))
    if dtype.kind == "f":
        return (low + (high - low) * rng.random(shape)).astype(dtype)
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return rng.integers(max(low, limits[0]), min(high, limits[1]), shape, endpoint=True).astype(dtype)


FILE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA")


def encoded(image, file_format):
    """The bytes of a file that holds an image."""
    stream = io.BytesIO()
    image.save(stream, file_format)
    return stream.getvalue()


image_files = st.builds(encoded, pil_images(("RGB", "L")), st.sampled_from(FILE_FORMATS))


@st.composite
def spoilt_bytes(draw, contents):
    """Bytes of a file cut short, changed in some places, or with something inserted."""
    content = bytearray(contents if isinstance(contents, bytes) else draw(contents))
    kind = draw(st.sampled_from(("cut", "flip", "insert", "empty")))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "cut":
        del content[place:]
    elif kind == "flip":
        for position in [place, *draw(st.lists(st.integers(0, min(len(content) - 1, 400)), max_size=8))]:
            content[position] ^= draw(st.integers(1, 255))
    elif kind == "insert":
        content[place:place] = draw(st.binary(min_size=1, max_size=40))
    else:
        content.clear()
    return bytes(content)


# --- label maps and task entries


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).map("t_{}".format)  # no registered task, no attribute of a module
SCALES = st.sampled_from([1.0, -1.0, 0.5, 1 / 512, 1 / 65535, 1 / 127.5, 3.0])
OFFSETS = st.sampled_from([0.0, -1.0, 1.0, 0.25, 100.0])
STORED_TYPES = ("uint8", "uint16", "int16", "int32", "float16", "float32", "float64")


@st.composite
def encodings(draw, channels):
    """An encoding that fits a target of so many channels."""
    dtype = draw(st.sampled_from(STORED_TYPES))
    per_channel = st.lists(SCALES, min_size=channels, max_size=channels).map(tuple)
    unknown = (
        draw(st.lists(st.sampled_from([0, 1, 100, 255]), max_size=2, unique=True))
        if dtype == "uint8"
        else draw(st.lists(st.sampled_from([0, 1, -1, 1000] if dtype[0] != "u" else [0, 1, 1000, 65535]), max_size=2, unique=True))
    )
    return LabelEncoding(
        dtype=dtype,
        scale=draw(st.one_of(SCALES, per_channel)),
        offset=draw(OFFSETS),
        unknown=tuple(unknown),
        maximum=draw(st.sampled_from([None, None, 200, 8192])),
        channels=draw(st.sampled_from([None, None, tuple(range(channels))])),
    )


@st.composite
def regression_specs(draw, most_channels=4):
    """Any task whose pixels carry numbers."""
    count = draw(st.integers(1, most_channels))
    low, high = sorted(draw(st.lists(st.sampled_from([-5.0, -1.0, 0.0, 0.5, 1.0, 10.0, 300.0]), min_size=2, max_size=2, unique=True)))
    activation = draw(st.sampled_from(["identity", "sigmoid"]))
    signs = draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=count, max_size=count))
    if -1 in signs:  # a mirrored value is a value, too
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return TaskSpec(
        name=draw(NAMES),
        kind="regression",
        channels=count,
        activation=activation,
        value_range=draw(st.sampled_from([None, (low, high)])) if activation == "identity" else (low, high),
        encoding=draw(encodings(count)),
        resample=draw(st.sampled_from(["nearest", "bilinear"])),
        horizontal_flip_signs=tuple(signs),
        zoom_exponent=draw(st.sampled_from([0.0, -1.0])),
    )


@st.composite
def class_specs(draw, most_classes=12):
    """Any task whose pixels carry classes, some stored with an offset as after an `unlabelled` id."""
    offset = draw(st.sampled_from([0.0, -1.0]))
    unknown = (255,) if offset == 0 else (0,)
    encoding = LabelEncoding(dtype=draw(st.sampled_from(["uint8", "uint16", "int32"])), offset=offset, unknown=unknown)
    return TaskSpec(name=draw(NAMES), kind="classification", channels=draw(st.integers(2, most_classes)), encoding=encoding)


task_specs = st.one_of(class_specs(), regression_specs())


@st.composite
def targets(draw, spec, sizes=SIZES):
    """A target of a task as `TaskSpec.decode` returns it, with unknown pixels."""
    size, rng = draw(sizes), draw(seeded(lambda rng: rng))
    unknown = rng.random(size) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    if spec.is_classification:
        return np.where(unknown, 255, rng.integers(0, spec.channels, size)).astype(np.int64)
    low, high = spec.value_range or (-3.0, 3.0)
    values = (low + (high - low) * rng.random((spec.channels, *size))).astype(np.float32)
    return np.where(unknown, np.float32(np.nan), values)


# Values that a hand-written entry, configuration or command line may have by mistake.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-40, 40),
    st.sampled_from([2**31, 2**63, 10**20, -(10**20)]),  # nothing between, which would make large models
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["mae", "nearest", "x" * 3000, "NaN", "1e3", "no", "none", "float", "M8[s]", "O", "U5", "f4,f4", "uint8", "c8", "V2"]),
    st.lists(st.one_of(st.integers(-3, 40), st.floats(), st.text(max_size=3), st.none()), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just([[1, 2], [3]]),
    st.just({"dtype": "uint8", "scale": 0}),
    st.just(["name"] * 2000),
)


@st.composite
def spoilt(draw, values):
    """A mapping of plain values with one of them replaced, removed, doubled under a misspelt name, or changed inside."""
    values = json.loads(json.dumps(values if isinstance(values, dict) else draw(values)))
    key = draw(st.sampled_from(sorted(values)))
    kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "rename", "inside")))
    if kind == "inside" and isinstance(values[key], dict) and values[key]:
        inner = draw(st.sampled_from(sorted(values[key])))
        values[key][inner] = draw(JUNK)
    elif kind == "remove":
        del values[key]
    elif kind == "rename":
        values[draw(st.text(max_size=8))] = values.pop(key)
    else:
        values[key] = draw(JUNK)
    return values


# --- configurations


@st.composite
def configurations(draw):
    """Keywords of a configuration with a model of a few thousand weights."""
    tasks = draw(st.lists(st.one_of(class_specs(4), regression_specs(3)), min_size=1, max_size=3,
                          unique_by=lambda spec: spec.name))  # fmt: skip
    kinds = st.sampled_from(["self", "encoder", "reference", "self+skip", "encoder+skip", "reference+skip"])
    stage = st.lists(kinds, min_size=2, max_size=2)
    decoder = draw(st.sampled_from(["mult", "mult", "mult", "swin_unet", "mtan"]))
    stages = 4 if decoder == "mult" else 3
    of_blocks = {
        "block_attention": draw(st.one_of(stage, st.lists(stage, min_size=stages, max_size=stages))),
        "reference_task": draw(st.sampled_from([spec.name for spec in tasks])),
    }
    windows = {"decoder_window_size": draw(st.sampled_from([None, 2, 3, 4])), "mlp_ratio": draw(st.sampled_from([1.0, 2, 4.0]))}
    return {
        "backbone_config": {**TINY_SWIN, "depths": [1, 1, 1, 1], "window_size": draw(st.sampled_from([2, 4]))},
        "tasks": [spec.to_dict() for spec in tasks],
        "decoder_type": decoder,
        **(of_blocks if decoder != "mtan" else {}),
        **(windows if decoder != "mtan" else {}),
    }


# --- files


def card(entries, more=None):
    """The text of a data set's card."""
    return f"---\n{yaml.safe_dump({'mult_tasks': entries, **(more or {})})}---\n# Maps\n"


ODD_TEXT = st.sampled_from(
    ["", "---\n---\n", "---\n- 1\n---\n", "---\nmult_tasks: {a\n---\n", "---\nmult_tasks: !!python/object/apply:os.getcwd []\n---\n",
     "---\n? [1, 2]\n: 3\n---\n", "---\nmult_tasks:\n- depth\n- depth\n---\n", "---\nmult_tasks: depth\n---\n", "---\na: &a [*a]\n---\n",
     "no header", "---\n\tmult_tasks: 1\n---\n", "---\nmult_tasks: [[]]\n---\n", "---\nmult_tasks: [1.5, null]\n---\n",
     "---\nmult_tasks: [{name: no, kind: regression, channels: 1}]\n---\n", "---\nmult_tasks: " + "[" * 3000 + "\n---\n"]
)  # fmt: skip


def write(path, content):
    """Write text or bytes to a path; returns it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path
