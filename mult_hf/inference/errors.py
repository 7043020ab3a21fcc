"""Errors of inference that callers handle, and messages of libraries that they should not see."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import NullHandler, getLogger

_NO_MEMORY = (
    *("out of memory", "not enough memory", "cannot allocate memory", "can't allocate memory", "failed to allocate memory"),
    *("bad_alloc", "bad allocation"),
)
"""What runtimes say if memory is missing; torch on the CPU and ONNX Runtime have no class of errors for that."""


class ExportError(RuntimeError):
    """A model cannot be exported, its file cannot be kept, or the file's predictions differ from the model's."""


class MissingMemoryError(ExportError):
    """A model cannot predict images of one size, because memory is missing; others may be small enough."""


@contextmanager
def naming_missing_memory(size: tuple[int, int]) -> Iterator[None]:
    """Say for which (height, width) memory is missing, if a prediction inside the block fails because of it.

    Raises:
        MissingMemoryError: in place of the runtime's error.
    """
    try:
        yield
    except MissingMemoryError:  # of a block inside this one
        raise
    except Exception as error:  # runtimes have no common class of errors
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
            here = f"the model cannot predict at {size[0]} x {size[1]} pixels here"
            raise MissingMemoryError(f"{here}: {str(error) or 'out of memory'}") from error
        raise


@contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Drop what libraries log through the logger of all programs, unless the program has set it up.

    Without this, the first such message makes Python print those of every other logger a second time, too.
    """
    silent = NullHandler()
    getLogger().addHandler(silent)
    try:
        yield
    finally:
        getLogger().removeHandler(silent)


__all__ = ["ExportError", "MissingMemoryError", "naming_missing_memory", "quiet_root_logger"]
