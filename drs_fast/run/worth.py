"""What the samples of a run are worth so far, for its progress."""

from collections.abc import Sequence
from typing import Any

import torch

from drs_fast.core import Sampler
from drs_fast.core.sampler import EQUAL, UNKNOWN, Thresholds
from drs_fast.gan import GAN, classes
from drs_fast.run.collected import Rows
from drs_fast.samplers.common import weights
from drs_fast.samplers.common.weights import Weighing


class Worth:
    """Sums of weights and of their squares on the samples' device, so that no step waits for them.

    Each class has its own sums where it has its own log_m, because what its samples stand for
    depends on how many rows were tried.
    """

    def __init__(
        self,
        way: str,
        thresholds: Thresholds,
        proposed: Sequence[float] = (),
        shares: Sequence[float] = (),
    ) -> None:
        self._log_m, self._proposed, self._shares = thresholds.log_m, proposed, shares
        self._weighing = Weighing(way, thresholds=thresholds)
        self._sums = self._log_m.new_zeros((2, max(1, self._log_m.numel())))
        self._tried = self._log_m.new_zeros(len(shares), dtype=torch.int64)
        self._count = 0

    def add(self, pieces: list[Rows]) -> None:
        """Adds the samples of a step."""
        for rows in pieces:
            weight = self._weighing.relative(rows)
            powers = torch.stack([weight, weight.square()])
            self._count += len(weight)
            if not self._log_m.ndim:
                self._sums += powers.sum(dim=1, keepdim=True)
                continue
            self._sums.index_add_(1, rows["y"], powers)
            tried = weights.tried(rows["ids"], rows["y"], len(self._tried))
            self._tried = torch.maximum(self._tried, tried)

    def share(self) -> float | None:
        """Their effective number as a share of their number; None if no sum is a number above 0.

        Waits for the device.
        """
        total, squares = self._sums.cpu()
        if self._log_m.ndim:
            factors = weights.of_classes(self._log_m, self._proposed, self._shares, self._tried)
            total, squares = factors * total, factors.square() * squares
        found = float(total.sum() ** 2 / squares.sum()) / max(1, self._count)
        return found if 0.0 < found < torch.inf else None

    def note(self) -> str:
        """The same in words; empty where there is nothing to say."""
        share = self.share()
        return "" if share is None else f"{share:.1%} effective when weighted"


def watched(gan: GAN, sampler: Sampler, state: Any, shares: Sequence[float]) -> Worth | None:
    """The worth of samples that this sampler will give; None if it gives none or equal weights.

    shares: of the classes among the samples, if each has its own log_m.
    """
    if sampler.weighs in (UNKNOWN, EQUAL):
        return None
    thresholds = sampler.thresholds(gan, state)
    if not thresholds.log_m.ndim:
        return Worth(sampler.weighs, thresholds)
    proposed = classes.shares(gan.labels or 0, gan.label_weights)
    return Worth(sampler.weighs, thresholds, proposed, shares)
