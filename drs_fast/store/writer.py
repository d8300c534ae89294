"""Writes a run so that an interruption at any point changes no byte of the result.

A shard is written under a temporary name, fsynced and renamed, then the directory is fsynced, and
only then is the shard recorded in shards.jsonl. Recorded shards are never computed again; all
others are. Several threads may write shards at once; they are recorded in the order of their
chunks.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from drs_fast.store import place, seconds
from drs_fast.store.appending import Appending
from drs_fast.store.folder import Folder
from drs_fast.store.format import (
    MANIFEST,
    RECORDS,
    SECONDS,
    STATE,
    Altered,
    Conflict,
    Corrupt,
    gaps,
    has_size,
    irregular,
    lines,
    parts,
    read_records,
    temporaries,
    unrecorded,
    within,
    workers,
)
from drs_fast.store.manifest import (
    Found,
    Manifest,
    check_totals,
    found,
    written,
)
from drs_fast.store.tensors import pieces, read_state

Examine = Callable[[Manifest | None, bool], Mapping[str, Any]]


class Writer(Appending):
    """Writes the samples of one run; a context manager.

    records: the shards that are there, by chunk. state: as `save_state` was given it; None before.
    complete: the n samples are there and `finish` has been called.
    """

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        spec: Mapping[str, Any],
        n: int,
        *,
        bytes_per_sample: Callable[[], int] = lambda: 0,
        examine: Examine = lambda manifest, complete: {},
        locked: bool = False,
    ) -> "Writer":
        """Starts a run of n samples, or resumes it.

        spec: what makes it this run (model, sampler, seed, ...), kept in the manifest.
        examine: given the manifest so far (None of a new run), and whether the run is complete,
            before anything is changed; the manifest keeps what it returns.
        bytes_per_sample: asked for after `examine`, which may have called G and D for the first
            time.
        locked: refuse a file system without locks, because there are other workers.
        Conflict if the directory holds a run of another spec or a larger n, or other files, or if
        another process writes to it. OSError (ENOSPC) if the disk cannot hold the missing samples.
        """
        new = not Path(path).exists()
        folder = Folder(place.made(path), locked=locked)
        try:
            return cls(folder, spec, n, bytes_per_sample, examine)
        except BaseException:
            if new and not locked:  # another worker may have come to stay
                with contextlib.suppress(OSError):  # it has files
                    folder.path.rmdir()
            folder.close()
            raise

    def __init__(
        self,
        folder: Folder,
        spec: Mapping[str, Any],
        n: int,
        bytes_per_sample: Callable[[], int],
        examine: Examine,
    ) -> None:
        super().__init__(folder, n)
        self._spec = spec
        blocked = irregular(folder.path)
        if blocked:
            raise Corrupt("; ".join(blocked))
        before = place.manifest_before(folder.path, spec, n)
        folder.remove(temporaries(folder.path))
        self.complete = False
        self._found: Mapping[str, object] = {}  # the facts, or what a manifest says of lost ones
        self._state_sha256: str | None = None
        if before is not None:
            self._go_on(before)
        self._spec = {**spec, **examine(before, self.complete)}
        place.check_space(folder.path, n - self.count, bytes_per_sample())
        if not self.complete:
            # A kill between two of these leaves a run that both the old and the new n can resume.
            self._put_manifest(n if before is None else before["n"], complete=False)
            self._put_records()
            self._put_manifest(n, complete=False)

    def _go_on(self, before: Manifest) -> None:
        """Takes what is there and sound."""
        self._found, self._state_sha256 = found(before), before.get("state_sha256")
        try:
            self.state, self._facts = read_state(self.path, before)
            self._found = self._facts
        except Altered:
            raise
        except Corrupt:
            pass  # it is found again; until then the manifest says what it said
        recorded, torn = read_records(self.path, before.get("chunk_rows"))
        if before["complete"] and not torn:
            check_totals(self.path, before, recorded.values())
        self.records = {
            chunk: record
            for chunk, record in recorded.items()
            if has_size(self.path, record) and not (record.cut and self.n > before["n"])
        }
        self.complete = (
            before["complete"]
            and self.n == before["n"] == self.count
            and not torn
            and not workers(self.path)
            and self.records == recorded
            and self.state is not None
            and (self.path / RECORDS).read_bytes() == lines(recorded)
        )

    def save_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Saves the sampler's state, and facts about it (log_m, gamma, ...) in the manifest too.

        Conflict if shards were made with another state.
        """
        data = b"".join(pieces(tensors, {"facts": json.dumps(dict(facts), sort_keys=True)}))
        sha256 = hashlib.sha256(data).hexdigest()
        if self.records and sha256 != self._state_sha256:
            raise Conflict(
                f"the sampler's state differs from the one that made the shards in {self.path} "
                "(another device, or other versions?); choose another directory"
            )
        self._folder.remove(parts(self.path))  # perhaps of another state
        self._folder.put(STATE, data)
        self._state_sha256 = sha256
        self.state, self._facts = dict(tensors), cast(Found, dict(facts))
        self._found = self._facts
        self._put_manifest(self.n, complete=False)

    def holes(self) -> list[int]:
        """The chunks that are missing before a recorded one."""
        return [k for k in range(max(self.records, default=0)) if k not in self.records]

    def trim(self) -> None:
        """Forgets chunks that workers made beyond the n-th sample, and the one that it lies in."""
        last = self.records[max(self.records)] if self.records else None
        exact = self.count == self.n and bool(workers(self.path))
        if last is not None and (self.count > self.n or (exact and not last.cut)):
            self.records = within(self.records, self.n)
            self._put_records()
        if not self.holes():  # otherwise more may lie beyond the n-th sample than is known now
            self._folder.remove(workers(self.path))  # whose records are in shards.jsonl

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Sorts the records, adds the summary to the manifest. Corrupt unless there are n rows."""
        problems = gaps(self.records, self.n)
        if problems:
            raise Corrupt(f"{self.path}: {'; '.join(problems)}; start over in another directory")
        self._folder.remove([*unrecorded(self.path, self.records), *parts(self.path)])
        self._put_records()
        self._put_manifest(self.n, complete=True, summary=summary)
        self.complete = True

    def spent(self, on: Mapping[str, float]) -> None:
        """Notes what the seconds of this call were spent on, if the disk takes it."""
        with contextlib.suppress(OSError, Conflict):
            self._folder.put(SECONDS, seconds.added(self.path, on))

    def _put_manifest(
        self, n: int, complete: bool, summary: Mapping[str, Any] | None = None
    ) -> None:
        facts = {**self._spec, **self._found, **(summary or {}), "n": n, "complete": complete}
        if self._state_sha256 is not None:
            facts["state_sha256"] = self._state_sha256
        self._put_if_changed(MANIFEST, written(facts))

    def _put_records(self) -> None:
        self._put_if_changed(RECORDS, lines(self.records))

    def _put_if_changed(self, name: str, data: bytes) -> None:
        path = self.path / name
        if not path.exists() or path.read_bytes() != data:
            self._folder.put(name, data)
