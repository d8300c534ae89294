"""The decision, its probability, and the largest logit: one row a lane."""

import triton
import triton.language as tl

from drs_fast.backends.triton.arithmetic import ACCEPT, decide, finite, terms, uniform_bits
from drs_fast.backends.triton.random import row_numbers


@triton.jit
def _threshold(
    logit, log_m, gamma, s, index, inside, ROW_LOG_M: tl.constexpr, ROW_GAMMA: tl.constexpr
):
    value = tl.load(logit + index, mask=inside, other=float("-inf")).to(tl.float64)
    top = tl.load(log_m + index, mask=inside, other=0.0) if ROW_LOG_M else tl.load(log_m)
    shift = tl.load(gamma + index, mask=inside, other=0.0) if ROW_GAMMA else tl.load(gamma)
    return value, top, shift, tl.load(s)


@triton.jit(do_not_specialize=["seed", "row", "n"])
def accept(
    logit, ids, log_m, gamma, s, out, seed: tl.int64, row: tl.int64, n: tl.int64,
    HAS_IDS: tl.constexpr, ROW_LOG_M: tl.constexpr, ROW_GAMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    value, top, shift, s = _threshold(logit, log_m, gamma, s, index, inside, ROW_LOG_M, ROW_GAMMA)
    rows = row_numbers(ids, row, index, inside, HAS_IDS)
    bits = uniform_bits(seed, rows, ACCEPT, 0)
    tl.store(out + index, decide(value, bits, top, shift, s), mask=inside)


@triton.jit(do_not_specialize=["n"])
def probability(
    logit, log_m, gamma, s, out, n: tl.int64,
    ROW_LOG_M: tl.constexpr, ROW_GAMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    value, top, shift, s = _threshold(logit, log_m, gamma, s, index, inside, ROW_LOG_M, ROW_GAMMA)
    numerator, rest = terms(value, top, shift, s)
    p = tl.where(finite(value), numerator / (numerator + rest), 0.0)
    tl.store(out + index, p, mask=inside)


@triton.jit(do_not_specialize=["n"])
def largest(logit, out, n: tl.int64, BLOCK: tl.constexpr):
    """out () float64 = the largest of itself and the valid logits."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(logit + index, mask=index < n, other=float("-inf")).to(tl.float64)
    valid = value < float("inf")
    tl.atomic_max(out, tl.max(tl.where(valid, value, float("-inf"))), sem="relaxed")
