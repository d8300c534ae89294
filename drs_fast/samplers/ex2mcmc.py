"""Ex2MCMC: chains of latents that explore by resampling and exploit by Langevin moves.

Source: Samsonov, Lagutin, Gabrie, Durmus, Naumov and Moulines, Local-global MCMC kernels: the best
of both worlds, NeurIPS 2022.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast.core import Batch, Rng
from drs_fast.core.layout import Scalar
from drs_fast.gan import GAN
from drs_fast.samplers.common.local_global import FromPrior, LocalGlobal


class Ex2MCMCState(NamedTuple):
    step_size: Scalar
    acceptance: Scalar  # every row becomes a sample


@dataclass(frozen=True)
class Ex2MCMC(LocalGlobal):
    """Runs a chain of latents from every row's own latent; it jumps between modes and moves within.

    candidates: at every step the chain jumps to one of this many latents, with weights
        exp(logit): where it is now, and candidates - 1 fresh latents from the prior.
    moves: MALA moves after every jump.
    steps: steps per chain. Each costs candidates - 1 logits and moves + 1 gradients of the logit.
    step_size: h in z + h/2 gradient + sqrt(h) noise. Found in burn-in by default: the step at
        which MALA accepts `target` of the moves.
    target: the share of moves that MALA accepts at the step_size that burn-in finds.
    burn_in: chains used to find step_size.
    With labels, a chain keeps its row's label, so classes are as frequent as among the raw rows,
    and each class follows its own p0(z) exp(logit). Tallies: `offered` counts fresh latents,
    `jumps` counts steps that end at a fresh latent, `accepted_steps` counts accepted MALA moves.

    Source: Samsonov et al. (2022), algorithm 2.
    """

    State: ClassVar[Any] = Ex2MCMCState

    def init(self, gan: GAN, rng: Rng) -> Ex2MCMCState:
        rounds = self.steps if self.step_size is None else 0
        size = self.found_in_burn_in(gan, rng, (FromPrior(),), rounds)
        one = torch.ones((), dtype=torch.float64, device=gan.device)
        return Ex2MCMCState(size * one, one)

    def step(
        self, gan: GAN, state: Ex2MCMCState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[Ex2MCMCState, Batch]:
        return state, self.run(gan, (FromPrior(),), float(state.step_size), z, y, rng)
