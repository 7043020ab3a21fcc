"""What commands do when a scheduler or a service manager stops them."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exiting_on_sigterm() -> Iterator[None]:
    """Let SIGTERM leave the block like an interrupt does, so that its temporary files and other processes end with it.

    It has no effect in other threads than the main one, which alone may handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


__all__ = ["exiting_on_sigterm"]
