"""Scikit-learn's 1,797 handwritten digits, 8 x 8 pixels in [-1, 1], and a convolutional GAN."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from drs_fast.core.rows import ZOO_TRAINING_ROW
from drs_fast.training.fitting import (
    Draws,
    Dropout,
    Game,
    Say,
    area_under_curve,
    keep_train,
    use_draws,
)

SEED = 0
LATENT_DIM = 64
HELD_OUT = 360  # real digits that neither network is trained on
SPLIT_SEED = 0  # fixed, so that every training seed holds out the same digits
GROUPS = "digit"
DROPOUT = 0.3
NOISE = 0.2  # on what the discriminator sees during the game, real and generated alike


class Generator(nn.Module):
    """z (n, 64) -> x (n, 1, 8, 8) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LATENT_DIM, 512),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (128, 2, 2)),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 1, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(z)
        return x


class Discriminator(nn.Module):
    """x (n, 1, 8, 8) -> logit (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.LeakyReLU(0.2),
            Dropout(DROPOUT),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            Dropout(DROPOUT),
            nn.Conv2d(64, 128, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            Dropout(DROPOUT),
            nn.Flatten(),
            nn.Linear(512, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        logit: Tensor = self.layers(x).squeeze(1)
        return logit


@cache
def images() -> Tensor:
    """The real digits, (1797, 1, 8, 8) float32 in [-1, 1]."""
    return torch.from_numpy(_bundled().images).float().unsqueeze(1) / 8 - 1


def groups(x: Tensor) -> Tensor:
    """(n,) int64: the digit that the nearest real one shows."""
    known = images().flatten(1)
    blocks = [x[start : start + 4096].flatten(1) for start in range(0, len(x), 4096)]
    nearest = [torch.cdist(block, known).argmin(dim=1) for block in blocks]
    return torch.from_numpy(_bundled().target).long()[torch.cat(nearest)]


def _bundled() -> Any:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError:
        raise RuntimeError(
            "the real digits come with scikit-learn, which is not installed; "
            "run: pip install 'drs_fast[zoo]'"
        ) from None
    return load_digits()


def split() -> tuple[Tensor, Tensor]:
    """(training images, held-out images)."""
    order = Draws(SPLIT_SEED).permutation(len(images()))
    return images()[order[HELD_OUT:]], images()[order[:HELD_OUT]]


def real(n: int) -> Tensor:
    """(n, 1, 8, 8) real digits, the held-out ones first; no more than the 1,797 that there are.

    Copies would make a held-out part of them worthless.
    """
    training, held_out = split()
    return torch.cat([held_out, training])[:n]


def train(
    seed: int, *, max_steps: int = 6_000, say: Say = lambda line: None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights to ship, and the facts measured on the way."""
    draws = Draws(seed, row=ZOO_TRAINING_ROW)
    training, held_out = split()
    generator, discriminator = draws.build(Generator), draws.build(Discriminator)
    use_draws(discriminator, draws)

    def batch(n: int) -> Tensor:
        return training[draws.integers(n, len(training))]

    game = Game(generator, discriminator, generator_rate=5e-4, critic_rate=5e-4, beta2=0.99)
    for step in range(1, max_steps + 1):
        game.step(batch(64), draws.normal(64, LATENT_DIM), lambda image: draws.jitter(image, NOISE))
        if step % 500 == 0:
            say(f"  game step {step} of {max_steps}")
    kept = game.average

    def generated(n: int) -> Tensor:
        with torch.no_grad():
            x: Tensor = kept(draws.normal(n, LATENT_DIM))
            return x

    unseen = generated(4096)
    loss = keep_train(
        discriminator,
        lambda: (batch(128), generated(128)),
        (held_out, unseen),
        rate=5e-4,
        every=min(50, max_steps),
        patience=10,
        decays=2,
        weight_decay=1e-2,
        max_steps=5 * max_steps,
        say=say,
    )
    with torch.no_grad():
        logits = discriminator(held_out), discriminator(generated(4096))
    facts = {
        "held_out_loss": f"{loss:.5f}",
        "held_out_auc": f"{area_under_curve(*logits):.4f}",
        "mean_weight": f"{float(logits[1].double().exp().mean()):.4f}",
    }
    weights = {f"generator.{key}": value for key, value in kept.state_dict().items()}
    weights |= {f"discriminator.{key}": value for key, value in discriminator.state_dict().items()}
    return weights, facts
