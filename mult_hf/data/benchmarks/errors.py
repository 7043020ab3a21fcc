"""Problems while reading a download: an error that names the file, and a report that counts such files."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


class ReadError(ValueError):
    """A file that is missing, broken, or not in the format that the data set documents.

    Args:
        kind: category in reports: `"missing file"`, `"broken file"`, `"wrong bit depth"` or `"wrong content"`.
        path: path of the file.
        message: found and expected content.
    """

    def __init__(self, kind: str, path: str | Path, message: str) -> None:
        super().__init__(kind, str(path), message)  # plain arguments, so that worker processes can pickle it
        self.kind = kind
        self.summary = f"{path}: {message}"

    def __str__(self) -> str:
        return f'{self.summary}; to continue and count such files, set on_error="skip"'


@dataclass
class ReadReport:
    """Summary of one pass over a data set.

    Args:
        samples: number of samples yielded.
        problems: number of problems by kind.
        examples: descriptions of the first problems.
    """

    samples: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, error: ReadError, kept: int = 20) -> None:
        """Count a problem, and keep the descriptions of the first `kept`."""
        self.problems[error.kind] += 1
        if len(self.examples) < kept:
            self.examples.append(error.summary)

    def merge(self, other: "ReadReport", kept: int = 20) -> None:
        """Add the counts of another part of the same pass."""
        self.samples += other.samples
        self.problems.update(other.problems)
        self.examples = (self.examples + other.examples)[:kept]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.problems.most_common()) or "no problems"
        return "\n  ".join([f"{self.samples} samples, {counts}", *self.examples])
