"""drs.unweight: the same rows from every kind of array, by the law that the weights say."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from scipy import stats

import drs_fast as drs
from drs_fast.unweighting import maximum
from drs_fast.unweighting.maximum import log_maximum

N = 2_000
RNG = np.random.default_rng(3)
LOG_WEIGHT = (0.8 * RNG.normal(size=N)).astype(np.float16)  # exact in every dtype but bfloat16
ALPHA = 1e-4  # false positives of each chi-square


@pytest.fixture(scope="module")
def expected():
    """Ids, weights and log_max, from float64 in PyTorch."""
    return drs.unweight(torch.from_numpy(LOG_WEIGHT).double(), seed=7, weighted=True)


def agrees(found, expected):
    assert np.array_equal(np.asarray(found.ids), expected.ids.numpy())
    assert np.allclose(np.asarray(found.weight), expected.weight.numpy(), rtol=1e-6)
    assert found.log_max == expected.log_max
    assert found.count == expected.count > 100


def test_the_decision_is_that_of_the_ops(expected):
    log_weight = torch.from_numpy(LOG_WEIGHT).double()
    u = drs.ops.uniform(drs.Rng(7), N, stream=1)
    assert torch.equal(expected.ids, (u < (log_weight - expected.log_max).exp()).nonzero()[:, 0])
    above = (log_weight[expected.ids] - expected.log_max).clamp(min=0.0)
    assert torch.allclose(expected.weight, above.exp(), rtol=1e-14, atol=0.0)
    assert expected.weight.max() > 1.0
    assert drs.unweight(log_weight, seed=7).weight is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", ">f8"])
def test_numpy(dtype, expected):
    given = LOG_WEIGHT.astype(dtype)
    found = drs.unweight(given, given, seed=7, weighted=True)
    agrees(found, expected)
    assert [type(each) for each in (found.ids, found.weight, *found.rows)] == [np.ndarray] * 3
    assert (found.ids.dtype, found.weight.dtype) == (np.int64, np.float64)
    assert np.array_equal(found.rows[0], given[found.ids])
    assert found.rows[0].dtype == given.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_pytorch(dtype, expected):
    given = torch.from_numpy(LOG_WEIGHT).to(dtype).requires_grad_()
    found = drs.unweight(given, given, seed=7, weighted=True)
    agrees(found, expected)
    assert torch.equal(found.rows[0], given[expected.ids])
    assert not found.rows[0].requires_grad


def test_strides_and_memory_that_cannot_be_written_to(expected):
    for given in (np.repeat(LOG_WEIGHT, 2)[::2], LOG_WEIGHT[::-1].copy()[::-1]):
        agrees(drs.unweight(given, seed=7, weighted=True), expected)
    given = LOG_WEIGHT.copy()
    given.flags.writeable = False
    agrees(drs.unweight(given, seed=7, weighted=True), expected)
    every_other = torch.from_numpy(LOG_WEIGHT).repeat_interleave(2)[::2]
    agrees(drs.unweight(every_other, seed=7, weighted=True), expected)


def test_bfloat16():
    given = torch.from_numpy(LOG_WEIGHT).bfloat16()
    found = drs.unweight(given, seed=7, weighted=True)
    agrees(found, drs.unweight(given.double(), seed=7, weighted=True))


def test_jax(expected):
    jax = pytest.importorskip("jax")
    given = jax.numpy.asarray(LOG_WEIGHT)
    rows = jax.numpy.stack([given, given], axis=1)
    found = drs.unweight(given, rows, given > 0, seed=7, weighted=True)
    agrees(found, expected)
    kind = type(given)
    assert all(isinstance(each, kind) for each in (found.ids, found.weight, *found.rows))
    assert np.array_equal(found.rows[0][:, 1], LOG_WEIGHT[np.asarray(found.ids)])
    brain = given.astype(jax.numpy.bfloat16)
    same = torch.from_numpy(np.array(brain.astype(np.float32)))
    for kind in (brain, np.asarray(brain)):
        ids = np.asarray(drs.unweight(kind, seed=7).ids)
        assert np.array_equal(ids, drs.unweight(same, seed=7).ids)
    with pytest.raises(ValueError, match="got DynamicJaxprTracer"):
        jax.jit(lambda each: drs.unweight(each).ids)(given)


class Foreign:
    """An array of a library that this one has never heard of, and that has no namespace."""

    def __init__(self, tensor):
        self.tensor, self.shape = tensor, tuple(tensor.shape)

    def __dlpack__(self, **given):
        return self.tensor.__dlpack__(**given)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()

    def __getitem__(self, index):
        return Foreign(self.tensor[index.tensor])


def test_any_library_with_dlpack(expected, monkeypatch):
    module = types.ModuleType("foreign")
    module.from_dlpack = lambda array: Foreign(torch.from_dlpack(array))
    monkeypatch.setitem(sys.modules, "foreign", module)
    monkeypatch.setattr(Foreign, "__module__", "foreign.core")
    given = Foreign(torch.from_numpy(LOG_WEIGHT))
    found = drs.unweight(given, given, seed=7)
    assert isinstance(found.ids, Foreign)
    assert torch.equal(found.ids.tensor, expected.ids)
    assert torch.equal(found.rows[0].tensor, given.tensor[expected.ids])


@pytest.mark.parametrize(
    "rows",
    [
        RNG.normal(size=(N, 3, 2)),
        RNG.normal(size=(N, 4)).T.copy().T,
        np.array([f"row {i}" for i in range(N)]),
        np.array([{i} for i in range(N)]),
        np.array([(i, i / 2) for i in range(N)], dtype=[("i", "i4"), ("x", "f8")]),
        np.arange(N).astype("M8[s]"),
        np.zeros((N, 0)),
        np.ma.masked_array(np.arange(N), np.arange(N) % 2),
        torch.arange(N).to(torch.uint16),
        torch.complex(torch.arange(N).double(), torch.ones(N).double()),
        torch.arange(2 * N)[::2],
    ],
    ids=lambda rows: f"{type(rows).__name__} {rows.dtype}"[:40],
)
def test_rows_of_any_kind(rows, expected):
    (found,) = drs.unweight(LOG_WEIGHT, rows, seed=7).rows
    assert type(found) is type(rows)
    assert found.dtype == rows.dtype
    assert list(found.shape) == [expected.count, *rows.shape[1:]]
    wanted = [rows[i] for i in expected.ids.tolist()]
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_first_n(expected):
    for n in (0, 1, 50, expected.count):
        found = drs.unweight(LOG_WEIGHT, LOG_WEIGHT, seed=7, weighted=True, n=n)
        assert found.count == n == len(found.ids) == len(found.weight) == len(found.rows[0])
        assert np.array_equal(found.ids, expected.ids[:n])
    more = drs.unweight(LOG_WEIGHT, seed=7, n=10**9)
    assert more.count == expected.count
    assert np.array_equal(more.ids, expected.ids)


@pytest.mark.parametrize("log_max", [None, 1.0])
@pytest.mark.parametrize("n", [0, 5])
def test_nothing_to_accept(n, log_max):
    given = np.full(n, -np.inf, dtype=np.float32)
    found = drs.unweight(given, np.zeros((n, 3)), weighted=True, log_max=log_max)
    assert found.count == len(found.ids) == len(found.weight) == 0
    assert found.rows[0].shape == (0, 3)
    assert found.log_max == (-np.inf if log_max is None else 1.0)


def excess(log_weight, log_max):
    """Share of the weight above log_max, in extended precision."""
    weight = np.exp(np.asarray(log_weight, dtype=np.longdouble) - np.max(log_weight))
    return np.maximum(0, weight - np.exp(log_max - np.longdouble(np.max(log_weight)))).sum() / (
        weight.sum()
    )


WEIGHTS = {
    "normal": 2.0 * RNG.normal(size=20_000),
    "heavy": 0.5 * RNG.standard_cauchy(3_000),
    "rounded": np.round(RNG.normal(size=20_000), 1),
    "equal": np.full(1_000, -5.0),
    "almost equal": 1e-7 * RNG.normal(size=20_000),
    "one": np.array([3.0]),
    "far apart": np.array([0.0, -1e5, -50.0, -np.inf]),
    "large": 1e6 + RNG.normal(size=1_000),
}


@pytest.mark.parametrize("share", [1e-9, 1e-3, 0.1, 0.9])
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_maximum_is_the_smallest_that_will_do(name, share):
    log_weight = WEIGHTS[name]
    found = drs.unweight(log_weight, max_overweight=share).log_max
    step = 1e-12 * max(1.0, abs(found))
    assert excess(log_weight, found + step) <= share
    assert excess(log_weight, found - step) > share - 1e-11  # at 1e-9 a step is hard to see
    weight = np.sort(np.exp(log_weight.astype(np.longdouble) - log_weight.max()))[::-1]
    sums, k = weight.cumsum(), np.arange(1, len(weight) + 1)
    known = log_weight.max() + np.log(((sums - share * sums[-1]) / k).max())
    assert found == pytest.approx(float(known), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("largest", [maximum.LARGEST, 1000])
@pytest.mark.parametrize("share", [1.0 - 1e-13, 1.0 - 2.0**-53])
def test_hardly_any_weight_may_be_left(share, largest, monkeypatch):
    """Where sums of weights differ by rounding from what is tolerated."""
    monkeypatch.setattr(maximum, "LARGEST", largest)
    for small in (torch.full((200_000,), -40.0), torch.linspace(-41.0, -40.0, 200_000)):
        log_weight = torch.cat([torch.zeros(1), small]).double()
        found = drs.unweight(log_weight, max_overweight=share)
        left = (1.0 - share) * float(log_weight.exp().sum()) / len(log_weight)
        assert found.log_max == pytest.approx(math.log(left), abs=1e-3)
        assert found.count == len(log_weight)  # because all are above


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_maximum_does_not_depend_on_batches(name):
    log_weight = torch.from_numpy(WEIGHTS[name])
    whole = log_maximum(lambda: iter([log_weight]), 1e-3)
    assert log_maximum(lambda: iter(log_weight.split(777)), 1e-3) == whole
    assert log_maximum(lambda: iter([log_weight.flip(0)]), 1e-3) == whole
    assert drs.unweight(log_weight, max_overweight=0.0).log_max == log_weight.max()


@pytest.mark.parametrize("largest", [1, 100])
@pytest.mark.parametrize("share", [1e-3, 0.5])
@pytest.mark.parametrize("name", WEIGHTS)
def test_more_passes_find_the_same_maximum(name, share, largest, monkeypatch):
    """However few of the largest weights are kept, and in whatever order they come."""
    passes = []

    def batches(log_weight):
        passes.append(log_weight)
        return iter(log_weight.split(777))

    log_weight = torch.from_numpy(WEIGHTS[name])
    expected = log_maximum(lambda: batches(log_weight), share)
    assert len(passes) == 1
    monkeypatch.setattr(maximum, "LARGEST", largest)
    found = log_maximum(lambda: batches(log_weight), share)
    assert found == pytest.approx(expected, rel=1e-13, abs=1e-13)
    assert 2 <= len(passes) <= 5
    assert log_maximum(lambda: batches(log_weight.sort().values), share) == found
    assert log_maximum(lambda: batches(log_weight.sort(descending=True).values), share) == found


CELLS = np.array([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0])  # log weights
ROWS = 40_000  # of each


def p_value(log_max, weighted):
    """The p-value of a chi-square: the weight kept in each cell against what it should be."""
    log_weight = np.tile(CELLS, ROWS)
    found = drs.unweight(log_weight, seed=11, log_max=log_max, weighted=weighted)
    cell = found.ids % len(CELLS)
    seen = np.bincount(cell, weights=found.weight, minlength=len(CELLS))
    p = np.minimum(1.0, np.exp(CELLS - log_max))
    each = np.exp(CELLS - log_max) / p
    variance = each**2 * ROWS * p * (1.0 - p) + 1e-9 * ROWS
    statistic = ((seen - ROWS * np.exp(CELLS - log_max)) ** 2 / variance).sum()
    return stats.chi2.sf(statistic, (p < 1.0).sum())


def test_the_law():
    """Each of the first three fails for one seed in 10,000; the seed is fixed."""
    assert p_value(2.0, weighted=False) > ALPHA
    assert p_value(2.0, weighted=True) > ALPHA
    assert p_value(0.3, weighted=True) > ALPHA  # clipped, and made up for by weights
    assert p_value(0.3, weighted=False) < 1e-9  # the planted fault: clipped


@pytest.mark.parametrize(
    ("given", "named", "words"),
    [
        ([1.0, 2.0], {}, "must be a NumPy, PyTorch, JAX or CuPy array, got list"),
        (np.zeros(3, int), {}, r"\(n,\) float16, bfloat16, .* got ndarray \(3,\) int64"),
        (np.zeros((3, 1)), {}, r"got ndarray \(3, 1\) float64"),
        (np.float64(1.0), {}, r"got np.float64\(1.0\)"),
        (np.array(1.0), {}, r"got ndarray \(\) float64"),
        (np.array(["a"]), {}, r"got ndarray \(1,\) <U1"),
        (torch.zeros(3, dtype=torch.bool), {}, r"got \(3,\) bool"),
        (torch.tensor(1.0), {}, r"got \(\) float32"),
        (torch.zeros(3).to_sparse(), {}, "to_dense"),
        (np.ma.masked_array([1.0], [True]), {}, "masked array"),
        (np.array([0.0, np.nan, np.inf]), {}, "got nan in row 1; drop such rows"),
        (np.array([0.0, 1.0, np.inf]), {}, "got inf in row 2"),
        (np.array([0.0, 1.0, np.inf]), {"log_max": 1.0}, "got inf in row 2"),
        (np.zeros(3), {"log_max": np.inf}, "log_max must be a finite number"),
        (np.zeros(3), {"max_overweight": 1.0}, "must be below 1"),
        (np.zeros(3), {"max_overweight": -0.1}, r"in \[0, 1\], got -0.1"),
        (np.zeros(3), {"log_max": 1.0, "max_overweight": 0.1}, "log_max or max_overweight, got b"),
        (np.zeros(3), {"n": -1}, "n must be an integer >= 0"),
        (np.zeros(3), {"seed": -1}, "seed"),
        (np.zeros(3), {"weighted": 1}, "weighted must be True or False"),
        (np.zeros(3), {"log_max": -800.0, "weighted": True}, "800 below the largest log weight"),
    ],
)
def test_errors(given, named, words):
    with pytest.raises(ValueError, match=words):
        drs.unweight(given, **named)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(2), r"arrays\[1\] must have 3 rows, as log_weight has, got ndarray \(2,\)"),
        (np.array(0.0), r"must have 3 rows"),
        (torch.zeros(4, 3), r"got \(4, 3\) float32"),
        ([1, 2, 3], "must be a NumPy, PyTorch, JAX or CuPy array, got list"),
        (torch.zeros(3, device="meta"), "no memory of its own"),
        (torch.zeros(3, 1).to_sparse(), "to_dense"),
    ],
)
def test_errors_of_rows(array, words):
    with pytest.raises(ValueError, match=words):
        drs.unweight(np.zeros(3), np.zeros(3), array)
