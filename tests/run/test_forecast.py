"""Rows that a run computes beside those it needs, counted by G itself."""

from dataclasses import replace

import pytest
import torch
from late import gpu
from runs import Counted, conditional, equal, files, toy

import drs_fast as drs
from drs_fast import Rng
from drs_fast.gan import GAN, classes
from drs_fast.run import flips
from drs_fast.run.forecast import Forecast, Tried
from drs_fast.samplers.drs import DRS

BATCH = 256
FIFTH = DRS(target_acceptance=0.2, burn_in=4096)
SEEDS = range(20)


def counted(make=toy):
    gan = make()
    gan.generator = Counted(gan.generator)
    return gan


@pytest.fixture
def whole_blocks(monkeypatch):
    """Calls are padded to a whole block, as on a GPU."""
    monkeypatch.setattr(GAN, "call_rows", lambda gan, rows: gan.block)


def fixed(acceptance=0.2):
    """A sampler whose thresholds are known, with the shortest burn-in."""
    found = DRS(target_acceptance=acceptance, burn_in=65_536).init(toy(), Rng(99))
    return DRS(log_m=float(found.log_m), gamma=float(found.gamma), burn_in=BATCH)


def wasted(n, sampler, seed=0, **settings):
    """Steps of G beyond burn-in and the rows up to the n-th sample; and the steps of these."""
    gan = counted()
    with gpu():
        batch = drs.generate(gan, sampler, n, seed=seed, batch_size=BATCH, **settings)
    needed = -(-(int(batch.ids[-1]) + 1) // BATCH) * BATCH
    assert int(batch.stats["calls"]) == needed  # launched in vain or not
    return (gan.generator.rows - sampler.burn_in - needed) // BATCH, needed // BATCH


# --- no step is launched that is not expected to be needed


@pytest.mark.usefixtures("whole_blocks")
def test_a_run_of_4000_samples_computes_hardly_a_row_in_vain():
    """At 20 % acceptance a step brings 51 +- 6 samples; without a forecast all 3 in flight and a
    proof of a graph were lost, 5 %. What is left is one step in some runs."""
    sampler = fixed()
    lost, needed = zip(*(wasted(4000, sampler, seed) for seed in SEEDS), strict=True)
    assert max(lost) <= 1
    assert sum(lost) < 0.005 * sum(needed)
    assert 76 <= min(needed) <= max(needed) <= 82


@pytest.mark.usefixtures("whole_blocks")
def test_burn_in_and_end_of_4000_samples_are_below_a_hundredth():
    """A burn-in of 128 rows takes a call of 128 rows, also where others take a whole block."""
    sampler = replace(fixed(), burn_in=128)
    rows = needed = 0
    for seed in SEEDS:
        gan = counted()
        with gpu():
            batch = drs.generate(gan, sampler, 4000, seed=seed, batch_size=BATCH)
        rows += gan.generator.rows
        needed += -(-(int(batch.ids[-1]) + 1) // BATCH) * BATCH
    assert needed < rows < 1.01 * needed


@pytest.mark.usefixtures("whole_blocks")
@pytest.mark.parametrize("n", [1, 40, 300])
def test_so_does_a_short_run(n):
    sampler = fixed()
    assert max(wasted(n, sampler, seed)[0] for seed in SEEDS) <= 1


@pytest.mark.usefixtures("whole_blocks")
def test_where_every_row_is_a_sample_none_is_lost():
    assert wasted(4000, DRS(gamma=-600.0, burn_in=BATCH)) == (0, 16)


@pytest.mark.usefixtures("whole_blocks")
def test_a_graph_is_proved_only_in_runs_that_are_long_enough():
    sampler = fixed()
    with gpu() as graphs:
        drs.generate(toy(), sampler, 4900, batch_size=BATCH)
        assert graphs.captures == 0
        drs.generate(toy(), sampler, 5500, batch_size=BATCH)
        assert graphs.captures == 1


def test_a_step_is_launched_if_those_in_flight_are_expected_to_bring_too_few():
    forecast = Forecast(
        n=100, group=1, step_rows=50, acceptance=0.2, draws=False, sequential=False, quota=None,
        call_rows=lambda rows: rows,
    )  # fmt: skip
    assert forecast.needs(Tried(accepted=60, proposals=300, flying=150, idle=0))  # 30 of 40
    assert not forecast.needs(Tried(accepted=60, proposals=300, flying=200, idle=0))  # 40
    assert forecast.needs(Tried(accepted=60, proposals=3000, flying=200, idle=0))  # 4.6
    assert forecast.needs(Tried(accepted=99, proposals=100, flying=0, idle=0))
    assert not forecast.needs(Tried(accepted=0, proposals=0, flying=500, idle=0))
    assert not forecast.earns_a_graph(Tried(60, 300, 0, 0))


def test_each_class_is_expected_to_have_its_share():
    quota = classes.Quota((0.5, 0.5), 100)
    assert quota.lacks(98.0)
    assert not quota.lacks(100.0)
    quota.had(torch.zeros(50, dtype=torch.int64))
    assert quota.lacks(98.0)
    quota.had(torch.ones(45, dtype=torch.int64))
    assert quota.lacks(8.0)
    assert not quota.lacks(10.0)


def test_a_stream_and_a_long_run_stay_in_flight():
    with gpu() as graphs:
        stream = drs.stream(toy(), FIFTH, batch_size=BATCH)
        for _ in range(20):
            next(stream)
        drs.generate(toy(), FIFTH, 20_000, batch_size=BATCH)
    endless, long = (reading.lags for reading in graphs.readings)
    assert set(endless) == {3}
    assert sum(lag < 3 for lag in long) <= 6


@pytest.mark.parametrize("classes_of", ["joint", "within"])
def test_quotas_are_filled_with_few_rows_in_vain(classes_of):
    sampler = DRS(classes=classes_of, burn_in=3000)
    expected = drs.generate(conditional(), sampler, 2500, seed=1, batch_size=BATCH)
    gan = counted(conditional)
    with gpu():
        found = drs.generate(gan, sampler, 2500, seed=1, batch_size=BATCH)
    assert equal(found, expected)
    rows = gan.generator.rows - 3072 - int(found.stats["calls"])
    assert rows <= 3 * BATCH


def test_what_is_in_flight_changes_no_file(tmp_path, monkeypatch):
    """A run that is extended, one at once, and one that launches whatever it can."""

    def run(name, n, **settings):
        with gpu():
            drs.generate(
                toy(), FIFTH, n, out=tmp_path / name, batch_size=BATCH, chunk_rows=4096, **settings
            )

    run("whole", 3000)
    for n in (500, 1700, 3000):
        run("extended", n)
    monkeypatch.setattr(Forecast, "needs", lambda forecast, tried: True)
    run("greedy", 3000)
    assert files(tmp_path / "whole") == files(tmp_path / "extended") == files(tmp_path / "greedy")
    manifest = drs.open(tmp_path / "whole").manifest
    assert manifest["calls_per_sample"] == pytest.approx(1 / manifest["acceptance"], rel=0.1)


# --- no row is computed twice in one precision


def rows_of_bf16(sampler, make=toy, **settings):
    gan = counted(make)
    drs.generate(gan, sampler, 50, precision="bf16", batch_size=BATCH, **settings)
    exact = counted(make)
    drs.generate(exact, sampler, 50, batch_size=BATCH, **settings)
    return gan.generator.rows - exact.generator.rows


def test_burn_in_rows_are_judged_once_in_each_precision():
    """1,000 rows in fp32, padded to 1,024; toy's logits are float32 in both precisions."""
    assert rows_of_bf16(FIFTH) == 1024
    assert rows_of_bf16(DRS(burn_in=600)) == 1024 + 512  # and the 400 that burn-in has not seen


def test_n_does_not_move_the_flip_rate(tmp_path):
    for n in (10, 40_000):
        gan = counted()
        drs.generate(gan, FIFTH, n, precision="bf16", out=tmp_path / str(n), batch_size=4096)
    few, many = (
        (tmp_path / str(n) / "state.safetensors").read_bytes()[:2000] for n in (10, 40_000)
    )
    assert few == many


@pytest.mark.parametrize(
    ("make", "sampler"),
    [
        *((make, sampler) for make in (toy, conditional) for sampler in (
            FIFTH, DRS(burn_in=600), drs.samplers.OBRS()
        )),
        (conditional, DRS(classes="within", burn_in=3000)),
    ],
)  # fmt: skip
def test_the_flip_rate_is_that_of_the_steps(make, sampler, monkeypatch):
    rounded = drs.GAN(
        lambda *given: make().generator(*given),
        lambda x, *y: (
            make().discriminator(x, *y)
            + (0.3 * torch.sin(9 * x[:, 0]) if torch.is_autocast_enabled("cpu") else 0.0)
        ),
        2,
        labels=make().labels,
    ).on(precision="bf16", block=BATCH)
    state = sampler.init(rounded, Rng(0))
    gan = sampler.proposing(rounded, state)
    found = flips.flip_rate(gan, gan.on(precision="fp32"), sampler, state, Rng(0))
    monkeypatch.setattr(flips, "RejectionSampler", ())
    assert found == flips.flip_rate(gan, gan.on(precision="fp32"), sampler, state, Rng(0)) > 0.005
