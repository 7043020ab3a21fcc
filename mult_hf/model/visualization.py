"""Colour images of predictions and targets: colour maps by name, a legend of classes, panels, attention and matrices."""

import colorsys
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .tasks import TaskSpec

UNKNOWN_COLOR = (112, 72, 112)
"""Colour of unknown pixels; no colour map uses it."""

# Colours at equal steps from the lowest to the highest value, interpolated in between.
_ANCHORS: dict[str, tuple[str, ...]] = {
    "gray": ("000000", "ffffff"),
    "viridis": ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"),
    "magma": ("000004", "1d1147", "51127c", "832681", "b73779", "e75263", "fc8961", "fec488", "fcfdbf"),
    "turbo": ("30123b", "4669e0", "29bbec", "31f299", "a3fd3c", "edd03a", "fb8022", "d23105", "7a0403"),
}


def class_palette(classes: int) -> np.ndarray:
    """A colour for each class id that does not depend on how many classes there are: (classes, 3) uint8.

    Hues step by the golden angle, so that neighbouring ids differ; brightness alternates.
    """
    colors = [colorsys.hsv_to_rgb(0.61803398875 * i % 1, (0.62, 0.85, 0.45)[i % 3], (0.95, 0.70, 0.85)[i // 2 % 3]) for i in range(classes)]
    return np.round(np.asarray(colors, np.float64).reshape(-1, 3) * 255).astype(np.uint8)


_UNKNOWN_INDEX = 255
"""Row of a colour table for unknown pixels; the others are for class ids, or for values from the lowest to the highest."""

_STRIP_PIXELS = 2**17
"""Pixels that are coloured at a time: few enough for their values to stay in the processor's cache."""

_LIMIT_PIXELS = 2**20
"""Pixels, at least, whose values decide the limits of a larger map."""


def _in_strips(values: np.ndarray, channels: int | None, color: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Convert (channels, height, width) values to bytes, some rows at a time.

    Args:
        values: the map.
        channels: of the result, or None for one without this axis.
        color: (channels, rows, width) -> (rows, width) or (rows, width, channels) uint8.
    """
    height, width = values.shape[1:]
    colored = np.empty((height, width) if channels is None else (height, width, channels), np.uint8)
    step = max(1, _STRIP_PIXELS // max(1, width))
    for start in range(0, height, step):
        colored[start : start + step] = color(values[:, start : start + step])
    return colored


def _looked_up(indices: np.ndarray, table: np.ndarray) -> Image.Image:
    """The image of (height, width) uint8 indices into (colours, 3) uint8 colours; [`_UNKNOWN_INDEX`] is the unknown colour."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(table)] = table
    colors[_UNKNOWN_INDEX] = UNKNOWN_COLOR
    image = Image.fromarray(indices)
    image.putpalette(colors.tobytes())
    return image.convert("RGB")


def _color_classes(values: np.ndarray, spec: TaskSpec, limits: tuple[float, float]) -> Image.Image:
    def index(strip: np.ndarray) -> np.ndarray:
        listed = (strip[0] >= 0) & (strip[0] < spec.channels)  # false for NaN, too
        return np.where(listed, strip[0], _UNKNOWN_INDEX).astype(np.uint8)

    return _looked_up(_in_strips(values, None, index), class_palette(spec.channels))


def _color_vectors(values: np.ndarray, spec: TaskSpec, limits: tuple[float, float]) -> Image.Image:
    """Up to three channels as red, green and blue, 0 being the middle grey of each."""
    low, high = spec.value_range or (-1.0, 1.0)

    def color(strip: np.ndarray) -> np.ndarray:
        colors = np.full((*strip.shape[1:], 3), 128, np.uint8)
        for channel, shown in enumerate(strip[:3]):
            colors[..., channel] = _bytes(shown, low, high, 255)
        known = np.isfinite(strip).all(axis=0)
        if not known.all():
            colors[~known] = UNKNOWN_COLOR
        return colors

    return Image.fromarray(_in_strips(values, 3, color))


def _color_scalars(anchors: Sequence[str]) -> Callable[[np.ndarray, TaskSpec, tuple[float, float]], Image.Image]:
    table = np.round(_shade(np.linspace(0, 1, _UNKNOWN_INDEX), anchors) * 255).astype(np.uint8)

    def color(values: np.ndarray, spec: TaskSpec, limits: tuple[float, float]) -> Image.Image:
        def index(strip: np.ndarray) -> np.ndarray:
            magnitude = _magnitude(strip)
            known = np.isfinite(magnitude)
            indices = _bytes(magnitude, *limits, len(table) - 1)
            return indices if known.all() else np.where(known, indices, _UNKNOWN_INDEX)

        return _looked_up(_in_strips(values, None, index), table)

    return color


def _bytes(values: np.ndarray, low: float, high: float, highest: int) -> np.ndarray:
    """Numbers from 0 for `low` to `highest` for `high`, rounded and within these; 0 for NaN."""
    per_unit = highest / max(high - low, 1e-12)
    with np.errstate(over="ignore"):  # beyond the type's range is beyond the limits
        scaled = np.subtract(values, low, dtype=np.result_type(values, np.float32))
        scaled *= per_unit
    scaled += 0.5
    np.fmax(scaled, 0, out=scaled)  # 0 for NaN
    return np.minimum(scaled, highest, out=scaled).astype(np.uint8)


def _shade(position: np.ndarray, anchors: Sequence[str]) -> np.ndarray:
    """Colours at positions from 0 to 1 between the anchors: (...) -> (..., 3) from 0 to 1."""
    table = np.array([[int(color[i : i + 2], 16) for i in (0, 2, 4)] for color in anchors]) / 255
    steps = np.linspace(0, 1, len(table))
    return np.stack([np.interp(position, steps, channel) for channel in table.T], axis=-1)


def _magnitude(values: np.ndarray) -> np.ndarray:
    """The value itself, or the length of a vector, so that every colour map works for every task."""
    return values[0] if len(values) == 1 else np.linalg.norm(values, axis=0)


def _to_bytes(colors: np.ndarray, known: np.ndarray) -> np.ndarray:
    colors = np.round(np.clip(np.nan_to_num(colors), 0, 1) * 255).astype(np.uint8)
    return np.where(known[..., None], colors, np.array(UNKNOWN_COLOR, np.uint8))


COLORMAPS: dict[str, Callable[[np.ndarray, TaskSpec, tuple[float, float]], Image.Image]] = {
    "classes": _color_classes,
    "vectors": _color_vectors,
    **{name: _color_scalars(anchors) for name, anchors in _ANCHORS.items()},
}
"""Colour maps by the name that a task's entry uses: (values (channels, height, width), entry, limits) -> RGB image.

Those of numbers have 255 colours: a value is shown as the nearest of them."""


def color_limits(values: np.ndarray) -> tuple[float, float]:
    """The range of values that a scalar colour map spans: 1st to 99th percentile of the known ones; (0, 1) if none is known.

    Of a map of more than [`_LIMIT_PIXELS`], only pixels of every n-th row and column count, as many as that or more.
    """
    values = _channels_first(values)
    every = max(1, math.isqrt(values[0].size // _LIMIT_PIXELS))
    magnitude = _magnitude(values[:, ::every, ::every])
    known = magnitude[np.isfinite(magnitude)]
    return tuple(np.percentile(known, [1, 99]).tolist()) if len(known) else (0.0, 1.0)


def colorize(values: np.ndarray, spec: TaskSpec, limits: tuple[float, float] | None = None) -> Image.Image:
    """A prediction or target as an image in the task's colour map.

    Args:
        values: (height, width) or (channels, height, width), an array or CPU tensor in the target's unit, or class ids; NaN
            or 255 where unknown.
        spec: the task.
        limits: values at the two ends of a scalar colour map; the 1st and 99th percentile of `values` by default. Pass the target's
            to compare a prediction with it. Classes and vectors have fixed colours.

    Returns:
        `PIL.Image.Image`: RGB, of the map's size.

    Raises:
        ValueError: as [`check_colormap`], or on another number of axes.
    """
    check_colormap(spec)
    values = _channels_first(values)
    return COLORMAPS[spec.colormap](values, spec, color_limits(values) if limits is None else limits)


def colormaps_of(spec: TaskSpec) -> list[str]:
    """Names of the colour maps that fit a task: class ids are not numbers, and a single number has no direction."""
    others = {"vectors", *_ANCHORS} if spec.is_classification else {"classes"}
    others |= {"vectors"} if spec.channels == 1 else set()
    return [name for name in COLORMAPS if name not in others]


def check_colormap(spec: TaskSpec) -> None:
    """Refuse an entry whose colour map does not exist, or does not fit the task.

    Raises:
        ValueError: naming the allowed ones.
    """
    allowed = colormaps_of(spec)
    if spec.colormap not in allowed:
        what = f"a {spec.kind} of {spec.channels} channel{'s' * (spec.channels != 1)}"
        raise ValueError(f"task {spec.name!r}, {what}, has colormap {spec.colormap!r}; allowed: {', '.join(allowed)}")


def _channels_first(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor; numpy has no bfloat16
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.itemsize < 4 else values
    values = np.asarray(values)
    if values.ndim not in (2, 3):
        raise ValueError(f"a map has shape (height, width) or (channels, height, width), got {values.shape}")
    return values[None] if values.ndim == 2 else values


def legend(spec: TaskSpec, classes: np.ndarray | None = None, *, row_height: int = 22) -> Image.Image:
    """List of class colours and names.

    Args:
        spec: a classification task.
        classes: a map; only its ids are listed. All ids by default.
        row_height: pixels per row.

    Raises:
        ValueError: if the task has no classes.
    """
    if not spec.is_classification:
        raise ValueError(f"task {spec.name!r} is a {spec.kind}; only classifications have a legend")
    ids = range(spec.channels) if classes is None else [int(i) for i in np.unique(_channels_first(classes)) if 0 <= i < spec.channels]
    rows = [(tuple(class_palette(spec.channels)[i].tolist()), spec.class_names[i] if spec.class_names else f"class {i}") for i in ids]
    font = ImageFont.load_default(row_height * 0.6)
    width = row_height * 2 + int(max([font.getlength(name) for _, name in rows], default=0))
    image = Image.new("RGB", (width, max(1, len(rows)) * row_height), "white")
    draw = ImageDraw.Draw(image)
    for number, (color, name) in enumerate(rows):
        top = number * row_height
        draw.rectangle((3, top + 3, row_height - 3, top + row_height - 3), fill=color)
        draw.text((row_height + 4, top + row_height / 2), name, fill="black", font=font, anchor="lm")
    return image


def scale_bar(spec: TaskSpec, limits: tuple[float, float], *, width: int = 160) -> Image.Image:
    """The colours of a scalar colour map from its lowest to its highest value, with both values and the unit below.

    Args:
        spec: a task with a scalar colour map.
        limits: values at the two ends, as for [`colorize`].
        width: of the image in pixels.

    Raises:
        ValueError: if the task's colour map shows classes or vectors.
    """
    if spec.colormap not in _ANCHORS:
        raise ValueError(f"task {spec.name!r} has colormap {spec.colormap!r}; those with a scale are {', '.join(_ANCHORS)}")
    margin, height = 3, 14
    image = Image.new("RGB", (width, 2 * height + 2 * margin), "white")
    positions = np.linspace(0, 1, max(2, width - 2 * margin))[None].repeat(height, axis=0)
    image.paste(COLORMAPS[spec.colormap](positions[None], spec, (0.0, 1.0)), (margin, margin))
    draw, font, middle = ImageDraw.Draw(image), ImageFont.load_default(12), margin + 1.5 * height + 2
    is_shown = len(spec.unit) <= _LONGEST_UNIT and not spec.unit.startswith("[")  # a range, such as [0, 1], is no unit
    unit = f" {spec.unit}".rstrip() if is_shown else ""
    draw.text((margin, middle), f"{limits[0]:.2g}", fill="black", font=font, anchor="lm")
    draw.text((width - margin, middle), f"{limits[1]:.2g}{unit}", fill="black", font=font, anchor="rm")
    return image


_LONGEST_UNIT = 12
"""Letters of a unit that fit beside the numbers of a scale."""


def color_key(spec: TaskSpec, values: np.ndarray, limits: tuple[float, float] | None = None, *, width: int = 160) -> Image.Image | None:
    """What the colours of a map mean: a scale bar, or a legend of the classes that occur; None for vectors, which have [`direction_key`].

    Args:
        spec: the task.
        values: the map, as for [`colorize`].
        limits: as for [`colorize`].
        width: of a scale bar in pixels.
    """
    if spec.colormap in _ANCHORS:
        return scale_bar(spec, color_limits(values) if limits is None else limits, width=width)
    return legend(spec, values, row_height=18) if spec.is_classification and spec.colormap == "classes" else None


def direction_key(spec: TaskSpec, *, diameter: int = 48) -> Image.Image | None:
    """What the colours of a vector mean: a ball whose pixels have the colours of its surface's directions, with "up" and "right" beside.

    Vectors of two channels fill a disc, from 0 in the middle to the entry's highest value at the rim. None for tasks without direction
    in the image (`rotated_channels`), and for other colour maps.

    Args:
        spec: the task.
        diameter: of the ball in pixels.
    """
    if spec.colormap != "vectors" or not spec.rotated_channels:
        return None
    offsets = (np.arange(diameter) + 0.5) * 2 / diameter - 1
    right, up = np.meshgrid(offsets, -offsets)
    inside = right**2 + up**2 <= 1
    vectors = np.tile(np.sqrt(np.clip(1 - right**2 - up**2, 0, 1)), (spec.channels, 1, 1))  # towards the viewer, in any other channel
    vectors[list(spec.rotated_channels)] = right, up
    ball = COLORMAPS[spec.colormap](vectors * (spec.value_range or (-1.0, 1.0))[1], spec, (0.0, 1.0))
    font, margin = ImageFont.load_default(12), 16
    key = Image.new("RGB", (2 * margin + diameter + int(font.getlength("right")), margin + diameter + 2), "white")
    key.paste(ball, (margin, margin), Image.fromarray(inside))
    draw = ImageDraw.Draw(key)
    draw.text((margin + diameter / 2, margin / 2), "up", fill="black", font=font, anchor="mm")
    draw.text((margin + diameter + 4, margin + diameter / 2), "right", fill="black", font=font, anchor="lm")
    return key


def panel(
    rows: Sequence[Sequence[Image.Image | None]],
    titles: Sequence[str] = (),
    captions: Sequence[str] = (),
    keys: Sequence[Image.Image | None] = (),
    *,
    cell: int = 160,
) -> Image.Image:
    """Grid of images with a title per column.

    Args:
        rows: images row by row; `None` leaves a cell empty.
        titles: one per column, or none at all.
        captions: one per row, written above it, or none at all.
        keys: one per column, drawn below it, or none at all; see [`color_key`] and [`direction_key`]. A key that is wider than its
            column is scaled down.
        cell: width of a cell in pixels; its height follows from the first image's shape.

    Raises:
        ValueError: if rows are images, there is no image, more titles or keys than columns, or another number of captions than rows.
    """
    if any(isinstance(row, Image.Image) for row in rows):
        raise ValueError("the rows of a panel hold images, and not lists of images; for a single row, give [images]")
    if captions and len(captions) != len(rows):
        raise ValueError(f"a panel has {len(captions)} captions for {len(rows)} rows; give one per row")
    if len(titles) > max(map(len, rows), default=0):
        raise ValueError(f"a panel has {len(titles)} titles for {max(map(len, rows), default=0)} columns; give one per column")
    if len(keys) > max(map(len, rows), default=0):
        raise ValueError(f"a panel has {len(keys)} keys for {max(map(len, rows), default=0)} columns; give one per column")
    images = [image for row in rows for image in row if image is not None]
    if not images:
        raise ValueError(f"a panel has no image in its {len(rows)} rows; give at least one")
    height = max(1, round(cell * images[0].height / images[0].width))
    header, caption_height, gap = (20 if titles else 0), (18 if captions else 0), 4
    columns, step = max(len(row) for row in rows), caption_height + height + gap
    fitted = [None if key is None else ImageOps.contain(key, (min(cell, key.width), key.height)) for key in keys]
    footer = max((key.height + gap for key in fitted if key is not None), default=0)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, header + len(rows) * step + gap + footer), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, title in enumerate(titles):
        draw.text((gap + column * (cell + gap) + cell / 2, header / 2 + 2), title, fill="black", font=font, anchor="mm")
    for number, caption in enumerate(captions):
        draw.text((gap, header + gap + number * step + caption_height / 2), caption, fill="black", font=font, anchor="lm")
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            if image is not None:
                where = gap + column * (cell + gap), header + gap + number * step + caption_height
                sheet.paste(image.convert("RGB").resize((cell, height), Image.Resampling.NEAREST), where)
    for column, key in enumerate(fitted):
        if key is not None:
            sheet.paste(key, (gap + column * (cell + gap), sheet.height - footer))
    return sheet


def attention_image(image: Image.Image, weights: np.ndarray, pixel: tuple[int, int]) -> Image.Image:
    """Attention of one pixel, drawn over an image: brighter where the weight is larger, with a ring around the pixel.

    Args:
        image: an image of any size, drawn grey and dark.
        weights: (height, width) over the image at any resolution, at least 0.
        pixel: row and column in `weights`.

    Returns:
        `PIL.Image.Image`: RGB, of the image's size.

    Raises:
        ValueError: if the weights have another number of axes, or one is negative or NaN, or the pixel lies outside.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or not (weights >= 0).all():  # false for NaN, too
        raise ValueError(f"weights have shape {weights.shape} and reach down to {weights.min()}; expected (height, width), at least 0")
    share = weights / max(weights.max(), 1e-12)
    glow = Image.fromarray(_to_bytes(_shade(share, _ANCHORS["magma"]), np.ones(share.shape, bool)))
    glow = glow.resize(image.size, Image.Resampling.NEAREST)
    return mark_pixel(Image.blend(image.convert("L").convert("RGB"), glow, 0.65), pixel, weights.shape)


def mark_pixel(image: Image.Image, pixel: tuple[int, int], size: tuple[int, int] | None = None) -> Image.Image:
    """A copy of an image with a ring around a pixel.

    Args:
        image: any image.
        pixel: row and column.
        size: rows and columns of the grid that `pixel` refers to; the image's own by default.

    Raises:
        ValueError: if the pixel lies outside.
    """
    rows, columns = size or (image.height, image.width)
    if not (0 <= pixel[0] < rows and 0 <= pixel[1] < columns):
        raise ValueError(f"pixel is {tuple(pixel)}; there are {rows} rows and {columns} columns, counted from 0")
    marked = image.convert("RGB")
    x, y = (pixel[1] + 0.5) * image.width / columns, (pixel[0] + 0.5) * image.height / rows
    radius, draw = max(3.0, min(image.size) / 25), ImageDraw.Draw(marked)
    for color, width in (((0, 0, 0), 0.6), ((80, 255, 120), 0.3)):  # the dark rim keeps it visible on bright images
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=max(1, round(radius * width)))
    return marked


_DIVERGING = ("2166ac", "f7f7f7", "b2182b")  # blue for -1, white for 0, red for 1


def matrix_image(values: np.ndarray, names: Sequence[str], *, cell: int = 88) -> Image.Image:
    """Square table of numbers from -1 (blue) through 0 (white) to 1 (red), such as correlations.

    Args:
        values: (names, names); NaN where unknown.
        names: of rows and columns.
        cell: side of a cell in pixels.

    Raises:
        ValueError: if the table's shape does not fit the names.
    """
    values = np.asarray(values, np.float64)
    if values.shape != (len(names), len(names)):
        raise ValueError(f"the table has shape {values.shape} for {len(names)} names; expected ({len(names)}, {len(names)})")
    known = np.isfinite(values)
    colors = _to_bytes(_shade(np.where(known, (np.clip(values, -1, 1) + 1) / 2, 0), _DIVERGING), known)
    font = ImageFont.load_default(cell / 7)
    left, top = int(max(font.getlength(name) for name in names)) + 16, 28
    image = Image.new("RGB", (left + len(names) * cell, top + len(names) * cell), "white")
    draw = ImageDraw.Draw(image)
    for row, name in enumerate(names):
        draw.text((left - 8, top + (row + 0.5) * cell), name, fill="black", font=font, anchor="rm")
        draw.text((left + (row + 0.5) * cell, top / 2), name, fill="black", font=font, anchor="mm")
        for column, value in enumerate(values[row]):
            corner = left + column * cell, top + row * cell
            draw.rectangle((*corner, corner[0] + cell - 2, corner[1] + cell - 2), fill=tuple(colors[row, column].tolist()))
            text = f"{value:.2f}" if known[row, column] else "-"
            ink = "white" if not known[row, column] or abs(value) > 0.7 else "black"
            draw.text((corner[0] + cell / 2, corner[1] + cell / 2), text, fill=ink, font=font, anchor="mm")
    return image
