"""Chains that jump and chains that move; part of benchmarks.quality.laws."""

import math
from collections.abc import Iterator

import torch

import drs_fast as drs
from benchmarks.common import oracle
from benchmarks.common.metrics import metrics
from drs_fast import ops
from drs_fast.samplers import ISIR, Ex2MCMC, FlEx2MCMC, isir

Figure = tuple[str, str, float, float, float]
DIGITS = 5e-5  # the figures of the oracle are rounded


def barker(s: float) -> float:
    """How often a stationary chain of two candidates moves: E sigmoid(y - x) of two logits."""
    grid = torch.linspace(-12.0, 12.0, 100_001, dtype=torch.float64)
    weight = (-grid.square() / 2).exp()
    return float((weight * torch.sigmoid(math.sqrt(2) * s * grid - s * s)).sum() / weight.sum())


def two_modes(x: torch.Tensor) -> torch.Tensor:
    """The logit if p_model is N(0, I) and the first coordinate of the data is N(+-2.5, .3^2)."""
    first = x[:, 0]
    modes = [
        math.log(share / 0.3) - ((first - mean) / 0.3).square() / 2
        for share, mean in ((0.3, -2.5), (0.7, 2.5))
    ]
    return torch.logaddexp(*modes) + first.square() / 2


def local_global(n: int = 50_000) -> Iterator[Figure]:
    """i-SIR, Ex2MCMC and FlEx2MCMC: started in the target, and from the generator."""
    for s in (1.0, 2.0):
        for candidates in (2, 10):
            steps = 10
            k = 1 + steps * (candidates - 1)
            logit = s * ops.normal(drs.Rng(3), n * k, 1).view(n, k) - s * s / 2
            logit[:, 0] += s * s  # chains begin in the target
            ends, moves = isir.iterated(logit, drs.Rng(4), candidates)
            end = logit.gather(1, ends[:, None]).double() - s * s / 2
            case, error = f"i-SIR, s = {s:g}, N = {candidates}", s / math.sqrt(n)
            yield case, "mean logit", s * s / 2, float(end.mean()) + s * s / 2, error
            yield (
                case,
                "sd of the logit",
                s,
                float(end.square().mean().sqrt()),
                error / math.sqrt(2),
            )
            if candidates == 2:
                expected, found = barker(s), int(moves) / (n * steps)
                # Steps of a chain are dependent: at worst they count as a single step.
                error = math.sqrt(expected * (1 - expected) / n)
                yield case, "moves", expected, found, error
    batch = drs.generate(oracle.gan(), ISIR(), n)
    found, hq, sd = metrics(batch.x), 0.99966, 0.04993
    error = math.sqrt(hq * (1 - hq) / n) + DIGITS / 4
    yield "i-SIR, 71 steps of 9", "HQ", hq, found.hq / 100, error
    yield "i-SIR, 71 steps of 9", "sd per axis", sd, found.sd, sd / math.sqrt(4 * n) + DIGITS / 4
    gaussian = drs.GAN(lambda z: 2 * z, lambda x: (-1.5 * (x / 2).square()).sum(dim=1), 2)
    modes = drs.GAN(torch.clone, two_modes, 2)
    for sampler in (Ex2MCMC(steps=50), FlEx2MCMC(steps=50), FlEx2MCMC(steps=50, rounds=1)):
        case = type(sampler).__name__
        if case == "FlEx2MCMC":
            case += f", {sampler.rounds} rounds"
        z = drs.generate(gaussian, sampler, n).z.double()
        error = 0.25 * math.sqrt(2 / z.numel())
        yield case, "variance", 0.25, float(z.square().mean()), error
        z = drs.generate(modes, sampler, n).z[:, 0].double()
        share, square = (
            float((z > 0).double().mean()),
            float(((z.abs() - 2.5) / 0.3).square().mean()),
        )
        yield case, "share of a mode", 0.7, share, math.sqrt(0.7 * 0.3 / n)
        yield case, "variance in the modes", 1.0, square, math.sqrt(2 / n)
