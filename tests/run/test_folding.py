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
from drs_fast.run import folding, tuning
from drs_fast.samplers.mh import MH

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


def difference(network, folded, *given):
    with torch.no_grad():
        expected = network(*given)
        return float((folded(*given) - expected).abs().max() / expected.std())


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_folded_norm_does_what_both_did(case):
    layer, norm, shape = CONVOLUTIONS[case]
    network = seeded(lambda: nn.Sequential(copy.deepcopy(layer), copy.deepcopy(norm)).double())
    folded = copy.deepcopy(network)
    assert folding.fold(folded) == 1
    assert isinstance(folded[1], folding.Folded)
    x = torch.arange(float(torch.Size(shape).numel())).sin().view(shape).double()
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
    assert folding.fold(folded) == count
    channels = 3 if name == "SAGAN" else 4
    x = torch.arange(float(5 * channels * 81)).sin().view(5, channels, 9, 9)
    given = (x, torch.tensor([0, 1, 2, 1, 0])) if isinstance(network, Conditional) else (x,)
    assert difference(network, folded, *given) < 1e-5
    assert [type(module) for module in network.modules()] == classes
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


def test_weights_that_are_computed_once_have_the_same_bits():
    for wrapped in (parametrizations.spectral_norm, old_spectral_norm):
        network = seeded(lambda wrapped=wrapped: nn.Sequential(wrapped(nn.Conv2d(3, 4, 3))))
        folded = copy.deepcopy(network)
        assert folding.fold(folded) == 1
        assert "weight" in dict(folded[0].named_parameters())
        assert difference(network, folded, torch.arange(243.0).sin().view(1, 3, 9, 9)) == 0.0


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


LEFT_ALONE = {
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
    assert folding.fold(folded) == 0
    x = torch.arange(5.0 * 4 * 81).sin().view(5, 4, 9, 9)
    assert difference(network, folded, x) == 0.0


def test_channels_elsewhere_are_refused():
    """A norm of (n, 4, 4) looks at dimension 1, and the linear layer writes dimension 2."""
    network = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    folding.fold(network)
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
    assert 0.0 < moved < 1e-3


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
    with pytest.raises(ValueError, match=r"must not change logits by more than 0\.05"):
        tuning.applied(normed(), ("fold",))


def test_in_bf16_a_variant_may_move_logits_as_much_as_bf16_does():
    plain = normed()  # random weights, whose logits differ by less than bf16 can tell
    gan = plain.on(precision="bf16")
    expected = tuning.seen(gan, 256)
    rounded = tuning.moved(tuning.seen(plain, 256), expected)
    assert tuning.change(gan, tuning.applied(gan, ("fold",))) > tuning.CLOSE
    assert tuning.limit(gan, expected) == 2.0 * rounded > 2.0 * tuning.CLOSE
    assert tuning.limit(plain, expected) == tuning.CLOSE
    tuning.check_close(("fold",), 1.9 * rounded, tuning.limit(gan, expected))
    with pytest.raises(ValueError, match="must not change logits"):
        tuning.check_close(("fold",), 2.1 * rounded, tuning.limit(gan, expected))


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
        (normed, ("cast",), "it needs precision='bf16', got 'fp32'"),
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
