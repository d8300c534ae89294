"""How one seed's rows are tried: burn-in, steps, and the counts that decide when to give up."""

import functools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from drs_fast.core import OutOfTime, Rng, Sampler, Starvation, check_invalid, slow
from drs_fast.core.columns import COLUMNS
from drs_fast.core.sampler import BATCH, checked
from drs_fast.core.words import counted
from drs_fast.doctor import coupling
from drs_fast.gan import GAN, classes, memory
from drs_fast.gan.precision import AUTOCAST
from drs_fast.run import flips, lanes, own_noise, starvation, steps, stopwatch
from drs_fast.run.clock import Limit
from drs_fast.run.collected import Rows
from drs_fast.run.counted import Counted
from drs_fast.run.forecast import Forecast, Tried
from drs_fast.run.keeping import Keeping
from drs_fast.run.options import Options
from drs_fast.run.progress import Progress
from drs_fast.run.steps import Landed, Lane, Step
from drs_fast.run.stopwatch import Stopwatch
from drs_fast.run.worth import watched
from drs_fast.tune import tuning

LARGEST_STEP = 2**17  # rows, where blocks of G and D do not divide a sampler's groups


class Run(Counted):
    """One pass over the rows of a seed, with the counts that decide when to give up."""

    def __init__(
        self,
        gan: GAN,
        sampler: Sampler,
        n: int | None,
        options: Options,
        limit: Limit | None = None,
    ) -> None:
        self.watch = Stopwatch()
        gan, sampler = options.placed(gan), checked(sampler)
        options.check(gan, sampler)
        own_noise.check(gan, sampler)
        with self.watch.on("tuning"):
            tuned = tuning.applied(own_noise.guarded(gan), options.tune)
            super().__init__(tuned, sampler, n)
        self.options, self.rng = options, Rng(options.seed)
        self.step_rows = math.lcm(self.gan.block, sampler.group)
        if self.step_rows > max(LARGEST_STEP, self.gan.block):
            # A block of G and D is then not full.
            self.step_rows = sampler.group * max(1, LARGEST_STEP // 2 // sampler.group)
        self.flip_rate: float | None = None
        self._checked = self._settled = False
        self._forecast: Forecast
        self._limit = limit or Limit()

    def settle(self, recorded: Callable[[], Mapping[str, Any] | None] = lambda: None) -> None:
        """Decides what a clock decides in the sampler; recorded: as `Sampler.settled` takes it."""
        if not self._settled:
            with self.watch.on("tuning"):
                self.sampler = self.sampler.settled(self.gan, recorded, self._say)
            self.anew(self.n)
            self._settled = True

    def _say(self, line: str) -> None:
        if self.options.progress:
            sys.stderr.write(f"{line}\n")

    def begin(self) -> dict[str, Any]:
        """Burn-in; returns what it found apart from the sampler's state."""
        self.settle()
        if self.gan.images is not None or self.gan.decode is not None:
            _ = self.example  # an error for samples that cannot be kept comes before burn-in
        self.check_rows()
        name = type(self.sampler).__name__
        search = " and its search for a bound" if name == "Squeeze" else ""
        with (
            self.watch.on("burn-in"),
            slow.said(f"burn-in of {name}{search}", enabled=self.options.progress),
        ):
            self.resume(self.sampler.init(self.gan, self.rng))
        self._limit.advanced = True
        # It is kept with the state, so it may not depend on n, which may grow.
        found = {"tuned": list(self.options.tune), **self.sampler.facts(self.state)}
        if "remark" in found:
            self._say(found["remark"])
        if self.gan.precision in AUTOCAST:
            with self.watch.on("flip rate"):
                # Weights that were cast once cannot run in fp32.
                exact = self.gan.unchanged() if tuning.CAST in self.options.tune else self.gan
                exact = exact.on(precision="fp32")
                self.flip_rate = flips.flip_rate(
                    self.gan, exact, self.sampler, self.state, self.rng
                )
            found["flip_rate"] = self.flip_rate
        return found

    def check_rows(self) -> None:
        """ValueError if G or D couples the rows of a call; asked once, before burn-in."""
        if not self._checked:
            coupling.check(self.gan, "gradients" in self.sampler.tallies)
            self._checked = True

    def resume(self, state: Any) -> None:
        """Continues after burn-in; the state says which labels to propose and what to count."""
        self.state = state
        asked, self.gan = self.gan, self.sampler.proposing(self.gan, state)
        if self.gan is not asked:
            self.shares = classes.shares(asked.labels or 0, asked.label_weights)
        self._count()

    @functools.cached_property
    def example(self) -> Rows:
        """One example row of everything a sample may have, for shapes and dtypes."""
        if self.gan.decode is None:
            return self.stepped
        z = self.stepped["z"]  # zeros; x is none of G's samples, which decode may need
        x = self.gan.samples(z, None if self.gan.labels is None else z[:, 0].long())
        return self.stepped | self.gan.kept(x, self.stepped["ids"])

    @functools.cached_property
    def stepped(self) -> Rows:
        """One example row of everything a step can return, for shapes and dtypes."""
        x = self.gan.row(differentiate="gradients" in self.sampler.tallies)
        memory.check_batch(self.gan, x.nbytes)
        latent = (self.gan.latent_dim,)
        return self.gan.stored(x) | {
            name: x.new_zeros((1, *(latent if column.latent else ())), dtype=column.dtype)
            for name, column in COLUMNS.items()
            if column.dtype is not None and (name != "y" or self.gan.labels is not None)
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all that a sample has in memory."""
        weighed = self.chosen()[0].weighs == BATCH
        absent = {"y": self.gan.labels is None, "weight": not weighed}
        return tuple(name for name in COLUMNS if not absent.get(name, False))

    def landed(
        self,
        chunks: Iterable[tuple[int, int, int]],
        names: tuple[str, ...],
        bar: Progress,
        whole: int | None = None,
        keeping: Keeping | None = None,
    ) -> Iterator[Landed]:
        """Yields the accepted rows of chunks (number, first row, end), until there are n.

        It ends earlier when the time is over, which `check_time` tells.
        In the step that brings the n-th sample, `accepted` counts all, but the rows end there.
        whole: chunks below this number are needed in full, because later ones exist already. None
            in memory, where steps may end anywhere. keeping: asked within a shard.
        """
        again, whole = whole is not None, whole or 0
        if self.accepted == self.n and not whole:
            return
        wanted = ["logit", *names, *self.counted]
        if self.counted and self.gan.decode is not None and "x" not in names:
            wanted.append("x")  # which tells what is counted
        example = {name: self.stepped[name] for name in wanted if name in self.stepped}
        sampler, state = self.chosen()
        self._forecast = self._forecast_of(sampler, state)
        graph = self.options.cuda_graph and self._forecast.earns_a_graph(self._tried)
        lane = lanes.lane(
            self.gan, sampler, state, self.rng, self.step_rows, example, graph, self.watch
        )
        worth = watched(self.gan, sampler, state, self.shares) if bar.enabled else None
        for landed in steps.landed(lane, self._steps(chunks, lane, whole, again)):
            if self.accepted == self.n and landed.step.chunk >= whole:
                return
            tried = landed.step.size
            self._flying -= tried
            if landed.step.short and landed.accepted < (self.n or 0) - self.accepted:
                self.calls += landed.calls
                continue
            rows = [self._kept(piece) for piece in self._taken(landed)]
            taken = sum(len(piece["ids"]) for piece in rows)
            ends = self.accepted + taken == self.n and landed.step.chunk >= whole
            if ends and taken < landed.accepted:
                tried = self.rows_until(rows[-1]["ids"]) - landed.step.row
            shard_ends = ends or landed.step.last
            if keeping is not None and shard_ends:
                keeping.restart()
            keeps = keeping is not None and not shard_ends and keeping.due()
            landed = landed._replace(rows=rows, keeps=keeps)
            landed = self._with_sums(landed, taken, shard_ends or keeps)
            self._tally(landed, taken)
            if worth is not None:
                worth.add(rows)
            if ends or bar.due:
                bar.note = self._note(worth)
            bar.advance(taken, tried)
            yield landed
            if self.accepted == self.n and landed.step.chunk >= whole:
                return
            self._check_hunger()
        self.late = self._limit.stopped
        bar.note = self._note(worth)
        if self.late or not self._exhausted:
            return
        most, remedies = self.options.max_proposals, ["raise it", *self.sampler.remedies[:1]]
        raise Starvation(
            f"{counted(self.accepted, 'sample')} after max_proposals={most:,}; "
            f"{', or '.join(remedies)}"
        )

    def _kept(self, piece: Rows) -> Rows:
        """The rows as the run keeps them."""
        if self.gan.decode is None or "x" not in piece:
            return piece
        return piece | self.gan.kept(piece["x"], piece["ids"])

    def chosen(self) -> tuple[Sampler, Any]:
        """What runs after burn-in: it may have found that a simpler sampler is faster."""
        return self.sampler.choice(self.state)

    def wait(self, seconds: float) -> None:
        """Waits for other processes; OutOfTime if this one has no more time."""
        time.sleep(seconds)
        if self._limit.over():
            raise OutOfTime(
                f"max_seconds={self.options.max_seconds:g} passed while other processes were at "
                "work; run the same again"
            )

    def check_time(self, remedy: str, *, there: int | None = None, n: int | None = None) -> None:
        """Raises OutOfTime if the time was over before the rows that are needed.

        there, n: what to say of a run that several processes make: its samples, and those wanted.
        """
        if self.late:
            there, n = (self.accepted, self.n) if there is None else (there, n)
            raise OutOfTime(
                f"{there:,} of {counted(n or 0, 'sample')} after "
                f"max_seconds={self.options.max_seconds:g}; {remedy}"
            )

    def say_seconds(self, seconds: Mapping[str, float]) -> None:
        if self.options.progress:
            sys.stderr.write(f"{stopwatch.words(seconds)}\n")

    def _forecast_of(self, sampler: Sampler, state: Any) -> Forecast:
        return Forecast(
            n=self.n,
            group=self.sampler.group,
            step_rows=self.step_rows,
            acceptance=min(max(sampler.found(state).acceptance, 2.0**-40), 1.0),
            draws=sampler.draws,
            sequential=self.sampler.sequential,
            quota=self.quota,
            call_rows=self.gan.call_rows,
        )

    def _steps(
        self, chunks: Iterable[tuple[int, int, int]], lane: Lane, whole: int, again: bool
    ) -> Iterator[Step | None]:
        """Whole groups, no step across two chunks, and no more rows than may still be tried."""
        forecast, most = self._forecast, self.options.max_proposals
        most_rows = lane.most_rows
        if forecast.draws:
            most_rows = min(most_rows, self.options.patience)
        left = math.inf if most is None else most - self.proposals
        for chunk, first, end in chunks:
            row = first
            while row < end:
                while chunk >= whole and not forecast.needs(self._tried):
                    yield None
                if self.accepted == self.n and chunk >= whole:
                    return
                if (row == first or not again) and self._limit.stops():
                    return
                room, few = int(min(end - row, left)), forecast.few(self._tried, again)
                short = few < min(room, self.step_rows) and chunk >= whole and not lane.in_flight
                if short and again:
                    self._flying += few
                    yield Step(row, few, chunk, short=True)
                    # It fell short. Its rows are taken again in a whole step, because a chunk's
                    # bytes on disk must not depend on where a smaller n would have ended.
                size = few if short and not again else forecast.batches(self._tried, most_rows)
                size = min(size, room)
                size -= size % (self.step_rows if size > self.step_rows else self.sampler.group)
                if size <= 0:
                    self._exhausted = True
                    return
                left -= size
                self._flying += size
                yield Step(row, size, chunk, last=row + size == end)
                row += size
                self._limit.advanced = True

    @property
    def _tried(self) -> Tried:
        return Tried(self.accepted, self.proposals, self._flying, self.idle)

    def _tally(self, landed: Landed, taken: int) -> None:
        size = landed.step.size
        self.accepted += taken
        self.proposals += size
        self.calls += landed.calls
        self.idle = 0 if taken else self.idle + size
        self.invalid += landed.invalid
        self.above += landed.above
        self.tallies.update(landed.tallies)
        check_invalid(self.invalid, self.calls if self._forecast.draws else self.proposals)
        if landed.tallies:
            self.sampler.check(self.state, self.tallies)

    def _check_hunger(self) -> None:
        if self.idle >= self.options.patience:
            accepted, lacking = "accepted", ""
            if self.quota is not None:
                accepted, lacking = "of a class that lacks samples", self.quota.lacking()
            raise Starvation(
                f"none of the last {self.idle:,} proposals was {accepted} ({self.accepted:,} of "
                f"{self.proposals:,} in all{lacking}); "
                f"{starvation.explained(self.gan, self.rng, self.sampler, self.state)}"
            )
