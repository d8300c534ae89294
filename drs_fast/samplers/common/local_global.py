"""Chains of latents that jump anywhere by resampling and move nearby by Langevin dynamics.

Source: Samsonov, Lagutin, Gabrie, Durmus, Naumov and Moulines, Local-global MCMC kernels: the best
of both worlds, NeurIPS 2022.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, PROPOSAL, SELECT, Batch, Found, Rng, Sampler
from drs_fast.core.arguments import integer, positive
from drs_fast.core.sampler import EQUAL
from drs_fast.gan import GAN
from drs_fast.samplers.common import burn_in, moving
from drs_fast.samplers.common.metropolis import Point, either, metropolis, point

FIRST_STEP = 0.01


class Proposal(Protocol):
    """Where jumps lead. A correction is log p0(z) - log q(z), (n,) float64."""

    def of(self, fresh: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Turns fresh latents of the prior (n, d) into proposals; returns them and corrections."""
        ...

    def correction(self, z: Tensor, y: Tensor | None) -> Tensor: ...


class FromPrior:
    """Proposes the fresh latents themselves."""

    def of(self, fresh: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        return fresh, self.correction(fresh, y)

    def correction(self, z: Tensor, y: Tensor | None) -> Tensor:
        return torch.zeros(len(z), dtype=torch.float64, device=z.device)


@dataclass(frozen=True)
class LocalGlobal(Sampler):
    """The fields that both samplers have, and their chains."""

    candidates: int = 10
    moves: int = 3
    steps: int = 50
    step_size: float | None = None
    target: float = 0.67
    burn_in: int = 256

    energy: ClassVar[bool] = True
    weighs: ClassVar[str] = EQUAL
    unadjusted: ClassVar[bool] = False
    tallies: ClassVar[tuple[str, ...]] = ("gradients", "offered", "jumps", "accepted_steps")

    def __post_init__(self) -> None:
        for name, least in (("candidates", 2), ("moves", 1), ("steps", 1), ("burn_in", 1)):
            object.__setattr__(self, name, integer(name, getattr(self, name), least))
        if self.step_size is not None:
            object.__setattr__(self, "step_size", positive("step_size", self.step_size, math.inf))
        object.__setattr__(self, "target", positive("target", self.target, 1.0))
        if self.target == 1.0:
            raise ValueError("target must be less than 1: only a step of size 0 is always accepted")

    @property
    def law(self) -> str:
        limit = "p0(z) exp(logit), which is the data if the logit is exact"
        return f"in the limit of many steps {limit}; after {self.steps} steps near it"

    def found(self, state: Any) -> Found:
        return Found(1.0, spent=self.burn_in)  # every row becomes a sample

    def found_in_burn_in(
        self,
        gan: GAN,
        rng: Rng,
        proposals: tuple[Proposal, ...],
        rounds: int,
        learn: Callable[[Point, Tensor | None], object] = lambda here, y: None,
    ) -> float:
        """The step size found by the burn-in's chains; `learn` is called after each step."""
        prior, rows = moving.prior(gan), rng.at(BURN_IN_ROW)
        z, y = ops.latents(gan, rows, self.burn_in), ops.labels(gan, rows, self.burn_in)
        here = point(gan, prior, z, y)
        burn_in.check(gan, here.logit)
        size = FIRST_STEP if self.step_size is None else self.step_size
        sizes = list[float]()
        for step in range(rounds):
            here, _ = self.jump(gan, proposals[step % len(proposals)], here, y, rows, step)
            for move in range(step * self.moves, (step + 1) * self.moves):
                here, moved, _ = metropolis(gan, prior, here, y, rows, move, size)
                if self.step_size is None:
                    share = int(moved.sum()) / self.burn_in
                    change = max((share - self.target) / (1.0 - self.target), -1.0)
                    size *= math.exp(change / math.sqrt(1 + move / 10))
                    sizes.append(math.log(size))
            learn(here, y)
        late = sizes[len(sizes) // 2 :]
        return math.exp(sum(late) / len(late)) if late else size

    def run(
        self,
        gan: GAN,
        proposals: tuple[Proposal, ...],
        size: float,
        z: Tensor,
        y: Tensor | None,
        rng: Rng,
    ) -> Batch:
        """The ends of all chains, which start at their rows' latents; the proposals take turns."""
        prior = moving.prior(gan)
        here = point(gan, prior, z, y)
        jumps = accepted = torch.zeros((), dtype=torch.int64, device=z.device)
        for step in range(self.steps):
            here, jumped = self.jump(gan, proposals[step % len(proposals)], here, y, rng, step)
            jumps = jumps + jumped.sum()
            for move in range(step * self.moves, (step + 1) * self.moves):
                here, moved, _ = metropolis(gan, prior, here, y, rng, move, size)
                accepted = accepted + moved.sum()
        tallies: dict[str, Tensor | int] = {
            "gradients": len(z) * (1 + self.steps * (1 + self.moves)),
            "offered": len(z) * self.steps * (self.candidates - 1),
            "jumps": jumps,
            "accepted_steps": accepted,
        }
        return moving.finished(here.x, here.z, y, here.logit, rng, tallies)

    def jump(
        self, gan: GAN, proposal: Proposal, here: Point, y: Tensor | None, rng: Rng, step: int
    ) -> tuple[Point, Tensor]:
        """The chains after a step of iterated sampling importance resampling; which of them jumped.

        Source: Samsonov et al. (2022), algorithm 1.
        """
        n, fresh = len(here.z), self.candidates - 1
        # All at once, so that even a few chains fill the blocks of G and D.
        labels = None if y is None else y.repeat(fresh)
        offered, corrections = proposal.of(self._fresh(gan, rng, n, step), labels)
        weights = (gan.logits(offered, labels)[1] + corrections).view(fresh, n)
        own = here.logit + proposal.correction(here.z, y)
        own = torch.where(torch.isfinite(here.target), own, -torch.inf)
        u = ops.uniform(rng, n, stream=SELECT, draw=step, device=here.z.device)
        drawn, z = selected([*weights, own], u), here.z
        for k, others in enumerate(offered.view(fresh, n, -1)):
            z = moving.choose(drawn == k, others, z)
        # The gradient is needed there too; a chain must not be where there is none.
        there = point(gan, moving.prior(gan), z, y)
        jumped = (drawn < fresh) & torch.isfinite(there.target)
        return either(jumped, there, here), jumped

    def _fresh(self, gan: GAN, rng: Rng, n: int, step: int) -> Tensor:
        """Fresh latents of the prior: those of all chains for one candidate, then for the next."""
        draws, fresh = -(-gan.latent_dim // 4), self.candidates - 1
        numbers = range(step * fresh, (step + 1) * fresh)
        return torch.cat(
            [ops.latents(gan, rng, n, stream=PROPOSAL, draw=draws * k) for k in numbers]
        )


def selected(log_weights: list[Tensor], u: Tensor) -> Tensor:
    """One of k indices in proportion to exp(log_weight), (n,) int64; k if none is possible.

    log_weights: k of (n,) float64. -inf, NaN and +inf are never chosen. u (n,) in [0, 1).
    """
    usable = torch.stack([weight.nan_to_num(*[-torch.inf] * 3) for weight in log_weights])
    rest = usable - usable.amax(dim=0)
    sums = ops.probability(rest.flatten(), log_m=0.0, eps=0.0).view(rest.shape)
    for k in range(1, len(sums)):  # in order, which cumsum does not promise
        sums[k] += sums[k - 1]
    return (sums <= u * sums[-1]).sum(dim=0)
