"""What lower precisions cost, how far they are off, and what a bound by each would bring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng, Sampler
from drs_fast.core.arguments import told
from drs_fast.gan import GAN
from drs_fast.run.advice import written
from drs_fast.run.compared import Compared
from drs_fast.samplers.common.cascade import Cascade, cascade
from drs_fast.samplers.common.rejection import Rejection, RejectionSampler, of_rows
from drs_fast.squeeze import Squeeze
from drs_fast.squeeze.search import WORTH
from drs_fast.tune.lowered import Lower, lower_than, lowered, measured

ROWS = 1024  # of the burn-in


@dataclass(frozen=True)
class Precision:
    """A precision below that of the run.

    sampler: whose decisions these are, and which a bound by the precision would reject for; None
        without a rejection sampler in the table of samplers.
    """

    lower: Lower
    sampler: RejectionSampler | None = None
    decisions: Cascade | None = None


def sampler_of(compared: Compared, asked: Sampler | None) -> RejectionSampler | None:
    """The first rejection sampler in the table, unless one is asked for or recommended there."""
    best = [] if compared.recommended is None else [compared.recommended[0]]
    table = [each for each, _ in compared.samplers if not isinstance(each, Squeeze)]
    for each in (asked, *best, *table):
        own = each.sampler if isinstance(each, Squeeze) else each
        if isinstance(own, RejectionSampler) and own in table:
            return own
    return None


def of(
    gan: GAN, sampler: RejectionSampler | None, rng: Rng, say: Callable[[str], None]
) -> tuple[tuple[Precision, ...], tuple[str, ...]]:
    """Each precision below that of the GAN; and why some fail."""
    names = lower_than(gan)
    found: list[Precision] = []
    failed: list[str] = []
    if not names:
        return (), ()
    decides = None if sampler is None else sampler.rejection(gan, sampler.init(gan, rng))
    for name in names:
        say(f"precision={name!r}")
        try:
            lower = measured(gan if decides is None else decides.judge, name)
            decisions = None if decides is None else _decisions(decides, lower, rng)
        except Exception as error:  # the user's code may raise anything
            failed.append(f"precision={name!r}: {told(error)}")
            continue
        found.append(Precision(lower, sampler, decisions))
    return tuple(found), tuple(failed)


def _decisions(decides: Rejection, lower: Lower, rng: Rng) -> Cascade:
    """What becomes of the first burn-in rows, whose logits the sampler's state has."""
    logit, rng = decides.state.logits[:ROWS], rng.at(BURN_IN_ROW)
    judge, n = decides.judge, len(logit)
    z, y = ops.latents(judge, rng, n), ops.labels(judge, rng, n)
    low = lowered(judge, lower.precision).verdicts(z, y)
    at = of_rows(decides.state, y, decides.eps)
    return cascade(logit, low, lower.error, rng, **at)


def table(found: Sequence[Precision]) -> list[str]:
    """Lines for a plan, after an empty one; none without a lower precision."""
    if not found:
        return []
    sampler = found[0].sampler
    bounded = "" if sampler is None else f"   drs.Squeeze({written(sampler)}, by=...)"
    head = f"{'precision':>23}{'time':>12}{'error':>8}{'flipped':>9}{bounded}"
    return ["", head, *map(_line, found)]


def _line(found: Precision) -> str:
    lower, decisions = found.lower, found.decisions
    off = f"{lower.in_spreads(lower.error):.2g}"
    cells = f"{lower.precision:>23}{lower.cost:>12.2f}{off:>8}"
    if decisions is None:
        brings, flipped = "", "-"
    else:
        gain, flipped = decisions.gain(lower.cost), f"{decisions.flipped:.1%}"
        brings = f"   about {gain:.2g} times as fast" if gain * WORTH >= 1.0 else "   no gain"
    lost = f"; {lower.infinite:.1%} of logits overflow" if lower.infinite else ""
    return f"{cells}{flipped:>9}{brings}{lost}"
