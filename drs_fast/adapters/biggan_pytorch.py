"""BigGAN as trained by ajbrock/BigGAN-PyTorch."""

from typing import Any

from torch import nn

from drs_fast.adapters.networks import block, plain, read
from drs_fast.adapters.wrap import wrap
from drs_fast.gan import GAN

PROJECT = "of BigGAN-PyTorch (BigGAN.py or BigGANdeep.py)"


def biggan(generator: nn.Module, discriminator: nn.Module | None, **options: Any) -> GAN:
    """A GAN of a Generator and a Discriminator of ajbrock/BigGAN-PyTorch.

    generator: best the averaged one, G_ema. It gets the embedding `G.shared(y)` of a label, and a
        latent of dim_z numbers, which it splits itself if it is hierarchical. If you sample with
        standing statistics, call their `accumulate_standing_stats` on it first.
    discriminator: of the same checkpoint. None if it is lost.
    options: of `drs.GAN`, such as real=(x, y) or block=64. The link is "hinge", their only loss in
        use, so calibrate the critic or keep training it before you reject.
    """
    made, critic = plain(generator), plain(discriminator)
    latent_dim, classes, resolution, shared = read(
        f"the Generator {PROJECT}", made, dim_z=int, n_classes=int, resolution=int, shared=nn.Module
    )
    if critic is not None:
        read(f"the Discriminator {PROJECT}", critic, n_classes=int, resolution=int, D_wide=bool)
    settings: dict[str, Any] = {
        "latent_dim": latent_dim,
        "labels": classes,
        "link": "hinge",
        "block": block(resolution),
    }
    return GAN(wrap(made, embed=shared), critic, **settings | options)
