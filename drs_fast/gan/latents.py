"""Where latents come from, and how the generator takes them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from drs_fast.core.arguments import describe, integer, positive

TRUNCATED = "truncated normal"
PRIORS = ("normal", "uniform", "uniform01", TRUNCATED)
Prior = str | Callable[[Tensor], Tensor]


def prior(given: Any, truncation: float | None) -> tuple[Prior, float]:
    """The prior, and the factor of its latents; ValueError unless there is such a prior."""
    if not (callable(given) or (isinstance(given, str) and given in PRIORS)):
        raise ValueError(f"prior must be one of {PRIORS} or a callable, got {given!r}")
    if truncation is None:
        return given, 1.0
    if given not in ("normal", TRUNCATED):
        raise ValueError(
            f"truncation is of a normal prior, got truncation={truncation!r} and prior="
            f"{describe(given)}; leave one of them out"
        )
    try:
        return TRUNCATED, positive("truncation", truncation, 1.0)
    except ValueError as error:
        raise ValueError(
            f"{error}: it multiplies normals truncated to [-2, 2], as for checkpoints of BigGAN"
        ) from None


def shape(
    latent_dim: int | None, latent_shape: Sequence[int] | None
) -> tuple[tuple[int, ...] | None, int]:
    """The shape of a latent, unless it is a vector, and how many numbers it has."""
    if latent_shape is None:
        if latent_dim is None:
            raise ValueError("give latent_dim, such as 128, or latent_shape, such as (100, 1, 1)")
        return None, integer("latent_dim", latent_dim, 1)
    if not isinstance(latent_shape, Sequence) or isinstance(latent_shape, str) or not latent_shape:
        raise ValueError(
            f"latent_shape must be integers such as (100, 1, 1), got {describe(latent_shape)}"
        )
    found = tuple(integer("latent_shape", size, 1) for size in latent_shape)
    if latent_dim is not None and latent_dim != math.prod(found):
        raise ValueError(
            f"latent_shape={found} has {math.prod(found)} numbers, but latent_dim is {latent_dim}; "
            "leave latent_dim out"
        )
    return found, math.prod(found)
