"""Trained GANs that come with the package, and the scripts that trained them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file
from torch import Tensor

from drs_fast.gan import GAN
from drs_fast.zoo import digits, gaussians25, swissroll

MODELS: dict[str, ModuleType] = {
    "25gaussians": gaussians25,
    "digits": digits,
    "swissroll": swissroll,
}
NAMES = tuple(MODELS)


def weights_file(name: str) -> Path:
    """Where the package keeps the weights."""
    return Path(__file__).parent / "weights" / f"{name}.safetensors"


def groups(name: str) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """What a GAN's samples fall into, and a function x (n, ...) -> (n,) int64 that tells it."""
    model = MODELS.get(name)
    return None if model is None or not hasattr(model, "groups") else (model.GROUPS, model.groups)


def load(name: str) -> GAN:
    """A trained GAN by name, on the CPU; its discriminator returns log p_data/p_model.

    `gan.real(n)` gives n real samples (of digits only with scikit-learn). An unknown name is a
    ValueError.
    """
    if name not in MODELS:
        raise ValueError(f"the zoo has {', '.join(NAMES)}; got {name!r}")
    model = MODELS[name]
    with torch.device("meta"):  # no initial weights, no numbers drawn from torch's global stream
        generator, discriminator = model.Generator(), model.Discriminator()
    weights = load_file(weights_file(name))
    for role, network in (("generator.", generator), ("discriminator.", discriminator)):
        own = {k.removeprefix(role): value for k, value in weights.items() if k.startswith(role)}
        network.load_state_dict(own, assign=True)
    return GAN(generator, discriminator, model.LATENT_DIM, real=model.real, name=name)
