"""Runs that are written to a directory, chunk by chunk, and can be resumed there."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch

from drs_fast import __version__
from drs_fast.core import Found, layout, slow
from drs_fast.core.sampler import BATCH, EQUAL, UNKNOWN
from drs_fast.gan import where
from drs_fast.run import called, probe, resumed, spec, summary, workers
from drs_fast.run.keeping import Keeping
from drs_fast.run.progress import Progress
from drs_fast.run.schedule import Run
from drs_fast.run.shards import Shards
from drs_fast.run.stopwatch import DISK
from drs_fast.run.worker import Worker
from drs_fast.run.workers import WITHOUT_END
from drs_fast.samplers.common import weights
from drs_fast.store import Conflict, Corrupt, Writer
from drs_fast.store.appending import Appending
from drs_fast.store.contributor import Contributor
from drs_fast.store.manifest import COPY

SHARD_BYTES = 64 * 2**20
SHARD_ROWS = 2**16
CHUNK_ROWS = 2**18


def save_run(run: Run, out: str | PathLike[str], model: str) -> None:
    """Writes the run's samples to `out`, or the ones that an earlier call has not written.

    model: the GAN's sha256 from before G and D were called.
    """
    saving = Saving(run, out, model)
    try:
        with called.remembered(run.sampler):
            if saving.worker is None:
                with saving.alone() as writer:
                    saving.end(writer)
            else:
                workers.share(saving, saving.worker)
    except Exception:
        raise
    except BaseException as stop:  # Ctrl-C, or a signal
        stop.add_note(resumed.left(out, run, saving.shards))
        raise
    if saving.ended:
        run.warn()


class Saving:
    """A run and its directory, for one process at a time or for several."""

    def __init__(self, run: Run, out: str | PathLike[str], model: str) -> None:
        self.run, self.out = run, out
        self.ended = False  # by this process
        self.shards: Shards | None = None  # that this process makes
        sampler, options = run.sampler, run.options
        if "weight" in options.save and sampler.weighs == UNKNOWN:
            raise ValueError(weights.unknown(type(sampler).__name__, sampler.law).why)
        if sampler.sequential and options.max_seconds is not None:
            raise ValueError(
                "max_seconds needs a run that can be resumed, and adapt='batch' with out= cannot "
                "be; leave max_seconds or adapt out, or draw in memory (in Python, without out)"
            )
        self.n = run.n or 0
        worker = None if options.worker is None else Worker.parsed(options.worker)
        self.worker = None if worker is None or worker.of == 1 else worker  # one alone is no worker
        self.columns = options.save if run.gan.labels is None else (*options.save, "y")
        if "gradients" in sampler.tallies or run.gan.decode is not None:
            # The first call of G and D is one that serves gradients too, and decode is refused now.
            self.row_bytes()
        self.spec = spec.of_run(run, self.columns)
        self._model = model

    def alone(self) -> Writer:
        """The directory for this process alone; Busy if another one writes to it."""
        return Writer.open(
            self.out,
            self.spec,
            self.n,
            bytes_per_sample=self.row_bytes,
            examine=self._examined,
            locked=self.worker is not None,
        )

    def together(self) -> Contributor | None:
        """The directory beside other processes; None before burn-in and after the end."""
        return Contributor.open(self.out, self.spec, self.n, self._examined)

    def _examined(self, manifest: Mapping[str, Any] | None, complete: bool) -> Mapping[str, Any]:
        """What the manifest keeps of the model; an error where the run cannot be made with it."""
        run = self.run
        with slow.said("comparing G and D with those of the run", enabled=run.options.progress):
            return probe.kept(
                run.gan, self._model, manifest, complete, run.sampler, check=run.check_rows
            )

    def begin(self, writer: Writer) -> None:
        """Burn-in, or the state that an earlier call has saved."""
        run, sampler = self.run, self.run.sampler
        if writer.state is not None:
            self.resume(writer)
            return
        found = run.begin()
        later = run.state._field_defaults  # left out where empty, as in states without them
        held = run.state._asdict().items()
        tensors = {name: t for name, t in held if name not in later or t.numel()}
        rows = run.options.chunk_rows or _chunk_rows(
            sampler.found(run.state), sampler.group, self.row_bytes(), run.gan.block
        )
        facts = {
            "chunk_rows": rows,
            "model": run.gan.name,
            "labels": run.gan.labels,
            "version": __version__,
            "law": where.law(run.gan, run.chosen()[0].law),
            "weighing": run.chosen()[0].weighs,
            "group": sampler.group,
            "tallies": list(run.tallies),
            **found,
        }
        numbers = {
            k: v.tolist()
            for k, v in tensors.items()
            if not v.ndim or (v.dtype == torch.float64 and v.shape == (run.gan.labels,))
        }
        writer.save_state(tensors, {"eps": _eps(run), **numbers, **facts})

    def resume(self, writer: Appending) -> None:
        """Takes the state that a call has saved."""
        tuned, asked = writer.facts.get("tuned", []), self.spec["tune"]
        if tuned != asked:  # earlier versions kept the faster one
            raise Conflict(
                f"{self.out} was begun with tune={tuned}, the variants that were faster then; it "
                f"cannot be resumed with all of {asked}; choose another directory"
            )
        tensors = {name: t.to(self.run.gan.device) for name, t in (writer.state or {}).items()}
        self.run.resume(self.run.sampler.State(**tensors))

    def end(self, writer: Writer, shown: Progress | None = None) -> None:
        """Does all that is missing. shown: the bar of the whole job, if there is one already."""
        run = self.run
        with _timed(run, writer):
            _check_state(writer, run)
            if writer.complete:
                _check_rows(writer, run, self.columns)
                return
            if run.sampler.sequential and writer.records:
                raise Conflict(
                    f"{self.out} holds part of a run in which each row depends on all rows before "
                    "it (adapt='batch'), so it cannot be resumed; choose another directory"
                )
            self.begin(writer)
            _check_rows(writer, run, self.columns)
            if shown is not None:
                self._fill(writer, shown)
            else:
                with Progress(self.n, enabled=run.options.progress) as bar:
                    self._fill(writer, bar)
            again = f"run the same again to go on in {self.out}"
            run.check_time(again, there=writer.count, n=self.n)
            with run.watch.on(DISK):
                writer.finish(summary.of_run(run, writer))
            self.ended = True

    def check(self, writer: Appending) -> None:
        """Corrupt if what is there cannot be of this run."""
        _check_state(writer, self.run)
        if writer.state is not None:
            _check_rows(writer, self.run, self.columns)

    def _fill(self, writer: Writer, bar: Progress) -> None:
        """Computes the missing chunks, in order, until there are n samples."""
        run = self.run
        if not run.shares:  # with quotas there is one worker at a time
            writer.trim()
            if holes := writer.holes():
                self.make_whole(writer, holes, bar)
                if run.late:
                    return
                writer.trim()
        run.anew(writer.n)
        for record in writer.records.values():
            run.had(record.count, record.counters)
        bar.skip(run.accepted - bar.accepted)
        if run.quota is not None:
            for y in writer.column("y"):
                run.quota.had(y)
        present = frozenset(writer.records)
        last = max(present, default=-1)
        inner = last if last >= len(present) else 0  # chunks before the last are needed in full
        missing = (k for k in itertools.count() if k not in present)
        self._make(writer, missing, bar, inner)

    def make_whole(self, writer: Appending, chunks: Iterable[int], bar: Progress) -> None:
        """Computes these chunks to their ends, however many samples they bring."""
        self.run.anew(WITHOUT_END)
        self._make(writer, chunks, bar, 0)

    def _make(self, writer: Appending, chunks: Iterable[int], bar: Progress, inner: int) -> None:
        run, rows = self.run, writer.facts["chunk_rows"]
        n = run.n or 0
        first = max(1, min(SHARD_ROWS, SHARD_BYTES // _row_bytes(run, self.stored)))
        example = {name: run.example[name] for name in ("ids", *self.stored)}
        left = iter(chunks)
        keeps = None if run.sampler.sequential else Keeping()
        with Shards(writer, example, min(n, rows), first, run.watch, n) as shards:
            self.shards = shards
            begun = [
                (
                    k,
                    k * rows + resumed.restored(run, shards, writer.kept(k), example, bar),
                    (k + 1) * rows,
                )
                for k in itertools.islice(left, 1)
            ]
            spans = itertools.chain(begun, ((k, k * rows, (k + 1) * rows) for k in left))
            for landed in run.landed(spans, tuple(example), bar, inner, keeps):
                whole = landed.accepted == sum(len(piece["ids"]) for piece in landed.rows)
                reached = run.accepted == run.n and landed.step.chunk >= inner
                shards.add(landed, ends=landed.step.last or reached, whole=whole)

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns that shards have, once there is a state."""
        return _stored(self.columns, self.run.chosen()[0].weighs)

    def row_bytes(self) -> int:
        return _row_bytes(self.run, self.columns)


@contextmanager
def _timed(run: Run, writer: Writer) -> Iterator[None]:
    """Whatever ends the block, its seconds are noted beside the run, unless that was complete."""
    if writer.complete:
        yield
        return
    try:
        yield
    finally:
        seconds = run.watch.seconds()
        writer.spent(seconds)
        run.say_seconds(seconds)


def _stored(columns: tuple[str, ...], weighs: object) -> tuple[str, ...]:
    """The columns without weights that can be found from others."""
    return tuple(name for name in columns if name != "weight" or weighs == BATCH)


def _eps(run: Run) -> float | None:
    """The eps that weights are found with."""
    sampler, state = run.chosen()
    if sampler.weighs in (UNKNOWN, EQUAL):
        return None
    return sampler.thresholds(run.gan, state).eps or None


def _check_rows(writer: Appending, run: Run, columns: tuple[str, ...]) -> None:
    """Corrupt if the samples already written differ in kind from those this run would add."""
    stored = _stored(columns, writer.facts.get("weighing"))
    rows = {name: run.example[name] for name in ("ids", *stored)}
    writer.check_rows(
        {
            name: (str(row.dtype).removeprefix("torch."), tuple(row.shape[1:]))
            for name, row in rows.items()
        }
    )


def _check_state(writer: Appending, run: Run) -> None:
    """Corrupt if the stored state is not a state of this sampler."""
    if writer.state is None:
        return
    problems = layout.unlike(run.sampler.State, writer.state, run.gan.labels)
    counted, counts = writer.facts["tallies"], list(run.tallies)
    if counted != counts:
        problems.append(f"tallies must be {counts}, got {counted}")
    if problems:
        raise Corrupt(
            f"the state in {writer.path} is not a state of {type(run.sampler).__name__}: "
            f"{'; '.join(problems)}; {COPY}"
        )


def _row_bytes(run: Run, columns: tuple[str, ...]) -> int:
    return sum(run.example[name].nbytes for name in ("ids", *columns))


def _chunk_rows(found: Found, group: int, row_bytes: int, block: int) -> int:
    """Rows that give a shard of at most 64 MiB or 65,536 samples at the expected acceptance."""
    samples = max(1.0, min(SHARD_ROWS, SHARD_BYTES / row_bytes))
    rows = samples / max(found.acceptance, samples * found.calls / CHUNK_ROWS)
    groups = max(rows, (2 * block - 1) / found.calls) / group
    return group << math.floor(math.log2(max(groups, 1.0)))
