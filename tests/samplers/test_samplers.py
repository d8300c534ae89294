"""What every sampler must do; samplers are found by their files.

Each test of a law would fail by chance for at most one seed in 10^4; seeds are fixed.
"""

import dataclasses
import math
import typing

import pytest
import torch
from every_sampler import NAMES, NEEDED, make, quick, smooth
from runs import contents

import drs_fast as drs
from benchmarks.common import oracle
from benchmarks.common.metrics import stratified, transport
from drs_fast import Rng, ops, samplers

DATA = [name for name in NAMES if name != "latent"]


# Their samples are not those of the row's own latent.
MOVING = ("collaborative", "ddls", "dgflow", "dot", "dcd", "ex2mcmc", "flex2mcmc")
CLASSES = 3


def step(name, gan, n=1, row=0, seed=5):
    """The sampler, its state, and the samples of its first groups, of at least n rows."""
    sampler = quick(name)
    n = max(1, n // sampler.group) * sampler.group
    rng = Rng(seed, row)
    state = sampler.init(gan, rng)
    z, y = ops.latents(gan, rng, n), ops.labels(gan, rng, n)
    after, batch = sampler.step(gan, state, z, y, rng)
    return sampler, state, after, z, y, batch


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_dataclass_whose_fields_are_flags(name):
    kind = samplers.get(name)
    sampler = kind()  # everything has a default
    for field in dataclasses.fields(kind):
        hint = typing.get_type_hints(kind)[field.name]
        kinds = set(typing.get_args(hint)) - {type(None)} or {hint}
        assert kinds & {str, int, float, bool}, (field.name, hint)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.anything = 1
    with pytest.raises(TypeError):
        kind(no_such_field=1)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name):
    sampler = make(name)
    assert sampler.group >= 1
    assert sampler.sequential is False
    assert sampler.law_version >= 1
    assert "\n" not in sampler.law
    assert len(sampler.law) > 3
    assert "Source:" in (samplers.get(name).__doc__ or "")
    assert hash(sampler) == hash(make(name))


@pytest.mark.parametrize("name", NAMES)
def test_state_is_found_once_and_only_of_tensors(name):
    gan = smooth()
    _, state, after, *_ = step(name, gan)
    assert isinstance(state, samplers.get(name).State)
    assert all(isinstance(value, torch.Tensor) for value in state)
    assert after is state
    again = quick(name).init(gan, Rng(5))
    assert all(torch.equal(a, b) for a, b in zip(state, again, strict=True))


@pytest.mark.parametrize("labels", [None, CLASSES])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_gives_at_most_its_rows(name, labels):
    gan = smooth(labels)
    sampler, _, _, z, y, batch = step(name, gan, 700, row=1280)
    count, n = int(batch.count), len(z)
    assert 0 < count <= n
    ids = batch.ids[:count]
    assert (ids.dtype, batch.logit.dtype, batch.z.dtype) == (torch.int64, *[torch.float32] * 2)
    rows = torch.maximum(ids, ~ids)
    assert ((rows >= 1280) & (rows < 1280 + n)).all()
    groups = rows // sampler.group
    assert (groups.diff() >= (1 if sampler.group == 1 else 0)).all()
    x, logit = batch.x[:count], batch.logit[:count]
    label = None if y is None else batch.y[:count]
    assert torch.isfinite(logit).all()
    assert torch.allclose(gan.scores(x, label), logit, atol=1e-5)
    if y is not None:
        group = (rows - 1280) // sampler.group * sampler.group
        assert torch.equal(label, y[group if sampler.group > 1 else rows - 1280])
    if name not in MOVING:
        own = ids >= 0
        assert torch.equal(batch.z[:count][own], z[ids[own] - 1280])
        assert torch.allclose(gan.generator(*filter_none(z[ids[own] - 1280], label, own)), x[own])
    for tally in sampler.tallies:
        assert batch.stats[tally].dtype == torch.int64


def filter_none(z, label, own):
    return (z,) if label is None else (z, label[own])


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_samples_whatever_the_batch(name):
    gan, sampler = smooth(), quick(name)
    first = drs.generate(gan, sampler, 200, seed=3, batch_size=256)
    for size in (256, 1024):
        again = drs.generate(gan, sampler, 200, seed=3, batch_size=size)
        assert torch.equal(first.ids, again.ids)
        assert torch.equal(first.x, again.x)
        assert torch.equal(first.logit, again.logit)
    other = drs.generate(gan, sampler, 200, seed=4, batch_size=256)
    assert not torch.equal(first.x, other.x)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_samples_are_those_of_a_shorter_run(name):
    gan, sampler = smooth(), quick(name)
    long = drs.generate(gan, sampler, 150, batch_size=256)
    short = drs.generate(gan, sampler, 90, batch_size=256)
    assert torch.equal(long.x[:90], short.x)
    assert torch.equal(long.ids[:90], short.ids)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_on_disk_is_the_run_in_memory_and_goes_on(name, tmp_path):
    gan, sampler = smooth(), quick(name)
    settings = {
        "batch_size": 256,
        "chunk_rows": sampler.group * 256 if sampler.group == 1 else sampler.group,
    }
    memory = drs.generate(gan, sampler, 150, batch_size=256)
    drs.generate(gan, sampler, 70, out=tmp_path / "run", save=("x", "z", "logit"), **settings)
    samples = drs.generate(
        gan, sampler, 150, out=tmp_path / "run", save=("x", "z", "logit"), **settings
    )
    drs.generate(gan, sampler, 150, out=tmp_path / "other", save=("x", "z", "logit"), **settings)
    assert torch.equal(samples.ids[:], memory.ids)
    assert torch.equal(samples.x[:], memory.x)
    assert drs.store.verify(tmp_path / "run") == []
    assert contents(tmp_path / "run") == contents(tmp_path / "other")
    assert samples.manifest["law"] == sampler.law
    assert samples.manifest["proposals"] == int(memory.stats["proposals"])
    for tally in sampler.tallies:
        assert samples.manifest[tally] >= 0


@pytest.mark.parametrize("labels", [None, CLASSES])
@pytest.mark.parametrize("name", NAMES)
def test_images_are_its_samples_converted(name, labels, tmp_path):
    sampler = quick(name)
    raw = drs.generate(smooth(labels), sampler, 100, batch_size=256)
    middle = raw.x.quantile(torch.tensor([0.1, 0.9])).tolist()
    gan = smooth(labels, value_range=middle)
    stored = gan.stored_as("uint8").stored(raw.x)
    settings = {"batch_size": 256, "images": "uint8"}
    with pytest.warns(UserWarning, match=f"{int(stored['outside'].sum())} of 100 samples hold"):
        found = drs.generate(gan, sampler, 100, **settings)
    assert torch.equal(found.x, stored["x"])
    assert torch.equal(found.ids, raw.ids)
    assert torch.equal(found.logit, raw.logit)
    assert 0 < int(found.stats["outside"]) == int(stored["outside"].sum())
    with pytest.warns(UserWarning, match="samples hold numbers that are NaN or outside"):
        samples = drs.generate(gan, sampler, 100, out=tmp_path / "run", **settings)
    assert torch.equal(samples.x[:], stored["x"])
    assert samples.manifest["outside"] == int(stored["outside"].sum())
    assert samples.manifest["law"] == sampler.law


@pytest.mark.parametrize("name", NAMES)
def test_invalid_logits_are_never_samples(name):
    gan = smooth()
    inner = gan.discriminator

    def discriminator(x):
        # One sample in some thousands, by its last bits, which are as good as random.
        return inner(x)[:, 0].masked_fill(x[:, 0].detach().view(torch.int32) % 8192 == 7, math.nan)

    batch = drs.generate(gan.judged(discriminator), quick(name), 300, batch_size=256)
    assert torch.isfinite(batch.logit).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_hopeless_discriminator_is_an_error_and_no_endless_loop(name):
    if name in NEEDED:
        pytest.skip("does not ask the discriminator")
    gan = smooth().judged(lambda x: x.sum(dim=1) * math.nan)
    with pytest.raises((drs.BadLogits, drs.Starvation)):
        drs.generate(gan, make(name), 10, batch_size=256, max_proposals=20_000)


def data_law(name):
    law = make(name).law
    return law == "data" or law.startswith("data,")


@pytest.mark.parametrize("name", [name for name in DATA if data_law(name)])
def test_the_law_of_the_data(name):
    """Modes and rings by chi-square, moments, and the distance to stratified real samples."""
    gan, n = oracle.gan(), 20_000
    sampler = make(name)
    if sampler.group > 1:
        n = 2_000
    batch = drs.generate(gan, sampler, n, seed=1)
    law = oracle.law()
    found = oracle.metrics(batch.x)
    assert oracle.chi_square(batch.x, law.rings, law.radii) > 1e-4
    assert found.sd == pytest.approx(law.sd, rel=4 / math.sqrt(4 * n))
    assert found.hq / 100 == pytest.approx(law.hq, abs=4 * math.sqrt(law.hq * (1 - law.hq) / n))
    assert batch.x.mean(dim=0).abs().max() < 4 * math.sqrt(2 / n)
    assert transport(batch.x[:2000], stratified(2000)) < 0.069 + 5 * 0.010


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MOVING])
def test_no_sample_is_judged_twice(name):
    gan, calls = smooth(), []
    inner = gan.discriminator

    def discriminator(x):
        calls.append(len(x))
        return inner(x)

    gan = gan.judged(discriminator)
    sampler = quick(name)
    state = sampler.init(gan, Rng(5))
    z = ops.latents(gan, Rng(5), 1280)
    calls.clear()
    sampler.step(gan, state, z, None, Rng(5))
    assert calls == [256] * 5 if name != "latent" else sum(calls) < 1280
