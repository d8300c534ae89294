"""Weighted samples follow the data where log_m, sharpening, a budget or a bound cut some off.

The density ratio is exact and log-normal. Of 100 seeds, a right test rejects more than 15 at 5 %
with a chance of 4e-5; all seeds together are rejected at 1e-5. So a case fails by chance once in
20,000 times.
"""

from dataclasses import dataclass

import pytest
import torch
from planted_bounds import Planted, forced, hurry
from tilted import tilted, tilted_classes, weighted_or_not

import drs_fast as drs
from drs_fast import ops
from drs_fast.samplers import DRS, OBRS
from drs_fast.samplers.common import weights
from drs_fast.squeeze import audit

SEEDS, N, MOST, ALL = 100, 8_000, 15, 1e-5
EXACT = DRS(gamma=0.0, eps=0.0)


def too_low(gan, sampler=EXACT, nats=3.0):
    """Exact rejection with log_m below what burn-in finds."""
    return DRS(gamma=0.0, eps=0.0, log_m=float(sampler.init(gan, drs.Rng(0)).log_m) - nats)


def squeezed(gan, sampler):
    """A bound that may lose 5 %, frozen, as every run of these seeds would find its own."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        found = drs.Squeeze(sampler, tolerance=0.05, use_bound=True).init(gan, drs.Rng(SEEDS))
    return Planted(sampler, tolerance=0.5, state=found)


def poor(gan, sampler):
    """Two bounds that lose 10 % or more."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        state = forced(gan, sampler, cascade=True, margin=-3.0, audits=-1.0)
    return Planted(sampler, tolerance=0.9, state=state)


@dataclass(frozen=True)
class Apart(DRS):
    """Proposes all classes equally often, so that their quotas are full at different times."""

    classes: str = "within"

    def init(self, gan, rng):
        return super().init(gan, rng)._replace(proposed=torch.full((3,), 1 / 3).double())


WITHIN = {"classes": "within"}
CASES = {
    "log_m": (tilted, too_low),
    "log_m, labels": (tilted_classes, too_low),
    "p80": (tilted, lambda gan: DRS()),
    "p80, labels": (tilted_classes, lambda gan: DRS()),
    "p80, within": (tilted_classes, lambda gan: DRS(**WITHIN)),
    "p80, within, apart": (tilted_classes, lambda gan: Apart()),
    "OBRS": (tilted, lambda gan: OBRS(budget=0.1)),
    "OBRS, labels": (tilted_classes, lambda gan: OBRS(budget=0.1)),
    "OBRS, within": (tilted_classes, lambda gan: OBRS(budget=0.1, **WITHIN)),
    "squeezed": (tilted, lambda gan: squeezed(gan, too_low(gan))),
    "squeezed, within": (tilted_classes, lambda gan: squeezed(gan, DRS(**WITHIN))),
    "poor bounds": (tilted, lambda gan: poor(gan, too_low(gan))),
    "poor bounds, within": (tilted_classes, lambda gan: poor(gan, DRS(**WITHIN))),
}


def right(pooled):
    return pooled.rejected <= MOST and pooled.together > ALL


def both(case, n=N, seeds=SEEDS):
    make, sampler = CASES[case]
    gan = make(block=1024)
    return weighted_or_not(gan, sampler(gan), n, seeds)


@pytest.mark.parametrize("case", CASES)
def test_weights_make_up_for_what_rejection_cuts_off(case):
    weighted, unweighted = both(case)
    assert right(weighted), (weighted.rejected, weighted.together)
    assert max(unweighted.p_values) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_weights_make_up_for_it_in_long_runs(case):
    weighted, _ = both(case, n=200_000)
    assert right(weighted), (weighted.rejected, weighted.together)


def not_clipped(logit, **threshold):
    return real_weight(logit, **threshold).clamp(max=1.0)


def without_audits(accepted, passed, chance):
    return accepted


def own_log_m(log_m, *rest):
    return real_factors(torch.zeros_like(log_m), *rest)


def at_once(log_m, proposed, shares, tried):
    return real_factors(log_m, proposed, shares, torch.ones_like(tried))


def as_asked(log_m, proposed, shares, tried):
    return real_factors(log_m, shares, shares, tried)


real_weight, real_factors = ops.weight, weights.of_classes
FAULTS = {
    "clipped": (ops, "weight", not_clipped, "log_m"),
    "no audits": (audit, "reached", without_audits, "poor bounds"),
    "no audits of classes": (audit, "reached", without_audits, "poor bounds, within"),
    "log_m of each class": (weights, "of_classes", own_log_m, "OBRS, within"),
    "quotas full at once": (weights, "of_classes", at_once, "p80, within, apart"),
    "proposed as asked": (weights, "of_classes", as_asked, "p80, within"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_weights_are_found(fault, monkeypatch):
    where, name, wrong, case = FAULTS[fault]
    monkeypatch.setattr(where, name, wrong)
    weighted, _ = both(case, seeds=20)
    assert weighted.together < ALL
