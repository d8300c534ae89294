"""The table of a plan, and what it recommends."""

import math
import re

import pytest
import torch
from runs import plain

import drs_fast as drs
from drs_fast.cli import commands
from drs_fast.cli.parser import parser
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.run import advice, compared
from drs_fast.run.compared import Compared, compare, duration, seconds
from drs_fast.samplers.common.expected import Expected, Range
from drs_fast.samplers.ddls import DDLS
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH
from drs_fast.samplers.obrs import OBRS
from drs_fast.samplers.sir import SIR

GOOD = Expected(0.25, Range(0.1, 0.05, 0.2), Range(0.01, 0.0, 0.3), Range(0.2, 0.15, 0.2))
BETTER = GOOD._replace(worth=Range(0.19, 0.16, 0.19))
POOR = Expected(0.5, Range(0.1, 0.05, 1.0), Range(0.1, 0.02, math.inf), Range(0.4, 0.0, 0.4))
BOUND = Expected(0.01, Range(0.1, 0.0, 0.3), None, Range(0.01, 0.005, 0.01))


TV, KL = "0.100 (0.050 to 0.200)", "0.010 (0.000 to 0.300)"


def table(*samplers, n=None, budget=None, tail=0.5):
    return Compared(samplers, 16_384, tail, 1000.0, n, budget)


def lines(*given, **how):
    return str(table(*given, **how)).splitlines()


def test_it_can_be_read():
    rows = (
        (DRS(), POOR),
        (OBRS(budget=0.2), GOOD),
        (MH(start="first"), BOUND),
        (SIR(), Expected(0.1)),
    )
    head, heads, *shown = lines(*rows, n=1_000_000)
    assert head == "expected, from 16,384 rows and a burn-in of 10,000, 95 % intervals"
    assert heads.split()[:3] == ["acceptance", "calls", "1,000,000"]
    assert re.split(r"  +", heads)[-3:] == ["TV to the data", "KL to it, nats", "worth"]
    cells = [re.split(r"  +", row) for row in shown[:4]]
    assert cells == [
        ["DRS()", "50.00%", "2", "33.5 m", "0.050 or more", "0.020 or more", "400 or less"],
        ["OBRS(budget=0.2)", "25.00%", "4", "1.11 h", TV, KL, "150 to 200"],
        ["MH(start='first')", "1.00%", "100", "27.8 h", "0.300 or less", "-", "5 to 10"],
        ["SIR()", "10.00%", "10", "2.78 h", "-", "-", "-"],
    ]
    assert shown[-2:] == [
        "recommended: OBRS(budget=0.2)",
        "at least 150 effective samples in 1,000 calls (tail index 0.50)",
    ]


def test_a_budget_gives_samples():
    assert lines((DRS(), GOOD), budget=110.0)[1].split()[2:5] == ["in", "1.83", "m"]
    assert lines((DRS(), GOOD), budget=110.0)[2].split()[3] == "25,000"  # after 10 s of burn-in
    assert lines((DRS(), GOOD), budget=5.0, n=100)[2].split()[3] == "0"


def test_the_most_that_is_sure_is_recommended():
    first, second = (DRS(percentile=95.0), GOOD), (DRS(gamma=0.0), BETTER)
    assert table(first, second, (DRS(), POOR)).recommended == second
    assert table(first, first).recommended == first
    assert table((SIR(), Expected(0.1)), (DRS(), POOR), tail=0.9).recommended is None
    assert "nothing can be promised (tail index 0.90)" in str(table((DRS(), POOR), tail=0.9))
    assert "nothing can be promised:" in str(table((DRS(), POOR), tail=None))


def test_one_that_needs_no_weights_is_preferred_if_it_is_worth_nearly_as_much():
    def worth(low):
        return GOOD._replace(worth=Range(0.3, low, 0.3))

    weighted, alike, less = (DRS(), worth(0.2)), (SIR(), worth(0.181)), (SIR(), worth(0.179))
    assert table(weighted, alike).recommended == alike
    assert table(weighted, less).recommended == weighted
    assert table(weighted, (SIR(), worth(0.0))).recommended == weighted
    assert "recommended: SIR()\n" in str(table(weighted, alike))
    assert "recommended: DRS()\n" in str(table(weighted, less))


def test_of_equals_the_one_nearest_to_the_data_is_recommended():
    """Where OBRS's budget asks for nothing else, it does what DRS(gamma=0) does."""
    near = GOOD._replace(tv=Range(0.0, 0.0, 0.04))
    far, law, same = (DRS(), GOOD), (DRS(gamma=0.0), near), (OBRS(budget=0.05), near)
    a_bit_more = near._replace(worth=Range(0.2, 0.1502, 0.2), tv=Range(0.0, 0.0, 0.0401))
    assert table(far, law, same).recommended == law
    assert table(far, law, (OBRS(budget=0.05), a_bit_more)).recommended == law


SQUEEZED = Expected(
    0.01, Range(0.1, 0.05, 0.2), None, Range(0.2, 0.15, 0.2), calls=0.04, cost=0.05, search=1e6
)


def test_a_squeezed_row():
    rows = (DRS(gamma=0.0), BOUND), (drs.Squeeze(DRS(gamma=0.0)), SQUEEZED)
    shown = lines(*rows, n=1_000_000)
    assert re.split(r"  +", shown[3].strip())[:4] == ["squeezed", "1.00%", "4", "1.67 h"]
    assert shown[3].startswith("  squeezed ")
    assert lines(*rows, budget=1110.0)[3].split()[3] == "20,000"  # 10 s and 1,000 s are gone
    assert any("raised log_m" in line for line in shown)
    assert shown[-2:] == [
        "recommended: Squeeze(DRS(gamma=0.0))",
        "at least 150 effective samples in 1,000 calls (tail index 0.50)",
    ]


def test_many_calls():
    row = lines((MH(), Expected(1.0 / 12_345.6)))[2].split()
    assert row == ["MH()", "0.01%", "12,346", "-", "-", "-"]


def test_a_search_must_pay():
    """It takes a sixth of the work of a million samples, and nearly all that of a thousand."""
    without, squeezed = (SIR(), GOOD._replace(worth=Range(0.06, 0.06, 0.06))), (DRS(), SQUEEZED)
    assert table(without, squeezed).recommended == squeezed
    assert table(without, squeezed, n=1_000_000).recommended == squeezed
    assert table(without, squeezed, n=1_000).recommended == without
    assert table(without, squeezed, budget=5000.0).recommended == squeezed
    assert table(without, squeezed, budget=1100.0).recommended == without
    assert table(without, squeezed, budget=5.0).recommended == squeezed


def test_recommended_flags_are_those_of_generate():
    for sampler in (*compared.settings(), DRS(target_acceptance=0.1)):
        kind, flags = type(sampler), " ".join(advice.flags(sampler)).split()
        given = ["generate", "25gaussians", "-n", "1", "--out", "x", *flags]
        options = parser(given).parse_args(given)
        assert options.save[-1] == ("logit" if kind in (SIR, MH) else "weight")
        assert options.sampler == kind.__name__.lower()
        fields = {name: getattr(options, name) for name in advice.changed(sampler)}
        assert kind(**fields) == sampler
        assert eval(advice.name(sampler), vars(drs.samplers) | {kind.__name__: kind}) == sampler


@pytest.mark.parametrize("given", [{}, {"tolerance": 0.01, "unseen": 0.1, "use_bound": True}])
def test_recommended_flags_squeeze(given, monkeypatch):
    seen, sampler = [], drs.Squeeze(OBRS(budget=0.05), **given)
    monkeypatch.setattr(commands.engine, "generate", lambda gan, *given, **how: seen.append(given))
    flags = " ".join(advice.flags(sampler)).split()
    words = ["generate", "25gaussians", "-n", "1", "--out", "x", "--quiet", *flags]
    commands.run_generate(parser(words).parse_args(words))
    assert seen[0][0] == sampler


def test_what_is_compared():
    gan = plain(lambda x: x[:, 0])
    found = compare(gan, Rng(0), 1.0, None, None, DRS(percentile=90.0))
    bare = [each for each, _ in found.samplers if not isinstance(each, drs.Squeeze)]
    assert bare == [
        DRS(), DRS(percentile=95.0), DRS(gamma=0.0), MH(start="first"), OBRS(budget=0.05),
        OBRS(budget=0.1), OBRS(budget=0.2), SIR(), DRS(percentile=90.0),
    ]  # fmt: skip
    assert found.recommended is not None
    again = compare(gan, Rng(0), 1.0, None, None, DDLS())
    assert again.samplers == found.samplers[:-2]
    assert compare(gan, Rng(1), 1.0, None, None, None).samplers != again.samplers


def test_rows_are_those_of_a_burn_in_and_the_next(monkeypatch):
    seen = []
    gan = plain(lambda x: x[:, 0])
    monkeypatch.setattr(compared, "Pilot", lambda *logits: seen.append(logits) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare(gan, Rng(4), 1.0, None, None, None)
    ((burn_in, others),) = seen
    assert torch.equal(burn_in, DRS().init(gan, Rng(4)).logits)
    z = drs.ops.latents(gan, drs.Rng(4, BURN_IN_ROW + 10_000), len(others))
    assert torch.allclose(others, z[:, 0])


@pytest.mark.parametrize(
    ("rate", "budget", "rows"),
    [(1.0, None, 2**14), (20_000.0, None, 2**15), (1e9, None, 2**18), (100.0, 3600.0 * 10, 2**15)],
)
def test_a_faster_model_and_a_larger_budget_give_more_rows(rate, budget, rows):
    gan = plain(lambda x: x[:, 0])
    assert compare(gan, Rng(0), rate, None, budget, None).rows == rows


@pytest.mark.parametrize(
    ("given", "found"),
    [("90s", 90.0), ("30m", 1800.0), ("2h", 7200.0), ("1h30m", 5400.0), ("0.5h", 1800.0), (7, 7.0)],
)
def test_times(given, found):
    assert seconds(given) == found


@pytest.mark.parametrize("given", ["", "1", "m", "1d", "1m1h", "-1s", "0s", 0, -1.0, math.inf])
def test_what_is_no_time(given):
    with pytest.raises(ValueError, match="budget must be"):
        seconds(given)


def test_durations():
    assert [duration(s) for s in (0.5, 59.0, 60.0, 5400.0, math.inf)] == [
        "0.5 s", "59 s", "1 m", "1.5 h", "inf h",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "sampler", "budget"),
    [
        (["--budget", "1h"], DRS(), "1h"),
        (["--budget", "0.1"], DRS(), "0.1"),  # which plan refuses
        (["--budget", "0.1", "--sampler", "obrs"], OBRS(budget=0.1), None),
        (["--budget", "1h", "--sampler", "obrs"], OBRS(), "1h"),
        (["--squeeze"], drs.Squeeze(DRS()), None),
    ],
)
def test_what_the_command_plans(monkeypatch, flags, sampler, budget):
    seen = []

    def plan(gan, *given, **how):
        seen.append((*given, how))
        return drs.Plan("", "fp32", (), (), (), 4096, ())

    monkeypatch.setattr(commands, "plan", plan)
    options = parser(["plan", "25gaussians", *flags]).parse_args(["plan", "25gaussians", *flags])
    assert commands.run_plan(options) == 0
    assert seen[0][0] == sampler
    assert seen[0][1]["budget"] == budget
    assert seen[0][1]["squeeze"] is isinstance(sampler, drs.Squeeze)


def test_a_budget_that_is_no_time():
    with pytest.raises(ValueError, match="budget must be a time such as 90s"):
        drs.plan(plain(), budget="soon")
