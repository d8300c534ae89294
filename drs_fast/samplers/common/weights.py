"""Weights that make samples follow the law of the data.

A row whose density ratio is r = exp(logit) was accepted with probability p, so it stands for r / p.
With an exact logit, weighted samples follow the data whatever p is, as long as it is positive.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.backends.arithmetic import LARGEST_EXPONENT, exponential
from drs_fast.core.sampler import BATCH, EQUAL, UNKNOWN, Thresholds, those_that


class Weighing(NamedTuple):
    """How the weights of a run's samples are found."""

    way: str  # see Sampler.weighs
    why: str = ""  # if UNKNOWN
    thresholds: Thresholds | None = None  # unless UNKNOWN or EQUAL
    factors: Tensor | None = None  # (K,) from `of_classes`, if each class has a threshold

    def of(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The weights of samples with their ids, logit, y and, if BATCH, weight; (n,) float64.

        ValueError if a weight is too large to be told.
        """
        if self.way == UNKNOWN:
            raise ValueError(self.why)
        if beyond := self.beyond(rows):
            raise ValueError(
                f"a logit lies {LARGEST_EXPONENT + beyond:,.0f} above log_m, which is more than "
                f"{LARGEST_EXPONENT:g} and too far for a weight; draw again with a higher log_m, "
                "or let burn-in find it"
            )
        return self.relative(rows)

    def relative(self, rows: Mapping[str, Tensor], unit: float = 0.0) -> Tensor:
        """The weights, in units of exp(unit); (n,) float64.

        unit: `beyond` of these and all other samples. Below that, the largest weights come out
        equal. Does not wait for the device if it is 0.
        """
        if self.way == EQUAL or self.thresholds is None:
            ids = rows["ids"]
            return torch.ones(len(ids), dtype=torch.float64, device=ids.device)
        y = rows.get("y")
        if self.way == BATCH:
            weight = rows["weight"]
        else:
            weight = ops.weight(rows["logit"], **self.thresholds.of_rows(y))
        if unit:
            weight = weight * exponential(self._excess(rows, self.thresholds) - unit)[0]
        return weight if self.factors is None else weight * self.factors.to(weight.device)[y]

    def beyond(self, rows: Mapping[str, Tensor]) -> float:
        """How far the largest weight is beyond what a number can hold, in nats; at least 0."""
        if self.thresholds is None or not len(rows["logit"]):
            return 0.0
        return float(self._excess(rows, self.thresholds).max())

    def _excess(self, rows: Mapping[str, Tensor], thresholds: Thresholds) -> Tensor:
        """What ops.weight leaves out of the logarithm of each weight; (n,) float64."""
        highest = thresholds.of_rows(rows.get("y"))["log_m"] + LARGEST_EXPONENT
        return torch.clamp(rows["logit"].double() - highest, min=0.0)

    def above(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Whether each sample is above log_m, (n,) bool."""
        logit = rows["logit"].double()
        if self.thresholds is None:
            return torch.zeros_like(logit, dtype=torch.bool)
        above: Tensor = logit > self.thresholds.of_rows(rows.get("y"))["log_m"]
        return above


def unknown(name: str, law: str) -> Weighing:
    """That a sampler's samples have no weights, and why."""
    others = those_that(lambda each: each.weighs != UNKNOWN)
    return Weighing(
        UNKNOWN,
        f"{name} has no weights here, because the law of its samples does not tell them: {law}; "
        f"with their default fields, these have: {others}",
    )


def of_classes(
    log_m: Tensor, proposed: Sequence[float], shares: Sequence[float], tried: Tensor
) -> Tensor:
    """What turns weights by each class's own log_m into weights by one; (K,) float64, at most 1.

    A class is proposed more often where fewer of its rows are accepted, and until its quota is
    full, so a row of it stands for share / (proposed tried) rows.

    log_m: (K,) float64. proposed, shares: K numbers. tried: (K,) int64, from `tried`.
    """
    log_m, tried = log_m.cpu(), tried.cpu()
    rate, share = torch.tensor([proposed, shares], dtype=torch.float64, device="cpu")
    factor = share / (rate * tried).clamp(min=torch.finfo(torch.float64).tiny)
    there = (factor > 0.0) & (tried > 0)
    if bool(there.any()):
        factor = factor * exponential(log_m - log_m[there].max())[0]
        factor = factor / factor[there].max()
    return torch.where(there, factor, 0.0)


def tried(ids: Tensor, y: Tensor, labels: int) -> Tensor:
    """How many rows there are up to the last sample of each class, (K,) int64; 0 if it has none."""
    none = torch.zeros(labels, dtype=torch.int64, device=ids.device)
    return none.scatter_reduce(0, y, ids + 1, "amax")
