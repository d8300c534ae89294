"""Samples that satisfy a predicate: their law, their cost, and predicates that are wrong."""

import math

import pytest
import torch
from torch import nn

import drs_fast as drs
from drs_fast import GAN, Rng, ops, samplers
from drs_fast.core import BadLogits
from drs_fast.gan import where as conditioned
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.samplers.common.expected import Pilot

EXACT = samplers.DRS(gamma=0.0)


def tilted(**options):
    """Generated x is standard normal; the data has mean (1, 0): the log ratio is x0."""
    return GAN(lambda z: z, lambda x: x[:, 0], 2, **options)


def right(x):
    return x[:, 0] > 1.0


def high(x):
    return x[:, 1] > 0.5


def test_rejection_follows_the_data_given_the_predicate():
    x = drs.generate(drs.where(tilted(), right), EXACT, 4000).x
    assert bool(right(x).all())
    # A normal of mean 1 and sd 1, cut at its mean: mean 1 + sqrt(2 / pi), sd 0.603.
    assert float(x[:, 0].mean()) == pytest.approx(1.798, abs=5 * 0.603 / math.sqrt(4000))


@pytest.mark.parametrize("critic", [False, None])
def test_without_a_critic_it_follows_the_generator(critic):
    gan = drs.where(tilted(), right, critic=False)
    if critic is None:
        gan = drs.where(GAN(lambda z: z, None, 2), right)
    batch = drs.generate(gan, samplers.OBRS(budget=1.0), 4000)
    z = ops.latents(gan, Rng(0), int(batch.stats["proposals"]))
    assert torch.equal(batch.ids, right(z).nonzero().squeeze(1))  # all that satisfy it
    assert bool((batch.logit == 0.0).all())


def test_predicates_compose():
    both = drs.where(drs.where(tilted(), right), high, name="it is high")
    x = drs.generate(both, EXACT, 500).x
    assert bool((right(x) & high(x)).all())
    assert float(x[:, 0].mean()) > 1.6  # the critic still counts
    without = drs.where(drs.where(tilted(), right), high, critic=False)
    x = drs.generate(without, EXACT, 500).x
    assert bool((right(x) & high(x)).all())
    assert conditioned.names(both) == "right and it is high"


def test_labels_links_and_energies():
    def likes(x, y):
        return (x[:, 0] > 0.0) & (y == 2)

    labelled = GAN(lambda z, y: z + 0 * y[:, None], lambda x, y: x[:, 0], 2, labels=3)
    batch = drs.generate(drs.where(labelled, likes), EXACT, 300)
    assert bool(((batch.x[:, 0] > 0.0) & (batch.y == 2)).all())
    sigmoid = GAN(lambda z: z, lambda x: x[:, :1].sigmoid(), 2, link="probability")
    z = ops.normal(Rng(0), 500, 2)
    logit = drs.where(sigmoid, right).logits(z)[1]
    assert torch.equal(logit.isneginf(), ~right(z))
    assert torch.allclose(logit[right(z)], z[right(z), 0], atol=1e-4)
    hinge = drs.where(GAN(lambda z: z, lambda x: x[:, 0], 2, link="hinge"), right)
    assert hinge.energy
    with pytest.raises(ValueError, match="needs a density ratio"):
        drs.generate(hinge, EXACT, 10)
    assert not drs.where(hinge, high, critic=False).energy


@pytest.mark.filterwarnings("ignore:calibrated by")  # few samples satisfy it
def test_a_calibrated_gan():
    gan = tilted(real=ops.normal(Rng(5), 4000, 2) + torch.tensor([1.0, 0.0]))
    x = drs.generate(drs.where(drs.calibrate(gan), right), EXACT, 200).x
    assert bool(right(x).all())
    x = drs.generate(drs.calibrate(drs.where(gan, right)), EXACT, 200).x
    assert bool(right(x).all())


def test_real_samples_satisfy_it_too():
    gan = drs.where(tilted(real=ops.normal(Rng(5), 4000, 2)), right)
    x, _ = gan.real_samples(4000)
    assert bool(right(x).all())
    assert 0 < len(x) < 4000
    chained = drs.generate(gan, samplers.MH(chain_length=32), 200)
    assert bool(right(chained.x).all())


def test_thresholds_come_from_samples_that_satisfy_it():
    gan = drs.where(tilted(), right)
    x = drs.generate(gan, samplers.DRS(percentile=80.0), 500).x
    assert float(x[:, 0].mean()) > 1.6  # all that satisfy it have mean 1.525
    budget = samplers.OBRS(budget=0.5)
    state = budget.init(gan, Rng(0))
    share = float(right(ops.latents(gan, Rng(0), 10_000)).double().mean())
    assert float(state.acceptance) == pytest.approx(0.5 * share, rel=0.1)


def test_what_a_run_says(tmp_path):
    gan = drs.where(tilted(), right)
    run = drs.generate(gan, EXACT, 300, out=tmp_path / "run")
    assert run.manifest["law"] == f"{EXACT.law}; where data is the data given right"
    more = drs.generate(gan, EXACT, 600, out=tmp_path / "run")
    assert torch.equal(more.x[:300], run.x[:300])
    with pytest.raises(drs.Conflict):
        drs.generate(tilted(), EXACT, 900, out=tmp_path / "run")
    with pytest.raises(drs.Conflict):
        drs.generate(drs.where(tilted(), high), EXACT, 900, out=tmp_path / "run")
    given = samplers.DRS(gamma=0.0, eps=0.0, log_m=0.0)
    free = drs.where(tilted(), right, critic=False, name="it is right")
    run = drs.generate(free, given, 300, out=tmp_path / "exact")
    assert run.manifest["law"] == "data; where data is what the generator makes given it is right"
    again = drs.generate(free, given, 300, out=tmp_path / "exact")
    assert again.manifest == run.manifest


def test_a_name_is_no_part_of_the_model():
    one, other = (drs.where(tilted(), right, name=name).sha256() for name in ("a", "b"))
    assert one == other != drs.where(tilted(), high).sha256()


def test_nothing_that_satisfies_it_in_burn_in():
    gan = drs.where(tilted(), lambda x: x[:, 0] > 9.0, name="it is far")
    with pytest.raises(
        BadLogits,
        match=r"none of 10,000 burn-in proposals satisfies it is far, so at most 0.0003 of them do "
        r"\(at 95 %\); thresholds from 100 that do take at least 333,333 proposals: raise burn_in",
    ):
        drs.generate(gan, EXACT, 10)


def test_a_famine_is_explained():
    far = ops.latents(tilted(), Rng(0, 2**62), 10_000)[:, 0].max() - 1e-3
    gan = drs.where(tilted(), lambda x: x[:, 0] > far, name="it is far")
    with pytest.raises(
        drs.Starvation, match=r"1 logits of those that satisfy it is far, out of "
    ) as e:
        drs.generate(gan, EXACT, 1000, patience=4096)
    assert "raise patience: as the burn-in has it" in str(e.value)
    assert "takes 10,000 proposals; drs.Squeeze (--squeeze)" in str(e.value)


def fails(x):
    raise RuntimeError("no such column")


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        (fails, r"^predicate failed on \(\d+, 2\) float32: RuntimeError: no such column; a pred"),
        (lambda x: x > 0, r"^predicate must return bool \(\d+,\) on cpu, one for each sample, got"),
        (
            lambda x: x[:, 0],
            r"^predicate must return bool .* got \(\d+,\) float32 with strides .*; compare",
        ),
        (lambda x: x[:, 0] > x[:, 0].mean(), r"^the predicate a lambda looks at other rows: \d+"),
        (lambda x: torch.arange(len(x)) < 64, r"^the predicate a lambda looks at other rows"),
    ],
)
def test_wrong_predicates(predicate, message):
    gan = drs.where(tilted(), predicate)
    with pytest.raises(ValueError, match=message) as error:
        drs.generate(gan, EXACT, 10)
    assert "latent_dim" not in str(error.value)
    assert set(drs.doctor(gan, n=512).codes) == {"predicate"}


def test_wrong_arguments():
    for given, message in (
        ((None, right), "gan must be a drs.GAN"),
        ((tilted(), 3), "predicate must be a function"),
    ):
        with pytest.raises(ValueError, match=message):
            drs.where(*given)
    with pytest.raises(ValueError, match="critic must be True or False"):
        drs.where(tilted(), right, critic=None)


def test_what_cannot_satisfy_a_predicate_is_refused():
    gan = drs.where(tilted(real=ops.normal(Rng(5), 400, 2)), right)
    with pytest.raises(ValueError, match=r"^a predicate has no gradient to follow"):
        drs.generate(gan, samplers.DDLS(), 10)
    with pytest.raises(ValueError, match="Latent asks its critic alone"):
        drs.generate(gan, samplers.Latent(critic=lambda z: z[:, 0]), 10)
    for learned in (drs.keep_train, drs.density_ratio):
        with pytest.raises(ValueError, match="train its critic before"):
            learned(gan)
    module = drs.where(GAN(nn.Identity(), nn.Linear(2, 1), 2, real=gan.real), right)
    with pytest.raises(ValueError, match="train its critic before"):
        drs.contrastive(module)


def test_the_doctor():
    gan = drs.where(tilted(), right)
    found = drs.doctor(gan, n=4096)
    assert found.codes == ()
    assert found.figures["minus_infinity_share"] == pytest.approx(0.841, abs=0.02)
    assert found.figures["acceptance_gamma_0"] < 0.16
    assert found.figures["logit_mean"] == pytest.approx(0.0, abs=0.1)  # of all samples
    assert drs.doctor(drs.where(gan, high, critic=False), n=512).codes == ()
    assert drs.doctor(drs.where(gan, lambda x: x[:, 0] > 9), n=512).codes == ("unsatisfied",)


@pytest.mark.parametrize("critic", [True, False])
def test_a_plan_expects_what_a_run_gives(critic):
    gan = drs.where(tilted(), lambda x: x[:, 0] > 2.0, critic=critic)
    logit = burn_in(gan, Rng(0), 10_000 + 2**15)[0]
    found = EXACT.expected(gan, Pilot(logit[:10_000], logit[10_000:]), Rng(0))
    batch = drs.generate(gan, EXACT, 300)
    assert found.acceptance == pytest.approx(300 / int(batch.stats["proposals"]), rel=0.3)
    assert found.tv.low <= 0.02
    rare = drs.where(tilted(), lambda x: x[:, 0] > 3.2, critic=critic)
    logit = burn_in(rare, Rng(0), 10_000 + 2**15)[0]
    assert not EXACT.expected(rare, Pilot(logit[:10_000], logit[10_000:]), Rng(0)).promised
