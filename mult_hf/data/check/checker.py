"""Check whether a data set matches its card.

    mult-hf check DIR_OR_ID [--split S] [--samples N] [--sheet OUT.png]

Reads the first samples of each split with `datasets`, decodes every map with the card's `mult_tasks` record, prints a summary and
everything that looks wrong, and writes a contact sheet for visual inspection. The exit status is 1 if something looks wrong.
"""

import math
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mult_hf.model.entry_fields import refusal

try:
    from datasets import Dataset, IterableDataset, load_dataset
    from datasets import Image as ImageFeature
except ImportError as error:
    raise ImportError(f'the checker needs the datasets library ({error}); install it with: pip install "mult-hf[data]"') from error

from mult_hf.metrics import metrics_of
from mult_hf.model.activations import check_activation
from mult_hf.model.alignment import misalignment
from mult_hf.model.images import BROKEN, read_image
from mult_hf.model.losses import check_loss, loss_function
from mult_hf.model.processor_labels import unfit_file
from mult_hf.model.tasks import IGNORE_INDEX, TaskSpec, resolve_tasks
from mult_hf.model.visualization import check_colormap, colorize, colormaps_of, panel

from ..metadata_files import FILE_NAME, explain_load_error, metadata_mistake
from ..schema import FOCAL_LENGTH, load_task_entries, refuse_ignored_files, with_columns_of_tasks, with_full_path
from .cells import file_of, is_file, kind_of, opened, readable, stored_array, undecoded
from .class_mistakes import class_mistake, colour_coding, zero_based_ids
from .depth_mistakes import INVERTED, NORMALISED, is_depth, odd_depth
from .findings import Findings, TaskFindings, without_numbers
from .mistakes import (
    FLIPPED,
    REVERSED,
    Z_AWAY,
    drawn_in_colours,
    flips_in_numbers,
    focal_length_mistake,
    geometry_notes,
    is_normals,
    loss_notes,
    pair_evidence,
    pair_mistakes,
    scene_mistakes,
    suspicions,
    unreachable_mistake,
)

HELD_OUT = "--train_split 'train[:90%]' --validation_split 'train[90%:]'"
"""Flags of training for data with training rows only."""

MOST_REASONS, LONGEST_REASONS = 5, 430
"""Entries of a card of which a message says what is wrong, and the characters for that; commands print 500."""

MOST_UNKNOWN = 0.5
"""Largest share of unknown pixels that is not worth a note."""

UNKNOWN_MAP = "maps without a known pixel; use a null cell instead"

SHEET_ROWS = 8
"""Samples on a contact sheet."""


def check(name_or_path: str | Path, split: str | None = None, samples: int = 64, token: str | None = None) -> Findings:
    """Read the first samples of a data set and look for common mistakes.

    Args:
        name_or_path: local directory or Hub id with a `mult_tasks` record in its card.
        split: name of the split to check; all splits by default.
        samples: number of rows to read from the start of each split.
        token: Hub token for private data sets.

    Raises:
        ValueError: if the card or the data cannot be read at all.
    """
    entries = load_task_entries(name_or_path, token=token)
    _resolved(entries)  # refused before any row is read
    splits = _open(name_or_path, split, token)
    findings = check_rows(splits, entries, samples)
    if split is None and "train" in splits and "validation" not in splits:
        findings.notes.append(f"no split 'validation', on which training measures; train with {HELD_OUT}")
    for split_name in findings.empty_splits:
        mistake = metadata_mistake(Path(name_or_path))
        cause = f": {mistake}" if mistake else ""
        findings.tasks["image"].wrong(f"no rows, so nothing can be trained or measured on it{cause}", f"split {split_name}")
    if not findings.tasks["image"].rows:
        reasons = [sentence for sentence in findings.tasks["image"].problems if "no rows" in sentence] or [f"--samples is {samples}"]
        raise ValueError(f"{name_or_path} has no rows to check; {reasons[0]}")
    return findings


def check_rows(
    splits: Mapping[str, Dataset | IterableDataset],
    entries: Sequence[Any],
    samples: int = 64,
    *,
    seconds: float = math.inf,
    draw: bool = True,
) -> Findings:
    """Look for common mistakes in the first rows of each split of an opened data set.

    Args:
        splits: the rows of each split.
        entries: the data set's entries of the tasks.
        samples: number of rows to read from the start of each split.
        seconds: time after which no further row of a split is read.
        draw: whether to make the contact sheet.

    Raises:
        ValueError: if an entry is wrong.
    """
    specs = _resolved(entries)
    findings = {column: TaskFindings() for column in ("image", *specs)}
    for task, spec in specs.items():
        _check_names(spec, findings[task])
    without_encoding = [task for entry, task in zip(entries, specs, strict=True) if isinstance(entry, str) or entry.get("encoding") is None]
    notes: list[str] = []
    shown: list[list[Image.Image | None]] = []
    columns: dict[str, Any] = {}  # type of each column
    empty = []
    read: dict[str, int] = {}
    for split_name, dataset in splits.items():
        notes += [note for note in _column_notes(dataset, specs) if note not in notes]
        columns |= dataset.features or {}
        before, started = findings["image"].rows, time.monotonic()
        for number, row in enumerate(islice(readable(undecoded(dataset), split_name), samples + 1)):
            if number == samples:
                notes.append(f"{split_name}: only the first {samples} rows were read; --samples reads more")
                break
            is_shown = draw and len(shown) < SHEET_ROWS
            cells = _check_row(row, f"{split_name} row {number}", specs, findings, draw=is_shown)
            shown += [cells] * is_shown
            if time.monotonic() - started > seconds:
                break
        read[split_name] = findings["image"].rows - before
        if samples and not read[split_name]:
            empty.append(split_name)
    for task in specs:
        if task not in columns and (similar := _similar(task, {name: kind for name, kind in columns.items() if name not in specs})):
            is_image = isinstance(columns[similar], ImageFeature)
            files = "" if is_image else f" (if it names files, its key in {FILE_NAME} must be {task}_file_name)"
            findings[task].wrong(f"no column {task!r}, but {similar!r}: rename the one you mean{files}", "the columns")
    without_column = [task for task in specs if task not in columns]  # of which the other column may be a map
    if "image" not in columns and not without_column and len(others := [*_other_images(columns, specs)]) == 1:
        hint = f"if it holds the images, rename it to 'image' (in {FILE_NAME}, its key to image_file_name)"
        findings["image"].wrong(f"no column 'image', but {others[0]!r}: {hint}", "the columns")
    if findings["image"].rows and specs and not any(findings[task].found for task in specs):
        findings["image"].wrong(_without_maps(specs, columns), "all rows")
    for task, spec in specs.items():
        _judge_all_maps(findings[task], spec, has_encoding=task not in without_encoding)
        notes += _task_notes(task, findings[task], spec)
    _judge_pairs(findings, specs)
    for task, spec in specs.items():
        _put_numbers(findings[task], spec)
    sheet = panel(shown, ("image", *specs)) if any(cell is not None for cells in shown for cell in cells) else None
    doubts = [
        *_unmatched(specs, columns, findings),
        *_encoding_notes(specs, [task for task in without_encoding if findings[task].found]),
        *_doubts(findings, specs, without_encoding),
    ]
    return Findings(findings, notes, sheet, empty, doubts, read)


def _resolved(entries: Sequence[Any]) -> dict[str, TaskSpec]:
    """The specs of all entries, or an error with what is wrong with each of them."""
    wrong = []
    for entry in entries:
        try:
            resolve_tasks([entry])
        except ValueError as error:
            wrong.append(str(error))
    if len(wrong) > 1:
        shown = wrong[:MOST_REASONS]
        reasons = "; ".join(str(refusal(reason, LONGEST_REASONS // len(shown))) for reason in shown)
        more = f"; and {len(wrong) - len(shown)} more" if len(wrong) > len(shown) else ""
        raise ValueError(f"{len(wrong)} entries of the card are wrong: {reasons}{more}")
    return resolve_tasks(entries)


def _encoding_notes(specs: Mapping[str, TaskSpec], without_encoding: Collection[str]) -> Iterator[str]:
    """How maps are read whose entry does not say it. Another bit depth is refused; another scale or first id may not show."""
    for task in without_encoding:
        read = specs[task].encoding
        fields = f"dtype {read.dtype}, scale {read.scale}, offset {read.offset}, unknown {list(read.unknown)}"
        yield f"{task}: the card's entry has no encoding, so maps are read with {fields}"


def _check_names(spec: TaskSpec, findings: TaskFindings) -> None:
    """Find the names in a task's entry that training or evaluation would refuse."""
    for what in (check_activation, loss_function, check_loss, metrics_of, check_colormap):
        try:
            what(spec)
        except ValueError as error:
            findings.wrong(str(error), "the card")


def _open(name_or_path: str | Path, split: str | None, token: str | None) -> dict[str, IterableDataset]:
    try:
        splits = load_dataset(with_full_path(name_or_path), streaming=True, token=token)
    except Exception as error:  # `datasets` raises its own, huggingface_hub's and fsspec's errors here
        raise ValueError(f"datasets cannot load {name_or_path}: {explain_load_error(Path(name_or_path), error)}") from error
    if split is not None and split not in splits:
        raise refusal(f"{name_or_path} has no split {split!r}; it has {', '.join(splits)}")
    refuse_ignored_files(Path(name_or_path), splits)
    splits = with_columns_of_tasks(splits)
    return dict(splits) if split is None else {split: splits[split]}


def _without_maps(specs: Collection[str], columns: Collection[str]) -> str:
    empty = [task for task in specs if task in columns]
    if empty:
        return f"no task of the card has a map: {', '.join(empty)} {'is' if len(empty) == 1 else 'are'} null in all rows that were read"
    return (
        f"no task of the card has a map; the card lists {', '.join(specs)}, and the columns are {', '.join(columns)}; name columns after "
        f"the tasks, in a folder of images by keys such as '{next(iter(specs))}_file_name' in its {FILE_NAME}"
    )


def _column_notes(dataset: Dataset | IterableDataset, specs: Mapping[str, TaskSpec]) -> Iterator[str]:
    columns = dataset.features or {}
    for column in _other_images(columns, specs):
        yield f"column {column!r} holds images, but the card has no task of that name"
    if FOCAL_LENGTH not in columns and (alike := [name for name in columns if "focal" in name.lower() and name not in specs]):
        yield f"no column {FOCAL_LENGTH!r}, but {alike[0]!r}: if it holds the focal length in pixels of each image, rename it"
    for task in specs:
        if columns and task not in columns:
            yield f"no column {task!r}: unknown everywhere"


def _other_images(columns: Mapping[str, Any], specs: Collection[str]) -> Iterator[str]:
    """Columns of images that are neither the images themselves nor a task's maps."""
    return (name for name, kind in columns.items() if isinstance(kind, ImageFeature) and name not in ("image", *specs))


def _unmatched(specs: Collection[str], columns: Mapping[str, Any], findings: Mapping[str, TaskFindings]) -> Iterator[str]:
    """Tasks without a column beside columns of images with similar names that no task has."""
    images = [*_other_images(columns, specs)]
    for task in specs:
        alike = [name for name in images if without_numbers(name) != without_numbers(task)]  # edges3d are no edges2d
        if task not in columns and not findings[task].problems and (close := get_close_matches(task, alike, 1)):
            yield f"no column {task}, and no task {close[0]}: if they are meant to be the same, give them one name; else neither is used"


def _similar(task: str, columns: Mapping[str, Any]) -> str | None:
    """A column of images, or of their file names, that may be meant to be a task's, or `None`.

    Args:
        task: name of a task without a column.
        columns: the type of each column that is no task's.
    """
    images = [
        name
        for name, kind in columns.items()
        if isinstance(kind, ImageFeature) and name != "image" and without_numbers(name) != without_numbers(task)  # 2d is not 3d
    ]
    files = [name for name, kind in columns.items() if not isinstance(kind, ImageFeature) and name.startswith(f"{task}_file")]
    return next(iter([*files, *get_close_matches(task, images, 1, cutoff=0.8)]), None)


def _check_row(
    row: Mapping[str, Any], where: str, specs: Mapping[str, TaskSpec], findings: dict[str, TaskFindings], *, draw: bool
) -> list[Image.Image | None]:
    """Check the cells of a row and return their images for the sheet, `None` if missing or unreadable."""
    image = _check_image(row.get("image"), where, findings["image"])
    mistake = None if image is None else focal_length_mistake(row.get(FOCAL_LENGTH), image.size)
    if mistake:
        findings["image"].wrong(mistake, where)
    shown: list[Image.Image | None] = [image]
    targets: dict[str, np.ndarray] = {}
    for task, spec in specs.items():
        target = _check_map(row.get(task), where, spec, findings[task])
        shown.append(None if not draw or target is None or spec.colormap not in colormaps_of(spec) else colorize(target, spec))
        if target is None:
            continue
        targets[task] = target
        reason = None if image is None else misalignment(opened(row[task]), opened(row["image"]))
        if reason:
            findings[task].wrong(reason, f"{where}{file_of(row[task])}")
    for depth, normals in _pairs(specs):
        if depth in targets and normals in targets:
            pair_evidence(targets[depth], targets[normals], findings[normals].evidence.counts)
    return shown


def _pairs(specs: Mapping[str, TaskSpec]) -> list[tuple[str, str]]:
    """The first task of depth paired with the first one of normals, if both exist."""
    depths, normals = ([task for task, spec in specs.items() if is_such(spec)] for is_such in (is_depth, is_normals))
    return list(zip(depths[:1], normals[:1], strict=False))


def _judge_all_maps(findings: TaskFindings, spec: TaskSpec, has_encoding: bool) -> None:
    """Record mistakes that only show over several maps; an explanation of undecodable ids is added to their problem."""
    for sentence in scene_mistakes(findings.evidence):
        findings.wrong(sentence, "all rows")
    unreachable = unreachable_mistake(findings.evidence, spec)
    if unreachable and not findings.evidence.suspicious_maps:  # a wrong scale, for instance, explains these values, too
        findings.wrong(unreachable, "all rows")
    if NORMALISED in findings.problems:  # which also explains any unit
        findings.problems = {sentence: rows for sentence, rows in findings.problems.items() if not sentence.startswith("a median of")}
    if not spec.is_classification:
        return
    mistake = class_mistake(findings.evidence, spec, has_encoding=has_encoding)
    if mistake is None and findings.unknown_share > MOST_UNKNOWN and IGNORE_INDEX not in findings.evidence.stored_ids:
        mistake = zero_based_ids(findings.evidence, spec, has_encoding=has_encoding)
    if mistake is None:
        return
    if findings.unknown == findings.pixels:
        findings.problems.pop(UNKNOWN_MAP, None)  # which it explains
    undecoded = next((sentence for sentence in findings.problems if "pixels have class" in sentence), None)
    rows = ["all rows"] if undecoded is None else findings.problems.pop(undecoded)
    findings.problems[mistake if undecoded is None else f"{undecoded}: {mistake}"] = rows


def _judge_pairs(findings: Mapping[str, TaskFindings], specs: Mapping[str, TaskSpec]) -> None:
    for depth, normals in _pairs(specs):
        if INVERTED in findings[depth].problems or REVERSED in findings[normals].problems:
            continue  # which explains what contradicts
        counts, away = findings[normals].evidence.counts, Z_AWAY in findings[normals].problems
        for task, sentences in zip((depth, normals), pair_mistakes(counts, points_away=away), strict=True):
            for sentence in sentences:
                if sentence not in findings[task].problems:
                    findings[task].wrong(sentence, "all rows")


def _put_numbers(findings: TaskFindings, spec: TaskSpec) -> None:
    """Add the encoding that corrects all mirrored axes at once to each problem of an axis."""
    remedy = flips_in_numbers(findings.problems, spec)
    findings.problems = {sentence + (remedy if sentence in FLIPPED else ""): rows for sentence, rows in findings.problems.items()}


def _doubts(findings: Mapping[str, TaskFindings], specs: Mapping[str, TaskSpec], without_encoding: Collection[str]) -> Iterator[str]:
    """What may be wrong, or right: ids from 0 that the entry reads from 1, and depth that is very near or far."""
    for task, spec in specs.items():
        evidence, problems = findings[task].evidence, findings[task].problems
        if spec.is_classification and task not in without_encoding:
            doubt = zero_based_ids(evidence, spec, has_encoding=True)
        else:
            doubt = None if evidence.suspicious_maps else odd_depth(evidence.medians, spec)
        if doubt and doubt not in problems:
            yield f"{task}: {doubt}"


def _task_notes(task: str, findings: TaskFindings, spec: TaskSpec) -> Iterator[str]:
    """Notes about the entry, about which classes occur, and whether more than half of the pixels are unknown."""
    yield from (f"{task}: {sentence}" for notes in (geometry_notes, loss_notes) for sentence in notes(spec))
    if findings.pixels and findings.unknown_share > MOST_UNKNOWN:
        yield f"{task}: {findings.unknown_share:.1%} of the pixels of its maps are unknown"
    pixels = findings.evidence.class_pixels
    if not pixels:
        return
    yield f"{task}: {_class_shares(pixels, spec)}"
    missing = [_class_name(number, spec) for number in range(spec.channels) if number not in pixels]
    if missing:
        yield f"{task}: {len(missing)} of {spec.channels} classes do not occur: {_shortened(missing)}"


def _class_shares(pixels: Counter[int], spec: TaskSpec) -> str:
    return _shortened([f"{_class_name(number, spec)} {count / pixels.total():.1%}" for number, count in pixels.most_common()])


def _class_name(number: int, spec: TaskSpec) -> str:
    return spec.class_names[number] if spec.class_names else f"class {number}"


def _shortened(names: Sequence[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _check_image(cell: Any, where: str, findings: TaskFindings) -> Image.Image | None:
    findings.rows += 1
    stored = stored_array(cell, where, findings)
    if stored is None:
        if cell is None:
            findings.wrong("the image is missing; every sample needs one", where)
        return None
    findings.lowest, findings.highest = min(findings.lowest, stored.min()), max(findings.highest, stored.max())
    findings.pixels += stored.shape[0] * stored.shape[1]
    if not is_file(cell):
        findings.wrong(f"the image is an array, {kind_of(cell)}; store images with the type `datasets.Image`", where)
        return None
    if stored.dtype != np.uint8:
        findings.wrong(f"the image is {stored.dtype}, expected 8-bit RGB", where)
        return None
    if stored.min() == stored.max():
        findings.wrong("the image has only one colour", where)
    try:
        return _shown(opened(cell))
    except BROKEN as error:
        findings.wrong(f"cannot be read completely: {error}", f"{where}{file_of(cell)}")
        return None


def _shown(image: Any) -> Image.Image:
    """An image as models see it."""
    read = read_image(image)
    return read if isinstance(read, Image.Image) else Image.fromarray(np.asarray(read).transpose(1, 2, 0))


def _check_map(cell: Any, where: str, spec: TaskSpec, findings: TaskFindings) -> np.ndarray | None:
    findings.rows += 1
    stored = stored_array(cell, where, findings)
    if stored is None:
        return None
    if isinstance(cell, Mapping):
        with opened(cell) as file:
            reason = unfit_file(file, spec)
        if reason:
            findings.wrong(reason, f"{where}{file_of(cell)}")
            return None
    if spec.is_classification:
        _check_class_file(cell, stored, spec, f"{where}{file_of(cell)}", findings)
        if colour_coding(stored, spec):
            return None
    if drawn := drawn_in_colours(stored, spec):
        findings.wrong(drawn, f"{where}{file_of(cell)}")
        return None
    try:
        target = spec.decode(stored)
    except ValueError as error:
        drawn = "; distances in 8 bits look like depth drawn for viewing" if is_depth(spec) and stored.dtype == np.uint8 else ""
        findings.wrong(str(error).removeprefix(f"{spec.name}: ") + drawn, f"{where}{file_of(cell)}")
        return None
    known = target != IGNORE_INDEX if spec.is_classification else np.isfinite(target).all(axis=0)
    findings.pixels += known.size
    findings.unknown += int((~known).sum())
    if not known.any():
        findings.wrong(UNKNOWN_MAP, where)
        return target
    findings.evidence.add_target(target, known, spec)
    findings.evidence.add_stored(stored, known, spec)
    values = target[..., known]
    findings.lowest, findings.highest = min(findings.lowest, float(values.min())), max(findings.highest, float(values.max()))
    for sentence in suspicions(values, spec):
        findings.evidence.suspicious_maps += 1
        findings.wrong(sentence, f"{where}{file_of(cell)}")
    return target


def _check_class_file(cell: Any, stored: np.ndarray, spec: TaskSpec, where: str, findings: TaskFindings) -> None:
    """Report files that cannot hold class ids, and record the ids of the others."""
    coding = colour_coding(stored, spec)
    if coding:
        findings.wrong(coding, where)
        return
    findings.evidence.add_ids(stored, spec.encoding.channels)
    if isinstance(cell, Mapping):
        with opened(cell) as file:
            if file.format == "JPEG":
                findings.wrong("class ids stored as JPEG, whose compression changes them; use PNG", where)
