"""What samplers are expected to give, from the logits of a pilot.

Let r = exp(logit), up to a constant. The data's law has the density r / E r relative to p_model.
A sampler that keeps a row with a probability P, a function of its logit, has P / E P. So

    TV = E (P / E P - r / E r)+
    KL(samples || data) = E P log(P / r) / E P - log E P + log E r

Only E r is dangerous, because it may rest on rows so rare that the pilot has none. So what it has
above the largest ratio of a burn-in comes from a generalised Pareto law of the largest ratios. The
ends of E r give the ends of each interval, and the error of all that is bounded is added. No
interval can tell of rows that are rarer than the pilot is long and unlike all that it has.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, SELECT, Rng
from drs_fast.samplers.common.burn_in import valid
from drs_fast.samplers.common.effective import TRUSTED, tail_index
from drs_fast.samplers.common.intervals import ABOVE, gamma_ends

EVENTS = 3.0  # times the mean weight of rows above ratio 1, for one further row
UNSEEN = -math.log(0.025)  # most events that may be expected, at 97.5 %, where none was seen
# Quantile of a standard normal, two-sided 99 %: sums of skewed terms are not quite normal.
WIDE = 2.5758293035489004
HIGHEST = 300.0  # nats above log_m; anything higher counts as this
FEWEST = 100  # rows with a ratio above 0, to promise anything
TINY = 1e-140  # its square is above 0
POOLS = 256
LONGEST = 1e7  # rows of a run, for what weights are worth in it
STEPS = 2000


class Range(NamedTuple):
    """An estimate, and the ends of a 95 % interval."""

    value: float
    low: float
    high: float


class Expected(NamedTuple):
    """What a sampler is expected to give; None where there is no estimate.

    acceptance: samples per row.
    tv: total variation distance between the law of the samples and the data's; high is 1 where
        nothing can be promised.
    kl: KL(samples || data) in nats; high is inf where nothing can be promised.
    worth: effective samples per call in a run of 10 million rows, weighted where the sampler has
        weights; low is 0 where nothing can be promised.
    calls: of G and D per row.
    cost: work per row, and search: work before the first; in rows that G and D see.
    remark: why there is nothing to expect.
    gain: of a bound that was not searched for: how many times as fast it is at most.
    """

    acceptance: float
    tv: Range | None = None
    kl: Range | None = None
    worth: Range | None = None
    calls: float = 1.0
    cost: float = 1.0
    search: float = 0.0
    remark: str = ""
    gain: float = 0.0

    @property
    def promised(self) -> bool:
        """Whether an interval tells anything."""
        return self.sure > 0.0

    @property
    def sure(self) -> float:
        """Effective samples per call that can be promised."""
        return 0.0 if self.worth is None else self.worth.low


class Pilot:
    """Logits of a burn-in, and the ratios of other rows, from which no threshold is found.

    seen: the burn-in's logits.
    logit: (n + 1,), in ascending order, and the burn-in's largest, whose ratio is 1.
    tail: Pareto index of the largest ratios; None if they hardly differ.
    mean: the mean ratio. square: the most that ratios above 1 may add to the mean squared ratio.
    """

    def __init__(self, seen: Tensor, logit: Tensor) -> None:
        self.seen, log_m = seen, float(ops.largest(seen))
        rows = valid(logit).double().sort().values
        self.logit = torch.cat([rows, rows.new_tensor([log_m])])
        self.log_ratio = (self.logit - log_m).clamp(max=HIGHEST)
        self.ratio = self.log_ratio.exp()
        self.body = self.ratio.clamp(max=1.0)
        self.n = len(rows)
        self.judged = int((self.ratio[:-1] > 0.0).sum())  # rows that are not surely rejected
        count = min(self.judged // 5, math.ceil(3.0 * math.sqrt(self.judged)))
        least, excess = self.ratio[-count - 2], self.ratio[-count - 1 : -1] - self.ratio[-count - 2]
        self.tail = tail_index(excess)
        self.mean = self._mean(float(least), excess[excess > 0.0])

    @property
    def promises(self) -> bool:
        enough = self.judged >= FEWEST
        return enough and (self.tail is None or self.tail <= TRUSTED)

    def _mean(self, least: float, excess: Tensor) -> Range:
        """The mean ratio, where only what lies above ratio 1 is uncertain."""
        above = (self.ratio[:-1] - 1.0).clamp(min=0.0) / self.n
        total, variance, body = float(above.sum()), float(above.square().sum()), mean(self.body)
        low, high = gamma_ends(total, variance, EVENTS * variance / total) if total else (0.0, 0.0)
        self.square = float((self.ratio[:-1] ** 2 - 1.0).clamp(min=0.0).mean())
        if self.tail is not None:
            k = self.tail + ABOVE * (1.0 + self.tail) / math.sqrt(len(excess))
            share, median = len(excess) / self.n, float(excess.median())
            high = max(high, share * _beyond(k, median, 1.0 - least))
            self.square = max(self.square, _square_beyond(k, median, least, share))
        return Range(body + total, body + low, body + high)

    def range(self, at: Callable[[float], tuple[float, Tensor]], most: float) -> Range:
        """The interval of a number that is at most `most`, and rises with the mean ratio.

        at: gives the number at a mean ratio, and what each row adds to its error. One further row
            at ratio 1 is allowed for.
        """
        value, noise = at(self.mean.value)
        value = max(0.0, value)  # after rounding
        error = float(noise[:-1].std()) / math.sqrt(self.n)
        event = abs(float(noise[-1]) - mean(noise)) / self.n
        low = max(0.0, at(self.mean.low)[0] - WIDE * error)
        if not self.promises or self.mean.high == math.inf:
            return Range(value, low, most)
        high = at(self.mean.high)[0] + event + WIDE * math.hypot(error, event)
        return Range(value, low, min(most, max(value, high)))


def mean(values: Tensor) -> float:
    """The mean over the rows of a pilot, without the last, which is no row of it."""
    return float(values[:-1].mean())


def rejection(pilot: Pilot, p: Tensor) -> Expected:
    """What acceptance with probabilities p, (n + 1,) float64, gives."""
    return Expected(mean(p), _distance(pilot, p), _divergence(pilot, p), _worth(pilot, p))


def resampling(pilot: Pilot, rng: Rng, pool: int, size: int) -> Expected:
    """What `size` draws from every `pool` rows give, by weights and with replacement.

    Pools are drawn from the pilot. A row of ratio r is chosen with a probability of r / (r + S), if
    the others of its pool have the sum S.
    """
    u = ops.uniform(rng.at(BURN_IN_ROW), POOLS * pool, stream=SELECT, device=pilot.ratio.device)
    rows = pilot.ratio[:-1][(u * pilot.n).long().view(POOLS, pool)]
    rows = rows.clamp(min=TINY)
    others, p = rows[:, 1:].sum(dim=1), torch.zeros_like(pilot.ratio)
    for rest in others:
        p += pilot.ratio / (pilot.ratio + rest) / POOLS
    alike = rows.square().sum(dim=1) / rows.sum(dim=1).square()
    same, error = float(alike.mean()), WIDE * float(alike.std()) / math.sqrt(POOLS)
    # What the law may have on rows above all of the pilot: no more than the share of pools with
    # one, and no more than the bound r E 1 / S of a row's probability gives.
    share = 1.0 - pilot.mean.value / pilot.mean.high
    share *= pilot.mean.value * float((pool / others).mean())
    unseen = min(1.0, UNSEEN * pool / pilot.n, share)
    tv = _distance(pilot, p)
    tv = tv._replace(high=min(1.0, tv.high + unseen))
    low, value, high = (
        1.0 / (1.0 / size + max(1.0 / pool, one)) / pool
        for one in (same + error + unseen, same, same - error)
    )
    worth = Range(value, low if pilot.promises else 0.0, high)
    return Expected(size / pool, tv, _divergence(pilot, p), worth)


def chain(pilot: Pilot, length: int, real: bool) -> Expected:
    """What the ends of independence Metropolis-Hastings chains of `length` rows give.

    real: they start at real samples and follow the data's law; those that never move are worth
        nothing, because they return their real samples. Otherwise they start at their first row,
        and tv is a bound: the chance that such a chain and one of the data's law, with the same
        proposals and the same uniforms, have not met. They meet where the one at the higher ratio
        moves, because the other then moves too.
    """
    ratio, n = pilot.ratio, pilot.n
    below = torch.searchsorted(ratio[:-1], ratio)
    sums = torch.cat([ratio.new_zeros(1), ratio[:-1].cumsum(0)])
    moves = ((n - below) + torch.where(below > 0, sums[below] / ratio, 0.0)) / n
    stays = (1.0 - moves).clamp(min=0.0) ** (length if real else length - 1)
    if real:
        still = _of_data(pilot, stays)
        new = Range(*((1.0 - share) / length for share in (still.value, still.high, still.value)))
        return Expected(1.0 / length, Range(0.0, 0.0, 0.0), Range(0.0, 0.0, 0.0), new)
    above = torch.cat([stays[:-1].flip(0).cumsum(0).flip(0), stays.new_zeros(1)])
    apart = (below * stays + above[below]) / n  # the other chain starts at a row of the model
    bound = _of_data(pilot, apart)
    worth = (1.0 - bound.high) / length, 1.0 / length
    return Expected(1.0 / length, bound._replace(low=0.0), None, Range(worth[1], *worth))


def _of_data(pilot: Pilot, chance: Tensor) -> Range:
    """The mean over the data of a chance that is nearly 1 where ratios are large."""
    gone = pilot.ratio * (1.0 - chance)

    def at(rho: float) -> tuple[float, Tensor]:
        share = mean(gone) / rho
        return 1.0 - share, (pilot.body * share - gone) / rho

    return pilot.range(at, 1.0)


def _distance(pilot: Pilot, p: Tensor) -> Range:
    """The total variation distance of the law P / E P."""
    own = p / mean(p)

    def at(rho: float) -> tuple[float, Tensor]:
        data = pilot.ratio / rho
        gap, more = (own - data).clamp(min=0.0), own > data
        return mean(gap), gap - own * mean(own * more) + pilot.body / rho * mean(data * more)

    return pilot.range(at, 1.0)


def _divergence(pilot: Pilot, p: Tensor) -> Range:
    """KL(samples || data) of the law P / E P."""
    inner, share = torch.where(p > 0.0, p * (p.log() - pilot.log_ratio), 0.0), mean(p)
    part = mean(inner) / share

    def at(rho: float) -> tuple[float, Tensor]:
        noise = (inner - p * (part + 1.0)) / share + pilot.body / rho
        return part + math.log(rho / share), noise

    return pilot.range(at, math.inf)


def _worth(pilot: Pilot, p: Tensor) -> Range:
    """(E r)^2 / E(r^2 / P): effective samples per row, of samples with weights r / P.

    The interval is that of the inverse, which rises with what the tail adds to E(r^2 / P).
    """
    chance = torch.where(p > 0.0, p, 1.0)
    seen, square = mean(pilot.ratio.square() / chance), pilot.body.square() / chance
    rho, body = pilot.mean.value, mean(square)
    noise = (square - 2.0 * pilot.body * seen / rho) / rho**2
    error = float(noise[:-1].std()) / math.sqrt(pilot.n)
    event = abs(float(noise[-1]) - mean(noise)) / pilot.n
    value = rho**2 / seen
    high = min(1.0, 1.0 / max(1.0, body / rho**2 - WIDE * error))
    if not pilot.promises:
        return Range(value, 0.0, max(value, high))
    most = max(seen, body + pilot.square / float(chance[-1])) / rho**2
    most += event + WIDE * math.hypot(error, event)
    return Range(value, min(value, 1.0 / most), max(value, high))


def _scale(k: float, median: float) -> float:
    """The scale of a generalised Pareto law with shape k and this median."""
    return median / (math.expm1(k * math.log(2.0)) / k if k else math.log(2.0))


def _beyond(k: float, median: float, distance: float) -> float:
    """E(x - distance)+ of a generalised Pareto law with shape k and this median."""
    if k >= 1.0:
        return math.inf
    scale = _scale(k, median)
    if distance <= 0.0:
        return scale / (1.0 - k) - distance
    reach = max(0.0, 1.0 + k * distance / scale)
    survivors = (reach ** (-1.0 / k) if reach else 0.0) if k else math.exp(-distance / scale)
    return survivors * reach * scale / (1.0 - k)


def _square_beyond(k: float, median: float, least: float, share: float) -> float:
    """E(r^2 - 1)+ up to the largest of LONGEST rows, if a share has r - least of such a law.

    It is the integral of 2 r P(more than r). Without an end it would often be infinite.
    """
    scale, rare = _scale(k, median), math.log(share * LONGEST)
    end = least + scale * (math.expm1(k * rare) / k if k else rare)
    if end <= 1.0:
        return 0.0
    r = torch.linspace(0.0, math.log(end), STEPS, dtype=torch.float64).exp()
    reach = 1.0 + k * (r - least) / scale
    survivors = reach ** (-1.0 / k) if k else torch.exp(-(r - least) / scale)
    return share * float(torch.trapezoid(2.0 * r * survivors, r))
