"""Which rows are kept, and with what weight: a function of a row's number and its log weight."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.backends import reference
from drs_fast.backends.arithmetic import LARGEST_EXPONENT
from drs_fast.core import Rng
from drs_fast.unweighting.maximum import check

FAR = 600.0  # nats above log_max: a share of such weights is 1, and sums of them do not overflow


@dataclass(frozen=True)
class Decision:
    """Keeps each row with probability min(1, exp(log_weight - log_max))."""

    seed: int
    log_max: float  # -inf if no weight is positive

    @property
    def log_m(self) -> float:
        """log_max as the ops take it: any number will do where no weight is positive."""
        return 0.0 if math.isinf(self.log_max) else self.log_max

    def keeps(self, log_weight: Tensor, row: int) -> Tensor:
        """Whether each row is kept, (n,) bool. row: the number of the first."""
        return ops.accept(log_weight, Rng(self.seed, row), log_m=self.log_m, gamma=0.0, eps=0.0)

    def weight(self, log_weight: Tensor) -> Tensor:
        """max(1, exp(log_weight - log_max)), (n,) float64, by the exponential of the decision."""
        above = torch.clamp(log_weight.double() - self.log_m, min=0.0)
        if bool((above > LARGEST_EXPONENT).any()):
            raise ValueError(
                f"log_max={self.log_max:g} lies {float(above.max()):.0f} below the largest log "
                f"weight, which is more than {LARGEST_EXPONENT:g} and too far for a weight"
            )
        return reference.exponential(above)[0]


@dataclass(frozen=True)
class Selection:
    """What is taken from a table."""

    decision: Decision
    n: int | None  # rows to keep; None: all that are accepted
    log_weight: str  # a column
    weight: str | None  # a column of overweights to add


class Tally:
    """Decides on rows that come in batches, in row order, and counts them."""

    def __init__(self, selection: Selection) -> None:
        self._decision, self._n = selection.decision, selection.n
        self.rows = self.count = 0  # that were decided on, and kept
        self.above = 0  # of the rows, with a log weight above log_max
        self._excess = self._total = 0.0  # of weight, in units of the maximum

    @property
    def full(self) -> bool:
        """Whether the wanted number of rows is kept."""
        return self.count == self._n

    @property
    def excess(self) -> float:
        """The share of the weight that lies above log_max."""
        return self._excess / self._total if self._total else 0.0

    def keeps(self, log_weight: Tensor) -> Tensor:
        """Whether each row is kept, (n,) bool: none after the one that makes the number full."""
        check(log_weight, self.rows)
        kept = self._decision.keeps(log_weight, self.rows)
        if self._n is not None and self.count + int(kept.sum()) >= self._n:
            last = int(kept.nonzero()[self._n - self.count - 1, 0]) if not self.full else -1
            kept[last + 1 :] = False
            log_weight = log_weight[: last + 1]
        self.rows, self.count = self.rows + len(log_weight), self.count + int(kept.sum())
        over = log_weight.double() - self._decision.log_m
        weight = over.clamp(max=FAR).exp()
        self.above += int((over > 0.0).sum())
        self._excess += float((weight - 1.0).clamp(min=0.0).sum())
        self._total += float(weight.sum())
        return kept
