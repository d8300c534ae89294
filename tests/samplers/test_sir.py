"""SIR: the law of a draw, the known-ratio oracle, a slow version, and what it warns of.

By chance a test of a law fails in less than 1 of 1,000 runs over all seeds; seeds are fixed.
"""

import dataclasses
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import chi2, ks_2samp

import drs_fast as drs
from benchmarks.common import oracle
from drs_fast.core import SELECT, Rng
from drs_fast.samplers.common import groups
from drs_fast.samplers.sir import SIR, effective

OFFSET = torch.tensor([-7.0, 0.0, 20.0])


def lognormal(s):
    return drs.GAN(lambda z: z, lambda x: s * x[:, 0] - s * s / 2, 1)


def small(change=lambda x, logit: logit):
    return drs.GAN(lambda z: z, lambda x: change(x, x[:, 0] + 0.7 * x[:, 1]), 2)


def conditional():
    return drs.GAN(
        lambda z, y: z + OFFSET[y, None],
        lambda x, y: (0.3 + 0.3 * y) * (x[:, 0] - OFFSET[y]),
        2,
        labels=3,
    )


# --- the law


@pytest.mark.parametrize("replace", [True, False])
def test_a_draw_follows_the_weights_of_its_pool(replace):
    """Each pool has proposals of weights 1, 2, 5; both draws follow the same law."""
    weights = torch.tensor([1.0, 2.0, 5.0])
    gan = drs.GAN(lambda z: z, lambda x: weights.log().repeat(len(x))[: len(x)], 1, block=768)
    sampler = SIR(pool=3, size=2, replace=replace, burn_in=768)
    pools, n = 256, 200
    counts = torch.zeros(3, 3)
    state = SIR(burn_in=768).init(gan, Rng(0))  # which does not warn
    for step in range(n):
        rng = Rng(0, 768 * step)
        _, batch = sampler.step(gan, state, drs.ops.latents(gan, rng, 768), None, rng)
        pairs = (batch.ids % 3).view(pools, 2)
        counts.index_put_(tuple(pairs.T), torch.ones(pools), accumulate=True)
    p = (weights / 8).tolist()
    law = torch.zeros(3, 3)
    for i, j in itertools.product(range(3), repeat=2):
        if replace:
            law[i, j] = p[i] * p[j]
        elif i != j:
            law[i, j] = p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) / 2
    possible = law > 0
    assert (counts[~possible] == 0).all()
    expected = pools * n * law[possible]
    statistic = ((counts[possible] - expected).square() / expected).sum()
    assert chi2.sf(float(statistic), int(possible.sum()) - 1) > 1e-4


def sampled(n=40_000, **fields):
    """What is wrong with n samples of the known-ratio oracle, drawn from pools of 640."""
    batch = drs.generate(oracle.gan(), SIR(**fields), n, seed=1)
    law, found = oracle.law(), oracle.metrics(batch.x)
    pools = int(batch.stats["calls"]) // 640
    unique = int(batch.stats["unique"]) / (64 * pools)
    checks = {
        # Every eighth: with all 64 of a pool the counts vary 15 % more than independent ones.
        "chi-square": oracle.chi_square(batch.x[::8], law.rings, law.radii) > 1e-4,
        "HQ": abs(found.hq / 100 - law.hq) < 5 * math.sqrt(law.hq * (1 - law.hq) / n),
        "sd": abs(found.sd / law.sd - 1) < 0.02,
        f"unique {unique}": abs(unique - 0.927) < 0.003 or not fields.get("replace", True),
        "share": int(batch.stats["proposals"]) == 10 * n,
    }
    return [failure for failure, good in checks.items() if not good]


def test_known_ratio():
    assert sampled() == []


CHOICES = drs.ops.select


def logits_as_weights(logit, rng, **fields):
    return CHOICES(logit.clamp(min=-20).add(21).log(), rng, **fields)


def shifted_by_one(logit, rng, **fields):
    return (CHOICES(logit, rng, **fields) + 1) % logit.shape[1]


def the_largest_only(logit, rng, *, size, replace):
    return logit.topk(size, dim=1).indices


@pytest.mark.parametrize("fault", [logits_as_weights, shifted_by_one, the_largest_only])
def test_planted_faults_are_noticed(fault, monkeypatch):
    monkeypatch.setattr(drs.ops, "select", fault)
    assert sampled(10_000) != []


def ranks(sampler, pools=20_000):
    """Logits of pools' draws, (pools, size), at deviation 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = drs.generate(lognormal(2.0), sampler, pools * sampler.size)
    return batch.logit.double().view(pools, sampler.size)


def alike(logit):
    """Whether all draws of a pool follow the first one's law: means, and KS."""
    first, last, rest = logit[:, 0], logit[:, -1], logit[:, 1:].mean(dim=1)
    errors = [
        float((first - other).mean() / (first - other).std()) * math.sqrt(len(logit))
        for other in (last, rest)
    ]
    # Of different pools, so that they are independent.
    p = ks_2samp(first[::2].numpy(), last[1::2].numpy()).pvalue
    return max(map(abs, errors)) < 4 and p > 1e-4


SETTINGS = [{"size": 16}, {"size": 16, "replace": False}, {"size": 160, "replace": False}]


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_a_run_cut_anywhere_has_the_law_of_the_whole(fields):
    assert alike(ranks(SIR(pool=160, burn_in=500, **fields), 4000))


def test_order_that_betrays_something_would_be_noticed(monkeypatch):
    sampler = SIR(pool=160, size=16, burn_in=500)
    monkeypatch.setattr(drs.ops, "select", lambda *a, **b: CHOICES(*a, **b).sort(dim=1).values)
    assert not alike(ranks(sampler, 4000))
    monkeypatch.undo()
    monkeypatch.setattr(SIR, "_order", lambda self, rows, *a: torch.arange(16).expand_as(rows))
    assert not alike(ranks(dataclasses.replace(sampler, replace=False), 4000))


def test_copies_are_no_neighbours():
    """Adjacent draws are equal as often as distant ones."""
    batch = drs.generate(lognormal(2.0), SIR(pool=160, size=16, burn_in=500), 64_000)
    ids = batch.ids.view(-1, 16)
    near = (ids[:, 0::2] == ids[:, 1::2]).double().mean(dim=1)
    far = (ids[:, :8] == ids[:, 8:]).double().mean(dim=1)
    assert float(far.mean()) > 0.01  # there are copies
    assert abs(float((near - far).mean() / (near - far).std())) * math.sqrt(len(ids)) < 4


def test_small_pools_stay_near_the_generator():
    """With one of 2 proposals the law is not the data, and says so."""
    with pytest.warns(UserWarning, match="a pool of 2 proposals is worth"):
        batch = drs.generate(lognormal(2.0), SIR(pool=2, size=1, burn_in=5000), 20_000)
    mean = float(batch.logit.double().mean())
    assert -2 + 0.5 < mean < 2 - 0.5


def test_laws_are_said_plainly():
    assert SIR(pool=2, size=1).law == "tends to the data as the pool grows: 1 of every 2 proposals"
    assert SIR(size=640).law.startswith("tends to the data")
    half, whole = (SIR(size=size, replace=False).law for size in (320, 640))
    assert half.startswith("between the data and, as size grows to pool, the generator: 320 of")
    assert whole.startswith("the generator, in another order")


def test_the_whole_pool_without_replacement_is_the_generator():
    """Smaller sizes lie between: total variation of x from N(1, 1) grows with the size."""
    distances = []
    for size in (16, 320, 640):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = drs.generate(lognormal(1.0), SIR(size=size, replace=False), 64_000)
        edges = torch.linspace(-3, 4, 29).double()
        found = torch.histc(batch.x[:, 0].double(), 28, -3, 4) / len(batch.x)
        distances.append(float((found - torch.special.ndtr(edges - 1).diff()).abs().sum() / 2))
    assert distances == pytest.approx([0.016, 0.207, 0.381], abs=0.02)
    assert torch.equal(batch.ids.sort().values, torch.arange(64_000))


# --- row by row


def slow(gan, sampler, pools, seed):
    """Ids drawn, pool by pool in Python, and how many differ."""
    k = sampler.pool
    rows = pools * k
    z, y = drs.ops.latents(gan, Rng(seed), rows), drs.ops.labels(gan, Rng(seed), rows)
    y = None if y is None else torch.tensor([int(y[row // k * k]) for row in range(rows)])
    logit = gan.logits(z, y)[1].tolist()
    draws = [
        drs.ops.uniform(Rng(seed), rows, stream=SELECT, draw=j).tolist()
        for j in range(sampler.size)
    ]
    ids, different = [], 0
    for first in range(0, rows, k):
        own = [value if math.isfinite(value) else -math.inf for value in logit[first : first + k]]
        top = max(own)
        weight = [0.0 if value == -math.inf else math.exp(value - top) for value in own]
        drawn = []
        for j in range(sampler.size):
            sums = list(itertools.accumulate(weight))
            if sums[-1] == 0:
                break
            i = next(i for i in range(k) if sums[i] > draws[j][first] * sums[-1])
            drawn.append(first + i)
            if not sampler.replace:
                weight[i] = 0.0
        if not sampler.replace:
            keys = drs.ops.uniform(Rng(seed), rows, stream=SELECT, draw=sampler.size).tolist()
            drawn.sort(key=keys.__getitem__)
        ids += drawn
        different += len(set(drawn))
    return ids, different


def sometimes_invalid(x, logit):
    lottery = x[:, 0].detach().view(torch.int32) % 20_000
    logit = torch.where(x[:, 1] < 0.3, -math.inf, logit)
    return torch.where(lottery == 7, math.nan, torch.where(lottery == 8, math.inf, logit))


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(("pool", "size"), [(1, 1), (5, 2), (40, 7)])
@pytest.mark.parametrize("make", [small, lambda: small(sometimes_invalid), conditional])
def test_ids_are_those_of_a_slow_version(make, pool, size, replace):
    gan, sampler = make(), SIR(pool=pool, size=size, replace=replace, burn_in=500)
    state = SIR(pool=640, size=1, burn_in=500).init(gan, Rng(7))  # which does not warn
    ids, different = slow(gan, sampler, 128, seed=7)
    z, y = drs.ops.latents(gan, Rng(7), 128 * pool), drs.ops.labels(gan, Rng(7), 128 * pool)
    _, batch = sampler.step(gan, state, z, y, Rng(7))
    n = int(batch.count)
    assert batch.ids[:n].tolist() == ids
    assert int(batch.stats["unique"]) == different
    assert torch.equal(batch.z[:n], z[batch.ids[:n]])
    label = None if y is None else batch.y[:n]
    x, logit = gan.logits(batch.z[:n], label)
    assert torch.equal(batch.x[:n], x)
    assert torch.equal(batch.logit[:n], logit)
    if y is not None:
        assert torch.equal(label, y[batch.ids[:n] // pool * pool])


@pytest.mark.parametrize("make", [small, conditional])
def test_batches_and_chunks_do_not_matter(make, tmp_path):
    gan, sampler, n = make(), SIR(pool=24, size=5, burn_in=500), 700
    whole = drs.generate(gan, sampler, n, seed=1)
    for size in (256, 1000):
        batch = drs.generate(gan, sampler, n, seed=1, batch_size=size)
        assert torch.equal(batch.ids, whole.ids)
        assert torch.equal(batch.x, whole.x)
    settings = {"seed": 1, "batch_size": 256, "chunk_rows": 24 * 32}
    drs.generate(gan, sampler, 203, out=tmp_path / "run", **settings)
    samples = drs.generate(gan, sampler, n, out=tmp_path / "run", **settings)
    assert torch.equal(samples.ids[:], whole.ids)
    assert torch.equal(samples.x[:], whole.x)
    assert samples.manifest["unique"] > 0
    assert drs.store.verify(tmp_path / "run") == []


def test_pools_without_a_valid_proposal_give_nothing():
    gan, sampler = small(), SIR(pool=4, size=2, burn_in=500)
    state = sampler.init(gan, Rng(0))
    bad = small(lambda x, logit: torch.where(torch.arange(len(x)) < 200, math.nan, logit))
    z = drs.ops.latents(gan, Rng(0, 40), 400)
    _, batch = sampler.step(bad, state, z, None, Rng(0, 40))
    assert int(batch.stats["invalid"]) == 200
    assert int(batch.count) == 100
    assert batch.ids[:100].min() >= 240


def balanced(pools=6000):
    """Chi-square p value for the classes of pools; each pool must have one class."""
    gan, sampler = conditional(), SIR(pool=8, size=4, burn_in=5000)
    batch = drs.generate(gan, sampler, 4 * pools, seed=3)
    own = batch.y.view(pools, 4)
    assert (own == own[:, :1]).all()
    counts = torch.bincount(own[:, 0], minlength=3).double()
    return chi2.sf(float((counts - pools / 3).square().sum() / (pools / 3)), 2)


def test_classes_are_as_frequent_as_in_raw_rows():
    assert balanced() > 1e-4


def test_a_pool_of_its_largest_label_would_be_noticed(monkeypatch):
    proposals = groups.proposals

    def largest(gan, z, y, size):
        return proposals(gan, z, y.view(-1, size).amax(dim=1).repeat_interleave(size), size)

    monkeypatch.setattr(groups, "proposals", largest)
    assert balanced() < 1e-4


# --- effective sample size


@pytest.mark.parametrize(
    ("logits", "share"),
    [
        ([3.0, 3.0, 3.0, 3.0], 1.0),
        ([800.0, -800.0], 0.5),
        ([math.log(3.0), 0.0], 16 / 20),
        ([0.0, 0.0, -math.inf, math.nan, math.inf], 2 / 5),
    ],
)
def test_effective_share_by_hand(logits, share):
    assert float(effective(torch.tensor(logits))) == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize(("s", "share"), [(0.5, 0.7788), (1.0, 0.3679)])
def test_effective_share_of_normal_logits(s, share):
    state = SIR(burn_in=100_000).init(lognormal(s), Rng(0))
    assert float(state.ess) == pytest.approx(share, rel=0.04)


def test_effective_share_of_the_oracle():
    state = SIR(burn_in=50_000).init(oracle.gan(), Rng(0))
    # The weights' deviation is 0.74, and the share moves by about that much over sqrt(n).
    assert float(state.ess) == pytest.approx(0.6473, abs=0.012)
    assert float(state.acceptance) == 0.1


def test_each_class_has_its_own_share():
    state = SIR(burn_in=9000).init(conditional(), Rng(0))
    expected = torch.tensor([0.3, 0.6, 0.9]).square().neg().exp().double()
    assert torch.allclose(state.ess, expected, rtol=0.15)


def test_many_classes_have_their_own_share_too():
    """With only 100 rows per class, which 10,000 would give, some share would miss 0.37 by far."""
    gan = drs.GAN(lambda z, y: z, lambda x, y: x[:, 0] - 0.5, 1, labels=100)
    state = SIR().init(gan, Rng(0))
    assert len(state.logits) == 100_000
    assert float((state.ess - 0.3679).abs().max()) < 0.2


@pytest.mark.parametrize(
    ("s", "fields", "poor"),
    [
        (1.0, {"pool": 20, "size": 20}, False),
        (1.0, {"pool": 64, "size": 64}, False),
        (2.0, {"pool": 400, "size": 40, "replace": False}, True),
        (1.0, {"pool": 200, "size": 10, "replace": False}, False),
        (3.0, {"pool": 100, "size": 100}, True),
    ],
)
def test_poor_pools_are_warned_of(s, fields, poor):
    """For s = 1 a pool is worth about 0.37 of its proposals; see also the next test."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        SIR(**fields).init(lognormal(s), Rng(0))
    assert len(seen) == poor
    assert all("copies or unlike the data; raise pool" in str(one.message) for one in seen)


@pytest.mark.parametrize(("size", "many"), [(64, False), (65, True), (640, True)])
def test_drawing_much_of_a_pool_without_replacement_is_warned_of(size, many):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        SIR(size=size, replace=False).init(lognormal(0.5), Rng(0))
        SIR(size=size).init(lognormal(0.5), Rng(0))
    assert len(seen) == many
    assert all(f"{size} of 640 proposals drawn without" in str(one.message) for one in seen)


# --- arguments


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("pool", {"pool": 0}),
        ("pool", {"pool": 6.5}),
        (r"pool must be an integer in \[1, 2\^20\), got 1000000000", {"pool": 10**9}),
        ("size", {"size": 0}),
        ("size", {"size": 641}),
        ("size", {"pool": 10}),
        ("replace", {"replace": 1}),
        ("replace", {"replace": "no"}),
        ("replace must be True or False, got ndarray", {"replace": np.array([True, False])}),
        ("burn_in", {"burn_in": 0}),
    ],
)
def test_a_wrong_value_names_its_field(name, fields):
    with pytest.raises(ValueError, match=name):
        SIR(**fields)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_hopeless_discriminator_is_explained(value):
    with pytest.raises(drs.BadLogits):
        SIR(burn_in=500).init(small(lambda x, logit: torch.full_like(logit, value)), Rng(0))


def test_a_hopeless_class_is_explained():
    gan = drs.GAN(lambda z, y: z, lambda x, y: torch.where(y == 1, -math.inf, x[:, 0]), 2, labels=3)
    with pytest.raises(drs.BadLogits, match="class 1"):
        SIR(burn_in=500).init(gan, Rng(0))


def test_numpys_numbers_serve():
    sampler = SIR(pool=np.int64(20), size=np.int32(5), replace=np.bool_(False))
    assert sampler == SIR(pool=20, size=5, replace=False)
    assert sampler.replace is False
