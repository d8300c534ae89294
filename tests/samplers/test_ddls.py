"""DDLS on the linear-Gaussian oracle. Checks allow 4.5 sd: 7e-6 false alarms per check."""

import math

import numpy as np
import pytest
import torch
from linear_gaussian import VARIANCE, broken, curved, cut, deviation, gan, same, steps

import drs_fast as drs
from drs_fast.samplers import ddls
from drs_fast.samplers.common import moving
from drs_fast.samplers.ddls import DDLS

LIMIT = 4.5
SETTINGS = [
    {"kind": "ula", "step_size": 0.1},
    {"kind": "mala", "step_size": 0.3},
    {"kind": "underdamped", "step_size": 0.02},
    {"kind": "hmc", "step_size": 0.1, "leapfrog": 2},
]


def ula_variance(size, n=None):
    """Variance after n steps from variance 1, or in the limit."""
    if n is None:
        return VARIANCE / (1 - size / (4 * VARIANCE))
    variance = 1.0
    for _ in range(n):
        variance = (1 - size / (2 * VARIANCE)) ** 2 * variance + size
    return variance


def underdamped(eta, friction, n):
    """Covariance of (z, v) after n steps from z of variance 1 at rest."""
    keep = 1 - friction
    move = np.array([[1 - eta / VARIANCE, keep], [-eta / VARIANCE, keep]])
    noise = 2 * friction * eta * np.ones((2, 2))
    covariance = np.diag([1.0, 0.0])
    for _ in range(n):
        covariance = move @ covariance @ move.T + noise
    return covariance


@pytest.mark.parametrize(("size", "known"), [(0.1, 0.2778), (0.2, 0.3125)])
@pytest.mark.parametrize("n", [1, 3, 20])
def test_unadjusted_variance(size, known, n):
    assert ula_variance(size) == pytest.approx(known, abs=5e-5)
    batch = steps(DDLS(kind="ula", steps=n, step_size=size), gan(8), 2**13)
    assert abs(deviation(batch.z, ula_variance(size, n))) < LIMIT
    assert n < 20 or abs(deviation(batch.z, ula_variance(size))) < LIMIT


@pytest.mark.parametrize(("size", "share"), [(0.1, 0.980), (0.2, 0.943)])
def test_adjusted_variance_and_acceptance(size, share):
    n, half = 2**14, 10
    short, long = (
        steps(DDLS(kind="mala", steps=k, step_size=size), gan(), n) for k in (half, 2 * half)
    )
    assert abs(deviation(long.z, VARIANCE)) < LIMIT
    late = int(long.stats["accepted_steps"]) - int(short.stats["accepted_steps"])
    # The table has three digits; moves of one chain depend on each other, so sd <= sd of n chains.
    tolerance = 0.0005 + LIMIT * math.sqrt(share * (1 - share) / n)
    assert late / (half * n) == pytest.approx(share, abs=tolerance)


def test_states_that_moves_were_refused_from_count_again():
    """At 0.9 many moves are rejected; leaving those chains out would give another variance."""
    n, k = 2**14, 15
    batch = steps(DDLS(kind="mala", steps=k, step_size=0.9), gan(), n)
    share = int(batch.stats["accepted_steps"]) / (n * k)
    assert 0.3 < share < 0.8
    assert int(batch.count) == n
    assert torch.equal(batch.ids, torch.arange(n))
    assert abs(deviation(batch.z, VARIANCE)) < LIMIT


def test_chains_that_only_count_when_they_moved_are_noticed(monkeypatch):
    """Chains whose last move was accepted are too narrow or too wide."""
    found = {}
    real = ddls.metropolis

    def watched(*given, **named):
        point, moved, inside = real(*given, **named)
        found["moved"] = moved
        return point, moved, inside

    monkeypatch.setattr(ddls, "metropolis", watched)
    batch = steps(DDLS(kind="mala", steps=15, step_size=0.9), gan(), 2**14)
    assert abs(deviation(batch.z[found["moved"]], VARIANCE)) > LIMIT


@pytest.mark.parametrize(("eta", "known"), [(0.001, 0.2499), (0.005, 0.251), (0.01, 0.2527)])
def test_the_underdamped_recursion_has_the_known_limit(eta, known):
    assert underdamped(eta, 0.1, 20_000)[0, 0] == pytest.approx(known, abs=6e-4)


@pytest.mark.parametrize("n", [1, 4, 60])
def test_underdamped_variance(n):
    sampler = DDLS(kind="underdamped", steps=n, step_size=0.02, friction=0.1)
    batch = steps(sampler, gan(8), 2**12)
    assert abs(deviation(batch.z, underdamped(0.01, 0.1, n)[0, 0])) < LIMIT


def test_full_friction_is_the_unadjusted_chain():
    free = steps(DDLS(kind="ula", steps=5, step_size=0.1), curved(), 500)
    held = steps(DDLS(kind="underdamped", steps=5, step_size=0.1, friction=1.0), curved(), 500)
    assert torch.allclose(free.z, held.z, atol=1e-5)


def with_noise(scale):
    langevin = drs.ops.langevin

    def planted(*given, noise=1.0, **named):
        return langevin(*given, noise=scale * noise, **named)

    return planted


def negated(z, grad, *given, **named):
    return LANGEVIN(z, -grad, *given, **named)


def twice_the_drift(z, grad, *given, **named):
    return LANGEVIN(z, 2 * grad, *given, **named)


def same_noise_at_every_step(*given, step, **named):
    return LANGEVIN(*given, step=0, **named)


LANGEVIN = drs.ops.langevin


@pytest.mark.parametrize(
    "fault", [with_noise(0.9), negated, twice_the_drift, same_noise_at_every_step]
)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["kind"])
def test_planted_faults_are_noticed(settings, fault, monkeypatch):
    monkeypatch.setattr(drs.ops, "langevin", fault)
    batch = steps(DDLS(steps=40, **settings), gan(), 2**13)
    expected = {
        "ula": ula_variance(0.1),
        "mala": VARIANCE,
        "underdamped": underdamped(0.01, 0.5, 40)[0, 0],
        "hmc": VARIANCE,
    }[settings["kind"]]
    assert abs(deviation(batch.z, expected)) > LIMIT


def test_a_tenth_less_noise_is_another_temperature(monkeypatch):
    """Noise that does not match the step gives T = 0.81 times the right variance."""
    monkeypatch.setattr(drs.ops, "langevin", with_noise(0.9))
    batch = steps(DDLS(kind="ula", steps=25, step_size=0.1), gan(8), 2**12)
    assert abs(deviation(batch.z, 0.81 * ula_variance(0.1))) < LIMIT


# --- priors with walls


def moments(z, box, precision, count=200_001):
    """Mean square in the box under exp(-(SLOPE + precision) z^2 / 2), and its sd over the rows."""
    grid = torch.linspace(-box, box, count, dtype=torch.float64)
    weight = (-(SLOPE_ + precision) / 2 * grid.square()).exp()
    square, fourth = ((weight * grid**k).sum() / weight.sum() for k in (2, 4))
    return float(square), math.sqrt(float(fourth - square**2) / z.numel())


SLOPE_ = 1 / VARIANCE - 1


@pytest.mark.parametrize(("prior", "box", "precision"), [
    ("uniform", 1.0, 0.0), ("truncated normal", 2.0, 1.0),
])  # fmt: skip
def test_walls(prior, box, precision):
    model = gan(1, prior=prior)
    batch = steps(DDLS(kind="mala", steps=40, step_size=0.3), model, 2**14)
    square, sd = moments(batch.z, box, precision)
    assert float(batch.z.abs().max()) <= box
    assert abs(float(batch.z.double().square().mean()) - square) < LIMIT * sd
    for settings in SETTINGS[::2]:
        batch = steps(DDLS(steps=40, **settings), model, 2**11)
        assert float(batch.z.abs().max()) <= box
        # Clipping would leave a crowd on the wall.
        assert int((batch.z.abs() == box).sum()) <= 1


def test_a_wall_that_mala_does_not_see_is_noticed(monkeypatch):
    real = moving.log_density
    monkeypatch.setattr(
        moving, "log_density", lambda z, prior: real(z, prior._replace(box=math.inf))
    )
    batch = steps(DDLS(kind="mala", steps=20, step_size=0.3), gan(1, prior="uniform"), 2**11)
    assert float(batch.z.abs().max()) > 1.0


def test_reflection():
    z = torch.tensor([[-0.3, 1.25, -1.5, 3.0, -3.2, 5.1, 1.0]])
    expected = torch.tensor([[-0.3, 0.75, -0.5, -1.0, 0.8, 0.9 - 1.8 + 1.8, 1.0]])
    expected[0, 5] = 0.9  # 5.1 -> 2 - 5.1 = -3.1 -> -2 + 3.1 = 1.1 -> 0.9
    assert torch.allclose(moving.reflected(z, 1.0), expected, atol=1e-6)
    assert moving.reflected(z, math.inf) is z


def test_a_callable_prior_says_what_to_do():
    with pytest.raises(ValueError, match="part of the generator"):
        DDLS().init(gan(1, prior=torch.tanh), drs.Rng(0))


# --- rows, chunks and what cannot be scored


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["kind"])
def test_rows_may_be_cut_anywhere(settings):
    sampler = DDLS(steps=7, **settings)
    whole = cut(sampler, curved(block=1024), [700])
    assert same(whole, cut(sampler, curved(block=256), [1, 255, 37, 300, 107]))
    for batch_size in (256, 1024):
        batch = drs.generate(curved(), sampler, 700, batch_size=batch_size)
        assert same(whole, batch)
    each = {"mala": 7 + 1, "hmc": 7 * 2 + 1}.get(sampler.kind, 7)
    assert int(batch.stats["gradients"]) == int(batch.stats["calls"]) * each


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["kind"])
def test_random_numbers_of_the_batch_are_noticed(settings, monkeypatch):
    def of_the_batch(z, grad, rng, **named):
        return LANGEVIN(z, grad, rng.at(0), **named)

    monkeypatch.setattr(drs.ops, "langevin", of_the_batch)
    sampler = DDLS(steps=7, **settings)
    assert not same(cut(sampler, curved(), [700]), cut(sampler, curved(), [300, 400]))


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["kind"])
def test_the_logit_belongs_to_the_sample(settings):
    model = curved()
    batch = steps(DDLS(steps=6, **settings), model, 300)
    x, logit = model.logits(batch.z)
    assert torch.equal(x, batch.x)
    assert torch.equal(logit, batch.logit)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["kind"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_chain_enters_what_cannot_be_scored(settings, value):
    model = broken(lambda x: x[:, 0] > 0.5, value)
    sampler, rng = DDLS(steps=10, **settings), drs.Rng(0)
    z = drs.ops.latents(model, rng, 2000)
    state = sampler.State(torch.tensor(sampler.step_size), torch.tensor(1.0))
    _, batch = sampler.step(model, state, z, None, rng)
    n = int(batch.count)
    assert float(batch.x[:n, 0].max()) <= 0.5
    assert bool(torch.isfinite(batch.logit[:n]).all())
    assert set(torch.arange(2000)[z[:, 0] <= 0.5].tolist()) <= set(batch.ids[:n].tolist())
    assert bool((batch.ids[:n].diff() > 0).all())
    lost = 2000 - n
    assert 0 < lost < int((z[:, 0] > 0.5).sum())  # some found their way out
    assert int(batch.stats["invalid"]) == (0 if value == -math.inf else lost)


class Linear(torch.nn.Module):
    def __init__(self, d=3):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(1.0, d + 1))

    def forward(self, x):
        return x @ self.weight


def test_no_gradient_accumulates():
    critic, generator = Linear(), torch.nn.Linear(3, 3)
    model = drs.GAN(generator, critic, 3)
    sampler = DDLS(steps=5, step_size=0.1)
    first, second = (steps(sampler, model, 300) for _ in range(2))
    assert same(first, second)
    assert all(p.grad is None for p in [*critic.parameters(), *generator.parameters()])


def test_a_sum_that_depends_on_n_would_be_noticed():
    values = drs.ops.normal(drs.Rng(0), 7, 13, stream=7)
    whole = moving.row_sum(values)
    assert torch.allclose(whole, values.sum(dim=1), atol=1e-5)
    assert all(torch.equal(moving.row_sum(values[k : k + 1])[0], whole[k]) for k in range(7))
    assert torch.equal(moving.row_sum(values.view(7, 13, 1)), whole)


# --- burn-in, labels, errors


def test_the_step_is_found_in_burn_in_and_frozen():
    sampler = DDLS(kind="mala", steps=60, target=0.8)
    state = sampler.init(gan(), drs.Rng(0))
    model, n, half = gan(), 2**13, 15
    counts = [
        int(
            steps(DDLS(kind="mala", steps=k, step_size=float(state.step_size)), model, n).stats[
                "accepted_steps"
            ]
        )
        for k in (half, 2 * half)
    ]
    assert (counts[1] - counts[0]) / (n * half) == pytest.approx(0.8, abs=0.03)
    assert float(DDLS(steps=60, target=0.8).init(gan(), drs.Rng(1)).step_size) != float(
        state.step_size
    )
    given = DDLS(step_size=0.03).init(gan(), drs.Rng(0))
    assert float(given.step_size) == 0.03


def test_labels():
    model = drs.GAN(lambda z, y: z, lambda x, y: -SLOPE_ / 2 * (x[:, 0] - y).square(), 1, labels=3)
    batch = steps(DDLS(kind="mala", steps=25, step_size=0.2), model, 2**14)
    for k in range(3):
        z = batch.z[batch.y == k]
        mean = k * SLOPE_ * VARIANCE
        assert abs(deviation(z - mean, VARIANCE)) < LIMIT


def test_any_critic_is_an_energy():
    batch = drs.generate(gan(1, link="wasserstein"), DDLS(steps=2, step_size=0.1), 100)
    assert len(batch.x) == 100


def test_laws():
    assert all(not DDLS(kind=kind).law.startswith("data") for kind in ddls.KINDS)
    assert "bias" in DDLS(kind="ula").law
    assert "limit" in DDLS(kind="mala").law


@pytest.mark.parametrize(
    ("name", "value"),
    [("kind", "MALA"), ("steps", 0), ("steps", 1.5), ("step_size", 0), ("step_size", math.nan),
     ("target", 1.0), ("target", 0.0), ("friction", 0.0), ("friction", 1.1), ("burn_in", 0)],
)  # fmt: skip
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        DDLS(**{name: value})


@pytest.mark.parametrize("d", [1, 8, 64])
def test_a_step_size_is_found_in_spite_of_walls(d):
    """The first coordinate has density exp(3 x) on [-1, 1], mean 0.6716; allows 5 sd and a bias."""
    model = drs.GAN(lambda z: 1.0 * z, lambda x: 3.0 * x[:, 0], d, prior="uniform", block=1024)
    x = drs.generate(model, DDLS(), 1024, batch_size=1024).x
    assert float(x[:, 0].mean()) == pytest.approx(0.6716, abs=0.08)


@pytest.mark.parametrize("kind", ddls.KINDS)
def test_mala_that_accepts_nothing_warns(kind):
    """A step of 400 ends 400 standard deviations away, where no logit is high enough."""
    sampler = DDLS(kind=kind, steps=3, step_size=400.0, burn_in=200)
    if kind not in ddls.ADJUSTED:
        sampler.init(gan(2), drs.Rng(0))
        return
    name = kind.upper()
    with pytest.warns(UserWarning, match=rf"{name} accepts 0\.00% of its moves at step_size=400"):
        sampler.init(gan(2), drs.Rng(0))
    DDLS(kind=kind, steps=3, step_size=0.3, burn_in=200).init(gan(2), drs.Rng(0))


def test_mala_whose_step_is_not_found_in_so_few_steps_warns():
    steep = drs.GAN(torch.clone, lambda x: -1e8 * x.square().sum(dim=1), 2)
    with pytest.warns(UserWarning, match="use a smaller step_size, or more steps and no step_size"):
        DDLS(kind="mala", steps=3, burn_in=200).init(steep, drs.Rng(0))
    DDLS(kind="ula", steps=3, burn_in=200).init(steep, drs.Rng(0))
