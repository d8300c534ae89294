"""What burn-in let one expect, beside what came."""

import math
import re

import pytest
import torch
from runs import plain, toy

import drs_fast as drs
from drs_fast.report import planned, report
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH
from drs_fast.samplers.obrs import OBRS

WORTH = re.compile(
    r"effective if weighted +([\d.]+)% of the samples \(([\d.]+)% expected in burn-in"
)


def words(folder):
    run = drs.open(folder)
    state = report.state_of(run)
    return report.words(run, state, report.described(run, state), "no balance")


@pytest.mark.parametrize("sampler", [DRS(), DRS(gamma=1.0, eps=0.0), OBRS(budget=0.3)])
def test_a_run_without_tails_comes_as_burn_in_expected(tmp_path, sampler):
    """Logits are sd 1/2, so all weights have moments of every order: 2 % are 5 standard errors."""
    gan = plain(lambda x: 0.5 * x[:, 0])
    run = drs.generate(gan, sampler, 20_000, out=tmp_path / "run")
    came, expected = map(float, WORTH.search(words(tmp_path / "run")).groups())
    assert abs(came - expected) < 2.0
    # exp(-sd^2) effective samples per row, if none were lost to rejection
    assert came / 100 * 20_000 / run.manifest["proposals"] < math.exp(-0.25)


def test_weights_are_the_logits_over_the_chance():
    """By hand: chances 1, 1/2, 1/4 with gamma = 0, and one row far above log_m."""
    state = {"log_m": torch.tensor(0.0).double(), "gamma": torch.tensor(0.0).double()}
    raw = torch.log(torch.tensor([4.0, 1.0, 0.5, 0.25]))
    accepted = torch.log(torch.tensor([4.0, 1.0, 1.0, 0.5]))
    # Weights of rows at and below log_m are 1, and 4 above it.
    expected = (4 + 1 + 0.5 + 0.25) ** 2 / ((16 + 1.75) * 2.75)
    came = 7**2 / (4 * 19)
    said = planned.worth(state, raw, accepted, 0.0)
    assert said == f"{came:.2%} of the samples ({expected:.2%} expected in burn-in)"
    assert planned.worth(state, None, accepted, 0.0) is None
    assert planned.worth({}, raw, accepted, 0.0) is None
    assert planned.worth(state, raw, torch.full((3,), -torch.inf), 0.0) is None
    of_classes = {name: value.expand(2) for name, value in state.items()}
    assert planned.worth(of_classes, raw, accepted, 0.0) is None


def test_calls():
    state = {"acceptance": torch.tensor(0.25).double()}
    assert planned.calls(state, 500, 100, False) == "5 (4 expected in burn-in)"
    assert planned.calls(state, 100, 100, True) == "1 (4 expected in burn-in, without a bound)"
    assert planned.calls({}, 500, 100, False) == "5"
    assert planned.calls(state, 500, 0, False) is None


def test_a_sampler_without_thresholds_has_no_such_line(tmp_path):
    drs.generate(toy(), MH(start="first", chain_length=8), 100, out=tmp_path / "run")
    assert "effective if weighted" not in words(tmp_path / "run")
