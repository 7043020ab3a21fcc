"""Photographs with measured depth: metrics that do not depend on the scale of depth, and normals from depth with their noise.

If a model was trained with one kind of camera, its depth in metres is wrong by a factor for another. Median scaling removes this factor
for each image (Zhou et al., arXiv 1704.07813). Both kinds of metrics are reported. The tasks are found by their entries: lengths by
`zoom_exponent`, depth and normals by `transformers_task`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mult_hf.data.schema import CARD_KEY, FOCAL_LENGTH, card_header
from mult_hf.metrics import MultiTaskMetrics
from mult_hf.metrics.statistics import angle_between
from mult_hf.model.alignment import upright_size
from mult_hf.model.cameras import check_focal_length
from mult_hf.model.processor_labels import decode_map
from mult_hf.model.tasks import LabelEncoding, TaskSpec

from .loop import Evaluation

if TYPE_CHECKING:
    from datasets import Dataset

SCALED_METRICS = ("abs_rel_median_scaled", "delta1_median_scaled", "abs_rel", "delta1", "rmse")
"""Metrics of lengths on photographs; the first is the headline metric, for which the constant baseline is optimised."""


def find_sets(directory: str | Path) -> list[Path]:
    """The data sets in the subdirectories of a directory, sorted by name: those with a card that lists tasks.

    Returns:
        Their directories; empty if the directory is a data set, or there are none.
    """
    directory = Path(directory)
    if not directory.is_dir() or _is_set(directory):
        return []
    return sorted(path for path in directory.iterdir() if path.is_dir() and _is_set(path))


def _is_set(directory: Path) -> bool:
    card = directory / "README.md"
    return card.is_file() and bool(card_header(card).get(CARD_KEY))


def with_scaled_metrics(specs: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """The entries, with [`SCALED_METRICS`] for every length: a task of one channel whose values are divided by the zoom of an image."""
    return {
        task: replace(spec, metrics=SCALED_METRICS) if spec.zoom_exponent == -1 and spec.channels == 1 else spec
        for task, spec in specs.items()
    }


def task_of(specs: Mapping[str, TaskSpec], transformers_task: str) -> str | None:
    """Name of the first task with this `transformers_task`, such as "depth-estimation"; None if there is none."""
    return next((task for task, spec in specs.items() if spec.transformers_task == transformers_task), None)


class RowsWithNormals:
    """Rows with normals that are computed from their depth, for [`evaluate`][mult_hf.evaluation.loop.evaluate].

    Args:
        rows: rows with depth and a column of focal lengths in pixels of the image; rows that lack either have no normals.
        depth: entry of the depth, with its encoding.
        name: name of the new column of normals: (3, height, width) float32, NaN where unknown.
    """

    def __init__(self, rows: "Dataset | Sequence[Mapping[str, Any]]", depth: TaskSpec, name: str) -> None:
        self.rows, self.depth, self.name = rows, depth, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """A row, with its normals."""
        row = dict(self.rows[number])
        found = depth_and_focal_length(row, self.depth)
        return {**row, self.name: None if found is None else _normals_from_depth(*found)}


def check_focal_lengths(rows: "Dataset", numbers: Iterable[int], split: str, column: str = FOCAL_LENGTH) -> None:
    """Check the focal lengths of rows before any prediction.

    Args:
        rows: whose column [`FOCAL_LENGTH`] is read, if there is one.
        numbers: the rows to check.
        split: its name for the message.
        column: name of the column for the message.

    Raises:
        ValueError: if one is not a valid number of pixels; the message names its row.
    """
    if FOCAL_LENGTH in rows.column_names:
        numbers = list(numbers)
        for number, value in zip(numbers, rows.select_columns([FOCAL_LENGTH]).select(numbers)[FOCAL_LENGTH]):
            if value is not None:
                check_focal_length(value, f"{column} of {split} row {number}")


def _normals_from_depth(depth: np.ndarray, *camera: Any) -> np.ndarray:
    """[`normals_from_depth`][mult_hf.data.derive.normals_from_depth], whose module needs the extra `data`; other evaluations do not."""
    from mult_hf.data.derive import normals_from_depth

    return normals_from_depth(depth, *camera)


def depth_and_focal_length(row: Mapping[str, Any], depth: TaskSpec) -> tuple[np.ndarray, float] | None:
    """A row's depth (height, width) in metres, and its focal length in pixels of the map; None where either is missing."""
    stored, focal = row.get(depth.name), row.get(FOCAL_LENGTH)
    if stored is None or focal is None:
        return None
    values = decode_map(stored, depth)[0]
    return values, focal * values.shape[1] / upright_size(row["image"])[1]


def add_normals(
    rows: "Dataset", specs: Mapping[str, TaskSpec], known: Mapping[str, TaskSpec]
) -> tuple["Dataset | RowsWithNormals", dict[str, TaskSpec]]:
    """Add normals that are computed from depth to a data set that has depth and focal lengths, but no normals.

    Args:
        rows: rows of the data set.
        specs: task entries of the data set.
        known: entries that may contain one of normals, such as the registered ones.

    Returns:
        The rows and the entries, with normals, or unchanged if the data set has normals or lacks depth or focal lengths.
    """
    depth, normals = task_of(specs, "depth-estimation"), task_of(known, "normal-estimation")
    if depth is None or normals is None or normals in specs or FOCAL_LENGTH not in rows.column_names:
        return rows, dict(specs)
    return RowsWithNormals(rows, specs[depth], normals), {**specs, normals: replace(known[normals], encoding=LabelEncoding())}


def noise_of_normals(depth: np.ndarray, focal: float) -> np.ndarray:
    """Noise of normals from depth: the angles between normals from two subsets of the pixels, divided by the square root of 2.

    One subset has the even rows and columns, the other one the odd ones. Both show the same surfaces with independent noise. (The result is
    a lower bound: it excludes noise that neighbouring pixels share, such as that of depth cameras that match patches.)

    Args:
        depth: (height, width) metres, NaN where unknown.
        focal: focal length in pixels.

    Returns:
        `np.ndarray`: (pixels,) angles in degrees, where both normals are known.

    Raises:
        ValueError: if the focal length is not positive, or not finite.
    """
    from mult_hf.data.derive import check_focal_length as check_camera  # which needs the extra `data`

    check_camera(focal)  # not half of it
    height, width = (side // 2 * 2 for side in depth.shape)
    halves = []
    for start in (0, 1):
        centre = tuple((side / 2 - start) / 2 + 0.25 for side in (depth.shape[1], depth.shape[0]))
        halves.append(torch.from_numpy(_normals_from_depth(depth[start:height:2, start:width:2], focal / 2, centre)))
    angles = angle_between(*halves)
    return (angles[torch.isfinite(angles)] / math.sqrt(2)).numpy()


def noise_floor(rows: Sequence[Mapping[str, Any]] | RowsWithNormals, depth: TaskSpec) -> float | None:
    """The median of [`noise_of_normals`] over all rows, in degrees; None if no row has enough depth and a focal length.

    A model that predicts the true normals has about this median angle when it is compared with normals from such depth.
    """
    found = (depth_and_focal_length(rows[number], depth) for number in range(len(rows)))
    angles = [noise_of_normals(*each) for each in found if each is not None]
    pooled_angles = np.concatenate([np.empty(0), *angles])
    return float(np.median(pooled_angles)) if len(pooled_angles) else None


def pooled(evaluations: Sequence[Evaluation]) -> MultiTaskMetrics:
    """The metrics of all images of several data sets, whose tasks may differ: for each task, those common to all sets that have it."""
    specs: dict[str, TaskSpec] = {}
    common: dict[str, tuple[str, ...]] = {}
    for each in evaluations:
        for task, spec in each.specs.items():
            specs.setdefault(task, spec)
            common[task] = tuple(name for name in common.get(task, spec.metrics) if name in spec.metrics)
    total = MultiTaskMetrics({task: replace(spec, metrics=common[task]) for task, spec in specs.items() if common[task]})
    for each in evaluations:
        total.merge(each.metrics)
    return total


def metrics_of_some_sets(evaluations: Sequence[Evaluation], whole: MultiTaskMetrics) -> list[str]:
    """The metrics, as `"task/metric"`, that the [`pooled`] ones of these evaluations, `whole`, lack."""
    measured = {f"{task}/{name}" for each in evaluations for task, spec in each.specs.items() for name in spec.metrics}
    return sorted(measured - {f"{task}/{name}" for task, spec in whole.specs.items() for name in spec.metrics})


__all__ = [
    "SCALED_METRICS",
    "RowsWithNormals",
    "add_normals",
    "check_focal_lengths",
    "depth_and_focal_length",
    "find_sets",
    "metrics_of_some_sets",
    "noise_floor",
    "noise_of_normals",
    "pooled",
    "task_of",
    "with_scaled_metrics",
]
