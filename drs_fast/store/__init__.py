"""Runs on disk: `Writer` writes one, `open_run` reads it, `verify` and `repair` mend it."""

from drs_fast.store.folder import being_written
from drs_fast.store.format import Conflict, Corrupt, Record
from drs_fast.store.samples import Column, Samples, open_run
from drs_fast.store.verify import repair, verify
from drs_fast.store.writer import Writer

__all__ = [
    "Column",
    "Conflict",
    "Corrupt",
    "Record",
    "Samples",
    "Writer",
    "being_written",
    "open_run",
    "repair",
    "verify",
]
