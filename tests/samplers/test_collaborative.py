"""Collaborative: moves and chains written out, how G is split at a layer, and refusals."""

import copy
import math

import pytest
import torch
from linear_gaussian import cut, same, steps
from torch import nn

import drs_fast as drs
from drs_fast.core import Rng
from drs_fast.samplers.collaborative import Collaborative
from drs_fast.samplers.common import activations
from drs_fast.samplers.common.activations import Activations
from drs_fast.samplers.common.moving import sigmoid
from drs_fast.training.fitting import Draws


class Layered(nn.Module):
    """A generator that uses latent and label again after its layers, and writes in place."""

    def __init__(self, labels=0):
        super().__init__()
        self.labels = labels
        self.first = nn.Linear(3 + labels, 8)
        self.act = nn.LeakyReLU(0.5, inplace=True)
        self.second = nn.Linear(8, 6)
        self.last = nn.Linear(6, 2)
        self.never = nn.Linear(2, 2)

    def head(self, z, y=None):
        given = z if y is None else torch.cat([z, nn.functional.one_hot(y, self.labels)], dim=1)
        return self.second(self.act(self.first(given)))

    def tail(self, hidden, z, y=None):
        shift = 0.0 if y is None else y[:, None].to(hidden.dtype)
        return self.last(hidden.tanh() * 2) + 0.3 * z[:, :2] + shift

    def forward(self, z, *y):
        return self.tail(self.head(z, *y), z, *y)


class Critic(nn.Module):
    """A critic with hills that large steps jump over."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, 0.5]))

    def forward(self, x, *y):
        return (2 * x).sin().sum(dim=1) * self.scale[0] - self.scale[1] * x[:, 1].square()


def layered(labels=None, **fields):
    draws = Draws(3)
    generator = draws.build(lambda: Layered(labels or 0))
    return drs.GAN(generator, Critic(), 3, labels=labels, **fields)


def given(model, n):
    return drs.ops.latents(model, Rng(0), n), drs.ops.labels(model, Rng(0), n)


def written_out(logit_of, point, count, size, momentum, *, keep=True, weigh=True):
    """Where each row's moves end, and the logit there."""
    best, top, speed = point, logit_of(point).detach(), torch.zeros_like(point)
    for _ in range(count):
        leaf = point.detach().requires_grad_()
        logit = logit_of(leaf)
        height = nn.functional.logsigmoid(logit) if weigh else logit
        speed = momentum * speed + size * torch.autograd.grad(height.sum(), leaf)[0]
        point = point + speed
        logit = logit_of(point).detach()
        better = (logit > top) if keep else torch.ones_like(top, dtype=torch.bool)
        best, top = torch.where(better[:, None], point, best), torch.where(better, logit, top)
    return best, top


def refined(layer, n=300, labels=None):
    """Settings, and a function that computes the same moves step by step."""
    fields = {"steps": 8, "step_size": 0.1, "momentum": 0.9}
    model = layered(labels)
    z, y = given(model, n)
    generator, label = model.generator, () if y is None else (y,)
    with torch.no_grad():
        start = generator.head(z, *label) if layer else generator(z, *label)

    def samples(point):
        return generator.tail(point, z, *label) if layer else point

    def expected(**other):
        count, size, momentum, *_ = (fields | other).values()
        flags = {k: v for k, v in other.items() if k in ("keep", "weigh")}
        best, top = written_out(
            lambda p: model.discriminator(samples(p)), start, count, size, momentum, **flags
        )
        return samples(best).detach(), top

    return steps(Collaborative(layer=layer, chain_length=1, **fields), model, n), expected


@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("layer", ["", "second"])
def test_moves(layer, labels):
    batch, expected = refined(layer, labels=labels)
    x, logit = expected()
    assert torch.allclose(batch.x, x, atol=1e-4)
    assert torch.allclose(batch.logit, logit, atol=1e-4)
    faults = [{"keep": False}, {"weigh": False}, {"momentum": 0.8}, {"steps": 7}]
    for fault in faults:
        assert not torch.allclose(batch.x, expected(**fault)[0], atol=1e-3), fault


@pytest.mark.parametrize("layer", ["", "first", "act", "second", "last"])
def test_a_refined_sample_is_never_worse(layer):
    model = layered()
    z, _ = given(model, 400)
    batch = steps(Collaborative(layer=layer, steps=5, chain_length=1), model, 400)
    before = model.logits(z)[1]
    assert (batch.logit >= before).all()
    assert float((batch.logit - before).mean()) > 0.05
    assert torch.equal(batch.z, z)
    assert torch.equal(batch.ids, torch.arange(400))
    assert int(batch.stats["gradients"]) == 6 * 400


def test_chains_of_refined_proposals():
    model, n = layered(), 320
    alone = steps(Collaborative(layer="act", steps=5, step_size=2.0, chain_length=1), model, n)
    batch = steps(Collaborative(layer="act", steps=5, step_size=2.0, chain_length=16), model, n)
    rows = drs.ops.chain(alone.logit.view(-1, 16), Rng(0)) + torch.arange(0, n, 16)
    assert torch.equal(batch.ids, rows)
    assert torch.equal(batch.x, alone.x[rows])
    assert torch.equal(batch.z, given(model, n)[0][rows])
    raw = drs.ops.chain(model.logits(alone.z)[1].view(-1, 16), Rng(0)) + torch.arange(0, n, 16)
    assert not torch.equal(raw, rows)  # else the test could not tell what the chains compare


def test_chains_are_of_the_class_of_their_first_row():
    model = layered(3)
    batch = steps(Collaborative(layer="second", steps=2, chain_length=8), model, 160)
    assert torch.equal(batch.y, drs.ops.labels(model, Rng(0), 160)[::8])
    assert torch.allclose(model.scores(batch.x, batch.y), batch.logit, atol=1e-5)


@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("layer", ["first", "act", "second", "last"])
def test_a_generator_with_its_own_activations_is_itself(layer, labels):
    model = layered(labels, block=256)
    z, y = given(model, 300)
    space = Activations(model, layer, z, y)
    expected, found = model.logits(z, y), space.finish(space.start)
    assert all(map(torch.equal, expected, found))
    assert not torch.equal(space.finish(1.1 * space.start)[0], expected[0])


@pytest.mark.parametrize("layer", ["", "second"])
def test_rows_may_be_cut_anywhere(layer, monkeypatch):
    sampler = Collaborative(layer=layer, steps=6, step_size=0.5, chain_length=4)
    whole = cut(sampler, layered(block=1024), [720])
    assert same(whole, cut(sampler, layered(block=256), [4, 256, 36, 300, 124]))
    assert same(whole, drs.generate(layered(), sampler, 180, batch_size=256))
    monkeypatch.setattr(activations.Samples, "climb", coupled(activations.Samples.climb))
    monkeypatch.setattr(Activations, "climb", coupled(Activations.climb))
    assert not same(whole, cut(sampler, layered(), [4, 256, 36, 300, 124]))


def coupled(climb):
    """A planted fault: rows that depend on the rest of their block."""

    def wrong(space, points):
        logit, slope = climb(space, points)
        return logit, slope - slope.mean(dim=0)

    return wrong


def test_the_sigmoid_does_not_depend_on_how_many_rows_there_are():
    logit = torch.cat([torch.linspace(-120, 120, 4001), torch.tensor([math.inf, -math.inf])])
    whole = sigmoid(logit)
    assert torch.allclose(whole, torch.sigmoid(logit), atol=1e-7, rtol=1e-6)
    for size in (1, 3, 7):
        assert torch.equal(torch.cat([sigmoid(part) for part in logit.split(size)]), whole)


def test_nothing_is_left_on_the_generator():
    model = layered()
    before = model.sha256(), copy.deepcopy(model.generator.state_dict())
    drs.generate(model, Collaborative(layer="second", steps=2), 5)
    assert not any(part._forward_hooks for part in model.generator.modules())
    with pytest.raises(ValueError, match="never"):
        drs.generate(model, Collaborative(layer="never"), 5)
    assert not any(part._forward_hooks for part in model.generator.modules())
    assert model.sha256() == before[0]
    assert all(torch.equal(a, before[1][k]) for k, a in model.generator.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.generator.parameters())


class Odd(nn.Module):
    """Parts that cannot be moved."""

    def __init__(self):
        super().__init__()
        self.twice, self.pair, self.whole, self.mean = Twice(), Pair(), Whole(), Mean()

    def forward(self, z):
        z = self.twice(self.twice(z))
        z, _ = self.pair(z)
        return z + 0.0 * self.mean(z) + self.whole(z)


class Twice(nn.Module):
    def forward(self, z):
        return z * 1.5


class Pair(nn.Module):
    def forward(self, z):
        return z, z


class Whole(nn.Module):
    def forward(self, z):
        return z.long()


class Mean(nn.Module):
    def forward(self, z):
        return z.mean()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("twice", "'twice' is called more than once"),
        ("pair", "'pair' must return a floating-point tensor .* got tuple"),
        ("whole", "'whole' must return a floating-point tensor .* int64"),
        ("mean", r"'mean' must return a floating-point tensor with one row for .* got \(\)"),
        ("no.such", "no part 'no.such'; it has 'twice', 'pair', 'whole', 'mean'"),
    ],
)
def test_parts_that_cannot_be_moved(layer, words):
    model = drs.GAN(Odd(), lambda x: x[:, 0], 2)
    with pytest.raises(ValueError, match=words):
        drs.generate(model, Collaborative(layer=layer), 5)


def test_generators_without_parts():
    model = drs.GAN(lambda z: 2 * z, lambda x: x[:, 0], 2)
    with pytest.raises(ValueError, match=r"must be an nn\.Module, got function.*layer=''"):
        drs.generate(model, Collaborative(layer="layers.1"), 5)
    assert len(drs.generate(model, Collaborative(), 5).x) == 5


@pytest.mark.parametrize("layer", ["", "second"])
def test_half_precision(layer):
    model = layered().on(precision="bf16")
    batch = steps(Collaborative(layer=layer, steps=5, chain_length=1), model, 300)
    assert batch.logit.dtype == torch.float32
    assert batch.x.dtype == model.row().dtype
    assert torch.allclose(model.scores(batch.x), batch.logit, atol=0.05)


class Wide(nn.Module):
    """Layers of one dtype, samples of another, and a critic that takes no other."""

    def __init__(self, inner, outer):
        super().__init__()
        self.inner, self.outer = inner, outer
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).to(inner)

    def forward(self, z):
        return self.layers(z.to(self.inner)).to(self.outer)


@pytest.mark.parametrize("layer", ["", "layers.0"])
@pytest.mark.parametrize("inner", [torch.bfloat16, torch.float64])
def test_networks_of_other_dtypes(layer, inner):
    generator = Draws(1).build(lambda: Wide(torch.float32, torch.float64))
    generator.layers.to(inner)
    generator.inner = inner
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64)
    model = drs.GAN(generator, lambda x: x @ weight, 2)
    batch = steps(Collaborative(layer=layer, steps=3, chain_length=1), model, 100)
    assert batch.x.dtype == torch.float64
    assert torch.equal(model.scores(batch.x), batch.logit)
    assert (batch.logit >= model.logits(batch.z)[1]).all()


@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
def test_rows_keep_their_best_valid_place(beyond):
    """All rows climb towards a wall; those that begin behind it give no samples."""

    def critic(x):
        return torch.where(x[:, 0] > 3.0, beyond, x[:, 0])

    model = drs.GAN(torch.clone, critic, 2, block=256)
    batch = steps(Collaborative(steps=40, step_size=0.5, chain_length=1), model, 4096)
    begun = drs.ops.latents(model, Rng(0), 4096)[:, 0] > 3.0
    assert 0 < int(begun.sum()) == 4096 - int(batch.count)
    assert int(batch.stats["invalid"]) == (0 if beyond == -math.inf else int(begun.sum()))
    count = int(batch.count)
    assert not begun[batch.ids[:count]].any()
    assert torch.isfinite(batch.logit[:count]).all()
    assert torch.equal(batch.x[:count, 0], batch.logit[:count])


@pytest.mark.parametrize(("chain_length", "takes"), [(1, True), (2, False)])
def test_which_critics_it_takes(chain_length, takes):
    model = layered(link="wasserstein")
    sampler = Collaborative(steps=2, chain_length=chain_length)
    assert sampler.energy is takes
    if takes:
        assert len(drs.generate(model, sampler, 5).x) == 5
    else:
        with pytest.raises(ValueError, match="needs a density ratio"):
            drs.generate(model, sampler, 5)


def test_its_law():
    assert "in chains of 20" in Collaborative().law
    assert "chains" not in Collaborative(chain_length=1).law
    assert Collaborative().law.endswith("no known law")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer", None),
        ("layer", 3),
        ("steps", 0),
        ("step_size", 0.0),
        ("momentum", -0.1),
        ("momentum", 1.5),
        ("chain_length", 0),
        ("burn_in", 0),
    ],
)
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        Collaborative(**{name: value})
