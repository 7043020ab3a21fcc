"""Errors of inference that callers handle."""

from collections.abc import Iterator
from contextlib import contextmanager

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What torch says if memory is missing, for which it has no error of its own on the CPU."""


class ExportError(RuntimeError):
    """A model cannot be exported, its file cannot be kept, or the file's predictions differ from the model's."""


@contextmanager
def naming_missing_memory(size: tuple[int, int]) -> Iterator[None]:
    """Say for which (height, width) memory is missing, if a prediction inside the block fails because of it.

    Raises:
        ExportError: in place of torch's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
            raise ExportError(f"the model cannot predict at {size[0]} x {size[1]} pixels here: {error or 'out of memory'}") from error
        raise


__all__ = ["ExportError", "naming_missing_memory"]
