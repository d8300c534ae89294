"""BatchNorm folded into the layer before it, weights computed once, and weights cast once."""

import copy
import warnings

import pytest
import torch
from runs import QUICK
from torch import nn
from torch.nn.utils import parametrizations

import drs_fast as drs
from drs_fast import ops
from drs_fast.samplers.mh import MH
from drs_fast.tune import folding, tuning

CONVOLUTIONS = {
    "linear": (nn.Linear(6, 4), nn.BatchNorm1d(4), (5, 6)),
    "1d": (nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4), (5, 6, 7)),
    "2d without bias": (nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4), (5, 6, 7, 7)),
    "reflected": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4),
                  (5, 6, 7, 7)),
    "3d in groups": (nn.Conv3d(6, 4, 2, groups=2), nn.BatchNorm3d(4), (5, 6, 3, 3, 3)),
    "not affine": (nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, affine=False), (5, 6, 7, 7)),
    "transposed": (nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.BatchNorm2d(4), (5, 6, 7, 7)),
    "transposed in groups": (nn.ConvTranspose2d(6, 4, 4, 2, 1, groups=2, bias=False),
                             nn.BatchNorm2d(4), (5, 6, 7, 7)),
    "transposed 1d": (nn.ConvTranspose1d(6, 4, 4, groups=2), nn.BatchNorm1d(4), (5, 6, 7)),
}  # fmt: skip


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
        for module in network.modules():
            if isinstance(module, folding.NORMS) and module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.2, 3.0)
                if module.affine:
                    module.weight.data.normal_()
                    module.bias.data.normal_()
        return network.eval()


def fold(network, *given):
    return folding.fold([network], lambda: network(*given))


def difference(network, folded, *given):
    with torch.no_grad():
        expected = network(*given)
        return float((folded(*given) - expected).abs().max() / expected.std())


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_folded_norm_does_what_both_did(case):
    layer, norm, shape = CONVOLUTIONS[case]
    network = seeded(lambda: nn.Sequential(copy.deepcopy(layer), copy.deepcopy(norm)).double())
    folded = copy.deepcopy(network)
    x = torch.arange(float(torch.Size(shape).numel())).sin().view(shape).double()
    assert fold(folded, x) == 1
    assert isinstance(folded[1], folding.Folded)
    assert difference(network, folded, x) < 1e-12


class Residual(nn.Module):
    """The layers of SAGAN, with its spectral norm; only the second norm follows a convolution."""

    def __init__(self, channels=4):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.first, self.second = (
            parametrizations.spectral_norm(nn.Conv2d(channels, channels, 3, padding=1))
            for _ in range(2)
        )

    def forward(self, x):
        h = self.first(torch.relu(self.norms[0](x)))
        return x + self.second(torch.relu(self.norms[1](h)))


class Conditional(nn.Module):
    """Conditional BatchNorm as it is often written: gain and bias by class."""

    def __init__(self, channels=4, classes=3):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3)
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Embedding(classes, channels)

    def forward(self, x, y):
        return self.norm(self.convolution(x)) * self.gain(y)[:, :, None, None]


class FunctionalNorm(Conditional):
    """Here torch's function is called, and there is no module to fold."""

    def forward(self, x, y):
        h = nn.functional.batch_norm(
            self.convolution(x), self.norm.running_mean, self.norm.running_var
        )
        return h * self.gain(y)[:, :, None, None]


class Branching(nn.Module):
    """Cannot be traced as a whole, but its blocks can."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Residual())

    def forward(self, x):
        return self.blocks(x) if float(x.sum()) > -1e9 else x


def old_spectral_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.spectral_norm(layer)


NETWORKS = {
    "SAGAN": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Residual(), Residual()), 6),
    "conditional": (Conditional, 1),
    "functional": (FunctionalNorm, 0),
    "branching": (Branching, 4),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)), 1),
    "old spectral norm": (lambda: nn.Sequential(old_spectral_norm(nn.Conv2d(4, 4, 3)),
                                                nn.BatchNorm2d(4)), 2),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_networks(name):
    make, count = NETWORKS[name]
    network = seeded(make)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    classes = [type(module) for module in network.modules()]
    folded = copy.deepcopy(network)
    channels = 3 if name == "SAGAN" else 4
    x = torch.arange(float(5 * channels * 81)).sin().view(5, channels, 9, 9)
    given = (x, torch.tensor([0, 1, 2, 1, 0])) if isinstance(network, Conditional) else (x,)
    assert fold(folded, *given) == count
    assert difference(network, folded, *given) < 1e-5
    assert [type(module) for module in network.modules()] == classes
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


def test_weights_that_are_computed_once_have_the_same_bits():
    for wrapped in (parametrizations.spectral_norm, old_spectral_norm):
        network = seeded(lambda wrapped=wrapped: nn.Sequential(wrapped(nn.Conv2d(3, 4, 3))))
        folded = copy.deepcopy(network)
        x = torch.arange(243.0).sin().view(1, 3, 9, 9)
        assert fold(folded, x) == 1
        assert "weight" in dict(folded[0].named_parameters())
        assert difference(network, folded, x) == 0.0


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        h = self.convolution(x)
        return self.norm(h) + h


class CalledTwice(TwoReaders):
    def forward(self, x):
        return self.norm(self.convolution(x)) + self.convolution(x)


def tied():
    convolution = nn.Conv2d(4, 4, 3)
    return nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU(), convolution)


def hooked():
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    network[0].register_forward_hook(lambda module, given, found: 2.0 * found)
    return network


class InTwoParts(nn.Module):
    """Cannot be traced as a whole, and its parts share a convolution."""

    def __init__(self):
        super().__init__()
        convolution = nn.Conv2d(4, 4, 3)
        self.first = nn.Sequential(convolution, nn.BatchNorm2d(4))
        self.second = nn.Sequential(nn.Tanh(), convolution)

    def forward(self, x):
        return self.second(self.first(x)) if float(x.sum()) > -1e9 else x


class Doubled(nn.Module):
    def forward(self, weight):
        return 2.0 * weight


def parametrized():
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    nn.utils.parametrize.register_parametrization(network[0], "weight", Doubled())
    return network


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).abs()


class ReadsTheWeight(TwoReaders):
    def forward(self, x):
        h = self.norm(self.convolution(x))
        return torch.cat([h, nn.functional.conv2d(h, self.convolution.weight, padding=1)], dim=3)


class Optional(TwoReaders):
    """What torch.fx gives for the gain is not None."""

    def forward(self, x, gain=None):
        h = self.convolution(x)
        return self.norm(h * 1.01 if gain is None else h)


class Gathered(TwoReaders):
    """What torch.fx gives for all arguments has another length."""

    def forward(self, *given):
        h = self.convolution(given[0])
        return self.norm(h * 1.01 if type(given[0]) is torch.Tensor else h)


class IntoTheChild(nn.Module):
    """Cannot be traced as a whole, and calls a part of its part."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x):
        if x.isnan().any():
            raise ValueError("NaN")
        return torch.cat([self.body(x), self.body[0](x)], dim=1)


class WeightOfTheChild(IntoTheChild):
    def forward(self, x):
        if x.isnan().any():
            raise ValueError("NaN")
        return self.body(x) * self.body[0].bias.sum()


def patched(i):
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    forward = network[i].forward
    network[i].forward = lambda x: forward(x).abs()
    return network


class PowerIteration(nn.Module):
    """Stays in training mode, where each call changes the weight."""

    def __init__(self):
        super().__init__()
        self.convolution = parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))

    def train(self, mode=True):
        return super().train(True)

    def forward(self, x):
        return x[:, :, :1, :1] + 0.0 * self.convolution(x).sum()


LEFT_ALONE = {
    "weight read elsewhere": ReadsTheWeight,
    "optional argument": Optional,
    "all arguments": Gathered,
    "a child's part called": IntoTheChild,
    "a child's part read": WeightOfTheChild,
    "patched layer": lambda: patched(0),
    "patched norm": lambda: patched(1),
    "training mode": PowerIteration,
    "two readers": TwoReaders,
    "called twice": CalledTwice,
    "in two places": tied,
    "in two parts": InTwoParts,
    "with a hook": hooked,
    "of somebody's own weight": parametrized,
    "of another class": lambda: nn.Sequential(Scaled(4, 4, 3), nn.BatchNorm2d(4)),
    "by batch": lambda: nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "before": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_cannot_be_folded_is_left_alone(name):
    network = seeded(LEFT_ALONE[name])
    folded = copy.deepcopy(network)
    x = torch.arange(5.0 * 4 * 81).sin().view(5, 4, 9, 9)
    assert fold(folded, x) == 0
    assert difference(network, folded, x) == 0.0


def test_channels_elsewhere_are_refused():
    """A norm of (n, 4, 4) looks at dimension 1, and the linear layer writes dimension 2."""
    network = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    fold(network, torch.zeros(5, 4))
    network(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="can be folded where it gets 2 dimensions, got 3"):
        network(torch.zeros(5, 4, 4))


# --- as variants of a GAN


def normed():
    def generator():
        return nn.Sequential(
            nn.Linear(4, 8 * 16), nn.BatchNorm1d(8 * 16), nn.Unflatten(1, (8, 4, 4)),
            nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def discriminator():
        return nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 4, 2, 1),
            nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(32, 1),
        )  # fmt: skip

    return drs.GAN(seeded(generator), seeded(discriminator), 4, block=256)


def test_a_folded_gan_hardly_moves_its_logits():
    gan = normed()
    moved = tuning.change(gan, tuning.applied(gan, ("fold",)))
    assert 0.0 < moved.logit < 1e-3
    assert 0.0 < moved.x < 1e-5


def test_a_change_of_samples_that_logits_do_not_show_is_refused(monkeypatch):
    class Wrong(folding.Folded):
        def forward(self, x):
            return x + torch.tensor([0.0, 0.02])

    class First(nn.Module):
        def forward(self, x):
            return x[:, 0]

    network = seeded(lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    gan = drs.GAN(network, First(), 2, block=256)
    assert tuning.change(gan, tuning.applied(gan, ("fold",))).x < 1e-5
    monkeypatch.setattr(folding, "Folded", Wrong)
    with pytest.raises(ValueError, match=r"must not change samples by more than 0\.01 of their"):
        tuning.applied(gan, ("fold",))


def test_arguments_left_out_and_a_parent_that_cannot_be_traced_prevent_no_fold():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Conditional()

        def forward(self, x, y, gain=None):
            assert x.isfinite().all()
            return self.body(x if gain is None else x * gain, y)

    network = seeded(Both)
    folded = copy.deepcopy(network)
    x = torch.arange(5.0 * 4 * 81).sin().view(5, 4, 9, 9)
    given = (x, torch.tensor([0, 1, 2, 1, 0]))
    assert fold(folded, *given) == 1
    assert difference(network, folded, *given) < 1e-5


def test_an_error_of_a_tuned_network_says_to_leave_tune_out():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

        def forward(self, z):
            return self.layers(z)

    gan = drs.GAN(Layers(), nn.Linear(2, 1), 2, block=256)
    tuned = tuning.applied(gan, ("fold",))
    generator = tuned._runs["generator"]
    generator.layers[1].dimensions = 3
    with pytest.raises(ValueError, match=r"gets 3 dimensions, got 2; it ran as tune= says, .* out"):
        tuned.samples(torch.zeros(256, 2))
    with pytest.raises(ValueError, match=r"this works: .*latent_dim=3"):
        drs.GAN(nn.Linear(3, 2), nn.Linear(2, 1), 2).row()


FAULTS = {
    "eps": lambda norm: setattr(norm, "eps", 0.5),
    "mean": lambda norm: norm.running_mean.zero_(),
    "bias": lambda norm: norm.bias.data.neg_(),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_folding_is_refused(monkeypatch, name):
    into = folding.into

    def wrong(layer, norm):
        FAULTS[name](norm)
        into(layer, norm)

    monkeypatch.setattr(folding, "into", wrong)
    with pytest.raises(ValueError, match=r"must not change logits by more than 0\.01"):
        tuning.applied(normed(), ("fold",))


def test_in_bf16_a_variant_may_move_what_bf16_moves():
    plain = drs.load("digits").on(block=256)
    gan = plain.on(precision="bf16")
    most = tuning.limit(gan, tuning.seen(gan, 256))
    rounded = tuning.change(plain, gan)
    assert most == (2.0 * rounded.x, 2.0 * rounded.logit)
    assert tuning.CLOSE < min(most) < max(most) < tuning.MOST
    assert tuning.limit(plain, tuning.seen(plain, 256)) == (tuning.CLOSE, tuning.CLOSE)
    tuning.check_close(("fold",), tuning.Change(1.9 * rounded.x, 1.9 * rounded.logit), most)
    for what, factors in (("samples", (2.1, 1.0)), ("logits", (1.0, 2.1))):
        changes = (factor * each for factor, each in zip(factors, rounded, strict=True))
        with pytest.raises(ValueError, match=f"must not change {what}"):
            tuning.check_close(("fold",), tuning.Change(*changes), most)


def test_in_bf16_too_there_is_a_limit():
    gan = normed().on(precision="bf16")  # random weights: bf16 cannot tell these logits apart
    assert tuning.limit(gan, tuning.seen(gan, 256)).logit == tuning.MOST
    with pytest.raises(ValueError, match="must not change logits by more than 4 of their standard"):
        tuning.applied(gan, ("fold",))


def test_an_infinite_logit_in_bf16_does_not_lift_the_limit():
    def overflows(x):
        return x[:, 0].where(x[:, 1] < 2.0, torch.inf if torch.is_autocast_enabled("cpu") else 0.0)

    gan = drs.GAN(lambda z: z, overflows, 2, block=256).on(precision="bf16")
    expected = tuning.seen(gan, 256)
    assert not expected.logit.isfinite().all()
    assert tuning.limit(gan, expected) == (tuning.CLOSE, tuning.CLOSE)


def test_gradients_pass_through_what_is_folded():
    gan = normed()
    tuned = tuning.applied(gan, ("fold",))
    z = ops.normal(drs.Rng(0), 256, 4)
    expected, found = (one.gradients(z)[2] for one in (gan, tuned))
    assert float((found - expected).abs().max() / expected.std()) < 1e-3


@pytest.mark.parametrize("sampler", [QUICK, MH(chain_length=4, start="first", burn_in=256)])
def test_weights_cast_once_in_a_run(sampler):
    """Its flip rate compares with fp32, in which they cannot run."""
    settings = {"n": 300, "batch_size": 256, "precision": "bf16"}
    plain = drs.generate(normed(), sampler, **settings)
    found = drs.generate(normed(), sampler, tune="cast", **settings)
    assert torch.equal(found.ids, plain.ids)
    assert torch.equal(found.x, plain.x)
    assert found.stats["flip_rate"] == plain.stats["flip_rate"]


def test_weights_cast_once_have_the_values_of_autocast():
    gan = normed().on(precision="bf16")
    tuned = tuning.applied(gan, ("cast",))
    z = ops.normal(drs.Rng(0), 256, 4)
    for expected, found in zip(gan.logits(z), tuned.logits(z), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    kinds = {p.dtype for m in tuned._runs["generator"].modules() if isinstance(m, folding.LINEAR)
             for p in m.parameters()}  # fmt: skip
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in gan.generator.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("make", "names", "words"),
    [
        (normed, ("cast",), "it needs precision='bf16' or 'fp16', got 'fp32'"),
        (lambda: drs.GAN(lambda z: z, nn.Linear(2, 1), 2), ("fold",), "must be modules, got func"),
        (lambda: drs.GAN(nn.Linear(2, 2), nn.Linear(2, 1), 2), ("fold",), "no BatchNorm was found"),
        (
            lambda: drs.GAN(nn.Tanh(), nn.Flatten(0), 1).on(precision="bf16"),
            ("cast",),
            "no linear layer or convolution",
        ),
    ],
)
def test_refusals_say_why(make, names, words):
    with pytest.raises(ValueError, match=f"cannot be applied here: .*{words}"):
        tuning.applied(make(), names)
