"""What commands do when a scheduler or a service manager stops them."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exiting_on_sigterm() -> Iterator[None]:
    """Let SIGTERM leave the block like an interrupt does, so that its temporary files and other processes end with it."""
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


__all__ = ["exiting_on_sigterm"]
