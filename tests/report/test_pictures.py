"""How many bins there are, what is drawn of proposals, and how latents are joined."""

import math

import pytest
import torch

import drs_fast as drs
from drs_fast.core import ACCEPT
from drs_fast.report import bins, facts, histograms, images, pictures, proposals
from drs_fast.report.pictures import Panel, Square
from drs_fast.samplers.drs import DRS

pytest.importorskip("matplotlib")


def test_bins_are_as_narrow_as_the_modes():
    """The modes of 25gaussians have an sd of 0.05, and all of the data one of 1.4."""
    x = drs.load("25gaussians").real(10_000)
    square = Square.around(x)
    assert (square.x[1] - square.x[0]) / square.bins < 0.06


def test_bins_of_a_smooth_density_are_wide():
    x = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    assert Square.around(x).bins <= 40
    assert bins.best(x[:, :1], (-4.0, 4.0)) <= 80
    assert bins.best(x[:1], (-4.0, 4.0), (-4.0, 4.0)) == bins.COUNTS[0]


def test_counts_are_those_of_a_histogram():
    x = torch.randn(999, 2, generator=torch.Generator().manual_seed(1))
    x[5] = math.nan
    found = bins.counts(x, 16, (-2.0, 2.0), (-1.0, 3.0))
    clean = x[torch.isfinite(x).all(dim=1)].double()
    expected = torch.histogramdd(
        clean, bins=[16, 16], range=[-2.0, 2.0, -1.0, 3.0]
    ).hist.long()  # fmt: skip
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("crowd", "scale"), [(0.9, "log"), (0.0, "linear")])
def test_a_crowded_bar_has_a_logarithmic_scale(tmp_path, monkeypatch, crowd, scale):
    drawn = []
    monkeypatch.setattr(histograms, "save", lambda figure, path: drawn.append(figure))
    p = torch.linspace(0.0, 1.0, 10_000).double()
    p = torch.where(p < crowd, 0.001 * p, p)
    histograms.scores(tmp_path / "p.png", torch.logit(p, eps=1e-9), p)
    (figure,) = drawn
    right = figure.axes[1]
    assert right.get_yscale() == scale
    assert ("logarithmic" in right.get_ylabel()) == (scale == "log")
    assert right.get_xlabel() == "probability that a proposal is accepted"


@pytest.mark.parametrize("kept", [torch.linspace(0.0, 2.0, 300), torch.full((300,), 2.0)])
def test_kept_logits_have_half_of_the_axis(tmp_path, monkeypatch, kept):
    drawn = []
    monkeypatch.setattr(histograms, "save", lambda figure, path: drawn.append(figure))
    raw = torch.cat([torch.linspace(-60.0, -10.0, 300), torch.linspace(-10.0, 2.0, 700)])
    histograms.logits(tmp_path / "p.png", {"raw": raw, "accepted": kept})
    (axis,) = drawn[0].axes
    low, high = axis.get_xlim()
    if float(kept[0]) < 2.0:
        assert low > -3.0
        assert "are further left" in axis.get_legend().get_texts()[0].get_text()
    assert high > 1.9


def test_few_points_are_drawn_as_points():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    square = Square((-3.0, 3.0), (-3.0, 3.0))
    assert square.panel("few", x).points is x
    assert square.panel("many", x.repeat(20, 1)).points is None


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    gan = drs.load("digits")
    run = drs.generate(
        gan, DRS(burn_in=1_000), 150, out=tmp_path_factory.mktemp("run") / "run", batch_size=256
    )
    said = facts.described(run, run.state)
    return gan, run, said, proposals.of_run(run, gan, said.thresholds, 256)


def test_proposals_are_those_of_the_run(found):
    _, run, _, rows = found
    kept = run.ids[:]
    kept = kept[kept < 256]
    assert torch.equal(rows.accepted.nonzero().flatten(), kept)
    torch.testing.assert_close(rows.x[kept], run.x[: len(kept)])
    u = drs.ops.uniform(drs.Rng(0), 256, stream=ACCEPT)
    assert torch.equal(rows.accepted, u.double() < rows.probability)
    for accepted in (True, False):
        ordered = rows.sorted(accepted, 20)
        assert bool((rows.accepted[ordered] == accepted).all())
        assert bool((rows.probability[ordered].diff() <= 0).all())


def test_a_short_run_shows_no_row_after_its_last(tmp_path):
    gan = drs.load("25gaussians")
    run = drs.generate(gan, DRS(burn_in=1_000), 10, out=tmp_path / "run", batch_size=256)
    thresholds = facts.described(run, run.state).thresholds
    rows = proposals.of_run(run, gan, thresholds, 65_536)
    assert len(rows.x) == int(run.ids[-1]) + 1
    assert int(rows.accepted.sum()) == 10


def test_interpolations_end_at_an_accepted_and_a_rejected_row(found):
    gan, _, said, rows = found
    strips = proposals.strips(gan, rows, said.thresholds)
    assert strips.probability.shape == (proposals.STRIPS, proposals.STEPS)
    kept, lost = rows.sorted(True, 64), rows.sorted(False, 64).flip(0)
    torch.testing.assert_close(strips.x[:, 0], rows.x[kept[:6]], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(strips.x[:, -1], rows.x[lost[:6]], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        strips.probability[:, 0], rows.probability[kept[:6]], rtol=1e-3, atol=1e-3
    )
    all_kept = proposals.Proposals(rows.x, rows.z, None, rows.probability, rows.accepted | True)
    assert proposals.strips(gan, all_kept, said.thresholds) is None


def test_normal_latents_keep_their_length():
    a, b = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.0, 1.0, 9)
    curved, line = (proposals.between(a, b, t, curved=way) for way in (True, False))
    for way in (curved, line):
        torch.testing.assert_close(way[[0, -1]], torch.stack([a, b]))
    low, high = sorted((float(a.norm()), float(b.norm())))
    assert bool(((curved.norm(dim=1) > 0.98 * low) & (curved.norm(dim=1) < 1.02 * high)).all())
    assert float(line.norm(dim=1).min()) < 0.85 * low
    torch.testing.assert_close(proposals.between(a, a, t, curved=True), a.expand(9, -1))


def test_rows_of_images_say_how_likely_they_were(found, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(images, "grids", lambda path, panels, *rest: shown.extend(panels))
    images.kinds(tmp_path / "p.png", found[3])
    accepted, rejected = shown
    assert "accepted" in accepted.title
    assert "rejected" in rejected.title
    assert len(rejected.rows) == 6
    assert float(accepted.rows[0]) > float(rejected.rows[0])


def test_classes_have_rows_of_their_own(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(images, "grids", lambda path, panels, *rest, **how: shown.extend(panels))
    y = torch.tensor([0, 2, 2, 0, 2])
    images.by_class(tmp_path / "p.png", y.view(-1, 1, 1).expand(-1, 4, 4).float(), y, 4)
    (panel,) = shown
    assert panel.rows == ("class 0", "class 2")
    assert panel.values[:2].eq(0).all()
    assert panel.values[10:13].eq(2).all()


@pytest.mark.parametrize(
    ("p", "said"), [(0.0, "<0.001"), (0.0644, "0.064"), (0.934, "0.93"), (0.999, "1"), (1.0, "1")]
)
def test_probabilities_have_two_digits(p, said):
    assert images.probability(p) == said


def test_a_grid_of_few_images_has_few_rows(tmp_path):
    x = torch.rand(5, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    path = pictures.grids(tmp_path / "p.png", [Panel("five", x, ("first",))])
    assert path.stat().st_size > 2_000
    assert pictures.mosaic(x.double(), 1, 8).shape == (35, 8 * 37 - 2, 3)
