"""Compares what D says of generated and of real samples.

A check of the discriminator D has three outcomes: surely wrong, by SURE standard errors; surely
not; or undecided by these samples.
"""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from drs_fast.doctor.neighbours import vote
from drs_fast.doctor.probes import Finding
from drs_fast.doctor.real_samples import PARTS, channels, doubted, mismatch
from drs_fast.doctor.symptoms import Chart, RealSamples, Sampled
from drs_fast.doctor.words import number
from drs_fast.gan import GAN, links
from drs_fast.ratio.calibrate import Report, measure
from drs_fast.ratio.held_out import Logits, held_out
from drs_fast.samplers.common.burn_in import valid
from drs_fast.samplers.common.sigmoid import ends_in_sigmoid
from drs_fast.training.fitting import SURE, area_error, area_under_curve

LARGEST = 60.0  # nats, for a probability next to 0 or 1
SLOPES = (0.5, 2.0)  # acceptable slopes of the log ratio over the logit; the true one is 1
MILD = (2 / 3, 3 / 2)  # slopes that harm little whatever the level
LEVEL = 0.3  # of Dawid's Z per root of a sample: probabilities are off by about 0.15 on average
CRITIC = "; if D was trained as a Wasserstein or hinge critic, say so: link='wasserstein', 'hinge'"
UNTRAINED = "; check that D's weights are loaded, because an untrained D says as little"
LIKELY = 2.0  # standard errors: to clear a model takes less certainty than to accuse it
CHANCE = 0.55  # below this AUC there is little to gain
WEAK = 0.6  # below this AUC, D must do as well as its samples' neighbours
UNLIKELY = math.log(32_000)  # SURE standard errors, one-sided, are a chance of one in this many
PROBABILITIES = "use link='probability', or remove D's sigmoid"


def of_real(
    gan: GAN, sampled: Sampled, real: RealSamples | None, n: int, seed: int, chart: Chart
) -> Iterator[Finding]:
    """What D says of both kinds of samples, if it accepts the real ones."""
    logit = valid(sampled.logit)
    bounded = gan.link == "logit" and bool(((logit >= 0.0) & (logit <= 1.0)).all())
    unfit = None if real is None else mismatch(real.x, sampled.x, chart)
    if unfit:
        yield unfit
        chart.unknown.append(f"{PARTS}: D does not accept these real samples")
    if bounded and ends_in_sigmoid(gan):
        yield Finding(
            "probability-as-logit",
            f"link='logit', but D ends in a sigmoid: all its values are in [0, 1], from "
            f"{number(float(logit.min()))} to {number(float(logit.max()))}",
            PROBABILITIES,
        )
        if real is not None and not unfit:
            chart.unknown.append(f"{PARTS}: D's values are probabilities")
        return
    logits = None if real is None or unfit else _logits(gan, sampled, real, n, seed, chart)
    found = list(_probabilities(logits, chart)) if bounded else []
    if real is None or logits is None:
        return
    real = real._replace(x=real.x.to(sampled.x.dtype))
    turned = channels(gan, real, sampled.x)
    if turned:
        chart.unknown.append(f"{PARTS}: the real samples have other colours")
        yield turned
        return
    found = found or list(_of_logits(gan, logits, real, sampled, seed, chart))
    surely = chart.figures.get("auc", 0.0) - SURE * area_error(*map(len, logits))
    doubt = doubted(gan, real, sampled.x, surely) if found else None
    if doubt:
        chart.unknown.append(
            f"whether {PARTS} are what the figures say: real and generated samples differ in range"
        )
    yield from [doubt] if doubt else found


def _logits(
    gan: GAN, sampled: Sampled, real: RealSamples, n: int, seed: int, chart: Chart
) -> Logits | None:
    patient = copy.copy(gan)
    x = real.x.to(sampled.x.dtype)  # for example from NumPy's float64
    patient.real = x if real.y is None else (x, real.y)
    if gan.link == "logit":  # values in [0, 1] are checked here, so need no warning
        patient.link = links.identity
    try:
        within = held_out(patient, n, seed).valid()
    except Exception as error:  # the user's code may raise anything, and logits may be bad
        chart.unknown.append(f"{PARTS}: the logits of the real samples cannot be compared: {error}")
        return None
    if sampled.y is None:
        return within
    # D may be about p(x|y), whatever the frequencies of y, or p(x, y): it is sound if one fits.
    joint = Logits(within.real, valid(sampled.logit).cpu().double())
    return next((way for way in (within, joint) if _fits(measure(way))), within)


def _fits(report: Report) -> bool:
    lines = ((report.slope, report.slope_error), (report.top_slope, report.top_error))
    return not any(_beyond(*line) for line in lines) and not _scored(report)


def _probabilities(logits: Logits | None, chart: Chart) -> Iterator[Finding]:
    """Are values in [0, 1] that no sigmoid returned logits up to a constant, or probabilities?

    Source: Vuong, Likelihood ratio tests for model selection and non-nested hypotheses (1989).
    """
    question = "whether D's values, which are all in [0, 1], are logits"
    if logits is None:
        chart.unknown.append(
            f"{question}: real samples are needed; if they are not, {PROBABILITIES}"
        )
        return
    if not bool(((logits.real >= 0.0) & (logits.real <= 1.0)).all()):
        return  # they are
    odds = (links.probability(value).clamp(-LARGEST, LARGEST) for value in logits)
    gain = _evidence(Logits(*odds)) - _evidence(logits)
    z = float(gain.mean() / gain.std()) * math.sqrt(len(gain))
    if z > SURE:
        yield Finding(
            "probability-as-logit",
            f"link='logit', but all values are in [0, 1], and read as probabilities they separate "
            f"real samples better, by {z:.3g} standard errors",
            PROBABILITIES,
        )
    elif not z < -SURE:
        chart.unknown.append(
            f"{question}: the real samples favour it by {-z:.2g} standard errors, but {SURE:g} are "
            f"needed; give more of them, or, if they are not logits, {PROBABILITIES}"
        )


def _evidence(logits: Logits) -> Tensor:
    """Log likelihood of each sample's kind, with the offset that fits best."""
    low, high = -2.0 * LARGEST, 2.0 * LARGEST
    for _ in range(60):
        offset = (low + high) / 2.0
        claimed = sum(float(torch.sigmoid(logit + offset).sum()) for logit in logits)
        low, high = (offset, high) if claimed < len(logits.real) else (low, offset)
    return torch.cat([logsigmoid(logits.real + low), logsigmoid(-logits.generated - low)])


def _of_logits(
    gan: GAN, logits: Logits, real: RealSamples, sampled: Sampled, seed: int, chart: Chart
) -> Iterator[Finding]:
    report, auc, error = measure(logits), area_under_curve(*logits), area_error(*map(len, logits))
    chart.figures.update(
        real_rows=report.real,
        auc=auc,
        slope=report.slope,
        offset=report.offset,
        top_slope=report.top_slope,
        dawid_z=report.z,
        calibration_error=report.ece,
        mean_ratio=report.mean_ratio,
    )
    high = auc + SURE * error
    if high < 0.5:
        yield Finding(
            "reversed",
            f"AUC {auc:.3f}: D finds generated samples more real than real ones",
            "if D's sign is reversed, wrap it: lambda x: -D(x), or lambda x, y: -D(x, y); if not, "
            "check its input range, its numbering of the classes, and that D and G come from the "
            "same training run; an untrained D may also do this",
        )
    elif auc < WEAK and (why := _blind(report, real, sampled, high, seed)):
        yield Finding(
            "useless",
            f"AUC {auc:.3f} +- {error:.2g}, though {why}: D hardly tells real from generated",
            "D may be untrained, or without its weights: check both and its input range; then use "
            "drs.keep_train",
        )
    elif report.separated:
        yield from _separated(logits, chart)
    else:
        if auc - LIKELY * error < 0.5:
            chart.unknown.append(
                f"whether D tells real from generated at all: AUC {auc:.3f} +- {error:.2g}; if D "
                "is sound, G is nearly perfect as far as these samples show"
            )
        yield from _slopes(report, gan.energy, chart)


def _blind(
    report: Report, real: RealSamples, sampled: Sampled, high: float, seed: int
) -> str | None:
    """Why a discriminator whose AUC is at most `high` should do better, if it should."""
    if high < CHANCE and report.slope + SURE * report.slope_error < 1.0:
        return "the logits claim more"
    found = vote(real.x, sampled.x, seed)
    if found is None or found.auc - SURE * found.error < max(high, WEAK):
        return None
    return f"a vote of the nearest neighbours has an AUC of {found.auc:.3f}"


def _separated(logits: Logits, chart: Chart) -> Iterator[Finding]:
    """No generated sample has a logit like a real one's: is this chance, or must it not happen?"""
    m, n = map(len, logits)
    seen = f"all {m:,} real logits are above all {n:,} generated ones"
    # D's odds, with the constant that makes the mean of exp(logit) over generated samples 1.
    scale = math.log(m) - float(torch.logsumexp(logits.generated, dim=0))
    surprise = -float(
        logsigmoid(logits.real + scale).sum() + logsigmoid(-logits.generated - scale).sum()
    )
    # Expected above a real one: 1 % of the generated samples, or as many as D itself expects.
    if max(0.01 * n, surprise) > UNLIKELY:
        yield Finding(
            "separated",
            seen,
            "G and the data do not overlap, or D was trained on these real samples: give held-out "
            "ones, or train G further",
        )
    else:
        chart.unknown.append(f"D's slope and top tenth: {seen}, as D expects; give more of both")


def _slopes(report: Report, energy: bool, chart: Chart) -> Iterator[Finding]:
    """How steeply the log ratio rises with the logit, for all samples and for the top ones.

    What a slope that is wrong or undecided already says is in no note. A slope that is not 1 and a
    level that is not 0 together are those of a score, such as a Wasserstein critic's.
    """
    surely = _beyond(report.slope, report.slope_error)
    top = _beyond(report.top_slope, report.top_error)
    scored = _scored(report) and not energy
    if surely or (scored and not top):
        seen = f"the log ratio is {report.slope:.3g} +- {report.slope_error:.2g} times the logit"
        more = f" {report.offset:+.3g}, and Dawid's Z is {number(report.z)}" if scored else ""
        yield Finding(
            "overconfident" if report.slope < 1.0 else "underconfident",
            f"{seen}{more}; it should be 1 times the logit",
            "drs.calibrate(gan), or drs.keep_train(gan)"
            + (UNTRAINED if report.slope > SLOPES[1] else "")
            + (CRITIC if scored else ""),
        )
        return
    faults = report.faults
    if surely is None:
        faults.pop("slope", None)
        chart.unknown.append(
            f"D's slope: {report.slope:.3g} +- {report.slope_error:.2g} is neither clearly inside "
            f"{list(SLOPES)} nor clearly outside; give more real samples"
        )
    if top is not False:
        faults.pop("top_slope", None)
    chart.notes.extend(f"calibration: {fault}" for fault in faults.values())
    if top:
        yield Finding(
            "wrong-top",
            f"among the top tenth of the generated samples and real ones like them, the log ratio "
            f"is {report.top_slope:.3g} +- {report.top_error:.2g} times the logit, and should be "
            f"1 times; over all samples it is {report.slope:.3g} times",
            "these are the ones accepted: drs.calibrate(gan, 'isotonic'), or drs.keep_train(gan)",
        )
    elif math.isnan(report.top_slope):
        chart.unknown.append("D's top tenth: it has a single logit, or one kind of samples")
    elif top is None:
        chart.unknown.append(
            f"D's top tenth: a slope of {report.top_slope:.3g} +- {report.top_error:.2g} is "
            f"neither clearly inside {list(SLOPES)} nor clearly outside; give more real samples"
        )


def _scored(report: Report) -> bool:
    """Whether neither level nor slope are a log ratio's, surely."""
    not_one = abs(report.slope - 1.0) > SURE * report.slope_error
    off = abs(report.z) > max(SURE, LEVEL * math.sqrt(report.real + report.generated))
    return not_one and off and not MILD[0] <= report.slope <= MILD[1]


def _beyond(slope: float, error: float) -> bool | None:
    """Whether a slope is surely outside SLOPES; None if undecided."""
    if slope - SURE * error > SLOPES[1] or slope + SURE * error < SLOPES[0]:
        return True
    within = SLOPES[0] <= slope - LIKELY * error and slope + LIKELY * error <= SLOPES[1]
    return False if within else None
