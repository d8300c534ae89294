"""How MH starts, and what SIR returns if a run is cut. Parts of benchmarks.quality.laws."""

import math
from collections.abc import Iterator

import torch

import drs_fast as drs
from drs_fast import ops
from drs_fast.samplers import MH, SIR

Figure = tuple[str, str, float, float, float]

# Deviation of the logits, steps, and shares: of chains that never move, of proposals moved to.
CHAINS = ((3.0, 640, 0.239, 0.0339), (3.0, 100, 0.482, 0.0339), (1.0, 10, 0.0499, 0.4795))
DIGITS = 1.25e-5  # rounding of these figures; the first is rounded ten times as coarsely


def normal_scores(s: float, real: int) -> drs.GAN:
    """x ~ N(0, 1) and data N(s, 1), with quantiles of the data as real samples."""
    q = (torch.arange(real, dtype=torch.float64) + 0.5) / real
    data = (torch.special.ndtri(q) + s).float()[:, None]
    return drs.GAN(lambda z: z, lambda x: s * x[:, 0] - s * s / 2, 1, real=data)


def starts(n: int = 40_000) -> Iterator[Figure]:
    """n chains from n real samples: those that stay return different ones, few of them wanted."""
    for s, k, unmoved, accepted in CHAINS:
        case, batch = f"MH, s = {s:g}, {k} steps", drs.generate(normal_scores(s, n), MH(k), n)
        own = batch.x[batch.ids < 0]
        repeated = 1 - len(own.unique()) / len(own)
        error = math.sqrt(unmoved * (1 - unmoved) / n) + 10 * DIGITS
        yield case, "never moved", unmoved, len(own) / n, error
        yield case, "repeated real samples", 0.0, repeated, 1e-9
        # Moves of a chain are dependent: at worst it always moves, or never.
        error = math.sqrt(accepted * (1 - accepted) / n) + DIGITS
        yield case, "acceptance", accepted, float(batch.stats["acceptance_rate"]), error
        yield case, "mean logit", s * s / 2, float(batch.logit.double().mean()), s / math.sqrt(n)


def cut(pools: int = 10_000, pool: int = 640, s: float = 2.0) -> Iterator[Figure]:
    """Compares the first draw of a pool, all that a run cut there returns, with the others."""
    gan, size = normal_scores(s, 1), 16
    for case, replace in ((f"SIR, {size} of {pool}", True), ("without replacement", False)):
        batch = drs.generate(gan, SIR(pool, size, replace), pools * size)
        drawn = batch.logit.double().view(pools, size)
        for name, place in (("first", 0), ("middle", size // 2), ("last", size - 1)):
            off = drawn[:, place] - drawn.mean(dim=1)
            yield case, f"{name} - all", 0.0, float(off.mean()), _error(off)
        first, others = drawn[::2, 0].sort().values, drawn[1::2].flatten().sort().values
        below = torch.searchsorted(others, first) / others.numel()
        upto = torch.arange(1, len(first) + 1) / len(first)
        distance = torch.maximum((upto - below).abs(), (upto - 1 / len(first) - below).abs())
        # Kolmogorov's law, whose tail is as light as a normal one with this error.
        mean, error = (value / math.sqrt(len(first)) for value in (0.87, 0.36))
        yield case, "KS, first and all", mean, float(distance.max()), error
    # The mean of the law that a draw from a pool has, by its weights; of other rows.
    logit = s * ops.normal(drs.Rng(3), pools * pool, 1).double().view(pools, pool) - s * s / 2
    weighed = (logit.softmax(dim=1) * logit).sum(dim=1)
    single = drs.generate(gan, SIR(pool, 1), pools).logit.double()
    error = math.hypot(_error(weighed), _error(single))
    yield f"SIR, 1 of {pool}", "mean logit", float(weighed.mean()), float(single.mean()), error


def _error(values: torch.Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values))
