"""Errors that a command shows as one line."""


class CommandError(Exception):
    """What stops a command and is not a bug: the message says what came, what is allowed and what to do."""
