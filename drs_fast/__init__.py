"""Samples of a trained GAN that its discriminator believes in, fast and exact."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING

from drs_fast.cli import interrupts  # first, because the others take seconds
from drs_fast.core.later import later

if TYPE_CHECKING:
    from drs_fast import adapters, ops, samplers
    from drs_fast.adapters.load import load, weights
    from drs_fast.adapters.wrap import wrap
    from drs_fast.core import BadLogits, Batch, OutOfTime, Rng, Stale, Starvation
    from drs_fast.core.compacted import Compacted, Ring
    from drs_fast.doctor.doctor import doctor
    from drs_fast.exporting.export import export
    from drs_fast.exporting.place import Exported
    from drs_fast.gan import GAN
    from drs_fast.gan.where import where
    from drs_fast.ops import backend
    from drs_fast.ratio.calibrate import calibrate
    from drs_fast.ratio.contrastive import contrastive
    from drs_fast.ratio.features import density_ratio
    from drs_fast.ratio.head import keep_train
    from drs_fast.ratio.latent_weights import latent_weights
    from drs_fast.ratio.relativistic import relativistic
    from drs_fast.run.generate import generate, stream
    from drs_fast.run.plan import Plan, plan
    from drs_fast.run.shuffled import ShardShuffle
    from drs_fast.run.streams import SampledGenerator, StreamDataset
    from drs_fast.run.weighed import open_run as open
    from drs_fast.squeeze import Squeeze
    from drs_fast.store import Conflict, Corrupt
    from drs_fast.unweighting.unweight import Unweighted, unweight

# Imported at once, but by the command, which answers --help and status without them.
AT_ONCE = {
    "BadLogits": "core",
    "Batch": "core",
    "Compacted": "core.compacted",
    "Conflict": "store",
    "Corrupt": "store",
    "GAN": "gan",
    "OutOfTime": "core",
    "Ring": "core.compacted",
    "Rng": "core",
    "Squeeze": "squeeze",
    "Stale": "core",
    "Starvation": "core",
    "Unweighted": "unweighting.unweight",
    "backend": "ops",
    "doctor": "doctor.doctor",
    "generate": "run.generate",
    "open": "run.weighed:open_run",
    "ops": "",
    "samplers": "",
    "stream": "run.generate",
    "unweight": "unweighting.unweight",
}

# Imported when they are asked for, because many programs never do.
LATER = {
    "Exported": "exporting.place",
    "Plan": "run.plan",
    "SampledGenerator": "run.streams",
    "ShardShuffle": "run.shuffled",
    "StreamDataset": "run.streams",
    "adapters": "",
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
    "where": "gan.where",
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
    "where",
    "wrap",
]


__getattr__ = later(__name__, {**AT_ONCE, **LATER})


def complete() -> None:
    """Imports all but what is for later."""
    for name in AT_ONCE:
        if name not in globals():
            __getattr__(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *AT_ONCE, *LATER})


if not interrupts.is_command():
    complete()
