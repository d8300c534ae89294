"""The maximum weight: rows above it are clipped, and what is clipped is small.

Nothing here depends on how the rows are cut into batches, on the device or on its threads, because
weights are added as integers.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.backends import reference

Batches = Callable[[], Iterator[Tensor]]  # log weights in row order; every call starts anew

UNIT = 2.0**62  # a weight is an integer, in units of the largest over 2^62
HALF = 31  # bits; the halves of such integers are added apart, so that no sum overflows
BINS = 2**18
DEEPEST = 64.0  # nats below the largest; a weight down there is less than a unit
FINEST = 2.0**-60  # weights in a bin of this width are equal


def check(log_weight: Tensor, row: int) -> None:
    """ValueError if a log weight is NaN or +inf. row: the number of the first."""
    wrong = ~(log_weight < torch.inf)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"log weights must be numbers, or -inf for a weight of 0, got {log_weight[i].item()} "
            f"in row {row + i}; drop such rows, or look for an overflow"
        )


def log_maximum(batches: Batches, max_overweight: float) -> float:
    """The log of the smallest M for which sum(max(0, w - M)) <= max_overweight * sum(w).

    -inf if no weight is positive. The k largest weights exceed M by C_k - k M, where C_k is their
    sum, and other rows add nothing to that. So M is the largest of (C_k - max_overweight C_n) / k,
    which rises with k up to M's own k and falls from there on.

    Source: Danziger et al., Accelerating Monte Carlo event generation (2022), section 2.
    """
    top, row = -math.inf, 0
    for batch in batches():
        check(batch, row)
        top, row = max(top, float(ops.largest(batch))), row + len(batch)
    if math.isinf(top) or max_overweight == 0.0:
        return top
    low, width = 0.0, DEEPEST / BINS
    above = torch.zeros(3, 1, dtype=torch.int64, device="cpu")
    tolerated = -1.0
    while True:
        counts = _binned(batches, top, low, width)
        k, upper, lower = torch.cat([above, counts], dim=1).cumsum(dim=1)
        total = upper.double() * 2.0**HALF + lower.double()
        if tolerated < 0.0:
            tolerated = max_overweight * float(total[-1])
        maximum = torch.where(k > 0, (total - tolerated) / k, -torch.inf)
        best = max(1, int(maximum.argmax()))  # the best is in the bin before or the one after
        if width <= FINEST or int(counts[0, best - 1 : best + 1].max()) <= 1:
            return top + float(reference.logarithm(maximum[best] / UNIT))
        above = torch.stack([k, upper, lower])[:, best - 1 : best]
        low, width = low + (best - 1) * width, 2.0 * width / BINS


def _binned(batches: Batches, top: float, low: float, width: float) -> Tensor:
    """Number of rows, and upper and lower halves of their weights, per bin; (3, BINS) int64.

    The first bin begins `low` nats below the top.
    """
    sums = torch.zeros(3, BINS, dtype=torch.int64, device="cpu")
    for batch in batches():
        depth = (top - batch.double()) - low
        inside = (depth >= 0.0) & (depth < BINS * width)
        bins = (depth[inside] / width).long()
        share = ops.probability(batch[inside], log_m=top, gamma=0.0, eps=0.0)
        weight = (share * UNIT).long()
        parts = torch.stack([torch.ones_like(bins), weight >> HALF, weight & (2**HALF - 1)])
        sums = sums.to(batch.device).index_add_(1, bins, parts)
    return sums.cpu()
