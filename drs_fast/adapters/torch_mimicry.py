"""The models of kwotsin/mimicry (torch_mimicry)."""

from typing import Any

from torch import nn

from drs_fast.adapters.networks import plain, read
from drs_fast.gan import GAN

LINKS = {"gan": "logit", "ns": "logit", "hinge": "hinge", "wasserstein": "wasserstein"}
BLOCK = 256  # for up to 128 x 128 pixels: their networks do not say their resolution


def mimicry(generator: nn.Module, discriminator: nn.Module | None, **options: Any) -> GAN:
    """A GAN of two networks of torch_mimicry: DCGAN, SNGAN, SAGAN, cGAN-PD, WGAN-GP, SSGAN, ...

    generator: after `netG.restore_checkpoint(...)`. Its num_classes, if it has any, are the labels.
    discriminator: its loss_type says the link: "gan" and "ns" give logits; "hinge" and
        "wasserstein" give energies, which drs.calibrate or drs.keep_train turns into log ratios. Of
        the several results of SSGAN and InfoMax-GAN the first one counts. None if it is lost.
    options: of `drs.GAN`, such as real=x or block=64.
    """
    made, critic = plain(generator), plain(discriminator)
    latent_dim, loss = read("a generator of torch_mimicry", made, nz=int, loss_type=str)
    if critic is not None:
        (loss, _) = read("a discriminator of torch_mimicry", critic, loss_type=str, ndf=int)
    if loss not in LINKS:
        raise ValueError(f"loss_type must be one of {', '.join(LINKS)}, got {loss!r}")
    settings: dict[str, Any] = {
        "latent_dim": latent_dim,
        # Not the critic's: the classes of SSGAN's are rotations.
        "labels": vars(made).get("num_classes") or None,
        "link": LINKS[loss],
        "block": BLOCK,
    }
    return GAN(made, critic, **settings | options)
