"""Errors that a command shows as one line."""

import argparse
from typing import NoReturn


class CommandError(Exception):
    """An error that stops a command and is not a bug: the message has what came, what is allowed and what to do."""


MAX_MESSAGE = 500
"""Longest error message in characters; `--debug` shows all of it."""


def on_one_line(message: str) -> str:
    """A message without line breaks, and without characters that a terminal acts on."""
    return "".join(character if character.isprintable() else " " for character in " ".join(message.split()))


class OneLineParser(argparse.ArgumentParser):
    """`ArgumentParser` whose errors are one line, without the usage of all flags."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        message = on_one_line(message)
        message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help shows what is allowed\n")
