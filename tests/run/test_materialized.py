"""Runs that keep only ids and logits: x and z are made again with the bits that the run had."""

import copy
import pickle
import warnings

import pytest
import torch
from every_sampler import NAMES, quick, smooth
from hills import hill
from planted_bounds import hurry
from runs import QUICK, plain
from torch.utils.data import DataLoader

import drs_fast as drs
from drs_fast import samplers
from drs_fast.cli.main import main
from drs_fast.core import Sampler
from drs_fast.core.sampler import Remade
from drs_fast.run import materialized
from drs_fast.samplers.latent import Latent
from drs_fast.samplers.mh import MH

MOVING = {"collaborative", "dcd", "ddls", "dgflow", "dot", "ex2mcmc", "flex2mcmc"}
STILL = [name for name in NAMES if name not in MOVING]
EXACT = samplers.DRS(gamma=0.0, burn_in=2048)


def both(tmp_path, gan, sampler, n=300, **options):
    """The same run twice: with all that can be saved, and with ids and logits alone."""
    options = {"batch_size": 256, **options}
    whole = drs.generate(
        gan, sampler, n, out=tmp_path / "whole", save=("x", "z", "logit"), **options
    )
    light = drs.generate(gan, sampler, n, out=tmp_path / "light", save=("logit",), **options)
    assert "x" not in light.columns
    assert torch.equal(light.ids[:], whole.ids[:])
    return whole, light


def check_same(made, whole, index):
    found, saved = made[index], whole[index]
    assert found.keys() == saved.keys()
    for name, value in saved.items():
        assert found[name].dtype == value.dtype
        # Of kept real starts z is NaN.
        assert torch.equal(found[name].nan_to_num(), value.nan_to_num()), name


@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("name", STILL)
@pytest.mark.filterwarnings("ignore:.*(never moved|worth|samples hold)")
def test_x_and_z_have_the_bits_of_the_run(tmp_path, name, labels):
    gan = smooth(labels)
    whole, light = both(tmp_path, gan, quick(name), images="uint8" if labels else None)
    made = light.materialize(gan)
    assert len(made) == 300
    check_same(made, whole, slice(None))
    check_same(made, whole, [299, 3, 3, 150])
    check_same(made, whole, whole.ids[:] % 2 == 0)
    check_same(made, whole, 7)


@pytest.mark.parametrize("name", sorted(MOVING))
def test_samplers_that_move_samples_refuse(tmp_path, name):
    gan, n = smooth(), 20
    run = drs.generate(gan, quick(name), n, out=tmp_path / "run", save=("logit",), batch_size=256)
    with pytest.raises(ValueError, match=r"moves samples after G has made them.*--save x"):
        run.materialize(gan)


@pytest.mark.parametrize("labels", [None, 3])
def test_real_starts_of_chains_are_found_again(tmp_path, labels, monkeypatch):
    """Many chains never move, and begin at real samples that wrap around and cross blocks."""
    monkeypatch.setattr(samplers.common.groups, "BLOCK", 64)
    gan = smooth(labels)
    gan = gan.judged(lambda x, y=None: 40.0 * x[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, light = both(tmp_path, gan, MH(chain_length=4, burn_in=500, starts=50))
    assert 30 < int((whole.ids[:] < 0).sum()) < 299
    check_same(light.materialize(gan), whole, slice(None))
    check_same(light.materialize(gan), whole, [250, 4, 77, 120])
    other = copy.copy(gan)
    other.real = (gan.real + 1.0) if labels is None else (gan.real[0] + 1.0, gan.real[1])
    with pytest.raises(drs.Conflict, match="other real samples"):
        light.materialize(other)


@pytest.mark.parametrize("inner", ["drs", "latent"])
def test_squeezed_runs(tmp_path, inner, monkeypatch):
    hurry(monkeypatch)
    gan = hill()
    sampler = EXACT if inner == "drs" else Latent(critic=lambda z: -2.0 * z[:, 0].abs())
    squeezed = drs.Squeeze(sampler, tolerance=0.5, use_bound=True)
    options = {"save": ("x", "z", "logit"), "batch_size": 256, "chunk_rows": 2**13}
    whole = drs.generate(gan, squeezed, 300, out=tmp_path / "run", **options)
    assert whole.manifest["squeeze_used"]
    check_same(whole.materialize(gan), whole, slice(None))


@pytest.mark.parametrize(
    "options",
    [
        {"images": "float16"},
        {"precision": "bf16"},
        {"batch_size": 64},
    ],
    ids=str,
)
def test_the_settings_of_the_run_hold(tmp_path, options):
    gan = smooth()
    whole, light = both(tmp_path, gan, QUICK, **options)
    check_same(light.materialize(gan), whole, slice(None))


def test_tuned_networks(tmp_path):
    gan = drs.load("digits")
    options = {"tune": "channels_last", "images": "uint8"}
    whole, light = both(tmp_path, gan, QUICK, **options)
    check_same(light.materialize(gan), whole, slice(None))
    functions = drs.GAN(lambda z: gan.generator(z), gan.discriminator, gan.latent_dim)
    with pytest.raises(ValueError, match=r"the run had tune=.'channels_last'"):
        light.materialize(functions)


def test_classes_that_a_run_proposed_otherwise(tmp_path):
    gan = smooth(3)
    sampler = samplers.DRS(classes="within", burn_in=500)
    whole, light = both(tmp_path, gan, sampler, label_weights=[1.0, 2.0, 5.0], n=160)
    check_same(light.materialize(gan), whole, slice(None))


def test_batches_are_those_of_the_run_in_order(tmp_path):
    whole, light = both(tmp_path, smooth(), QUICK, n=700)
    batches = list(light.materialize(smooth()).batches())
    assert [int(batch.count) for batch in batches] == [256, 256, 188]
    for name in ("x", "z", "logit", "ids", "weight"):
        rows = torch.cat([getattr(batch, name) for batch in batches])
        assert torch.equal(rows, whole.column(name)[:]) if name != "weight" else len(rows) == 700
    assert torch.equal(torch.cat([batch.weight for batch in batches]), whole.weight[:])
    late = next(light.materialize(smooth()).batches(600))
    assert torch.equal(late.ids, whole.ids[600:])


def test_a_loader_with_workers_makes_them(tmp_path):
    whole, light = both(tmp_path, smooth(), QUICK)
    loader = DataLoader(
        light.materialize(smooth()), batch_size=100, num_workers=2, multiprocessing_context="fork"
    )
    batches = list(loader)
    assert torch.equal(torch.cat([batch["x"] for batch in batches]), whole.x[:])
    again = pickle.loads(pickle.dumps(light.materialize(smooth())))
    assert torch.equal(again[:]["z"], whole.z[:])


def test_other_weights_are_another_model(tmp_path):
    _, light = both(tmp_path, smooth(), QUICK)
    other = smooth()
    with torch.no_grad():
        other.generator.layers[0].bias += 1e-6
    with pytest.raises(drs.Conflict, match="other weights"):
        light.materialize(other)


def test_other_code_is_another_model_if_logits_are_far(tmp_path):
    _, light = both(tmp_path, plain(), QUICK)
    with pytest.raises(drs.Conflict, match=r"made with another model.*differ by up to"):
        light.materialize(plain(lambda x: 1.4 * x[:, 0] - 0.3 * x[:, 1].square()))


def test_logits_that_are_near_are_told(tmp_path):
    _, light = both(tmp_path, plain(), QUICK)
    near = plain(lambda x: 1.5 * x[:, 0] - 0.3 * x[:, 1].square() + 1e-4)
    with pytest.warns(UserWarning, match=r"differ by up to 0\.0001.*not bit for bit") as seen:
        made = light.materialize(near)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert torch.equal(made[:]["logit"], light.logit[:])


def test_ids_alone(tmp_path, capsys):
    gan = smooth()
    whole = drs.generate(gan, QUICK, 50, out=tmp_path / "whole", save=("x", "z", "logit"))
    light = drs.generate(gan, QUICK, 50, out=tmp_path / "light", save=())
    assert light.columns == ("ids",)
    check_same(light.materialize(gan), whole, slice(None))
    near = gan.judged(lambda x: x[:, 0])
    near.discriminator = gan.discriminator
    near.link = lambda score: score + 1e-4
    with pytest.warns(UserWarning, match="without saved logits"):
        light.materialize(near)


@pytest.mark.parametrize("save", ["ids,logit", "logit", "logit,ids"])
def test_both_spellings(tmp_path, save, capsys):
    out = str(tmp_path / "run")
    given = ["generate", "25gaussians", "-n", "20", "--out", out, "--burn-in", "500", "--quiet"]
    assert main([*given, "--save", save]) == 0
    assert drs.open(out).columns == ("ids", "logit")
    gan = drs.load("25gaussians")
    for spelling in (("ids", "logit"), ("logit",), ["logit", "ids"]):
        drs.generate(gan, samplers.DRS(burn_in=500), 20, out=out, save=spelling)


def test_ids_alone_by_command(tmp_path, capsys):
    out = str(tmp_path / "run")
    given = ["generate", "25gaussians", "-n", "20", "--out", out, "--burn-in", "500", "--quiet"]
    assert main([*given, "--save", "ids"]) == 0
    assert drs.open(out).columns == ("ids",)


def test_what_cannot_be_made_again(tmp_path, monkeypatch):
    _, light = both(tmp_path, smooth(), QUICK)
    with pytest.raises(ValueError, match=r"gan must be a drs\.GAN"):
        light.materialize("25gaussians")
    with pytest.raises(drs.Conflict, match="labels=None, got labels=3"):
        light.materialize(smooth(3))
    with pytest.raises(ValueError, match=r"use drs\.open"):
        drs.store.open_run(tmp_path / "light").materialize(smooth())
    monkeypatch.setattr(materialized, "named", lambda name: None)
    with pytest.raises(ValueError, match="DRS is no sampler of drs_fast"):
        light.materialize(smooth())
    monkeypatch.undo()
    monkeypatch.setattr(samplers.DRS, "law_version", 3)
    with pytest.raises(drs.Conflict, match="law_version 2 of DRS"):
        light.materialize(smooth())


def test_a_sampler_says_how(tmp_path):
    """The default refuses, so that no sampler of a user is made again wrongly."""
    with pytest.raises(ValueError, match="does not say"):
        Sampler.remade(EXACT, smooth(), None, torch.arange(3), None, drs.Rng(0))
    assert Remade._fields == ("x", "z", "logit")
