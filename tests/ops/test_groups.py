"""chain, select and langevin: plain loops, laws, and the same bits from every backend."""

import inspect
import math

import agreement
import pytest
import torch
from agreement import (
    DTYPES,
    assert_same,
    mover,
    needs_cpu,
    noise,
    threads,
)
from scipy import stats

from drs_fast import Rng, backend, core, ops
from drs_fast.backends import cpu, reference

INF, NAN = math.inf, math.nan
ROWS = (0, 2**32 - 7, 2**63 - 2**20)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((0, 3), (1, 1), (257, 1), (1, 2), (5, 7), (130, 4), (2, 33))
# NumPy, which interprets Triton, warns of infinities and what comes of them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]


@pytest.fixture(params=["cpu", "triton"])
def agree(request):
    """agree(call): the backend gives the reference's bits; call(to) moves its tensors with to."""
    device = "cpu" if request.param == "cpu" else DEVICE
    reason = ops.available(device)[request.param]
    if reason is not None:
        pytest.skip(reason)
    return lambda call: agreement.assert_backends_agree(call, request.param, mover(device))


def groups(b, k, dtype=torch.float32, seed=0):
    """Logits with ties, NaN and infinities."""
    logit = (noise(b, k, seed=seed) * 4.0).round() / 2.0 - 1.0
    odd = noise(b, k, seed=seed + 1)
    for value, low in ((NAN, 1.4), (INF, 1.6), (-INF, 1.8), (3e4, 2.3), (-3e4, 2.5)):
        logit[odd > low] = value
    return logit.to(dtype)


def numbers(n, row):
    """Row numbers that are neither sorted nor close together."""
    return (torch.arange(n) * 7919 + row) ^ 5 if row < 2**62 else row + n - torch.arange(n)


def walked(logit, rng, **fields):
    """Where chains end, and how often they moved, (2, B)."""
    return torch.stack(ops.walk(logit, rng, **fields))


# The same in plain loops.


def slow_chain(logit, u, start):
    ends, counts = [], []
    for b in range(len(logit)):
        state, index, count = start[b], -1, 0
        for k, new in enumerate(logit[b]):
            if math.isnan(new) or new == INF:
                continue
            begins = math.isnan(state) or state == INF
            chance = 0.0 if new == -INF else math.exp(min(max(new - state, -700.0), 0.0))
            if begins or u[b][k] < chance:
                state, index, count = new, k, count + 1
        ends.append(index)
        counts.append(count)
    return [ends, counts]


def slow_select(logit, u, size, replace):
    drawn = []
    for b in range(len(logit)):
        top = max((x for x in logit[b] if x < INF), default=-INF)
        weight = [math.exp(max(x - top, -700.0)) if -INF < x < INF else 0.0 for x in logit[b]]
        drawn.append([])
        for j in range(size):
            target, passed, found = u[b][j] * sum_in_order(weight), 0.0, -1
            for k, w in enumerate(weight):
                passed += w
                if found < 0 and passed > target:
                    found = k
            if not replace and found >= 0:
                weight[found] = 0.0
            drawn[b].append(found)
    return drawn


def sum_in_order(values):
    total = 0.0
    for value in values:  # not sum(), which compensates
        total += value
    return total


def check_chain():
    logit, rng = groups(300, 12, seed=5), Rng(7, 2**40)
    logit[:2] = torch.tensor([NAN, -INF])[:, None]
    u = ops.uniform(rng, 3600, stream=core.CHAIN).view(300, 12).tolist()
    for start in (torch.full((300,), NAN), groups(300, 1, seed=9)[:, 0], torch.full((300,), -INF)):
        expected = slow_chain(logit.tolist(), u, start.tolist())
        found = walked(logit, rng, start=start)
        if found.tolist() != expected or not torch.equal(
            found[0], ops.chain(logit, rng, start=start)
        ):
            return False
    expected = slow_chain(logit.tolist(), u, [NAN] * 300)
    return walked(logit, rng).tolist() == expected


def check_select():
    logit, rng = groups(300, 12, seed=6), Rng(8, 2**40)
    first = rng.row + 12 * torch.arange(300)
    u = [ops.uniform(rng, 300, stream=core.SELECT, draw=j, ids=first) for j in range(14)]
    u = torch.stack(u, dim=1).tolist()
    return all(
        ops.select(logit, rng, size=size, replace=replace).tolist()
        == slow_select(logit.tolist(), u, size, replace)
        for size, replace in ((1, True), (3, True), (1, False), (14, False))
    )


def chi_square(counts, chances):
    """The p value; 0 if something impossible happened."""
    counts, chances = counts.double(), chances.double()
    possible = chances > 0
    if counts[~possible].sum():
        return 0.0
    expected = chances[possible] / chances.sum() * counts.sum()
    return stats.chisquare(counts[possible], expected).pvalue


# These seeds pass. Of other seeds a right op would fail one in 1,000: ten p-values are computed.
FALSE_ALARM, N = 1e-4, 50_000
LAW = torch.tensor([0.3, -1.0, -INF, 1.2, NAN, 0.0, -0.4])
CHANCES = torch.where(LAW.isfinite(), LAW, -INF).softmax(dim=0)


def check_chances():
    drawn = ops.select(LAW.expand(N, 7), Rng(11), size=2)
    one = torch.bincount(drawn[:, 1], minlength=7)
    pairs = torch.bincount(drawn[:, 0] * 7 + drawn[:, 1], minlength=49)
    both = (CHANCES[:, None] * CHANCES).flatten()
    return min(chi_square(one, CHANCES), chi_square(pairs, both)) > FALSE_ALARM


def check_chances_without_replacement():
    drawn = ops.select(LAW.expand(N, 7), Rng(12), size=2, replace=False)
    pairs = torch.bincount(drawn[:, 0] * 7 + drawn[:, 1], minlength=49)
    ordered = CHANCES[:, None] * CHANCES / (1.0 - CHANCES[:, None])
    return chi_square(pairs, ordered.fill_diagonal_(0.0).flatten()) > FALSE_ALARM


def check_transition():
    """From a state with logit 0, a candidate with logit d < 0 is taken with probability exp(d)."""
    pvalues = []
    for i, d in enumerate((-0.1, -1.0, -2.5)):
        index = ops.chain(torch.full((N, 1), d), Rng(13, N * i), start=torch.zeros(N))
        chances = torch.tensor([1.0 - math.exp(d), math.exp(d)])
        pvalues.append(chi_square(torch.bincount(index + 1, minlength=2), chances))
    return min(pvalues) > FALSE_ALARM


def check_stationary():
    """With candidates from one law, weighted by another, the chain's end follows the product."""
    law = torch.tensor([-1.0, 0.0, 1.0])
    which = (ops.uniform(Rng(14), 40 * 5_000, stream=0) * 3).long()
    ends = ops.chain(law[which].view(5_000, 40), Rng(14))
    ended = which.view(5_000, 40).gather(1, ends[:, None])[:, 0]
    counts = torch.bincount(ended, minlength=3)
    return chi_square(counts, law.softmax(0)) > FALSE_ALARM


def check_noise():
    """Steps 3 and 4 add independent normals of the right variance."""
    z, grad = noise(N // 5, 5), noise(N // 5, 5, seed=1)
    bins, residuals = [], []
    for step in (3, 4):
        moved = ops.langevin(z, grad, Rng(15), step=step, step_size=0.09, noise=0.5)
        residual = (moved - z - 0.045 * grad) / 0.15
        u = torch.special.ndtr(residual.double()).flatten()
        residuals.append(residual)
        bins.append((u * 8).long())
    single = torch.bincount(bins[0], minlength=8)
    pairs = torch.bincount(bins[0] * 8 + bins[1], minlength=64)
    across = torch.bincount(bins[0][:-1] * 8 + bins[0][1:], minlength=64)
    return (
        min(
            chi_square(single, torch.ones(8)),
            chi_square(pairs, torch.ones(64)),
            chi_square(across, torch.ones(64)),
        )
        > FALSE_ALARM
    )


def check_steps():
    """The expected bits, computed from the contract."""
    for d in (1, 4, 6):
        z, grad, rng = noise(50, d), noise(50, d, seed=1), Rng(16, 2**50)
        for step in (0, 5):
            normal = ops.normal(rng, 50, d, stream=core.NOISE, draw=step * math.ceil(d / 4))
            half = torch.tensor(0.1 / 2, dtype=torch.float32)
            scale = torch.tensor(0.7 * math.sqrt(0.1), dtype=torch.float32)
            moved = ops.langevin(z, grad, rng, step=step, step_size=0.1, noise=0.7)
            if not torch.equal(moved, (z + half * grad) + scale * normal):
                return False
    return True


CHECKS = [
    check_chain, check_transition, check_stationary, check_select, check_chances,
    check_chances_without_replacement, check_noise, check_steps,
]  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param("cpu", marks=needs_cpu), "reference"])
@pytest.mark.parametrize("check", CHECKS)
def test_checks_pass_without_a_fault(name, check):
    with backend(name):
        assert check()


FAULTS = [
    ("walk", "u[:, k]", "u[:, 0]", check_chain),
    ("walk", "stream=CHAIN", "stream=SELECT", check_chain),
    ("walk", "exponential(d)[0]", "exponential(d)[0] * 0.9", check_transition),
    ("walk", "exponential(d)[0]", "torch.sigmoid(d)", check_stationary),
    ("walk", "current = torch.where(moves, new, current)", "", check_stationary),
    ("walk", "moves |= _valid(new) & ~_valid(current)", "", check_chain),
    ("walk", "_valid(new) &", "", check_chain),
    ("walk", "torch.isfinite(new) &", "_valid(new) &", "zero"),
    ("walk", "count += moves", "count += moves & torch.isfinite(current)", check_chain),
    ("select", "draw=draw", "draw=0", check_chances),
    ("select", "[::candidates]", "[:groups]", check_select),
    ("select", "stream=SELECT", "stream=CHAIN", check_select),
    ("select", "total <= ", "total < ", "zero"),
    ("select", "exponential(wide - top)[0]", "exponential(0.97 * (wide - top))[0]", check_chances),
    ("select", "_valid(wide), wide", "wide > -torch.inf, wide", check_select),
    ("select", "if not replace", "if False", check_chances_without_replacement),
    ("select", "index, 0)[:, None], 0.0", "index, 0)[:, None], 0.1",
     check_chances_without_replacement),
    ("select", "torch.where(drawn, index, -1)", "index.clamp(max=candidates - 1)", check_select),
    ("langevin", "step * -(-d // 4)", "step", check_steps),
    ("langevin", "step * -(-d // 4)", "0", check_noise),
    ("langevin", "NOISE", "ACCEPT", check_steps),
    ("langevin", "(z + drift * grad) + scale * noise", "z + (drift * grad + scale * noise)",
     check_steps),
    ("langevin", "scale * noise", "scale * noise * 1.03", check_noise),
    ("langevin", "drift * grad", "2.0 * drift * grad", check_noise),
]  # fmt: skip


def check_zero(monkeypatch):
    """u = 0, which happens once in 2^53 rows, must not draw a candidate of weight 0."""
    zeros = lambda rng, ids, n, **kwargs: torch.zeros(n, dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr(reference, "uniform", zeros)
    logit = torch.tensor([[-INF, NAN, 1.0, -300.0, -INF]])
    moved = ops.chain(logit, Rng(0), start=torch.zeros(1)).tolist()
    return moved == [3] and ops.select(logit, Rng(0)).tolist() == [[2]]


def test_nothing_impossible_comes_with_u_of_zero(monkeypatch):
    with backend("reference"):
        assert check_zero(monkeypatch)


@pytest.mark.parametrize(("op", "right", "wrong", "check"), FAULTS)
def test_checks_catch_planted_faults(monkeypatch, fresh_dispatch, op, right, wrong, check):
    source = inspect.getsource(getattr(reference, op))
    assert right in source
    monkeypatch.setattr(reference, op, None)  # so that the right one comes back
    exec(source.replace(right, wrong), vars(reference))
    with backend("reference"):
        assert not (check_zero(monkeypatch) if check == "zero" else check())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chains_of_every_backend(agree, shape, dtype):
    b, k = shape
    logit, rng = groups(*shape, dtype, seed=b), Rng(2**64 - 3, ROWS[k % 3])
    agree(lambda to: walked(to(logit), rng))
    start, ids = groups(b, 1, dtype, seed=3)[:, 0], numbers(b * k, rng.row)
    agree(lambda to: walked(to(logit), rng, start=to(start), ids=to(ids)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_selections_of_every_backend(agree, shape, dtype):
    b, k = shape
    logit, rng = groups(*shape, dtype, seed=b), Rng(2**63, ROWS[k % 3])
    ids = numbers(b * k, rng.row)
    agree(lambda to: ops.select(to(logit), rng, size=2))
    agree(lambda to: ops.select(to(logit), rng, size=min(k + 1, 4), replace=False, ids=to(ids)))


def test_many_candidates_of_every_backend(agree):
    logit, start = groups(3, 160, torch.float64, seed=4), torch.tensor([0.0, -INF, INF]).double()
    agree(lambda to: walked(to(logit), Rng(5), start=to(start)))
    agree(lambda to: ops.select(to(logit), Rng(5), size=3))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 300.0, 1e305])
def test_chains_of_every_scale(agree, scale):
    """Cases in which exp(d) is 1, exp(d) is least, and d is infinite."""
    logit = noise(40, 30, seed=8).double() * scale
    agree(lambda to: walked(to(logit), Rng(6)))
    agree(lambda to: ops.select(to(logit), Rng(6), size=3))


def test_chains_next_to_the_threshold(agree):
    """Cases where u and exp(d) differ by their last bits or not at all, with both decisions."""
    rng, n = Rng(17), 256
    d = ops.uniform(rng, n, stream=core.CHAIN).log()
    moved = []
    for ulps in range(-2, 3):
        logit = (d + ulps * 2.0**-52)[:, None]
        ends = agree(lambda to, logit=logit: walked(to(logit), rng, start=to(torch.zeros(n))))
        moved.append(int((ends[0] == 0).sum()))
    assert moved[0] < n // 2 < moved[-1]


@pytest.mark.parametrize("values", [(NAN,), (-INF,), (INF, -INF, NAN), (INF, NAN, 2.0, NAN)])
def test_groups_of_odd_values_alone(agree, values):
    logit = torch.tensor(values).expand(9, len(values))
    first = next((k for k, value in enumerate(values) if value < INF), -1)
    finite = next((k for k, value in enumerate(values) if math.isfinite(value)), -1)
    assert agree(lambda to: walked(to(logit), Rng(0)))[0].tolist() == [first] * 9
    start = torch.full((9,), -INF)
    found = agree(lambda to: walked(to(logit), Rng(0), start=to(start)))
    assert found.tolist() == [[finite] * 9, [int(finite >= 0)] * 9]
    found = agree(lambda to: ops.select(to(logit), Rng(0), size=2, replace=False))
    assert found.tolist() == [[finite, -1]] * 9


@needs_cpu
@pytest.mark.parametrize("k", [2, 640])
def test_threads_share_groups(k):
    logit, rng = groups(-(-40_000 // k), k, seed=k), Rng(9, 2**62)
    calls = [
        lambda: walked(logit, rng),
        lambda: ops.select(logit, rng, size=2),
        lambda: ops.select(logit, rng, size=2, replace=False),
    ]
    for call in calls:
        with backend("reference"):
            expected = call()
        for n in (1, 2, 3):
            with threads(n), backend("cpu"):
                assert_same(call(), expected)


@needs_cpu
def test_threads_share_steps():
    z, grad = noise(9001, 7), noise(9001, 7, seed=1)
    with backend("reference"):
        expected = ops.langevin(z, grad, Rng(3), step=2, step_size=0.1)
    for n in (1, 2, 3):
        with threads(n), backend("cpu"):
            assert_same(ops.langevin(z, grad, Rng(3), step=2, step_size=0.1), expected)


@needs_cpu
@pytest.mark.parametrize("name", cpu._C.instruction_sets() if cpu._C else [])
def test_every_instruction_set_gives_the_bits_of_the_reference(name):
    before, logit = cpu.instruction_set(), groups(50, 70, torch.float64)
    with backend("reference"):
        expected = walked(logit, Rng(1)), ops.select(logit, Rng(1), size=3)
    try:
        cpu._C.use_instruction_set(name)
        with backend("cpu"):
            assert_same(walked(logit, Rng(1)), expected[0])
            assert_same(ops.select(logit, Rng(1), size=3), expected[1])
    finally:
        cpu._C.use_instruction_set(before)


@pytest.mark.parametrize("d", [0, 1, 2, 3, 4, 6, 37, 130])
@pytest.mark.parametrize("row", ROWS)
def test_steps_of_every_backend(agree, d, row):
    z, grad, ids = noise(20, d), noise(20, d, seed=1) * 9.0, numbers(20, row)
    grad[:1], z[1:2] = INF, -0.0
    rng = Rng(2**64 - 3, row)
    agree(lambda to: ops.langevin(to(z), to(grad), rng, step=0, step_size=0.01))
    agree(lambda to: ops.langevin(to(z), to(grad), rng, step=9, step_size=0.3, ids=to(ids)))
    agree(lambda to: ops.langevin(to(z), to(grad), rng, step=2**20, step_size=2, noise=0))


def test_tensors_of_any_stride(agree):
    logit, z = noise(14, 6, seed=2)[::2, ::3], noise(5, 8).T
    agree(lambda to: walked(to(logit), Rng(4), start=to(logit)[:, 1]))
    agree(lambda to: ops.select(to(logit), Rng(4)))
    agree(lambda to: ops.langevin(to(z), to(z), Rng(4), step=1, step_size=0.5))


def test_a_group_does_not_depend_on_the_others():
    logit, rng = groups(60, 9), Rng(1, 500)
    rows = rng.row + torch.arange(540).view(60, 9)
    order = noise(60).argsort()
    ids = rows[order].flatten()
    assert_same(ops.chain(logit[order], rng, ids=ids), ops.chain(logit, rng)[order])
    drawn = ops.select(logit[order], rng, size=3, ids=ids)
    assert_same(drawn, ops.select(logit, rng, size=3)[order])
    assert_same(ops.chain(logit[20:], rng.at(500 + 180)), ops.chain(logit, rng)[20:])
    assert_same(ops.select(logit[20:], rng.at(500 + 180)), ops.select(logit, rng)[20:])


def test_the_last_rows():
    logit = noise(3, 5)
    ops.chain(logit, Rng(0, 2**63 - 15))
    for call in (ops.chain, ops.select):
        with pytest.raises(ValueError, match=r"pass 2\^63; start at a smaller row"):
            call(logit, Rng(0, 2**63 - 14))


LOGIT, Z, RNG = torch.zeros(4, 3), torch.zeros(4, 6), Rng(0)
WRONG = [
    (lambda: ops.chain([[0.0]], RNG), r"logit must be .* \(B, K\): float16.* got list"),
    (lambda: ops.select(LOGIT.long(), RNG), r"logit must be .*, got \(4, 3\) int64"),
    (lambda: ops.chain(LOGIT[:, 0], RNG), r"\(B, K\) with K >= 1, got \(4,\); write logit.view\("),
    (lambda: ops.select(LOGIT[:, :0], RNG), r"\(B, K\) with K >= 1, got \(4, 0\)$"),
    (
        lambda: ops.chain(LOGIT.to("meta"), RNG),
        r"logit must be a dense tensor of numbers, got .* on meta",
    ),
    (lambda: ops.chain(LOGIT, 0), r"rng must be drs.Rng\(seed, row\), got 0"),
    (lambda: ops.chain(LOGIT, RNG, ids=torch.arange(4)), r"ids must be \(12,\) int64, got \(4,\)"),
    (
        lambda: ops.select(LOGIT, RNG, ids=-torch.arange(12)),
        "ids must be row numbers >= 0, got -11",
    ),
    (lambda: ops.chain(LOGIT, RNG, start=0.0), r"start must be \(B,\) floating-point .* got 0.0"),
    (lambda: ops.chain(LOGIT, RNG, start=LOGIT), r"start must be \(4,\) .* got \(4, 3\) float32"),
    (lambda: ops.chain(LOGIT, RNG, start=LOGIT[:, 0].int()), r"start must be .* got \(4,\) int32"),
    (lambda: ops.select(LOGIT, RNG, size=0), "size must be an integer in .1, 2.32., got 0"),
    (lambda: ops.select(LOGIT, RNG, size=1.5), "size must be an integer in .1, 2.32., got 1.5"),
    (lambda: ops.select(LOGIT, RNG, replace=1), "replace must be True or False, got 1"),
    (lambda: step(z=Z.double()), r"z must be \(n, d\) float32, got \(4, 6\) float64"),
    (lambda: step(z=Z[0]), r"z must be \(n, d\) float32, got \(6,\) float32"),
    (lambda: step(grad=None), r"grad must be \(n, d\) float32, got NoneType"),
    (lambda: step(grad=Z[:, :5]), r"grad must be \(4, 6\) on cpu, got \(4, 5\) float32"),
    (lambda: step(step=-1), "step must be an integer >= 0, got -1"),
    (lambda: step(step=0.0), "step must be an integer >= 0, got 0.0"),
    (lambda: step(step=2**31), "step must be below 2147483648 for 6 columns, got 2147483648"),
    (lambda: step(step_size=-0.1), "step_size must be a finite number in .0, 1e.18., got -0.1"),
    (lambda: step(step_size=NAN), "step_size must be a finite number in .0, 1e.18., got nan"),
    (lambda: step(step_size=Z), "step_size must be a finite number in .0, 1e.18., got .4, 6."),
    (lambda: step(noise=INF), "noise must be a finite number in .0, 1e.18., got inf"),
]


def step(z=Z, grad=Z, step=0, step_size=0.1, **kwargs):
    return ops.langevin(z, grad, RNG, step=step, step_size=step_size, **kwargs)


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_arguments_say_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_last_step_and_the_largest_numbers():
    assert step(step=2**31 - 1).isfinite().all()
    assert step(step_size=1e18, noise=1e18).isfinite().all()


def test_gradients_are_not_followed():
    logit = LOGIT.clone().requires_grad_()
    moved = ops.langevin(logit, logit, RNG, step=0, step_size=0.1)
    assert not moved.requires_grad
    ops.chain(logit, RNG, start=logit[:, 0])


@pytest.mark.parametrize("op", ["walk", "select", "langevin"])
def test_a_backend_without_the_op_is_passed_over(monkeypatch, fresh_dispatch, op):
    calls = {
        "walk": lambda: walked(LOGIT, RNG),
        "select": lambda: ops.select(LOGIT, RNG),
        "langevin": step,
    }
    with backend("reference"):
        expected = calls[op]()
    monkeypatch.delattr(cpu, op)
    assert_same(calls[op](), expected)
    with backend("cpu"), pytest.raises(RuntimeError) as caught:
        calls[op]()
    reason = cpu.refuses(torch.device("cpu")) or f"has no {op}()"
    assert str(caught.value) == f"no backend can run {op}() on cpu:\n  cpu: {reason}"
