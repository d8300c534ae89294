"""Collects the rows of shards, and writes one while the next are being made."""

import math
from collections import Counter, deque
from concurrent.futures import Future

from drs_fast.run.collected import Collected, Rows
from drs_fast.run.steps import Landed
from drs_fast.run.stopwatch import DISK, DRAIN, Stopwatch
from drs_fast.store.appending import Appending
from drs_fast.store.folder import THREADS
from drs_fast.store.parts import Part


class Shards:
    """Writes shards in the writer's threads while the rows of the next are being collected.

    The host's memory holds one shard for each thread, as far as n needs them, and the next.
    n: samples that the run is on its way to.
    """

    def __init__(
        self,
        writer: Appending,
        example: Rows,
        capacity: int,
        first: int,
        watch: Stopwatch,
        n: int,
    ) -> None:
        self._writer, self._watch, self._n = writer, watch, n
        needed = math.ceil(writer.n / max(1, min(first, capacity)))
        self._free = [
            Collected(example, capacity, first=first, on_host=True)
            for _ in range(1 + max(1, min(THREADS, needed)))
        ]
        self._collecting: Collected | None = None
        self._written: deque[tuple[Future[None], Collected]] = deque()
        self._last: Future[None] | None = None
        self._counters = Counter[str]()
        self._whole = True  # whether every accepted row of the chunk is kept
        self.parted = 0  # samples of the shard in the making that were kept aside
        self._has_part = False  # whether they were, though they may be none

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:  # otherwise closing the writer waits for what is being written
            with self._watch.on(DISK):
                for future, _ in self._written:
                    future.result()

    def add(self, landed: Landed, *, ends: bool, whole: bool) -> None:
        """Adds a step's rows. ends: the shard ends with them. whole: no row of the step was cut."""
        if self._collecting is None:
            self._collecting = self._space()
        with self._watch.on(DRAIN):
            self._collecting.add(landed.rows)
        self._counters.update(
            rows=landed.step.size,
            calls=landed.calls,
            invalid=landed.invalid,
            above=landed.above,
            **landed.tallies,
        )
        self._whole &= whole
        if landed.keeps:
            self._keep(landed.step.chunk)
        if ends:
            cut = not (landed.step.last and self._whole)
            self._whole = True
            collected, counters = self._collecting, dict(self._counters)
            self._collecting = None
            self._last = self._writer.submit(
                self._write,
                self._last,
                landed.step.chunk,
                collected,
                counters,
                cut,
                self._has_part,
            )
            self.parted, self._has_part = 0, False
            self._written.append((self._last, collected))
            self._counters.clear()

    def _space(self) -> Collected:
        """Space for a shard: that of one which has been written, because its pages are there."""
        if self._free and not (self._written and self._written[0][0].done()):
            return self._free.pop()
        future, collected = self._written.popleft()
        with self._watch.on(DISK):
            future.result()  # waits if the disk is slower than the sampler
        collected.clear()
        return collected

    def _write(
        self,
        before: Future[None] | None,
        chunk: int,
        collected: Collected,
        counters: dict[str, int],
        cut: bool,
        has_part: bool,
    ) -> None:
        self._writer.append(chunk, collected.tensors(), cut=cut, counters=counters, after=before)
        if has_part:
            self._writer.drop(chunk)

    def begin(self, part: Part) -> None:
        """Begins a shard with what an earlier call has kept of it."""
        self._collecting = self._space()
        self._collecting.add([dict(part.tensors)])
        self._counters.update(part.counters)
        self._whole, self.parted, self._has_part = part.whole, self._collecting.count, True

    @property
    def loose(self) -> int:
        """Samples that are not on the disk."""
        return 0 if self._collecting is None else self._collecting.count - self.parted

    def _keep(self, chunk: int) -> None:
        if self._collecting is not None:
            self._has_part = True
            with self._watch.on(DISK):
                tensors, counters = self._collecting.tensors(), dict(self._counters)
                self._writer.keep(Part(chunk, self._n, self._whole, counters, tensors))
            self.parted = self._collecting.count
