"""PyTorch's global settings, which a user's program may have changed, change no sample."""

import contextlib
import functools
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from every_sampler import NAMES, quick, smooth
from runs import same_files

import drs_fast as drs
from drs_fast import ops, store
from drs_fast.backends import reference
from drs_fast.doctor import precisions
from drs_fast.gan import classes
from drs_fast.ratio import calibrate
from drs_fast.report import report
from drs_fast.squeeze import search
from drs_fast.squeeze.bounds import latent


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "meta": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "inference": torch.inference_mode,
}


def same(found, expected):
    """Equal in values and dtypes, all the way down."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.device) == (expected.dtype, expected.device)
        assert torch.equal(found.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        same([*found.values()], [*expected.values()])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            same(ours, theirs)
    elif isinstance(expected, drs.Batch):
        same(*(vars(replace(batch, seconds={})) for batch in (found, expected)))
    elif hasattr(expected, "__dict__"):
        same(vars(found), vars(expected))
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(found)
    else:
        assert found == expected


@functools.cache
def plain(name, labels):
    return drs.generate(smooth(labels), quick(name), 60, batch_size=256)


@pytest.mark.parametrize(
    ("setting", "labels"), [("float64", None), *((setting, 3) for setting in SETTINGS)]
)
@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_gives_the_same_bytes(name, setting, labels):
    gan, expected = smooth(labels), plain(name, labels)
    with SETTINGS[setting]():
        found = drs.generate(gan, quick(name), 60, batch_size=256)
    same(found, expected)


def judged(gan):
    z = ops.latents(gan, drs.Rng(1), 300)
    return gan.logits(z, ops.labels(gan, drs.Rng(1), 300))


def trained(make, **settings):
    return lambda gan: judged(make(gan, **settings))


def on_disk(gan, folder):
    """What a run leaves behind, and what is printed about it."""
    settings = {"batch_size": 256, "chunk_rows": 256, "save": ("x", "z", "logit")}
    drs.generate(gan, drs.samplers.DRS(), 100, out=folder, **settings)
    run = drs.generate(gan, drs.samplers.DRS(), 200, out=folder, **settings)
    assert store.verify(folder) == []
    names = [path.name for path in same_files(folder)]
    columns = [run.x[:], run.ids[5:50:3], run.logit[[3, 1]], run.y[-1]]
    return (
        names,
        [(folder / name).read_bytes() for name in names],
        columns,
        re.sub("time .*", "", report.write(folder)[0].replace(str(folder), "")),
    )


FEW = {"samples": 400, "epochs": 1, "batch": 128, "rate": 0.01}
JOBS = {
    "squeeze": lambda gan: drs.generate(
        gan, drs.Squeeze(drs.samplers.DRS(gamma=0.0), 0.9, 0.9), 60, batch_size=256
    ),
    "no bound": lambda gan: drs.Squeeze(drs.samplers.DRS(), use_bound=False).init(gan, drs.Rng(0)),
    "stream": lambda gan: next(drs.stream(gan, drs.samplers.DRS(), batch_size=256)),
    "class quota": lambda gan: drs.generate(
        gan, drs.samplers.DRS(classes="within"), 60, label_weights=[1, 2, 3], batch_size=256
    ),
    "doctor": lambda gan: drs.doctor(gan, n=512),
    "platt": trained(drs.calibrate, n=400),
    "beta": trained(drs.calibrate, method="beta", n=400),
    "isotonic": trained(drs.calibrate, method="isotonic", n=400),
    "reliability": lambda gan: (calibrate.report(gan, 400), calibrate.curve(gan, 400)),
    "relativistic": trained(drs.relativistic, loss="RaSGAN", n=400),
    "least squares": trained(drs.relativistic, loss="RLSGAN", n=400),
    "density_ratio": trained(drs.density_ratio, width=8, depth=1, penalty=0.05, **FEW),
    "keep_train": trained(drs.keep_train, samples=400, max_steps=4),
    "contrastive": trained(drs.contrastive, steps=2, batch=64),
    "latent_weights": lambda gan: drs.latent_weights(gan, steps=2, batch=64).state_dict(),
}


@functools.cache
def plain_job(job):
    return JOBS[job](smooth(3))


@pytest.mark.filterwarnings("ignore:too little was learned", "ignore:calibrated by")
@pytest.mark.parametrize("setting", ["float64", "meta", "inference"])
@pytest.mark.parametrize("job", JOBS)
def test_what_is_learnt_and_said_is_the_same(job, setting, monkeypatch):
    monkeypatch.setattr(search, "ROWS", (256, 512))
    monkeypatch.setattr(search, "WORTH", math.inf)
    monkeypatch.setattr(search, "LEAST_WORK", -math.inf)
    monkeypatch.setattr(latent, "EPOCHS", 1)
    monkeypatch.setattr(latent, "LEAST_STEPS", 4)
    monkeypatch.setattr(precisions, "cost", lambda *given: 0.5)  # the time of a row
    gan, expected = smooth(3), plain_job(job)
    with SETTINGS[setting]():
        found = JOBS[job](gan)
    same(found, expected)


@pytest.mark.parametrize("setting", ["float64", "meta"])
def test_a_run_on_disk_is_the_same(setting, tmp_path):
    expected = on_disk(smooth(3), tmp_path / "plain")
    gan = smooth(3)
    with SETTINGS[setting]():
        found = on_disk(gan, tmp_path / "set")
    same(found, expected)


def every_op(gan, logit):
    for kept in (reference._power, reference.stabiliser, classes._ends):
        kept.cache_clear()  # else what another setting left there would do
    rng, n = drs.Rng(3, 5), len(logit)
    rows, groups = ops.normal(rng, n, 3), logit.view(-1, 10)
    threshold = {"log_m": 1.5, "gamma": 0.5}
    ring = ops.ring(logit, rows, rng=rng, capacity=1024, log_m=1.5)
    return [
        rows,
        ops.uniform(rng, n, stream=1),
        ops.words(rng, n, 5),
        [ops.latents(gan(prior), rng, n) for prior in ("uniform", "truncated normal", torch.sinh)],
        ops.labels(gan("normal"), rng, n),
        classes.weights(3, [0.1, 0.2, 0.3]),
        classes.drawn(logit.new_tensor([1 / 3, 0.6], dtype=torch.float64), 2, (1 / 3, 2 / 3)),
        ops.probability(logit, **threshold),
        ops.accept(logit, rng, **threshold),
        accepted(ops.accept_compact(logit, rows, rng=rng, **threshold)),
        accepted(ops.accept_latents(logit, 3, rng=rng, **threshold)),
        ops.accept_append(logit, rows, ring=ring).state,
        ops.quantile_gamma(logit, 80.0, log_m=1.5),
        ops.largest(logit),
        ops.select(groups, rng, size=3),
        ops.select(groups, rng, size=3, replace=False),
        ops.chain(groups, rng),
        ops.walk(groups, rng, start=logit[: len(groups)]),
        ops.langevin(rows, rows, rng, step=2, step_size=0.1),
    ]


def accepted(kept):
    return [row[: kept.count] for row in (*kept.rows, kept.ids, kept.logit)]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_ops_give_the_same_bits(setting, backend):
    def gan(prior):
        return drs.GAN(
            torch.clone, torch.clone, 3, prior=prior, labels=3, label_weights=[1.0, 2.0, 0.0]
        )

    logit = 2.0 * ops.normal(drs.Rng(1), 500, 1)[:, 0]
    with ops.backend(backend):
        expected = every_op(gan, logit)
        with SETTINGS[setting]():
            found = every_op(gan, logit)
    same(found, expected)


def test_a_gan_keeps_no_inference_tensor():
    """A later gradient or write in place would fail on it."""
    gan = smooth()
    with torch.inference_mode():
        judged(gan)
    assert not gan.row().is_inference()


def test_a_library_imported_later_is_the_same():
    program = """
import torch
torch.set_default_dtype(torch.{})
import drs_fast as drs
from drs_fast.zoo import gaussians25
torch.set_default_device("meta")
gan = drs.load("25gaussians")
x = drs.generate(gan, drs.samplers.DRS(), 50, batch_size=256).x
print(x.dtype, x.sum().item().hex(), gan.real(3).tolist(), gaussians25.CENTRES.dtype)
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", program.format(dtype)], text=True, check=True, stdout=-1
        ).stdout
        for dtype in ("float32", "float64")
    }
    assert len(said) == 1, said
