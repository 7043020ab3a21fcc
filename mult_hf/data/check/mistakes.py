"""Common mistakes in stored maps, and how the checker detects them.

Some show in a single map (values out of range). Others only show over several maps: which class ids occur, and what the geometry
of most scenes implies. Images are assumed to be upright: their lower border is nearer to the camera than their middle, and floors
are in the lower half. If a data set has depth and normals of the same pixels, the depth's slopes give the signs of the normals.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from mult_hf.model.activations import activation_of
from mult_hf.model.losses import RANGES
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.units import SHARE, UNIT_VECTOR, normalised_unit

from ..reachable import MOST_UNREACHABLE, share_beyond
from .depth_mistakes import (
    FAR_BEYOND,
    INVERTED,
    LEAST_SHARE,
    NORMALISED,
    depth_of_scenes,
    distances_from_a_camera,
    is_depth,
    is_length,
    is_stretched,
    metres,
)

STEP_OF_8_BITS = 1 / 127
"""Tolerance for rounding to 8 bits: floors seen by a level camera have z = 0, which is stored slightly above or below 0."""

PLAUSIBLE_FIELDS_OF_VIEW = (5.0, 150.0)
"""Narrowest and widest field of view, in degrees along the longer side, that a plausible focal length gives."""

FEWEST_MAPS = 3
"""Maps needed for a conclusion about scenes, because a single one may show anything."""

FEWEST_PIXELS = 200
"""Pixels needed for a conclusion about signs."""

MOST_IDS = 512
"""Distinct stored values of class maps to keep; more values cannot be class ids."""

SENTINELS = (99.0, 999.0, 9999.0, 99999.0, 999999.0, 32767.0, 32768.0, 65535.0)
"""Numbers that often stand for pixels without a value, with either sign."""

LARGEST_NUMBER = 1e10
"""Numbers from this one on stand for pixels without a value, too."""

LONGEST_LENS = 1.5
"""Longest focal length of a camera, in image widths, for which surfaces that face away are counted: 37 degrees across."""

MOST_HIDDEN = 0.02
"""Largest share of vectors that may face away from such a camera, because of rounding and at outlines."""

LARGEST_STEP = 0.2
"""Largest relative change of the inverse depth between neighbouring pixels of one surface."""

Y_DOWN = "floors point down: y looks stored downwards, but must point up; flip the sign of the encoding's second scale and offset"
Z_AWAY = "vectors point away from the camera, but z must point towards the viewer; flip the sign of the encoding's third scale and offset"
REVERSED = "channels look reversed (BGR): z, towards the viewer, must come last; give the encoding's channels as [2, 1, 0]"
X_LEFT = "surfaces face the wrong side: x looks mirrored, but must point right; flip the sign of the encoding's first scale and offset"


CONTRADICTION = (
    "depth and normals contradict each other: near and far are swapped, or an axis of the normals is mirrored; look at the sheet, "
    "where floors must be green in the column of normals"
)


FLIPPED = {X_LEFT: 0, Y_DOWN: 1, Z_AWAY: 2}
"""Channel of the axis that each problem is about."""


def flips_in_numbers(problems: Iterable[str], spec: TaskSpec) -> str:
    """The scale and offset that flip every axis that one of the problems is about, to be added to each of them; empty without any."""
    axes = [FLIPPED[problem] for problem in problems if problem in FLIPPED]
    if not axes or spec.channels != 3:
        return ""
    signs = np.where(np.isin(np.arange(3), axes), -1.0, 1.0)
    scale, offset = (np.broadcast_to(numbers, 3) * signs + 0.0 for numbers in (spec.encoding.scale, spec.encoding.offset))
    together = ", all of them together" if len(axes) > 1 else ""
    return f"{together}: scale: [{_listed(scale)}], offset: [{_listed(offset)}]"


def _listed(numbers: np.ndarray) -> str:
    return ", ".join(f"{number:.10g}" for number in numbers)


def are_directions(spec: TaskSpec) -> bool:
    """Whether a task's maps hold vectors of length 1: as its activation says, which predicts no others, or its unit."""
    return not spec.is_classification and (activation_of(spec).gives_unit_vectors or normalised_unit(spec.unit) == UNIT_VECTOR)


def is_normals(spec: TaskSpec) -> bool:
    """Whether a task's maps hold surface normals, as far as its entry shows."""
    return spec.channels == 3 and (normalised_unit(spec.unit) == UNIT_VECTOR or spec.transformers_task == "normal-estimation")


@dataclass
class Evidence:
    """Statistics over all maps of a task.

    Args:
        stored_ids: values of class maps as stored.
        class_pixels: number of pixels of each class.
        counts: number of maps or pixels by what they indicate.
        values: number of known values of all maps of numbers.
        beyond: number of those that no prediction can have.
        values_beyond: two of these, or all if there are fewer.
        suspicious_maps: number of findings about single maps.
        medians: median of the known distances of each depth map.
    """

    stored_ids: set[float] = field(default_factory=set)
    class_pixels: Counter[int] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    values: int = 0
    beyond: int = 0
    values_beyond: set[float] = field(default_factory=set)
    suspicious_maps: int = 0
    medians: list[float] = field(default_factory=list)

    def add_ids(self, stored: np.ndarray, channels: Sequence[int] | None) -> None:
        """Record the values of a stored class map, of one channel or of those that the encoding reads; others cannot be decoded."""
        if stored.ndim == 3 and channels is not None and max(channels) < stored.shape[-1]:
            stored = stored[..., list(channels)]
        elif stored.ndim == 3 and 1 not in (stored.shape[0], stored.shape[-1]):
            return
        if len(self.stored_ids) <= MOST_IDS:
            self.stored_ids.update(np.unique(stored).tolist())

    def add_stored(self, stored: np.ndarray, known: np.ndarray, spec: TaskSpec) -> None:
        """Record whether the known pixels of a stored map of distances are stretched to the largest number of its type."""
        if is_length(spec) and stored.size == known.size:
            self.counts["stretched maps"] += is_stretched(stored.reshape(known.shape)[known])

    def add_target(self, target: np.ndarray, known: np.ndarray, spec: TaskSpec) -> None:
        """Record the statistics of a decoded map.

        Args:
            target: as `TaskSpec.decode` returns it.
            known: (height, width) bool.
            spec: spec of its task.
        """
        if spec.is_classification:
            classes, pixels = np.unique(target[known], return_counts=True)
            self.class_pixels.update(dict(zip(classes.tolist(), pixels.tolist(), strict=True)))
            self.counts["class maps"] += 1
        else:
            numbers = target[:, known]
            self.values += numbers.size
            self.beyond += round(share_beyond(numbers, *spec.final_range) * numbers.size)
            if len(self.values_beyond) < 2:
                low, high = map(np.float64, spec.final_range)  # a limit beyond float32 must not overflow
                self.values_beyond |= {*np.unique(numbers[(numbers < low) | (numbers > high)])[:2].tolist()}
            if is_depth(spec):
                distances = np.where(target > 0, target, np.nan)  # others are reported separately
                if np.isfinite(distances).any():
                    self.medians.append(float(np.nanmedian(distances)))
                    depth_of_scenes(distances, spec, self.counts)
            elif is_normals(spec):
                _normals_of_scenes(target, self.counts)


# --- mistakes of a single map ---


def suspicions(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    """Problems that one map shows.

    Args:
        values: values of known pixels, (pixels,) class ids or (channels, pixels) numbers.
        spec: spec of its task.
    """
    if not spec.is_classification and values.shape[-1] > 1 and (values.max(axis=-1) == values.min(axis=-1)).all():
        yield "maps with a single value"
    for applies, find in KIND_CHECKS:
        if applies(spec):
            yield from find(values, spec)


def colours_of(stored: np.ndarray) -> np.ndarray | None:
    """The colours of a picture's pixels, (pixels, 3), or `None` for an array that is no picture in colours."""
    is_picture = stored.ndim == 3 and stored.shape[-1] in (3, 4) and min(stored.shape) > 1
    return stored[..., :3].reshape(-1, 3) if is_picture else None


def is_grey(colours: np.ndarray) -> bool:
    """Whether all colours, (pixels, 3), are grey."""
    return bool((colours == colours[:, :1]).all())


def drawn_in_colours(stored: np.ndarray, spec: TaskSpec) -> str | None:
    """Describe a map of one number per pixel that holds a picture of it, drawn with a colour map; `None` for others."""
    if spec.is_classification or spec.channels > 1 or spec.encoding.channels is not None:
        return None
    colours = colours_of(stored)
    if colours is None or is_grey(colours):
        return None
    return "a picture drawn in colours, not numbers; store the values themselves, one per pixel"


def _sentinels(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    """Describe numbers far from all others that files often mark pixels without a value with."""
    low, high = spec.value_range or (0.0, 1.0)  # within which the highest stored number is a value
    rest, found = values, []
    for extreme in (float(values.min()), float(values.max())):
        share = float(np.mean(values == extreme))
        is_one = _marks_holes(extreme) or (not low <= extreme <= high and _marks_holes(_stored(extreme, spec)))
        if share >= LEAST_SHARE and is_one:
            rest = rest[rest != extreme]
            found.append((extreme, share))
    for extreme, share in found:
        if rest.size and np.abs(rest - extreme).min() > FAR_BEYOND * np.ptp(rest) > 0:
            yield (
                f"{share:.1%} of the known values are exactly {extreme:g}, far from the others, which looks like a value for unknown "
                f"pixels; list {_stored_text(extreme, spec)} under the encoding's unknown"
            )


def _stored(value: float, spec: TaskSpec) -> float:
    """The stored number of a decoded value of one channel."""
    return float(spec.encoding.stored_values(np.full((1, 1, 1), value, np.float64)).item())


def _stored_text(value: float, spec: TaskSpec) -> str:
    """The stored number as it has to be listed: decoding rounds to float32, and a rounded number would not be found in the file."""
    stored = _stored(value, spec)
    return f"{round(stored)}" if np.dtype(spec.encoding.dtype).kind in "iu" else repr(float(np.dtype(spec.encoding.dtype).type(stored)))


def _marks_holes(number: float) -> bool:
    return round(abs(number), 2) in SENTINELS or abs(number) >= LARGEST_NUMBER


def _of_unit_length(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    length = np.linalg.norm(values, axis=0)
    if np.mean(np.abs(length - 1) > 0.1) > 0.05:
        yield "over 5% of vectors do not have unit length; check the encoding's scale and offset, and list the value of holes as unknown"


def _towards_viewer(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    # No visible normal points away along its own ray, but a floor can point away along the axis of a camera that looks up. Such
    # surfaces never fill half of an image.
    if np.mean(values[-1] < -STEP_OF_8_BITS) > 0.5:
        yield Z_AWAY


def _within_range(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    low, high = spec.value_range or (-np.inf, np.inf)
    slack = 0.01 * (high - low) if spec.value_range else 0.0
    if values.min() < low - slack or values.max() > high + slack:
        yield f"values beyond [{low:g}, {high:g}]; check the encoding's scale"


def _half_unknown(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    """Vectors with the number for unknown pixels in some channels only, where it is hardly a value of the task: they are read as known."""
    low, high = spec.final_range
    for number in spec.encoding.unknown:
        scale, offset = (np.broadcast_to(numbers, spec.channels)[:, None] for numbers in (spec.encoding.scale, spec.encoding.offset))
        read_as = number * scale + offset  # (channels, 1)
        impossible = (read_as < low) | (read_as > high) | _marks_holes(number)
        share = float(np.mean((np.isclose(values, read_as, rtol=1e-5, atol=0) & impossible).any(axis=0)))
        if share >= LEAST_SHARE:
            yield (
                f"{share:.1%} of the known vectors have {number:g}, which means unknown, in some of their channels only, and are read as "
                "values; write it into all channels that the encoding reads"
            )


KIND_CHECKS: tuple[tuple[Callable[[TaskSpec], bool], Callable[[np.ndarray, TaskSpec], Iterator[str]]], ...] = (
    (is_length, metres),
    (is_depth, distances_from_a_camera),
    (are_directions, _of_unit_length),
    (is_normals, _towards_viewer),
    (lambda spec: not spec.is_classification and spec.channels == 1 and not is_depth(spec), _sentinels),
    (lambda spec: not spec.is_classification and spec.channels > 1, _half_unknown),
    (lambda spec: normalised_unit(spec.unit) == SHARE, _within_range),
)
"""Checks of a single map: which tasks they are for, and what they find. Other tasks are checked against their encoding and the range of
predictions."""


def geometry_notes(spec: TaskSpec) -> Iterator[str]:
    """Fields that say how augmentation changes a task's values, where they are not those of such tasks."""
    if is_length(spec) and not is_depth(spec):
        yield f"metres with zoom_exponent {spec.zoom_exponent:g}; for distances from the camera give -1, or magnified views are wrong"
    signs, turned = list(spec.flip_signs), list(spec.rotated_channels)
    if is_normals(spec) and (signs, turned) != ([-1, 1, 1], [0, 1]):
        yield (
            f"unit vectors with horizontal_flip_signs {signs} and rotated_channels {turned}; for normals in camera axes (x right, y up) "
            "give [-1, 1, 1] and [0, 1], or mirrored and turned views are wrong"
        )
    elif turned and (signs[turned[0]], signs[turned[1]]) != (-1, 1):
        yield (
            f"rotated_channels {turned} (right, up) and horizontal_flip_signs {[int(sign) for sign in signs]}; mirrored vectors point to "
            f"the other side, so give -1 for channel {turned[0]} and 1 for channel {turned[1]}, or flips and turns contradict each other"
        )


def loss_notes(spec: TaskSpec) -> Iterator[str]:
    """A loss that teaches nothing where a prediction is beyond the loss's range, which the task's head allows."""
    (low, high), (lowest, highest) = RANGES.get(spec.loss, (-math.inf, math.inf)), spec.head_range
    if lowest < low or highest > high:
        yield (
            f"loss {spec.loss} with activation {spec.activation}: predictions beyond {low:g} to {high:g} have no gradient, so give the "
            f"activation sigmoid{'' if math.isfinite(high) else ' and a value_range'}"
        )


# --- mistakes that several maps show ---


def unreachable_mistake(evidence: Evidence, spec: TaskSpec) -> str | None:
    """Values that no prediction of the task can have, if more than a few pixels of all maps have them, or `None`."""
    share = evidence.beyond / max(evidence.values, 1)
    if share <= MOST_UNREACHABLE:
        return None
    low, high = spec.final_range
    if len(evidence.values_beyond) == 1 and spec.channels == 1:
        (only,) = evidence.values_beyond
        return (
            f"{share:.1%} of the values are exactly {only:g}, beyond [{low:g}, {high:g}], all that a prediction can be; if they mean "
            f"unknown, list {_stored_text(only, spec)} under the encoding's unknown"
        )
    limits = "value_range" if spec.final_range == spec.value_range else f"activation {spec.activation!r}"
    return (
        f"{share:.1%} of the values are beyond [{low:g}, {high:g}], all that a prediction can be with the task's {limits}; give the "
        "range of the data as value_range, or check the encoding's scale"
    )


def scene_mistakes(evidence: Evidence) -> Iterator[str]:
    """Problems of a task's maps that contradict the geometry of most scenes."""
    counts = evidence.counts
    if counts["maps"] >= FEWEST_MAPS and counts["bottom farther"] > 2 / 3 * counts["maps"]:
        yield INVERTED
    if counts["maps"] >= FEWEST_MAPS and counts["maps"] in (counts["maps up to 1"], counts["stretched maps"]):
        yield NORMALISED
    hidden = {sentence: counts[f"hidden: {sentence}"] for sentence in (AS_STORED, *_AXES)}
    likeliest = min(hidden, key=lambda sentence: hidden[sentence])
    if hidden[AS_STORED] > max(FEWEST_PIXELS, MOST_HIDDEN * counts["vectors"]) and 2 * hidden[likeliest] < hidden[AS_STORED]:
        yield likeliest
    elif _mostly(counts, "faces down below", "faces up below"):
        yield Y_DOWN


def pair_evidence(depth: np.ndarray, normals: np.ndarray, counts: Counter[str]) -> None:
    """Compare the signs of normals with the slopes of the depth at the same pixels; needs no camera intrinsics.

    The inverse depth q of a plane is linear in the image. The x and y of its normal have the signs of -dq/dx and dq/dy (y downwards).

    Args:
        depth: (1, height, width), NaN where unknown.
        normals: (3, height, width), NaN where unknown.
        counts: receives the numbers of pixels where x and y agree or contradict.
    """
    if depth.shape[-2:] != normals.shape[-2:] or min(depth.shape[-2:]) < 2:
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / np.where(depth[0] > 0, depth[0].astype(np.float64), np.nan)
    down, right = np.gradient(inverse)
    smooth = (np.abs(right) < LARGEST_STEP * inverse) & (np.abs(down) < LARGEST_STEP * inverse)
    for axis, component, slope in (("x", normals[0], -right), ("y", normals[1], down)):
        tilted = smooth & (np.abs(component) > 0.3) & (slope != 0)
        agree = (np.sign(component) == np.sign(slope))[tilted]
        counts[f"{axis} agrees"] += int(agree.sum())
        counts[f"{axis} contradicts"] += int((~agree).sum())


def pair_mistakes(counts: Counter[str], *, points_away: bool = False) -> tuple[list[str], list[str]]:
    """Problems of the depth, and of the normals, if the two contradict each other.

    Swapped near and far contradict both axes of the normals, a mirrored axis only itself. Where an axis alone contradicts, or both do, the
    normals' own maps tell which of the two it is, or nothing does.

    Args:
        counts: from [`pair_evidence`], and from the normals' own maps.
        points_away: whether the normals point away from the camera, so that all of their axes may be mirrored.
    """
    contradicts = {axis: _mostly(counts, f"{axis} contradicts", f"{axis} agrees") for axis in "xy"}
    agrees = {axis: _mostly(counts, f"{axis} agrees", f"{axis} contradicts") for axis in "xy"}
    # From the normals alone: surfaces that no camera sees as they are stored, or none would if the axis were flipped; and floors.
    hidden = {name: f"hidden: {name}" for name in (AS_STORED, X_LEFT)}
    floors = ("faces down below", "faces up below")
    is_wrong = {"x": _mostly(counts, hidden[AS_STORED], hidden[X_LEFT]), "y": _mostly(counts, *floors)}
    is_right = {"x": _mostly(counts, hidden[X_LEFT], hidden[AS_STORED]), "y": _mostly(counts, *reversed(floors))}
    mirrored = {"x": X_LEFT, "y": Y_DOWN}
    if all(contradicts.values()):
        return ([], [*mirrored.values()]) if points_away or (is_wrong["y"] and not is_right["x"]) else ([INVERTED], [])
    for axis, other in (("x", "y"), ("y", "x")):
        if contradicts[axis] and is_right[axis] and not agrees[other]:
            return [INVERTED], []
        if contradicts[axis]:
            return [], [mirrored[axis] if agrees[other] or is_wrong[axis] else CONTRADICTION]
    return [], []


def focal_length_mistake(focal_length: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with a row's focal length, or `None`; a missing one is not wrong.

    Args:
        focal_length: value of the column.
        size: width and height of the image in pixels.
    """
    if focal_length is None:
        return None
    if not isinstance(focal_length, Real) or not 0 < float(focal_length) < math.inf:
        return f"focal_length is {focal_length!r}; give pixels of the image above 0, or null where it is not known"
    narrowest, widest = PLAUSIBLE_FIELDS_OF_VIEW
    degrees = math.degrees(2 * math.atan(max(size) / 2 / float(focal_length)))
    if narrowest <= degrees <= widest:
        return None
    return f"focal_length is {float(focal_length):g} pixels, a field of view of {degrees:.1f} degrees; give pixels of the image"


def _mostly(counts: Counter[str], against: str, agreeing: str) -> bool:
    return counts[against] >= FEWEST_PIXELS and counts[against] > 2 * counts[agreeing]


def _normals_of_scenes(normals: np.ndarray, counts: Counter[str]) -> None:
    """Count level surfaces that face up or down in the lower half of normals, (3, height, width) unit vectors."""
    upward = normals[1, normals.shape[1] // 2 :]
    counts["faces up below"] += int((upward > 0.7).sum())
    counts["faces down below"] += int((upward < -0.7).sum())
    if 2 * (normals[2] < -STEP_OF_8_BITS).sum() > np.isfinite(normals[2]).sum():
        return  # normals that point away are reported separately
    for sentence, (channels, signs) in {AS_STORED: ([0, 1, 2], [1, 1, 1]), **_AXES}.items():
        counts[f"hidden: {sentence}"] += _faces_away(normals[channels] * np.reshape(signs, (3, 1, 1)))
    counts["vectors"] += int(np.isfinite(normals[0]).sum())


def _faces_away(normals: np.ndarray) -> int:
    """Number of surfaces that a camera with a lens of [`LONGEST_LENS`] could not see at their pixel.

    A shorter lens sees none of these that face the viewer, but may see some that point away.

    Through a pixel at (u, v) from the centre, the camera with focal length f looks along (u, v, -f). It sees a surface only if the normal
    points against that direction: n_x u + n_y v < n_z f.

    Args:
        normals: (3, height, width) unit vectors, NaN where unknown.
    """
    height, width = normals.shape[1:]
    right, up = np.arange(width) + 0.5 - width / 2, height / 2 - (np.arange(height) + 0.5)
    sideways = normals[0] * right + normals[1] * up[:, None]  # (height, width)
    rounding = 2 * STEP_OF_8_BITS * width
    return int((sideways > normals[2] * LONGEST_LENS * width + rounding).sum())


AS_STORED = "as stored"
_AXES = {Y_DOWN: ([0, 1, 2], [1, -1, 1]), X_LEFT: ([0, 1, 2], [-1, 1, 1]), REVERSED: ([2, 1, 0], [1, 1, 1])}
"""Correction of normals for each mistake, as channels and signs."""
