"""The only door to the backends: checks arguments, makes them contiguous, dispatches."""

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from drs_fast import backends, checks
from drs_fast.arguments import describe, integer, number, usable
from drs_fast.backends import reference
from drs_fast.core import GAN, LABEL, LATENT, Compacted, Rng

_forced: ContextVar[str | None] = ContextVar("drs_fast_backend", default=None)


@contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Force one backend within the block (None: the best); RuntimeError if it cannot run."""
    if name is not None and name not in backends.NAMES:
        raise ValueError(f"backend must be one of {backends.NAMES}, got {name!r}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


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
    result: Tensor = _call("uniform", where)(rng, ids, n, stream=stream, draw=draw, device=where)
    return result


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
    ids, where = checks.rows(rng, n, ids, device)
    draws = max(integer("d", d, 0) - 1, 0) // 4
    checks.counter(stream, integer("draw", draw, 0) + draws)
    result: Tensor = _call("words", where)(rng, ids, n, d, stream=stream, draw=draw, device=where)
    return result


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
    ids, where = checks.rows(rng, n, ids, device)
    draws = max(integer("d", d, 0) - 1, 0) // 4
    checks.counter(stream, integer("draw", draw, 0) + draws)
    result: Tensor = _call("normal", where)(rng, ids, n, d, stream=stream, draw=draw, device=where)
    return result


def latents(
    gan: GAN,
    rng: Rng,
    n: int,
    *,
    device: torch.device | str | None = None,
    ids: Tensor | None = None,
) -> Tensor:
    """Latents of n rows under the GAN's prior, (n, latent_dim) float32."""
    where = gan.device if device is None else device
    if gan.prior in ("uniform", "truncated normal"):
        word = words(rng, n, gan.latent_dim, device=where, ids=ids)
        symmetric = (word >> 8).float() * 2.0**-23 - 1.0
        return symmetric if gan.prior == "uniform" else reference.truncated_normal(symmetric)
    z = normal(rng, n, gan.latent_dim, device=where, ids=ids)
    if callable(gan.prior):
        mapped = gan.prior(z)
        if not isinstance(mapped, Tensor) or mapped.shape != z.shape:
            raise ValueError(f"prior must map {tuple(z.shape)} normals to latents of that shape")
        return mapped.float()
    return z


def labels(
    gan: GAN,
    rng: Rng,
    n: int,
    *,
    device: torch.device | str | None = None,
    ids: Tensor | None = None,
) -> Tensor | None:
    """Labels of n rows, uniform over the GAN's classes, (n,) int64; None without classes."""
    if gan.labels is None:
        return None
    u = uniform(rng, n, stream=LABEL, device=gan.device if device is None else device, ids=ids)
    return (u * gan.labels).long()


def probability(
    logit: Tensor,
    *,
    log_m: float | Tensor,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
) -> Tensor:
    """Acceptance probabilities, (n,) float64; 0 where the logit is not finite.

    Source: Azadi et al., Discriminator rejection sampling (2019), equation 8.
    """
    logit = checks.logit(logit)
    result: Tensor = _call("probability", logit.device)(
        logit, *checks.threshold(logit, log_m, gamma, eps)
    )
    return result


def accept(
    logit: Tensor,
    rng: Rng,
    *,
    log_m: float | Tensor,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
    ids: Tensor | None = None,
) -> Tensor:
    """Whether each row is accepted, (n,) bool: its uniform (stream 1) is below its probability.

    logit (n,) of any floating dtype; log_m, gamma: numbers or tensors () or (n,); |gamma| <= 600.
    """
    logit = checks.logit(logit)
    ids, _ = checks.rows(rng, len(logit), ids, logit.device)
    threshold = checks.threshold(logit, log_m, gamma, eps)
    result: Tensor = _call("accept", logit.device)(logit, rng, ids, *threshold)
    return result


def accept_compact(
    logit: Tensor,
    *rows: Tensor,
    rng: Rng,
    log_m: float | Tensor,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
    ids: Tensor | None = None,
    out: Compacted | None = None,
) -> Compacted:
    """Accepted rows of every tensor, their ids and logits, in row order, with the count.

    logit (n,); rows: tensors (n, ...) of any dtype, of which only accepted rows are read.
    ids: (n,) int64 row numbers if they are not rng.row, rng.row + 1, ...
    out: a Compacted to write into, whose capacity then bounds the count; else capacity is n.
    """
    logit = checks.logit(logit)
    n = len(logit)
    ids, where = checks.rows(rng, n, ids, logit.device)
    for i, row in enumerate(rows):
        if not isinstance(row, Tensor) or row.shape[:1] != (n,) or row.device != where:
            raise ValueError(f"rows[{i}] must be ({n}, ...) on {where}, got {describe(row)}")
    threshold = checks.threshold(logit, log_m, gamma, eps)
    if out is None:
        out = checks.empty(logit, rows)
    else:
        checks.check_out(out, logit, [(row.shape[1:], row.dtype) for row in rows])
        checks.apart(out, logit, ids, *rows, *threshold[:2])
    result: Compacted = _call("accept_compact", where)(
        logit, checks.row_major(rows), rng, ids, *threshold, out
    )
    return result


def accept_latents(
    logit: Tensor,
    d: int,
    *,
    rng: Rng,
    log_m: float | Tensor,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
    ids: Tensor | None = None,
    out: Compacted | None = None,
) -> Compacted:
    """accept_compact of the normal latents of these rows, which are regenerated, not read.

    rows[0] is (capacity, d) float32, equal bit for bit to the accepted rows of `normal`.
    """
    logit = checks.logit(logit)
    integer("d", d, 0)
    ids, where = checks.rows(rng, len(logit), ids, logit.device)
    threshold = checks.threshold(logit, log_m, gamma, eps)
    if out is None:
        z = torch.empty((len(logit), d), dtype=torch.float32, device=where)
        out = replace(checks.empty(logit, ()), rows=(z,))
    else:
        checks.check_out(out, logit, [(torch.Size([d]), torch.float32)])
        checks.apart(out, logit, ids, *threshold[:2])
    result: Compacted = _call("accept_latents", where)(logit, rng, ids, *threshold, out)
    return result


def quantile_gamma(logit: Tensor, q: float, *, log_m: float | Tensor, eps: float = 1e-6) -> Tensor:
    """The q-th percentile (0 <= q <= 100) of F over the valid logits, 0-d float64.

    F rises with the logit, so this is F at the max(1, ceil(q n / 100))-th smallest logit.
    Within [-600, 600]; NaN if no logit is valid.
    """
    logit = checks.logit(logit)
    percent = number("q, in percent,", q, 0.0, 100.0)
    if 0.0 < percent < 1.0:
        raise ValueError(f"q is in percent, 0 or 1 to 100, got {q!r}; for the 80th write 80")
    if len(logit) == 0:
        raise ValueError("quantile_gamma needs at least one logit, got an empty tensor")
    middle = _call("order_statistic", logit.device)(logit, percent)
    log_m, _, s = checks.threshold(logit, log_m, 0.0, eps)
    if log_m.ndim:
        raise ValueError(f"log_m must be one number here, got {describe(log_m)}")
    _, q_minus = reference.exponential(log_m - middle.double())
    t = q_minus + s
    f = torch.where(t > 0.0, -reference.logarithm(t), torch.inf)
    return torch.clamp(
        torch.where(torch.isnan(middle), torch.nan, f), -checks.MAX_GAMMA, checks.MAX_GAMMA
    )


def available(device: torch.device | str) -> dict[str, str | None]:
    """Every backend and why it cannot run on the device (None if it can)."""
    where = usable(device)
    return {name: _module(name).refuses(where) for name in backends.NAMES}


def _module(name: str) -> Any:
    return importlib.import_module(f"drs_fast.backends.{name}")


def _call(op: str, device: torch.device) -> Any:
    return _dispatch(op, device.type, _forced.get())


@functools.cache
def _dispatch(op: str, device_type: str, forced: str | None) -> Any:
    reasons = []
    for name in backends.NAMES if forced is None else (forced,):
        reason = _module(name).refuses(torch.device(device_type))
        if reason is None:
            return getattr(_module(name), op)
        reasons.append(f"  {name}: {reason}")
    raise RuntimeError("\n".join([f"no backend can run {op}() on {device_type}:", *reasons]))
