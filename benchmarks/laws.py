"""The samplers' laws on models where they are known exactly, with many samples.

python -m benchmarks.laws [--part ratio|scores|gaussian|local_global] [--json FILE]

ratio: p_data and p_model are mixtures (benchmarks/oracle.py). scores: logits are N(-s^2/2, s^2)
under the generator, so N(s^2/2, s^2) under the data. gaussian: G(z) = a z and normal data.
local_global: chains that jump, on models of these kinds and on two modes. Every figure is shown
with what it should be, and by how many standard errors it is off; 4.5 of them happen once in 10^5
by chance.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch

import drs_fast as drs
from benchmarks import oracle
from benchmarks.metrics import metrics
from benchmarks.timing import describe, environment
from drs_fast import ops
from drs_fast.core import Sampler
from drs_fast.samplers import DDLS, DRS, ISIR, MH, OBRS, SIR, DGFlow, Ex2MCMC, FlEx2MCMC, isir

LIMIT = 4.5
Figure = tuple[str, str, float, float, float]  # case, figure, expected, found, standard error


# Sampler, samples, and what it should give: acceptance, HQ and sd; independent quadrature.
LOG_M = oracle.LOG_M
RATIO: dict[str, tuple[Sampler, int, float | None, float, float]] = {
    "DRS gamma 0": (DRS(gamma=0.0, eps=0.0, log_m=LOG_M), 10**6, 0.49082, 0.99966, 0.04993),
    "DRS gamma 0, eps .1": (DRS(gamma=0.0, eps=0.1, log_m=LOG_M), 10**6, 0.45793, 0.99964, 0.05035),
    "DRS gamma -2": (DRS(gamma=-2.0, eps=0.0, log_m=LOG_M), 10**6, 0.6636, 0.9983, 0.0574),
    "DRS gamma 3": (DRS(gamma=3.0, eps=0.0, log_m=LOG_M), 10**6, 0.1407, 0.9999, 0.0353),
    "DRS p80": (DRS(gamma=1.8226, log_m=LOG_M), 10**6, 0.26020, 0.99990, 0.04086),
    "DRS p95": (DRS(gamma=3.3943, log_m=LOG_M), 10**6, 0.11092, 0.99995, 0.03360),
    "OBRS .25": (OBRS(0.25, burn_in=10**6), 10**6, 0.49082, 0.99966, 0.04993),
    "OBRS .5": (OBRS(0.5, burn_in=10**6), 10**6, 0.5, 0.99966, 0.04995),
    "OBRS .7": (OBRS(0.7, burn_in=10**6), 10**6, 0.7, 0.99928, 0.05769),
    "OBRS .8": (OBRS(0.8, burn_in=10**6), 10**6, 0.8, 0.9187, 0.06209),
    "OBRS .9": (OBRS(0.9, burn_in=10**6), 10**6, 0.9, 0.8167, 0.06209),
    "MH, 640 steps": (MH(), 10**5, None, 0.99966, 0.04993),
    "SIR, 64 of 640": (SIR(), 10**6, None, 0.99966, 0.04993),
}
DIGITS = 5e-5  # the tables above are rounded


def ratio() -> Iterator[Figure]:
    """Notes of the model: benchmarks/oracle.py."""
    gan = oracle.gan()
    for case, (sampler, n, acceptance, hq, sd) in RATIO.items():
        batch = drs.generate(gan, sampler, n)
        found, tried = metrics(batch.x), float(batch.stats["proposals"])
        # Resampled rows repeat: each of SIR's 64 counts for about 0.93.
        own = n if sampler.group == 1 else n / 2
        if acceptance is not None:
            noise = 1 / tried + (1 / getattr(sampler, "burn_in", tried) if "OBRS" in case else 0)
            error = math.sqrt(acceptance * (1 - acceptance) * noise) + DIGITS
            yield case, "acceptance", acceptance, n / tried, error
        yield case, "HQ", hq, found.hq / 100, math.sqrt(hq * (1 - hq) / own) + DIGITS / 4
        yield case, "sd per axis", sd, found.sd, sd / math.sqrt(4 * own) + DIGITS / 4


ACCEPTANCE = {0.5: 0.7237, 1.0: 0.4795, 2.0: 0.1573, 3.0: 0.0339}
UNMOVED = {
    (1.0, 10): 0.0499, (2.0, 10): 0.421, (2.0, 100): 0.0905, (2.0, 640): 0.0138,
    (3.0, 10): 0.807, (3.0, 100): 0.482, (3.0, 640): 0.239,
}  # fmt: skip
MEANS = {10: (0.90, 0.66), 20: (1.18, 1.06), 100: (1.68, 1.66), 640: (1.93, 1.94)}


def scores(chains: int = 10**5) -> Iterator[Figure]:
    """Independence Metropolis-Hastings on logits alone."""

    def logits(s: float, n: int, row: int, shift: float = -0.5) -> torch.Tensor:
        return s * ops.normal(drs.Rng(1, row), n, 1)[:, 0] + shift * s * s

    def ends(s: float, k: int, real: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Last logits of chains, and whether they moved."""
        found, part = [], max(1, 10**7 // k)
        for first in range(0, chains, part):
            n = min(part, chains - first)
            rows = drs.Rng(2, first * k)
            proposal = logits(s, n * k, 2**50 + first * k).view(n, k)
            start = logits(s, n, 2**55 + first, 0.5 if real else -0.5)
            last = ops.chain(proposal, rows, start=start)
            moved = last >= 0
            taken = proposal.gather(1, last.clamp(min=0)[:, None])[:, 0]
            found.append((torch.where(moved, taken, start), moved))
        end, moved = map(torch.cat, zip(*found, strict=True))
        return end.double(), moved

    for s, expected in ACCEPTANCE.items():
        _, moved = ends(s, 1, True)
        found = float(moved.double().mean())
        error = math.sqrt(expected * (1 - expected) / chains) + DIGITS / 4
        yield f"MH, s = {s:g}", "acceptance", expected, found, error
    for (s, k), expected in UNMOVED.items():
        _, moved = ends(s, k, True)
        found = float((~moved).double().mean())
        error = math.sqrt(expected * (1 - expected) / chains) + 10 * DIGITS / 4
        yield f"MH, s = {s:g}, {k} steps", "never moved", expected, found, error
    for k, (dropped, fake) in MEANS.items():
        end, moved = ends(2.0, k, True)
        case, error = f"MH, s = 2, {k} steps", 2 / math.sqrt(chains) + 0.0025
        yield case, "mean logit", 2.0, float(end.mean()), 2 / math.sqrt(chains)
        yield case, "mean, unmoved dropped", dropped, float(end[moved].mean()), error
        yield case, "mean, fake start", fake, float(ends(2.0, k, False)[0].mean()), error


ULA = {0.1: 0.2778, 0.2: 0.3125}
MALA = {0.1: 0.980, 0.2: 0.943}
UNDERDAMPED = {0.001: 0.2499, 0.005: 0.251, 0.01: 0.2527}
FLOW = {1: 0.492, 2: 0.243, 5: 0.032, 25: 0.0039}


def gaussian(n: int = 10**6) -> Iterator[Figure]:
    """G(z) = 2 z, data N(0, 1): the latents should have variance 1/4."""
    a = 2.0
    gan = drs.GAN(lambda z: a * z, lambda x: (-1.5 * (x / a).square())[:, 0], 1)

    def variance(case: str, sampler: Sampler, expected: float, digits: float = DIGITS) -> Figure:
        z = drs.generate(gan, sampler, n, batch_size=2**16).z.double()
        error = expected * math.sqrt(2 / n) + digits / 2
        return case, "variance", expected, float(z.square().mean()), error

    for size, expected in ULA.items():
        yield variance(f"ULA, step {size:g}", DDLS("ula", 100, size, burn_in=256), expected)
    for size, expected in MALA.items():
        sampler = DDLS("mala", 100, size, burn_in=256)
        yield variance(f"MALA, step {size:g}", sampler, 0.25)
        batch = drs.generate(gan, sampler, n, batch_size=2**16)
        found = float(batch.stats["accepted_steps"]) / (100 * float(batch.stats["calls"]))
        # The first steps, which begin at the prior, are not stationary.
        yield f"MALA, step {size:g}", "acceptance", expected, found, 0.001
    for size, expected in UNDERDAMPED.items():
        sampler = DDLS("underdamped", 400, 2 * size, friction=0.1, burn_in=256)
        yield variance(f"SGHMC, eta {size:g}", sampler, expected, 10 * DIGITS)
    for steps, expected in FLOW.items():
        sampler = DGFlow(steps, burn_in=256)
        yield variance(f"DGflow, {steps} steps", sampler, expected, 10 * DIGITS)


def barker(s: float) -> float:
    """How often a chain of two candidates moves in the target: E sigmoid(y - x) of two logits."""
    grid = torch.linspace(-12.0, 12.0, 100_001, dtype=torch.float64)
    weight = (-grid.square() / 2).exp()
    return float((weight * torch.sigmoid(math.sqrt(2) * s * grid - s * s)).sum() / weight.sum())


def two_modes(x: torch.Tensor) -> torch.Tensor:
    """The logit where p_model is N(0, I), and the first coordinate of the data N(+-2.5, .3^2)."""
    first = x[:, 0]
    modes = [
        math.log(share / 0.3) - ((first - mean) / 0.3).square() / 2
        for share, mean in ((0.3, -2.5), (0.7, 2.5))
    ]
    return torch.logaddexp(*modes) + first.square() / 2


def local_global(n: int = 50_000) -> Iterator[Figure]:
    """i-SIR, Ex2MCMC and FlEx2MCMC: in the target, and from the generator."""
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
                # Steps of a chain depend on each other, so at most as if there were one.
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


PARTS = {
    "ratio": ratio, "scores": scores, "gaussian": gaussian, "local_global": local_global,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="default: all")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe(environment()))
    rows, off = [], 0
    for name in [options.part] if options.part else PARTS:
        print(f"\n{name}\n{'':26}{'':24}{'expected':>10}{'found':>10}{'errors':>8}")
        for case, figure, expected, found, error in PARTS[name]():
            z = (found - expected) / error
            off += abs(z) > LIMIT
            mark = "" if abs(z) <= LIMIT else "  OFF"
            print(f"{case:26}{figure:24}{expected:10.5f}{found:10.5f}{z:8.1f}{mark}", flush=True)
            row = {"case": case, "figure": figure, "expected": expected}
            rows.append({"part": name, **row, "found": found, "error": error})
    print(f"\n{len(rows)} figures, {off} off by more than {LIMIT} standard errors")
    if options.json:
        options.json.write_text(json.dumps(environment() | {"laws": rows}, indent=1) + "\n")
    return 1 if off else 0


if __name__ == "__main__":
    raise SystemExit(main())
