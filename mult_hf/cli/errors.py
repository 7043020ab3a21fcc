"""Errors that a command shows as one line."""

import argparse
from typing import NoReturn


class CommandError(Exception):
    """An error that stops a command and is not a bug: the message has what came, what is allowed and what to do."""


class OneLineParser(argparse.ArgumentParser):
    """`ArgumentParser` whose errors are one line, without the usage of all flags."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help shows what is allowed\n")
