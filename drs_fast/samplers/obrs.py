"""Optimal budgeted rejection sampling.

Source: Verine, Pydi, Negrevergne and Chevaleyre, Optimal budgeted rejection sampling for generative
models, AISTATS 2024.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.backends import reference
from drs_fast.core import Batch, Rng, Sampler
from drs_fast.core.arguments import integer, number, one_of
from drs_fast.gan import GAN
from drs_fast.gan.classes import CHOICES, JOINT, WITHIN
from drs_fast.samplers.common import expected, rejection
from drs_fast.samplers.common.burn_in import counted
from drs_fast.samplers.common.expected import Expected, Pilot
from drs_fast.samplers.common.rejection import (
    WEIGHTED,
    Rejection,
    RejectionSampler,
    RejectionState,
)


@dataclass(frozen=True)
class OBRS(RejectionSampler):
    """Accepts with probability min(1, c exp(logit - log_m)), which accepts a share `budget` of all.

    budget: the share of proposals to accept, 0-1. If exact rejection (c = 1) accepts more, c is 1.
    burn_in: proposals from which c and log_m, the largest logit, are found; at least 1,000 of each
        class if each class has its own.
    classes: for a GAN with labels. "joint": one c; samples come as near as possible to the joint
        law of samples and labels. "within": a c per class; samples come as near as possible to the
        law within each class, and n samples have the proportions of the GAN's label_weights,
        rounded.
    The state's log_m is the largest logit minus log c; logits above it are surely accepted.

    Source: Verine et al. (2024); c is solved for exactly, where they bisect.
    """

    budget: float = 0.5
    burn_in: int = 10_000
    classes: str = "joint"

    law_version: ClassVar[int] = 2  # 1: with labels, a c for each class and no quotas

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", number("budget", self.budget, 0.0, 1.0))
        object.__setattr__(self, "burn_in", integer("burn_in", self.burn_in, 1))
        one_of("classes", self.classes, CHOICES)
        if self.budget == 0.0:
            raise ValueError("budget must be greater than 0, got 0; it is the share to accept")

    @property
    def law(self) -> str:
        of = "" if self.classes == JOINT else " of each class, in the proportions asked for,"
        return (
            f"{WEIGHTED}as near the data{of} as accepting {self.budget:g} of all proposals allows; "
            "where exact rejection accepts that many, the data up to ratios above the burn-in's "
            "largest"
        )

    @property
    def remedies(self) -> tuple[str, ...]:
        return ("raise budget",)

    @classmethod
    def compared(cls) -> tuple[Sampler, ...]:
        return cls(budget=0.05), cls(budget=0.1), cls(budget=0.2)

    def expected(self, gan: GAN, pilot: Pilot, rng: Rng) -> Expected | None:
        if self.classes == WITHIN or self.burn_in != len(pilot.seen):
            return None
        seen = counted(gan, pilot.seen)
        if self.budget * len(seen) > int(torch.isfinite(seen).sum()):
            return None  # a run would refuse
        log_m, gamma = self._threshold(seen)
        p = ops.probability(pilot.logit, log_m=log_m, gamma=gamma, eps=0.0)
        return expected.rejection(pilot, p)

    def init(self, gan: GAN, rng: Rng) -> RejectionState:
        within = self.classes == WITHIN
        return rejection.thresholds(gan, rng, self.burn_in, within, 0.0, self._threshold)

    def step(
        self, gan: GAN, state: RejectionState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[RejectionState, Batch]:
        x, logit = gan.logits(z, y)
        return state, rejection.compacted(x, logit, state, z, y, rng, 0.0)

    def rejection(self, gan: GAN, state: RejectionState) -> Rejection:
        return Rejection(rejection.proposing(gan, state.proposed), state)

    def _threshold(self, logit: Tensor) -> tuple[Tensor, Tensor]:
        """log_m - log c and gamma = 0, 0-d float64."""
        log_m = ops.largest(logit)
        return log_m - max(self._log_c(logit, log_m), 0.0), torch.zeros_like(log_m)

    def _log_c(self, logit: Tensor, log_m: Tensor) -> float:
        """The log c at which the mean of min(1, c exp(logit - log_m)) is the budget; may be < 0.

        With the k largest clipped to 1, c is (budget n - k) over the sum of the others. The right k
        is the first at which none of the others needs clipping.
        """
        d = (logit[torch.isfinite(logit)].double() - log_m).sort(descending=True).values
        n, finite, wanted = len(logit), len(d), self.budget * len(logit)
        if wanted > finite * (1.0 + 1e-12):
            raise ValueError(
                f"budget={self.budget:g} cannot be reached: of {n:,} proposals only {finite:,} "
                f"({finite / n:.4g}) have a finite logit; lower budget to at most that share"
            )
        wanted = min(wanted, float(finite))
        left = wanted - torch.arange(finite, dtype=torch.float64, device=d.device)
        tail = torch.logcumsumexp(d.flip(0), dim=0).flip(0)
        # False if nothing is left; the last k before that always fits.
        k = int((left.log() - tail + d <= 0.0).int().argmax())
        rest = d[k:] - d[k]
        # Correctly rounded, so that c is the same wherever the logits are.
        total = math.fsum(reference.exponential(rest)[0].tolist())
        return math.log(wanted - k) - math.log(total) - float(d[k])
