"""The Triton kernels match the reference bit for bit, in the interpreter and on a GPU."""

import dataclasses
import importlib
import math
import re
import threading
from contextlib import contextmanager
from pathlib import Path

import agreement
import numpy as np
import pytest
import torch
from agreement import (
    CONTENTS,
    DTYPES,
    FORMS,
    LOG_M,
    ROW_KINDS,
    ROWS,
    SIZES,
    assert_same,
    bits,
    logits,
    mover,
    needs_cpu,
    noise,
    pairwise,
    place_out,
    poisoned_out,
    wide,
)
from op_cases import uncompared

from drs_fast import Rng, backend, ops
from drs_fast.backends import reference, workspaces
from drs_fast.backends.triton import refusals
from drs_fast.core import compacted as sizes_of
from drs_fast.core.compacted import SMALL_TILE, TILE, tiling

triton, tl = pytest.importorskip("triton"), pytest.importorskip("triton.language")
kernels = importlib.import_module("drs_fast.backends.triton")
MODULES = {
    name: importlib.import_module(f"drs_fast.backends.triton.{name}")
    for name in ("arithmetic", "random", "decision", "copying", "compact", "quantile")
}
arithmetic, compact = MODULES["arithmetic"], MODULES["compact"]

# NumPy, which interprets, warns of the infinities that the decision may pass through.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
moved = mover(DEVICE)
needs_interpreter = pytest.mark.skipif(DEVICE != "cpu", reason="for Triton's interpreter")
EPOCH, STATUS = 2, 16  # words of a workspace
LAST_EPOCH = 2**30 - 1
ALONE, INCLUSIVE = 1, 2  # flags of a status word
SEEDS = (0, 2**63, 2**64 - 1)
WAYS = ("single pass", "two launches")


def place(to, values):
    """The values of a dict, with tensors moved to the device."""
    return {k: to(v) if isinstance(v, torch.Tensor) else v for k, v in values.items()}


def assert_backends_agree(call):
    return agreement.assert_backends_agree(call, "triton", moved)


def assert_numbers_agree(call):
    """The same, for an op that takes a device."""
    with backend("reference"):
        expected = call("cpu")
    with backend("triton"):
        assert_same(call(DEVICE).cpu(), expected)


@pytest.fixture
def force(monkeypatch):
    """force(way) sets how rows are compacted from here on."""

    def choose(way):
        most = 2**31 - 1 if way == "single pass" else 0
        monkeypatch.setattr(kernels, "SINGLE_PASS_ROWS", most)

    return choose


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels launched so far."""
    names, launch = [], kernels._launch

    def record(name, *arguments, **options):
        names.append(name)
        launch(name, *arguments, **options)

    monkeypatch.setattr(kernels, "_launch", record)
    return names


@pytest.fixture
def workspace(monkeypatch):
    """workspace() returns the workspace that launches share, initially zeros."""
    shared = {}
    monkeypatch.setattr(workspaces, "_kept", shared)
    return lambda: next(iter(shared.values()))[0].cpu()


def in_form(form, value, n, seed):
    if form == "number":
        return value
    if form == "0-d":
        return torch.tensor(value, dtype=torch.float64)
    return value + 0.5 * noise(n, seed=seed).double()


def numbered(n, row):
    """Row numbers that are neither sorted nor close together."""
    return (torch.arange(n) * 7919 + row) ^ 5


def decision(n, row, log_m="number", gamma="number", has_ids=False):
    return {
        "log_m": in_form(log_m, LOG_M, n, 11),
        "gamma": in_form(gamma, -0.75, n, 12),
        "ids": numbered(n, row) if has_ids else None,
    }


def compacted(logit, rows, rng, capacity, **kwargs):
    """A call for assert_backends_agree."""
    return lambda to: ops.accept_compact(
        to(logit), *map(to, rows), rng=rng, **place(to, kwargs),
        out=place_out(to, poisoned_out(capacity, logit, rows)),
    )  # fmt: skip


def latents(logit, d, rng, capacity, **kwargs):
    return lambda to: ops.accept_latents(
        to(logit), d, rng=rng, **place(to, kwargs),
        out=place_out(to, poisoned_out(capacity, logit, (noise(1, d),))),
    )  # fmt: skip


def poisoned_ring(*tensors, **kwargs):
    ring = ops.ring(*tensors, **kwargs)
    for tensor in (*ring.rows, ring.ids, ring.logit):
        bits(tensor).fill_(0xAA)
    return ring


def power_of_two(n):
    return 1 << max(n - 1, 0).bit_length()


CASES = pairwise(SIZES, DTYPES, CONTENTS, ROWS, (False, True), FORMS, FORMS, (False, True), WAYS)


@pytest.mark.parametrize(
    ("n", "dtype", "content", "row", "strided", "log_m", "gamma", "has_ids", "way"), CASES
)
class TestEqualBits:
    def test_decisions(self, n, dtype, content, row, strided, log_m, gamma, has_ids, way):
        logit, rng = logits(n, dtype, content, strided), Rng(4, row)
        kwargs = decision(n, row, log_m, gamma, has_ids)
        threshold = {name: kwargs[name] for name in ("log_m", "gamma")}
        assert_backends_agree(lambda to: ops.probability(to(logit), **place(to, threshold)))
        assert_backends_agree(lambda to: ops.weight(to(logit), **place(to, threshold)))
        mask = assert_backends_agree(lambda to: ops.accept(to(logit), rng, **place(to, kwargs)))
        assert n < 1000 or 0.05 < float(mask.double().mean()) < 0.95

    def test_compacted(self, force, n, dtype, content, row, strided, log_m, gamma, has_ids, way):
        force(way)
        logit, rng = logits(n, dtype, content, strided), Rng(9, row)
        kwargs = decision(n, row, log_m, gamma, has_ids)
        rows = (ROW_KINDS["columns" if strided else "float32"](n), ROW_KINDS["image"](n))
        count = int(ops.accept(logit, rng, **kwargs).sum())
        for capacity in (n + 5, count * 2 // 3):
            out = assert_backends_agree(compacted(logit, rows, rng, capacity, **kwargs))
            assert int(out.count) == min(count, capacity)

    def test_latents(self, force, n, dtype, content, row, strided, log_m, gamma, has_ids, way):
        force(way)
        logit, rng = logits(n, dtype, content, strided), Rng(2, row)
        kwargs = decision(n, row, log_m, gamma, has_ids)
        assert_backends_agree(latents(logit, 5, rng, max(n - 3, 0), **kwargs))

    def test_appended(self, force, n, dtype, content, row, strided, log_m, gamma, has_ids, way):
        force(way)
        logit, x = logits(n, dtype, content, strided), noise(n, 5)
        kwargs = decision(n, row, log_m, gamma, has_ids)
        room = {"capacity": power_of_two(n), "limit": n // 3}

        def append(to):
            ring = poisoned_ring(to(logit), to(x), rng=Rng(3, row), log_m=0.0, **room)
            return ops.accept_append(to(logit), to(x), ring=ring, **place(to, kwargs))

        assert_backends_agree(append)

    def test_orders(self, force, n, dtype, content, row, strided, log_m, gamma, has_ids, way):
        force(way)
        logit = logits(n, dtype, content, strided)
        assert_backends_agree(lambda to: ops.largest(to(logit)))
        for q in (0, 50, 100) if n else ():
            assert_backends_agree(lambda to, q=q: ops.quantile_gamma(to(logit), q, log_m=LOG_M))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_every_op_equals_the_reference(monkeypatch, fresh_dispatch):
    assert uncompared(monkeypatch, "triton", kernels, moved) == []


def numbers_agree(rng, n, d, ids, stream=0, draw=0):
    def arguments(device):
        moved_ids = None if ids is None else ids.to(device)
        return {"stream": stream, "draw": draw, "device": device, "ids": moved_ids}

    assert_numbers_agree(lambda device: ops.uniform(rng, n, **arguments(device)))
    assert_numbers_agree(lambda device: ops.words(rng, n, d, **arguments(device)))
    assert_numbers_agree(lambda device: ops.normal(rng, n, d, **arguments(device)))


@pytest.mark.parametrize(
    ("n", "row", "seed", "has_ids", "counter"),
    pairwise(SIZES, ROWS, SEEDS, (False, True), ((0, 0), (4, 2**32 - 40), (2**32 - 1, 7))),
)
def test_numbers(n, row, seed, has_ids, counter):
    numbers_agree(Rng(seed, row), n, 2, numbered(n, row) if has_ids else None, *counter)


@pytest.mark.parametrize("d", [0, 1, 2, 3, 4, 5, 33, 129])
def test_numbers_of_every_width(d):
    numbers_agree(Rng(2**63 + 5, 2**32 - 7), 40, d, None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("d", [0, 1, 2, 3, 4, 5, 33, 129])
def test_latents_of_every_width(force, d, way):
    force(way)
    assert_backends_agree(latents(logits(40), d, Rng(2**63), 40, **decision(40, 0)))


KINDS = {
    **ROW_KINDS,
    **{f"{d} bytes": lambda n, d=d: (noise(n, d) * 50).to(torch.uint8) for d in (3, 7, 3072)},
    **{f"width {d}": lambda n, d=d: noise(n, d) for d in (1, 2, 3, 4, 5, 1100)},
    "4 of 7 bytes": lambda n: (noise(n, 7) * 50).to(torch.uint8)[:, :4],
    "2 of 3 halves": lambda n: noise(n, 3).half()[:, :2],
    "odd numbers": lambda n: torch.tensor([-0.0, math.nan, -math.inf, 1e-45]).repeat(n, 1),
    "one byte in": lambda n: (noise(16 * n + 1) * 50).to(torch.uint8)[1:].view(n, 16),
    "one half in": lambda n: noise(6 * n + 1).half()[1:].view(n, 6),
    "one float in": lambda n: noise(7 * n + 1)[1:].view(n, 7),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind(kind):
    n = 400
    logit, row = logits(n), KINDS[kind](n)
    assert_backends_agree(compacted(logit, (row,), Rng(9), n, **decision(n, 0)))


@pytest.mark.parametrize("way", WAYS)
def test_rows_of_all_kinds_in_one_launch(force, launched, way):
    force(way)
    n = 300
    logit, rows = logits(n, content="nan"), tuple(make(n) for make in ROW_KINDS.values())
    assert_backends_agree(compacted(logit, rows, Rng(9), n, **decision(n, 0)))
    if way == "single pass":
        assert launched == ["compact.single_pass"]
    else:
        assert launched == ["compact.decide_tiles", "compact.copy_tiles"]


@pytest.mark.parametrize(("read", "write"), [(0, 1), (1, 0), (1, 1), (2, 0), (2, 2), (4, 12)])
def test_rows_at_any_byte(monkeypatch, read, write):
    n, d = 200, 12
    as_words = kernels.as_words

    def aligned(*arguments):
        # Processors forgive what GPUs do not.
        sources, targets, layout = as_words(*arguments)
        for words in (*sources, *targets):
            assert words.tensor.data_ptr() % words.dtype.itemsize == 0
        return sources, targets, layout

    monkeypatch.setattr(kernels, "as_words", aligned)
    logit = logits(n)
    source = (noise(n * d + read) * 50).to(torch.uint8)[read:].view(n, d)

    def call(to):
        out = poisoned_out(n, logit, ())
        memory = torch.full((n * d + write,), 0xAA, dtype=torch.uint8)
        out = dataclasses.replace(out, rows=(memory[write:].view(n, d),))
        return ops.accept_compact(
            to(logit), to(source), rng=Rng(1), log_m=LOG_M, out=place_out(to, out)
        )

    assert_backends_agree(call)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, LOG_M + 1.0])
def test_tiles_of_one_odd_value(value):
    logit = torch.full((2 * TILE + 1,), value)
    out = assert_backends_agree(compacted(logit, (), Rng(5), len(logit), **decision(0, 0)))
    above, infinite = value == LOG_M + 1.0, value == -math.inf
    expected = (len(logit) * above, len(logit) * (not above and not infinite), len(logit) * above)
    assert (int(out.count), int(out.invalid), int(out.above)) == expected


def test_more_tiles_than_one_look_back(monkeypatch):
    monkeypatch.setattr(sizes_of, "FEW_ROWS", 0)
    n = 40 * TILE
    assert_backends_agree(compacted(logits(n), (noise(n, 2),), Rng(5), n, **decision(n, 0)))


@contextmanager
def at_most(blocks):
    """A launch has this many blocks if its bytes are worth it."""
    before, sizes_of.BLOCKS = sizes_of.BLOCKS, blocks
    try:
        yield
    finally:
        sizes_of.BLOCKS = before


def check_wide_rows(n=20, width=70_001, blocks=9):
    logit = logits(n, content="nan")
    rows = noise(n, 5), torch.arange(n * width).view(n, width).to(torch.uint8)
    with at_most(blocks):
        assert tiling(n, width + 20)[1] > 1
        assert_backends_agree(compacted(logit, rows, Rng(5, 9), n, log_m=-2.0))


WIDE_ROWS = {
    "images of 196 KB": (10, 196_608, 7),
    "a megabyte": (3, 2**20, 33),
    "an odd kilobyte": (700, 1023, 19),
    "one row": (1, 70_000, 2),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WIDE_ROWS)
def test_wide_rows_are_shared_between_blocks(force, name, way):
    force(way)
    check_wide_rows(*WIDE_ROWS[name])


def check_a_ring_of_images(sizes=(11, 7, 12, 12), width=35_003):
    """The ring wraps round, and is full within the last batch."""

    def call(to):
        images = torch.arange(12 * width).view(12, width).to(torch.uint8)
        ring = poisoned_ring(
            to(torch.zeros(12)), to(images), to(noise(12, 5)),
            rng=Rng(6), capacity=16, limit=20, log_m=LOG_M,
        )  # fmt: skip
        for n in sizes:
            rows = images[-n:], noise(n, 5, seed=n)
            ops.accept_append(to(logits(n)), *map(to, rows), ring=ring, gamma=-3.0)
        return ring

    with at_most(7):
        assert all(tiling(n, width + 20)[1] == 7 for n in sizes)
        assert int(assert_backends_agree(call).cursor) == 20


@pytest.mark.parametrize("way", WAYS)
def test_a_ring_of_images(force, way):
    force(way)
    check_a_ring_of_images()


@pytest.mark.parametrize("way", WAYS)
def test_wide_latents_are_shared_between_blocks(force, monkeypatch, way):
    force(way)
    monkeypatch.setattr(sizes_of, "PART_BYTES", 1)
    d = 601
    with at_most(5):
        assert_backends_agree(
            lambda to: ops.accept_latents(
                to(logits(19)), d, rng=Rng(5, 9), log_m=-2.0,
                out=place_out(to, poisoned_out(19, logits(19), (noise(19, d),))),
            )
        )  # fmt: skip


@pytest.mark.parametrize("few", [0, sizes_of.FEW_ROWS])  # which makes tiles of 1,024 or 256 rows
@pytest.mark.parametrize("way", WAYS)
def test_every_tile_height(force, monkeypatch, few, way):
    force(way)
    monkeypatch.setattr(sizes_of, "FEW_ROWS", few)
    monkeypatch.setattr(sizes_of, "PART_BYTES", 1)
    for n in (1, 255, 256, 257, 1024, 1025, 2100):
        tile = tiling(n, 0)[0]
        with at_most(2 * -(-n // tile)):
            assert tiling(n, 132) == ((256, 2) if few else (1024, 1))
            call = compacted(logits(n, content="nan"), (noise(n, 33),), Rng(5), n, log_m=LOG_M)
            assert_backends_agree(call)


@pytest.mark.skipif(DEVICE == "cpu", reason="takes minutes in the interpreter")
@pytest.mark.parametrize("n", [70_000, 300_000])
def test_many_rows(n):
    assert_backends_agree(compacted(logits(n), (), Rng(5), n, log_m=LOG_M))


# The arithmetic itself, with uniforms that no row has.


@triton.jit
def _decide(logit, bits, log_m, gamma, s, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    value, k = tl.load(logit + i, mask=inside), tl.load(bits + i, mask=inside)
    keep = arithmetic.decide(value, k, tl.load(log_m), tl.load(gamma), tl.load(s))
    tl.store(out + i, keep, mask=inside)


@triton.jit
def _exponential(x, e, q, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first, second = arithmetic.exponential(tl.load(x + i, mask=i < n, other=0.0))
    tl.store(e + i, first, mask=i < n)
    tl.store(q + i, second, mask=i < n)


@triton.jit
def _box_muller(words, cosines, sines, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    word = tl.load(words + i, mask=i < n, other=0).to(tl.uint32)
    first, second = arithmetic.box_muller(word, word)
    tl.store(cosines + i, first, mask=i < n)
    tl.store(sines + i, second, mask=i < n)


@triton.jit
def _rows_before(status, tile, epoch, out, LANES: tl.constexpr):
    tl.store(out, compact._look_back(status, tl.load(tile), tl.load(epoch), LANES))


def launch(kernel, n, *arguments):
    on_device = [t.to(DEVICE) if isinstance(t, torch.Tensor) else t for t in arguments]
    kernel[(-(-n // 1024),)](*on_device, n, BLOCK=1024, **kernels.OPTIONS)
    return on_device


def adversarial_logits(log_m, gamma, eps):
    half = log_m - math.log(math.exp(-gamma) + math.exp(-eps))  # p = 1/2
    z, u = noise(600, seed=1).double(), noise(600, seed=2).sigmoid().double()
    special = [math.nan, math.inf, -math.inf, 3e38, -3e38, log_m, log_m + eps, log_m + 2e-6]
    return torch.cat(
        (half + 2.0 * z, log_m - 1e-3 * u, log_m - 60.0 * u, log_m + 3.0 * u, wide(special))
    )


def check_threshold(gammas=(-8.0, 0.0, 5.0), epsilons=(0.0, 1e-6)):
    """Decisions at the three uniforms around each probability."""
    log_m = wide(1.2345)
    flips = []
    for gamma in gammas:
        for eps in epsilons:
            logit, c1 = adversarial_logits(1.2345, gamma, eps), reference.power(wide(gamma))
            s = -reference.exponential(wide(-eps))[1]
            p = reference.probability(logit, reference.Threshold(log_m, wide(gamma), s))
            k = torch.round(p * 2.0**53).long() + torch.tensor([-1, 0, 1])[:, None]
            k = k.clamp(0, 2**53 - 1).flatten()
            logit = logit.repeat(3)
            expected = reference.decide(logit, k.double() * 2.0**-53, log_m, c1, s)
            out = torch.zeros(len(k), dtype=torch.bool)
            found = launch(_decide, len(k), logit, k, log_m, wide(gamma), s, out)[-1]
            assert_same(found.cpu(), expected)
            below, _, above = expected.view(3, -1)
            flips.append(float((below & ~above).double().mean()))
    assert max(flips) > 0.2  # the threshold lies among the three


def check_tie():
    """u equal to p is rejected: 1 (1 - 1/2) > 1/2 (1 * 1) is false."""
    k = torch.tensor([2**52 - 1, 2**52, 2**52 + 1])
    out = torch.zeros(3, dtype=torch.bool)
    found = launch(_decide, 3, wide([0.0] * 3), k, wide(0.0), wide(0.0), wide(1.0), out)[-1]
    assert found.tolist() == [True, False, False]


def check_exponential():
    x = torch.cat(
        (
            noise(1000).double() * 20,
            noise(500, seed=1).double() * 1e-8,
            wide([0.0, -0.0, -5e-324, 700.0, -700.0, 1e300, -1e300, math.inf, -math.inf]),
            wide([f * math.log(2) for f in (-0.5, 0.5, -1.5, 1.5, -99.5)]),
        )
    )
    _, e, q = launch(_exponential, len(x), x, torch.zeros_like(x), torch.zeros_like(x))
    for found, expected in zip((e, q), reference.exponential(x), strict=True):
        assert_same(found.cpu(), expected)


def check_box_muller():
    """Words at both ends of their range and where the quadrant changes."""
    centres = torch.arange(0, 2**32 + 1, 2**28)[:, None]
    word = (centres + torch.arange(-3, 4)).flatten().clamp(0, 2**32 - 1)
    word = torch.cat((word, torch.tensor([2**k + j for k in range(3, 31) for j in (-1, 0, 1)])))
    _, first, second = launch(
        _box_muller, len(word), word, torch.zeros(len(word)), torch.zeros(len(word))
    )
    radius, (cosine, sine) = reference._radius(word), reference._circle(word)
    assert_same(first.cpu(), radius * cosine)
    assert_same(second.cpu(), radius * sine)


@pytest.mark.parametrize("gamma", [-200.0, -50.0, -8.0, 0.0, 5.0, 20.0, 25.0])
def test_uniforms_next_to_the_threshold(gamma):
    check_threshold((gamma,), (0.0, 1e-14, 1e-9, 1e-6))


# Quantiles.

QUANTILES = (0.0, 37.5, 100.0)


def quantile_inputs(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    spread = noise(2500, seed=4)
    yield "normals", spread.to(dtype)
    yield "both ends", torch.cat((spread, wide([torch.finfo(dtype).max] * 3))).to(dtype)
    yield "ties", (spread * 2).round().to(dtype)
    yield "all equal", torch.full((1500,), -2.5, dtype=dtype)
    yield "one", torch.full((1,), 0.75, dtype=dtype)
    yield "lowest", torch.where(spread < 0.5, -torch.inf, spread).to(dtype)
    yield "zeros", torch.where(spread < 0, -0.0, 0.0).to(dtype)
    if DEVICE != "cpu" or dtype != torch.bfloat16:  # the interpreter misreads those
        yield "subnormal", (spread.double() * tiny).to(dtype)
    yield "invalid", logits(2500, dtype, "nan")


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_statistics_are_those_of_a_sort(dtype):
    for name, logit in quantile_inputs(dtype):
        threshold = reference.Threshold(0.25, 0.0, reference.stabiliser(1e-9))
        ordered = logit.double().numpy()
        ordered = np.sort(ordered[ordered < np.inf])
        for q in QUANTILES:
            found = kernels.quantile_gamma(logit.to(DEVICE), q, threshold)
            rank = max(1, math.ceil(q * len(ordered) / 100))
            wanted = reference.score(wide(ordered[rank - 1]), threshold.log_m, threshold.s)
            assert torch.equal(found.cpu(), wanted), (name, q)


@pytest.mark.parametrize("way", WAYS)
def test_order_statistics_of_many_logits(force, way):
    force(way)
    logit = logits(300_000, content="nan")
    for n in (300_000, 3):  # the second takes what the first left
        assert_backends_agree(lambda to, n=n: ops.quantile_gamma(to(logit[:n]), 55, log_m=8.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_of_zeros_is_zero(dtype):
    for values in ([-0.0], [-0.0, 0.0], [0.0, -0.0]):
        logit = torch.tensor(values * 700, dtype=dtype)
        found = assert_backends_agree(lambda to, x=logit: ops.largest(to(x)))
        assert math.copysign(1.0, float(found)) == 1.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_statistic_of_invalid_logits_is_nan(dtype):
    logit = torch.tensor([math.nan, math.inf] * 700, dtype=dtype)
    assert_backends_agree(lambda to: ops.quantile_gamma(to(logit), 50, log_m=0.0))
    assert_backends_agree(lambda to: ops.largest(to(logit)))


# What a launch leaves to the next.


def status_word(epoch, flag, count):
    return epoch << 33 | flag << 31 | count


def counters(words):
    """All words except the epoch."""
    return [int(words[i]) for i in range(STATUS) if i != EPOCH]


@pytest.mark.parametrize("way", WAYS)
def test_a_limit_below_the_cursor_takes_nothing_back(force, way):
    force(way)

    def call(to):
        ring = ops.ring(to(logits(100)), rng=Rng(3), capacity=128, log_m=LOG_M)
        ring.ids.zero_()
        ring.logit.zero_()
        for limit in (2**40, 10, 2**40):
            ring.limit.fill_(limit)
            ops.accept_append(to(logits(100)), ring=ring, gamma=-1.0)
        return ring

    assert int(assert_backends_agree(call).cursor) > 10


def test_launches_share_a_workspace(force, workspace):
    order = [(2500, 0), (100, 0), (2500, 1), (2500, 0), (1025, 0), (31, 1), (1500, 0), (1, 0)]
    order += [(4096, 0), (1024, 0), (2049, 1), (2049, 0), (4500, 0), (2500, 0)]
    for n, way in order:
        force(WAYS[way])
        logit = logits(n, content="nan")
        assert_backends_agree(compacted(logit, (noise(n, 2),), Rng(5, n), n, **decision(n, 0)))
        assert not any(counters(workspace()))


def batches(sizes, row, has_ids=False, content="nan"):
    """(logit, x, ids) of several batches."""
    for i, n in enumerate(sizes):
        logit = (noise(n, seed=i) * 2.0 - 1.0).float()
        if content == "nan":
            logit[3::11], logit[5::13] = torch.nan, torch.inf
        yield logit, noise(n, 3, seed=i), numbered(n, row + 7919 * n * i) if has_ids else None


def appended(sizes, row, capacity, limit=2**62, has_ids=False, start=None):
    """A call for assert_backends_agree: a ring after these batches."""
    largest = max(sizes)

    def call(to):
        ring = poisoned_ring(
            to(torch.zeros(largest)), to(noise(largest, 3)),
            rng=Rng(6, row), capacity=capacity, limit=limit, log_m=LOG_M,
        )  # fmt: skip
        if start is not None:
            start(ring)
        for logit, x, ids in batches(sizes, row, has_ids):
            ids = None if ids is None else to(ids)
            ops.accept_append(to(logit), to(x), ring=ring, gamma=-3.0, ids=ids)
            assert not any(counters(ring.workspace))
        return ring

    return call


RINGS = {
    "three batches": {"sizes": (1500, 1500, 1500), "row": 0, "capacity": 4096},
    "smaller ones": {"sizes": (2100, 1, 1024, 1025, 2100), "row": 2**62, "capacity": 4096},
    "wrap-around": {"sizes": (1030,) * 5, "row": 2**32 - 1700, "capacity": 2048},
    "limit within a batch": {"sizes": (2500,) * 3, "row": 5, "capacity": 4096, "limit": 1000},
    "limit and wrap": {"sizes": (1024,) * 4, "row": 5, "capacity": 1024, "limit": 1300},
    "no room": {"sizes": (1500, 1500), "row": 5, "capacity": 2048, "limit": 0},
    "ids": {"sizes": (1500, 1000, 2000), "row": 2**32 - 7, "capacity": 2048, "has_ids": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", RINGS)
def test_rings(force, name, way):
    force(way)
    ring = assert_backends_agree(appended(**RINGS[name]))
    if "limit" in RINGS[name]:
        assert int(ring.cursor) == RINGS[name]["limit"]
    else:
        assert int(ring.cursor) > {"wrap-around": 2048, "ids": 2048}.get(name, 1500)
    assert int(ring.row) == RINGS[name]["row"] + sum(RINGS[name]["sizes"])
    assert int(ring.invalid) > 100


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("has_ids", [False, True])
def test_a_ring_holds_what_one_call_of_all_batches_gives(force, way, has_ids):
    force(way)
    sizes, row = (1500, 400, 1500), 2**32 - 1600
    logit, x, ids = zip(*batches(sizes, row, has_ids), strict=True)
    ids = torch.cat(ids) if has_ids else None
    with backend("reference"):
        out = ops.accept_compact(
            torch.cat(logit), torch.cat(x), rng=Rng(6, row), log_m=LOG_M, gamma=-3.0, ids=ids
        )
    with backend("triton"):
        ring = appended(sizes, row, 4096, has_ids=has_ids)(moved)
    n = int(out.count)
    for found, expected in zip(
        (*ring.rows, ring.ids, ring.logit), (*out.rows, out.ids, out.logit), strict=True
    ):
        assert_same(found[:n].cpu(), expected[:n])
        assert bool((bits(found[n:]) == 0xAA).all())
    totals = (ring.cursor, ring.invalid, ring.above)
    assert list(map(int, totals)) == [n, int(out.invalid), int(out.above)]


def check_compacted():
    for has_ids in (False, True):
        for n in (1025, 2100):
            logit, kwargs = logits(n, content="nan"), decision(n, 0, has_ids=has_ids)
            assert_backends_agree(compacted(logit, (noise(n, 2),), Rng(5, 9), n, **kwargs))


def check_two_launches():
    before, kernels.SINGLE_PASS_ROWS = kernels.SINGLE_PASS_ROWS, 0
    try:
        check_compacted()
    finally:
        kernels.SINGLE_PASS_ROWS = before


def check_numbers():
    numbers_agree(Rng(2**63, 2**32 - 7), 40, 9, None)


def check_rings():
    for name in ("limit within a batch", "wrap-around"):
        assert_backends_agree(appended(**RINGS[name]))


def check_orders():
    for dtype in (torch.bfloat16, torch.float64):
        logit = logits(1500, dtype, "nan")
        assert_backends_agree(lambda to, x=logit: ops.largest(to(x)))
        for q in (0, 37.5, 100):
            assert_backends_agree(lambda to, x=logit, q=q: ops.quantile_gamma(to(x), q, log_m=9.0))


def check_many_orders():
    logit = logits(9000)
    assert_backends_agree(lambda to: ops.quantile_gamma(to(logit), 55, log_m=9.0))


def check_status():
    """Every tile writes the count up to and including itself, tagged with the launch's epoch."""
    with backend("triton"):
        ring = appended((3000,), 0, 4096)(moved)
        for epoch, n in enumerate((3000, 1500, 2900), 1):
            logit, x, _ = next(batches((n,), 0))
            mask = ops.accept(moved(logit), Rng(6, int(ring.row)), log_m=LOG_M).cpu()
            ops.accept_append(moved(logit), moved(x), ring=ring)
            ends = mask.cumsum(0)[SMALL_TILE - 1 :: SMALL_TILE].tolist()
            words = ring.workspace[STATUS:].tolist()
            expected = [*ends, int(mask.sum())][: -(-n // SMALL_TILE)]
            assert words[: len(expected)] == [status_word(epoch, INCLUSIVE, k) for k in expected]
            assert int(ring.workspace[EPOCH]) == epoch + 1


def check_wrapped_epoch():
    """The last epoch wraps round to the first, and old words are cleared."""
    tiles = 3

    def start(ring):
        ring.workspace[STATUS : STATUS + tiles] = status_word(0, INCLUSIVE, 77)
        ring.workspace[EPOCH] = LAST_EPOCH

    for first in (3000, 100):  # which may be smaller than the ring's largest batch
        sizes = (first, 3000, 2048)
        assert_backends_agree(appended(sizes, 0, 4096, start=start))
        with backend("triton"):
            ring = appended((3000,), 0, 4096)(moved)
            start(ring)
            ops.accept_append(moved(torch.zeros(first)), moved(noise(first, 3)), ring=ring)
        assert int(ring.workspace[EPOCH]) == 0
        assert not bool(ring.workspace[STATUS : STATUS + tiles].any())


def check_late_word():
    """A tile waits for a word of its own launch, whatever an earlier launch left there."""
    epoch, tile = 6, 40
    status = wide([0] * 64).long()
    status[:tile] = torch.tensor([status_word(epoch, ALONE, k) for k in range(tile)])
    status[0] = status_word(epoch, INCLUSIVE, 3)
    fresh, status[30] = status[30].clone(), status_word(epoch - 1, INCLUSIVE, 999)
    out = torch.zeros(1, dtype=torch.int64)
    publisher = threading.Timer(0.2, lambda: status[30:31].copy_(fresh))
    publisher.start()
    _rows_before[(1,)](status, torch.tensor(tile), torch.tensor(epoch), out, 32, **kernels.OPTIONS)
    publisher.join()
    assert int(out) == 3 + sum(range(tile))


def check_look_back():
    """With inclusive words anywhere, and garbage before the nearest one."""
    epoch = 9
    draw = np.random.default_rng(1)
    near = [(tile, 32) for tile in (0, 1, 2, 31, 32, 33, 34, 64, 65, 100)]
    for tile, lanes in [*near, *((tile, 256) for tile in (0, 1, 255, 256, 257, 512, 700))]:
        counts = draw.integers(0, 1025, tile)
        windows = (tile - lanes - 1, tile - lanes, tile - 1, tile // 2, 0)
        for nearest in {max(at, 0) for at in windows}:
            words = [0 if i < nearest else status_word(epoch, ALONE, int(k))
                     for i, k in enumerate(counts)]  # fmt: skip
            if tile:
                words[nearest] = status_word(epoch, INCLUSIVE, int(counts[: nearest + 1].sum()))
            status = torch.tensor([*words, 0])
            out = torch.zeros(1, dtype=torch.int64)
            arguments = (status, torch.tensor(tile), torch.tensor(epoch), out)
            on_device = [t.to(DEVICE) for t in arguments]
            _rows_before[(1,)](*on_device, lanes, **kernels.OPTIONS)
            assert int(on_device[-1]) == counts.sum(), (tile, nearest, lanes)


# Planted faults: a check passes on the kernels as they are, and fails once a line is changed.
# None may read an index that was not written: that is any address.

CHECKS = (
    check_threshold,
    check_tie,
    check_exponential,
    check_box_muller,
    check_numbers,
    check_compacted,
    check_wide_rows,
    check_a_ring_of_images,
    check_two_launches,
    check_rings,
    check_orders,
    check_many_orders,
    check_status,
    check_wrapped_epoch,
    check_look_back,
    pytest.param(check_late_word, marks=needs_interpreter),
)

MUTANTS = {
    "1 + q in place of E": (
        "arithmetic", "return e, tl.maximum(", "return 1.0 + q, tl.maximum(", check_threshold),
    "u of 24 bits": (
        "arithmetic", "(w0.to(tl.int64) << 21) | (w1 >> 11).to(tl.int64)",
        "(w0 >> 8).to(tl.int64) << 29", check_numbers),
    "at least in place of more": (
        "arithmetic", "> u * rest", ">= u * rest", check_tie),
    "sign of gamma": (
        "arithmetic", "exponential(gamma)", "exponential(gamma * -1.0)", check_threshold),
    "log_m of float32": (
        "arithmetic", "exponential(logit - log_m)",
        "exponential(logit - log_m.to(tl.float32).to(tl.float64))", check_threshold),
    "infinity accepted": (
        "arithmetic", '& (logit < float("inf"))', "& (logit == logit)", check_threshold),
    "exponential by other steps": (
        "arithmetic", "(x - whole * LN_2_HIGH) - whole * LN_2_LOW",
        "x - whole * 0.6931471805599453", check_exponential),
    "Philox of 7 rounds": (
        "arithmetic", "(zero + draw).to(tl.uint32))", "(zero + draw).to(tl.uint32), 7)",
        check_numbers),
    "high half of the row forgotten": (
        "arithmetic", "((row + zero) >> 32).to(tl.uint32)", "zero.to(tl.uint32)", check_numbers),
    "sign of zero": (
        "arithmetic", "second * -1.0", "0.0 - second", check_box_muller),
    "the next row": (
        "random", "else row + index", "else row + index + 1", check_numbers),
    "the next row's decision": (
        "random", "else row + index", "else row + index + 1", check_compacted),
    "infinity not counted": (
        "compact", '~(value < float("inf"))', "(value != value)", check_compacted),
    "a place behind": (
        "copying", "index = first + tl.load(indices + k, mask=within, other=0)\n    slot",
        "index = first + tl.load(indices + tl.maximum(k - 1, 0), mask=within, other=0)\n    slot",
        check_compacted),
    "prefix without the inclusive word": (
        "compact", "lanes <= inclusive", "lanes < inclusive", check_compacted),
    "prefix of one window": (
        "compact", "nearest -= LANES", "nearest = tile * 0 - 1", check_look_back),
    "inclusive word not published": (
        "compact", "(part == 0) & (tile > 0)", "(part == 0) & (tile < 0)", check_status),
    "every block takes the first part": (
        "compact", "ticket % parts", "ticket % 1", check_wide_rows),
    "the column of another chunk": (
        "copying", "chunk % ACROSS * COLUMNS", "chunk // ACROSS * COLUMNS", check_wide_rows),
    "a slot of another chunk": (
        "copying", "((start + k) & slots) * WIDTH", "((start + k + part) & slots) * WIDTH",
        check_a_ring_of_images),
    "counted by every block that shares a tile": (
        "compact", "(odd > 0) & counted", "odd > 0", check_wide_rows),
    "epoch not compared": (
        "compact", "(word >> EPOCH_SHIFT) == epoch", "word != 0", check_late_word),
    "epoch not advanced": (
        "compact", "tl.store(workspace + EPOCH, following)", "tl.store(workspace + EPOCH, epoch)",
        check_status),
    "old words not cleared": (
        "compact", "if following == 0:", "if following < 0:", check_wrapped_epoch),
    "batch's own tiles cleared": (
        "compact", "_clear(status, status_words, BLOCK)", "_clear(status, tiles, BLOCK)",
        check_wrapped_epoch),
    "counter not reset": (
        "compact", "tl.store(workspace + DONE, 0)", "tl.store(workspace + DONE, 1)",
        check_rings),
    "limit forgotten": (
        "compact", "tl.minimum(count, limit - start)", "count", check_rings),
    "cursor past the limit": (
        "compact", "tl.minimum(cursor + total, tl.maximum(cursor, limit))", "cursor + total",
        check_rings),
    "ring a row behind": (
        "compact", "tl.load(state + RING_ROW) + n)", "tl.load(state + RING_ROW) + n - 1)",
        check_rings),
    "last row of two launches lost": (
        "compact", "tl.store(starts + tiles, base + total)",
        "tl.store(starts + tiles, base + total - 1)", check_two_launches),
    "rank from 0": ("quantile", ".to(tl.int64), 1)", ".to(tl.int64), 0)", check_orders),
    "rank kept from the first pass": (
        "quantile", "rank -= tl.sum(", "rank -= 0 * tl.sum(", check_orders),
    "first part alone": ("quantile", "place % parts", "place * 0", check_many_orders),
    "counts of every prefix": (
        "quantile", "(key >> BITS).to(tl.int64) == prefix", "(key == key)", check_orders),
    "rank rounded down": ("quantile", "tl.ceil(", "tl.floor(", check_orders),
    "largest of all": (
        "decision", 'tl.where(valid, value, float("-inf"))', "value", check_orders),
}  # fmt: skip


@pytest.fixture
def plant(monkeypatch, tmp_path):
    """plant(module, old, new): all kernels see a module with one place changed."""

    def change(name, old, new):
        original = MODULES[name]
        source = Path(original.__file__).read_text()
        assert source.count(old) == 1, f"{old!r} is not in one place of {name}"
        path = tmp_path / f"mutant_{name}.py"
        path.write_text(source.replace(old, new))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        mutant = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(mutant)
        functions = {
            key: value for key, value in vars(original).items()
            if isinstance(value, type(arithmetic.decide))
        }  # fmt: skip
        for module in MODULES.values():
            for key, value in functions.items():
                if getattr(module, key, None) is value:
                    monkeypatch.setattr(module, key, getattr(mutant, key))
        monkeypatch.setattr(kernels, "_kernel", kernels._kernel.__wrapped__)

    return change


@pytest.mark.parametrize("check", CHECKS)
def test_checks_pass_without_a_fault(workspace, check):
    check()


@needs_interpreter
@pytest.mark.parametrize("fault", MUTANTS)
def test_checks_catch_planted_faults(plant, workspace, fault):
    module, old, new, check = MUTANTS[fault]
    plant(module, old, new)
    with pytest.raises(AssertionError):
        check()


# Which backend runs.


@needs_cpu
def test_tensors_on_the_cpu_go_elsewhere_unless_forced(launched):
    ops.accept(logits(100), Rng(0), log_m=0.0)
    ops.accept_compact(logits(100), rng=Rng(0), log_m=0.0)
    ops.largest(logits(100))
    assert launched == []
    with backend("triton"):
        ops.accept(logits(100).to(DEVICE), Rng(0), log_m=0.0)
    assert launched == ["decision.accept"]


def no_triton(monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(refusals, "installed", missing)


def broken_triton(monkeypatch):
    def broken():
        raise ImportError("libtriton.so: undefined symbol")

    monkeypatch.setattr(refusals, "installed", broken)


def old_triton(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.5.1")


def no_interpreter(monkeypatch):
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)


def nothing(monkeypatch):
    pass


@pytest.mark.parametrize(
    ("change", "device", "reason"),
    [
        (no_triton, DEVICE, "not installed; pip install triton"),
        (broken_triton, DEVICE, r"cannot be imported \(libtriton.so: .*; reinstall it"),
        (old_triton, DEVICE, "needs Triton 3.6 or later, found 3.5.1; update PyTorch"),
        (no_interpreter, "cpu", "needs CUDA tensors; .* TRITON_INTERPRET=1"),
        (nothing, "meta", "needs CUDA tensors, not those on meta"),
        (nothing, "mps", "needs CUDA tensors, not those on mps"),
    ],
)
def test_refusals_say_why(monkeypatch, change, device, reason):
    assert kernels.refuses(torch.device(DEVICE)) is None
    change(monkeypatch)
    assert re.search(reason, kernels.refuses(torch.device(device)))


@pytest.mark.parametrize("change", [no_triton, broken_triton, old_triton, no_interpreter])
def test_a_forced_backend_that_refuses_raises(monkeypatch, fresh_dispatch, change):
    if change is no_interpreter and DEVICE != "cpu":
        pytest.skip("compiled kernels need no interpreter")
    change(monkeypatch)
    reason = kernels.refuses(torch.device(DEVICE))
    with backend("triton"), pytest.raises(RuntimeError) as caught:
        ops.accept(torch.zeros(3, device=DEVICE), Rng(0), log_m=0.0)
    assert f"triton: {reason}" in str(caught.value)


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "install its CUDA build" in kernels.refuses(torch.device("cuda"))
