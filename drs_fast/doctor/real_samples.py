"""The real samples: are there any, and have they the shape, dtype and units of generated ones?"""

from torch import Tensor

from drs_fast.core.arguments import describe, told
from drs_fast.doctor import units
from drs_fast.doctor.probes import Finding
from drs_fast.doctor.symptoms import Chart, RealSamples
from drs_fast.gan import GAN
from drs_fast.ratio.held_out import LEAST

REAL = "let real= be or return samples (n, ...), or with labels (samples, y)"
PARTS = "D's AUC, slope and top tenth"
GENERATOR = (
    "; if they are scaled so, G's values are what is wrong: it may be untrained, without its "
    "weights, or scaled in another way"
)


def check_given(gan: GAN, n: int) -> None:
    """ValueError if real samples given for comparison cannot be used."""
    found = len(gan.real_samples(n)[0])
    if found < LEAST:
        raise ValueError(f"comparing needs at least {LEAST} real samples, got {found}; give more")


def real_of(gan: GAN, n: int, chart: Chart) -> RealSamples | None:
    """The real samples; None, with the reason in the chart, if there are none to use."""
    if gan.real is None:
        reason = "there are no real samples; give real=x, or --real FILE"
    else:
        try:
            return RealSamples(*gan.real_samples(n))
        except Exception as error:  # the user's function may raise anything
            said = str(error) if isinstance(error, ValueError) else told(error)
            seen, _, remedy = said.partition("; ")
            chart.findings.append(Finding("real-samples", seen, remedy or REAL))
            reason = "the real samples cannot be used"
    chart.unknown.append(f"the range of real samples, {PARTS}: {reason}")
    return None


def mismatch(real: Tensor, made: Tensor, chart: Chart, *, doubted: bool) -> Finding | None:
    """Real samples that are all equal, or differ in shape, kind or units."""
    if real.shape[1:] != made.shape[1:]:
        turned = real.ndim == 4 and real.movedim(-1, 1).shape[1:] == made.shape[1:]
        return Finding(
            "real-shape",
            f"real samples are {describe(real)}, generated ones {describe(made)}",
            "put the channels first: x.movedim(-1, 1)"
            if turned
            else "give real samples with the shape and resolution of the generated ones",
        )
    if real.is_complex() != made.is_complex():
        return _of_another_dtype(real, made)
    if len(real) > 1 and bool((real == real[:1]).all()):
        return Finding(
            "real-constant",
            f"all {len(real):,} real samples are equal",
            "check how they were loaded, and give different ones",
        )
    own, theirs = units.values(real), units.values(made)
    chart.figures.update(
        real_low=own.low,
        real_high=own.high,
        generated_low=theirs.low,
        generated_high=theirs.high,
    )
    colours = real.ndim == 4 and real.shape[1] == 3
    remedy = units.remedy(own, theirs, colours=colours, doubted=doubted)
    if remedy is None:
        same = real.is_floating_point() == made.is_floating_point()
        return None if same else _of_another_dtype(real, made)
    return Finding(
        "real-range",
        f"99 % of the real values are in [{own.low:.4g}, {own.high:.4g}], of the generated in "
        f"[{theirs.low:.4g}, {theirs.high:.4g}]",
        f"scale real samples as in training: {remedy}" + (GENERATOR if doubted else ""),
    )


def _of_another_dtype(real: Tensor, made: Tensor) -> Finding:
    return Finding(
        "real-dtype",
        f"real samples are {describe(real)}, generated ones {describe(made)}",
        f"give real samples with the dtype the discriminator sees, {made.dtype}",
    )
