"""The law of a run is the data's where its counts show that log_m cut nothing off."""

from dataclasses import replace

import pytest
import torch
from runs import files

import drs_fast as drs
from drs_fast import store
from drs_fast.cli.main import main
from drs_fast.core import OutOfTime
from drs_fast.core.laws import DATA, DATA_WITHIN
from drs_fast.report import report
from drs_fast.samplers import DRS, OBRS
from drs_fast.store.format import sealed

TOP = 1.0
EXACT = DRS(gamma=0.0, eps=0.0, log_m=TOP, burn_in=1024)


def below(top=TOP, **fields):
    """Logits that reach `top` and go no higher."""

    def logit(x, *y):
        return (x[:, 0] - 0.5).clamp(max=top)

    return drs.GAN(lambda z, *y: z, logit, 1, block=256, **fields)


def saved(gan, sampler, out, n=2000, **options):
    return drs.generate(gan, sampler, n, out=out, chunk_rows=1024, **options)


def test_data_where_nothing_was_above(tmp_path, capsys):
    run = saved(below(), EXACT, tmp_path / "run")
    assert run.manifest["law"] == "data"
    assert run.manifest["above"] == 0
    assert torch.equal(run.weight[:], torch.ones(2000).double())
    assert store.verify(run.path) == []
    assert "  law                     data\n" in report.write(run.path)[0]
    assert run.state["log_m"] == TOP


@pytest.mark.parametrize(
    ("changes", "top"),
    [
        ({}, TOP + 0.1),
        ({"log_m": None}, TOP),
        ({"eps": 1e-6}, TOP),
        ({"gamma": 0.1}, TOP),
        ({"gamma": None}, TOP),
    ],
)
def test_otherwise_what_is_cut_off(changes, top, tmp_path):
    sampler = replace(EXACT, **changes)
    run = saved(below(top), sampler, tmp_path / "run", 500)
    assert run.manifest["law"] == sampler.law
    assert run.manifest["law"].startswith("data when weighted; unweighted, ")


def test_logits_that_are_no_numbers_may_be_above(tmp_path):
    bad = drs.GAN(
        lambda z: z, lambda x: torch.where(x[:, 0] > 3.9, torch.nan, x[:, 0].clamp(max=TOP)), 1
    )
    run = drs.generate(bad, EXACT, 40_000, out=tmp_path / "run", save=())
    assert run.manifest["invalid"] > 0
    assert run.manifest["law"] == EXACT.law


def test_other_samplers_do_not_claim_it(tmp_path):
    squeezed = drs.Squeeze(EXACT, tolerance=0.2)
    counts = dict.fromkeys((*squeezed.tallies, "above", "invalid"), 0)
    assert EXACT.exact(counts)
    assert not squeezed.exact(counts)
    assert not OBRS().exact(counts)


def test_classes_are_asked_for(tmp_path):
    gan = below(labels=3)
    assert saved(gan, EXACT, tmp_path / "joint").manifest["law"] == "data"
    within = saved(gan, replace(EXACT, classes="within", burn_in=4096), tmp_path / "within")
    assert within.manifest["law"] == DATA_WITHIN
    assert drs.open(within.path).state


def test_one_class_is_not_the_data(tmp_path):
    gan = below(labels=3)
    within = replace(EXACT, classes="within", burn_in=4096)
    for i, (given, sampler, options) in enumerate(
        [
            (gan, EXACT, {"only": 1}),
            (gan, within, {"only": 1}),
            (below(labels=3, label_weights=(0.0, 2.0, 0.0)), EXACT, {}),
        ]
    ):
        run = saved(given, sampler, tmp_path / str(i), 300, **options)
        assert run.manifest["law"] == "data of class 1"
        assert drs.open(run.path).state
    assert saved(below(labels=1), EXACT, tmp_path / "single", 300).manifest["law"] == "data"


def test_a_repaired_run_claims_nothing_until_it_is_complete(tmp_path):
    gan, out = below(labels=3), tmp_path / "run"
    whole = saved(gan, EXACT, out, only=1).manifest
    (out / "chunk-00000001.safetensors").write_bytes(b"")
    assert main(["verify", "--repair", str(out)]) == 0
    manifest = drs.open(out).manifest
    assert (manifest["law"], manifest["complete"]) == (EXACT.law, False)
    ended = {"above", "invalid", "proposals", "effective_samples", "clipped", "kept"}
    assert ended <= set(whole)
    assert not ended & set(manifest)
    saved(gan, EXACT, out, only=1)
    saved(gan, EXACT, tmp_path / "whole", only=1)
    assert files(out) == files(tmp_path / "whole")


def extended(gan, sampler, out):
    assert saved(gan, sampler, out, 700).manifest["law"] in (DATA, DATA_WITHIN)
    saved(gan, sampler, out)


def interrupted(gan, sampler, out):
    for _ in range(2):
        with pytest.raises(OutOfTime):
            saved(gan, sampler, out, max_seconds=1e-9)
    assert drs.open(out).manifest["law"] == sampler.law
    saved(gan, sampler, out)


def repaired(gan, sampler, out, name="chunk-00000001.safetensors"):
    saved(gan, sampler, out)
    (out / name).write_bytes(b"")
    assert main(["verify", "--repair", str(out)]) == 0
    saved(gan, sampler, out)


def without_state(gan, sampler, out):
    repaired(gan, sampler, out, "state.safetensors")


@pytest.mark.parametrize("way", [extended, interrupted, repaired, without_state])
@pytest.mark.parametrize("classes", ["joint", "within"])
def test_however_it_came_about_the_bytes_are_the_same(way, classes, tmp_path):
    gan, sampler = below(labels=3), replace(EXACT, classes=classes, burn_in=4096)
    saved(gan, sampler, tmp_path / "whole")
    way(gan, sampler, tmp_path / "run")
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_longer_run_that_meets_a_logit_above_says_so(tmp_path):
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0], 1, block=256)
    sampler = replace(EXACT, log_m=3.5)
    assert saved(gan, sampler, tmp_path / "run", 50).manifest["law"] == "data"
    run = saved(gan, sampler, tmp_path / "run")
    assert run.manifest["above"] > 0
    assert run.manifest["law"] == sampler.law
    saved(gan, sampler, tmp_path / "whole")
    assert files(tmp_path / "run") == files(tmp_path / "whole")


@pytest.mark.parametrize(("law", "above"), [("other", 0), ("data", 3)])
def test_a_law_that_the_counts_do_not_show_is_found(law, above, tmp_path):
    run = saved(below(), EXACT, tmp_path / "run", 500)
    facts = {**run.manifest, "law": law, "above": above}
    facts.pop("crc32", None)
    (run.path / "manifest.json").write_bytes(sealed(facts, indent=2))
    with pytest.raises(store.Corrupt, match="law must be"):
        _ = drs.open(run.path).state
