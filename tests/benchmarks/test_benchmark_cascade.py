"""The benchmark of cascades, on one tiny model."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from benchmarks.common import gans, runs, stylegan2
from benchmarks.speed import cascade, cascade_ways

QUICK = ["--only", "MLP, width 16", "--ways", "p80", "--seconds", "0.01", "--rounds", "1"]
QUICK += ["--burn-in", "1024", "--unseen", "0.3", "--by", "bf16"]
QUICK += ["--threads", str(torch.get_num_threads())]


def run_of(ids, x, proposals=10):
    rows = torch.tensor(x).view(-1, 2)
    samples = {"ids": torch.tensor(ids, dtype=torch.int64), "x": rows, "logit": rows[:, 0]}
    return runs.Timed(0.0, 1.0, samples, SimpleNamespace(proposals=proposals))


PLAIN = run_of([1, 4, 7], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_all_of_it(tmp_path, capsys):
    file = tmp_path / "cascade.json"
    assert cascade.main([*QUICK, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert {"device", "versions", "commit", "unseen", "rows"} <= set(report)
    (row,) = report["rows"]
    assert {"fp32", "bf16, tuned"} <= set(row["ms"])
    assert 0.0 <= row["flips"] < 0.5
    one = row["cascades"]["cascade, bf16"]
    assert one["unused"] == ""
    assert one["compared"] > 0
    assert one["lost_mass_interval"][0] <= one["lost_mass"] <= one["lost_mass_interval"][1]
    assert one["ratios"]["fp32 / it"] > 0
    assert one["limit"] > 0
    shown = capsys.readouterr().out
    assert "of decisions flipped" in shown
    assert "lost mass" in shown


def test_other_samples_get_no_figure(tmp_path, monkeypatch, capsys):
    timed = cascade_ways.timed

    def wrong(gan, sampler, *rest, **options):
        run = timed(gan, sampler, *rest, **options)
        if isinstance(sampler, cascade.Squeeze):
            run = replace(run, samples=run.samples | {"x": run.samples["x"] + 1.0})
        return run

    monkeypatch.setattr(cascade_ways, "timed", wrong)
    file = tmp_path / "cascade.json"
    assert cascade.main([*QUICK, "--json", str(file)]) == 1
    (row,) = json.loads(file.read_text())["rows"]
    assert set(row) == {"model", "batch", "way", "load", "wrong"}
    assert "x of the same sample differs" in capsys.readouterr().out


def test_samples_that_are_missing_are_counted_up_to_the_end_of_the_shorter_run():
    assert runs.lost(PLAIN, PLAIN, "") == (0.0, 3)
    assert runs.lost(run_of([1, 7], [[1.0, 2.0], [5.0, 6.0]]), PLAIN, "") == (
        pytest.approx(1 / 3),
        3,
    )
    assert runs.lost(run_of([1], [[1.0, 2.0]]), PLAIN, "") == (0.0, 1)


@pytest.mark.parametrize(
    ("ids", "x", "reason"),
    [
        ([1, 5], [[1.0, 2.0], [3.0, 4.0]], "samples of its own"),
        ([1, 4], [[1.0, 2.0], [3.0, 4.5]], "x of the same sample differs"),
        ([], [], "no samples"),
    ],
)
def test_other_samples_are_told(ids, x, reason):
    with pytest.raises(runs.Differs, match=reason):
        runs.lost(run_of(ids, x), PLAIN, "p80")


def test_flips():
    low = run_of([1, 3, 7, 12], [[0.0, 0.0]] * 4, proposals=20)
    assert cascade.flips(low, PLAIN) == pytest.approx(2 / 3)  # 3 more, 4 less, 12 not comparable


@pytest.mark.parametrize("up", [False, True])
def test_a_modulated_convolution_has_weights_of_its_own_for_every_row(up):
    torch.manual_seed(0)
    layer = stylegan2.Modulated(4, 3, 5, up=up)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    found = layer(x, w)
    for row in range(2):
        weight = layer.convolution.weight
        style = 1.0 + layer.style(w[row])
        weight = weight * (style[:, None, None, None] if up else style[:, None, None])
        norm = weight.square().sum(dim=(0 if up else 1, 2, 3)).sqrt()
        weight = weight / (norm[:, None, None] if up else norm[:, None, None, None])
        one = x[row : row + 1]
        if up:
            expected = layer.blur(functional.conv_transpose2d(one, weight, stride=2))
        else:
            expected = functional.conv2d(one, weight, padding=1)
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=1e-5)


def test_logits_depend_on_the_latent():
    """Else bf16 changes them more than the latent does, and no cascade could pay."""
    for gan in (gans.he(gans.dcgan(8)), gans.stylegan2(8, 16)):
        z = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
        logit = gan.on(block=64).logits(z)[1]
        assert 0.05 < logit.std() < 5.0
        assert logit.std() > 0.05 * logit.mean().abs()
