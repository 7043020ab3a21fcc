"""Refusals of the package: one kind of exception with a message that is short enough to read."""

MAX_MESSAGE = 500


def refusal(call):
    """The message with which a call refuses its input, or None if it succeeds; any other exception is a bug and is raised."""
    try:
        call()
    except (ValueError, OSError) as error:
        message = str(error)
        assert 10 < len(message) <= MAX_MESSAGE, f"a message of {len(message)} characters: {message[:MAX_MESSAGE]}"
        return message
    return None
