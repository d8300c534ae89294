"""Used everywhere: named random numbers, batches, the sampler contract, errors and checks."""

from typing import TYPE_CHECKING

from drs_fast.core.errors import (
    MAX_INVALID_SHARE,
    BadLogits,
    OutOfTime,
    Stale,
    Starvation,
    check_invalid,
)
from drs_fast.core.later import later
from drs_fast.core.rows import (
    ACCEPT,
    AUDIT,
    BURN_IN_ROW,
    CHAIN,
    FITTING,
    HELD_OUT_ROW,
    HIDDEN,
    LABEL,
    LATENT,
    NOISE,
    PROBE_ROW,
    PROPOSAL,
    REAL,
    RNG_VERSION,
    SELECT,
    SHUFFLE,
    TRAINING_ROW,
)

if TYPE_CHECKING:
    from drs_fast.core.batch import Batch, last_row
    from drs_fast.core.rng import Rng
    from drs_fast.core.sampler import Found, Nothing, Sampler

__all__ = [
    "ACCEPT",
    "AUDIT",
    "BURN_IN_ROW",
    "CHAIN",
    "FITTING",
    "HELD_OUT_ROW",
    "HIDDEN",
    "LABEL",
    "LATENT",
    "MAX_INVALID_SHARE",
    "NOISE",
    "PROBE_ROW",
    "PROPOSAL",
    "REAL",
    "RNG_VERSION",
    "SELECT",
    "SHUFFLE",
    "TRAINING_ROW",
    "BadLogits",
    "Batch",
    "Found",
    "Nothing",
    "OutOfTime",
    "Rng",
    "Sampler",
    "Stale",
    "Starvation",
    "check_invalid",
    "last_row",
]

__getattr__ = later(
    __name__,
    {
        "Batch": "batch",
        "Found": "sampler",
        "Nothing": "sampler",
        "Rng": "rng",
        "Sampler": "sampler",
        "last_row": "batch",
    },
)
