"""Used everywhere: named random numbers, batches, the sampler contract, errors and checks."""

from drs_fast.core.batch import Batch, last_row
from drs_fast.core.errors import (
    MAX_INVALID_SHARE,
    BadLogits,
    OutOfTime,
    Stale,
    Starvation,
    check_invalid,
)
from drs_fast.core.rng import Rng
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
