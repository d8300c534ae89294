"""Discriminator contrastive divergence: moves samples up a critic and trains the critic on them.

Source: Song, Ye, Xu and Liu, Discriminator contrastive divergence (2020), arXiv 2004.01704.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from drs_fast import ops
from drs_fast.core import TRAINING_ROW, Rng
from drs_fast.core.arguments import describe, integer, one_of, positive
from drs_fast.gan import GAN, links
from drs_fast.gan.calls import NO_CRITIC, one_per_sample
from drs_fast.gan.real_data import alike
from drs_fast.samplers.common.pushes import Moves
from drs_fast.training import frozen
from drs_fast.training.fitting import Draws, of_gan

CONSTANT = {"softplus": 2 * math.log(2), "hinge": 2.0}  # losses of a critic that is always 0
LOSSES = tuple(CONSTANT)
DIVERGED = 10.0  # times the initial loss, or a constant critic's
BETAS = (0.0, 0.9)


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
    """A GAN with a critic that was trained further: up on real samples, down on pushed ones.

    moves, space, step_size, noise, clip, box, anneal: how samples are pushed, as in samplers.DCD.
    loss: "softplus" or "hinge", of the logit. steps: training steps of Adam with learning rate
        `rate`, each on `batch` real and `batch` pushed samples. reals: real samples to train on.
    The new critic is an energy, not a density ratio: use DCD, DDLS or DOT, or turn it into a ratio
    with drs.calibrate or drs.keep_train. The generator is not changed. The discriminator is copied
    and trained in eval mode, as it is used.
    """
    push = Moves(space, moves, step_size, noise, clip, box, anneal)
    one_of("loss", loss, LOSSES)
    steps, batch = integer("steps", steps, 1), integer("batch", batch, 1)
    reals, rate = integer("reals", reals, 1), positive("rate", rate)
    if gan.discriminator is None:
        raise ValueError(NO_CRITIC)
    if not isinstance(gan.discriminator, nn.Module):
        raise ValueError(
            "contrastive trains the discriminator, which must be a torch.nn.Module, got "
            f"{describe(gan.discriminator)}; wrap it in a module"
        )
    frozen.refuse_where(gan)
    x, label = gan.real_samples(reals)
    critic = Critic(frozen.trainable(gan.discriminator), gan.link).requires_grad_()
    trained = gan.judged(critic, "wasserstein")
    pusher = trained.on(block=batch)
    optimizer = torch.optim.Adam(critic.parameters(), rate, BETAS)
    draws = Draws(seed, TRAINING_ROW)
    for step in range(steps):
        own = draws.integers(batch, len(x)).to(x.device)
        rows = Rng(seed, TRAINING_ROW + step * batch)
        # Generated samples take the labels of their real partners.
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
            f"use a smaller rate than {rate:g}"
        )
    return trained


class Critic(nn.Module):
    """A discriminator and its link as one module: x [, y] -> logit (n,)."""

    def __init__(self, discriminator: nn.Module, link: str | links.Link) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.link = links.LINKS[link] if isinstance(link, str) else copy.deepcopy(link)

    def forward(self, x: Tensor, *y: Tensor) -> Tensor:
        n, where = len(x), x.device
        score = one_per_sample("discriminator", self.discriminator(x, *y), n, where)
        return one_per_sample("link", self.link(score), n, where)


def _loss(kind: str, real: Tensor, pushed: Tensor) -> Tensor:
    if kind == "hinge":
        return relu(1.0 - real).mean() + relu(1.0 + pushed).mean()
    return softplus(-real).mean() + softplus(pushed).mean()
