"""The one schema of multi-task data sets: an `image` column, one column a task, and the tasks' entries in the card.

The card is the `README.md` of the data set. Its YAML header has a list `mult_tasks` of task entries (see
[`TaskSpec.from_dict`]): how the stored maps are encoded, which classes there are, or a whole new task.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, hf_hub_download

CARD_KEY = "mult_tasks"


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
    entries = DatasetCard.load(path).data.to_dict().get(CARD_KEY)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"the card of {name_or_path} has no list {CARD_KEY!r} in its YAML header; see docs/data.md for an example")
    return entries


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
