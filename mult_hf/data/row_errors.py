"""Error messages that name the row of a data set which cannot be used."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from datasets import Dataset, Features

SOURCE_COLUMN = "source"
"""Column of a mixture that names each sample's data set, whose encodings decode its maps."""

LONGEST_SOURCE = 200
"""Characters of a data set's name or path in the name of a row."""

ROW = "row_of_data_set"
"""Key of the name of a row, for error messages."""

AUGMENTATION_SEED = "augmentation_seed"
"""Key of a row's augmentation seed, which makes its augmentation independent of all earlier random draws."""

EPOCH = "epoch_of_stream"
"""Key of a streamed row's epoch."""

INTERNAL = {ROW, AUGMENTATION_SEED, EPOCH}
"""Keys of a row that training adds to its columns."""

UNUSABLE = (OSError, SyntaxError, ValueError)
"""Errors that the contents of a row cause: of files, of Pillow for some broken ones, and of values that do not fit."""

Prepared = TypeVar("Prepared")

_POSITION = re.compile(r"^label map 0 of (the batch: )?")
"""Where a map lies among those of one row, which its message states."""

_FROM_WORKER = re.compile(r"Caught RowError in DataLoader worker process \d+\.\n.*\nmult_hf\.data\.row_errors\.RowError: ", re.DOTALL)


class RowError(ValueError):
    """A row of a data set cannot be used; the message names it.

    Where a worker process of a `DataLoader` raised it, torch creates it again from a text that contains the worker's traceback. The
    message is taken from this text.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_FROM_WORKER.sub("", message).rstrip())


def read_row(rows: "Dataset | Sequence[dict[str, Any]]", index: int, number: int | None = None) -> dict[str, Any]:
    """A row with its decoded images, and its name under [`ROW`].

    Args:
        rows: of a data set, or of a mixture of several.
        index: of the row in them.
        number: of the row in its name, if they are a selection from others.

    Raises:
        RowError: if it cannot be read, naming the row and the column.
    """
    number = index if number is None else number
    try:
        row = rows[index]
        return {**row, ROW: _name(number, row)}
    except UNUSABLE as error:
        columns = getattr(rows, "column_names", ())
        column = next((name for name in columns if not _is_readable(rows, index, name)), None)
        facts = rows.select_columns([SOURCE_COLUMN])[index] if SOURCE_COLUMN in columns else {}  # type: ignore[union-attr]
        raise RowError(f"{_name(number, facts)}{'' if column is None else f', column {column!r}'}: {error}") from error


def _name(number: int, row: Mapping[str, Any]) -> str:
    source = row.get(SOURCE_COLUMN)
    is_name = isinstance(source, str) and len(source) <= LONGEST_SOURCE
    return f"row {number} ({SOURCE_COLUMN} {source})" if is_name else f"row {number}"


def _is_readable(rows: Any, number: int, column: str) -> bool:
    try:
        rows.select_columns([column])[number]
    except UNUSABLE:
        return False
    return True


def decode_row(encoded: Mapping[str, Any], features: "Features", name: str, tokens: dict[str, Any] | None = None) -> dict[str, Any]:
    """A streamed row with its decoded images.

    Args:
        encoded: the row with undecoded images.
        features: of its columns.
        name: of the row in messages.
        tokens: Hub tokens by repository, for images that are paths on the Hub.

    Raises:
        RowError: naming the row and the column that cannot be decoded.
    """
    decoded: dict[str, Any] = {}
    for column, value in encoded.items():
        with naming_row(f"{name}, column {column!r}"):
            decoded |= type(features)({column: features[column]}).decode_example({column: value}, tokens)
    return decoded


@contextmanager
def naming_row(name: str) -> Iterator[None]:
    """Put the name of a row before the message of an error, unless it contains it.

    Raises:
        RowError: for every error that the contents of a row may cause.
    """
    try:
        yield
    except RowError:
        raise
    except UNUSABLE as error:
        is_named = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error))
        raise RowError(str(error) if is_named else f"{name}: {_POSITION.sub('', str(error))}") from error


@contextmanager
def naming_split(name: str) -> Iterator[None]:
    """Put the name of the data before that of a row in the block's errors.

    Raises:
        RowError: naming both.
    """
    try:
        yield
    except RowError as error:
        raise RowError(f"{name} data, {error}") from error


def in_batch(prepare: Callable[[Sequence[Mapping[str, Any]]], Prepared], rows: Sequence[Mapping[str, Any]]) -> Prepared:
    """Prepare the rows of a batch. If that fails, the error is that of the first row that cannot be prepared alone, and names it.

    Args:
        prepare: of rows.
        rows: with their names under [`ROW`].

    Raises:
        RowError: naming the row.
    """
    try:
        return prepare(rows)
    except UNUSABLE:
        for row in rows:
            with naming_row(row[ROW]):
                prepare([row])
        raise  # the rows do not fit together


__all__ = [
    "AUGMENTATION_SEED",
    "EPOCH",
    "INTERNAL",
    "ROW",
    "SOURCE_COLUMN",
    "RowError",
    "decode_row",
    "in_batch",
    "naming_row",
    "naming_split",
    "read_row",
]
