"""A swiss roll in the plane, and a toy GAN that follows it loosely.

A real point is (t cos t, t sin t) plus noise of sd 0.25 per axis, all divided by 7.5, with t
uniform on [1.5 pi, 4.5 pi]: columns 0 and 2 of scikit-learn's make_swiss_roll(noise=0.25). The
generator is meant to stay imperfect: its training sees jittered points and stops early.
"""

import math

import torch
from torch import Tensor, nn

from drs_fast.core.rows import ZOO_DATA_ROW
from drs_fast.training.fitting import Draws, Say
from drs_fast.zoo import plane
from drs_fast.zoo.plane import mlp

SEED = 0
LATENT_DIM = plane.LATENT_DIM
SCALE = 7.5
STD = 0.25 / SCALE
START, TURN = 1.5 * math.pi, 3 * math.pi  # of t: where the roll begins, and its length
STRETCHES = 25  # parts of the roll with equal shares of the data
QUALITY_RADIUS = 4 * STD
JITTER = 0.2

Generator = plane.Generator


class Discriminator(nn.Module):
    """x (n, 2) -> logit (n,). It also sees x turned back by 7.5 |x|, where the roll is straight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(4, 128, 128, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        angle = SCALE * (x.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
        turned = torch.stack([x[:, 1], -x[:, 0]], dim=1)
        straight = x * angle.cos() + turned * angle.sin()
        logit: Tensor = self.layers(torch.cat([x, straight], dim=1)).squeeze(1)
        return logit


def roll(t: Tensor) -> Tensor:
    """The points (n, 2) of the noiseless curve."""
    return torch.stack([t * t.cos(), t * t.sin()], dim=1) / SCALE


def sample(draws: Draws, n: int) -> Tensor:
    """(n, 2) points of the real density."""
    return draws.jitter(roll(START + TURN * draws.uniform(n)).float(), STD)


def real(n: int) -> Tensor:
    """(n, 2) real points, the same ones on every call."""
    return sample(Draws(0, row=ZOO_DATA_ROW), n)


def nearest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of x (n, 2) from the curve, and the t of the nearest points; (n,) float64 each."""
    grid = torch.linspace(START, START + TURN, 2_001, dtype=torch.float64, device="cpu")
    curve, wide = roll(grid), x.double()
    t = torch.cat(
        [grid[torch.cdist(part, curve).argmin(dim=1)] for part in torch.split(wide, 2_048)]
    )
    cosine, sine = t.cos(), t.sin()
    tangent = torch.stack([cosine - t * sine, sine + t * cosine], dim=1) / SCALE
    along = ((wide - roll(t)) * tangent).sum(dim=1) / tangent.square().sum(dim=1)
    t = (t + along).clamp(START, START + TURN)  # from the grid's point to its tangent's
    return (wide - roll(t)).norm(dim=1), t


def quality(x: Tensor) -> tuple[float, Tensor]:
    """Share of x (n, 2) less than 4 sd from the curve, and how many of those each stretch has."""
    distance, t = nearest(x)
    good = distance < QUALITY_RADIUS
    return float(good.double().mean()), torch.bincount(stretch(t[good]), minlength=STRETCHES)


def stretch(t: Tensor) -> Tensor:
    """Numbers (n,) of the parts of the roll."""
    return ((t - START) * (STRETCHES / TURN)).long().clamp(max=STRETCHES - 1)


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
        parts="stretches",
        max_steps=max_steps,
        say=say,
    )
