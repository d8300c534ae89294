"""The only door to the backends: checks arguments, makes them contiguous, dispatches."""

from drs_fast.ops.decide import (
    accept,
    accept_append,
    accept_compact,
    accept_latents,
    appending,
    probability,
    ring,
    weight,
)
from drs_fast.ops.dispatch import available, backend
from drs_fast.ops.draw import labels, latents, normal, uniform, words
from drs_fast.ops.groups import chain, langevin, select, walk
from drs_fast.ops.order import largest, quantile_gamma

__all__ = [
    "accept",
    "accept_append",
    "accept_compact",
    "accept_latents",
    "appending",
    "available",
    "backend",
    "chain",
    "labels",
    "langevin",
    "largest",
    "latents",
    "normal",
    "probability",
    "quantile_gamma",
    "ring",
    "select",
    "uniform",
    "walk",
    "weight",
    "words",
]
