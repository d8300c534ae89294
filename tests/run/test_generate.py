import dataclasses
import itertools
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import QUICK, Counted, Usage, columns, conditional, equal, files, toy

import drs_fast as drs
from benchmarks.common.by_hand import SPEC
from drs_fast import store
from drs_fast.doctor import coupling
from drs_fast.samplers.drs import DRS

MODELS = {
    "25gaussians": (lambda: drs.load("25gaussians"), 1500),
    "digits": (lambda: drs.load("digits"), 300),
    "conditional": (conditional, 2500),
}


# --- the same samples, however they are made


@pytest.fixture(scope="module")
def references():
    return {
        name: drs.generate(make(), QUICK, n, seed=11, batch_size=4096)
        for name, (make, n) in MODELS.items()
    }


@pytest.mark.parametrize("batch_size", [100, 256, 1000, 4096])
@pytest.mark.parametrize("model", MODELS)
def test_batch_size_changes_nothing(references, model, batch_size):
    make, n = MODELS[model]
    batch = drs.generate(make(), QUICK, n, seed=11, batch_size=batch_size)
    assert torch.equal(batch.ids, references[model].ids)
    assert equal(batch, references[model])  # G and D see blocks of 128 or a multiple of 256 rows


@pytest.mark.parametrize("batch_size", [1, 9])
@pytest.mark.parametrize("model", MODELS)
def test_a_small_batch_size_changes_roundings_only(references, model, batch_size):
    make, n = MODELS[model][0], 100
    batch = drs.generate(make(), QUICK, n, seed=11, batch_size=batch_size)
    assert torch.equal(batch.ids, references[model].ids[:n])
    assert torch.equal(batch.z, references[model].z[:n])
    assert torch.allclose(batch.logit, references[model].logit[:n], atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_what_a_batch_holds(references, model):
    make, n = MODELS[model]
    gan, batch = make(), references[model]
    assert int(batch.count) == n
    assert all(len(column) == n for column in columns(batch).values())
    assert (torch.diff(batch.ids, prepend=torch.tensor([-1])) > 0).all()
    rng = drs.Rng(11)
    assert torch.equal(batch.z, drs.ops.latents(gan, rng, n, ids=batch.ids))
    y = drs.ops.labels(gan, rng, n, ids=batch.ids)
    assert (y is None and batch.y is None) or torch.equal(y, batch.y)
    x, logit = gan.logits(batch.z, y)
    assert torch.allclose(x, batch.x, atol=1e-5)
    assert torch.allclose(logit, batch.logit, atol=1e-4)


def test_they_are_the_accepted_rows():
    gan, sampler, n = toy(), DRS(), 1000
    batch = drs.generate(gan, sampler, n, seed=2)
    state = sampler.init(gan, drs.Rng(2))
    rows = int(batch.ids[-1]) + 1
    logit = gan.logits(drs.ops.latents(gan, drs.Rng(2), rows))[1]
    kept = drs.ops.accept(logit, drs.Rng(2), log_m=state.log_m, gamma=state.gamma)
    assert torch.equal(batch.ids, kept.nonzero()[:, 0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("chunk_rows", "batch_size"), [(1024, 4096), (2048, 1000), (None, 256)])
def test_a_directory_holds_what_a_batch_does(references, tmp_path, model, chunk_rows, batch_size):
    make, n = MODELS[model]
    samples = drs.generate(
        make(), QUICK, n, seed=11, batch_size=batch_size,
        out=tmp_path / "run", save=("z", "logit", "x"), chunk_rows=chunk_rows,
    )  # fmt: skip
    assert len(samples) == n
    for name, rows in columns(references[model]).items():
        assert torch.equal(samples.column(name)[:], rows)
    assert samples.manifest["model"] == make().name
    assert store.verify(tmp_path / "run") == []


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch_size", [300, 4096])
def test_a_stream_gives_the_same_rows(references, model, batch_size):
    make, n = MODELS[model]
    batches, seen = [], 0
    for batch in drs.stream(make(), QUICK, seed=11, batch_size=batch_size):
        assert all(len(column) == int(batch.count) for column in columns(batch).values())
        batches.append(columns(batch))
        seen += int(batch.count)
        if seen >= n:
            break
    for name, rows in columns(references[model]).items():
        assert torch.equal(torch.cat([batch[name] for batch in batches])[:n], rows)


def test_a_smaller_n_is_the_beginning():
    whole = columns(drs.generate(toy(), DRS(), 700, seed=5))
    for n in (1, 2, 699):
        part = columns(drs.generate(toy(), DRS(), n, seed=5))
        assert all(torch.equal(part[name], whole[name][:n]) for name in whole)


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**32 + 1, 2**64 - 1])
def test_seeds(seed):
    batch = drs.generate(toy(), DRS(burn_in=500), 50, seed=seed)
    z = drs.ops.normal(drs.Rng(seed), 50, 2, ids=batch.ids)
    assert torch.equal(batch.z, z)


@pytest.mark.parametrize("backend", ["reference", None])
def test_backends_give_the_same_samples(backend):
    with drs.backend("cpu"):
        expected = drs.generate(conditional(), DRS(), 500, seed=3)
    with drs.backend(backend):
        assert equal(drs.generate(conditional(), DRS(), 500, seed=3), expected)


# --- few samples


@pytest.mark.parametrize("model", MODELS)
def test_no_samples(tmp_path, model):
    gan = MODELS[model][0]()
    batch = drs.generate(gan, QUICK, 0, batch_size=256)
    one = drs.generate(gan, QUICK, 1, batch_size=256)
    assert int(batch.count) == 0
    for name, rows in columns(one).items():
        assert columns(batch)[name].shape == (0, *rows.shape[1:])
        assert columns(batch)[name].dtype == rows.dtype
    samples = drs.generate(gan, QUICK, 0, batch_size=256, out=tmp_path / "run")
    assert len(samples) == 0
    assert samples.manifest["proposals"] == 0
    assert store.verify(tmp_path / "run") == []


def test_one_sample(tmp_path):
    batch = drs.generate(toy(), DRS(), 1, seed=4)
    samples = drs.generate(toy(), DRS(), 1, seed=4, out=tmp_path / "run")
    assert len(samples) == int(batch.count) == 1
    assert torch.equal(samples.x[:], batch.x)
    assert samples.manifest["proposals"] == int(batch.ids[0]) + 1


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    """250 samples in chunks of 256 rows, never interrupted."""
    path = tmp_path_factory.mktemp("direct") / "run"
    drs.generate(toy(), DRS(), 250, seed=8, out=path, chunk_rows=256)
    return path


@pytest.mark.parametrize("first", [0, 1, 100, 249])
def test_a_larger_n_goes_on(tmp_path, direct, first):
    for n in (first, 250):
        samples = drs.generate(toy(), DRS(), n, seed=8, out=tmp_path / "run", chunk_rows=256)
        assert len(samples) == n
    assert files(tmp_path / "run") == files(direct)


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("batch_size", [256, 4096])
def test_n_at_the_end_of_a_chunk(tmp_path, direct, chunks, batch_size):
    n = sum(drs.open(direct).counts[:chunks])
    samples = drs.generate(toy(), DRS(), n, seed=8, out=tmp_path / "run", chunk_rows=256)
    assert samples.counts == drs.open(direct).counts[:chunks]
    assert torch.equal(samples.ids[:], drs.open(direct).ids[:n])
    assert samples.manifest["proposals"] == int(samples.ids[-1]) + 1
    batch = drs.generate(toy(), DRS(), n, seed=8, batch_size=batch_size)
    assert torch.equal(batch.ids, samples.ids[:])


@pytest.mark.parametrize("chunks", [2, 3])
def test_a_larger_n_goes_on_from_the_end_of_a_chunk(tmp_path, direct, chunks):
    n = sum(drs.open(direct).counts[:chunks])
    for wanted in (n, 250):
        drs.generate(toy(), DRS(), wanted, seed=8, out=tmp_path / "run", chunk_rows=256)
    assert drs.open(tmp_path / "run").manifest == drs.open(direct).manifest
    assert files(tmp_path / "run") == files(direct)


def test_chunks_without_an_accepted_row(tmp_path):
    sampler = DRS(target_acceptance=2e-3)
    batch = drs.generate(toy(), sampler, 10, seed=1)
    samples = drs.generate(toy(), sampler, 10, seed=1, out=tmp_path / "run", chunk_rows=256)
    assert 0 in samples.counts
    assert torch.equal(samples.ids[:], batch.ids)
    assert samples.manifest["proposals"] == int(batch.ids[-1]) + 1


# --- what may not change in a directory


def test_a_smaller_n_is_refused(tmp_path, direct):
    run = shutil.copytree(direct, tmp_path / "run")
    with pytest.raises(store.Conflict, match="250 samples, got a request for 100"):
        drs.generate(toy(), DRS(), 100, seed=8, out=run, chunk_rows=256)
    assert files(run) == files(direct)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 9}, "seed: there 8, here 9"),
        ({"gan": drs.GAN(lambda z: z, lambda x: x[:, 0], 2)}, "model_sha256"),
        ({"sampler": DRS(gamma=0.5)}, "sampler"),
        ({"sampler": DRS(burn_in=9_999)}, "sampler"),
        ({"batch_size": 512}, "batch_size"),
        ({"chunk_rows": 512}, "chunk_rows"),
        ({"save": ("x",)}, "save"),
    ],
)
def test_another_run_is_refused(tmp_path, direct, change, key):
    run = shutil.copytree(direct, tmp_path / "run")
    settings = {"gan": toy(), "sampler": DRS(), "seed": 8, "chunk_rows": 256, **change}
    with pytest.raises(store.Conflict, match=key):
        drs.generate(n=250, out=run, **settings)
    assert files(run) == files(direct)


def test_the_same_run_is_not_made_again(direct):
    before = files(direct)
    times = {path.name: path.stat().st_mtime_ns for path in direct.iterdir()}
    drs.generate(toy(), DRS(), 250, seed=8, out=direct, chunk_rows=256)
    drs.generate(toy(), DRS(), 250, seed=8, out=direct)
    assert files(direct) == before
    assert times == {path.name: path.stat().st_mtime_ns for path in direct.iterdir()}


def test_weights_make_the_model(tmp_path):
    def make(scale):
        critic = torch.nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            critic.weight.fill_(scale)
        return drs.GAN(lambda z: z, critic, 2)

    drs.generate(make(1.0), DRS(), 20, out=tmp_path / "run")
    drs.generate(make(1.0), DRS(), 30, out=tmp_path / "run")
    with pytest.raises(store.Conflict, match="model_sha256"):
        drs.generate(make(2.0), DRS(), 40, out=tmp_path / "run")


def test_weights_in_a_wrapper_make_the_model(tmp_path):
    """The errors for dicts and patches advise a wrapper; its weights are the model's too."""

    def make(scale):
        critic = torch.nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            critic.weight.fill_(scale)
        return drs.GAN(lambda z: z, lambda x: critic(x).mean(dim=1), 2)

    drs.generate(make(1.0), DRS(), 20, out=tmp_path / "run")
    with pytest.raises(store.Conflict, match="model_sha256"):
        drs.generate(make(2.0), DRS(), 40, out=tmp_path / "run")


def test_another_writer(tmp_path, direct):
    run = shutil.copytree(direct, tmp_path / "run")
    spec = drs.open(run).manifest
    with (
        store.Writer.open(run, {key: spec[key] for key in SPEC}, 250),
        pytest.raises(store.Conflict, match="another process"),
    ):
        drs.generate(toy(), DRS(), 250, seed=8, out=run, chunk_rows=256)


def test_the_papers_adaption_is_not_resumed(tmp_path, monkeypatch):
    sampler, run = DRS(adapt="batch"), tmp_path / "run"
    append = store.Writer.append

    def killed(writer, chunk, *rest, **named):
        append(writer, chunk, *rest, **named)
        if chunk == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.Writer, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            drs.generate(toy(), sampler, 500, out=run, chunk_rows=256)
    with pytest.raises(store.Conflict, match=r"adapt='batch'.*cannot be resumed"):
        drs.generate(toy(), sampler, 500, out=run, chunk_rows=256)


def test_the_papers_adaption_in_one_go(tmp_path):
    sampler = DRS(adapt="batch")
    batch = drs.generate(toy(), sampler, 500, seed=1, batch_size=256)
    samples = drs.generate(
        toy(), sampler, 500, seed=1, batch_size=256, out=tmp_path / "run", chunk_rows=1024
    )
    assert torch.equal(samples.ids[:], batch.ids)
    drs.generate(toy(), sampler, 500, seed=1, batch_size=256, out=tmp_path / "run")
    with pytest.raises(store.Conflict, match="adapt"):
        drs.generate(toy(), sampler, 600, seed=1, batch_size=256, out=tmp_path / "run")


# --- what is counted, and what is saved


def test_calls_and_proposals(tmp_path):
    gan = toy()
    gan.generator = Counted(gan.generator)
    samples = drs.generate(
        gan, DRS(burn_in=1000), 777, seed=6, out=tmp_path / "run", batch_size=256, chunk_rows=2048
    )
    facts = samples.manifest
    burn_in, probe = 1024, 2 * 128  # padded: twice for the manifest, which tells the shape of a row
    calls = gan.generator.rows - burn_in - probe - 2 * coupling.ROWS
    assert facts["proposals"] == int(samples.ids[-1]) + 1
    assert facts["calls_per_sample"] == calls / 777
    assert facts["calls_total"] == calls + 1000
    assert facts["proposals"] <= calls < facts["proposals"] + 256


@pytest.mark.parametrize(
    "key",
    ["version", "rng_version", "model", "model_sha256", "sampler", "seed", "n", "proposals",
     "log_m", "gamma", "eps", "batch_size", "chunk_rows", "calls_per_sample", "calls_total"],
)  # fmt: skip
@pytest.mark.parametrize("make", [toy, conditional])
def test_manifest_keys(tmp_path, key, make):
    samples = drs.generate(make(), DRS(burn_in=600), 5, out=tmp_path / "run")
    assert samples.manifest[key] is not None
    if key in ("log_m", "gamma"):
        assert samples.manifest[key] == samples.state[key].tolist()


def test_the_manifest_names_no_place_or_time(tmp_path):
    manifests = []
    for name in ("one", "another"):
        drs.generate(toy(), DRS(), 5, out=tmp_path / name)
        manifests.append((tmp_path / name / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    assert str(tmp_path).encode() not in manifests[0]


def test_logits_above_a_frozen_log_m_are_counted(tmp_path):
    gan, sampler = toy(), DRS(log_m=0.5, gamma=2.0)
    samples = drs.generate(
        gan, sampler, 800, seed=3, out=tmp_path / "run", batch_size=256, chunk_rows=512
    )
    tried = round(samples.manifest["calls_per_sample"] * 800)
    logit = gan.logits(drs.ops.latents(gan, drs.Rng(3), tried))[1]
    above = int((logit > 0.5).sum())
    assert above > 0
    assert samples.manifest["above"] == above
    assert int(drs.generate(gan, sampler, 800, seed=3, batch_size=256).stats["above"]) == above


@pytest.mark.parametrize(
    ("save", "kept"),
    [
        ((), []),
        ("", []),
        (("ids",), []),
        (("x",), ["x"]),
        (("logit", "x", "logit"), ["x", "logit"]),
        (["z"], ["z"]),
        ("z,x", ["x", "z"]),
        (("x", "z", "logit", "ids"), ["x", "z", "logit"]),
    ],
)
@pytest.mark.parametrize("make", [toy, conditional])
def test_what_is_saved(tmp_path, save, kept, make):
    samples = drs.generate(make(), DRS(burn_in=600), 30, out=tmp_path / "run", save=save)
    batch = columns(drs.generate(make(), DRS(burn_in=600), 30))
    expected = {"ids", *kept} | ({"y"} if make is conditional else set())
    assert set(samples.columns) == expected
    for name in expected:
        assert torch.equal(samples.column(name)[:], batch[name])


@pytest.mark.parametrize("save", [("pixels",), "x,pixels", ("y",)])
def test_what_cannot_be_saved(tmp_path, save):
    with pytest.raises(ValueError, match="save must be of x, z, logit"):
        drs.generate(toy(), DRS(), 5, out=tmp_path / "run", save=save)
    assert not (tmp_path / "run").exists()


def test_space_is_checked_before_the_run(tmp_path, monkeypatch):
    gan = toy()
    gan.generator = Counted(gan.generator)
    n, row = 10**6, 8 + 8 + 4
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, n * row))
    with pytest.raises(OSError, match=r"1,000,000 samples need .* are free") as error:
        drs.generate(gan, DRS(), n, out=tmp_path / "run")
    assert error.value.filename == str(tmp_path / "run")
    assert gan.generator.rows <= 4096  # the probe that knows the size of a sample
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 50 * row + 2**20))
    assert len(drs.generate(gan, DRS(), 50, out=tmp_path / "run")) == 50


# --- starvation and bad logits


def test_patience_ends_a_run_without_samples():
    with pytest.raises(drs.Starvation) as error:
        drs.generate(toy(), DRS(gamma=600.0, log_m=50.0), 10, patience=20_000)
    message = str(error.value)
    assert "none of the last 20,480 proposals was accepted" in message
    assert "half below" in message
    assert "log_m = 50" in message
    assert all(f"\n  {number}. " in message for number in (1, 2, 3))
    assert int(error.value.partial.count) == 0
    assert error.value.partial.x.shape == (0, 2)


def test_patience_is_about_rows_in_a_row():
    sampler = DRS(target_acceptance=1e-3)
    batch = drs.generate(toy(), sampler, 30, seed=1, batch_size=256, patience=20_000)
    gap = int(torch.diff(batch.ids, prepend=torch.tensor([-1])).max())
    with pytest.raises(drs.Starvation) as error:
        drs.generate(toy(), sampler, 30, seed=1, batch_size=256, patience=gap // 2)
    partial = error.value.partial
    assert 0 <= int(partial.count) < 30
    assert torch.equal(partial.ids, batch.ids[: int(partial.count)])


@pytest.mark.parametrize("where", ["memory", "directory", "stream"])
def test_starving_never_ends_in_an_endless_loop(tmp_path, where):
    with pytest.raises(drs.Starvation, match="Remedies"):
        made(where, toy(), DRS(gamma=600.0, log_m=50.0), tmp_path)


def made(where, gan, sampler, directory):
    if where == "stream":
        list(itertools.islice(drs.stream(gan, sampler, patience=10_000), 1000))
    else:
        out = None if where == "memory" else directory / "run"
        drs.generate(gan, sampler, 5, patience=10_000, out=out, chunk_rows=256)


def test_a_starved_run_goes_on(tmp_path):
    whole = drs.generate(toy(), DRS(), 2000, seed=1, out=tmp_path / "whole", chunk_rows=256)
    with pytest.raises(drs.Starvation, match="samples after max_proposals=2,048"):
        drs.generate(
            toy(), DRS(), 2000, seed=1, out=tmp_path / "run", chunk_rows=256, max_proposals=2048
        )
    partial = drs.open(tmp_path / "run")
    assert 0 < len(partial) < 2000
    assert torch.equal(partial.ids[:], whole.ids[: len(partial)])
    drs.generate(toy(), DRS(), 2000, seed=1, out=tmp_path / "run", chunk_rows=256)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


@pytest.mark.parametrize("batch_size", [256, 4096])
def test_max_proposals(batch_size):
    """As many samples as the first max_proposals rows hold, whatever the batch size."""
    whole = drs.generate(toy(), DRS(), 1000, seed=1)
    inside = int((whole.ids < 2048).sum())
    named = {"seed": 1, "batch_size": batch_size, "max_proposals": 2048}
    assert int(drs.generate(toy(), DRS(), inside, **named).count) == inside
    with pytest.raises(drs.Starvation, match=f"{inside} samples after max_proposals=2,048") as e:
        drs.generate(toy(), DRS(), inside + 1, **named)
    assert torch.equal(e.value.partial.ids, whole.ids[:inside])


@pytest.mark.parametrize("value", [-math.inf, math.nan, math.inf])
@pytest.mark.parametrize("where", ["memory", "directory", "stream"])
def test_a_constant_that_is_no_number_stops(tmp_path, value, where):
    gan = drs.GAN(lambda z: z, lambda x: torch.full((len(x),), value), 2)
    with pytest.raises(drs.BadLogits):
        made(where, gan, DRS(), tmp_path)


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_a_constant_that_comes_after_burn_in_stops(value):
    class Breaks:
        calls = 0

        def __call__(self, x):
            self.calls += 1
            return x[:, 0] if self.calls <= 3 else torch.full((len(x),), value)

    error = drs.Starvation if value == -math.inf else drs.BadLogits
    with pytest.raises(error):
        drs.generate(drs.GAN(lambda z: z, Breaks(), 2), DRS(), 5, patience=10_000)


def test_equal_logits_are_samples():
    gan = drs.GAN(lambda z: z, lambda x: torch.full((len(x),), 3.0), 2)
    assert int(drs.generate(gan, DRS(), 500).count) == 500


class Faulty:
    """One logit in `every` of the run's rows is bad; those of burn-in are clean."""

    def __init__(self, every, bad):
        self.every, self.bad = every, bad
        self.row = -10_240 - 2 * coupling.ROWS

    def __call__(self, x):
        logit = x[:, 0].clone()
        rows = torch.arange(self.row, self.row + len(x))
        self.row += len(x)
        logit[(rows >= 0) & (rows % self.every == self.every - 1)] = self.bad
        return logit


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_logit_in_10_000_is_counted(bad):
    batch = drs.generate(drs.GAN(lambda z: z, Faulty(10_000, bad), 2), DRS(), 10_000, seed=1)
    clean = drs.generate(drs.GAN(lambda z: z, lambda x: x[:, 0], 2), DRS(), 10_000, seed=1)
    assert int(batch.stats["invalid"]) == int(batch.stats["calls"]) // 10_000 > 0
    assert torch.isfinite(batch.logit).all()
    assert not (batch.ids % 10_000 == 9_999).any()
    rest = clean.ids[clean.ids % 10_000 != 9_999]
    assert torch.equal(batch.ids[: len(rest)], rest[:10_000])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_logit_in_1_000_stops(tmp_path, bad):
    for out in (None, tmp_path / "run"):
        gan = drs.GAN(lambda z: z, Faulty(1_000, bad), 2)
        with pytest.raises(drs.BadLogits, match=r"logits are NaN or \+inf, more than 0.01"):
            drs.generate(gan, DRS(), 10_000, out=out)


def test_bad_logits_are_counted_in_the_manifest(tmp_path):
    gan = drs.GAN(lambda z: z, Faulty(10_000, math.nan), 2)
    samples = drs.generate(gan, DRS(), 8_000, out=tmp_path / "run", chunk_rows=4096)
    assert samples.manifest["invalid"] == samples.manifest["proposals"] // 10_000 > 0


# --- wrong arguments


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gan": "25gaussians"}, "gan must be a drs.GAN, got str; use drs.load"),
        ({"gan": torch.nn.Linear(2, 1)}, "gan must be a drs.GAN, got Linear"),
        ({"sampler": DRS}, r"instance, such as drs\.samplers\.DRS\(\)"),
        ({"sampler": "drs"}, r"instance, such as drs\.samplers\.DRS\(\)"),
        ({"n": -1}, "n must be an integer >= 0"),
        ({"n": 2.5}, "n must be"),
        ({"n": True}, "n must be"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"max_proposals": 0}, "max_proposals"),
        ({"patience": 0}, "patience"),
        ({"chunk_rows": 0}, "chunk_rows"),
        ({"chunk_rows": 300}, "chunk_rows must be a power of two, such as 512"),
        ({"device": "nowhere"}, "device"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, change, words):
    settings = {"gan": toy(), "sampler": DRS(), "n": 5, "out": tmp_path / "run", **change}
    if "device" in change:
        settings["gan"] = drs.load("25gaussians")
    with pytest.raises((ValueError, RuntimeError), match=words):
        drs.generate(**settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@dataclasses.dataclass(frozen=True)
class Own(DRS):
    extra: object = None


@pytest.mark.parametrize(
    "value",
    [np.int64(3), torch.ones(2), Path("a"), 1j, object()],
    ids=lambda value: type(value).__name__,
)
def test_a_field_that_a_manifest_cannot_hold_is_named(tmp_path, value):
    message = r"^extra of Own must be a number, a string, .* in __post_init__$"
    with pytest.raises(ValueError, match=message):
        drs.generate(toy(), Own(burn_in=1024, extra=value), 10, out=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert drs.generate(toy(), Own(burn_in=1024, extra=value), 10).count == 10
    plain = Own(burn_in=1024, extra=[1, {"a": (0.5, None)}])
    assert len(drs.generate(toy(), plain, 10, out=tmp_path)) == 10
    assert len(drs.generate(toy(), plain, 20, out=tmp_path)) == 20


def test_a_device_that_is_not_there():
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)cuda"):
        drs.generate(drs.load("25gaussians"), DRS(), 5, device="cuda")


# --- memory

PEAK = """
import resource, sys
import torch
import drs_fast as drs
torch.set_num_threads(1)
gan = drs.load("25gaussians") if sys.argv[3] == "25gaussians" else drs.GAN(
    lambda z: z, lambda x: x[:, 0], 2)
drs.generate(gan, drs.samplers.DRS(), int(sys.argv[1]), out=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(model, n, out):
    command = [sys.executable, "-c", PEAK, str(n), str(out), model]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    return int(done.stdout)


@pytest.mark.parametrize(
    "model",
    ["toy", pytest.param("25gaussians", marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_memory_does_not_grow_with_n(tmp_path, model):
    few, many = (peak(model, n, tmp_path / "run") for n in (200_000, 2_000_000))
    assert many < 1.1 * few


def test_batches_hold_no_more_than_their_samples():
    """A run keeps the accepted rows of a chunk, not the proposals that they came from."""
    batch = next(drs.stream(toy(), DRS(target_acceptance=0.01), batch_size=4096))
    for rows in columns(batch).values():
        assert rows.untyped_storage().nbytes() <= 2 * max(rows.nbytes, 512)
