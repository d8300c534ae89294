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
LARGEST = 2**18  # distinct log weights that are kept
BINS = 2**18
DEEPEST = 64.0  # nats below the largest; a weight down there is less than a unit
LOWEST = torch.finfo(torch.float64).min
FINEST = 2.0**-60  # weights in a bin of this width are equal
ROUNDING = 2.0**-40  # more than the relative rounding error of a sum


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

    This takes one pass if that k is among the LARGEST distinct weights. If not, the bins of the
    pass say near which weight it is, and the next one keeps the largest from there on.

    Source: Danziger et al., Accelerating Monte Carlo event generation (2022), section 2.
    """
    top, row, width = -math.inf, 0, DEEPEST / BINS
    largest, bins = _Largest(), _Bins(width)
    for batch in batches():
        check(batch, row)
        top, row = max(top, float(ops.largest(batch))), row + len(batch)
        if max_overweight > 0.0:
            largest.add(batch)
            bins.rise_to(top)
            bins.add(batch)
    if math.isinf(top) or max_overweight == 0.0:
        return top
    total = math.fsum(bins.sums(top).tolist())
    tolerated = max_overweight * total
    # What M is at least, with k = n. If hardly anything is left, the differences below are rounding
    # errors, and may be negative.
    least = (1.0 - max_overweight) * total / int(bins.counts.sum()) * (1.0 - ROUNDING)
    k, above = 0, 0.0  # rows that earlier passes put above, and the sum of their weights
    while True:
        counts, sums = largest.cumulative(top)
        maximum = (above + sums - tolerated) / (k + counts)
        best = int(maximum.argmax())
        if best + 1 < len(maximum) or not largest.full:
            return top + float(reference.logarithm(maximum[best].clamp(min=least)))
        counts, sums = bins.counts.cumsum(0), bins.sums(top)
        maximum = (above + sums.cumsum(0) - tolerated) / (k + counts).clamp(min=1)
        best = int(maximum.argmax())  # the last row is in this bin or the next
        if width <= max(FINEST, math.ulp(top)):
            return top + float(reference.logarithm(maximum[best].clamp(min=least)))
        k += int(counts[best] - bins.counts[best])
        above = math.fsum([above, *sums[:best].tolist()])
        ceiling, width = bins.ceiling - best * width, 2.0 * width / BINS
        largest, bins = _Largest(), _Bins(width, ceiling)
        for batch in batches():
            below = batch[batch.double() < ceiling]
            largest.add(below)
            bins.add(below)


class _Largest:
    """The LARGEST largest of distinct log weights, and how many rows have each."""

    def __init__(self) -> None:
        self._values = torch.empty(0, dtype=torch.float64, device="cpu")  # descending
        self._counts = torch.empty(0, dtype=torch.int64, device="cpu")
        self._new: list[Tensor] = []
        self._least = LOWEST  # smaller ones are not among the largest

    def add(self, log_weight: Tensor) -> None:
        wide = log_weight.double()
        self._new.append(wide[wide >= self._least])
        if sum(map(len, self._new)) >= LARGEST:
            self._merge()

    @property
    def full(self) -> bool:
        """Whether there may be smaller ones."""
        return len(self._values) == LARGEST

    def cumulative(self, top: float) -> tuple[Tensor, Tensor]:
        """How many rows have each log weight or a larger one, and the sum of their weights.

        The unit of the sums is the weight at the top.
        """
        self._merge()
        counts, values = self._counts.cpu(), self._values.cpu()
        weight = (ops.probability(values, log_m=top, gamma=0.0, eps=0.0) * UNIT).long()
        sums = torch.stack([counts * part for part in _halves(weight)]).cumsum(1)
        return counts.cumsum(0), _joined(sums)

    def _merge(self) -> None:
        if not self._new:
            return
        new = torch.cat(self._new)
        every, order = torch.cat([self._values.to(new.device), new]).sort(descending=True)
        rows = torch.cat([self._counts.to(new.device), torch.ones_like(new, dtype=torch.int64)])
        values, which = torch.unique_consecutive(every, return_inverse=True)
        counts = rows.new_zeros(len(values)).index_add_(0, which, rows[order])
        self._values, self._counts, self._new = values[:LARGEST], counts[:LARGEST], []
        if self.full:
            self._least = float(self._values[-1])


class _Bins:
    """Number of rows, and sums of weights, in bins of log weights from a ceiling downwards."""

    def __init__(self, width: float, ceiling: float = -math.inf) -> None:
        self._width, self.ceiling = width, ceiling  # which rises to hold the largest
        # And in one more bin, for all that is deeper.
        self._sums = torch.zeros(3, BINS + 1, dtype=torch.int64, device="cpu")

    @property
    def counts(self) -> Tensor:
        return self._sums[0, :BINS].cpu()

    def rise_to(self, top: float) -> None:
        """Moves the ceiling above this log weight, unless it is there already."""
        if top < self.ceiling or math.isinf(top):
            return
        ceiling = top - top % self._width + self._width
        moved = round(min(BINS + 1, (ceiling - self.ceiling) / self._width))
        self._sums = self._sums.roll(moved, dims=1)
        self._sums[:, :moved] = 0
        self.ceiling = ceiling

    def add(self, log_weight: Tensor) -> None:
        """log_weight: of rows below the ceiling."""
        wide, width = log_weight.double().clamp(min=LOWEST), self._width
        above_edge = torch.remainder(wide, width)
        bins = ((self.ceiling - (wide - above_edge)) / width - 1.0).round().clamp(0, BINS).long()
        # In units of the largest weight in the bin.
        weight = (ops.probability(above_edge, log_m=width, gamma=0.0, eps=0.0) * UNIT).long()
        self._sums = self._sums.to(bins.device)
        for sums, part in zip(self._sums, (torch.ones_like(weight), *_halves(weight)), strict=True):
            sums.index_add_(0, bins, part)

    def sums(self, top: float) -> Tensor:
        """The sum of each bin; their unit is the weight at the top."""
        sums = self._sums[:, :BINS].cpu()
        all_sums = torch.zeros(BINS, dtype=torch.float64, device="cpu")
        filled = sums[0].nonzero()[:, 0]
        largest = reference.exponential((self.ceiling - top) - self._width * filled.double())[0]
        all_sums[filled] = _joined(sums[1:, filled]) * largest
        return all_sums


def _halves(weight: Tensor) -> tuple[Tensor, Tensor]:
    return weight >> HALF, weight & (2**HALF - 1)


def _joined(halves: Tensor) -> Tensor:
    """The numbers (n,) float64 whose halves (2, n) these are, in units of UNIT."""
    return (halves[0].double() * 2.0**HALF + halves[1].double()) / UNIT
