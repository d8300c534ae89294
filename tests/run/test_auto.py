"""tune="auto": what is tried, for how long, what is kept, and that the bytes come again.

The clock is a fake: it goes on by what each call of G is said to cost.
"""

import contextvars
import functools
import json

import pytest
import torch
from runs import equal, files, toy

import drs_fast as drs
from drs_fast import store
from drs_fast.cli import main as cli
from drs_fast.run import auto, clock, saving
from drs_fast.run.options import Options
from drs_fast.run.schedule import Run
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH
from drs_fast.tune import tuning

QUICK = DRS(burn_in=512)
MANY = 10**7  # samples, so that there is time for everything
TIME = contextvars.ContextVar("time", default=0.0)  # of which the model's sha256 knows nothing


def now():
    return TIME.get()


def costing(row=1e-4, call=0.0, square=0.0):
    """Seconds for each row, for each call, and for the square of its rows."""

    def generator(z):
        TIME.set(TIME.get() + len(z) * row + call + square * len(z) ** 2)
        return z

    return drs.GAN(generator, lambda x: x[:, 0], 2)


def variant(share, gan):
    """A variant in which G costs this share, and that shows in the samples."""

    def changed(function):
        def run(z):
            before = TIME.get()
            found = function(z)
            TIME.set(before + (TIME.get() - before) * share)
            return found + 2.0**-10

        return run

    return gan.changed(lambda f: f if f is gan.discriminator else changed(f))


def changing(gan):
    return gan.changed(lambda f: lambda x: 2.0 * f(x))


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    """Two variants that are faster together than either alone, one that is slow, one refused."""
    TIME.set(0.0)
    monkeypatch.setattr(clock, "now", now)
    variants = {
        "half": functools.partial(variant, 0.5),
        "third": functools.partial(variant, 2 / 3),
        "slow": functools.partial(variant, 3.0),
        "changing": changing,
    }
    monkeypatch.setattr(tuning, "VARIANTS", variants)


def searched(gan, sampler=QUICK, *, n=MANY, **settings):
    settings = {"batch_size": 256, "progress": True} | settings
    return auto.settled(Run(gan, sampler, n, Options(**settings)), None)


def test_the_fastest_combination_is_kept(capsys):
    options = searched(costing())
    assert options.tune == ("half", "third")
    assert options.batch_size == 256  # no other was faster
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tune: none in batches of 256: 10,000 rows/s, 1.00"
    assert lines[1] == "tune: half in batches of 256: 20,000 rows/s, 2.00"
    assert "tune: half,third in batches of 256: 30,000 rows/s, 3.00" in lines
    assert any(line.startswith("tune: changing in batches of 256 refused: tune=('changing',) must")
               for line in lines)  # fmt: skip
    assert not any("changing" in line and "," in line.split(" in ")[0] for line in lines)
    assert lines[-1].startswith("tune: kept half,third in batches of 256 (")
    assert len({line.split(":")[1] for line in lines}) == len(lines)


def test_another_batch_size_may_be_kept():
    assert searched(costing(call=0.1)).batch_size == 1024
    assert searched(costing(square=1e-6), batch_size=1024).batch_size == 512
    # The samples of this one depend on the size.
    sampler = DRS(burn_in=512, adapt="batch")
    assert searched(costing(square=1e-6), sampler, batch_size=1024).batch_size == 1024


def test_what_is_not_clearly_faster_is_not_kept(monkeypatch):
    monkeypatch.setattr(tuning, "VARIANTS", {"some": functools.partial(variant, 0.98)})
    assert searched(costing()).tune == ()


@pytest.mark.parametrize("n", [100, 30_000, 300_000, 10**7, 10**9, None])
@pytest.mark.parametrize(("sampler", "rows"), [(QUICK, 6), (MH(chain_length=16), 16)])
def test_the_time_is_limited(n, sampler, rows, capsys):
    """rows: at least those that a sample takes."""
    searched(costing(), sampler, n=n)
    pilot = (128 + 256) * 1e-4
    limit = 60.0 if n is None else min(60.0, 0.05 * n * rows * 1e-4)
    assert now() <= max(1.001 * pilot, limit)
    err = capsys.readouterr().err
    assert ("nothing was tried" in err) == (n == 100 or (n == 30_000 and sampler == QUICK))
    assert ("no time for" in err) == (n == (300_000 if sampler == QUICK else 30_000))
    everything = "nothing was tried" not in err and "no time for" not in err
    assert ("half,third,slow in batches of 1,024" in err) == everything


@pytest.mark.parametrize("n", [10**9, None])
def test_a_long_run_is_tuned_for_a_minute(n):
    searched(costing(row=1e-2), n=n)
    assert 30.0 < now() <= 60.0


def test_max_seconds_limits_it_too():
    searched(costing(), max_seconds=40.0)
    assert now() <= 2.0


def test_compiling_begins_only_if_it_may_end(monkeypatch):
    def compiled(gan):
        TIME.set(TIME.get() + 40.0)
        return variant(0.1, gan)

    monkeypatch.setattr(tuning, "VARIANTS", {"half": tuning.VARIANTS["half"], "compile": compiled})
    assert searched(costing(), n=10**6).tune == ("half",)
    assert now() < 30.0
    # The fastest is compiled first; there is no time to compile another after that.
    TIME.set(0.0)
    assert searched(costing()).tune == ("half", "compile")
    assert 40.0 < now() < 60.0


def test_out_of_memory_is_a_refusal(capsys):
    def generator(z):
        TIME.set(TIME.get() + len(z) * 1e-4)
        if len(z) > 256:
            raise torch.OutOfMemoryError("no room")
        return z

    options = searched(drs.GAN(generator, lambda x: x[:, 0], 2))
    assert (options.tune, options.batch_size) == (("half", "third"), 256)
    refused = "none in batches of 512 refused: generator ran out of memory on (512, 2) float32"
    assert refused in capsys.readouterr().err


def test_a_batch_that_changes_logits_is_refused(capsys):
    """A discriminator that looks at its whole batch is another one in another batch."""

    gan = costing(call=0.1).judged(lambda x: x[:, 0] + (len(x) > 256))
    assert searched(gan).batch_size == 256
    assert (
        "none in batches of 512 refused: another batch size must not change logits"
        in capsys.readouterr().err
    )


def test_logits_that_are_never_the_same_are_not_tuned(capsys):
    gan = costing().judged(lambda x: x[:, 0] + 10.0 * torch.rand(()))
    gan.noise = "own"
    assert searched(gan).tune == ()
    assert capsys.readouterr().err.splitlines()[-1] == "tune: kept none in batches of 256"


def test_functions_are_refused_and_the_run_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(tuning, "VARIANTS", {"channels_last": tuning.channels_last})
    assert searched(costing()).tune == ()
    assert "channels_last in batches of 256 refused: " in capsys.readouterr().err


def test_an_error_of_the_model_is_not_one_of_tuning():
    gan = drs.GAN(lambda z: z, lambda x: x[:, 7], 2)
    with pytest.raises(ValueError, match="discriminator failed on"):
        drs.generate(gan, QUICK, 10, tune="auto")


# --- what is kept, and that it comes again


def test_the_bytes_are_those_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "SHARE", 1e4)
    settings = {"batch_size": 256, "chunk_rows": 256}
    first = drs.generate(costing(), QUICK, 300, out=tmp_path / "a", tune="auto", **settings)
    kept = first.manifest
    assert kept["tune"] == kept["tuned"] == ["half", "third"]
    assert kept["batch_size"] == 256
    named = {"tune": tuple(kept["tune"])}
    drs.generate(costing(), QUICK, 300, out=tmp_path / "b", **settings, **named)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    batch = drs.generate(costing(), QUICK, 300, tune="auto", batch_size=256)
    assert equal(batch, drs.generate(costing(), QUICK, 300, batch_size=256, **named))


def test_a_run_goes_on_with_what_it_kept(tmp_path, monkeypatch):
    later = costing(call=0.1)
    monkeypatch.setattr(auto, "SHARE", 1e4)
    settings = {"out": tmp_path / "run", "chunk_rows": 256, "tune": "auto"}
    drs.generate(later, QUICK, 300, batch_size=256, **settings)
    monkeypatch.setattr(auto, "Search", None)  # nothing is timed any more
    samples = drs.generate(later, QUICK, 600, batch_size=256, **settings)
    drs.generate(later, QUICK, 600, **settings)
    assert (samples.manifest["batch_size"], samples.manifest["tune"]) == (1024, ["half", "third"])
    named = {"tune": ("half", "third"), "batch_size": 1024, "chunk_rows": 256}
    drs.generate(later, QUICK, 600, out=tmp_path / "named", **named)
    assert files(samples.path) == files(tmp_path / "named")


def test_a_run_that_was_killed_goes_on_with_what_it_kept(tmp_path, monkeypatch):
    """In burn-in, when the manifest says no more than what was asked for."""
    monkeypatch.setattr(auto, "SHARE", 1e4)
    settings = {"out": tmp_path / "run", "batch_size": 256, "tune": "auto"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "begin", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            drs.generate(costing(), QUICK, 300, **settings)
    monkeypatch.setattr(auto, "Search", None)
    assert drs.generate(costing(), QUICK, 300, **settings).manifest["tune"] == ["half", "third"]


def test_a_repaired_run_goes_on_with_what_it_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "SHARE", 1e4)
    settings = {"out": tmp_path / "run", "batch_size": 256, "tune": "auto"}
    drs.generate(costing(), QUICK, 300, **settings)
    before = files(tmp_path / "run")
    (tmp_path / "run" / "state.safetensors").write_bytes(b"")
    store.repair(tmp_path / "run")
    monkeypatch.setattr(auto, "Search", None)
    drs.generate(costing(), QUICK, 300, **settings)
    assert files(tmp_path / "run") == before


def test_nothing_is_timed_where_there_are_other_files(tmp_path, monkeypatch):
    (tmp_path / "letter").write_text("")
    monkeypatch.setattr(auto, "Search", None)
    with pytest.raises(store.Conflict, match="holds other files"):
        drs.generate(toy(), QUICK, 300, out=tmp_path, tune="auto")


def test_a_stream_is_tuned():
    batch = next(drs.stream(costing(), QUICK, batch_size=256, tune="auto"))
    assert torch.equal(batch.x, batch.z + 2.0**-9)


def test_auto_stands_alone():
    assert Options(tune="auto").tune == Options(tune=("auto",)).tune == ("auto",)
    with pytest.raises(ValueError, match="tune must be auto, or from half, third"):
        Options(tune=("auto", "half"))


MODEL = """
import torch
import drs_fast as drs

def make():
    return drs.GAN(lambda z: z, lambda x: x[:, 0], 2)
"""


def test_by_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saving, "CHUNK_ROWS", 256)
    (tmp_path / "model_to_tune.py").write_text(MODEL)
    model, out = f"{tmp_path / 'model_to_tune.py'}:make", tmp_path / "run"
    command = ["generate", model, "-n", "50", "--out", str(out), "--tune", "auto"]
    assert cli.main([*command, "--burn-in", "500"]) == 0
    said = capsys.readouterr().err
    assert "tune: kept none in batches of 4,096; nothing was tried, because " in said
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["tune"], manifest["batch_size"]) == ([], 4096)
