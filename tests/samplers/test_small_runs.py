"""Few samples cost few rows, and a small last step changes no sample and no byte on disk."""

import math
from dataclasses import replace

import pytest
import torch
from late import gpu
from runs import QUICK, Counted, columns, equal, files, toy

import drs_fast as drs
from drs_fast import store
from drs_fast.doctor import coupling
from drs_fast.run import lanes
from drs_fast.run.forecast import Forecast
from drs_fast.run.options import Options
from drs_fast.run.schedule import Run
from drs_fast.samplers.ddls import DDLS
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.latent import Latent
from drs_fast.samplers.mh import MH
from drs_fast.samplers.obrs import OBRS
from drs_fast.samplers.sir import SIR

CHECK = 2 * coupling.ROWS  # of a new run, for coupled rows
FIRST = 16  # rows of a call that serves gradients, before others
LANGEVIN = DDLS(steps=50, step_size=0.01)
SAMPLERS = {
    "drs": (QUICK, 1024),
    "obrs": (OBRS(burn_in=2048), 256),
    "latent": (Latent(critic=lambda z: z[:, 0].clamp(max=1.0), burn_in=2048), 256),
    "mh": (MH(chain_length=10, start="first", burn_in=2048), 1024),
    "sir": (SIR(pool=640, size=64, burn_in=2048), 768),
    "ddls": (LANGEVIN, 51 * 128),
}


def counted(make=toy):
    gan = make()
    gan.generator = Counted(gan.generator)
    return gan


def labelled():
    """Every sample shows how many rows its call had; the logit does not."""
    return drs.GAN(
        lambda z: torch.cat([z, torch.full((len(z), 1), float(len(z)))], dim=1),
        lambda x: x[:, 0] - 0.25 * x[:, 1].square(),
        2,
    )


@pytest.mark.parametrize(("batch_size", "rows"), [(64, 64), (60, 64), (4096, 128)])
def test_chains_that_no_one_asked_for_are_not_run(batch_size, rows):
    gan = counted()
    batch = drs.generate(gan, LANGEVIN, 64, batch_size=batch_size)
    assert int(batch.stats["gradients"]) == 50 * rows
    assert int(batch.stats["calls"]) == rows
    assert gan.generator.rows == FIRST + CHECK + 128 + 51 * rows  # 128 of the burn-in


@pytest.mark.parametrize("name", SAMPLERS)
def test_64_samples_take_few_rows(name):
    sampler, most = SAMPLERS[name]
    gan = counted()
    sampler.init(gan, drs.Rng(0))
    burn_in, gan.generator.rows = gan.generator.rows, 0
    batch = drs.generate(gan, sampler, 64)
    first = FIRST if "gradients" in sampler.tallies else 0
    assert gan.generator.rows - first - CHECK - burn_in <= most
    assert int(batch.stats["calls"]) <= most


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("batch_size", [256, 4096])
def test_few_samples_are_the_first_of_many(name, batch_size):
    make = toy if name == "ddls" else lambda: drs.load("25gaussians")
    sampler, many = SAMPLERS[name][0], 1200 if name == "ddls" else 5000
    whole = columns(drs.generate(make(), sampler, many, seed=3, batch_size=batch_size))
    for n in (1, 64, 300, 1100):
        part = columns(drs.generate(make(), sampler, n, seed=3, batch_size=batch_size))
        assert all(torch.equal(part[name], whole[name][:n]) for name in whole)


def test_small_steps_come_last():
    for n in (64, 900, 5000):
        rows = drs.generate(labelled(), QUICK, n, seed=2, batch_size=512).x[:, 2]
        whole = int((rows == 512).sum())
        assert (rows[:whole] == 512).all()
        assert whole < len(rows)


@pytest.mark.parametrize(
    ("batch_size", "group", "rows"),
    [(2**18, 1, 2**18), (4096, 640, 20_480), (4096, 100_000, 100_000), (16, 640, 640)],
)
def test_whole_steps_fill_blocks_unless_groups_forbid_it(batch_size, group, rows):
    gan, sampler = toy().on(block=batch_size), MH(chain_length=group)
    assert Run(gan, sampler, 1, Options(batch_size=gan.block, patience=1)).step_rows == rows


def test_a_group_is_enough_where_one_is_asked_for():
    gan = counted()
    batch = drs.generate(gan, MH(chain_length=640, start="first", burn_in=256), 1, batch_size=256)
    assert int(batch.stats["calls"]) == 640
    gan = counted()
    batch = drs.generate(gan, SIR(pool=300, size=10, burn_in=256), 11, batch_size=256)
    assert int(batch.stats["calls"]) == 600


# --- steps that fall short


def hopeful(monkeypatch):
    """Makes runs expect to accept every row, so that a small step comes too early."""
    forecast_of = Run._forecast_of
    monkeypatch.setattr(
        Run, "_forecast_of", lambda *given: replace(forecast_of(*given), acceptance=1.0)
    )


@pytest.mark.parametrize("n", [1, 64, 2000])
def test_another_small_step_follows_one_that_falls_short(monkeypatch, n):
    expected = drs.generate(labelled(), QUICK, n, seed=5, batch_size=512)
    hopeful(monkeypatch)
    found = drs.generate(labelled(), QUICK, n, seed=5, batch_size=512)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.logit, expected.logit)
    rows = found.x[:, 2]
    assert (rows[: int((rows == 512).sum())] == 512).all()
    assert found.stats["calls"] < found.stats["proposals"] + 256
    assert found.stats["invalid"] == expected.stats["invalid"] == 0


def test_what_was_taken_in_vain_is_not_on_disk(monkeypatch, tmp_path):
    """A chunk's counts on disk are those of its rows, however often the run was interrupted."""
    hopeful(monkeypatch)
    sampler = DRS(burn_in=1024, target_acceptance=0.1)
    gan = counted()
    sampler.init(gan, drs.Rng(7))
    burn_in, gan.generator.rows = gan.generator.rows, 0
    batch = drs.generate(gan, sampler, 40, seed=7, batch_size=256)
    assert int(batch.stats["calls"]) == gan.generator.rows - CHECK - burn_in
    assert int(batch.stats["calls"]) < int(batch.stats["proposals"]) + 256
    gan.generator.rows = 0
    run = drs.generate(gan, sampler, 40, seed=7, batch_size=256, out=tmp_path / "run")
    assert run.manifest["calls_per_sample"] == 512 / 40
    assert gan.generator.rows - burn_in > 512
    assert store.verify(tmp_path / "run") == []


def test_invalid_logits_of_a_step_in_vain_are_counted_once(monkeypatch):
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0].where(x[:, 1] < 3.6, torch.nan), 2)
    expected = drs.generate(gan, QUICK, 3000, seed=1, batch_size=256)
    hopeful(monkeypatch)
    found = drs.generate(gan, QUICK, 3000, seed=1, batch_size=256)
    assert int(found.stats["invalid"]) == int(expected.stats["invalid"]) > 0
    assert equal(found, expected)


def test_the_limit_of_proposals_holds(monkeypatch):
    whole = drs.generate(toy(), QUICK, 1000, seed=1)
    inside = int((whole.ids < 2048).sum())
    hopeful(monkeypatch)
    named = {"seed": 1, "batch_size": 1024, "max_proposals": 2048}
    assert int(drs.generate(toy(), QUICK, inside, **named).count) == inside
    with pytest.raises(drs.Starvation, match=f"{inside} samples after") as error:
        drs.generate(toy(), QUICK, inside + 1, **named)
    assert torch.equal(error.value.partial.ids, whole.ids[:inside])


# --- where steps stay whole


def test_steps_in_flight_are_whole():
    with gpu():
        batch = drs.generate(toy(), QUICK, 64, batch_size=4096)
    assert int(batch.stats["calls"]) == 4096


def test_the_papers_adaption_takes_whole_batches():
    sampler = DRS(adapt="batch", burn_in=1000)
    whole = drs.generate(toy(), sampler, 1000, seed=1, batch_size=256)
    part = drs.generate(toy(), sampler, 10, seed=1, batch_size=256)
    assert torch.equal(part.ids, whole.ids[:10])
    assert int(part.stats["calls"]) == 256


def test_latents_are_not_drawn_in_vain(monkeypatch):
    drawn = []
    latents = lanes.ops.latents
    monkeypatch.setattr(
        lanes.ops, "latents", lambda gan, rng, n, **named: drawn.append(n) or latents(gan, rng, n)
    )
    drs.generate(toy(), OBRS(burn_in=100), 64)
    assert sum(drawn) == coupling.ROWS + 100 + 256
    drawn.clear()
    drs.generate(toy(), OBRS(burn_in=100), 50_000)
    assert len(drawn) < 10
    assert sum(drawn) < 450_000


# --- on disk: bytes are those of whole steps, but for a chunk that ends with the n-th sample


RARE = DRS(target_acceptance=0.01, burn_in=2048)


def save(out, n, sampler=QUICK, **settings):
    settings = {"seed": 8, "batch_size": 768, "chunk_rows": 1024, **settings}
    return drs.generate(labelled(), sampler, n, out=out, save=("x", "z", "logit"), **settings)


@pytest.mark.parametrize("hoping", [False, True])
def test_a_larger_n_goes_on_to_the_same_bytes(tmp_path, monkeypatch, hoping):
    if hoping:
        hopeful(monkeypatch)
    save(tmp_path / "direct", 1000)
    for n in (1, 64, 400, 410, 1000):
        save(tmp_path / "run", n)
    assert files(tmp_path / "run") == files(tmp_path / "direct")


@pytest.mark.parametrize("sampler", [QUICK, RARE])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path, monkeypatch, sampler):
    n = 60 if sampler is RARE else 1500
    direct = save(tmp_path / "direct", n, sampler)
    assert len(direct.counts) > 4
    append = store.Writer.append
    for chunk in range(len(direct.counts)):

        def killed(writer, number, *rest, chunk=chunk, **named):
            if number == chunk:
                raise OSError(28, "no space")
            append(writer, number, *rest, **named)

        with monkeypatch.context() as patch:
            patch.setattr(store.Writer, "append", killed)
            with pytest.raises(OSError, match="no space"):
                save(tmp_path / f"run {chunk}", n, sampler)
        save(tmp_path / f"run {chunk}", n, sampler)
        assert files(tmp_path / f"run {chunk}") == files(tmp_path / "direct")


@pytest.mark.parametrize("sampler", [QUICK, RARE])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_holes_are_filled_to_their_ends(tmp_path, monkeypatch, sampler, device):
    """Even where a chunk's last step has no sample, so that n is reached before it."""
    if device == "gpu":
        monkeypatch.setattr(Forecast, "few", lambda forecast, tried, again: forecast.step_rows)
    n = 120 if sampler is RARE else 900
    direct = save(tmp_path / "run", n, sampler)
    before = files(tmp_path / "run")
    last = [int(direct.ids[sum(direct.counts[: k + 1]) - 1]) for k in range(len(direct.counts))]
    if sampler is RARE:
        assert any(row % 1024 < 768 for row in last[:-1])
    for chunk in range(len(direct.counts)):
        (tmp_path / "run" / store.format.shard_name(chunk)).unlink()
        assert len(store.repair(tmp_path / "run")) == 1
        if device == "gpu":
            with gpu():
                save(tmp_path / "run", n, sampler)
        else:
            save(tmp_path / "run", n, sampler)
        assert files(tmp_path / "run") == before


@pytest.mark.parametrize("batch_size", [2, 16])
def test_a_generator_that_fits_few_samples_only(batch_size):
    seen = []

    def generator(z):
        seen.append(len(z))
        if len(z) > batch_size:
            raise torch.OutOfMemoryError(f"{len(z)} samples")
        return z

    gan = drs.GAN(generator, lambda x: x[:, 0] - 0.25 * x[:, 1].square(), 2)
    found = drs.generate(gan, DRS(burn_in=500), 100, seed=4, batch_size=batch_size)
    assert set(seen) == {batch_size}
    assert math.prod(found.x.shape) == 200
    assert equal(found, drs.generate(toy(), DRS(burn_in=500), 100, seed=4))
    batch = next(drs.stream(gan, DRS(burn_in=500), seed=4, batch_size=batch_size))
    assert torch.equal(batch.ids, found.ids[: int(batch.count)])
