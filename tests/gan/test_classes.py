"""Class-conditional GANs: which law labels and samples follow, and that n samples have their quota.

Every test of a law fails by chance at most once in 10^4 runs over all seeds; seeds are fixed.
"""

import math

import pytest
import torch
from runs import equal, files
from scipy import stats

import drs_fast as drs
from drs_fast import Rng, ops, samplers
from drs_fast.gan import classes
from drs_fast.samplers import DRS, MH, OBRS, SIR, Latent

WIDTH = torch.tensor([1.2, 4.0, 2.0, 1.5])  # of the generator's classes; the data's are 1
SHARES = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)  # of the data's classes
CHANCE = 1e-4
EXACT = {"gamma": 0.0, "eps": 0.0}


def logit(x, y):
    """log p_data(x, y)/p_model(x, y), where the model's classes are all alike."""
    width = WIDTH.double()[y]
    x = x[:, 0].double()
    return (4 * SHARES[y]).log() + width.log() - x.square() / 2 * (1 - width.pow(-2))


def gan(**kwargs):
    return drs.GAN(lambda z, y: WIDTH[y, None] * z, logit, 1, labels=4, **kwargs)


def counts(batch, labels=4):
    return torch.bincount(batch.y, minlength=labels)


def fits(found, shares):
    expected = found.sum() * torch.as_tensor(shares, dtype=torch.float64)
    return stats.chisquare(found.double().numpy(), expected.numpy()).pvalue > CHANCE


def normal_within(batch):
    """Whether the samples of every class are standard normal."""
    return [
        stats.kstest(batch.x[batch.y == k, 0].numpy(), "norm").pvalue > CHANCE
        for k in batch.y.unique()
    ]


# --- laws


def test_joint_follows_the_data_of_samples_and_labels():
    batch = drs.generate(gan(), DRS(**EXACT), 40_000)
    assert fits(counts(batch), SHARES)
    assert all(normal_within(batch))


def test_within_follows_the_data_of_each_class_in_equal_numbers():
    batch = drs.generate(gan(), DRS(**EXACT, classes="within"), 40_000)
    assert counts(batch).tolist() == [10_000] * 4
    assert all(normal_within(batch))
    assert bool((batch.ids.diff() > 0).all())


def test_without_quotas_a_log_m_for_each_class_follows_one_over_it():
    sampler, of = DRS(**EXACT, classes="within"), gan()
    state = sampler.init(of, Rng(0))
    z, y = ops.latents(of, Rng(0), 100_000), ops.labels(of, Rng(0), 100_000)
    _, batch = sampler.step(of, state, z, y, Rng(0))
    found = torch.bincount(batch.y[: int(batch.count)], minlength=4)
    inverse = 1 / WIDTH.double()  # M_k within a class
    assert fits(found, inverse / inverse.sum())
    assert not fits(found, [0.25] * 4)


def test_proposals_make_up_for_what_classes_reject():
    """All quotas are reached at about the same time, so few proposals are wasted."""
    batch = drs.generate(gan(), DRS(**EXACT, classes="within"), 40_000)
    least = 10_000 * float(WIDTH.sum())  # M_k proposals for a sample of class k
    assert float(batch.stats["proposals"]) < 1.1 * least
    evenly = 4 * 10_000 * float(WIDTH.max())
    assert 1.1 * least < evenly


@pytest.mark.parametrize("n", [0, 1, 2, 7, 1_001])
@pytest.mark.parametrize("weights", [None, [1, 2, 3, 4], [0.5, 0, 0.5, 0]])
@pytest.mark.parametrize("sampler", [DRS(burn_in=500, classes="within"), OBRS(classes="within")])
def test_every_class_has_its_quota(sampler, weights, n):
    batch = drs.generate(gan(), sampler, n, label_weights=weights)
    shares = classes.shares(4, classes.weights(4, weights))
    assert counts(batch).tolist() == classes.Seats(shares, n).counts
    assert all(abs(c - n * share) < 1 for c, share in zip(counts(batch), shares, strict=True))


@pytest.mark.parametrize("choice", ["joint", "within"])
def test_one_class_alone(choice):
    batch = drs.generate(gan(), DRS(**EXACT, classes=choice), 5_000, only=1)
    assert counts(batch).tolist() == [0, 5_000, 0, 0]
    assert normal_within(batch) == [True]


@pytest.mark.parametrize("choice", ["joint", "within"])
def test_latents_within_classes(choice):
    weight = lambda z, y: -z[:, 0].square() / 2 * y  # noqa: E731
    sampler = Latent(weight, classes=choice)
    found = counts(drs.generate(gan(), sampler, 20_000))
    mass = 1 / torch.arange(1, 5, dtype=torch.float64).sqrt()  # E exp(-y z^2 / 2)
    if choice == "joint":
        assert fits(found, mass / mass.sum())
    else:
        assert found.tolist() == [5_000] * 4


def test_one_budget_for_all_classes_is_the_optimum():
    of = gan()
    for budget in (0.3, 0.5):
        batch = drs.generate(of, OBRS(budget), 40_000)
        tried = float(batch.stats["proposals"])
        error = math.sqrt(budget * (1 - budget) * (1 / tried + 1 / 10_000))
        assert abs(40_000 / tried - budget) < 4 * error
    within = drs.generate(of, OBRS(0.5, classes="within"), 40_000)
    far = [_distance(batch) for batch in (drs.generate(of, OBRS(0.5), 40_000), within)]
    assert far[0] < 0.8 * far[1]


def _distance(batch):
    """Total variation from the data over classes and cells of x."""
    edges = torch.linspace(-3, 3, 25)
    cell = torch.bucketize(batch.x[:, 0], edges)
    found = torch.bincount(batch.y * 26 + cell, minlength=4 * 26).view(4, 26) / len(cell)
    ends = torch.cat([torch.tensor([0.0]), torch.special.ndtr(edges), torch.tensor([1.0])])
    return float((found - SHARES[:, None] * ends.diff()).abs().sum() / 2)


def test_chains_and_pools_keep_the_proportions_of_proposals():
    real = (torch.zeros(400, 1), torch.arange(400) % 4)
    for sampler in (MH(chain_length=8, burn_in=2_000), SIR(pool=16, size=1, burn_in=4_000)):
        batch = drs.generate(gan(real=real), sampler, 8_000, label_weights=[1, 2, 3, 4])
        assert fits(counts(batch), [0.1, 0.2, 0.3, 0.4])


# --- burn-in


def test_many_classes_have_a_thousand_rows_each():
    many = drs.GAN(lambda z, y: z, lambda x, y: x[:, 0] + y, 2, labels=300)
    state = DRS(classes="within").init(many, Rng(0))
    assert len(state.logits) == 300_000
    assert state.log_m.shape == (300,)
    # The largest of 1,000 normals, 3.24 on average, is hardly ever below 2.
    assert float((state.log_m - torch.arange(300)).min()) > 2
    assert len(DRS().init(many, Rng(0)).logits) == 10_000


def test_classes_that_never_occur_are_not_looked_at():
    def nothing_of_one(x, y):
        return torch.where(y == 1, -math.inf, x[:, 0])

    of = drs.GAN(lambda z, y: z, nothing_of_one, 2, labels=3)
    with pytest.raises(drs.BadLogits, match="class 1"):
        drs.generate(of, DRS(classes="within"), 10)
    batch = drs.generate(of, DRS(classes="within"), 10, label_weights=[1, 0, 1])
    assert counts(batch, 3).tolist() == [5, 0, 5]


# --- the quota


def test_seats_are_websters():
    """The counts of n seats are the rounded t shares for the t at which they add up to n."""
    for shares in ([0.5, 0.3, 0.2], [0.9, 0.1], [1 / 7] * 7, [0.0, 1.0], [0.01] * 100):
        before = [0] * len(shares)
        for n in range(60):
            found = classes.Seats(shares, n).counts
            assert sum(found) == n
            assert all(a <= b for a, b in zip(before, found, strict=True))
            turns = [(c + 0.5) / s for c, s in zip(found, shares, strict=True) if s]
            had = [(c - 0.5) / s for c, s in zip(found, shares, strict=True) if c]
            assert max(had, default=0.0) <= min(turns) + 1e-12
            before = found


def test_many_seats_at_once():
    shares = [k / 5050 for k in range(1, 101)]
    one_by_one = classes.Seats(shares)
    for _ in range(3_000):
        one_by_one.take()
    assert classes.Seats(shares, 3_000).counts == one_by_one.counts
    assert sum(classes.Seats(shares, 10**9).counts) == 10**9


def test_a_stream_has_every_quota_after_every_batch():
    of, sampler = gan(), DRS(**EXACT, classes="within")
    found, total = torch.zeros(4, dtype=torch.int64), []
    for batch, _ in zip(drs.stream(of, sampler, batch_size=512), range(30), strict=False):
        found += counts(batch)
        assert found.tolist() == classes.Seats([0.25] * 4, int(found.sum())).counts
        total.append(batch.ids)
    n = int(found.sum())
    assert n > 1_000
    whole = drs.generate(of, sampler, n)
    assert torch.equal(torch.cat(total).sort().values, whole.ids)


@pytest.mark.parametrize("batch_size", [256, 4096])
def test_the_batch_size_does_not_matter(batch_size):
    sampler = DRS(classes="within")
    assert equal(
        drs.generate(gan(), sampler, 1_000, batch_size=1024),
        drs.generate(gan(), sampler, 1_000, batch_size=batch_size),
    )


@pytest.mark.parametrize("weights", [None, [0.6, 0.2, 0.1, 0.1]])
def test_runs_go_on_to_the_same_bytes(tmp_path, weights):
    sampler, of = DRS(gamma=0.0, burn_in=4_000, classes="within"), gan()

    def run(name, n):
        size = {"chunk_rows": 1024, "batch_size": 256}
        return drs.generate(of, sampler, n, out=tmp_path / name, label_weights=weights, **size)

    whole = run("whole", 2_000)
    memory = drs.generate(of, sampler, 2_000, batch_size=256, label_weights=weights)
    assert torch.equal(whole.ids[:], memory.ids)
    assert whole.manifest["above_share"] == float(memory.stats["above_share"])
    for n in (1, 700, 1_300, 2_000):
        grown = run("grown", n)
        found = torch.bincount(grown.y[:], minlength=4).tolist()
        assert found == classes.Seats(classes.shares(4, weights), n).counts
    assert files(tmp_path / "grown") == files(tmp_path / "whole")
    damaged = sorted((tmp_path / "grown").glob("chunk-*"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    run("grown", 2_000)
    assert files(tmp_path / "grown") == files(tmp_path / "whole")


def test_a_row_left_out_anywhere_in_a_chunk_cuts_it(tmp_path):
    """Rare classes are soon full, and few steps of a chunk then leave a row of theirs out."""
    sampler = DRS(gamma=0.0, burn_in=4_000, classes="within")
    options = {"label_weights": [0.9985, 5e-4, 5e-4, 5e-4], "chunk_rows": 8192, "batch_size": 256}
    for n in (5_000, 7_000, 9_000, 11_000, 20_000):
        drs.generate(gan(), sampler, n, out=tmp_path / "grown", **options)
    drs.generate(gan(), sampler, 20_000, out=tmp_path / "whole", **options)
    assert files(tmp_path / "grown") == files(tmp_path / "whole")


def test_other_proportions_are_another_run(tmp_path):
    drs.generate(gan(), DRS(), 50, out=tmp_path, only=2)
    for other in ({}, {"only": 1}, {"label_weights": [1, 1, 2, 1]}):
        with pytest.raises(drs.store.Conflict, match="label_weights"):
            drs.generate(gan(), DRS(), 50, out=tmp_path, **other)
    drs.generate(gan(label_weights=[0, 0, 1, 0]), DRS(), 50, out=tmp_path)


# --- labels


def test_labels_have_the_proportions_of_their_weights():
    of = gan(label_weights=[0.5, 0, 0.2, 0.3])
    found = torch.bincount(ops.labels(of, Rng(1), 200_000), minlength=4)
    assert int(found[1]) == 0
    assert fits(found[[0, 2, 3]], [0.5, 0.2, 0.3])
    ids = torch.tensor([7, 3, 5])
    assert torch.equal(ops.labels(of, Rng(1), 3, ids=ids), ops.labels(of, Rng(1), 8)[ids])


def test_equal_weights_are_another_way_to_the_same_law():
    of = gan(label_weights=[2.0] * 4)
    assert torch.equal(ops.labels(of, Rng(1), 10_000), ops.labels(gan(), Rng(1), 10_000))


def test_the_largest_uniform_is_of_the_last_class_that_occurs():
    u = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    weights = classes.weights(11, [1.0] * 10 + [0.0])  # ten times 0.1 is less than 1
    assert classes.drawn(u, 11, weights).tolist() == [0, 9]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "4 numbers"),
        ("abcd", "4 numbers"),
        ([[1, 2, 3, 4]], "4 numbers"),
        ([1, -1, 1, 1], "finite number"),
        ([1, math.nan, 1, 1], "finite number"),
        ([0, 0, 0, 0], "all 0"),
    ],
)
def test_wrong_weights_are_explained(weights, message):
    with pytest.raises(ValueError, match=message):
        gan(label_weights=weights)
    with pytest.raises(ValueError, match=message):
        drs.generate(gan(), DRS(), 5, label_weights=weights)


@pytest.mark.parametrize("only", [-1, 4, 1.0, "1", True])
def test_a_wrong_class_is_explained(only):
    with pytest.raises(ValueError, match="only must be"):
        drs.generate(gan(), DRS(), 5, only=only)


def test_labels_that_a_gan_does_not_have():
    plain = drs.GAN(lambda z: z, lambda x: x[:, 0], 2)
    with pytest.raises(ValueError, match="has no labels"):
        drs.generate(plain, DRS(), 5, only=0)
    with pytest.raises(ValueError, match="has no labels"):
        drs.generate(plain, DRS(), 5, label_weights=[1.0])
    with pytest.raises(ValueError, match="needs a GAN with labels"):
        drs.generate(plain, DRS(classes="within"), 5)
    with pytest.raises(ValueError, match="got both only and label_weights"):
        drs.generate(gan(), DRS(), 5, only=0, label_weights=[1, 1, 1, 1])


@pytest.mark.parametrize("name", ["drs", "obrs", "latent"])
def test_there_are_two_choices(name):
    with pytest.raises(ValueError, match="classes must be one of"):
        samplers.get(name)(classes="each")


def test_few_samples_of_each_class_take_few_rows():
    batch = drs.generate(gan(), DRS(**EXACT, classes="within"), 8)
    assert counts(batch).tolist() == [2] * 4
    assert int(batch.stats["calls"]) <= 512
    whole = drs.generate(gan(), DRS(**EXACT, classes="within"), 8, batch_size=256)
    assert equal(batch, whole)


def test_steps_grow_while_a_rare_class_is_waited_for():
    seen = []

    def discriminator(x, y):
        seen.append(len(x))
        return -0.1 * x[:, 0].square()

    of = drs.GAN(lambda z, y: z, discriminator, 1, labels=2)
    sampler = DRS(gamma=0.0, burn_in=100, classes="within")
    batch = drs.generate(of, sampler, 1_000, seed=37, label_weights=[999, 1])
    assert counts(batch, 2).tolist() == [999, 1]
    after = len(seen) - 1  # the burn-in is one call
    assert int(batch.ids[-1]) > 4_000  # few have to wait so long
    assert after < 12


def test_weights_whose_sum_is_no_number():
    assert classes.weights(4, [1e308] * 4) == (0.25,) * 4


def test_starvation_names_the_classes():
    def discriminator(x, y):
        return torch.where(y == 2, -40.0, -0.1 * x[:, 0].square())

    of = drs.GAN(lambda z, y: z, discriminator, 1, labels=4)
    sampler = DRS(gamma=0.0, log_m=0.0, classes="within")
    with pytest.raises(drs.Starvation, match="class 2 lacks 5") as stop:
        drs.generate(of, sampler, 20, patience=20_000)
    assert "of a class that lacks samples" in str(stop.value)


def test_burn_in_logits_are_not_in_the_manifest(tmp_path):
    many = drs.GAN(lambda z, y: z, lambda x, y: x[:, 0] + y, 2, labels=300)
    manifest = drs.generate(many, DRS(burn_in=300), 5, out=tmp_path / "joint").manifest
    assert "logits" not in manifest
    assert isinstance(manifest["log_m"], float)
    manifest = drs.generate(many, DRS(classes="within"), 5, out=tmp_path / "within").manifest
    assert len(manifest["log_m"]) == 300
