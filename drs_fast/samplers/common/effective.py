"""What weighted samples are worth: the effective sample size, and whether it can be trusted."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast.core.threads import one_thread

TRUSTED = 0.7  # largest tail index at which an effective sample size means something
PLATEAU = 1.0 + 2.0**-10  # weights of rows below log_m may differ by eps, which is no tail
FEWEST = 5  # weights that a tail index is found from


class Effective(NamedTuple):
    """What n weighted samples are worth."""

    size: float  # (sum w)^2 / sum w^2
    above: float  # the share of all weight that rows above log_m have
    largest: float  # the largest weight, as a share of all weight
    # Pareto index of the largest weights: they have finite moments of order below 1 / tail. None:
    # too few different weights to tell.
    tail: float | None

    @property
    def trusted(self) -> bool:
        """Whether more samples would hardly bring larger weights than those seen."""
        return self.tail is None or self.tail <= TRUSTED


def effective(n: int, pieces: Iterable[tuple[Tensor, Tensor]]) -> Effective:
    """What n samples are worth. The pieces: weights, float64 and at least 0; whether above log_m.

    Source: Kish, Survey sampling (1965); Vehtari, Simpson, Gelman, Yao and Gabry, Pareto smoothed
    importance sampling, JMLR 2024, for the number of weights that are the tail.
    """
    sums, kept = [], min(n // 5, math.ceil(3.0 * math.sqrt(n))) + 1
    top = torch.zeros(0, dtype=torch.float64, device="cpu")
    with one_thread():
        for weight, above in pieces:
            largest = float(weight.max()) if len(weight) else 0.0
            if not largest:
                continue
            more = weight[weight > float(top[-1])] if len(top) == kept else weight
            top = _largest(torch.cat([top, _largest(more, kept).cpu()]), kept)
            weight = weight / largest  # its square and its sum would over- or underflow
            found = weight.sum(), weight.square().sum(), weight[above].sum()
            sums.append((largest, *map(float, found)))
        if not sums:
            return Effective(0.0, 0.0, 0.0, None)
        of = [(largest / float(top[0]), *found) for largest, *found in sums]
        total = math.fsum(scale * one for scale, one, _, _ in of)
        squares = math.fsum(scale * scale * one for scale, _, one, _ in of)
        beyond = math.fsum(scale * one for scale, _, _, one in of)
        tail = tail_index(top[:-1] - PLATEAU * top[-1])
        return Effective(total * total / squares, beyond / total, 1.0 / total, tail)


def tail_index(excess: Tensor) -> float | None:
    """The shape k of the generalised Pareto law of excesses over a threshold, (n,) float64.

    Only those above 0 count. A weak prior, worth ten excesses, draws k towards 1/2.

    Source: Zhang and Stephens, A new and efficient estimation method for the generalized Pareto
    distribution, Technometrics 2009; the prior is that of Vehtari et al. (2024).
    """
    x = excess[excess > 0.0].sort().values
    n = len(x)
    if n < FEWEST:
        return None
    x = x / x[-1]  # k has no scale, and tiny or huge numbers would over- or underflow
    quartile = x[int(n / 4 + 0.5) - 1]
    m = 30 + math.isqrt(n)
    j = torch.arange(1, m + 1, dtype=torch.float64, device=x.device)
    theta = 1.0 + (1.0 - torch.sqrt(m / (j - 0.5))) / (3.0 * quartile)
    # k of the paper, with the other sign; a few at a time, because m and n grow with the samples
    k = torch.cat([-torch.log1p(-t[:, None] * x).mean(dim=1) for t in torch.split(theta, 8)])
    profile = n * (torch.log(theta / k) + k - 1.0)
    chance = torch.softmax(profile, dim=0)
    best = float((theta * chance).sum())
    shape = float(torch.log1p(-best * x).mean())
    return (n * shape + 10.0 * 0.5) / (n + 10.0)


def _largest(weight: Tensor, count: int) -> Tensor:
    """The largest weights, in descending order."""
    return torch.topk(weight, min(count, len(weight))).values
