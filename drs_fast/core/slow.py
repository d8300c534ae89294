"""A line for whatever turns out to take more than two seconds."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 2.0


@contextmanager
def said(line: str, *, enabled: bool = True) -> Iterator[None]:
    """Prints the line to standard error if the block is not done within two seconds."""
    if not enabled:
        yield
        return
    timer = threading.Timer(SECONDS, _print, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print(line: str) -> None:
    sys.stderr.write(f"{line} ...\n")
    sys.stderr.flush()
