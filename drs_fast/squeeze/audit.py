"""What a bound loses, estimated from the rows that G and D saw: survivors, and audited ones.

A row is seen with a known probability pi, so 1 / pi of it stands for all rows (Horvitz and
Thompson, 1952). That it would have been accepted, and that its bound loses it, are not counted but
taken as probabilities over its u, which are known once the logit is.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

# Of sums over rows: whole numbers add up to the same in any order, and an int64 holds a step's.
UNITS = {
    "mass": 2.0**-20,
    "lost": 2.0**-20,
    "mass_squared": 2.0**-8,
    "mass_by_lost": 2.0**-8,
    "lost_squared": 2.0**-8,
}
SUMS = tuple(UNITS)
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
    products = (mass, lost, mass * mass, mass * lost, lost * lost)
    return {
        name: (product / unit).round().long().sum()
        for (name, unit), product in zip(UNITS.items(), products, strict=True)
    }


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
    end; its quantiles are those of Wilson and Hilferty (1931).
    """
    mass, lost, mass_squared, mass_by_lost, lost_squared = (
        sums[name] * unit for name, unit in UNITS.items()
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


def _gamma_quantile(mean: float, variance: float, normal: float) -> float:
    """The quantile of a gamma distribution where a standard normal has the quantile `normal`."""
    relative = variance / (9.0 * mean * mean)
    return mean * max(0.0, 1.0 - relative + normal * math.sqrt(relative)) ** 3
