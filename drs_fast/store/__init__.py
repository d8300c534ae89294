"""Runs on disk: `Writer` writes one, `open_run` reads it, `verify` and `repair` check and mend it.

Everything that is read is checked: types, ranges, and whether the files of a run agree. Checksums
protect against accidents, not against intent: whoever recomputes them can make up any run.
"""

from typing import TYPE_CHECKING

from drs_fast.core.later import later
from drs_fast.store.folder import being_written
from drs_fast.store.format import Conflict, Corrupt, Record
from drs_fast.store.status import Status

if TYPE_CHECKING:
    from drs_fast.store.columns import Column
    from drs_fast.store.samples import Samples, open_run
    from drs_fast.store.verifying import mendable, recorded, repair, verify
    from drs_fast.store.writer import Writer

__all__ = [
    "Column",
    "Conflict",
    "Corrupt",
    "Record",
    "Samples",
    "Status",
    "Writer",
    "being_written",
    "mendable",
    "open_run",
    "recorded",
    "repair",
    "verify",
]

__getattr__ = later(
    __name__,
    {
        "Column": "columns",
        "Samples": "samples",
        "Writer": "writer",
        "mendable": "verifying",
        "open_run": "samples",
        "recorded": "verifying",
        "repair": "verifying",
        "verify": "verifying",
    },
)
