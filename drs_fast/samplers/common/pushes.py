"""Pushes latents or samples up a critic.

Source: Song, Ye, Xu and Liu, Discriminator contrastive divergence (2020), arXiv 2004.01704.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Rng
from drs_fast.core.arguments import flag, integer, number, one_of, positive
from drs_fast.gan import GAN
from drs_fast.samplers.common import moving

THIRDS, FIFTH = (1.0, 0.7, 0.4), 0.1


@dataclass(frozen=True)
class Moves:
    """How latents or samples are pushed up a critic; samplers.DCD explains the fields."""

    space: str = "latent"
    steps: int = 20
    step_size: float = 0.01
    noise: float = 0.005
    clip: float = 1.0
    box: float | None = None
    anneal: bool = False

    def __post_init__(self) -> None:
        one_of("space", self.space, moving.SPACES)
        object.__setattr__(self, "steps", integer("steps", self.steps, 1))
        object.__setattr__(self, "noise", number("noise", self.noise, 0.0, math.inf))
        for name in ("step_size", "clip", "box"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive(name, getattr(self, name)))
        object.__setattr__(self, "anneal", flag("anneal", self.anneal))
        if self.box is not None and self.space == "latent":
            raise ValueError("got box, but box clips samples; use space='sample', or drop box")

    def pushed(
        self, gan: GAN, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (n, ...), z (n, d) and logit (n,) of these rows after the moves."""
        if self.space == "latent":
            for step in range(self.steps):
                z = self._latent(gan, z, y, rng, step)
            x, logit = gan.logits(z, y)
            return x, z, logit
        made = gan.samples(z, y)
        x = made.float()
        for step in range(self.steps):
            x = self._sample(gan, x, y, rng, step)
        x = x.to(made.dtype)
        return x, z, gan.scores(x, y)

    def _latent(self, gan: GAN, z: Tensor, y: Tensor | None, rng: Rng, step: int) -> Tensor:
        fade = FIFTH ** (5 * step // self.steps) if self.anneal else 1.0
        slope = moving.steady(gan.gradients(z, y)[2])
        size, noise = self.step_size * fade, self.noise * fade
        z = ops.langevin(z, slope, rng, step=step, step_size=size, noise=noise)
        return moving.reflected(z, *moving.walls(gan))

    def _sample(self, gan: GAN, x: Tensor, y: Tensor | None, rng: Rng, step: int) -> Tensor:
        noise = self.noise * (THIRDS[3 * step // self.steps] if self.anneal else 1.0)
        flat = x.flatten(1)
        shaken = ops.langevin(
            flat, torch.zeros_like(flat), rng, step=step, step_size=1.0, noise=noise
        )
        x = shaken.view_as(x)
        slope = moving.steady(gan.score_gradients(x, y)[1])
        moved = x + self.step_size * slope.clamp(-self.clip, self.clip)
        return moved if self.box is None else moved.clamp(-self.box, self.box)
