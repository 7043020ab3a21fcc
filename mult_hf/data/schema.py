"""The one schema of multi-task data sets: an `image` column, one column a task, and the tasks' entries in the card.

The card is the `README.md` of the data set. Its YAML header has a list `mult_tasks` of task entries (see
[`TaskSpec.from_dict`]): how the stored maps are encoded, which classes there are, or a whole new task.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, hf_hub_download
from yaml import YAMLError

from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import TaskSpec, resolve_tasks

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

CARD_KEY = "mult_tasks"


def load_rows(name_or_path: str | Path, split: str | None = None, revision: str | None = None) -> "Dataset | DatasetDict":
    """`datasets.load_dataset`, but a local directory is never read from the cached copy of another one.

    `datasets` (5.2) knows the copy of a directory whose card has `configs` by the directory's last name and that entry alone: made
    anew, or moved to another place, the set would silently have its old rows. Here the copy is known by path, names, sizes
    and times of the files.

    Args:
        name_or_path: local directory or Hub id.
        split: as for `load_dataset`; all of them by default.
        revision: branch, tag or commit on the Hub.

    Returns:
        The rows of the split, or a dictionary of all splits.

    Raises:
        ImportError: if `datasets` is not installed.
    """
    try:
        from datasets import config, load_dataset
    except ImportError as error:
        raise ImportError(
            f'reading data sets needs the datasets library ({error}); install it with: pip install "mult-hf[train]"'
        ) from error

    directory = Path(name_or_path)
    if not directory.is_dir():
        return load_dataset(str(name_or_path), split=split, revision=revision)
    place = hashlib.sha256(str(directory.resolve()).encode())
    for path in _files(directory):
        place.update(f"{path.relative_to(directory)} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    return load_dataset(str(directory), split=split, cache_dir=str(Path(config.HF_DATASETS_CACHE) / "mult_hf" / place.hexdigest()[:16]))


def card_configs(directory: Path, data_files: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """The `configs` of a local data set's card, with a digest of its files, so that plain `load_dataset` sees a change too.

    Args:
        directory: of the finished data set.
        data_files: per split its `split` and `path`.
    """
    digest = hashlib.sha256("".join(f"{p.relative_to(directory)} {p.stat().st_size}\n" for p in _files(directory)).encode())
    return [{"config_name": "default", "data_files": [*data_files], "description": f"contents {digest.hexdigest()[:16]}"}]


def _files(directory: Path) -> list[Path]:
    """All files but the card and hidden ones, in a fixed order."""
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != "README.md")
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(directory).parts))


def load_task_entries(name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> list[dict[str, Any]]:
    """Read the tasks' entries of a data set.

    Args:
        name_or_path: local directory or Hub id.
        revision: branch, tag or commit on the Hub.
        token: for private data sets.

    Returns:
        The list under `mult_tasks` in the YAML header of the card.

    Raises:
        ValueError: if there is no such directory or id, no card, or no such list in it.
    """
    directory = Path(name_or_path)
    if directory.is_dir():
        path = directory / "README.md"
        if not path.is_file():
            raise ValueError(f"{directory} has no README.md; its YAML header must list the tasks under {CARD_KEY!r}")
    else:
        path = _hub_card(str(name_or_path), revision=revision, token=token)
    entries = card_header(path).get(CARD_KEY)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"the card of {name_or_path} has no list {CARD_KEY!r} in its YAML header; see docs/data.md for an example")
    return entries


def card_header(path: str | Path) -> dict[str, Any]:
    """The values in the YAML header of a card.

    Raises:
        ValueError: if the file cannot be read, or its header is not YAML of names and values.
    """
    try:
        return DatasetCard.load(path).data.to_dict()
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, YAMLError) as error:
        raise refusal(f"the card {path} cannot be read: {error}; correct the YAML header between its two lines `---`") from error


def load_task_specs(name_or_path: str | Path, names: Sequence[str] | None = None) -> dict[str, TaskSpec]:
    """The tasks of a data set, or those of them that are asked for.

    Args:
        name_or_path: local directory or Hub id.
        names: of the tasks; all of them by default.

    Raises:
        ValueError: if the data set lacks one of these, and as [`load_task_entries`].
    """
    specs = resolve_tasks(load_task_entries(name_or_path))
    unknown = sorted(set(names or []) - set(specs))
    if unknown:
        raise ValueError(f"there are no tasks {unknown} in {name_or_path}; it has {list(specs)}")
    return {task: spec for task, spec in specs.items() if names is None or task in names}


def missing_columns(columns: Sequence[str], tasks: Iterable[str]) -> list[str]:
    """Tasks without a column, whose maps are unknown in every row.

    Raises:
        ValueError: if there is no column of photos, or none of any task.
    """
    tasks = list(tasks)
    missing = [task for task in tasks if task not in columns]
    if "image" not in columns or missing == tasks:
        raise ValueError(f"the columns are {list(columns)}; expected 'image' and at least one of {tasks}; rename them, or correct the card")
    return missing


def _hub_card(repo_id: str, **kwargs: str | None) -> str:
    try:
        return hf_hub_download(repo_id, "README.md", repo_type="dataset", **kwargs)
    except (OSError, ValueError) as error:  # no network, no such repository, no card in it; not the form of an id
        raise ValueError(f"{repo_id} is no directory here, and no card of a data set of that id came from the Hub: {error}") from error
