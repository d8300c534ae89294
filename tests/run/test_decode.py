"""GAN(..., decode=): applied to samples that are kept, wherever a run gives them."""

import warnings

import pandas
import pytest
import torch
from runs import files
from torch import nn

import drs_fast as drs
from drs_fast.samplers.ddls import DDLS
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH
from drs_fast.store.verifying import repair

SAMPLER = DRS(burn_in=1024)
SETTINGS = {"batch_size": 256, "chunk_rows": 1024}


class Recovery(nn.Module):
    """A smooth network, whose bits depend on a row's place in a call."""

    def __init__(self, width=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 37), nn.Tanh(), nn.Linear(37, width))
        for k, parameter in enumerate(self.parameters()):
            values = drs.ops.normal(drs.Rng(5), parameter.numel(), 1, draw=k)
            parameter.data.copy_(0.4 * values.view_as(parameter))

    def forward(self, x):
        return self.layers(x)


class Counting(Recovery):
    """It counts the rows of its calls too."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.layers(x)


def judge(x):
    assert x.shape[1:] == (2,)
    return 1.5 * x[:, 0] - 0.3 * x[:, 1].square()


def gan(decode=None, **options):
    return drs.GAN(torch.clone, judge, 2, decode=decode, **options)


@pytest.mark.parametrize("sampler", [SAMPLER, MH(chain_length=4, start="first"), DDLS(steps=2)])
def test_a_run_gives_what_decode_makes(sampler, tmp_path):
    decode = Recovery()
    raw = drs.generate(gan(), sampler, 300, batch_size=256)
    found = drs.generate(gan(decode), sampler, 300, batch_size=256)
    assert torch.equal(found.ids, raw.ids)
    assert torch.equal(found.logit, raw.logit)
    assert torch.equal(found.z, raw.z)
    assert torch.equal(found.x, gan(decode).decoded(raw.x, raw.ids))
    saved = drs.generate(gan(decode), sampler, 300, out=tmp_path, **SETTINGS)
    assert torch.equal(saved.x[:], found.x)
    pieces = []
    for batch in drs.stream(gan(decode), sampler, batch_size=256):
        pieces.append(batch.x)
        if sum(map(len, pieces)) >= 300:
            break
    assert torch.equal(torch.cat(pieces)[:300], found.x)


def test_bits_do_not_depend_on_how_rows_were_gathered():
    decode = Counting()
    x = drs.ops.normal(drs.Rng(2), 700, 2)
    whole = gan(decode).decoded(x)
    assert set(decode.sizes) == {256}
    ids = torch.arange(700)
    for order in (ids, ids.flip(0), ids[::3], ids[5:260]):
        pieces = [gan(decode).decoded(x[part], part) for part in order.split(37)]
        assert torch.equal(torch.cat(pieces), whole[order])
    assert gan(decode).decoded(x[:0]).shape == (0, 3)
    assert torch.equal(gan().decoded(x), x)
    for size in (256, 1024):
        batch = drs.generate(gan(decode), SAMPLER, 300, batch_size=size)
        assert torch.equal(batch.x, gan(decode).decoded(batch.z, batch.ids))


def test_only_what_is_kept_is_decoded():
    decode = Counting()
    picky = gan(decode).judged(lambda x: torch.zeros(len(x)))
    batch = drs.generate(picky, DRS(gamma=0.0, log_m=6.0, burn_in=1024), 20, batch_size=1024)
    assert int(batch.stats["proposals"]) > 20 * 256
    # One call for the example, and no more than one for each sample.
    assert len(decode.sizes) <= 1 + 20


def test_runs_go_on_and_are_repaired_and_made_again(tmp_path):
    decode, at_once = Recovery(), tmp_path / "once"
    drs.generate(gan(decode), SAMPLER, 900, out=at_once, **SETTINGS)
    for n in (200, 900):
        drs.generate(gan(decode), SAMPLER, n, out=tmp_path / "twice", **SETTINGS)
    assert files(tmp_path / "twice") == files(at_once)
    shard = sorted(at_once.glob("chunk-*"))[0]
    before = shard.read_bytes()
    shard.write_bytes(before[:-4] + b"oops")
    repair(at_once)
    drs.generate(gan(decode), SAMPLER, 900, out=at_once, **SETTINGS)
    assert shard.read_bytes() == before
    drs.generate(gan(decode), SAMPLER, 900, out=tmp_path / "ids", save=("logit",), **SETTINGS)
    made = drs.open(tmp_path / "ids").materialize(gan(decode))
    assert torch.equal(made[:]["x"], drs.open(at_once).x[:])


@pytest.mark.slow
def test_squeezed_samples_are_decoded():
    decode = Recovery()
    squeezed = drs.Squeeze(DRS(gamma=0.0, burn_in=1024), use_bound=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = drs.generate(gan(decode), squeezed, 50, batch_size=256)
    assert torch.equal(batch.x, gan(decode).decoded(batch.z, batch.ids))


def test_another_decode_is_another_model(tmp_path):
    one, other = Recovery(), Recovery()
    with torch.no_grad():
        other.layers[2].bias += 0.5
    shas = {gan().sha256(), gan(one).sha256(), gan(other).sha256(), gan(lambda x: x).sha256()}
    assert len(shas) == 4
    drs.generate(gan(one), SAMPLER, 50, out=tmp_path, **SETTINGS)
    for changed in (other, None, lambda x: x):
        with pytest.raises(drs.Conflict, match=r"begun with another model|holds another run"):
            drs.generate(gan(changed), SAMPLER, 100, out=tmp_path, **SETTINGS)
    assert not gan(nn.Sequential(nn.Dropout(0.5))).decode.training


def test_images_are_converted_after_it(tmp_path):
    def stretched(x):
        return 0.9 * x.tanh().view(-1, 1, 1, 2) + 0.2

    model = gan(stretched, value_range=(-1.0, 1.0))
    raw = drs.generate(gan(), SAMPLER, 200, batch_size=256)
    expected = model.stored_as("uint8").images.stored(stretched(raw.x))
    with pytest.warns(UserWarning, match="of 200 samples hold numbers"):
        found = drs.generate(model, SAMPLER, 200, batch_size=256, images="uint8")
    assert torch.equal(found.x, expected["x"])
    outside = int(expected["outside"].sum())
    assert int(found.stats["outside"]) == outside > 0
    with pytest.warns(UserWarning, match="of 200 samples hold numbers"):
        saved = drs.generate(
            model, SAMPLER, 200, out=tmp_path, save=("logit",), images="uint8", **SETTINGS
        )
    assert saved.manifest["outside"] == outside


def test_a_table_is_refused_in_a_run_and_returned_when_asked_for(tmp_path):
    def table(x):
        return pandas.DataFrame(x.numpy(), columns=["a", "b"])

    model = gan(table)
    for settings in ({}, {"out": tmp_path / "run"}):
        with pytest.raises(ValueError, match=r"got DataFrame; draw .*drs.generate\(gan.undecoded"):
            drs.generate(model, SAMPLER, 20, **settings)
    assert not (tmp_path / "run").exists()
    batch = drs.generate(model.undecoded(), SAMPLER, 300, batch_size=256)
    found = model.decoded(batch.x)
    assert list(found.columns) == ["a", "b"]
    assert found.to_numpy().tolist() == batch.x.tolist()


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (lambda x: x[:3], r"must return a tensor with one row for each sample, got \(3, 2\)"),
        (lambda x: x.mean(), r"one row for each sample, got \(\) float32"),
        (lambda x: x @ torch.zeros(3, 3), r"decode failed on \(256, 2\) .*decode maps samples"),
        (lambda x: x.to_sparse(), "decode must return .* got .*to_dense"),
    ],
)
def test_what_decode_may_not_return(decode, message):
    with pytest.raises(ValueError, match=message):
        drs.generate(gan(decode), SAMPLER, 20)
    with pytest.raises(ValueError, match="decode must be callable"):
        gan("table")


@pytest.mark.parametrize(
    ("decode", "why"),
    [
        (lambda x: x - x.mean(0), r"decode couples the rows of a call: .*statistics over each row"),
        (torch.nn.BatchNorm1d(2, track_running_stats=False), r"decode couples .*BatchNorm1d must"),
        (lambda x: x + torch.randn_like(x), "decode draws random numbers of its own"),
    ],
)
def test_what_decode_makes_of_a_row_depends_on_the_row_alone(decode, why, tmp_path):
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0], 2, decode=decode)
    for out in (None, tmp_path / "run"):
        with pytest.raises(ValueError, match=why):
            drs.generate(gan, drs.samplers.DRS(burn_in=500), 10, out=out)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tune", [(), ("cast",)])
def test_decode_takes_what_a_generator_makes_in_bf16(tune):
    recovery = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    gan = drs.GAN(nn.Linear(2, 2), nn.Linear(2, 1), 2, decode=recovery)
    batch = drs.generate(gan, DRS(burn_in=500), 20, precision="bf16", tune=tune)
    assert batch.x.shape == (20, 3)
    assert torch.isfinite(batch.x.float()).all()
