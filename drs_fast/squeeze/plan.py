"""What a search for bounds sees, and what it decides on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast.core.threads import one_thread
from drs_fast.samplers.common.intervals import Share
from drs_fast.squeeze.bounds.latent import LatentBound
from drs_fast.squeeze.state import AUDITED

TWICE = 0.7  # two bounds together may cost this share of the large one
UNUSED = (math.inf, math.inf, math.inf)  # margins
MORE = 1.1  # most rows that pass both bounds, per row that passes the large one alone


class Seen(NamedTuple):
    """Rows that G and D saw, and the probability that each was chosen, (n,) float64."""

    ids: Tensor  # (n,) int64
    z: Tensor
    logit: Tensor
    chosen: Tensor
    y: Tensor | None

    def where(self, keep: Tensor | slice) -> "Seen":
        """The rows of a mask (n,) or a slice."""
        return Seen(*(None if column is None else column[keep] for column in self))  # type: ignore[arg-type]

    def valid(self) -> "Seen":
        """The rows without NaN and +inf. A logit of -inf is valid: the row is surely rejected."""
        return self.where(~(torch.isnan(self.logit) | torch.isposinf(self.logit)))


def joined(parts: Sequence[Seen]) -> Seen:
    """All parts in one, in order."""
    columns = zip(*parts, strict=True)
    return Seen(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]


class Margin(NamedTuple):
    """Spreads above the mean, the loss, and rows that pass per accepted row.

    seen: the upper limit of the loss if nothing is lost except where rows were seen.
    """

    spreads: float
    loss: Share
    seen: float
    passing: float


class Plan(NamedTuple):
    """Bounds and their margins; inf for a bound that is not used.

    margins: of the tiny network, the large one and low precision. passing: rows for G and D per
    accepted row. looked_at: the share of rows that each bound looks at. acceptance: without bounds.
    high, samples, checked, looked: as in the state.
    """

    networks: tuple[LatentBound, ...]
    margins: tuple[float, float, float]
    passing: float
    looked_at: tuple[float, float, float]
    acceptance: float
    high: float
    samples: float
    checked: Tensor
    looked: Tensor

    @staticmethod
    def none(networks: tuple[LatentBound, ...], high: float = 0.0, samples: float = 0.0) -> "Plan":
        """A plan without any bound."""
        checked = torch.empty(0, 3, dtype=torch.float32, device="cpu")
        nothing = checked, torch.empty(0, dtype=torch.int64, device="cpu")
        return Plan(networks, UNUSED, 1.0, (0.0, 0.0, 0.0), 1.0, high, samples, *nothing)


def used(margins: Sequence[float]) -> bool:
    """Whether any bound rejects rows."""
    return any(math.isfinite(margin) for margin in margins)


def calls(plan: Plan) -> float:
    """The share of rows that G and D see."""
    return min(1.0, (1.0 + AUDITED) * plan.passing * plan.acceptance)


def twice_pays(networks: tuple[LatentBound, ...], left: float, both: float, alone: float) -> bool:
    """Whether it is cheaper to try the tiny bound before the large one, counted in multiplications.

    left: the share of rows that the tiny bound leaves. both, alone: rows that then pass.
    Time is not measured: the result must depend only on the seed and the GAN.
    """
    tiny, large = (sum(parameter.numel() for parameter in net.parameters()) for net in networks)
    return tiny + left * large < TWICE * large and both < MORE * alone


@one_thread()
def level(scores: Tensor, n: float) -> float:
    """A shift (at most 0) of scores (m,), so that the sum of min(1, exp(score)) is n < m."""
    scores = scores.double()
    low, high = -100.0, 100.0 - float(scores.min())
    for _ in range(48):
        middle = (low + high) / 2
        total = float((scores + middle).clamp(max=0.0).exp().sum())
        low, high = (middle, high) if total < n else (low, middle)
    return low
