"""How one seed's rows are tried: burn-in, steps, and the counts that decide when to give up."""

import functools
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from drs_fast.core import OutOfTime, Rng, Sampler, Starvation, check_invalid, last_row
from drs_fast.core.columns import COLUMNS
from drs_fast.core.sampler import BATCH, checked
from drs_fast.gan import GAN, classes
from drs_fast.gan.images import OUTSIDE
from drs_fast.run import flips, lanes, memory, starvation, steps, stopwatch, tuning
from drs_fast.run.clock import Limit
from drs_fast.run.collected import Rows, first_of
from drs_fast.run.forecast import Forecast, Tried
from drs_fast.run.options import Options
from drs_fast.run.outside import Outside
from drs_fast.run.progress import Progress
from drs_fast.run.steps import Landed, Lane, Step
from drs_fast.run.stopwatch import Stopwatch
from drs_fast.run.worth import Worth, watched
from drs_fast.samplers.common import clipped

LARGEST_STEP = 2**17  # rows, where blocks of G and D do not divide a sampler's groups


class Run:
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
        with self.watch.on("tuning"):
            self.gan, self.sampler = tuning.applied(gan, options.tune), sampler
        self.options, self.rng = options, Rng(options.seed)
        self.step_rows = math.lcm(self.gan.block, sampler.group)
        if self.step_rows > max(LARGEST_STEP, self.gan.block):
            # A block of G and D is then not full.
            self.step_rows = sampler.group * max(1, LARGEST_STEP // 2 // sampler.group)
        self.n = n
        self.state: Any = None
        self.flip_rate: float | None = None
        self._forecast: Forecast
        self._flying = 0  # rows of steps that have not landed yet
        self._limit = limit or Limit()
        self.late = False  # whether steps are missing because the time was over
        self._exhausted = False  # or because max_proposals was reached
        self.accepted = self.proposals = self.calls = self.invalid = self.above = self.idle = 0
        self._outside = None if self.gan.images is None else Outside(self.gan.device)
        self.counted = () if self._outside is None else (OUTSIDE,)  # columns that are only counted
        self.tallies = Counter(dict.fromkeys((*sampler.tallies, *self.counted), 0))
        self.quota: classes.Quota | None = None
        self.shares: tuple[float, ...] = ()  # of the classes among the samples, if quotas say so
        self._excess: clipped.Tally | None = None

    def begin(self) -> dict[str, Any]:
        """Burn-in; returns what it found apart from the sampler's state."""

        def say(line: str) -> None:
            if self.options.progress:
                sys.stderr.write(f"{line}\n")

        if self.gan.images is not None:
            _ = self.example  # an error for samples that cannot be images comes before burn-in
        with self.watch.on("burn-in"):
            self.resume(self.sampler.init(self.gan, self.rng))
        self._limit.advanced = True
        # It is kept with the state, so it may not depend on n, which may grow.
        found = {"tuned": list(self.options.tune), **self.sampler.facts(self.state)}
        if "remark" in found:
            say(found["remark"])
        if self.gan.precision != "fp32":
            with self.watch.on("flip rate"):
                # Weights that were cast once cannot run in fp32.
                exact = self.gan.unchanged() if tuning.CAST in self.options.tune else self.gan
                exact = exact.on(precision="fp32")
                self.flip_rate = flips.flip_rate(
                    self.gan, exact, self.sampler, self.state, self.rng
                )
            found["flip_rate"] = self.flip_rate
        return found

    def anew(self, n: int | None) -> None:
        """Counts from 0 again, towards n samples."""
        self.n = n
        self.accepted = self.proposals = self.calls = self.invalid = self.above = self.idle = 0
        self._flying = 0
        self.late = self._exhausted = False
        self.tallies = Counter(dict.fromkeys((*self.sampler.tallies, *self.counted), 0))
        if self.state is not None:
            self._count()

    def resume(self, state: Any) -> None:
        """Continues after burn-in; the state says which labels to propose and what to count."""
        self.state = state
        asked, self.gan = self.gan, self.sampler.proposing(self.gan, state)
        if self.gan is not asked:
            self.shares = classes.shares(asked.labels or 0, asked.label_weights)
        self._count()

    def _count(self) -> None:
        """What is counted from here on: the samples of each class, and what is clipped."""
        self.quota = classes.Quota(self.shares, self.n) if self.shares else None
        cap = self.sampler.capped_at(self.state)
        self._excess = None if cap is None else clipped.Tally(cap)

    @functools.cached_property
    def example(self) -> Rows:
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
    ) -> Iterator[Landed]:
        """Yields the accepted rows of chunks (number, first row, end), until there are n.

        It ends earlier when the time is over, which `check_time` tells.
        In the step that brings the n-th sample, `accepted` counts all, but the rows end there.
        whole: chunks below this number are needed in full, because later ones exist already. None
            in memory, where steps may end anywhere.
        """
        again, whole = whole is not None, whole or 0
        if self.accepted == self.n and not whole:
            return
        example = {name: self.example[name] for name in ("logit", *names, *self.counted)}
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
            rows = self._taken(landed)
            taken = sum(len(piece["ids"]) for piece in rows)
            ends = self.accepted + taken == self.n and landed.step.chunk >= whole
            if ends and taken < landed.accepted:
                tried = self.rows_until(rows[-1]["ids"]) - landed.step.row
            landed = landed._replace(rows=rows)
            landed = self._with_sums(landed, taken, ends or landed.step.last)
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
            f"{self.accepted:,} samples after max_proposals={most:,}; {', or '.join(remedies)}"
        )

    def chosen(self) -> tuple[Sampler, Any]:
        """What runs after burn-in: it may have found that a simpler sampler is faster."""
        return self.sampler.choice(self.state)

    def _taken(self, landed: Landed) -> list[Rows]:
        """The rows of a step that become samples."""
        if self.quota is not None:
            return self.quota.taken(landed.rows)
        if self.n is None or landed.accepted <= self.n - self.accepted:
            return landed.rows
        return first_of(landed.rows, self.n - self.accepted)

    def _with_sums(self, landed: Landed, taken: int, read: bool) -> Landed:
        """Adds up what is counted on the device; if `read`, puts all sums in the step's tallies."""
        tallies = dict(landed.tallies)
        if self._excess is not None:
            logits = [(rows["logit"], rows.get("y")) for rows in landed.rows]
            self._excess.add(taken, landed.above, logits)
            tallies |= self._excess.taken() if read or self._excess.full else {}
        if self._outside is not None:
            self._outside.add(landed.rows)
            tallies |= self._outside.taken() if read else {}
        return landed._replace(tallies=tallies)

    def _note(self, worth: Worth | None) -> str:
        """What a progress bar says of the samples so far. May wait for the device."""
        said = self.sampler.note(self.state, self.tallies), "" if worth is None else worth.note()
        return ", ".join(filter(None, said))

    def totals(self) -> dict[str, int]:
        """All counts so far, except rows."""
        for counted in (self._excess, self._outside):
            if counted is not None:
                self.tallies.update(counted.taken())
        return {"calls": self.calls, "invalid": self.invalid, "above": self.above, **self.tallies}

    def measured(self, totals: dict[str, int]) -> dict[str, Any]:
        """What all counts say."""
        return self.sampler.measured(self.state, totals)

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
                f"{there:,} of {n:,} samples after "
                f"max_seconds={self.options.max_seconds:g}; {remedy}"
            )

    def warn(self) -> None:
        """Says what the user should hear of a run that has ended."""
        lines = [self.sampler.warning(self.totals())]
        if self.gan.images is not None:
            lines.append(self.gan.images.warning(self.tallies[OUTSIDE], self.accepted))
        for line in lines:
            if line is not None:
                warnings.warn(line, stacklevel=4)

    def say_seconds(self, seconds: Mapping[str, float]) -> None:
        if self.options.progress:
            sys.stderr.write(f"{stopwatch.words(seconds)}\n")

    def rows_until(self, ids: Tensor) -> int:
        """The number of rows up to the end of the last id's group."""
        group = self.sampler.group
        return (last_row(ids) // group + 1) * group

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
