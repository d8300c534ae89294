"""MH: exact transition matrices, the score-only oracle, a slow version, and what it refuses.

By chance a test of a law fails in less than 1 of 1,000 runs over all seeds; seeds are fixed.
"""

import math

import pytest
import torch
from scipy.stats import binom, chi2

import drs_fast as drs
from benchmarks.common import oracle
from drs_fast.core import CHAIN, REAL, Rng
from drs_fast.samplers.common import groups
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.samplers.mh import MH
from drs_fast.training.fitting import Draws

# Chains are short here; one test asks for the warning.
pytestmark = pytest.mark.filterwarnings("ignore:.*never moved:UserWarning")

OFFSET = torch.tensor([-7.0, 0.0, 20.0])
POLICIES = [{}, {"unmoved": "drop"}, {"unmoved": "restart"}, {"start": "first"}]


def lognormal(s, starts=10_000):
    """x = z ~ N(0, 1), and the data N(s, 1): logits are N(-s^2/2, s^2), of the data N(s^2/2, s^2).

    Real samples are quantiles, so that they are the data and no sample of it.
    """
    q = (torch.arange(starts, dtype=torch.float64) + 0.5) / starts
    real = (torch.special.ndtri(q) + s).float()[:, None]
    return drs.GAN(lambda z: z, lambda x: s * x[:, 0] - s * s / 2, 1, real=real)


def small(change=lambda x, logit: logit, real=None):
    real = Draws(3).normal(300, 2) + 0.5 if real is None else real
    return drs.GAN(lambda z: z, lambda x: change(x, x[:, 0] + 0.7 * x[:, 1]), 2, real=real)


def conditional(real_labels=None):
    """Each class has its own place; real samples lie half a unit from the generated ones."""
    y = torch.arange(300) % 3 if real_labels is None else real_labels
    real = Draws(4).normal(len(y), 2) + OFFSET[y, None] + 0.5
    return drs.GAN(
        lambda z, y: z + OFFSET[y, None],
        lambda x, y: (1.0 + y) * (x[:, 0] - OFFSET[y]),
        2,
        labels=3,
        real=(real, y),
    )


# --- the exact transition matrix of a discrete model

STATES = 10
MODEL = torch.tensor([0.02, 0.05, 0.08, 0.1, 0.25, 0.15, 0.12, 0.1, 0.08, 0.05]).double()
LOGITS = torch.tensor([3.0, -2.0, 0.5, 1.0, -1.0, 0.0, 2.0, -4.0, 0.2, 1.5])
DATA = MODEL * LOGITS.double().exp() / (MODEL * LOGITS.double().exp()).sum()


def discrete():
    edges = torch.special.ndtri(MODEL.cumsum(0)[:-1])
    counts = (20_000 * DATA).round().long()
    real = torch.arange(STATES).repeat_interleave(counts).float()[:, None]
    return drs.GAN(
        lambda z: torch.bucketize(z.double(), edges).float(),
        lambda x: LOGITS[x[:, 0].long()],
        1,
        real=real,
    )


def transitions():
    """Probabilities of moving from a state to another, (from, to); a move to itself counts."""
    ratio = (LOGITS.double()[None] - LOGITS.double()[:, None]).exp().clamp(max=1)
    moves = MODEL[None] * ratio
    return moves, moves + torch.diag(1 - moves.sum(dim=1))


def expected(sampler):
    """The exact law of a chain's end."""
    moves, whole = transitions()
    steps = sampler.chain_length
    if sampler.start == "first":
        return MODEL @ torch.matrix_power(whole, steps - 1)
    stays = (1 - moves.sum(dim=1)) ** steps
    end = DATA @ torch.matrix_power(whole, steps)
    if sampler.unmoved != "keep":
        end = end - DATA * stays
    if sampler.unmoved == "restart":
        end = end + restarted(steps)
    return end / end.sum()


def restarted(steps):
    """Probability that a chain runs again and then ends in each state."""
    moves, _ = transitions()
    stays, ends = (1 - moves.sum(dim=1)) ** steps, torch.zeros_like(DATA)
    ratio = (LOGITS.double()[None] - LOGITS.double()[:, None]).exp().clamp(max=1)
    for start in stays.gt(1e-12).nonzero()[:, 0].tolist():
        refused = MODEL - moves[start]  # what a chain was offered that did not move
        refused /= refused.sum()
        again = refused[None] * ratio
        again += torch.diag(1 - again.sum(dim=1))
        ends += DATA[start] * stays[start] * (refused @ torch.matrix_power(again, steps - 1))
    return ends


def discrepancy(sampler, n=100_000):
    """p value of chi-square, and total variation, of n chains' ends against the exact law."""
    batch = drs.generate(discrete(), sampler, n, seed=2)
    law = expected(sampler)
    counts = torch.bincount(batch.x[:, 0].long(), minlength=STATES).double()
    return p_value(counts, law), float((counts / n - law).abs().sum() / 2), batch


def p_value(counts, law):
    expected = law / law.sum() * counts.sum()
    possible = expected > 0
    statistic = ((counts - expected).square() / expected)[possible].sum()
    return float(chi2.sf(float(statistic), int(possible.sum()) - 1))


# Total variation is below sqrt(chi-square / n) / 2, whose 10^-4 quantile gives this.
FAR = 0.5 * math.sqrt(chi2.isf(1e-4, STATES - 1) / 100_000)


@pytest.mark.parametrize("chain_length", [1, 2, 5, 12])
@pytest.mark.parametrize(
    "policy",
    [{}, {"unmoved": "drop"}, {"unmoved": "restart"}, {"start": "first"}],
    ids=["keep", "drop", "restart", "first"],
)
def test_chains_end_as_the_transition_matrix_says(chain_length, policy):
    sampler = MH(chain_length=chain_length, burn_in=20_000, **policy)
    p, distance, batch = discrepancy(sampler)
    assert p > 1e-4
    assert distance < FAR
    if not policy:
        assert torch.allclose(expected(sampler), DATA)
        stays = (1 - transitions()[0].sum(dim=1)) ** chain_length
        unmoved = int((batch.ids < 0).sum())
        assert 1e-4 < binom.cdf(unmoved, 100_000, float(DATA @ stays)) < 1 - 1e-4


def always_moves(logit, rng, *, start=None):
    ends = torch.full_like(logit[:, 0], logit.shape[1] - 1).long()
    return ends, ends + 1


def reversed_logits(logit, rng, *, start=None):
    return WALK(-logit, rng, start=-start)


def no_start(logit, rng, *, start=None):
    return WALK(logit, rng)


def late_logits(logit, rng, *, start=None):
    return WALK(logit.roll(1, dims=1), rng, start=start)


def one_start_for_all(gan, rng, size, n):
    return tuple(torch.zeros_like(turn) for turn in TURNS(gan, rng, size, n))


WALK, TURNS = drs.ops.walk, groups.turns


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (drs.ops, "walk", WALK),
        (drs.ops, "walk", always_moves),
        (drs.ops, "walk", reversed_logits),
        (drs.ops, "walk", no_start),
        (drs.ops, "walk", late_logits),
        (groups, "turns", one_start_for_all),
    ],
)
def test_planted_faults_are_noticed(module, name, fault, monkeypatch):
    monkeypatch.setattr(module, name, fault)
    p, distance, _ = discrepancy(MH(chain_length=3, burn_in=20_000))
    noticed = p < 1e-4 and distance > FAR
    assert noticed == (fault is not WALK)


def run_again(chain_length=5):
    """Chi-square p value for the ends of chains that never left their real start."""
    kept, again = (
        drs.generate(discrete(), MH(chain_length=chain_length, unmoved=unmoved), 100_000, seed=2)
        for unmoved in ("keep", "restart")
    )
    ends = again.x[kept.ids < 0, 0].long()
    return p_value(torch.bincount(ends, minlength=STATES).double(), restarted(chain_length))


def test_chains_run_again_with_other_uniforms(monkeypatch):
    assert run_again() > 1e-4
    monkeypatch.setattr("drs_fast.samplers.mh.RESTART", 0)
    assert run_again() < 1e-10


# --- starts


def began(gan, sampler, chains, seed=0):
    """Which real sample each chain began at, when no proposal can move it."""
    lost = gan.judged(lambda x, *y: torch.where(x[:, 0] > 1e6, x[:, 0], -math.inf))
    state = sampler.init(gan, Rng(seed))
    rows = chains * sampler.chain_length
    z, y = drs.ops.latents(gan, Rng(seed), rows), drs.ops.labels(gan, Rng(seed), rows)
    _, batch = sampler.step(lost, state, z, y, Rng(seed))
    assert (batch.ids < 0).all()
    return batch.x[:, 0].long(), batch


def counted(sizes):
    """A GAN with real samples 0, 1, ..., and the given number in each class."""
    n = sum(sizes)
    real = torch.arange(n).float()[:, None]
    if len(sizes) == 1:
        return drs.GAN(lambda z: z, lambda x: 0 * x[:, 0] + 2, 1, real=real)
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return drs.GAN(
        lambda z, y: z, lambda x, y: 0 * x[:, 0] + 2, 1, labels=len(sizes), real=(real, y)
    )


def test_no_real_sample_is_taken_twice_before_all_have_been():
    found, batch = began(counted([1000]), MH(chain_length=2), 2500)
    for first in (0, 1000):
        assert torch.equal(found[first : first + 1000].sort().values, torch.arange(1000))
    assert torch.equal(found[2000:], found[:500])
    assert int(batch.stats["distinct"]) == 1000
    other, _ = began(counted([1000]), MH(chain_length=2), 1000, seed=1)
    assert not torch.equal(other, found[:1000])


def test_nor_one_of_a_class():
    found, batch = began(counted([400, 300, 40]), MH(chain_length=2), 900)
    uses = torch.bincount(found, minlength=740)
    chains = torch.bincount(batch.y, minlength=3)
    for k, own in enumerate(uses.split([400, 300, 40])):
        assert int(own.sum()) == int(chains[k])
        assert int(own.max() - own.min()) == 1
    assert int(batch.stats["distinct"]) == int((uses > 0).sum())


def test_blocks_of_chains_follow_each_other(monkeypatch):
    """Every block starts about where the last one ended; no real sample counts as new twice."""
    monkeypatch.setattr(groups, "BLOCK", 512)
    found, batch = began(counted([4000, 1000]), MH(chain_length=2), 3072)
    uses = torch.bincount(found, minlength=5000)
    new = int(batch.stats["distinct"])
    assert 0.9 * int((uses > 0).sum()) < new <= int((uses > 0).sum())
    assert int(uses[:4000].max()) <= 2
    assert float((uses[:4000] > 0).double().mean()) > 0.9 * 1536 / 4000
    assert int(uses[4000:].max()) <= 3
    gan, sampler = counted([4000, 1000]), MH(chain_length=2)
    state, parts = sampler.init(gan, Rng(0)), []
    for first, end in ((0, 500), (500, 600), (600, 3072)):
        blocks, ranks = groups.turns(gan, Rng(0, 2 * first), 2, end - first)
        parts.append(torch.stack([blocks, ranks]))
    assert torch.equal(torch.cat(parts, dim=1), torch.stack(groups.turns(gan, Rng(0), 2, 3072)))
    assert state.chains_of_block.sum() == 512


def random_order():
    """Chi-square p value for the first starts among sorted real samples."""
    found, _ = began(counted([20_000]), MH(chain_length=1), 2000)
    counts = torch.bincount(found // 2000, minlength=10).double()
    return chi2.sf(float((counts - 200).square().sum() / 200 / 0.9), 9)


def test_starts_come_in_a_random_order(monkeypatch):
    assert random_order() > 1e-4
    monkeypatch.setattr(drs.ops, "uniform", lambda rng, n, **_: torch.zeros(n, dtype=torch.float64))
    assert random_order() < 1e-4


def test_unmoved_chains_give_different_real_samples():
    """The same construction with shorter chains, of which 0.482 never move."""
    gan, n = lognormal(3.0, starts=4096), 4096
    batch = drs.generate(gan, MH(chain_length=100), n)
    own = batch.x[batch.ids < 0]
    assert len(own) > 1800
    assert len(own.unique()) == len(own)
    assert int(batch.stats["distinct"]) >= len(own)
    twice = drs.generate(lognormal(3.0, starts=1024), MH(chain_length=100), n)
    own = twice.x[twice.ids < 0]
    assert int(twice.stats["distinct"]) <= len(own.unique()) < len(own)


def test_all_real_samples_are_taken_or_as_many_as_is_said():
    real, asked = torch.arange(12_000.0)[:, None], []

    def some(n):
        asked.append(n)
        return real[:n]

    for given, fields, n in (
        (real, {}, 12_000),
        (real, {"starts": 70}, 70),
        (some, {"burn_in": 500}, 500),
        (some, {"burn_in": 500, "starts": 80}, 80),
    ):
        gan = drs.GAN(lambda z: z, lambda x: 0 * x[:, 0] + 2, 1, real=given)
        sampler = MH(**fields)
        assert sampler.init(gan, Rng(0)).real.sort().values.tolist() == list(range(n))
        assert len(sampler.data(gan)[0]) == n
    assert set(asked) == {500, 80}


# --- the acceptance rate


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({"chain_length": 10}, 0.4795),
        ({"chain_length": 10, "unmoved": "restart"}, 0.4795),
        # Of two proposals: 1 / 2 + exp(1) Phi(-sqrt 2).
        ({"chain_length": 2, "start": "first"}, 0.7138),
    ],
)
def test_the_acceptance_rate_is_that_of_theory(fields, share, tmp_path):
    n, sampler = 20_480, MH(**fields)
    batch = drs.generate(lognormal(1.0), sampler, n)
    # A chain's share varies at most as much as that of chains which always move or never.
    error = math.sqrt(share * (1 - share) / n)
    assert float(batch.stats["acceptance_rate"]) == pytest.approx(share, abs=4 * error)
    run = drs.generate(lognormal(1.0), sampler, 500, out=tmp_path / "run", chunk_rows=None)
    moves, calls = run.manifest["moves"], run.manifest["calls_per_sample"] * 500
    offered = calls / 2 if "start" in fields else calls
    assert run.manifest["acceptance_rate"] == moves / offered


# --- logits that are normal, of x that are not needed


@pytest.mark.parametrize(
    ("s", "share"), [(0.5, 0.7237), (1.0, 0.4795), (2.0, 0.1573), (3.0, 0.0339)]
)
def test_moves_are_accepted_as_often_as_known(s, share):
    """Chains of one proposal from the data itself."""
    batch = drs.generate(lognormal(s), MH(chain_length=1), 100_000)
    moved = float((batch.ids >= 0).double().mean())
    assert moved == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1e5) + 1e-4)


@pytest.mark.parametrize(
    ("s", "chain_length", "share"),
    [
        (0.5, 10, 0.0018),
        (1.0, 10, 0.0499),
        (2.0, 10, 0.421),
        (3.0, 10, 0.807),
        (1.0, 100, 2.6e-4),
        (2.0, 100, 0.0905),
        (3.0, 100, 0.482),
        (2.0, 640, 0.0138),
        (3.0, 640, 0.239),
    ],
)
def test_never_moved_as_often_as_known(s, chain_length, share):
    n = 20_000 if chain_length == 10 else 3000
    batch = drs.generate(lognormal(s), MH(chain_length=chain_length), n)
    still = batch.ids < 0
    error = math.sqrt(share * (1 - share) / n)
    rounding = 0.02 * share
    assert float(still.double().mean()) == pytest.approx(share, abs=4 * error + rounding)
    chains = int(batch.stats["calls"]) // chain_length
    tally = int(batch.stats["unmoved"]) / chains
    assert tally == pytest.approx(share, abs=4 * error + rounding)


@pytest.mark.parametrize(
    ("chain_length", "n", "moved_only"), [(10, 20_000, 0.90), (20, 20_000, 1.18), (100, 5000, 1.68)]
)
def test_dropping_chains_that_never_moved_is_biased_and_keeping_them_is_not(
    chain_length, n, moved_only
):
    """The logit of the data has mean 2 and deviation 2."""
    error = 4 * 2 / math.sqrt(n) + 0.005
    mean = {
        unmoved: float(
            drs.generate(lognormal(2.0), MH(chain_length=chain_length, unmoved=unmoved), n)
            .logit.double()
            .mean()
        )
        for unmoved in ("keep", "drop")
    }
    assert mean["keep"] == pytest.approx(2.0, abs=error)
    assert mean["drop"] == pytest.approx(moved_only, abs=error)
    assert mean["drop"] < 2.0 - error


@pytest.mark.parametrize(("moves", "n", "known"), [(10, 20_000, 0.66), (100, 5000, 1.66)])
def test_a_generated_start_is_forgotten_slowly(moves, n, known):
    batch = drs.generate(lognormal(2.0), MH(chain_length=moves + 1, start="first"), n)
    mean = float(batch.logit.double().mean())
    assert mean == pytest.approx(known, abs=4 * 2 / math.sqrt(n) + 0.005)


def test_known_ratio_at_640():
    gan, n = oracle.gan(), 1500
    z = Draws(5).normal(40_000, 3)
    x, logit = gan.logits(z)
    u = Draws(6).uniform(len(x))
    real = x[u < (logit.double() - oracle.LOG_M).exp()][:10_000]
    gan.real = real
    batch = drs.generate(gan, MH(), n)
    law = oracle.law()
    found = oracle.metrics(batch.x)
    assert oracle.chi_square(batch.x, law.rings, law.radii) > 1e-4
    assert found.hq == pytest.approx(99.97, abs=400 * math.sqrt(law.hq * (1 - law.hq) / n))
    assert found.sd == pytest.approx(0.0499, rel=4 / math.sqrt(4 * n))
    assert int((batch.ids < 0).sum()) == 0  # below 10^-30 a chain


# --- row by row


def slow(gan, sampler, chains, seed):
    """(id, logit, x) of every chain with a result, move by move in Python.

    And the tallies of them all.
    """
    k = sampler.chain_length
    state = sampler.init(gan, Rng(seed))
    real, labels = gan.real_samples(sampler.burn_in)
    score = gan.scores(real, labels).tolist()
    labels = None if labels is None else labels.tolist()
    order = drs.ops.uniform(Rng(seed), len(score), stream=REAL).argsort().tolist()
    rows = chains * k
    z, y = drs.ops.latents(gan, Rng(seed), rows), drs.ops.labels(gan, Rng(seed), rows)
    label = [0 if y is None else int(y[row // k * k]) for row in range(rows)]
    x, logit = gan.logits(z, None if y is None else torch.tensor(label))
    logit = logit.tolist()
    first_u, second_u = (
        drs.ops.uniform(Rng(seed), rows, stream=CHAIN, ids=torch.arange(rows) + row).tolist()
        for row in (0, 2**61)
    )

    def walk(first, current, u):
        place, moves = None, 0
        for row in range(first, first + k):
            new = logit[row]
            if math.isnan(new) or new == math.inf:
                continue
            moves_on = current is None or new >= current > -math.inf
            if moves_on or (new > -math.inf and u[row] < math.exp(min(0.0, new - current))):
                moves += current is not None
                current, place = new, row
        return place, current, moves

    found, seen, tallies = [], {}, {"unmoved": 0, "distinct": 0, "moves": 0}
    for first in range(0, rows, k):
        current = start = None
        if sampler.start == "real":
            own = [
                i
                for i in order
                if not (math.isnan(score[i]) or score[i] == math.inf)
                and (y is None or labels[i] == label[first])
            ]
            turn = seen[label[first]] = seen.get(label[first], -1) + 1
            start = own[turn % len(own)]
            current = score[start]
        place, end, moves = walk(first, current, first_u)
        tallies["moves"] += moves
        tallies["unmoved"] += place is None
        if place is None and sampler.unmoved == "restart":
            place, end, _ = walk(first, None, second_u)
        if place is not None:
            found.append((place, end, x[place]))
        elif sampler.start == "real" and sampler.unmoved == "keep":
            found.append((~first, current, real[start]))
            tallies["distinct"] += turn < len(own)
    assert torch.equal(state.logits, burn_in(gan, Rng(seed), sampler.burn_in, each=True)[0])
    return found, tallies


def sometimes_invalid(x, logit):
    """NaN or infinite depending on the last bits of x, about as often as is tolerated."""
    lottery = x[:, 0].detach().view(torch.int32) % 20_000
    logit = torch.where(x[:, 1] < -1.2, -math.inf, logit)  # an eighth
    return torch.where(lottery == 7, math.nan, torch.where(lottery == 8, math.inf, logit))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("chain_length", [1, 3, 40])
@pytest.mark.parametrize("make", [small, lambda: small(sometimes_invalid), conditional])
def test_ids_are_those_of_a_slow_version(make, chain_length, policy):
    gan, sampler = make(), MH(chain_length=chain_length, burn_in=500, **policy)
    found, tallies = slow(gan, sampler, 400, seed=7)
    rows = 400 * chain_length
    z, y = drs.ops.latents(gan, Rng(7), rows), drs.ops.labels(gan, Rng(7), rows)
    _, step = sampler.step(gan, sampler.init(gan, Rng(7)), z, y, Rng(7))
    assert tallies == {name: int(step.stats[name]) for name in sampler.tallies}
    batch = drs.generate(gan, sampler, len(found), seed=7, batch_size=256)
    assert batch.ids.tolist() == [place for place, _, _ in found]
    assert batch.logit.tolist() == [logit for _, logit, _ in found]
    assert torch.equal(batch.x, torch.stack([x for _, _, x in found]))
    unmoved = batch.ids < 0
    assert torch.isnan(batch.z[unmoved]).all()
    own = batch.ids[~unmoved]
    assert torch.equal(batch.z[~unmoved], drs.ops.latents(gan, Rng(7), len(own), ids=own))


@pytest.mark.parametrize(
    "make", [lambda: lognormal(2.0), conditional], ids=["plain", "conditional"]
)
@pytest.mark.parametrize("policy", POLICIES)
def test_batches_and_chunks_do_not_matter(make, policy, tmp_path):
    gan, sampler, n = make(), MH(chain_length=12, burn_in=500, **policy), 300
    whole = drs.generate(gan, sampler, n, seed=1)
    for size in (256, 1000):
        batch = drs.generate(gan, sampler, n, seed=1, batch_size=size)
        assert torch.equal(batch.ids, whole.ids)
        assert torch.equal(batch.x, whole.x)
        assert torch.equal(batch.logit, whole.logit)
    settings = {"seed": 1, "batch_size": 256, "chunk_rows": 12 * 32}
    drs.generate(gan, sampler, 100, out=tmp_path / "run", **settings)
    samples = drs.generate(gan, sampler, n, out=tmp_path / "run", **settings)
    assert torch.equal(samples.ids[:], whole.ids)
    assert torch.equal(samples.x[:], whole.x)
    assert samples.manifest["unmoved"] >= int((whole.ids < 0).sum())
    assert drs.store.verify(tmp_path / "run") == []


def test_the_state_does_not_change():
    gan, sampler = conditional(), MH(chain_length=5, burn_in=500)
    state = sampler.init(gan, Rng(0))
    before = [tensor.clone() for tensor in state]
    z, y = drs.ops.latents(gan, Rng(0), 500), drs.ops.labels(gan, Rng(0), 500)
    after, _ = sampler.step(gan, state, z, y, Rng(0))
    assert after is state
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


# --- labels


def test_a_chain_stays_within_its_label():
    gan, sampler = conditional(), MH(chain_length=2, burn_in=500)
    batch = drs.generate(gan, sampler, 3000, seed=6)
    first = torch.where(batch.ids < 0, ~batch.ids, batch.ids) // 2 * 2
    assert torch.equal(batch.y, drs.ops.labels(gan, Rng(6), 3000, ids=first))
    assert ((batch.x - OFFSET[batch.y, None]).abs() < 6).all()
    assert set(batch.y[batch.ids < 0].tolist()) == {0, 1, 2}


def test_only_classes_that_occur_need_real_samples():
    gan = conditional(torch.full((300,), 2)).labelled([0.0, 0.0, 1.0])
    found = drs.generate(gan, MH(chain_length=2, burn_in=500), 600)
    assert (found.y == 2).all()
    own = found.x[found.ids < 0]
    assert len(own) > 100
    assert len(own.unique(dim=0)) >= int(found.stats["distinct"]) > 0


def test_a_class_without_real_samples_is_explained():
    with pytest.raises(ValueError, match="none of the first 60 real samples is of class 2"):
        MH(burn_in=500).init(conditional(torch.arange(60) % 2), Rng(0))


# --- logits that are no numbers


@pytest.mark.parametrize("policy", POLICIES)
def test_chains_of_invalid_proposals_only(policy):
    sampler, k = MH(chain_length=4, burn_in=500, **policy), 4
    gan = small()
    state = sampler.init(gan, Rng(0))
    bad = small(lambda x, logit: torch.where(torch.arange(len(x)) < 200, math.nan, logit))
    z = drs.ops.latents(gan, Rng(0, 40), 400)
    _, batch = sampler.step(bad, state, z, None, Rng(0, 40))
    n = int(batch.count)
    assert int(batch.stats["invalid"]) == 200
    ids = batch.ids[:n]
    if policy:  # nothing comes of them
        assert ids.min() >= 240
        assert n <= 50 if policy == {"unmoved": "drop"} else n == 50
        unmoved = int(batch.stats["unmoved"])
        assert unmoved >= 50 if "restart" in policy.values() else unmoved == 100 - n
    else:
        assert n == 100
        assert ids[:50].tolist() == [~(40 + k * i) for i in range(50)]
        assert torch.isfinite(batch.logit).all()
        assert int(batch.stats["unmoved"]) == int((ids < 0).sum())


def test_invalid_real_samples_are_no_starts():
    real = Draws(3).normal(20_000, 2)
    real[7, 1] = real[9, 1] = 50.0
    gan = small(lambda x, logit: torch.where(x[:, 1] == 50.0, math.nan, logit), real)
    state = MH(burn_in=20_000).init(gan, Rng(0))
    assert sorted(state.real.tolist()) == [i for i in range(20_000) if i not in (7, 9)]
    assert torch.isfinite(state.scores).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("policy", [{}, {"start": "first"}])
def test_a_hopeless_discriminator_is_explained(value, policy):
    gan = small(lambda x, logit: torch.full_like(logit, value))
    with pytest.raises(drs.BadLogits):
        MH(burn_in=500, **policy).init(gan, Rng(0))


def test_hopeless_real_samples_are_explained():
    gan = small(
        lambda x, logit: torch.where(x[:, 0] > 50, math.nan, logit), torch.full((9, 2), 99.0)
    )
    with pytest.raises(drs.BadLogits, match="9 of 9 logits"):
        MH(burn_in=500).init(gan, Rng(0))


# --- arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chain_length", 0),
        ("chain_length", 6.4),
        ("chain_length", True),
        ("chain_length", 2**20),
        ("chain_length", 10**9),
        ("start", "fake"),
        ("start", None),
        ("unmoved", "again"),
        ("starts", 0),
        ("starts", 2.5),
        ("burn_in", 0),
    ],
)
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        MH(**{name: value})


def test_real_samples_are_asked_for():
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0], 2)
    with pytest.raises(ValueError, match=r"real=x.*start='first'"):
        MH().init(gan, Rng(0))
    assert len(MH(start="first", burn_in=300).init(gan, Rng(0)).real) == 0


def test_laws_are_said_plainly():
    assert MH().law.startswith("data, ")
    assert "each its own while there are enough" in MH().law
    assert "dropped" in MH(unmoved="drop").law
    assert "run again from their first proposal" in MH(unmoved="restart").law
    assert "640 steps from the generator" in MH(start="first").law


@pytest.mark.parametrize(
    "real", [torch.zeros(50, 1), torch.zeros(50, 3), torch.zeros(50, 2, dtype=torch.int64)]
)
def test_real_samples_that_the_generator_could_not_give_are_refused(real):
    gan = drs.GAN(lambda z: z, lambda x: x.double().flatten(1).sum(dim=1), 2, real=real)
    with pytest.raises(ValueError, match="real samples must be like generated ones"):
        drs.generate(gan, MH(chain_length=4), 3)


def test_a_run_is_not_resumed_with_other_real_samples(tmp_path):
    def gan(shift):
        real = drs.ops.normal(drs.Rng(4), 300, 2) + shift
        return drs.GAN(lambda z: z, lambda x: x[:, 0], 2, real=real)

    settings = {"out": tmp_path / "run", "chunk_rows": 256, "batch_size": 256}
    drs.generate(gan(0.0), MH(chain_length=2), 100, **settings)
    drs.generate(gan(0.0), MH(chain_length=2), 200, **settings)
    with pytest.raises(drs.store.Conflict, match="data_sha256"):
        drs.generate(gan(1.0), MH(chain_length=2), 300, **settings)


def test_starving_gives_no_advice_about_what_it_lacks():
    gan = small(lambda x, logit: torch.where(x[:, 0] > 5.0, logit, -40.0), torch.full((50, 2), 9.0))
    with pytest.raises(drs.Starvation) as error:
        drs.generate(gan, MH(chain_length=4, unmoved="drop"), 10, patience=20_000)
    assert "\n  1. train the discriminator on" in str(error.value)
    with pytest.raises(drs.Starvation) as other:
        drs.generate(gan, MH(chain_length=4, unmoved="drop"), 10, max_proposals=4096)
    assert str(other.value).endswith("max_proposals=4,096; raise it")
    assert not any(word in str(e.value) for e in (error, other) for word in ("gamma", "log_m"))


def test_real_samples_among_those_given_are_said(tmp_path):
    for out in (None, tmp_path):
        with pytest.warns(
            UserWarning, match=r"of \d+ chains never moved, and returned the real samples"
        ):
            drs.generate(lognormal(3.0), MH(chain_length=10), 300, out=out)
    for quiet in (MH(chain_length=10, unmoved="restart"), MH(chain_length=10, start="first")):
        assert quiet.warning({"calls": 1_000, "unmoved": 90}) is None
    assert MH(chain_length=10).warning({"calls": 1_000, "unmoved": 10}) is None
