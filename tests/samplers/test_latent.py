"""Latent: the law of accepted latents, what runs for rejected ones, and what it refuses.

By chance a test of a law fails in less than 1 of 1,000 runs over all seeds; seeds are fixed.
"""

import math
import sys

import pytest
import torch
from runs import Counted
from scipy.stats import kstest

import drs_fast as drs
from drs_fast.core import ACCEPT, Rng
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.samplers.latent import Latent

CURVATURE = 3.0  # the prior times exp(-1.5 z^2) is normal with deviation 1/2


def critic(z):
    return -CURVATURE / 2 * z[:, 0].square()


def by_class(z, y):
    return -0.5 * (1.0 + y) * z[:, 0].square() + 100.0 * y


class Halves(torch.nn.Module):
    """An alpha-GAN's code critic at its optimum: prior against encoder, which is N(0.5, 0.36)."""

    def forward(self, z):
        prior = -z[:, 0].square() / 2
        encoder = -((z[:, 0] - 0.5) / 0.6).square() / 2 - math.log(0.6)
        return (prior - encoder)[:, None]


def plain(**kwargs):
    return drs.GAN(lambda z: 10 * z, lambda x: x[:, 0] - x[:, 1], 2, **kwargs)


def conditional():
    return drs.GAN(lambda z, y: 10 * z, lambda x, y: x[:, 0] + y, 2, labels=3)


# --- the law


def sampled(function, sd, mean=0.0, n=20_000):
    """Whether n accepted latents follow N(mean, sd^2), with the other coordinate untouched."""
    batch = drs.generate(plain(), Latent(function), n, seed=3)
    p = kstest(batch.z[:, 0].double().numpy(), "norm", (mean, sd)).pvalue
    other = kstest(batch.z[:, 1].double().numpy(), "norm").pvalue
    assert torch.equal(batch.x, 10 * batch.z)
    return p > 1e-4 and other > 1e-4, n / int(batch.stats["proposals"])


def test_accepted_latents_follow_the_prior_times_the_weight():
    good, share = sampled(critic, sd=0.5)
    assert good
    assert share == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 40_000) + 0.001)


def test_an_offset_of_the_critic_cancels():
    shifted = drs.generate(plain(), Latent(lambda z: critic(z) + 64.0), 500)
    assert torch.equal(drs.generate(plain(), Latent(critic), 500).ids, shifted.ids)


def test_the_code_critic_of_an_alpha_gan():
    halves = Halves()
    good, _ = sampled(lambda z: -halves(z), sd=0.6, mean=0.5)
    assert good


@pytest.mark.parametrize(
    "fault",
    [lambda z: -critic(z).abs() / 2, lambda z: critic(z).exp() * 2, lambda z: critic(z + 0.1)],
)
def test_planted_faults_are_noticed(fault):
    good, _ = sampled(fault, sd=0.5)
    assert not good


def test_latents_above_the_cap_count_alike():
    """The weight is at the cap for |z| < 1, and beyond falls off like a normal density."""
    batch = drs.generate(plain(), Latent(critic, cap=-CURVATURE / 2), 20_000, seed=3)
    z = batch.z[:, 0].double()
    inside = math.erf(1 / math.sqrt(2))
    outside = 0.5 * math.exp(CURVATURE / 2) * math.erfc(2 / math.sqrt(2))
    share = inside / (inside + outside)
    found = float((z.abs() < 1).double().mean())
    assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 20_000))
    assert int(batch.stats["above"]) > 0
    assert "capped at exp(-1.5)" in Latent(critic, cap=-1.5).law


def test_rows_are_those_of_the_written_out_rule():
    gan, sampler = plain(), Latent(critic, burn_in=3000)
    batch = drs.generate(gan, sampler, 400, seed=4, batch_size=256)
    rows = int(batch.ids[-1]) + 1
    top = max(critic(drs.ops.latents(gan, Rng(4, 2**62), 3000)).tolist())
    weight = critic(drs.ops.latents(gan, Rng(4), rows)).tolist()
    u = drs.ops.uniform(Rng(4), rows, stream=ACCEPT).tolist()
    kept = [i for i in range(rows) if u[i] < math.exp(min(0.0, weight[i] - top))]
    assert batch.ids.tolist() == kept
    assert torch.equal(batch.logit, gan.scores(batch.x))


# --- what runs for rejected latents


def rare(z):
    return -200.0 * z[:, 0].square()


@pytest.mark.parametrize(("function", "most"), [(rare, 0.15), (critic, 0.7)])
def test_rejected_latents_do_not_reach_the_generator(function, most):
    generator, discriminator = Counted(lambda z: 10 * z), Counted(lambda x: x[:, 0])
    gan = drs.GAN(generator, discriminator, 2)
    sampler = Latent(function)
    state = sampler.init(gan, Rng(0))
    assert generator.rows == discriminator.rows == 0
    z = drs.ops.latents(gan, Rng(0), 16 * 4096)
    for step in range(16):
        rows = slice(4096 * step, 4096 * (step + 1))
        sampler.step(gan, state, z[rows], None, Rng(0, 4096 * step))
    assert 0 < generator.rows == discriminator.rows < most * len(z)


def test_no_latent_accepted():
    gan, sampler = plain(), Latent(critic)
    state = sampler.init(gan, Rng(0))
    _, batch = sampler.step(gan, state, torch.full((300, 2), 30.0), None, Rng(0))
    assert int(batch.count) == 0
    assert batch.x.shape == (0, 2)


# --- classes, batches, runs


def test_each_class_has_its_own_cap():
    gan, sampler = conditional(), Latent(by_class, burn_in=6000, classes="within")
    state = sampler.init(gan, Rng(1))
    assert torch.allclose(state.cap, torch.tensor([0.0, 100.0, 200.0]).double(), atol=0.01)
    batch = drs.generate(gan, sampler, 9000, seed=1)
    proposed = gan.labelled(state.proposed)
    assert torch.equal(batch.y, drs.ops.labels(proposed, Rng(1), 9000, ids=batch.ids))
    for k in range(3):
        own = batch.z[batch.y == k, 0].double().numpy()
        assert len(own) > 1000
        assert kstest(own, "norm", (0.0, (2.0 + k) ** -0.5)).pvalue > 1e-4


@pytest.mark.parametrize(
    ("make", "function"), [(plain, critic), (conditional, by_class)], ids=["plain", "conditional"]
)
@pytest.mark.parametrize("batch_size", [1, 1000, 4096])
def test_batches_do_not_matter(make, function, batch_size):
    gan, sampler, rng = make(), Latent(function, burn_in=2000), Rng(8)
    state = sampler.init(gan, rng)
    z, y = drs.ops.latents(gan, rng, 5000), drs.ops.labels(gan, rng, 5000)
    after, whole = sampler.step(gan, state, z, y, rng)
    assert after is state
    n = int(whole.count)
    batch = drs.generate(gan, sampler, n, seed=8, batch_size=batch_size)
    assert torch.equal(batch.ids, whole.ids)
    assert torch.equal(batch.x, whole.x)
    assert torch.equal(batch.logit, whole.logit)


def test_a_run_on_disk_goes_on(tmp_path, monkeypatch):
    (tmp_path / "mycritic.py").write_text("def weight(z):\n    return -z[:, 0].square()\n")
    monkeypatch.syspath_prepend(tmp_path)
    gan, sampler = plain(), Latent("mycritic:weight")
    settings = {"batch_size": 256, "chunk_rows": 512, "seed": 2}
    drs.generate(gan, sampler, 300, out=tmp_path / "run", **settings)
    samples = drs.generate(gan, sampler, 900, out=tmp_path / "run", **settings)
    memory = drs.generate(gan, Latent(lambda z: -z[:, 0].square()), 900, seed=2)
    assert torch.equal(samples.ids[:], memory.ids)
    assert torch.equal(samples.x[:], memory.x)
    assert samples.manifest["law"] == sampler.law


def test_what_the_samples_depend_on():
    (function,) = Latent(critic).functions
    assert function is critic
    assert Latent("benchmarks.common.oracle:log_ratio").functions[0].__name__ == "log_ratio"


# --- what cannot be sampled from


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_latents_of_invalid_weight_are_never_accepted(bad):
    def function(z):
        return torch.where(z[:, 1] > 3.7, bad, critic(z))  # 1 in 10,000

    batch = drs.generate(plain(), Latent(function), 30_000)
    assert (batch.z[:, 1] <= 3.7).all()
    assert (int(batch.stats["invalid"]) > 0) == (bad != -math.inf)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_without_a_valid_logit_are_left_out_and_counted(bad):
    def discriminator(x):
        return torch.where(x[:, 1] > 37.0, bad, x[:, 0])

    gan = drs.GAN(lambda z: 10 * z, discriminator, 2)
    batch = drs.generate(gan, Latent(critic), 30_000)
    whole = drs.generate(plain(), Latent(critic), 30_000)
    assert torch.isfinite(batch.logit).all()
    assert int(batch.stats["invalid"]) > 0
    kept = whole.ids[whole.x[:, 1] <= 37.0]
    assert torch.equal(batch.ids[: len(kept)], kept)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda z: torch.full((len(z),), math.nan), drs.BadLogits, "critic.*NaN"),
        (lambda z: torch.full((len(z),), -math.inf), drs.BadLogits, "critic.*rejects everything"),
        (lambda z: torch.sigmoid(z[:, 0]), ValueError, "critic.*look like probabilities"),
        (lambda z: z, ValueError, "critic.*one floating-point number per sample"),
        (lambda z, y: z[:, 0], ValueError, "critic.*failed"),
        (None, ValueError, "needs a critic"),
        ("no_such_module:f", ValueError, "critic 'no_such_module:f' cannot be loaded"),
        (
            "benchmarks.common.oracle:f",
            ValueError,
            "critic 'benchmarks.common.oracle:f' cannot be loaded",
        ),
    ],
)
def test_unusable_critics_are_explained(function, error, words):
    with pytest.raises(error, match=words):
        Latent(function).init(plain(), Rng(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("critic", 3),
        ("critic", "critic"),
        ("critic", ":f"),
        ("critic", "module:"),
        ("cap", math.inf),
        ("cap", "high"),
        ("burn_in", 0),
    ],
)
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        Latent(**{name: value})


def test_modules_are_put_in_eval_mode():
    halves = Halves().train()
    Latent(lambda z: -halves(z)).init(plain(), Rng(0))
    assert not halves.training


def test_the_burn_in_weights_are_kept():
    state = Latent(critic, burn_in=700).init(plain(), Rng(5))
    judge = drs.GAN(lambda z: z, critic, 2)
    assert torch.equal(state.log_weights, burn_in(judge, Rng(5), 700)[0])
    assert float(state.acceptance) == pytest.approx(0.5, abs=0.1)
    assert Latent(critic).law == (
        "the generator on latents that follow the prior times exp(critic), which is capped at its "
        "largest of the burn-in"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weight = ) (", "critic 'spoiled:weight' cannot be loaded: SyntaxError"),
        (
            "import nothing_like_this",
            "critic 'spoiled:weight' cannot be loaded: ModuleNotFoundError",
        ),
        ("raise KeyError('ema')", "critic 'spoiled:weight' cannot be loaded: KeyError: 'ema'"),
        ("weight = 3", "critic 'spoiled:weight' must be a function, got 3"),
    ],
)
def test_whatever_a_critics_module_does_names_the_critic(text, words, tmp_path, monkeypatch):
    (tmp_path / "spoiled.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spoiled", raising=False)
    with pytest.raises(ValueError, match=words):
        drs.generate(plain(), Latent("spoiled:weight"), 3, out=tmp_path / "run")


def test_starvation_speaks_of_log_weights_and_the_cap():
    with pytest.raises(drs.Starvation) as error:
        drs.generate(plain(), Latent(critic, cap=500.0), 3, patience=5000)
    text = str(error.value)
    assert "log weights of 10,000 proposals" in text
    assert "cap = 500. Remedies:\n  1. set a lower cap" in text
    assert not any(word in text for word in ("gamma", "log_m"))


def test_a_state_that_is_not_taken_for_one_of_logits():
    """The report must not show a critic's log weights as logits of a discriminator."""
    state = Latent(critic, burn_in=300).init(plain(), Rng(0))
    assert state._fields == ("cap", "acceptance", "log_weights", "proposed")
    assert float(state.cap) == float(state.log_weights.max())
