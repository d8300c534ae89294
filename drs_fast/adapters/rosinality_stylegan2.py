"""StyleGAN2 as trained by rosinality/stylegan2-pytorch."""

from typing import Any

import torch
from torch import Tensor, nn

from drs_fast import ops
from drs_fast.adapters.networks import block, plain, read
from drs_fast.adapters.wrap import wrap
from drs_fast.core.rng import Rng
from drs_fast.core.rows import FITTING, STYLE_ROW
from drs_fast.gan import GAN

PROJECT = "of rosinality/stylegan2-pytorch (model.py)"
STYLES = 4096  # whose mean is the average style


def rosinality(
    generator: nn.Module,
    discriminator: nn.Module | None,
    *,
    truncation: float = 1.0,
    **options: Any,
) -> GAN:
    """A GAN of a Generator and a Discriminator of rosinality/stylegan2-pytorch.

    generator: with the weights under "g_ema" of a checkpoint. Its noise is the one it has stored;
        it is called as G([z], randomize_noise=False).
    discriminator: with the weights under "d"; it sees every row among fixed companions, because its
        minibatch standard deviation couples the rows of a call. None if it is lost.
    truncation: how much of a style's distance from the average style of 4,096 latents is kept.
    options: of `drs.GAN`, such as real=x or block=16.
    """
    made, critic = plain(generator), plain(discriminator)
    latent_dim, resolution, _, _ = read(
        f"the Generator {PROJECT}", made, style_dim=int, size=int, style=nn.Module, noises=nn.Module
    )
    settings: dict[str, Any] = {"latent_dim": latent_dim, "block": block(resolution)}
    if critic is not None:
        (settings["pack"], _) = read(
            f"the Discriminator {PROJECT}", critic, stddev_group=int, final_linear=nn.Module
        )
    how: dict[str, Any] = {"listed": True, "output": 0, "randomize_noise": False}
    if truncation < 1.0:
        how |= {"truncation": truncation, "truncation_latent": average_style(made)}
    return GAN(wrap(made, **how), critic, **settings | options)


@torch.no_grad()
def average_style(generator: Any) -> Tensor:
    """The mean (1, style_dim) of the styles of 4,096 latents, which are always the same."""
    rng, where = Rng(0, STYLE_ROW), next(generator.parameters()).device
    z = ops.normal(rng, STYLES, generator.style_dim, stream=FITTING, device=where)
    average: Tensor = generator.eval().style(z).mean(dim=0, keepdim=True)
    return average
