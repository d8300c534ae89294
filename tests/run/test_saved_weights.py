"""Weights of runs on disk: the bits of those in memory, and clear errors where there are none."""

import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from every_sampler import smooth
from planted_bounds import forced
from runs import scaled
from tilted import tilted, tilted_classes

import drs_fast as drs
from drs_fast import samplers
from drs_fast.core import Batch, OutOfTime, Sampler
from drs_fast.core.sampler import Thresholds
from drs_fast.run import weighed
from drs_fast.samplers import DRS, OBRS
from drs_fast.squeeze import search
from drs_fast.squeeze.bounds import latent
from drs_fast.store import Conflict, Corrupt
from drs_fast.store.format import sealed

WITHIN = DRS(classes="within")


def saved(gan, sampler, out, n=2000, **options):
    return drs.generate(gan, sampler, n, out=out, chunk_rows=1024, **options)


@pytest.mark.parametrize(
    ("make", "sampler"),
    [
        (tilted, DRS()),
        (tilted_classes, WITHIN),
        (tilted_classes, OBRS(budget=0.3, classes="within")),
        (scaled, WITHIN),
        (scaled, OBRS(budget=0.3, classes="within")),
    ],
)
def test_weights_on_disk_have_the_bits_of_those_in_memory(make, sampler, tmp_path):
    gan = make(block=256) if make is not scaled else scaled()
    batch = drs.generate(gan, sampler, 2000)
    run = saved(gan, sampler, tmp_path / "run")
    assert torch.equal(run.weight[:], batch.weight)
    for name in ("effective_samples", "largest_weight", "above_weight", "tail_index"):
        assert run.manifest[name] == float(batch.stats[name])


def test_weights_of_squeezed_classes_are_kept_where_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "ROWS", (1024, 2048))
    monkeypatch.setattr(latent, "EPOCHS", 4)
    gan, sampler = tilted_classes(block=256), drs.Squeeze(WITHIN, tolerance=0.9)
    state = forced(gan, WITHIN, cascade=True, margin=-3.0)
    monkeypatch.setattr(drs.Squeeze, "init", lambda *_: state)
    for n in (700, 2000):
        run = saved(gan, sampler, tmp_path / "run", n, save=("weight",))
        batch = drs.generate(gan, sampler, n)
        assert torch.equal(run.weight[:], batch.weight)
        # Audited rows stand for more than the logit tells.
        assert not torch.equal(run.weight[:], drs.generate(gan, WITHIN, n).weight)
    assert run.columns == ("ids", "logit", "y", "weight")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_runs_of_samples_of_any_dtype_go_on(dtype, tmp_path):
    gan = drs.GAN(lambda z: z.clamp(0, 3).to(dtype), lambda x: x[:, 0].float(), 2, block=256)
    for n in (500, 900, 900):
        run = saved(gan, DRS(), tmp_path / "run", n)
    assert run.x.dtype == dtype
    assert torch.equal(run.x[:], drs.generate(gan, DRS(), 900).x)


def test_a_run_that_was_interrupted_has_the_weights_of_its_samples(tmp_path):
    gan, out, parts = tilted_classes(block=256), tmp_path / "run", []
    for _ in range(3):
        with pytest.raises(OutOfTime):
            saved(gan, WITHIN, out, max_seconds=1e-9)
        parts.append(drs.open(out))
    weight = parts[-1].weight[:]
    assert 0 < len(weight) < 2000
    assert "effective_samples" not in parts[-1].manifest
    whole = saved(gan, WITHIN, out)
    assert torch.equal(whole.weight[:], drs.generate(gan, WITHIN, 2000).weight)
    # A class that has no sample yet weighs nothing; within the others, only a factor differs.
    y, other = parts[-1].y[:], whole.weight[: len(weight)]
    for k in y.unique():
        ratio = other[y == k] / weight[y == k]
        assert torch.allclose(ratio, ratio[:1], rtol=1e-12, atol=0.0)


def rewritten(run, without=(), **changes):
    """The run with another manifest."""
    facts = {**run.manifest, **changes}
    facts = {key: value for key, value in facts.items() if key not in ("crc32", *without)}
    (run.path / "manifest.json").write_bytes(sealed(facts, indent=2))
    return drs.open(run.path)


def test_a_run_of_an_earlier_version_says_that_it_has_no_weights(tmp_path):
    run = saved(tilted(block=256), DRS(), tmp_path / "run", 100)
    run = rewritten(run, without=("weighing",), version="0.0.9")
    with pytest.raises(ValueError, match=r"version 0\.0\.9, which did not say how samples are wei"):
        run.weight  # noqa: B018
    assert len(run[3]) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weighing": "odd"}, "weighing must be one of"),
        ({"log_m": [1.0, 2.0]}, "rest on log_m"),
        ({"log_m": [1.0] * 4}, "rest on log_m"),
        ({"without": ("proposed",)}, "rest on proposed.*None"),
        ({"gamma": 1.0}, "log_m and gamma"),
    ],
)
def test_manifests_that_do_not_tell_weights(changes, words, tmp_path):
    run = rewritten(saved(tilted_classes(block=256), WITHIN, tmp_path / "run", 100), **changes)
    with pytest.raises(Corrupt, match=words):
        run.weight  # noqa: B018


@dataclass(frozen=True)
class Everything(Sampler):
    """Keeps all, and says something of weights."""

    says: str = "unknown"
    law: ClassVar[str] = "the generator"

    @property
    def weighs(self):
        return self.says

    def init(self, gan, rng):
        return self.State()

    def step(self, gan, state, z, y, rng):
        x, logit = gan.logits(z, y)
        ids = torch.arange(len(z)) + rng.row
        return state, Batch(x, z, y, logit, ids, torch.tensor(len(z)), stats={})


@pytest.mark.parametrize(
    ("says", "error", "words"),
    [
        ("unknown", ValueError, "Everything has no weights here.*the generator.*these have: .*DRS"),
        ("logit", NotImplementedError, "Everything has weighs='logit', which needs `thresholds`"),
        ("odd", ValueError, r"weighs must be one of \('unknown', .*got 'odd'"),
    ],
)
def test_samplers_without_weights(says, error, words, tmp_path):
    with pytest.raises(error, match=words):
        drs.generate(tilted(), Everything(says), 10).weight  # noqa: B018
    with pytest.raises(error, match=words):
        drs.generate(tilted(), Everything(says), 10, out=tmp_path, save=("weight",))


@pytest.mark.parametrize("chunk_rows", [1024, 2**14])
def test_a_run_opened_before_it_was_extended_has_its_weights(chunk_rows, tmp_path):
    out, gan = tmp_path / "run", tilted(block=256)
    batch = drs.generate(gan, DRS(), 700)
    drs.generate(gan, DRS(), 700, out=out, chunk_rows=chunk_rows)
    before = drs.open(out)
    drs.generate(gan, DRS(), 2000, out=out, chunk_rows=chunk_rows)
    assert torch.equal(before.weight[:], batch.weight)
    assert torch.equal(before.ids[:], batch.ids)
    assert weighed.worth_of(before)["effective_samples"] == batch.stats["effective_samples"]


@pytest.mark.parametrize("chunk_rows", [1024, 2**14])
@pytest.mark.parametrize("column", ["ids", "x", "logit", "y", "weight"])
def test_classes_that_have_other_samples_since_are_said(column, chunk_rows, tmp_path):
    out, gan = tmp_path / "run", tilted_classes(block=256)
    drs.generate(gan, WITHIN, 700, out=out, chunk_rows=chunk_rows)
    before = drs.open(out)
    drs.generate(gan, WITHIN, 2000, out=out, chunk_rows=chunk_rows)
    with pytest.raises(Conflict, match="opened before it was extended from 700 to 2,000 samples, "):
        getattr(before, column)[:]
    assert len(getattr(drs.open(out), column)[:]) == 2000


def test_a_run_opened_before_its_burn_in_ended_says_so(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(DRS, "init", interrupted)
        with pytest.raises(KeyboardInterrupt):
            saved(tilted(block=256), DRS(), out, 700)
    before = drs.open(out)
    saved(tilted(block=256), DRS(), out, 700)
    for column in ("state", "weight"):
        with pytest.raises(Conflict, match=r"opened before its burn-in ended.*open it again"):
            getattr(before, column)
    assert len(drs.open(out).weight) == 700


def interrupted(*given):
    raise KeyboardInterrupt


def test_columns_say_what_they_are(tmp_path):
    run = saved(tilted(block=256), DRS(), tmp_path / "run", 700)
    assert repr(run.x) == f"<x of {run.path}: (700, 1) torch.float32, lazy>"
    assert repr(run.weight) == f"<weight of {run.path}: (700,) torch.float64, lazy>"


@dataclass(frozen=True)
class Thresholded(Everything):
    """Says what it accepts by, but its batches have no weights."""

    says: str = "batch"

    def thresholds(self, gan, state):
        return Thresholds(*torch.zeros(2).double(), 0.0)


@pytest.mark.parametrize("save", [None, ("x",), ("weight",)])
def test_batches_without_the_weights_that_a_sampler_promises(save, tmp_path):
    where = {} if save is None else {"out": tmp_path / "run", "save": save}
    with pytest.raises(ValueError, match=r"Thresholded has weighs='batch', .*Batch\(.*weigh="):
        drs.generate(tilted(), Thresholded(), 10, **where)


@pytest.mark.parametrize(
    "sampler", [samplers.DOT(), samplers.SIR(replace=False), DRS(adapt="batch")]
)
def test_nothing_is_computed_for_weights_that_cannot_be_saved(sampler, tmp_path):
    with pytest.raises(ValueError, match=f"{type(sampler).__name__} has no weights here"):
        drs.generate(smooth(), sampler, 10, out=tmp_path / "run", save=("weight",))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_run_is_worth_leaves_no_shard_open(tmp_path):
    run = drs.generate(tilted(), DRS(), 2000, out=tmp_path / "run", chunk_rows=256)
    assert len(run.counts) > 3
    assert weighed.worth_of(run)["effective_samples"] == run.manifest["effective_samples"]
    with open("/proc/self/maps") as maps:
        assert f"{run.path}/chunk-" not in maps.read()
