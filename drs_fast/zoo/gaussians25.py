"""25 Gaussians on a 5 x 5 grid, and the toy GAN of the rejection sampling papers.

The real density is (1/25) sum_k N(x; mu_k, 0.05^2 I), mu_k in {-2, -1, 0, 1, 2}^2. The generator is
meant to stay imperfect: its training sees real points jittered by `JITTER` and stops early.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from drs_fast.ratio.fitting import Draws, Game, Say, keep_train

SEED = 1
LATENT_DIM = 2
STD = 0.05
CENTRES = torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))  # (25, 2)
QUALITY_RADIUS = 4 * STD

HELD_OUT = 200_000  # rows, real and generated each

JITTER = 0.18
QUALITY = (0.65, 0.72)  # share of high-quality samples at which the generator is frozen
SMALLEST_MODE = 0.5  # and its emptiest mode holds this part of a fair share


class Generator(nn.Module):
    """z (n, 2) -> x (n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(LATENT_DIM, 100, 100, 100, 2)

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(z)
        return x


class Critic(nn.Module):
    """The opponent during the game; it is not shipped. x (n, 2) -> (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(2, 100, 100, 100, 1)

    def forward(self, x: Tensor) -> Tensor:
        logit: Tensor = self.layers(x).squeeze(1)
        return logit


class Discriminator(nn.Module):
    """x (n, 2) -> logit (n,). Sines and cosines of period 1 and 1/2 show it the grid."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(10, 128, 128, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * x
        features = [x, angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()]
        logit: Tensor = self.layers(torch.cat(features, dim=1)).squeeze(1)
        return logit


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def sample(draws: Draws, n: int) -> Tensor:
    """(n, 2) points of the real density."""
    return draws.jitter(CENTRES[draws.integers(n, 25)], STD)


def real(n: int) -> Tensor:
    """(n, 2) real points, the same ones on every call."""
    return sample(Draws(0, row=2**62), n)


def quality(x: Tensor) -> tuple[float, Tensor]:
    """Share of x (n, 2) less than 4 sd from a centre, and how many of those each mode has (25,)."""
    grid = x.round().clamp(-2, 2)
    good = (x - grid).norm(dim=1) < QUALITY_RADIUS
    mode = ((grid[:, 0] + 2) * 5 + grid[:, 1] + 2).long()
    return float(good.double().mean()), torch.bincount(mode[good], minlength=25)


def train(
    seed: int, *, max_steps: int = 20_000, say: Say = lambda line: None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights to ship, and the facts measured on the way."""
    draws = Draws(seed)
    generator = _train_generator(draws, max_steps, say)

    def batch(n: int = 2048) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return sample(draws, n), generator(draws.normal(n, LATENT_DIM))

    discriminator = draws.build(Discriminator)
    loss = keep_train(
        discriminator,
        batch,
        batch(HELD_OUT),
        rate=2e-3,
        every=min(250, max_steps),
        patience=3,
        max_steps=max_steps,
        say=say,
    )
    with torch.no_grad():
        x = generator(draws.normal(HELD_OUT, LATENT_DIM))
        weight = discriminator(x).double().exp().mean()
    share, modes = quality(x)
    facts = {
        "raw_hq": f"{share:.4f}",
        "raw_modes": str(int((modes > 0).sum())),
        "held_out_loss": f"{loss:.5f}",
        "mean_weight": f"{float(weight):.4f}",
    }
    weights = {f"generator.{key}": value for key, value in generator.state_dict().items()}
    weights |= {f"discriminator.{key}": value for key, value in discriminator.state_dict().items()}
    return weights, facts


def _train_generator(draws: Draws, max_steps: int, say: Say) -> nn.Module:
    """Play until the kept generator has the wanted quality and balance for the first time."""
    generator, critic = draws.build(Generator), draws.build(Critic)
    game = Game(generator, critic, generator_rate=5e-4, critic_rate=1e-3)
    for step in range(1, max_steps + 1):
        jittered = draws.jitter(sample(draws, 512), JITTER)
        game.step(jittered, draws.normal(512, LATENT_DIM), lambda x: x)
        if step % 100 == 0:
            with torch.no_grad():
                share, modes = quality(game.average(draws.normal(20_000, LATENT_DIM)))
            balance = float(modes.min() * 25 / modes.sum().clamp(min=1))
            say(f"  generator step {step}: {100 * share:.1f} % good, emptiest mode {balance:.2f}")
            if QUALITY[0] <= share <= QUALITY[1] and balance >= SMALLEST_MODE:
                break
    return game.average
