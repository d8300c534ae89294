"""Chains and draws of groups of candidates, one group per lane; steps of Langevin chains."""

import triton
import triton.language as tl

from drs_fast import core
from drs_fast.backends.triton.arithmetic import (
    NUMBERS,
    UNIFORM_UNIT,
    exponential,
    finite,
    normals,
    uniform_bits,
)
from drs_fast.backends.triton.random import row_numbers

SELECT, CHAIN, NOISE = (tl.constexpr(i) for i in (core.SELECT, core.CHAIN, core.NOISE))


@triton.jit
def _uniform(ids, seed, row, index, inside, stream, draw, HAS_IDS: tl.constexpr):
    bits = uniform_bits(seed, row_numbers(ids, row, index, inside, HAS_IDS), stream, draw)
    return bits.to(tl.float64) * UNIFORM_UNIT


@triton.jit
def _logit(logit, index, inside):
    return tl.load(logit + index, mask=inside, other=float("-inf")).to(tl.float64)


@triton.jit(do_not_specialize=NUMBERS)
def walk(
    logit, ids, start, ends, counts,
    seed: tl.int64, row: tl.int64, n: tl.int64, candidates: tl.int64,
    HAS_IDS: tl.constexpr, HAS_START: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = group < n
    if HAS_START:
        current = tl.load(start + group, mask=inside, other=0.0)
    else:
        current = tl.full((BLOCK,), float("nan"), tl.float64)
    place = group * 0 - 1
    count = group * 0
    k = candidates * 0
    while k < candidates:
        index = group * candidates + k
        new = _logit(logit, index, inside)
        d = new - current
        u = _uniform(ids, seed, row, index, inside, CHAIN, 0, HAS_IDS)
        e, _ = exponential(d)
        better = finite(new) & ((d >= 0.0) | (u < e))
        moves = tl.where(current < float("inf"), better, new < float("inf"))
        current = tl.where(moves, new, current)
        place = tl.where(moves, k, place)
        count += moves.to(tl.int64)
        k += 1
    tl.store(ends + group, place, mask=inside)
    tl.store(counts + group, count, mask=inside)


@triton.jit(do_not_specialize=NUMBERS)
def select(
    logit, ids, room, out,
    seed: tl.int64, row: tl.int64, n: tl.int64, candidates: tl.int64, size: tl.int64,
    HAS_IDS: tl.constexpr, REPLACE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """room (candidates, n) float64: the groups' weights; with replacement, their running sums."""
    group = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = group < n
    room += group
    top = tl.full((BLOCK,), float("-inf"), tl.float64)
    k = candidates * 0
    while k < candidates:
        value = _logit(logit, group * candidates + k, inside)
        top = tl.where((value > top) & (value < float("inf")), value, top)
        k += 1
    total = tl.zeros((BLOCK,), tl.float64)
    k = candidates * 0
    while k < candidates:
        value = _logit(logit, group * candidates + k, inside)
        e, _ = exponential(value - top)
        weight = tl.where(finite(value), e, 0.0)
        total = total + weight
        tl.store(room + k * n, total if REPLACE else weight, mask=inside)
        k += 1
    draw = size * 0
    while draw < size:
        tl.debug_barrier()  # threads that read what was stored may not be those that stored it
        u = _uniform(ids, seed, row, group * candidates, inside, SELECT, draw, HAS_IDS)
        if not REPLACE:
            total = _total(room, n, candidates, inside)
        place = _place(room, n, candidates, u * total, inside, REPLACE)
        drawn = inside & (place < candidates)
        tl.store(out + group * size + draw, tl.where(drawn, place, -1), mask=inside)
        if not REPLACE:
            tl.debug_barrier()
            tl.store(room + place * n, total * 0.0, mask=drawn)
        draw += 1


@triton.jit
def _total(room, n, candidates, inside):
    total = tl.load(room, mask=inside, other=0.0)
    k = candidates * 0 + 1
    while k < candidates:
        total += tl.load(room + k * n, mask=inside, other=0.0)
        k += 1
    return total


@triton.jit
def _place(room, n, candidates, bound, inside, SUMMED: tl.constexpr):
    """How many candidates come before the first at which the sum of weights exceeds bound."""
    place = bound.to(tl.int64) * 0
    if SUMMED:
        high = place + candidates
        span = candidates
        while span > 0:
            middle = (place + high) >> 1
            sum = tl.load(room + middle * n, mask=inside & (place < high), other=0.0)
            passed = (sum > bound) | (place >= high)
            place, high = tl.where(passed, place, middle + 1), tl.where(passed, middle, high)
            span = span >> 1
    else:
        sum = bound * 0.0
        k = candidates * 0
        while k < candidates:
            sum += tl.load(room + k * n, mask=inside, other=0.0)
            place += (sum <= bound).to(tl.int64)
            k += 1
    return place


@triton.jit(do_not_specialize=NUMBERS)
def langevin(
    z, grad, out, ids, drift, scale,
    seed: tl.int64, row: tl.int64, n: tl.int64, draw: tl.int64,
    HAS_IDS: tl.constexpr, D: tl.constexpr, DRAWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    block = tl.program_id(1) * DRAWS + tl.arange(0, DRAWS)
    rows = row_numbers(ids, row, index, index < n, HAS_IDS)[:, None]
    noise = normals(seed, rows, NOISE, (draw + block)[None, :])
    column = tl.program_id(1) * 4 * DRAWS + tl.arange(0, 4 * DRAWS)
    at = index[:, None] * D + column[None, :]
    mask = (index < n)[:, None] & (column < D)[None, :]
    moved = tl.load(z + at, mask=mask) + drift * tl.load(grad + at, mask=mask)
    tl.store(out + at, moved + scale * noise, mask=mask)
