"""25 Gaussians on a 5 x 5 grid, and the toy GAN of the rejection sampling papers.

The real density is (1/25) sum_k N(x; mu_k, 0.05^2 I), mu_k in {-2, -1, 0, 1, 2}^2.
"""

import math

import torch
from torch import Tensor, nn

from drs_fast.core.rows import ZOO_DATA_ROW
from drs_fast.training.fitting import Draws, Say
from drs_fast.zoo import plane
from drs_fast.zoo.plane import mlp

SEED = 1
LATENT_DIM = plane.LATENT_DIM
STD = 0.05
AXIS = torch.arange(-2.0, 3.0, dtype=torch.float32, device="cpu")
CENTRES = torch.cartesian_prod(AXIS, AXIS)  # (25, 2)
QUALITY_RADIUS = 4 * STD
JITTER = 0.18
GROUPS = "mode"

Generator = plane.Generator


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


def sample(draws: Draws, n: int) -> Tensor:
    """(n, 2) points of the real density."""
    return draws.jitter(CENTRES[draws.integers(n, 25)], STD)


def real(n: int) -> Tensor:
    """(n, 2) real points, the same ones on every call."""
    return sample(Draws(0, row=ZOO_DATA_ROW), n)


def quality(x: Tensor) -> tuple[float, Tensor]:
    """Share of x (n, 2) less than 4 sd from a centre, and how many of those each mode has (25,)."""
    grid = x.round().clamp(-2, 2)
    good = (x - grid).norm(dim=1) < QUALITY_RADIUS
    return float(good.double().mean()), torch.bincount(groups(x)[good], minlength=25)


def groups(x: Tensor) -> Tensor:
    """(n,) int64: the nearest of the CENTRES."""
    grid = x.round().clamp(-2, 2)
    return ((grid[:, 0] + 2) * 5 + grid[:, 1] + 2).long()


def train(
    seed: int, *, max_steps: int = 20_000, say: Say = lambda line: None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights to ship, and the facts measured on the way."""
    return plane.train(
        seed,
        sample,
        quality,
        Discriminator,
        jitter=JITTER,
        parts="modes",
        max_steps=max_steps,
        say=say,
    )
