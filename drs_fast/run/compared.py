"""What samplers are expected to give for what they cost, side by side, before the long run."""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from drs_fast.core import Rng, Sampler
from drs_fast.core.arguments import positive
from drs_fast.core.sampler import compared as settings
from drs_fast.gan import GAN
from drs_fast.run.advice import name, weighted, written
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.samplers.common.expected import Expected, Pilot, Range
from drs_fast.samplers.common.rejection import RejectionSampler
from drs_fast.squeeze import Squeeze
from drs_fast.squeeze.outlook import outlook
from drs_fast.squeeze.work import Costs

BURN_IN = 10_000  # rows, as samplers have it
SECONDS, SHARE = 3.0, 0.01  # for the pilot: at least so long, or this part of the budget
LEAST, MOST = 2**14, 2**18  # rows of a pilot
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
DURATION = re.compile(r"(?:(\d+\.?\d*)h)?(?:(\d+\.?\d*)m)?(?:(\d+\.?\d*)s)?")
NEARLY = 0.9  # of the most that weighted samples are worth: as good, if no weights are needed
EQUALLY = 0.99  # of the most: as good as that
WIDTHS = (11, 9, 14, 25, 25, 14)
HEADS = ("acceptance", "calls", "TV to the data", "KL to it, nats", "worth")


class Compared(NamedTuple):
    """What `plan` expects of samplers, from the logits of `rows` rows and of a burn-in.

    samplers: with what is expected of each; those that are squeezed follow those that are not.
    rate: rows per second. tail: Pareto index of the largest ratios; None if they hardly differ.
    n, budget: samples that are wanted, and seconds that there are.
    """

    samplers: tuple[tuple[Sampler, Expected], ...]
    rows: int
    tail: float | None
    rate: float
    n: int | None
    budget: float | None

    @property
    def recommended(self) -> tuple[Sampler, Expected] | None:
        """The one with the most effective samples for its work; None if nothing can be promised.

        One that needs no weights is preferred if it gives 90 % of that. Within 1 % of the most,
        the one whose samples are nearest to the data without weights.
        """
        sure = [each for each in self.samplers if each[1].promised]
        if not sure:
            return None
        best = self._best(sure)
        plain = [each for each in sure if not weighted(each[0])]
        other = self._best(plain) if plain else best
        return other if self._pays(other) >= NEARLY * self._pays(best) else best

    def _best(self, sure: list[tuple[Sampler, Expected]]) -> tuple[Sampler, Expected]:
        """The one that pays most; among equals, that whose samples are nearest to the data."""
        most = max(map(self._pays, sure))
        equals = [each for each in sure if self._pays(each) >= EQUALLY * most]
        return min(equals, key=lambda each: round(each[1].tv.high, 3) if each[1].tv else 1.0)

    def seconds(self, found: Expected, n: int) -> float:
        """Seconds to draw n samples, burn-in and the search for a bound included."""
        if not found.acceptance:
            return math.inf
        return (BURN_IN + found.search + n * found.cost / found.acceptance) / self.rate

    def within(self, found: Expected, seconds: float) -> int:
        """The number of samples in these seconds, burn-in and the search for a bound included."""
        rows = (seconds * self.rate - BURN_IN - found.search) / found.cost
        return max(0, int(rows * found.acceptance))

    def _pays(self, each: tuple[Sampler, Expected]) -> float:
        """Effective samples that are sure, per row's work, that of the search included."""
        found = each[1]
        least = found.sure * found.calls / found.cost
        if self.budget is not None:
            left = self.budget * self.rate - BURN_IN
            return least * max(0.0, 1.0 - found.search / left) if left > 0.0 else least
        if self.n is not None and found.search:
            drawing = self.n * found.cost / found.acceptance
            return least * drawing / (found.search + drawing)
        return least

    def __str__(self) -> str:
        wanted = "" if self.n is None else f"{self.n:,}"
        wanted = wanted if self.budget is None else f"in {duration(self.budget)}"
        return "\n".join(
            [
                f"expected, from {self.rows:,} rows and a burn-in of {BURN_IN:,}, 95 % intervals",
                _line("", *HEADS[:2], wanted, *HEADS[2:]),
                *(self._row(sampler, found) for sampler, found in self.samplers),
                "",
                *self._notes(),
                "worth: effective samples in 1,000 calls, with their weights.",
                self._advice(),
            ]
        )

    def _notes(self) -> tuple[str, ...]:
        if any(found.gain for _, found in self.samplers):
            return (
                "calls: of G and D per sample. squeezed: the sampler above with a bound; only a",
                "search tells what it brings: --squeeze (in Python, squeeze=True).",
            )
        if any(
            isinstance(sampler, Squeeze) and not found.remark for sampler, found in self.samplers
        ):
            return (
                "calls: of G and D per sample.",
                "squeezed: the sampler above, with a bound that its search found. Times include",
                "the bound's work and that of the search, which may have raised log_m.",
            )
        return ("calls: of G and D per sample.",)

    def _row(self, sampler: Sampler, found: Expected) -> str:
        if found.remark:
            return f"{name(sampler):<24}   no bound: {found.remark}"
        if found.gain:
            return (
                f"{name(sampler):<24}   at most {found.gain:.3g} times as fast; to see, --squeeze "
                f"(about {duration(found.search / self.rate)} or more)"
            )
        calls = found.calls / found.acceptance if found.acceptance else math.inf
        wanted = "" if self.n is None else duration(self.seconds(found, self.n))
        if self.budget is not None:
            wanted = f"{self.within(found, self.budget):,}"
        tv = _range(found.tv, 1.0)
        if found.tv is not None and found.kl is None:  # a bound
            tv = f"{found.tv.high:.3f} or less" if found.tv.high < 1.0 else "-"
        kl = _range(found.kl, math.inf)
        acceptance, worth = f"{found.acceptance:.2%}", _worth(found.worth)
        shown = f"{calls:,.3g}" if calls < 1000.0 else f"{calls:,.0f}"
        return _line(name(sampler), acceptance, shown, wanted, tv, kl, worth)

    def _advice(self) -> str:
        tail = "" if self.tail is None else f" (tail index {self.tail:.2f})"
        best = self.recommended
        if best is None:
            return (
                f"nothing can be promised{tail}: rows that a pilot hardly sees carry much of the\n"
                "data's mass; calibrate the discriminator (return drs.calibrate(gan) as the model)"
            )
        return (
            f"recommended: {written(best[0])}\n"
            f"at least {1000.0 * best[1].sure:.3g} effective samples in 1,000 calls{tail}"
        )


def compare(
    gan: GAN,
    rng: Rng,
    rate: float,
    n: int | None,
    budget: float | None,
    sampler: Sampler | None,
    *,
    squeeze: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Compared:
    """What samplers are expected to give, from rows of the burn-in range, which no run reaches.

    Thresholds come from the rows that a run's burn-in has for the same seed, and so are the run's;
    all else comes from rows after these. sampler: one more to compare. squeeze: look for a bound
    for every rejection sampler, not only say what it can bring. say: told which search begins.
    """
    say("logits of a pilot")
    rows = int(rate * max(SECONDS, SHARE * (budget or 0.0)))
    rows = min(MOST, 2 ** (max(rows, LEAST).bit_length() - 1))
    logit = burn_in(gan, rng, BURN_IN + rows)[0]
    pilot = Pilot(logit[:BURN_IN], logit[BURN_IN:])
    known: list[tuple[Sampler, Expected]] = []
    costs = None
    for each in _every(sampler):
        searched = squeeze or each == sampler
        if isinstance(each, Squeeze) and not searched:
            inner = [found for other, found in known if other == each.sampler]
            costs = Costs.of(gan) if inner and costs is None else costs
            found = outlook(each, inner[0], costs, gan.device) if inner and costs else None
        else:
            if isinstance(each, Squeeze):
                say(f"search for a bound: Squeeze({name(each.sampler)})")
                settled = each.settled(gan, say=say)
                each = settled if settled.limits.low else each
            found = each.expected(gan, pilot, rng)
        if found is not None:
            known.append((each, found))
    return Compared(tuple(known), rows, pilot.tail, rate, n, budget)


def _every(sampler: Sampler | None) -> Iterator[Sampler]:
    """The samplers to compare, each before those that squeeze it."""
    every = settings()
    own = sampler.sampler if isinstance(sampler, Squeeze) else sampler
    if own is not None and own not in every:
        every.append(own)
    for each in every:
        yield each
        bounded: list[Sampler] = []
        if isinstance(each, RejectionSampler) and not each.sequential:
            bounded.append(Squeeze(each))
        if isinstance(sampler, Squeeze) and own == each and sampler not in bounded:
            bounded.append(sampler)
        yield from bounded


def seconds(budget: float | str) -> float:
    """The seconds of a budget such as "90s", "30m", "1h30m" or 3600."""
    if isinstance(budget, str):
        parts = DURATION.fullmatch(budget)
        if parts is None or not budget:
            raise ValueError(f"budget must be a time such as 90s, 30m or 1h30m, got {budget!r}")
        given = zip(parts.groups(), UNITS.values(), strict=True)
        budget = sum(float(part or 0.0) * unit for part, unit in given)
    return positive("budget", budget)


def duration(seconds: float) -> str:
    """Seconds in the largest unit that there is one of."""
    unit = next((unit for unit, size in UNITS.items() if seconds >= size), "s")
    return f"{seconds / UNITS[unit]:.3g} {unit}"


def _range(found: Range | None, most: float) -> str:
    if found is None:
        return "-"
    if found.high == most:
        return f"{found.low:.3f} or more"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _worth(found: Range | None) -> str:
    if found is None:
        return "-"
    low, high = 1000.0 * found.low, 1000.0 * found.high
    return f"{low:.3g} to {high:.3g}" if low else f"{high:.3g} or less"


def _line(first: str, *cells: str) -> str:
    return f"{first:<24}" + "".join(
        f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)
    )
