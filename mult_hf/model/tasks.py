"""What a task is: one declarative entry each, and nothing about tasks anywhere else.

Every other module works from the fields of a [`TaskSpec`] and none contains the name of a task. Adding a task is one
call of [`register_task`], or one entry in a configuration or a data set's card; the entry travels in `config.json`, so a
checkpoint loads even where the task was never registered.

Missing labels have a single representation per kind of target, everywhere in this package: `NaN` in regression targets and
[`IGNORE_INDEX`] in class maps. A sample without a task, an invalid pixel and a crop beyond the image all use it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

IGNORE_INDEX = 255
"""Class id of pixels whose class is not known; losses, metrics and resizing skip them."""

KINDS = ("classification", "regression")
RESAMPLINGS = ("nearest", "bilinear")


def _per_channel(value: float | tuple[float, ...]) -> np.ndarray:
    """Shape a number, or one number per channel, so that it broadcasts over (channels, height, width)."""
    return np.asarray(value, dtype=np.float64).reshape(-1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class LabelEncoding:
    """How a stored label map becomes a target: `target = stored * scale + offset`, and what means "not known".

    Args:
        dtype: numpy name of the stored values, e.g. `"uint16"` for a 16-bit PNG. A map of another integer width is refused,
            because an 8-bit copy of a 16-bit file decodes to plausible wrong numbers.
        scale: factor, or one factor per channel (a negative one flips an axis).
        offset: added after scaling, or one number per channel. Class maps use it to drop a leading "unlabelled" id.
        unknown: stored values that mean "not known". In maps of several channels all of them must hold such a value.
        maximum: stored values above it are not known (far depth that is only noise).
        channels: which stored channels hold the map, in order; `None` takes all of them.
    """

    dtype: str = "float32"
    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    unknown: tuple[float, ...] = ()
    maximum: float | None = None
    channels: tuple[int, ...] | None = None

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Turn a stored map into a target map.

        Args:
            stored: (height, width), (height, width, channels) or (channels, height, width) as read from the file. Three
                axes are taken as channels-last when the last is at most 4 and the first is not.

        Returns:
            `np.ndarray`: (channels, height, width), float32, NaN where the value is not known.

        Raises:
            ValueError: if the stored values are of another width than `dtype`, or a wanted channel is missing.
        """
        stored = self._channels_first(self._as_declared(np.asarray(stored)))
        if self.channels is not None:
            if max(self.channels) >= len(stored):
                raise ValueError(f"the stored map has {len(stored)} channels, but channels {list(self.channels)} are to be read from it")
            stored = stored[list(self.channels)]
        self._check_channels(len(stored))
        target = np.multiply(stored, _per_channel(self.scale), dtype=np.float64)
        target += _per_channel(self.offset)
        target = target.astype(np.float32)
        target[:, self._means_unknown(stored)] = np.nan
        return target

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Turn a target map back into what is stored; the inverse of [`LabelEncoding.decode`] up to rounding.

        Args:
            target: (channels, height, width) float, NaN where not known.

        Returns:
            `np.ndarray`: (channels, height, width) of `dtype`.

        Raises:
            ValueError: if a value does not fit `dtype` or would be read back as unknown, or if something is not known and no
                stored value says so.
        """
        unknown = np.broadcast_to(np.isnan(target).any(axis=0), target.shape)  # a pixel is known as a whole or not at all
        if unknown.any() and not self.unknown:
            raise ValueError(f"{int(unknown.sum())} values are not known, but this encoding has no stored value for that; set `unknown`")
        stored = (np.asarray(target, np.float64) - _per_channel(self.offset)) / _per_channel(self.scale)
        dtype = np.dtype(self.dtype)
        if np.issubdtype(dtype, np.integer):
            stored, limits = np.round(stored), np.iinfo(dtype)
            low, high = np.nanmin(stored, initial=limits.max), np.nanmax(stored, initial=limits.min)
            if low < limits.min or high > limits.max:
                raise ValueError(
                    f"encoded values reach from {low:g} to {high:g}, which {self.dtype} cannot hold; check the unit and `scale`"
                )
        lost = ~unknown[0] & self._means_unknown(stored)
        if lost.any():
            examples = ", ".join(f"{value:g}" for value in np.unique(stored[:, lost])[:3])
            raise ValueError(f"{int(lost.sum())} known pixels would be stored as {examples}, which means unknown; see `unknown`, `maximum`")
        return np.where(unknown, self.unknown[0] if self.unknown else 0, stored).astype(dtype)

    def _means_unknown(self, stored: np.ndarray) -> np.ndarray:
        """Which pixels of a (channels, height, width) stored map are not known, (height, width) bool."""
        unknown = ~np.isfinite(stored).all(axis=0)
        if self.unknown:
            unknown |= np.isin(stored, self.unknown).all(axis=0)
        if self.maximum is not None:
            unknown |= (stored > self.maximum).any(axis=0)
        return unknown

    def _check_channels(self, channels: int) -> None:
        """Refuse numbers per channel that do not match the number of channels."""
        for numbers in (self.scale, self.offset):
            if isinstance(numbers, tuple) and len(numbers) != channels:
                raise ValueError(f"the stored map has {channels} channels, its encoding has numbers for {len(numbers)}")

    def __post_init__(self) -> None:
        try:
            np.dtype(self.dtype)
        except TypeError:
            raise ValueError(
                f"encoding dtype {self.dtype!r} is not a numpy type; give one such as 'uint8', 'uint16' or 'float32'"
            ) from None
        if not np.all(_per_channel(self.scale)):
            raise ValueError(f"encoding scale is {self.scale}; it must not be 0")
        if self.channels is not None and (not self.channels or min(self.channels) < 0):
            raise ValueError(f"encoding channels are {self.channels}; give the numbers of stored channels, from 0 on, or None for all")

    def _as_declared(self, stored: np.ndarray) -> np.ndarray:
        """Check the storage width; image libraries widen 16-bit files to int32, which is accepted when the values fit."""
        declared = np.dtype(self.dtype)
        if stored.dtype == declared or declared.kind == stored.dtype.kind == "f":
            return stored
        if stored.dtype.kind in "iu" and declared.kind in "iu" and stored.dtype.itemsize > declared.itemsize:
            limits = np.iinfo(declared)
            if limits.min <= stored.min(initial=limits.max) and stored.max(initial=limits.min) <= limits.max:
                return stored.astype(declared)
        raise ValueError(
            f"the stored map is {stored.dtype} with values from {stored.min(initial=0)} to {stored.max(initial=0)}, but this encoding "
            f"reads {self.dtype}; store the map as {self.dtype} or describe how it is stored in the task's `encoding`"
        )

    @staticmethod
    def _channels_first(stored: np.ndarray) -> np.ndarray:
        if stored.ndim == 2:
            return stored[None]
        if stored.ndim != 3:
            raise ValueError(f"a stored map has 2 or 3 axes, got shape {stored.shape}")
        # Contiguous while it is still small: all that follows is several times faster then.
        return np.ascontiguousarray(np.moveaxis(stored, -1, 0)) if stored.shape[-1] <= 4 < stored.shape[0] else stored


_CLASS_IDS = LabelEncoding(dtype="uint8", unknown=(IGNORE_INDEX,))
# What an entry that does not say otherwise has, by its kind.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "classification": {"loss": "cross_entropy", "metrics": ("mean_iou", "pixel_accuracy"), "colormap": "classes", "encoding": _CLASS_IDS},
    "regression": {"loss": "l1", "metrics": ("mae",), "colormap": "viridis", "encoding": LabelEncoding()},
}


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One dense prediction task.

    Entries in cards and in `config.json` have the same fields, side by side, so that an entry that differs from a registered task
    states only what differs. Listed here by purpose: what the task is (`name` to `description`), learning (`activation` to `metrics`),
    storage (`encoding`), geometry (`resample` to `zoom_exponent`) and display. All but the first three have defaults.

    Args:
        name: lower-case identifier, the key of predictions, labels and data columns.
        kind: `"classification"` (one class per pixel) or `"regression"` (one or more numbers per pixel).
        channels: of the prediction; the number of classes for classification.
        unit: of the target, for people ("m", "unit vector", "[0, 1]").
        value_range: lowest and highest target, e.g. (0, 10) metres. Sigmoid heads span it; post-processing stays inside.
        class_names: one name per class, in order of the ids, for classification.
        description: one sentence for docs and model cards.
        activation: last step of the task's head, a name in [`decoder_mult.ACTIVATIONS`].
        loss: a name in [`losses.LOSSES`]; cross entropy for classification and L1 for regression by default.
        weight: factor of the loss in the weighted sum, at least 0.
        metrics: names in [`metrics.METRICS`], the headline first; mean IoU and pixel accuracy, or MAE by default.
        encoding: how the data set stores the map; 8-bit class ids with 255 unknown, or float32 numbers with NaN by
            default.
        resample: how label maps of this task are resized, `"nearest"` or `"bilinear"` (over known pixels only).
            Predictions are always resized bilinearly.
        horizontal_flip_signs: factor per channel when the image is mirrored; empty for all 1.
        rotated_channels: the channels of a vector's components to the right and up, which turn with the image; empty if the
            values do not change when the image is turned.
        zoom_exponent: values are multiplied by `zoom ** zoom_exponent` when the image is magnified by `zoom`; -1 for depth.
        colormap: a name in [`visualization.COLORMAPS`]; "classes" or "viridis" by default.
        transformers_task: transformers' name for this output, if it has one ("depth-estimation"); it selects the task for
            `post_process_depth_estimation` and its like.

    Raises:
        ValueError: on an impossible combination, saying what came and what is allowed.
    """

    # What the task is. (The order of fields is that of `config.json`.)
    name: str
    kind: str
    channels: int
    # Learning.
    activation: str = "identity"
    loss: str = ""
    weight: float = 1.0
    metrics: tuple[str, ...] = ()
    # What its maps hold, and how they are stored.
    unit: str = ""
    value_range: tuple[float, float] | None = None
    class_names: tuple[str, ...] = ()
    encoding: LabelEncoding | None = None
    # Geometry: what resizing, mirroring, turning and magnifying do to a map.
    resample: str = "nearest"
    horizontal_flip_signs: tuple[float, ...] = ()
    rotated_channels: tuple[int, ...] = ()
    zoom_exponent: float = 0.0
    # Display.
    colormap: str = ""
    transformers_task: str | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"task name {self.name!r} is not a lower-case identifier such as 'edge_occlusion'")
        if self.kind not in KINDS:
            raise ValueError(f"task {self.name!r} has kind {self.kind!r}; allowed: {', '.join(KINDS)}")
        for name, default in _DEFAULTS[self.kind].items():
            if not getattr(self, name):
                object.__setattr__(self, name, default)
        if not isinstance(self.encoding, LabelEncoding):
            raise ValueError(f"task {self.name!r} has a {type(self.encoding).__name__} as encoding; give a LabelEncoding, or use from_dict")
        if self.resample not in RESAMPLINGS:
            raise ValueError(f"task {self.name!r} has resample {self.resample!r}; allowed: {', '.join(RESAMPLINGS)}")
        if not isinstance(self.channels, int) or self.channels < 1 or (self.is_classification and not 2 <= self.channels <= IGNORE_INDEX):
            raise ValueError(
                f"task {self.name!r} has {self.channels} channels; a regression needs at least 1, a classification 2 to {IGNORE_INDEX}"
            )
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"task {self.name!r} has weight {self.weight}; weights are at least 0")
        if self.class_names and len(self.class_names) != self.channels:
            raise ValueError(f"task {self.name!r} has {len(self.class_names)} class names for {self.channels} channels; give one per class")
        if self.horizontal_flip_signs and len(self.horizontal_flip_signs) != self.channels:
            raise ValueError(
                f"task {self.name!r} has {len(self.horizontal_flip_signs)} flip signs for {self.channels} channels; give one per channel"
            )
        if self.rotated_channels and not (
            len(self.rotated_channels) == len(set(self.rotated_channels)) == 2 and set(self.rotated_channels) <= set(range(self.channels))
        ):
            raise ValueError(f"task {self.name!r} rotates channels {self.rotated_channels}; give two below {self.channels}: right, up")
        if self.is_classification and (self.zoom_exponent or self.rotated_channels):
            raise ValueError(f"task {self.name!r} holds classes, which neither zoom nor turn; drop zoom_exponent and rotated_channels")
        if self.value_range is not None and not (len(self.value_range) == 2 and self.value_range[0] < self.value_range[1]):
            raise ValueError(f"task {self.name!r} has value range {self.value_range}; give two numbers, the smaller one first")

    @property
    def is_classification(self) -> bool:
        """Whether pixels carry a class id rather than numbers."""
        return self.kind == "classification"

    @property
    def flip_signs(self) -> tuple[float, ...]:
        """One factor per channel that a mirrored target is multiplied by."""
        return self.horizontal_flip_signs or (1.0,) * self.channels

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Turn a stored map into this task's target.

        Returns:
            `np.ndarray`: (height, width) int64 with 255 where unknown, for classification; else (channels, height, width)
            float32 with NaN where unknown.

        Raises:
            ValueError: if the map does not fit the encoding, the channels or the class list; the message names the task.
        """
        try:
            target = self.encoding.decode(stored)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        channels = 1 if self.is_classification else self.channels
        if len(target) != channels:
            raise ValueError(f"{self.name}: the stored map has {len(target)} channels, the task has {channels}; see `encoding.channels`")
        if not self.is_classification:
            return target
        known = np.isfinite(target[0])
        classes = np.where(known, target[0], IGNORE_INDEX).astype(np.int64)
        wrong = known & ((classes < 0) | (classes >= self.channels) | (classes != target[0]))
        if wrong.any():
            examples = ", ".join(f"{value:g}" for value in np.unique(target[0][wrong])[:5])
            raise ValueError(
                f"{self.name}: {int(wrong.sum())} pixels have class {examples}; classes run from 0 to {self.channels - 1}, see `encoding`"
            )
        return classes

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Turn a target of [`TaskSpec.decode`]'s shape back into the stored (channels, height, width) map."""
        if self.is_classification:
            target = np.where(target == IGNORE_INDEX, np.nan, target)[None]
        return self.encoding.encode(target)

    def unknown_target(self, height: int, width: int) -> np.ndarray:
        """The target of a sample without this task: all unknown, in the shape that [`TaskSpec.decode`] returns."""
        if self.is_classification:
            return np.full((height, width), IGNORE_INDEX, np.int64)
        return np.full((self.channels, height, width), np.nan, np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of [`TaskSpec.from_dict`]."""
        return _with_lists(asdict(self))

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "TaskSpec":
        """Build a task from plain values. An entry that names a registered task only states which fields differ from it; a
        field, `encoding` too, is replaced as a whole.

        Raises:
            ValueError: on an unknown field or a missing name, kind or channels.
        """
        _refuse_unknown_fields(f"task entry {entry.get('name')!r}", entry, cls)
        if "name" not in entry:
            raise ValueError(f"a task entry needs a name, got {dict(entry)}")
        values = _with_tuples(entry)
        base = _REGISTRY.get(values["name"])
        if isinstance(values.get("encoding"), Mapping):
            _refuse_unknown_fields(f"encoding of task {values['name']!r}", values["encoding"], LabelEncoding)
            values["encoding"] = LabelEncoding(**_with_tuples(values["encoding"]))
        if "class_names" in values and "channels" not in values:
            values["channels"] = len(values["class_names"])
        if base is not None:
            return replace(base, **values)
        missing = [key for key in ("kind", "channels") if key not in values]
        if missing:
            raise ValueError(f"task {values['name']!r} is not registered and its entry lacks {missing}; registered: {', '.join(_REGISTRY)}")
        return cls(**values)


def _refuse_unknown_fields(what: str, entry: Mapping[str, Any], cls: type) -> None:
    allowed = [f.name for f in fields(cls)]
    unknown = sorted(set(entry) - set(allowed))
    if unknown:
        raise ValueError(f"{what} has unknown fields {unknown}; allowed: {', '.join(allowed)}")


def _with_tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def _with_lists(value: Any) -> Any:
    """Tuples become lists, so that an entry equals itself after a round trip through JSON."""
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


_REGISTRY: dict[str, TaskSpec] = {}


def register_task(spec: TaskSpec, *, exist_ok: bool = False) -> TaskSpec:
    """Register a task under its name.

    Raises:
        ValueError: if another task has the name and `exist_ok` is false.
    """
    if not exist_ok and _REGISTRY.get(spec.name, spec) != spec:
        raise ValueError(f"task {spec.name!r} is registered with other values; pass exist_ok=True to replace it")
    _REGISTRY[spec.name] = spec
    return spec


def registered_tasks() -> dict[str, TaskSpec]:
    """All registered tasks by name, in order of registration."""
    return dict(_REGISTRY)


def resolve_tasks(entries: Iterable[str | TaskSpec | Mapping[str, Any]] | Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """Turn names, entries or specs into specs by name, in the given order.

    Args:
        entries: names of registered tasks, [`TaskSpec`] objects, plain entries as in `config.json`, mixed; or a dict of
            specs as this function returns.

    Raises:
        ValueError: on a name that is not registered, or one that is given twice.
    """
    specs: dict[str, TaskSpec] = {}
    for entry in entries.values() if isinstance(entries, Mapping) else entries:
        if isinstance(entry, str) and entry not in _REGISTRY:
            raise ValueError(f"task {entry!r} is not registered; registered: {', '.join(_REGISTRY)}; add it with register_task")
        spec = _REGISTRY[entry] if isinstance(entry, str) else entry if isinstance(entry, TaskSpec) else TaskSpec.from_dict(entry)
        if spec.name in specs:
            raise ValueError(f"task {spec.name!r} comes twice; give each task once")
        specs[spec.name] = spec
    return specs


# fmt: off
TASKONOMY_CLASSES = (
    "background", "bottle", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase",
)
# fmt: on
"""Classes of Taskonomy's segmentation in order of the ids, after the stored 0 for "uncertain"."""

# The six tasks of the paper (section 4). Encodings are Taskonomy's, the paper's data set; others state their own. Taskonomy
# stores normals with x right, y down, z into the scene; here y is up and z comes towards the viewer. The paper does not state its
# loss weights. These compensate for units: an error in metres is a large number, one of a heat map that is mostly 0 a small one.
# https://github.com/StanfordVL/taskonomy/blob/master/data/README.md
register_task(
    TaskSpec(
        name="segmentation",
        kind="classification",
        channels=17,
        loss="cross_entropy",
        metrics=("mean_iou", "pixel_accuracy", "mean_accuracy"),
        unit="class",
        class_names=TASKONOMY_CLASSES,
        encoding=LabelEncoding(dtype="uint8", offset=-1.0, unknown=(0,)),
        colormap="classes",
        transformers_task="semantic-segmentation",
        description="Class of every pixel.",
    )
)
register_task(
    TaskSpec(
        name="depth",
        kind="regression",
        channels=1,
        activation="sigmoid",
        loss="rotate_l1",
        metrics=("rmse", "abs_rel", "delta1"),
        unit="m",
        value_range=(0.0, 10.0),
        encoding=LabelEncoding(dtype="uint16", scale=1 / 512, unknown=(65535, 0), maximum=8192),
        zoom_exponent=-1.0,
        colormap="turbo",
        transformers_task="depth-estimation",
        description="Distance along the optical axis in metres.",
    )
)
register_task(
    TaskSpec(
        name="normals",
        kind="regression",
        channels=3,
        weight=3.0,
        activation="unit_vector",
        loss="l1",
        metrics=("mean_angle", "median_angle", "within_11.25"),
        unit="unit vector",
        value_range=(-1.0, 1.0),
        encoding=LabelEncoding(  # grey, 127 or 128, is no vector: a hole of the scan
            dtype="uint8", scale=(1 / 127.5, -1 / 127.5, -1 / 127.5), offset=(-127 / 127.5, 127 / 127.5, 127 / 127.5), unknown=(127, 128)
        ),
        horizontal_flip_signs=(-1.0, 1.0, 1.0),
        rotated_channels=(0, 1),
        colormap="vectors",
        transformers_task="normal-estimation",
        description="Unit surface normal in camera axes: x right, y up, z towards the viewer.",
    )
)
register_task(
    TaskSpec(
        name="keypoints2d",
        kind="regression",
        channels=1,
        weight=5.0,
        unit="[0, 1]",
        value_range=(0.0, 1.0),
        encoding=LabelEncoding(dtype="uint16", scale=1 / 65535),
        resample="bilinear",
        colormap="magma",
        description="Heat map of corner-like image points.",
    )
)
register_task(
    TaskSpec(
        name="edges2d",
        kind="regression",
        channels=1,
        weight=5.0,
        unit="[0, 1]",
        value_range=(0.0, 1.0),
        encoding=LabelEncoding(dtype="uint16", scale=1 / 65535),
        resample="bilinear",
        colormap="gray",
        description="Magnitude of texture edges of the image.",
    )
)
register_task(
    TaskSpec(
        name="reshading",
        kind="regression",
        channels=1,
        weight=3.0,
        activation="sigmoid",
        unit="[0, 1]",
        value_range=(0.0, 1.0),
        encoding=LabelEncoding(dtype="uint8", scale=1 / 255, channels=(0,)),
        resample="bilinear",
        colormap="gray",
        description="Shading of the bare geometry under a light at the camera.",
    )
)

MULT_TASKS: tuple[str, ...] = tuple(_REGISTRY)
"""Names of the six tasks of the paper, in its order."""

PREFERRED_REFERENCE_TASK = "normals"
"""Stream that makes the shared attention unless a configuration says otherwise (paper, section 4.3)."""
