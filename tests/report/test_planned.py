"""What burn-in let one expect, beside what came."""

import math
import re

import pytest
import torch
from runs import plain, toy

import drs_fast as drs
from drs_fast.core.sampler import Thresholds
from drs_fast.report import planned, report
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH
from drs_fast.samplers.obrs import OBRS

WORTH = re.compile(
    r"effective samples +\S+ when weighted, ([\d.]+)% of the samples "
    r"\(([\d.]+)% expected in burn-in\)\n"
    r"  largest weight +[\d.]+% of all weight; [\d.]+% is above log_m\n"
)


def words(folder):
    run = drs.open(folder)
    return report.words(run, report.described(run, report.state_of(run)), "no balance")


@pytest.mark.parametrize("sampler", [DRS(), DRS(gamma=1.0, eps=0.0), OBRS(budget=0.3)])
def test_a_run_without_tails_comes_as_burn_in_expected(tmp_path, sampler):
    """Logits are sd 1/2, so all weights have moments of every order: 2 % are 5 standard errors."""
    gan = plain(lambda x: 0.5 * x[:, 0])
    run = drs.generate(gan, sampler, 20_000, out=tmp_path / "run")
    came, expected = map(float, WORTH.search(words(tmp_path / "run")).groups())
    assert abs(came - expected) < 2.0
    # exp(-sd^2) effective samples per row, if none were lost to rejection
    assert came / 100 * 20_000 / run.manifest["proposals"] < math.exp(-0.25)


def test_what_is_expected_goes_by_chances_and_weights():
    """By hand: chances 1, 1, 1/2, 1/4 with gamma = 0, and one row far above log_m."""
    number = torch.tensor(0.0).double()
    thresholds = Thresholds(number, number, 0.0)
    raw = torch.log(torch.tensor([4.0, 1.0, 0.5, 0.25]))
    # Weights of rows at and below log_m are 1, and 4 above it.
    expected = (4 + 1 + 0.5 + 0.25) ** 2 / ((16 + 1.75) * 2.75)
    manifest = {"effective_samples": 3.0, "largest_weight": 0.5, "above_weight": 0.25}
    said = planned.worth(manifest, 4, thresholds, raw)
    assert said == {
        "effective samples": f"3 when weighted, 75.00% of the samples ({expected:.2%} expected in "
        "burn-in)",
        "largest weight": "50.00% of all weight; 25.00% is above log_m",
    }
    of_classes = Thresholds(number.expand(2), number.expand(2), 0.0)
    for unknown in ((None, raw), (thresholds, None), (of_classes, raw), (thresholds, raw - 1e300)):
        said = planned.worth(manifest, 4, *unknown)
        assert said["effective samples"] == "3 when weighted, 75.00% of the samples"
    assert planned.worth({}, 4, thresholds, raw) == planned.worth(manifest, 0, None, None) == {}


@pytest.mark.parametrize(("tail", "trusted"), [(0.5, True), (0.7, True), (0.71, False)])
def test_a_heavy_tail_is_not_trusted(tail, trusted):
    manifest = {"effective_samples": 3.0, "tail_index": tail}
    said = planned.worth(manifest, 4, None, None)["tail index"]
    assert said.startswith(
        f"{tail:.2f}, {'good, because it is at most' if trusted else 'above'} 0.7"
    )
    assert ("not to be trusted" in said) != trusted
    number, raw = torch.tensor(0.0).double(), torch.tensor([1.0, 0.0, -1.0])
    size = planned.worth(manifest, 4, Thresholds(number, number, 0.0), raw)["effective samples"]
    assert ("at most" in size) != trusted


@pytest.mark.parametrize(
    ("size", "shown"), [(3.14159, "3.142"), (9903.4, "9,903"), (56_810.0, "56,810")]
)
def test_effective_samples_are_numbers_of_one_style(size, shown):
    said = planned.worth({"effective_samples": size}, 10**6, None, None)["effective samples"]
    assert said.startswith(f"{shown} when weighted")


def test_an_unfinished_run_says_what_its_samples_are_worth_so_far(tmp_path):
    out, limits = tmp_path / "run", {"chunk_rows": 2**12, "max_seconds": 1e-3}
    for _ in range(2):  # the first call ends after burn-in
        with pytest.raises(drs.OutOfTime):
            drs.generate(toy(), DRS(), 10**6, out=out, **limits)
    samples = drs.open(out)
    assert not samples.manifest["complete"]
    weight = samples.weight[:]
    size = float(weight.sum() ** 2 / weight.square().sum())
    shown = f"{size:,.0f}" if size >= 1000 else f"{size:.4g}"
    assert f"effective samples       {shown} when weighted" in words(out)
    assert "tail index" in words(out)


def test_a_run_whose_burn_in_has_not_ended(tmp_path, monkeypatch):
    """As a kill leaves it, with samples that are to be images."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DRS, "init", killed)
    with pytest.raises(KeyboardInterrupt):
        drs.generate(toy(), DRS(), 10, out=tmp_path / "run", images="uint8")
    text, drawn, _ = report.write(tmp_path / "run")
    assert "scores: burn-in has not ended" in text
    assert "samples that do not fit 0" in " ".join(text.split())
    assert all(path.exists() for path in drawn)


def test_calls():
    manifest = {"acceptance": 0.25}
    assert planned.calls(manifest, 500, 100, False) == "5 (4 expected in burn-in)"
    assert planned.calls(manifest, 100, 100, True) == "1 (4 expected in burn-in, without a bound)"
    assert planned.calls({}, 500, 100, False) == "5"
    assert planned.calls(manifest, 500, 0, False) is None


def test_a_sampler_without_thresholds_has_no_such_line(tmp_path):
    drs.generate(toy(), MH(start="first", chain_length=8), 100, out=tmp_path / "run")
    assert "effective samples" not in words(tmp_path / "run")
