"""A G or D that draws random numbers of its own is refused, or draws them by the row."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from late import gpu
from runs import Counted, equal, files
from torch import nn
from torch.nn import functional

import drs_fast as drs
from drs_fast import Rng, ops, store
from drs_fast.cli import main as cli
from drs_fast.core import PROBE_ROW
from drs_fast.samplers import DDLS, DOT, DRS, MH, OBRS, SIR, Ex2MCMC
from drs_fast.squeeze import Squeeze

QUICK = DRS(burn_in=512)


def first(x):
    return x[:, 0]


def generator(z):
    return z + 0.5 * torch.randn(len(z), 2)


def noisy(noise=None):
    return drs.GAN(generator, first, 2, noise=noise)


# --- refused by default, whatever makes the samples

MODEL = """
import torch, drs_fast as drs
def make(noise=None):
    return drs.GAN(lambda z: z + 0.5 * torch.randn(len(z), 2), lambda x: x[:, 0], 2, noise=noise)
def rows():
    return make("rows")
"""
WAYS = {
    "generate": lambda gan, out: drs.generate(gan, QUICK, 100),
    "no burn-in": lambda gan, out: drs.generate(gan, SIR(), 100),
    "to a directory": lambda gan, out: drs.generate(gan, QUICK, 100, out=out),
    "tuned": lambda gan, out: drs.generate(gan, QUICK, 100, tune="auto"),
    "a worker": lambda gan, out: drs.generate(gan, QUICK, 100, out=out, worker="1/2"),
    "stream": lambda gan, out: drs.stream(gan, QUICK),
    "dataset": lambda gan, out: drs.StreamDataset(gan, QUICK),
    "module": lambda gan, out: drs.SampledGenerator(gan, QUICK),
    "plan": lambda gan, out: drs.plan(gan),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_noisy_generator_is_refused(way, tmp_path):
    with pytest.raises(ValueError, match="G or D draws random numbers of its own") as refused:
        way(noisy(), tmp_path / "out")
    assert 'GAN(..., noise="rows")' in str(refused.value)
    assert 'noise="own"' in str(refused.value)
    assert "eval()" in str(refused.value)
    assert [file for file in tmp_path.rglob("*") if file.suffix] == []


@pytest.mark.parametrize("command", ["generate", "plan"])
def test_so_it_is_on_the_command_line(command, tmp_path, capsys):
    (tmp_path / "noisy.py").write_text(MODEL)
    out = ["-n", "100", "--out", str(tmp_path / "out"), "--quiet"] if command == "generate" else []
    assert cli.main([command, f"{tmp_path}/noisy.py:make", *out]) == 2
    error = capsys.readouterr().err
    assert "draws random numbers of its own" in error
    assert 'noise="rows"' in error
    assert not (tmp_path / "out").exists()
    if out:
        assert cli.main([command, f"{tmp_path}/noisy.py:rows", *out]) == 0
        assert len(drs.open(tmp_path / "out")) == 100


class StyleGAN(nn.Module):
    def forward(self, z, noise_mode="random"):
        return generator(z) if noise_mode == "random" else z


class Rosinality(nn.Module):
    def forward(self, styles, randomize_noise=True):
        return generator(styles[0]) if randomize_noise else styles[0]


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, z):
        return self.dropout.train()(z)


@pytest.mark.parametrize(
    ("module", "wrapped", "remedy"),
    [
        (StyleGAN(), {}, 'drs.wrap(G, noise_mode="const")'),
        (Rosinality(), {"listed": True}, "drs.wrap(G, randomize_noise=False)"),
        (Dropped(), {}, "eval(), because a dropout is in train mode"),
    ],
)
def test_the_remedy_is_that_of_the_module(module, wrapped, remedy):
    with pytest.raises(ValueError) as refused:
        drs.generate(drs.GAN(drs.wrap(module, **wrapped), first, 2), QUICK, 10)
    assert remedy in str(refused.value)
    name, _, value = remedy.partition("(G, ")[2].partition("=")
    if name:
        quiet = drs.wrap(module, **wrapped, **{name: {"F": False, '"': "const"}[value[0]]})
        assert len(drs.generate(drs.GAN(quiet, first, 2), QUICK, 10).x) == 10


def test_noise_of_d_is_refused_as_well():
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0] + torch.rand(len(x)), 2)
    with pytest.raises(ValueError, match="G or D draws"):
        drs.generate(gan, QUICK, 10)


def test_noise_of_its_own_is_allowed_where_samples_need_not_be_made_again(tmp_path):
    assert len(drs.generate(noisy("own"), QUICK, 100).x) == 100
    with pytest.warns(UserWarning, match="on a second call"):
        drs.generate(noisy("own"), QUICK, 100, out=tmp_path)


# --- at no cost for the others


def test_a_generator_without_noise_computes_no_row_for_it():
    seen = []
    gan = drs.GAN(lambda z: seen.append(z.clone()) or z, first, 2)
    drs.generate(gan, QUICK, 100, batch_size=256)
    probed = [z for z in seen if torch.equal(z[:1], ops.normal(Rng(0, PROBE_ROW), 1, 2))]
    assert sum(map(len, probed)) == 16  # which look for rows that are coupled


def test_noise_that_decides_nothing_is_found_out_by_few_rows():
    def drawing(z):
        return z + 0.0 * torch.randn(len(z), 2)

    counted = [drs.GAN(Counted(each), first, 2) for each in (lambda z: z, drawing)]
    batches = [drs.generate(gan, QUICK, 100, batch_size=256) for gan in counted]
    assert equal(*batches)
    # 256 when rows are looked at for coupling, and as many when the run begins.
    assert counted[1].generator.rows - counted[0].generator.rows == 2 * 256


def test_the_user_s_random_numbers_stay_as_they_are():
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    drs.generate(noisy("rows"), QUICK, 10)
    assert torch.equal(torch.rand(3), expected)


# --- by the row: replicas of StyleGAN and CTGAN


class Style(nn.Module):
    """A constant, modulated by the latent, and noise inputs at two resolutions."""

    def __init__(self):
        super().__init__()
        self.mapping = nn.Linear(4, 8)
        self.constant = nn.Parameter(torch.randn(8, 4, 4))
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.strength = nn.Parameter(torch.full((2,), 0.3))
        self.rgb = nn.Conv2d(8, 1, 1)

    def forward(self, z, noise_mode="random"):
        x = self.constant * self.mapping(z)[:, :, None, None]
        for layer, strength in zip(self.layers, self.strength, strict=True):
            x = functional.interpolate(layer(x), scale_factor=2.0)
            if noise_mode == "random":
                x = x + strength * torch.randn([len(x), 1, *x.shape[2:]], device=x.device)
            x = functional.leaky_relu(x, 0.2)
        return self.rgb(x)


class Table(nn.Module):
    """A residual network; every column's activation is tanh or a hard Gumbel softmax."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.last = nn.Linear(20, 8)

    def forward(self, z):
        x = self.last(torch.cat([self.layers(z), z], dim=1))
        mode, colour = (
            functional.gumbel_softmax(x[:, part], tau=0.2, hard=True)
            for part in (slice(1, 4), slice(4, 8))
        )
        return torch.cat([torch.tanh(x[:, :1]), mode, colour], dim=1)


def replica(kind, noise="rows"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = kind()
        width = 256 if kind is Style else 8
        critic = nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 1))
        critic[-1].weight.data.mul_(5.0)
    return drs.GAN(generator, critic, 4, noise=noise)


REPLICAS = pytest.mark.parametrize("kind", [Style, Table])


@REPLICAS
def test_another_batch_size_gives_the_same_samples(kind):
    with pytest.raises(ValueError, match="draws random numbers of its own"):
        drs.generate(replica(kind, None), QUICK, 10)
    torch.manual_seed(1)
    expected = drs.generate(replica(kind), QUICK, 400, batch_size=256)
    torch.manual_seed(2)
    for size in (128, 1024):
        assert equal(drs.generate(replica(kind), QUICK, 400, batch_size=size), expected)
    with gpu():
        assert equal(drs.generate(replica(kind), QUICK, 400, batch_size=256), expected)


class Killed(nn.Module):
    """Stops its process after so many calls."""

    def __init__(self, module, calls):
        super().__init__()
        self.module, self._left = module, itertools.count(calls, -1)

    def forward(self, z):
        if next(self._left) == 0:
            raise KeyboardInterrupt
        return self.module(z)


@REPLICAS
def test_a_run_that_is_killed_extended_or_repaired_ends_in_the_same_bytes(kind, tmp_path):
    def run(name, n, calls=10**9):
        gan = replica(kind)
        gan.generator.module = Killed(gan.generator.module, calls)
        torch.manual_seed(n)
        return drs.generate(
            gan, QUICK, n, out=tmp_path / name, batch_size=256, chunk_rows=512,
            save=("x", "z", "logit"),
        )  # fmt: skip

    whole = run("whole", 1500)
    run("other", 200)
    with pytest.raises(KeyboardInterrupt):
        run("other", 1500, calls=5)
    assert files(tmp_path / "whole") != files(tmp_path / "other")
    run("other", 1500)
    assert files(tmp_path / "whole") == files(tmp_path / "other")
    (tmp_path / "other" / "chunk-00000000.safetensors").write_bytes(b"damaged")
    store.repair(tmp_path / "other")
    run("other", 1500)
    assert files(tmp_path / "whole") == files(tmp_path / "other")
    gan = replica(kind)
    gan.generator.module = Killed(gan.generator.module, 10**9)
    assert torch.equal(whole.materialize(gan)[:]["x"], whole.x[:])
    with pytest.raises(store.Conflict):
        drs.generate(replica(kind, "own"), QUICK, 1900, out=tmp_path / "whole")


SAMPLERS = [
    OBRS(burn_in=512), MH(start="first", burn_in=512), SIR(), Squeeze(DRS(gamma=0.0)),
    DDLS(kind="mala", steps=3, burn_in=64), Ex2MCMC(steps=3, burn_in=32),
]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda each: type(each).__name__)
def test_samplers_draw_the_same_in_any_batch(sampler):
    expected = drs.generate(replica(Table), sampler, 60, batch_size=128)
    torch.manual_seed(6)
    found = drs.generate(replica(Table), sampler, 60, batch_size=256)
    assert equal(found, expected)
    assert torch.equal(replica(Table).samples(found.z), found.x)


@pytest.mark.parametrize(
    "sampler",
    [DDLS(), DDLS(kind="underdamped"), DOT(), drs.samplers.DGFlow(), drs.samplers.DCD()],
    ids=lambda each: type(each).__name__,
)
def test_samplers_that_trust_the_gradient_are_refused(sampler):
    with pytest.raises(ValueError, match="the noise jumps wherever a latent moves") as refused:
        drs.generate(replica(Style), sampler, 10)
    assert 'drs.wrap(G, noise_mode="const")' in str(refused.value)
    assert "DRS" in str(refused.value)
    assert "DOT" not in str(refused.value).partition("smooth logit")[2]
    assert len(drs.generate(replica(Table, "own"), DDLS(steps=1, burn_in=16), 10).x) == 10


def elsewhere(z):
    """Draws in another thread, which no mode of this one reaches."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(generator, z).result()


def test_noise_that_cannot_be_reached_is_refused(tmp_path):
    gan = drs.GAN(elsewhere, first, 2, noise="rows")
    for out in (None, tmp_path / "out"):
        with pytest.raises(ValueError, match='with noise="rows", G and D still give other numbers'):
            drs.generate(gan, QUICK, 10, out=out)
    assert list(tmp_path.iterdir()) == []


def test_noise_shared_by_a_block_is_refused_by_name(tmp_path):
    gan = drs.GAN(lambda z: z + torch.randn(1, 2), first, 2, noise="rows")
    with pytest.raises(
        ValueError, match=r"aten::randn of shape \(1, 2\) is shared by the 128 rows"
    ):
        drs.generate(gan, QUICK, 10, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_law_of_the_noise_is_that_of_the_discriminator():
    """Noise that D likes is found more often: x1 = z1 + e/2 given logit x1 has mean 1.25."""
    batch = drs.generate(noisy("rows"), DRS(gamma=0.0, burn_in=20_000), 4000)
    noise = batch.x - batch.z
    assert float(noise[:, 0].mean()) == pytest.approx(0.25, abs=0.04)  # 5 sd; e/2 has variance 1/4
    assert float(noise[:, 1].mean()) == pytest.approx(0.0, abs=0.04)
    assert float(batch.z[:, 0].mean()) == pytest.approx(1.0, abs=0.08)
