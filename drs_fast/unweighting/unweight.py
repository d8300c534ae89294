"""Unweights arrays: of rows with log weights, keeps an unweighted sample."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from drs_fast import ops
from drs_fast.core import Rng
from drs_fast.core.arguments import flag, integer, number
from drs_fast.core.compacted import Compacted
from drs_fast.unweighting.arrays import alike, check_rows, log_weights, taken
from drs_fast.unweighting.decision import Decision
from drs_fast.unweighting.maximum import Batches, check, log_maximum

BATCH = 2**17  # rows
MAX_OVERWEIGHT = 1e-3


@dataclass(frozen=True)
class Unweighted:
    """The accepted rows, in row order, each in the kind of array that was given."""

    rows: tuple[Any, ...]  # of every array
    ids: Any  # (count,) int64, the numbers of the rows; JAX has int32 unless its x64 is on
    weight: Any  # (count,) float64, at least 1; None unless weighted
    count: int
    log_max: float  # a row of this log weight, or a higher one, is always accepted


def unweight(
    log_weight: Any,
    *arrays: Any,
    seed: int = 0,
    log_max: float | None = None,
    max_overweight: float | None = None,
    weighted: bool = False,
    n: int | None = None,
) -> Unweighted:
    """Keeps each row with probability min(1, exp(log_weight - log_max)): rejection sampling.

    log_weight: (n,) float16, bfloat16, float32 or float64, up to a constant; -inf never comes out.
    arrays: (n, ...) of any dtype. Each may be a NumPy, PyTorch, JAX or CuPy array, on one device,
    and comes back as the same. Equal log weights and seeds give equal ids, whatever they are in.
    log_max: if None, the smallest at which the weight that lies above it, and is lost, is at most
    `max_overweight` of the total, by default 0.001; 0 means the largest log weight, where nothing
    is lost. ValueError if both are given, because a log_max says what is lost.
    weighted: also return max(1, exp(log_weight - log_max)), with which nothing is lost either.
    n: stop at the n-th accepted row; fewer come back if fewer are accepted.

    ValueError names the first row whose log weight is NaN or +inf.

    Source: von Neumann, Various techniques used in connection with random digits (1951).
    """
    found = log_weights(log_weight)
    for i, array in enumerate(arrays):
        check_rows(f"arrays[{i}]", array, log_weight)
    rng = Rng(seed)
    find = limit(log_max, max_overweight)
    keeps_weights = flag("weighted", weighted)
    capacity = len(found) if n is None else min(len(found), integer("n", n, 0))
    highest = find(lambda: _batches(found))
    decision = Decision(rng.seed, highest)
    kept = ops.accept_compact(
        found,
        rng=rng,
        log_m=decision.log_m,
        gamma=0.0,
        eps=0.0,
        out=Compacted.empty(found[:capacity], ()),
    )
    if int(kept.invalid):
        check(found, 0)
    count = int(kept.count)
    ids = kept.ids[:count].clone() if count < capacity else kept.ids
    weight = decision.weight(kept.logit[:count]) if keeps_weights else None
    return Unweighted(
        tuple(taken(array, ids) for array in arrays),
        alike(log_weight, ids),
        None if weight is None else alike(log_weight, weight),
        count,
        highest,
    )


def limit(log_max: float | None, max_overweight: float | None) -> Callable[[Batches], float]:
    """How log_max is found of log weights; ValueError if these are wrong."""
    if log_max is not None and max_overweight is not None:
        raise ValueError(
            "give log_max or max_overweight, got both; log_max alone says how much is clipped"
        )
    if log_max is not None:
        highest = number("log_max", log_max, -math.inf, math.inf)
        return lambda batches: highest
    share = MAX_OVERWEIGHT if max_overweight is None else max_overweight
    if number("max_overweight", share, 0.0, 1.0) == 1.0:
        raise ValueError("max_overweight must be below 1, got 1; at 1 all weight would be lost")
    return lambda batches: log_maximum(batches, float(share))


def _batches(log_weight: Tensor) -> Iterator[Tensor]:
    return (log_weight[at : at + BATCH] for at in range(0, len(log_weight), BATCH))
