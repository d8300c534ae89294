"""Several processes that write one run.

Every worker makes whole chunks, whose bytes do not depend on who makes them. What counts is what
lies on the disk: a worker that dies loses the chunk that it was making, and nobody waits for it.
Who is last ends the run alone, as a single process would: it fills holes, drops what lies beyond
the n-th sample, and cuts the last chunk in the order of rows.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from drs_fast.run.progress import Progress
from drs_fast.run.schedule import Run
from drs_fast.run.worker import Worker
from drs_fast.store.appending import Appending
from drs_fast.store.contributor import Contributor
from drs_fast.store.format import Busy, Record
from drs_fast.store.writer import Writer

PAUSE = 0.1  # seconds between two looks at what others do
WITHOUT_END = 2**62  # more samples than any chunks bring
LUCK = 3.0  # standard deviations of the samples that chunks bring


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
    def end(self, writer: Writer) -> None: ...


def share(saving: Shared, worker: Worker) -> None:
    """Does this worker's part of a run, and ends the run if nobody else will."""
    check(saving.run)
    beside = _joined(saving)
    if beside is not None:
        with beside:
            _contribute(saving, beside, worker)
    while True:
        try:
            writer = saving.alone()
        except Busy:
            if worker.count is None:  # the last of the others ends the run
                _say(
                    saving.run, worker, "others are still at work on the run; the last one ends it"
                )
                return
            saving.run.wait(PAUSE)
            continue
        with writer:
            missing = [] if writer.complete or worker.count else writer.holes()
            if len(missing) > few(worker, len(writer.records)):
                whose = sorted({k % worker.of + 1 for k in missing})
                _say(
                    saving.run, worker,
                    f"chunks of workers {', '.join(map(str, whose))} of {worker.of} are missing; "
                    "the same command without a worker makes them and ends the run",
                )  # fmt: skip
                return
            saving.end(writer)
        return


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
        raise ValueError(f"this run takes one worker, because {why}; leave worker out")


def _joined(saving: Shared) -> Contributor | None:
    """The run, begun by whoever comes first; None if it is complete."""
    while True:
        try:
            if (beside := saving.together()) is not None:
                return beside
            with saving.alone() as writer:
                if writer.complete:
                    return None
                saving.check(writer)
                if any(record.cut for record in writer.records.values()):
                    saving.end(writer)  # its last shard is there, made by a process alone
                    return None
                saving.begin(writer)
                check(saving.run)
        except Busy:
            saving.run.wait(PAUSE)


def _contribute(saving: Shared, beside: Contributor, worker: Worker) -> None:
    run, start, before = saving.run, time.monotonic(), beside.count
    saving.check(beside)
    saving.resume(beside)
    check(run)  # now it is known whether there are quotas
    acceptance = run.sampler.found(run.state).acceptance
    expected = max(1.0, acceptance * beside.facts["chunk_rows"])  # samples of a chunk
    made = 0
    with Progress(saving.n, enabled=run.options.progress and worker.number == 1) as bar:
        bar.skip(min(before, saving.n))

        def chunks() -> Iterator[int]:
            nonlocal made
            for chunk in claimed(beside, worker, expected, bar.skip):
                yield chunk
                made += 1

        saving.make_whole(beside, chunks(), bar)
    beside.refresh()
    run.check_time("run the same again to go on", there=beside.count, n=saving.n)
    seconds = time.monotonic() - start
    rate = run.accepted / max(seconds, 1e-9)
    _say(run, worker, f"{made} chunks, {run.accepted:,} samples in {seconds:.1f} s, {rate:,.0f}/s")


def claimed(
    beside: Contributor, worker: Worker, expected: float, seen: Callable[[int], None]
) -> Iterator[int]:
    """The chunks that this worker is to make, as long as the run is expected to need them.

    expected: samples of a chunk, before any is known. seen: told of the samples of others.
    """
    mine = worker.number - 1
    while True:
        if worker.count is not None:
            chunk = worker.count()
        else:
            chunk, mine = mine, mine + worker.of
        if chunk in beside.records:  # at once, for there may be thousands
            continue
        seen(beside.refresh())
        if chunk >= enough(beside.records, beside.n, expected):
            return
        if chunk not in beside.records:
            yield chunk


def enough(records: Mapping[int, Record], n: int, expected: float) -> int:
    """The number of chunks that surely hold n samples, or a few fewer; those beyond are in vain."""
    counts = [record.count for record in list(records.values())]
    if sum(counts) > 0:
        expected = sum(counts) / len(counts)
    return math.ceil((n + LUCK * math.sqrt(n)) / expected)


def few(worker: Worker, chunks: int) -> int:
    """Missing chunks that the last worker makes for others, which may still be about to begin.

    A worker that saw fewer records expected to need fewer chunks, so it may have left some.
    """
    return max(worker.of, chunks // (2 * worker.of))


def _say(run: Run, worker: Worker, line: str) -> None:
    if run.options.progress:
        sys.stderr.write(f"worker {worker}: {line}\n")
