"""Shared by the toy GANs of the plane: their networks, and a training that stops early.

The generator is meant to stay imperfect, as in the rejection sampling papers: its training sees
jittered points, and ends once enough of its samples are good and no part of the data is empty.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from drs_fast.training.fitting import Draws, Game, Say, keep_train

LATENT_DIM = 2
HELD_OUT = 200_000  # rows, real and generated each
QUALITY = (0.65, 0.72)  # share of high-quality samples at which the generator is frozen
SMALLEST_PART = 0.5  # and the emptiest part of the data has at least this part of a fair share

Sample = Callable[[Draws, int], Tensor]
Quality = Callable[[Tensor], tuple[float, Tensor]]


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


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(
    seed: int,
    sample: Sample,
    quality: Quality,
    kind: Callable[[], nn.Module],
    *,
    jitter: float,
    parts: str,
    max_steps: int,
    say: Say,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights to ship, and the facts measured on the way.

    sample: n real points. quality: the share of good points, and how many of those each of the
    data's parts has; parts is what these are called. kind: the discriminator.
    """
    draws = Draws(seed)
    generator = _play(draws, sample, quality, jitter, max_steps, say)

    def batch(n: int = 2048) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return sample(draws, n), generator(draws.normal(n, LATENT_DIM))

    discriminator = draws.build(kind)
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
    share, counts = quality(x)
    facts = {
        "raw_hq": f"{share:.4f}",
        f"raw_{parts}": str(int((counts > 0).sum())),
        "held_out_loss": f"{loss:.5f}",
        "mean_weight": f"{float(weight):.4f}",
    }
    weights = {f"generator.{key}": value for key, value in generator.state_dict().items()}
    weights |= {f"discriminator.{key}": value for key, value in discriminator.state_dict().items()}
    return weights, facts


def _play(
    draws: Draws, sample: Sample, quality: Quality, jitter: float, max_steps: int, say: Say
) -> nn.Module:
    """Play until the kept generator has the wanted quality and balance for the first time."""
    generator, critic = draws.build(Generator), draws.build(Critic)
    game = Game(generator, critic, generator_rate=5e-4, critic_rate=1e-3)
    for step in range(1, max_steps + 1):
        jittered = draws.jitter(sample(draws, 512), jitter)
        game.step(jittered, draws.normal(512, LATENT_DIM), lambda x: x)
        if step % 100 == 0:
            with torch.no_grad():
                share, counts = quality(game.average(draws.normal(20_000, LATENT_DIM)))
            balance = float(counts.min() * len(counts) / counts.sum().clamp(min=1))
            say(f"  generator step {step}: {100 * share:.1f} % good, emptiest {balance:.2f}")
            if QUALITY[0] <= share <= QUALITY[1] and balance >= SMALLEST_PART:
                break
    return game.average
