"""Ex2MCMC on the linear-Gaussian oracle and two modes. 4.5 sd: 7e-6 false alarms per check."""

import math

import pytest
import torch
from linear_gaussian import SLOPE, VARIANCE, broken, curved, cut, deviation, gan, same, steps
from two_modes import RIGHT, far_from, right, two_modes

import drs_fast as drs
from drs_fast.core import SELECT
from drs_fast.samplers.common import local_global, metropolis, moving
from drs_fast.samplers.ddls import DDLS
from drs_fast.samplers.ex2mcmc import Ex2MCMC

LIMIT = 4.5
SHORT = Ex2MCMC(steps=8, step_size=0.3)


def from_target(sampler, d=1, n=2**15):
    """Error of the variance after the sampler's steps, started from the target."""
    model, rng = gan(d), drs.Rng(0)
    z = math.sqrt(VARIANCE) * drs.ops.latents(model, rng, n)
    state = sampler.init(model, rng)
    return deviation(sampler.step(model, state, z, None, rng)[1].z, VARIANCE)


@pytest.mark.parametrize(
    "sampler",
    [Ex2MCMC(2, 1, 1, 0.9), Ex2MCMC(2, 1, 4, 0.3), Ex2MCMC(10, 3, 2, 0.3), Ex2MCMC(40, 1, 1, 0.9)],
)
@pytest.mark.parametrize("d", [1, 5])
def test_the_target_is_invariant(sampler, d):
    assert abs(from_target(sampler, d)) < LIMIT


@pytest.mark.parametrize("d", [1, 4])
def test_chains_from_the_prior_come_to_the_target(d):
    assert abs(deviation(steps(SHORT, gan(d), 2**14).z, VARIANCE)) < LIMIT


SELECTED, JUMP = local_global.selected, Ex2MCMC.jump


def without_the_current_point(log_weights, u):
    return SELECTED(log_weights[:-1], u)


def at_random(log_weights, u):
    return SELECTED([0 * weight for weight in log_weights], u)


def stale_gradient(sampler, model, proposal, here, *given):
    there, jumped = JUMP(sampler, model, proposal, here, *given)
    return there._replace(drift=here.drift), jumped


def every_move_accepted(model, prior, here, y, rng, step, size):
    z = drs.ops.langevin(here.z, here.drift, rng, step=step, step_size=size)
    everywhere = torch.ones(len(z), dtype=torch.bool)
    return metropolis.point(model, prior, z, y), everywhere, everywhere


@pytest.mark.parametrize(
    ("place", "name", "fault"),
    [
        (local_global, "selected", without_the_current_point),
        (local_global, "selected", at_random),
        (Ex2MCMC, "jump", stale_gradient),
        (local_global, "metropolis", every_move_accepted),
    ],
)
def test_planted_faults_are_noticed(place, name, fault, monkeypatch):
    monkeypatch.setattr(place, name, fault)
    assert abs(from_target(Ex2MCMC(4, 2, 4, 0.9))) > LIMIT


# --- two modes that no Langevin move leads between


def test_chains_jump_where_langevin_moves_do_not():
    model, n = two_modes(), 2**13
    explored = steps(Ex2MCMC(steps=40, step_size=0.1), model, n)
    stuck = steps(DDLS("mala", steps=160, step_size=0.1, burn_in=100), model, n)
    assert abs(right(explored) - RIGHT) < LIMIT * math.sqrt(RIGHT * (1 - RIGHT) / n)
    assert right(stuck) < 0.6  # half of the prior is on either side
    assert abs(far_from(explored)) < LIMIT


# --- the draw, row by row


def test_the_draw_is_that_of_select():
    n, k, rng = 4000, 7, drs.Rng(5)
    logit = 30 * drs.ops.normal(drs.Rng(6), n, k)
    for column, bad in enumerate((math.nan, math.inf, -math.inf)):
        logit[column::5, column + 1] = bad
    logit[7::50] = math.nan
    logit[8::50] = -math.inf
    rows = torch.arange(n) * k
    u = drs.ops.uniform(rng, n, stream=SELECT, ids=rows)
    drawn = local_global.selected(list(logit.double().unbind(dim=1)), u)
    expected = drs.ops.select(logit, rng)[:, 0]
    assert torch.equal(torch.where(drawn == k, -1, drawn), expected)
    assert int((drawn == k).sum()) == 160


def test_rows_may_be_cut_anywhere():
    sampler = Ex2MCMC(steps=4, step_size=0.2)
    whole = cut(sampler, curved(block=1024), [700])
    assert same(whole, cut(sampler, curved(block=256), [1, 255, 37, 300, 107]))


@pytest.mark.parametrize("prior", ["normal", "uniform", "truncated normal"])
def test_every_proposal_is_another(prior, monkeypatch):
    seen, model = [], gan(3, prior=prior)
    logits = drs.GAN.logits
    monkeypatch.setattr(
        drs.GAN, "logits", lambda self, z, y=None: (seen.append(z), logits(self, z, y))[1]
    )
    steps(Ex2MCMC(candidates=4, steps=5, step_size=0.3), model, 100)
    z = torch.cat(seen)
    assert len(z) == 100 * 5 * 3
    assert len(z.unique(dim=0)) == len(z)
    assert not torch.isin(z[:, 0], drs.ops.latents(model, drs.Rng(0), 100)[:, 0]).any()


def test_counts():
    batch = steps(Ex2MCMC(candidates=4, moves=2, steps=5, step_size=0.3), gan(2), 100)
    stats = {name: int(batch.stats[name]) for name in Ex2MCMC.tallies}
    assert stats["gradients"] == 100 * (1 + 5 * 3)
    assert stats["offered"] == 100 * 5 * 3
    assert 0 < stats["jumps"] < 500
    assert 0 < stats["accepted_steps"] < 1000


def test_the_logit_belongs_to_the_sample():
    batch = steps(SHORT, curved(), 300)
    x, logit = curved().logits(batch.z)
    assert torch.equal(x, batch.x)
    assert torch.equal(logit, batch.logit)


# --- walls, labels, and what cannot be scored


def test_walls():
    """The mean square of exp(-(SLOPE + precision) z^2 / 2) within a box, by a sum."""
    for prior, box, precision in (("uniform", 1.0, 0.0), ("truncated normal", 2.0, 1.0)):
        z = steps(Ex2MCMC(steps=10, step_size=0.3), gan(1, prior=prior), 2**14).z.double()
        grid = torch.linspace(-box, box, 20_001, dtype=torch.float64)
        weight = (-(SLOPE + precision) / 2 * grid.square()).exp()
        square, fourth = ((weight * grid**k).sum() / weight.sum() for k in (2, 4))
        assert float(z.abs().max()) <= box
        sd = math.sqrt(float(fourth - square.square()) / len(z))
        assert abs(float(z.square().mean() - square)) < LIMIT * sd


def test_labels():
    model = drs.GAN(lambda z, y: z, lambda x, y: -SLOPE / 2 * (x[:, 0] - y).square(), 1, labels=3)
    batch = steps(Ex2MCMC(steps=20, step_size=0.2), model, 2**13)
    assert torch.equal(batch.y, drs.ops.labels(model, drs.Rng(0), 2**13))
    for k in range(3):
        assert abs(deviation(batch.z[batch.y == k] - k * SLOPE * VARIANCE, VARIANCE)) < LIMIT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_chain_enters_what_cannot_be_scored(value):
    model = broken(lambda x: x[:, 0] > 0.5, value)
    state = SHORT.State(torch.tensor(0.3), torch.tensor(1.0))
    z = drs.ops.latents(model, drs.Rng(0), 2000)
    _, batch = SHORT.step(model, state, z, None, drs.Rng(0))
    n = int(batch.count)
    assert float(batch.x[:n, 0].max()) <= 0.5
    assert n > 1990  # jumps lead out of there


def within(x):
    return (x[:, 0] > 1.0) & (x[:, 0] < 1.1)


def without_a_gradient(x):
    """A logit that is high between 1 and 1.1, where its gradient is NaN."""
    flat = torch.where(within(x), 0.0 * x[:, 0], 1.0)
    return torch.where(within(x), 3.0 + flat.sqrt(), -x[:, 0].abs())


def test_chains_leave_where_there_is_no_gradient_and_do_not_come_back():
    model, n = drs.GAN(torch.clone, without_a_gradient, 1), 1000
    inside = torch.full((n, 1), 1.05)
    start = metropolis.point(model, moving.prior(model), inside, None)
    assert bool((start.logit == 3.0).all())
    assert bool((start.target == -math.inf).all())
    state = SHORT.State(torch.tensor(1e-6), torch.tensor(1.0))  # moves lead nowhere
    ends = Ex2MCMC(steps=1).step(model, state, inside, None, drs.Rng(0))[1].z
    # A fifth have such a proposal too, which is refused when it wins. Own weights would keep 770.
    assert int(within(ends).sum()) < 250
    z = -drs.ops.latents(model, drs.Rng(0), n).abs()
    ends = SHORT.step(model, state, z, None, drs.Rng(0))[1].z
    assert not within(ends).any()


# --- burn-in, and what it refuses and says


@pytest.mark.parametrize("target", [0.5, 0.67])
def test_the_step_is_found_in_burn_in(target):
    size = float(Ex2MCMC(target=target).init(gan(2), drs.Rng(0)).step_size)
    batch = steps(Ex2MCMC(steps=10, step_size=size), gan(2), 2**12)
    assert int(batch.stats["accepted_steps"]) / (2**12 * 30) == pytest.approx(target, abs=0.03)
    assert float(Ex2MCMC(step_size=0.2).init(gan(2), drs.Rng(0)).step_size) == 0.2


def test_any_critic_is_an_energy():
    assert len(drs.generate(gan(1, link="wasserstein"), SHORT, 100).x) == 100


def test_a_callable_prior_says_what_to_do():
    with pytest.raises(ValueError, match="part of the generator"):
        SHORT.init(gan(1, prior=torch.tanh), drs.Rng(0))


def test_the_law_is_said_plainly():
    law = "in the limit of many steps p0(z) exp(logit), which is the data if the logit is exact"
    assert SHORT.law == f"{law}; after 8 steps near it"


@pytest.mark.parametrize(
    ("name", "value"),
    [("candidates", 1), ("moves", 0), ("steps", 0), ("steps", 1.5), ("step_size", 0),
     ("step_size", math.nan), ("target", 1.0), ("target", 0.0), ("burn_in", 0)],
)  # fmt: skip
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        Ex2MCMC(**{name: value})
