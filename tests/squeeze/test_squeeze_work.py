"""A search decides by counted work and never by the clock, so equal runs stay equal."""

import contextlib
import hashlib
import itertools
import math
import os
import time

import pytest
import torch
from hills import EXACT, hill
from torch import nn

import drs_fast as drs
from drs_fast import GAN, Rng, ops, samplers
from drs_fast.cli import main as cli
from drs_fast.squeeze import chains, search, work
from drs_fast.squeeze.bounds import latent
from drs_fast.squeeze.work import ELEMENT, OPERATOR, Costs, counted
from drs_fast.store.format import SECONDS
from drs_fast.training.fitting import Draws


@pytest.fixture
def small(monkeypatch):
    """Small searches that need not pay; bounds still must."""
    monkeypatch.setattr(search, "ROWS", (1024, 2048))
    monkeypatch.setattr(search, "LEAST_WORK", -math.inf)
    monkeypatch.setattr(latent, "EPOCHS", 2)
    monkeypatch.setattr(latent, "LEAST_STEPS", 100)


def network(*widths):
    """A multilayer perceptron."""
    pairs = itertools.pairwise(widths)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())]
    return Draws(5).build(lambda: nn.Sequential(*layers[:-1])).eval()


def dear():
    """`hill`, with extra work that changes no logit."""
    plain, more = hill(), network(4, 512, 512, 1)
    return GAN(
        plain.generator,
        lambda x: plain.discriminator(x) + 0.0 * more(x)[:, 0],
        4,
        block=256,
        name="dear",
    )


def contents(folder):
    """The sha256 of every file but the one of seconds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SECONDS
    }


def test_work_is_that_of_products_and_of_what_is_written():
    layer, x = network(8, 32), torch.ones(100, 8)
    product = 2 * 100 * 8 * 32 + 100 * 32 * ELEMENT + OPERATOR
    assert counted(lambda: layer(x)) == product
    with torch.inference_mode():
        assert counted(lambda: layer(x)) == product
        assert counted(lambda: layer(x).T[:8].unsqueeze(0)) == product
        relu = 100 * 32 * ELEMENT + OPERATOR
        assert counted(lambda: layer(x).relu().relu_()) == product + 2 * relu
    convolution, image = nn.Conv2d(3, 5, 3, padding=1), torch.ones(2, 3, 6, 6)
    outputs = 2 * 5 * 36
    expected = outputs * (2 * 3 * 9 + ELEMENT) + OPERATOR
    assert counted(lambda: convolution(image)) == expected


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripts_and_modules_are_the_same_work():
    layers, x = network(8, 32, 32, 1), torch.ones(256, 8)
    traced = torch.jit.freeze(torch.jit.trace(layers, x))
    with torch.inference_mode():
        assert counted(lambda: traced(x)) == counted(lambda: layers(x)) > 2 * 256 * 32 * 32


def test_higher_order_operators_are_no_error():
    x = torch.ones(4)
    assert counted(lambda: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))) >= OPERATOR


def test_a_prior_counts():
    plain = GAN(lambda z: z, lambda x: x[:, 0], 4)
    dearer = GAN(lambda z: z, lambda x: x[:, 0], 4, prior=network(4, 64, 4))
    assert Costs.of(dearer).row - Costs.of(plain).row > 2 * 2 * 4 * 64
    assert Costs.of(dearer).call == Costs.of(plain).call


def test_cheap_functions_are_cheap_and_networks_dear():
    """A call against the large bound: an oracle costs less, digits far more."""
    costs = {name: Costs.of(drs.load(name)) for name in drs.zoo.NAMES} | {"hill": Costs.of(hill())}
    ratio = {name: cost.call / cost.large for name, cost in costs.items()}
    assert ratio["hill"] < 0.5
    assert 2 < ratio["swissroll"] < ratio["25gaussians"] < 10
    assert ratio["digits"] > 50
    assert all(cost.tiny < cost.large / 5 for cost in costs.values())


BEGUN = {  # by what the samplers of the benchmark find in burn-in
    ("25gaussians", 0.0): True,
    ("25gaussians", None): False,
    ("swissroll", None): False,
    ("digits", None): True,
}


@pytest.mark.parametrize(("name", "gamma"), BEGUN)
def test_where_a_search_is_begun(name, gamma, monkeypatch):
    """A search begins where it did when a clock decided."""
    begun = []
    monkeypatch.setattr(
        search.Search, "_plan", lambda self, none, *given: (begun.append(given), none)[1]
    )
    state = drs.Squeeze(samplers.DRS(gamma=gamma)).init(drs.load(name), Rng(0))
    assert bool(begun) == BEGUN[name, gamma]
    assert not math.isfinite(float(state.margins[1]))


def test_digits_at_gamma_0_take_too_much_work():
    """At the acceptance that the search finds; at that of plain digits they do not."""
    call, samples = Costs.of(drs.load("digits")).call, search.needed(drs.Squeeze.tolerance, 0.0)
    assert 1_162 * samples * call < search.MOST_WORK < 38_726 * samples * call
    assert search.needed(drs.Squeeze.tolerance, 0.02) * 38_726 * call < search.MOST_WORK


def test_a_gpu_may_do_more():
    assert work.in_the_time_of(3.0, torch.device("cpu")) == 3.0
    assert work.in_the_time_of(3.0, torch.device("cuda")) == 300.0


@pytest.mark.parametrize("worth", [search.WORTH, 0.0])
def test_no_byte_depends_on_the_clock(worth, small, monkeypatch, tmp_path):
    """Every reading of the clock is a different number, in every run."""
    monkeypatch.setattr(search, "WORTH", worth)
    gan, squeezed, found = dear(), drs.Squeeze(EXACT, tolerance=0.3, by="latent"), []
    for run in range(3):
        readings = iter(ops.uniform(Rng(run), 2**16, stream=0).tolist())
        with monkeypatch.context() as clocks:
            for clock in ("perf_counter", "monotonic", "time", "process_time"):
                clocks.setattr(time, clock, readings.__next__)
            samples = drs.generate(gan, squeezed, 300, out=tmp_path / str(run))
        found.append(contents(tmp_path / str(run)))
        assert samples.manifest["squeeze_used"] == (worth > 0.0)
    assert found[0] == found[1] == found[2]
    assert samples.manifest["sampler"]["use_bound"] is None


@pytest.mark.parametrize("least", [-math.inf, math.inf])
def test_a_damaged_state_is_made_again(least, small, monkeypatch, tmp_path):
    """With a bound that is used, with one that is not, and after the run has grown."""
    monkeypatch.setattr(search, "LEAST_WORK", least)
    monkeypatch.setattr(search, "WORTH", math.inf)
    out = tmp_path / "run"
    command = ["generate", "test_squeeze:hill", "--gamma", "0", "--squeeze", "--tolerance", "0.4"]
    command += ["--out", str(out), "--quiet", "-n"]
    assert cli.main([*command, "20"]) == 0
    assert cli.main([*command, "60"]) == 0
    before, state = contents(out), out / "state.safetensors"
    assert drs.open(out).manifest["squeeze_used"] == (least < 0)
    data = bytearray(state.read_bytes())
    data[-5] ^= 1
    state.write_bytes(data)
    assert cli.main(["verify", str(out)]) == 6
    assert cli.main(["verify", str(out), "--repair"]) == 0
    assert cli.main([*command, "60"]) == 0
    assert contents(out) == before


def test_a_bound_is_used_where_it_is_asked_for(small, tmp_path):
    """`hill` is cheaper than any bound of it."""
    found = {
        use_bound: drs.generate(
            hill(), drs.Squeeze(EXACT, 0.3, use_bound=use_bound), 200, out=tmp_path / str(use_bound)
        )
        for use_bound in (None, True, False)
    }
    assert [run.manifest["squeeze_used"] for run in found.values()] == [False, True, False]
    assert [run.manifest["sampler"]["use_bound"] for run in found.values()] == [None, True, False]
    assert "it never pays" in found[True].manifest["remark"]
    assert found[False].manifest["remark"] == "squeeze: not used, as use_bound=False says"
    assert int(found[False].state["spent"]) == EXACT.burn_in
    plain = drs.generate(hill(), EXACT, 200)
    for use_bound in (None, False):
        assert torch.equal(found[use_bound].ids[:], plain.ids)


def test_no_search_is_too_long_where_a_bound_is_asked_for(small, monkeypatch):
    monkeypatch.setattr(search, "MOST_WORK", 1.0)
    refused, asked = (
        drs.Squeeze(EXACT, 0.3, use_bound=use_bound).init(dear(), Rng(0))
        for use_bound in (None, True)
    )
    assert not math.isfinite(float(refused.margins[1]))
    assert math.isfinite(float(asked.margins[1]))


@pytest.mark.parametrize("level", [None, -200.0])
def test_a_bound_that_is_asked_for_and_not_found_is_an_error(level, small, monkeypatch):
    """No bound keeps the tolerance, or so few rows are accepted that no search would end."""
    monkeypatch.setattr(chains, "MOST", 0.01)  # spreads
    gan, sampler = hill(), EXACT
    if level is not None:
        gan = GAN(lambda z: z, lambda x: x[:, 0] + level, 4, block=256)
        sampler = samplers.DRS(gamma=0.0, log_m=0.0)
    squeezed = drs.Squeeze(sampler, 0.01, use_bound=True)
    with pytest.raises(ValueError, match=r"use_bound=True, but no bound .*tolerance=0.01 of"):
        squeezed.init(gan, Rng(0))


def test_use_bound_is_true_false_or_none():
    with pytest.raises(ValueError, match="use_bound must be True or False, got 'yes'"):
        drs.Squeeze(EXACT, use_bound="yes")


@pytest.mark.parametrize(("said", "used"), [("yes", True), ("no", False)])
def test_the_flag(said, used, small, tmp_path):
    command = ["generate", "test_squeeze:hill", "-n", "20", "--gamma", "0", "--quiet"]
    command += ["--out", str(tmp_path / "run"), "--use-bound", said]
    assert cli.main([*command, "--squeeze", "--tolerance", "0.4"]) == 0
    manifest = drs.open(tmp_path / "run").manifest
    assert manifest["sampler"]["use_bound"] == manifest["squeeze_used"] == used


def test_the_flag_needs_another(tmp_path, capsys):
    command = ["generate", "25gaussians", "-n", "20", "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--use-bound", "yes"]) == 2
    assert "--use-bound yes needs --squeeze" in capsys.readouterr().err


def test_the_acceptance_does_not_depend_on_the_threads():
    """A sum of so many numbers is split among threads unless this is prevented."""
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            state = samplers.OBRS(budget=0.1, burn_in=100_000).init(hill().on(block=4096), Rng(0))
            found.append(float(state.acceptance))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_lost_state_that_is_being_made_again_when_the_process_dies(tmp_path, monkeypatch, at):
    """What the state says of the bound is in no manifest that was thinned for the loss."""
    run, replace, done = tmp_path / "run", os.replace, []

    def made():
        squeeze = drs.Squeeze(samplers.DRS(burn_in=512))
        drs.generate(drs.load("25gaussians"), squeeze, 100, out=run, chunk_rows=4096)

    made()
    before = contents(run)
    (run / "state.safetensors").unlink()

    class Died(BaseException):
        pass

    def dies(*names):
        replace(*names)
        done.append(names)
        if len(done) == at:
            raise Died

    monkeypatch.setattr(os, "replace", dies)
    with contextlib.suppress(Died):
        made()
    monkeypatch.setattr(os, "replace", replace)
    made()
    assert contents(run) == before
