"""Keep-training turns critics into density ratios and changes nothing else."""

import math
from itertools import pairwise

import pytest
import torch
from runs import latents_taken
from torch import nn

import drs_fast as drs
from benchmarks.common import oracle
from benchmarks.common.metrics import metrics
from drs_fast.core import BURN_IN_ROW
from drs_fast.ratio import head
from drs_fast.training import fitting, frozen, taps
from drs_fast.training.fitting import Draws
from drs_fast.zoo import gaussians25

SMALL = {"widths": (32,), "samples": 4000, "batch": 256, "max_steps": 300}


def real(n):
    return gaussians25.sample(Draws(3, 2**55), n)


class Saturated(nn.Module):
    """A critic like those of the hinge loss: far from a ratio, and flat where it is sure."""

    def __init__(self):
        super().__init__()
        self.last = Draws(5).build(lambda: nn.Linear(4, 1))

    def forward(self, x):
        ratio = oracle.log_ratio(x).clamp(-30, 30).float()
        seen = [ratio.tanh(), (ratio / 4 + 1).tanh(), (ratio - 0.5).tanh(), ratio.clamp(-12) / 12]
        return (3 * self.last(torch.stack(seen, dim=1))).clamp(-1, 1)


def hinge_gan(critic=None):
    return drs.GAN(oracle.generator, critic or Saturated(), 3, link="hinge", real=real)


@pytest.fixture(scope="module")
def trained():
    return head.keep_train(hinge_gan(), widths=(64, 32), max_steps=1500)


def fit(gan, n=50_000):
    """Correlation with the exact log ratio where that is above -4, and slope, on fresh samples."""
    base = oracle.gan()
    x = base.generator(drs.ops.latents(base, drs.Rng(77), n))
    exact = oracle.log_ratio(x)
    near = exact > -4
    covariance = torch.cov(torch.stack([exact[near], gan.scores(x).double()[near]]))
    (a, b), (_, c) = covariance.tolist()
    return b / math.sqrt(a * c), b / a


def test_a_saturated_critic_becomes_the_log_ratio(trained):
    assert fit(hinge_gan())[0] < 0.9
    correlation, slope = fit(trained)
    assert correlation > 0.99
    assert slope == pytest.approx(1, abs=0.08)
    assert head.report(trained).mean_weight == pytest.approx(1, abs=0.06)
    # The critic that knows the ratio has this loss on the same kind of samples: 0.5713 (n = 4e6).
    assert head.report(trained).held_out_loss == pytest.approx(0.5713, abs=0.015)


def test_rejection_with_it_follows_the_data(trained):
    raw = oracle.gan()
    assert metrics(raw.generator(drs.ops.latents(raw, drs.Rng(1), 5000))).hq < 77
    found = metrics(drs.generate(trained, drs.samplers.DRS(gamma=0.0), 5000).x)
    assert found.hq > 99
    assert found.sd == pytest.approx(0.05, rel=0.04)
    assert found.modes == 25


def test_the_link_is_a_ratio_and_hinge_alone_is_refused(trained):
    assert hinge_gan().energy
    assert not trained.energy
    with pytest.raises(ValueError, match=r"keep_train|ratio"):
        drs.generate(hinge_gan(), drs.samplers.DRS(), 10)


def test_the_best_weights_are_kept(monkeypatch):
    """The learning rate is so large that the loss goes up and down."""
    seen = []
    loss_of = fitting.held_out_loss
    monkeypatch.setattr(
        fitting, "held_out_loss", lambda *given: seen.append(loss_of(*given)) or seen[-1]
    )
    gan = head.keep_train(hinge_gan(), **SMALL | {"max_steps": 1500}, rate=0.3)
    report = head.report(gan)
    assert report.held_out_loss == min(seen) < min(seen[1], seen[-1])
    assert report.steps == 100 * (len(seen) - 2)
    material = frozen.Material(gan, 4000, 0)
    frozen.Material.generated(material, material.training)  # those that features are scaled by
    real_logit = gan.scores(*material.held_out)
    made_logit = gan.scores(*material.generated(material.held_out))
    assert float(fitting.logistic_loss(real_logit, made_logit)) == pytest.approx(
        min(seen), abs=1e-6
    )


def test_it_stops_early():
    gan = head.keep_train(hinge_gan(), **SMALL | {"max_steps": 5000}, rate=0.1, patience=1)
    assert head.report(gan).steps < 5000


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("how", ["features=None", "features='last'", "whole"])
def test_the_modules_given_stay_as_they_are(how):
    critic = Saturated()
    before = state(critic)
    kind = {
        "features=None": {},
        "features='last'": {"features": "last"},
        "whole": {"whole": True, "rate": 0.01},
    }
    kept = head.keep_train(hinge_gan(critic), **SMALL, **kind[how])
    assert all(torch.equal(before[name], tensor) for name, tensor in state(critic).items())
    assert all(parameter.requires_grad for parameter in critic.parameters())
    assert not critic.last._forward_hooks
    assert all(parameter.grad is None for parameter in critic.parameters())
    z = drs.ops.latents(kept, drs.Rng(0), 100)
    assert not torch.equal(kept.logits(z)[1], hinge_gan(critic).logits(z)[1])


def test_same_seed_same_bytes():
    torch.manual_seed(1)
    first = head.keep_train(hinge_gan(), **SMALL)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again, other = (
        head.keep_train(hinge_gan(), **SMALL),
        head.keep_train(hinge_gan(), **SMALL, seed=1),
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.sha256() == again.sha256()
    assert len({first.sha256(), other.sha256(), hinge_gan().sha256()}) == 3
    assert head.report(first) == head.report(again) != head.report(other)
    z = drs.ops.latents(first, drs.Rng(0), 1000)
    assert torch.equal(first.logits(z)[1], again.logits(z)[1])
    assert first.sha256() == again.sha256()  # calls leave no trace


def test_training_takes_no_row_of_a_run_or_its_burn_in_and_none_twice(monkeypatch):
    rows = latents_taken(monkeypatch)
    head.keep_train(hinge_gan(), **SMALL)
    assert rows[0][0] > BURN_IN_ROW + 2**60
    assert all(end == start for (_, end), (start, _) in pairwise(rows))
    # 3200 real rows are left for training, 800 held out: two scalings and 300 batches of 256
    assert rows[-1][1] - rows[0][0] >= 3200 + 800 + 300 * 256


def test_gradients_flow_to_the_latents(trained):
    z = drs.ops.latents(trained, drs.Rng(5), 512)
    z[:, 0] = -1.0  # a mode, where the generator is differentiable
    _, _, slope = trained.gradients(z)
    step = 1e-2
    for axis in (1, 2):
        move = torch.zeros_like(z)
        move[:, axis] = step
        difference = (trained.logits(z + move)[1] - trained.logits(z - move)[1]) / (2 * step)
        assert float((difference - slope[:, axis]).abs().median()) < 0.01
        assert float(slope[:, axis].abs().median()) > 0.05


class Conditional(nn.Module):
    """An untrained critic whose only feature is the sample."""

    def __init__(self):
        super().__init__()
        self.last = Draws(5).build(lambda: nn.Linear(1, 1))

    def forward(self, x, y):
        return self.last(x).clamp(-1, 1)


def two_classes(n):
    """Class 0: N(1, 1), three quarters of the data; class 1: N(-1, 1). The model: N(0, 1)."""
    draws = Draws(9, 2**55)
    y = (draws.uniform(n) < 0.25).long()
    return draws.normal(n, 1) + 1 - 2 * y[:, None], y


def test_the_head_of_a_conditional_gan_sees_the_label():
    gan = drs.GAN(lambda z, y: z, Conditional(), 1, labels=2, link="wasserstein", real=two_classes)
    kept = head.keep_train(gan, widths=(32,), samples=10_000, max_steps=600, rate=3e-3)
    x = torch.linspace(-1.5, 1.5, 31)[:, None]
    for label, sign in ((0, 1), (1, -1)):
        logit = kept.scores(x, torch.full((31,), label))
        # log N(x; +-1, 1) - log N(x; 0, 1), with no offset for the classes' unequal shares
        assert float((logit - (sign * x[:, 0] - 0.5)).abs().max()) < 0.3


def test_raw_samples_serve_where_there_is_no_critic():
    """N(1, 1) against N(0, 1): log ratio x - 1/2."""
    gan = drs.GAN(
        lambda z: z, lambda x: 0 * x[:, 0], 1, real=lambda n: Draws(9, 2**55).normal(n, 1) + 1
    )
    kept = head.keep_train(gan, lambda x: x, widths=(32,), samples=10_000, max_steps=600, rate=3e-3)
    x = torch.linspace(-1, 2, 31)[:, None]
    assert float((kept.scores(x) - (x[:, 0] - 0.5)).abs().max()) < 0.2


class Normed(nn.Module):
    """A critic with batch norm, dropout, spectral norm, a score in a tuple, and a sigmoid."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            Draws(1).build(lambda: nn.Linear(1, 16)),
            nn.BatchNorm1d(16),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )
        self.last = nn.utils.spectral_norm(Draws(2).build(lambda: nn.Linear(16, 1)))

    def forward(self, x):
        return self.last(self.body(x)).sigmoid(), None


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
def test_a_whole_critic_is_trained_through_its_link():
    critic = Normed()
    gan = drs.GAN(
        lambda z: z,
        critic,
        1,
        link="probability",
        real=lambda n: Draws(9, 2**55).normal(n, 1) + 1,
    )
    gan.gradients(torch.zeros(4, 1))  # leaves tensors with a graph on spectral norm's layer
    before = state(critic)
    kept = head.keep_train(gan, whole=True, samples=10_000, max_steps=600, rate=3e-3)
    again = head.keep_train(gan, whole=True, samples=10_000, max_steps=600, rate=3e-3)
    assert kept.sha256() == again.sha256()
    x = torch.linspace(-1, 2, 31)[:, None]
    assert float((gan.scores(x) - (x[:, 0] - 0.5)).abs().max()) > 0.5
    assert float((kept.scores(x) - (x[:, 0] - 0.5)).abs().max()) < 0.35
    assert all(torch.equal(before[name], tensor) for name, tensor in state(critic).items())
    own = kept.discriminator.critic.state_dict()
    assert torch.equal(own["body.1.running_mean"], before["body.1.running_mean"])


def test_a_tap_returns_what_a_part_returned():
    network = Normed().eval()
    x = torch.linspace(-2, 2, 16)[:, None]
    assert bool((frozen.Tap(network, "body.1", before=False)(x) < 0).any())  # not what ReLU left
    into = frozen.Tap(network, "last", before=True)(x)
    assert torch.equal(into, network.body(x))


def test_what_the_last_linear_layer_to_run_is_given_counts():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 1)
            self.first = nn.Linear(2, 3)
            self.idle = nn.Linear(7, 1)

        def forward(self, x):
            return self.out(self.first(x))

    gan = hinge_gan(Draws(0).build(Shuffled))
    tap, what = taps.found(frozen.Material(gan, 100, 0))
    assert tap.name == "out"
    assert what == "the input of out, whose output is the score"


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool1d(2)

    def forward(self, x):
        return self.pool(x[:, None])[:, 0]


@pytest.mark.parametrize(
    ("critic", "settings", "message"),
    [
        (lambda x: x[:, 0], {}, "no Linear or Conv layer .* pass features=.* end with no parts"),
        (lambda x: x[:, 0], {"whole": True}, "must be an nn.Module here"),
        (Convolutional(), {}, "no Linear or Conv layer .* parts end with 'pool'"),
        (Saturated(), {"features": "lost"}, "no part 'lost'; it has 'last'"),
        (Saturated(), {"features": 3}, "dotted name of a part of the discriminator, got 3"),
        (Saturated(), {"features": "last", "whole": True}, "got features and whole=True; give one"),
        (Saturated(), {"features": lambda x: x.mean()}, "a row for each of"),
        (Saturated(), {"features": lambda x: x / 0}, "NaN or infinite"),
        (Saturated(), {"samples": 20}, "samples must be an integer >= 50"),
        (Saturated(), {"widths": (0,)}, "widths must be an integer >= 1"),
        (Saturated(), {"widths": 5}, r"widths must be integers such as \(512, 256\), got 5"),
        (Saturated(), {"rate": -1.0}, "rate must be"),
        (Saturated(), {"rate": 0}, "rate must be greater than 0, got 0"),
        (Saturated(), {"whole": "yes"}, "whole must be True or False, got 'yes'"),
        (Saturated(), {"features": lambda x: 0 * x + 3}, "features are the same for all samples"),
        (Saturated(), {"patience": 0}, "patience must be"),
    ],
)
def test_errors_say_what_to_do(critic, settings, message):
    with pytest.raises(ValueError, match=message):
        head.keep_train(hinge_gan(critic), **settings)


def test_real_samples_are_needed():
    with pytest.raises(ValueError, match="real samples are needed"):
        head.keep_train(drs.GAN(oracle.generator, Saturated(), 3))
    few = drs.GAN(oracle.generator, Saturated(), 3, real=real(30))
    with pytest.raises(ValueError, match="at least 50 real samples are needed here, got 30"):
        head.keep_train(few)


def test_infinite_logits_of_a_whole_critic_are_reported():
    class Certain(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            return self.scale * x[:, 0] * torch.inf

    gan = drs.GAN(oracle.generator, Certain(), 3, real=real)
    with pytest.raises(ValueError, match=r"held-out loss is (nan|inf)"):
        head.keep_train(gan, whole=True, **{**SMALL, "widths": (1,), "max_steps": 5})


def test_only_its_own_gans_have_a_report(trained):
    assert head.report(trained).area_under_curve == pytest.approx(0.705, abs=0.02)
    with pytest.raises(ValueError, match=r"not made by drs.keep_train"):
        head.report(hinge_gan())


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 1e20},
        {"rate": 1e20, "whole": True},
        {"features": lambda x: x - x.round(decimals=3), "max_steps": 100},
    ],
    ids=["diverged", "whole, diverged", "features that say nothing"],
)
def test_too_little_learned_is_said(settings):
    gan = drs.GAN(
        lambda z: z,
        Draws(5).build(lambda: nn.Linear(1, 1)),
        1,
        real=lambda n: Draws(9, 2**55).normal(n, 1) + 0.3,
    )
    with pytest.warns(UserWarning, match="too little was learned: the held-out loss is") as seen:
        kept = head.keep_train(gan, **SMALL | settings)
    assert seen[0].filename == __file__
    assert bool(kept.scores(torch.zeros(1, 1)).isfinite())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("whole", [False, True])
def test_training_whatever_the_caller_switched_off(mode, whole):
    settings = SMALL | {"max_steps": 200, "whole": whole, "rate": 0.01}
    expected = head.keep_train(hinge_gan(), **settings)
    with mode():
        kept = head.keep_train(hinge_gan(), **settings)  # the GAN is made here too
    assert kept.sha256() == expected.sha256()
    z = drs.ops.latents(kept, drs.Rng(5), 100)
    assert float(kept.gradients(z)[2].abs().sum()) > 0


def test_other_things_than_gans_are_refused():
    for thing in (3, "25gaussians", None, drs.GAN):
        with pytest.raises(ValueError, match=r"gan must be a drs.GAN, got .*; use drs.load"):
            head.keep_train(thing)


@pytest.mark.parametrize(
    "x", [torch.zeros(80, 3), torch.zeros(80, 2, 1), torch.zeros(80, 2).long()]
)
def test_real_samples_of_another_shape_are_refused(x):
    gan = drs.GAN(oracle.generator, Saturated(), 3, real=x)
    with pytest.raises(
        ValueError, match=r"must be like generated ones, \(1, 2\) float32 each, got"
    ):
        head.keep_train(gan, lambda x: x.flatten(1)[:, :1].float() + x.numel())


def test_a_critic_that_training_did_not_better_is_told_though_it_says_much():
    critic = nn.Linear(1, 1)
    nn.init.constant_(critic.weight, 1.0)
    nn.init.constant_(critic.bias, -0.5)
    gan = drs.GAN(lambda z: z, critic, 1, real=lambda n: Draws(9, 2**55).normal(n, 1) + 1)
    with pytest.warns(UserWarning, match="too little was learned"):
        kept = head.keep_train(gan, **SMALL | {"rate": 1e20, "whole": True})
    assert head.report(kept).area_under_curve == pytest.approx(0.76, abs=0.06)
