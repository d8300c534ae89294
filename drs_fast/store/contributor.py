"""Adds whole chunks to a run beside other processes that do the same.

Every process shares the lock of the directory, which ends with the process, and records what it
has written in a file of its own. Equal chunks have equal bytes, so it does no harm if two processes
make the same one. `Writer`, which needs the lock for itself, gathers the records.
"""

import contextlib
import itertools
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from drs_fast.store import place
from drs_fast.store.appending import Appending
from drs_fast.store.folder import Folder
from drs_fast.store.format import (
    RECORDS,
    Corrupt,
    Record,
    has_size,
    read_records,
    temporaries,
    workers,
)
from drs_fast.store.manifest import Found
from drs_fast.store.tensors import read_state
from drs_fast.store.writer import Examine


class Contributor(Appending):
    """Writes chunks of one run, as one of several processes; a context manager.

    records: the chunks that are there, by whomever; `refresh` looks for new ones. state: as the
    process that did burn-in saved it.
    """

    shared = True

    @classmethod
    def open(
        cls, path: str | PathLike[str], spec: Mapping[str, Any], n: int, examine: Examine
    ) -> "Contributor | None":
        """Joins a run of n samples; None before burn-in, after its last shard, or if n grows.

        Conflict if the directory holds another run or one of a larger n, or if its file system has
        no locks. Busy if a process has it for itself.
        """
        if not Path(path).is_dir():
            return None
        folder = Folder(Path(path).absolute(), shared=True)
        try:
            joined = cls._joined(folder, spec, n, examine)
        except BaseException:
            folder.close()
            raise
        if joined is None:
            folder.close()
        return joined

    @classmethod
    def _joined(
        cls, folder: Folder, spec: Mapping[str, Any], n: int, examine: Examine
    ) -> "Contributor | None":
        before = place.manifest_before(folder.path, spec, n)
        if before is None or before["n"] != n or before["complete"]:
            return None
        try:
            state, facts = read_state(folder.path, before)
        except Corrupt:
            return None
        records, _ = read_records(folder.path, facts["chunk_rows"])
        if any(record.cut for record in records.values()):
            return None  # all that is missing is for one process
        examine(before, False)
        return cls(folder, n, state, facts)

    def __init__(self, folder: Folder, n: int, state: dict[str, Tensor], facts: Found) -> None:
        super().__init__(folder, n)
        self.state, self._facts = state, facts
        for number in itertools.count(1):
            name = f"worker-{number:04d}"
            if folder.create(f"{name}.jsonl"):
                break
        folder.own, self._records_name = f".{name}", f"{name}.jsonl"
        # Of a worker that died and whose records are gone, so that its name was free.
        folder.remove([left for left in temporaries(folder.path) if left.endswith(f".{name}.tmp")])
        self._read: dict[str, int] = {}  # bytes of each file of records
        self.refresh()

    def refresh(self) -> int:
        """Reads what others have recorded since; the number of their new samples."""
        found = 0
        for name in (RECORDS, *workers(self.path)):
            if name == self._records_name:
                continue
            for line in self._new_lines(name):
                with contextlib.suppress(Corrupt):  # whoever gathers the records says so
                    record = Record.parse(line)
                    if not has_size(self.path, record):  # it is to be made again
                        continue
                    if self.records.setdefault(record.chunk, record) is record:
                        found += record.count
        return found

    def _new_lines(self, name: str) -> list[bytes]:
        begin = self._read.get(name, 0)
        with contextlib.suppress(FileNotFoundError), (self.path / name).open("rb") as file:
            file.seek(begin)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]  # the rest is being written
            self._read[name] = begin + len(whole)
            return whole.splitlines(keepends=True)
        return []
