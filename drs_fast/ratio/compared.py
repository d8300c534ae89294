"""What is wrong with generated samples beside real ones, by the doctor's numbers."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from drs_fast.arguments import describe
from drs_fast.gan import GAN
from drs_fast.ratio.calibrate import measure
from drs_fast.ratio.fitting import SURE, area_error, area_under_curve
from drs_fast.ratio.held_out import Logits, held_out
from drs_fast.ratio.probes import BLOCK, Finding
from drs_fast.ratio.symptoms import ELEMENTS, Chart, Sampled


def of_real(gan: GAN, sampled: Sampled, n: int, seed: int, chart: Chart) -> Iterator[Finding]:
    if gan.real is None:
        chart.notes.append(
            "without real samples their range, the AUC and the calibration are not checked; "
            "give real=x, or --real FILE"
        )
        return
    try:
        real = gan.real_samples(n)[0]
    except Exception as error:  # whatever the user's function raises
        chart.notes.append(f"real samples cannot be had, so they are not compared: {error}")
        return
    if real.shape[1:] != sampled.x.shape[1:]:
        yield Finding(
            "real-shape",
            f"real samples are {describe(real)}, generated ones {describe(sampled.x)}",
            "give real samples in the shape and the resolution of the generated ones",
        )
        return
    wrong = list(_ranges(real, sampled.x, chart.figures))
    if wrong:  # what D says of such samples means nothing
        yield from wrong
        return
    if real.ndim > 2 and real.shape[1] in (3, 4):
        chart.notes.append("the order of the colour channels cannot be checked")
    try:
        logits = held_out(gan, n, seed).valid()
    except Exception as error:  # whatever the user's code raises, and logits that are no logits
        chart.notes.append(f"the real samples' logits are not compared: {error}")
        return
    yield from _of_both(logits, chart)


def _ranges(real: Tensor, made: Tensor, figures: dict[str, float]) -> Iterator[Finding]:
    """The middle 99 % of all values: a factor of 2 in scale would make the overlap 1/2."""
    (low, high), (own_low, own_high) = _middle(real), _middle(made)
    figures |= {
        "real_low": low,
        "real_high": high,
        "generated_low": own_low,
        "generated_high": own_high,
    }
    union = max(high, own_high) - min(low, own_low)
    overlap = min(high, own_high) - max(low, own_low)
    if overlap < math.sqrt(0.5) * union:
        yield Finding(
            "real-range",
            f"99 % of the real values are in [{low:.4g}, {high:.4g}], of the generated ones in "
            f"[{own_low:.4g}, {own_high:.4g}]",
            "scale real samples as in training, for example x * 2 - 1 from [0, 1] to [-1, 1]",
        )


def _middle(x: Tensor) -> tuple[float, float]:
    values = x[: max(BLOCK, ELEMENTS // max(1, x[0].numel()))].flatten().double().sort().values
    tail = len(values) // 200
    return float(values[tail]), float(values[-1 - tail])


def _of_both(logits: Logits, chart: Chart) -> Iterator[Finding]:
    m, n = map(len, logits)
    auc = area_under_curve(*logits)
    error = area_error(m, n)
    report = measure(logits)
    chart.figures.update(
        real_rows=m,
        auc=auc,
        slope=report.slope,
        offset=report.offset,
        dawid_z=report.z,
        calibration_error=report.ece,
        mean_ratio=report.mean_ratio,
    )
    if auc < 0.5 - SURE * error:
        yield Finding(
            "reversed",
            f"AUC {auc:.4f}: D finds generated samples more real than real ones",
            "if D's sign is reversed, wrap it: lambda x: -D(x); else check its input's range, and "
            "that D and G are of the same training run",
        )
    elif auc + SURE * error < 0.55:
        yield Finding(
            "useless",
            f"AUC {auc:.4f} +- {error:.4f}: D cannot tell real from generated",
            "check D's weights and its input's range; then drs.keep_train. If G is that good, "
            "there is nothing to gain",
        )
    elif report.separated:
        yield Finding(
            "separated",
            f"all {m:,} real logits are above all {n:,} generated ones",
            "G and the data do not meet, or D knows these real samples: give held-out ones, or "
            "train G on",
        )
    else:
        chart.notes.extend(f"calibration: {warning}" for warning in report.warnings)
        error = _slope_error(logits.finite(), report.slope, report.offset)
        if not report.slope - SURE * error <= 2.0 or not report.slope + SURE * error >= 0.5:
            yield Finding(
                "overconfident" if report.slope < 1.0 else "underconfident",
                f"the log ratio is {report.slope:.3g} +- {error:.2g} times the logit, and should "
                "be 1 times",
                "drs.calibrate(gan), or drs.keep_train(gan)",
            )


def _slope_error(logits: Logits, slope: float, offset: float) -> float:
    """Standard error of the slope of a logistic regression."""
    logit, prior = torch.cat(logits), math.log(len(logits.real) / len(logits.generated))
    p = torch.sigmoid(slope * logit + offset + prior)
    weight = p * (1.0 - p)
    mean = (weight * logit).sum() / weight.sum()
    return float((weight * (logit - mean).square()).sum().rsqrt())
