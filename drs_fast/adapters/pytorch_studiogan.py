"""The models of POSTECH-CVLab/PyTorch-StudioGAN."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drs_fast.adapters.load import weights
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
# D's checkpoint holds the best FID, a scalar of NumPy.
SCALARS = (np.float64().__reduce__()[0], np.dtype, type(np.dtype(np.float64)))
STYLEGANS = ("stylegan2", "stylegan3")


def studiogan(cfg: str | Path, ckpt: str | Path, which: str = "best", **options: Any) -> GAN:
    """A GAN of a model that PyTorch-StudioGAN trained; its src/ must be on sys.path.

    cfg: the .yaml file of the model. It says the backbone, the classes, the prior and the loss.
    ckpt: the folder of its checkpoints, "model=G-best-weights-step=...pth" and so on. G is the
        averaged one, if there is one.
    which: "best" or "current".
    options: of `drs.GAN`, such as real=(x, y) or block=64.

    The critic's "adv_output" counts. Where a classifier learns the classes (AC, 2C, D2DCE), it does
    not say how well a sample fits its label; drs.keep_train does.
    """
    settings = _settings(str(cfg))
    data, model = settings.DATA, settings.MODEL
    if model.info_type != "N/A" or settings.LOSS.adv_loss not in LINKS:
        raise ValueError(
            f"{cfg} has info_type {model.info_type} and adv_loss {settings.LOSS.adv_loss}; this "
            f"takes models without InfoGAN's codes and with a loss of {', '.join(LINKS)}"
        )
    settings.RUN.mixed_precision = False
    built = import_module("models.model").load_generator_discriminator(
        *(settings.DATA, settings.OPTIMIZATION, model, settings.STYLEGAN, settings.MODULES),
        *(settings.RUN, "cpu", None),
    )
    generator: nn.Module = _loaded(built[0], "G" if built[4] is None else "G_ema", ckpt, which)
    critic: nn.Module = _loaded(built[3], "D", ckpt, which)
    conditional = model.g_cond_mtd != "W/O" or model.d_cond_mtd != "W/O"
    if not conditional:
        generator, critic = Unlabelled(generator), Unlabelled(critic)
    how: dict[str, Any] = {"eval": True}
    found: dict[str, Any] = {
        "latent_dim": model.z_dim,
        "prior": PRIORS[model.z_prior],
        "labels": data.num_classes if conditional else None,
        "link": LINKS[settings.LOSS.adv_loss],
        "block": block(data.img_size),
    }
    if model.backbone in STYLEGANS:
        how |= {"noise_mode": "const"}
        if conditional:
            how |= {"labels": "onehot", "classes": data.num_classes}
        found["pack"] = settings.STYLEGAN.d_epilogue_mbstd_group_size
    # They squeeze the scores, so that one row gives a number.
    scored = wrap(critic, eval=True, output="adv_output", reduce=torch.atleast_1d)
    return GAN(wrap(generator, **how), scored, **found | options)


def _settings(cfg: str) -> Any:
    """Their Configurations of this file."""
    try:
        configurations = vars(import_module("config"))["Configurations"]
    except (ImportError, KeyError) as error:
        raise ValueError(
            "expected the modules config and models.model of PyTorch-StudioGAN: put its folder "
            f"src/ first on sys.path ({error})"
        ) from error
    return configurations(cfg)


def _loaded(network: nn.Module, role: str, folder: str | Path, which: str) -> nn.Module:
    files = sorted(Path(folder).glob(f"model={role}-{which}-weights-step=*.pth"))
    if not files:
        raise ValueError(
            f"expected a file model={role}-{which}-weights-step=*.pth of PyTorch-StudioGAN in "
            f"{Path(folder).absolute()}; name its folder of checkpoints"
        )
    network.load_state_dict(weights(files[-1], key="state_dict", allow=SCALARS))
    return network


class Unlabelled(nn.Module):
    """A network that takes labels, although it has no classes; it gets zeros."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: Tensor, **keywords: Any) -> Any:
        return self.network(rows, rows.new_zeros(len(rows), dtype=torch.int64), **keywords)
