"""What a squeezed sampler is expected to give, once a bound has been found.

A bound that loses a share h of the samples changes their law Q to one of density at most
Q / (1 - h). So TV(Q, data) changes by at most h. KL(samples || data) is at most

    (KL(Q || data) + h log(1 / h)) / (1 - h) - log(1 - h),

by Jensen's inequality for the rows that are lost, and at least KL(Q || data) - h max log(Q / data).
"""

import math

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.samplers.common import expected as without_bound
from drs_fast.samplers.common.expected import HIGHEST, Expected, Pilot, Range, mean
from drs_fast.samplers.common.rejection import Rejection, of_rows
from drs_fast.squeeze.audit import reached
from drs_fast.squeeze.state import SqueezeState, score


def expected(pilot: Pilot, decides: Rejection, state: SqueezeState) -> Expected:
    """What a bound in use brings, where one log_m holds for all rows. decides: at that log_m."""
    p = ops.probability(pilot.logit, **of_rows(decides.state, None, decides.eps))
    found, high, calls = without_bound.rejection(pilot, p), float(state.high), float(state.calls)
    before, without, squeezed, search = state.work.tolist()
    return found._replace(
        acceptance=float(state.acceptance),
        tv=None if found.tv is None else _distance(found.tv, high),
        kl=None if found.kl is None else _divergence(found.kl, high, _most(pilot, p)),
        worth=None if found.worth is None else _worth(found.worth, high, decides, state, calls),
        calls=calls,
        cost=squeezed / without,
        search=search / without * before,
    )


def _distance(tv: Range, lost: float) -> Range:
    return Range(tv.value, max(0.0, tv.low - lost), min(1.0, tv.high + lost))


def _divergence(kl: Range, lost: float, most: float) -> Range:
    high = (kl.high - lost * math.log(lost)) / (1.0 - lost) - math.log1p(-lost)
    return Range(kl.value, max(0.0, kl.low - lost * most), high)


def _most(pilot: Pilot, p: Tensor) -> float:
    """The largest log(Q / data) of a row."""
    log_ratio = torch.where(p > 0.0, p.log() - pilot.log_ratio, -math.inf)
    return float(log_ratio.max()) + math.log(pilot.mean.high / mean(p))


def _worth(
    worth: Range, lost: float, decides: Rejection, state: SqueezeState, calls: float
) -> Range:
    """Per call. Rows that only audits bring back have large weights, those of the search too."""
    low, value = worth.low * (1.0 - lost), worth.value
    more = _inflation(decides, state)
    return Range(value / more / calls, low / more / calls, worth.high / calls)


def _inflation(decides: Rejection, state: SqueezeState) -> float:
    """How much larger audits make the mean squared weight, by the rows of the last search round."""
    logit, bound, chosen = state.checked[torch.isfinite(state.checked[:, 0])].unbind(dim=1)
    at = of_rows(decides.state, None, decides.eps)
    accepted = ops.probability(logit, **at)
    chance = (score(decides, bound, None) + float(state.audits)).clamp(max=0.0).exp().double()
    kept = reached(accepted, ops.probability(bound, **at), chance.clamp(min=state.numbers.floor))
    log_ratio = (logit.double() - decides.state.log_m).clamp(max=HIGHEST)
    square = torch.where(accepted > 0.0, (2.0 * log_ratio).exp() / chosen, 0.0)
    usual = square / torch.where(accepted > 0.0, accepted, 1.0)
    return float((square / torch.where(accepted > 0.0, kept, 1.0)).sum() / usual.sum())
