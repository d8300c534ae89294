"""What a bound loses, estimated from the rows that G and D saw: survivors, and audited ones.

A row is seen with a known probability pi, so 1 / pi of it stands for all rows (Horvitz and
Thompson, 1952). That it would have been accepted, and that its bound loses it, are not counted but
taken as probabilities over its u, which are known once the logit is.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

# Whole numbers add up to the same in any order. A product of masses spans too much for an int64:
# those of at least 1 are added up apart from smaller ones.
SMALL = "small "
SUMS = ("mass", "lost", "mass_squared", "mass_by_lost", "lost_squared")
UNITS = {name: 2.0**-20 if i < 2 else 2.0**-8 for i, name in enumerate(SUMS)} | {
    SMALL + name: 2.0**-36 for name in SUMS[2:]
}
LARGEST = 2.0**24  # of what one row may stand for, in masses of a typical one
NORMAL = 1.959963984540054  # two-sided 95 %


def tallied(
    accepted: Tensor, passed: Tensor, seen: Tensor, typical: float = 1.0
) -> dict[str, Tensor]:
    """The sums, () int64, over rows that G and D saw.

    All (n,) float64: the probabilities of being accepted by the logit, of passing the bound, and of
    being seen. typical: about the mass of a row, which all masses are divided by.
    """
    mass = (accepted / seen / typical).clamp(max=LARGEST)
    lost = ((accepted - passed).clamp(min=0.0) / seen / typical).clamp(max=LARGEST)
    parts = {"mass": mass, "lost": lost}
    products = (mass * mass, mass * lost, lost * lost)
    for name, product in zip(SUMS[2:], products, strict=True):
        parts |= {name: product * (product >= 1.0), SMALL + name: product * (product < 1.0)}
    return {name: (part / UNITS[name]).round().long().sum() for name, part in parts.items()}


def power_of_two(value: float) -> float:
    """The one next to a positive value."""
    return 2.0 ** round(math.log2(value))


class Loss(NamedTuple):
    """The share of accepted samples that the bound loses, with a 95 % interval."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.3%} ({self.low:.3%} to {self.high:.3%})"


def loss(sums: Mapping[str, int]) -> Loss:
    """The estimate from sums of `tallied`.

    The interval is that of a weighted sum of rare events (Fay and Feuer, Statistics in Medicine
    1997): a gamma distribution with the sum's mean and variance, and one event more for the upper
    end, of the weight of those that were seen; its quantiles are those of Wilson and Hilferty
    (1931). It knows nothing of rows too rare to have been seen: for those there is `unseen`.
    """
    found = {name: sums[name] * unit for name, unit in UNITS.items()}
    mass, lost, mass_squared, mass_by_lost, lost_squared = (
        found[name] + found.get(SMALL + name, 0.0) for name in SUMS
    )
    if mass_squared == 0.0:
        return Loss(lost / mass if mass else 0.0, 0.0, 1.0)
    share = lost / mass
    variance = lost_squared - 2.0 * share * mass_by_lost + share * share * mass_squared
    variance = max(0.0, variance)  # the sums are rounded
    event = max(mass_squared / mass, lost_squared / lost if lost else 0.0)
    low = _gamma_quantile(lost, variance, -NORMAL) / mass if lost else 0.0
    high = _gamma_quantile(lost + event, variance + event * event, NORMAL) / mass
    return Loss(share, min(low, share), max(min(high, 1.0), share))


def unseen(evenly: float, acceptance: float) -> float:
    """The largest share of the accepted mass that may hide where no row was seen, with 95 %.

    evenly: rows that were seen by an even chance. acceptance: the mass of all rows. What is hidden
    is accepted for sure, and rejected by its bound. Source: the rule of three.
    """
    return min(1.0, 3.0 / max(evenly * acceptance, 3.0))


def _gamma_quantile(mean: float, variance: float, normal: float) -> float:
    """The quantile of a gamma distribution where a standard normal has the quantile `normal`."""
    relative = variance / (9.0 * mean * mean)
    return mean * max(0.0, 1.0 - relative + normal * math.sqrt(relative)) ** 3
