"""Which rows are kept, and with what weight: a function of a row's number and its log weight."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.backends import reference
from drs_fast.backends.arithmetic import LARGEST_EXPONENT
from drs_fast.core import Rng


@dataclass(frozen=True)
class Decision:
    """Keeps each row before `stop` with probability min(1, exp(log_weight - log_max))."""

    seed: int
    log_max: float  # -inf if no weight is positive
    stop: int = 2**63  # a row number

    @property
    def log_m(self) -> float:
        """log_max as the ops take it: any number will do where no weight is positive."""
        return 0.0 if math.isinf(self.log_max) else self.log_max

    def keeps(self, log_weight: Tensor, row: int) -> Tensor:
        """Whether each row is kept, (n,) bool. row: the number of the first."""
        kept = ops.accept(log_weight, Rng(self.seed, row), log_m=self.log_m, gamma=0.0, eps=0.0)
        kept[min(max(0, self.stop - row), len(kept)) :] = False
        return kept

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
    count: int  # rows that are kept
    log_weight: str  # a column
    weight: str | None  # a column of overweights to add
