"""Sampling part of discriminator contrastive divergence: a few noisy steps up the critic.

Source: Song, Ye, Xu and Liu, Discriminator contrastive divergence (2020), arXiv 2004.01704.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast.core import Batch, Found, Rng, Sampler
from drs_fast.core.arguments import integer
from drs_fast.core.layout import Scalar
from drs_fast.gan import GAN
from drs_fast.samplers.common import moving
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.samplers.common.pushes import Moves


class DCDState(NamedTuple):
    acceptance: Scalar  # every row becomes a sample


@dataclass(frozen=True)
class DCD(Moves, Sampler):
    """Pushes every row's latent or sample up the critic; drs.contrastive trains one for it.

    space: "latent": z + step_size/2 gradient + sqrt(step_size) noise; the prior plays no part.
        "sample": adds noise, then step_size times the gradient, with each of its numbers clipped
        to [-clip, clip]; z stays the row's latent.
    steps: moves of every row.
    step_size: of each move, as `space` says.
    clip: largest number of a sample's gradient that is followed, in the sample space only.
    noise: standard deviation of the noise.
    box: clips samples to [-box, box], in the sample space only. Latents are reflected at the ends
        of a uniform or truncated normal prior.
    anneal: the noise of samples falls to 0.7 and 0.4 after each third of the steps. Step and noise
        of latents fall tenfold after each fifth.
    burn_in: proposals whose logits are checked before anything is sampled.

    Source: Song et al. (2020) and its released code.
    """

    burn_in: int = 1000

    State: ClassVar[Any] = DCDState
    energy: ClassVar[bool] = True
    tallies: ClassVar[tuple[str, ...]] = ("gradients",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "burn_in", integer("burn_in", self.burn_in, 1))

    @property
    def law(self) -> str:
        return f"the generator, pushed up the critic for {self.steps} steps: no known law"

    def init(self, gan: GAN, rng: Rng) -> DCDState:
        logit, _ = burn_in(gan, rng, self.burn_in)
        return DCDState(torch.ones((), dtype=torch.float64, device=logit.device))

    def found(self, state: DCDState) -> Found:
        return Found(float(state.acceptance), spent=self.burn_in)

    def step(
        self, gan: GAN, state: DCDState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[DCDState, Batch]:
        x, end, logit = self.pushed(gan, z, y, rng)
        return state, moving.finished(x, end, y, logit, rng, {"gradients": len(z) * self.steps})
