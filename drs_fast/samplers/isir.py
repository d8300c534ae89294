"""Iterated sampling importance resampling: proposals compete in a chain of small pools.

Source: Tjelmeland, Using all Metropolis-Hastings proposals to estimate mean values, 2004; Samsonov,
Lagutin, Gabrie, Durmus, Naumov and Moulines, Local-global MCMC kernels: the best of both worlds,
NeurIPS 2022.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Batch, Found, Rng, Sampler
from drs_fast.core.arguments import integer
from drs_fast.core.layout import Logits
from drs_fast.core.sampler import EQUAL, Described, Recorded, Remade
from drs_fast.gan import GAN
from drs_fast.samplers.common import groups, remade
from drs_fast.samplers.common.burn_in import burn_in, by_class


class ISIRState(NamedTuple):
    logits: Logits  # logits of proposals


@dataclass(frozen=True)
class ISIR(Sampler):
    """One sample from every chain, which moves to one of `candidates` with weights exp(logit).

    candidates: where the chain is now, and candidates - 1 fresh proposals, at every step.
    steps: steps per chain. A chain starts at its first proposal.
    burn_in: proposals whose logits are checked before anything is sampled.
    With labels, a chain keeps the label of its first row, so classes are as frequent as among the
    raw rows, and each class follows its own p0(z) exp(logit). The tally `moves` counts the steps
    that end elsewhere than they began.

    Source: Samsonov et al. (2022), algorithm 1.
    """

    candidates: int = 10
    steps: int = 71
    burn_in: int = 10_000

    State: ClassVar[Any] = ISIRState
    energy: ClassVar[bool] = True
    weighs: ClassVar[str] = EQUAL
    tallies: ClassVar[tuple[str, ...]] = ("moves",)

    def __post_init__(self) -> None:
        for name, least in (("candidates", 2), ("steps", 1), ("burn_in", 1)):
            object.__setattr__(self, name, integer(name, getattr(self, name), least))
        if self.group >= groups.BELOW:
            raise ValueError(
                f"a chain must have fewer than {groups.BELOW:,} proposals, got {self.group:,} from "
                f"candidates={self.candidates} and steps={self.steps}; lower one of them"
            )

    @property
    def group(self) -> int:
        return 1 + self.steps * (self.candidates - 1)

    @property
    def law(self) -> str:
        limit = "p0(z) exp(logit), which is the data if the logit is exact"
        return (
            f"in the limit of many steps {limit}; after {self.steps} steps with "
            f"{self.candidates - 1} proposals each near it"
        )

    def init(self, gan: GAN, rng: Rng) -> ISIRState:
        logit, y = burn_in(gan, rng, self.burn_in)
        by_class(gan, logit, y)
        return ISIRState(logit)

    def found(self, state: ISIRState) -> Found:
        return Found(1.0 / self.group, spent=len(state.logits), judged=state.logits)

    @classmethod
    def described(cls, run: Recorded) -> Described:
        return super().described(run)._replace(logits=run.state.logits)

    def step(
        self, gan: GAN, state: ISIRState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[ISIRState, Batch]:
        batch = groups.proposals(gan, z, y, self.group)
        ends, moves = iterated(batch.logit.view(-1, self.group), rng, self.candidates)
        rows = ends + torch.arange(0, len(z), self.group, device=z.device)
        taken = torch.isfinite(batch.logit[rows])
        return state, groups.chosen(batch, rows, taken, rng, moves=moves)

    def remade(
        self,
        gan: GAN,
        state: ISIRState,
        ids: Tensor,
        y: Tensor | None,
        rng: Rng,
        *,
        judged: bool = False,
    ) -> Remade:
        return remade.of_rows(gan, ids, y, rng, judged)


def iterated(logit: Tensor, rng: Rng, candidates: int) -> tuple[Tensor, Tensor]:
    """The ends of chains that start at the first of their K rows, (B,) int64; how often they moved.

    logit (B, K), K - 1 a multiple of candidates - 1. A step uses the uniform of its first fresh
    row. No chain moves to a row whose logit is NaN or infinite.
    """
    rows = torch.arange(logit.numel(), device=logit.device).view(logit.shape)
    at, moves = rows[:, 0], torch.zeros((), dtype=torch.int64, device=logit.device)
    for first in range(1, logit.shape[1], candidates - 1):
        offered = torch.cat([rows[:, first : first + candidates - 1], at[:, None]], dim=1)
        drawn = ops.select(logit.flatten()[offered], rng, ids=(rng.row + offered).flatten())
        # If no logit is finite, nothing is drawn, and it does not matter where the chain is.
        there = offered.gather(1, drawn.clamp(min=0))[:, 0]
        moves += (there != at).sum()
        at = there
    return at - rows[:, 0], moves
