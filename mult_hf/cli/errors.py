"""Errors that commands show on one line."""

import argparse
from typing import NoReturn


class CommandError(Exception):
    """An error that stops a command but is not a bug; its message states the cause, what is allowed and what to do."""


MAX_MESSAGE = 500
"""Longest error message in characters; `--debug` shows all of it."""


def on_one_line(message: str) -> str:
    """A message without line breaks, and without characters that a terminal acts on."""
    return "".join(character if character.isprintable() else " " for character in " ".join(message.split()))


class OneLineParser(argparse.ArgumentParser):
    """`ArgumentParser` with one-line errors, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        message = on_one_line(message)
        message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help shows what is allowed\n")
