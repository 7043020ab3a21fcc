"""How a stored label map becomes a target and back."""

from dataclasses import dataclass

import numpy as np

from .entry_fields import integers, number, number_or_numbers, numbers, optional, refusal, set_fields, text


def _per_channel(value: float | tuple[float, ...]) -> np.ndarray:
    """Shape a number, or one number per channel, so that it broadcasts over (channels, height, width)."""
    return np.asarray(value, dtype=np.float64).reshape(-1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class LabelEncoding:
    """How a stored label map becomes a target: `target = stored * scale + offset`, and which values mean "unknown".

    Args:
        dtype: numpy name of the stored values, e.g. `"uint16"` for a 16-bit PNG. A map of another integer width is refused,
            because an 8-bit copy of a 16-bit file decodes to plausible wrong numbers.
        scale: factor, or one factor per channel (a negative one flips an axis).
        offset: added after scaling, or one number per channel. Class maps use it to drop a leading "unlabelled" id.
        unknown: stored values that mean "unknown"; in maps of several channels, all channels must have one of them. NaN and
            infinity always mean unknown and are not listed.
        maximum: stored values above it are unknown (for example, far depth that is only noise).
        channels: which stored channels hold the map, in order; `None` takes all of them.

    Raises:
        ValueError: on a field of a wrong type, or fields that do not fit one another; the message names the field.
    """

    dtype: str = "float32"
    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    unknown: tuple[float, ...] = ()
    maximum: float | None = None
    channels: tuple[int, ...] | None = None

    def decode(self, stored: np.ndarray, channels: int | None = None, channels_last: bool | None = None) -> np.ndarray:
        """Turn a stored map into a target map.

        Args:
            stored: (height, width), (height, width, channels) or (channels, height, width) as read from the file.
            channels: number of channels of the target, if known, which determines the channel axis of `stored`. By default the
                channel axis is the last one if its length is at most 4 and that of the first is not.
            channels_last: whether the channels of a map of three axes are the last one, as in every image file; by default as above.

        Returns:
            `np.ndarray`: (channels, height, width), float32, NaN where the value is unknown.

        Raises:
            ValueError: if the stored values are of another width than `dtype`, a requested channel is missing, or both the first and
                the last axis may be the channel axis.
        """
        stored = self._as_declared(np.asarray(stored))
        if channels_last is None or stored.ndim != 3:
            stored = self._channels_first(stored, channels)
        elif channels_last:
            stored = np.ascontiguousarray(np.moveaxis(stored, -1, 0))
        if self.channels is not None:
            if max(self.channels) >= len(stored):
                raise ValueError(f"the stored map has {len(stored)} channels, but channels {list(self.channels)} are to be read from it")
            stored = stored[list(self.channels)]
        self._check_channels(len(stored))
        target = np.multiply(stored, _per_channel(self.scale), dtype=np.float64)
        target += _per_channel(self.offset)
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and thus unknown
            target = target.astype(np.float32)
        target[:, self._means_unknown(stored) | ~np.isfinite(target).all(axis=0)] = np.nan
        return target

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Turn a target map back into a stored map; the inverse of [`LabelEncoding.decode`] up to rounding.

        Args:
            target: (channels, height, width) float, NaN where unknown.

        Returns:
            `np.ndarray`: (channels, height, width) of `dtype`.

        Raises:
            ValueError: if a value does not fit `dtype` or would be read back as unknown, or if a value is unknown but no
                stored value means unknown.
        """
        unknown = np.broadcast_to(np.isnan(target).any(axis=0), target.shape)  # a pixel is known only if all its channels are
        has_unknown, floating = bool(unknown.any()), np.dtype(self.dtype).kind == "f"
        if has_unknown and not self.unknown and not floating:
            raise ValueError(f"{int(unknown.sum())} values are not known, but this encoding has no stored value for that; set `unknown`")
        stored = self.stored_values(np.asarray(target, np.float64))
        lowest, highest = _limits(self.dtype)
        stored = stored if floating else np.round(stored)
        known = stored[~unknown] if has_unknown else stored
        low, high = float(known.min(initial=highest)), float(known.max(initial=lowest))  # Python compares them with integers exactly
        if low < lowest or high > highest:
            raise ValueError(f"encoded values reach from {low:g} to {high:g}, which {self.dtype} cannot hold; check the unit and `scale`")
        lost = ~unknown[0] & self._means_unknown(stored)
        if lost.any():
            examples = ", ".join(f"{value:g}" for value in np.unique(stored[:, lost])[:3])
            raise ValueError(f"{int(lost.sum())} known pixels would be stored as {examples}, which means unknown; see `unknown`, `maximum`")
        if has_unknown:
            stored = np.where(unknown, self.unknown[0] if self.unknown else np.nan if floating else 0, stored)
        return stored.astype(self.dtype)

    def stored_values(self, target: np.ndarray) -> np.ndarray:
        """The stored values of a target (channels, height, width), before rounding."""
        return (target - _per_channel(self.offset)) / _per_channel(self.scale)

    def _means_unknown(self, stored: np.ndarray) -> np.ndarray:
        """Which pixels of a (channels, height, width) stored map are unknown, (height, width) bool."""
        integral = stored.dtype.kind in "biu"
        unknown = np.zeros(stored.shape[1:], bool) if integral else ~np.isfinite(stored).all(axis=0)
        if self.unknown:
            unknown |= self._holds_unknown(stored).all(axis=0)
        if self.maximum is not None:
            unknown |= (stored > self.maximum).any(axis=0)
        return unknown

    def _holds_unknown(self, stored: np.ndarray) -> np.ndarray:
        """Where a stored map has one of the values `unknown`; floats are compared in the narrower of the two types.

        For example, an entry's 0.1 is not exactly a float32: the file contains the nearest float32, which a library may have widened.
        """
        if stored.dtype.kind != "f":  # several comparisons are faster than `isin`
            return np.logical_or.reduce([stored == int(value) for value in self.unknown])
        declared = np.dtype(self.dtype)
        narrow = min(stored.dtype, declared if declared.kind == "f" else stored.dtype, key=lambda dtype: dtype.itemsize)
        with np.errstate(over="ignore"):  # values beyond the narrow type become infinite, and thus unknown
            return np.isin(stored.astype(narrow), np.array(self.unknown, narrow))

    def _check_channels(self, channels: int) -> None:
        """Refuse a list of numbers whose length differs from the number of channels."""
        for values in (self.scale, self.offset):
            if isinstance(values, tuple) and len(values) != channels:
                raise ValueError(f"the stored map has {channels} channels, its encoding has numbers for {len(values)}")

    def __post_init__(self) -> None:
        set_fields(self, "encoding", _FIELDS)
        try:
            dtype = np.dtype(self.dtype)
        except (TypeError, ValueError, SyntaxError):
            dtype = None
        if dtype is None or dtype.kind not in "biuf":
            raise refusal(f"encoding dtype {self.dtype!r} is not a numpy type of numbers; give one such as 'uint8', 'uint16' or 'float32'")
        if not np.all(_per_channel(self.scale)):
            raise refusal(f"encoding scale is {self.scale}; it must not be 0")
        lowest, highest = _limits(dtype)
        impossible = [value for value in self.unknown if not lowest <= value <= highest or (dtype.kind != "f" and value != int(value))]
        if impossible:
            raise refusal(
                f"encoding unknown has {impossible}, which {self.dtype} cannot hold (it has {lowest:g} to {highest:g}); "
                f"give stored values, or correct `dtype`"
            )
        if self.channels is not None and (not self.channels or min(self.channels) < 0):
            raise refusal(f"encoding channels are {self.channels}; give the numbers of stored channels, from 0 on, or None for all")
        counts = {name: len(getattr(self, name)) for name in _PER_CHANNEL if isinstance(getattr(self, name), tuple)}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            raise ValueError(f"encoding has {counts} numbers per channel; give as many for each, or one number for all channels")

    def _as_declared(self, stored: np.ndarray) -> np.ndarray:
        """Check the storage width; image libraries read 16-bit and unsigned files as int32, which is accepted when the values fit."""
        declared, stored = np.dtype(self.dtype).newbyteorder("="), stored.astype(stored.dtype.newbyteorder("="), copy=False)
        if stored.dtype == declared or declared.kind == stored.dtype.kind == "f":
            return stored
        if stored.dtype.kind not in "biuf":
            raise ValueError(f"the stored map is an array of {stored.dtype}, not of numbers; store it as {self.dtype}")
        if (
            stored.dtype.kind in "iu"
            and declared.kind in "iu"
            and (stored.dtype.itemsize > declared.itemsize or (stored.dtype.itemsize == declared.itemsize == 4 and declared.kind == "u"))
        ):
            limits = np.iinfo(declared)
            if not stored.size or limits.min <= int(stored.min()) <= int(stored.max()) <= limits.max:  # Python's integers have no width
                return stored.astype(declared)
        low, high = (stored.min(), stored.max()) if stored.size else (0, 0)
        raise ValueError(
            f"the stored map is {stored.dtype} with values from {low} to {high}, but this encoding "
            f"reads {self.dtype}; store the map as {self.dtype} or describe how it is stored in the task's `encoding`"
        )

    def number_of_channels(self) -> int | None:
        """Number of channels of the target according to this encoding; None if any number fits."""
        return next((len(getattr(self, name)) for name in _PER_CHANNEL if isinstance(getattr(self, name), tuple)), None)

    def _channels_first(self, stored: np.ndarray, channels: int | None) -> np.ndarray:
        """Bring a stored map to (channels, height, width)."""
        if stored.ndim == 2:
            return stored[None]
        if stored.ndim != 3:
            raise ValueError(f"a stored map has 2 or 3 axes, got shape {stored.shape}")
        first, last = (self._may_be_channels(stored.shape[axis], channels) for axis in (0, -1))
        if first and last and (channels is not None or self.number_of_channels() is not None):
            raise ValueError(
                f"a stored map of shape {stored.shape} may have its channels first or last; give it more rows and columns than channels"
            )
        # Made contiguous while it is still small, which makes all later steps several times faster.
        return np.ascontiguousarray(np.moveaxis(stored, -1, 0)) if channels_are_last(stored.shape, first, last) else stored

    def _may_be_channels(self, length: int, channels: int | None) -> bool:
        """Whether an axis of this length may be the channel axis of the stored map, according to the entry."""
        if self.channels is not None:  # a file may have more channels than are read, such as opacity
            return max(self.channels) < length <= max(4, max(self.channels) + 1)
        expected = self.number_of_channels() if channels is None else channels
        return length <= 4 if expected is None else length == expected


def channels_are_last(shape: tuple[int, ...], first: bool | None = None, last: bool | None = None) -> bool:
    """Whether the last of a map's three axes is the channel axis.

    Args:
        shape: of the map.
        first: whether the first axis may be the channel axis; by default, and if neither may, if its length is at most 4.
        last: the same for the last axis.
    """
    if not first and not last:
        first, last = shape[0] <= 4, shape[-1] <= 4
    return bool(last and not first)


def _limits(dtype: str | np.dtype) -> tuple[float, float]:
    """Lowest and highest finite value of a type."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return 0, 1
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return (float(limits.min), float(limits.max)) if dtype.kind == "f" else (int(limits.min), int(limits.max))


_PER_CHANNEL = ("channels", "scale", "offset")
_FIELDS = {
    "dtype": text,
    "scale": number_or_numbers,
    "offset": number_or_numbers,
    "unknown": numbers,
    "maximum": optional(number),
    "channels": optional(integers),
}


__all__ = ["LabelEncoding", "channels_are_last"]
