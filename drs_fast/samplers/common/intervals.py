"""Shares of rare events, as estimates with intervals."""

import math
from typing import NamedTuple

# Quantiles of a standard normal: two-sided 95 %.
BELOW, ABOVE = -1.959963984540054, 1.959963984540054


class Share(NamedTuple):
    """A share and its interval."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.3%} ({self.low:.3%} to {self.high:.3%})"

    def within(self, high: float) -> "Share":
        """The share with a known upper limit, unless the lower end contradicts it."""
        if self.low > high:
            return self
        return self._replace(high=max(self.share, min(self.high, high)))


def gamma_ends(
    total: float, variance: float, event: float, below: float = BELOW, above: float = ABOVE
) -> tuple[float, float]:
    """The ends of an interval for a weighted sum of rare events, of which `total` was seen.

    They are quantiles of gamma distributions with the sum's mean and variance, with one more event
    for the upper end. below, above: the same quantiles of a standard normal.
    Source: Fay and Feuer, Confidence intervals for directly standardized rates, Statistics in
    Medicine 1997; Wilson and Hilferty, The distribution of chi-square (1931).
    """
    least = _gamma_quantile(total, variance, below) if total else 0.0
    return least, _gamma_quantile(total + event, variance + event * event, above)


def _gamma_quantile(mean: float, variance: float, normal: float) -> float:
    relative = variance / (9.0 * mean * mean)
    return mean * max(0.0, 1.0 - relative + normal * math.sqrt(relative)) ** 3
