"""A GAN with an exactly known density ratio, and what rejection should make of it.

p_data is 25 Gaussians of sd 0.05; p_model is 0.7 times 25 Gaussians of sd 0.06 plus 0.3 times the
uniform density on [-2.5, 2.5]^2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.common.metrics import QUALITY_SD, metrics, nearest
from drs_fast.zoo.gaussians25 import CENTRES, STD, real

MODEL_STD = 0.06
GAUSSIAN_SHARE = 0.7
HALF_WIDTH = 2.5


def gan() -> drs.GAN:
    """Latents are three normals: the first chooses uniform or mode, the others place a point."""
    return drs.GAN(generator, log_ratio, 3, real=real, name="oracle")


def generator(z: Tensor) -> Tensor:
    """z (n, 3) normals -> x (n, 2) float32 that follow p_model."""
    wide = z.double()
    u = torch.special.ndtr(wide)
    mode = (u[:, 0] / GAUSSIAN_SHARE * 25).long().clamp(max=24)
    near = CENTRES.double()[mode] + MODEL_STD * wide[:, 1:]
    anywhere = HALF_WIDTH * (2 * u[:, 1:] - 1)
    return torch.where(u[:, :1] < GAUSSIAN_SHARE, near, anywhere).float()


def log_ratio(x: Tensor) -> Tensor:
    """log p_data(x)/p_model(x), (n,) float64."""
    return log_gaussians(x, STD) - log_model(x)


def log_model(x: Tensor) -> Tensor:
    inside = (x.abs() <= HALF_WIDTH).all(dim=1)
    uniform = (1 - GAUSSIAN_SHARE) / (2 * HALF_WIDTH) ** 2 * inside.double()
    return torch.logaddexp(math.log(GAUSSIAN_SHARE) + log_gaussians(x, MODEL_STD), uniform.log())


def log_gaussians(x: Tensor, std: float) -> Tensor:
    """log density (n,) of 25 equal Gaussians: a product, because the centres form a grid."""
    grid = torch.arange(-2.0, 3.0, dtype=torch.float64)[:, None, None]
    square = ((x.double() - grid) / std).square()
    axes = torch.logsumexp(-square / 2, dim=0) - math.log(5 * std * math.sqrt(2 * math.pi))
    return axes.sum(dim=1)


LOG_M = float(log_ratio(torch.zeros(1, 2)))  # the supremum is at the centres


@dataclass(frozen=True)
class Law:
    """What a sampler should return."""

    acceptance: float
    hq: float  # share, not percent
    sd: float  # per axis, of the samples of high quality
    rings: Tensor  # (RINGS + 1,) shares between the radii, and beyond 4 sd
    radii: Tensor  # (RINGS + 1,) from 0 to 4 sd


RINGS = 10


def law(gamma: float = 0.0, eps: float = 0.0, *, log_m: float = LOG_M) -> Law:
    """The law of DRS with these settings."""
    return law_of(lambda l: drs.ops.probability(l, log_m=log_m, gamma=gamma, eps=eps))  # noqa: E741


def law_of(weight: Callable[[Tensor], Tensor]) -> Law:
    """The law of a sampler that weights p_model by a function of the logit, in [0, 1].

    The unit squares around the centres are alike. Inside one, everything is a function of the
    radius, because other centres are at least 8 sd beyond its edge. So the midpoint rule on radii
    is used.
    """
    steps, corner = 200_000, math.sqrt(0.5)
    radius = (torch.arange(steps, dtype=torch.float64) + 0.5) * (corner / steps)
    outside = torch.acos((0.5 / radius).clamp(max=1)) * 4 / math.pi  # share of the circle
    x = (radius / math.sqrt(2))[:, None].expand(steps, 2)  # on the diagonal
    density = 25 * log_model(x).exp() * 2 * math.pi * radius * (1 - outside) * (corner / steps)
    accepted = density * weight(log_ratio(x))
    total, good = accepted.sum(), radius < QUALITY_SD * STD
    # Rings of equal share under p_data, the last one cut at 4 sd.
    inner = torch.arange(RINGS, dtype=torch.float64) / RINGS
    edges = torch.cat([inner, torch.tensor([-math.expm1(-(QUALITY_SD**2) / 2)])])
    radii = STD * (-2 * torch.log1p(-edges)).sqrt()
    ring = torch.bucketize(radius, radii[1:], right=True)
    rings = torch.zeros(RINGS + 1, dtype=torch.float64).index_add_(0, ring, accepted / total)
    in_good = accepted[good].sum()
    return Law(
        acceptance=float(total),
        hq=float(in_good / total),
        sd=float(((accepted * radius.square())[good].sum() / in_good / 2).sqrt()),
        rings=rings,
        radii=radii,
    )


def target_rings() -> Tensor:
    """The shares of the rings under p_data, by formula."""
    edge = math.exp(-(QUALITY_SD**2) / 2)
    rings = torch.full((RINGS + 1,), 1 / RINGS, dtype=torch.float64)
    rings[-2], rings[-1] = 1 / RINGS - edge, edge
    return rings


def chi_square(x: Tensor, rings: Tensor, radii: Tensor) -> float:
    """p value of samples x (n, 2): 25 modes by rings, and one bin for all beyond 4 sd."""
    from scipy.stats import chi2

    offset, mode = nearest(x, CENTRES)
    ring = torch.bucketize(offset.norm(dim=1), radii[1:], right=True)
    counts = torch.bincount(mode * len(rings) + ring, minlength=25 * len(rings)).double()
    counts = counts.view(25, len(rings))
    observed = torch.cat([counts[:, :-1].flatten(), counts[:, -1].sum()[None]])
    expected = len(x) * torch.cat([(rings[:-1] / 25).expand(25, -1).flatten(), rings[-1:]])
    enough = expected >= 5
    if not enough.all():  # rare cells are merged
        observed = torch.cat([observed[enough], observed[~enough].sum()[None]])
        expected = torch.cat([expected[enough], expected[~enough].sum()[None]])
    statistic = float(((observed - expected).square() / expected).sum())
    return float(chi2.sf(statistic, len(expected) - 1))


def autocorrelation(logit: Tensor, ids: Tensor, probability: Callable[[Tensor], Tensor]) -> float:
    """Largest autocorrelation, in sd, of accepted - p over the rows 0, 1, ... with these logits.

    This shows whether rows share u, at any distance. They would then be accepted as often as they
    should be, but no longer independently given their logits.
    """
    residual = -probability(logit)
    residual[ids[ids < len(logit)]] += 1
    n = len(residual)
    spectrum = torch.fft.rfft(residual, n=2 * n).abs().square()
    lags = torch.fft.irfft(spectrum)[: n // 2]
    return float(lags[1:].abs().max() / lags[0] * math.sqrt(n))


def failures(
    batch: drs.Batch, expected: Law, probability: Callable[[Tensor], Tensor], *, seed: int = 0
) -> list[str]:
    """What is wrong with `drs.generate(gan(), rejection sampler, n, seed=seed)`; [] if nothing.

    probability: logits (n,) -> the acceptance probabilities (n,) the sampler should have used.
    """
    n, proposals = len(batch.x), int(batch.ids[-1]) + 1
    found = metrics(batch.x)
    model = gan()
    _, logit = model.logits(drs.ops.latents(model, drs.Rng(seed), min(proposals, 2**20)))
    z = (n / proposals - expected.acceptance) / _error(expected.acceptance, proposals)
    checks = {
        f"acceptance {n / proposals:.5f}, expected {expected.acceptance:.5f}": abs(z) < 4,
        f"HQ {found.hq:.3f} %, expected {100 * expected.hq:.3f} %": abs(
            found.hq / 100 - expected.hq
        )
        < 4 * _error(expected.hq, n),
        f"sd {found.sd:.5f}, expected {expected.sd:.5f}": abs(found.sd / expected.sd - 1) < 0.01,
        "chi-square of modes and rings": chi_square(batch.x, expected.rings, expected.radii) > 1e-4,
        "rows depend on each other": autocorrelation(logit, batch.ids, probability) < 7,
        "ids are not in order": bool((batch.ids.diff() > 0).all()),
    }
    return [failure for failure, good in checks.items() if not good]


def _error(share: float, n: int) -> float:
    return math.sqrt(share * (1 - share) / n)
