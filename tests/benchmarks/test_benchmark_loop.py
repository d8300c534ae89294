"""The benchmark of whole runs, on one tiny model."""

import json

import pytest
import torch

import drs_fast as drs
from benchmarks.common import gans
from benchmarks.speed import loop, loop_ways

QUICK = ["--quick", "--seconds", "0.01", "--rounds", "1", "--threads", str(torch.get_num_threads())]


def test_all_of_it(tmp_path, capsys):
    file = tmp_path / "loop.json"
    assert loop.main([*QUICK, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert {"device", "versions", "commit", "rows", "targets"} <= set(report)
    (row,) = report["rows"]
    assert {loop.OURS, loop.TO_DISK, loop.PLAIN, loop.NUMPY, loop.LIMIT} <= set(row["seconds"])
    assert all(ratio > 0 for name, ratio in row["ratios"].items() if name != "store / step")
    assert "samples/s" in capsys.readouterr().out


def test_other_samples_get_no_figure(tmp_path, monkeypatch, capsys):
    generate = drs.generate

    def wrong(gan, sampler, n, **options):
        return generate(gan, sampler, n, **options | {"seed": 1})

    monkeypatch.setattr(loop_ways.drs, "generate", wrong)
    file = tmp_path / "loop.json"
    assert loop.main([*QUICK, "--json", str(file)]) == 1
    (row,) = json.loads(file.read_text())["rows"]
    assert set(row) == {"model", "batch", "wrong"}
    assert "other samples than the reference's" in capsys.readouterr().out


def test_targets():
    rows = [
        {"model": "digits", "batch": 4096, "ratios": {"to disk / limit": 0.94}},
        {"model": "MLP", "batch": 1024, "ratios": {"drs_fast / plain": 1.0}},
        {"model": "25gaussians", "batch": 4096, "wrong": "other samples"},
    ]
    assert [(v["model"], v["reached"]) for v in loop.judged(rows, "cpu")] == [
        ("digits", False),
        ("MLP", True),
    ]
    syncs = [{"model": "MLP", "batch": 1024, "ratios": {"synchronisations a step": 0.1}}]
    (verdict,) = loop.judged(syncs, "cuda")
    assert not verdict["reached"]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (gans.mlp, (128,)),
        (gans.dcgan, (3, 32, 32)),
        (gans.sagan, (3, 128, 128)),
        (gans.stylegan2, (3, 64, 64)),
    ],
)
def test_shapes(make, shape):
    gan = make(2).on(block=256)
    x, logit = gan.logits(drs.ops.latents(gan, drs.Rng(0), 2))
    assert x.shape == (2, *shape)
    assert bool(torch.isfinite(logit).all())
    assert logit[0] != logit[1]
