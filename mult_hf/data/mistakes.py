"""Usual mistakes in stored maps, and how the checker recognises them.

Some show in a single map (values out of range). Others only show over several maps: which class ids occur, and what the geometry of
most scenes implies. Images are taken upright: their lower border is nearer to the camera than their middle, and floors are in the
lower half. Where a data set has depth and normals of the same pixels, the signs of the depth's slopes say where surfaces turn.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from mult_hf.model.tasks import TaskSpec

STEP_OF_8_BITS = 1 / 127
"""What rounding to 8 bits may do to a component: floors before a level camera have z = 0, stored a little above or below it."""

USUAL_FARTHEST = 10.0
"""Metres; the farthest distance of a task that states no range."""

FEWEST_MAPS = 3
"""Maps that a judgement about scenes takes; a single one may show anything."""

FEWEST_PIXELS = 200
"""Pixels that a judgement about signs takes."""

MOST_IDS = 512
"""Stored values of class maps that are kept; more only say that these are no class ids."""

MOST_SPREAD_IDS = 16
"""Ids beyond the class list that may be classes drawn for viewing; more are values in between."""

LARGEST_STEP = 0.2
"""Change of the inverse depth from pixel to pixel, as a share of it, that still is one surface."""

INVERTED = (
    "near and far look exchanged (what is lower in the image, or faces the camera less, should be nearer there): inverted depth or "
    "disparity; store metres"
)
Y_DOWN = "floors point down: y looks stored downwards, y is up here; turn the sign of the encoding's second scale and offset"
X_LEFT = "surfaces face the wrong side: x looks mirrored, x is right here; turn the sign of the encoding's first scale and offset"


@dataclass
class Evidence:
    """What all maps of a task together show.

    Args:
        stored_ids: values of class maps as stored.
        class_pixels: pixels of each class.
        counts: numbers of maps or pixels by what they speak for.
    """

    stored_ids: set[float] = field(default_factory=set)
    class_pixels: Counter[int] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add_ids(self, stored: np.ndarray) -> None:
        """Note the values of a stored class map of one channel."""
        if len(self.stored_ids) <= MOST_IDS:
            self.stored_ids.update(np.unique(stored).tolist())

    def add_target(self, target: np.ndarray, known: np.ndarray, spec: TaskSpec) -> None:
        """Note what a decoded map shows.

        Args:
            target: as `TaskSpec.decode` returns it.
            known: (height, width) bool.
            spec: of its task.
        """
        if spec.is_classification:
            classes, pixels = np.unique(target[known], return_counts=True)
            self.class_pixels.update(dict(zip(classes.tolist(), pixels.tolist(), strict=True)))
        else:
            _SCENE_EVIDENCE.get(spec.unit, lambda target, counts: None)(target, self.counts)


# --- mistakes of a single map ---


def suspicions(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    """What looks wrong about one map.

    Args:
        values: known ones, (pixels,) class ids or (channels, pixels) numbers.
        spec: of its task.
    """
    if not spec.is_classification and values.shape[-1] > 1 and (values.max(axis=-1) == values.min(axis=-1)).all():
        yield "maps of one value only"
    yield from UNIT_CHECKS.get(spec.unit, lambda values, spec: ())(values, spec)


def colour_coding(stored: np.ndarray) -> str | None:
    """What a class map of several channels is, or `None` if it has one channel.

    Args:
        stored: as read from the file.
    """
    if stored.ndim != 3 or min(stored.shape) == 1 or stored.shape[-1] not in (3, 4):
        return None
    colours = stored[..., :3].reshape(-1, 3)
    if (colours == colours[:, :1]).all():
        return "a grey mask stored as RGB; store one channel, or set the encoding's channels to [0]"
    return f"a colour-coded mask of {len(np.unique(colours, axis=0))} colours; store one class id per pixel"


def _metres(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    median, farthest = float(np.median(values)), spec.value_range[1] if spec.value_range else USUAL_FARTHEST
    if np.isfinite(farthest) and median > max(2 * farthest, 20.0):
        unit, factor = ("millimetres", 1000) if median >= 1000 else ("centimetres", 100)
        if 300 <= median < 1000:
            unit, factor = "millimetres or centimetres", "1000 or 100"
        yield f"median of {median:.4g} m where {farthest:g} m is far: these look like {unit}; divide the encoding's scale by {factor}"
    if median < 0.02:
        yield f"median of {median:.2g} m: nearer than any camera focuses; check the encoding's scale"
    if values.min() <= 0:
        yield "distances of 0 or less are known pixels; list the stored value under the encoding's unknown"
    if spec.encoding.dtype == "uint8":
        yield "distances in 8 bits: this looks like depth drawn for viewing; store 16-bit or float32 metres"


def _unit_vectors(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    length = np.linalg.norm(values, axis=0)
    if np.mean(np.abs(length - 1) > 0.1) > 0.05:
        yield "vectors that are not unit in over 5% of pixels; check the encoding's scale and offset, list the value of holes as unknown"
    # No visible normal points away along its own ray, but a floor does point away from the axis of a camera that looks up. Such
    # surfaces never fill half of an image.
    if np.mean(values[-1] < -STEP_OF_8_BITS) > 0.5:
        yield "vectors that point away from the camera; z is towards the viewer here: turn the sign of the encoding's scale and offset"


def _within_range(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    low, high = spec.value_range or (-np.inf, np.inf)
    slack = 0.01 * (high - low) if spec.value_range else 0.0
    if values.min() < low - slack or values.max() > high + slack:
        yield f"values beyond [{low:g}, {high:g}]; check the encoding's scale"


UNIT_CHECKS: dict[str, Callable[[np.ndarray, TaskSpec], Iterator[str]]] = {
    "m": _metres,
    "unit vector": _unit_vectors,
    "[0, 1]": _within_range,
}
"""What can be wrong with one map of a unit; a task without an entry here is only checked against its encoding."""


# --- mistakes that several maps show ---


def class_mistake(evidence: Evidence, spec: TaskSpec) -> str | None:
    """The usual mistake that explains the stored ids of a class task, or `None`."""
    stored, last = sorted(evidence.stored_ids), spec.channels - 1
    if not stored:
        return None
    encoding = spec.encoding
    scale, offset = (float(np.ravel(number)[0]) for number in (encoding.scale, encoding.offset))
    ids = sorted({value * scale + offset for value in stored if value not in encoding.unknown})
    listed = ", ".join(f"{value:g}" for value in stored[:6]) + (", ..." if len(stored) > 6 else "")
    foreground_is_lost = len(stored) == 2 and stored[0] == 0 and stored[1] == 255 and len([i for i in ids if 0 <= i <= last]) < 2
    if foreground_is_lost and last >= 1:
        return (
            "stored values are 0 and 255 only, and 255 is not a class: a 0/255 mask whose foreground is not read as class 1; store 0 "
            "and 1, or set the encoding's scale to 0.00392156862745098 (1/255) and unknown to []"
        )
    beyond = [value for value in ids if not 0 <= value <= last or value != int(value)]
    if len(beyond) > MOST_SPREAD_IDS and len(ids) > spec.channels:
        return f"{len(ids)} different ids: in-between values, as JPEG and interpolation make them; use PNG and resize by nearest neighbour"
    if beyond and stored[-1] >= 100 and len(stored) <= spec.channels + 1:
        return f"stored values {listed} look spread out for viewing; store the class ids themselves"
    if ids and ids[-1] == spec.channels and ids[0] >= 0:
        remedy = f"set the encoding's offset to {offset - 1:g} and list {0.0 - offset / scale:g} under unknown"
        return f"ids look 1-based: they run up to {ids[-1]:g} for {spec.channels} classes; {remedy}, or name the missing class"
    if not beyond and spec.channels > 2 and ids == list(range(1, spec.channels)):
        return f"class 0 never occurs and all others do: ids look 1-based; set the encoding's offset to {offset - 1:g}"
    return None


def scene_mistakes(evidence: Evidence) -> Iterator[str]:
    """What the geometry of most scenes says against the maps of a task."""
    counts = evidence.counts
    if counts["maps"] >= FEWEST_MAPS and counts["bottom farther"] > 2 / 3 * counts["maps"]:
        yield INVERTED
    if counts["maps up to 1"] >= FEWEST_MAPS and counts["maps up to 1"] == counts["maps"]:
        yield "every map ends at 1: these look like depth normalised per image, not metres"
    if _mostly(counts, "faces down below", "faces up below"):
        yield Y_DOWN


def pair_evidence(depth: np.ndarray, normals: np.ndarray, counts: Counter[str]) -> None:
    """Compare the signs of normals with the slopes of the depth of the same pixels, whatever the camera's intrinsics.

    The inverse depth q of a plane is linear in the image, and x and y of its normal have the signs of -dq/dx and, downwards, dq/dy.

    Args:
        depth: (1, height, width), NaN where unknown.
        normals: (3, height, width), NaN where unknown.
        counts: gets pixels by whether x and y agree.
    """
    if depth.shape[-2:] != normals.shape[-2:] or min(depth.shape[-2:]) < 2 or np.nanmean(normals[2]) < 0:
        return  # normals that point away are a finding of their own
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / np.where(depth[0] > 0, depth[0].astype(np.float64), np.nan)
    down, right = np.gradient(inverse)
    smooth = (np.abs(right) < LARGEST_STEP * inverse) & (np.abs(down) < LARGEST_STEP * inverse)
    for axis, component, slope in (("x", normals[0], -right), ("y", normals[1], down)):
        tilted = smooth & (np.abs(component) > 0.3) & (slope != 0)
        agree = (np.sign(component) == np.sign(slope))[tilted]
        counts[f"{axis} agrees"] += int(agree.sum())
        counts[f"{axis} contradicts"] += int((~agree).sum())


def pair_mistakes(counts: Counter[str]) -> tuple[str | None, str | None]:
    """What depth and normals of the same pixels say against the depth, and against the normals."""
    x, y = (_mostly(counts, f"{axis} contradicts", f"{axis} agrees") for axis in "xy")
    if x and y:
        return INVERTED, None
    return None, Y_DOWN if y else X_LEFT if x else None


def _mostly(counts: Counter[str], against: str, agreeing: str) -> bool:
    return counts[against] >= FEWEST_PIXELS and counts[against] > 2 * counts[agreeing]


def _depth_of_scenes(depth: np.ndarray, counts: Counter[str]) -> None:
    """(1, height, width) metres: is the lowest sixth of the image farther than the rows above its middle?"""
    height = depth.shape[-2]
    bottom, middle = depth[0, -max(1, height // 6) :], depth[0, height // 3 : max(height // 2, height // 3 + 1)]
    counts["maps"] += 1
    counts["maps up to 1"] += bool(0.98 <= np.nanmax(depth) <= 1)
    if np.isfinite(bottom).any() and np.isfinite(middle).any():
        counts["bottom farther"] += bool(np.nanmedian(bottom) > 1.05 * np.nanmedian(middle))


def _normals_of_scenes(normals: np.ndarray, counts: Counter[str]) -> None:
    """(3, height, width) unit vectors: do level surfaces in the lower half of the image face up?"""
    upward = normals[1, normals.shape[1] // 2 :]
    counts["faces up below"] += int((upward > 0.7).sum())
    counts["faces down below"] += int((upward < -0.7).sum())


_SCENE_EVIDENCE: dict[str, Callable[[np.ndarray, Counter[str]], None]] = {"m": _depth_of_scenes, "unit vector": _normals_of_scenes}
