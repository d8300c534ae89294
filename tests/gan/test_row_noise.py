"""noise="rows": random numbers inside G and D are standard, independent, and functions of rows."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from agreement import threads
from scipy import stats
from torch import nn
from torch.nn import functional

import drs_fast as drs
from drs_fast import Rng, ops
from drs_fast.core import HIDDEN
from drs_fast.gan import GAN, row_noise
from drs_fast.gan.row_noise import RowNoise, _Replacing

ROWS, WIDTH = 20_000, 4
UNLIKELY = 1e-6  # a p value that no honest draw has
EXACT = torch.inference_mode


def latents(n=ROWS, d=3, seed=0):
    return ops.normal(Rng(seed), n, d)


def drawn(forward, z, role="generator", *label):
    with EXACT():
        return RowNoise(lambda rows, *y: forward(rows), role)(z, *label)


# --- noise is standard normal and independent of everything, and faults show


def two_draws(z):
    return torch.cat([torch.randn(len(z), WIDTH), torch.randn(len(z), WIDTH)], dim=1)


def faults(noise, z):
    """What is wrong with noise (n, 2 WIDTH) of two draws."""
    n = noise.double().numpy()
    first, second, z0 = n[:, :WIDTH], n[:, WIDTH:], z[:, 0].double().numpy()
    spread = float((n**2).sum())
    tests = {
        "normal": stats.kstest(n.ravel(), "norm").pvalue,
        "variance": 2 * min(stats.chi2.cdf(spread, n.size), stats.chi2.sf(spread, n.size)),
        "z": min(stats.pearsonr(column, z0).pvalue for column in n.T),
        "size of z": min(stats.pearsonr(abs(column), abs(z0)).pvalue for column in n.T),
        "neighbours": stats.pearsonr(n[1:].ravel(), n[:-1].ravel()).pvalue,
        "draws": stats.pearsonr(first.ravel(), second.ravel()).pvalue,
        "columns": stats.pearsonr(n[:, 1:].ravel(), n[:, :-1].ravel()).pvalue,
    }
    return {name for name, p in tests.items() if not p > UNLIKELY}


def test_noise_is_normal_and_independent():
    z = latents()
    assert faults(drawn(two_draws, z), z) == set()


def few_keys(rows, *label):
    return torch.arange(len(rows)) // 1000


def key_of_pairs(rows, *label):
    return (row_noise_key(rows)[::2]).repeat_interleave(2)


row_noise_key = row_noise.key
numbers = _Replacing._numbers


def again(self, *given):
    self.drawn = 0
    return numbers(self, *given)


def wide(self, *given):
    return 1.02 * numbers(self, *given)


def flat(self, op, *given):
    return numbers(self, "words", *given).float() * 12**0.5 * 2.0**-32 - 3**0.5


def leaning(self, *given):
    return numbers(self, *given) + 0.05 * latents()[:, :1]


def louder(self, *given):
    return numbers(self, *given) * (1.0 + 0.05 * (latents()[:, :1].abs() - 0.8))


@pytest.mark.parametrize(
    ("name", "planted", "found"),
    [
        ("key", few_keys, "neighbours"),
        ("key", key_of_pairs, "neighbours"),
        ("_numbers", again, "draws"),
        ("_numbers", wide, "variance"),
        ("_numbers", flat, "normal"),
        ("_numbers", leaning, "z"),
        ("_numbers", louder, "size of z"),
    ],
)
def test_planted_faults_show(monkeypatch, name, planted, found):
    monkeypatch.setattr(row_noise if name == "key" else _Replacing, name, planted)
    z = latents()
    assert found in faults(drawn(two_draws, z), z)


def test_noise_is_a_function_of_the_row_and_its_label_alone():
    z, y = latents(300), torch.arange(300) % 5
    whole = drawn(two_draws, z, "generator", y)
    torch.manual_seed(3)
    order = torch.arange(299, -1, -1)
    assert torch.equal(drawn(two_draws, z[order], "generator", y[order]), whole[order])
    assert torch.equal(drawn(two_draws, z[7:8], "generator", y[7:8]), whole[7:8])
    with threads(2):
        assert torch.equal(drawn(two_draws, z.repeat(50, 1))[-300:], drawn(two_draws, z))
    for other in (
        drawn(two_draws, z, "generator", y + 1),
        drawn(two_draws, z, "discriminator", y),
        drawn(two_draws, z.nextafter(z + 1.0), "generator", y),
    ):
        assert not (other == whole).all(dim=1).any()
        assert abs(np.corrcoef(other.ravel(), whole.ravel())[0, 1]) < 0.1


# --- the hash


def test_the_hash_is_what_it_is_said_to_be():
    z, y = latents(5, 1100), torch.arange(5)
    rows = torch.arange(2)
    word = ops.words(Rng(2), 2, 2 * 1102, stream=HIDDEN, ids=rows).tolist()
    bits = z.view(torch.int32).tolist()
    for i, found in enumerate(row_noise.key(z, y).tolist()):
        half = []
        for words in word:
            first, last, *factors = ((a << 32) | b for a, b in zip(*[iter(words)] * 2, strict=True))
            products = zip(factors, bits[i], strict=True)
            total = first + last * int(y[i]) + sum(f * b for f, b in products)
            half.append((total % 2**64) >> 32)
        assert found == ((half[0] % 2**31) << 32) | half[1]


STRUCTURED = {
    "whole numbers": lambda: torch.cartesian_prod(*[torch.arange(64.0)] * 3),
    "powers of two": lambda: torch.cartesian_prod(*[2.0 ** torch.arange(-32, 32)] * 3),
    "one after the other": lambda: (torch.arange(2**18).int() + 0x3F800000)[:, None].view(
        torch.float32
    ),
    "one hot": lambda: torch.eye(1024),
    "bytes": lambda: torch.cartesian_prod(*[torch.arange(64, dtype=torch.uint8)] * 3),
    "halves": lambda: torch.cartesian_prod(*[torch.arange(60.0).half()] * 3),
    "doubles": lambda: torch.cartesian_prod(*[torch.arange(60.0).double()] * 3),
    "complex": lambda: torch.complex(*torch.cartesian_prod(*[torch.arange(300.0)] * 2).T)[:, None],
}


@pytest.mark.parametrize("rows", STRUCTURED.values(), ids=STRUCTURED)
def test_no_two_rows_have_one_hash(rows):
    rows = rows()
    found = row_noise.key(rows)
    assert int(found.min()) >= 0
    assert len(found.unique()) == len(rows)


def test_half_of_the_hash_would_collide(monkeypatch):
    rows = latents(2**18)
    assert len(row_noise.key(rows).unique()) == len(rows)
    monkeypatch.setattr(row_noise, "HALF", 0)
    assert len(row_noise.key(rows).unique()) < len(rows)


# --- every operator that is replaced


def chi_square(found, p):
    return stats.chisquare(torch.bincount(found.long(), minlength=len(p)), p * len(found)).pvalue


WEIGHTS = torch.tensor([0.5, 0.3, 0.2, 0.0])


def of(z, p):
    return p.expand(len(z), len(p)).contiguous()


def as_integers(z, make):
    return make(torch.empty(len(z), dtype=torch.int64))


LAWS = {
    "randn_like": (torch.randn_like, "norm", ()),
    "normal": (lambda z: torch.normal(3.0, 2.0, (len(z), 2)), "norm", (3.0, 2.0)),
    "normal of tensors": (
        lambda z: torch.normal(torch.full_like(z, 3.0), torch.full_like(z, 2.0)), "norm",
        (3.0, 2.0)),
    "normal of a mean": (lambda z: torch.normal(torch.full_like(z, 3.0), 2.0), "norm", (3.0, 2.0)),
    "normal_": (lambda z: torch.empty(len(z), 5).normal_(1.0, 0.5), "norm", (1.0, 0.5)),
    "new_empty": (lambda z: z.new_empty(len(z), 1, 2, 2).normal_(), "norm", ()),
    "distribution": (lambda z: torch.distributions.Normal(z * 0, 2.0).rsample(), "norm", (0, 2)),
    "out": (lambda z: torch.randn(len(z), 2, out=torch.empty(0)), "norm", ()),
    "rand": (lambda z: torch.rand(len(z), 3), "uniform", ()),
    "rand of doubles": (lambda z: torch.rand(len(z), 3, dtype=torch.float64), "uniform", ()),
    "uniform_": (lambda z: torch.empty(len(z)).uniform_(-1.0, 3.0), "uniform", (-1.0, 4.0)),
    "exponential_": (lambda z: torch.empty(len(z), 3).exponential_(4.0), "expon", (0.0, 0.25)),
    "gumbel": (lambda z: -torch.empty(len(z), 3).exponential_().log(), "gumbel_r", ()),
}  # fmt: skip


@pytest.mark.parametrize(("forward", "law", "parameters"), LAWS.values(), ids=LAWS)
def test_numbers_follow_their_law(forward, law, parameters):
    z = latents(8_000)
    torch.manual_seed(0)
    found = drawn(forward, z)
    assert stats.kstest(found.double().ravel().numpy(), law, parameters).pvalue > 1e-4
    torch.manual_seed(1)
    assert torch.equal(drawn(forward, z), found)
    with torch.enable_grad():
        assert torch.equal(RowNoise(forward, "generator")(z), found)


CHOICES = {
    "randint": (lambda z: torch.randint(2, 6, (len(z),)) - 2, torch.full((4,), 0.25)),
    "randint_like": (lambda z: torch.randint_like(z[:, 0], 4), torch.full((4,), 0.25)),
    "random_": (lambda z: as_integers(z, lambda t: t.random_(4)), torch.full((4,), 0.25)),
    "random_ from": (lambda z: as_integers(z, lambda t: t.random_(3, 7)) - 3,
        torch.full((4,), 0.25)),
    "bernoulli": (lambda z: torch.bernoulli(torch.full((len(z),), 0.3)), torch.tensor([0.7, 0.3])),
    "bernoulli of a number": (lambda z: torch.bernoulli(z[:, 0], 0.3), torch.tensor([0.7, 0.3])),
    "bernoulli_": (lambda z: z[:, 0].clone().bernoulli_(0.3), torch.tensor([0.7, 0.3])),
    "bernoulli_ of a tensor": (
        lambda z: z[:, 0].clone().bernoulli_(torch.tensor(0.3)), torch.tensor([0.7, 0.3])),
    "multinomial": (lambda z: torch.multinomial(of(z, WEIGHTS), 1)[:, 0], WEIGHTS),
    "replacement": (lambda z: torch.multinomial(of(z, WEIGHTS), 3, True).ravel(), WEIGHTS),
    "the second": (
        lambda z: torch.multinomial(of(z, WEIGHTS), 2)[:, 1],
        torch.tensor([.3 * .5 / .7 + .2 * .5 / .8, .5 * .3 / .5 + .2 * .3 / .8,
                      .5 * .2 / .5 + .3 * .2 / .7, 0.0])),
    "categorical": (lambda z: torch.distributions.Categorical(of(z, WEIGHTS)).sample(), WEIGHTS),
    "gumbel softmax": (
        lambda z: functional.gumbel_softmax(of(z, WEIGHTS.log()), hard=True).argmax(1), WEIGHTS),
    "dropout": (lambda z: functional.dropout(torch.ones(len(z), 2), 0.3).ravel() / (1 / 0.7),
        torch.tensor([0.3, 0.7])),
    "dropout of channels": (
        lambda z: (functional.dropout2d(torch.ones(len(z), 2, 3, 3), 0.3) > 0)[:, :, 1, 1].ravel(),
        torch.tensor([0.3, 0.7])),
    "alpha dropout": (
        lambda z: functional.alpha_dropout(torch.ones(len(z), 2), 0.3, True).ravel() > 0,
        torch.tensor([0.3, 0.7])),
    "native dropout": (
        lambda z: torch.native_dropout(torch.ones(len(z), 2), 0.3, True)[1].ravel(),
        torch.tensor([0.3, 0.7])),
}  # fmt: skip


@pytest.mark.parametrize(("forward", "p"), CHOICES.values(), ids=CHOICES)
def test_choices_have_their_chances(forward, p):
    z = latents(8_000)
    torch.manual_seed(0)
    found = drawn(forward, z)
    possible = p > 0
    assert not (torch.bincount(found.long(), minlength=len(p))[~possible]).any()
    kept = torch.bincount(found.long(), minlength=len(p))[possible]
    expected = p[possible].double() / p.sum() * len(found)
    assert stats.chisquare(kept, expected * kept.sum() / expected.sum()).pvalue > 1e-4
    torch.manual_seed(1)
    assert torch.equal(drawn(forward, z), found)
    with torch.enable_grad():
        assert torch.equal(RowNoise(forward, "generator")(z), found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_rounded_and_no_uniform_is_1(dtype):
    z = latents()
    exact = drawn(lambda z: torch.randn(len(z), 2), z)
    assert torch.equal(drawn(lambda z: torch.randn(len(z), 2, dtype=dtype), z), exact.to(dtype))
    uniform = drawn(lambda z: torch.rand(len(z), 9, dtype=dtype), z)
    assert 0.9 < float(uniform.max()) < 1.0


def test_dropout_that_is_off_draws_nothing():
    z = latents(64)
    found = drawn(lambda z: functional.dropout(z, 0.5, False), z)
    assert torch.equal(found, z)
    lstm = nn.LSTM(3, 4, batch_first=True, dropout=0.0)
    with EXACT():
        assert torch.equal(drawn(lambda z: lstm(z[:, None])[0], z), lstm(z[:, None])[0])


# --- what cannot be a function of the row is refused by name

REFUSED = {
    "aten::randn of shape (1, 1, 4, 4)": lambda z: z + torch.randn(1, 1, 4, 4).sum(),
    "aten::rand of shape ()": lambda z: z * torch.rand(()),
    "aten::exponential_ of shape (3,)": lambda z: z + torch.empty(3).exponential_(),
    "aten::multinomial of shape (2,)": lambda z: z[torch.multinomial(torch.ones(4), 2)],
    "aten::randperm": lambda z: z[torch.randperm(len(z))],
    "aten::poisson": lambda z: torch.poisson(z.abs()),
    "aten::binomial": lambda z: torch.binomial(torch.full_like(z, 5.0), torch.full_like(z, 0.5)),
    "aten::cauchy_": lambda z: z.clone().cauchy_(),
    "aten::random_ up to": lambda z: z.clone().random_(),
    "real numbers": lambda z: torch.randn(len(z), 2, dtype=torch.complex64).abs(),
}


@pytest.mark.parametrize(("said", "forward"), REFUSED.items(), ids=REFUSED)
def test_other_noise_is_refused(said, forward):
    gan = GAN(forward, lambda x: x[:, 0], 3, noise="rows")
    with pytest.raises(ValueError) as refused, torch.random.fork_rng():
        gan.logits(latents(128))
    assert said in str(refused.value)
    assert "check latent_dim" not in str(refused.value)


def test_what_is_given_is_checked():
    with pytest.raises(ValueError, match="noise must be one of"):
        GAN(lambda z: z, lambda x: x, 1, noise="row")
    with pytest.raises(ValueError, match="discriminator must be callable"):
        GAN(lambda z: z, 3, 1, noise="rows")
    assert GAN(lambda z: z, None, 1, noise="rows").discriminator is None


# --- modules of every kind


class Style(nn.Module):
    """StyleGAN's noise inputs: at every resolution, one number for each pixel of each row."""

    def __init__(self, d: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(d, 8 * 16)
        self.strength = nn.Parameter(torch.full((2,), 0.5))
        convolutions = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)]
        self.layers = nn.ModuleList(nn.Sequential(one, nn.BatchNorm2d(8)) for one in convolutions)
        self.rgb = nn.Conv2d(8, 3, 1)

    def forward(self, z):
        x = self.first(z).view(-1, 8, 4, 4)
        for i, layer in enumerate(self.layers):
            x = functional.interpolate(x, scale_factor=2.0) if i else x
            x = layer(x)
            noise = torch.randn(x.size(0), 1, x.size(2), x.size(3), device=x.device)
            x = functional.leaky_relu(x + noise * self.strength[i], 0.2)
        return self.rgb(x)


def style():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Style().eval()


def critic():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 1))


def exported(module, z):
    rows = {0: torch.export.Dim("rows")}
    return torch.export.export(module, (z,), dynamic_shapes=(rows,)).module()


KINDS = {
    "module": lambda module, z: module,
    "script": lambda module, z: torch.jit.script(module),
    "frozen script": lambda module, z: torch.jit.freeze(torch.jit.script(module)),
    "trace": lambda module, z: torch.jit.trace(module, (z,), check_trace=False),
    "exported": exported,
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_modules_of_every_kind_are_reached(kind):
    z = latents(128, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gan = GAN(kind(style(), z), critic(), 6, noise="rows")
    expected = GAN(style(), critic(), 6, noise="rows").samples(z)
    for seed in range(3):
        torch.manual_seed(seed)
        assert torch.allclose(gan.samples(z), expected, atol=1e-5)
    state = torch.random.get_rng_state()
    gan.logits(z)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("block", [128, 256, 1024])
def test_blocks_threads_and_neighbours_change_no_bit(block):
    z = latents(700, 6)
    gan = GAN(style(), critic(), 6, noise="rows")
    expected = gan.on(block=512).logits(z)
    assert all(map(torch.equal, gan.on(block=block).logits(z), expected))
    assert torch.equal(gan.on(block=block).samples(z[69:70]), expected[0][69:70])


def test_gradients_are_those_at_fixed_noise():
    z = latents(128, 6)
    gan = GAN(style(), critic(), 6, noise="rows")
    x, logit, gradient = gan.gradients(z)
    assert all(map(torch.equal, (x, logit), gan.logits(z)))
    without = style()
    without.strength.data.zero_()
    assert not torch.equal(gan.samples(z), GAN(without, critic(), 6).samples(z))
    noise = []
    plain = torch.randn

    def recorded(*shape, **named):
        noise.append(plain(*shape, **named))
        return noise[-1]

    def replayed(*shape, **named):
        return noise.pop(0).clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", recorded)
        gan.samples(z)
    leaf = z.clone().requires_grad_()
    assert len(noise) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", replayed)
        critic()(style()(leaf)).sum().backward()
    assert torch.allclose(gradient, leaf.grad, atol=1e-6)


def test_a_discriminator_draws_by_its_sample():
    dropping = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8), Dropping(), nn.Linear(8, 1))
    gan = GAN(style(), dropping, 6, noise="rows")
    z = latents(300, 6)
    x, logit = gan.logits(z)
    assert torch.equal(gan.scores(x), logit)
    assert torch.equal(gan.on(block=128).scores(x[17:20]), logit[17:20])
    assert torch.equal(gan.score_gradients(x)[0], logit)


class Dropping(nn.Module):
    """Dropout that is left on."""

    def forward(self, x):
        return functional.dropout(x, 0.5, True)


def test_latents_of_a_shape_and_labels():
    def generator(z, y):
        assert z.shape[1:] == (6, 1, 1)
        return z[:, :, 0, 0] + y[:, None] + torch.randn(len(z), 6)

    gan = GAN(
        generator, lambda x, y: x[:, 0], latent_shape=(6, 1, 1), labels=3, noise="rows", block=256
    )
    z, y = latents(400, 6), torch.arange(400) % 3
    noise = gan.samples(z, y) - z - y[:, None]
    assert stats.kstest(noise.ravel().numpy(), "norm").pvalue > 1e-4
    other = gan.samples(z, (y + 1) % 3) - z - ((y + 1) % 3)[:, None]
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.1


def test_noise_of_rows_is_another_model_and_noise_of_its_own_is_not():
    plain, own, rows = (GAN(style(), critic(), 6, noise=noise) for noise in (None, "own", "rows"))
    assert plain.sha256() == own.sha256() != rows.sha256()
    assert rows.sha256() == GAN(style(), critic(), 6, noise="rows").sha256()
    assert rows.generator.module.rgb.weight.shape == (3, 8, 1, 1)


def test_tuning_reaches_the_module_inside():
    gan = GAN(style(), critic(), 6, noise="rows")
    draw = partial(drs.generate, gan, drs.samplers.DRS(burn_in=256), 300, batch_size=256)
    plain = draw()
    for tune, precision in (("fold", "fp32"), ("channels_last", "fp32"), ("cast", "bf16")):
        found = draw(tune=tune, precision=precision)
        alike = torch.isin(found.ids, plain.ids)
        assert float(alike.float().mean()) > 0.9
    with pytest.raises(ValueError, match="compiled code does not call them"):
        draw(tune="compile")


def test_who_watches_hears_of_the_first_call_that_draws():
    z, seen = latents(128, 2), []
    noisy = GAN(lambda z: z + torch.randn(len(z), 2), lambda x: x[:, 0], 2)
    noisy.logits(z)
    watched = noisy.watched(seen.append)
    watched.logits(z)
    watched.logits(z)
    assert seen == [watched]
    for quiet in (
        GAN(noisy.generator, noisy.discriminator, 2, noise="rows"),
        GAN(lambda z: z, first, 2),
    ):
        quiet.watched(lambda gan: pytest.fail("it draws nothing")).logits(z)


def first(rows):
    return rows[:, 0]
