"""Errors that commands show on one line."""

import argparse
from typing import NoReturn


class CommandError(Exception):
    """An error that stops a command but is not a bug; its message states the cause, what is allowed and what to do."""


class OneLineParser(argparse.ArgumentParser):
    """`ArgumentParser` with one-line errors, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help shows what is allowed\n")
