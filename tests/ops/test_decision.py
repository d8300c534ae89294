"""The accept decision: against 50 digits, next to the threshold, and with planted faults."""

import math
import random

import mpmath
import pytest
import torch
from agreement import needs_cpu, threads, wide
from philox import uniform_of_row

from drs_fast import Rng, backend, ops
from drs_fast.backends import reference
from drs_fast.ops import checks

BACKENDS = ("reference", pytest.param("cpu", marks=needs_cpu))
EPSILONS = (0.0, 1e-14, 1e-8, 1e-6, 1e-3)
GAMMAS = (-60.0, -50.0, -39.2, -20.0, -3.0, 0.0, 1.0, 8.0, 20.0, 25.0)
mp = mpmath.MPContext()
mp.dps = 50


def oracle(d, gamma, eps):
    """sigmoid(F) of doubles, to 50 digits."""
    rest = mp.exp(-mp.mpf(d)) - mp.exp(-mp.mpf(eps))
    return 1 / (1 + mp.exp(mp.mpf(gamma)) * max(rest, mp.mpf(0)))


def thresholds(log_m, gamma, eps):
    """log_m, c1 and s as passed to the backends."""
    exponential = reference.exponential
    return wide(log_m), exponential(wide(gamma))[0], -exponential(wide(-eps))[1]


def grid(gamma, eps):
    """Critical values of d: both ends, the maximum, near eps, and where p is near 1/2."""
    draw = random.Random(f"{gamma} {eps}")
    half = -math.log(math.exp(-gamma) + math.exp(-eps))  # p = 1/2
    points = [-700.0, -699.5, 5.0, 0.0, -0.0, -5e-324, -1e-300, -1e-17, -1e-9, half]
    points += [-(2.0**k) for k in range(-30, 10)] + [2.0**k for k in range(-30, 3)]
    points += [half + draw.gauss(0, 1) for _ in range(10)]
    points += [draw.uniform(-700, 5) for _ in range(20)] + [draw.uniform(-60, 1) for _ in range(20)]
    points += [f * math.log(2) for f in (-0.5, 0.5, -1.5, 1.5, -99.5)]  # ends of the polynomial
    return [d for d in points if -700.0 <= d <= 5.0]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("eps", EPSILONS)
def test_probability_against_fifty_digits(name, eps):
    worst = 0.0
    for gamma in GAMMAS:
        d = [x for x in grid(gamma, eps) if not 0.0 < x < 2 * eps]
        with backend(name):
            p = ops.probability(wide(d), log_m=0.0, gamma=gamma, eps=eps).tolist()
        errors = [abs(mp.mpf(x) - oracle(y, gamma, eps)) for x, y in zip(p, d, strict=True)]
        worst = max(worst, float(max(errors)))
    assert worst < 1e-12


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("eps", EPSILONS[1:])
def test_probability_between_the_maximum_and_eps(name, eps):
    # Here s + (1 - s)(-q) cancels: its error is an ulp of eps, which c1 magnifies.
    for gamma in GAMMAS:
        d = [eps * f for f in (1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 1e-9, 1.0, 1 + 1e-9, 1.1, 1.999)]
        with backend(name):
            p = ops.probability(wide(d), log_m=0.0, gamma=gamma, eps=eps).tolist()
            w = ops.weight(wide(d), log_m=0.0, gamma=gamma, eps=eps).tolist()
        allowed = 1e-12 + 2.0**-52 * eps * math.exp(gamma)
        for x, weight, y in zip(p, w, d, strict=True):
            expected = oracle(y, gamma, eps)
            assert abs(mp.mpf(x) - expected) < allowed
            assert abs(mp.mpf(weight) - mp.exp(mp.mpf(y)) / expected) < allowed


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("eps", EPSILONS)
def test_weight_against_fifty_digits(name, eps):
    """It is exp(d) over the probability, and max(1, exp(d)) where gamma and eps are 0."""
    for gamma in GAMMAS:
        d = [x for x in grid(gamma, eps) if not 0.0 < x < 2 * eps]
        with backend(name):
            w = ops.weight(wide(d), log_m=0.0, gamma=gamma, eps=eps).tolist()
        for x, y in zip(w, d, strict=True):
            expected = mp.exp(mp.mpf(y)) / oracle(y, gamma, eps)
            assert abs(mp.mpf(x) - expected) < 1e-12 * expected
            if gamma == eps == 0.0:
                assert x == pytest.approx(max(1.0, math.exp(y)), rel=1e-14)


@pytest.mark.parametrize("name", BACKENDS)
def test_weight_far_away(name):
    """A row far below is as likely accepted as it is rare; one that is never accepted weighs 0."""
    logit = wide([-1e300, -torch.inf, torch.inf, torch.nan])
    with backend(name):
        assert ops.weight(logit, log_m=0.0, gamma=2.0).tolist() == [
            pytest.approx(math.exp(2.0), rel=1e-15), 0.0, 0.0, 0.0,
        ]  # fmt: skip


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_probability_of_every_dtype_is_that_of_its_exact_value(name, dtype):
    logit = torch.linspace(-30, 3, 101).to(dtype)
    log_m = 2.718281828459045
    with backend(name):
        p = ops.probability(logit, log_m=log_m, gamma=-4.0, eps=1e-6)
    d = [mp.mpf(value) - mp.mpf(log_m) for value in logit.double().tolist()]
    expected = wide([float(oracle(x, -4.0, 1e-6)) for x in d])
    assert float((p - expected).abs().max()) < 2e-15


@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("gamma", [-50.0, -8.0, 0.0, 5.0, 25.0])
def test_decide_is_right_up_to_the_last_bits_of_u(gamma, eps):
    draw = random.Random(f"{gamma} {eps}")
    half = -math.log(math.exp(-gamma) + math.exp(-eps))
    d = [min(half + draw.gauss(0, 2), -1e-12) for _ in range(150)]
    p = [oracle(x, gamma, eps) for x in d]
    for k in (-(2**20), -64, -8, 8, 64, 2**20):
        u = [int(mp.nint(x * 2**53)) + k for x in p]
        inside = [0 <= k < 2**53 for k in u]
        found = reference.decide(
            wide(d), wide([float(x * 2.0**-53) for x in u]), *thresholds(0.0, gamma, eps)
        )
        for keep, ok in zip(found.tolist(), inside, strict=True):
            assert not ok or keep == (k < 0)


def solved(logit_of, low, high, u, dtype, steps=130):
    """The largest logits in [low, high] whose probability is at most u, by bisection on values."""
    low = torch.full_like(u, low).to(dtype)
    high = torch.full_like(u, high).to(dtype)
    for _ in range(steps):
        middle = (low.double() / 2 + high.double() / 2).to(dtype)
        below = logit_of(middle) <= u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


def moved(logit, steps):
    towards = torch.full_like(logit, math.inf if steps > 0 else -math.inf)
    for _ in range(abs(steps)):
        logit = torch.nextafter(logit, towards)
    return logit


def assert_equal_decisions(logit, rng, u=None, **kwargs):
    """u: the rows' uniforms, if the caller already has them from the reference."""
    with backend("reference"):
        if u is None:
            expected = ops.accept(logit, rng, **kwargs)
        else:
            log_m, gamma, s = checks.threshold(
                logit, kwargs["log_m"], kwargs["gamma"], kwargs["eps"]
            )
            expected = reference.decide(logit, u, log_m, reference.power(gamma), s)
    with backend("cpu"):
        found = ops.accept(logit, rng, **kwargs)
        compacted = ops.accept_compact(logit, rng=rng, **kwargs)
    assert torch.equal(expected, found)
    ids = torch.arange(len(logit)) + rng.row if kwargs.get("ids") is None else kwargs["ids"]
    assert torch.equal(compacted.ids[: int(compacted.count)], ids[expected])
    return found


ADVERSARIAL = 12_000  # rows of each case; more than 10^5 in all, for either width of logits


@needs_cpu
@pytest.mark.parametrize("row", [0, 2**32 - 1000])
@pytest.mark.parametrize("per_row", [False, True], ids=["scalar", "per row"])
@pytest.mark.parametrize(
    ("gamma", "eps"), [(-50.0, 1e-6), (-8.0, 0.0), (0.0, 1e-6), (5.0, 1e-14), (25.0, 1e-9)]
)
def test_float64_logits_next_to_the_threshold(gamma, eps, per_row, row):
    rng, n = Rng(77, row), ADVERSARIAL
    with backend("reference"):
        u = ops.uniform(rng, n, stream=1)
    log_m, gammas = 0.0, gamma  # no digit of d is lost, however small
    if per_row:
        log_m = ops.normal(Rng(1), n, 1)[:, 0].double()
        gammas = gamma + ops.normal(Rng(2), n, 1)[:, 0].double()
    kwargs = {"log_m": log_m, "gamma": gammas, "eps": eps}
    with backend("cpu"):
        logit = solved(lambda x: ops.probability(x, **kwargs), -140.0, 10.0, u, torch.float64)
    masks = [assert_equal_decisions(moved(logit, k), rng, u, **kwargs) for k in range(-2, 3)]
    accepted = torch.stack(masks).double().sum(0)
    # The threshold lies among the five for many rows.
    assert 0.0 < float(accepted.mean()) < 5.0
    flips = (accepted > 0) & (accepted < 5)
    assert float(flips.double().mean()) > 0.3
    with backend("cpu"):
        distance = (ops.probability(logit, **kwargs) - u).abs()
    assert per_row or float(distance.max()) < 1e-13


@needs_cpu
@pytest.mark.parametrize(
    ("log_m", "gamma", "eps"),
    [
        (0.0, 0.0, 0.0),
        (0.1, 0.0, 1e-6),
        (7.123456789, -3.0, 1e-3),
        (-300.7, 5.0, 1e-14),
        (1e4 + 0.1, 20.0, 1e-6),
        (2.5, -39.0, 1e-6),  # c1 near either end of what the float32 filter takes
        (2.5, 39.0, 0.0),
        (2.5, -39.2, 1e-6),
        (1e-30, 1.0, 1e-9),
        (33554433.0, 0.0, 1e-6),
    ],
)
def test_float32_filter_never_flips(log_m, gamma, eps):
    # Distances from the threshold of 0, 1, 2, 3, 4, 6, 8, ... units in the last place: the nearest
    # possible logits first, then, all at once, those where the filter begins to be sure.
    rng, n = Rng(5, 2**32 - 5000), ADVERSARIAL
    with backend("reference"):
        u = ops.uniform(rng, n, stream=1)
    kwargs = {"log_m": log_m, "gamma": gamma, "eps": eps}
    low, high = log_m - 150.0, log_m + 5.0
    with backend("cpu"):
        logit = solved(lambda x: ops.probability(x, **kwargs), low, high, u, torch.float32)
    pattern = logit.view(torch.int32)
    sign = torch.where(logit < 0, -1, 1).to(torch.int32)
    shares = {}
    for size in sorted({0, 1, 2, 3, *(int(2 ** (j / 2)) for j in range(4, 38))}):
        for k in {-size, size}:
            near = (pattern + k * sign).view(torch.float32)
            near = torch.where((near.sign() == logit.sign()) & near.isfinite(), near, logit)
            shares[k] = float(assert_equal_decisions(near, rng, u, **kwargs).double().mean())
    # The threshold lies between 0 and 1 for all rows; below, a mixture of either side.
    assert shares[-1] <= shares[0] < 0.01
    assert shares[1] > 0.99
    above = (pattern + sign).view(torch.float32)
    mixed = torch.where(torch.arange(n) % 3 == 0, above, logit)
    share = float(assert_equal_decisions(mixed, rng, u, **kwargs).double().mean())
    assert 0.3 < share < 0.4


@needs_cpu
def test_float32_filter_at_the_ends_of_u():
    # Rows whose u is below 2^-11 or above 1 - 2^-11, where the filter hands over to float64.
    u = ops.uniform(Rng(1), 4_000_000, stream=1)
    ids = ((u < 2.0**-11) | (u > 1 - 2.0**-11)).nonzero()[:, 0]
    u = u[ids]
    assert len(ids) > 3000
    for gamma in (-8.0, 0.0, 8.0):
        kwargs = {"log_m": 0.7, "gamma": gamma, "eps": 1e-6}
        logit = solved(lambda x, kw=kwargs: ops.probability(x, **kw), -60.0, 5.0, u, torch.float32)
        for k in (-300, -30, -2, -1, 0, 1, 2, 30, 300):
            assert_equal_decisions(moved(logit, k), Rng(1), u, ids=ids, **kwargs)


def mixed_logits(n, row, log_m, dtype):
    """Ordinary, near-maximum, very low, huge, too large, NaN and infinite logits, mixed."""
    z = ops.normal(Rng(99, row), n, 1)[:, 0].double()
    u = ops.uniform(Rng(99, row), n, stream=4)
    which = (ops.uniform(Rng(99, row), n, stream=6) * 64).long()
    logit = log_m - 3.0 + 2.0 * z
    logit = torch.where((which >= 16) & (which < 32), log_m - 1e-3 * u, logit)
    logit = torch.where((which >= 32) & (which < 48), log_m - 60.0 * u, logit)
    logit = torch.where(which == 48, log_m + 3.0 * u, logit)
    logit = torch.where(which == 49, log_m + 1e-6 * u, logit)
    logit = torch.where(which == 50, torch.where(z > 0, 3e38, -3e38), logit)
    logit = torch.where(which == 51, log_m - 800.0 * u, logit)
    logit = torch.where(which == 52, torch.full_like(logit, log_m), logit)
    # Special values in one of 64 stretches of rows, so that whole vectors are without them too.
    special = (torch.arange(n) + row) // 4096 % 64 == 7
    for value, k in ((torch.nan, 53), (torch.inf, 54), (-torch.inf, 55)):
        logit = torch.where(special & (which == k), value, logit)
    return logit.to(dtype)


def compare_masks(rows_per_block):
    accepted = row = 0
    for gamma in (-200.0, -50.0, -8.0, 0.0, 5.0, 20.0, 25.0):
        for eps in (0.0, 1e-14, 1e-9, 1e-6):
            dtype = torch.float64 if eps == 1e-9 else torch.float32
            end = row + rows_per_block
            while row < end:
                n = min(1_000_000, end - row)
                logit, rng = mixed_logits(n, row, 1.2345, dtype), Rng(31, row)
                kwargs = {"log_m": 1.2345, "gamma": gamma, "eps": eps}
                with threads(2):
                    accepted += int(assert_equal_decisions(logit, rng, **kwargs).sum())
                row += n
    return accepted / row


@needs_cpu
def test_five_million_decisions_are_equal():
    assert 0.2 < compare_masks(5_000_000 // 28) < 0.8


@needs_cpu
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_million_decisions_are_equal():
    assert 0.2 < compare_masks(100_000_000 // 28 + 1) < 0.8


SPECIAL = [  # logit - log_m, gamma, eps, accepted of 64 rows, invalid, above
    (math.nan, 0.0, 1e-6, 0, 64, 0),
    (math.inf, 0.0, 1e-6, 0, 64, 0),
    (math.nan, -600.0, 1.0, 0, 64, 0),
    (math.inf, -600.0, 1.0, 0, 64, 0),
    (-math.inf, 0.0, 1e-6, 0, 0, 0),
    (-math.inf, -600.0, 1.0, 0, 0, 0),
    (0.0, 0.0, 0.0, 64, 0, 0),
    (0.0, 600.0, 0.0, 64, 0, 0),
    (-0.0, 25.0, 0.0, 64, 0, 0),
    (0.0, 600.0, 1e-6, 0, 0, 0),
    (0.0, -600.0, 1e-6, 64, 0, 0),
    (2e-6, 0.0, 1e-6, 64, 0, 64),
    (1e-6, 10.0, 1e-6, 64, 0, 64),
    (1e-7, 0.0, 1e-6, 64, 0, 64),
    (5.0, 600.0, 1e-6, 64, 0, 64),
    (1e-3, 600.0, 0.0, 64, 0, 64),
    (1e30, 0.0, 0.0, 64, 0, 64),
    (1e30, 600.0, 1e-3, 64, 0, 64),
    (-1e30, 0.0, 1e-6, 0, 0, 0),
    (-700.0, 600.0, 1e-6, 0, 0, 0),
    (-300.0, -600.0, 1e-6, 64, 0, 0),
    (-1e-3, 600.0, 1e-6, 0, 0, 0),
    (-50.0, -60.0, 1e-6, 64, 0, 0),
    (-1.0, 0.0, 1.0, 16, 0, 0),
]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "gamma", "eps", "accepted", "invalid", "above"), SPECIAL)
def test_special_values(name, dtype, d, gamma, eps, accepted, invalid, above):
    logit = torch.full((64,), d, dtype=dtype)
    kwargs = {"log_m": 0.0, "gamma": gamma, "eps": eps}
    with backend(name):
        keep = ops.accept(logit, Rng(3), **kwargs)
        out = ops.accept_compact(logit, rng=Rng(3), **kwargs)
        p = ops.probability(logit, **kwargs)
    assert (int(keep.sum()), int(out.invalid), int(out.above)) == (accepted, invalid, above)
    assert int(out.count) == accepted
    assert bool(torch.isfinite(p).all())
    if accepted in (0, 64):
        assert float(p[0]) == pytest.approx(accepted / 64, abs=1e-3)


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2.0**-53])
@pytest.mark.parametrize("gamma", [-600.0, 0.0, 600.0])
@pytest.mark.parametrize("d", [1e-2, 1.0, 699.0, 700.0, 1e300])
def test_above_the_maximum_every_u_accepts(u, gamma, d):
    assert reference.decide(wide([d]), wide([u]), *thresholds(0.0, gamma, 1e-3)).item()


@pytest.mark.parametrize("gamma", [-600.0, 0.0, 600.0])
@pytest.mark.parametrize("d", [-1e300, -700.0, -1.0, 0.0, 0.5])
def test_u_zero_accepts_every_finite_logit(gamma, d):
    assert reference.decide(wide([d]), wide([0.0]), *thresholds(0.0, gamma, 1e-3)).item()


@pytest.mark.parametrize("name", BACKENDS)
def test_textbook_rejection(name):
    logit = ops.normal(Rng(4), 200_000, 1)[:, 0]
    with backend(name):
        keep = ops.accept(logit, Rng(9), log_m=1.0, gamma=0.0, eps=0.0)
    u = ops.uniform(Rng(9), len(logit), stream=1)
    assert torch.equal(keep, u < torch.exp(logit.double() - 1.0))


# Planted faults: a check passes on the reference as it is, and fails once it is patched.

# The rows below 2 * 10^8 of seed 0 with u < 2^-24, where a uniform of 24 bits is 0.
SMALLEST_ROWS = (
    2553129, 5899092, 23196768, 27751655, 57103384, 69600945, 83171300, 103210329, 106571150,
    119735604, 122161171, 153333328, 166839897, 190320524, 192151940,
)  # fmt: skip


def check_definition():
    """Decisions for a few rows, computed with Python integers and 50 digits."""
    for gamma, eps in ((-50.0, 1e-6), (-8.0, 0.0), (0.0, 1e-6), (5.0, 1e-14), (25.0, 1e-3)):
        half = -math.log(math.exp(-gamma) + math.exp(-eps))
        z = ops.normal(Rng(1), 300, 1)[:, 0].double()
        logit = torch.minimum(half + 1.0 + z, wide(1.0))
        keep = ops.accept(logit, Rng(6, 2**32 - 100), log_m=1.0, gamma=gamma, eps=eps)
        for i, (value, kept) in enumerate(zip(logit.tolist(), keep.tolist(), strict=True)):
            u = uniform_of_row(6, 2**32 - 100 + i, stream=1)
            p = oracle(mp.mpf(value) - 1, gamma, eps)
            if abs(u - p) > 1e-12 and kept != (u < p):
                return False
    return True


def check_tie():
    """u equal to p is rejected: 1 (1 - 1/2) > 1/2 (2 * 1/2) is false."""
    return not reference.decide(wide([0.0]), wide([0.5]), wide(0.0), wide(2.0), wide(0.5)).item()


def check_tiny_probability():
    """At p = 1e-8, rows with u < 1e-8 are accepted, and not all with u < 2^-24."""
    ids = torch.tensor(SMALLEST_ROWS)
    logit = torch.full((len(ids),), math.log(1e-8), dtype=torch.float64)
    keep = ops.accept(logit, Rng(0), log_m=0.0, gamma=0.0, eps=0.0, ids=ids)
    return keep.tolist() == [uniform_of_row(0, row, stream=1) < 1e-8 for row in SMALLEST_ROWS]


def check_threshold():
    """Decisions next to the threshold, from exact u and 50 digits, where p and u differ enough."""
    rows = range(2**32 - 50, 2**32 + 250)
    log_m, gamma, eps = 0.3, -2.0, 1e-6
    for k in (-(2**-48), 2**-48):
        logit, wanted = [], []
        for row in rows:
            p = mp.mpf(uniform_of_row(3, row, stream=1)) + k
            d = -mp.log((1 / p - 1) / mp.exp(gamma) + mp.exp(-mp.mpf(eps)))
            logit.append(float(d + mp.mpf(log_m)))
            wanted.append(k > 0)
        kwargs = {"log_m": log_m, "gamma": gamma, "eps": eps}
        if ops.accept(wide(logit), Rng(3, rows[0]), **kwargs).tolist() != wanted:
            return False
    return True


def check_special():
    logit = wide([math.inf, math.nan, -math.inf, 0.0] * 16)
    keep = ops.accept(logit, Rng(3), log_m=0.0, gamma=-5.0, eps=1e-6)
    return keep.tolist() == [False, False, False, True] * 16


def check_cpu_bits():
    """Probabilities agree between backends; a fused multiply-add or torch.exp would change them."""
    logit = ops.normal(Rng(2), 100_000, 1)[:, 0].double() * 5
    with backend("cpu"):
        expected = ops.probability(logit, log_m=3.0, gamma=1.0)
    return torch.equal(expected, ops.probability(logit, log_m=3.0, gamma=1.0))


CHECKS = (
    check_definition,
    check_tie,
    check_tiny_probability,
    check_threshold,
    check_special,
    pytest.param(check_cpu_bits, marks=needs_cpu),
)
decide, uniform, exponential = reference.decide, reference.uniform, reference.exponential


def gamma_of_the_wrong_sign(logit, u, log_m, c1, s):
    return decide(logit, u, log_m, 1.0 / c1, s)


def sum_of_one_and_q(logit, u, log_m, c1, s):
    q = exponential(logit.double() - log_m)[1]
    rest = c1 * (s + (1.0 - s) * (-q))
    return torch.isfinite(logit) & ((1.0 + q) * (1.0 - u) > u * rest)


def at_least(logit, u, log_m, c1, s):
    e, q = exponential(logit.double() - log_m)
    rest = c1 * (s + (1.0 - s) * (-q))
    return torch.isfinite(logit) & (e * (1.0 - u) >= u * rest)


def infinity_accepted(logit, u, log_m, c1, s):
    return decide(logit.clamp(max=1e300), u, log_m, c1, s)


def log_m_of_float32(logit, u, log_m, c1, s):
    return decide(logit, u, torch.as_tensor(log_m).float().double(), c1, s)


def eps_forgotten(logit, u, log_m, c1, s):
    return decide(logit, u, log_m, c1, 0.0)


def one_u_for_all(rng, ids, n, **kwargs):
    return uniform(rng, ids, n, **kwargs)[:1].expand(n)


def u_of_the_next_row(rng, ids, n, **kwargs):
    return uniform(rng, reference.rows_of(rng, ids, n, torch.device("cpu")) + 1, n, **kwargs)


def u_of_the_low_half_of_the_row(rng, ids, n, **kwargs):
    rows = reference.rows_of(rng, ids, n, torch.device("cpu"))
    return uniform(rng, rows & reference.MASK, n, **kwargs)


def u_of_the_latents_stream(rng, ids, n, **kwargs):
    return uniform(rng, ids, n, **{**kwargs, "stream": 0})


def u_of_bits(bits):
    def fewer(rng, ids, n, **kwargs):
        return torch.floor(uniform(rng, ids, n, **kwargs) * 2.0**bits) * 2.0**-bits

    return fewer


def library_exponential(x):
    x = x.clamp(-700.0, 700.0)
    return torch.exp(x), torch.expm1(x)


MUTANTS = [
    ("decide", gamma_of_the_wrong_sign, check_definition),
    ("decide", sum_of_one_and_q, check_definition),
    ("decide", at_least, check_tie),
    ("decide", infinity_accepted, check_special),
    ("decide", log_m_of_float32, check_threshold),
    ("decide", eps_forgotten, check_threshold),
    ("uniform", one_u_for_all, check_definition),
    ("uniform", u_of_the_next_row, check_definition),
    ("uniform", u_of_the_low_half_of_the_row, check_definition),
    ("uniform", u_of_the_latents_stream, check_definition),
    ("uniform", u_of_bits(24), check_tiny_probability),
    ("uniform", u_of_bits(24), check_threshold),
    ("uniform", u_of_bits(32), check_threshold),
    pytest.param("exponential", library_exponential, check_cpu_bits, marks=needs_cpu),
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", BACKENDS)
def test_checks_pass_without_a_fault(name, check):
    with backend(name):
        assert check()


@pytest.mark.parametrize(("function", "mutant", "check"), MUTANTS)
def test_checks_catch_planted_faults(monkeypatch, function, mutant, check):
    monkeypatch.setattr(reference, function, mutant)
    with backend("reference"):
        assert not check()
