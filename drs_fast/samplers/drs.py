"""Discriminator rejection sampling.

Source: Azadi, Olsson, Darrell, Goodfellow and Odena, Discriminator rejection sampling, ICLR 2019.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Batch, Rng, Sampler
from drs_fast.core.arguments import integer, number, one_of
from drs_fast.core.sampler import Described, Recorded
from drs_fast.gan import GAN
from drs_fast.gan.classes import CHOICES, JOINT, WITHIN
from drs_fast.ops.order import INTERPOLATIONS
from drs_fast.samplers.common import clipped, expected, rejection
from drs_fast.samplers.common.burn_in import counted, valid
from drs_fast.samplers.common.expected import Expected, Pilot
from drs_fast.samplers.common.rejection import (
    WEIGHTED,
    Rejection,
    RejectionSampler,
    RejectionState,
)


@dataclass(frozen=True)
class DRS(RejectionSampler):
    """Accepts with probability sigmoid(d - log(1 - exp(d - eps)) - gamma), d = logit - log_m.

    gamma: fixed, or found in burn-in from `percentile` or `target_acceptance`. gamma > 0 accepts
        fewer and sharper samples; gamma = 0 follows the data.
    percentile: the percentile (0-100) of F that gets probability 1/2; 80 if nothing is given.
    target_acceptance: the share (0-1) of proposals to accept.
    log_m: the largest logit, found in burn-in by default.
    eps: keeps F finite at the largest logit.
    burn_in: proposals from which log_m and gamma are found; at least 1,000 of each class if each
        class has its own.
    classes: for a GAN with labels. "joint": one log_m and gamma; samples follow the joint law of
        samples and labels. "within": one per class; samples follow the law within each class, and
        n samples have the proportions of the GAN's label_weights, rounded.
    adapt: "batch" for the paper's running maximum and per-batch percentile instead of frozen ones;
        the output then depends on batch size and order.
    interpolation: how a percentile of n values is taken. "none": the ceil(percentile n / 100)-th
        smallest, which is the F of some proposal. "linear": np.percentile's, between two of them,
        as in published code; at 80 % and normal logits of sd 1 this is higher by .19 on average
        for n = 10, and by .009 for n = 100.

    Source: Azadi et al. (2019), section 3 and algorithm 1.
    """

    gamma: float | None = None
    percentile: float | None = None
    target_acceptance: float | None = None
    log_m: float | None = None
    eps: float = 1e-6
    burn_in: int = 10_000
    adapt: str | None = None
    classes: str = "joint"
    interpolation: str = "none"

    law_version: ClassVar[int] = 2  # 1: with labels, a log_m for each class and no quotas

    def __post_init__(self) -> None:
        chosen = {
            name: getattr(self, name)
            for name in ("gamma", "percentile", "target_acceptance")
            if getattr(self, name) is not None
        }
        if len(chosen) > 1:
            raise ValueError(f"give one of gamma, percentile and target_acceptance, got {chosen}")
        for name, low, high in (
            ("gamma", -600.0, 600.0),
            ("percentile", 0.0, 100.0),
            ("target_acceptance", 0.0, 1.0),
            ("log_m", -math.inf, math.inf),
            ("eps", 0.0, 1.0),
        ):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, number(name, getattr(self, name), low, high))
        object.__setattr__(self, "burn_in", integer("burn_in", self.burn_in, 1))
        if self.percentile is not None and 0.0 < self.percentile < 1.0:
            raise ValueError(
                f"percentile must be in percent, got {self.percentile!r}; "
                f"for the {100 * self.percentile:g}th write {100 * self.percentile:g}"
            )
        if self.target_acceptance == 0.0:
            raise ValueError("target_acceptance must be greater than 0, got 0; give a share")
        one_of("classes", self.classes, CHOICES)
        one_of("interpolation", self.interpolation, INTERPOLATIONS)
        if self.adapt not in (None, "batch"):
            raise ValueError(f"adapt must be None or 'batch', got {self.adapt!r}")
        if self.adapt and (self.gamma is not None or self.target_acceptance is not None):
            raise ValueError("adapt='batch' finds gamma from a percentile; give only a percentile")
        if self.interpolation != "none" and not chosen.keys() <= {"percentile"}:
            raise ValueError(
                f"interpolation needs a percentile, got {chosen}; give only a percentile"
            )

    @property
    def sequential(self) -> bool:
        return self.adapt == "batch"

    @property
    def law(self) -> str:
        if self.adapt == "batch":
            return "changes along the run, with the running maximum and the batch's percentile"
        within = "" if self.classes == JOINT else " of each class, in the proportions asked for,"
        if self.gamma == 0.0:
            cap = "the largest of the burn-in" if self.log_m is None else f"{self.log_m:g}"
            eps = f", up to eps = {self.eps:g}" if self.eps else ""
            return f"{WEIGHTED}data{within} with ratios capped at exp(log_m), log_m = {cap}{eps}"
        return f"{WEIGHTED}data{within} sharpened where gamma > 0 and flattened where gamma < 0"

    def exact(self, tallies: Mapping[str, int]) -> bool:
        """Whether no logit was above a log_m that was given, where gamma and eps are 0."""
        given = self.log_m is not None and self.gamma == self.eps == 0.0
        return given and not (tallies["above"] or tallies["invalid"])

    @property
    def remedies(self) -> tuple[str, ...]:
        return (
            "lower gamma, or choose it by target_acceptance (for example 0.1)",
            "give log_m yourself: logits above it are accepted almost surely, and counted",
        )

    def facts(self, state: RejectionState) -> dict[str, Any]:
        return {"eps": self.eps}

    @property
    def tallies(self) -> tuple[str, ...]:
        return clipped.TALLIES if self.gamma == 0.0 else ()

    def capped_at(self, state: RejectionState) -> Tensor | None:
        """The log_m to use in estimating the share of the data that is left out."""
        return state.log_m if self.gamma == 0.0 else None

    def measured(self, state: RejectionState, tallies: Mapping[str, int]) -> dict[str, Any]:
        """What a run's tallies mean, by name."""
        return clipped.measured(tallies) if self.gamma == 0.0 else {}

    def note(self, state: RejectionState, tallies: Mapping[str, int]) -> str:
        """The share of the data that is left out, in words."""
        return clipped.note(tallies) if self.gamma == 0.0 else ""

    def warning(self, tallies: Mapping[str, int]) -> str | None:
        """What to tell the user, unless log_m is the user's own."""
        return clipped.warning(tallies) if self.gamma == 0.0 and self.log_m is None else None

    @classmethod
    def described(cls, run: Recorded) -> Described:
        return super().described(run)._replace(lines=clipped.described(run.tallies))

    @classmethod
    def compared(cls) -> tuple[Sampler, ...]:
        return cls(), cls(percentile=95.0), cls(gamma=0.0)

    def expected(self, gan: GAN, pilot: Pilot, rng: Rng) -> Expected | None:
        if self.classes == WITHIN or self.sequential or self.burn_in != len(pilot.seen):
            return None
        log_m, gamma = self._threshold(counted(gan, pilot.seen))
        p = ops.probability(pilot.logit, log_m=log_m, gamma=gamma, eps=self.eps)
        return expected.rejection(pilot, p)

    def init(self, gan: GAN, rng: Rng) -> RejectionState:
        within = self.classes == WITHIN
        return rejection.thresholds(gan, rng, self.burn_in, within, self.eps, self._threshold)

    def step(
        self, gan: GAN, state: RejectionState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[RejectionState, Batch]:
        x, logit = gan.logits(z, y)
        if self.adapt == "batch":
            state = self._adapted(state, counted(gan, logit), y)
        return state, rejection.compacted(x, logit, state, z, y, rng, self.eps)

    def rejection(self, gan: GAN, state: RejectionState) -> Rejection:
        free = self.log_m is None and self.gamma is not None
        return Rejection(rejection.proposing(gan, state.proposed), state, self.eps, free)

    def _threshold(self, logit: Tensor) -> tuple[Tensor, Tensor]:
        """log_m and gamma from burn-in logits, 0-d float64."""
        log_m = ops.largest(logit)
        if self.log_m is not None:
            log_m = torch.full_like(log_m, self.log_m)
        if self.gamma is not None:
            return log_m, torch.full_like(log_m, self.gamma)
        if self.target_acceptance is not None:
            return log_m, torch.full_like(log_m, self._gamma_for_target(logit, log_m))
        return log_m, self._gamma_of_percentile(logit, log_m)

    def _gamma_of_percentile(self, logit: Tensor, log_m: Tensor) -> Tensor:
        q = 80.0 if self.percentile is None else self.percentile
        return ops.quantile_gamma(
            logit, q, log_m=log_m, eps=self.eps, interpolation=self.interpolation
        )

    def _gamma_for_target(self, logit: Tensor, log_m: Tensor) -> float:
        """The gamma at which mean acceptance over these logits is the target, by bisection."""
        target, logit = self.target_acceptance or 0.0, valid(logit)

        def acceptance(gamma: float) -> float:
            p = ops.probability(logit, log_m=log_m, gamma=gamma, eps=self.eps)
            # Correctly rounded, so that gamma is the same wherever the logits are.
            return math.fsum(p.tolist()) / len(p)

        low, high = -600.0, 600.0
        if acceptance(low) < target * (1.0 - 1e-9):
            raise ValueError(
                f"target_acceptance={target:g} cannot be reached: even gamma = {low:g} accepts "
                f"only {acceptance(low):.4g} of the proposals, as the others have a logit of -inf"
            )
        for _ in range(64):
            gamma = (low + high) / 2
            low, high = (gamma, high) if acceptance(gamma) > target else (low, gamma)
        return low

    def _adapted(self, state: RejectionState, logit: Tensor, y: Tensor | None) -> RejectionState:
        """The state with the running maximum and this batch's gamma, updated before the test."""
        log_m, gamma = state.log_m.clone().view(-1), state.gamma.clone().view(-1)
        for k in range(len(log_m)):
            group = logit if y is None or self.classes == JOINT else logit[y == k]
            if len(group) and bool(torch.isfinite(group).any()):
                log_m[k] = torch.maximum(log_m[k], ops.largest(group))
                gamma[k] = self._gamma_of_percentile(group, log_m[k])
        return state._replace(log_m=log_m.view_as(state.log_m), gamma=gamma.view_as(state.gamma))
