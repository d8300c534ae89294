"""DGflow: moves latents along a gradient flow of an f-divergence.

Source: Ansari, Ang and Soh, Refining deep generative models via discriminator gradient flow,
ICLR 2021.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Batch, Found, Rng, Sampler
from drs_fast.core.arguments import integer, number, one_of, positive
from drs_fast.core.layout import Scalar
from drs_fast.gan import GAN
from drs_fast.samplers.common import moving
from drs_fast.samplers.common.burn_in import burn_in

DIVERGENCES = ("kl", "js", "logd")


class DGFlowState(NamedTuple):
    acceptance: Scalar  # every row becomes a sample


@dataclass(frozen=True)
class DGFlow(Sampler):
    """z + step_size w gradient + sqrt(2 step_size noise) normal, `steps` times from the row's z.

    steps: moves of every row's latent.
    step_size: of each move: z goes step_size w along the gradient, and the noise grows with it.
    divergence: w = 1 ("kl"), sigmoid(logit) ("js") or sigmoid(-logit) ("logd"). The last two
        depend on the logit's constant, so calibrate it.
    noise: weight of the entropy that the flow adds to the divergence.
    The density ratio is the generator's throughout, and the prior plays no part in the flow.
    Latents are reflected at the ends of a uniform or truncated normal prior.
    burn_in: proposals whose logits are checked before anything is sampled.

    Source: Ansari et al. (2021), algorithm 1.
    """

    steps: int = 25
    step_size: float = 0.1
    noise: float = 0.01
    divergence: str = "kl"
    burn_in: int = 1000

    State: ClassVar[Any] = DGFlowState
    law_version: ClassVar[int] = 2  # 1: the last bit of "js" and "logd" depended on the batch
    tallies: ClassVar[tuple[str, ...]] = ("gradients",)

    def __post_init__(self) -> None:
        one_of("divergence", self.divergence, DIVERGENCES)
        object.__setattr__(self, "steps", integer("steps", self.steps, 1))
        object.__setattr__(self, "burn_in", integer("burn_in", self.burn_in, 1))
        object.__setattr__(self, "step_size", positive("step_size", self.step_size))
        object.__setattr__(self, "noise", number("noise", self.noise, 0.0, math.inf))

    @property
    def energy(self) -> bool:
        """The KL flow works with any critic; the others need a density ratio."""
        return self.divergence == "kl"

    @property
    def law(self) -> str:
        return (
            f"a gradient flow of {self.divergence} from the generator, with the first density "
            f"ratio throughout and stopped after {self.steps} steps: no known law"
        )

    def init(self, gan: GAN, rng: Rng) -> DGFlowState:
        logit, _ = burn_in(gan, rng, self.burn_in)
        return DGFlowState(torch.ones((), dtype=torch.float64, device=logit.device))

    def found(self, state: DGFlowState) -> Found:
        return Found(float(state.acceptance), spent=self.burn_in)

    def step(
        self, gan: GAN, state: DGFlowState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[DGFlowState, Batch]:
        walls = moving.walls(gan)
        for step in range(self.steps):
            _, logit, slope = gan.gradients(z, y)
            drift = moving.steady(self._weight(logit)[:, None] * slope)
            size, noise = 2.0 * self.step_size, math.sqrt(self.noise)
            z = ops.langevin(z, drift, rng, step=step, step_size=size, noise=noise)
            z = moving.reflected(z, *walls)
        x, logit = gan.logits(z, y)
        return state, moving.finished(x, z, y, logit, rng, {"gradients": len(z) * self.steps})

    def _weight(self, logit: Tensor) -> Tensor:
        if self.divergence == "kl":
            return torch.ones_like(logit)
        return moving.sigmoid(logit if self.divergence == "js" else -logit)
