"""Several processes that write one run.

Every worker makes whole chunks, whose bytes do not depend on who makes them. What counts is what
lies on the disk: a worker that dies loses the chunk that it was making, and nobody waits for it.
Who is last ends the run alone, as a single process would: it fills holes, drops what lies beyond
the n-th sample, and cuts the last chunk in the order of rows.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Protocol

from drs_fast.core.words import counted
from drs_fast.run.progress import Progress
from drs_fast.run.schedule import Run
from drs_fast.run.worker import Worker
from drs_fast.store.appending import Appending
from drs_fast.store.contributor import Contributor
from drs_fast.store.format import Busy, Record
from drs_fast.store.writer import Writer

PAUSE = 0.1  # seconds between two looks at what others do
WITHOUT_END = 2**62  # more samples than any chunks bring


class Shared(Protocol):
    """A run and its directory, as `drs_fast.run.saving` has them."""

    run: Run
    n: int

    def alone(self) -> Writer: ...
    def together(self) -> Contributor | None: ...
    def begin(self, writer: Writer) -> None: ...
    def resume(self, writer: Appending) -> None: ...
    def check(self, writer: Appending) -> None: ...
    def make_whole(self, writer: Appending, chunks: Iterator[int], bar: Progress) -> None: ...
    def end(self, writer: Writer, shown: Progress | None = None) -> None: ...


def share(saving: Shared, worker: Worker) -> None:
    """Does this worker's part of a run, and ends the run if nobody else will."""
    run, talks = saving.run, saving.run.options.progress
    check(run)
    run.options = replace(run.options, progress=talks and worker.number == 1)
    beside = _joined(saving)
    said = []
    with Progress(saving.n, enabled=run.options.progress) as bar:
        if beside is not None:
            with beside:
                said.append(_contribute(saving, beside, worker, bar))
        said.append(_ended(saving, beside, worker, bar))
    if talks:
        sys.stderr.write(f"worker {worker}: {'; '.join(said)}\n")


def _ended(saving: Shared, beside: Contributor | None, worker: Worker, bar: Progress) -> str:
    """Ends the run, waits until another worker has, or leaves that to others; says which."""
    while True:
        try:
            writer = saving.alone()
        except Busy:
            if not worker.stays:
                return "others are still at work on the run; the last one ends it"
            bar.others(0 if beside is None else beside.refresh())
            saving.run.wait(PAUSE)
            continue
        with writer:
            missing = [] if worker.stays or _only_its_end(writer) else writer.holes()
            if len(missing) > few(worker, len(writer.records)):
                whose = sorted({k % worker.of + 1 for k in missing})
                return (
                    f"chunks of workers {', '.join(map(str, whose))} of {worker.of} are missing; "
                    "the same command without a worker makes them and ends the run"
                )
            saving.end(writer, bar)
            bar.others(saving.n - bar.accepted)
            return "the run is complete"


def check(run: Run) -> None:
    """ValueError where the chunks of a run depend on one another."""
    why = None
    if run.sampler.sequential:
        why = "with adapt='batch' each row depends on all rows before it"
    elif run.shares:
        why = "with classes='within' the quota of a class depends on all rows before"
    elif run.options.max_proposals is not None:
        why = "max_proposals counts the rows of one process"
    if why is not None:
        raise ValueError(
            f"this run takes one worker, because {why}; leave worker out, or give "
            "1/1 to the only process of a launcher"
        )


def _joined(saving: Shared) -> Contributor | None:
    """The run, begun by whoever comes first; None if it is complete, or but for its end."""
    while True:
        try:
            if (beside := saving.together()) is not None:
                return beside
            with saving.alone() as writer:
                if _only_its_end(writer):
                    return None
                saving.check(writer)
                saving.begin(writer)
                check(saving.run)
        except Busy:
            saving.run.wait(PAUSE)


def _only_its_end(writer: Writer) -> bool:
    """Whether all that may be missing is for one process: the last shard is there."""
    return writer.complete or any(record.cut for record in writer.records.values())


def _contribute(saving: Shared, beside: Contributor, worker: Worker, bar: Progress) -> str:
    """Makes this worker's chunks; says how many, and how fast."""
    run, start = saving.run, time.monotonic()
    saving.check(beside)
    saving.resume(beside)
    check(run)  # now it is known whether there are quotas
    acceptance = run.sampler.found(run.state).acceptance
    expected = max(1.0, acceptance * beside.facts["chunk_rows"])  # samples of a chunk
    made = 0
    bar.skip(beside.count)

    def chunks() -> Iterator[int]:
        nonlocal made
        for chunk in claimed(beside, worker, expected, bar.others):
            yield chunk
            made += 1

    saving.make_whole(beside, chunks(), bar)
    bar.others(beside.refresh())
    run.check_time("run the same again to go on", there=beside.count, n=saving.n)
    seconds = time.monotonic() - start
    rate = run.accepted / max(seconds, 1e-9)
    samples = counted(run.accepted, "sample")
    return f"{counted(made, 'chunk')}, {samples} in {seconds:.1f} s, {rate:,.0f}/s"


def claimed(
    beside: Contributor, worker: Worker, expected: float, seen: Callable[[int], None]
) -> Iterator[int]:
    """The chunks that this worker is to make, as long as the run is expected to need them.

    expected: samples of a chunk, before any is known. seen: told of the samples of others.
    """
    given = set[int]()
    for chunk in _numbers(worker):
        # A new counter gives numbers again, of chunks that this process may be writing.
        if chunk in beside.records or chunk in given:
            continue
        seen(beside.refresh())
        if chunk >= enough(beside.records, beside.n, expected):
            break
        if chunk not in beside.records:
            given.add(chunk)
            yield chunk
    while worker.stays and worker.count is None:
        seen(beside.refresh())
        end = enough(beside.records, beside.n, expected)
        owed = spare(beside.records.keys() | given, worker.of, end)
        if not owed:
            return
        chunk = owed[worker.number % len(owed)]  # another than the one that others take
        given.add(chunk)
        yield chunk


def _numbers(worker: Worker) -> Iterator[int]:
    """Numbers of the shared counter as long as there is one, then every `of`-th."""
    while worker.count is not None and (number := worker.count()) is not None:
        yield number
    yield from itertools.count(worker.number - 1, worker.of)


def spare(there: Set[int], of: int, end: int) -> list[int]:
    """The missing chunks before `end`, the last one first, without those that are being made.

    They may be being made if all earlier ones of the same worker are there.
    """
    missing = [k for k in range(end) if k not in there]
    first: dict[int, int] = {}
    for k in missing:
        first.setdefault(k % of, k)
    return [k for k in reversed(missing) if k != first[k % of]]


def enough(records: Mapping[int, Record], n: int, expected: float) -> int:
    """The number of chunks that are expected to be needed in full.

    Who ends the run makes the one in which the n-th sample lies, once, as a single process would.
    """
    counts = [record.count for record in list(records.values())]
    if sum(counts) > 0:
        expected = sum(counts) / len(counts)
    return math.floor(n / expected)


def few(worker: Worker, chunks: int) -> int:
    """Missing chunks that the last worker makes for others, which may still be about to begin.

    A worker that saw fewer records expected to need fewer chunks, so it may have left some.
    """
    return max(worker.of, chunks // (2 * worker.of))
