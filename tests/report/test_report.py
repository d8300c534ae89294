"""The text and pictures of a report, and the demo that makes both."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import FACTS, files, summary
from torch import nn

import drs_fast as drs
from benchmarks.common.by_hand import SPEC, tried
from drs_fast.core import BURN_IN_ROW, Nothing, Sampler
from drs_fast.core.sampler import Described, Recorded
from drs_fast.report import (
    demo,
    facts,
    histograms,
    pictures,
    report,
)
from drs_fast.samplers.common.rejection import RejectionState
from drs_fast.samplers.drs import DRS
from drs_fast.store import Writer

mpl_image = pytest.importorskip("matplotlib.image")

SMALLEST_PICTURE = 2_000
LARGEST_PICTURE = 400_000


class Flat(nn.Module):
    """A generator of any shape: the latent, repeated."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, z, y=None):
        size = torch.Size(self.shape).numel()
        return z.repeat(1, -(-size // z.shape[1]))[:, :size].reshape(len(z), *self.shape)


class Sum(nn.Module):
    """A discriminator with logits like a normal's."""

    def forward(self, x, y=None):
        return x.flatten(1)[:, :2].sum(dim=1) + (0 if y is None else 3.0 * y)


def gan(*shape: int, **options) -> drs.GAN:
    return drs.GAN(Flat(*shape), Sum(), 4, name="flat", **options)


def make(path: Path, *shape: int, n: int = 300, save=("x", "logit"), **options) -> Path:
    model = gan(*shape, **options)
    drs.generate(model, DRS(burn_in=2_000), n, out=path, save=save, batch_size=256)
    return path


def read(path: Path):
    """The pixels of a PNG, which must not be blank."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert SMALLEST_PICTURE < path.stat().st_size < LARGEST_PICTURE
    pixels = mpl_image.imread(path)[..., :3]
    assert pixels.std() > 0.02, f"{path.name} is blank"
    return pixels


def frame_is_white(pixels) -> bool:
    """Whether nothing was cut off at the picture's edge."""
    return all(edge.min() == 1.0 for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def test_demo(tmp_path):
    lines: list[str] = []
    paths = demo.run(tmp_path, quiet=True, gaussians=20_000, digits=300, say=lines.append)
    names = ["25gaussians.png", "25gaussians-scores.png", "digits.png", "digits-scores.png"]
    assert [path.name for path in paths] == [*names, "report.html", "report.html"]
    for path in paths[:4]:
        assert frame_is_white(read(path)), path.name
    told = "\n".join(lines)
    assert told.startswith("Draws 20,000 samples of 25gaussians and 300 of digits")
    assert "about half a minute" in told
    assert f"Look at {tmp_path / '25gaussians-report' / 'report.html'}" in told
    assert "drs-fast doctor mygan.py:make" in told
    tables = [line for line in lines if line.startswith(("25gaussians", "digits"))]
    for line, name, n in zip(tables, ("25gaussians", "digits"), (20_000, 300), strict=True):
        run = drs.open(tmp_path / name)
        assert len(run) == n
        cells = line.split()
        assert cells[:4] == [
            name, f"{n:,}", f"{run.manifest['proposals']:,}",
            f"{n / run.manifest['proposals']:.2%}",
        ]  # fmt: skip


def test_demo_again_makes_no_sample_twice(tmp_path, monkeypatch):
    for name in ("grids", "densities"):
        monkeypatch.setattr(pictures, name, lambda path, *rest: path)
    monkeypatch.setattr(histograms, "scores", lambda path, *rest: path)
    monkeypatch.setattr(demo.report, "write", lambda path, gan: SimpleNamespace(page=path))
    lines: list[str] = []
    for _ in range(2):
        demo.run(tmp_path, quiet=True, gaussians=500, digits=70, say=lines.append)
    tables = [line for line in lines if line.startswith(("25gaussians", "digits"))]
    assert ["there already" in line for line in tables] == [False, False, True, True]


def test_demo_shows_the_best_and_the_worst_digits(tmp_path, monkeypatch):
    shown: dict[str, list[pictures.Panel]] = {}
    monkeypatch.setattr(pictures, "grids", lambda path, panels, _: shown.setdefault("p", panels))
    monkeypatch.setattr(pictures, "densities", lambda *rest: None)
    monkeypatch.setattr(histograms, "scores", lambda path, *rest: path)
    monkeypatch.setattr(demo.report, "write", lambda path, gan: SimpleNamespace(page=path))
    demo.run(tmp_path, quiet=True, gaussians=100, digits=400)
    zoo = drs.load("digits")
    with torch.inference_mode():
        best, worst = (zoo.discriminator(-panel.values).flatten() for panel in shown["p"])
    assert len(best) == len(worst) == 64
    assert bool((best.diff() <= 1e-4).all())
    assert float(best.min()) > float(worst.max())
    z = drs.ops.latents(zoo, drs.Rng(0, BURN_IN_ROW), 400)
    logit = zoo.logits(z)[1].sort(descending=True).values
    torch.testing.assert_close(best, logit[:64], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(worst, logit[-64:], rtol=1e-3, atol=1e-3)


def test_demo_draws_raw_accepted_and_real_densities(tmp_path, monkeypatch):
    shown: dict[str, list[pictures.Panel]] = {}
    monkeypatch.setattr(
        pictures, "densities", lambda path, panels, square: shown.setdefault("p", panels)
    )
    monkeypatch.setattr(pictures, "grids", lambda *rest: None)
    monkeypatch.setattr(histograms, "scores", lambda path, *rest: path)
    monkeypatch.setattr(demo.report, "write", lambda path, gan: SimpleNamespace(page=path))
    demo.run(tmp_path, quiet=True, gaussians=20_000, digits=70)
    raw, accepted, real = shown["p"]
    bin_area = (5 / demo.GRID.bins) ** 2
    assert float(real.values.sum()) * bin_area == pytest.approx(1.0, abs=1e-9)
    points = drs.load("25gaussians").real(200_000)
    empirical = demo.GRID.density(points)
    assert float((empirical - real.values).abs().sum()) * bin_area < 0.3
    assert 0.95 < float(raw.values.sum()) * bin_area <= 1.0
    assert float(accepted.values.sum()) * bin_area == pytest.approx(1.0, abs=1e-3)
    between = real.values < 1e-6
    assert float(accepted.values[between].sum()) < 0.1 * float(raw.values[between].sum())
    assert "n = 20,000" in raw.title
    assert "n = 20,000" in accepted.title
    assert "99.97%" in real.title


def test_scores_are_the_paper_formula(tmp_path):
    run = drs.open(make(tmp_path / "run", 2))
    score, p = report.scores(run, report.described(run, run.state))
    log_m, gamma = float(run.state["log_m"]), float(run.state["gamma"])
    d = run.state["logits"].double() - log_m
    expected = d - torch.log(1 - torch.exp(d - 1e-6)) - gamma
    torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p, torch.sigmoid(score), rtol=1e-9, atol=1e-12)
    assert float((score > 0).double().mean()) == pytest.approx(0.2, abs=0.001)


def test_scores_use_each_row_s_class(tmp_path):
    sampler = DRS(burn_in=2_000, classes="within")
    run = drs.generate(gan(2, labels=3), sampler, 300, out=tmp_path / "run")
    assert run.state["log_m"].shape == (3,)
    _, p = report.scores(run, report.described(run, run.state))
    y = torch.arange(3_000) % 3
    each = [float(p[y == k].mean()) for k in range(3)]
    assert float(run.state["acceptance"]) == pytest.approx(3 / sum(1 / a for a in each), rel=1e-9)
    for k in range(3):
        assert float((p[y == k] > 0.5).double().mean()) == pytest.approx(0.2, abs=0.01)
    assert "over 3 classes" in report.write(tmp_path / "run")[0]


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_score_at_and_above_the_maximum(tmp_path, eps):
    sampler = DRS(burn_in=2_000, gamma=0.0, log_m=0.0, eps=eps)
    run = drs.generate(gan(2), sampler, 300, out=tmp_path / "run")
    score, p = report.scores(run, report.described(run, run.state))
    above = run.state["logits"] > eps
    assert bool(above.any())
    assert bool(torch.isposinf(score[above]).all())
    assert bool((p[above] == 1.0).all())
    assert not bool(score.isnan().any())
    for path in report.write(tmp_path / "run")[1]:
        read(path)


def test_report_has_the_numbers(tmp_path):
    run = drs.open(make(tmp_path / "run", 2, n=3_000))
    text, paths, _ = report.write(tmp_path / "run")
    facts, state = run.manifest, run.state
    w = state["logits"].double().exp()
    for number in (
        "3,000 (complete)",
        f"{facts['proposals']:,}",
        f"{3_000 / facts['proposals']:.2%}",
        f"{float(state['acceptance']):.2%} expected",
        f"{facts['log_m']:.6g}",
        f"{facts['gamma']:.6g}",
        "1e-06",
        facts["law"],
        f"{facts['calls_per_sample']:.4g} ({1 / float(state['acceptance']):.4g} expected in burn",
        "DRS(burn_in=2000, classes=joint, eps=1e-06, interpolation=none, law_version=2)",
        f"{float(w.sum() ** 2 / (2_000 * (w**2).sum())):.2%} effective, (sum w)",
        f"{float(state['logits'].median()):.3f}"[:-1],
        f"{float(run.logit[:].max()):.3f}",
    ):
        assert number in text, number
    lines = {line[:26].strip(): line[26:].strip() for line in text.splitlines()}
    assert lines["invalid logits"] == str(facts["invalid"])
    assert lines["logits above log_m"] == f"{facts['above']:,}"
    assert "not drawn" not in text
    assert [path.name for path in paths] == ["samples.png", "scores.png", "logits.png"]
    for path in paths:
        assert path.parent == tmp_path / "run-report"
        assert frame_is_white(read(path)), path.name


def test_report_leaves_the_run_as_it_is(tmp_path):
    run = make(tmp_path / "run", 1, 8, 8)
    before = files(run)
    report.write(run)
    report.write(f"{run}/", tmp_path / "elsewhere")
    assert files(run) == before
    assert set(files(tmp_path / "elsewhere")) == {
        "scores.png",
        "logits.png",
        "samples.png",
        "report.html",
    }


@pytest.mark.parametrize("inside", [".", "pictures", "a/b"])
def test_report_refuses_to_write_into_the_run(tmp_path, inside):
    run = make(tmp_path / "run", 2, n=10)
    before = files(run)
    with pytest.raises(ValueError, match="outside the run"):
        report.write(run, run / inside)
    assert files(run) == before


def test_report_of_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path / "run", 2, n=10))
    _, paths, _ = report.write(".")
    assert {path.parent for path in paths} == {tmp_path / "run-report"}


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 9, 5), (8, 8), (1, 1, 1), (3, 200, 130)])
def test_shapes_that_are_drawn(tmp_path, shape):
    text, paths, _ = report.write(make(tmp_path / "run", *shape, n=40))
    assert "not drawn" not in text
    assert paths[0].name == "samples.png"
    assert frame_is_white(read(paths[0]))


@pytest.mark.parametrize("shape", [(3,), (4, 8, 8), (2, 3, 4, 5), (7,)])
def test_shapes_that_are_not_drawn(tmp_path, shape):
    text, paths, _ = report.write(make(tmp_path / "run", *shape, n=40))
    assert [path.name for path in paths] == ["scores.png", "logits.png"]
    assert f"to draw, got {(40, *shape)}" in text


@pytest.mark.parametrize(
    ("save", "names", "reason"),
    [
        (("x",), ["samples.png", "scores.png", "logits.png"], "logit was not saved"),
        (("logit",), ["scores.png", "logits.png"], "x was not saved"),
        (("z",), ["scores.png", "logits.png"], "x was not saved"),
    ],
)
def test_columns_that_were_not_saved(tmp_path, save, names, reason):
    text, paths, _ = report.write(make(tmp_path / "run", 1, 8, 8, n=70, save=save))
    assert [path.name for path in paths] == names
    assert reason in text
    assert ("\n    accepted" in text) == ("logit" in save)


def test_empty_run(tmp_path):
    text, paths, _ = report.write(make(tmp_path / "run", 2, n=0))
    assert "0 (complete)" in text
    assert "unknown" in text
    assert "samples: there are none yet" in text
    assert [path.name for path in paths] == ["scores.png", "logits.png"]


def test_unfinished_run(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(drs.Starvation):
        drs.generate(
            gan(2), DRS(burn_in=2_000), 90_000, out=run, chunk_rows=2**14, max_proposals=2**16
        )
    samples = drs.open(run)
    assert 0 < len(samples) < 90_000
    rows = len(samples.counts) * 2**14
    text, paths, _ = report.write(run)
    assert f"{len(samples):,} (unfinished, of 90,000)" in text
    assert f"{rows:,}\n" in text
    assert f"{len(samples) / rows:.2%} (" in text
    assert len(paths) == 3


def test_run_that_was_stopped_before_its_burn_in(tmp_path):
    with Writer.open(tmp_path / "run", {**SPEC, "save": ["x"]}, 10):
        pass
    text, paths, _ = report.write(tmp_path / "run")
    assert paths == []
    assert "0 (unfinished, of 10)" in text
    assert "burn-in has not ended" in text


def test_state_of_another_sampler(tmp_path):
    spec = {**SPEC, "sampler": {"name": "Other", "law_version": 1}}
    rows = torch.arange(40)
    with Writer.open(tmp_path / "run", spec, 40) as writer:
        writer.save_state({"step_size": torch.tensor(0.5)}, {**FACTS, "step_size": 0.5})
        columns = {"ids": rows, "x": torch.zeros(40, 2), "logit": torch.full((40,), 1.5)}
        writer.append(0, columns, cut=True, counters=tried(40))
        writer.finish(summary(writer))
    text, paths, _ = report.write(tmp_path / "run")
    assert [path.name for path in paths] == ["samples.png", "logits.png"]
    assert "Other(law_version=1)" in text
    assert "scores: the sampler's state does not hold" in text
    assert "effective" not in text


def test_a_sampler_says_what_is_shown_of_it(tmp_path, monkeypatch):
    run = make(tmp_path / "run", 2, n=50)
    told = []

    def described(kind, recorded):
        told.append(recorded)
        return Described({"own line": "42"})

    monkeypatch.setattr(DRS, "described", classmethod(described))
    assert f"  {'own line':<24}42\n" in report.write(run)[0]
    samples = drs.open(run)
    assert isinstance(told[0].state, RejectionState)
    assert told[0].state._asdict().keys() == samples.state.keys()
    assert told[0][1:] == ({}, samples.manifest["proposals"], 1e-6, "")


def test_of_any_sampler_the_tallies_are_shown():
    recorded = Recorded(Nothing(), {"moves": 1234, "unmoved": 0}, 99, 0.0, "")
    assert Sampler.described(recorded) == Described({"moves": "1,234", "unmoved": "0"})


@dataclass(frozen=True)
class Own(DRS):
    """A user's own sampler, unknown to reports."""


def test_a_report_draws_a_rejection_sampler_of_ones_own(tmp_path):
    drs.generate(gan(2), Own(burn_in=2_000), 50, out=tmp_path / "run")
    text, paths, _ = report.write(tmp_path / "run")
    assert "  log_m " in text
    assert "  gamma " in text
    assert "scores.png" in [path.name for path in paths]


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_of_a_state_of_another_version_only_the_tallies_are_shown(tmp_path, damage):
    run = drs.open(make(tmp_path / "run", 2, n=50))
    state = dict(run.state)
    if damage == "missing":
        del state["gamma"]
    elif damage == "unknown":
        state["other"] = state["gamma"]
    else:
        state["logits"] = state["logits"][:, None]
    assert report.described(run, state) == Described({})


def critic(z):
    return z[:, 0]


@pytest.mark.parametrize(
    ("sampler", "limits", "logits"),
    [
        (drs.samplers.OBRS(burn_in=1_000), ["log_m", "gamma"], True),
        (drs.samplers.Latent(critic, burn_in=1_000), ["cap"], False),
        (drs.samplers.MH(4, start="first", burn_in=1_000), [], True),
        (drs.samplers.SIR(pool=640, size=2, burn_in=1_000), [], True),
        (drs.samplers.ISIR(steps=2, burn_in=1_000), [], True),
        (drs.samplers.DGFlow(steps=2, burn_in=100), [], False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Sampler) else "",
)
def test_what_samplers_have_drawn_of_them(tmp_path, sampler, limits, logits):
    drs.generate(gan(2), sampler, 20, out=tmp_path / "run", batch_size=256)
    text = report.write(tmp_path / "run")[0]
    shown = [name for name in ("log_m", "cap", "gamma") if f"\n  {name:<24}" in text]
    assert shown == limits
    assert ("raw (burn-in)" in text) == logits
    assert ("log weights above cap" in text) == (limits == ["cap"])
    assert ("logits above log_m" in text) == (limits != ["cap"])
    assert ("scores: the sampler" in text) == ("gamma" not in limits)


def test_quantiles_of_long_runs_are_of_the_first_samples(tmp_path, monkeypatch):
    run = make(tmp_path / "run", 2, n=300)
    monkeypatch.setattr(facts, "READ", 100)
    text, *_ = report.write(run)
    assert "use the first 100 samples" in text
    assert f"{float(drs.open(run).logit[:100].max()):.3f}" in text


@pytest.mark.parametrize("command", ["report", "demo"])
def test_without_matplotlib(tmp_path, monkeypatch, command):
    run = make(tmp_path / "run", 2, n=10)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeError, match="pip install matplotlib"):
        report.write(run) if command == "report" else demo.run(tmp_path / "demo", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("labels", "said"), [(3, "0: 100, 1: 100, 2: 100"), (20, "15 to 15 in")])
def test_the_classes_of_a_run(labels, said, tmp_path):
    sampler = DRS(burn_in=2_000, classes="within")
    drs.generate(gan(2, labels=labels), sampler, 300, out=tmp_path / "run")
    text = report.write(tmp_path / "run")[0]
    assert said in text
    assert "all equal" in text
    drs.generate(gan(2, labels=labels), sampler, 30, out=tmp_path / "one", only=1)
    text = report.write(tmp_path / "one")[0]
    assert "0, 1, 0" in text
