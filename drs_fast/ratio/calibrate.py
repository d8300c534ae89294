"""Calibrates log ratios on held-out samples, and reports how well that worked."""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast.core import BadLogits
from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN, links
from drs_fast.ratio.calibrators import METHODS, Line, fit
from drs_fast.ratio.held_out import Logits, enough, halves, held_out
from drs_fast.training.fitting import SURE, area_error, area_under_curve, of_gan

BINS = 15
RISING = ("beta", "isotonic")
LARGEST_Z = 2.0
SOUND = (0.8, 1.25)  # accepted range of a slope and of a mean ratio, which should be 1
FAR = 60.0  # nats
TOP = 0.1  # share of the generated samples with the largest logits


@of_gan
def calibrate(gan: GAN, method: str = "platt", n: int = 10_000, seed: int = 0) -> GAN:
    """This GAN with a calibrated log ratio as its logit, made from its logit or critic's score.

    method: "platt", a line; "temperature", a line through 0; "beta", two slopes, for logits that
        are too steep on one side; "isotonic", any rising function, but without gradients.
        A hinge or Wasserstein score needs "platt" or "isotonic".
    n: real samples, on which neither the critic nor drs.keep_train was trained, and as many
        generated ones. The map is fitted on half of both and tested on the other half; a warning
        tells what `report` finds wrong there.
    A GAN with labels is calibrated on all classes together.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if gan.energy and method in ("temperature", "beta"):
        raise ValueError(
            f"{method!r} needs logits, got the score of a {gan.link} critic; use 'platt', or "
            "'isotonic' if no gradients are needed"
        )
    fitted, tested = _halves(gan, n, seed)
    area = area_under_curve(*fitted)
    if method in RISING and area < 0.5 - SURE * area_error(*map(len, fitted)):
        raise BadLogits(
            f"the critic finds generated samples more real than real ones (AUC {area:.4f}), and "
            f"{method!r} keeps their order: reverse its sign with link=lambda logit: -logit, or "
            "use 'platt', which can do so; or check the critic's weights and its input range"
        )
    calibrator = fit(method, fitted)
    found = measure(Logits(*map(calibrator, tested)), separated=_separated(fitted))
    if found.warnings:
        warnings.warn(f"calibrated by {method!r}, {'; '.join(found.warnings)}", stacklevel=3)
    return gan.judged(link=links.after(gan.link, calibrator))


@of_gan
def report(gan: GAN, n: int = 10_000, seed: int = 0) -> "Report":
    """How far to trust the GAN's logits, on samples that `calibrate` with this seed did not see."""
    return measure(_halves(gan, n, seed)[1])


@of_gan
def curve(gan: GAN, n: int = 10_000, seed: int = 0) -> "Curve":
    """Data for drs_fast.report.pictures.reliability, from the samples that `report` examines."""
    return reliability(_halves(gan, n, seed)[1])


@dataclass(frozen=True)
class Report:
    """What held-out samples say about logits. D is the probability of real that they claim."""

    real: int
    generated: int
    z: float  # Dawid's, sum(real - D) / sqrt(sum D (1 - D)): sd at most 1; blind to slopes
    slope: float  # log r = slope * logit + offset; nan if all logits are equal
    offset: float
    brier: float  # mean (real - D)^2
    ece: float  # expected calibration error
    mean_ratio: float  # mean exp(logit) over generated samples; 1 for a log ratio
    separated: bool  # no generated sample has a logit like a real one's
    slope_error: float  # standard error
    top_slope: float  # slope among the top tenth of the generated logits, or nan
    top_error: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong, and how to fix it; () if nothing is."""
        return tuple(self.faults.values())

    @property
    def faults(self) -> dict[str, str]:
        """The warnings, by the figure that each is about."""
        low, high = SOUND
        found = {
            "separated": (
                self.separated,
                "no score of a generated sample is as high as a real one's, so the number of "
                "samples sets the slope; give more, or use drs.keep_train(gan) with noise",
            ),
            "z": (
                not abs(self.z) <= LARGEST_Z,
                f"Dawid's Z is {self.z:.2f}, beyond +-{LARGEST_Z:g}: "
                "the logits are too high or too low",
            ),
            "slope": (
                not low <= self.slope <= high,
                f"the slope is {self.slope:.3g}, outside [{low}, {high}]: the logits are too "
                f"{'flat' if self.slope > 1 else 'steep'}",
            ),
            "mean_ratio": (
                not low <= self.mean_ratio <= high,
                f"exp(logit) of generated samples has mean {self.mean_ratio:.3g} and should have "
                "1: the largest logits are wrong, or too rare to tell",
            ),
            "top_slope": (
                self.top_slope + SURE * self.top_error < low * self.slope
                or self.top_slope - SURE * self.top_error > high * self.slope,
                f"in the top tenth the slope is {self.top_slope:.3g} +- {self.top_error:.2g}: no "
                "line fits all logits, so use 'beta' or 'isotonic'",
            ),
        }
        return {figure: line for figure, (wrong, line) in found.items() if wrong}


class Curve(NamedTuple):
    """Samples binned by the probability of real that their logits claim; empty bins left out."""

    claimed: Tensor  # mean
    observed: Tensor  # share of real samples
    size: Tensor


@one_thread()
def measure(valid: Logits, separated: bool | None = None) -> Report:
    chance, real = _chances(valid)
    spread = float((chance * (1 - chance)).sum())
    bins = reliability(valid)
    near, top = _near(valid), _near(_top(valid))
    (slope, offset), top_line = _line(near), _line(top)
    return Report(
        real=len(valid.real),
        generated=len(valid.generated),
        z=float((real - chance).sum()) / math.sqrt(max(spread, 1e-300)),
        slope=slope,
        offset=offset,
        brier=float((real - chance).square().mean()),
        ece=float((bins.size * (bins.observed - bins.claimed).abs()).sum() / len(real)),
        mean_ratio=float(valid.generated.exp().mean()),
        separated=_separated(valid) if separated is None else separated,
        slope_error=_error(near, slope, offset),
        top_slope=top_line[0],
        top_error=_error(top, *top_line),
    )


def reliability(valid: Logits, bins: int = BINS) -> Curve:
    chance, real = _chances(valid)
    place = (chance * bins).long().clamp(max=bins - 1)
    size, claimed, observed = (
        chance.new_zeros(bins).index_add_(0, place, weight)
        for weight in (torch.ones_like(chance), chance, real)
    )
    filled = size > 0
    size = size[filled]
    return Curve(claimed[filled] / size, observed[filled] / size, size)


def _halves(gan: GAN, n: int, seed: int) -> tuple[Logits, Logits]:
    both = halves(held_out(gan, n, seed), seed)
    enough(*both)
    return both


def _chances(valid: Logits) -> tuple[Tensor, Tensor]:
    """The probability of real that each logit claims, given the numbers of both; and 1 or 0."""
    prior = math.log(len(valid.real) / len(valid.generated))
    real = torch.cat([torch.ones_like(valid.real), torch.zeros_like(valid.generated)])
    return torch.sigmoid(torch.cat(valid) + prior), real


def _line(valid: Logits) -> tuple[float, float]:
    try:
        line = fit("platt", valid)
    except BadLogits:
        return math.nan, math.nan
    assert isinstance(line, Line)
    return float(line.slope), float(line.offset)


def _error(valid: Logits, slope: float, offset: float) -> float:
    """Standard error of the slope of a logistic regression; nan if there is none."""
    if math.isnan(slope):
        return math.nan
    finite = valid.finite()
    logit, prior = torch.cat(finite), math.log(len(valid.real) / len(valid.generated))
    chance = torch.sigmoid(slope * logit + offset + prior)
    weight = chance * (1.0 - chance)
    mean = (weight * logit).sum() / weight.sum()
    return float((weight * (logit - mean).square()).sum().rsqrt())


def _near(valid: Logits) -> Logits:
    """Moves generated logits far below all real ones closer, or they would hide the others' misfit.

    At FAR nats of the log ratio they carry no more information than at FAR.
    """
    least = valid.real[valid.real.isfinite()].amin() - FAR if len(valid.finite().real) else 0.0
    far = valid.generated.isfinite() & (valid.generated < least)
    return valid._replace(generated=torch.where(far, least, valid.generated))


def _top(valid: Logits) -> Logits:
    """Logits at least as high as the lowest in the top tenth of the generated samples."""
    order = valid.generated.sort().values
    least = order[math.floor((1.0 - TOP) * len(order))]
    return Logits(*(logit[logit >= least] for logit in valid))


def _separated(valid: Logits) -> bool:
    return float(valid.real.min()) > float(valid.generated.max())
