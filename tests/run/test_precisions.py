"""What a plan says of lower precisions."""

import importlib
import math

import pytest
import torch
from runs import toy
from torch import nn

import drs_fast as drs
from drs_fast.core import BURN_IN_ROW
from drs_fast.run import compared, precisions, ways
from drs_fast.run.compared import Compared
from drs_fast.run.precisions import Precision
from drs_fast.samplers.common.cascade import MARGIN, Cascade, cascade
from drs_fast.samplers.common.expected import Expected, Range
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH
from drs_fast.samplers.obrs import OBRS
from drs_fast.tune import tuning
from drs_fast.tune.lowered import Lower, lowered

QUICK = DRS(burn_in=2000)
module = importlib.import_module("drs_fast.run.plan")  # drs.plan is the function


def lines():
    """Near 100 the numbers of bfloat16 are 0.5 apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        maker, judge = nn.Linear(2, 2), nn.Linear(2, 1)
    judge.bias.data += 100.0
    return drs.GAN(maker, judge, 2)


def of(gan, sampler, seed=5):
    return precisions.of(gan, sampler, drs.Rng(seed), lambda line: None)


def table_of(*samplers):
    """A table in which the last sampler is recommended."""
    best = Range(0.2, 0.15, 0.2)
    worth = [None] * (len(samplers) - 1) + [best]
    rows = tuple((s, Expected(0.25, worth=w)) for s, w in zip(samplers, worth, strict=True))
    return Compared(rows, 16_384, None, 1000.0, None, None)


def test_flips_and_rows_that_pass_are_those_of_the_burn_in():
    gan, rng = lines(), drs.Rng(5, BURN_IN_ROW)
    (found,), failed = of(gan, QUICK)
    state = QUICK.init(gan, drs.Rng(5))
    z = drs.ops.latents(gan, rng, 1024)
    logit, low = gan.verdicts(z), lowered(gan, "bf16").verdicts(z)
    at = {"log_m": state.log_m, "gamma": state.gamma}
    flipped = drs.ops.accept(logit, rng, **at) ^ drs.ops.accept(low, rng, **at)
    raised = drs.ops.probability(low + MARGIN * found.lower.error, **at)
    assert failed == ()
    assert found.sampler == QUICK
    assert found.lower.precision == "bf16"
    assert found.decisions.flipped == float(flipped.double().mean()) > 0.0
    assert found.decisions.passing == pytest.approx(float(raised.double().mean()))
    assert found.decisions.passing > float(state.acceptance)


def test_rows_without_a_low_logit_go_on_to_full_precision():
    logit = torch.tensor([0.0, 0.0, 0.0, -90.0, -torch.inf])
    low = torch.tensor([torch.nan, torch.inf, -torch.inf, -90.0, -95.0])
    assert cascade(logit, low, 0.0, drs.Rng(0), log_m=5.0).passing == pytest.approx(0.6)


def test_a_cascade_is_as_fast_as_what_it_leaves_out():
    assert Cascade(0.0, 0.25).gain(0.25) == 2.0
    assert Cascade(0.0, 0.25).gain(1.0) == 0.8


def test_nothing_is_below_bf16():
    assert of(lines().on(precision="bf16"), QUICK) == ((), ())


def test_without_a_rejection_sampler_there_are_errors_only():
    (found,), _ = of(lines(), None)
    assert found.lower.error > 0.0
    assert found.decisions is None


def test_a_precision_that_fails_is_refused():
    class Picky(nn.Linear):
        def forward(self, x):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("no kernel")
            return super().forward(x)

    found, (failed,) = of(drs.GAN(nn.Linear(2, 2), Picky(2, 1), 2), QUICK)
    assert found == ()
    assert failed.startswith("precision='bf16': ")
    assert "no kernel" in failed


@pytest.mark.parametrize(
    ("asked", "samplers", "chosen"),
    [
        (None, (DRS(), MH(), OBRS(0.1)), OBRS(0.1)),
        (None, (DRS(), OBRS(0.1), MH()), DRS()),
        (OBRS(0.1), (DRS(), OBRS(0.1), DRS(gamma=0.0)), OBRS(0.1)),
        (drs.Squeeze(OBRS(0.1)), (OBRS(0.1), drs.Squeeze(OBRS(0.1)), DRS()), OBRS(0.1)),
        (None, (DRS(), OBRS(0.1), drs.Squeeze(OBRS(0.1))), OBRS(0.1)),
        (DRS(classes="within"), (DRS(), DRS(gamma=0.0)), DRS(gamma=0.0)),  # not in the table
        (None, (MH(),), None),
    ],
)
def test_the_sampler_is_the_one_asked_for_or_recommended(asked, samplers, chosen):
    assert precisions.sampler_of(table_of(*samplers), asked) == chosen


def test_the_table_can_be_read():
    fast = Lower("bf16", 0.25, error=0.03, worst=0.2, spread=2.0, infinite=0.0)
    over = Lower("fp16", 1.1, error=0.006, worst=0.1, spread=2.0, infinite=0.125)
    found = [Precision(each, DRS(gamma=0.0), Cascade(0.004, 0.25)) for each in (fast, over)]
    head = "              precision        time   error  flipped"
    assert precisions.table(found) == [
        "",
        f"{head}   drs.Squeeze(DRS(gamma=0.0), by=...)",
        "                   bf16        0.25   0.015     0.4%   about 2 times as fast",
        "                   fp16        1.10   0.003     0.4%   no gain; 12.5% of logits overflow",
    ]
    assert precisions.table([Precision(fast)]) == [
        "",
        head,
        "                   bf16        0.25   0.015        -",
    ]
    assert precisions.table([]) == []


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(ways, "SIZES", (256,))
    monkeypatch.setattr(ways, "SLICE", 1e-4)
    monkeypatch.setattr(module, "DRAWING", 0.02)
    monkeypatch.setattr(compared, "MOST", compared.LEAST)
    monkeypatch.setattr(tuning, "VARIANTS", {"same": lambda gan: gan.changed(lambda f: f)})


@pytest.mark.usefixtures("short")
def test_a_plan_has_them(monkeypatch):
    seen = []

    def of(gan, sampler, rng, say):
        seen.append((gan, sampler, rng.seed))
        return (Precision(Lower("bf16", 0.5, 0.1, 0.1, 1.0, 0.0)),), ("precision='fp16': no",)

    monkeypatch.setattr(precisions, "of", of)
    plan = drs.plan(toy(), drs.Squeeze(DRS(gamma=0.0), use_bound=False), seed=7)
    ((gan, sampler, seed),) = seen
    assert (gan.tuned, gan.block, sampler, seed) == (plan.tune, 256, DRS(gamma=0.0), 7)
    assert "\n                   bf16        0.50     0.1        -\nrefused: " in str(plan)
    assert plan.refused[-1] == "precision='fp16': no"


@pytest.mark.usefixtures("short")
def test_an_energy_has_no_decisions():
    plan = drs.plan(drs.GAN(nn.Linear(2, 2), nn.Linear(2, 1), 2, link="hinge"))
    (found,) = plan.precisions
    assert found.decisions is None
    assert math.isfinite(found.lower.error)
