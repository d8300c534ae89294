"""Samples of a trained GAN that its discriminator believes in, fast and exact."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

import drs_fast.cli.interrupts  # noqa: F401  first, because the others take seconds
from drs_fast import ops, samplers
from drs_fast.core import BadLogits, Batch, OutOfTime, Rng, Stale, Starvation
from drs_fast.core.compacted import Compacted, Ring
from drs_fast.doctor.doctor import doctor
from drs_fast.gan import GAN
from drs_fast.ops import backend
from drs_fast.run.generate import generate, stream
from drs_fast.run.weighed import open_run as open
from drs_fast.squeeze import Squeeze
from drs_fast.store import Conflict, Corrupt
from drs_fast.unweighting.unweight import Unweighted, unweight

if TYPE_CHECKING:
    from drs_fast import adapters
    from drs_fast.adapters.load import load, weights
    from drs_fast.adapters.wrap import wrap
    from drs_fast.exporting.export import export
    from drs_fast.exporting.place import Exported
    from drs_fast.ratio.calibrate import calibrate
    from drs_fast.ratio.contrastive import contrastive
    from drs_fast.ratio.features import density_ratio
    from drs_fast.ratio.head import keep_train
    from drs_fast.ratio.latent_weights import latent_weights
    from drs_fast.ratio.relativistic import relativistic
    from drs_fast.run.plan import Plan, plan
    from drs_fast.run.shuffled import ShardShuffle
    from drs_fast.run.streams import SampledGenerator, StreamDataset

# Imported when they are asked for, because many programs never do.
LATER = {
    "Exported": "exporting.place",
    "Plan": "run.plan",
    "SampledGenerator": "run.streams",
    "ShardShuffle": "run.shuffled",
    "StreamDataset": "run.streams",
    "calibrate": "ratio.calibrate",
    "contrastive": "ratio.contrastive",
    "density_ratio": "ratio.features",
    "export": "exporting.export",
    "keep_train": "ratio.head",
    "latent_weights": "ratio.latent_weights",
    "load": "adapters.load",
    "plan": "run.plan",
    "relativistic": "ratio.relativistic",
    "weights": "adapters.load",
    "wrap": "adapters.wrap",
}

__all__ = [
    "GAN",
    "BadLogits",
    "Batch",
    "Compacted",
    "Conflict",
    "Corrupt",
    "Exported",
    "OutOfTime",
    "Plan",
    "Ring",
    "Rng",
    "SampledGenerator",
    "ShardShuffle",
    "Squeeze",
    "Stale",
    "Starvation",
    "StreamDataset",
    "Unweighted",
    "adapters",
    "backend",
    "calibrate",
    "contrastive",
    "density_ratio",
    "doctor",
    "export",
    "generate",
    "keep_train",
    "latent_weights",
    "load",
    "open",
    "ops",
    "plan",
    "relativistic",
    "samplers",
    "stream",
    "unweight",
    "weights",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name == "adapters":
        return import_module(f"{__name__}.adapters")
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})
