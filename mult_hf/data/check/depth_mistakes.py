"""Common mistakes in maps of distances: units, holes, and depth that is inverted or normalised per image."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mult_hf.model.tasks import TaskSpec
from mult_hf.model.units import METRE, normalised_unit

USUAL_FARTHEST = 10.0
"""Largest distance, in metres, of a task that states no range."""

UNITS = {"millimetres": 0.001, "centimetres": 0.01}
"""Units in which depth is often stored, in metres."""

NEAREST_MEDIAN = 0.3
"""Median distance in metres that a unit must at least give to be suggested."""

IMPLAUSIBLE_DEPTH = 1000.0
"""Median distance from a camera, in metres, from which on the unit is in doubt, even within the stated range."""

NEAR = 0.05
"""Median distance, as a part of the stated range, below which the unit is in doubt."""

FEW_PIXELS = 0.01
"""Share of the pixels that have the largest value where a map is stretched to it; values cut off at it are more."""

PILED_UP = 5.0
"""How many times as many pixels as the usual value the largest one has where distances are cut off at it."""

LARGEST_GAP = 0.02
"""Part of the largest value below which the next one lies where a map is stretched to it."""

LEAST_SHARE = 0.005
"""Smallest share of a map's pixels with one far value that is suspicious."""

FAR_BEYOND = 3.0
"""Ratio of such a value to the largest other one."""

INVERTED = (
    "near and far look swapped (in upright images distances should fall towards the lower border, and agree with the normals): inverted "
    "depth or disparity; store metres"
)
NORMALISED = "every map is stretched to the same maximum, which looks like depth normalised per image; store metres"


def is_length(spec: TaskSpec) -> bool:
    """Whether a task's maps hold a length in metres: as its unit says or, without one, because transformers' depth is in metres."""
    is_in_metres = normalised_unit(spec.unit) == METRE if spec.unit else spec.transformers_task == "depth-estimation"
    return is_in_metres and spec.channels == 1 and not spec.is_classification


def is_depth(spec: TaskSpec) -> bool:
    """Whether a task's maps hold distances from the camera, which magnifying an image divides; heights, for instance, stay."""
    return is_length(spec) and spec.zoom_exponent == -1


def metres(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    """Problems of the unit of one map of lengths: (channels, pixels) known values."""
    positive = values[values > 0]
    median = float(np.median(positive)) if positive.size else 0.0
    if spec.value_range is None and not is_depth(spec):
        return  # heights and the like may have any size
    farthest = spec.value_range[1] if spec.value_range else USUAL_FARTHEST
    if not np.isfinite(farthest) or median <= max(2 * farthest, 20.0):
        return
    scale = float(np.ravel(spec.encoding.scale)[0])
    units = {unit: scale / length for unit, length in UNITS.items() if scale > length}
    fitting = {unit: factor for unit, factor in units.items() if NEAREST_MEDIAN <= median / factor <= farthest} or units
    if not fitting:
        yield f"a median of {median:.4g} m, where {farthest:g} m is far; check the encoding's scale"
        return
    far = f"{farthest:g} m is far"
    if median < IMPLAUSIBLE_DEPTH:  # as outdoors
        far += f"; if these are metres, give value_range: [0, {_reach(values):.10g}]; if not, it"
    else:
        far += ","
    factors = " or ".join(f"{factor:g}" for factor in fitting.values())
    named = " or ".join(fitting)
    yield f"a median of {median:.4g} m, where {far} looks like {named}; divide the encoding's scale by {factors}"


def _reach(values: np.ndarray) -> float:
    """A round number not below the largest value."""
    power = 10.0 ** np.floor(np.log10(values.max()))
    return float(np.ceil(values.max() / power) * power)


def distances_from_a_camera(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    """Problems of one map of distances: (channels, pixels) known values."""
    positive = values[values > 0]
    median = float(np.median(positive)) if positive.size else np.inf
    if median < 0.02:
        yield f"a median of {median:.2g} m is nearer than any camera can focus; check the encoding's scale"
    if values.min() <= 0:
        yield "some known pixels have a distance of 0 or less; list the stored value under the encoding's unknown"
    if far := far_value(values):
        yield far
    if spec.encoding.dtype == "uint8":
        yield "distances in 8 bits look like depth drawn for viewing; store 16-bit or float32 metres"


def far_value(values: np.ndarray) -> str | None:
    """Describe a distance that many pixels share and that is far beyond all others; files often mark pixels without data in this way."""
    highest = values.max()
    others = values[values != highest]
    share = 1 - others.size / values.size
    if not others.size or share < LEAST_SHARE or highest < FAR_BEYOND * others.max():
        return None
    return (
        f"{share:.1%} of the known pixels are exactly {highest:.4g} m, far beyond the others, which looks like a value for missing depth; "
        "list the stored value under the encoding's unknown"
    )


def is_stretched(stored: np.ndarray) -> bool:
    """Whether stored numbers reach the largest one of their type, as few of them do, without a gap below it.

    Where distances are cut off there, or it marks the sky, many pixels have it, or no other comes near.
    """
    if stored.dtype.kind != "u" or not stored.size:
        return False
    most = np.iinfo(stored.dtype).max
    others = stored[stored != most]
    return bool(0 < stored.size - others.size < FEW_PIXELS * stored.size and others.max() > (1 - LARGEST_GAP) * most)


def depth_of_scenes(depth: np.ndarray, spec: TaskSpec, counts: Counter[str]) -> None:
    """Count whether the lowest sixth of a depth map, (1, height, width) metres, is farther than the rows above its middle."""
    height = depth.shape[-2]
    bottom, middle = depth[0, -max(1, height // 6) :], depth[0, height // 3 : max(height // 2, height // 3 + 1)]
    counts["maps"] += 1
    values, pixels = np.unique(depth[np.isfinite(depth)], return_counts=True)
    is_cut_off = pixels[-1] >= FEW_PIXELS * depth.size and pixels[-1] > PILED_UP * np.median(pixels)
    is_near = is_cut_off and spec.value_range is not None and spec.value_range[1] <= 1  # as its entry says
    counts["maps up to 1"] += bool(0.98 <= values[-1] <= 1 and not is_near)
    if np.isfinite(bottom).any() and np.isfinite(middle).any():
        counts["bottom farther"] += bool(np.nanmedian(bottom) > 1.05 * np.nanmedian(middle))


def odd_depth(medians: Sequence[float], spec: TaskSpec) -> str | None:
    """What speaks for a wrong unit although the distances lie within the range that the entry states, or `None`.

    Args:
        medians: median of the known distances of each map.
        spec: spec of the task.
    """
    if not medians or spec.value_range is None:
        return None
    median, farthest = float(np.median(medians)), spec.value_range[1]
    if IMPLAUSIBLE_DEPTH <= median <= 2 * farthest:
        remedy = "if they are millimetres, divide the encoding's scale, and value_range, by 1000"
        return f"half of the distances are beyond {median:.4g} m; {remedy}"
    if not 0 < median < NEAR * farthest or np.isclose(farthest, _largest(spec)):
        return None
    return f"half of the distances are below {median:.2g} m, and value_range reaches {farthest:g} m; check the encoding's scale"


def _largest(spec: TaskSpec) -> float:
    """The largest distance that the encoding can store; a range up to it says nothing about the data."""
    encoding = spec.encoding
    if np.dtype(encoding.dtype).kind not in "iu":
        return np.inf
    return float(np.iinfo(encoding.dtype).max * np.ravel(encoding.scale)[0] + np.ravel(encoding.offset)[0])


__all__ = [
    "FAR_BEYOND",
    "INVERTED",
    "LEAST_SHARE",
    "NORMALISED",
    "depth_of_scenes",
    "distances_from_a_camera",
    "is_depth",
    "is_length",
    "is_stretched",
    "metres",
    "odd_depth",
]
