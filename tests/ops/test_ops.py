"""The C++ backend matches the reference bit for bit; priors and normals follow their laws."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from agreement import (
    CONTENTS,
    DTYPES,
    LOG_M,
    ROW_KINDS,
    ROWS,
    SIZES,
    assert_same,
    bits,
    logits,
    needs_cpu,
    noise,
    pairwise,
    poisoned,
    poisoned_out,
    threads,
    unmoved,
)
from op_cases import CASES, uncompared
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

import drs_fast
from drs_fast import GAN, Compacted, Rng, backend, ops
from drs_fast.backends import cpu


def both(call):
    with backend("reference"):
        expected = call()
    with backend("cpu"):
        return expected, call()


def assert_backends_agree(call):
    expected, found = both(call)
    assert_same(expected, found)
    return found


@needs_cpu
def test_every_op_equals_the_reference(monkeypatch, fresh_dispatch):
    assert uncompared(monkeypatch, "cpu", cpu, unmoved) == []


@needs_cpu
def test_an_op_without_a_case_is_seen(monkeypatch, fresh_dispatch):
    monkeypatch.delitem(CASES, "weight")
    assert uncompared(monkeypatch, "cpu", cpu, unmoved) == ["weight"]


@needs_cpu
def test_an_op_with_other_bits_is_seen(monkeypatch, fresh_dispatch):
    walk = cpu.walk

    def wrong(*arguments):
        ends, counts = walk(*arguments)
        return ends, counts + 1

    wrong.__module__ = cpu.__name__
    monkeypatch.setattr(cpu, "walk", wrong)
    with pytest.raises(AssertionError):
        uncompared(monkeypatch, "cpu", cpu, unmoved)


def untouched(tensor, count):
    rest = tensor[count:]
    return rest.numel() == 0 or bool((bits(rest) == 0xAA).all())


def assert_compacted(out, mask, logit, ids, rows, capacity, log_m=LOG_M):
    """out holds the rows in the mask, in order, up to its capacity, and nothing past them."""
    kept = mask.nonzero()[:, 0][:capacity]
    count = len(kept)
    assert int(out.count) == count
    wide = logit.double()
    assert int(out.invalid) == int((wide.isnan() | (wide == torch.inf)).sum())
    assert int(out.above) == int(((wide > log_m) & (wide < torch.inf)).sum())
    sources = (ids, logit.contiguous(), *rows)
    for target, source in zip((out.ids, out.logit, *out.rows), sources, strict=True):
        assert_same(target[:count], source[kept])
        assert untouched(target, count)


QS = (0, 1, 12.5, 33.3, 50, 80, 95, 99.9, 100)


@needs_cpu
@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 10, 49, 100, 1001, 4096])
@pytest.mark.parametrize("eps", [1e-6, 1e-3])
def test_linear_interpolation_is_numpys(n, eps):
    logit = noise(n, seed=n)
    log_m = float(logit.max())
    f = -torch.log(torch.expm1(log_m - logit.double()) - math.expm1(-eps)).numpy()
    invalid = torch.tensor([math.nan, math.inf, math.nan])
    for q in QS:
        kwargs = {"q": q, "log_m": log_m, "eps": eps}
        for given in (logit, torch.cat([invalid, logit])):
            linear = assert_backends_agree(
                lambda x=given, to=kwargs: ops.quantile_gamma(x, interpolation="linear", **to)
            )
            assert float(linear) == pytest.approx(np.percentile(f, q), abs=1e-12)
        if q not in (12.5, 33.3, 99.9):  # where rounding decides between two steps
            one = np.percentile(f, q, method="inverted_cdf")
            assert float(ops.quantile_gamma(logit, **kwargs)) == pytest.approx(one, abs=1e-12)


def test_what_is_infinite_is_interpolated_within_bounds():
    def linear(logit, q, eps=0.0):
        found = ops.quantile_gamma(
            torch.tensor(logit), q, log_m=1.0, eps=eps, interpolation="linear"
        )
        return float(found)

    f = -math.log(math.expm1(1.0))  # of 0
    assert linear([0.0, 1.0], 100) == 600
    assert linear([0.0, 1.0], 50) == pytest.approx((f + 600) / 2, abs=1e-12)
    assert linear([0.0, -math.inf], 50) == pytest.approx((f - 600) / 2, abs=1e-12)
    assert linear([1.0, -math.inf], 50) == 0
    assert linear([-math.inf] * 3, 40) == -600
    assert math.isnan(linear([math.nan, math.inf], 40))


PAIRS = pairwise(SIZES, DTYPES, CONTENTS, ROWS, (False, True))


@pytest.mark.parametrize(("n", "dtype", "content", "row", "strided"), PAIRS)
class TestEqualBits:
    pytestmark = needs_cpu

    def test_probability_and_accept(self, n, dtype, content, row, strided):
        logit = logits(n, dtype, content, strided)
        per_row, rng = noise(n, seed=1).double(), Rng(4, row)
        for log_m, gamma, eps in [
            (LOG_M, 0.0, 0.0),
            (LOG_M, -3.5, 1e-6),
            (torch.tensor(LOG_M), torch.tensor(0.25), 1e-3),
            (per_row, 1.0, 1e-6),
            (LOG_M, per_row, 1e-6),
            (per_row, per_row.float(), 1e-9),
        ]:
            kwargs = {"log_m": log_m, "gamma": gamma, "eps": eps}
            p = assert_backends_agree(lambda kwargs=kwargs: ops.probability(logit, **kwargs))
            assert_backends_agree(lambda kwargs=kwargs: ops.weight(logit, **kwargs))
            keep = assert_backends_agree(lambda kwargs=kwargs: ops.accept(logit, rng, **kwargs))
            u = ops.uniform(rng, n, stream=1)
            away = (u - p).abs() > 1e-14
            assert torch.equal(keep[away], (u < p)[away])
            assert not bool(p[~torch.isfinite(logit)].any())

    def test_quantile(self, n, dtype, content, row, strided):
        logit = logits(n, dtype, content, strided)
        if n == 0:
            with pytest.raises(ValueError, match="at least one"):
                ops.quantile_gamma(logit, 50, log_m=LOG_M)
            return
        for q in (0, 1, 50, 80, 99.9, 100):
            found = assert_backends_agree(lambda q=q: ops.quantile_gamma(logit, q, log_m=LOG_M))
            assert found.shape == ()
            assert found.dtype == torch.float64

    @pytest.mark.parametrize("capacity", ["all", "fewer", "none", "more"])
    def test_accept_compact(self, n, dtype, content, row, strided, capacity):
        logit, rng = logits(n, dtype, content, strided), Rng(9, row)
        rows = tuple(make(n) for make in ROW_KINDS.values())
        kwargs = {"log_m": LOG_M, "gamma": -0.5}
        mask = ops.accept(logit, rng, **kwargs)
        size = {"all": n, "fewer": int(mask.sum()) * 2 // 3, "none": 0, "more": n + 5}[capacity]
        ids = torch.arange(n) + row
        for name in ("reference", "cpu"):
            out = poisoned_out(size, logit, rows)
            with backend(name):
                found = ops.accept_compact(logit, *rows, rng=rng, out=out, **kwargs)
            assert found is out
            assert_compacted(out, mask, logit, ids, rows, size)

    def test_accept_latents(self, n, dtype, content, row, strided):
        logit, rng = logits(n, dtype, content, strided), Rng(2, row)
        z = ops.normal(rng, n, 5)
        kwargs = {"log_m": LOG_M, "gamma": -0.5}
        mask, ids = ops.accept(logit, rng, **kwargs), torch.arange(n) + row
        for name in ("reference", "cpu"):
            out = poisoned_out(max(n - 3, 0), logit, (z,))
            with backend(name):
                ops.accept_latents(logit, 5, rng=rng, out=out, **kwargs)
                fresh = ops.accept_latents(logit, 5, rng=rng, **kwargs)
            assert_compacted(out, mask, logit, ids, (z,), max(n - 3, 0))
            assert_same(fresh.rows[0][: int(fresh.count)], z[mask])


@needs_cpu
@pytest.mark.parametrize(("n", "row", "d"), pairwise(SIZES, ROWS, (0, 1, 2, 3, 4, 5, 64, 127)))
def test_numbers_are_equal_bits(n, row, d):
    rng = Rng(2**63 + 5, row)
    for stream, draw in ((0, 0), (4, 2**32 - 40)):
        assert_backends_agree(lambda s=stream, t=draw: ops.uniform(rng, n, stream=s, draw=t))
        assert_backends_agree(lambda s=stream, t=draw: ops.words(rng, n, d, stream=s, draw=t))
        z = assert_backends_agree(lambda s=stream, t=draw: ops.normal(rng, n, d, stream=s, draw=t))
        assert z.dtype == torch.float32
        assert bool(torch.isfinite(z).all())


@needs_cpu
@pytest.mark.parametrize("n", [1, 31, 1025, 40_001])
def test_ids_pick_rows_of_a_contiguous_run(n):
    first = 2**32 - 500
    order = torch.argsort(noise(n, seed=3))  # unsorted
    ids, rng, any_row = order + first, Rng(6, first), Rng(6, 17)
    logit, x = logits(n), noise(n, 5)
    kwargs = {"log_m": LOG_M, "gamma": -1.0}
    for name in ("reference", "cpu"):
        with backend(name), threads(2 if name == "cpu" else 1):
            mask = ops.accept(logit, rng, **kwargs)
            assert_same(
                ops.uniform(any_row, n, stream=1, ids=ids), ops.uniform(rng, n, stream=1)[order]
            )
            assert_same(ops.normal(any_row, n, 7, ids=ids), ops.normal(rng, n, 7)[order])
            assert_same(ops.words(any_row, n, 7, ids=ids), ops.words(rng, n, 7)[order])
            assert_same(ops.accept(logit[order], any_row, ids=ids, **kwargs), mask[order])
            strided = ids.repeat_interleave(2)[::2]
            out = poisoned_out(n, logit, (x,))
            ops.accept_compact(logit[order], x[order], rng=any_row, ids=strided, out=out, **kwargs)
            assert_compacted(out, mask[order], logit[order], ids, (x[order],), n)
            z = ops.accept_latents(logit[order], 3, rng=any_row, ids=ids, **kwargs)
            assert_same(z.rows[0][: int(z.count)], ops.normal(rng, n, 3)[order][mask[order]])


@needs_cpu
@pytest.mark.parametrize(
    "view",
    [torch.conj, lambda c: c.conj().imag, lambda c: c.conj().imag.contiguous(), torch._neg_view],
    ids=["conjugate", "imaginary part of it", "contiguous", "negative"],
)
def test_rows_and_logits_that_are_lazy_views(view):
    row = view(torch.complex(noise(2000), noise(2000) + 1))
    out = ops.accept_compact(logits(2000), row, rng=Rng(1), log_m=LOG_M)
    mask = ops.accept(logits(2000), Rng(1), log_m=LOG_M)
    assert torch.equal(out.rows[0][: int(out.count)], row[mask])
    logit = torch._neg_view(logits(2000))
    assert_same(*both(lambda: ops.accept(logit, Rng(1), log_m=LOG_M)))


@needs_cpu
def test_reused_out_forgets_the_last_call():
    first, second = logits(3000), logits(1025, content="nan")
    x, y = noise(3000, 4), noise(1025, 4)
    out = poisoned_out(3000, first, (x,))
    for logit, rows in ((first, x), (second, y), (second[:0], y[:0])):
        ops.accept_compact(logit, rows, rng=Rng(1), log_m=LOG_M, out=out)
        mask = ops.accept(logit, Rng(1), log_m=LOG_M)
        n = int(mask.sum())
        assert (int(out.count), int(out.invalid)) == (
            n,
            int((logit.isnan() | (logit == torch.inf)).sum()),
        )
        assert_same(out.rows[0][:n], rows[mask])


def sizes_past_the_caches(n):
    """Row tensors wide enough for the streamed copy, next to narrow ones."""
    return {
        "256 bytes": noise(n, 64),
        "64 bytes": noise(n, 16),
        "60 bytes": noise(n, 15),
        "strided": noise(n, 48)[:, 5:37],
        "labels": torch.arange(n),
        "bytes": (noise(n, 64) * 9).to(torch.uint8),
    }


@needs_cpu
@pytest.mark.parametrize(
    ("workers", "per_row", "dtype"),
    [
        (1, False, torch.float32),
        (2, False, torch.float32),
        (2, True, torch.float64),
        (3, True, torch.float32),
    ],
)
def test_parallel_and_streamed_copies(workers, per_row, dtype):
    n = 131_105  # 64-byte rows pass 8 MiB too; the last tile is not whole
    logit, rng = logits(n, dtype, "nan"), Rng(8, 2**32 - 60_000)
    rows = tuple(sizes_past_the_caches(n).values())
    log_m = torch.full((n,), LOG_M) if per_row else LOG_M
    with backend("reference"):
        mask = ops.accept(logit, rng, log_m=log_m, gamma=-0.5)
        u, z = ops.uniform(rng, n, stream=1), ops.normal(rng, n, 3)
    ids, count = torch.arange(n) + rng.row, int(mask.sum())
    top = float(torch.tensor(LOG_M)) if per_row else LOG_M
    kept = [row[mask] for row in (ids, logit, *rows)]
    assert 10_000 < count < n
    with backend("cpu"), threads(workers):
        for size in (n, count - 1001):
            out = poisoned_out(size, logit, rows)
            ops.accept_compact(logit, *rows, rng=rng, log_m=log_m, gamma=-0.5, out=out)
            assert_compacted(out, mask, logit, ids, rows, size, top)
        for _ in range(10):
            assert_same(ops.uniform(rng, n, stream=1), u)
            assert_same(ops.normal(rng, n, 3), z)
            assert_same(ops.accept(logit, rng, log_m=log_m, gamma=-0.5), mask)
            for tensor in (out.ids, out.logit, *out.rows):
                tensor[: count - 1001].zero_()
            ops.accept_compact(logit, *rows, rng=rng, log_m=log_m, gamma=-0.5, out=out)
            assert int(out.count) == count - 1001
            for tensor, expected in zip((out.ids, out.logit, *out.rows), kept, strict=True):
                assert torch.equal(tensor, expected[: count - 1001])
            latents = ops.accept_latents(logit, 3, rng=rng, log_m=log_m, gamma=-0.5)
            assert_same(latents.rows[0][:count], z[mask])


@needs_cpu
@pytest.mark.parametrize("shift", [0, 1, 15])
def test_streamed_rows_need_no_alignment(shift):
    n, d = 40_001, 64
    logit, x = logits(n), noise(n * d + shift)[shift:].view(n, d)
    target = poisoned((n * d + shift,), torch.float32)
    out = poisoned_out(n, logit, ())
    out = Compacted((target[shift:].view(n, d),), *list(vars(out).values())[1:])
    with threads(2):
        ops.accept_compact(logit, x, rng=Rng(3), log_m=LOG_M, out=out)
    mask = ops.accept(logit, Rng(3), log_m=LOG_M)
    assert_compacted(out, mask, logit, torch.arange(n), (x,), n)
    assert bool((bits(target[:shift]) == 0xAA).all())


@needs_cpu
def test_only_accepted_rows_are_read(tmp_path):
    # Pages of rejected rows cannot be read: touching one kills the process.
    code = """
import ctypes, mmap, sys, torch
sys.path.insert(0, sys.argv[1])
from drs_fast import Rng, backend, ops
n, page = 3000, mmap.PAGESIZE
memory = mmap.mmap(-1, n * page)
rows = torch.frombuffer(memory, dtype=torch.float32).view(n, page // 4)
rows[:, 0] = torch.arange(n)
logit = torch.linspace(-6.0, 0.0, n)
mask = ops.accept(logit, Rng(0), log_m=0.0)
libc = ctypes.CDLL(None, use_errno=True)
for i in (~mask).nonzero()[:, 0].tolist():
    address = ctypes.c_void_p(rows.data_ptr() + i * page)
    assert libc.mprotect(address, ctypes.c_size_t(page), 0) == 0
for name in ("cpu", "reference"):
    with backend(name):
        out = ops.accept_compact(logit, rows, rng=Rng(0), log_m=0.0)
    assert torch.equal(out.rows[0][: int(out.count), 0], torch.arange(n)[mask].float())
print(int(out.count), flush=True)
if len(sys.argv) > 2:
    rows.sum()
import os; os._exit(0)
"""
    command = [sys.executable, "-c", code, str(Path(drs_fast.__file__).parents[1])]
    if not sys.platform.startswith("linux"):
        pytest.skip("mprotect through ctypes is written for Linux")
    good = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert 0 < int(good.stdout) < 3000
    bad = subprocess.run([*command, "touch"], capture_output=True, timeout=120, check=False)
    assert bad.returncode < 0  # the trap works


@needs_cpu
@pytest.mark.parametrize("n", [0, 1, 5000, 70_000])
def test_gather(n):
    for row in (noise(n, 1), noise(n, 7), noise(n, 32), noise(n, 5)[:, :2], torch.arange(n)):
        indices = torch.argsort(noise(n, seed=5))[: n * 2 // 3].contiguous()
        out = torch.empty((len(indices), *row.shape[1:]), dtype=row.dtype)
        with threads(2):
            assert_same(cpu.gather(row, indices, out), row[indices])


def gan(prior, d=6, labels=None):
    return GAN(torch.tanh, torch.tanh, d, prior=prior, labels=labels)


def test_uniform_prior():
    z = ops.latents(gan("uniform"), Rng(1), 200_000)
    word = ops.words(Rng(1), 200_000, 6)
    assert z.dtype == torch.float32
    assert_same(z, ((word >> 8).double() * 2.0**-23 - 1.0).float())
    assert float(z.min()) >= -1.0
    assert float(z.max()) < 1.0
    # Fails for one seed in 10^4 if the law is right.
    assert stats.kstest(z.flatten().numpy(), "uniform", args=(-1, 2)).pvalue > 1e-4


def test_truncated_normal_prior():
    symmetric = ops.latents(gan("uniform"), Rng(1), 50_000).double()
    z = ops.latents(gan("truncated normal"), Rng(1), 50_000)
    expected = torch.from_numpy(stats.truncnorm.ppf((1 + symmetric.numpy()) / 2, -2, 2))
    assert z.dtype == torch.float32
    assert float((z - expected).abs().max()) < 2e-7
    assert float(z.abs().max()) <= 2.0
    assert bool((z.sign() == symmetric.sign()).all())


def test_normal_and_callable_priors():
    z = ops.normal(Rng(1, 5), 100, 6)
    assert_same(ops.latents(gan("normal"), Rng(1, 5), 100), z)
    assert_same(ops.latents(gan(lambda z: z * 3 + 1), Rng(1, 5), 100), z * 3 + 1)
    assert_same(ops.latents(gan(lambda z: z.double()), Rng(1, 5), 100), z)


@pytest.mark.parametrize("prior", ["normal", "uniform", "truncated normal", torch.sinh])
def test_latents_of_ids(prior):
    ids = torch.tensor([5, 3, 2**62, 4])
    picked = ops.latents(gan(prior), Rng(1), 4, ids=ids)
    for row, z in zip(ids.tolist(), picked, strict=True):
        assert_same(ops.latents(gan(prior), Rng(1, row), 1)[0], z)


@pytest.mark.parametrize("k", [1, 2, 10, 1000])
def test_labels_are_uniform_over_classes(k):
    n = 200_000
    y = ops.labels(gan("normal", labels=k), Rng(7, 2**32 - 100), n)
    assert y.dtype == torch.int64
    counts = torch.bincount(y, minlength=k)
    assert len(counts) == k
    # Fails for one seed in 10^4 if the labels are uniform.
    assert k == 1 or stats.chisquare(counts.numpy()).pvalue > 1e-4
    u = ops.uniform(Rng(7, 2**32 - 100), n, stream=5)
    assert_same(y, (u * k).long())
    assert ops.labels(gan("normal"), Rng(7), 3) is None


@pytest.fixture(scope="module")
def normals():
    """2 * 10^7 normals."""
    return ops.normal(Rng(12, 2**32 - 1000), 4_000_000, 5)


class TestNormal:
    """If the law is right, each bound fails for fewer than one seed in 10^4."""

    def test_moments(self, normals):
        z = normals.double().flatten()
        n = len(z)
        for power, expected, variance in (
            (1, 0, 1),
            (2, 1, 2),
            (3, 0, 15),
            (4, 3, 96),
            (6, 15, 10170),
        ):
            error = float((z**power).mean()) - expected
            assert abs(error) < 4 * (variance / n) ** 0.5, power

    def test_distribution(self, normals):
        for j in range(5):
            assert stats.kstest(normals[:400_000, j].double().numpy(), "norm").pvalue > 2e-5

    @pytest.mark.parametrize("limit", [3.0, 4.0, 5.0])
    def test_tails(self, normals, limit):
        expected = normals.numel() * 2 * stats.norm.sf(limit)
        count = int((normals.abs() > limit).sum())
        low, high = stats.poisson.ppf([2e-5, 1 - 2e-5], expected)
        assert low <= count <= high
        assert 0.2 < float((normals > limit).sum()) / count < 0.8

    def test_coordinates_and_rows_are_uncorrelated(self, normals):
        z = normals.double()
        n = len(z)
        for left, right in itertools.combinations(range(5), 2):
            for f in (torch.Tensor.abs, torch.Tensor.clone):
                a, b = f(z[:, left]), f(z[:, right])
                assert abs(float(torch.corrcoef(torch.stack((a, b)))[0, 1])) < 4.5 / n**0.5
        for lag in (1, 2, 1024):
            assert abs(float((z[lag:, 0] * z[:-lag, 0]).mean())) < 4.5 / n**0.5

    def test_pairs_are_cosine_and_sine_of_one_radius(self):
        w0, w1, w2, w3 = ops.words(Rng(5), 20_000, 4).double().T
        z = ops.normal(Rng(5), 20_000, 4).double()
        for j, (radius, angle) in enumerate(((w0, w1), (w2, w3))):
            r = torch.sqrt(-2 * torch.log((radius + 0.5) * 2.0**-32))
            turn = 2 * torch.pi * angle * 2.0**-32
            assert float((z[:, 2 * j] - r * torch.cos(turn)).abs().max()) < 2e-6
            assert float((z[:, 2 * j + 1] - r * torch.sin(turn)).abs().max()) < 2e-6


def test_extreme_words_give_finite_normals():
    from drs_fast.backends import reference

    word = torch.tensor([0, 1, 2, 2**31, 2**32 - 2, 2**32 - 1])
    exact = torch.sqrt(-2 * torch.log((word.double() + 0.5) * 2.0**-32))
    exact[-2:] = (2 * (2.0**32 - word[-2:].double() - 0.5) * 2.0**-32) ** 0.5
    assert torch.allclose(reference._radius(word).double(), exact, rtol=3e-7, atol=0)
    assert float(exact[0]) > 6.7


@needs_cpu
def test_a_backend_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(cpu, "_reason", "extension not built (no compiler)")
    ops.dispatch._dispatch.cache_clear()
    logit = torch.zeros(3)
    try:
        assert ops.accept(logit, Rng(0), log_m=0.0).shape == (3,)  # the reference serves
        with backend("cpu"), pytest.raises(RuntimeError, match=r"cpu: extension not built \(no"):
            ops.accept(logit, Rng(0), log_m=0.0)
    finally:
        ops.dispatch._dispatch.cache_clear()


def test_a_forced_backend_serves_or_refuses():
    with (
        backend("cpu"),
        pytest.raises(ValueError, match=r"must be a dense tensor of numbers, got .* on meta"),
    ):
        ops.probability(torch.empty(3, device="meta"), log_m=0.0)
    with backend("reference"):
        with backend("cpu"):
            assert ops.dispatch._forced.get() == "cpu"
        assert ops.dispatch._forced.get() == "reference"
    assert ops.dispatch._forced.get() is None
    assert ops.available("cpu")["cpu"] is None


class Wrapper(torch.Tensor):
    """A tensor with a shape but no memory."""

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.detach.default, torch.ops.aten.select.int):
            return wrapper(args[0].shape)
        raise RuntimeError(f"{function} is not for wrappers")


def wrapper(shape):
    return torch.Tensor._make_wrapper_subclass(Wrapper, shape, dtype=torch.float32)


def test_tensors_without_memory_are_refused():
    rng = Rng(0)
    with pytest.raises((ValueError, RuntimeError)):
        ops.accept(wrapper((8,)), rng, log_m=0.0)
    with pytest.raises((ValueError, RuntimeError)):
        ops.accept_compact(torch.zeros(8), wrapper((8,)), rng=rng, log_m=0.0)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_no_rows_with_a_threshold_a_row(name):
    nothing, ring_rows = torch.zeros(0), torch.zeros(4)
    with backend(name):
        for threshold in ({"log_m": nothing}, {"log_m": 1.0, "gamma": nothing}):
            assert len(ops.accept(nothing, Rng(0), **threshold)) == 0
            assert len(ops.probability(nothing, **threshold)) == 0
            assert int(ops.accept_compact(nothing, rng=Rng(0), **threshold).count) == 0
            assert int(ops.accept_latents(nothing, 3, rng=Rng(0), **threshold).count) == 0
        ring = ops.ring(ring_rows, rng=Rng(0), capacity=8, log_m=1.0)
        assert int(ops.accept_append(nothing, ring=ring, gamma=nothing).cursor) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 9}, "power of two, at least its batch of 9, got 8"),
        ({"workspace": torch.zeros(3, dtype=torch.int64)}, "ring.workspace must be contiguous"),
        ({"state": torch.zeros(5, dtype=torch.int64)}, r"ring.state must be contiguous \(6,\)"),
        (
            {"ids": torch.zeros(6, dtype=torch.int64)},
            "power of two, at least its batch of 4, got 6",
        ),
        ({"logit": torch.zeros(8).double()}, r"ring.logit must be .* torch.float32"),
    ],
)
def test_a_ring_that_was_tampered_with_is_refused(change, message):
    ring = ops.ring(torch.zeros(4), rng=Rng(0), capacity=8, log_m=1.0)
    with pytest.raises(ValueError, match=message):
        ops.accept_append(torch.zeros(4), ring=dataclasses.replace(ring, **change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 6}, "power of two, at least 4, got 6"),
        ({"capacity": 2}, "power of two, at least 4, got 2"),
        ({"log_m": torch.zeros(4)}, "log_m must be"),
        ({"log_m": float("nan")}, "log_m must be a finite number"),
        ({"limit": -1}, "limit must be an integer"),
    ],
)
def test_a_ring_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.ring(torch.zeros(4), rng=Rng(0), **{"capacity": 8, "log_m": 1.0} | arguments)


def test_a_batch_larger_than_a_ring_is_made_for_is_refused():
    ring = ops.ring(torch.zeros(4), rng=Rng(0), capacity=8, log_m=1.0)
    with pytest.raises(ValueError, match="at most 4 rows, got 5"):
        ops.accept_append(torch.zeros(5), ring=ring)


def test_logits_of_eight_bits_are_refused():
    with pytest.raises(ValueError, match="float16, bfloat16, float32 or float64"):
        ops.largest(torch.zeros(3).to(torch.float8_e4m3fn))


class NothingIsRead(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU."""

    WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in self.WAITS:
            raise AssertionError(f"the host waits in {function}")
        return function(*args, **(kwargs or {}))


def test_the_host_reads_nothing_of_a_percentile():
    """On a GPU the reference serves CUDA C++ where there is no kernel."""
    logit = logits(1000, content="nan")
    with backend("reference"):
        expected = ops.quantile_gamma(logit, 80.0, log_m=LOG_M)
        with NothingIsRead():
            assert_same(ops.quantile_gamma(logit, 80.0, log_m=LOG_M), expected)
            ops.largest(logit)
            with pytest.raises(AssertionError, match="waits"):
                logit[logit.argmax()]
