"""Common mistakes in stored class maps: which ids occur tells how they were written."""

import numpy as np

from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec

from .mistakes import FEWEST_MAPS, Evidence, colours_of, is_grey

VOID = (IGNORE_INDEX, 65535)
"""Stored values that most data sets give to pixels without a class."""

MOST_SPREAD_IDS = 16
"""Most ids beyond the class list that may be ids spread out for viewing; more ids come from interpolation."""


def colour_coding(stored: np.ndarray, spec: TaskSpec) -> str | None:
    """Describe a class map that has several channels; `None` if it has one, or equal ones of which the entry reads one.

    Args:
        stored: the array as read from the file.
        spec: the task's entry.
    """
    colours = colours_of(stored)
    if colours is None or (is_grey(colours) and spec.encoding.channels is not None):
        return None
    if is_grey(colours):
        return "a grey mask is stored as RGB; store one channel, or set the encoding's channels to [0]"
    return f"a colour-coded mask of {len(np.unique(colours, axis=0))} colours; store one class id per pixel"


def class_mistake(evidence: Evidence, spec: TaskSpec, *, has_encoding: bool = True) -> str | None:
    """The common mistake that explains the stored ids of a class task, or `None`.

    Args:
        evidence: statistics over its maps.
        spec: its entry.
        has_encoding: whether the card states the encoding.
    """
    stored, last = sorted(evidence.stored_ids), spec.channels - 1
    if not stored:
        return None
    encoding = spec.encoding
    scale, offset = (float(np.ravel(number)[0]) for number in (encoding.scale, encoding.offset))
    ids = sorted({value * scale + offset for value in stored if value not in encoding.unknown})
    listed = ", ".join(f"{value:g}" for value in stored[:6]) + (", ..." if len(stored) > 6 else "")
    others = [value for value in encoding.unknown if value in stored and value not in (0, 255)]
    is_binary = [value for value in stored if value not in others] == [0, 255]
    if is_binary and last >= 1 and len([value for value in ids if 0 <= value <= last]) < 2:
        fields = "" if encoding.channels is None else f", channels: {list(encoding.channels)}"
        unknown = [round(value) for value in encoding.unknown if value not in (0, 255)]
        fields += f", unknown: {unknown}" if unknown else ""
        beside = f"apart from the unknown {others[0]:g}, " if others else ""
        return (
            f"stored values are {beside}only 0 and 255, and 255 is not a class: a 0/255 mask whose foreground is not read as class 1; "
            f"store 0 and 1, or give encoding: {{dtype: {encoding.dtype}, scale: 0.00392156862745098{fields}}} (1/255)"
        )
    beyond = [value for value in ids if not 0 <= value <= last or value != int(value)]
    if len(beyond) > MOST_SPREAD_IDS and len(ids) > spec.channels:
        return f"{len(ids)} different ids look like the result of JPEG or interpolation; use PNG and resize by nearest neighbour"
    void = float(stored[-1] if stored[-1] in VOID else IGNORE_INDEX)
    unlisted = stored[-1] == void and void * scale + offset in beyond and ids[0] >= 0 and (len(ids) == 1 or ids[-2] <= spec.channels)
    if unlisted:  # what most data sets store for pixels without a class
        ids = ids[:-1]
    also = f"; {void:g} looks like the value for pixels without a class: list it under unknown" if unlisted else ""
    starts_at_1 = offset / scale < 0 and -offset / scale - 1 in encoding.unknown
    if ids and ids[-1] == spec.channels and ids[0] >= 0 and starts_at_1:
        names = f"class_names lists {spec.channels}" if spec.class_names else f"channels is {spec.channels}"
        return f"stored {(ids[-1] - offset) / scale:g} is class {ids[-1]:g}, but {names} classes, from 0: add the missing one{also}"
    if ids and ids[-1] == spec.channels and ids[0] >= 0:
        remedy = f"set the encoding's offset to {offset - 1:g} and list {0.0 - offset / scale:g} under unknown"
        return f"ids look 1-based: they run up to {ids[-1]:g} for {spec.channels} classes; {remedy}, or name the missing class{also}"
    if not has_encoding and (zero_based := zero_based_ids(evidence, spec, has_encoding=False)):
        return zero_based
    if unlisted:
        return also.removeprefix("; ")
    if beyond and stored[-1] >= 100 and len(stored) <= spec.channels + 1:
        return f"stored values {listed} look spread out for viewing; store the class ids"
    if len(evidence.class_pixels) == 1 and spec.channels > 1 and evidence.counts["class maps"] >= FEWEST_MAPS:
        (only,) = evidence.class_pixels
        return f"only class {only} occurs, so nothing can be learnt; read more rows with --samples, or check the encoding"
    may_occur = (0.0 - offset) / scale not in encoding.unknown and evidence.counts["class maps"] >= FEWEST_MAPS
    if not beyond and may_occur and spec.channels > 2 and ids == list(range(1, spec.channels)):
        return (
            f"class 0 never occurs and all others do: ids look 1-based; set the encoding's offset to {offset - 1:g}, or, if class 0 is "
            "rare, read more rows with --samples"
        )
    return None


def zero_based_ids(evidence: Evidence, spec: TaskSpec, *, has_encoding: bool) -> str | None:
    """What speaks for ids that start at 0 where the encoding reads 0 as unknown and 1 as the first class, or `None`.

    Then the last class never occurs, and every other one is read as its predecessor.

    Args:
        evidence: statistics over the task's maps.
        spec: its entry.
        has_encoding: whether the card states the encoding.
    """
    scale, offset = (float(np.ravel(number)[0]) for number in (spec.encoding.scale, spec.encoding.offset))
    if (scale, offset) != (1.0, -1.0) or 0 not in spec.encoding.unknown or 0 not in evidence.stored_ids:
        return None
    ids = evidence.stored_ids - {IGNORE_INDEX}
    if max(ids) != spec.channels - 1:
        return None
    void = ", unknown: [255]" if IGNORE_INDEX in evidence.stored_ids else ""
    last = repr(spec.class_names[-1]) if spec.class_names else f"class {spec.channels - 1}"
    kept = (
        "keep the encoding"
        if has_encoding
        else f"give encoding: {{dtype: {spec.encoding.dtype}, offset: -1, unknown: [0{void and ', 255'}]}}"
    )
    return (
        f"stored ids run from 0 to {spec.channels - 1} for {spec.channels} classes, so they look 0-based, but 0 is read as unknown and 1 "
        f"as the first class: give encoding: {{dtype: {spec.encoding.dtype}{void}}}; if 0 does mean unknown and {last} is only rare, {kept}"
    )


__all__ = ["class_mistake", "colour_coding", "zero_based_ids"]
