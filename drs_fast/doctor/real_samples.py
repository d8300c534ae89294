"""The real samples: are there any, and have they the shape, dtype and units of generated ones?"""

import math

from torch import Tensor

from drs_fast.core.arguments import describe, told
from drs_fast.doctor import units
from drs_fast.doctor.probes import Finding
from drs_fast.doctor.symptoms import Chart, RealSamples
from drs_fast.doctor.words import number
from drs_fast.gan import GAN
from drs_fast.ratio.held_out import LEAST
from drs_fast.training.fitting import SURE

REAL = "let real= be or return samples (n, ...), or with labels (samples, y)"
PARTS = "D's AUC, slope and top tenth"
SCALED = "scale real samples as in training: "
ASKED, MOST = 512, 0.7  # rows that D is asked to compare, and the share that is most of them
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


def mismatch(real: Tensor, made: Tensor, chart: Chart) -> Finding | None:
    """Real samples that surely are all equal, or differ in shape, kind or units."""
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
    convert = units.conversion(own, theirs, colours=_colours(real), doubted=False)
    if convert is None:
        same = real.is_floating_point() == made.is_floating_point()
        return None if same else _of_another_dtype(real, made)
    return Finding("real-range", _ranges(own, theirs), SCALED + convert.words)


def doubted(gan: GAN, real: RealSamples, made: Tensor, auc: float) -> Finding | None:
    """Whether real samples in other units, or a weak G, explain what D says wrongly of them.

    auc: how often D surely ranks a real sample above a generated one, at least.
    If no unit makes the real values like the generated ones, D is asked, which was trained on real
    samples in the right units: it prefers those.
    """
    own, theirs = units.values(real.x), units.values(made)
    convert = units.conversion(own, theirs, colours=_colours(real.x), doubted=True)
    if convert is None:
        return None
    finding = Finding("real-range", _ranges(own, theirs), SCALED + convert.words)
    if convert.fits:
        return finding
    prefers = preference(gan, real, convert.slope * real.x + convert.offset)
    if prefers > 0.0:
        return finding._replace(seen=f"{finding.seen}; D finds them more real when converted")
    if prefers < 0.0 and auc > 0.5 and units.small(own):
        return Finding(
            "weak-generator",
            f"{finding.seen}; D finds the real ones more real as they are, and more real than the "
            "generated ones",
            "the real samples are scaled well. G may be untrained, without its weights, or scaled "
            "in another way: look at its samples",
        )
    return finding._replace(remedy=finding.remedy + GENERATOR)


def channels(gan: GAN, real: RealSamples, made: Tensor) -> Finding | None:
    """Colours in another order: D prefers the real samples with them reversed, and G's are so."""
    if not _colours(real.x):
        return None
    turned = real.x.flip(1)
    own, theirs = (part.double().mean(dim=(0, 2, 3)) for part in (real.x, made))
    nearer = bool((own.flip(0) - theirs).norm() < (own - theirs).norm())
    if not nearer or preference(gan, real, turned) <= 0.0:
        return None
    colours = [", ".join(map(number, mean.tolist())) for mean in (own, theirs)]
    return Finding(
        "real-channels",
        f"D finds real samples more real with their colours in reverse order. The channels' means "
        f"are {colours[0]}; those of the generated ones are {colours[1]}",
        "give real samples in the order of the training, RGB or BGR: x.flip(1)",
    )


def preference(gan: GAN, real: RealSamples, changed: Tensor) -> float:
    """Positive if D surely finds most real samples more real when changed; negative if less so.

    0 where it is undecided. A sign test, because logits far from the data may have any size.
    """
    y = None if real.y is None else real.y[:ASKED]
    as_they_are, then = (gan.scores(x[:ASKED], y).double() for x in (real.x, changed))
    better, worse = int((then > as_they_are).sum()), int((then < as_they_are).sum())
    surely = abs(better - worse) > SURE * math.sqrt(better + worse)
    most = max(better, worse) > MOST * len(then)
    return math.copysign(1.0, better - worse) if surely and most else 0.0


def _ranges(own: units.Values, theirs: units.Values) -> str:
    low, high, least, most = map(number, (own.low, own.high, theirs.low, theirs.high))
    return f"99 % of the real values are in [{low}, {high}], of the generated in [{least}, {most}]"


def _colours(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[1] == 3


def _of_another_dtype(real: Tensor, made: Tensor) -> Finding:
    return Finding(
        "real-dtype",
        f"real samples are {describe(real)}, generated ones {describe(made)}",
        f"give real samples with the dtype the discriminator sees, {made.dtype}",
    )
