"""Critics of a frozen toy generator, trained with losses other than the logistic one.

Each has the architecture of the GAN's own discriminator with new weights, and is a pure function of
the GAN, the seed and the settings.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

import drs_fast as drs
from drs_fast.core.rows import CRITIC_ROW
from drs_fast.core.threads import one_thread
from drs_fast.training.fitting import Draws

SPARED = 100_000  # first real samples, kept for calibration and for starts of chains
POOL = 200_000  # next ones, to train the critics
PENALTY = 10.0

Loss = Callable[[nn.Module, Tensor, Tensor, Draws], Tensor]  # critic, real, generated


def rsgan(gan: drs.GAN, seed: int = 0, *, steps: int = 3_000) -> drs.GAN:
    """Relativistic standard GAN: the critic is the log ratio up to a constant (link "logit").

    Source: Jolicoeur-Martineau, The relativistic discriminator (2018).
    """

    def loss(critic: nn.Module, real: Tensor, generated: Tensor, draws: Draws) -> Tensor:
        return softplus(critic(generated) - critic(real)).mean()

    return gan.judged(_trained(gan, loss, seed, steps), "logit")


def wgan(gan: drs.GAN, seed: int = 0, *, steps: int = 2_000) -> drs.GAN:
    """Wasserstein with gradient penalty: a transport potential, not a ratio (link "wasserstein").

    Source: Gulrajani et al., Improved training of Wasserstein GANs (2017).
    """

    def loss(critic: nn.Module, real: Tensor, generated: Tensor, draws: Draws) -> Tensor:
        share = draws.uniform(len(real)).float()[:, None]
        between = (share * real + (1 - share) * generated).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return critic(generated).mean() - critic(real).mean() + PENALTY * penalty

    return gan.judged(_trained(gan, loss, seed, steps), "wasserstein")


def hinge(gan: drs.GAN, seed: int = 0, *, steps: int = 3_000) -> drs.GAN:
    """Hinge loss: at its optimum the sign of the log ratio, not a ratio (link "hinge").

    Source: Lim and Ye, Geometric GAN (2017).
    """

    def loss(critic: nn.Module, real: Tensor, generated: Tensor, draws: Draws) -> Tensor:
        return relu(1 - critic(real)).mean() + relu(1 + critic(generated)).mean()

    return gan.judged(_trained(gan, loss, seed, steps), "hinge")


@one_thread()
def _trained(
    gan: drs.GAN, loss: Loss, seed: int, steps: int, *, rows: int = 512, rate: float = 2e-3
) -> nn.Module:
    """Trains with Adam, whose rate falls linearly to 0."""
    if gan.prior != "normal" or not isinstance(gan.discriminator, nn.Module):
        raise ValueError("gan must be a toy: normal latents, and a module as discriminator")
    draws = Draws(seed, row=CRITIC_ROW)
    critic = draws.build(type(gan.discriminator))
    real, _ = gan.real_samples(SPARED + POOL)
    optimizer = torch.optim.Adam(critic.parameters(), rate, betas=(0.5, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        with torch.no_grad():
            generated = gan.generator(draws.normal(rows, gan.latent_dim))
        value = loss(
            critic, real[SPARED + draws.integers(rows, len(real) - SPARED)], generated, draws
        )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return critic
