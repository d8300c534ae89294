"""What a quick look at G and D could miss: each gave other samples for other batch sizes."""

import pytest
import torch
from runs import QUICK

import drs_fast as drs

BUFFER = torch.randn(4096, 2)


def spread(x):
    """Strided groups of four."""
    return x.view(4, -1, 2).std(dim=0, correction=0).mean(dim=1).repeat(4)


def first(x):
    return x[:, 0]


def same(z):
    return z


@pytest.mark.parametrize(
    ("generator", "critic", "why"),
    [
        (same, lambda x: x[:, 0] + 0.5 * spread(x) + 1e4, "the discriminator couples"),
        (lambda z: 1000 + z + 0.05 * z.mean(), first, "the generator couples"),
        (
            same,
            lambda x: x[:, 0] + x.view(-1, 64, 2).std(dim=1).mean(dim=1).repeat_interleave(64),
            "the discriminator couples",
        ),
        (lambda z: z + BUFFER[: len(z)], first, "the generator couples"),
        (same, lambda x: x[:, 0] + 0.01 * torch.arange(len(x)), "the discriminator couples"),
    ],
)
def test_what_depends_on_other_rows_or_on_the_place_is_refused(generator, critic, why):
    with pytest.raises(ValueError, match=why):
        drs.generate(drs.GAN(generator, critic, 2), QUICK, 100, batch_size=256)


def truncated(z):
    """Drawn anew until all of the call's rows fit."""
    noise = torch.randn_like(z)
    while bool((noise.abs() > 2).any()):
        noise = torch.where(noise.abs() > 2, torch.randn_like(z), noise)
    return z + noise + torch.randn_like(z)


def test_how_much_a_row_draws_may_not_depend_on_other_rows():
    gan = drs.GAN(truncated, first, 2, noise="rows")
    with pytest.raises(ValueError, match="draw a fixed number, whatever the rows are"):
        drs.generate(gan, QUICK, 1_000, batch_size=256)


def test_companions_that_change_no_maximum_are_not_taken_for_groups():
    companions = torch.randn(50, 2)
    batches = [
        drs.generate(
            drs.GAN(same, lambda x: x[:, 0] / x.abs().max(), 2, pack=10, companions=companions),
            QUICK, 300, batch_size=size,
        )
        for size in (256, 1024)
    ]  # fmt: skip
    assert torch.equal(batches[0].ids, batches[1].ids)


def test_a_predicate_that_no_probe_tells_apart_is_another_run(tmp_path):
    def of(k):
        gan = drs.GAN(lambda z, y: z, lambda x, y: 0.1 * x[:, 0], 2, labels=1000)
        return drs.where(gan, lambda x, y: y == k)

    sampler = drs.samplers.DRS(burn_in=20_000)
    drs.generate(of(901), sampler, 5, out=tmp_path / "run")
    assert len(drs.generate(of(901), sampler, 8, out=tmp_path / "run")) == 8
    with pytest.raises(drs.Conflict, match="functions_sha256"):
        drs.generate(of(902), sampler, 9, out=tmp_path / "run")


def test_another_decode_materializes_no_run(tmp_path):
    def by(factor):
        return drs.GAN(same, first, 2, decode=lambda x: x * factor)

    run = drs.generate(by(2.0), QUICK, 50, out=tmp_path / "run")
    assert torch.equal(run.materialize(by(2.0))[:9]["x"], run.x[:9])
    with pytest.raises(drs.Conflict, match="another predicate or decode"):
        run.materialize(by(3.0))
