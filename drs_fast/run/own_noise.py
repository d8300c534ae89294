"""Refuses a G or D that draws random numbers of its own."""

import inspect
from collections.abc import Iterator

from torch import nn

from drs_fast.core import Sampler, fingerprint
from drs_fast.core.sampler import those_that
from drs_fast.gan import GAN
from drs_fast.gan.row_noise import OWN, ROWS
from drs_fast.run import probe

# Arguments of public generators, with the value that switches their noise off.
SWITCHES = {"noise_mode": '"const"', "randomize_noise": "False"}
DROPOUT = (nn.modules.dropout._DropoutNd, nn.RReLU)


def guarded(gan: GAN) -> GAN:
    """This GAN, whose first call raises ValueError if random numbers of its own decide anything.

    Nothing is computed for that unless PyTorch's generators move, and then 256 rows.
    """
    return gan if gan.noise == OWN else gan.watched(_refuse_noise)


def check(gan: GAN, sampler: Sampler) -> None:
    """ValueError if the sampler follows gradients, and other latents have other noise."""
    if gan.noise == ROWS and sampler.unadjusted:
        raise ValueError(
            f"{type(sampler).__name__} moves along the logit's gradient and accepts every move, "
            'but with noise="rows" the noise jumps wherever a latent moves: switch the noise off '
            f"({_switch(gan)}), or use a sampler that needs no smooth logit: "
            f"{those_that(lambda each: not each.unadjusted)}"
        )


def _refuse_noise(gan: GAN) -> None:
    if probe.is_steady(gan):
        return
    if gan.noise == ROWS:
        raise ValueError(
            'with noise="rows", G and D still give other numbers for the same rows after another '
            "torch seed: they draw where PyTorch's operators cannot be replaced (a compiled graph, "
            f"a kernel of their own); switch this noise off: {_switch(gan)}"
        )
    raise ValueError(
        "G or D draws random numbers of its own: it gives other numbers for the same rows after "
        "another torch seed, so samples could not be made again, and batches of another size would "
        f'give others. Switch this off: {_switch(gan)}. Or build GAN(..., noise="rows"), which '
        'makes them a function of the row; or noise="own", if samples need not be made again'
    )


def _switch(gan: GAN) -> str:
    """How this GAN's noise is switched off, as far as its modules tell."""
    modules = list(fingerprint.modules(*gan.functions))
    for name, value in SWITCHES.items():
        if any(name in _arguments(module) for module in modules):
            return f"drs.wrap(G, {name}={value})"
    if any(isinstance(module, DROPOUT) and module.training for module in modules):
        return "eval(), because a dropout is in train mode"
    return 'eval() for dropout, drs.wrap(G, noise_mode="const") for StyleGAN'


def _arguments(module: nn.Module) -> Iterator[str]:
    try:
        yield from inspect.signature(module.forward).parameters
    except (TypeError, ValueError):  # compiled code has none
        return
