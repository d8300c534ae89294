"""How well samples follow a grid of equal Gaussians, or a swiss roll.

HQ: share of samples within 4 sd of a centre. Modes: centres with at least one such sample.
sd: of these samples about their centre, per axis. JSD: Jensen-Shannon divergence in nats between
the mode counts and equal shares, with or without a bin for the other samples (reference 0). W1:
exact optimal transport with Euclidean cost to real samples, equally many in every mode.

On the roll, the noiseless curve replaces the centres, and its 25 stretches with equal shares of the
data replace the modes (the JSD is that of a histogram along the curve); sd is across the curve.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import drs_fast as drs
from drs_fast.core.rows import BENCHMARK_DATA_ROW
from drs_fast.zoo import swissroll
from drs_fast.zoo.gaussians25 import CENTRES, STD

QUALITY_SD = 4.0
TRANSPORT_SAMPLES = 2000


@dataclass(frozen=True)
class Metrics:
    hq: float  # percent
    modes: float
    sd: float  # NaN if there is no high-quality sample
    jsd: float
    jsd_nojunk: float


def metrics(x: Tensor, centres: Tensor = CENTRES, std: float = STD) -> Metrics:
    """All metrics except W1 of samples x (n, 2)."""
    offset, mode = nearest(x, centres)
    square = offset.square().sum(dim=1)
    return _metrics(square.sqrt() < QUALITY_SD * std, square / 2, mode, len(centres))


def swiss_roll(x: Tensor) -> Metrics:
    """All metrics except W1 of samples x (n, 2) that should follow the swiss roll."""
    distance, t = swissroll.nearest(x)
    good = distance < QUALITY_SD * swissroll.STD
    return _metrics(good, distance.square(), swissroll.stretch(t), swissroll.STRETCHES)


def _metrics(good: Tensor, square: Tensor, mode: Tensor, modes: int) -> Metrics:
    """square: the squared deviation per axis. All arguments but the last are (n,)."""
    counts = torch.bincount(mode[good], minlength=modes).double()
    shares = counts / len(good)
    equal = torch.full_like(shares, 1 / modes)
    junk = 1 - shares.sum().clamp(max=1)
    return Metrics(
        hq=100 * float(good.double().mean()),
        modes=int((counts > 0).sum()),
        sd=float(square[good].mean().sqrt()),
        jsd=jensen_shannon(torch.cat([shares, junk[None]]), torch.cat([equal, torch.zeros(1)])),
        jsd_nojunk=jensen_shannon(shares, equal),
    )


def nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets x - centre (n, 2) float64 and the numbers of the nearest centres (n,)."""
    wide = x.double()
    distance = torch.full((len(x),), math.inf, dtype=torch.float64)
    mode = torch.zeros(len(x), dtype=torch.int64)
    for k, centre in enumerate(centres.double()):
        to_centre = (wide - centre).square().sum(dim=1)
        mode[to_centre < distance] = k
        distance = torch.minimum(distance, to_centre)
    return wide - centres.double()[mode], mode


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """Divergence in nats; shares need not sum to one."""
    middle = (p + q) / 2
    return float(torch.special.xlogy(p, p / middle).nan_to_num().sum() / 2) + float(
        torch.special.xlogy(q, q / middle).nan_to_num().sum() / 2
    )


def stratified(n: int, seed: int = 0) -> Tensor:
    """(n, 2) real samples, equally many in every mode."""
    if n % len(CENTRES):
        raise ValueError(f"n must be a multiple of {len(CENTRES)}, got {n}")
    centres = CENTRES.repeat(n // len(CENTRES), 1)
    return centres + STD * drs.ops.normal(drs.Rng(seed, row=BENCHMARK_DATA_ROW), n, 2)


def stratified_roll(n: int, seed: int = 0) -> Tensor:
    """(n, 2) real samples, evenly spread over t."""
    t = swissroll.START + swissroll.TURN * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    noise = drs.ops.normal(drs.Rng(seed, row=BENCHMARK_DATA_ROW), n, 2)
    return swissroll.roll(t).float() + swissroll.STD * noise


def w1(x: Tensor, n: int = TRANSPORT_SAMPLES, real: Callable[[int], Tensor] = stratified) -> float:
    """W1 of the first n samples; real is `stratified` (n a multiple of 25) or `stratified_roll`."""
    if len(x) < n:
        raise ValueError(f"w1 needs {n} samples, got {len(x)}")
    return transport(x[:n], real(n))


def w1_swiss_roll(x: Tensor, n: int = TRANSPORT_SAMPLES) -> float:
    """W1 on the roll."""
    return w1(x, n, stratified_roll)


def transport(x: Tensor, y: Tensor) -> float:
    """Mean Euclidean length of the best one-to-one matching of x (n, 2) and y (n, 2)."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())
