"""GANs that a benchmark trains once and keeps in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.common import mnist
from drs_fast.core.rows import ZOO_TRAINING_ROW
from drs_fast.gan import GAN
from drs_fast.training.fitting import Draws, Game
from drs_fast.zoo import digits

STEPS = 3_000


def plain(parts: Any, training: Tensor) -> dict[str, Tensor]:
    """What a short game leaves: no noise, no dropout, and the discriminator is not trained on."""
    draws = Draws(0, row=ZOO_TRAINING_ROW)
    generator, discriminator = draws.build(parts.Generator), draws.build(parts.Discriminator)
    discriminator.eval()
    game = Game(generator, discriminator, generator_rate=5e-4, critic_rate=5e-4, beta2=0.99)
    for _ in range(STEPS):
        real = training[draws.integers(64, len(training))]
        game.step(real, draws.normal(64, parts.LATENT_DIM), lambda x: x)
    networks = {"generator": game.average, "discriminator": discriminator}
    return {
        f"{role}.{key}": value.contiguous()
        for role, network in networks.items()
        for key, value in network.state_dict().items()
    }


GANS: dict[str, tuple[Any, Callable[[], dict[str, Tensor]]]] = {
    "digits, plain": (digits, lambda: plain(digits, digits.split()[0])),
    "mnist": (mnist, lambda: mnist.train(print)),
    "mnist, plain": (mnist, lambda: plain(mnist, mnist.images()[mnist.HELD_OUT :])),
}


def load(name: str, folder: Path) -> GAN:
    """The GAN of this name; it is trained if its weights are not in the folder."""
    parts, train = GANS[name]
    weights = folder / f"{name.replace(', ', '-')}.safetensors"
    if not weights.exists():
        print(f"training {name}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(train(), weights)
    tensors = load_file(weights)
    networks = []
    for role in ("generator", "discriminator"):
        network = parts.Generator() if role == "generator" else parts.Discriminator()
        network.load_state_dict(
            {k.removeprefix(f"{role}."): v for k, v in tensors.items() if k.startswith(role)}
        )
        networks.append(network)
    return GAN(*networks, parts.LATENT_DIM, name=name)
