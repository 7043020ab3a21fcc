"""Does a data set hold what its card says?

    mult-hf check DIR_OR_ID [--split S] [--samples N] [--sheet OUT.png]

Reads the first samples of each split through `datasets`, decodes every map with the card's `mult_tasks` record, prints what is
there and what looks wrong, and writes a contact sheet to look at. The exit status is 1 when something is wrong.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

try:
    from datasets import Image as ImageFeature
    from datasets import IterableDataset, load_dataset
except ImportError as error:
    raise ImportError(f'the checker needs the datasets library ({error}); install it with: pip install "mult-hf[data]"') from error

from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec, resolve_tasks
from mult_hf.model.visualization import colorize, panel

from .schema import load_task_entries

SHEET_ROWS = 8
"""Samples on a contact sheet."""


@dataclass
class TaskFindings:
    """What the read samples hold of one column.

    Args:
        rows: samples read.
        found: cells with a map.
        dtypes: of the stored maps.
        lowest: decoded value, over all known pixels.
        highest: decoded value, over all known pixels.
        pixels: of all maps.
        unknown: how many of them are not known.
        problems: sentence -> rows that it is true of.
    """

    rows: int = 0
    found: int = 0
    dtypes: set[str] = field(default_factory=set)
    lowest: float = np.inf
    highest: float = -np.inf
    pixels: int = 0
    unknown: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict)

    def wrong(self, sentence: str, row: str) -> None:
        """Note something that looks wrong, and where; sentences that differ in their numbers only are told by the first one."""
        first = next((known for known in self.problems if _without_numbers(known) == _without_numbers(sentence)), sentence)
        self.problems.setdefault(first, []).append(row)

    def describe(self) -> str:
        """One line: how many maps, of which type, range, share unknown."""
        if not self.found:
            return f"0 of {self.rows} maps: unknown everywhere"
        values = f"{self.lowest:.4g} to {self.highest:.4g}" if self.lowest <= self.highest else "nothing known"
        dtypes = ", ".join(sorted(self.dtypes)) or "unreadable"
        return f"{self.found} of {self.rows} maps, stored {dtypes}, decoded {values}, {self.unknown / max(self.pixels, 1):.1%} unknown"


def _without_numbers(sentence: str) -> str:
    return re.sub(r"\d[\d., ]*", "0", sentence)


@dataclass
class Findings:
    """The checker's result.

    Args:
        tasks: findings by column, `image` first.
        notes: worth knowing, not wrong.
        sheet: contact sheet, `None` if no picture could be read.
    """

    tasks: dict[str, TaskFindings]
    notes: list[str]
    sheet: Image.Image | None

    @property
    def is_right(self) -> bool:
        """Whether nothing looks wrong."""
        return not any(findings.problems for findings in self.tasks.values())

    def __str__(self) -> str:
        lines = []
        width = max(map(len, self.tasks))
        for task, findings in self.tasks.items():
            lines.append(f"{task:{width}}  {findings.describe()}")
            for sentence, rows in findings.problems.items():
                more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
                lines.append(f"{'':{width}}  WRONG: {sentence} [{', '.join(rows[:3])}{more}]")
        count = sum(len(findings.problems) for findings in self.tasks.values())
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), f"{count} things look wrong" if count else "all looks right"])


def check(name_or_path: str | Path, split: str | None = None, samples: int = 64, token: str | None = None) -> Findings:
    """Read the first samples of a data set and look for what is commonly wrong.

    Args:
        name_or_path: local directory or Hub id with a `mult_tasks` record in its card.
        split: all splits if left out.
        samples: rows read of each split, from its beginning.
        token: for private data sets.

    Raises:
        ValueError: if the card or the data cannot be read at all.
    """
    specs = resolve_tasks(load_task_entries(name_or_path, token=token))
    findings = {column: TaskFindings() for column in ("image", *specs)}
    notes: list[str] = []
    shown: list[list[Image.Image | None]] = []
    for split_name, dataset in _open(name_or_path, split, token).items():
        notes += [note for note in _column_notes(dataset, specs) if note not in notes]
        for number, row in enumerate(islice(_undecoded(dataset), samples)):
            pictures = _check_row(row, f"{split_name} row {number}", specs, findings)
            if len(shown) < SHEET_ROWS:
                shown.append(pictures)
    if not findings["image"].rows:
        raise ValueError(f"{name_or_path} has no rows to check")
    if specs and not any(findings[task].found for task in specs):
        findings["image"].wrong(f"no task of the card has a map; the card lists {', '.join(specs)}", "all rows")
    any_picture = any(picture is not None for pictures in shown for picture in pictures)
    return Findings(findings, notes, panel(shown, ("image", *specs)) if any_picture else None)


def _open(name_or_path: str | Path, split: str | None, token: str | None) -> dict[str, IterableDataset]:
    try:
        splits = load_dataset(str(name_or_path), streaming=True, token=token)
    except Exception as error:  # `datasets` raises its own, huggingface_hub's and fsspec's errors here
        raise ValueError(f"datasets cannot load {name_or_path}: {error}") from error
    if split is not None and split not in splits:
        raise ValueError(f"{name_or_path} has no split {split!r}; it has {', '.join(splits)}")
    return dict(splits) if split is None else {split: splits[split]}


def _column_notes(dataset: IterableDataset, specs: Mapping[str, TaskSpec]) -> Iterator[str]:
    columns = dataset.features or {}
    for column, feature in columns.items():
        if isinstance(feature, ImageFeature) and column not in ("image", *specs):
            yield f"column {column!r} holds pictures but the card has no task of that name"
    for task in specs:
        if columns and task not in columns:
            yield f"no column {task!r}: unknown everywhere"


def _undecoded(dataset: IterableDataset) -> Iterator[dict[str, Any]]:
    """Rows with pictures as their bytes, so that a broken one is a finding and not the end."""
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, ImageFeature):
            dataset = dataset.cast_column(column, ImageFeature(decode=False))
    return iter(dataset)


def _check_row(
    row: Mapping[str, Any], where: str, specs: Mapping[str, TaskSpec], findings: dict[str, TaskFindings]
) -> list[Image.Image | None]:
    """Check the cells of a row; returns their pictures for the sheet, `None` for what is not there or unreadable."""
    image = _check_image(row.get("image"), where, findings["image"])
    pictures: list[Image.Image | None] = [image]
    for task, spec in specs.items():
        target = _check_map(row.get(task), where, spec, findings[task])
        pictures.append(None if target is None else colorize(target, spec))
        if target is not None and image is not None:
            height, width = target.shape[-2:]
            if abs(width * image.height / (height * image.width) - 1) > 0.02:
                findings[task].wrong(f"maps of {height} x {width} for images of {image.height} x {image.width}: another shape", where)
    return pictures


def _check_image(cell: Any, where: str, findings: TaskFindings) -> Image.Image | None:
    findings.rows += 1
    stored = _stored(cell, where, findings)
    if stored is None:
        if cell is None:
            findings.wrong("the image is missing, and a sample cannot be without one", where)
        return None
    findings.lowest, findings.highest = min(findings.lowest, stored.min()), max(findings.highest, stored.max())
    findings.pixels += stored.shape[0] * stored.shape[1]
    if stored.dtype != np.uint8:
        findings.wrong(f"the image is {stored.dtype}, expected 8-bit RGB", where)
        return None
    if stored.min() == stored.max():
        findings.wrong("the image has one colour only", where)
    return Image.fromarray(stored).convert("RGB")


def _check_map(cell: Any, where: str, spec: TaskSpec, findings: TaskFindings) -> np.ndarray | None:
    findings.rows += 1
    stored = _stored(cell, where, findings)
    if stored is None:
        return None
    try:
        target = spec.decode(stored)
    except ValueError as error:
        findings.wrong(str(error).removeprefix(f"{spec.name}: "), f"{where}{_file_of(cell)}")
        return None
    known = target != IGNORE_INDEX if spec.is_classification else np.isfinite(target).all(axis=0)
    findings.pixels += known.size
    findings.unknown += int((~known).sum())
    if not known.any():
        findings.wrong("maps without one known pixel; a null cell says the same", where)
        return target
    values = target[..., known]
    findings.lowest, findings.highest = min(findings.lowest, float(values.min())), max(findings.highest, float(values.max()))
    for sentence in _suspicions(values, spec):
        findings.wrong(sentence, f"{where}{_file_of(cell)}")
    return target


def _stored(cell: Any, where: str, findings: TaskFindings) -> np.ndarray | None:
    """The array of a cell; what cannot be read is noted."""
    if cell is None:
        return None
    findings.found += 1
    try:
        stored = _picture_array(cell) if isinstance(cell, Mapping) else np.asarray(cell)
    except UnidentifiedImageError:  # its own text holds an address in memory
        findings.wrong("is no picture that can be opened", f"{where}{_file_of(cell)}")
        return None
    except (OSError, SyntaxError, ValueError) as error:
        findings.wrong(f"cannot be read to its end: {error}", f"{where}{_file_of(cell)}")
        return None
    findings.dtypes.add(str(stored.dtype))
    return stored


def _picture_array(cell: Mapping[str, Any]) -> np.ndarray:
    with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]) as picture:
        return np.asarray(picture)


def _file_of(cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, Mapping) else None
    return f" ({path})" if path else ""


def _suspicions(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    """What looks wrong about the known values of one map: (pixels,) class ids or (channels, pixels) numbers."""
    if not spec.is_classification and values.shape[-1] > 1 and (values.max(axis=-1) == values.min(axis=-1)).all():
        yield "maps of one value only"
    yield from UNIT_CHECKS.get(spec.unit, lambda values, spec: ())(values, spec)


def _metres(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    if np.median(values) > 100:
        yield "median beyond 100 m: these look like millimetres; divide the encoding's scale by 1000"
    if values.min() <= 0:
        yield "distances of 0 or less are known pixels; list the stored value under the encoding's unknown"


def _unit_vectors(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    length = np.linalg.norm(values, axis=0)
    if np.mean(np.abs(length - 1) > 0.1) > 0.05:
        yield "vectors that are not unit in over 5% of pixels; check the encoding's scale and offset, list the value of holes as unknown"
    # No visible normal points away along its own ray, but a floor does point away from the axis of a camera that looks up. Such
    # surfaces never fill half of a picture.
    if np.mean(values[-1] < -STEP_OF_8_BITS) > 0.5:
        yield "vectors that point away from the camera; z is towards the viewer here: turn the sign of the encoding's scale and offset"


def _within_range(values: np.ndarray, spec: TaskSpec) -> Iterator[str]:
    low, high = spec.value_range or (-np.inf, np.inf)
    slack = 0.01 * (high - low) if spec.value_range else 0.0
    if values.min() < low - slack or values.max() > high + slack:
        yield f"values beyond [{low:g}, {high:g}]; check the encoding's scale"


STEP_OF_8_BITS = 1 / 127
"""What rounding to 8 bits may do to a component: floors before a level camera have z = 0, stored a little above or below it."""

UNIT_CHECKS: dict[str, Callable[[np.ndarray, TaskSpec], Iterator[str]]] = {
    "m": _metres,
    "unit vector": _unit_vectors,
    "[0, 1]": _within_range,
}
"""What can be wrong with maps of a unit; a task without an entry here is only checked against its encoding."""
