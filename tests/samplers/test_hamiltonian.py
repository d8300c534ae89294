"""Hamiltonian moves. Checks use KS at p = 1e-6 or 4.5 sd: at most 7e-6 false alarms each."""

import math

import numpy as np
import pytest
import torch
from linear_gaussian import VARIANCE, curved, deviation, gan, logit, steps
from scipy.stats import kstest, norm

import drs_fast as drs
from drs_fast.samplers.common import hamiltonian, metropolis, moving
from drs_fast.samplers.common.moving import Prior
from drs_fast.samplers.ddls import DDLS

LIMIT = 4.5
CHANCE = 1e-6
ROWS = 2**13


class Known:
    """A GAN whose tempered latents have a known distribution, in which chains begin."""

    def __init__(self, name, heat=1.0):
        sd = math.sqrt(VARIANCE * heat)
        slope = 3.0 / heat
        self.heat = heat
        if name == "normal":
            self.model, law = model(logit, "normal"), norm(0.0, sd)
            self.distribution, self.quantile = law.cdf, law.ppf
        elif name == "logistic":
            assert heat == 1.0
            self.model = model(
                lambda x: (x.square() / 2 - 2 * torch.cosh(x / 2).log()).sum(dim=1), "normal"
            )
            self.distribution = lambda z: 1 / (1 + np.exp(-z))
            self.quantile = lambda u: np.log(u / (1 - u))
        elif name == "walls":
            low, high = math.exp(-slope), math.exp(slope)
            self.model = model(lambda x: 3.0 * x.sum(dim=1), "uniform")
            self.distribution = lambda z: (np.exp(slope * z) - low) / (high - low)
            self.quantile = lambda u: np.log(low + u * (high - low)) / slope
        else:
            inside = norm.cdf(2, scale=sd) - norm.cdf(-2, scale=sd)
            self.model = model(logit, "truncated normal")
            self.distribution = lambda z: (norm.cdf(z, scale=sd) - norm.cdf(-2, scale=sd)) / inside
            self.quantile = lambda u: norm.ppf(norm.cdf(-2, scale=sd) + u * inside, scale=sd)

    def start(self, seed=1):
        u = np.random.default_rng(seed).uniform(1e-9, 1 - 1e-9, (ROWS, 3))
        return torch.from_numpy(self.quantile(u)).float()

    def p_value(self, z):
        return kstest(z.double().numpy().ravel(), self.distribution).pvalue

    def moved(self, size, leapfrog=4, count=6):
        """The chains after some trajectories, and the share that was accepted."""
        sampler = DDLS("hmc", count, size, temperature=self.heat, leapfrog=leapfrog, burn_in=64)
        state = sampler.State(torch.tensor(size), torch.tensor(1.0))
        batch = sampler.step(self.model, state, self.start(), None, drs.Rng(0))[1]
        assert int(batch.stats["gradients"]) == ROWS * (count * leapfrog + 1)
        return batch.z, int(batch.stats["accepted_steps"]) / (ROWS * count)


def model(critic, prior):
    return drs.GAN(torch.clone, critic, 3, prior=prior, block=ROWS)


CASES = [("normal", 1.0, 0.8), ("normal", 0.3, 0.8), ("logistic", 1.0, 4.0), ("walls", 1.0, 0.05),
         ("walls", 2.5, 0.3), ("truncated", 6.0, 0.8)]  # fmt: skip


@pytest.mark.parametrize(("name", "heat", "size"), CASES)
def test_chains_that_begin_in_the_target_stay_there(name, heat, size):
    """Even with steps so large that many are rejected."""
    known = Known(name, heat)
    assert known.p_value(known.start()) > CHANCE
    z, share = known.moved(size)
    assert 0.1 < share < 0.95
    assert known.p_value(z) > CHANCE
    assert float(z.abs().max()) <= {"walls": 1.0, "truncated": 2.0}.get(name, math.inf)


def all_accepted(gain, *rest):
    return ACCEPTED(torch.zeros_like(gain), *rest)


def without_kinetic_energy(velocity, *rest):
    return torch.zeros(len(velocity), dtype=torch.float64)


def before_the_last_kick(velocity, time, drift, size):
    return KINETIC(velocity, min(time, 0.0), drift, size)


def hot(gain, *rest):
    return ACCEPTED(0.3 * gain, *rest)


ACCEPTED, KINETIC, BOUNCED = metropolis.accepted, hamiltonian._kinetic, moving.bounced


@pytest.mark.parametrize(("where", "fault"), [
    ("accepted", all_accepted), ("accepted", hot), ("_kinetic", without_kinetic_energy),
    ("_kinetic", before_the_last_kick),
])  # fmt: skip
@pytest.mark.parametrize("case", [("normal", 1.0), ("normal", 0.3), ("logistic", 1.0)], ids=str)
def test_faults_are_noticed(where, fault, case, monkeypatch):
    monkeypatch.setattr(hamiltonian, where, fault)
    known = Known(*case)
    size = {"normal": 0.5, "logistic": 2.5}[case[0]]
    assert known.p_value(known.moved(size, count=20)[0]) < CHANCE


def clipped(z, velocity, box, centre):
    return z.clamp(centre - box, centre + box), velocity


def not_turned(z, velocity, *walls):
    return BOUNCED(z, velocity, *walls)[0], velocity


@pytest.mark.parametrize("fault", [clipped, not_turned])
def test_walls_that_stop_chains_are_noticed(fault, monkeypatch):
    monkeypatch.setattr(moving, "bounced", fault)
    known = Known("walls")
    assert known.p_value(known.moved(0.02)[0]) < CHANCE


def test_bounces():
    z = torch.tensor([[-0.3, 1.25, -1.5, 3.0, -3.2, 5.1, 1.0, 1.0 + 2**-23]])
    there, velocity = moving.bounced(z, torch.ones_like(z), 1.0)
    assert torch.equal(there, moving.reflected(z, 1.0))
    assert velocity.tolist() == [[1.0, -1.0, -1.0, -1.0, 1.0, -1.0, 1.0, -1.0]]
    assert moving.bounced(z, z, math.inf) == (z, z)


def test_one_leapfrog_is_a_move_of_metropolis():
    curve, prior, rng = curved(block=512), Prior(1.0, math.inf), drs.Rng(0)
    z = drs.ops.latents(curve, rng, 500)
    here = metropolis.point(curve, prior, z, None, scale=2.0)
    fields = {"noise": 0.7, "scale": 2.0}
    mala, moved, _ = metropolis.metropolis(curve, prior, here, None, rng, 5, 0.6, **fields)
    hmc, also = hamiltonian.hamiltonian(curve, prior, here, None, rng, 5, 0.6, leapfrog=1, **fields)
    assert torch.equal(moved, also)
    assert 50 < int(moved.sum()) < 450
    assert torch.allclose(mala.z, hmc.z, atol=1e-6)


@pytest.mark.parametrize("d", [1, 5])
def test_variance(d):
    batch = steps(DDLS("hmc", 15, 0.06, leapfrog=4, burn_in=64), gan(d), 2**14)
    assert abs(deviation(batch.z, VARIANCE)) < LIMIT


def test_no_direction_comes_back_to_where_it_began(monkeypatch):
    """Five leapfrogs of this size take half a period of z, so that z goes to -z and back."""
    size = 2 * VARIANCE * (1 - math.cos(math.pi / 5))
    sampler = DDLS("hmc", 100, size, leapfrog=5, burn_in=64)
    n = 2**11
    one = drs.GAN(torch.clone, lambda x: -1.5 * x[:, 0].square(), 1, block=n)
    assert abs(deviation(steps(sampler, one, n).z, VARIANCE)) < LIMIT
    monkeypatch.setattr(drs.samplers.ddls, "varied", lambda size, step: size)
    assert deviation(steps(sampler, one, n).z, VARIANCE) > LIMIT


def test_steps_vary_evenly():
    sizes = [hamiltonian.varied(3.0, step) for step in range(1000)]
    assert 1.0 <= min(sizes) < 1.02
    assert 4.98 < max(sizes) <= 5.0
    assert np.mean(sizes) == pytest.approx(3.0, abs=0.005)


@pytest.mark.parametrize("target", [0.6, 0.9])
def test_the_step_is_found_in_burn_in(target):
    sampler = DDLS("hmc", 200, target=target, leapfrog=4, burn_in=500)
    model = drs.GAN(torch.clone, logit, 16, block=2**9)
    size = float(sampler.init(model, drs.Rng(0)).step_size)
    fixed = DDLS("hmc", 40, size, leapfrog=4, burn_in=64)
    batch = steps(fixed, model, 2**9)
    share = int(batch.stats["accepted_steps"]) / (2**9 * 40)
    assert 1 / 1.5 < (1 - share) / (1 - target) < 1.5


def test_walls_do_not_make_steps_small():
    """In 64 dimensions nearly every trajectory meets a wall; allows 5 sd around 0.6716."""
    wide = drs.GAN(torch.clone, lambda x: 3.0 * x[:, 0], 64, prior="uniform", block=1024)
    sampler = DDLS("hmc", 20, leapfrog=8, burn_in=256)
    x = steps(sampler, wide, 1024).x
    assert float(x[:, 0].mean()) == pytest.approx(0.6716, abs=0.05)


def test_labels_keep_their_proportion_and_have_their_own_law():
    """The logit is 2 higher where y = 1, which changes no chain's law."""
    model = drs.GAN(
        lambda z, y: z, lambda x, y: -1.5 * (x[:, 0] - y).square() + 2.0 * y, 1, labels=2,
        block=2**13,
    )  # fmt: skip
    batch = steps(DDLS("hmc", 15, 0.06, leapfrog=4, burn_in=64), model, 2**13)
    assert torch.equal(batch.y, drs.ops.labels(model, drs.Rng(0), 2**13))
    for k in range(2):
        assert abs(deviation(batch.z[batch.y == k] - 0.75 * k, VARIANCE)) < LIMIT
