"""What progress says that samples are worth: what the run says in the end, at no wait per step."""

import functools
import re

import pytest
import torch
from late import gpu
from planted_bounds import forced
from runs import files, scaled
from tilted import tilted, tilted_classes

import drs_fast as drs
from drs_fast.core.sampler import Thresholds
from drs_fast.report import planned
from drs_fast.run import progress
from drs_fast.run.worth import Worth
from drs_fast.samplers import DRS, MH, OBRS
from drs_fast.samplers.common import weights
from drs_fast.squeeze import search
from drs_fast.squeeze.bounds import latent

N = 2000
WITHIN = DRS(classes="within")
CASES = {
    "p80": (tilted, DRS()),
    "gamma 0": (tilted, DRS(gamma=0.0, eps=0.0, log_m=1.0)),
    "OBRS": (tilted, OBRS(budget=0.1)),
    "labels": (tilted_classes, DRS()),
    "within": (tilted_classes, WITHIN),
    "OBRS, within": (lambda block: scaled(), OBRS(budget=0.3, classes="within")),
    "squeezed": (tilted, drs.Squeeze(DRS(), tolerance=0.9)),
    "squeezed, within": (tilted_classes, drs.Squeeze(WITHIN, tolerance=0.9)),
}


@functools.cache
def poor(make, sampler):
    """A bound that loses much and audits some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "ROWS", (1024, 2048))
        patch.setattr(latent, "EPOCHS", 4)
        return forced(make(block=256), sampler, cascade=True, margin=-3.0)


@pytest.fixture(params=CASES)
def case(request, monkeypatch):
    make, sampler = CASES[request.param]
    if isinstance(sampler, drs.Squeeze):
        monkeypatch.setattr(drs.Squeeze, "init", lambda *_: poor(make, sampler.sampler))
    return make(block=256), sampler


def said(capsys):
    """The last share that was shown."""
    return re.findall(r"(\d+\.\d%) effective when weighted", capsys.readouterr().err)[-1]


def test_progress_ends_with_what_samples_are_worth(case, capsys, tmp_path):
    batch = drs.generate(*case, N, progress=True)
    share = f"{float(batch.stats['effective_samples']) / N:.1%}"
    assert said(capsys) == share
    assert share != "100.0%"
    drs.generate(*case, N, progress=True, out=tmp_path / "run", chunk_rows=1024, save=("x",))
    assert said(capsys) == share


def test_the_end_is_shown_once(capsys, monkeypatch):
    """The last step was shown because it was time for a line."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.Progress(10, enabled=True) as shown:
        shown.bar = None
        shown.advance(4, 8)
        shown.advance(6, 12)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["4 of 10 samples", "10 of 10 samples"]


def test_progress_changes_no_byte(case, tmp_path):
    for name, shown in (("quiet", False), ("shown", True)):
        drs.generate(*case, N, out=tmp_path / name, chunk_rows=1024, progress=shown)
    assert files(tmp_path / "quiet") == files(tmp_path / "shown")


@pytest.mark.parametrize("late", [False, True])
def test_no_step_waits_for_it(late, monkeypatch):
    read = []
    share = Worth.share
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 1e9)
    monkeypatch.setattr(Worth, "share", lambda worth: read.append(worth) or share(worth))
    if late:
        with gpu():
            drs.generate(tilted(block=256), DRS(), N, batch_size=256, progress=True)
    else:
        drs.generate(tilted(block=256), DRS(), N, batch_size=256, progress=True)
    assert len(read) == 1
    drs.generate(tilted(block=256), DRS(), N, batch_size=256)
    assert len(read) == 1


def test_lines_in_between_say_it_of_the_samples_so_far(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    gan = tilted(block=256)
    drs.generate(gan, OBRS(budget=0.1), N, out=tmp_path / "run", progress=True, chunk_rows=256)
    lines = [line for line in capsys.readouterr().err.splitlines() if "effective" in line]
    assert len(lines) > 10
    for line in lines[:-1:8]:
        n = int(line.split(" of ")[0].replace(",", ""))
        found = float(drs.generate(gan, OBRS(budget=0.1), n).stats["effective_samples"])
        assert f"{found / n:.1%} effective when weighted" in line


@pytest.mark.parametrize("classes", ["joint", "within"])
@pytest.mark.parametrize("log_m", [-2000.0, -650.0])
def test_weights_too_large_for_a_number(log_m, classes, capsys, tmp_path):
    """Where logits reach 1,000, exp(logit - log_m) is no number; all weights would be alike."""
    gan = drs.GAN(lambda z, y: z, lambda x, y: 300.0 * x[:, 0], 2, labels=2)
    sampler = DRS(gamma=0.0, log_m=log_m, classes=classes)
    batch = drs.generate(gan, sampler, N)
    weight = (batch.logit.double() - batch.logit.max()).exp()
    expected = float(weight.sum() ** 2 / weight.square().sum())
    assert float(batch.stats["effective_samples"]) == pytest.approx(expected, rel=1e-2)
    assert expected < 3.0
    run = drs.generate(gan, sampler, N, out=tmp_path / "run", chunk_rows=512, progress=True)
    assert run.manifest["effective_samples"] == float(batch.stats["effective_samples"])
    assert run.manifest["largest_weight"] > 0.3
    assert "effective when weighted" not in capsys.readouterr().err
    for read in (lambda: batch.weight, lambda: run.weight[:]):
        with pytest.raises(ValueError, match="too far for a weight"):
            read()
    thresholds = Thresholds(*torch.tensor([log_m, 0.0]).double(), 0.0)
    assert planned._share(thresholds, batch.logit) == pytest.approx(expected / N, rel=1e-2)


def test_equal_weights_are_not_worth_a_word(capsys):
    drs.generate(tilted(block=256), MH(chain_length=8, start="first"), 100, progress=True)
    assert "effective" not in capsys.readouterr().err


@pytest.mark.parametrize("weight", [0.0, 1e-200, 1e200, torch.inf, torch.nan])
def test_sums_that_are_no_numbers_are_not_shown(weight):
    worth = Worth("batch", Thresholds(*torch.zeros(2).double(), 0.0))
    worth.add([{"weight": torch.full((3,), weight, dtype=torch.float64)}])
    assert worth.note() == ""


def test_a_wrong_factor_of_a_class_is_found(capsys, monkeypatch):
    """Every class as if it had been tried as often."""
    gan, right = tilted_classes(block=256), weights.of_classes
    expected = float(drs.generate(gan, WITHIN, N).stats["effective_samples"]) / N
    monkeypatch.setattr(
        weights, "of_classes", lambda *given: right(*given[:3], torch.tensor([1, 10, 100]))
    )
    drs.generate(gan, WITHIN, N, progress=True)
    assert said(capsys) != f"{expected:.1%}"
