"""Several data sets with different tasks in one training run.

A sample keeps the columns of its own set; those of the other sets are null in it, which means unknown. So a set with depth
only and one with classes only train one model, and batches may hold samples of both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from mult_hf.model.tasks import TaskSpec

try:
    from datasets import Dataset, Features, IterableDataset, Value, interleave_datasets
except ImportError as error:
    raise ImportError(f'mult_hf.data.mixing needs datasets ({error}); install it with: pip install "mult-hf[train]"') from error

SOURCE_COLUMN = "source"
"""Column of a mixed set that names the set a sample is from, whose encodings its maps must be decoded with."""


def mix_datasets(
    sources: Mapping[str, Dataset | IterableDataset],
    weights: Mapping[str, float] | None = None,
    *,
    columns: Sequence[str] | None = None,
    seed: int = 0,
    stopping_strategy: str = "all_exhausted",
) -> Dataset | IterableDataset:
    """Draw samples from several sets in turn, each next one from a set chosen at random by weight.

    Built on `datasets.interleave_datasets` (https://huggingface.co/docs/datasets/process#interleave). Within a set the order
    stays; shuffle the sets, or the result. If one of the sets is iterable, all are made iterable and so is the result. Images
    are not decoded here. A set with an indices mapping (after `select`, `shuffle`) is written to the cache once, to get the
    source column; mix before you shuffle where that matters.

    Args:
        sources: sets by name, with the features of each known. The name goes to the column `"source"`.
        weights: by name, above 0; the chance of a set is its weight over the sum. All alike when left out.
        columns: which columns to keep, where a set has them; all when left out. Columns of the same name must have the same
            type in every set.
        seed: of the choice of sets.
        stopping_strategy: `"all_exhausted"` (default) goes on until every sample of every set was drawn at least once, and
            repeats the sets that end earlier; `"first_exhausted"` ends with the set that ends first;
            `"all_exhausted_without_replacement"` draws every sample once, so that the weights only rule the order.

    Returns:
        `Dataset` or `IterableDataset`: all columns of all sets, null where a set lacks one, and `"source"`.

    Raises:
        ValueError: if there are no sets, a weight is impossible or missing, columns contradict each other, a set does not
            know its features, or has a format or transform, which mixing would lose.

    Examples:
        >>> rooms = Dataset.from_dict({"image": ["a", "b"], "depth": [1.0, 2.0]})
        >>> doom = Dataset.from_dict({"image": ["c"], "segmentation": [3]})
        >>> mix_datasets({"rooms": rooms, "doom": doom}, {"rooms": 2, "doom": 1}).column_names
        ['image', 'depth', 'source', 'segmentation']
    """
    if not sources:
        raise ValueError("there are no data sets to mix; give at least one by name")
    probabilities = _probabilities(list(sources), weights)
    for name, source in sources.items():
        _check_source(name, source)
    if any(isinstance(source, IterableDataset) for source in sources.values()):
        sources = {name: s if isinstance(s, IterableDataset) else s.to_iterable_dataset() for name, s in sources.items()}
    if columns is not None:
        sources = {name: s.select_columns([column for column in s.column_names if column in columns]) for name, s in sources.items()}
    _check_types(sources)
    named = [_with_source(source, name) for name, source in sources.items()]
    return interleave_datasets(named, probabilities=probabilities, seed=seed, stopping_strategy=stopping_strategy)


def merge_tasks(tasks_by_source: Mapping[str, Mapping[str, TaskSpec]]) -> dict[str, TaskSpec]:
    """The tasks of a model that is trained on a mixture: all that any of the sets has.

    Sets may store a task in different ways (`encoding`): decode each sample with the specs of its own set,
    `tasks_by_source[sample["source"]]`. In everything else they must agree, or targets of one name would mean two things.

    Args:
        tasks_by_source: for each set its specs by name.

    Returns:
        `dict`: specs by name in order of appearance, each with the encoding of the first set that has the task.

    Raises:
        ValueError: if two sets state a task differently; the message names the sets and the fields.
    """
    merged: dict[str, TaskSpec] = {}
    first_source: dict[str, str] = {}
    for source, tasks in tasks_by_source.items():
        for name, spec in tasks.items():
            known = merged.setdefault(name, spec)
            first_source.setdefault(name, source)
            if replace(spec, encoding=known.encoding) != known:
                ours, theirs = known.to_dict(), spec.to_dict()
                different = [key for key in ours if key != "encoding" and ours[key] != theirs[key]]
                raise ValueError(
                    f"task {name!r} differs between {first_source[name]!r} and {source!r} in {', '.join(different)}; "
                    f"state the same in both sets' entries, or give the task another name in one of them"
                )
    return merged


def _probabilities(names: list[str], weights: Mapping[str, float] | None) -> list[float]:
    """Weights of all sets, divided by their sum."""
    if weights is None:
        return [1 / len(names)] * len(names)
    if set(weights) != set(names):
        raise ValueError(f"weights are given for {sorted(weights)}, but the data sets are {sorted(names)}; give one weight a set")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"the weight of {name!r} is {weight}; weights are above 0, leave a set out to draw nothing from it")
    total = sum(weights.values())
    return [weights[name] / total for name in names]


def _check_source(name: str, source: Dataset | IterableDataset) -> None:
    """Refuse what interleaving would lose or could not align."""
    if source.features is None:
        raise ValueError(f"the features of data set {name!r} are not known; pass features=Features(...) where it is made")
    if SOURCE_COLUMN in source.features:
        raise ValueError(f"data set {name!r} has a column {SOURCE_COLUMN!r} already; rename it with rename_column")
    if isinstance(source, Dataset) and source.format["type"] is not None:
        raise ValueError(f"data set {name!r} has the format {source.format['type']!r}, which mixing would drop; set it on the mixed set")


def _check_types(sources: Mapping[str, Dataset | IterableDataset]) -> None:
    """Refuse columns that have one name and two types."""
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
    """Add the column that names the set."""
    if isinstance(source, Dataset):
        return source.add_column(SOURCE_COLUMN, [name] * len(source), feature=Value("string"))
    # Images stay bytes in here (decoded ones would be compressed anew on their way out of the mixture), and the types are
    # declared by a cast: those given to `map` would be taken as a promise that nothing is left to decode.
    types = Features({**source.features, SOURCE_COLUMN: Value("string")})
    return source.decode(False).map(partial(_source_cell, name), input_columns=[]).cast(types)


def _source_cell(name: str) -> dict[str, str]:
    """The added cell of a sample; a function of the module, so that worker processes can be handed it."""
    return {SOURCE_COLUMN: name}
