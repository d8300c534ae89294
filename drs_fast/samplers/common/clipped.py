"""The share of the data that rejection leaves out because ratios exceed exp(log_m).

Let r = exp(logit) and M = exp(log_m). Accepted rows follow p_model min(r, M). They miss a share
E(r - M)+ / E(r) of the data, which is at least their total variation distance from the data.
An accepted row above log_m stands for exp(logit - log_m) - 1 further rows like itself. If the mean
of this excess over the accepted rows is t, the share is t / (1 + t).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from drs_fast.backends import reference
from drs_fast.samplers.common.intervals import Share, gamma_ends

# Counts of samples, of those above log_m, and of those too far above it to tell how far; then sums
# of the excess and of its square, which is split in three so that none overflows. Whole numbers add
# up to the same in any order.
TALLIES = ("kept", "capped", "deepest", "excess", "excess_high", "excess_middle", "excess_low")
UNIT = 2.0**-20  # in which the excess is counted
HALF = 17  # bits
DEEPEST = 14.0 * math.log(2.0)  # nats above log_m; anything higher counts as this
EVENTS = 3.0
STEPS = 64  # of at most 2^20 rows
WARNED = 0.01


class Tally:
    """Adds up the excess of accepted rows on their device, so that no step waits for it."""

    def __init__(self, log_m: Tensor) -> None:
        self._log_m, self._kept, self._steps = log_m, 0, 0
        self._sums = torch.zeros(len(TALLIES) - 1, dtype=torch.int64, device=log_m.device)

    def add(self, kept: int, above: int, logits: list[tuple[Tensor, Tensor | None]]) -> None:
        """Adds the samples of a step, given as pieces of logits (n,) and labels (n,).

        above: an upper limit on the number of rows above log_m.
        """
        self._kept += kept
        if above:
            self._steps += 1
            for logit, y in logits:
                self._sums += sums(logit, self._log_m[y] if self._log_m.ndim else self._log_m)

    @property
    def full(self) -> bool:
        """Whether more steps might overflow the sums."""
        return self._steps >= STEPS

    def taken(self) -> dict[str, int]:
        """Returns the tallies since the last call, and starts again at 0."""
        values = dict(zip(TALLIES, (self._kept, *self._sums.tolist()), strict=True))
        self._kept = self._steps = 0
        self._sums.zero_()
        return values


def sums(logit: Tensor, log_m: Tensor) -> Tensor:
    """All tallies except the first, for samples with logits (n,); (6,) int64."""
    above = logit.double() - log_m
    excess = (reference.exponential(above.clamp(0.0, DEEPEST))[1] / UNIT).round().long()
    high, low = excess >> HALF, excess & (2**HALF - 1)
    parts = (above > 0.0, above > DEEPEST, excess, high * high, high * low, low * low)
    return torch.stack([part.long().sum() for part in parts])


def clipped(tallies: Mapping[str, int]) -> Share:
    """The missing share of the data, with a 95 % interval.

    The interval is that of a weighted sum of rare events. For its upper end, one further event is
    assumed, with three times the mean weight of those seen, or of a row at 2 M. With log-normal
    ratios of sd 1 to 3, whose tails are heavy, it holds the truth in at least 91 % of runs. If a
    sample is more than 9.7 nats above log_m, the share is a lower limit, and the upper end is 1.
    """
    kept, total, squares = _sums(tallies)
    variance = max(0.0, squares - total * total / kept)
    event = EVENTS * max(1.0, squares / total if total else 0.0)
    means = (sums / kept for sums in (total, *gamma_ends(total, variance, event)))
    found = Share(*(mean / (1.0 + mean) for mean in means))
    return found._replace(high=1.0) if tallies["deepest"] else found


def measured(tallies: Mapping[str, int]) -> dict[str, float | list[float]]:
    """What the tallies mean, by name."""
    found = clipped(tallies)
    return {
        "above_share": tallies["capped"] / max(tallies["kept"], 1),
        "clipped": found.share,
        "clipped_interval": [found.low, found.high],
    }


def described(tallies: Mapping[str, int]) -> dict[str, str]:
    """The same in words, for a report; nothing where nothing was added up."""
    if not tallies.get("kept"):
        return {}
    return {
        "samples above log_m": f"{tallies['capped'] / tallies['kept']:.2%}",
        "clipped by log_m": f"{clipped(tallies)} of the data, 95 % interval",
    }


def note(tallies: Mapping[str, int]) -> str:
    """The share in words, for a progress bar. Empty if no row was above log_m."""
    return f"{clipped(tallies)} clipped" if tallies["capped"] else ""


def _sums(tallies: Mapping[str, int]) -> tuple[int, float, float]:
    """The number of samples, the sum of their excess, and that of its square."""
    high, middle, low = (tallies[f"excess_{part}"] for part in ("high", "middle", "low"))
    squares = ((high << 2 * HALF) + (middle << HALF + 1) + low) * UNIT * UNIT
    return max(tallies["kept"], 1), tallies["excess"] * UNIT, squares


def warning(tallies: Mapping[str, int]) -> str | None:
    """A warning if more than 1 % is missing."""
    found = clipped(tallies)
    if found.share <= WARNED:
        return None
    return (
        f"log_m is too small: {tallies['capped'] / tallies['kept']:.2%} of the samples have logits "
        f"above it, and {found.share:.1%} of the data's mass ({found.low:.1%} to {found.high:.1%}) "
        "is missing there: use the samples' weights, which make up for it, raise burn_in, set a "
        "larger log_m, or calibrate the discriminator"
    )
