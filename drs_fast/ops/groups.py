"""Chains and draws within groups of candidates, and steps of Langevin chains."""

import math

import numpy as np
import torch
from torch import Tensor

from drs_fast.core import Rng
from drs_fast.core.arguments import describe, integer, number
from drs_fast.core.tensors import dense, plain
from drs_fast.ops import checks
from drs_fast.ops.dispatch import call
from drs_fast.ops.library import ROWS, operator

LARGEST = 1e18  # so that step sizes, and noise times a step size, fit in float32


@operator(
    f"(Tensor logit, {ROWS}, Tensor? start) -> Tensor",
    lambda logit, **_: _numbers(logit),
)
def chain(
    logit: Tensor, rng: Rng, *, start: Tensor | None = None, ids: Tensor | None = None
) -> Tensor:
    """Where each group's independence Metropolis-Hastings chain ends, (B,) int64; -1: at its start.

    logit (B, K): group b's chain is offered its K candidates in turn. It moves to a candidate whose
    logit is d higher if d >= 0 or its uniform (stream 3, row b K + k) is below exp(d), but never to
    -inf, NaN or +inf.
    start (B,): logits of the states that the chains start in. Without it, or if it is neither
    finite nor -inf, a chain starts at its first candidate that is.
    ids: (B K,) int64 row numbers, if they are not rng.row, rng.row + 1, ...
    """
    return _walk(logit, rng, start, ids)[0]


@operator(
    f"(Tensor logit, {ROWS}, Tensor? start) -> (Tensor, Tensor)",
    lambda logit, **_: (_numbers(logit), _numbers(logit)),
)
def walk(
    logit: Tensor, rng: Rng, *, start: Tensor | None = None, ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where each group's chain ends, as in `chain`, and how often it moved, both (B,) int64.

    Starting at a candidate counts as a move.
    """
    return _walk(logit, rng, start, ids)


def _walk(
    logit: Tensor, rng: Rng, start: Tensor | None, ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    logit = _groups(logit)
    ids, where = checks.rows(rng, logit.numel(), ids, logit.device)
    if start is not None:
        start = _start(start, logit)
    return call("walk", where)(logit, rng, ids, start)


@operator(
    f"(Tensor logit, {ROWS}, SymInt size, bool replace) -> Tensor",
    lambda logit, size, **_: _numbers(logit, size),
)
def select(
    logit: Tensor, rng: Rng, *, size: int = 1, replace: bool = True, ids: Tensor | None = None
) -> Tensor:
    """Draws candidates of each group in proportion to exp(logit), (B, size) int64; -1: none left.

    logit (B, K); -inf, NaN and +inf are never drawn. Draw j uses the uniform of the group's first
    row (stream 2, draw j). Without replacement, no candidate is drawn twice.
    ids: (B K,) int64 row numbers, if they are not rng.row, rng.row + 1, ...
    """
    logit = _groups(logit)
    ids, where = checks.rows(rng, logit.numel(), ids, logit.device)
    integer("size", size, 1, 2**32)
    if not isinstance(replace, bool):
        raise ValueError(f"replace must be True or False, got {describe(replace)}")
    checks.room("a draw", logit.shape[0], size)
    return call("select", where)(logit, rng, ids, size, replace)


@operator(
    f"(Tensor z, Tensor grad, {ROWS}, SymInt step, float step_size, float noise) -> Tensor",
    lambda z, **_: torch.empty_like(z, memory_format=torch.contiguous_format),
)
def langevin(
    z: Tensor,
    grad: Tensor,
    rng: Rng,
    *,
    step: int,
    step_size: float,
    noise: float = 1.0,
    ids: Tensor | None = None,
) -> Tensor:
    """z + step_size / 2 * grad + noise * sqrt(step_size) * normal, (n, d) float32.

    z, grad (n, d) float32. The normals are those of stream 4 from draw step * ceil(d / 4) on, so
    every step, counted from 0, has its own.
    """
    z, grad = _vectors("z", z), _vectors("grad", grad)
    n, d = z.shape
    if grad.shape != z.shape or grad.device != z.device:
        raise ValueError(f"grad must be ({n}, {d}) on {z.device}, got {describe(grad)}")
    ids, where = checks.rows(rng, n, ids, z.device)
    draws = max(-(-d // 4), 1)
    integer("step", step, 0)
    if (step + 1) * draws > 2**32:
        raise ValueError(f"step must be below {2**32 // draws} for {d} columns, got {step}")
    size = number("step_size", step_size, 0.0, LARGEST)
    scale = number("noise", noise, 0.0, LARGEST) * math.sqrt(size)
    return call("langevin", where)(z, grad, rng, ids, step, _float32(size / 2.0), _float32(scale))


def _numbers(logit: Tensor, *size: int) -> Tensor:
    """Room for that many int64 numbers of each group."""
    return logit.new_empty((logit.shape[0], *size), dtype=torch.int64)


def _groups(logit: Tensor) -> Tensor:
    found = checks.logits(logit, checks.GROUPS)
    if found.ndim != 2 or found.shape[1] == 0:
        fix = "; write logit.view(-1, K)" if found.ndim == 1 else ""
        raise ValueError(f"logit must be (B, K) with K >= 1, got {tuple(found.shape)}{fix}")
    return dense(found)


def _start(start: Tensor, logit: Tensor) -> Tensor:
    """The logits of the starts in float64."""
    found = plain("start", start, "(B,) floating-point logits")
    if (
        found.dtype not in checks.DTYPES
        or found.shape != logit.shape[:1]
        or found.device != logit.device
    ):
        raise ValueError(
            f"start must be ({len(logit)},) floating-point logits on {logit.device}, "
            f"got {describe(start)}"
        )
    return dense(found).double()


def _vectors(name: str, rows: Tensor) -> Tensor:
    found = plain(name, rows, "(n, d) float32")
    if found.dtype != torch.float32 or found.ndim != 2:
        raise ValueError(f"{name} must be (n, d) float32, got {describe(rows)}")
    return dense(found)


def _float32(value: float) -> float:
    """The nearest float32 number."""
    return float(np.float32(value))
