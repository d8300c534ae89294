"""Estimates what a bound loses, from the rows that G and D saw: survivors and audited rows.

A row is seen with a known probability pi, so it stands for 1 / pi rows (Horvitz and Thompson,
1952). Whether it would have been accepted, and whether its bound loses it, are not counted: their
probabilities over the row's u are known once the logit is, and these are summed.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from drs_fast.samplers.common.intervals import Share, gamma_ends

# Whole numbers add up to the same in any order. A product of masses spans too much for an int64:
# products of at least 1 are added up separately from smaller ones.
SMALL = "small "
SUMS = ("mass", "lost", "mass_squared", "mass_by_lost", "lost_squared")
UNITS = {name: 2.0**-20 if i < 2 else 2.0**-8 for i, name in enumerate(SUMS)} | {
    SMALL + name: 2.0**-36 for name in SUMS[2:]
}
# Of runs with low precision: rows it saw, rows it did not know, and what each kind of bound loses.
LOW_LOST = ("lost_by_latent", "lost_by_low")
LOW = ("low_calls", "low_infinite", *LOW_LOST)
LARGEST = 2.0**24  # most that one row may stand for, in masses of a typical row
# A 95 % interval: the lower end is wrong in 2.5 % of cases. The upper end may be wrong in another
# 2.5 %, shared by two limits, one from the search and one from the run after it: 1.25 % each.
ABOVE = 2.241402727604947  # quantile of a standard normal
UNSEEN = 4.382026634673881  # -log(1.25 %): expected events that are compatible with seeing none
STAKES = 24  # parts of the initial `wealth`, one on each stake 1/2, 1/4, ...


def tallied(
    accepted: Tensor, passed: Tensor, seen: Tensor, typical: float = 1.0
) -> dict[str, Tensor]:
    """The sums, () int64, over rows that G and D saw.

    All (n,) float64: the probabilities of being accepted by the logit, of passing the bound, and of
    being seen. typical: about the mass of one row, by which all masses are divided.
    """
    mass = (accepted / seen / typical).clamp(max=LARGEST)
    lost = ((accepted - passed).clamp(min=0.0) / seen / typical).clamp(max=LARGEST)
    parts = {"mass": mass, "lost": lost}
    products = (mass * mass, mass * lost, lost * lost)
    for name, product in zip(SUMS[2:], products, strict=True):
        parts |= {name: product * (product >= 1.0), SMALL + name: product * (product < 1.0)}
    return {name: (part / UNITS[name]).round().long().sum() for name, part in parts.items()}


def reached(accepted: Tensor, passed: Tensor, chance: Tensor) -> Tensor:
    """The probability that a row is both seen and accepted, (n,) float64.

    One u decides both: a row with u >= passed is only seen if it is audited, with this chance.
    """
    return torch.minimum(accepted, passed) + (accepted - passed).clamp(min=0.0) * chance


def power_of_two(value: float) -> float:
    """The power of two nearest a positive value."""
    return 2.0 ** round(math.log2(value))


def loss(sums: Mapping[str, int], largest: float = 0.0) -> Share:
    """The share of accepted samples that the bound loses, from the sums of `tallied`.

    largest: the most that any row, seen or not, can add to the lost mass, in units of `typical`.
    By default the interval ignores rows that would lose more than any that was seen.

    The interval is that of a weighted sum of rare events; the additional event of its upper end has
    the largest weight.
    """
    mass, lost, mass_squared, mass_by_lost, lost_squared = _masses(sums)
    if mass_squared == 0.0:
        return Share(lost / mass if mass else 0.0, 0.0, 1.0)
    share = lost / mass
    variance = lost_squared - 2.0 * share * mass_by_lost + share * share * mass_squared
    variance = max(0.0, variance)  # the sums are rounded
    event = max(largest, mass_squared / mass, lost_squared / lost if lost else 0.0)
    low, high = (end / mass for end in gamma_ends(lost, variance, event, above=ABOVE))
    return Share(share, min(low, share), max(min(high, 1.0), share))


def unseen(samples: float) -> float:
    """The largest share of the samples that may hide where no row was seen, at 98.75 % confidence.

    samples: those that would have shown it, the accepted rows among evenly chosen ones.
    """
    return min(1.0, UNSEEN / max(samples, UNSEEN))


def wealth(sums: Mapping[str, int], tolerance: float, typical: float) -> float:
    """Log of the wealth, from 1, after betting against "no more than the tolerance is lost".

    If the claim is true, it ever exceeds log(1 / alpha) with probability at most alpha, however
    often one looks (Ville, 1939). A row adds x = lost / tolerance - mass to a sum s, and x^2 to v.
    x >= -1, because what is not lost is seen at least as often as it is accepted. So, for
    0 <= k < 1, exp(k s + (log(1 - k) + k) v) is a supermartingale (Fan, Grama and Liu, Electronic
    Journal of Probability 2015, proposition 4.1), and so is the mean over several stakes k.
    """
    mass, lost, mass_squared, mass_by_lost, lost_squared = _masses(sums)
    s = typical * (lost / tolerance - mass)
    v = typical**2 * (lost_squared / tolerance**2 - 2.0 * mass_by_lost / tolerance + mass_squared)
    stakes = (2.0**-i for i in range(1, STAKES + 1))
    logs = [k * s + (math.log1p(-k) + k) * v for k in stakes]
    best = max(logs)
    return best + math.log(sum(math.exp(one - best) for one in logs) / STAKES)


def _masses(sums: Mapping[str, int]) -> list[float]:
    """The sums of `SUMS`."""
    found = {name: sums[name] * unit for name, unit in UNITS.items()}
    return [found[name] + found.get(SMALL + name, 0.0) for name in SUMS]
