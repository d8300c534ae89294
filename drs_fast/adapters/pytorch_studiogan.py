"""The models of POSTECH-CVLab/PyTorch-StudioGAN."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drs_fast.adapters import studiogan_files
from drs_fast.adapters.networks import block
from drs_fast.adapters.wrap import wrap
from drs_fast.gan import GAN

PRIORS = {"gaussian": "normal", "uniform": "uniform"}
LINKS = {
    "vanilla": "logit",
    "logistic": "logit",
    "least_square": "least squares",
    "hinge": "hinge",
    "wasserstein": "wasserstein",
}
STYLEGANS = ("stylegan2", "stylegan3")


def studiogan(cfg: str | Path, ckpt: str | Path, which: str = "best", **options: Any) -> GAN:
    """A GAN of a model that PyTorch-StudioGAN trained; its src/ must be on sys.path.

    cfg: the .yaml file of the model. It says the backbone, the classes, the prior and the loss.
    ckpt: the folder of its checkpoints, "model=G-best-weights-step=...pth" and so on. G is the
        averaged one, if there is one.
    which: "best" or "current".
    options: of `drs.GAN`, such as real=(x, y) or block=64. StyleGAN's critics need real=.

    The critic's "adv_output" counts. Where a classifier learns the classes (AC, 2C, D2DCE), it does
    not say how well a sample fits its label; drs.keep_train does.
    """
    settings = studiogan_files.settings(cfg)
    model, loss, classes = settings.MODEL, settings.LOSS.adv_loss, settings.DATA.num_classes
    if model.info_type != "N/A" or loss not in LINKS:
        raise ValueError(
            f"{cfg} has info_type {model.info_type} and adv_loss {loss}; this takes models without "
            f"InfoGAN's codes and with a loss of {', '.join(LINKS)}"
        )
    generator, critic = studiogan_files.networks(settings, ckpt, which)
    conditional = model.g_cond_mtd != "W/O" or model.d_cond_mtd != "W/O"
    if not conditional:
        generator, critic = Unlabelled(generator), Unlabelled(critic)
    how: dict[str, Any] = {"eval": True}
    found: dict[str, Any] = {
        "latent_dim": model.z_dim,
        "prior": PRIORS[model.z_prior],
        "labels": classes if conditional else None,
        "link": LINKS[loss],
        "block": block(settings.DATA.img_size),
    }
    if model.backbone in STYLEGANS:
        found["pack"] = settings.STYLEGAN.d_epilogue_mbstd_group_size
        how["noise_mode"] = "const"
        how |= {"labels": "onehot", "classes": classes} if conditional else {}
    # They squeeze the scores, so that one row gives a number.
    scored = wrap(critic, eval=True, output="adv_output", reduce=torch.atleast_1d)
    return GAN(wrap(generator, **how), scored, **found | options)


class Unlabelled(nn.Module):
    """A network that takes labels, although it has no classes; it gets zeros."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: Tensor, **keywords: Any) -> Any:
        """What the network returns for rows (n, ...)."""
        return self.network(rows, rows.new_zeros(len(rows), dtype=torch.int64), **keywords)
