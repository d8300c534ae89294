"""What a notebook shows of runs, batches, samplers and what was made of them: one line each."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import drs_fast as drs
from drs_fast.core import Sampler
from drs_fast.exporting.place import Exported
from drs_fast.run.plan import Plan
from drs_fast.run.ways import Way
from drs_fast.samplers.drs import DRS

SAMPLER = DRS(burn_in=1_000)


class Maker(nn.Module):
    def forward(self, z):
        return z


@pytest.fixture(scope="module")
def gan():
    return drs.load("25gaussians")


@pytest.mark.parametrize(
    ("sampler", "shown"),
    [
        (DRS(), "DRS()"),
        (DRS(percentile=95), "DRS(percentile=95.0)"),
        (DRS(gamma=0, log_m=1.5), "DRS(gamma=0.0, log_m=1.5)"),
        (drs.samplers.MH(64, start="first"), "MH(chain_length=64, start='first')"),
        (drs.Squeeze(DRS(gamma=1.0), tolerance=0.01),
         "Squeeze(sampler=DRS(gamma=1.0), tolerance=0.01)"),
        (drs.samplers.Latent(torch.sum), "Latent(critic=<built-in method sum of type object"),
    ],
)  # fmt: skip
def test_a_sampler_is_shown_as_it_is_written(sampler, shown):
    assert repr(sampler).startswith(shown)


def test_a_sampler_of_ones_own_is_shown_alike():
    @dataclass(frozen=True)
    class Own(DRS):
        power: float = 2.0
        weights: torch.Tensor | None = None

    assert repr(Own()) == "Own()"
    assert repr(Own(power=3.0, weights=torch.ones(5))) == (
        "Own(power=3.0, weights=<(5,) torch.float32>)"
    )

    @dataclass(frozen=True)
    class Shown(DRS):
        def __repr__(self):
            return "mine"

    assert repr(Shown()) == "mine"
    assert issubclass(Own, Sampler)


def test_a_batch_in_a_line(gan):
    batch = drs.generate(gan, SAMPLER, 300, batch_size=256)
    assert repr(batch) == (
        "<Batch of 300 samples: x (300, 2) float32 on cpu, z, logit, ids>"
    )  # fmt: skip


def test_a_run_in_a_line(gan, tmp_path):
    run = drs.generate(gan, SAMPLER, 1_200, out=tmp_path / "run", save=("logit",), batch_size=256)
    assert repr(run) == f"<run {run.path}: 1,200 samples of 25gaussians by DRS; ids, logit>"
    made = repr(run.materialize(gan))
    assert made.startswith(f"<1,200 samples of {run.path}, x and z made again by <GAN 25gaussians:")
    with pytest.raises(drs.Starvation):
        drs.generate(
            gan, SAMPLER, 9_000, out=tmp_path / "part", chunk_rows=2**12, max_proposals=2**13
        )
    part = drs.open(tmp_path / "part")
    assert f" {len(part):,} of 9,000 samples of 25gaussians by DRS, unfinished; ids," in repr(part)


def test_a_column_that_was_not_saved_says_how_to_have_it(gan, tmp_path):
    run = drs.generate(gan, SAMPLER, 10, out=tmp_path / "run", save=("logit",), batch_size=256)
    again = "generate again with --save "
    for name, cure in (
        ("x", f"{again}logit,x, in Python save=('x', 'logit'); or make it again with .mater"),
        ("weight", f"{again}logit,weight, in Python save=('logit', 'weight')"),
        ("y", "its GAN has no labels"),
    ):
        with pytest.raises(
            AttributeError, match=re.escape(f"holds ids, logit, not {name}: {cure}")
        ):
            run.column(name)
    with pytest.raises(AttributeError, match="save logit,x"):
        run.x  # noqa: B018
    with pytest.raises(AttributeError, match="columns are ids, logit, x, z, y, weight"):
        run.column("image")


def test_a_gan_without_a_name_has_its_classes(tmp_path):
    gan = drs.GAN(Maker(), lambda x: x[:, 0], 2)
    assert repr(gan).startswith("<GAN Maker and <lambda>: latent_dim 2")
    assert drs.doctor(gan, n=512).name == "Maker and <lambda>"
    run = drs.generate(gan, SAMPLER, 10, out=tmp_path / "run", batch_size=256)
    assert run.manifest["model"] == "custom"
    assert drs.GAN(Maker(), None, 2).title == "Maker"


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (Exported("to", 1_200, 1, 0), "<Exported 1,200 samples in 1 file: to>"),
        (Exported("to", 9, 3, 1), "<Exported 9 samples in 3 files, 1 of which was there: to>"),
        (Exported("to", 9, 3, 2), "<Exported 9 samples in 3 files, 2 of which were there: to>"),
        (Plan("m on cpu", "fp32", (), (Way(1024, (), (900.0, 1100.0)),), (), 1024, ("fold",)),
         "<Plan for m on cpu: batch_size 1,024, tune fold, 1,000 rows/s untuned; print it for "
         "more>"),
    ],
)  # fmt: skip
def test_what_was_done_in_a_line(made, shown):
    assert repr(made) == shown
