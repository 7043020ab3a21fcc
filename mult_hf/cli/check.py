"""Check a data set against its card.

    mult-hf check DIR_OR_ID [--split S] [--samples N] [--sheet OUT.png]

Reads the first samples of each split, decodes every map with the card's encodings, and prints a summary and what looks wrong. The
exit status is 1 if something looks wrong.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mult_hf.data.check import SHEET_ROWS, check
from mult_hf.data.files import make_folder

from .arguments import check_bounds, flag, parse_arguments, positional

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass
class CheckArguments:
    """Data to check; each field is an argument."""

    data: str = positional("local directory or Hub id of the data set", metavar="DIR_OR_ID")
    split: str | None = flag(None, "split to check; all by default")
    samples: int = flag(64, "rows to read per split")
    sheet: Path | None = flag(None, "write a contact sheet to this file", metavar="OUT.png")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ["samples"]})
        if self.sheet is not None and (self.sheet.suffix.lower() not in SHEET_SUFFIXES or self.sheet.is_dir()):
            raise ValueError(f"--sheet is {self.sheet}; give a file that ends in {', '.join(SHEET_SUFFIXES)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Check a data set and print the findings; returns 1 if something looks wrong.

    Args:
        argv: the command line; by default that of this process.

    Raises:
        ValueError: if the card or the data cannot be read.
        OSError: if the sheet's folder cannot be created.
    """
    arguments = parse_arguments(CheckArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0], prog="mult-hf check")
    if arguments.sheet is not None:
        make_folder(arguments.sheet.parent)  # now, because reading the data may take minutes
    findings = check(arguments.data, arguments.split, arguments.samples)
    print(findings)
    if arguments.sheet is not None and findings.sheet is not None:
        findings.sheet.save(arguments.sheet)
        print(f"contact sheet of {min(SHEET_ROWS, findings.tasks['image'].rows)} samples: {arguments.sheet}")
    return int(not findings.is_right)
