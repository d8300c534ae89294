"""Keeps freed memory with the process while a run lasts.

Each step frees tensors as large as those the next one allocates. If the C library returns their
pages to the system in between, getting them back can take as long as G and D do.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from drs_fast.backends import cpu

_lock = threading.Lock()
_runs = 0


@contextmanager
def kept() -> Iterator[None]:
    """Keeps memory within the block, in all threads, if the C library is glibc; else no effect."""
    count, finalizing = _count, sys.is_finalizing
    count(1)
    try:
        yield
    finally:
        if not finalizing():  # a stream that is left over when Python ends, and this module is gone
            count(-1)


def _count(change: int) -> None:
    global _runs
    with _lock:
        before, _runs = _runs, _runs + change
        if bool(before) != bool(_runs):
            cpu.keep_pages(bool(_runs))
