"""What samplers are expected to give for what they cost, side by side, before the long run."""

import dataclasses
import math
import re
from typing import NamedTuple

from drs_fast.core import Rng, Sampler
from drs_fast.core.arguments import positive
from drs_fast.core.sampler import compared as settings
from drs_fast.gan import GAN
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.samplers.common.expected import Expected, Pilot, Range

BURN_IN = 10_000  # rows, as samplers have it
SECONDS, SHARE = 3.0, 0.01  # for the pilot: at least so long, or this part of the budget
LEAST, MOST = 2**14, 2**18  # rows of a pilot
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
DURATION = re.compile(r"(?:(\d+\.?\d*)h)?(?:(\d+\.?\d*)m)?(?:(\d+\.?\d*)s)?")
WIDTHS = (11, 7, 14, 25, 25, 14)
HEADS = ("acceptance", "calls", "TV to the data", "KL to it, nats", "worth")


class Compared(NamedTuple):
    """What `plan` expects of samplers, from the logits of `rows` rows and of a burn-in.

    samplers: with what is expected of each, per call of G and D.
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
        """The one with the most effective samples per call; None if nothing can be promised."""
        sure = [each for each in self.samplers if each[1].promised]
        return max(sure, key=lambda each: _least(each[1]), default=None)

    def seconds(self, found: Expected, n: int) -> float:
        """Seconds to draw n samples, burn-in included."""
        return (BURN_IN + n / found.acceptance) / self.rate if found.acceptance else math.inf

    def within(self, found: Expected, seconds: float) -> int:
        """The number of samples in these seconds, burn-in included."""
        return max(0, int((seconds * self.rate - BURN_IN) * found.acceptance))

    def __str__(self) -> str:
        wanted = "" if self.n is None else f"{self.n:,}"
        wanted = wanted if self.budget is None else f"in {duration(self.budget)}"
        return "\n".join(
            [
                f"expected, from {self.rows:,} rows and a burn-in of {BURN_IN:,}, 95 % intervals",
                _line("", *HEADS[:2], wanted, *HEADS[2:]),
                *(self._row(sampler, found) for sampler, found in self.samplers),
                "",
                "calls: of G and D per sample. How many fewer Squeeze needs, only its search can",
                "tell: give --squeeze to measure it.",
                "worth: effective samples in 1,000 calls, with their weights.",
                self._advice(),
            ]
        )

    def _row(self, sampler: Sampler, found: Expected) -> str:
        calls = 1.0 / found.acceptance if found.acceptance else math.inf
        wanted = "" if self.n is None else duration(self.seconds(found, self.n))
        if self.budget is not None:
            wanted = f"{self.within(found, self.budget):,}"
        tv = _range(found.tv, 1.0)
        if found.tv is not None and found.kl is None:  # a bound
            tv = f"{found.tv.high:.3f} or less" if found.tv.high < 1.0 else "-"
        kl = _range(found.kl, math.inf)
        acceptance, worth = f"{found.acceptance:.2%}", _worth(found.worth)
        return _line(_name(sampler), acceptance, f"{calls:,.3g}", wanted, tv, kl, worth)

    def _advice(self) -> str:
        tail = "" if self.tail is None else f" (tail index {self.tail:.2f})"
        best = self.recommended
        if best is None:
            return (
                f"nothing can be promised{tail}: rows that a pilot hardly sees carry much of the\n"
                "data's mass; calibrate the discriminator (drs.calibrate), or give a --budget"
            )
        return (
            f"recommended: drs-fast generate ... {_flags(best[0])}\n"
            f"at least {1000.0 * _least(best[1]):.3g} effective samples in 1,000 calls{tail}"
        )


def compare(
    gan: GAN, rng: Rng, rate: float, n: int | None, budget: float | None, sampler: Sampler | None
) -> Compared:
    """What samplers are expected to give, from rows of the burn-in range, which no run reaches.

    Thresholds come from the rows that a run's burn-in has for the same seed, and so are the run's;
    all else comes from rows after these. sampler: one more to compare.
    """
    rows = int(rate * max(SECONDS, SHARE * (budget or 0.0)))
    rows = min(MOST, 2 ** (max(rows, LEAST).bit_length() - 1))
    logit = burn_in(gan, rng, BURN_IN + rows)[0]
    pilot = Pilot(logit[:BURN_IN], logit[BURN_IN:])
    every = settings()
    if sampler is not None and sampler not in every:
        every.append(sampler)
    found = ((each, each.expected(gan, pilot, rng)) for each in every)
    known = tuple((each, what) for each, what in found if what is not None)
    return Compared(known, rows, pilot.tail, rate, n, budget)


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


def _changed(sampler: Sampler) -> dict[str, object]:
    """The fields that are not what they are by default."""
    usual, fields = vars(type(sampler)()), dataclasses.fields(sampler)
    given = {field.name: vars(sampler)[field.name] for field in fields}
    return {key: value for key, value in given.items() if value != usual[key]}


def _name(sampler: Sampler) -> str:
    fields = (f"{key}={value!r}" for key, value in _changed(sampler).items())
    return f"{type(sampler).__name__}({', '.join(fields)})"


def _flags(sampler: Sampler) -> str:
    fields = (f" --{key.replace('_', '-')} {value}" for key, value in _changed(sampler).items())
    return f"--sampler {type(sampler).__name__.lower()}{''.join(fields)}"


def _least(found: Expected) -> float:
    return 0.0 if found.worth is None else found.worth.low


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
