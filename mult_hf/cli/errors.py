"""Errors that commands show on one line."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn


class CommandError(Exception):
    """An error that stops a command but is not a bug; its message states the cause, what is allowed and what to do."""


MAX_MESSAGE = 500
"""Longest error message in characters; `--debug` shows all of it."""


def on_one_line(message: str) -> str:
    """A message without line breaks, and without characters that a terminal acts on."""
    return "".join(character if character.isprintable() else " " for character in " ".join(message.split()))


def did_you_mean(words: Iterable[str], known: Iterable[str]) -> str:
    """A question to add to a message about unknown words, naming those that they resemble; empty if none does."""
    known = list(known)
    meant = [name for word in words for name in get_close_matches(word, known, 1)]
    return f" (did you mean {', '.join(dict.fromkeys(meant))}?)" if meant else ""


def local_path(text: str) -> Path:
    """Convert an argument to a path; `Path` would turn a URL into a folder called `s3:`.

    Raises:
        argparse.ArgumentTypeError: if it is a URL.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is a URL; give a path on this machine, and copy its files to or from the store")
    return Path(text)


def refusing_urls(keywords: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `add_argument` with which paths refuse URLs."""
    return keywords | {"type": local_path} if keywords.get("type") is Path else keywords


class OneLineParser(argparse.ArgumentParser):
    """`ArgumentParser` with one-line errors, without the usage text.

    Attributes:
        bare_words: what to say of words that belong to no flag.
    """

    bare_words = ""

    def add_argument(self, *names: str, **keywords: Any) -> argparse.Action:
        """As in argparse; paths refuse URLs."""
        return super().add_argument(*names, **refusing_urls(keywords))

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As in argparse; an empty argument, as an unset shell variable leaves it, would name the current directory."""
        argv = sys.argv[1:] if args is None else [*args]
        for before, word in zip(["", *argv], argv):
            if word == "" or (word.startswith("--") and word.endswith("=")):
                self.error(f"the argument {f'after {before} ' if before else ''}is empty; give a value, or leave the flag out")
        return super().parse_known_args(argv, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        message = on_one_line(message) + self._meant(message)
        message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help shows what is allowed\n")

    def _meant(self, message: str) -> str:
        """The flags that unrecognized ones resemble, to be added to a message about them."""
        if not message.startswith("unrecognized arguments:"):
            return ""
        words = message.removeprefix("unrecognized arguments:").split()
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        if not flags and self.bare_words:
            return f"; {self.bare_words}"
        return did_you_mean(flags, self._option_string_actions)
