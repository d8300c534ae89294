"""DDLS at other temperatures and with shrinking steps. 4.5 sd: 7e-6 false alarms per check."""

import math

import numpy as np
import pytest
import torch
from linear_gaussian import SLOPE, VARIANCE, curved, deviation, gan, same, steps

import drs_fast as drs
from drs_fast.core import NOISE
from drs_fast.samplers.common import hamiltonian, metropolis
from drs_fast.samplers.ddls import DDLS

LIMIT = 4.5


def prediction(h, heat=1.0, scale=1.0, n=None, shrink=lambda step: (1.0, 1.0)):
    """Variance of the unadjusted chain after n steps from variance 1, or in the limit."""
    precision = 1.0 + scale * SLOPE
    if n is None:
        return heat / precision / (1 - h * precision / 4)
    variance = 1.0
    for step in range(n):
        size, noise = (a * b for a, b in zip((h, math.sqrt(heat)), shrink(step), strict=True))
        variance = (1 - size * precision / 2) ** 2 * variance + noise**2 * size
    return variance


@pytest.mark.parametrize(("heat", "scale"), [(0.3, 1.0), (2.0, 1.0), (1.0, 3.0), (0.5, 0.4)])
@pytest.mark.parametrize("kind", ["ula", "mala", "underdamped", "hmc"])
def test_variance_at_a_temperature(kind, heat, scale):
    size = {"ula": 0.1, "mala": 0.2, "underdamped": 0.002, "hmc": 0.03}[kind]
    fields = {"friction": 0.1, "leapfrog": 4} if kind in ("underdamped", "hmc") else {}
    n = 150 if kind == "underdamped" else 40
    sampler = DDLS(kind, n, size, temperature=heat, logit_scale=scale, burn_in=64, **fields)
    expected = heat / (1 + scale * SLOPE)
    if kind == "ula":
        expected = prediction(size, heat, scale)
    if kind == "underdamped":
        expected = kinetic(size / 2, 0.1, heat, 1 + scale * SLOPE, n)
    batch = steps(sampler, gan(), 2**14)
    assert abs(deviation(batch.z, expected)) < LIMIT


def kinetic(eta, friction, heat, precision, n):
    """Variance of the underdamped chain after n steps from variance 1 at rest."""
    keep = 1 - friction
    move = np.array([[1 - eta * precision, keep], [-eta * precision, keep]])
    covariance = np.diag([1.0, 0.0])
    for _ in range(n):
        covariance = move @ covariance @ move.T + 2 * friction * eta * heat * np.ones((2, 2))
    return covariance[0, 0]


@pytest.mark.parametrize("kind", ["mala", "hmc"])
def test_a_move_accepted_as_at_temperature_1_is_noticed(kind, monkeypatch):
    """Where moves are rejected, noise alone does not set the temperature."""
    real = metropolis.accepted
    for module in (metropolis, hamiltonian):
        monkeypatch.setattr(module, "accepted", lambda gain, *rest: real(0.3 * gain, *rest))
    fields = {"mala": {"step_size": 0.2}, "hmc": {"step_size": 0.2, "leapfrog": 2}}[kind]
    batch = steps(DDLS(kind, 40, temperature=0.3, burn_in=64, **fields), gan(), 2**14)
    assert abs(deviation(batch.z, 0.3 * VARIANCE)) > LIMIT


@pytest.mark.parametrize("kind", ["ula", "mala", "underdamped", "hmc"])
def test_noise_is_the_root_of_temperature(kind):
    fields = {"kind": kind, "steps": 6, "step_size": 0.1, "burn_in": 64}
    noisy = steps(DDLS(**fields, noise=0.5), curved(block=512), 300)
    assert same(noisy, steps(DDLS(**fields, temperature=0.25), curved(block=512), 300))
    plain = steps(DDLS(**fields), curved(block=512), 300)
    assert same(plain, steps(DDLS(**fields, noise=1.0), curved(block=512), 300))
    assert not same(plain, noisy)


def test_without_noise_chains_only_climb():
    batch = steps(DDLS("ula", 50, 0.1, temperature=0.0), gan(4), 200)
    start = drs.ops.latents(gan(4), drs.Rng(0), 200)
    assert torch.allclose(batch.z, start * (1 - 0.1 / (2 * VARIANCE)) ** 50, rtol=1e-3, atol=1e-7)
    assert "no known law" in DDLS("ula", step_size=0.1, noise=0.0).law


def test_a_step_is_found_at_the_temperature():
    """MALA's law in step / sd^2 does not depend on the temperature, nor does the step found."""
    kind = {"kind": "mala", "steps": 60}
    cold, warm, hot = (
        float(DDLS(**kind, temperature=t).init(gan(4), drs.Rng(0)).step_size)
        for t in (0.01, 1.0, 100.0)
    )
    assert max(abs(math.log(cold / warm)), abs(math.log(hot / warm))) < 0.15


# --- steps that shrink


@pytest.mark.parametrize("n", [3, 4, 9, 30])
@pytest.mark.parametrize(("decay", "noise_decay"), [(0.3, 1.0), (1.0, 0.5), (0.5, 0.5)])
def test_variance_when_steps_shrink(n, decay, noise_decay):
    """The step shrinks at the fourth step, then at the seventh, and so on."""
    sampler = DDLS("ula", n, 0.1, decay=decay, noise_decay=noise_decay, decay_every=3)

    def shrink(step):
        return decay ** (step // 3), noise_decay ** (step // 3)

    batch = steps(sampler, gan(), 2**14)
    assert abs(deviation(batch.z, prediction(0.1, n=n, shrink=shrink))) < LIMIT


def test_steps_that_shrink_leave_mala_exact():
    """Every move preserves the target, so a chain that starts there stays there."""
    model, n = gan(), 2**14
    z = drs.ops.normal(drs.Rng(3), n, 1) * math.sqrt(0.5 * VARIANCE)
    for kind in ("mala", "hmc"):
        sampler = DDLS(kind, 12, 0.4, temperature=0.5, decay=0.6, decay_every=2, burn_in=64)
        state = sampler.init(model, drs.Rng(0))
        batch = sampler.step(model, state, z, None, drs.Rng(0))[1]
        assert int(batch.stats["accepted_steps"]) < 12 * n
        assert abs(deviation(batch.z, 0.5 * VARIANCE)) < LIMIT


@pytest.mark.parametrize("kind", ["mala", "hmc"])
def test_chains_that_reject_are_cooled_too(kind):
    fields = {"mala": {"step_size": 0.2}, "hmc": {"step_size": 0.06, "leapfrog": 4}}[kind]
    sampler = DDLS(kind, 30, noise_decay=0.5, decay_every=15, burn_in=64, **fields)
    assert abs(deviation(steps(sampler, gan(), 2**14).z, 0.25 * VARIANCE)) < LIMIT


# --- others' settings, by their own recursions


def normals(model, n, step):
    d = model.latent_dim
    return drs.ops.normal(drs.Rng(0), n, d, stream=NOISE, draw=step * -(-d // 4)).double()


def energy_gradient(model, z, weight=1.0):
    """Gradient of -log p0(z) - weight * logit, as in the published code."""
    _, _, slope = model.gradients(z.float())
    return z - weight * slope.double()


def studiogan(model, z, rate=0.05, std=0.4, decay=0.5, decay_steps=4, count=11):
    """The noise's covariance is std; rate and noise shrink once decay_steps are done."""
    scaler = 1.0
    for i in range(count):
        noise = math.sqrt(std) * normals(model, len(z), i)
        z = z - 0.5 * rate * energy_gradient(model, z) + math.sqrt(rate) * noise * scaler
        if (i + 1) % decay_steps == 0:
            rate, scaler = rate * decay, scaler * decay
    return z


def cdr_rs(model, z, step_lr=0.01, eps_std=0.02, alpha=2.0, count=11):
    for i in range(count):
        z = z - step_lr * energy_gradient(model, z, alpha) + eps_std * normals(model, len(z), i)
    return z


def generalized_ebm(model, z, gamma=0.02, temperature=3.0, every=4, count=9):
    """The step shrinks after step `every` (there 200), where steps count from 0."""
    for t in range(count):
        noise = math.sqrt(gamma) * normals(model, len(z), t)
        z = z - gamma / 2 * energy_gradient(model, z, temperature) + noise
        if t > 0 and t % every == 0:
            gamma *= 0.1
    return z


def decayed(**fields):
    return DDLS("ula", 11, 0.05, decay=0.5, decay_every=4, **fields)


@pytest.mark.parametrize(("peer", "sampler", "wrong"), [
    (studiogan, decayed(temperature=0.4, noise_decay=0.5), decayed(noise=0.4, noise_decay=0.5)),
    (studiogan, decayed(temperature=0.4, noise_decay=0.5), decayed(temperature=0.4)),
    (cdr_rs, DDLS("ula", 11, 0.02, noise=0.02 / math.sqrt(0.02), logit_scale=2.0),
     DDLS("ula", 11, 0.02, noise=0.02 / math.sqrt(0.02))),
    (generalized_ebm, DDLS("ula", 9, 0.02, logit_scale=3.0, decay=0.1, decay_every=5),
     DDLS("ula", 9, 0.02, logit_scale=3.0, decay=0.1, decay_every=4)),
    (generalized_ebm, DDLS("ula", 4, 0.02, logit_scale=3.0),
     DDLS("ula", 4, 0.02, temperature=3.0)),
])  # fmt: skip
def test_settings_of_others_give_their_chains(peer, sampler, wrong):
    model, n = curved(block=256), 200
    z = drs.ops.latents(model, drs.Rng(0), n).double()
    expected = peer(model, z, count=sampler.steps)
    assert torch.allclose(steps(sampler, model, n).z.double(), expected, atol=1e-5)
    assert not torch.allclose(steps(wrong, model, n).z.double(), expected, atol=1e-2)


# --- laws and errors


@pytest.mark.parametrize(("fields", "law"), [
    ({}, "p0(z) exp(logit), which is the data if the logit is exact, up to a bias of order "
     "step_size and after 200 steps"),
    ({"kind": "mala"}, "in the limit of many steps p0(z) exp(logit), which is the data if the "
     "logit is exact; after 200 steps near it"),
    ({"temperature": 0.25}, "(p0(z) exp(logit))^(1/0.25), up to a bias of order step_size and "
     "after 200 steps"),
    ({"noise": 0.1, "kind": "hmc"}, "in the limit of many steps (p0(z) exp(logit))^(1/0.01); "
     "after 200 steps near it"),
    ({"logit_scale": 4, "kind": "mala"}, "in the limit of many steps p0(z) exp(4 logit); after "
     "200 steps near it"),
    ({"logit_scale": 4, "temperature": 2}, "(p0(z) exp(4 logit))^(1/2), up to a bias of order "
     "step_size and after 200 steps"),
    ({"decay": 0.1, "decay_every": 100}, "between the generator and p0(z) exp(logit), which is "
     "the data if the logit is exact: no stationary law, because in the end step_size is 0.1 of "
     "what it was"),
    ({"decay": 0.1, "noise_decay": 0.1, "decay_every": 100}, "from the generator towards p0(z) "
     "exp(logit), which is the data if the logit is exact, and colder: no stationary law, because "
     "in the end step_size is 0.1 and temperature is 0.01 of what it was"),
    ({"temperature": 0, "step_size": 0.1}, "the generator, moved up p0(z) exp(logit) for 200 "
     "steps: no known law"),
])  # fmt: skip
def test_the_law_says_what_is_followed(fields, law):
    assert DDLS(**fields).law == law


def test_steps_that_never_come_to_shrink_do_not_change_the_law():
    assert DDLS(decay=0.1, decay_every=200).law == DDLS().law
    assert DDLS(decay=0.1, decay_every=199).law != DDLS().law


@pytest.mark.parametrize(("fields", "words"), [
    ({"noise": -0.1}, "noise must be a finite number"),
    ({"noise": math.inf}, "noise must be a finite number"),
    ({"temperature": math.nan}, "temperature must be a finite number"),
    ({"noise": 0.5, "temperature": 0.25}, "noise or temperature, not both"),
    ({"temperature": 0.0}, "temperature=0 needs .* step_size"),
    ({"noise": 0.0, "kind": "mala", "step_size": 0.1}, "noise=0 needs kind='ula'"),
    ({"logit_scale": 0.0}, "logit_scale must be greater than 0"),
    ({"decay": 0.0}, "decay must be greater than 0"),
    ({"decay": 1.5}, "decay must be greater than 0 and at most 1"),
    ({"noise_decay": 1.5}, "noise_decay must be greater than 0 and at most 1"),
    ({"decay_every": 0}, "decay_every must be an integer >= 1"),
    ({"leapfrog": 0}, "leapfrog must be an integer >= 1"),
])  # fmt: skip
def test_a_wrong_value_names_its_field(fields, words):
    with pytest.raises(ValueError, match=words):
        DDLS(**fields)
