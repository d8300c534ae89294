"""OBRS: its threshold, its law on the known-ratio oracle, and what it refuses.

By chance a test of a law fails in less than 1 of 1,000 runs over all seeds; seeds are fixed.
"""

import math
from functools import partial

import pytest
import torch
from runs import plain, scaled

import drs_fast as drs
from benchmarks.common import oracle
from drs_fast.core import ACCEPT
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.samplers.obrs import OBRS


def of(logits):
    """A GAN whose burn-in logits are these, repeated as needed."""
    return drs.GAN(lambda z: z, lambda x: logits.repeat(-(-len(x) // len(logits)))[: len(x)], 1)


def clipped_mean(logit, log_m):
    """Mean acceptance min(1, exp(logit - log_m)), in Python."""
    logit = logit.double().tolist()
    return math.fsum(math.exp(min(0.0, value - float(log_m))) for value in logit) / len(logit)


# --- the threshold


@pytest.mark.parametrize("budget", [1e-6, 0.01, 0.3, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("sd", [0.0, 1e-3, 1.0, 3.0, 100.0, 5000.0])
def test_the_burn_in_meets_the_budget_exactly(sd, budget):
    logit = sd * drs.ops.normal(drs.Rng(1), 2000, 1)[:, 0]
    state = OBRS(budget=budget, burn_in=2000).init(of(logit), drs.Rng(0))
    share = clipped_mean(logit, state.log_m)
    exact = clipped_mean(logit, logit.max())
    assert float(state.log_m) <= float(logit.max())
    assert share == pytest.approx(max(budget, exact), rel=1e-11)
    assert float(state.acceptance) == pytest.approx(share, rel=1e-11)
    assert float(state.gamma) == 0.0


@pytest.mark.parametrize(
    ("logits", "budget", "log_c"),
    [
        ([0.0, -1.0], 0.75, math.log(0.5) + 1.0),  # one of two is clipped
        ([0.0, -1.0], 1.0, 1.0),
        ([0.0, -40.0], 0.9, math.log(0.8) + 40.0),  # c beyond 1e16
        ([0.0, -2000.0], 0.9, math.log(0.8) + 2000.0),  # exp(-2000) is no float64
        ([0.0, -1.0, -math.inf, -math.inf], 0.5, 1.0),  # all that can be
        ([0.0, 0.0, 0.0, -1.0], 0.9, math.log(0.6) + 1.0),  # equal ones are clipped together
        ([0.0, -1.0], 0.5, 0.0),  # exact rejection accepts more
    ],
)
def test_c_of_few_logits_by_hand(logits, budget, log_c):
    state = OBRS(budget=budget, burn_in=len(logits)).init(of(torch.tensor(logits)), drs.Rng(0))
    assert float(state.log_m) == pytest.approx(-log_c, abs=1e-12)


def test_exact_rejection_where_it_accepts_enough():
    state = OBRS(budget=0.1).init(oracle.gan(), drs.Rng(0))
    assert float(state.log_m) == float(state.logits.max())
    assert float(state.acceptance) == pytest.approx(0.49, abs=0.01)


@pytest.mark.parametrize(("n", "share"), [(10, 0.7), (1000, 0.333), (3, 1.0)])
def test_all_finite_logits_are_a_budget_that_can_be(n, share):
    finite = round(n * share)
    logit = torch.where(torch.arange(n) < finite, -torch.arange(n) / n, -math.inf)
    state = OBRS(budget=share, burn_in=n).init(of(logit), drs.Rng(0))
    assert clipped_mean(logit, state.log_m) == pytest.approx(finite / n, rel=1e-12)


@pytest.mark.parametrize("budget", [0.41, 0.5, 1.0])
def test_a_budget_beyond_the_finite_logits_is_refused(budget):
    logit = torch.where(torch.arange(1000) < 400, 0.5, -math.inf)
    with pytest.raises(ValueError, match=r"1,000 proposals only 400 \(0.4\) have a finite logit"):
        OBRS(budget=budget, burn_in=1000).init(of(logit), drs.Rng(0))


# --- the law


def sampled(budget, n, burn_in=100_000):
    gan, sampler = oracle.gan(), OBRS(budget=budget, burn_in=burn_in)
    settings = {"log_m": float(sampler.init(gan, drs.Rng(0)).log_m), "gamma": 0.0, "eps": 0.0}
    batch = drs.generate(gan, sampler, n)
    probability = partial(drs.ops.probability, **settings)
    failures = oracle.failures(batch, oracle.law(**settings), probability)
    proposals = int(batch.ids[-1]) + 1
    wanted = max(budget, oracle.law().acceptance)
    deviation = math.sqrt(wanted * (1 - wanted) * (1 / proposals + 1 / burn_in))
    if abs(n / proposals - wanted) > 4 * deviation:
        failures.append(f"budget {wanted:.4f}, accepted {n / proposals:.4f}")
    return batch, failures


@pytest.mark.parametrize(
    ("budget", "hq", "sd"),
    [
        (0.25, 99.966, 0.04993),
        (0.5, 99.966, 0.04995),
        (0.7, 99.928, 0.05769),
        (0.8, 91.87, 0.06209),
        (0.9, 81.67, 0.06209),
    ],
)
def test_known_ratio(budget, hq, sd):
    batch, failures = sampled(budget, 50_000)
    assert failures == []
    found = oracle.metrics(batch.x)
    # c comes from 100,000 rows, by which the share of high quality errs a little too.
    share = hq / 100
    error = 100 * math.sqrt(share * (1 - share) / len(batch.x)) + 0.004 * (100 - hq)
    assert found.hq == pytest.approx(hq, abs=4 * error)
    assert found.sd == pytest.approx(sd, rel=0.01)


EXACT = OBRS._log_c


def c_of_the_largest_logit_only(self, logit, log_m):
    return 0.0


def c_too_high(self, logit, log_m):
    return EXACT(self, logit, log_m) + 0.3


def c_of_one_row_less(self, logit, log_m):
    return EXACT(self, logit[1:], log_m)


def c_without_clipping(self, logit, log_m):
    return math.log(self.budget / float((logit.double() - log_m).exp().mean()))


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (EXACT, False),
        (c_of_one_row_less, False),  # within what chance allows
        (c_of_the_largest_logit_only, True),
        (c_too_high, True),
        (c_without_clipping, True),
    ],
)
def test_planted_faults_are_noticed(fault, seen, monkeypatch):
    monkeypatch.setattr(OBRS, "_log_c", fault)
    _, failures = sampled(0.7, 40_000)
    assert bool(failures) == seen, failures


def test_rows_are_those_of_the_written_out_rule():
    gan, sampler = plain(), OBRS(budget=0.6)
    batch = drs.generate(gan, sampler, 500, seed=4)
    rows = int(batch.ids[-1]) + 1
    burn, _ = burn_in(gan, drs.Rng(4), 10_000)
    low, high = 0.0, 50.0
    for _ in range(100):  # log c by bisection
        middle = (low + high) / 2
        above = clipped_mean(burn, float(burn.max()) - middle) > 0.6
        low, high = (low, middle) if above else (middle, high)
    d = gan.logits(drs.ops.latents(gan, drs.Rng(4), rows))[1].double() - burn.max()
    u = drs.ops.uniform(drs.Rng(4), rows, stream=ACCEPT).tolist()
    kept = [i for i in range(rows) if u[i] < min(1.0, math.exp(float(d[i]) + low))]
    assert batch.ids.tolist() == kept


def test_the_law_is_said_plainly():
    assert OBRS(budget=0.3).law == (
        "data when weighted; unweighted, as near the data as accepting 0.3 of all proposals "
        "allows; where exact rejection accepts that many, the data up to ratios above the "
        "burn-in's largest"
    )
    assert "data of each class, in the proportions asked for, as" in OBRS(classes="within").law


# --- classes, batches, runs


def test_each_class_has_its_own_budget():
    gan, sampler = scaled(), OBRS(budget=0.4, burn_in=12_000, classes="within")
    state = sampler.init(gan, drs.Rng(3))
    logit, y = burn_in(gan, drs.Rng(3), 12_000, each=True)
    for k in range(3):
        own = logit[y == k]
        wanted = max(0.4, clipped_mean(own, own.max()))
        assert clipped_mean(own, state.log_m[k]) == pytest.approx(wanted, rel=1e-11)
    rng = drs.Rng(3, 10**9)
    y = drs.ops.labels(gan, rng, 100_000)
    _, batch = sampler.step(gan, state, drs.ops.latents(gan, rng, 100_000), y, rng)
    kept = batch.y[: int(batch.count)]
    for k in (1, 2):
        share = int((kept == k).sum()) / int((y == k).sum())
        assert share == pytest.approx(0.4, abs=4.5 * math.sqrt(0.24 * (1 / 4000 + 1 / 33_000)))


@pytest.mark.parametrize("gan", [plain(), scaled()], ids=["plain", "conditional"])
@pytest.mark.parametrize("batch_size", [1, 1000, 4096])
def test_batches_and_the_ring_give_the_rows_of_one_step(gan, batch_size):
    sampler, rng = OBRS(burn_in=2000), drs.Rng(8)
    state = sampler.init(gan, rng)
    z, y = drs.ops.latents(gan, rng, 5000), drs.ops.labels(gan, rng, 5000)
    after, whole = sampler.step(gan, state, z, y, rng)
    assert after is state
    n = int(whole.count)
    batch = drs.generate(gan, sampler, n, seed=8, batch_size=batch_size)
    assert torch.equal(batch.ids, whole.ids[:n])
    assert torch.equal(batch.logit, whole.logit[:n])


def test_a_run_on_disk_goes_on(tmp_path):
    gan, sampler = plain(), OBRS(budget=0.7, burn_in=2000)
    settings = {"batch_size": 256, "chunk_rows": 512, "seed": 2}
    drs.generate(gan, sampler, 700, out=tmp_path / "run", **settings)
    samples = drs.generate(gan, sampler, 2000, out=tmp_path / "run", **settings)
    memory = drs.generate(gan, sampler, 2000, seed=2)
    assert torch.equal(samples.ids[:], memory.ids)
    assert torch.equal(samples.x[:], memory.x)
    assert samples.manifest["law"] == sampler.law
    assert samples.manifest["log_m"] == float(sampler.init(gan, drs.Rng(2)).log_m)


# --- what cannot work


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", 0),
        ("budget", 1.01),
        ("budget", -0.5),
        ("budget", math.nan),
        ("budget", "half"),
        ("burn_in", 0),
        ("burn_in", 10.0),
    ],
)
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        OBRS(**{name: value})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_invalid_logits_are_never_accepted(bad):
    def discriminator(x):
        return torch.where(x[:, 1] > 3.7, bad, x[:, 0])  # 1 in 10,000

    batch = drs.generate(plain(discriminator), OBRS(budget=0.9), 60_000)
    assert torch.isfinite(batch.logit).all()
    assert int(batch.stats["invalid"]) > 0


def test_hopeless_discriminators_are_explained():
    for value, words in ((math.nan, "NaN"), (-math.inf, "rejects everything")):
        gan = plain(lambda x, value=value: torch.full((len(x),), value))
        with pytest.raises(drs.BadLogits, match=words):
            OBRS().init(gan, drs.Rng(0))
    with pytest.raises(ValueError, match="link='probability'"):
        OBRS().init(plain(lambda x: torch.sigmoid(x[:, 0])), drs.Rng(0))
