"""Tasks: one declarative entry each; no other module contains the name of a task.

All other modules use the fields of a [`TaskSpec`]. To add a task, call [`register_task`], or add one entry to a configuration or a data
set's card. The entry is saved in `config.json`, so a checkpoint loads even if the task was never registered.

Missing labels have a single representation per kind of target, everywhere in this package: `NaN` in regression targets and
[`IGNORE_INDEX`] in class maps. A sample without a task, an invalid pixel and a crop beyond the image all use it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from torch import nn

from .activations import activation_of
from .entry_checks import ENTRY_CHECKS
from .entry_fields import integer, integers, number, numbers, optional, refusal, set_fields, text, texts
from .label_encoding import LabelEncoding

IGNORE_INDEX = 255
"""Class id of pixels whose class is not known; losses, metrics and resizing skip them."""

KINDS = ("classification", "regression")

RESERVED_NAMES = (
    *("image", "source", "augmentation_seed", "file_name", "focal_length"),  # columns of data sets
    *("pixel_values", "labels", "tasks", "target_size"),  # inputs of the model and of the pipeline
    *("loss", "predictions", "task_losses", "task_features", "last_hidden_state", "hidden_states", "task_hidden_states", "attentions"),
    "classifications",
)
"""Names of columns, inputs and outputs that are used beside those of tasks; no task can have them."""


_CLASS_IDS = LabelEncoding(dtype="uint8", unknown=(IGNORE_INDEX,))
# Default values by the kind of task.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "classification": {"loss": "cross_entropy", "metrics": ("mean_iou", "pixel_accuracy"), "colormap": "classes", "encoding": _CLASS_IDS},
    "regression": {"loss": "l1", "metrics": ("mae",), "colormap": "viridis", "encoding": LabelEncoding()},
}


_MODULES = nn.ModuleDict()
_FIELDS = {
    "channels": integer,
    "activation": text,
    "loss": text,
    "weight": number,
    "metrics": texts,
    "unit": text,
    "value_range": optional(numbers),
    "class_names": texts,
    "resample": text,
    "horizontal_flip_signs": numbers,
    "rotated_channels": integers,
    "zoom_exponent": number,
    "colormap": text,
    "transformers_task": optional(text),
    "description": text,
}


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One dense prediction task.

    Entries in cards and in `config.json` have the same fields. An entry of a registered task lists only the fields that differ. All
    fields but the first three have defaults.

    Args:
        name: lower-case identifier, the key of predictions, labels and data columns.
        kind: `"classification"` (one class per pixel) or `"regression"` (one or more numbers per pixel).
        channels: of the prediction; the number of classes for classification.
        unit: of the target, in any words ("m", "unit vector", "[0, 1]"). Model and data must have the same one; "metres" is "m". `mult-hf
            check` knows these three.
        value_range: lowest and highest target, e.g. (0, 10) metres. Sigmoid heads span it; post-processing stays inside.
        class_names: one name per class, in order of the ids, for classification.
        description: one sentence for docs and model cards.
        activation: last step of the task's head, a name in [`activations.ACTIVATIONS`].
        loss: a name in [`losses.LOSSES`]; cross entropy for classification and L1 for regression by default.
        weight: factor of the loss in the weighted sum, at least 0.
        metrics: names in [`metrics.METRICS`], the headline first; mean IoU and pixel accuracy, or MAE by default.
        encoding: how the data set stores the map; by default 8-bit class ids with 255 unknown, or float32 numbers with NaN.
        resample: how label maps of this task are resized, `"nearest"` or `"bilinear"` (over known pixels only).
            Predictions are always resized bilinearly.
        horizontal_flip_signs: factor per channel when the image is mirrored; by default -1 for the first of `rotated_channels`, and 1.
        rotated_channels: channels of a vector's right and up components, which rotate with the image; empty if there are none.
        zoom_exponent: values are multiplied by `zoom ** zoom_exponent` when the image is magnified by `zoom`; -1 for depth.
        colormap: a name in [`visualization.COLORMAPS`]; "classes" or "viridis" by default.
        transformers_task: transformers' name for this output, if it has one ("depth-estimation"); it selects the task for
            methods such as `post_process_depth_estimation`.

    Raises:
        ValueError: on an impossible combination; the message states what was given and what is allowed.
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
    # The contents of its maps, and how they are stored.
    unit: str = ""
    value_range: tuple[float, float] | None = None
    class_names: tuple[str, ...] = ()
    encoding: LabelEncoding = None  # type: ignore[assignment]  # None means the kind's default until __post_init__
    # Geometry: how resizing, mirroring, rotating and magnifying change a map.
    resample: str = "nearest"
    horizontal_flip_signs: tuple[float, ...] = ()
    rotated_channels: tuple[int, ...] = ()
    zoom_exponent: float = 0.0
    # Display.
    colormap: str = ""
    transformers_task: str | None = None
    description: str = ""

    def __post_init__(self) -> None:
        what = f"task {self.name!r}" if isinstance(self.name, str) else "a task"
        set_fields(self, what, {"name": text, "kind": text})
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", self.name):  # it is part of file names
            raise refusal(f"task name {self.name!r} is not a lower-case identifier of at most 64 characters such as 'edge_occlusion'")
        if self.name in RESERVED_NAMES:
            raise ValueError(f"a task cannot be called {self.name!r}: a column, an input or an output has that name; choose another")
        if hasattr(_MODULES, self.name):
            raise ValueError(f"a task cannot be called {self.name!r}: torch.nn.ModuleDict has an attribute of that name; choose another")
        if self.kind not in KINDS:
            raise refusal(f"{what} has kind {self.kind!r}; allowed: {', '.join(KINDS)}")
        for name, default in _DEFAULTS[self.kind].items():
            if getattr(self, name) in (None, "", (), []):
                object.__setattr__(self, name, default)
        if not isinstance(self.encoding, LabelEncoding):
            raise ValueError(f"{what} has a {type(self.encoding).__name__} as encoding; give a LabelEncoding, or use from_dict")
        set_fields(self, what, _FIELDS)
        for reason in filter(None, (check(self) for check in ENTRY_CHECKS)):
            raise refusal(f"{what} {reason}")

    @property
    def is_classification(self) -> bool:
        """Whether pixels have a class id rather than numbers."""
        return self.kind == "classification"

    @property
    def head_range(self) -> tuple[float, float]:
        """Lowest and highest output of the task's head, infinite where its activation sets no limit."""
        return activation_of(self).range(self)

    @property
    def final_range(self) -> tuple[float, float]:
        """Lowest and highest prediction after post-processing, which limits those of heads to `value_range`, but for unit vectors."""
        if self.value_range is None or activation_of(self).gives_unit_vectors:
            return self.head_range
        (low, high), (lowest, highest) = self.value_range, self.head_range
        return max(low, lowest), min(high, highest)

    @property
    def flip_signs(self) -> tuple[float, ...]:
        """One factor per channel that a mirrored target is multiplied by; by default -1 for a rotated vector's component to the right."""
        right = self.rotated_channels[:1]
        return self.horizontal_flip_signs or tuple(-1.0 if channel in right else 1.0 for channel in range(self.channels))

    def decode(self, stored: np.ndarray, channels_last: bool | None = None) -> np.ndarray:
        """Turn a stored map into this task's target.

        Args:
            stored: (height, width), (height, width, channels) or (channels, height, width) as read from the file.
            channels_last: whether the channels of a map of three axes are the last one, as in every image file; by default its
                shape and this task decide.

        Returns:
            `np.ndarray`: (height, width) int64 with 255 where unknown, for classification; else (channels, height, width)
            float32 with NaN where unknown.

        Raises:
            ValueError: if the map does not fit the encoding, the channels or the class list; the message names the task.
        """
        if self.is_classification and np.asarray(stored).dtype == bool:  # a file of 1 bit, whose two values are classes 0 and 1
            stored = np.asarray(stored).astype(self.encoding.dtype)
        try:
            target = self.encoding.decode(stored, 1 if self.is_classification else self.channels, channels_last)
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
            every_id = np.unique(target[:1, wrong])
            ids = every_id[:5].astype(np.float64)
            stored_ids = self.encoding.stored_values(ids[None, None])[0, 0]
            found, in_file = (", ".join(f"{value:g}" for value in values) for values in (ids, stored_ids))
            found += "" if len(every_id) == len(ids) else f" and {len(every_id) - len(ids)} more"
            found += "" if found == in_file else f", which the file stores as {in_file}"
            raise ValueError(
                f"{self.name}: {int(wrong.sum())} pixels have class {found}; classes run from 0 to {self.channels - 1}, see `encoding`"
            )
        return classes

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Turn a target of [`TaskSpec.decode`]'s shape back into the stored (channels, height, width) map."""
        if self.is_classification:
            target = np.where(target == IGNORE_INDEX, np.nan, target)[None]
        return self.encoding.encode(target)

    def unknown_target(self, height: int, width: int) -> np.ndarray:
        """Target of a sample without this task: unknown everywhere, in the shape that [`TaskSpec.decode`] returns."""
        if self.is_classification:
            return np.full((height, width), IGNORE_INDEX, np.int64)
        return np.full((self.channels, height, width), np.nan, np.float32)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the inverse of [`TaskSpec.from_dict`]."""
        return _with_lists(asdict(self))

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "TaskSpec":
        """Build a task from JSON values. An entry of a registered task lists only the fields that differ; each field, including
        `encoding`, is replaced as a whole.

        Raises:
            ValueError: on an unknown field, a value of a wrong type, a missing name, kind or channels, or fields that do not fit one
                another; the message names the entry and the field.
        """
        if not isinstance(entry, Mapping):
            raise refusal(f"a task entry is {entry!r} ({type(entry).__name__}); give the name of a registered task or a mapping of fields")
        _refuse_unknown_fields(f"task entry {entry.get('name')!r}", entry, cls)
        if "name" not in entry:
            raise refusal(f"a task entry needs a name, got {dict(entry)}; add the field `name`")
        values = {**entry, "name": text("a task entry has the name", entry["name"])}
        base = _REGISTRY.get(values["name"])
        if values.get("encoding") is not None:
            values["encoding"] = _encoding(f"encoding of task {values['name']!r}", values["encoding"])
        if "class_names" in values and "channels" not in values:
            values["channels"] = len(texts(f"task {values['name']!r} has class_names", values["class_names"]))
        if base is not None:
            return replace(base, **values)
        missing = [key for key in ("kind", "channels") if key not in values]
        if missing:
            raise refusal(
                f"task {values['name']!r} is not registered{_similar(values['name'])} and its entry lacks {missing}; registered: "
                f"{', '.join(_REGISTRY)}; add the fields, or give one of these names"
            )
        return cls(**values)


def _encoding(what: str, values: Any) -> LabelEncoding:
    if isinstance(values, LabelEncoding):
        return values
    if not isinstance(values, Mapping):
        raise refusal(f"{what} is {values!r} ({type(values).__name__}); give a mapping of fields such as `dtype: uint16`")
    _refuse_unknown_fields(what, values, LabelEncoding)
    try:
        return LabelEncoding(**values)
    except ValueError as error:
        raise refusal(f"{what}: {error}") from None


def _refuse_unknown_fields(what: str, entry: Mapping[str, Any], cls: type) -> None:
    allowed = [f.name for f in fields(cls)]
    unknown = sorted(set(entry) - set(allowed), key=str)
    if unknown:
        meant = [name for field in unknown for name in get_close_matches(str(field), allowed, 1)]
        hint = f"; did you mean {', '.join(meant)}?" if meant else ""
        raise refusal(f"{what} has unknown fields {unknown}; allowed: {', '.join(allowed)}{hint}")


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
        TypeError: if it is no entry.
    """
    if not isinstance(spec, TaskSpec):
        raise TypeError(f"register_task got {spec!r}; give a TaskSpec; TaskSpec.from_dict(entry) makes one of an entry")
    if not exist_ok and _REGISTRY.get(spec.name, spec) != spec:
        raise ValueError(f"task {spec.name!r} is registered with other values; pass exist_ok=True to replace it")
    _REGISTRY[spec.name] = spec
    return spec


def registered_tasks() -> dict[str, TaskSpec]:
    """All registered tasks by name, in order of registration."""
    return dict(_REGISTRY)


def _similar(name: str) -> str:
    """A question about the registered task with a similar name; empty if there is none."""
    found = get_close_matches(name, _REGISTRY, 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def resolve_tasks(entries: Iterable[str | TaskSpec | Mapping[str, Any]] | Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """Turn names, entries or specs into specs by name, in the given order.

    Args:
        entries: names of registered tasks, [`TaskSpec`] objects, plain entries as in `config.json`, mixed; or a dict of
            specs as this function returns.

    Raises:
        ValueError: if a name is not registered or occurs twice, or an entry is invalid.
    """
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        raise refusal(f"tasks is {entries!r}; give a list of names of registered tasks or entries")
    specs: dict[str, TaskSpec] = {}
    for entry in entries.values() if isinstance(entries, Mapping) else entries:
        if isinstance(entry, str) and entry not in _REGISTRY:
            raise refusal(
                f"task {entry!r} is not registered{_similar(entry)}; registered: {', '.join(_REGISTRY)}; add it with register_task"
            )
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

# The six tasks of the paper (section 4). Encodings are those of Taskonomy, the paper's data set; others define their own. Taskonomy
# stores normals with x right, y down, z into the scene; here y is up and z comes towards the viewer. The paper does not state its
# loss weights. These compensate for units: errors in metres are large numbers, errors of heat maps that are mostly 0 are small.
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
        encoding=LabelEncoding(  # grey (127 or 128) is not a vector but a hole in the scan
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
"""Task that computes the shared attention unless a configuration names another (paper, section 4.3)."""
