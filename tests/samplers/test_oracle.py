"""DRS on a GAN whose density ratio is known exactly, and planted faults."""

import math
from functools import partial

import pytest
import torch
from scipy.stats import binom

import drs_fast as drs
from benchmarks.common import oracle
from drs_fast.backends import reference
from drs_fast.core import ACCEPT
from drs_fast.samplers import DRS

GAMMA_80, GAMMA_95 = 1.8226, 3.3943


def sampled(sampler, n):
    """n samples, and what is wrong with them, given the threshold that burn-in found."""
    gan = oracle.gan()
    state = sampler.init(gan, drs.Rng(0))
    settings = {"log_m": float(state.log_m), "gamma": float(state.gamma), "eps": sampler.eps}
    batch = drs.generate(gan, sampler, n)
    probability = partial(drs.ops.probability, **settings)
    return batch, oracle.failures(batch, oracle.law(**settings), probability)


def acceptance(batch):
    """The share of accepted proposals, and its standard error."""
    proposals = int(batch.ids[-1]) + 1
    share = len(batch.x) / proposals
    return share, math.sqrt(share * (1 - share) / proposals)


@pytest.mark.parametrize(
    ("gamma", "eps", "share", "hq", "sd"),
    [
        (0.0, 0.0, 0.49082, 0.99966, 0.04993),
        (0.0, 0.001, 0.49045, 0.99966, 0.04994),
        (0.0, 0.1, 0.45793, 0.99964, 0.05035),
        (-2.0, 0.0, 0.6636, 0.9983, 0.0574),
        (-1.0, 0.0, 0.5944, 0.9993, 0.0542),
        (1.0, 0.0, 0.3640, 0.9998, 0.0450),
        (2.0, 0.0, 0.2395, 0.9999, 0.0400),
        (3.0, 0.0, 0.1407, 0.9999, 0.0353),
        (GAMMA_80, 1e-6, 0.26020, 0.99990, 0.04086),
        (GAMMA_95, 1e-6, 0.11092, 0.99995, 0.03360),
    ],
)
def test_law_equals_independent_quadrature(gamma, eps, share, hq, sd):
    law = oracle.law(gamma, eps)
    assert law.acceptance == pytest.approx(share, abs=6e-5)
    assert law.hq == pytest.approx(hq, abs=6e-5)
    assert law.sd == pytest.approx(sd, abs=6e-5)


def test_gamma_zero_is_the_data_law():
    assert torch.allclose(oracle.law().rings, oracle.target_rings(), atol=5e-5, rtol=0)


def test_log_ratio_equals_the_sums_written_out():
    x = torch.tensor([[0.0, 0.0], [0.06, -0.08], [2.0, 1.1], [0.5, 0.5], [2.49, -2.5], [2.6, 2.0]])
    distance = (x.double()[:, None] - oracle.CENTRES.double()).square().sum(dim=2)

    def density(std):
        return (-distance / (2 * std**2)).exp().mean(dim=1) / (2 * math.pi * std**2)

    uniform = 0.3 / 25 * (x.abs() <= 2.5).all(dim=1).double()
    expected = torch.log(density(0.05) / (0.7 * density(0.06) + uniform))
    assert torch.allclose(oracle.log_ratio(x), expected, atol=1e-9, rtol=1e-12)
    assert pytest.approx(0.71167, abs=5e-6) == oracle.LOG_M


def test_generator_follows_its_density():
    gan, n = oracle.gan(), 1_000_000
    x = gan.generator(drs.ops.latents(gan, drs.Rng(1), n))
    law = oracle.law_of(torch.ones_like)
    found = oracle.metrics(x)
    assert law.acceptance == pytest.approx(1.0, abs=1e-6)
    assert found.hq == pytest.approx(73.50, abs=400 * math.sqrt(0.735 * 0.265 / n))
    assert found.sd == pytest.approx(0.06209, rel=0.01)
    assert oracle.chi_square(x, law.rings, law.radii) > 1e-4


@pytest.mark.parametrize(("eps", "n"), [(0.0, 1_000_000), (1e-6, 300_000)])
def test_gamma_zero_reproduces_the_data(eps, n):
    batch, failures = sampled(DRS(gamma=0.0, eps=eps, log_m=oracle.LOG_M), n)
    assert failures == []
    share, error = acceptance(batch)
    assert share == pytest.approx(0.49082, abs=4 * error)
    assert oracle.metrics(batch.x).sd == pytest.approx(0.0500, abs=0.0005)
    assert oracle.chi_square(batch.x, oracle.target_rings(), oracle.law().radii) > 1e-4


def test_burn_in_finds_the_largest_logit():
    _, failures = sampled(DRS(gamma=0.0), 200_000)
    assert failures == []
    found = DRS(gamma=0.0).init(oracle.gan(), drs.Rng(0)).log_m
    assert float(found) == pytest.approx(oracle.LOG_M, abs=1e-3)


@pytest.mark.parametrize(
    ("percentile", "gamma", "known_share", "sd"),
    [(80.0, GAMMA_80, 0.26020, 0.04086), (95.0, GAMMA_95, 0.11092, 0.03360)],
)
def test_percentiles_sharpen_as_known(percentile, gamma, known_share, sd):
    batch, failures = sampled(DRS(gamma=gamma, log_m=oracle.LOG_M), 100_000)
    assert failures == []
    share, error = acceptance(batch)
    assert share == pytest.approx(known_share, abs=4 * error)
    assert oracle.metrics(batch.x).sd == pytest.approx(sd, rel=0.02)

    found = DRS(percentile=percentile, burn_in=200_000).init(oracle.gan(), drs.Rng(0)).gamma
    assert float(found) == pytest.approx(gamma, abs=0.03)


@pytest.mark.parametrize("wanted", [0.05, 0.3, 0.6])
def test_target_acceptance_is_met(wanted):
    batch, failures = sampled(DRS(target_acceptance=wanted), 50_000)
    assert failures == []
    # 5 standard errors of a mean over the 10,000 burn-in rows, whose probabilities vary
    tolerance = 5 * math.sqrt(wanted * (1 - wanted) / 10_000)
    assert acceptance(batch)[0] == pytest.approx(wanted, abs=tolerance)


DECIDE, UNIFORM = reference.decide, reference.uniform


def gamma_negated(logit, u, log_m, c1, s):
    return DECIDE(logit, u, log_m, 1 / c1, s)


def log_m_one_percent_high(logit, u, log_m, c1, s):
    return DECIDE(logit, u, log_m * 1.01, c1, s)


def log_m_one_percent_low(logit, u, log_m, c1, s):
    return DECIDE(logit, u, log_m * 0.99, c1, s)


def one_u_for_a_batch(rng, ids, n, **where):
    return UNIFORM(rng, ids, 1, **where).expand(n)


def same_u_in_every_batch(rng, ids, n, **where):
    return UNIFORM(rng.at(0), ids, n, **where)


def u_shared_by_neighbours(rng, ids, n, **where):
    return UNIFORM(rng, ids, n, **where)[torch.arange(n) // 2 * 2]


def u_of_the_latent(rng, ids, n, **where):
    return UNIFORM(rng, ids, n, **{**where, "stream": 0})


def u_of_24_bits(rng, ids, n, **where):
    return (UNIFORM(rng, ids, n, **where) * 2**24).floor() / 2**24


@pytest.mark.parametrize(
    ("function", "fault", "gamma", "n"),
    [
        ("decide", DECIDE, 0.0, 500_000),
        ("decide", DECIDE, GAMMA_80, 50_000),
        ("decide", gamma_negated, GAMMA_80, 50_000),
        ("decide", log_m_one_percent_high, 0.0, 500_000),
        ("decide", log_m_one_percent_low, 0.0, 500_000),
        ("uniform", one_u_for_a_batch, 0.0, 100_000),
        ("uniform", same_u_in_every_batch, 0.0, 100_000),
        ("uniform", u_shared_by_neighbours, 0.0, 100_000),
        ("uniform", u_of_the_latent, 0.0, 100_000),
    ],
)
def test_planted_faults_are_noticed(function, fault, gamma, n, monkeypatch):
    monkeypatch.setattr(reference, function, fault)
    with drs.backend("reference"):
        _, failures = sampled(DRS(gamma=gamma, log_m=oracle.LOG_M), n)
    assert bool(failures) == (fault is not DECIDE), failures


# Rows of seed 0 whose u is below 2^-24: a u of 24 bits is 0 there, and accepts anything.
ROWS_OF_TINY_U = (
    2553129, 5899092, 23196768, 27751655, 57103384, 69600945, 83171300, 103210329, 106571150,
    119735604, 122161171, 153333328, 166839897, 190320524, 192151940, 220493767, 248907414,
    252408961, 263773104, 304208220, 305058472, 317132743, 380134629, 401634540, 471032754,
    482647757, 485556449, 489948747, 502335509, 506287978, 513492270, 527311250, 530536053,
    545980730, 547744683, 551048816, 556485210, 575033179, 591917001, 628841910, 642981760,
    656523069, 681412531, 730160783, 764612740, 780238836, 789393241,
)  # fmt: skip


def accepts_too_often_or_seldom(backend, p):
    """Whether the accepted share among rows with u < 2^-24 differs from p * 2^24."""
    ids = torch.tensor(ROWS_OF_TINY_U)
    logit = torch.full((len(ids),), math.log(p), dtype=torch.float64)
    with drs.backend(backend):
        accepted = drs.ops.accept(logit, drs.Rng(0), log_m=0.0, eps=0.0, ids=ids).sum()
    share = binom(len(ids), p * 2**24)
    return 2 * min(share.cdf(int(accepted)), share.sf(int(accepted) - 1)) < 1e-4


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_rare_acceptances_are_neither_lost_nor_added(backend):
    reason = drs.ops.available("cpu")[backend]
    if reason:
        pytest.skip(reason)
    words = drs.ops.words(drs.Rng(0), 47, 1, stream=ACCEPT, ids=torch.tensor(ROWS_OF_TINY_U))
    assert bool((words >> 8 == 0).all())
    assert not accepts_too_often_or_seldom(backend, 1e-8)
    assert not accepts_too_often_or_seldom(backend, 3e-8)


def test_24_bit_uniforms_are_noticed(monkeypatch):
    monkeypatch.setattr(reference, "uniform", u_of_24_bits)
    assert accepts_too_often_or_seldom("reference", 1e-8)
