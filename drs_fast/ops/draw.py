"""Random numbers for rows."""

import torch
from torch import Tensor

from drs_fast.backends import reference
from drs_fast.core import LABEL, LATENT, Rng
from drs_fast.core.arguments import integer
from drs_fast.gan import GAN, classes
from drs_fast.ops import checks, prior
from drs_fast.ops.dispatch import call
from drs_fast.ops.library import COUNTER, ROWS, operator

ELEMENTS = f"({ROWS}, SymInt n, SymInt d, {COUNTER}) -> Tensor"


@operator(
    f"({ROWS}, SymInt n, {COUNTER}) -> Tensor",
    lambda n, device, **_: torch.empty(n, dtype=torch.float64, device=device),
)
def uniform(
    rng: Rng,
    n: int,
    *,
    stream: int,
    draw: int = 0,
    device: torch.device | str = "cpu",
    ids: Tensor | None = None,
) -> Tensor:
    """The u of n rows, (n,) float64 in [0, 1), multiples of 2^-53."""
    ids, where = checks.rows(rng, n, ids, device)
    checks.counter(stream, draw)
    checks.room("u", n)
    return call("uniform", where)(rng, ids, n, stream=stream, draw=draw, device=where)


@operator(ELEMENTS, lambda n, d, device, **_: torch.empty((n, d), dtype=torch.int64, device=device))
def words(
    rng: Rng,
    n: int,
    d: int,
    *,
    stream: int = LATENT,
    draw: int = 0,
    device: torch.device | str = "cpu",
    ids: Tensor | None = None,
) -> Tensor:
    """Random words of n rows, (n, d) int64 in [0, 2^32): word j % 4 of draw + j // 4."""
    return _elements("words", rng, n, d, stream, draw, device, ids)


@operator(
    ELEMENTS, lambda n, d, device, **_: torch.empty((n, d), dtype=torch.float32, device=device)
)
def normal(
    rng: Rng,
    n: int,
    d: int,
    *,
    stream: int = LATENT,
    draw: int = 0,
    device: torch.device | str = "cpu",
    ids: Tensor | None = None,
) -> Tensor:
    """Standard normals of n rows, (n, d) float32; element j uses draw + j // 4."""
    return _elements("normal", rng, n, d, stream, draw, device, ids)


def _elements(
    op: str,
    rng: Rng,
    n: int,
    d: int,
    stream: int,
    draw: int,
    device: torch.device | str,
    ids: Tensor | None,
) -> Tensor:
    ids, where = checks.rows(rng, n, ids, device)
    draws = max(integer("d", d, 0) - 1, 0) // 4
    checks.counter(stream, integer("draw", draw, 0) + draws)
    checks.room(op, n, d)
    return call(op, where)(rng, ids, n, d, stream=stream, draw=draw, device=where)


def latents(
    gan: GAN,
    rng: Rng,
    n: int,
    *,
    stream: int = LATENT,
    draw: int = 0,
    device: torch.device | str | None = None,
    ids: Tensor | None = None,
    consecutive: bool = False,
) -> Tensor:
    """Latents of n rows under the GAN's prior, (n, latent_dim) float32; draws as in `normal`.

    consecutive: whether ids are consecutive numbers, so that the host need not look at them.
    """
    where = gan.device if device is None else device
    if gan.prior in ("uniform", "uniform01", "truncated normal"):
        word = words(rng, n, gan.latent_dim, stream=stream, draw=draw, device=where, ids=ids) >> 8
        if gan.prior == "uniform01":
            return word.float() * 2.0**-24
        symmetric = word.float() * 2.0**-23 - 1.0
        if gan.prior == "uniform":
            return symmetric
        z = reference.truncated_normal(symmetric)
        return z if gan.truncation == 1.0 else z * gan.truncation
    z = normal(rng, n, gan.latent_dim, stream=stream, draw=draw, device=where, ids=ids)
    if callable(gan.prior):
        return prior.mapped(gan, z, rng.row, ids, consecutive)
    return z


def labels(
    gan: GAN,
    rng: Rng,
    n: int,
    *,
    device: torch.device | str | None = None,
    ids: Tensor | None = None,
) -> Tensor | None:
    """Labels of n rows in the GAN's proportions, (n,) int64; None if the GAN has no labels."""
    if gan.labels is None:
        return None
    u = uniform(rng, n, stream=LABEL, device=gan.device if device is None else device, ids=ids)
    return classes.drawn(u, gan.labels, gan.label_weights)
