"""How far logits in lower precisions are from those in fp32, and what a cascade would bring."""

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.core.arguments import told
from drs_fast.doctor.probes import BLOCK
from drs_fast.doctor.symptoms import Chart, Sampled
from drs_fast.doctor.words import percent
from drs_fast.gan import GAN
from drs_fast.samplers.common.cascade import cascade
from drs_fast.squeeze.search import WORTH
from drs_fast.tune.lowered import Lower, cost, differences, lower_than, lowered

ROWS = 4 * BLOCK  # at most
SECONDS = 0.004  # for a round of timing
OVERFLOW = 0.05  # share of rows that only fp32 has a finite logit for
USUAL = 80.0  # percentile of DRS


def examine(gan: GAN, sampled: Sampled, seed: int, chart: Chart) -> None:
    """Figures of each precision, and one note on a cascade through each.

    A precision that is of no use is no finding, because runs in fp32 need not care.
    """
    n = min(ROWS, len(sampled.logit))
    z = ops.latents(gan, Rng(seed, BURN_IN_ROW), n)
    y = None if sampled.y is None else sampled.y[:n]
    if gan.device.type == "cuda" and gan.block == BLOCK:
        gan = gan.on(block=ROWS)  # fewer rows do not fill a GPU
    said = []
    for precision in lower_than(gan):
        try:
            other = lowered(gan, precision)
            low = other.verdicts(z, y)
            taken = cost(gan, other, n, SECONDS)
        except Exception as error:  # the user's code may raise anything
            chart.unknown.append(f"how far {precision} is from fp32: {told(error)}")
            continue
        logit = sampled.logit[:n]
        found = Lower(precision, taken, *differences(logit.double(), low.double()))
        chart.figures[f"{precision}_error"] = found.in_spreads(found.error)
        chart.figures[f"{precision}_worst"] = found.in_spreads(found.worst)
        if found.infinite:
            chart.figures[f"{precision}_infinite_share"] = found.infinite
        gains = None if gan.energy else _decisions(sampled.logit, low, found, seed, chart)
        seen = _unfit(found)
        if seen:
            said.append(f"in {precision}, {seen}, so leave precision='{precision}' alone")
        elif gains:
            said.append(_said(found, gains))
    if said:
        chart.notes.append("; ".join(said))


def _decisions(
    logit: Tensor, low: Tensor, found: Lower, seed: int, chart: Chart
) -> tuple[float, float]:
    """The gain by a cascade for DRS() and for DRS(gamma=0.0), with log_m of all rows."""
    log_m = ops.largest(logit)
    usual = ops.quantile_gamma(logit, USUAL, log_m=log_m)
    mine, exact = (
        cascade(
            logit[: len(low)], low, found.error, Rng(seed, BURN_IN_ROW), log_m=log_m, gamma=gamma
        )
        for gamma in (usual, torch.zeros_like(usual))
    )
    chart.figures[f"{found.precision}_flipped"] = mine.flipped
    return mine.gain(found.cost), exact.gain(found.cost)


def _unfit(found: Lower) -> str:
    """Why the precision is of no use; "" if it is of use."""
    if found.infinite > OVERFLOW:
        return f"{percent(found.infinite)} of the rows have no finite logit"
    off = found.in_spreads(found.error)
    return f"logits are off by {off:.2g} of their standard deviations" if off > 1.0 else ""


def _said(found: Lower, gains: tuple[float, float]) -> str:
    takes = f"a row in {found.precision} takes {found.cost:.2g} of the time of one in fp32 here"
    if max(gains) * WORTH < 1.0:
        return f"{takes}, so a cascade brings nothing"
    usual, exact = gains
    return (
        f"{takes}: with drs.Squeeze(..., by='{found.precision}') DRS() would be {usual:.2g} times "
        f"as fast, DRS(gamma=0.0) {exact:.2g} times"
    )
