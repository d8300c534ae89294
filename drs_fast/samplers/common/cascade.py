"""What a cascade would bring: low precision for all rows, and full precision for few.

A row is rejected by its low logit, if it is rejected with that logit raised by a margin. If a low
row takes a share c of the time of a full one, and a share b of rows passes, a row takes c + b in
place of 1.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Rng

MARGIN = 4.0  # times the root mean square of the changes of logits


class Cascade(NamedTuple):
    """flipped: share of rows on which low precision alone would decide otherwise.

    passing: share of rows that go on to full precision.
    """

    flipped: float
    passing: float

    def gain(self, cost: float) -> float:
        """How many times as fast it is, if a low row takes this share of the time of a full one."""
        return 1.0 / (cost + self.passing)


def cascade(logit: Tensor, low: Tensor, error: float, rng: Rng, **at: Any) -> Cascade:
    """What becomes of the rows from rng.row on, with these logits (n,) in both precisions.

    error: root mean square of the changes. at: log_m, gamma and eps, as `ops.accept` has them.
    """
    flipped = ops.accept(logit, rng, **at) ^ ops.accept(low, rng, **at)
    chance = ops.probability(low + MARGIN * error, **at)
    passing = torch.where(torch.isfinite(low), chance, 1.0)
    return Cascade(float(flipped.double().mean()), float(passing.double().mean()))
