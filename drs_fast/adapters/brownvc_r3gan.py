"""R3GAN as trained by brownvc/R3GAN."""

from typing import Any

from torch import nn

from drs_fast.adapters.networks import block, plain, read
from drs_fast.adapters.wrap import wrap
from drs_fast.gan import GAN

PROJECT = "of brownvc/R3GAN (training/networks.py)"


def r3gan(generator: nn.Module, discriminator: nn.Module | None, **options: Any) -> GAN:
    """A GAN of a Generator and a Discriminator of brownvc/R3GAN.

    generator: best the averaged one, "G_ema" of the pickle, which `legacy.load_network_pkl` loads.
    discriminator: "D" of the same pickle. Its loss compares pairs (RSGAN), so that at the optimum
        its output is a log ratio up to a constant. With labels, both of a pair have the same label,
        so that every class has a constant of its own: sample with classes="within", or let
        drs.keep_train find the ratio. The zero-centred penalties flatten it: drs.calibrate finds
        how much. None if it is lost.
    options: of `drs.GAN`, such as real=(x, y) or block=16.

    Source: Huang et al., The GAN is dead; long live the GAN! A modern GAN baseline (2024).
    """
    made, critic = plain(generator), plain(discriminator)
    latent_dim, classes, resolution, _ = read(
        f"the Generator {PROJECT}",
        made,
        z_dim=int,
        c_dim=int,
        img_resolution=int,
        Model=nn.Module,
    )
    if critic is not None:
        read(f"the Discriminator {PROJECT}", critic, Model=nn.Module)
    label: dict[str, Any] = {"labels": "onehot", "classes": classes}
    if not classes:
        label = {"labels": "none", "args": (None,)}
    settings: dict[str, Any] = {
        "latent_dim": latent_dim,
        "labels": classes or None,
        "block": block(resolution),
    }
    critic = None if critic is None else wrap(critic, **label)
    return GAN(wrap(made, **label), critic, **settings | options)
