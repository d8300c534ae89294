"""What every process that writes to a run does: whole files first, then their records."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, ClassVar, Self

from torch import Tensor

from drs_fast.core import last_row
from drs_fast.store.folder import Folder
from drs_fast.store.format import RECORDS, Record, part_name, shard_name
from drs_fast.store.manifest import COPY, Found
from drs_fast.store.parts import Part
from drs_fast.store.tensors import Layout, check_rows, open_shard, pieces


class Appending:
    """Adds shards to a run's directory; a context manager.

    records: the shards that are there, by chunk. state: of the sampler, once there is one. shared:
    whether other processes add to it too.
    """

    shared: ClassVar[bool] = False

    def __init__(self, folder: Folder, n: int) -> None:
        self.n = n
        self.path = folder.path
        self.records: dict[int, Record] = {}
        self.state: dict[str, Tensor] | None = None
        self._folder = folder
        self._records_name = RECORDS
        self._facts: Found | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def facts(self) -> Found:
        """As `save_state` was given them. ValueError before."""
        if self._facts is None:
            raise ValueError(f"no state has been saved in {self.path} yet")
        return self._facts

    @property
    def count(self) -> int:
        """Samples in all recorded shards."""
        return sum(record.count for record in self.records.values())

    def rows_before(self, chunk: int) -> int:
        """Samples in the recorded shards of earlier chunks."""
        return sum(record.count for record in self.records.values() if record.chunk < chunk)

    def column(self, name: str) -> Iterator[Tensor]:
        """Yields the tensor of that name from each recorded shard."""
        for chunk, record in self.records.items():
            yield open_shard(self.path / shard_name(chunk), record.count).tensor(name)

    def check_rows(self, rows: Layout) -> None:
        """Corrupt unless rows of the first recorded shard have these dtypes and shapes."""
        for chunk, record in itertools.islice(self.records.items(), 1):
            shard = open_shard(self.path / shard_name(chunk), record.count)
            check_rows(shard, rows, "the generator gives", COPY)

    def append(
        self,
        chunk: int,
        tensors: Mapping[str, Tensor],
        *,
        cut: bool,
        counters: Mapping[str, int],
        after: Future[None] | None = None,
    ) -> None:
        """Writes and records the samples of a chunk: ids and other tensors with as many rows.

        cut: the chunk gave more rows than these, because n was reached. counters: those of `Line`
        except last_row, and the sampler's tallies. after: another shard's append, which may still
        be under way; this shard is written beside it, but recorded after it, and not if it fails.
        """
        counts, there = {len(rows) for rows in tensors.values()}, chunk in self.records
        if there and self.shared:
            return  # another process has made it meanwhile
        if there or "ids" not in tensors or len(counts) != 1:
            raise ValueError(
                f"expected a new chunk, with ids and as many rows of each tensor, "
                f"got chunk {chunk} with { ({name: len(rows) for name, rows in tensors.items()}) }"
            )
        count = len(tensors["ids"])
        data, last = pieces(tensors), {"last_row": last_row(tensors["ids"])}
        size = sum(map(len, data))
        sha256 = self._folder.put(shard_name(chunk), *data)
        # What others record is in no order either.
        if after is not None and not self.shared and after.exception() is not None:
            self._folder.remove([shard_name(chunk)])
            after.result()
        record = Record(chunk, count, size, sha256, cut, {**counters, **last})
        self._folder.append(self._records_name, record.line())
        self.records[chunk] = record

    def keep(self, part: Part) -> None:
        """Keeps what there is of a shard, if the disk takes it."""
        with contextlib.suppress(OSError):
            self._folder.put(part_name(part.chunk), *part.written())

    def kept(self, chunk: int) -> Part | None:
        """What an earlier call has kept of a shard."""
        return Part.read(self.path, chunk)

    def drop(self, chunk: int) -> None:
        """Removes what was kept of a shard, which is there now."""
        self._folder.remove([part_name(chunk)])

    def submit(self, write: Callable[..., None], *given: Any) -> Future[None]:
        """Runs `write` in one of the writer's threads, begun in order; `close` waits for all."""
        return self._folder.submit(write, *given)

    def close(self) -> None:
        """Releases the directory after the last write, whatever interrupts this."""
        self._folder.close()
