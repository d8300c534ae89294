"""Checks the samplers' laws with many samples, where they are known exactly.

python -m benchmarks.quality.laws [--part PART] [--json FILE]

ratio: p_data and p_model are mixtures (benchmarks/common/oracle.py). scores: logits are
N(-s^2/2, s^2) under the generator, so N(s^2/2, s^2) under the data. gaussian: G(z) = a z and normal
data. Beside this file are classes and capped (limits.py), starts and cut (starts.py), region
(rare.py) and local_global (local_global.py). Every
figure is shown with its expected value, and by how many standard errors it is off; 4.5 happen by
chance once in 10^5.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch

import drs_fast as drs
from benchmarks.common import oracle
from benchmarks.common.metrics import metrics
from benchmarks.common.timing import describe, environment
from benchmarks.quality import limits, local_global, rare, starts
from drs_fast import ops
from drs_fast.core import Sampler
from drs_fast.core.rows import SIMULATED_ROW, SIMULATED_START_ROW
from drs_fast.samplers import DDLS, DRS, MH, OBRS, SIR, DGFlow
from drs_fast.squeeze import Squeeze, search
from drs_fast.squeeze import state as states

LIMIT = 4.5
Figure = tuple[str, str, float, float, float]  # case, figure, expected, found, standard error


# Sampler, samples, and expected acceptance, HQ and sd, from an independent quadrature.
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
    """Samplers on the model of benchmarks/common/oracle.py."""
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
            proposal = logits(s, n * k, SIMULATED_ROW + first * k).view(n, k)
            start = logits(s, n, SIMULATED_START_ROW + first, 0.5 if real else -0.5)
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
        # The first steps, which start at the prior, are not stationary.
        yield f"MALA, step {size:g}", "acceptance", expected, found, 0.001
    for size, expected in UNDERDAMPED.items():
        sampler = DDLS("underdamped", 400, 2 * size, friction=0.1, burn_in=256)
        yield variance(f"SGHMC, eta {size:g}", sampler, expected, 10 * DIGITS)
    for steps, expected in FLOW.items():
        sampler = DGFlow(steps, burn_in=256)
        yield variance(f"DGflow, {steps} steps", sampler, expected, 10 * DIGITS)
    yield from tempered(variance)


def tempered(variance: Callable[[str, Sampler, float], Figure]) -> Iterator[Figure]:
    """The same latents at temperature T, with s times the logit, and with steps that shrink."""
    for heat in (0.1, 0.5):
        for kind, sampler in {
            "MALA": DDLS("mala", 100, 0.2, temperature=heat, burn_in=256),
            "HMC": DDLS("hmc", 20, 0.06, temperature=heat, leapfrog=4, burn_in=256),
        }.items():
            yield variance(f"{kind}, T = {heat:g}", sampler, heat / 4)
        sampler = DDLS("ula", 100, 0.1, temperature=heat, burn_in=256)
        yield variance(f"ULA, T = {heat:g}", sampler, heat / 4 / (1 - 0.1))
    sampler = DDLS("hmc", 20, 0.06, logit_scale=5.0, leapfrog=3, burn_in=256)
    yield variance("HMC, 5 logit", sampler, 1 / 16)
    for noise_decay in (1.0, 0.5):
        sampler = DDLS("ula", 40, 0.1, decay=0.5, noise_decay=noise_decay, decay_every=10)
        expected = 1.0
        for step in range(40):
            size, noise = 0.1 * 0.5 ** (step // 10), noise_decay ** (step // 10)
            expected = (1 - 2 * size) ** 2 * expected + noise**2 * size
        case = "ULA, steps halved" + (" and noise" if noise_decay < 1.0 else "")
        yield variance(case, sampler, expected)


TOLERANCES = {0.01: 5e-3, 0.002: 0.02}  # by the region's share of the samples


def region(searches: int = 5, n: int = 20_000) -> Iterator[Figure]:
    """Squeeze when one proposal in 10,000 (or 50,000) holds the share; see rare.py.

    No bound knows the region. A bound that loses at most the tolerance is used, and the interval
    must hold its loss. The standard error is the half of the interval on that side, over 1.96.
    """
    whatever_it_costs = {"WORTH": math.inf, "LEAST_WORK": -math.inf, "ROWS": search.ROWS[:2]}
    for share, tolerance in TOLERANCES.items():
        gan, squeeze = rare.gan(share), Squeeze(DRS(gamma=0.0, log_m=rare.LOG_M), tolerance)
        for seed in range(searches):
            case, rng = f"Squeeze, {share:.1%}, seed {seed}", drs.Rng(seed)
            with mock.patch.multiple(search, **whatever_it_costs):
                state = squeeze.init(gan, rng)
            used = bool(torch.isfinite(state.margins[1]))
            lost, hidden = rare.lost(squeeze, state, share) if used else (0.0, 0.0)
            if used:
                batch = squeeze.rows(gan, state, rng, int(n / float(state.acceptance)))[1]
                found, low, high = states.lost({k: int(v) for k, v in batch.stats.items()}, state)
                half = high - found if lost > found else found - low
                yield case, "lost", lost, found, half / 1.96
            else:
                batch = drs.generate(gan, squeeze.sampler, n, seed=seed)
            expected, count = max(0.0, share - hidden) / (1 - lost), int(batch.count)
            inside = float(rare.inside(batch.x[:count], share).double().mean())
            error = math.sqrt(expected * (1 - expected) / count) + 1 / count
            yield case, "share in the region", expected, inside, error


PARTS = {
    "ratio": ratio,
    "scores": scores,
    "gaussian": gaussian,
    "classes": limits.classes,
    "capped": limits.capped,
    "starts": starts.starts,
    "cut": starts.cut,
    "region": region,
    "local_global": local_global.local_global,
}


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
    chance = len(rows) * math.erfc(LIMIT / math.sqrt(2))
    print(
        f"\n{len(rows)} figures, {off} off by more than {LIMIT} standard errors, which by chance "
        f"one of them is in {chance:.1g} of all runs"
    )
    if options.json:
        options.json.write_text(json.dumps(environment() | {"laws": rows}, indent=1) + "\n")
    return 1 if off else 0


if __name__ == "__main__":
    raise SystemExit(main())
