"""The schema of multi-task data sets: an `image` column, one column per task, and the tasks' entries in the card.

The card is the `README.md` of the data set. Its YAML header has a list `mult_tasks` of task entries (see
[`TaskSpec.from_dict`]): the encoding of the stored maps, the classes, or a complete new task.
"""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from yaml import YAMLError

from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import TaskSpec, resolve_tasks

from .files import did_you_mean
from .metadata_files import explain_load_error, files_of, ignored_files, misplaced_images
from .stores import naming_store

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

CARD_KEY = "mult_tasks"

MOST_ARCHIVES, MOST_MEMBERS = 8, 500
"""Archives, and files of each, whose names are compared with the columns."""

FOCAL_LENGTH = "focal_length"
"""Optional column of focal lengths in pixels of the stored image, null where unknown. Processors with a `canonical_focal_length` use it."""


def load_rows(name_or_path: str | Path, split: str | None = None, revision: str | None = None) -> "Dataset | DatasetDict":
    """Call `datasets.load_dataset`, but never read a local directory from the cached copy of another one.

    If a directory's card has `configs`, `datasets` (5.2) identifies its cached copy only by the directory's last name and that
    entry. A data set that was regenerated or moved would silently load its old rows. Here the copy is identified by the path and
    the names, sizes and times of the files.

    Args:
        name_or_path: local directory or Hub id.
        split: as for `load_dataset`; all splits by default.
        revision: branch, tag or commit on the Hub.

    Returns:
        The rows of the split, or a dictionary of all splits. Their images keep the EXIF orientation that was applied to them, so that
        the collator refuses maps that may not be turned with them.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if there is no such split, or a file of the data set is broken, or the `metadata.jsonl` of a folder has a mistake.
    """
    try:
        from datasets import config, load_dataset
        from datasets.exceptions import DatasetGenerationError
        from pyarrow import ArrowInvalid

        from .image_column import as_image_columns
    except ImportError as error:
        raise ImportError(
            f'reading data sets needs the datasets library ({error}); install it with: pip install "mult-hf[train]"'
        ) from error

    directory = Path(name_or_path)
    options: dict[str, Any] = {"revision": revision}
    if directory.is_dir():
        place = hashlib.sha256(str(directory.resolve()).encode())
        for path in _files(directory):
            place.update(f"{path.relative_to(directory)} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
        options = {"cache_dir": str(Path(config.HF_DATASETS_CACHE) / "mult_hf" / place.hexdigest()[:16])}
    try:
        rows = load_dataset(with_full_path(name_or_path), split=split, **options)
    except (DatasetGenerationError, ArrowInvalid) as error:
        reason = explain_load_error(directory, error, "; make or download its files again")
        raise ValueError(f"{name_or_path} cannot be read: {reason}") from error
    except ValueError as error:  # an unknown split, or folders that do not fit together
        raise ValueError(f"{name_or_path} cannot be read: {explain_load_error(directory, error)}") from error
    refuse_ignored_files(directory, rows)
    return as_image_columns(with_columns_of_tasks(rows))


def with_full_path(name_or_path: str | Path) -> str:
    """The full path of a local directory: `datasets` (5.2) needs its name, which "." lacks. Other names stay as they are."""
    path = Path(name_or_path)
    return str(path.resolve()) if path.is_dir() else str(name_or_path)


def refuse_ignored_files(directory: Path, rows: Any) -> None:
    """Refuse a local data set of which `datasets` leaves out maps, or mistakes its images for maps, without a word.

    Args:
        directory: of the data set, or the name of another one.
        rows: of one split, or a dictionary of all splits.

    Raises:
        ValueError: if, for example, Parquet files lie beside a folder of images, and the card does not list the files of each split; or if
            an archive has maps of a task of the card that its first samples lack.
    """
    one_split = next(iter(rows.values()), None) if isinstance(rows, dict) else rows
    if one_split is None or not directory.is_dir():
        return
    header = card_header(directory / "README.md") if (directory / "README.md").is_file() else {}
    configs = header.get("configs")
    lists_files = isinstance(configs, list) and any(isinstance(each, dict) and {"data_files", "data_dir"} & each.keys() for each in configs)
    reader = one_split.info.builder_name
    if reader == "imagefolder" and not lists_files:
        images = [name for name, feature in (one_split.features or {}).items() if type(feature).__name__ == "Image"]
        if mistake := misplaced_images(directory, images):
            raise refusal(mistake)
    ignored = None if lists_files else ignored_files(directory, reader)
    if ignored is None and reader == "webdataset" and not lists_files:
        tasks = [entry.get("name") if isinstance(entry, dict) else entry for entry in header.get(CARD_KEY) or []]
        ignored = _late_maps(directory, {*tasks} - {*map(column_of, one_split.column_names or [])})
    if ignored:
        raise refusal(ignored)


def _late_maps(directory: Path, missing: Collection[Any]) -> str | None:
    """What to do about archives that have maps of tasks without a column, because the first samples have none; `None` if there are none.

    Args:
        directory: of the data set.
        missing: tasks without a column.
    """
    paths = [path for path in files_of(directory) if path.suffix == ".tar"] if missing else []
    for path in paths[:MOST_ARCHIVES]:
        try:
            with tarfile.open(path) as archive:
                names = [member.name for member in islice(archive, MOST_MEMBERS)]
        except tarfile.TarError:  # which reading it reports
            continue
        for name in names:
            column = column_of(Path(name).name.partition(".")[2])
            if column in missing:
                return (
                    f"{path}: {name} would be left out, because datasets takes the columns from the first five samples: give these a file "
                    f"of every kind, such as a {column}.png in which all is unknown, or store the data as Parquet"
                )
    return None


def column_of(name: str) -> str:
    """Column in the schema of a file in an archive: `depth.png` is `depth`, and a sole `jpg` is the image.

    Examples:
        >>> [column_of(name) for name in ("depth.png", "jpg", "__key__", "note")]
        ['depth', 'image', '__key__', 'note']
    """
    column, _, suffix = name.rpartition(".")
    if suffix.lower() not in ("jpg", "jpeg", "png", "webp", "tif", "tiff"):
        return name
    return column or "image"


def with_columns_of_tasks(rows: Any) -> Any:
    """The same rows, or dictionary of splits, with the columns of the schema in place of the names of files in an archive.

    Columns that would get the name of another one keep theirs.
    """
    if isinstance(rows, dict):
        return type(rows)({split: with_columns_of_tasks(each) for split, each in rows.items()})
    own = rows.column_names or []
    targets = Counter(map(column_of, own))
    names = {name: column_of(name) for name in own if column_of(name) != name and targets[column_of(name)] == 1}
    if not names or not hasattr(rows, "decode"):
        return rows.rename_columns(names) if names else rows
    return rows.decode(False).rename_columns(names).decode(True)  # renaming a stream would decode its images here


def card_configs(directory: Path, data_files: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """The `configs` of a local data set's card, with a digest of its files, so that plain `load_dataset` detects changes too.

    Args:
        directory: directory of the finished data set.
        data_files: the `split` and `path` of each split.
    """
    digest = hashlib.sha256("".join(f"{p.relative_to(directory)} {p.stat().st_size}\n" for p in _files(directory)).encode())
    return [{"config_name": "default", "data_files": [*data_files], "description": f"contents {digest.hexdigest()[:16]}"}]


def _files(directory: Path) -> list[Path]:
    """All files except the card and hidden files, in a fixed order."""
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != "README.md")
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(directory).parts))


def load_task_entries(name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> list[dict[str, Any]]:
    """Read the tasks' entries of a data set.

    Args:
        name_or_path: local directory, Hub id, or URL of a directory (`s3://...`, `hf://datasets/...`).
        revision: branch, tag or commit on the Hub.
        token: Hub token for private data sets.

    Returns:
        The list under `mult_tasks` in the YAML header of the card.

    Raises:
        ValueError: if the directory or id does not exist, or has no card with this list.
    """
    directory = Path(name_or_path)
    path: str | Path
    if is_url(name_or_path):
        path = f"{str(name_or_path).rstrip('/')}/README.md"
    elif directory.is_dir():
        path = directory / "README.md"
        if not path.is_file():
            raise ValueError(f"{directory} has no README.md; its YAML header must list the tasks under {CARD_KEY!r}")
        if not path.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff \t\r\n").startswith("---"):
            raise ValueError(
                f"{path} has no list {CARD_KEY!r}, because it has no YAML header: its first line must be `---`, and another `---` must end "
                "the header; see docs/data.md for an example"
            )
    else:
        path = Path(_hub_card(str(name_or_path), revision=revision, token=token))
    entries = card_header(path).get(CARD_KEY)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"the card of {name_or_path} has no list {CARD_KEY!r} in its YAML header; see docs/data.md for an example")
    return entries


def is_url(name_or_path: str | Path) -> bool:
    """Whether a data set is the URL of a directory, which fsspec opens, and not a local directory or Hub id."""
    return "://" in str(name_or_path)


def card_header(path: str | Path) -> dict[str, Any]:
    """The values in the YAML header of a card, which is a file or URL.

    Raises:
        ValueError: if the file cannot be read, or its header is not YAML of names and values.
    """
    try:
        if is_url(path):
            import fsspec  # which comes with `datasets`

            with naming_store(path), fsspec.open(str(path), encoding="utf-8", mode="r") as file:
                return DatasetCard(file.read()).data.to_dict()
        return DatasetCard.load(path).data.to_dict()
    except (OSError, ImportError, ValueError, TypeError, AttributeError, KeyError, RecursionError, YAMLError) as error:
        raise refusal(f"the card {path} cannot be read: {error}; correct the YAML header between its two lines `---`") from error


def load_task_specs(name_or_path: str | Path, names: Sequence[str] | None = None) -> dict[str, TaskSpec]:
    """Load the specs of a data set's tasks.

    Args:
        name_or_path: local directory or Hub id.
        names: names of the tasks to return; all by default.

    Raises:
        ValueError: if the data set lacks one of them, or as for [`load_task_entries`].
    """
    specs = resolve_tasks(load_task_entries(name_or_path))
    unknown = sorted(set(names or []) - set(specs))
    if unknown:
        raise refusal(f"{name_or_path} has no tasks {unknown}; it has {list(specs)}")
    return {task: spec for task, spec in specs.items() if names is None or task in names}


def missing_columns(columns: Sequence[str], tasks: Iterable[str]) -> list[str]:
    """Tasks without a column, whose maps are unknown in every row.

    Raises:
        ValueError: if there is no `image` column, or no column of any task.
    """
    tasks = list(tasks)
    missing = [task for task in tasks if task not in columns]
    if "image" not in columns or missing == tasks:
        raise refusal(f"the columns are {list(columns)}; expected 'image' and at least one of {tasks}; rename them, or correct the card")
    return missing


def _hub_card(repo_id: str, revision: str | None, token: str | None) -> str:
    try:
        return hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision, token=token)
    except (OSError, ValueError) as error:  # no network, no such repository, no card in it, or not a valid id
        place = f"{repo_id} is not a local directory{did_you_mean(repo_id)}"
        if isinstance(error, HFValidationError):
            reason = "this is no valid id, such as user/name"
        elif isinstance(error, LocalEntryNotFoundError):
            reason = "the Hub cannot be reached, and the card is not in the cache"
        else:
            reason = str(error)
        raise ValueError(
            f"{place}, and the Hub gave no card for a data set of that id: {reason}; give a directory that exists, or the id of a data set"
        ) from error
