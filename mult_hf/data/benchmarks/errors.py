"""What goes wrong while a download is read: the error that names a file, and the report that counts such files."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


class ReadError(ValueError):
    """A file that cannot be what the data set says it is.

    Args:
        kind: short name that reports count by: `"missing file"`, `"broken file"`, `"wrong bit depth"`, `"wrong content"`.
        path: of the file.
        message: what came and what is expected.
    """

    def __init__(self, kind: str, path: str | Path, message: str) -> None:
        super().__init__(kind, str(path), message)  # plain arguments, so that it survives the way out of a worker process
        self.kind = kind
        self.summary = f"{path}: {message}"

    def __str__(self) -> str:
        return f'{self.summary}; on_error="skip" reads on and counts such files'


@dataclass
class ReadReport:
    """What one pass over a data set met.

    Args:
        samples: yielded.
        problems: how often each kind of problem came.
        examples: the first problems, path by path.
    """

    samples: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, error: ReadError, kept: int = 20) -> None:
        """Count a problem; the first `kept` are kept in words."""
        self.problems[error.kind] += 1
        if len(self.examples) < kept:
            self.examples.append(error.summary)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.problems.most_common()) or "no problems"
        return "\n  ".join([f"{self.samples} samples, {counts}", *self.examples])
