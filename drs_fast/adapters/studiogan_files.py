"""The settings and checkpoints of a model that PyTorch-StudioGAN trained."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from drs_fast.adapters.load import weights

# D's checkpoint holds the best FID, a scalar of NumPy.
SCALARS = (np.float64().__reduce__()[0], np.dtype, type(np.dtype(np.float64)))


def settings(cfg: str | Path) -> Any:
    """Its project's Configurations of a .yaml file."""
    try:
        configurations = vars(import_module("config"))["Configurations"]
    except (ImportError, KeyError) as error:
        raise ValueError(
            "expected the modules config and models.model of PyTorch-StudioGAN: put its folder "
            f"src/ first on sys.path ({error})"
        ) from error
    found = configurations(str(cfg))
    found.RUN.mixed_precision = False  # otherwise said on the command line
    return found


def networks(found: Any, folder: str | Path, which: str) -> tuple[nn.Module, nn.Module]:
    """G, averaged if there is an average, and D, with the weights of these checkpoints."""
    parts = (found.DATA, found.OPTIMIZATION, found.MODEL, found.STYLEGAN, found.MODULES, found.RUN)
    built = import_module("models.model").load_generator_discriminator(*parts, "cpu", None)
    roles = {"G" if built[4] is None else "G_ema": built[0], "D": built[3]}
    for role, network in roles.items():
        files = sorted(Path(folder).glob(f"model={role}-{which}-weights-step=*.pth"))
        if not files:
            raise ValueError(
                f"expected a file model={role}-{which}-weights-step=*.pth of PyTorch-StudioGAN in "
                f"{Path(folder).absolute()}; name its folder of checkpoints"
            )
        network.load_state_dict(weights(files[-1], key="state_dict", allow=SCALARS))
    return built[0], built[3]
