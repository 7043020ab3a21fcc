"""Train one model on several data sets with different tasks.

A sample has the columns of its own set; the columns of other sets are null, which means unknown. So a data set with only depth
and another with only classes can train one model, and a batch may contain samples of both.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mult_hf.model.entry_fields import number, refusal
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.units import normalised_unit

from .row_errors import SOURCE_COLUMN
from .schema import FOCAL_LENGTH

try:
    from datasets import Dataset, Features, IterableDataset, Value, interleave_datasets

    from .image_column import as_image_columns
except ImportError as error:
    raise ImportError(f'mult_hf.data.mixing needs datasets ({error}); install it with: pip install "mult-hf[train]"') from error


def mix_datasets(
    sources: Mapping[str, Dataset | IterableDataset],
    weights: Mapping[str, float] | None = None,
    *,
    columns: Sequence[str] | None = None,
    seed: int = 0,
    stopping_strategy: str = "all_exhausted",
) -> Dataset | IterableDataset:
    """Interleave samples of several data sets; each sample comes from a data set chosen at random by weight.

    Built on `datasets.interleave_datasets` (https://huggingface.co/docs/datasets/process#interleave). The order within a data set
    is kept; shuffle the data sets or the result. If one data set is iterable, the result is iterable. Images are not decoded here, and
    image columns of the result keep EXIF orientations, as those of [`load_rows`][mult_hf.data.schema.load_rows] do.
    A data set with an indices mapping (after `select` or `shuffle`) is written to the cache once, to add the source column. To
    avoid this, mix before you shuffle.

    Args:
        sources: data sets by name; the features of each must be known. The name is stored in the column `"source"`.
        weights: weight of each data set by name, above 0; its probability is its weight divided by the sum. Equal by default.
        columns: columns to keep, if a data set has them; all by default. Columns of the same name must have the same type in
            every data set.
        seed: seed of the choice of data sets.
        stopping_strategy: `"all_exhausted"` (default) continues until every sample of every data set was drawn at least once,
            and repeats data sets that end earlier; `"first_exhausted"` stops when the first data set ends;
            `"all_exhausted_without_replacement"` draws every sample once, so that the weights only affect the order.

    Returns:
        `Dataset` or `IterableDataset`: all columns of all data sets, null where a data set lacks one, and `"source"`.

    Raises:
        ValueError: if there are no data sets, a weight is invalid or missing, columns have conflicting types, a data set's
            features are unknown, or it has a format or transform, which mixing would lose.

    Examples:
        >>> rooms = Dataset.from_dict({"image": ["a", "b"], "depth": [1.0, 2.0]})
        >>> doom = Dataset.from_dict({"image": ["c"], "segmentation": [3]})
        >>> mix_datasets({"rooms": rooms, "doom": doom}, {"rooms": 2, "doom": 1}).column_names
        ['image', 'depth', 'source', 'segmentation']
    """
    if not sources:
        raise ValueError(f"there are no data sets to mix: sources is {sources!r}; give at least one by name")
    probabilities = _probabilities(list(sources), weights)
    for name, source in sources.items():
        _check_source(name, source)
    if any(isinstance(source, IterableDataset) for source in sources.values()):
        sources = {name: s if isinstance(s, IterableDataset) else s.to_iterable_dataset() for name, s in sources.items()}
    if columns is not None:
        sources = {name: s.select_columns([column for column in s.column_names if column in columns]) for name, s in sources.items()}
    sources = _with_one_type_of_focal_lengths(sources)
    _check_types(sources)
    named = [_with_source(source, name) for name, source in sources.items()]
    mixed = interleave_datasets(named, probabilities=probabilities, seed=seed, stopping_strategy=stopping_strategy)
    return as_image_columns(mixed)  # `datasets` joins sets of different columns as columns of its own types


def merge_tasks(tasks_by_source: Mapping[str, Mapping[str, TaskSpec]]) -> dict[str, TaskSpec]:
    """The tasks of a model that is trained on a mixture: every task of any data set.

    Data sets may store a task in different ways (`encoding`): decode each sample with the specs of its own data set,
    `tasks_by_source[sample["source"]]`. All other fields must agree, so that a task's targets have one meaning, but a
    unit may be spelt in several ways.

    Args:
        tasks_by_source: specs by task name, for each data set.

    Returns:
        `dict`: specs by name in order of appearance, each with the encoding of the first data set that has the task.

    Raises:
        ValueError: if two data sets define a task differently; the message names the data sets and the fields.
    """
    merged: dict[str, TaskSpec] = {}
    first_source: dict[str, str] = {}
    for source, tasks in tasks_by_source.items():
        for name, spec in tasks.items():
            known = merged.setdefault(name, spec)
            first_source.setdefault(name, source)
            is_same_unit = normalised_unit(spec.unit) == normalised_unit(known.unit)
            alike = replace(spec, encoding=known.encoding, unit=known.unit if is_same_unit else spec.unit)
            if alike != known:
                ours, theirs = known.to_dict(), alike.to_dict()
                different = [key for key in ours if ours[key] != theirs[key]]
                raise refusal(
                    f"task {name!r} differs between {first_source[name]!r} and {source!r} in {', '.join(different)}; "
                    f"use the same values in both data sets' entries, or rename the task in one of them"
                )
    return merged


def _probabilities(names: list[str], weights: Mapping[str, float] | None) -> list[float]:
    """Weights of all data sets, divided by their sum."""
    if weights is None:
        return [1 / len(names)] * len(names)
    if set(weights) != set(names):
        raise refusal(f"weights are given for {sorted(weights)}, but the data sets are {sorted(names)}; give one weight per data set")
    for name, weight in weights.items():
        if not number(f"the weight of {name!r} is", weight) > 0:
            raise ValueError(f"the weight of {name!r} is {weight}; it must be above 0. To exclude a data set, remove it from sources")
    total = sum(weights.values())
    return [weights[name] / total for name in names]


def _check_source(name: str, source: Dataset | IterableDataset) -> None:
    """Reject a data set with properties that interleaving would lose or could not align."""
    if source.features is None:
        raise ValueError(f"the features of data set {name!r} are unknown; pass features=Features(...) when you create it")
    if SOURCE_COLUMN in source.features:
        raise ValueError(f"data set {name!r} already has a column {SOURCE_COLUMN!r}; rename it with rename_column")
    if isinstance(source, Dataset) and source.format["type"] is not None:
        raise ValueError(f"data set {name!r} has the format {source.format['type']!r}, which mixing would drop; set it on the mixed set")


def _with_one_type_of_focal_lengths(sources: Mapping[str, Any]) -> dict[str, Any]:
    """Focal lengths as float64 where data sets store them as numbers of different types, such as 600 and 603.2 in metadata files."""
    found = {name: source.features[FOCAL_LENGTH] for name, source in sources.items() if FOCAL_LENGTH in source.features}
    types = {feature.dtype if isinstance(feature, Value) else "" for feature in found.values()}
    if len(types) < 2 or not all(re.fullmatch(r"u?int\d+|float\d+", each) for each in types):
        return dict(sources)
    others = {name for name, feature in found.items() if feature.dtype != "float64"}
    return {name: _with_float64(source) if name in others else source for name, source in sources.items()}


def _with_float64(source: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Focal lengths as float64. `cast_column` alone would copy all columns of stored rows, images included, to the cache."""
    if not isinstance(source, Dataset):
        return source.cast_column(FOCAL_LENGTH, Value("float64"))
    column = source.select_columns(FOCAL_LENGTH).cast_column(FOCAL_LENGTH, Value("float64"))[FOCAL_LENGTH]
    earlier = f"{FOCAL_LENGTH} as {source.features[FOCAL_LENGTH].dtype}"  # removed last, because rows without columns lose their number
    changed = source.rename_column(FOCAL_LENGTH, earlier).add_column(FOCAL_LENGTH, [*column], feature=Value("float64"))
    return changed.remove_columns(earlier).select_columns(source.column_names)


def _check_types(sources: Mapping[str, Dataset | IterableDataset]) -> None:
    """Reject columns that have the same name but different types."""
    seen: dict[str, str] = {}
    for name, source in sources.items():
        for column, feature in source.features.items():
            first = seen.setdefault(column, name)
            if sources[first].features[column] != feature:
                raise ValueError(
                    f"column {column!r} is {sources[first].features[column]} in {first!r} and {feature} in {name!r}; "
                    f"cast one of them with cast_column, or leave the column out with columns=[...]"
                )


def _with_source(source: Dataset | IterableDataset, name: str) -> Dataset | IterableDataset:
    """Add the column that names the data set."""
    if isinstance(source, Dataset):
        return source.add_column(SOURCE_COLUMN, [name] * len(source), feature=Value("string"))
    # Images stay bytes here, because decoded ones would be compressed again when they leave the mixture. The types are set by a
    # cast, because features given to `map` would mark the images as already decoded.
    types = Features({**source.features, SOURCE_COLUMN: Value("string")})
    return source.decode(False).map(partial(_source_cell, name), input_columns=[]).cast(types)


def _source_cell(name: str) -> dict[str, str]:
    """The added cell of a sample; a module-level function, so that worker processes can pickle it."""
    return {SOURCE_COLUMN: name}
