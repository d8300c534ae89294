"""What a plan expects of a squeezed sampler, held against runs and against laws known exactly."""

import math
import re
import tempfile

import pytest
import torch
from hills import EXACT, hill
from planted_bounds import hurry

import drs_fast as drs
from drs_fast import Rng, ops, samplers
from drs_fast.run import advice, compared
from drs_fast.run.compared import compare
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.samplers.common.expected import Expected, Pilot, Range, rejection
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.obrs import OBRS
from drs_fast.squeeze import expected, remarks, search, work
from drs_fast.squeeze.outlook import outlook

N = 8_000
SQUEEZED = drs.Squeeze(EXACT, tolerance=0.05)


def pilot(gan):
    logit = burn_in(gan, Rng(0), 10_000 + 2**15)[0]
    return Pilot(logit[:10_000], logit[10_000:])


@pytest.fixture(scope="module")
def one():
    """What is expected, the state, and the facts of a run, by one search in a hurry."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        state = SQUEEZED.init(hill(), Rng(0))
        patch.setattr(drs.Squeeze, "init", lambda *given: state)
        with tempfile.TemporaryDirectory() as out:
            run = drs.generate(hill(), SQUEEZED, N, out=f"{out}/run", save=("x", "weight"))
        return SQUEEZED.expected(hill(), pilot(hill()), Rng(0)), state, run.manifest


def test_it_is_what_comes(one):
    """8,000 samples and 2^15 pilot rows: four standard errors of the ratios are 5 %.

    5 % of the samples may be lost.
    """
    found, state, facts = one
    assert found.acceptance == float(state.acceptance)
    assert N / facts["proposals"] == pytest.approx(found.acceptance, rel=0.1)
    assert facts["calls_per_sample"] == pytest.approx(found.calls / found.acceptance, rel=0.1)
    worth = facts["effective_samples"] / N / facts["calls_per_sample"]
    assert worth == pytest.approx(found.worth.value, rel=0.1)
    assert found.worth.low <= worth <= found.worth.high
    without = EXACT.expected(hill(), pilot(hill()), Rng(0))
    assert found.worth.low > 2.0 * without.worth.high  # a call is worth more
    assert found.tv.high >= without.tv.high + 0.8 * float(state.high)


def test_work_is_that_of_the_search(one):
    found, state, _ = one
    calls, without, squeezed, work = state.work.tolist()
    table = compared.Compared(((SQUEEZED, found),), 1, None, 1000.0, N, None)
    taken = table.seconds(found, N) - compared.BURN_IN / 1000.0
    assert taken * 1000.0 * (without / calls) == pytest.approx(work + N * squeezed)
    assert abs(table.within(found, table.seconds(found, N)) - N) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_no_law_with_such_a_loss_is_outside(seed):
    """Laws of 40 points; a bound may take what it likes of them, up to the loss."""
    u = ops.uniform(Rng(seed), 3 * 40, stream=1).view(3, 40)
    law, data = (part / part.sum() for part in (u[0] ** 3, u[1] ** 6))
    lost = 0.02
    worst = (law / data).sort(descending=seed % 2 == 0).indices  # raises or lowers the divergence
    left = lost - law[worst].cumsum(0) + law[worst]
    keeps = torch.ones_like(law)
    keeps[worst] = 1.0 - (left.clamp(min=0.0) / law[worst]).clamp(max=1.0)
    kept = law * (keeps if seed < 14 else 1.0 - 2.0 * lost * u[2])
    kept = kept / kept.sum()
    before, after = (
        (float((q - data).clamp(min=0.0).sum()), float(torch.special.xlogy(q, q / data).sum()))
        for q in (law, kept)
    )
    tv, kl = (Range(value, value, value) for value in before)
    most = float((law / data).log().max())
    wider = expected._distance(tv, lost), expected._divergence(kl, lost, most)
    for value, ends in zip(after, wider, strict=True):
        assert ends.low <= value <= ends.high


def test_weights_of_audited_rows_lower_the_worth(one):
    found, state, _ = one
    decides = EXACT.rejection(hill(), state.unbounded)
    usual = expected._inflation(decides, state)
    assert 1.0 < usual < 1.5
    rows = pilot(hill())
    p = ops.probability(rows.logit, log_m=state.log_m, gamma=0.0, eps=EXACT.eps)
    without = rejection(rows, p).worth.value
    assert found.worth.value * found.calls * usual == pytest.approx(without)
    lower = state.checked - torch.tensor([0.0, 2.0, 0.0])
    assert expected._inflation(decides, state._replace(checked=lower)) > 2.0 * usual
    higher = state.checked + torch.tensor([0.0, 90.0, 0.0])
    assert expected._inflation(decides, state._replace(checked=higher)) == 1.0


@pytest.mark.parametrize(
    ("given", "high", "samples", "squeezed", "why"),
    [
        ({"use_bound": False}, 0.0, 0.0, 0.1, remarks.REFUSED),
        ({}, 1.0, 0.0, 0.1, remarks.TOO_LONG),
        ({}, 0.1, 9.0, 0.1, remarks.NONE_FOUND),
        ({}, 0.0, 0.0, 0.1, remarks.NO_TIME),
        ({}, 0.0, 9.0, 1.1, remarks.TOO_LITTLE),
    ],
)
def test_why_there_is_no_bound(given, high, samples, squeezed, why, one, monkeypatch):
    number = torch.tensor
    state = one[1]._replace(
        high=number(high),
        samples=number(samples),
        margins=number([math.inf, math.inf]),
        work=number([9.0, 1.0, squeezed, 1.0]),
    )
    monkeypatch.setattr(drs.Squeeze, "init", lambda *given: state)
    unsqueezed = drs.Squeeze(EXACT, tolerance=0.05, **given)
    found = unsqueezed.expected(hill(), pilot(hill()), Rng(0))
    assert found.remark == why
    assert not found.promised
    assert unsqueezed.remark(state).startswith("squeeze: not used")


def test_every_rejection_sampler_has_a_row(monkeypatch):
    said, drawn = [], []

    def planned(self, gan, pilot, rng):
        drawn.append(self)
        return Expected(0.25, remark="no need")

    monkeypatch.setattr(drs.Squeeze, "expected", planned)
    own = drs.Squeeze(DRS(percentile=90.0), tolerance=0.01)
    found = compare(hill(), Rng(0), 1.0, None, None, own, squeeze=True, say=said.append)
    names = [advice.name(each) for each, _ in found.samplers]
    assert names == [
        "DRS()", "  squeezed", "DRS(percentile=95.0)", "  squeezed", "DRS(gamma=0.0)", "  squeezed",
        "MH(start='first')", "OBRS(budget=0.05)", "  squeezed", "OBRS(budget=0.1)", "  squeezed",
        "OBRS(budget=0.2)", "  squeezed", "SIR()", "DRS(percentile=90.0)", "  squeezed",
        "  squeezed, tolerance=0.01",
    ]  # fmt: skip
    assert drawn[-1] == own
    assert said[:2] == ["logits of a pilot", "search for a bound: Squeeze(DRS())"]
    assert len(said) == 1 + len(drawn)
    drawn.clear()
    without = compare(hill(), Rng(0), 1.0, None, None, DRS())
    assert drawn == []  # nothing is searched for
    assert [each for each, _ in without.samplers] == [each for each, _ in found.samplers[:-3]]
    assert f"{'  squeezed':<27}no bound: no need" in str(found)


def test_samplers_without_thresholds_that_stay_have_none(monkeypatch):
    monkeypatch.setattr(compared, "settings", lambda: [DRS(adapt="batch"), samplers.Latent()])
    assert compare(hill(), Rng(0), 1.0, None, None, None, squeeze=True).samplers == ()
    within = drs.Squeeze(DRS(classes="within"))
    assert within.expected(hill(), pilot(hill()), Rng(0)) is None
    assert drs.Squeeze(OBRS(burn_in=500)).expected(hill(), pilot(hill()), Rng(0)) is None


def test_the_most_that_a_bound_can_bring(monkeypatch):
    """What a search would decide without looking at a row, and else a limit to what it finds."""
    squeezed, found = drs.Squeeze(EXACT, tolerance=0.05), Expected(0.01)
    costs = work.Costs(row=1e3, call=1e8, tiny=1e3, large=1e4)
    most = outlook(squeezed, found, costs, torch.device("cpu"))
    assert most.gain == pytest.approx(1e8 * 100 / (1e8 + 100 * 3200.0), rel=0.01)
    assert most.search * 1e8 > search.LEAST_WORK
    table = compared.Compared(((EXACT, found), (squeezed, most)), 1, None, 1000.0, None, None)
    assert re.search(
        r"squeezed.* at most 99.7 times as fast; to see, --squeeze \(about", str(table)
    )
    assert "squeeze=True" in str(table)
    assert not most.promised
    for changed, acceptance, why in (
        ({"call": 1e3}, 0.01, remarks.TOO_LITTLE),
        ({"call": 1e5}, 0.5, remarks.NO_TIME),
        ({"call": 1e9}, 1e-4, remarks.TOO_LONG),
    ):
        given = costs._replace(**changed)
        assert outlook(squeezed, Expected(acceptance), given, torch.device("cpu")).remark == why
