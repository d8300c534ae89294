"""Finds the fastest way to run G and D before a run begins: tune="auto".

Time decides here, so what was kept goes into the run's manifest as if it had been given by name:
the bytes are those of the same run with these names, and a run that goes on obeys its manifest.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng, Sampler
from drs_fast.gan import GAN, block_rows, memory
from drs_fast.gan.blocks import MOST_ROWS
from drs_fast.run import clock
from drs_fast.run.graph import captured
from drs_fast.run.options import Options
from drs_fast.run.schedule import Run
from drs_fast.run.worker import Worker
from drs_fast.samplers.common.expected import Pilot
from drs_fast.store import Conflict, Corrupt, place
from drs_fast.store.manifest import Manifest
from drs_fast.tune import tuning

LONGEST, SHARE = 60.0, 0.05  # seconds, or this part of the expected run if that is less
PILOT = 256  # rows that tell how long the run may take
TIMES = (1.0, 2.0, 0.5, 4.0)  # the batch size that was asked for
GAIN = 1.03  # keep what is so much faster than all before it
SLICE, ROUNDS, ENOUGH = 0.05, 3, 1.0  # least seconds of a round; rounds, fewer after one second
MOST_CALLS = 10_000  # in a round
COMPILING = 30.0  # seconds, until one has been timed
COMPILED = 3  # of the fastest ways, to try compiled
WARM_UP = 2  # calls before a capture
ENOUGH_LOGITS = 100  # to expect anything from


# In place of what a run has recorded, where a clock is not asked: several processes would measure
# differently.
UNASKED: Mapping[str, Any] = MappingProxyType({})


class Way(NamedTuple):
    """G and D with these variants in batches of this size.

    rate: rows per second. gain: over the untuned ones, which took turns with it.
    """

    tune: tuple[str, ...]
    batch_size: int
    rate: float = 0.0
    gain: float = 0.0

    def __str__(self) -> str:
        return f"{','.join(self.tune) or 'none'} in batches of {self.batch_size:,}"


class Call(NamedTuple):
    """A call of G and D for one batch, and how many times a round has it."""

    run: Callable[[], None]
    gan: GAN
    times: int


def settled(run: Run, out: str | PathLike[str] | None) -> Options:
    """The options of a run that is not tuned, with what is to be kept in place of "auto".

    Those of the run that `out` holds, if it holds one.
    """
    options = run.options
    before = None if out is None else _manifest(run, out)
    if before is not None:
        tune = tuple(before.get("tune", ()))
        return replace(options, tune=tune, batch_size=before["batch_size"])
    kept = Search(run).kept()
    return replace(options, tune=kept.tune, batch_size=kept.batch_size)


def recorded(run: Run, out: str | PathLike[str]) -> Mapping[str, Any] | None:
    """The fields of the sampler in the run that `out` holds; None if it holds none."""
    try:
        before = _manifest(run, out)
    except (Conflict, Corrupt):  # which the run finds, too
        return UNASKED
    if before is not None:
        return before["sampler"]
    worker = run.options.worker
    alone = worker is None or Worker.parsed(worker).of == 1
    return None if alone else UNASKED


def _manifest(run: Run, out: str | PathLike[str]) -> Manifest | None:
    if not Path(out).is_dir():
        return None
    spec = {"images": run.options.images}
    return place.manifest_before(Path(out).absolute(), spec, run.n or 0)


class Search:
    """Times one way after the other for as long as the run is worth it."""

    def __init__(self, run: Run) -> None:
        self._gan, self._sampler, self._options = run.gan, run.sampler, run.options
        self._start = clock.now()
        self._row_bytes = run.example["x"].nbytes
        self._found: list[Way] = []  # the plain one first
        self._refused: list[Way] = []
        self._left_out = 0
        self._plain: Call | None = None
        self._compiling = COMPILING
        rows = max(PILOT, run.gan.call_rows(PILOT))
        start = clock.now()
        self._expected = tuning.seen(run.gan, rows)  # of untuned G and D
        _wait(run.gan)
        self._row_seconds = (clock.now() - start) / rows  # the most so far
        self._most = tuning.limit(run.gan, self._expected)  # changes
        calls = (
            math.inf
            if run.n is None
            else run.n * _calls(run.gan, run.sampler, self._expected.logit)
        )
        expected = min(calls * self._row_seconds, run.options.max_seconds or math.inf)
        self._limit = min(LONGEST, SHARE * expected)

    def kept(self) -> Way:
        """The fastest way, or what was asked for if nothing is clearly faster."""
        plain = Way((), self._gan.block)
        self._try(plain)
        if not self._found:
            short = f"; nothing was tried, because {self._limit:.1f} s are too few"
            self._say(f"kept {plain}{short if self._left_out else ''}")
            return plain
        without = [name for name in tuning.VARIANTS if name != tuning.COMPILE]
        for size in self._sizes():
            for names in ((), *tuning.sets(without)):
                self._try(Way(names, size))
        if tuning.COMPILE in tuning.VARIANTS:
            for way in sorted(self._found, key=lambda way: -way.gain)[:COMPILED]:
                if not any(tuning.COMPILE in one.tune for one in self._refused):
                    self._try(Way((*way.tune, tuning.COMPILE), way.batch_size))
        best = self._found[0]
        for way in self._found:
            best = way if way.gain > GAIN * best.gain else best
        others = f"; no time for {self._left_out} more" if self._left_out else ""
        spent = f"{clock.now() - self._start:.1f} s of at most {self._limit:.1f} s"
        self._say(f"kept {best} ({spent}{others})")
        return best

    def _sizes(self) -> list[int]:
        asked = self._gan.block
        if self._sampler.sequential:  # its samples depend on the batch size
            return [asked]
        sizes = (int(times * asked) for times in TIMES if 1 <= times * asked < MOST_ROWS)
        return list(dict.fromkeys(map(block_rows, sizes)))

    def _try(self, way: Way) -> None:
        """Times a way, if there is time for it and nothing that it holds was refused."""
        if way[:2] in (one[:2] for one in self._found) or self._hopeless(way):
            return
        start = clock.now()
        if start + self._cost(way) > self._start + self._limit:
            self._left_out += 1
            return
        try:
            found = self._timed(way)
        except (ValueError, torch.OutOfMemoryError, MemoryError) as error:
            self._refused.append(way)
            self._say(f"{way} refused: {(str(error) or repr(error)).splitlines()[0]}")
            return
        finally:
            if tuning.COMPILE in way.tune:
                self._compiling = clock.now() - start
        self._row_seconds = max(self._row_seconds, 1.0 / found.rate)
        self._found.append(found)
        self._say(f"{way}: {found.rate:,.0f} rows/s, {found.gain:.2f}")

    def _hopeless(self, way: Way) -> bool:
        """Whether variants that it has were refused, in this batch size or the usual one."""
        sizes = (way.batch_size, self._gan.block)
        return any(
            set(one.tune) <= set(way.tune) and one.batch_size in sizes for one in self._refused
        )

    def _cost(self, way: Way) -> float:
        """Seconds that a trial may take, from those before it."""
        size, both = way.batch_size, way.batch_size + self._gan.block
        rounds = min(ROUNDS, math.ceil(ENOUGH / max(both * self._row_seconds, SLICE)))
        rows = max(0, size - len(self._expected.logit)) + size + rounds * both
        rows += (WARM_UP + 1) * size if self._graph else 0
        compiling = self._compiling if tuning.COMPILE in way.tune else 0.0
        return rows * self._row_seconds + 2 * ROUNDS * SLICE + compiling

    def _timed(self, way: Way) -> Way:
        """The way with its speed; ValueError if G or D fails, or what they return changes."""
        gan, rows = self._gan.on(block=way.batch_size), max(way.batch_size, tuning.LEAST_ROWS)
        memory.check_batch(gan, self._row_bytes)
        if rows > len(self._expected.logit):
            self._expected = tuning.seen(self._gan, rows)
            self._most = tuning.limit(self._gan, self._expected)
        tuned, found = (
            tuning.made(gan, way.tune, rows) if way.tune else (gan, tuning.seen(gan, rows))
        )
        tuning.check_close(way.tune, tuning.moved(self._expected, found), self._most)
        call = self._call(tuned)
        self._plain = plain = self._plain or call
        rounds: list[tuple[float, float]] = []
        start = clock.now()
        while len(rounds) < ROUNDS and clock.now() - start < ENOUGH:
            rounds.append((_row_seconds(plain), _row_seconds(call)))
        before, now = (max(min(times), sys.float_info.min) for times in zip(*rounds, strict=True))
        return way._replace(rate=1.0 / now, gain=1.0 if call is plain else before / now)

    def _call(self, gan: GAN) -> Call:
        """A call of G and D; on a GPU as a run replays it."""
        rng = Rng(0, BURN_IN_ROW)
        judged = gan.gradients if "gradients" in self._sampler.tallies else gan.logits

        def called() -> None:
            judged(ops.latents(gan, rng, gan.block), ops.labels(gan, rng, gan.block))

        run: Callable[[], None] = called
        if self._graph:
            for _ in range(WARM_UP):
                called()
            with contextlib.suppress(RuntimeError, ValueError):  # then a run calls them too
                run = captured(called, gan.device)
        call = Call(run, gan, 1)
        if gan.block * self._row_seconds > SLICE:
            return call
        first = max(_row_seconds(call) * gan.block, SLICE / MOST_CALLS)
        return call._replace(times=math.ceil(SLICE / first))

    @property
    def _graph(self) -> bool:
        return (
            self._gan.device.type == "cuda" and self._options.cuda_graph and self._sampler.appends
        )

    def _say(self, line: str) -> None:
        if self._options.progress:
            sys.stderr.write(f"tune: {line}\n")


def _row_seconds(call: Call) -> float:
    """Seconds for each row."""
    _wait(call.gan)
    start = clock.now()
    for _ in range(call.times):
        call.run()
    _wait(call.gan)
    return (clock.now() - start) / (call.times * call.gan.block)


def _wait(gan: GAN) -> None:
    if gan.device.type == "cuda":
        torch.cuda.synchronize(gan.device)


def _calls(gan: GAN, sampler: Sampler, logit: Tensor) -> float:
    """Least calls of G and D that a sample is expected to need, judging by some logits."""
    logit = logit[torch.isfinite(logit)].float()
    if sampler.draws or len(logit) < ENOUGH_LOGITS:
        return 1.0
    half = len(logit) // 2
    found = sampler.expected(gan, Pilot(logit[:half], logit[half:]), Rng(0))
    if found is None or not found.acceptance:
        return float(sampler.group)
    return max(1.0, found.calls / found.acceptance)
