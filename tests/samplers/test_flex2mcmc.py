"""FlEx2MCMC: its flow, what is exact whatever the flow, and what fitting it gains.

Checks allow 4.5 sd: 7e-6 false alarms per check.
"""

import math

import pytest
import torch
from linear_gaussian import VARIANCE, curved, cut, deviation, gan, same, steps
from two_modes import RIGHT, far_from, right, two_modes

import drs_fast as drs
from drs_fast.core import BURN_IN_ROW
from drs_fast.samplers.common import flow
from drs_fast.samplers.ex2mcmc import Ex2MCMC
from drs_fast.samplers.flex2mcmc import Fit, FlEx2MCMC, Pushed
from drs_fast.training.fitting import Draws

LIMIT = 4.5


def arbitrary(model, seed=8):
    """A flow with arbitrary weights, fitted to nothing."""
    network = flow.build(model, Draws(0))
    Draws(seed).initialise(network)
    return network


def state_of(network, size=0.3):
    one = torch.ones((), dtype=torch.float64)
    return FlEx2MCMC.State(size * one, flow.packed(network), one)


# --- the flow


def labelled(d, classes):
    return drs.GAN(lambda z, y: z, lambda x, y: x[:, 0], d, labels=classes) if classes else gan(d)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("d", [1, 2, 5, 64])
def test_the_flow_can_be_undone_and_knows_its_determinant(d, classes):
    model = labelled(d, classes)
    network = arbitrary(model).double()
    z = drs.ops.normal(drs.Rng(1), 6, d).double()
    y = torch.arange(6) % classes if classes else None
    with torch.no_grad():
        x, log_det = network(z, y)
        back, same_det = network(x, y, inverse=True)
    assert not torch.allclose(x, z, atol=0.01)
    assert torch.allclose(back, z, atol=1e-9)
    assert torch.allclose(log_det, same_det, atol=1e-9)
    for row in range(6):
        label = None if y is None else y[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda one, label=label: network(one[None], label)[0][0], z[row]
        )
        assert torch.linalg.slogdet(jacobian)[1] == pytest.approx(float(log_det[row]), abs=1e-9)


def test_a_new_flow_leaves_latents_as_they_are():
    z = drs.ops.normal(drs.Rng(1), 50, 5)
    x, log_det = flow.build(gan(5), Draws(0)).of(z, None)
    assert torch.equal(x, z)
    assert not log_det.any()


def test_weights_survive_packing():
    model, z = labelled(5, 3), drs.ops.normal(drs.Rng(1), 50, 5)
    network, y = arbitrary(model), torch.arange(50) % 3
    again = flow.unpacked(model, flow.packed(network))
    assert all(torch.equal(a, b) for a, b in zip(network.of(z, y), again.of(z, y), strict=True))


@pytest.mark.parametrize("inverse", [False, True])
def test_neither_threads_nor_neighbours_change_bits(inverse):
    network, z = arbitrary(gan(40)), drs.ops.normal(drs.Rng(1), 2500, 40)
    whole = network.of(z, None, inverse)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        several = network.of(z, None, inverse)
    finally:
        torch.set_num_threads(threads)
    parts = [network.of(part, None, inverse) for part in z.split([1, 1200, 299, 1000])]
    for k in range(2):
        assert torch.equal(whole[k], several[k])
        assert torch.equal(whole[k], torch.cat([part[k] for part in parts]))


# --- exact whatever the flow


def from_target(proposal, n=2**14, d=2):
    """Error of the variance after jumps to the flow's latents, started from the target."""
    model, rng, sampler = gan(d), drs.Rng(0), Ex2MCMC(candidates=3, moves=1, steps=4)
    z = math.sqrt(VARIANCE) * drs.ops.latents(model, rng, n)
    return deviation(sampler.run(model, (proposal,), 0.05, z, None, rng).z, VARIANCE)


def test_the_target_is_invariant_for_an_arbitrary_flow():
    proposal = Pushed(arbitrary(gan(2)))
    z = drs.ops.latents(gan(2), drs.Rng(3), 5000)
    assert float(proposal.of(z, None)[1].std()) > 0.2  # it is far from the prior
    assert abs(from_target(proposal)) < LIMIT


class NoDeterminant(Pushed):
    def of(self, fresh, y):
        x, correction = super().of(fresh, y)
        return x, correction - self.flow.of(fresh, y)[1]

    def correction(self, z, y):
        return super().correction(z, y) - self.flow.of(z, y, inverse=True)[1]


class NoCorrectionOfTheCurrentPoint(Pushed):
    def correction(self, z, y):
        return torch.zeros(len(z), dtype=torch.float64)


class TheDeterminantOfTheWayBack(Pushed):
    def of(self, fresh, y):
        x, correction = super().of(fresh, y)
        return x, correction - 2 * self.flow.of(fresh, y)[1]


@pytest.mark.parametrize(
    "fault", [NoDeterminant, NoCorrectionOfTheCurrentPoint, TheDeterminantOfTheWayBack]
)
def test_planted_faults_are_noticed(fault):
    assert abs(from_target(fault(arbitrary(gan(2))))) > LIMIT


def test_chains_with_an_arbitrary_flow_come_to_the_target_from_the_prior():
    model, rng = gan(3), drs.Rng(0)
    z = drs.ops.latents(model, rng, 2**13)
    sampler = FlEx2MCMC(steps=12)
    batch = sampler.step(model, state_of(arbitrary(model)), z, None, rng)[1]
    assert abs(deviation(batch.z, VARIANCE)) < LIMIT


def test_a_flow_that_lost_a_mode_does_no_harm():
    """The flow covers the left mode alone; jumps between modes use the prior."""
    model, n = two_modes(), 2**13
    network = flow.build(model, Draws(0))
    with torch.no_grad():  # the first coordinate to -2.5 + 0.5 z
        last = network.couplings[0].last
        scale = flow.STEEPEST * math.atanh(math.log(0.5) / flow.STEEPEST)
        last.bias.copy_(torch.tensor([scale, -2.5]))
    z = drs.ops.latents(model, drs.Rng(0), n)
    assert abs(float(network.of(z, None)[0][:, 0].mean()) + 2.5) < 0.1
    batch = FlEx2MCMC(steps=60).step(model, state_of(network, 0.1), z, None, drs.Rng(0))[1]
    assert abs(right(batch) - RIGHT) < LIMIT * math.sqrt(RIGHT * (1 - RIGHT) / n)
    assert abs(far_from(batch)) < LIMIT


# --- what a fitted flow is good for

FITTED = FlEx2MCMC(steps=20, rounds=40, burn_in=256)


def test_chains_jump_more_often_to_a_fitted_flow():
    model, n = two_modes(), 2**12
    fitted, plain = steps(FITTED, model, n), steps(Ex2MCMC(steps=20), model, n)
    assert abs(right(fitted) - RIGHT) < LIMIT * math.sqrt(RIGHT * (1 - RIGHT) / n)
    assert abs(far_from(fitted)) < LIMIT
    # 0.1 to the prior's latents in the long run, and about 0.8 to the flow's, half of the time.
    assert int(plain.stats["jumps"]) / (20 * n) < 0.25
    assert int(fitted.stats["jumps"]) / (20 * n) > 0.4


def test_the_flow_is_fitted_to_each_class():
    """The flow's latents of class y lie at VARIANCE * SLOPE * y, where the data are."""
    model = drs.GAN(lambda z, y: z, lambda x, y: -1.5 * (x[:, 0] - 2 * y).square(), 2, labels=2)
    state = FITTED.init(model, drs.Rng(0))
    y, z = torch.arange(2000) % 2, drs.ops.latents(model, drs.Rng(5), 2000)
    x = flow.unpacked(model, state.weights).of(z, y)[0]
    for k in range(2):
        assert float(x[y == k, 0].mean()) == pytest.approx(1.5 * k, abs=0.2)
        assert float(x[y == k, 0].std()) == pytest.approx(0.5, abs=0.15)


def test_burn_in_gives_the_same_weights_on_any_number_of_threads():
    sampler, threads = FlEx2MCMC(rounds=3, burn_in=100), torch.get_num_threads()
    one = sampler.init(curved(40), drs.Rng(0))
    try:
        torch.set_num_threads(4)
        several = sampler.init(curved(40), drs.Rng(0))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, several, strict=True))
    with torch.inference_mode():
        inside = sampler.init(curved(40), drs.Rng(0))
    assert all(torch.equal(a, b) for a, b in zip(one, inside, strict=True))


def test_latents_that_cannot_be_scored_do_not_stop_the_fit():
    """For half of an unfitted flow's latents the logit is -inf and its gradient NaN."""
    model = drs.GAN(torch.clone, lambda x: (x[:, 0] * (x[:, 0] > 0)).log(), 2)
    state = FlEx2MCMC(rounds=20, burn_in=200, step_size=0.1).init(model, drs.Rng(0))
    x = flow.unpacked(model, state.weights).of(drs.ops.latents(model, drs.Rng(1), 2000), None)[0]
    assert float((x[:, 0] > 0).double().mean()) > 0.9


def test_a_loss_that_is_no_number_changes_no_weight(monkeypatch):
    model, loss = gan(2), Fit._forward
    monkeypatch.setattr(Fit, "_forward", lambda *given: loss(*given) * math.nan)
    state = FlEx2MCMC(rounds=2, burn_in=100, step_size=0.1).init(model, drs.Rng(0))
    assert torch.equal(state.weights, flow.packed(flow.build(model, Draws(0, BURN_IN_ROW))))


def test_rows_may_be_cut_anywhere():
    sampler = FlEx2MCMC(steps=4, rounds=2, burn_in=50)
    whole = cut(sampler, curved(block=1024), [700])
    assert same(whole, cut(sampler, curved(block=256), [1, 255, 37, 300, 107]))


# --- what it refuses and says


@pytest.mark.parametrize("prior", ["uniform", "truncated normal", torch.tanh])
def test_other_latents_are_refused(prior):
    with pytest.raises(ValueError, match="FlEx2MCMC needs normal latents, got prior"):
        FITTED.init(gan(2, prior=prior), drs.Rng(0))


def test_the_law_is_that_of_ex2mcmc():
    assert FlEx2MCMC().law == Ex2MCMC().law


@pytest.mark.parametrize(
    ("name", "value"), [("rounds", 0), ("backward", -0.1), ("backward", 1.1), ("candidates", 1)]
)
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        FlEx2MCMC(**{name: value})
