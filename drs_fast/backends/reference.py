"""The definition of every op, in plain PyTorch: slow, device-agnostic, and bit-exact."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast.backends.arithmetic import (
    MASK,
    MAX_GAMMA,
    _circle,
    _radius,
    exponential,
    logarithm,
    normal,
    philox,
    rows_of,
    truncated_normal,
    uniform,
    words,
)
from drs_fast.core import ACCEPT, CHAIN, LATENT, NOISE, SELECT, Rng
from drs_fast.core.compacted import Compacted, Ring
from drs_fast.core.tensors import words_of

__all__ = [
    "MASK",
    "_circle",
    "_radius",
    "exponential",
    "logarithm",
    "normal",
    "philox",
    "rows_of",
    "truncated_normal",
    "uniform",
    "words",
]


def refuses(device: torch.device) -> str | None:
    """Why this backend cannot run on the device; None if it can."""
    return None


Number = float | Tensor  # known on the host, or a tensor: (), or one per row


class Threshold(NamedTuple):
    """What a logit is held against."""

    log_m: Number
    gamma: Number
    s: float  # -expm1(-eps)


def power(gamma: Number) -> Number:
    """c1 = exp(gamma), float64."""
    return _power(gamma) if isinstance(gamma, float) else exponential(gamma)[0]


@functools.lru_cache(maxsize=1024)
def _power(gamma: float) -> float:
    return exponential(torch.tensor(gamma, dtype=torch.float64, device="cpu"))[0].item()


@functools.lru_cache(maxsize=1024)
def stabiliser(eps: float) -> float:
    """s = -expm1(-eps)."""
    return -exponential(torch.tensor(-eps, dtype=torch.float64, device="cpu"))[1].item()


def _terms(logit: Tensor, log_m: Number, c1: Number, s: float) -> tuple[Tensor, Tensor]:
    """p / (1 - p) as numerator and denominator: E and c1 (s + (1 - s) (-q)), at least 0."""
    e, q = exponential(logit.double() - log_m)
    return e, torch.clamp(c1 * (s + (1.0 - s) * (-q)), min=0.0)


def probability(logit: Tensor, threshold: Threshold) -> Tensor:
    """sigmoid(F), written without a logarithm; 0 for logits never accepted. (n,) float64.

    Source: Azadi et al., Discriminator rejection sampling (2019), equation 8.
    """
    log_m, gamma, s = threshold
    numerator, rest = _terms(logit, log_m, power(gamma), s)
    p = numerator / (numerator + rest)
    return torch.where(torch.isfinite(logit), p, 0.0)


def weight(logit: Tensor, threshold: Threshold) -> Tensor:
    """exp(logit - log_m) / probability, written without a division; 0 for logits never accepted."""
    log_m, gamma, s = threshold
    numerator, rest = _terms(logit, log_m, power(gamma), s)
    return torch.where(torch.isfinite(logit), numerator + rest, 0.0)


def decide(logit: Tensor, u: Tensor, log_m: Number, c1: Number, s: float) -> Tensor:
    """u < sigmoid(F), multiplied out; (n,) bool."""
    numerator, rest = _terms(logit, log_m, c1, s)
    return torch.isfinite(logit) & (numerator * (1.0 - u) > u * rest)


def accept(logit: Tensor, rng: Rng, ids: Tensor | None, threshold: Threshold) -> Tensor:
    """The decision with the row's own uniform (stream 1)."""
    u = uniform(rng, ids, len(logit), stream=ACCEPT, draw=0, device=logit.device)
    log_m, gamma, s = threshold
    return decide(logit, u, log_m, power(gamma), s)


def accept_compact(
    logit: Tensor,
    rows: tuple[Tensor, ...],
    rng: Rng,
    ids: Tensor | None,
    threshold: Threshold,
    out: Compacted,
) -> Compacted:
    """Accepted rows, their ids and logits, in row order, written to the front of `out`."""
    kept = accept(logit, rng, ids, threshold).nonzero()[:, 0][: len(out.ids)]
    n = len(kept)
    out.ids[:n] = rows_of(rng, ids, len(logit), logit.device)[kept]
    out.logit[:n] = logit[kept]
    for target, source in zip(out.rows, rows, strict=True):
        words_of(target)[:n] = words_of(source)[kept]
    out.count.fill_(n)
    out.invalid.copy_((torch.isnan(logit) | torch.isposinf(logit)).sum())
    out.above.copy_(((logit.double() > threshold.log_m) & ~torch.isposinf(logit)).sum())
    return out


def accept_latents(
    logit: Tensor, rng: Rng, ids: Tensor | None, threshold: Threshold, out: Compacted
) -> Compacted:
    """Like accept_compact, with the one row tensor made anew from the accepted row numbers."""
    (z,) = out.rows
    accept_compact(logit, (), rng, ids, threshold, replace(out, rows=()))
    n, d = int(out.count), z.shape[1]
    z[:n] = normal(rng, out.ids[:n], n, d, stream=LATENT, draw=0, device=z.device)
    return out


def accept_append(
    logit: Tensor, rows: tuple[Tensor, ...], ids: Tensor | None, threshold: Threshold, ring: Ring
) -> Ring:
    """Like accept_compact for the ring's next rows; appends the accepted ones to the ring."""
    rng = Rng(ring.seed, int(ring.row))
    kept = accept_compact(logit, rows, rng, ids, threshold, Compacted.empty(logit, rows))
    return append(kept, len(logit), ring)


def appending(threshold: Threshold, ring: Ring) -> Callable[[Tensor, tuple[Tensor, ...]], Ring]:
    """accept_append for this threshold and ring."""
    return lambda logit, rows: accept_append(logit, rows, None, threshold, ring)


def append(kept: Compacted, n: int, ring: Ring) -> Ring:
    """Appends the accepted ones of n rows to the ring."""
    start = int(ring.cursor)
    count = max(min(int(kept.count), int(ring.limit) - start), 0)
    slots = torch.arange(start, start + count, device=ring.ids.device) & (len(ring.ids) - 1)
    for target, source in zip(
        (*ring.rows, ring.ids, ring.logit), (*kept.rows, kept.ids, kept.logit), strict=True
    ):
        words_of(target)[slots] = words_of(source)[:count]
    ring.cursor.add_(count)
    ring.row.add_(n)
    ring.invalid.add_(kept.invalid)
    ring.above.add_(kept.above)
    return ring


def largest(logit: Tensor) -> Tensor:
    """The largest valid logit, -inf if there is none; () float64."""
    valid = ~(torch.isnan(logit) | torch.isposinf(logit))
    lowest = torch.tensor([-torch.inf], dtype=torch.float64, device=logit.device)
    # Plus 0.0, because which of 0.0 and -0.0 is the larger depends on their order.
    return torch.cat([torch.where(valid, logit, -torch.inf).double(), lowest]).max() + 0.0


def order_statistic(logit: Tensor, q: float) -> Tensor:
    """The q-th percentile of the valid logits: their max(1, ceil(q n / 100))-th smallest; ()."""
    valid = ~(torch.isnan(logit) | torch.isposinf(logit))
    ordered = torch.where(valid, logit, torch.inf).sort().values
    n = valid.sum()
    # By a tensor, because CUDA multiplies by 1 / 100 where it should divide by a number.
    hundred = torch.full_like(n, 100.0, dtype=torch.float64)
    k = torch.clamp(torch.ceil(q * n.double() / hundred).long(), min=1)
    # An index in square brackets would be read by the host.
    found = ordered.index_select(0, torch.clamp(k - 1, max=len(logit) - 1)[None])[0]
    return torch.where(n > 0, found, torch.nan)


def score(logit: Tensor, log_m: Number, s: float) -> Tensor:
    """F of a logit without gamma, clamped to [-600, 600]; float64.

    Source: Azadi et al., Discriminator rejection sampling (2019), equation 8.
    """
    _, q_minus = exponential(log_m - logit.double())
    t = q_minus + s
    f = torch.where(t > 0.0, -logarithm(t), torch.inf)
    return torch.clamp(torch.where(torch.isnan(logit), torch.nan, f), -MAX_GAMMA, MAX_GAMMA)


def quantile_gamma(logit: Tensor, q: float, threshold: Threshold) -> Tensor:
    """F of the order statistic; () float64."""
    return score(order_statistic(logit, q), threshold.log_m, threshold.s)


def walk(
    logit: Tensor, rng: Rng, ids: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Where each group's independence Metropolis-Hastings chain ends, and its moves; (B,) int64.

    Source: Tierney, Markov chains for exploring posterior distributions (1994), section 2.3.3.
    """
    groups, candidates = logit.shape
    u = uniform(rng, ids, logit.numel(), stream=CHAIN, draw=0, device=logit.device)
    u, wide = u.view(groups, candidates), logit.double()
    current = torch.full_like(wide[:, 0], torch.nan) if start is None else start
    index = torch.full_like(current, -1, dtype=torch.int64)
    count = torch.zeros_like(index)
    for k in range(candidates):
        new = wide[:, k]
        d = new - current
        moves = torch.isfinite(new) & ((d >= 0.0) | (u[:, k] < exponential(d)[0]))
        moves |= _valid(new) & ~_valid(current)
        current = torch.where(moves, new, current)
        index = torch.where(moves, k, index)
        count += moves
    return index, count


def select(logit: Tensor, rng: Rng, ids: Tensor | None, size: int, replace: bool) -> Tensor:
    """`size` draws from each group in proportion to exp(logit); (B, size) int64.

    Source: Rubin, Using the SIR algorithm to simulate posterior distributions (1988).
    """
    groups, candidates = logit.shape
    wide = logit.double()
    top = torch.where(_valid(wide), wide, -torch.inf).amax(dim=1, keepdim=True)
    weight = torch.where(torch.isfinite(wide), exponential(wide - top)[0], 0.0)
    first = rows_of(rng, ids, logit.numel(), logit.device)[::candidates]
    total = _added_up(weight)
    columns = []
    for draw in range(size):
        u = uniform(rng, first, groups, stream=SELECT, draw=draw, device=logit.device)
        index = (total <= (u * total[:, -1])[:, None]).sum(dim=1)
        drawn = index < candidates
        columns.append(torch.where(drawn, index, -1))
        if not replace:
            weight = weight.scatter(1, torch.where(drawn, index, 0)[:, None], 0.0)
            total = _added_up(weight)
    return torch.stack(columns, dim=1)


def _added_up(weight: Tensor) -> Tensor:
    """Running sums of each row, added in order."""
    total = weight.clone()
    for k in range(1, weight.shape[1]):
        total[:, k] += total[:, k - 1]
    return total


def langevin(
    z: Tensor, grad: Tensor, rng: Rng, ids: Tensor | None, step: int, drift: float, scale: float
) -> Tensor:
    """(z + drift * grad) + scale * normal, with float32 drift and scale; (n, d) float32.

    Source: Roberts and Tweedie, Exponential convergence of Langevin distributions (1996).
    """
    n, d = z.shape
    draw = step * -(-d // 4)
    noise = normal(rng, ids, n, d, stream=NOISE, draw=draw, device=z.device)
    return (z + drift * grad) + scale * noise


def _valid(logit: Tensor) -> Tensor:
    """Neither NaN nor +inf."""
    return logit < torch.inf
