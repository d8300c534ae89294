"""DGflow on the linear-Gaussian oracle, and its formulas written out.

Checks allow 4.5 sd: 7e-6 false alarms per check.
"""

import math

import pytest
import torch
from linear_gaussian import SLOPE, broken, curved, cut, deviation, gan, same, steps

import drs_fast as drs
from drs_fast.core import NOISE
from drs_fast.samplers.dgflow import DGFlow

LIMIT = 4.5
LANGEVIN = drs.ops.langevin


def variance(n, step_size=0.1, noise=0.01):
    """Variance of the KL flow after n steps from variance 1: the critic's slope and noise alone."""
    value = 1.0
    for _ in range(n):
        value = (1 - step_size * SLOPE) ** 2 * value + 2 * step_size * noise
    return value


@pytest.mark.parametrize(("n", "known"), [(1, 0.492), (2, 0.243), (5, 0.032), (25, 0.0039)])
def test_variance_by_step(n, known):
    assert variance(n) == pytest.approx(known, rel=0.02)
    batch = steps(DGFlow(steps=n), gan(8), 2**12)
    assert abs(deviation(batch.z, variance(n))) < LIMIT


def half_the_noise(*given, noise, **named):
    return LANGEVIN(*given, noise=noise / 2, **named)


def half_the_step(*given, step_size, **named):
    return LANGEVIN(*given, step_size=step_size / 2, **named)


def with_the_prior(z, drift, *given, **named):
    return LANGEVIN(z, drift - z, *given, **named)


@pytest.mark.parametrize("fault", [half_the_noise, half_the_step, with_the_prior])
def test_planted_faults_are_noticed(fault, monkeypatch):
    monkeypatch.setattr(drs.ops, "langevin", fault)
    batch = steps(DGFlow(steps=5), gan(8), 2**12)
    assert abs(deviation(batch.z, variance(5))) > LIMIT


WEIGHTS = {
    "kl": lambda logit: torch.ones_like(logit),
    "js": lambda logit: 1 / (1 + torch.exp(-logit)),
    "logd": lambda logit: 1 / (1 + torch.exp(logit)),
}


def written_out(divergence, model, z, n, step_size, noise):
    for step in range(n):
        x = z.clone().requires_grad_()
        logit = model.discriminator(model.generator(x))
        (slope,) = torch.autograd.grad(logit.sum(), x)
        draw = step * -(-z.shape[1] // 4)
        normal = drs.ops.normal(drs.Rng(0), len(z), z.shape[1], stream=NOISE, draw=draw)
        weight = WEIGHTS[divergence](logit.detach())[:, None]
        z = z + step_size * weight * slope + math.sqrt(2 * step_size * noise) * normal
    return z


@pytest.mark.parametrize("divergence", WEIGHTS)
def test_every_step_is_the_formula(divergence):
    model = curved()
    z = drs.ops.latents(model, drs.Rng(0), 300)
    found = steps(DGFlow(divergence=divergence, steps=4, noise=0.3), model, 300).z
    right = written_out(divergence, model, z, 4, 0.1, 0.3)
    assert torch.allclose(found, right, atol=1e-4)
    for other in WEIGHTS.keys() - {divergence}:
        wrong = written_out(other, model, z, 4, 0.1, 0.3)
        assert not torch.allclose(found, wrong, atol=1e-2)


def test_the_constant_counts_but_for_kl():
    def shifted(by):
        model = curved()
        critic = model.discriminator
        return drs.GAN(model.generator, lambda x: critic(x) + by, 5)

    for divergence in WEIGHTS:
        sampler = DGFlow(divergence=divergence, steps=3)
        z, moved = (steps(sampler, shifted(by), 200).z for by in (0.0, 2.0))
        assert torch.allclose(z, moved, atol=1e-4) == (divergence == "kl")


def test_energies():
    assert DGFlow().energy
    assert not DGFlow(divergence="js").energy
    assert not DGFlow(divergence="logd").energy
    assert len(drs.generate(gan(link="hinge"), DGFlow(steps=1), 50).x) == 50
    with pytest.raises(ValueError, match="density ratio"):
        drs.generate(gan(link="hinge"), DGFlow(divergence="js"), 50)


@pytest.mark.parametrize(("prior", "box"), [("uniform", 1.0), ("truncated normal", 2.0)])
def test_walls(prior, box):
    model = drs.GAN(torch.clone, lambda x: 5 * x[:, 0], 2, prior=prior)
    batch = steps(DGFlow(steps=8, noise=0.1), model, 2000)
    assert float(batch.z.abs().max()) <= box
    free = drs.GAN(torch.clone, lambda x: 5 * x[:, 0], 2, prior=torch.tanh)
    assert float(steps(DGFlow(steps=8, noise=0.1), free, 2000).z.max()) > box


@pytest.mark.parametrize("divergence", ["kl", "js", "logd"])
def test_rows_may_be_cut_anywhere(divergence, monkeypatch):
    sampler = DGFlow(divergence=divergence, steps=6)
    whole = cut(sampler, curved(block=1024), [700])
    assert same(whole, cut(sampler, curved(block=256), [1, 255, 37, 300, 107]))
    batch = drs.generate(curved(), sampler, 700, batch_size=256)
    assert same(whole, batch)
    assert int(batch.stats["gradients"]) == 6 * int(batch.stats["calls"])
    monkeypatch.setattr(
        drs.ops, "langevin", lambda z, g, rng, **named: LANGEVIN(z, g, rng.at(0), **named)
    )
    assert not same(cut(sampler, curved(), [700]), cut(sampler, curved(), [300, 400]))


def test_the_logit_belongs_to_the_sample():
    model = curved()
    batch = steps(DGFlow(steps=6), model, 300)
    x, logit = model.logits(batch.z)
    assert torch.equal(x, batch.x)
    assert torch.equal(logit, batch.logit)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_cannot_be_scored_is_no_sample(value):
    model = broken(lambda x: x[:, 0] > 1.5, value)
    sampler, rng = DGFlow(steps=2, step_size=0.01), drs.Rng(0)
    z = drs.ops.latents(model, rng, 2000)
    _, batch = sampler.step(model, sampler.State(torch.ones(())), z, None, rng)
    n = int(batch.count)
    assert 0 < int(batch.stats["invalid"]) == 2000 - n
    assert bool(torch.isfinite(batch.logit[:n]).all())
    assert bool(torch.isfinite(batch.z).all())
    assert bool((batch.ids[:n].diff() > 0).all())


def test_labels():
    model = drs.GAN(lambda z, y: z, lambda x, y: -(x - y[:, None]).square().sum(1), 2, labels=3)
    batch = steps(DGFlow(steps=60), model, 600)
    for k in range(3):
        assert float(batch.z[batch.y == k].mean()) == pytest.approx(k, abs=0.05)


def test_law():
    assert "no known law" in DGFlow().law


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("step_size", 0.0), ("noise", -0.1), ("noise", math.inf),
     ("divergence", "KL"), ("burn_in", 0)],
)  # fmt: skip
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        DGFlow(**{name: value})
