"""Discriminator contrastive divergence: moves up a critic, and training the critic on them.

Source: Song, Ye, Xu and Liu, Discriminator contrastive divergence (2020), arXiv 2004.01704.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from drs_fast import ops
from drs_fast.arguments import describe, flag, integer, number, one_of, positive
from drs_fast.core import TRAINING_ROW, Rng
from drs_fast.gan import GAN
from drs_fast.ratio import links, moving
from drs_fast.ratio.fitting import Draws, of_gan
from drs_fast.ratio.held_out import alike

CONSTANT = {"softplus": 2 * math.log(2), "hinge": 2.0}  # each loss of a critic that is always 0
LOSSES = tuple(CONSTANT)
DIVERGED = 10.0  # times the loss that it began with, or a constant's
THIRDS, FIFTH = (1.0, 0.7, 0.4), 0.1
BETAS = (0.0, 0.9)


@dataclass(frozen=True)
class Moves:
    """How latents or samples are pushed up a critic; samplers.DCD says what the fields mean."""

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
            raise ValueError("box clips samples; give it with space='sample', or not at all")

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
        return moving.reflected(z, moving.box(gan))

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


@of_gan
def contrastive(
    gan: GAN,
    *,
    moves: int = 20,
    space: str = "latent",
    step_size: float = 0.01,
    noise: float = 0.005,
    clip: float = 1.0,
    box: float | None = None,
    anneal: bool = False,
    loss: str = "softplus",
    steps: int = 1000,
    batch: int = 256,
    rate: float = 2e-4,
    reals: int = 50_000,
    seed: int = 0,
) -> GAN:
    """A GAN whose critic has been trained on: up on real samples, down on pushed ones.

    moves, space, step_size, noise, clip, box, anneal: how samples are pushed, as in samplers.DCD.
    loss: "softplus" or "hinge", of the logit. steps: of Adam, at this rate, with so many real and
        pushed samples each. reals: how many real samples to train on.
    The new critic is an energy and no density ratio: take DCD, DDLS or DOT, or make it a ratio by
    drs.calibrate or drs.keep_train. The generator stays, the discriminator is copied, and trained
    as it is used, in eval mode.
    """
    push = Moves(space, moves, step_size, noise, clip, box, anneal)
    one_of("loss", loss, LOSSES)
    steps, batch = integer("steps", steps, 1), integer("batch", batch, 1)
    reals, rate = integer("reals", reals, 1), positive("rate", rate)
    if not isinstance(gan.discriminator, nn.Module):
        raise ValueError(
            "contrastive trains the discriminator, which must be a torch.nn.Module, got "
            f"{describe(gan.discriminator)}; wrap it in one"
        )
    x, label = gan.real_samples(reals)
    critic = Critic(copy.deepcopy(gan.discriminator), gan.link).requires_grad_()
    trained = gan.judged(critic, "wasserstein")
    pusher = trained.on(block=batch)
    optimizer = torch.optim.Adam(critic.parameters(), rate, BETAS)
    draws = Draws(seed, TRAINING_ROW)
    for step in range(steps):
        own = draws.integers(batch, len(x)).to(x.device)
        rows = Rng(seed, TRAINING_ROW + step * batch)
        # Generated samples take the labels of the real ones beside them.
        y = None if label is None else label[own]
        z = ops.latents(gan, rows, batch)
        pushed = push.pushed(pusher, z, y, rows)[0]
        alike(x, pushed)
        labels = () if y is None else (y,)
        low = critic(pushed, *labels)
        high = critic(x[own], *labels)
        cost = _loss(loss, high, low)
        optimizer.zero_grad()
        cost.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step == 0:
            first = float(cost.detach())
    critic.requires_grad_(False)
    last = float(_loss(loss, *(critic(given, *labels) for given in (x[own], pushed))))
    if not last <= DIVERGED * max(first, CONSTANT[loss]):
        raise RuntimeError(
            f"training diverged: the loss went from {first:.4g} to {last:.4g} in {steps:,} steps; "
            f"take a smaller rate than {rate:g}"
        )
    return trained


class Critic(nn.Module):
    """A discriminator and its link as one module: x [, y] -> logit (n,)."""

    def __init__(self, discriminator: nn.Module, link: str | links.Link) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.link = links.LINKS[link] if isinstance(link, str) else copy.deepcopy(link)

    def forward(self, x: Tensor, *y: Tensor) -> Tensor:
        score = self.discriminator(x, *y)
        score = score[0] if isinstance(score, (tuple, list)) else score
        return self.link(score.reshape(len(x))).reshape(len(x))


def _loss(kind: str, real: Tensor, pushed: Tensor) -> Tensor:
    if kind == "hinge":
        return relu(1.0 - real).mean() + relu(1.0 + pushed).mean()
    return softplus(-real).mean() + softplus(pushed).mean()
