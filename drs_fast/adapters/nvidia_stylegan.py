"""StyleGAN2 and StyleGAN3 as trained by NVlabs' stylegan2-ada-pytorch and stylegan3."""

from typing import Any

from torch import nn

from drs_fast.adapters.networks import block, plain, read
from drs_fast.adapters.wrap import wrap
from drs_fast.gan import GAN

COUPLING = "MinibatchStdLayer"  # of their discriminators, unless mbstd_num_channels is 0


def stylegan2_ada(
    generator: nn.Module,
    discriminator: nn.Module | None,
    *,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    noise_mode: str = "const",
    force_fp32: bool = True,
    **options: Any,
) -> GAN:
    """A GAN of a Generator and a Discriminator of NVlabs/stylegan2-ada-pytorch.

    generator: best the averaged one, "G_ema" of the pickle, which `legacy.load_network_pkl` loads.
    discriminator: "D" of the same pickle; it sees every row among fixed companions, because its
        minibatch standard deviation couples the rows of a call. None if it is lost.
    truncation_psi, truncation_cutoff: how far, and up to which layer, w moves to its average.
    noise_mode: "const" or "none"; "random" needs noise="rows", which takes the noise from each
        row's own random numbers.
    force_fp32: whether both compute in float32, also where they were trained in float16.
    options: of `drs.GAN`, such as real=(x, y) or block=16.
    """
    made, critic = plain(generator), plain(discriminator)
    latent_dim, classes, resolution, _, _ = read(
        "a Generator of stylegan2-ada-pytorch or stylegan3",
        made,
        z_dim=int,
        c_dim=int,
        img_resolution=int,
        mapping=nn.Module,
        synthesis=nn.Module,
    )
    label: dict[str, Any] = {"labels": "onehot", "classes": classes}
    if not classes:
        label = {"labels": "none", "args": (None,)}
    settings: dict[str, Any] = {
        "latent_dim": latent_dim,
        "labels": classes or None,
        "block": block(resolution),
    }
    if critic is not None:
        expected = "the Discriminator of stylegan2-ada-pytorch or stylegan3"
        read(expected, critic, c_dim=int, img_resolution=int, b4=nn.Module)
        for part in critic.modules():
            if type(part).__name__ == COUPLING:
                settings["pack"] = part.group_size or "minibatch-std"
        critic = wrap(critic, **label, force_fp32=force_fp32)
    made = wrap(
        made,
        **label,
        truncation_psi=truncation_psi,
        truncation_cutoff=truncation_cutoff,
        noise_mode=noise_mode,
        force_fp32=force_fp32,
    )
    return GAN(made, critic, **settings | options)


def stylegan3(generator: nn.Module, discriminator: nn.Module | None, **options: Any) -> GAN:
    """A GAN of a Generator and a Discriminator of NVlabs/stylegan3, of either network kind.

    Everything is as for `drs.adapters.stylegan2_ada`. StyleGAN3's generator has no noise inputs.
    """
    return stylegan2_ada(generator, discriminator, **options)
