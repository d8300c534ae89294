"""ISIR: exact transition matrices, the score-only oracle, a slow version, and what it refuses.

By chance a test of a law fails in less than 1 of 1,000 runs over all seeds; seeds are fixed.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest

import drs_fast as drs
from benchmarks.common import oracle
from drs_fast.core import SELECT, Rng
from drs_fast.samplers import isir
from drs_fast.samplers.isir import ISIR

CHAINS = 60_000

# --- the exact transition matrix of a discrete model

MODEL = torch.tensor([0.05, 0.1, 0.3, 0.25, 0.2, 0.1]).double()
LOGITS = torch.tensor([3.0, -2.0, 0.5, -1.0, 0.0, 1.5])
STATES = len(MODEL)


def discrete():
    edges = torch.special.ndtri(MODEL.cumsum(0)[:-1])
    return drs.GAN(
        lambda z: torch.bucketize(z.double(), edges).float(), lambda x: LOGITS[x[:, 0].long()], 1
    )


def transitions(candidates):
    """Probabilities of moving from a state to another, (from, to), over all possible proposals."""
    weight, matrix = LOGITS.double().exp(), torch.zeros(STATES, STATES).double()
    for fresh in itertools.product(range(STATES), repeat=candidates - 1):
        chance = MODEL[list(fresh)].prod()
        for start in range(STATES):
            offered = [start, *fresh]
            share = weight[offered] / weight[offered].sum()
            matrix[start].index_add_(0, torch.tensor(offered), chance * share)
    return matrix


def p_value(sampler):
    """Chi-square of the chains' ends against the exact law."""
    batch = drs.generate(discrete(), sampler, CHAINS, seed=2)
    law = MODEL @ torch.matrix_power(transitions(sampler.candidates), sampler.steps)
    counts = torch.bincount(batch.x[:, 0].long(), minlength=STATES).double()
    statistic = ((counts - CHAINS * law).square() / (CHAINS * law)).sum()
    return float(chi2.sf(float(statistic), STATES - 1))


def test_the_target_is_invariant_under_the_matrix():
    target = MODEL * LOGITS.double().exp()
    for candidates in (2, 3, 4):
        assert torch.allclose(target @ transitions(candidates), target)


@pytest.mark.parametrize(("candidates", "steps"), [(2, 1), (2, 6), (3, 2), (4, 1), (4, 4)])
def test_chains_end_as_the_transition_matrix_says(candidates, steps):
    assert p_value(ISIR(candidates, steps, burn_in=300)) > 1e-4


SELECT_OP = drs.ops.select


def without_the_current_point(logit, rng, ids):
    return SELECT_OP(logit[:, :-1], rng, ids=ids.view(logit.shape)[:, :-1].reshape(-1))


def reversed_logits(logit, rng, ids):
    return SELECT_OP(-logit, rng, ids=ids)


def the_same_uniform_in_every_step(logit, rng, ids):
    return SELECT_OP(logit, rng)


def the_highest_one(logit, rng, ids):
    return logit.argmax(dim=1, keepdim=True)


@pytest.mark.parametrize(
    "fault",
    [
        without_the_current_point,
        reversed_logits,
        the_same_uniform_in_every_step,
        the_highest_one,
    ],
)
def test_planted_faults_are_noticed(fault, monkeypatch):
    monkeypatch.setattr(drs.ops, "select", fault)
    assert p_value(ISIR(3, 3, burn_in=300)) < 1e-4


# --- logits alone, of chains that begin in the target


def stationary(s, candidates, steps, n=20_000):
    """KS p value for the ends of chains that start from the data, N(s^2/2, s^2)."""
    k = 1 + steps * (candidates - 1)
    logit = s * drs.ops.normal(Rng(3), n * k, 1).view(n, k) - s * s / 2
    logit[:, 0] += s * s
    ends, moves = isir.iterated(logit, Rng(4), candidates)
    assert int(moves) > 0
    end = logit.gather(1, ends[:, None])[:, 0].double()
    return kstest(((end - s * s / 2) / s).numpy(), "norm").pvalue


@pytest.mark.parametrize("s", [0.5, 2.0])
@pytest.mark.parametrize(("candidates", "steps"), [(2, 1), (2, 20), (10, 5), (40, 1)])
def test_chains_from_the_data_stay_there(s, candidates, steps):
    assert stationary(s, candidates, steps) > 1e-4


def test_that_the_current_point_competes_is_needed_to_stay_there(monkeypatch):
    monkeypatch.setattr(drs.ops, "select", without_the_current_point)
    assert stationary(2.0, 10, 5) < 1e-4


def test_known_ratio():
    batch, law = drs.generate(oracle.gan(), ISIR(), 1500), oracle.law()
    found = oracle.metrics(batch.x)
    assert oracle.chi_square(batch.x, law.rings, law.radii) > 1e-4
    assert found.hq / 100 == pytest.approx(law.hq, abs=4 * math.sqrt(law.hq * (1 - law.hq) / 1500))
    assert found.sd == pytest.approx(law.sd, rel=4 / math.sqrt(4 * 1500))


# --- row by row


def slow(logit, u, candidates):
    """Where one chain ends, in NumPy, from (K,) logits and uniforms; None if no row is valid."""
    at = 0
    for first in range(1, len(logit), candidates - 1):
        offered = [*range(first, first + candidates - 1), at]
        value = np.array([logit[row] for row in offered], dtype=np.float64)
        finite = np.isfinite(value)
        if not finite.any():
            continue
        weight = np.where(finite, np.exp(np.where(finite, value, 0) - value[finite].max()), 0.0)
        at = offered[int(np.searchsorted(weight.cumsum() / weight.sum(), u[first], side="right"))]
    return at if math.isfinite(logit[at]) else None


def sometimes_invalid(x, logit):
    """NaN or infinite depending on the last bits of x, about as often as is tolerated."""
    lottery = x[:, 0].detach().view(torch.int32) % 20_000
    logit = torch.where(x[:, 1] < -1.2, -math.inf, logit)  # an eighth
    return torch.where(lottery == 7, math.nan, torch.where(lottery == 8, math.inf, logit))


def small(change=lambda x, logit: logit):
    return drs.GAN(lambda z: z, lambda x: change(x, x[:, 0] + 0.7 * x[:, 1]), 2)


OFFSET = torch.tensor([-7.0, 0.0, 20.0])


def conditional():
    """Each class has its own place and its own slope of the logit."""
    return drs.GAN(
        lambda z, y: z + OFFSET[y, None],
        lambda x, y: (0.5 + 0.5 * y) * (x[:, 0] - OFFSET[y]),
        2,
        labels=3,
    )


@pytest.mark.parametrize("settings", [(2, 1), (3, 6), (10, 4)])
@pytest.mark.parametrize("make", [small, lambda: small(sometimes_invalid), conditional])
def test_ids_are_those_of_a_slow_version(make, settings):
    gan, sampler, chains = make(), ISIR(*settings, burn_in=500), 300
    k, rng = sampler.group, Rng(7)
    rows = chains * k
    z, y = drs.ops.latents(gan, rng, rows), drs.ops.labels(gan, rng, rows)
    label = None if y is None else y[::k].repeat_interleave(k)
    x, logit = gan.logits(z, label)
    u = drs.ops.uniform(rng, rows, stream=SELECT).view(chains, k).numpy()
    ends = [
        slow(own, u[b], sampler.candidates) for b, own in enumerate(logit.view(chains, k).tolist())
    ]
    expected = [b * k + end for b, end in enumerate(ends) if end is not None]
    batch = drs.generate(gan, sampler, len(expected), seed=7, batch_size=256)
    assert batch.ids.tolist() == expected
    assert torch.equal(batch.x, x[expected])
    assert torch.equal(batch.z, drs.ops.latents(gan, rng, len(expected), ids=batch.ids))


def test_labels():
    """A class keeps its share, and N(0, 1) times exp(slope x) is N(slope, 1)."""
    batch = drs.generate(conditional(), ISIR(10, 60, burn_in=500), 4000)
    first = batch.ids // ISIR(10, 60).group * ISIR(10, 60).group
    assert torch.equal(batch.y, drs.ops.labels(conditional(), Rng(0), 4000, ids=first))
    for k, slope in enumerate((0.5, 1.0, 1.5)):
        own = batch.z[batch.y == k, 0].double()
        assert abs(float(own.mean()) - slope) < 4 / math.sqrt(len(own))
        assert len(own) / 4000 == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / 4000))


# --- what it refuses, and what it says


def test_chains_of_invalid_proposals_only():
    gan, sampler = small(), ISIR(3, 2, burn_in=500)
    state = sampler.init(gan, Rng(0))
    bad = small(lambda x, logit: torch.where(torch.arange(len(x)) < 200, math.nan, logit))
    z = drs.ops.latents(gan, Rng(0, 40), 400)
    _, batch = sampler.step(bad, state, z, None, Rng(0, 40))
    assert int(batch.count) == 40
    assert int(batch.stats["invalid"]) == 200
    assert batch.ids[:40].min() >= 240


def test_moves_are_counted():
    """Two candidates with equal weights are equally likely to win."""
    gan = drs.GAN(lambda z: z, lambda x: 0.0 * x[:, 0], 1, link=lambda logit: logit)
    stats = drs.generate(gan, ISIR(2, 10, burn_in=50), 4000, batch_size=256).stats
    steps = int(stats["calls"]) // 11 * 10
    assert int(stats["moves"]) / steps == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / steps))


def test_any_critic_is_an_energy():
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0], 2, link="wasserstein")
    assert len(drs.generate(gan, ISIR(3, 2, burn_in=300), 100).x) == 100


def test_the_law_is_said_plainly():
    assert ISIR().group == 640
    assert ISIR().law.startswith("in the limit of many steps p0(z) exp(logit), which is the data")
    assert "71 steps with 9 proposals each" in ISIR().law


@pytest.mark.parametrize(
    ("name", "value"),
    [("candidates", 1), ("candidates", 2.5), ("steps", 0), ("steps", 2**20), ("burn_in", 0)],
)
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        ISIR(**{name: value})
