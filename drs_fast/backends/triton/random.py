"""Uniforms, words and normals of rows: one block of four words per lane."""

import triton
import triton.language as tl

from drs_fast.backends.triton.arithmetic import (
    NUMBERS,
    UNIFORM_UNIT,
    interleave,
    normals,
    uniform_bits,
    words,
)


@triton.jit
def row_numbers(ids, row, index, inside, HAS_IDS: tl.constexpr):
    """int64: the given row numbers, or row, row + 1, ..."""
    return tl.load(ids + index, mask=inside, other=0) if HAS_IDS else row + index


@triton.jit(do_not_specialize=NUMBERS)
def uniform(
    out,
    ids,
    seed: tl.int64,
    row: tl.int64,
    n: tl.int64,
    stream: tl.int64,
    draw: tl.int64,
    HAS_IDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    rows = row_numbers(ids, row, index, index < n, HAS_IDS)
    bits = uniform_bits(seed, rows, stream, draw)
    tl.store(out + index, bits.to(tl.float64) * UNIFORM_UNIT, mask=index < n)


@triton.jit(do_not_specialize=NUMBERS)
def elements(
    out,
    ids,
    seed: tl.int64,
    row: tl.int64,
    n: tl.int64,
    stream: tl.int64,
    draw: tl.int64,
    HAS_IDS: tl.constexpr,
    NORMAL: tl.constexpr,
    D: tl.constexpr,
    DRAWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Element j of a row, a normal or a word, uses draw + j // 4; out (n, D)."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    block = tl.program_id(1) * DRAWS + tl.arange(0, DRAWS)
    rows = row_numbers(ids, row, index, index < n, HAS_IDS)[:, None]
    draws = (draw + block)[None, :]
    if NORMAL:
        value = normals(seed, rows, stream, draws)
    else:
        w0, w1, w2, w3 = words(seed, rows, stream, draws)
        value = interleave(w0, w1, w2, w3).to(tl.int64)
    column = tl.program_id(1) * 4 * DRAWS + tl.arange(0, 4 * DRAWS)
    mask = (index < n)[:, None] & (column < D)[None, :]
    tl.store(out + index[:, None] * D + column[None, :], value, mask=mask)
