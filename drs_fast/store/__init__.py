"""Runs on disk: `Writer` writes one, `open_run` reads it, `verify` and `repair` mend it.

All that is read is checked: types, ranges, and what the files of a run must have in common. Their
checksums protect from accident, not from intent: who makes them again can make any run.
"""

from drs_fast.store.folder import being_written
from drs_fast.store.format import Conflict, Corrupt, Record
from drs_fast.store.samples import Column, Samples, open_run
from drs_fast.store.verify import mendable, recorded, repair, verify
from drs_fast.store.writer import Writer

__all__ = [
    "Column",
    "Conflict",
    "Corrupt",
    "Record",
    "Samples",
    "Writer",
    "being_written",
    "mendable",
    "open_run",
    "recorded",
    "repair",
    "verify",
]
