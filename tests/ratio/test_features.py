"""Density ratios in a feature space: where the losses lead, and what a GAN gains."""

import math
from itertools import pairwise

import pytest
import torch
from runs import latents_taken
from scipy.special import kolmogorov
from scipy.stats import ks_2samp
from torch import nn

import drs_fast as drs
from benchmarks.common import oracle
from benchmarks.common.metrics import metrics
from drs_fast.core import BURN_IN_ROW
from drs_fast.ratio import features, losses
from drs_fast.training import fitting
from drs_fast.training.fitting import Draws
from drs_fast.zoo import gaussians25

SMALL = {
    "width": 16,
    "depth": 2,
    "epochs": 2,
    "samples": 2000,
    "batch": 256,
    "penalty": 0.05,
    "rate": 0.03,
}
BRIEFLY = pytest.mark.filterwarnings("ignore:too little was learned")

# A discrete model: of ten real and ten generated samples, so many are in state 0, 1, 2.
REAL, GENERATED = (
    torch.tensor([0] * 5 + [1] * 3 + [2] * 2),
    torch.tensor([0] * 2 + [1] * 3 + [2] * 5),
)
RATIO = torch.tensor([2.5, 1.0, 0.4], dtype=torch.float64)


def minimiser(loss, penalty, steps=800):
    """R of each state, by gradient descent on log R over all samples at once."""
    log_r = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_r], 0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        ratio = log_r.exp()
        fitting.descend(optimizer, loss(ratio[REAL], ratio[GENERATED], penalty))
    return log_r.detach().exp()


@pytest.mark.parametrize(
    ("loss", "penalty"), [("softplus", 0.0), ("softplus", 1.0), ("ulsif", 0.0), ("ulsif", 1.0)]
)
def test_the_minimiser_is_the_ratio(loss, penalty):
    assert torch.allclose(minimiser(losses.LOSSES[loss], penalty), RATIO, atol=0.01, rtol=0.01)


def lowest(loss, penalty, ratio):
    """Whether the loss grows from here in a thousand directions."""

    def value(ratio):
        return float(loss(ratio[REAL], ratio[GENERATED], penalty))

    moved = ratio * (0.01 * Draws(0).normal(1000, 3).double()).exp()
    return all(value(other) > value(ratio) for other in moved)


@pytest.mark.parametrize(("penalty", "times"), [(10.0, 1), (1.5, 1), (1.0, 1), (0.5, 2)])
def test_barr_is_lowest_at_the_ratio_or_above(penalty, times):
    """The loss is convex with a kink, around which a descent would oscillate for ever."""
    for factor in (0.5, 1, 2):
        at_factor = lowest(losses.barr_loss, penalty, factor * RATIO)
        assert at_factor == (factor == times)
    assert not lowest(losses.barr_loss, penalty, times * RATIO.flip(0))


@pytest.mark.filterwarnings("ignore:.*dskl")
def test_dskl_runs_away():
    found = minimiser(losses.dskl_loss, 0.0, steps=800)
    assert float(found[0]) > 1e4
    assert float(found[2]) < 1e-4
    further = minimiser(losses.dskl_loss, 0.0, steps=1200)
    assert float(further[0]) > 100 * float(found[0])


def test_the_minimiser_test_notices_wrong_losses():
    def sign(real, generated, penalty):
        return losses.ulsif_loss(real, -generated, penalty)

    def half(real, generated, penalty):
        return losses.ulsif_loss(real, 2**0.5 * generated, penalty)

    for wrong in (sign, half):
        assert not torch.allclose(minimiser(wrong, 1.0), RATIO, atol=0.01, rtol=0.01)


def real(n):
    return gaussians25.sample(Draws(3, 2**55), n)


def toy(critic=lambda x: x[:, 0]):
    return drs.GAN(oracle.generator, critic, 3, link="wasserstein", real=real)


def waves(x):
    """(n, 10): features that reveal the grid, as a classifier's features reveal its classes."""
    angle = 2 * math.pi * x
    return torch.cat([x, angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], dim=1)


@pytest.fixture(scope="module")
def fitted():
    return features.density_ratio(
        toy(), waves, penalty=(0.0, 0.05), width=64, depth=2, epochs=30, batch=256, rate=3e-3
    )


def test_rejection_with_it_follows_the_data(fitted):
    raw = oracle.gan()
    assert metrics(raw.generator(drs.ops.latents(raw, drs.Rng(1), 5000))).hq < 77
    assert not fitted.energy
    found = metrics(drs.generate(fitted, drs.samplers.DRS(gamma=0.0), 5000).x)
    assert found.hq > 95
    assert found.sd == pytest.approx(0.05, rel=0.08)
    assert found.modes == 25


def test_the_report_says_how_it_came_out(fitted):
    found = features.report(fitted)
    assert [penalty for penalty, _ in found.tried] == [0.0, 0.05]
    means = dict(found.tried)
    assert means[found.penalty] == found.held_out_mean == max(means.values())
    # The true ratio has mean 1 over generated and 1.545 = 1/ESS over real samples (notes: .6473).
    assert found.generated_mean == pytest.approx(1, abs=0.1)
    assert found.held_out_mean == pytest.approx(1 / 0.6473, abs=0.25)
    assert 1e-4 < found.ks_p <= 1
    with pytest.raises(ValueError, match=r"not made by drs.density_ratio"):
        features.report(toy())


def test_the_penalty_with_the_largest_held_out_mean_is_chosen():
    """With few epochs nothing diverges, and the mean decides: a large penalty holds R down."""
    gan = features.density_ratio(toy(), waves, loss="barr", **SMALL | {"penalty": (10.0, 0.1)})
    found = features.report(gan)
    assert found.penalty == 0.1
    assert dict(found.tried)[0.1] > dict(found.tried)[10.0]


@BRIEFLY
def test_each_penalty_is_trained_as_if_alone():
    both = features.report(features.density_ratio(toy(), **SMALL | {"penalty": (0.0, 1.0)}))
    for penalty, mean in both.tried:
        alone = features.density_ratio(toy(), **SMALL | {"penalty": penalty})
        assert features.report(alone).held_out_mean == mean


def gaussians(n):
    return Draws(9, 2**55).normal(n, 1) + 1


@pytest.mark.parametrize("loss", ["softplus", "ulsif"])
def test_raw_samples_serve(loss):
    """N(1, 1) against N(0, 1): log ratio x - 1/2."""
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0], 1, real=gaussians)
    settings = {"width": 32, "depth": 2, "epochs": 20, "samples": 10_000}
    kept = features.density_ratio(gan, loss=loss, penalty=0.05, rate=3e-3, **settings)
    x = torch.linspace(-0.5, 1.5, 21)[:, None]
    difference = kept.scores(x) - (x[:, 0] - 0.5)
    assert float(difference.abs().max()) < 0.3


@pytest.mark.parametrize("loss", sorted(set(losses.LOSSES) - {"dskl"}))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_penalty_leaves_the_slope(loss, seed):
    """N(1, 1) against N(0, 1): log R must rise as log r; 10 for "barr" gave .2 to .4."""
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0], 1, real=gaussians)
    settings = {"width": 32, "depth": 2, "epochs": 10, "samples": 10_000, "seed": seed}
    x = torch.linspace(-0.5, 1.5, 41)
    score = features.density_ratio(gan, loss=loss, **settings).scores(x[:, None])
    slope = float(torch.cov(torch.stack([x, score]))[0, 1] / x.var())
    assert slope == pytest.approx(1, abs=0.2)


def test_the_ratio_of_a_conditional_gan_sees_the_label():
    """Class 0: N(1, 1), three quarters of the data; class 1: N(-1, 1). The model: N(0, 1)."""

    def two_classes(n):
        y = (Draws(9, 2**56).uniform(n) < 0.25).long()
        return gaussians(n) - 2 * y[:, None], y

    gan = drs.GAN(lambda z, y: z, lambda x, y: x[:, 0], 1, labels=2, real=two_classes)
    settings = {"width": 32, "depth": 2, "epochs": 20, "samples": 10_000, "penalty": 0.05}
    kept = features.density_ratio(gan, rate=3e-3, **settings)
    x = torch.linspace(-0.5, 1.5, 21)[:, None]
    for label, sign in ((0, 1), (1, -1)):
        logit = kept.scores(sign * x, torch.full((21,), label))
        assert float((logit - (x[:, 0] - 0.5)).abs().max()) < 0.4


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.last(self.first(x).relu())


@BRIEFLY
def test_a_part_of_the_critic_serves_and_stays_as_it_is():
    critic = Draws(4).build(Critic)
    before = {name: tensor.clone() for name, tensor in critic.state_dict().items()}
    gan = features.density_ratio(toy(critic), "first", **SMALL)
    assert gan.discriminator.network[0][0].in_features == 8
    assert all(torch.equal(before[name], tensor) for name, tensor in critic.state_dict().items())
    assert all(parameter.requires_grad for parameter in critic.parameters())
    assert not critic.first._forward_hooks


@BRIEFLY
def test_a_network_given_as_features_is_copied():
    network = Draws(4).build(lambda: nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5)))
    network.train()
    gan = features.density_ratio(toy(), network, **SMALL)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    x = real(100)
    score = gan.scores(x)
    with torch.no_grad():
        network[0].weight.zero_()
    assert torch.equal(gan.scores(x), score)


@BRIEFLY
def test_papers_network_is_deterministic_and_never_negative():
    settings = {"samples": 200, "batch": 64, "epochs": 1, "paper": True, "penalty": 0.0}
    torch.manual_seed(1)
    first = features.density_ratio(toy(), **settings)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = features.density_ratio(toy(), **settings)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.sha256() == again.sha256()
    network = first.discriminator.network[0]
    linear = [layer.out_features for layer in network if isinstance(layer, nn.Linear)]
    assert linear == [2048, 1024, 512, 256, 128, 1]
    assert sum(isinstance(layer, nn.GroupNorm) and layer.num_groups == 4 for layer in network) == 5
    assert [layer.rate for layer in network if isinstance(layer, fitting.Dropout)] == [0.2] * 5
    assert not network.training
    x = real(300)
    assert bool((network(first.discriminator.features(x)) >= 0).all())
    assert torch.equal(first.scores(x), first.scores(x))
    assert bool(torch.isfinite(first.scores(x)).all())


@pytest.mark.parametrize(
    ("given", "loss", "epochs", "rates"),
    [
        (None, "softplus", 400, (1e-3, 1e-3)),
        (None, "ulsif", 400, (1e-5, 1e-5)),
        (waves, "softplus", 200, (1e-4, 1e-5)),
    ],
)
def test_papers_training(given, loss, epochs, rates):
    plan = features.Plan.of(given, loss, 256, 3, None, True, None)
    assert plan.epochs == epochs
    assert plan.rate * plan.factor(0.25) == pytest.approx(rates[0])
    assert plan.rate * plan.factor(0.75) == pytest.approx(rates[1])


@BRIEFLY
def test_same_seed_same_bytes():
    first, again = (features.density_ratio(toy(), **SMALL) for _ in range(2))
    other = features.density_ratio(toy(), **SMALL, seed=1)
    assert first.sha256() == again.sha256() != other.sha256()
    assert features.report(first) == features.report(again) != features.report(other)
    z = drs.ops.latents(first, drs.Rng(0), 1000)
    assert torch.equal(first.logits(z)[1], again.logits(z)[1])


def test_training_takes_no_row_of_a_run_or_its_burn_in_and_none_twice(monkeypatch):
    rows = latents_taken(monkeypatch)
    features.density_ratio(toy(), **SMALL)
    assert rows[0][0] > BURN_IN_ROW + 2**60
    assert all(end == start for (_, end), (start, _) in pairwise(rows))


def test_gradients_flow_to_the_latents(fitted):
    z = drs.ops.latents(fitted, drs.Rng(5), 256)
    z[:, 0] = -1.0  # a mode, where the generator is differentiable
    slope, step = fitted.gradients(z)[2], 1e-2
    for axis in (1, 2):
        move = torch.zeros_like(z)
        move[:, axis] = step
        difference = (fitted.logits(z + move)[1] - fitted.logits(z - move)[1]) / (2 * step)
        assert float((difference - slope[:, axis]).abs().median()) < 0.02
        assert float(slope[:, axis].abs().median()) > 0.05


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5])
def test_kolmogorov_smirnov_agrees_with_scipy(shift):
    a, b = Draws(1).normal(400, 1)[:, 0], Draws(2).normal(300, 1)[:, 0] + shift
    distance = ks_2samp(a.numpy(), b.numpy()).statistic
    expected = kolmogorov(distance * math.sqrt(400 * 300 / 700))
    assert features.same_law(a, b) == pytest.approx(expected, rel=1e-9)
    assert features.same_law(a, a) == 1.0


def test_dskl_warns():
    with pytest.warns(UserWarning, match="no minimiser"):
        gan = features.density_ratio(toy(), loss="dskl", **SMALL)
    assert features.report(gan).loss == "dskl"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "kl"}, "loss must be one of .*softplus.*, got 'kl'"),
        ({"penalty": -1.0}, "penalty must be"),
        ({"penalty": ()}, "penalty must be a number or several"),
        ({"width": 0}, "width must be an integer >= 1"),
        ({"depth": 0}, "depth must be an integer >= 1"),
        ({"epochs": 0}, "epochs must be an integer >= 1"),
        ({"batch": 0}, "batch must be an integer >= 1"),
        ({"rate": math.nan}, "rate must be"),
        ({"rate": 0.0}, "rate must be greater than 0"),
        ({"loss": ["softplus"]}, "loss must be one of"),
        ({"paper": "yes"}, "paper must be True or False, got 'yes'"),
        ({"features": lambda x: 0 * x + 3}, "features are the same for all samples"),
        ({"features": "first"}, "must be an nn.Module here, got function"),
        ({"features": lambda x: x.log()}, "NaN or infinite"),
    ],
)
def test_errors_say_what_to_do(settings, message):
    with pytest.raises(ValueError, match=message):
        features.density_ratio(toy(), **settings)


def test_too_little_learnt_is_said():
    with pytest.warns(UserWarning, match=r"too little was learned: .* use another rate than 1,"):
        features.density_ratio(toy(), waves, **SMALL | {"rate": 1.0})


def test_what_is_not_finite_is_an_error():
    fine, broken = torch.tensor([0.5, 1.5]), torch.tensor([0.5, math.nan])
    features.check(losses.ulsif_loss, 0.0, fine + 1, fine, 1.0)
    with pytest.raises(RuntimeError, match=r"diverged: .* is nan; use a smaller rate than 1"):
        features.check(losses.ulsif_loss, 0.0, broken, fine, 1.0)
    with pytest.raises(RuntimeError, match="training diverged"):
        features.density_ratio(toy(), waves, **SMALL | {"rate": 1e30})


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_whatever_the_caller_switched_off(mode):
    expected = features.density_ratio(toy(), waves, **SMALL)
    with mode():
        found = features.density_ratio(toy(), waves, **SMALL)
    assert found.sha256() == expected.sha256()


def test_what_is_no_gan_or_has_other_real_samples_is_refused():
    with pytest.raises(ValueError, match=r"gan must be a drs.GAN, got 3"):
        features.density_ratio(3)
    gan = toy()
    gan.real = torch.zeros(80, 3)
    with pytest.raises(ValueError, match="real samples must be like generated ones"):
        features.density_ratio(gan)
